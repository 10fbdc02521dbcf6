"""Borders between tasks: the times at which tasks and passes begin, and the demands of a problem on the learner
there."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

__all__ = ["Border", "Calendar", "Moment"]


class Moment(NamedTuple):
    """The task and the pass of a batch, and whether it begins them."""

    task: int
    epoch: int
    """Whole passes over the task's examples before it."""
    begins_task: bool
    begins_pass: bool


@dataclass(frozen=True)
class Calendar:
    """The times at which tasks and passes begin, the same for all members.

    Args:
        lengths: batches of the tasks, one after the other.
        passes: batches of a pass over each task's examples.
        then: the successor of the last: tasks like it, or the first again.
        ends: whether the last task ends, where others like it follow.
        classes: classes that have come until the end of each task; empty where that is not known.

    Example:
        >>> calendar = Calendar((4, 8), (2, 4), "last", ends=False)
        >>> calendar.at(6)
        Moment(task=1, epoch=0, begins_task=False, begins_pass=False)
        >>> calendar.at(8)
        Moment(task=1, epoch=1, begins_task=False, begins_pass=True)
    """

    lengths: tuple[int, ...]
    passes: tuple[int, ...]
    then: Literal["last", "first"]
    ends: bool = True
    classes: tuple[int, ...] = ()

    def at(self, step: int) -> Moment:
        """Return the task and the pass of batch number ``step``, from 0."""
        turn = sum(self.lengths)
        task, within = divmod(step, turn) if self.then == "first" else (0, step)
        task *= len(self.lengths)
        place = 0
        while within >= self.lengths[place] and (place + 1 < len(self.lengths)):
            within -= self.lengths[place]
            place += 1
        task += place
        if self.then == "last" and self.ends and place + 1 == len(self.lengths):
            more, within = divmod(within, self.lengths[place])
            task += more
        epoch, in_pass = divmod(within, self.passes[place])
        return Moment(task, epoch, within == 0, in_pass == 0)

    def seen(self, task: int) -> int:
        """Count the classes that have come until the end of a task."""
        return self.classes[min(task, len(self.classes) - 1)]

    def next_pass(self, step: int) -> int:
        """Return the first batch after ``step`` that begins a pass or a task."""
        step += 1
        while not (now := self.at(step)).begins_pass and not now.begins_task:
            step += 1
        return step


@dataclass(frozen=True)
class Border:
    """The demands of a problem on the learner between tasks, beside its method; experiments meet them.

    At the end of a pass: (1) the last batch's step; (2) what the bin measures, such as the test; (3) with
    ``early_stopping`` the accuracy on the validation examples, weights and buffers being kept where it is the best of
    the task; and where the task ends too (4) the best weights and buffers are put back, the optimiser's moments stay;
    (5) ``shrink_before`` and ``perturb_before``; (6) ``fresh_moments``; (7) ``zero_head``; then the next task's first
    batch. 5 to 7 are done before the first task too.

    Args:
        zero_head: make weights and biases of the last linear layer 0 before each task; its moments stay.
        shrink_before: the factor of every parameter before each task; buffers begin anew with a number that is
            not 1.
        perturb_before: the factor of a fresh draw of every parameter, which is then added.
        fresh_moments: begin the optimiser anew with each task.
        milestones: passes of a task after each of which the step size is multiplied by ``milestone_factor``; each task
            begins with the whole step size.
        milestone_factor: 0 to 1.
        cut_unseen: leave the outputs of classes that have not come yet out of the loss, of predictions and of tests;
            targets are in the order in which classes come.
        early_stopping: put the weights back that were best on the validation examples, at the end of each task.
    """

    zero_head: bool = False
    shrink_before: float = 1.0
    perturb_before: float = 0.0
    fresh_moments: bool = False
    milestones: tuple[int, ...] = ()
    milestone_factor: float = 0.2
    cut_unseen: bool = False
    early_stopping: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{field.name} is {value!r}; expected True or False")
            if field.type == "float" and (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1
            ):
                raise ValueError(f"{field.name} is {value!r}; expected a number from 0 to 1")
        marks = tuple(self.milestones) if isinstance(self.milestones, (tuple, list)) else (None,)
        whole = all(isinstance(m, int) and not isinstance(m, bool) and m >= 1 for m in marks)
        if not whole or list(marks) != sorted(set(marks)):
            raise ValueError(
                f"milestones is {self.milestones!r}; expected numbers of passes that rise, such as (60, 120)"
            )
        object.__setattr__(self, "milestones", marks)

    @property
    def at_tasks(self) -> bool:
        """Whether there is something to do before a task."""
        changes = self.shrink_before != 1 or self.perturb_before != 0
        return self.zero_head or changes or self.fresh_moments or self.cut_unseen

    def __bool__(self) -> bool:
        return self.at_tasks or self.early_stopping or bool(self.milestones)

    def next(self, calendar: Calendar, step: int) -> int | None:
        """Return the first step after ``step`` before which there is something to do; ``None`` where there is nothing
        ever."""
        if not self:
            return None
        while True:
            last = calendar.at(step)
            is_last = not calendar.ends and last.task + 1 >= len(calendar.lengths)
            if is_last and not self.early_stopping and last.epoch >= max(self.milestones, default=0):
                return None
            step = calendar.next_pass(step)
            now = calendar.at(step)
            if self.early_stopping or now.begins_task or now.epoch in self.milestones:
                return step

    def factor(self, epoch: int) -> float:
        """Return the factor of the step size in a pass."""
        return float(self.milestone_factor ** sum(epoch >= mark for mark in self.milestones))
