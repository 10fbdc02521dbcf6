"""The lowered form of one member's step: a graph of few kinds of nodes. A node is an array of one member.

Each kind is a class, which says how an element comes from the arguments' elements. An :class:`Index` gives the place:

============  ======================================================================================
Leaf          an input of the step
Scalar        one number, at every position
Position      an integer that the position gives, as in ``arange``
View          the argument's elements, read at other indices
Map           a function of the arguments' elements at the same position
Reduce        a function over the last axes
Scan          a function that runs along the last axis, as in ``cumsum``
Rank          the place in a stable sort along the last axis
Gather        a table's elements at indices that are computed
Scatter       an array with elements written, or added, at indices that are computed
Assemble      several arrays side by side in one, as in ``cat``
============  ======================================================================================

Views are never computed: a view of a view is one view, and its reader reads the base at other indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeGuard

import torch

from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, reshaped

__all__ = [
    "SHORT",
    "Assemble",
    "Gather",
    "Leaf",
    "Map",
    "Node",
    "Place",
    "Position",
    "Rank",
    "Reduce",
    "Role",
    "Scalar",
    "Scan",
    "Scatter",
    "View",
    "base",
    "is_choice",
    "is_map",
    "is_reshape",
]

SHORT = (torch.uint8, torch.int8, torch.int16)
"""Integer dtypes that programs compute in 32 bits, and wrap around."""

Role = Literal["carry", "x", "constant", "next"]
"""An input's part in the step: a leaf of the carry, a leaf of ``x``, a tensor that the step closes over, or a leaf of
the next step's ``x``."""

Place = Index | int
"""The index along one axis: an expression of positions, or the number of the argument that holds it."""


@dataclass(eq=False, frozen=True, repr=False)
class Node:
    """An array of one member. Two nodes are equal only if they are one object."""

    args: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    uniform: bool
    """Whether all members share it."""
    number: int
    """The order in which nodes were made: arguments come before their readers."""

    def key(self) -> tuple[object, ...]:
        """Return everything but the number: two nodes of equal keys hold the same."""
        args, shape, dtype, uniform, _, *own = vars(self).values()
        return type(self), args, shape, dtype, uniform, *own

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(eq=False, frozen=True, repr=False)
class Leaf(Node):
    """An input of the step."""

    role: Role
    position: int
    """The number of the input among those of its role."""


@dataclass(eq=False, frozen=True, repr=False)
class Scalar(Node):
    """One number, at every position."""

    value: float

    def key(self) -> tuple[object, ...]:
        """Make the key as every node does; a number's sign and type are part of it: -0.0 == 0 == False are three
        numbers."""
        return Scalar, self.shape, self.dtype, repr(self.value)


@dataclass(eq=False, frozen=True, repr=False)
class Position(Node):
    """The integer that ``index`` gives at each position: ``arange``, and views of it."""

    index: Index


@dataclass(eq=False, frozen=True, repr=False)
class View(Node):
    """``args[0]`` at ``indices``, one for each of its axes."""

    indices: tuple[Index, ...]


@dataclass(eq=False, frozen=True, repr=False)
class Map(Node):
    """``function`` of the arguments' elements at the same position. The arguments have the node's shape."""

    function: Function


@dataclass(eq=False, frozen=True, repr=False)
class Reduce(Node):
    """``function`` over the last ``axes`` axes of ``args[0]``."""

    function: Function
    axes: int

    @property
    def finds_index(self) -> bool:
        """Whether the result is an index, that of the least or of the greatest element."""
        return self.function in (Function.ARGMIN, Function.ARGMAX)


@dataclass(eq=False, frozen=True, repr=False)
class Scan(Node):
    """``function`` of all elements of ``args[0]`` up to the position along the last axis."""

    function: Function


@dataclass(eq=False, frozen=True, repr=False)
class Rank(Node):
    """The place of each element of ``args[0]`` in a stable sort along the last axis."""

    descending: bool


@dataclass(eq=False, frozen=True, repr=False)
class Gather(Node):
    """The elements of ``args[0]`` at ``places``, one for each of its axes."""

    places: tuple[Place, ...]


@dataclass(eq=False, frozen=True, repr=False)
class Scatter(Node):
    """``args[0]`` with the elements of ``args[1]`` written at ``places``, later elements over earlier ones."""

    places: tuple[Place, ...]
    accumulate: bool
    """Whether elements are added in place of written."""


@dataclass(eq=False, frozen=True, repr=False)
class Assemble(Node):
    """Each argument at its destination, and ``fill`` at the other positions."""

    fill: float | None
    """``None`` where the arguments cover all positions."""
    destinations: tuple[tuple[Index, ...], ...]
    """For each argument: an index of its positions for each axis of the node."""

    def key(self) -> tuple[object, ...]:
        """Make the key as every node does; the fill's sign and type are part of it."""
        return Assemble, self.args, self.shape, self.dtype, repr(self.fill), self.destinations


def base(node: Node) -> Node:
    """Return the node in whose array a node's elements lie: a view's argument, else the node itself."""
    return node.args[0] if isinstance(node, View) else node


def is_map(node: Node, *functions: Function) -> TypeGuard[Map]:
    """Tell whether a node is a map of one of these functions."""
    return isinstance(node, Map) and node.function in functions


def is_choice(node: Node) -> TypeGuard[Map]:
    """Tell whether a node takes each element from one of two arguments, as a mask says."""
    return is_map(node, Function.CHOOSE)


def is_reshape(node: Node) -> bool:
    """Tell whether a node's elements lie in memory in the order of its own axes."""
    if not isinstance(node, View):
        return True
    of = node.args[0]
    return node.size == of.size and list(node.indices) == reshaped(of.shape, node.shape)
