"""Makes the nodes of a graph, simplified where that changes no bit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch

from fcbp.lanes.functions import NEUTRAL, Function
from fcbp.lanes.indices import Index, at, reshaped, substitute, variable
from fcbp.lanes.ir import (
    SHORT,
    Assemble,
    Gather,
    Leaf,
    Map,
    Node,
    Place,
    Position,
    Rank,
    Reduce,
    Role,
    Scalar,
    Scan,
    Scatter,
    View,
    is_map,
)

__all__ = ["Builder"]

AnyNode = TypeVar("AnyNode", bound=Node)


def _sizes(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple([int(n) for n in shape])


def _uniform(args: Iterable[Node]) -> bool:
    """Tell whether a node of these arguments is the same for all members."""
    return all(a.uniform for a in args)


class Builder:
    """Makes nodes; two that hold the same are one."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[object, ...], Node] = {}
        self.origin = ""
        """The operation that is being lowered, and its line in the user's code."""
        self.checks: dict[Node, str] = {}
        """Nodes for whose arguments eager may raise an error, and their origins."""

    def check(self, node: Node) -> Node:
        """Have the program look at a node's arguments while it runs."""
        self.checks.setdefault(node, self.origin)
        return node

    # --- one method for each kind of node, without simplification --------------------------------------------

    def _unique(self, node: AnyNode) -> AnyNode:
        """Return the node that holds the same and was made first; else this one, which has the next number."""
        return self.nodes.setdefault(node.key(), node)  # type: ignore[return-value]

    def leaf(self, role: Role, position: int, shape: Iterable[int], dtype: torch.dtype, uniform: bool) -> Node:
        """Return an input of the step."""
        return self._unique(Leaf((), _sizes(shape), dtype, uniform, len(self.nodes), role, position))

    def position(self, index: Index, shape: Iterable[int], dtype: torch.dtype = torch.int64) -> Node:
        """Return the integer that an index gives at each position of an array of this shape."""
        return self._unique(Position((), _sizes(shape), dtype, True, len(self.nodes), index))

    def elementwise(
        self,
        function: Function,
        args: Sequence[Node],
        shape: Iterable[int],
        dtype: torch.dtype,
        uniform: bool | None = None,
    ) -> Node:
        """Return a map of arguments of this shape, as it is."""
        uniform = _uniform(args) if uniform is None else uniform
        return self._unique(Map(tuple(args), _sizes(shape), dtype, uniform, len(self.nodes), function))

    def copy(self, x: Node, uniform: bool | None = None) -> Node:
        """Return a node with an array of its own."""
        return self.elementwise(Function.SAME, (x,), x.shape, x.dtype, uniform)

    def scan(self, function: Function, x: Node) -> Node:
        """``function`` running along the last axis."""
        return self._unique(Scan((x,), x.shape, x.dtype, x.uniform, len(self.nodes), function))

    def rank(self, x: Node, descending: bool) -> Node:
        """Return the place of each element in a stable sort along the last axis."""
        return self._unique(Rank((x,), x.shape, torch.int64, x.uniform, len(self.nodes), descending))

    def gather(self, table: Node, indices: Sequence[Node], places: Sequence[Place], shape: Iterable[int]) -> Node:
        """Return a table's elements at ``places``, in which a number counts the arguments: the table and then
        ``indices``."""
        args = (table, *indices)
        return self._unique(
            Gather(args, _sizes(shape), table.dtype, _uniform(args), len(self.nodes), tuple(places)),
        )

    def scatter(
        self, x: Node, source: Node, indices: Sequence[Node], places: Sequence[Place], accumulate: bool
    ) -> Node:
        """``x`` with ``source`` at ``places``, in which a number counts the arguments: both and then ``indices``."""
        args = (x, source, *indices)
        return self._unique(
            Scatter(args, x.shape, x.dtype, _uniform(args), len(self.nodes), tuple(places), accumulate),
        )

    def assemble(
        self, shape: Iterable[int], dtype: torch.dtype, fill: float | None, parts: Sequence[tuple[Node, list[Index]]]
    ) -> Node:
        """Return an array of ``fill`` with each part at its destination, an index of the part's positions for each
        axis."""
        args = tuple([self.to(part, dtype) for part, _ in parts])
        destinations = tuple(tuple(place) for _, place in parts)
        return self._unique(
            Assemble(args, _sizes(shape), dtype, _uniform(args), len(self.nodes), fill, destinations),
        )

    # --- numbers and views ------------------------------------------------------------------------------------

    def scalar(self, value: float, dtype: torch.dtype, shape: Iterable[int] = ()) -> Node:
        """Return an array of one number."""
        if dtype == torch.bool:
            value = bool(value)
        elif not dtype.is_floating_point:
            value = int(value)
        else:
            value = float(value)
        return self._unique(Scalar((), _sizes(shape), dtype, True, len(self.nodes), value))

    def view(self, x: Node, shape: Sequence[int], indices: Sequence[Index]) -> Node:
        """``x`` at ``indices`` of the positions of an array of this shape."""
        if isinstance(x, Scalar):
            return self.scalar(x.value, x.dtype, shape)
        if isinstance(x, Position):
            return self.position(substitute(x.index, indices, shape), shape, x.dtype)
        if isinstance(x, View):
            indices = [substitute(index, indices, shape) for index in x.indices]
            x = x.args[0]
        same = tuple(shape) == x.shape and all(i == variable(a, shape) for a, i in enumerate(indices))
        if same:
            return x
        return self._unique(View((x,), _sizes(shape), x.dtype, x.uniform, len(self.nodes), tuple(indices)))

    def expand(self, x: Node, shape: Sequence[int]) -> Node:
        """``x`` broadcast to a shape."""
        lead = len(shape) - len(x.shape)
        indices = [variable(lead + a, shape) if n != 1 else at(0) for a, n in enumerate(x.shape)]
        return self.view(x, shape, indices)

    def permute(self, x: Node, order: Iterable[int]) -> Node:
        """``x`` with its axes in another order."""
        order = [axis % len(x.shape) for axis in order]
        shape = [x.shape[axis] for axis in order]
        return self.view(x, shape, [variable(order.index(axis), shape) for axis in range(len(order))])

    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        """``x`` in another shape of as many elements."""
        if math.prod(shape) != x.size:
            raise ValueError(f"cannot reshape {x.shape} to {tuple(shape)}")
        return self.view(x, shape, reshaped(x.shape, shape))

    def to(self, x: Node, dtype: torch.dtype) -> Node:
        """``x`` in another dtype."""
        if x.dtype == dtype:
            return x
        if isinstance(x, Scalar):
            return self.scalar(x.value, dtype, x.shape)
        if isinstance(x, View):
            return self.view(self.to(x.args[0], dtype), x.shape, x.indices)
        if x.dtype == torch.int64 and is_map(x, Function.AND):
            # Few bits of a word: 32-bit integers become floats in one instruction, 64-bit ones lane by lane.
            mask = x.args[1]
            if isinstance(mask, Scalar) and 0 <= mask.value < 1 << 31 and dtype.is_floating_point:
                x = self.elementwise(Function.CAST, (x,), x.shape, torch.int32)
        return self.elementwise(Function.CAST, (x,), x.shape, dtype)

    # --- elements ---------------------------------------------------------------------------------------------

    def broadcast(self, args: Iterable[Node | float], dtype: torch.dtype) -> list[Node]:
        """Return the arguments in one dtype and one shape."""
        nodes = [self.to(a, dtype) if isinstance(a, Node) else self.scalar(a, dtype) for a in args]
        shape = torch.broadcast_shapes(*(a.shape for a in nodes))
        return [self.expand(a, shape) for a in nodes]

    def map(
        self, function: Function, *args: Node | float, dtype: torch.dtype, result: torch.dtype | None = None
    ) -> Node:
        """``function`` of arguments that are brought to one shape and to ``dtype``.

        Args:
            function: the function of elements.
            args: nodes and numbers.
            dtype: of the arguments.
            result: the function's own dtype, where it is another one, as of a comparison.
        """
        if dtype in SHORT:
            short = [self.to(a, dtype) if isinstance(a, Node) else a for a in args]
            wide = self.map(function, *short, dtype=torch.int32, result=result)
            return wide if result else self.to(wide, dtype)
        nodes = self.broadcast(args, dtype)
        if function in NEUTRAL and isinstance(nodes[1], Scalar) and nodes[1].value == NEUTRAL[function]:
            return nodes[0]
        return self.elementwise(function, nodes, nodes[0].shape, result or dtype)

    def where(self, mask: Node, x: Node | float, y: Node | float, dtype: torch.dtype) -> Node:
        """``x`` where the mask holds, else ``y``."""
        values = [self.to(v, dtype) if isinstance(v, Node) else self.scalar(v, dtype) for v in (x, y)]
        shape = torch.broadcast_shapes(mask.shape, *(v.shape for v in values))
        args = [self.expand(v, shape) for v in (self.to(mask, torch.bool), *values)]
        return self.elementwise(Function.CHOOSE, args, shape, dtype)

    def reduce(
        self, function: Function, x: Node, axes: Sequence[int] | None, keepdim: bool, dtype: torch.dtype
    ) -> Node:
        """``function`` over ``axes`` of ``x``; over all of them where ``axes`` is ``None`` or empty."""
        if dtype in SHORT:
            return self.to(self.reduce(function, self.to(x, torch.int32), axes, keepdim, torch.int32), dtype)
        n = len(x.shape)
        reduced = sorted({a % n for a in axes}) if axes else list(range(n))
        kept = [a for a in range(n) if a not in reduced]
        shape = [x.shape[a] for a in kept]
        wide = [a for a in reduced if x.shape[a] > 1]
        moved = self.reshape(self.permute(x, [*kept, *reduced]), [*shape, *(x.shape[a] for a in wide)])
        result = moved
        if wide or function in (Function.ARGMIN, Function.ARGMAX):
            result = self._unique(
                Reduce((moved,), _sizes(shape), dtype, moved.uniform, len(self.nodes), function, len(wide))
            )
        return self.reshape(result, [1 if a in reduced else x.shape[a] for a in range(n)]) if keepdim else result
