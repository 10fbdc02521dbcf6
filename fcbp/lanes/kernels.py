"""The kernel of each stored node: the loops that compute its elements."""

from __future__ import annotations

from fcbp.lanes.cpp import literal, to_vector
from fcbp.lanes.elements import Elements
from fcbp.lanes.indices import at, code, linear
from fcbp.lanes.ir import Assemble, Gather, Map, Node, Rank, Reduce, Scan, Scatter
from fcbp.lanes.plan import axes_read
from fcbp.lanes.sums import write_arg_reduction, write_reduction, write_scan

__all__ = ["write_kernel"]


def write_kernel(elements: Elements, node: Node) -> None:
    """Write the kernel of a stored node."""
    writer, plan = elements.writer, elements.plan
    elements = elements.over(node.shape, plan.prologues.get(node))
    with writer.kernel(), writer.scope(""):
        match node:
            case Map() if plan.row_mask(node) is not None:
                _write_row_update(elements, node)
            case Map() | Gather():
                here = elements.here
                with writer.loops(node.shape):
                    value = elements.compute(node, here)
                    writer.line(f"{elements.stored(node, here)} = {value};")
            case Reduce() if node.finds_index:
                write_arg_reduction(elements, node)
            case Reduce():
                write_reduction(elements, node)
            case Scan():
                write_scan(elements, node)
            case Rank():
                _write_rank(elements, node)
            case Scatter():
                _write_scatter(elements, node)
            case Assemble():
                _write_assemble(elements, node)
            case _:
                raise AssertionError(f"{type(node).__name__} has no kernel")


def _write_row_update(elements: Elements, node: Map) -> None:
    """Write a choice that is written over its other elements, for the rows of which a lane has the mask."""
    writer, here, sizes = elements.writer, elements.here, elements.sizes
    rows = sorted(axes_read(elements.plan, node.args[0], here, sizes))
    within = [a for a in range(len(sizes)) if a not in rows]
    place = elements.stored(node, here)
    with writer.loops([sizes[a] for a in rows], rows):
        if not rows or all(sizes[a] == 1 for a in within):
            with writer.loops([sizes[a] for a in within], within):
                writer.line(f"{place} = {elements.compute(node, here)};")
            return
        mask = elements.value(node.args[0], here, False)
        with writer.scope(f"if (SELDOM(some_lane({mask})))"), writer.loops([sizes[a] for a in within], within):
            writer.line(f"{place} = {elements.compute(node, here)};")


def _write_rank(elements: Elements, node: Rank) -> None:
    """Write the places of a stable sort, row by row."""
    (x,), writer, buffers = node.args, elements.writer, elements.plan.buffers
    rows, n = node.size // node.shape[-1], node.shape[-1]
    with writer.scope(f"for (int r = 0; r < {rows}; r++)"):
        arguments = f"{buffers[x]} + r * {n}, {buffers[node]} + r * {n}, {n}, {str(node.descending).lower()}"
        limit = elements.plan.rank_limits.get(node)
        if limit is None:
            writer.line(f"rank_row({arguments});")
        else:
            number = elements.value(limit, tuple(at(0) for _ in limit.shape), False)
            writer.line(f"rank_first({arguments}, {number});")


def _write_scatter(elements: Elements, node: Scatter) -> None:
    """Write the old elements, unless they are there, and then the new ones."""
    (old, source, *_), writer, buffer = node.args, elements.writer, elements.plan.buffers[node]
    if node not in elements.plan.overwrites:
        with writer.loops(node.shape):
            value = elements.value(old, elements.here, node.uniform)
            writer.line(f"{elements.stored(node, elements.here)} = {value};")
    elements = elements.over(source.shape)
    with writer.loops(source.shape):
        address, varies = elements.address(node, node.places, node.shape, elements.here)
        value = elements.value(source, elements.here, node.uniform)
        if varies:
            value = f"add(gather({buffer}, {address}), {value})" if node.accumulate else value
            writer.line(f"scatter({buffer}, {address}, {value});")
        else:
            value = f"add({buffer}[{address}], {value})" if node.accumulate else value
            writer.line(f"{buffer}[{address}] = {value};")


def _write_assemble(elements: Elements, node: Assemble) -> None:
    """Write the fill, and then each part at its destination; a part that lies there already is left alone."""
    writer, buffer = elements.writer, elements.plan.buffers[node]
    if node.fill is not None:
        value = literal(node.fill, node.dtype)
        value = value if node.uniform else to_vector(value, node.dtype)
        writer.line(f"fill_n({buffer}, {node.size}, {value});")
    for i, (part, destination) in enumerate(zip(node.args, node.destinations, strict=True)):
        if i == 0 and elements.plan.overwrites.get(node) is part:
            continue
        loops = elements.over(part.shape)
        with writer.loops(part.shape):
            value = loops.value(part, loops.here, node.uniform)
            writer.line(f"{buffer}[{code(linear(destination, node.shape))}] = {value};")
