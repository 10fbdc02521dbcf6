"""The arrays in which nodes lie.

A node is written over the array of an argument that nobody reads after it, where it reads each element of that argument
only at the position that it writes. A part of the new carry is best written where the next step reads it.
"""

from __future__ import annotations

from fcbp.lanes.ir import Assemble, Leaf, Map, Node, Scatter
from fcbp.lanes.lower import Lowered
from fcbp.lanes.reads import inline, reads_at

__all__ = ["Buffers", "assign_buffers", "carry_leaves"]

Buffers = tuple[dict[Node, str], dict[Node, Node]]
"""The name of each node's array, and by a node that is written over an argument's array that argument."""


def carry_leaves(lowered: Lowered) -> list[Node]:
    """Return the carry's leaves, in order."""
    return [leaf for (role, _), leaf in lowered.leaves.items() if role == "carry"]


def assign_buffers(
    order: list[Node], hoisted: set[Node], guards: dict[Node, Node], moving: list[int], lowered: Lowered
) -> Buffers:
    """Give every leaf and every stored node an array.

    Args:
        order: the stored nodes, in the order in which they are computed.
        hoisted: those that are computed before the time loop.
        guards: by a stored node, the mask without which it is skipped.
        moving: the numbers of the carry's leaves that a step changes.
        lowered: the step.
    """
    stored = set(order)
    leaves = carry_leaves(lowered)
    fixed = {leaf for i, leaf in enumerate(leaves) if i not in moving}
    results = lowered.results
    ys = results[len(leaves) :]
    buffers = {leaf: f"{role}{i}" for (role, i), leaf in lowered.leaves.items()}
    overwrites: dict[Node, Node] = {}
    reading = [list(inline(node, stored)) for node in order]
    last = _last_reads(reading, {*(results[i] for i in moving), *ys}, stored)
    occupant = {buffers[leaf]: leaf for leaf in leaves}
    target = {results[i]: f"carry{i}" for i in moving if results[i] not in ys}
    for position, node in enumerate(order):
        if node in hoisted:
            buffers[node] = f"b{node.number}"
            continue
        free = [
            a
            for a in reading[position]
            if last[a] == position
            and a not in fixed
            and a not in hoisted
            and not a.uniform
            and not node.uniform
            and (not isinstance(a, Leaf) or a.role == "carry")
            and (a.size, a.dtype) == (node.size, node.dtype)
            and _reads_in_place(node, a, stored)
        ]
        wanted = target.get(node)
        free.sort(key=lambda a: (buffers[a] != wanted, not buffers[a].startswith("carry"), a.number))
        if free:
            overwrites[node] = free[0]
            buffers[node] = buffers[free[0]]
        elif wanted and last.get(occupant[wanted], -1) < position and not node.uniform and node not in guards:
            buffers[node] = wanted
        else:
            buffers[node] = f"b{node.number}"
        occupant[buffers[node]] = node
    return buffers, overwrites


def _last_reads(reading: list[list[Node]], outputs: set[Node], stored: set[Node]) -> dict[Node, int]:
    """Return the position in the order at which each array is last read; outputs are read after the last."""
    last: dict[Node, int] = {}
    for position, found in enumerate(reading):
        for a in found:
            last[a] = position
    for node in outputs:
        for a in (node, *(() if node in stored else inline(node, stored))):
            last[a] = len(reading)
    return last


def _reads_in_place(node: Node, argument: Node, stored: set[Node]) -> bool:
    """Tell whether ``node`` reads ``argument`` at the very places that it writes, and in no other way."""
    if isinstance(node, (Scatter, Assemble)):
        whole = node.args[0] is argument and (isinstance(node, Scatter) or argument.shape == node.shape)
        return whole and all(argument not in (a, *inline(a, stored)) for a in node.args[1:])
    return isinstance(node, Map) and reads_at(node, node.shape, argument, stored)
