"""Lowering of the operations that work element by element."""

from __future__ import annotations

import math
from typing import Any

import torch

from fcbp.lanes.builder import Builder
from fcbp.lanes.functions import Function
from fcbp.lanes.ir import Node, is_map
from fcbp.lanes.operations import OPERATIONS, Out, operation
from fcbp.lanes.peephole import greater_of_integers, less_of_ranks, masked_bits
from fcbp.lanes.ranges import value_range

__all__ = ["common_dtype"]


def common_dtype(*values: Node | float) -> torch.dtype:
    """Return the dtype in which torch combines the values."""
    stand_ins = [
        torch.empty((1,) * min(len(v.shape), 1), dtype=v.dtype, device="meta") if isinstance(v, Node) else v
        for v in values
    ]
    return torch.result_type(stand_ins[0], stand_ins[-1])


def _arithmetic(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any, alpha: float = 1) -> Node:
        if alpha != 1:
            y = b.map(Function.MUL, y, alpha, dtype=out.dtype) if isinstance(y, Node) else y * alpha
        return b.map(function, x, y, dtype=out.dtype)


for _name, _function in {
    "add": Function.ADD,
    "sub": Function.SUB,
    "mul": Function.MUL,
    "bitwise_or": Function.OR,
    "bitwise_xor": Function.XOR,
    "__or__": Function.OR,
    "__xor__": Function.XOR,
    "minimum": Function.MINIMUM,
    "maximum": Function.MAXIMUM,
    "atan2": Function.ATAN2,
    "hypot": Function.HYPOT,
    "bitwise_left_shift": Function.SHIFT_LEFT,
    "__lshift__": Function.SHIFT_LEFT,
    "bitwise_right_shift": Function.SHIFT_RIGHT,
    "__rshift__": Function.SHIFT_RIGHT,
}.items():
    _arithmetic(_name, _function)


@operation("bitwise_and", "__and__")
def _bitwise_and(b: Builder, out: Out, x: Any, y: Any) -> Node:
    return masked_bits(b, x, y, out.dtype)


@operation("rsub")
def _rsub(b: Builder, out: Out, x: Node, y: Any, alpha: float = 1) -> Node:
    difference: Node = OPERATIONS["sub"](b, out, y, x, alpha=alpha)
    return difference


@operation("div")
def _div(b: Builder, out: Out, x: Any, y: Any, rounding_mode: str | None = None) -> Node:
    if out.dtype.is_floating_point:
        quotient = b.map(Function.QUOTIENT, x, y, dtype=out.dtype)
        if rounding_mode == "floor":
            # As torch computes it: from the remainder, so that the last place cannot tip it over a whole number.
            rest = b.map(Function.FLOAT_REMAINDER, x, y, dtype=out.dtype)
            exact = b.map(Function.QUOTIENT, b.map(Function.SUB, x, rest, dtype=out.dtype), y, dtype=out.dtype)
            zero = b.map(Function.EQ, y, 0, dtype=out.dtype, result=torch.bool)
            return b.where(zero, quotient, b.map(Function.ROUND, exact, dtype=out.dtype), out.dtype)
        return quotient if rounding_mode is None else b.map(Function.TRUNC, quotient, dtype=out.dtype)
    functions = {"floor": Function.FLOORED_QUOTIENT, "trunc": Function.TRUNCATED_QUOTIENT}
    return _divided(b, functions[str(rounding_mode)], out, x, y)


def _divided(b: Builder, function: Function, out: Out, x: Any, y: Any) -> Node:
    """Return a division of integers, in which a divisor of 0 is an error."""
    result = b.map(function, x, y, dtype=out.dtype)
    low, high = value_range(result.args[1]) if is_map(result, function) else (1, 1)
    return b.check(result) if low <= 0 <= high else result


@operation("floor_divide")
def _floor_divide(b: Builder, out: Out, x: Any, y: Any) -> Node:
    return _div(b, out, x, y, rounding_mode="floor")


@operation("remainder")
def _remainder(b: Builder, out: Out, x: Any, y: Any) -> Node:
    if out.dtype.is_floating_point:
        return b.map(Function.FLOAT_REMAINDER, x, y, dtype=out.dtype)
    return _divided(b, Function.FLOORED_REMAINDER, out, x, y)


@operation("fmod")
def _fmod(b: Builder, out: Out, x: Any, y: Any) -> Node:
    if out.dtype.is_floating_point:
        return b.map(Function.FMOD, x, y, dtype=out.dtype)
    return _divided(b, Function.TRUNCATED_REMAINDER, out, x, y)


def _comparison(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any) -> Node:
        dtype = common_dtype(x, y)
        if function is Function.GT and isinstance(x, Node) and x.dtype == torch.int32 and dtype == torch.float64:
            return greater_of_integers(b, x, y)
        result = b.map(function, x, y, dtype=dtype, result=torch.bool)
        return less_of_ranks(b, x, result) if function is Function.LT and isinstance(x, Node) else result


for _name, _function in {
    "lt": Function.LT,
    "le": Function.LE,
    "gt": Function.GT,
    "ge": Function.GE,
    "eq": Function.EQ,
    "ne": Function.NE,
}.items():
    _comparison(_name, _function)


def _logical(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any) -> Node:
        return b.map(function, x, y, dtype=torch.bool)


for _name, _function in {
    "logical_and": Function.AND,
    "logical_or": Function.OR,
    "logical_xor": Function.XOR,
}.items():
    _logical(_name, _function)


@operation("logical_not")
def _logical_not(b: Builder, out: Out, x: Node) -> Node:
    return b.map(Function.NOT, x, dtype=torch.bool)


@operation("bitwise_not")
def _bitwise_not(b: Builder, out: Out, x: Node) -> Node:
    return b.map(Function.NOT, x, dtype=out.dtype)


def _unary(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node) -> Node:
        return b.map(function, x, dtype=out.dtype)


for _name, _function in {
    "exp": Function.EXP,
    "log": Function.LOG,
    "sin": Function.SIN,
    "cos": Function.COS,
    "tan": Function.TAN,
    "tanh": Function.TANH,
    "sinh": Function.SINH,
    "cosh": Function.COSH,
    "asin": Function.ASIN,
    "acos": Function.ACOS,
    "atan": Function.ATAN,
    "expm1": Function.EXPM1,
    "log1p": Function.LOG1P,
    "log2": Function.LOG2,
    "log10": Function.LOG10,
    "exp2": Function.EXP2,
    "erf": Function.ERF,
    "erfc": Function.ERFC,
    "sqrt": Function.SQRT,
    "neg": Function.NEG,
    "abs": Function.ABS,
}.items():
    _unary(_name, _function)


def _rounding(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Node) -> Node:
        return b.map(function, x, dtype=out.dtype) if out.dtype.is_floating_point else x


for _name, _function in {
    "floor": Function.FLOOR,
    "ceil": Function.CEIL,
    "trunc": Function.TRUNC,
    "round": Function.ROUND,
}.items():
    _rounding(_name, _function)


@operation("reciprocal")
def _reciprocal(b: Builder, out: Out, x: Node) -> Node:
    return b.map(Function.QUOTIENT, 1.0, x, dtype=out.dtype)


@operation("rsqrt")
def _rsqrt(b: Builder, out: Out, x: Node) -> Node:
    return b.map(Function.QUOTIENT, 1.0, b.map(Function.SQRT, x, dtype=out.dtype), dtype=out.dtype)


@operation("sign")
def _sign(b: Builder, out: Out, x: Node) -> Node:
    positive = b.map(Function.GT, x, 0, dtype=x.dtype, result=torch.bool)
    negative = b.map(Function.LT, x, 0, dtype=x.dtype, result=torch.bool)
    return b.map(Function.SUB, positive, negative, dtype=out.dtype)


@operation("isnan")
def _isnan(b: Builder, out: Out, x: Node) -> Node:
    return b.map(Function.NE, x, x, dtype=x.dtype, result=torch.bool)


@operation("isinf")
def _isinf(b: Builder, out: Out, x: Node) -> Node:
    if not x.dtype.is_floating_point:
        return b.scalar(False, torch.bool, x.shape)
    return b.map(Function.EQ, b.map(Function.ABS, x, dtype=x.dtype), math.inf, dtype=x.dtype, result=torch.bool)


def _ignoring_nan(name: str, function: Function) -> None:
    @operation(name)
    def lower(b: Builder, out: Out, x: Any, y: Any) -> Node:
        x, y = b.to(x, out.dtype), b.to(y, out.dtype)
        own = b.where(_isnan(b, out, x), y, b.map(function, x, y, dtype=out.dtype), out.dtype)
        return b.where(_isnan(b, out, y), x, own, out.dtype)


_ignoring_nan("fmin", Function.MINIMUM)
_ignoring_nan("fmax", Function.MAXIMUM)


@operation("pow")
def _pow(b: Builder, out: Out, x: Any, y: Any) -> Node:
    if not isinstance(y, Node) and float(y).is_integer() and 0 <= y <= 4:
        power = b.scalar(1, out.dtype, x.shape)
        for i in range(int(y)):
            power = b.map(Function.MUL, power, x, dtype=out.dtype) if i else b.to(x, out.dtype)
        return power
    if not out.dtype.is_floating_point:
        raise NotImplementedError("a power of integers that is not a small constant")
    if not isinstance(y, Node) and y in (0.5, -0.5, -1.0, -2.0):
        base = b.map(Function.SQRT, x, dtype=out.dtype) if y in (0.5, -0.5) else x
        base = b.map(Function.MUL, x, x, dtype=out.dtype) if y == -2.0 else base
        return base if y == 0.5 else b.map(Function.QUOTIENT, 1.0, base, dtype=out.dtype)
    return b.map(Function.POW, x, y, dtype=out.dtype)


@operation("relu")
def _relu(b: Builder, out: Out, x: Node) -> Node:
    return b.where(b.map(Function.LE, x, 0, dtype=x.dtype, result=torch.bool), 0, x, x.dtype)


@operation("sigmoid")
def _sigmoid(b: Builder, out: Out, x: Node) -> Node:
    decay = b.map(Function.EXP, b.map(Function.NEG, x, dtype=out.dtype), dtype=out.dtype)
    return b.map(Function.QUOTIENT, 1.0, b.map(Function.ADD, 1.0, decay, dtype=out.dtype), dtype=out.dtype)


@operation("hardswish")
def _hardswish(b: Builder, out: Out, x: Node) -> Node:
    # Divided before it is multiplied, for six times a number may be none.
    gate = _clamp(b, out, b.map(Function.ADD, x, 3.0, dtype=out.dtype), 0.0, 6.0)
    return b.map(Function.MUL, x, b.map(Function.QUOTIENT, gate, 6.0, dtype=out.dtype), dtype=out.dtype)


@operation("threshold_backward")
def _threshold_backward(b: Builder, out: Out, grad: Node, x: Node, threshold: float) -> Node:
    return b.where(b.map(Function.LE, x, threshold, dtype=x.dtype, result=torch.bool), 0, grad, out.dtype)


@operation("where")
def _where(b: Builder, out: Out, mask: Node, x: Any, y: Any) -> Node:
    return b.where(mask, x, y, out.dtype)


@operation("masked_fill")
def _masked_fill(b: Builder, out: Out, x: Node, mask: Node, value: Any) -> Node:
    return b.where(mask, value, x, out.dtype)


@operation("clamp")
def _clamp(b: Builder, out: Out, x: Node, low: Any = None, high: Any = None) -> Node:
    # A NaN stays: it is the first argument, and wins.
    x = b.to(x, out.dtype) if low is None else b.map(Function.MAXIMUM, x, low, dtype=out.dtype)
    return x if high is None else b.map(Function.MINIMUM, x, high, dtype=out.dtype)


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
