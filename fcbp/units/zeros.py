"""The value of a tensor that is computed from parameters, where a reset has set these to 0."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from fcbp.units.calls import Call
from fcbp.units.ledger import Singularity
from fcbp.units.marks import AtZero, Marks

__all__ = ["COPIES", "NONZERO_AT_ZERO", "SHIFTS", "SINGULAR", "ZERO_AT_ZERO", "with_zeros", "zeros_lost_by"]

COPIES = {"clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "to", "lift"}
SHIFTS = {"add", "sub", "rsub"}
# Functions with f(0) = 0, whatever their other arguments. Those of SINGULAR have no finite slope there.
ZERO_AT_ZERO = {
    "neg", "abs", "sqrt", "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh", "sin", "tan",
    "asin", "atan", "sinh", "asinh", "atanh", "erf", "expm1", "log1p", "square", "sign", "sgn", "round",
    "hardswish", "softshrink", "hardshrink", "nan_to_num", "_prelu_kernel", "_weight_norm_interface", "div",
}  # fmt: skip
# Functions with f(0) well away from 0.
NONZERO_AT_ZERO = {
    "exp", "exp2", "cos", "cosh", "sigmoid", "softplus", "erfc", "sinc", "softmax", "_softmax", "hardsigmoid",
}  # fmt: skip
# Functions of a number well away from 0 that are so themselves.
KEEPS_NONZERO = {"abs", "neg", "square", "sqrt", "rsqrt", "reciprocal", "exp"}
# Functions with no finite value or slope at 0.
SINGULAR = {"sqrt", "rsqrt", "reciprocal", "log", "log2", "log10", "logit", "xlogy", "special_xlog1py", "pow"}


def zeros_lost_by(call: Call, operands: list[Marks], shape: tuple[int, ...]) -> str:
    """Return the operation by which a tensor is not 0 where its parameters are 0; empty where it is 0."""
    name = call.name
    whole = [m for m in operands if m.origin and m.shape == shape]
    if name in SHIFTS:
        return max(m.at_zero.lost_by for m in whole) if len(whole) == len(operands) == 2 else call.where
    if name == "mul":
        return min((m.at_zero.lost_by for m in whole), default=call.where)
    keeps_zero = name in ZERO_AT_ZERO or name in COPIES
    if name == "pow":
        keeps_zero = _number(call["exponent"], 0) > 0
    elif name in ("clamp", "hardtanh"):
        low, high = ("min", "max") if name == "clamp" else ("min_val", "max_val")
        keeps_zero = _number(call[low], -math.inf) <= 0 <= _number(call[high], math.inf)
    return operands[0].at_zero.lost_by if keeps_zero and operands[0] in whole else call.where


def _number(x: Any, default: float) -> float:
    """Return a number, ``default`` for ``None``, NaN for a tensor, whose value is not known."""
    return float(x) if isinstance(x, (int, float)) else default if x is None else math.nan


def with_zeros(call: Call, m: Marks, keeps_constants: bool) -> Marks:
    """Return a result with its value where the parameters that it is computed from are 0."""
    if m.factors and call.name != "mul":
        m = replace(m, factors=None)
    if m.is_activation or not m.origin:
        return replace(m, at_zero=AtZero(m.at_zero.lost_by))
    inputs = [x for x in map(call.marks, call.inputs) if x.origin and not x.is_activation]
    singularities = frozenset().union(m.at_zero.singularities, *(x.at_zero.singularities for x in inputs))
    for x in _risky(call):
        if x.origin and not x.is_activation and x.labels and not x.at_zero.nonzero:
            call.ledger.singularities.append(Singularity(x.origin, x.label_entries(), call.where))
            singularities |= {len(call.ledger.singularities) - 1}
    nonzero = _is_nonzero(call, inputs, keeps_constants)
    return replace(m, at_zero=AtZero(m.at_zero.lost_by, nonzero, singularities))


def _risky(call: Call) -> list[Marks]:
    """List operands that must not be 0: denominators, arguments of roots and logs, factors that may be infinite."""
    name = call.name
    if name in SINGULAR:
        smooth = name == "pow" and _number(call["exponent"], 0) >= 1
        return [] if smooth else [call.marks(x) for x in call.inputs]
    if name == "div":
        return [call.marks(call["other"])] if isinstance(call["other"], Tensor) else []
    return [m for m in map(call.marks, call.inputs) if m.at_zero.lost_by] if name == "mul" else []


def _is_nonzero(call: Call, inputs: list[Marks], keeps_constants: bool) -> bool:
    """Whether a result is a number well away from 0 where the parameters are 0."""
    name = call.name
    if name in SHIFTS and len(call.inputs) == 1:
        return not inputs[0].at_zero.lost_by and abs(_number(call["other"], 0)) >= 0.01
    if name in NONZERO_AT_ZERO and not any(x.at_zero.lost_by for x in inputs):
        return True
    return (name in KEEPS_NONZERO or keeps_constants or name == "mul") and all(x.at_zero.nonzero for x in inputs)
