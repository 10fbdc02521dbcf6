"""Step-size schedules: pure functions of the step count, ``schedule(step) -> step size``.

``step`` is a whole number or a 0-d integer tensor, 0 at the first step; the step size is a 0-d tensor, float32 or the
wider dtype of a number. Any number of a schedule may be a 0-d tensor: make it inside the vmapped function to sweep it.
In a learner a schedule gives the factor by which the step size is multiplied (:func:`fcbp.make_learner`).

>>> schedule = warmup(cosine(decay_steps=90), warmup_steps=10)
>>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 55, 100, 1000)]
[0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fcbp.checks import arguments
from fcbp.optim.checks import Number, check_number

__all__ = [
    "SCHEDULES",
    "Schedule",
    "constant",
    "cosine",
    "linear",
    "piecewise",
    "warmup",
    "warmup_cosine",
    "warmup_linear",
]

Schedule = Callable[[int | Tensor], Float[Tensor, ""]]


@arguments
def constant(value: Number = 1.0) -> Schedule:
    """Make a schedule of the same step size at every step; as ``optax.constant_schedule``.

    Raises:
        ValueError: ``value`` is no number, 0 or more.

    Example:
        >>> constant(0.1)(5)
        tensor(0.1000)
    """
    check_number("value", value)
    return torch.no_grad()(lambda step: _as_float(step) * 0 + value)


@arguments
def linear(start: Number = 1.0, end: Number = 0.0, decay_steps: Number = 1_000_000) -> Schedule:
    """Make a schedule from ``start`` to ``end`` on a line, and ``end`` from then on.

    As ``optax.linear_schedule`` and ``torch.optim.lr_scheduler.LinearLR``.

    Args:
        start: the step size at step 0.
        end: the step size from step ``decay_steps`` on.
        decay_steps: steps from one to the other, 1 or more.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> [float(linear(1.0, 0.5, 4)(step)) for step in (0, 1, 2, 4, 9)]
        [1.0, 0.875, 0.75, 0.5, 0.5]
    """
    _check_ends(start, end, decay_steps)
    return torch.no_grad()(lambda step: _between(start, end, 1 - _progress(step, decay_steps)))


@arguments
def cosine(start: Number = 1.0, end: Number = 0.0, decay_steps: Number = 1_000_000) -> Schedule:
    """Make a schedule from ``start`` to ``end`` along half a cosine, and ``end`` from then on.

    Loshchilov and Hutter, "SGDR" (ICLR 2017, arXiv 1608.03983), equation 5 without restarts; as
    ``optax.cosine_decay_schedule`` (whose ``alpha`` is ``end / start``), and up to ``decay_steps``
    ``torch.optim.lr_scheduler.CosineAnnealingLR``, which rises again afterwards.

    Args:
        start: the step size at step 0.
        end: the step size from step ``decay_steps`` on.
        decay_steps: steps from one to the other, 1 or more.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> [round(float(cosine(decay_steps=4)(step)), 4) for step in (0, 1, 2, 4, 9)]
        [1.0, 0.8536, 0.5, 0.0, 0.0]
    """
    _check_ends(start, end, decay_steps)
    return torch.no_grad()(
        lambda step: _between(start, end, (1 + torch.cos(math.pi * _progress(step, decay_steps))) / 2)
    )


@arguments
def piecewise(boundaries: Sequence[Number] = (), values: Sequence[Number] = (1.0,)) -> Schedule:
    """Make a schedule of one value after another: ``values[i]`` from step ``boundaries[i - 1]`` on.

    ``torch.optim.lr_scheduler.MultiStepLR`` and ``optax.piecewise_constant_schedule`` change at the same steps, and are
    given factors where this is given values.

    Args:
        boundaries: steps at which the value changes, in ascending order.
        values: one more than ``boundaries``.

    Raises:
        ValueError: the lengths do not fit, the boundaries do not ascend, or a number is below 0.

    Example:
        >>> [round(float(piecewise((2, 4), (1.0, 0.1, 0.01))(step)), 4) for step in range(6)]
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """
    for name, given in {"boundaries": boundaries, "values": values}.items():
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise ValueError(f"{name} is {given!r}; expected a sequence of numbers")
        for i, number in enumerate(given):
            check_number(f"{name}[{i}]", number)
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"values has {len(values)} entries for {len(boundaries)} boundaries; expected one more")
    plain = [number for number in boundaries if not isinstance(number, Tensor)]
    if any(a >= b for a, b in itertools.pairwise(plain)):
        raise ValueError(f"boundaries is {boundaries!r}; expected steps in ascending order")

    @torch.no_grad()
    def schedule(step: int | Tensor) -> Tensor:
        value = _as_float(step) * 0 + values[0]
        for boundary, later in zip(boundaries, values[1:], strict=True):
            value = torch.where(torch.as_tensor(step) >= boundary, later, value)
        return value

    return schedule


@arguments
def warmup(after: Schedule | Number = 1.0, warmup_steps: Number = 1_000, start: Number = 0.0) -> Schedule:
    """Rise on a line from ``start`` to another schedule's first value, and follow that schedule from there.

    As ``optax.join_schedules([optax.linear_schedule(start, after(0), warmup_steps), after], [warmup_steps])``, and
    ``torch.optim.lr_scheduler.SequentialLR`` of a ``LinearLR`` and another.

    Args:
        after: the schedule that follows, whose step 0 is step ``warmup_steps``; a number stays as it is.
        warmup_steps: steps of the rise; 0 is none.
        start: the step size at step 0.

    Raises:
        ValueError: ``after`` is neither a function nor a number; a number is out of its range.

    Example:
        >>> [float(warmup(0.5, 4)(step)) for step in (0, 1, 2, 4, 9)]
        [0.0, 0.125, 0.25, 0.5, 0.5]
    """
    if not callable(after):
        check_number("after", after)
        after = constant(after)
    for name, number in {"warmup_steps": warmup_steps, "start": start}.items():
        check_number(name, number)
    follow = after

    @torch.no_grad()
    def schedule(step: int | Tensor) -> Tensor:
        count = torch.as_tensor(step)
        rise = _between(follow(torch.zeros_like(count)), start, _progress(step, warmup_steps))
        return torch.where(count < warmup_steps, rise, follow((count - warmup_steps).clamp(min=0)))

    return schedule


@arguments
def warmup_linear(
    warmup_steps: Number = 1_000,
    start: Number = 0.0,
    peak: Number = 1.0,
    end: Number = 0.0,
    decay_steps: Number = 1_000_000,
) -> Schedule:
    """:func:`warmup` from ``start`` to ``peak``, then :func:`linear` to ``end`` in ``decay_steps`` further steps.

    Args:
        warmup_steps: steps of the warm-up.
        start: factor at step 0.
        peak: factor after the warm-up.
        end: factor at last.
        decay_steps: steps from ``peak`` to ``end``.

    Example:
        >>> [float(warmup_linear(2, decay_steps=4)(step)) for step in (0, 1, 2, 4, 6, 9)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    return warmup(linear(peak, end, decay_steps), warmup_steps, start)


@arguments
def warmup_cosine(
    warmup_steps: Number = 1_000,
    start: Number = 0.0,
    peak: Number = 1.0,
    end: Number = 0.0,
    decay_steps: Number = 1_000_000,
) -> Schedule:
    """:func:`warmup` from ``start`` to ``peak``, then :func:`cosine` to ``end`` in ``decay_steps`` further steps.

    In ``optax.warmup_cosine_decay_schedule`` the decay's steps count the warm-up's as well.

    Args:
        warmup_steps: steps of the warm-up.
        start: factor at step 0.
        peak: factor after the warm-up.
        end: factor at last.
        decay_steps: steps from ``peak`` to ``end``.

    Example:
        >>> [round(float(warmup_cosine(2, decay_steps=4)(step)), 4) for step in (0, 1, 2, 3, 4, 6, 9)]
        [0.0, 0.5, 1.0, 0.8536, 0.5, 0.0, 0.0]
    """
    return warmup(cosine(peak, end, decay_steps), warmup_steps, start)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "piecewise": piecewise,
    "warmup": warmup,
    "warmup-linear": warmup_linear,
    "warmup-cosine": warmup_cosine,
}
"""The functions that make schedules, by name."""


def _check_ends(start: Number, end: Number, decay_steps: Number) -> None:
    check_number("start", start)
    check_number("end", end)
    check_number("decay_steps", decay_steps, least=1)


def _as_float(step: int | Tensor) -> Tensor:
    step = torch.as_tensor(step)
    return step if step.is_floating_point() else step.to(torch.float32)


def _progress(step: int | Tensor, steps: Number) -> Tensor:
    """Rise from 0 to 1 in so many steps, and 1 from then on."""
    whole = steps.clamp(min=1) if isinstance(steps, Tensor) else max(steps, 1)
    return (_as_float(step) / whole).clamp(0, 1)


def _between(start: Number, end: Number, share: Tensor) -> Tensor:
    """``start`` where its ``share`` is 1, ``end`` where it is 0, both exactly."""
    return share * start + (1 - share) * end
