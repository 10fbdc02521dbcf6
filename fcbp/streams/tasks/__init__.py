"""Supervised problems over any data set: a rule by which its examples make one task after another.

Each of the functions takes a :class:`fcbp.data.Dataset`, or arrays ``(inputs, targets)``, and gives a
:class:`fcbp.streams.Stream`, a pure function of a key:

===================  =====================================================  ==========================================
function             each task                                              known as
===================  =====================================================  ==========================================
permuted_inputs      has the pixels in another order                        permuted MNIST
permuted_labels      has the classes' labels permuted                       label-permuted EMNIST, CIFAR-10
random_labels        has labels that say nothing of the images              random-label MNIST, CIFAR-10
class_pairs          tells two other classes from one another               continual ImageNet
growing_classes      has some more classes                                  incremental CIFAR-100
growing_data         has some more examples                                 warm starts
hard_and_easy        has many classes, or few, in turn                      5+1 CIFAR
===================  =====================================================  ==========================================

Members that share a key share the examples, their order and the permutations; the data are held once on a device,
whatever the number of members, and each member reads from it what it learns from next.
"""

from fcbp.streams.tasks.classes import class_pairs, growing_classes, hard_and_easy
from fcbp.streams.tasks.engine import TaskState, TaskWindow
from fcbp.streams.tasks.relabelled import growing_data, permuted_inputs, permuted_labels, random_labels
from fcbp.streams.tasks.shuffle import domain, shuffle

__all__ = [
    "TaskState",
    "TaskWindow",
    "class_pairs",
    "domain",
    "growing_classes",
    "growing_data",
    "hard_and_easy",
    "permuted_inputs",
    "permuted_labels",
    "random_labels",
    "shuffle",
]
