"""Tasks of the same examples: pixels permuted, labels permuted or drawn at random, or ever more examples."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fcbp import random
from fcbp.data import Dataset
from fcbp.names import check_option
from fcbp.streams.tasks.builders import builder
from fcbp.streams.tasks.engine import CHANGE, Common, Context, Kind, subset_of, whole
from fcbp.streams.tasks.shuffle import Domain, domain, shuffle

__all__ = ["growing_data", "permuted_inputs", "permuted_labels", "random_labels"]

Drawn = Literal["shuffled", "uniform"]
TestOn = Literal["test", "rest"]


@builder(flatten=True)
def permuted_inputs(
    data: Dataset, common: Common, *, subset: int | None = None, first_task_permuted: bool = True
) -> Kind:
    """Each task puts the pixels of all images into another random order: permuted MNIST and its like.

    As in Dohare et al. (Nature 2024) and Kumar et al. (arXiv 2308.11958). The orders are independent of one another,
    as a permutation applied on top of independent ones is.

    Args:
        data: a data set; or ``(inputs, targets)``, or these and a test's.
        subset: the number of examples to learn from, drawn at random by the key; by default all.
        first_task_permuted: ``False`` leaves the pixels of the first task as they are.

    Returns:
        A stream of inputs ``(length, batch_size, pixels)``, or ``(length, batch_size, *shape)`` with
        ``flatten=False``, float32, and targets ``(length, batch_size)``, int64.

    Raises:
        ValueError: a setting is unknown or out of its range, or there are fewer examples than ``subset`` or
            ``batch_size``.

    Example:
        >>> import fcbp
        >>> stream = permuted_inputs(fcbp.data.load("digits"), batch_size=16)
        >>> state, (inputs, targets) = stream.sample(stream.init(fcbp.random.key(0)), 100)
        >>> inputs.shape, targets.shape, stream.task_length
        (torch.Size([100, 16, 64]), torch.Size([100, 16]), 89)
    """
    size, part = _subset(data, subset)
    pixels = math.prod(data.shape)
    if not isinstance(first_task_permuted, bool):
        raise ValueError(f"first_task_permuted is {first_task_permuted!r}; expected True or False")

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        rows = _rows(context, position, size, part)
        return rows, context.targets(rows)

    def table(key: Tensor, task: Tensor) -> Tensor:
        order = random.permutation(random.fold_in(key, task), pixels)
        if not first_task_permuted:
            order = torch.where(task == 0, torch.arange(pixels, device=key.device), order)
        return order.to(torch.int32)  # half the memory of a window

    return Kind(data, (size,), choose, len(data.classes), _test(data), "first", table, pixels, permutes=True)


@builder()
def permuted_labels(data: Dataset, common: Common, *, subset: int | None = None) -> Kind:
    """Each task gives the classes other labels: a random permutation of them.

    As the label-permuted EMNIST, CIFAR-10 and mini-ImageNet of Elsayed and Mahmood (UPGD, ICLR 2024).

    Args:
        data: a data set; or ``(inputs, targets)``, or these and a test's.
        subset: how many examples are learned from, drawn at random by the key; by default all.

    Returns:
        A stream of inputs ``(length, batch_size, *shape)``, float32, and targets ``(length, batch_size)``, int64.

    Raises:
        ValueError: a setting is unknown or out of its range, or there are fewer examples than ``subset`` or
            ``batch_size``.

    Example:
        >>> import fcbp
        >>> stream = permuted_labels(fcbp.data.load("digits"), task_length=2500)
        >>> stream.spec
        Spec(input_shape=(1, 8, 8), outputs=10, kind='classification', dtype=torch.float32)
    """
    size, part = _subset(data, subset)
    classes = len(data.classes)

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        rows = _rows(context, position, size, part)
        return rows, context.look_up(task, context.targets(rows))

    def table(key: Tensor, task: Tensor) -> Tensor:
        return random.permutation(random.fold_in(key, task), classes)

    return Kind(data, (size,), choose, classes, _test(data), "first", table, classes)


@builder()
def random_labels(data: Dataset, common: Common, *, subset: int | None = None, labels: Drawn = "shuffled") -> Kind:
    """Each task gives the images labels that have nothing to do with them, which a network can only learn by heart.

    As the random-label MNIST and CIFAR-10 of Kumar et al. (arXiv 2308.11958), whose code shuffles the true labels among
    the images where the paper says random ones. There is no test: labels of other images cannot be known.

    Args:
        data: a data set; or ``(inputs, targets)``.
        subset: how many examples are learned from, drawn at random by the key; by default all.
        labels: ``"shuffled"``: the true labels in another order, each class as often as it is; ``"uniform"``: any
            class for each image.

    Returns:
        A stream of inputs ``(length, batch_size, *shape)``, float32, and targets ``(length, batch_size)``, int64.

    Raises:
        ValueError: a setting is unknown or out of its range, or there are fewer examples than ``subset`` or
            ``batch_size``.

    Example:
        >>> import fcbp
        >>> stream = random_labels(fcbp.data.load("digits"), subset=240, batch_size=16, epochs=100)
        >>> stream.task_length
        1500
    """
    size, part = _subset(data, subset)
    classes = len(data.classes)
    check_option("labels", labels, Drawn)
    among = domain(size)

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        key = random.fold_in(context.key, CHANGE)
        rows = _rows(context, position, size, part)
        if labels == "uniform":
            word = (random.bits_at(key, task * size + position) >> 32) & 0xFFFFFFFF
            return rows, (word * classes) >> 32
        # Examples of a batch may be of two tasks: each is a row of its own.
        other = shuffle(key, task, position.unsqueeze(-1), among).squeeze(-1)
        return rows, context.targets(_rows(context, other, size, part))

    return Kind(data, (size,), choose, classes, then="first")


@builder()
def growing_data(
    data: Dataset,
    common: Common,
    *,
    increment: int = 1000,
    sizes: tuple[int, ...] = (),
    subset: int | None = None,
    test_on: TestOn = "test",
) -> Kind:
    """Each task has more examples than the one before, those before among them: warm starts.

    As in Ash and Adams (NeurIPS 2020), whose rounds go on until the training accuracy is 99 %; these have a number of
    epochs. The examples come in a random order that the key draws; the last task has all and goes on
    (where ``task_length`` is given, others like it follow).

    Args:
        data: a data set; or ``(inputs, targets)``, or these and a test's.
        increment: examples that each task has more than the last; the last task has what is left.
        sizes: examples of each task in place of ``increment``: ``(25_000, 50_000)`` are two phases.
        subset: how many examples there are at last, drawn at random by the key; by default all.
        test_on: ``"test"``: the data set's test; ``"rest"``: the examples of training that are not of ``subset``.

    Returns:
        A stream of inputs ``(length, batch_size, *shape)``, float32, and targets ``(length, batch_size)``, int64.

    Raises:
        ValueError: a setting is unknown or out of its range, ``sizes`` do not grow, or there are fewer examples than
            they or ``batch_size`` say.

    Example:
        >>> import fcbp
        >>> stream = growing_data(fcbp.data.load("digits"), increment=500, batch_size=50, epochs=2)
        >>> stream.task_length is None
        True
    """
    most, everything = _subset(data, subset)
    if not whole(increment, 1):
        raise ValueError(f"increment is {increment!r}; expected a number of examples, 1 or more")
    grown = tuple(sizes) or (*range(increment, most, increment), most)
    if not all(whole(size, 1) for size in grown) or list(grown) != sorted(set(grown)) or grown[-1] > most:
        raise ValueError(f"sizes is {sizes or grown!r}; expected numbers of examples that grow to {most} at most")

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        if context.split == "test" and not rest:
            return position, context.targets(position)
        own = context._replace(split="train")
        rows = subset_of(context.key, position + (most if context.split == "test" else 0), 0, everything)
        return rows, own.targets(rows)

    check_option("test_on", test_on, TestOn)
    left = len(data.train.targets) - most
    rest = test_on == "rest"
    if rest and not left:
        raise ValueError(f"test_on is 'rest', and subset is all {most:,} examples of {data.name}; expected fewer")
    tests = (left,) if rest else _test(data)
    return Kind(data, grown, choose, len(data.classes), tests * len(grown), rest=rest)


def _subset(data: Dataset, subset: int | None) -> tuple[int, Domain]:
    """Return the number of examples to learn from, and the number among which they are drawn."""
    there = len(data.train.targets)
    if subset is not None and not (whole(subset, 1) and subset <= there):
        raise ValueError(f"subset is {subset!r}; expected 1 to the {there:,} examples of {data.name}, or None")
    return subset or there, domain(there)


def _rows(context: Context, position: Tensor, size: int, part: Domain) -> Tensor:
    return position if context.split == "test" else subset_of(context.key, position, size, part)


def _test(data: Dataset) -> tuple[int, ...]:
    return (len(data.test.targets),) if len(data.test.targets) else ()
