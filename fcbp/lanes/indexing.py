"""Lowering of the operations whose indices are computed: indexing, scattering, sorting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from fcbp.lanes.builder import Builder
from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, at, axes_of, substitute, variable
from fcbp.lanes.ir import SHORT, Leaf, Map, Node, Place, Position, Scalar, View, base, is_map, is_reshape
from fcbp.lanes.operations import Out, operation
from fcbp.lanes.peephole import rank_of_order
from fcbp.lanes.ranges import is_inside, value_range
from fcbp.lanes.shapes import inverse, moved_last, narrow

__all__ = ["gather", "scatter"]

# --- elements at computed indices ------------------------------------------------------------------------------


def gather(b: Builder, x: Node, places: Sequence[Index | Node], shape: Sequence[int]) -> Node:
    """Return the elements of ``x`` at ``places``.

    Args:
        b: makes the nodes.
        x: the array that is read.
        places: for each of its axes an index of the result's positions, or a node of indices.
        shape: of the result.
    """
    indices = [b.expand(p, shape) for p in places if isinstance(p, Node)]
    if not indices:
        return b.view(x, shape, places)  # type: ignore[arg-type]
    safe = _are_inside(places, x.shape)
    if isinstance(x, Scalar) and safe:
        return b.scalar(x.value, x.dtype, shape)
    if safe and not x.uniform and math.prod(shape) <= x.size:
        elements = _rematerialized(b, x, places, shape)
        if elements is not None:
            return elements
    if is_map(x, Function.CAST):
        return b.to(gather(b, x.args[0], places, shape), x.dtype)  # of few elements, not of a whole data set
    if x.size >= 1 << 31 and not all(index.uniform for index in indices):
        raise NotImplementedError(f"a table of {x.size} elements, in which members count to 2^31")
    if not (isinstance(base(x), Leaf) and is_reshape(x)):
        x = b.copy(x)
    result = b.gather(x, indices, _numbered(places, 1), shape)
    return result if safe else b.check(result)


def _numbered(places: Sequence[Index | Node], first: int) -> list[Place]:
    """``places`` with the number of the argument in place of each node; they are counted from ``first`` on."""
    numbers = itertools.count(first)
    return [next(numbers) if isinstance(p, Node) else p for p in places]


def _rematerialized(b: Builder, x: Node, places: Sequence[Index | Node], shape: Sequence[int]) -> Node | None:
    """Return an array's elements at ``places``, computed anew from positions and single numbers, as random numbers are.

    A random number that nobody reads is then not drawn. ``None`` where the elements depend on an array.
    """
    known: dict[tuple[Node, tuple[Index | Node, ...]], Node | None] = {}

    def element(x: Node, places: tuple[Index | Node, ...]) -> Node | None:
        if (x, places) not in known:
            known[x, places] = compute(x, places)
        return known[x, places]

    def compute(x: Node, places: tuple[Index | Node, ...]) -> Node | None:
        match x:
            case Scalar(value=value):
                return b.scalar(value, x.dtype, shape)
            case Position(index=index):
                return _position(b, index, places, shape)
            case View(args=(of,), indices=indices):
                if not any(axes_of(index) for index in indices):
                    return b.view(of, shape, indices)
                inner = [_index_at(b, index, places, shape) for index in indices]
                return None if None in inner else element(of, tuple(inner))  # type: ignore[arg-type]
            case Map(function=function) if x not in b.checks:
                args = [element(a, places) for a in x.args]
                return None if None in args else b.elementwise(function, args, shape, x.dtype)  # type: ignore[arg-type]
        return None

    return element(x, tuple(places))


def _index_at(b: Builder, index: Index, places: tuple[Index | Node, ...], shape: Sequence[int]) -> Index | Node | None:
    """Return an index of an array's axes, where the position along each is given by ``places``."""
    if all(not isinstance(places[a], Node) for a in axes_of(index)):
        return substitute(index, [at(0) if isinstance(p, Node) else p for p in places], shape)
    return _position(b, index, places, shape)


def _position(b: Builder, index: Index, places: tuple[Index | Node, ...], shape: Sequence[int]) -> Node | None:
    """Return the value of an index at ``places``; ``None`` where it takes a division."""
    total = b.scalar(index[0], torch.int64, shape)
    for atom, factor in index[1]:
        if not isinstance(atom, int):
            return None
        place = places[atom]
        if not isinstance(place, Node):
            place = b.position(place, shape)
        part = b.map(Function.MUL, b.expand(place, shape), factor, dtype=torch.int64)
        total = b.map(Function.ADD, part, total, dtype=torch.int64)
    return b.expand(total, shape)


def scatter(b: Builder, x: Node, places: Sequence[Index | Node], source: Node, accumulate: bool) -> Node:
    """``x`` with the elements of ``source`` written, or added, at ``places``; later elements over earlier ones.

    Args:
        b: makes the nodes.
        x: the array that is written to.
        places: for each of its axes an index of the source's positions, or a node of indices.
        source: the elements.
        accumulate: whether they are added.
    """
    if accumulate and x.dtype in SHORT:
        return b.to(scatter(b, b.to(x, torch.int32), places, source, accumulate), x.dtype)
    indices = [b.expand(p, source.shape) for p in places if isinstance(p, Node)]
    result = b.scatter(x, b.to(source, x.dtype), indices, _numbered(places, 2), accumulate)
    return result if _are_inside(places, x.shape) else b.check(result)


def _are_inside(places: Sequence[Index | Node], shape: Sequence[int]) -> bool:
    return all(is_inside(p, n) for p, n in zip(places, shape, strict=True) if isinstance(p, Node))


def _from_the_end(b: Builder, index: Node, size: int) -> Node:
    """Make negative values of an index count from the end."""
    if index.dtype in (torch.bool, torch.uint8):
        raise NotImplementedError("a mask as an index")
    if value_range(index)[0] >= 0:
        return index
    negative = b.map(Function.LT, index, 0, dtype=index.dtype, result=torch.bool)
    return b.where(negative, b.map(Function.ADD, index, size, dtype=index.dtype), index, index.dtype)


@operation("gather")
def _gather(b: Builder, out: Out, x: Node, dim: int, index: Node, **options: Any) -> Node:
    if not x.shape:
        return gather(b, b.reshape(x, (1,)), [index], out.shape)
    places: list[Any] = [variable(a, out.shape) for a in range(len(out.shape))]
    places[dim] = index
    return gather(b, x, places, out.shape)


@operation("index_select")
def _index_select(b: Builder, out: Out, x: Node, dim: int, index: Node) -> Node:
    places: list[Any] = [variable(a, out.shape) for a in range(len(out.shape))]
    dim %= len(x.shape)
    places[dim] = b.reshape(index, [out.shape[dim] if a == dim else 1 for a in range(len(out.shape))])
    return gather(b, x, places, out.shape)


@operation("embedding")
def _embedding(b: Builder, out: Out, weight: Node, index: Node, *rest: Any) -> Node:
    place = b.reshape(index, [*index.shape, 1])
    return gather(b, weight, [place, variable(len(out.shape) - 1, out.shape)], out.shape)


def _advanced(b: Builder, shape: Sequence[int], indices: Sequence[Node | None]) -> tuple[list[Any], list[int]]:
    """Return the places that ``x[indices]`` reads and the result's shape; the tensors' axes come first unless side by
    side."""
    indices = [*indices, *[None] * (len(shape) - len(indices))]
    given = [a for a, index in enumerate(indices) if index is not None]
    block = list(torch.broadcast_shapes(*(indices[a].shape for a in given)))  # type: ignore[union-attr]
    side_by_side = given == list(range(given[0], given[-1] + 1))
    first = given[0] if side_by_side else 0
    free = [n for a, n in enumerate(shape) if a not in given]
    result = [*free[:first], *block, *free[first:]]
    axes = iter([*range(first), *range(first + len(block), len(result))])
    places: list[Any] = []
    for a, index in enumerate(indices):
        if index is None:
            places.append(variable(next(axes), result))
        else:
            index = _from_the_end(b, index, shape[a])
            places.append(b.reshape(b.expand(index, block), [*block, *[1] * (len(result) - first - len(block))]))
    return places, result


@operation("index", "_unsafe_index")
def _index(b: Builder, out: Out, x: Node, indices: Sequence[Node | None]) -> Node:
    places, shape = _advanced(b, x.shape, indices)
    return gather(b, x, places, shape)


@operation("index_put", "_unsafe_index_put")
def _index_put(
    b: Builder, out: Out, x: Node, indices: Sequence[Node | None], values: Node, accumulate: bool = False
) -> Node:
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == torch.bool and values.size == 1:
        mask = b.reshape(indices[0], [*indices[0].shape, *[1] * (len(x.shape) - len(indices[0].shape))])
        values = b.reshape(values, ())
        return b.where(mask, b.map(Function.ADD, x, values, dtype=x.dtype) if accumulate else values, x, x.dtype)
    places, shape = _advanced(b, x.shape, indices)
    return scatter(b, x, places, b.expand(values, shape), accumulate)


@operation("scatter", "scatter_add")
def _scatter(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Any, reduce: str = "") -> Node:
    source = source if isinstance(source, Node) else b.scalar(source, x.dtype, index.shape)
    if reduce not in ("", "add") or not x.shape:
        raise NotImplementedError(f"reduce={reduce!r}")
    if reduce == "" and (rank := rank_of_order(x, dim, index, source)) is not None:
        return b.to(rank, x.dtype)
    if source.shape != index.shape:
        source = b.view(source, index.shape, [variable(a, index.shape) for a in range(len(index.shape))])
    places: list[Any] = [variable(a, index.shape) for a in range(len(index.shape))]
    places[dim] = index
    return scatter(b, x, places, source, reduce == "add")


@operation("scatter_add")
def _scatter_add(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Node) -> Node:
    return _scatter(b, out, x, dim, index, source, reduce="add")


@operation("index_add")
def _index_add(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Node, alpha: float = 1) -> Node:
    if alpha != 1:
        source = b.map(Function.MUL, source, alpha, dtype=x.dtype)
    places: list[Any] = [variable(a, source.shape) for a in range(len(source.shape))]
    dim %= len(x.shape)
    places[dim] = b.reshape(index, [index.size if a == dim else 1 for a in range(len(x.shape))])
    return scatter(b, x, places, source, True)


@operation("index_copy")
def _index_copy(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Node) -> Node:
    places: list[Any] = [variable(a, source.shape) for a in range(len(source.shape))]
    dim %= len(x.shape)
    places[dim] = b.reshape(index, [index.size if a == dim else 1 for a in range(len(x.shape))])
    return scatter(b, x, places, source, False)


@operation("sort")
def _sort(
    b: Builder, out: Out, x: Node, *args: Any, dim: int = -1, descending: bool = False, **options: Any
) -> list[Node]:
    # Both sort(x, dim, descending) and sort.stable(x, stable=, dim=, descending=).
    dim, descending = (*args, *(dim, descending)[len(args) :]) if args else (dim, descending)
    if not x.shape:
        return [x, b.scalar(0, torch.int64)]
    order = moved_last(x, dim)
    # The rank of each element is the number of elements before it; it is then the place to which the element goes.
    moved = b.copy(b.permute(x, order))
    rank = b.rank(moved, bool(descending))
    shape = moved.shape
    places: list[Any] = [*(variable(a, shape) for a in range(len(shape) - 1)), rank]
    positions = b.position(variable(len(shape) - 1, shape), shape)
    indices = scatter(b, b.scalar(0, torch.int64, shape), places, positions, False)
    values = scatter(b, b.scalar(0, x.dtype, shape), places, moved, False)
    return [b.permute(values, inverse(order)), b.permute(indices, inverse(order))]


@operation("argsort")
def _argsort(b: Builder, out: Out, x: Node, *args: Any, **options: Any) -> Node:
    return _sort(b, out, x, *args, **options)[1]


@operation("topk")
def _topk(
    b: Builder, out: Out, x: Node, k: int, dim: int = -1, largest: bool = True, ordered: bool = True
) -> list[Node]:
    if not x.shape:
        return _sort(b, out, x)
    return [narrow(b, y, dim, 0, k) for y in _sort(b, out, x, dim=dim, descending=largest)]
