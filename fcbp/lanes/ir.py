"""The lowered form of one member's step: a graph of few kinds of values, each a function of positions.

A :class:`Node` is an array of one member. Its kind says how an element comes from its arguments:

=========  ==========================================================================================
leaf       an input: ``data = (role, i)``, the role ``"carry"``, ``"x"`` or ``"constant"``
scalar     ``data``, a Python number
position   ``data``, an :data:`Index`: arange and what views make of it
view       ``args[0]`` at the indices ``data``, one for each of its axes
map        the function ``data`` of the arguments' elements at the same position
reduce     ``data = (function, axes)``: the function over the last ``axes`` axes
scan       the function ``data``, running along the last axis
rank       the place in a stable sort along the last axis; ``data``: whether it descends
gather     ``args[0]`` at ``data``: for each of its axes an index, or which argument holds it
scatter    ``args[0]`` with ``args[1]`` written (or added) at such places: ``data = (places, function)``
assemble   ``data = (fill, destinations)``: each argument at its destination, the rest the fill
=========  ==========================================================================================

Views are never computed: a view of a view is one view, and whoever reads it reads its base at other indices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "SHORT",
    "Builder",
    "Index",
    "Node",
    "at",
    "axes_of",
    "base",
    "bounds",
    "code",
    "is_reshape",
    "linear",
    "plus",
    "substitute",
    "times",
    "variable",
]

SHORT = (torch.uint8, torch.int8, torch.int16)
"""Integers that are computed with in 32 bits, and wrapped."""

# --- indices: integer expressions of positions --------------------------------------------------------------

Index = tuple[int, tuple[tuple[Any, int], ...]]
"""``(constant, ((atom, factor), ...))``; an atom is an axis's number, ``("/", index, n)`` or ``("%", index, n)``."""


def at(constant: int) -> Index:
    return constant, ()


def variable(axis: int, sizes: Sequence[int]) -> Index:
    """The position along an axis, which along an axis of one is 0."""
    return (0, ((axis, 1),)) if sizes[axis] != 1 else at(0)


def plus(*indices: Index) -> Index:
    constant = 0
    factors: dict[Any, int] = {}
    for c, terms in indices:
        constant += c
        for atom, factor in terms:
            factors[atom] = factors.get(atom, 0) + factor
    return constant, tuple(sorted(((a, f) for a, f in factors.items() if f), key=repr))


def times(index: Index, factor: int) -> Index:
    return (index[0] * factor, tuple((atom, f * factor) for atom, f in index[1])) if factor else at(0)


def bounds(index: Index, sizes: Sequence[int]) -> tuple[int, int]:
    """The least and greatest value over all positions."""
    low = high = index[0]
    for atom, factor in index[1]:
        if isinstance(atom, int):
            least, most = 0, sizes[atom] - 1
        elif atom[0] == "%":
            least, most = 0, atom[2] - 1
        else:
            least, most = (edge // atom[2] for edge in bounds(atom[1], sizes))
        low += min(least * factor, most * factor)
        high += max(least * factor, most * factor)
    return low, high


def axes_of(index: Index) -> set[int]:
    """The axes that an index depends on."""
    atoms = [atom for atom, _ in index[1]]
    return set().union(*({atom} if isinstance(atom, int) else axes_of(atom[1]) for atom in atoms))


def divided(index: Index, n: int, sizes: Sequence[int]) -> tuple[Index, Index]:
    """Quotient and remainder of a division by ``n``, rounded down."""
    quotient = (index[0] // n, tuple((a, f // n) for a, f in index[1] if f % n == 0))
    rest = (index[0] % n, tuple((a, f) for a, f in index[1] if f % n))
    low, high = bounds(rest, sizes)
    if low // n == high // n:
        return plus(quotient, at(low // n)), plus(rest, at(-(low // n) * n))
    return plus(quotient, (0, ((("/", rest, n), 1),))), (0, ((("%", rest, n), 1),))


def substitute(index: Index, values: Sequence[Index], sizes: Sequence[int]) -> Index:
    """``index`` with each axis replaced by an index of other axes, whose sizes are given."""
    result = at(index[0])
    for atom, factor in index[1]:
        if isinstance(atom, int):
            value = values[atom]
        else:
            value = divided(substitute(atom[1], values, sizes), atom[2], sizes)[atom[0] == "%"]
        result = plus(result, times(value, factor))
    return result


def code(index: Index) -> str:
    """As C++, the axes named ``i0``, ``i1`` and so on."""

    def atom_code(atom: Any) -> str:
        return f"i{atom}" if isinstance(atom, int) else f"({code(atom[1])}) {atom[0]} {atom[2]}"

    terms = [atom_code(a) if f == 1 else f"({atom_code(a)}) * {f}" for a, f in index[1]]
    return " + ".join([*terms, *([str(index[0])] if index[0] or not terms else [])])


# --- nodes --------------------------------------------------------------------------------------------------


@dataclass(eq=False, frozen=True)
class Node:
    """An array of one member; see the module."""

    kind: str
    args: tuple[Node, ...]
    data: Any
    shape: tuple[int, ...]
    dtype: torch.dtype
    uniform: bool
    """Whether it is the same for all members."""
    number: int
    """Nodes are numbered in the order they were made: arguments before what reads them."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def linear(index: Index | Sequence[Index], shape: Sequence[int]) -> Index:
    """The place in memory of the element at an index for each axis."""
    return plus(at(0), *(times(i, s) for i, s in zip(index, strides(shape), strict=True)))  # type: ignore[arg-type]


def base(node: Node) -> Node:
    """What a node's elements lie in: of a view, what it looks at."""
    return node.args[0] if node.kind == "view" else node


def is_reshape(node: Node) -> bool:
    """Whether a node's elements lie in memory in the order of its own axes, be it a view."""
    if node.kind != "view":
        return True
    of = node.args[0]
    return node.size == of.size and list(node.data) == _reshaped(of.shape, node.shape)


def _reshaped(old: Sequence[int], new: Sequence[int]) -> list[Index]:
    """Where the elements of an array of a new shape lie in the old one, for each of its axes."""
    flat = linear([variable(a, new) for a in range(len(new))], new)
    indices: list[Index] = []
    for n in reversed(old):
        flat, rest = divided(flat, n, new) if n else (flat, at(0))
        indices.insert(0, rest)
    return indices


# What changes nothing as a second argument, to the bit.
_NEUTRAL = {"mul": 1, "quotient": 1, "bit_xor": 0, "bit_or": 0}


class Builder:
    """Makes nodes; two that say the same are one."""

    def __init__(self) -> None:
        self.nodes: dict[Any, Node] = {}
        self.asked = ""
        """The operation that is being lowered, and the line that asked for it."""
        self.checks: dict[Node, str] = {}
        """Nodes whose arguments may be such that eager raises an error, and what asked for them."""

    def check(self, node: Node) -> Node:
        """Have the program look at a node's arguments while it runs."""
        self.checks.setdefault(node, self.asked)
        return node

    def make(
        self,
        kind: str,
        args: Sequence[Node],
        data: Any,
        shape: Sequence[int],
        dtype: torch.dtype,
        uniform: bool | None = None,
    ) -> Node:
        uniform = all(a.uniform for a in args) if uniform is None else uniform
        shape = tuple(int(n) for n in shape)
        # A number's sign and type are part of what it is: -0.0 == 0 == False.
        key = kind, tuple(a.number for a in args), repr(data), shape, dtype, uniform
        if key not in self.nodes:
            self.nodes[key] = Node(kind, tuple(args), data, shape, dtype, uniform, len(self.nodes))
        return self.nodes[key]

    def scalar(self, value: float, dtype: torch.dtype, shape: Sequence[int] = ()) -> Node:
        if dtype == torch.bool:
            value = bool(value)
        elif not dtype.is_floating_point:
            value = int(value)
        else:
            value = float(value)
        return self.make("scalar", (), value, shape, dtype)

    def view(self, x: Node, shape: Sequence[int], indices: Sequence[Index]) -> Node:
        """``x`` at ``indices`` of the positions of an array of this shape."""
        if x.kind == "scalar":
            return self.make("scalar", (), x.data, shape, x.dtype)
        if x.kind == "position":
            return self.make("position", (), substitute(x.data, indices, shape), shape, x.dtype)
        if x.kind == "view":
            indices = [substitute(index, indices, shape) for index in x.data]
            x = x.args[0]
        same = tuple(shape) == x.shape and all(i == variable(a, shape) for a, i in enumerate(indices))
        return x if same else self.make("view", (x,), tuple(indices), shape, x.dtype)

    def expand(self, x: Node, shape: Sequence[int]) -> Node:
        lead = len(shape) - len(x.shape)
        indices = [variable(lead + a, shape) if n != 1 else at(0) for a, n in enumerate(x.shape)]
        return self.view(x, shape, indices)

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        order = [axis % len(x.shape) for axis in order]
        shape = [x.shape[axis] for axis in order]
        return self.view(x, shape, [variable(order.index(axis), shape) for axis in range(len(order))])

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        if math.prod(shape) != x.size:
            raise ValueError(f"cannot reshape {x.shape} to {tuple(shape)}")
        return self.view(x, shape, _reshaped(x.shape, shape))

    def to(self, x: Node, dtype: torch.dtype) -> Node:
        if x.dtype == dtype:
            return x
        if x.kind == "scalar":
            return self.scalar(x.data, dtype, x.shape)
        if x.kind == "view":
            return self.view(self.to(x.args[0], dtype), x.shape, x.data)
        if x.dtype == torch.int64 and x.kind == "map" and x.data == "bit_and":
            # Few bits of a word: 32-bit integers become floats in one instruction, 64-bit ones lane by lane.
            mask = x.args[1]
            if mask.kind == "scalar" and 0 <= mask.data < 1 << 31 and dtype.is_floating_point:
                x = self.make("map", (x,), "to", x.shape, torch.int32)
        return self.make("map", (x,), "to", x.shape, dtype)

    def map(self, function: str, *args: Node | float, dtype: torch.dtype, result: torch.dtype | None = None) -> Node:
        """``function`` of arguments that are broadcast and of one dtype; ``result`` is what it returns."""
        if dtype in SHORT:
            short = [self.to(a, dtype) if isinstance(a, Node) else a for a in args]
            made = self.map(function, *short, dtype=torch.int32, result=result)
            return made if result else self.to(made, dtype)
        nodes = [self.to(a, dtype) if isinstance(a, Node) else self.scalar(a, dtype) for a in args]
        shape = torch.broadcast_shapes(*(a.shape for a in nodes))
        nodes = [self.expand(a, shape) for a in nodes]
        if function == "bit_and" and nodes[0].kind == "map" and nodes[0].data == "shift_right":
            # What clears the copies of the sign makes the shift a logical one, which vectors have for 64 bits.
            (x, count), mask = nodes[0].args, nodes[1]
            low, most = bounds(count.data, shape) if count.kind == "position" else (count.data,) * 2
            known = dtype == torch.int64 and count.kind in ("position", "scalar") and low >= 0 and most < 64
            if known and mask.kind == "scalar" and 0 <= mask.data < 1 << (64 - most):
                logical = self.make("map", (x, count), "shift_right_logical", shape, dtype)
                if low == most and mask.data == (1 << (64 - most)) - 1:
                    return logical
                nodes[0] = logical
        if function in _NEUTRAL and nodes[1].kind == "scalar" and nodes[1].data == _NEUTRAL[function]:
            return nodes[0]
        return self.make("map", nodes, function, shape, result or dtype)

    def where(self, mask: Node, x: Node | float, y: Node | float, dtype: torch.dtype) -> Node:
        """``x`` where the mask holds, else ``y``."""
        values = [self.to(v, dtype) if isinstance(v, Node) else self.scalar(v, dtype) for v in (x, y)]
        shape = torch.broadcast_shapes(mask.shape, *(v.shape for v in values))
        args = [self.expand(v, shape) for v in (self.to(mask, torch.bool), *values)]
        return self.make("map", args, "choose", shape, dtype)

    def reduce(self, function: str, x: Node, axes: Sequence[int] | None, keepdim: bool, dtype: torch.dtype) -> Node:
        """``function`` over ``axes`` (``None`` or empty: all) of ``x``."""
        if dtype in SHORT:
            return self.to(self.reduce(function, self.to(x, torch.int32), axes, keepdim, torch.int32), dtype)
        n = len(x.shape)
        chosen = sorted({a % n for a in axes}) if axes else list(range(n))
        kept = [a for a in range(n) if a not in chosen]
        shape = [x.shape[a] for a in kept]
        wide = [a for a in chosen if x.shape[a] > 1]
        moved = self.reshape(self.permute(x, [*kept, *chosen]), [*shape, *(x.shape[a] for a in wide)])
        if function in ("argmin", "argmax"):
            result = self.make("reduce", (moved,), (function, len(wide)), shape, dtype)
        else:
            result = self.make("reduce", (moved,), (function, len(wide)), shape, dtype) if wide else moved
        return self.reshape(result, [1 if a in chosen else x.shape[a] for a in range(n)]) if keepdim else result
