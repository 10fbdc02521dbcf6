"""Value ranges: bounds of integers that hold whatever the inputs are."""

from __future__ import annotations

import math

import torch

from fcbp.lanes.functions import Function
from fcbp.lanes.indices import bounds
from fcbp.lanes.ir import Gather, Map, Node, Position, Rank, Reduce, Scalar, Scatter, View

__all__ = ["is_inside", "value_range"]

DEPTH = 12
"""The longest chain of operations that is followed."""

Range = tuple[float, float]
"""The least and the greatest value."""


def value_range(node: Node) -> Range:
    """Return bounds that all elements of a node keep, whatever the inputs are."""
    return _range(node, DEPTH, {})


def is_inside(index: Node, size: int) -> bool:
    """Tell whether an index is sure to be one of an axis's positions."""
    low, high = value_range(index)
    return low >= 0 and high < size


def _range(node: Node, depth: int, known: dict[tuple[Node, int], Range]) -> Range:
    """Return the range of a node, from arguments that are followed to a depth.

    Args:
        node: the node.
        depth: the operations that are still followed.
        known: the ranges found so far, by node and depth: a node that is read twice is followed once.
    """
    if node.dtype.is_floating_point:
        return -math.inf, math.inf
    if node.dtype == torch.bool:
        return 0, 1
    if (node, depth) not in known:
        widest = torch.iinfo(node.dtype).min, torch.iinfo(node.dtype).max
        low, high = _bounds(node, depth - 1, known) if depth else widest
        # A value out of the dtype's range wraps around.
        known[node, depth] = (low, high) if widest[0] <= low and high <= widest[1] else widest
    return known[node, depth]


def _bounds(node: Node, depth: int, known: dict[tuple[Node, int], Range]) -> Range:
    match node:
        case Scalar(value=value):
            return value, value
        case Position(index=index):
            return bounds(index, node.shape)
        case Rank():
            return 0, node.shape[-1] - 1
        case Reduce(args=(x,), axes=axes) if node.finds_index:
            return 0, math.prod(x.shape[len(x.shape) - axes :]) - 1
    of = [_range(a, depth, known) for a in node.args]
    match node:
        case View() | Gather():
            return of[0]
        case Scatter(accumulate=False):
            return min(of[0][0], of[1][0]), max(of[0][1], of[1][1])
        case Map(function=function):
            return _map_bounds(function, of)
    return -math.inf, math.inf


def _map_bounds(function: Function, of: list[Range]) -> Range:
    """Return the bounds of a function's values, from those of its arguments."""
    match function:
        case Function.SAME | Function.CAST:
            return of[0]
        case Function.CHOOSE:
            return min(of[1][0], of[2][0]), max(of[1][1], of[2][1])
        case Function.ADD:
            return of[0][0] + of[1][0], of[0][1] + of[1][1]
        case Function.SUB:
            return of[0][0] - of[1][1], of[0][1] - of[1][0]
        case Function.MUL:
            products = [x * y for x in of[0] for y in of[1]]
            return min(products), max(products)
        case Function.MINIMUM:
            return min(low for low, _ in of), min(high for _, high in of)
        case Function.MAXIMUM:
            return max(low for low, _ in of), max(high for _, high in of)
        case Function.AND if max(of[0][0], of[1][0]) >= 0:
            return 0, min(high for low, high in of if low >= 0)
        case Function.FLOORED_REMAINDER if of[1][0] > 0:
            return 0, of[1][1] - 1
    return -math.inf, math.inf
