"""Peephole rewrites: shapes of a graph that continual backpropagation and its random numbers make, in a quicker form.

Each gives the same bits as the form that it replaces. All rewrites of a graph are here; :mod:`fcbp.lanes.masks` finds
what need not be computed in most steps.

- :func:`greater_of_integers`: ``age > maturity_threshold``, of whole ages and a real threshold.
- :func:`less_of_ranks`: ``rank < count``, where the count of units to replace is 0 in most steps.
- :func:`masked_bits`: ``(word >> n) & mask``, by which random words become random bits.
- :func:`rank_of_order`: the inverse of a permutation that a sort made.
"""

from __future__ import annotations

import torch

from fcbp.lanes.builder import Builder
from fcbp.lanes.functions import Function
from fcbp.lanes.indices import bounds, variable
from fcbp.lanes.ir import Node, Position, Rank, Scalar, Scatter, View, is_map
from fcbp.lanes.ranges import value_range

__all__ = ["greater_of_integers", "less_of_ranks", "masked_bits", "rank_of_order"]


def greater_of_integers(b: Builder, x: Node, y: Node | float) -> Node:
    """``x > y`` of int32 and float64, as a comparison of integers.

    Mostly ``y`` is one number, a maturity threshold, and ``x`` are many, the ages. So only ``y`` is rounded.
    """
    limit = b.to(y, torch.float64) if isinstance(y, Node) else b.scalar(y, torch.float64)
    most, least = (1 << 31) - 1, -(1 << 31)
    floor = b.map(Function.MAXIMUM, b.map(Function.FLOOR, limit, dtype=limit.dtype), least, dtype=limit.dtype)
    floor = b.map(Function.MINIMUM, floor, most, dtype=limit.dtype)
    never = b.map(Function.NE, limit, limit, dtype=limit.dtype, result=torch.bool)
    whole = b.to(b.where(never, most, floor, limit.dtype), x.dtype)
    above = b.map(Function.GT, x, whole, dtype=x.dtype, result=torch.bool)
    always = b.map(Function.LT, limit, least, dtype=limit.dtype, result=torch.bool)
    return b.map(Function.OR, above, always, dtype=torch.bool)


def less_of_ranks(b: Builder, x: Node, less: Node) -> Node:
    """``less``, the map ``x < y``, as ``(y > 0) & (x < y)`` where ``x`` is never negative and ``y`` are few numbers.

    Where the numbers are mostly 0, as the count of units to replace, the ranks are then mostly not computed.
    """
    number = less.args[1]
    few = number.args[0] if isinstance(number, View) else number
    if few.size >= less.size or value_range(x)[0] < 0:
        return less
    some = b.map(Function.GT, few, 0, dtype=few.dtype, result=torch.bool)
    some = b.view(some, less.shape, number.indices) if isinstance(number, View) else b.expand(some, less.shape)
    return b.where(some, less, False, torch.bool)


def masked_bits(b: Builder, x: Node | float, y: Node | float, dtype: torch.dtype) -> Node:
    """``x & y``; of a shift to the right under a mask that clears the copies of the sign, as a logical shift.

    Vectors have a logical shift of 64-bit integers in one instruction, and no arithmetic one.
    """
    if dtype != torch.int64:
        return b.map(Function.AND, x, y, dtype=dtype)
    shifted, mask = b.broadcast((x, y), dtype)
    if is_map(shifted, Function.SHIFT_RIGHT) and isinstance(mask, Scalar):
        word, count = shifted.args
        low, most = _shift_bounds(count)
        if low >= 0 and most < 64 and 0 <= mask.value < 1 << (64 - most):
            logical = b.elementwise(Function.SHIFT_RIGHT_LOGICAL, (word, count), shifted.shape, dtype)
            if low == most and mask.value == (1 << (64 - most)) - 1:
                return logical
            shifted = logical
    return b.elementwise(Function.AND, (shifted, mask), mask.shape, dtype)


def _shift_bounds(count: Node) -> tuple[int, int]:
    """Return the least and the greatest count of a shift; (-1, -1) where they are not known."""
    if isinstance(count, Position):
        return bounds(count.index, count.shape)
    return (int(count.value), int(count.value)) if isinstance(count, Scalar) else (-1, -1)


def rank_of_order(x: Node, dim: int, index: Node, source: Node) -> Node | None:
    """Return the rank whose order ``index`` is, where positions are scattered to the order; ``None`` for another
    scatter.

    Args:
        x: the array that is written to, whose elements are all replaced.
        dim: the axis of the scatter.
        index: its indices; the order is what ``argsort`` gives.
        source: the elements that are scattered.
    """
    while is_map(source, Function.CAST):
        source = source.args[0]
    last = variable(len(x.shape) - 1, x.shape)
    if x.shape != index.shape or dim % len(x.shape) != len(x.shape) - 1 or not isinstance(source, Position):
        return None
    if source.shape != x.shape or source.index != last or not isinstance(index, Scatter) or len(index.args) != 3:
        return None
    _, positions, rank = index.args
    return rank if isinstance(rank, Rank) and isinstance(positions, Position) and positions.index == last else None
