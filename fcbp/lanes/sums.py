"""The loops of reductions and scans: several sums side by side, products of matrices in tiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from fcbp.lanes.cpp import array_type, literal, to_vector, type_of
from fcbp.lanes.elements import Elements
from fcbp.lanes.functions import REDUCTION_START, Function
from fcbp.lanes.fusion import sums_columns
from fcbp.lanes.indices import Index, at, code, linear, plus, times, variable
from fcbp.lanes.ir import Node, Reduce, Scan, is_map
from fcbp.lanes.plan import axes_read, tile_axes
from fcbp.lanes.writer import PARTIAL, Writer

__all__ = ["write_arg_reduction", "write_reduction", "write_scan"]

CHAINS = 6
"""Sums that run side by side, so that one need not wait for another's last addition."""
TILES = {
    16: ((3, 3), (2, 5), (5, 2), (2, 4), (4, 2)),
    32: ((4, 6), (5, 5), (6, 4), (8, 3), (3, 7), (2, 9), (4, 4), (3, 3)),
}
"""By the number of the machine's vector registers: rows and columns of a tile of sums of products. The sums and their
factors leave some registers free."""

ROWS = 5
"""Rows that a loop of sums over rows takes at a time."""
NEAR = 800
"""Elements of two factors that lie in the nearest cache together, while a tile goes along the summed axis."""
OWN = 2048
"""Elements of a factor that stay in a core's own cache, beside the rest of a loop."""

Segment = tuple[int, int, int]
"""A part of an axis: its first entry, the number of tiles in it, and the entries of each tile."""


def write_reduction(elements: Elements, node: Reduce) -> None:
    """Write the loops of a reduction, a few results side by side."""
    (x,) = node.args
    elements = elements.over(x.shape, elements.prologue)
    if elements.prologue is not None and sums_columns(node, elements.prologue, set(elements.plan.order)):
        _write_column_sums(elements, node)
        return
    tiles = _tiles(elements, node)
    piece = _piece(elements, node, tiles)
    with _pieces(elements, node, piece):
        for segments in itertools.product(*(_segments(x.shape[axis], width) for axis, width in tiles.items())):
            _write_segment(elements, node, dict(zip(tiles, segments, strict=True)), piece)


def _write_column_sums(elements: Elements, node: Reduce) -> None:
    """Write the loops of sums over the rows of an argument that is computed in them, a few rows at a time."""
    (x,), writer, last = node.args, elements.writer, len(node.shape)
    with writer.loops(node.shape):
        writer.line(f"{elements.stored(node, elements.here[:last])} = {_start(node.function, node)};")
    for start, count, width in _segments(x.shape[last], ROWS):
        counts = [*node.shape, count]
        with writer.scope(""), writer.loops([count, *node.shape], [last, *range(last)]):
            own = [variable(a, counts) for a in range(last + 1)]
            total = elements.stored(node, own[:last])
            writer.line(f"{type_of(node)} sum = {total};")
            for k in range(width):
                row = plus(times(own[last], width), at(start + k))
                _accumulate(elements, node, "sum", (*own[:last], row))
            writer.line(f"{total} = sum;")


def _piece(elements: Elements, node: Reduce, tiles: dict[int, int]) -> int:
    """Return the entries of the summed axis that all tiles take before any takes more; 0 where tiles take it whole."""
    (x,) = node.args
    if len(tiles) < 2 or node.axes > 1 or type_of(node) != "F" or not elements.writer.has_heap:
        return 0
    most = NEAR // sum(tiles.values())
    read = (axes_read(elements.plan, factor, elements.here, x.shape) for factor in x.args)
    smaller = min(math.prod(x.shape[a] for a in axes) for axes in read)
    pieces = -(-x.shape[-1] // most)
    return -(-x.shape[-1] // pieces) if pieces > 1 and smaller > 2 * OWN else 0


def _block(elements: Elements, node: Reduce, segments: dict[int, Segment], axes: list[int]) -> int:
    """Return the tiles of an outer axis that go with each tile of the inner one; 0 where the outer axis is one loop.

    Of the factor that the inner axis does not read, so much stays in the core's own cache meanwhile.
    """
    (x,), writer = node.args, elements.writer
    if len(segments) < 2 or node.axes > 1 or not writer.has_heap:
        return 0
    first, second = axes
    read = [axes_read(elements.plan, factor, elements.here, x.shape) for factor in x.args]
    size = max(math.prod(x.shape[a] for a in axes) for axes in read if second not in axes)
    block = max(OWN // (segments[first][2] * x.shape[-1]), 1)
    return block if size > 2 * OWN and block < segments[first][1] else 0


@contextmanager
def _pieces(elements: Elements, node: Reduce, piece: int) -> Iterator[None]:
    """Return the loop over pieces of a summed axis, between which the sums are kept in memory."""
    if not piece:
        yield
        return
    size = node.args[0].shape[-1]
    elements.writer.keep_partial_sums(node.size)
    with elements.writer.scope(f"for (int64 from = 0; from < {size}; from += {piece})"):
        elements.writer.line(f"const int64 to = minimum(from + {piece}, (int64){size});")
        yield


def _write_segment(elements: Elements, node: Reduce, segments: dict[int, Segment], piece: int) -> None:
    """Return the loops over the tiles of one segment of each tiled axis."""
    (x,), writer, kept = node.args, elements.writer, len(node.shape)
    outer = list(node.shape)
    for axis, (_, count, _) in segments.items():
        outer[axis] = count
    order = _loop_order(elements, x, list(segments), outer)
    block = 0 if piece else _block(elements, node, segments, order[-2:])
    with writer.scope(""), _tile_loops(writer, outer, order, block):
        own = [variable(a, [*outer, *x.shape[kept:]]) for a in range(len(x.shape))]
        places = [own]
        for axis, (start, _, width) in segments.items():
            entries = [plus(times(own[axis], width), at(start + i)) for i in range(width)]
            places = [[*place[:axis], entry, *place[axis + 1 :]] for place in places for entry in entries]
        # Few sums are each taken in several parts. Tiles are not: their number depends on the machine's registers.
        inner = x.shape[-1]
        most = CHAINS // len(places) if len(segments) < 2 else 1
        parts = max((p for p in range(1, most + 1) if inner % p == 0), default=1)
        begin = _start(node.function, node)
        kept_at = [f"{PARTIAL}[{code(linear(place[:kept], node.shape))}]" for place in places]
        for k in range(len(places) * parts):
            writer.line(f"{type_of(node)} sum{k} = {f'from ? {kept_at[k]} : ' if piece else ''}{begin};")
        # Unrolled further than into these sums, a tile would not find room in the registers.
        tiled = elements.over(x.shape, elements.prologue, len(segments) > 1)
        with _summed_loops(writer, x.shape[kept:-1], kept, inner // parts, piece):
            for k, place in enumerate(places):
                for part in range(parts):
                    turn = at(0) if inner == parts else (0, ((len(x.shape) - 1, 1),))
                    last = plus(times(turn, parts), at(part))
                    _accumulate(tiled, node, f"sum{k * parts + part}", (*place[:-1], last))
        if piece:
            with writer.scope(f"if (to < {inner})"):
                for k, here in enumerate(kept_at):
                    writer.line(f"{here} = sum{k};")
        with writer.scope("else" if piece else ""):
            for k, place in enumerate(places):
                total = [f"sum{k * parts + part}" for part in range(parts)]
                while len(total) > 1:
                    total = [f"{node.function}({', '.join(total[:2])})", *total[2:]]
                _store(elements, node, tuple(place[:kept]), total[0])


@contextmanager
def _tile_loops(writer: Writer, counts: list[int], order: list[int], block: int) -> Iterator[None]:
    """Return the loops over tiles; with a block, the last but one goes over so many tiles before the last goes on."""
    if not block:
        with writer.loops([counts[a] for a in order], order):
            yield
        return
    *rest, first, second = order
    with (
        writer.loops([counts[a] for a in rest], rest),
        writer.scope(f"for (int64 from = 0; from < {counts[first]}; from += {block})"),
        writer.loops([counts[second]], [second]),
        writer.scope(f"for (int64 i{first} = from; i{first} < minimum(from + {block}, {counts[first]}ll); i{first}++)"),
    ):
        yield


@contextmanager
def _summed_loops(writer: Writer, sizes: Sequence[int], axis: int, inner: int, piece: int) -> Iterator[None]:
    """Return the loops over the summed axes, of which the first is ``axis``; of a piece, from its begin to its end."""
    if not piece:
        with writer.loops([*sizes, inner], range(axis, axis + len(sizes) + 1), unroll=False):
            yield
        return
    with writer.scope(f"ROLLED for (int64 i{axis} = from; i{axis} < to; i{axis}++)"):
        yield


def _accumulate(elements: Elements, node: Reduce, total: str, place: tuple[Index, ...]) -> None:
    """Add the element at a place to a sum. Only here a product is added unrounded."""
    (x,) = node.args
    product = is_map(x, Function.MUL) and not elements.plan.is_stored(x)
    if node.function is Function.ADD and product and x.dtype.is_floating_point:
        left, right = (elements.value(a, place, node.uniform) for a in x.args)
        elements.writer.line(f"{total} = multiply_add({left}, {right}, {total});")
        return
    elements.writer.line(f"{total} = {node.function}({total}, {elements.value(x, place, node.uniform)});")


def _store(elements: Elements, node: Reduce, place: tuple[Index, ...], total: str) -> None:
    """Store a result, or the element of the epilogue that is computed from it."""
    result = elements.plan.epilogues.get(node, node)
    if result is not node:
        elements.writer.remember(node, place, total)
        total = elements.compute(result, place)
    elements.writer.line(f"{elements.stored(result, place)} = {total};")


def _tiles(elements: Elements, node: Reduce) -> dict[int, int]:
    """Return the results that are computed side by side: the axes, and the entries along each."""
    sizes = node.shape
    found = tile_axes(elements.plan, node)
    if found is None:
        return {len(sizes) - 1: min(sizes[-1], CHAINS)} if sizes else {}
    rows, columns = found

    def loads(tile: tuple[int, int]) -> int:
        return -(-sizes[rows] // tile[0]) * -(-sizes[columns] // tile[1]) * sum(tile)

    height, width = min(TILES[elements.registers], key=loads)
    return dict(sorted({rows: min(height, sizes[rows]), columns: min(width, sizes[columns])}.items()))


def _segments(size: int, width: int) -> list[Segment]:
    """Return an axis in tiles: the whole ones, and the rest."""
    whole, rest = divmod(size, width)
    return [segment for segment in ((0, whole, width), (whole * width, 1, rest)) if segment[1] and segment[2]]


def _loop_order(elements: Elements, x: Node, tiled: list[int], counts: Sequence[int]) -> list[int]:
    """Return the axes of the loops over tiles, the outermost first: each turn of it reads the smaller factor again."""
    order = list(range(len(counts)))
    if len(tiled) < 2:
        return order
    sizes = elements.sizes
    factors = [axes_read(elements.plan, factor, elements.here, sizes) for factor in x.args]

    def read_again(outer: int) -> int:
        return counts[outer] * sum(math.prod(sizes[a] for a in axes) for axes in factors if outer not in axes)

    first, second = sorted(tiled, key=read_again)
    return [*(a for a in order if a not in tiled), first, second]


def _start(function: Function, node: Node) -> str:
    """Return the number with which a reduction begins."""
    if function in REDUCTION_START:
        value = f"({array_type(node)}){REDUCTION_START[function]}"
    elif node.dtype.is_floating_point:
        value = literal(-math.inf if function is Function.MAXIMUM else math.inf, node.dtype)
    else:
        limits = torch.iinfo(node.dtype)
        value = literal(limits.min if function is Function.MAXIMUM else limits.max, node.dtype)
    return value if node.uniform else to_vector(value, node.dtype)


def write_arg_reduction(elements: Elements, node: Reduce) -> None:
    """Write the loops of ``argmin`` and ``argmax``: the first index of the extreme; a NaN wins."""
    (x,), writer = node.args, elements.writer
    elements = elements.over(x.shape)
    here, kept = elements.here, len(node.shape)
    better = Function.LT if node.function is Function.ARGMIN else Function.GT
    mask, integer = ("bool", "int") if node.uniform else ("M", "I")
    with writer.loops(node.shape):
        first = (*here[:kept], *(at(0) for _ in range(node.axes)))
        writer.line(f"auto best = {elements.value(x, first, node.uniform)};")
        writer.line(f"{integer} place = {integer}{{}};")
        with writer.loops(x.shape[kept:], range(kept, len(x.shape))):
            value = elements.value(x, here, node.uniform)
            flat = code(linear(here[kept:], x.shape[kept:]))
            nan = f"bit_and(ne({value}, {value}), eq(best, best))"
            writer.line(f"const {mask} won = bit_or({better}({value}, best), {nan});")
            number = f"(int)({flat})"
            writer.line(f"place = choose(won, {number if node.uniform else f'to_I({number})'}, place);")
            writer.line(f"best = choose(won, {value}, best);")
        result = "(int64)place" if node.uniform else "to_Q(place)"
        writer.line(f"{elements.stored(node, here[:kept])} = {result};")


def write_scan(elements: Elements, node: Scan) -> None:
    """Write the loops of a function that runs along the last axis."""
    (x,), writer, here = node.args, elements.writer, elements.here
    with writer.loops(node.shape[:-1]):
        writer.line(f"{type_of(node)} running = {_start(node.function, node)};")
        with writer.loops(node.shape[-1:], [len(node.shape) - 1]):
            writer.line(f"running = {node.function}(running, {elements.value(x, here, node.uniform)});")
            writer.line(f"{elements.stored(node, here)} = running;")
