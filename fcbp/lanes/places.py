"""The table of operations whose places the numbers choose: indexing, scattering, sorting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fcbp.lanes.ir import SHORT, Builder, Index, Node, at, axes_of, base, is_reshape, substitute, variable
from fcbp.lanes.pointwise import Out, operation
from fcbp.lanes.reach import reach
from fcbp.lanes.shapes import inverse, last, narrow

__all__ = ["gather", "is_inside", "scatter"]

# --- elements that the numbers choose ---------------------------------------------------------------------------


def gather(b: Builder, x: Node, places: Sequence[Index | Node], shape: Sequence[int]) -> Node:
    """``x`` at ``places``: for each axis an index of the result's positions, or a node of them."""
    indices = [b.expand(p, shape) for p in places if isinstance(p, Node)]
    if not indices:
        return b.view(x, shape, places)  # type: ignore[arg-type]
    safe = _are_inside(places, x.shape)
    if x.kind == "scalar" and safe:
        return b.scalar(x.data, x.dtype, shape)
    numbers = iter(range(1, len(indices) + 1))
    data = tuple(next(numbers) if isinstance(p, Node) else p for p in places)
    if safe and not x.uniform and math.prod(shape) <= x.size and (made := _made_there(b, x, places, shape)):
        return made
    if x.kind == "map" and x.data == "to":
        return b.to(gather(b, x.args[0], places, shape), x.dtype)  # of few elements, not of a whole data set
    if x.size >= 1 << 31 and not all(index.uniform for index in indices):
        raise NotImplementedError(f"a table of {x.size} elements, in which members count to 2^31")
    if not (base(x).kind == "leaf" and is_reshape(x)):
        x = b.make("map", (x,), "same", x.shape, x.dtype)
    made = b.make("gather", (x, *indices), data, shape, x.dtype)
    return made if safe else b.check(made)


def _made_there(b: Builder, x: Node, places: Sequence[Index | Node], shape: Sequence[int]) -> Node | None:
    """An array's elements at ``places``, made where they are read: of positions and single numbers, as draws are.

    A draw that nobody reads is then not made.
    """
    known: dict[tuple[Node, tuple[Any, ...]], Node | None] = {}

    def made(x: Node, places: tuple[Index | Node, ...]) -> Node | None:
        if (x, places) not in known:
            known[x, places] = make(x, places)
        return known[x, places]

    def make(x: Node, places: tuple[Index | Node, ...]) -> Node | None:
        if x.kind == "scalar":
            return b.scalar(x.data, x.dtype, shape)
        if x.kind == "position":
            return _position(b, x.data, places, shape)
        if x.kind == "view":
            if not any(axes_of(index) for index in x.data):
                return b.view(x.args[0], shape, x.data)
            inner = [_moved(b, index, places, shape) for index in x.data]
            return None if None in inner else made(x.args[0], tuple(inner))  # type: ignore[arg-type]
        if x.kind != "map" or x in b.checks:
            return None
        args = [made(a, places) for a in x.args]
        return None if None in args else b.make("map", args, x.data, shape, x.dtype)  # type: ignore[arg-type]

    return made(x, tuple(places))


def _moved(b: Builder, index: Index, places: tuple[Index | Node, ...], shape: Sequence[int]) -> Index | Node | None:
    """An index of an array's axes, at ``places`` on them."""
    if all(not isinstance(places[a], Node) for a in axes_of(index)):
        return substitute(index, [at(0) if isinstance(p, Node) else p for p in places], shape)
    return _position(b, index, places, shape)


def _position(b: Builder, index: Index, places: tuple[Index | Node, ...], shape: Sequence[int]) -> Node | None:
    """The number that an index stands for at ``places``; ``None`` where that takes a division."""
    total = b.scalar(index[0], torch.int64, shape)
    for atom, factor in index[1]:
        if not isinstance(atom, int):
            return None
        place = places[atom]
        if not isinstance(place, Node):
            place = b.make("position", (), place, shape, torch.int64)
        part = b.map("mul", b.expand(place, shape), factor, dtype=torch.int64)
        total = b.map("add", part, total, dtype=torch.int64)
    return b.expand(total, shape)


def scatter(b: Builder, x: Node, places: Sequence[Index | Node], source: Node, function: str) -> Node:
    """``x`` with ``source`` written at ``places``, later elements over earlier ones."""
    if function == "add" and x.dtype in SHORT:
        return b.to(scatter(b, b.to(x, torch.int32), places, source, function), x.dtype)
    indices = [b.expand(p, source.shape) for p in places if isinstance(p, Node)]
    numbers = iter(range(2, len(indices) + 2))
    data = tuple(next(numbers) if isinstance(p, Node) else p for p in places)
    made = b.make("scatter", (x, b.to(source, x.dtype), *indices), (data, function), x.shape, x.dtype)
    return made if _are_inside(places, x.shape) else b.check(made)


def is_inside(index: Node, size: int) -> bool:
    """Whether an index is sure to be one of an axis's places."""
    low, high = reach(index)
    return low >= 0 and high < size


def _are_inside(places: Sequence[Index | Node], shape: Sequence[int]) -> bool:
    return all(is_inside(p, n) for p, n in zip(places, shape, strict=True) if isinstance(p, Node))


def _from_the_end(b: Builder, index: Node, size: int) -> Node:
    """An index whose negative values count from the end."""
    if index.dtype in (torch.bool, torch.uint8):
        raise NotImplementedError("a mask as an index")
    if reach(index)[0] >= 0:
        return index
    negative = b.map("lt", index, 0, dtype=index.dtype, result=torch.bool)
    return b.where(negative, b.map("add", index, size, dtype=index.dtype), index, index.dtype)


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
    """The places that ``x[indices]`` reads and the result's shape; the tensors' axes come first unless side by side."""
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
        return b.where(mask, b.map("add", x, values, dtype=x.dtype) if accumulate else values, x, x.dtype)
    places, shape = _advanced(b, x.shape, indices)
    return scatter(b, x, places, b.expand(values, shape), "add" if accumulate else "set")


@operation("scatter", "scatter_add")
def _scatter(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Any, reduce: str = "") -> Node:
    source = source if isinstance(source, Node) else b.scalar(source, x.dtype, index.shape)
    if reduce not in ("", "add") or not x.shape:
        raise NotImplementedError(f"reduce={reduce!r}")
    if reduce == "" and (rank := _undone(x, dim, index, source)) is not None:
        return b.to(rank, x.dtype)
    if source.shape != index.shape:
        source = b.view(source, index.shape, [variable(a, index.shape) for a in range(len(index.shape))])
    places: list[Any] = [variable(a, index.shape) for a in range(len(index.shape))]
    places[dim] = index
    return scatter(b, x, places, source, reduce or "set")


def _undone(x: Node, dim: int, index: Node, source: Node) -> Node | None:
    """The rank of which ``index`` is the order: where positions are scattered to the order, they are the ranks."""
    while source.kind == "map" and source.data == "to":
        source = source.args[0]
    last = variable(len(x.shape) - 1, x.shape)
    if x.shape != index.shape or dim % len(x.shape) != len(x.shape) - 1 or source.kind != "position":
        return None
    if source.shape != x.shape or source.data != last or index.kind != "scatter" or len(index.args) != 3:
        return None
    _, positions, rank = index.args
    return rank if rank.kind == "rank" and positions.kind == "position" and positions.data == last else None


@operation("scatter_add")
def _scatter_add(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Node) -> Node:
    return _scatter(b, out, x, dim, index, source, reduce="add")


@operation("index_add")
def _index_add(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Node, alpha: float = 1) -> Node:
    if alpha != 1:
        source = b.map("mul", source, alpha, dtype=x.dtype)
    places: list[Any] = [variable(a, source.shape) for a in range(len(source.shape))]
    dim %= len(x.shape)
    places[dim] = b.reshape(index, [index.size if a == dim else 1 for a in range(len(x.shape))])
    return scatter(b, x, places, source, "add")


@operation("index_copy")
def _index_copy(b: Builder, out: Out, x: Node, dim: int, index: Node, source: Node) -> Node:
    places: list[Any] = [variable(a, source.shape) for a in range(len(source.shape))]
    dim %= len(x.shape)
    places[dim] = b.reshape(index, [index.size if a == dim else 1 for a in range(len(x.shape))])
    return scatter(b, x, places, source, "set")


@operation("sort")
def _sort(
    b: Builder, out: Out, x: Node, *args: Any, dim: int = -1, descending: bool = False, **options: Any
) -> list[Node]:
    # sort(x, dim, descending) and sort.stable(x, stable=, dim=, descending=) alike.
    dim, descending = (*args, *(dim, descending)[len(args) :]) if args else (dim, descending)
    if not x.shape:
        return [x, b.scalar(0, torch.int64)]
    order = last(x, dim)
    moved = b.permute(x, order)
    # An element's rank by counting those before it; then everybody goes to their place.
    moved = b.make("map", (moved,), "same", moved.shape, moved.dtype)
    rank = b.make("rank", (moved,), bool(descending), moved.shape, torch.int64)
    shape = moved.shape
    places: list[Any] = [*(variable(a, shape) for a in range(len(shape) - 1)), rank]
    positions = b.make("position", (), variable(len(shape) - 1, shape), shape, torch.int64)
    indices = scatter(b, b.scalar(0, torch.int64, shape), places, positions, "set")
    values = scatter(b, b.scalar(0, x.dtype, shape), places, moved, "set")
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
