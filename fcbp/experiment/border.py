"""The events that a problem asks of a learner between tasks, around the learner's own functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from fcbp import learner, random
from fcbp.kinds import PyTree
from fcbp.program import Program
from fcbp.streams import Border, Stream

__all__ = ["Best", "Bordered", "Borders", "bordered", "cut", "cutting", "head_of", "in_parts", "with_border"]

BETWEEN = 7
"""The draws of a member's key between tasks, beside the keys of its beginning."""

Forward = Callable[..., tuple[Any, Any, Any]]


class Best(NamedTuple):
    """The weights that were best on the validation examples of a task."""

    params: Any
    buffers: Any
    accuracy: Float[Tensor, ""]


class Bordered(NamedTuple):
    """A learner, and the values that change between tasks."""

    learner: learner.LearnerState
    factor: Float[Tensor, ""]
    """The factor of the step size."""
    classes: Int64[Tensor, ""]
    """Classes that have come."""
    key: Int64[Tensor, ""]
    """The key of fresh draws."""
    best: Any
    """:class:`Best`; ``()`` without early stopping."""


def with_border(stream: Stream, border: Border) -> Stream:
    """Give a stream a border.

    Raises:
        ValueError: the stream has no validation examples, or no classes that come one after the other, and they are
            needed.
    """
    calendar = stream.calendar
    if border and calendar is None:
        raise ValueError("something is asked for between tasks, and it is not known when they begin")
    if border.early_stopping and stream.validation is None:
        raise ValueError("early_stopping is True, and no examples validate; expected validation, such as validation=50")
    if border.cut_unseen and not (calendar and calendar.classes):
        raise ValueError("cut_unseen is True, and all classes come at once; expected the stream 'growing-classes'")
    return stream._replace(border=border)


def cut(output: Float[Tensor, "batch classes"], seen: Tensor) -> Float[Tensor, "batch classes"]:
    """Set the outputs of classes that have not come to minus infinity."""
    return output.masked_fill(torch.arange(output.shape[-1], device=output.device) >= seen[..., None], -torch.inf)


def cutting(function: Callable[[Tensor, Any], Any]) -> Callable[[Tensor, Any], Any]:
    """Return a function of outputs and targets that takes ``(targets, classes that have come)`` for targets too."""

    def of_seen(output: Tensor, targets: Any) -> Any:
        if isinstance(targets, tuple):
            targets, seen = targets
            output = cut(output, seen)
        return function(output, targets)

    return of_seen


def head_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the last linear layer's weights and biases.

    Raises:
        ValueError: there is none.
    """
    linear = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("zero_head is True, and the network has no linear layer; expected one that is its last")
    return tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[0] == linear[-1])


class Borders:
    """The border of a stream for one learner, as pure functions of a member.

    Args:
        stream: whose ``border`` it is.
        built: the learner.
        evaluate: the network in ``eval`` mode: ``(params, buffers, inputs) -> (output, ...)``.
        head: names of the parameters that ``zero_head`` makes 0.
    """

    def __init__(self, stream: Stream, built: learner.Learner, evaluate: Forward, head: tuple[str, ...]) -> None:
        assert stream.calendar is not None
        self.stream, self.learner, self.evaluate, self.head = stream, built, evaluate, head
        self.border, self.calendar = stream.border, stream.calendar

    def next(self, step: int) -> int | None:
        """Return the next step before which something is done."""
        return self.border.next(self.calendar, step)

    def init(self, key: Int64[Tensor, ""], state: learner.LearnerState) -> Bordered:
        """Return a member before its first step."""
        one = torch.ones((), device=key.device)
        best = Best(state.params, state.buffers, one * 0) if self.border.early_stopping else ()
        start = Bordered(state, one, torch.zeros_like(key), random.fold_in(key, BETWEEN), best)
        return self.begin(start, 0)

    def __call__(self, carry: Bordered, problem: PyTree, step: int) -> Bordered:
        """Return a member after ``step`` steps, at the end of a pass."""
        now = self.calendar.at(step)
        if self.border.early_stopping:
            carry = self.validated(carry, problem)
            if now.begins_task:
                state = carry.learner._replace(params=carry.best.params, buffers=carry.best.buffers)
                best = carry.best._replace(accuracy=torch.zeros_like(carry.best.accuracy))
                carry = carry._replace(learner=state, best=best)
        carry = self.begin(carry, now.task) if now.begins_task else carry
        return carry._replace(factor=torch.full_like(carry.factor, self.border.factor(now.epoch)))

    def validated(self, carry: Bordered, problem: PyTree) -> Bordered:
        """Keep the weights where they are the best so far."""
        assert self.stream.validation is not None
        inputs, targets = self.stream.validation(problem)
        state, best = carry.learner, carry.best
        output = in_parts(self.evaluate, state, inputs)
        output = cut(output, carry.classes) if self.border.cut_unseen else output
        accuracy = (output.argmax(-1) == targets).to(best.accuracy.dtype).mean()
        better: Bool[Tensor, ""] = accuracy > best.accuracy
        now = Best(state.params, state.buffers, accuracy)
        kept: Any = optree.tree_map(lambda new, old: torch.where(better, new, old), now, best)  # type: ignore[arg-type]
        return carry._replace(best=kept)

    def begin(self, carry: Bordered, task: int) -> Bordered:
        """Return a member before a task's first batch."""
        asked, state = self.border, carry.learner
        shrink, perturb = asked.shrink_before, asked.perturb_before
        if shrink != 1 or perturb != 0 or asked.fresh_moments:
            new = self.learner.init(random.fold_in(carry.key, task))
            if shrink != 1 or perturb != 0:
                params = {name: shrink * p + perturb * new.params[name] for name, p in state.params.items()}
                state = state._replace(params=params, buffers=new.buffers)
            state = state._replace(opt_state=new.opt_state) if asked.fresh_moments else state
        if asked.zero_head:
            zero = {name: torch.zeros_like(state.params[name]) for name in self.head}
            state = state._replace(params={**state.params, **zero})
        classes = self.calendar.seen(task) if asked.cut_unseen else 0
        return carry._replace(learner=state, classes=torch.full_like(carry.classes, classes))


def bordered(program: Program, borders: Borders) -> Program:
    """Add the events between tasks, which the stream asks for, to the program of a learner."""
    cuts, scales = borders.border.cut_unseen, bool(borders.border.milestones)

    def with_classes(batch: tuple[Any, ...], classes: Tensor) -> tuple[Any, ...]:
        return (batch[0], (batch[1], classes), *batch[2:]) if cuts and batch else batch

    def init(key: Tensor, settings: Mapping[str, Tensor]) -> Bordered:
        return borders.init(key, program.init(key, settings))

    def step(carry: Bordered, settings: Mapping[str, Any], batch: tuple[Tensor, ...]) -> tuple[Bordered, Any]:
        if scales:
            settings = {**settings, "step_size": settings["step_size"] * carry.factor}
        state, measured = program.step(carry.learner, settings, with_classes(batch, carry.classes))
        return carry._replace(learner=state), measured

    def probe(carry: Bordered, settings: Mapping[str, Any], coming: tuple[Tensor, ...], held_out: Any) -> Any:
        assert program.probe is not None
        ahead = with_classes(coming, carry.classes.expand(coming[1].shape))
        return program.probe(carry.learner, settings, ahead, with_classes(held_out, carry.classes))

    def failed(carry: Bordered) -> Tensor:
        assert program.failed is not None
        return program.failed(carry.learner)

    def border(carry: Bordered, problem: Any, step: int) -> Bordered:
        return borders(carry, problem, step)

    return replace(program, init=init, step=step, probe=probe, failed=failed, next_border=borders.next, border=border)


PART = 500
"""Images that go through a network at once, where there are many."""


def in_parts(evaluate: Forward, state: learner.LearnerState, inputs: Tensor) -> Tensor:
    """Return the network's outputs; of many images in parts, so that all of their activations need not be in memory."""
    parts = inputs.split(PART) if inputs.ndim > 2 and len(inputs) > 2 * PART else (inputs,)
    return torch.cat([evaluate(state.params, state.buffers, part)[0] for part in parts])
