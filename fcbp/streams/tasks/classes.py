"""Tasks of different classes: a few at a time, ever more of them, many and few in turn."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fcbp import random
from fcbp.data import Dataset
from fcbp.names import check_option
from fcbp.streams.tasks.builders import builder
from fcbp.streams.tasks.engine import Choose, Common, Context, Kind, Table, whole
from fcbp.streams.tasks.examples import pick

__all__ = ["class_pairs", "growing_classes", "hard_and_easy"]

Numbering = Literal["task", "arrival", "class"]


@builder()
def class_pairs(
    data: Dataset,
    common: Common,
    *,
    classes_per_task: int = 2,
    per_class: int | None = None,
    new_order: bool = False,
    numbering: Numbering = "task",
) -> Kind:
    """Each task tells a few classes from one another that the tasks before did not have: continual ImageNet.

    As in Dohare et al. (Nature 2024): the key draws an order of the classes, tasks take two after two of it, and the
    order begins again at its end.

    Args:
        data: a data set; or ``(inputs, targets)``, or these and a test's.
        classes_per_task: classes of a task.
        per_class: examples of each class, the first in the data; by default as many as the smallest class has.
        new_order: draw another order where it would begin again.
        numbering: a target is the class's place in the task (``"task"``), in the order of classes (``"arrival"``), or
            in the data set (``"class"``).

    Returns:
        A stream of inputs ``(length, batch_size, *shape)``, float32, and targets ``(length, batch_size)``, int64.

    Raises:
        ValueError: a setting is unknown or out of its range, or there are fewer classes or examples than tasks need.

    Example:
        >>> import fcbp
        >>> stream = class_pairs(fcbp.data.load("digits"), batch_size=25, epochs=3)
        >>> stream.spec.outputs, stream.task_length
        (2, 33)
    """
    examples = _Examples(data, per_class)
    classes = examples.enough(classes_per_task, "classes_per_task")
    per_cycle = classes // classes_per_task

    def table(key: Tensor, task: Tensor) -> Tensor:
        cycle = task // per_cycle if new_order else torch.zeros_like(task)
        order = random.permutation(random.fold_in(key, cycle), classes)
        own = task % per_cycle * classes_per_task + torch.arange(classes_per_task, device=key.device)
        return order.index_select(0, own)

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        place, rows = examples.rows(context, task, position)
        first = task % per_cycle * classes_per_task
        return rows, _numbered(numbering, place, first + place, context.targets(rows))

    outputs = classes_per_task if numbering == "task" else classes
    _check_numbering(numbering)
    return examples.kind(choose, table, classes_per_task, (classes_per_task,), outputs, then="first")


@builder()
def growing_classes(
    data: Dataset,
    common: Common,
    *,
    increment: int = 5,
    per_class: int | None = None,
    validation: int = 0,
    numbering: Numbering = "arrival",
) -> Kind:
    """Each task adds classes to those of the tasks before: class-incremental CIFAR-100.

    As in Dohare et al. (Nature 2024): the key draws an order of the classes; the last task has all and goes on
    (where ``task_length`` is given, others like it follow).

    Args:
        data: a data set; or ``(inputs, targets)``, or these and a test's.
        increment: classes that each task has more than the last.
        per_class: examples of each class, the first in the data; by default as many as the smallest class has.
        validation: examples of each class, the very first, that are set aside to validate with.
        numbering: a target is the class's place in the order of classes (``"arrival"``, or ``"task"``, which is the
            same here), or in the data set (``"class"``).

    Returns:
        A stream of inputs ``(length, batch_size, *shape)``, float32, and targets ``(length, batch_size)``, int64. A
        test has the classes seen so far.

    Raises:
        ValueError: a setting is unknown or out of its range, or there are fewer classes or examples than tasks need.

    Example:
        >>> import fcbp
        >>> stream = growing_classes(fcbp.data.load("digits"), increment=2, batch_size=20, epochs=2)
        >>> state, (inputs, targets) = stream.sample(stream.init(fcbp.random.key(0)), 28)
        >>> targets.unique()
        tensor([0, 1])
    """
    examples = _Examples(data, per_class, validation)
    classes = examples.enough(increment, "increment")
    _check_numbering(numbering)

    def table(key: Tensor, task: Tensor) -> Tensor:
        return random.permutation(random.fold_in(key, 0), classes)

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        place, rows = examples.rows(context, task, position)
        return rows, _numbered(numbering, place, place, context.targets(rows))

    numbers = tuple(dict.fromkeys((*range(increment, classes, increment), classes)))
    return examples.kind(choose, table, classes, numbers, classes, then="last", one_row=True, seen=numbers)


@builder(batch_size=32, task_length=780)
def hard_and_easy(
    data: Dataset,
    common: Common,
    *,
    hard: int = 5,
    easy: int = 1,
    per_class: int | None = None,
    numbering: Numbering = "class",
) -> Kind:
    """Hard tasks of several classes and easy ones of few in turn, no class twice: 5+1 CIFAR.

    As in Kumar et al. (arXiv 2308.11958, appendix A.1.3; its code has batches of 16 and 625 of them a task). Each task
    takes classes that none before it had, in an order that the key draws, which begins again at its end.

    Args:
        data: a data set; or ``(inputs, targets)``, or these and a test's.
        hard: classes of a hard task, the first and every second one.
        easy: classes of an easy task.
        per_class: examples of each class, the first in the data; by default as many as the smallest class has.
        numbering: a target is the class's place in the data set (``"class"``), in the order of classes
            (``"arrival"``), or in the task (``"task"``).

    Returns:
        A stream of inputs ``(length, batch_size, *shape)``, float32, and targets ``(length, batch_size)``, int64.

    Raises:
        ValueError: a setting is unknown or out of its range, or there are fewer classes or examples than tasks need.

    Example:
        >>> import fcbp
        >>> stream = hard_and_easy(fcbp.data.load("digits"), hard=3, easy=2, task_length=40)
        >>> state, (inputs, targets) = stream.sample(stream.init(fcbp.random.key(0)), 80)
        >>> len(targets[:40].unique()), len(targets[40:].unique())
        (3, 2)
    """
    examples = _Examples(data, per_class)
    for name, number in (("hard", hard), ("easy", easy)):
        if not whole(number, 1):
            raise ValueError(f"{name} is {number!r}; expected a number of classes, 1 or more")
    both = hard + easy
    classes = examples.enough(both, "hard + easy")
    pairs = classes // both
    _check_numbering(numbering)

    def first_of(task: Tensor) -> Tensor:
        return task // 2 % pairs * both + task % 2 * hard

    def table(key: Tensor, task: Tensor) -> Tensor:
        order = random.permutation(random.fold_in(key, 0), classes)
        # An easy task's row is as long; its last entries are read by nobody.
        own = (first_of(task) + torch.arange(max(hard, easy), device=key.device)) % classes
        return order.index_select(0, own)

    def choose(context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        place, rows = examples.rows(context, task, position)
        return rows, _numbered(numbering, place, first_of(task) + place, context.targets(rows))

    outputs = max(hard, easy) if numbering == "task" else classes
    return examples.kind(choose, table, max(hard, easy), (hard, easy), outputs, then="first")


class _Examples:
    """The examples of each class, as many of each.

    Args:
        data: the data set.
        per_class: examples of a class to learn from; ``None`` is as many as the smallest class has.
        validation: examples of each class, the first, that are set aside.

    Raises:
        ValueError: a class has fewer.
    """

    def __init__(self, data: Dataset, per_class: int | None, validation: int = 0) -> None:
        self.data, self.number = data, len(data.classes)
        counts = data.train.targets.bincount(minlength=self.number)
        fewest = int(counts.min())
        if not fewest:
            raise ValueError(f"{data.name} has no example of class {data.classes[int(counts.argmin())]!r}")
        if not (whole(validation, 0) and validation < fewest):
            raise ValueError(
                f"validation is {validation!r}; expected fewer than the {fewest} examples of each class, 0 or more"
            )
        fewest -= validation
        if per_class is not None and not (whole(per_class, 1) and per_class <= fewest):
            raise ValueError(f"per_class is {per_class!r}; expected 1 to the {fewest} examples of each class, or None")
        test = int(data.test.targets.bincount(minlength=self.number).min())
        self.each = {"train": per_class or fewest, "validation": validation, "test": test}
        self.tensors: dict[str, Tensor] = {}
        for split, (_, targets) in (("train", data.train), ("test", data.test)):
            order = targets.argsort(stable=True)
            counts = targets.bincount(minlength=self.number)
            self.tensors |= {f"{split} by class": order, f"{split} starts": counts.cumsum(0) - counts}

    def enough(self, needed: int, name: str) -> int:
        """Return the number of classes.

        Raises:
            ValueError: there are fewer than a task needs.
        """
        if not whole(needed, 1) or needed > self.number:
            raise ValueError(f"{name} is {needed!r}; expected 1 to the {self.number} classes of {self.data.name}")
        return self.number

    def rows(self, context: Context, task: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place in the task of the examples' classes, and the examples' numbers."""
        each = self.each[context.split]
        place = position // each
        of = context.look_up(task, place)
        split = "test" if context.split == "test" else "train"
        start = pick(context.there[f"{split} starts"], of)
        number = start + position % each
        number = number + self.each["validation"] if context.split == "train" and self.each["validation"] else number
        rows = pick(context.there[f"{split} by class"], number)
        return place, rows

    def kind(
        self,
        choose: Choose,
        table: Table,
        width: int,
        classes: tuple[int, ...],
        outputs: int,
        *,
        then: Literal["last", "first"],
        one_row: bool = False,
        seen: tuple[int, ...] = (),
    ) -> Kind:
        """Return tasks of so many classes, one after the other."""
        train, validation, test = (
            tuple(number * self.each[split] for number in classes) for split in ("train", "validation", "test")
        )
        return Kind(
            self.data,
            train,
            choose,
            max(outputs, 2),
            test if self.each["test"] else (),
            then,
            table,
            width,
            one_row,
            tensors=tuple(self.tensors.items()),
            validation_sizes=validation if self.each["validation"] else (),
            classes=seen,
        )


def _check_numbering(numbering: Numbering) -> None:
    check_option("numbering", numbering, Numbering)


def _numbered(numbering: Numbering, of_task: Tensor, of_arrival: Tensor, of_class: Tensor) -> Tensor:
    return {"task": of_task, "arrival": of_arrival, "class": of_class}[numbering]
