"""Rare work: how many units are due, told to whoever runs the step, so that it is left out where nobody is.

A step is written for one learner, and most steps replace nobody. Where the numbers can be read, as in eager and under
``torch.vmap`` alone, a step asks here and leaves the work out. Where a step is traced, they are not known yet: the
tracer says for how many rows it traces, and is told the numbers, which must not be above it when that trace runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["Bound", "at_most", "is_bounded", "largest", "rows", "unbounded"]


@dataclass
class Bound:
    """The most that a traced step replaces, and how many are due."""

    rows: int
    """The most units that any group of any member replaces."""
    numbers: list[Tensor] = field(default_factory=list)
    """The numbers that are due, of each group, with an axis for each ``torch.vmap``."""


_bound: ContextVar[Bound | None] = ContextVar("bound", default=None)


@contextlib.contextmanager
def at_most(rows: int) -> Iterator[Bound]:
    """Have steps within be ready for so many rows alone, and tell the numbers that are due.

    Example:
        >>> with at_most(1) as bound:
        ...     rows(torch.tensor(0), 100)
        1
        >>> bound.numbers
        [tensor(0)]
    """
    bound = Bound(rows)
    token = _bound.set(bound)
    try:
        yield bound
    finally:
        _bound.reset(token)


@contextlib.contextmanager
def unbounded() -> Iterator[None]:
    """Have steps within be ready for whatever falls due: they are no part of the one that is traced."""
    token = _bound.set(None)
    try:
        yield
    finally:
        _bound.reset(token)


def is_bounded() -> bool:
    """Tell whether a step is traced for some rows alone, by :func:`at_most`."""
    return _current() is not None


def rows(number: Tensor, limit: int, least: int = 1) -> int:
    """Return the rows that a step must be ready for, of ``number`` that are due now and ``limit`` at most.

    Args:
        number: the units that are replaced now.
        limit: the most that can be.
        least: the fewest rows where there is one at all.
    """
    bound = _current()
    if bound is not None:
        bound.numbers.append(_of_all(number))
        most: float = bound.rows
    else:
        known = largest(number)
        most = limit if known is None else known
    return min(max(int(most), least), limit) if most > 0 else 0


def largest(number: Tensor) -> float | None:
    """Return the largest of ``number`` among all members of a ``torch.vmap``; ``None`` where it cannot be read now.

    Example:
        >>> torch.vmap(lambda x: x + largest(x))(torch.tensor([1.0, 2.0]))
        tensor([3., 4.])
    """
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return None
    number = _of_all(number)
    functorch = torch._C._functorch
    if type(number) is not Tensor or functorch.is_functorch_wrapped_tensor(number) or number.device.type != "cpu":
        return None
    return float(number.amax() if number.ndim else number)


def _current() -> Bound | None:
    return None if torch.compiler.is_compiling() else _bound.get()


def _of_all(number: Tensor) -> Tensor:
    """Return the numbers of all members, of a member's under ``torch.vmap``."""
    functorch = torch._C._functorch
    while functorch.is_batchedtensor(number):
        number = functorch.get_unwrapped(number)
    return number
