"""Lowering of reductions, products of matrices, and convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fcbp.lanes.builder import Builder
from fcbp.lanes.functions import Function
from fcbp.lanes.indexing import scatter
from fcbp.lanes.indices import Index, at, plus, times, variable
from fcbp.lanes.ir import SHORT, Node
from fcbp.lanes.operations import Lowering, Out, operation
from fcbp.lanes.shapes import inverse, moved_last, part_at

# --- reductions ---------------------------------------------------------------------------------------------------


def _axes(dim: Any) -> list[int] | None:
    return [dim] if isinstance(dim, int) else list(dim) if dim is not None else None


def _reduction(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
        return b.reduce(function, b.to(x, out.dtype), _axes(dim), keepdim, out.dtype)


for _name, _function in {
    "sum": Function.ADD,
    "prod": Function.MUL,
    "amax": Function.MAXIMUM,
    "amin": Function.MINIMUM,
    "any": Function.OR,
    "all": Function.AND,
}.items():
    _reduction(_name, _function)


def _count(x: Node, dim: Any) -> int:
    axes = _axes(dim)
    return math.prod(x.shape[a] for a in axes) if axes else x.size


@operation("mean")
def _mean(b: Builder, out: Out, x: Node, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Node:
    total = b.reduce(Function.ADD, b.to(x, out.dtype), _axes(dim), keepdim, out.dtype)
    return b.map(Function.QUOTIENT, total, _count(x, dim), dtype=out.dtype)


@operation("var")
def _var(
    b: Builder,
    out: Out,
    x: Node,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    correction: Any = None,
) -> Node:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    correction = int(unbiased) if correction is None else correction
    mean = _mean(b, out, x, dim if _axes(dim) else list(range(len(x.shape))), True)
    deviation = b.map(Function.SUB, x, mean, dtype=out.dtype)
    total = b.reduce(
        Function.ADD, b.map(Function.MUL, deviation, deviation, dtype=out.dtype), _axes(dim), keepdim, out.dtype
    )
    return b.map(Function.QUOTIENT, total, max(_count(x, dim) - correction, 0), dtype=out.dtype)


def _arg(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node, dim: int | None = None, keepdim: bool = False) -> Node:
        return b.reduce(function, x, _axes(dim), keepdim, torch.int64)


_arg("argmin", Function.ARGMIN)
_arg("argmax", Function.ARGMAX)


def _extreme(name: str, function: Function, find_index: Function) -> None:
    """``max`` and ``min``: of all elements, of two tensors, or with its index along an axis."""

    @operation(name)
    def lower(b: Builder, out: Out, x: Node, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Node):
            return b.map(function, x, dim, dtype=out.dtype)
        extreme = b.reduce(function, x, _axes(dim), keepdim, x.dtype)
        return extreme if dim is None else [extreme, b.reduce(find_index, x, [dim], keepdim, torch.int64)]


_extreme("max", Function.MAXIMUM, Function.ARGMAX)
_extreme("min", Function.MINIMUM, Function.ARGMIN)


def _cumulative(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node, dim: int, dtype: Any = None) -> Node:
        x = b.to(x, torch.int32 if out.dtype in SHORT else out.dtype)
        if not x.shape:
            return x
        order = moved_last(x, dim)
        return b.permute(b.scan(function, b.permute(x, order)), inverse(order))


_cumulative("cumsum", Function.ADD)
_cumulative("cumprod", Function.MUL)


# --- products -----------------------------------------------------------------------------------------------------


def contract(b: Builder, x: Node, y: Node, axes: int, dtype: torch.dtype) -> Node:
    """Return the sum of the products of two arrays' elements, over the last ``axes`` axes; the shapes are one."""
    product = b.map(Function.MUL, x, y, dtype=dtype)
    n = len(product.shape)
    return b.reduce(Function.ADD, product, range(n - axes, n), False, dtype)


@operation("mm", "bmm")
def _mm(b: Builder, out: Out, x: Node, y: Node) -> Node:
    *batch, n, k = x.shape
    m = y.shape[-1]
    shape = [*batch, n, m, k]
    left = b.expand(b.reshape(x, [*batch, n, 1, k]), shape)
    swapped = b.permute(y, [*range(len(batch)), len(batch) + 1, len(batch)])
    return contract(b, left, b.expand(b.reshape(swapped, [*batch, 1, m, k]), shape), 1, out.dtype)


@operation("mv")
def _mv(b: Builder, out: Out, x: Node, y: Node) -> Node:
    return contract(b, x, b.expand(y, x.shape), 1, out.dtype)


@operation("dot", "vdot")
def _dot(b: Builder, out: Out, x: Node, y: Node) -> Node:
    return contract(b, x, y, 1, out.dtype)


def _with_bias(name: str, product: Lowering) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, bias: Node, x: Node, y: Node, beta: float = 1, alpha: float = 1) -> Node:
        result = product(b, out, x, y)
        if alpha != 1:
            result = b.map(Function.MUL, result, alpha, dtype=out.dtype)
        if beta != 1:
            bias = b.map(Function.MUL, bias, beta, dtype=out.dtype)
        return b.map(Function.ADD, bias, result, dtype=out.dtype)


_with_bias("addmm", _mm)
_with_bias("baddbmm", _mm)
_with_bias("addmv", _mv)


# --- convolutions -------------------------------------------------------------------------------------------------


def _axes_from(start: int, count: int, shape: Sequence[int]) -> list[Index]:
    return [variable(a, shape) for a in range(start, start + count)]


def _windows(
    b: Builder,
    x: Node,
    shape: Sequence[int],
    batch: Index,
    channel: Index,
    out: list[Index],
    tap: list[Index],
    spacing: tuple[Sequence[int], Sequence[int]],
) -> Node:
    """``x`` at the position that belongs to an output position and a tap of the kernel.

    Args:
        b: makes the nodes.
        x: ``(batch, channels, *positions)``.
        shape: of the result.
        batch: the index along the first axis of ``x``.
        channel: the index along the second.
        out: the output's position along each of the other axes.
        tap: the kernel's position along each of them.
        spacing: the stride and the dilation along each of them.
    """
    stride, dilation = spacing
    places = [plus(times(o, s), times(k, d)) for o, k, s, d in zip(out, tap, stride, dilation, strict=True)]
    return b.view(x, shape, [batch, channel, *places])


def _padded(b: Builder, x: Node, padding: Sequence[int]) -> Node:
    if not any(padding):
        return x
    shape = [*x.shape[:2], *(n + 2 * p for n, p in zip(x.shape[2:], padding, strict=True))]
    return b.assemble(shape, x.dtype, 0, [part_at(x, [0, 0, *padding])])


@operation("convolution")
def _convolution(
    b: Builder,
    out: Out,
    x: Node,
    weight: Node,
    bias: Node | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Node:
    if transposed:
        raise NotImplementedError("a transposed convolution")
    n, taps = len(stride), weight.shape[2:]
    channels, outputs = weight.shape[1], weight.shape[0] // groups
    # batch, group, output of the group, positions; channel of the group, taps
    shape = [out.shape[0], groups, outputs, *out.shape[2:], channels, *taps]
    batch, group, output, *rest = _axes_from(0, len(shape), shape)
    channel = plus(times(group, channels), rest[n])
    windows = _windows(b, _padded(b, x, padding), shape, batch, channel, rest[:n], rest[n + 1 :], (stride, dilation))
    kernel = b.view(weight, shape, [plus(times(group, outputs), output), rest[n], *rest[n + 1 :]])
    result = b.reshape(contract(b, windows, kernel, n + 1, out.dtype), out.shape)
    if bias is None:
        return result
    return b.map(Function.ADD, result, b.reshape(bias, [bias.size, *[1] * n]), dtype=out.dtype)


@operation("convolution_backward")
def _convolution_backward(
    b: Builder,
    out: Out,
    grad: Node,
    x: Node,
    weight: Node,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> list[Node | None]:
    if transposed:
        raise NotImplementedError("a transposed convolution")
    n, taps = len(stride), weight.shape[2:]
    channels, outputs = weight.shape[1], weight.shape[0] // groups
    results: list[Node | None] = [None, None, None]
    if wanted[0]:
        # A convolution of the gradient, spread out by the stride, with the flipped kernel.
        reach = [d * (k - 1) for d, k in zip(dilation, taps, strict=True)]
        offsets = [r - p for r, p in zip(reach, padding, strict=True)]
        if min(offsets) < 0:
            raise NotImplementedError("padding wider than the kernel")
        wide = [*grad.shape[:2], *(s + r for s, r in zip(x.shape[2:], reach, strict=True))]
        spread = b.assemble(wide, grad.dtype, 0, [part_at(grad, [0, 0, *offsets], [1, 1, *stride])])
        shape = [x.shape[0], groups, channels, *x.shape[2:], outputs, *taps]
        batch, group, channel, *rest = _axes_from(0, len(shape), shape)
        output = plus(times(group, outputs), rest[n])
        windows = _windows(b, spread, shape, batch, output, rest[:n], rest[n + 1 :], ([1] * n, dilation))
        flipped = [plus(at(k - 1), times(tap, -1)) for k, tap in zip(taps, rest[n + 1 :], strict=True)]
        kernel = b.view(weight, shape, [output, channel, *flipped])
        results[0] = b.reshape(contract(b, windows, kernel, n + 1, grad.dtype), x.shape)
    if wanted[1]:
        shape = [groups, outputs, channels, *taps, *grad.shape[:1], *grad.shape[2:]]
        group, output, channel, *rest = _axes_from(0, len(shape), shape)
        batch, positions = rest[n], rest[n + 1 :]
        inputs = plus(times(group, channels), channel)
        windows = _windows(b, _padded(b, x, padding), shape, batch, inputs, positions, rest[:n], (stride, dilation))
        grads = b.view(grad, shape, [batch, plus(times(group, outputs), output), *positions])
        results[1] = b.reshape(contract(b, windows, grads, n + 1, grad.dtype), weight.shape)
    if wanted[2]:
        results[2] = b.reduce(Function.ADD, grad, [0, *range(2, n + 2)], False, grad.dtype)
    return results


def _pooling(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil_mode: bool, *rest: Any) -> Any:
    kernel = list(kernel) * (3 - len(kernel)) if len(kernel) < 2 else kernel
    stride = stride or kernel
    stride = list(stride) * 2 if len(stride) == 1 else stride
    if any(padding) or ceil_mode or (len(rest) > 1 and rest[1] is not None):
        raise NotImplementedError("average pooling with padding, ceil_mode or a divisor")
    return kernel, stride


def _pool_places(shape: Sequence[int], stride: Sequence[int]) -> list[Index]:
    """Return the input's place for each output position and each position in its window."""
    *lead, row, column, down, right = _axes_from(0, len(shape), shape)
    return [*lead, plus(times(row, stride[0]), down), plus(times(column, stride[1]), right)]


@operation("avg_pool2d")
def _avg_pool2d(
    b: Builder,
    out: Out,
    x: Node,
    kernel: Any,
    stride: Any = (),
    padding: Any = (0,),
    ceil_mode: bool = False,
    *rest: Any,
) -> Node:
    kernel, stride = _pooling(kernel, stride, padding, ceil_mode, *rest)
    shape = [*out.shape, *kernel]
    windows = b.view(x, shape, _pool_places(shape, stride))
    n = len(shape)
    total = b.reduce(Function.ADD, windows, [n - 2, n - 1], False, out.dtype)
    return b.map(Function.QUOTIENT, total, math.prod(kernel), dtype=out.dtype)


@operation("avg_pool2d_backward")
def _avg_pool2d_backward(
    b: Builder, out: Out, grad: Node, x: Node, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, *rest: Any
) -> Node:
    kernel, stride = _pooling(kernel, stride, padding, ceil_mode, *rest)
    shape = [*grad.shape, *kernel]
    share = b.map(Function.QUOTIENT, grad, math.prod(kernel), dtype=out.dtype)
    spread = b.expand(b.reshape(share, [*grad.shape, 1, 1]), shape)
    return scatter(b, b.scalar(0, out.dtype, x.shape), _pool_places(shape, stride), spread, True)
