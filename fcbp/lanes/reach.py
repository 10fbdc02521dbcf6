"""What can be said of whole numbers before they are known."""

from __future__ import annotations

import math

import torch

from fcbp.lanes.ir import Node, bounds

__all__ = ["reach"]

DEPTH = 12
"""Operations that are looked through."""


def reach(node: Node, depth: int = DEPTH) -> tuple[float, float]:
    """Bounds that all elements keep, whatever the inputs are."""
    if node.dtype.is_floating_point:
        return -math.inf, math.inf
    if node.dtype == torch.bool:
        return 0, 1
    widest = torch.iinfo(node.dtype).min, torch.iinfo(node.dtype).max
    low, high = _bounds(node, depth - 1) if depth else widest
    # What is out of the dtype's range wraps around.
    return (low, high) if widest[0] <= low and high <= widest[1] else widest


def _bounds(node: Node, depth: int) -> tuple[float, float]:
    if node.kind == "scalar":
        return node.data, node.data
    if node.kind == "position":
        return bounds(node.data, node.shape)
    if node.kind == "rank":
        return 0, node.shape[-1] - 1
    if node.kind == "reduce" and node.data[0] in ("argmin", "argmax"):
        axes = node.args[0].shape
        return 0, math.prod(axes[len(axes) - node.data[1] :]) - 1
    of = [reach(a, depth) for a in node.args]
    function = node.data if node.kind == "map" else ""
    if node.kind in ("view", "gather") or function in ("same", "to"):
        return of[0]
    if node.kind == "scatter" and node.data[1] == "set":
        return min(of[0][0], of[1][0]), max(of[0][1], of[1][1])
    if function == "choose":
        return min(of[1][0], of[2][0]), max(of[1][1], of[2][1])
    if function == "add":
        return of[0][0] + of[1][0], of[0][1] + of[1][1]
    if function == "sub":
        return of[0][0] - of[1][1], of[0][1] - of[1][0]
    if function == "mul":
        products = [x * y for x in of[0] for y in of[1]]
        return min(products), max(products)
    if function in ("minimum", "maximum"):
        bound = min if function == "minimum" else max
        return bound(low for low, _ in of), bound(high for _, high in of)
    if function == "bit_and" and max(of[0][0], of[1][0]) >= 0:
        return 0, min(high for low, high in of if low >= 0)
    if function == "floored_remainder" and of[1][0] > 0:
        return 0, of[1][1] - 1
    return -math.inf, math.inf
