"""What becomes of a tensor that is computed from parameters where a reset has set those to 0."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from fcbp.units.calls import Call
from fcbp.units.ledger import Brittle
from fcbp.units.marks import Marks

__all__ = ["COPIES", "QUIET", "SHIFTS", "SINGULAR", "SOLID", "loud", "weighed"]

COPIES = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "to", "lift"}
SHIFTS = {"add", "sub", "rsub"}
# Functions with f(0) = 0, whatever their other arguments; whether a reset may rely on that, SINGULAR says.
QUIET = {
    "neg", "abs", "sqrt", "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh", "sin", "tan",
    "asin", "atan", "sinh", "asinh", "atanh", "erf", "expm1", "log1p", "square", "sign", "sgn", "round",
    "hardswish", "softshrink", "hardshrink", "nan_to_num", "_prelu_kernel", "_weight_norm_interface", "div",
}  # fmt: skip
# Functions with f(0) well away from 0.
SOLID = {"exp", "exp2", "cos", "cosh", "sigmoid", "softplus", "erfc", "sinc", "softmax", "_softmax", "hardsigmoid"}
# Functions that keep a number well away from 0 so.
KEEPS_SOLID = {"abs", "neg", "square", "sqrt", "rsqrt", "reciprocal", "exp"}
# Functions with no finite value or slope at 0.
SINGULAR = {"sqrt", "rsqrt", "reciprocal", "log", "log2", "log10", "logit", "xlogy", "special_xlog1py", "pow"}


def loud(call: Call, operands: list[Marks], shape: tuple[int, ...]) -> str:
    """Why what is computed from parameters is not 0 where those are; empty where it is."""
    name = call.name
    whole = [m for m in operands if m.origin and m.shape == shape]
    if name in SHIFTS:
        return max(m.loud for m in whole) if len(whole) == len(operands) == 2 else call.where
    if name == "mul":
        return min((m.loud for m in whole), default=call.where)
    quiet = name in QUIET or name in COPIES
    if name == "pow":
        quiet = _number(call["exponent"], 0) > 0
    elif name in ("clamp", "hardtanh"):
        low, high = ("min", "max") if name == "clamp" else ("min_val", "max_val")
        quiet = _number(call[low], -math.inf) <= 0 <= _number(call[high], math.inf)
    return operands[0].loud if quiet and operands[0] in whole else call.where


def _number(x: Any, default: float) -> float:
    """A number; ``default`` for ``None``, NaN for a tensor, whose value is not known."""
    return float(x) if isinstance(x, (int, float)) else default if x is None else math.nan


def weighed(call: Call, m: Marks, keeps: bool) -> Marks:
    """A result that is computed from parameters with what becomes of it where those are 0."""
    if m.factors and call.name != "mul":
        m = replace(m, factors=None)
    if m.data or not m.origin:
        return replace(m, solid=False, brittle=frozenset()) if m.solid or m.brittle else m
    inputs = [x for x in map(call.marks, call.inputs) if x.origin and not x.data]
    brittle = frozenset().union(m.brittle, *(x.brittle for x in inputs))
    for x in _risky(call):
        if x.origin and not x.data and x.labels and not x.solid:
            call.ledger.brittle.append(Brittle(x.origin, x.label_entries(), call.where))
            brittle |= {len(call.ledger.brittle) - 1}
    return replace(m, solid=_is_solid(call, inputs, keeps), brittle=brittle)


def _risky(call: Call) -> list[Marks]:
    """Operands that must not be 0: denominators, arguments of roots and logarithms, factors that may be infinite."""
    name = call.name
    if name in SINGULAR:
        smooth = name == "pow" and _number(call["exponent"], 0) >= 1
        return [] if smooth else [call.marks(x) for x in call.inputs]
    if name == "div":
        return [call.marks(call["other"])] if isinstance(call["other"], Tensor) else []
    return [m for m in map(call.marks, call.inputs) if m.loud] if name == "mul" else []


def _is_solid(call: Call, inputs: list[Marks], keeps: bool) -> bool:
    name = call.name
    if name in SHIFTS and len(call.inputs) == 1:
        return not inputs[0].loud and abs(_number(call["other"], 0)) >= 0.01
    if name in SOLID and not any(x.loud for x in inputs):
        return True
    return (name in KEEPS_SOLID or keeps or name == "mul") and all(x.solid for x in inputs)
