"""A step in lanes as text: graph, nodes, plan and C++."""

from __future__ import annotations

from typing import NamedTuple

from fcbp import lanes
from fcbp.lanes.emit import prelude
from fcbp.lanes.ir import Leaf, Map, Node, Position, Reduce, Scalar, Scan
from fcbp.lanes.reads import dependencies

__all__ = ["Source", "written"]


class Source(NamedTuple):
    """A step on its way to a program in lanes; printed, all four forms."""

    graph: str
    """The operations of one member's step, as torch traces them, a line each."""
    nodes: str
    """The nodes that the results are made of, a line each: number, kind, arguments, dtype, shape."""
    plan: str
    """The nodes that have an array, in the order in which they are computed, and the names of the arrays."""
    code: str
    """The C++ of the step, without the definitions that every program begins with."""

    def __str__(self) -> str:
        parts = zip(("graph", "nodes", "plan", "C++"), self, strict=True)
        return "\n\n".join(f"{title}\n{'-' * len(title)}\n{text}" for title, text in parts)


def written(draft: lanes.Lanes) -> Source:
    """Return the four forms of a draft."""
    lowered, plan = draft.traced.lowered, draft.plan
    nodes = dependencies([*lowered.leaves.values(), *lowered.results])
    width = max(len(_expression(node)) for node in nodes)
    lines = [
        f"n{node.number:<3} {_expression(node):{width}}    {str(node.dtype).removeprefix('torch.')} {node.shape}"
        for node in nodes
    ]
    order = [_placed(node, draft) for node in plan.order]
    code = draft.source.partition(prelude(draft.elements))[2].strip("\n")
    return Source(draft.traced.graph.strip(), "\n".join(lines), "\n".join(order), code)


def _expression(node: Node) -> str:
    """Return the operation of a node, such as ``map add(n0, n1)``."""
    arguments = ", ".join(f"n{a.number}" for a in node.args)
    match node:
        case Leaf(role=role, position=position):
            return f"leaf {role}{position}"
        case Scalar(value=value):
            return f"scalar {value}"
        case Position(index=index):
            return f"position {index}"
        case Map(function=function):
            return f"map {function}({arguments})"
        case Scan(function=function):
            return f"scan {function}({arguments})"
        case Reduce(function=function, axes=axes):
            return f"reduce {function}({arguments}) over {axes} axes"
    return f"{type(node).__name__.lower()}({arguments})"


def _placed(node: Node, draft: lanes.Lanes) -> str:
    """Return the place of a node in the plan, and the time at which it is computed."""
    plan = draft.plan
    notes = ["before the time loop"] if node in plan.hoisted else []
    if node in plan.overwrites:
        notes.append(f"over n{plan.overwrites[node].number}")
    if node in plan.guards:
        notes.append(f"only where n{plan.guards[node].number} holds")
    if node in plan.prologues:
        notes.append(f"in the loop of n{plan.prologues[node].number}")
    return f"{plan.buffers[node]} = n{node.number}: {_expression(node)}" + (f" ({', '.join(notes)})" if notes else "")
