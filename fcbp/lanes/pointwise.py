"""The table of operations that work element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fcbp.lanes.ir import Builder, Node
from fcbp.lanes.reach import reach

__all__ = ["OPERATIONS", "Lowering", "Out", "common_dtype", "operation"]


@dataclass(frozen=True)
class Out:
    """What a traced operation returns."""

    shape: tuple[int, ...]
    dtype: torch.dtype


Lowering = Callable[..., Any]
"""``(builder, out, *args, **kwargs) -> Node``: ``out`` holds the result's shape and dtype, tensors come as nodes."""

OPERATIONS: dict[str, Lowering] = {}
"""By name of the ATen operator, whatever its overload."""


def operation(*names: str) -> Callable[[Lowering], Lowering]:
    """Enter a lowering in the table."""

    def enter(lowering: Lowering) -> Lowering:
        for name in names:
            OPERATIONS[name] = lowering
        return lowering

    return enter


def common_dtype(*values: Node | float) -> torch.dtype:
    """The dtype in which torch combines the values."""
    stand_ins = [
        torch.empty((1,) * min(len(v.shape), 1), dtype=v.dtype, device="meta") if isinstance(v, Node) else v
        for v in values
    ]
    return torch.result_type(stand_ins[0], stand_ins[-1])


def _arithmetic(name: str, function: str) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any, alpha: float = 1) -> Node:
        if alpha != 1:
            y = b.map("mul", y, alpha, dtype=out.dtype) if isinstance(y, Node) else y * alpha
        return b.map(function, x, y, dtype=out.dtype)


for _name, _function in {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "bitwise_and": "bit_and",
    "bitwise_or": "bit_or",
    "bitwise_xor": "bit_xor",
    "__and__": "bit_and",
    "__or__": "bit_or",
    "__xor__": "bit_xor",
    "minimum": "minimum",
    "maximum": "maximum",
    "atan2": "v_atan2",
    "hypot": "v_hypot",
    "bitwise_left_shift": "shift_left",
    "__lshift__": "shift_left",
    "bitwise_right_shift": "shift_right",
    "__rshift__": "shift_right",
}.items():
    _arithmetic(_name, _function)


@operation("rsub")
def _rsub(b: Builder, out: Out, x: Node, y: Any, alpha: float = 1) -> Node:
    return OPERATIONS["sub"](b, out, y, x, alpha=alpha)


@operation("div")
def _div(b: Builder, out: Out, x: Any, y: Any, rounding_mode: str | None = None) -> Node:
    if out.dtype.is_floating_point:
        quotient = b.map("quotient", x, y, dtype=out.dtype)
        if rounding_mode == "floor":
            # As torch computes it: from the remainder, so that the last place cannot tip it over a whole number.
            rest = b.map("float_remainder", x, y, dtype=out.dtype)
            exact = b.map("quotient", b.map("sub", x, rest, dtype=out.dtype), y, dtype=out.dtype)
            zero = b.map("eq", y, 0, dtype=out.dtype, result=torch.bool)
            return b.where(zero, quotient, b.map("v_round", exact, dtype=out.dtype), out.dtype)
        return quotient if rounding_mode is None else b.map("v_trunc", quotient, dtype=out.dtype)
    return _divided(b, {"floor": "floored_quotient", "trunc": "truncated_quotient"}[str(rounding_mode)], out, x, y)


def _divided(b: Builder, function: str, out: Out, x: Any, y: Any) -> Node:
    """A division of integers, of which that by 0 is an error."""
    made = b.map(function, x, y, dtype=out.dtype)
    low, high = reach(made.args[1]) if made.kind == "map" and made.data == function else (1, 1)
    return b.check(made) if low <= 0 <= high else made


@operation("floor_divide")
def _floor_divide(b: Builder, out: Out, x: Any, y: Any) -> Node:
    return _div(b, out, x, y, rounding_mode="floor")


@operation("remainder")
def _remainder(b: Builder, out: Out, x: Any, y: Any) -> Node:
    if out.dtype.is_floating_point:
        return b.map("float_remainder", x, y, dtype=out.dtype)
    return _divided(b, "floored_remainder", out, x, y)


@operation("fmod")
def _fmod(b: Builder, out: Out, x: Any, y: Any) -> Node:
    if out.dtype.is_floating_point:
        return b.map("v_fmod", x, y, dtype=out.dtype)
    return _divided(b, "truncated_remainder", out, x, y)


def _comparison(name: str) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any) -> Node:
        dtype = common_dtype(x, y)
        if name == "gt" and isinstance(x, Node) and x.dtype == torch.int32 and dtype == torch.float64:
            return _whole_above(b, x, y)
        made = b.map(name, x, y, dtype=dtype, result=torch.bool)
        return _none_below(b, x, made) if name == "lt" and isinstance(x, Node) else made


def _whole_above(b: Builder, x: Node, y: Any) -> Node:
    """Which whole numbers are above others: compared as such, where most are of one ``y`` (an age and a threshold)."""
    limit = b.to(y, torch.float64) if isinstance(y, Node) else b.scalar(y, torch.float64)
    most, least = (1 << 31) - 1, -(1 << 31)
    floor = b.map("maximum", b.map("v_floor", limit, dtype=limit.dtype), least, dtype=limit.dtype)
    floor = b.map("minimum", floor, most, dtype=limit.dtype)
    never = b.map("ne", limit, limit, dtype=limit.dtype, result=torch.bool)
    above = b.map("gt", x, b.to(b.where(never, most, floor, limit.dtype), x.dtype), dtype=x.dtype, result=torch.bool)
    return b.map("bit_or", above, b.map("lt", limit, least, dtype=limit.dtype, result=torch.bool), dtype=torch.bool)


def _none_below(b: Builder, rank: Node, less: Node) -> Node:
    """Of what is never negative none is less than a 0: where ranks are compared with a number that is mostly 0, they
    need not be known."""
    number = less.args[1]
    few = number.args[0] if number.kind == "view" else number
    if few.size >= less.size or reach(rank)[0] < 0:
        return less
    some = b.map("gt", few, 0, dtype=few.dtype, result=torch.bool)
    some = b.view(some, less.shape, number.data) if number.kind == "view" else b.expand(some, less.shape)
    return b.where(some, less, False, torch.bool)


for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _comparison(_name)


def _logical(name: str, function: str) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any) -> Node:
        return b.map(function, x, y, dtype=torch.bool)


for _name, _function in {"logical_and": "bit_and", "logical_or": "bit_or", "logical_xor": "bit_xor"}.items():
    _logical(_name, _function)


@operation("logical_not")
def _logical_not(b: Builder, out: Out, x: Node) -> Node:
    return b.map("bit_not", x, dtype=torch.bool)


@operation("bitwise_not")
def _bitwise_not(b: Builder, out: Out, x: Node) -> Node:
    return b.map("bit_not", x, dtype=out.dtype)


def _unary(name: str, function: str) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node) -> Node:
        return b.map(function, x, dtype=out.dtype)


for _name in [
    "exp",
    "log",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sinh",
    "cosh",
    "asin",
    "acos",
    "atan",
    "expm1",
    "log1p",
    "log2",
    "log10",
    "exp2",
    "erf",
    "erfc",
    "sqrt",
]:
    _unary(_name, f"v_{_name}")
_unary("neg", "neg")


def _rounding(name: str) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node) -> Node:
        return b.map(f"v_{name}", x, dtype=out.dtype) if out.dtype.is_floating_point else x


for _name in ("floor", "ceil", "trunc", "round"):
    _rounding(_name)


@operation("abs")
def _abs(b: Builder, out: Out, x: Node) -> Node:
    return b.map("v_abs", x, dtype=out.dtype)


@operation("reciprocal")
def _reciprocal(b: Builder, out: Out, x: Node) -> Node:
    return b.map("quotient", 1.0, x, dtype=out.dtype)


@operation("rsqrt")
def _rsqrt(b: Builder, out: Out, x: Node) -> Node:
    return b.map("quotient", 1.0, b.map("v_sqrt", x, dtype=out.dtype), dtype=out.dtype)


@operation("sign")
def _sign(b: Builder, out: Out, x: Node) -> Node:
    positive = b.map("gt", x, 0, dtype=x.dtype, result=torch.bool)
    negative = b.map("lt", x, 0, dtype=x.dtype, result=torch.bool)
    return b.map("sub", positive, negative, dtype=out.dtype)


@operation("isnan")
def _isnan(b: Builder, out: Out, x: Node) -> Node:
    return b.map("ne", x, x, dtype=x.dtype, result=torch.bool)


@operation("isinf")
def _isinf(b: Builder, out: Out, x: Node) -> Node:
    if not x.dtype.is_floating_point:
        return b.scalar(False, torch.bool, x.shape)
    return b.map("eq", b.map("v_abs", x, dtype=x.dtype), math.inf, dtype=x.dtype, result=torch.bool)


def _ignoring_nan(name: str, function: str) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any) -> Node:
        x, y = b.to(x, out.dtype), b.to(y, out.dtype)
        own = b.where(_isnan(b, out, x), y, b.map(function, x, y, dtype=out.dtype), out.dtype)
        return b.where(_isnan(b, out, y), x, own, out.dtype)


_ignoring_nan("fmin", "minimum")
_ignoring_nan("fmax", "maximum")


@operation("pow")
def _pow(b: Builder, out: Out, x: Any, y: Any) -> Node:
    if not isinstance(y, Node) and float(y).is_integer() and 0 <= y <= 4:
        power: Any = b.scalar(1, out.dtype, x.shape)
        for i in range(int(y)):
            power = b.map("mul", power, x, dtype=out.dtype) if i else b.to(x, out.dtype)
        return power
    if not out.dtype.is_floating_point:
        raise NotImplementedError("a power of integers that is not a small constant")
    if not isinstance(y, Node) and y in (0.5, -0.5, -1.0, -2.0):
        base = b.map("v_sqrt", x, dtype=out.dtype) if y in (0.5, -0.5) else x
        base = b.map("mul", x, x, dtype=out.dtype) if y == -2.0 else base
        return base if y == 0.5 else b.map("quotient", 1.0, base, dtype=out.dtype)
    return b.map("v_pow", x, y, dtype=out.dtype)


@operation("relu")
def _relu(b: Builder, out: Out, x: Node) -> Node:
    return b.where(b.map("le", x, 0, dtype=x.dtype, result=torch.bool), 0, x, x.dtype)


@operation("sigmoid")
def _sigmoid(b: Builder, out: Out, x: Node) -> Node:
    decay = b.map("v_exp", b.map("neg", x, dtype=out.dtype), dtype=out.dtype)
    return b.map("quotient", 1.0, b.map("add", 1.0, decay, dtype=out.dtype), dtype=out.dtype)


@operation("hardswish")
def _hardswish(b: Builder, out: Out, x: Node) -> Node:
    # Divided before it is multiplied, for six times a number may be none.
    gate = _clamp(b, out, b.map("add", x, 3.0, dtype=out.dtype), 0.0, 6.0)
    return b.map("mul", x, b.map("quotient", gate, 6.0, dtype=out.dtype), dtype=out.dtype)


@operation("threshold_backward")
def _threshold_backward(b: Builder, out: Out, grad: Node, x: Node, threshold: float) -> Node:
    return b.where(b.map("le", x, threshold, dtype=x.dtype, result=torch.bool), 0, grad, out.dtype)


@operation("where")
def _where(b: Builder, out: Out, mask: Node, x: Any, y: Any) -> Node:
    return b.where(mask, x, y, out.dtype)


@operation("masked_fill")
def _masked_fill(b: Builder, out: Out, x: Node, mask: Node, value: Any) -> Node:
    return b.where(mask, value, x, out.dtype)


@operation("clamp")
def _clamp(b: Builder, out: Out, x: Node, low: Any = None, high: Any = None) -> Node:
    # A NaN stays: it is the first argument, and wins.
    x = b.to(x, out.dtype) if low is None else b.map("maximum", x, low, dtype=out.dtype)
    return x if high is None else b.map("minimum", x, high, dtype=out.dtype)


@operation("clamp_min")
def _clamp_min(b: Builder, out: Out, x: Node, low: Any) -> Node:
    return _clamp(b, out, x, low)


@operation("clamp_max")
def _clamp_max(b: Builder, out: Out, x: Node, high: Any) -> Node:
    return _clamp(b, out, x, None, high)


@operation("copy")
def _copy(b: Builder, out: Out, x: Node, source: Node, non_blocking: bool = False) -> Node:
    return b.expand(b.to(source, out.dtype), out.shape)


@operation("_to_copy", "to", "_conj", "convert_element_type")
def _to_copy(b: Builder, out: Out, x: Node | float, *rest: Any, **options: Any) -> Node:
    # A number beside a batched 0-d tensor is made of the tensor's dtype first.
    return b.to(x, out.dtype) if isinstance(x, Node) else b.scalar(x, out.dtype, out.shape)
