"""A stream of tasks over a data set: which examples of which task come when, as a function of a key and a number.

Batch ``t`` is of task ``k``, which begins at a batch known beforehand. A task is passes over its examples, each in an
order of its own (:mod:`fcbp.streams.tasks.shuffle`), of as many whole batches as there are: the few examples that are
left over wait for another pass. A state holds a key and the number of batches drawn; a window holds besides what the
tasks ahead of it need a table for, such as a permutation of the pixels. The data are a constant of the program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from fcbp import random
from fcbp.data import Dataset
from fcbp.names import check_option
from fcbp.streams.base import Spec, Stream
from fcbp.streams.bit_flipping import check_length
from fcbp.streams.border import Calendar
from fcbp.streams.tasks.examples import Augmentation, Normalise, Pixels, constants, pick
from fcbp.streams.tasks.shuffle import Domain, domain, shuffle

__all__ = ["Choose", "Common", "Context", "Kind", "Table", "TaskState", "TaskWindow", "make", "subset_of", "whole"]

ORDER, CHANGE, SUBSET, AUGMENT, MIXTURE = range(5)
"""Numbers of the draws of a stream's key: each draw has a key of its own."""
PASSES = 1 << 20
"""Numbers of orders that a task has for its own."""
SHARES = 1 << 12
"""Parts in which the change from a task to the next is counted."""


class TaskState(NamedTuple):
    """State of every stream of tasks."""

    key: Int64[Tensor, ""]
    """Fixed for the whole run; draws are a function of it and of the batch's number."""
    step: Int64[Tensor, ""]
    """Batches drawn so far."""


class TaskWindow(NamedTuple):
    """Batches to come; its numbers stay as they are."""

    key: Int64[Tensor, ""]
    step: Int64[Tensor, ""]
    """Batches before the first."""
    first: Int64[Tensor, ""]
    """The task of the first row of the table."""
    table: tuple[Tensor, ...]
    """``(tasks * width,)``: a row for each task, one after the other, where tasks need one."""


@dataclass(frozen=True)
class Common:
    """The settings of every stream of tasks.

    Args:
        batch_size: examples of a batch.
        epochs: passes over a task's examples; by default one.
        task_length: batches of a task, in place of ``epochs``; passes go on until then.
        pass_length: batches of a pass; by default all that the examples fill. Fewer leave the rest of the order out.
        reshuffle: draw a new order for each pass; ``False`` keeps one for the task.
        gradual: batches at a task's beginning over which it takes the place of the one before: the share of the new
            task rises by equal steps (Liu and Mou, arXiv 2602.09234). Permuted inputs are averages of both tasks';
            otherwise each example is of one task or of the other.
        normalise: ``"unit"``: pixels from 0 to 1; ``"symmetric"``: from -1 to 1; ``"published"``: by the data set's
            mean and standard deviation.
        flatten: give inputs of one axis.
        flip: exchange left and right in half of the images.
        crop: pixels that are put around an image, by reflection, before a piece of its size is cut out.
        rotation: two angles in degrees between which images are turned, counter-clockwise.
        test_examples: examples of a test; by default all, of growing tasks as many as the largest has. Where
            a task has others, each of them comes as often as another, or once more.
        augment_test: change test images as those to learn from.
        task_signal: give a third entry ``(length,)``, bool: whether a new task begins in the batch. The first task
            begins without a signal.
    """

    batch_size: int = 1
    epochs: int | None = None
    task_length: int | None = None
    pass_length: int | None = None
    reshuffle: bool = True
    gradual: int = 0
    normalise: Normalise = "unit"
    flatten: bool = False
    flip: bool = False
    crop: int = 0
    rotation: tuple[float, float] = (0.0, 0.0)
    test_examples: int | None = None
    augment_test: bool = False
    task_signal: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "task_length", "pass_length", "test_examples"):
            value = getattr(self, name)
            optional = name != "batch_size"
            if not whole(value, 1) and not (optional and value is None):
                also = " or None" if optional else ""
                raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more{also}")
        if self.epochs is not None and self.task_length is not None:
            both = f"epochs is {self.epochs} and task_length is {self.task_length}"
            raise ValueError(f"{both}; expected one of them, and None for the other")
        if not whole(self.gradual, 0):
            raise ValueError(f"gradual is {self.gradual!r}; expected a number of batches, 0 or more")
        check_option("normalise", self.normalise, Normalise)
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise ValueError(f"{field.name} is {getattr(self, field.name)!r}; expected True or False")


def whole(value: object, least: int) -> bool:
    """Tell whether a value is a whole number, ``least`` or more."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 63


class Context(NamedTuple):
    """The numbers by which a task's examples are chosen."""

    key: Int64[Tensor, ""]
    table: Tensor | None
    width: int
    """Entries of a task's row of the table."""
    first: Int64[Tensor, ""]
    split: str
    """``"train"``, ``"validation"`` (of the training examples) or ``"test"``."""
    there: dict[str, Tensor]
    """The kind's constants, on the key's device, and the targets of both splits."""

    def look_up(self, task: Tensor, column: Tensor) -> Tensor:
        """Return an entry of the tasks' table; one with a single row is every task's."""
        assert self.table is not None
        if len(self.table) == self.width:
            return pick(self.table, column)
        return pick(self.table, ((task - self.first) * self.width).to(column.dtype) + column)

    def targets(self, rows: Tensor) -> Tensor:
        """Return the classes of the split's examples."""
        return pick(self.there["test targets" if self.split == "test" else "train targets"], rows)


Choose = Callable[[Context, Tensor, Tensor], tuple[Tensor, Tensor]]
Table = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Kind:
    """The differences between the tasks of a stream."""

    dataset: Dataset
    sizes: tuple[int, ...]
    """Examples of the tasks, one after the other."""
    choose: Choose
    """``choose(context, task, position)``: the numbers of examples in their split, and their targets; ``position`` is 0
    to the task's size less 1."""
    outputs: int
    test_sizes: tuple[int, ...] = ()
    """Examples of the tasks' tests; empty where there are none."""
    then: Literal["last", "first"] = "last"
    """The successor of the last of ``sizes``: a task like the last, which does not end where sizes differ; or the
    first."""
    table: Table | None = None
    """``table(key, task)``: a task's row, for a task ``()``."""
    width: int = 0
    """Numbers of a row."""
    one_row: bool = False
    """Whether the row is the same for all tasks."""
    permutes: bool = False
    """Whether a row is the order of the pixels."""
    tensors: tuple[tuple[str, Tensor], ...] = ()
    """Constants that ``choose`` reads by name."""
    validation_sizes: tuple[int, ...] = ()
    """Examples that are set aside of each task to validate with; empty where there are none."""
    classes: tuple[int, ...] = ()
    """Classes that have come until the end of each task, where later ones have more."""
    rest: bool = False
    """Whether a test has examples of training that are never learned from."""


class _Schedule:
    """The times at which tasks begin.

    Args:
        lengths: batches of the tasks, one after the other.
        then: the successor of the last.
    """

    def __init__(self, lengths: tuple[int, ...], then: Literal["last", "first"]) -> None:
        self.lengths = lengths[:1] if len(set(lengths)) == 1 and then == "first" else lengths
        self.then, self.shortest = then, min(lengths)
        starts = [sum(self.lengths[:i]) for i in range(len(self.lengths))]
        self.constants = constants({"starts": torch.tensor(starts)})

    def __call__(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Return the task of a batch, and how many of the task's batches were before it."""
        if len(self.lengths) == 1:
            return step // self.lengths[0], step % self.lengths[0]
        starts = self.constants(step.device)["starts"]
        turn, within = torch.zeros_like(step), step
        if self.then == "first":
            turn, within = step // sum(self.lengths), step % sum(self.lengths)
        place = (within.unsqueeze(-1) >= starts[1:]).sum(-1)
        return turn * len(self.lengths) + place, within - pick(starts, place)

    def within(self, batches: int) -> int:
        """Return the largest number of tasks that so many batches belong to."""
        return (batches - 1) // self.shortest + 2


def make(kind: Kind, common: Common) -> Stream:
    """Return the stream of a kind of tasks.

    Raises:
        ValueError: a batch is larger than a task, a pass or ``gradual`` longer than a task, or images cannot be
            augmented.
    """
    return _Maker(kind, common).stream()


class _Maker:
    def __init__(self, kind: Kind, common: Common) -> None:
        self.kind, self.common = kind, common
        augmentation = Augmentation(common.flip, common.crop, common.rotation)
        augmentation.check(kind.dataset.shape)
        if augmentation and kind.permutes:
            raise ValueError("flip, crop and rotation are given; expected none of them where pixels are permuted")
        self.pixels = Pixels(kind.dataset, common.normalise, common.flatten, augmentation)
        self.same = len(set(kind.sizes)) == 1
        sizes = kind.sizes[:1] if self.same else kind.sizes
        smallest = min(sizes)
        if common.batch_size > smallest:
            raise ValueError(f"batch_size is {common.batch_size}; expected at most the {smallest} examples of a task")
        passes = tuple(common.pass_length or size // common.batch_size for size in sizes)
        if common.pass_length is not None and common.pass_length * common.batch_size > smallest:
            raise ValueError(
                f"pass_length is {common.pass_length} batches of {common.batch_size}; expected at most the {smallest} "
                "examples of a task"
            )
        lengths = tuple(common.task_length or (common.epochs or 1) * length for length in passes)
        fixed = len(set(lengths)) == 1
        self.schedule = _Schedule(lengths, "first" if fixed else kind.then)
        self.task_length = lengths[0] if fixed else None
        if common.gradual >= min(lengths):
            raise ValueError(f"gradual is {common.gradual}; expected fewer than the {min(lengths)} batches of a task")
        self.passes = passes
        self.calendar = Calendar(lengths, passes, kind.then, fixed or kind.then == "first", kind.classes)
        self.domains = tuple(domain(size) for size in sizes)
        self.constants = constants(
            {
                **{
                    name: torch.tensor([getattr(one, name) for one in self.domains]) for name in ("size", "low", "high")
                },
                "train targets": kind.dataset.train.targets,
                "test targets": kind.dataset.test.targets,
                "passes": torch.tensor(passes),
                "test sizes": torch.tensor(kind.test_sizes),
                **dict(kind.tensors),
            }
        )
        self.test_length = (
            min(common.test_examples or max(kind.test_sizes), max(kind.test_sizes)) if kind.test_sizes else 0
        )

    def stream(self) -> Stream:
        spec = Spec(self.pixels.shape, self.kind.outputs, "classification")
        held_out = self.held_out if self.kind.test_sizes else None
        return Stream(
            self.init,
            self.sample,
            self.window,
            self.at,
            self.skip,
            spec,
            held_out,
            self.task_length,
            self.calendar,
            self.validation if self.kind.validation_sizes else None,
        )

    # --- the functions of the stream --------------------------------------------------------------------------

    def init(self, key: Tensor) -> TaskState:
        random.check_key(key)
        for held in (self.constants, self.pixels.constants, self.schedule.constants):
            held(key.device)
        return TaskState(key, torch.zeros_like(key))

    def window(self, state: TaskState, length: int) -> TaskWindow:
        check_length(length)
        back = 1 if self.common.gradual else 0
        first = self.schedule(state.step)[0] - back
        return TaskWindow(
            state.key, state.step, first, self.tables(state.key, first, self.schedule.within(length) + back)
        )

    def at(self, window: TaskWindow, index: Tensor) -> tuple[Tensor, ...]:
        common, step = self.common, window.step + index
        task, within = self.schedule(step)
        place = self.place(task)
        passes = self.of_task("passes", self.passes, place)
        order = task * PASSES + (within // passes if common.reshuffle else 0)
        among = torch.arange(common.batch_size, device=step.device)
        number = step.unsqueeze(-1) * common.batch_size + among
        position = (within % passes).unsqueeze(-1) * common.batch_size + among
        position = shuffle(random.fold_in(window.key, ORDER), order, position, self.domain(place))
        context = self.context(window.key, window.table, window.first, "train")
        share = self.share(task, within).unsqueeze(-1) if common.gradual else None
        example_task = task.unsqueeze(-1).expand(position.shape)
        if share is not None and not self.kind.permutes:
            example_task, position = self.mixed(window.key, example_task, position, number, share)
        rows, targets = self.kind.choose(context, example_task, position)
        inputs = self.inputs(context, rows, example_task, number, share)
        batch: tuple[Tensor, ...] = (inputs, targets)
        return (*batch, (within == 0) & (step > 0)) if common.task_signal else batch

    def skip(self, state: TaskState, length: int) -> TaskState:
        check_length(length)
        return state._replace(step=state.step + length)

    def sample(self, state: TaskState, length: int) -> tuple[TaskState, tuple[Tensor, ...]]:
        ahead = self.window(state, length)
        return self.skip(state, length), self.at(ahead, torch.arange(length, device=state.key.device))

    def held_out(self, state: TaskState) -> tuple[Tensor, Tensor]:
        """Return test examples of the task that the last batch was of."""
        task = self.schedule((state.step - 1).clamp(min=0))[0]
        number = torch.arange(self.test_length, device=state.key.device)
        sizes = self.kind.test_sizes
        same = len(set(sizes)) == 1
        size = sizes[0] if same else pick(self.constants(state.key.device)["test sizes"], self.place(task, len(sizes)))
        position = number * size // self.test_length
        # Numbers of their own, below those of the batches.
        changed = -1 - number if self.common.augment_test else None
        return self.set_aside(state, "test", task, position, changed)

    def validation(self, state: TaskState) -> tuple[Tensor, Tensor]:
        """Return examples set aside of the task that the last batch was of."""
        task = self.schedule((state.step - 1).clamp(min=0))[0]
        sizes = self.kind.validation_sizes
        most = max(sizes)
        number = torch.arange(most, device=state.key.device)
        size = pick(torch.tensor(sizes, device=state.key.device), self.place(task, len(sizes)))
        return self.set_aside(state, "validation", task, number * size // most, None)

    def set_aside(
        self, state: TaskState, split: str, task: Tensor, position: Tensor, changed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return examples of a task that no batch has."""
        context = self.context(state.key, self.tables(state.key, task, 1), task, split)
        rows, targets = self.kind.choose(context, task.expand(position.shape), position)
        of = "train" if split == "validation" or self.kind.rest else "test"
        return self.inputs(context._replace(split=of), rows, task.expand(position.shape), changed, None), targets

    # --- parts ------------------------------------------------------------------------------------------------

    def context(self, key: Tensor, table: tuple[Tensor, ...], first: Tensor, split: str) -> Context:
        return Context(key, table[0] if table else None, self.kind.width, first, split, self.constants(key.device))

    def tables(self, key: Tensor, first: Tensor, tasks: int) -> tuple[Tensor, ...]:
        if self.kind.table is None:
            return ()
        own = random.fold_in(key, CHANGE)
        return (torch.cat([self.kind.table(own, first + i) for i in range(1 if self.kind.one_row else tasks)]),)

    def place(self, task: Tensor, sizes: int | None = None) -> Tensor:
        """Return a task's place in the tables of sizes."""
        sizes = sizes or len(self.kind.sizes)
        return task % sizes if self.kind.then == "first" else task.clamp(max=sizes - 1)

    def of_task(self, name: str, values: tuple[int, ...], place: Tensor) -> int | Tensor:
        return values[0] if len(values) == 1 else pick(self.constants(place.device)[name], place)

    def domain(self, place: Tensor) -> Domain:
        if self.same:
            return self.domains[0]
        there = self.constants(place.device)
        size, low, high = (pick(there[name], place) for name in ("size", "low", "high"))
        beyond, rounds = (max(getattr(one, name) for one in self.domains) for name in ("beyond", "rounds"))
        return Domain(size, low, high, beyond, rounds)

    def share(self, task: Tensor, within: Tensor) -> Tensor:
        """Return the share of the new task, of :data:`SHARES`."""
        rising = (within + 1) * SHARES // (self.common.gradual + 1)
        return torch.where(task > 0, rising.clamp(max=SHARES), SHARES)

    def mixed(
        self, key: Tensor, task: Tensor, position: Tensor, number: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return tasks and positions of examples some of which are of the task before."""
        draw = (random.bits_at(random.fold_in(key, MIXTURE), number) >> 32) & (SHARES - 1)
        task = torch.where(draw < share, task, task - 1)
        if self.same:
            return task, position
        return task, position % pick(self.constants(task.device)["size"], self.place(task))

    def inputs(
        self, context: Context, rows: Tensor, task: Tensor, number: Tensor | None, share: Tensor | None
    ) -> Tensor:
        if self.kind.permutes:
            column = torch.arange(self.pixels.size, dtype=torch.int32, device=rows.device)

            def of(task: Tensor) -> Tensor:
                return self.pixels.permuted(context.split, rows, context.look_up(task.unsqueeze(-1), column))

            # All examples of a batch are of one task.
            new = of(task[..., :1])
            if share is None:
                return new
            part = share.reshape(*share.shape, *[1] * len(self.pixels.shape)) / SHARES
            return torch.where(part == 1, new, part * new + (1 - part) * of(task[..., :1] - 1))
        if self.pixels.augmentation and number is not None:
            return self.pixels.augmented(context.split, rows, random.fold_in(context.key, AUGMENT), number)
        return self.pixels.plain(context.split, rows)


def subset_of(key: Tensor, position: Tensor, size: int, domain: Domain) -> Tensor:
    """Draw the numbers of a random part of a data set; the whole stays in its order."""
    if size == domain.size:
        return position
    zero = torch.zeros(position.shape[:-1], dtype=torch.int64, device=position.device)
    return shuffle(random.fold_in(key, SUBSET), zero, position, domain)
