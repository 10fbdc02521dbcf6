"""The plan of a program: the stored nodes, their order and their arrays; :mod:`fcbp.lanes.planner` makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, axes_of, variable
from fcbp.lanes.ir import Leaf, Map, Node, Reduce, Scalar, base, is_choice, is_map
from fcbp.lanes.reads import reads

__all__ = ["Plan", "axes_read", "tile_axes"]


@dataclass(frozen=True, eq=False)
class Plan:
    """All decisions about a program but its text."""

    moving: list[int]
    """The numbers of the carry's leaves that a step changes."""
    needed: list[Node]
    """The nodes on which the results depend, in order."""
    order: list[Node]
    """The stored nodes in the order in which they are computed, hoisted ones first."""
    hoisted: set[Node]
    """The stored nodes that are computed once, before the time loop."""
    predicates: dict[Node, set[Node]]
    """By a node that is read only where masks hold: these masks."""
    guards: dict[Node, Node]
    """By a node that is skipped where no lane has a mask: the mask, which is stored."""
    rank_limits: dict[Node, Node]
    """By a rank: the number below which alone its places are read."""
    buffers: dict[Node, str]
    """By a leaf or a stored node: the name of the array that holds it."""
    overwrites: dict[Node, Node]
    """By a node that is written over the array of an argument: the argument."""
    prologues: dict[Node, Node]
    """By a reduction: the node before it that it reads once and whole, computed in the reduction's loop."""
    epilogues: dict[Node, Node]
    """By a reduction: the node behind it that alone reads it, computed in the reduction's loop."""

    def is_stored(self, node: Node) -> bool:
        """Tell whether a node is a leaf, or has an array."""
        return node in self.buffers

    def has_array(self, node: Node) -> bool:
        """Tell whether a leaf or a stored node needs memory: a sum that only its epilogue reads needs none."""
        return node not in self.epilogues or self.overwrites.get(self.epilogues[node]) is node

    def is_skipped_mostly(self, node: Node) -> bool:
        """Tell whether most steps leave out a stored node: it is guarded, or a choice written over its other
        elements."""
        written_over = self.overwrites.get(node) is not None and is_choice(node)
        return node in self.guards or (written_over and self.overwrites[node] is base(node.args[2]))

    def row_mask(self, node: Node) -> Node | None:
        """Return the mask of a choice that is written over its other elements; ``None`` for another node."""
        if not is_choice(node) or node in self.hoisted:
            return None
        mask, rest = base(node.args[0]), base(node.args[2])
        known = not self.is_stored(mask) or isinstance(mask, Leaf) or mask.uniform or mask in self.hoisted
        return None if known or self.overwrites.get(node) is not rest else mask


def axes_read(plan: Plan, node: Node, place: Sequence[Index], sizes: Sequence[int]) -> set[int]:
    """Return the axes of loops of these sizes on which the element at a place depends."""
    found = reads(node, place, sizes, lambda n: isinstance(n, Map) and plan.is_stored(n))
    return {axis for read, at in found if not isinstance(read, Scalar) for i in at for axis in axes_of(i)}


def tile_axes(plan: Plan, node: Reduce) -> tuple[int, int] | None:
    """Return the rows and the columns of a product of matrices, for a sum of products; ``None`` for another reduction.

    One factor does not depend on the rows, the other not on the columns. So an element that is loaded serves several
    sums.
    """
    (x,) = node.args
    kept = len(x.shape) - node.axes
    if node in plan.prologues or not is_map(x, Function.MUL) or plan.is_stored(x):
        return None
    here = [variable(a, x.shape) for a in range(len(x.shape))]
    read = (axes_read(plan, factor, here, x.shape) for factor in x.args)
    rows, columns = (max({*range(kept)} - a, key=lambda a: (x.shape[a] > 1, a), default=None) for a in read)
    if rows is None or columns is None or rows == columns or min(x.shape[rows], x.shape[columns]) == 1:
        return None
    return rows, columns
