"""Lowering of the operations that make tensors, view them, and put them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fcbp.lanes.builder import Builder
from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, at, plus, times, variable
from fcbp.lanes.ir import Node
from fcbp.lanes.operations import Out, operation

__all__ = ["inverse", "moved_last", "narrow", "part_at"]

# --- new tensors ----------------------------------------------------------------------------------------------


@operation("full", "full_like", "new_full", "scalar_tensor")
def _full(b: Builder, out: Out, *args: Any, **options: Any) -> Node:
    return b.scalar(options.get("fill_value", args[-1]), out.dtype, out.shape)


@operation("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
def _zeros(b: Builder, out: Out, *args: Any, **options: Any) -> Node:
    return b.scalar(0, out.dtype, out.shape)


@operation("ones", "ones_like", "new_ones")
def _ones(b: Builder, out: Out, *args: Any, **options: Any) -> Node:
    return b.scalar(1, out.dtype, out.shape)


@operation("arange")
def _arange(b: Builder, out: Out, *args: Any, dtype: Any = None) -> Node:
    start, step = (args[0] if len(args) > 1 else 0), (args[2] if len(args) > 2 else 1)
    if all(isinstance(a, int) for a in args):
        index = plus(at(start), times(variable(0, out.shape), step))
        return b.to(b.position(index, out.shape), out.dtype)
    steps = b.position(variable(0, out.shape), out.shape)
    return b.map(Function.ADD, start, b.map(Function.MUL, steps, step, dtype=out.dtype), dtype=out.dtype)


@operation("eye")
def _eye(b: Builder, out: Out, *args: Any, **options: Any) -> Node:
    row, column = (b.position(variable(a, out.shape), out.shape) for a in (0, 1))
    return b.to(b.map(Function.EQ, row, column, dtype=torch.int64, result=torch.bool), out.dtype)


# --- views ----------------------------------------------------------------------------------------------------


@operation("alias", "detach", "clone", "lift_fresh", "lift_fresh_copy", "lift", "contiguous", "_neg_view")
def _same(b: Builder, out: Out, x: Node, **options: Any) -> Node:
    return x


@operation("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "_reshape_alias", "flatten")
@operation("squeeze_", "unsqueeze_")
def _reshape(b: Builder, out: Out, x: Node, *args: Any) -> Node:
    return b.reshape(x, out.shape)


@operation("expand", "broadcast_to")
def _expand(b: Builder, out: Out, x: Node, *args: Any, **options: Any) -> Node:
    return b.expand(x, out.shape)


@operation("broadcast_in_dim")
def _broadcast_in_dim(b: Builder, out: Out, x: Node, shape: Sequence[int], axes: Sequence[int]) -> Node:
    return b.expand(b.reshape(x, [x.shape[axes.index(a)] if a in axes else 1 for a in range(len(shape))]), shape)


@operation("t", "numpy_T")
def _t(b: Builder, out: Out, x: Node) -> Node:
    return b.permute(x, range(len(x.shape))[::-1])


@operation("permute")
def _permute(b: Builder, out: Out, x: Node, order: Sequence[int]) -> Node:
    return b.permute(x, order)


@operation("transpose")
def _transpose(b: Builder, out: Out, x: Node, first: int, second: int) -> Node:
    order = list(range(len(x.shape)))
    if order:
        order[first], order[second] = order[second], order[first]
    return b.permute(x, order)


def narrow(b: Builder, x: Node, dim: int, start: int, length: int, step: int = 1) -> Node:
    """``length`` elements of ``x`` along an axis, from ``start`` on and ``step`` apart."""
    dim %= len(x.shape)
    shape = [length if a == dim else n for a, n in enumerate(x.shape)]
    indices = [variable(a, shape) for a in range(len(shape))]
    indices[dim] = plus(at(start), times(indices[dim], step))
    return b.view(x, shape, indices)


@operation("slice")
def _slice(b: Builder, out: Out, x: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Node:
    return narrow(b, x, dim, range(x.shape[dim])[start:end].start, out.shape[dim % len(x.shape)], step)


@operation("select")
def _select(b: Builder, out: Out, x: Node, dim: int, index: int) -> Node:
    return b.reshape(narrow(b, x, dim, index % x.shape[dim], 1), out.shape)


@operation("unbind")
def _unbind(b: Builder, out: Out, x: Node, dim: int = 0) -> list[Node]:
    shape = [n for a, n in enumerate(x.shape) if a != dim % len(x.shape)]
    return [b.reshape(narrow(b, x, dim, i, 1), shape) for i in range(x.shape[dim])]


@operation("split", "split_with_sizes")
def _split(b: Builder, out: Out, x: Node, sizes: Any, dim: int = 0) -> list[Node]:
    total = x.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    return [narrow(b, x, dim, sum(sizes[:i]), n) for i, n in enumerate(sizes)]


@operation("flip")
def _flip(b: Builder, out: Out, x: Node, dims: Sequence[int]) -> Node:
    for dim in dims:
        x = narrow(b, x, dim, x.shape[dim] - 1, x.shape[dim], -1)
    return x


@operation("diagonal")
def _diagonal(b: Builder, out: Out, x: Node, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Node:
    dim1, dim2 = dim1 % len(x.shape), dim2 % len(x.shape)
    last = variable(len(out.shape) - 1, out.shape)
    rest = iter(range(len(out.shape)))
    indices: list[Index] = []
    for axis in range(len(x.shape)):
        if axis == dim1:
            indices.append(plus(last, at(max(-offset, 0))))
        elif axis == dim2:
            indices.append(plus(last, at(max(offset, 0))))
        else:
            indices.append(variable(next(rest), out.shape))
    return b.view(x, out.shape, indices)


@operation("unfold")
def _unfold(b: Builder, out: Out, x: Node, dim: int, size: int, step: int) -> Node:
    dim %= len(x.shape)
    indices = [variable(a, out.shape) for a in range(len(x.shape))]
    indices[dim] = plus(times(indices[dim], step), variable(len(out.shape) - 1, out.shape))
    return b.view(x, out.shape, indices)


def moved_last(x: Node, dim: int) -> list[int]:
    """Return the order of axes in which ``dim`` is the last."""
    dim %= len(x.shape)
    return [*(a for a in range(len(x.shape)) if a != dim), dim]


def inverse(order: Sequence[int]) -> list[int]:
    """Return the order that undoes an order of axes."""
    return [list(order).index(a) for a in range(len(order))]


# --- putting together -------------------------------------------------------------------------------------------


def part_at(x: Node, offsets: Sequence[int], steps: Sequence[int] | None = None) -> tuple[Node, list[Index]]:
    """``x`` as a part of a larger array: where it begins along each axis, and the distance of its elements there."""
    steps = steps or [1] * len(x.shape)
    return x, [plus(at(o), times(variable(a, x.shape), s)) for a, (o, s) in enumerate(zip(offsets, steps, strict=True))]


@operation("cat")
def _cat(b: Builder, out: Out, tensors: Sequence[Node], dim: int = 0) -> Node:
    parts, start = [], 0
    for x in tensors:
        if x.shape == (0,):
            continue
        parts.append(part_at(x, [start if a == dim % len(x.shape) else 0 for a in range(len(x.shape))]))
        start += x.shape[dim]
    return b.assemble(out.shape, out.dtype, None, parts)


@operation("stack")
def _stack(b: Builder, out: Out, tensors: Sequence[Node], dim: int = 0) -> Node:
    dim %= len(out.shape)
    one = [1 if a == dim else n for a, n in enumerate(out.shape)]
    return _cat(b, out, [b.reshape(x, one) for x in tensors], dim)


@operation("constant_pad_nd")
def _pad(b: Builder, out: Out, x: Node, pad: Sequence[int], value: float = 0) -> Node:
    before = [0] * (len(x.shape) - len(pad) // 2) + list(pad[0::2])[::-1]
    after = [0] * (len(x.shape) - len(pad) // 2) + list(pad[1::2])[::-1]
    for axis, (left, right) in enumerate(zip(before, after, strict=True)):
        if left < 0 or right < 0:
            start, end = max(-left, 0), x.shape[axis] - max(-right, 0)
            x = narrow(b, x, axis, start, end - start)
    return b.assemble(out.shape, out.dtype, value, [part_at(x, [max(n, 0) for n in before])])


@operation("slice_scatter")
def _slice_scatter(
    b: Builder, out: Out, x: Node, source: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Node:
    dim %= len(x.shape)
    first = range(x.shape[dim])[start:end].start
    place = part_at(
        source,
        [first if a == dim else 0 for a in range(len(x.shape))],
        [step if a == dim else 1 for a in range(len(x.shape))],
    )
    return b.assemble(out.shape, out.dtype, None, [part_at(x, [0] * len(x.shape)), place])


@operation("select_scatter")
def _select_scatter(b: Builder, out: Out, x: Node, source: Node, dim: int, index: int) -> Node:
    dim %= len(x.shape)
    source = b.reshape(source, [1 if a == dim else n for a, n in enumerate(x.shape)])
    place = part_at(source, [index % x.shape[dim] if a == dim else 0 for a in range(len(x.shape))])
    return b.assemble(out.shape, out.dtype, None, [part_at(x, [0] * len(x.shape)), place])


@operation("repeat")
def _repeat(b: Builder, out: Out, x: Node, repeats: Sequence[int]) -> Node:
    x = b.reshape(x, [1] * (len(repeats) - len(x.shape)) + list(x.shape))
    shape = [n for r, size in zip(repeats, x.shape, strict=True) for n in (r, size)]
    apart = b.reshape(x, [n for size in x.shape for n in (1, size)])
    return b.reshape(b.expand(apart, shape), out.shape)
