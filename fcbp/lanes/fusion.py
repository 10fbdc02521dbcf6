"""Fusion of a reduction with the loop before it, or with the one behind it.

A *prologue* is a node that a reduction reads once and whole: it is computed in the reduction's loop. An *epilogue* is
the node that alone reads a reduction, element by element: it is computed as soon as an element of the reduction is
known.
"""

from __future__ import annotations

from fcbp.lanes.functions import Function
from fcbp.lanes.ir import Map, Node, Reduce, is_choice
from fcbp.lanes.reads import inline, reads_at

__all__ = ["sums_columns", "with_epilogues", "with_prologues"]

COLUMNS_FROM = 1 << 13
"""Elements of an argument from which on a pass of its own over columns takes longer than sums that lie in memory."""

Fusion = tuple[list[Node], dict[Node, Node]]
"""A new order of nodes, and by each fused reduction its prologue or epilogue."""


def with_epilogues(order: list[Node], stored: set[Node], guards: dict[Node, Node], kept: set[Node]) -> Fusion:
    """Return the order with sums right before their epilogues. A sum in ``kept`` needs its array.

    A gradient that is summed over a batch is then never stored: the weights are updated where it is summed.
    """
    order = list(order)
    users: dict[Node, list[Node]] = {}
    for node in order:
        for a in inline(node, stored):
            users.setdefault(a, []).append(node)
    epilogues: dict[Node, Node] = {}
    sums = [n for n in order if isinstance(n, Reduce) and n.function is Function.ADD]
    for total in [n for n in sums if n not in kept | guards.keys()]:
        reading = users.get(total, [])
        if len(reading) != 1 or reading[0] in epilogues.values():
            continue
        (result,) = reading
        plain = isinstance(result, Map) and not is_choice(result) and result not in guards
        alike = (result.shape, result.uniform) == (total.shape, total.uniform)
        if plain and alike and result not in guards.values() and reads_at(result, result.shape, total, stored):
            order.remove(total)
            order.insert(order.index(result), total)
            epilogues[total] = result
    return order, epilogues


def with_prologues(order: list[Node], stored: set[Node], guards: dict[Node, Node], kept: set[Node]) -> Fusion:
    """Return the order with reductions right behind their prologues. A node in ``kept`` needs a loop of its own."""
    order = list(order)
    prologues: dict[Node, Node] = {}
    for total in [n for n in order if isinstance(n, Reduce) and not n.finds_index]:
        reading = [a for a in inline(total, stored) if a in stored]
        places = [order.index(a) for a in reading if a in order]
        if total in guards or total in kept or not places:
            continue
        part = order[max(places)]
        plain = isinstance(part, Map) and not is_choice(part) and part not in guards and part not in kept
        if (
            plain
            and part not in prologues.values()
            and part.uniform == total.uniform
            and (_reads_once(total, part, stored) or sums_columns(total, part, stored))
        ):
            order.remove(total)
            order.insert(max(places) + 1, total)
            prologues[total] = part
    return order, prologues


def sums_columns(total: Reduce, argument: Node, stored: set[Node]) -> bool:
    """Tell whether a reduction adds up the rows of a large argument, each of whose elements it reads once."""
    (x,) = total.args
    if total.function is not Function.ADD or total.axes != 1 or x.size != argument.size or x.size < COLUMNS_FROM:
        return False
    last = len(x.shape) - 1
    return reads_at(total, x.shape, argument, stored, (last, *range(last)))


def _reads_once(total: Node, argument: Node, stored: set[Node]) -> bool:
    """Tell whether a reduction goes over an argument's elements in their order in memory, each once."""
    (x,) = total.args
    return x.size == argument.size and reads_at(total, x.shape, argument, stored)
