"""The rule of each ATen operation, by name: the change that the operation makes to the marks of its tensors.

Operations without a rule of their own that torch calls elementwise have the rule ``pointwise``, all others ``unknown``:
the units of their inputs cannot be reset, and their results vary along every axis. So an unknown operation costs
groups, never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from fcbp.units import elementwise, layers, movement, products
from fcbp.units.calls import Call, Rule, Table, Watcher, opaque, unknown
from fcbp.units.elementwise import pointwise
from fcbp.units.marks import Marks
from fcbp.units.meeting import with_step
from fcbp.units.zeros import COPIES, with_zeros

__all__ = ["KEEPING", "RULES", "apply"]


def _by_name(*tables: Table) -> dict[str, Rule]:
    """Merge tables of rules."""
    return {name: rule for table in tables for rule, names in table.items() for name in names}


_TABLES = (
    elementwise.KEEPING_RULES, movement.KEEPING_RULES, products.KEEPING_RULES, layers.KEEPING_RULES,
    elementwise.RULES, movement.RULES, products.RULES, layers.RULES,
)  # fmt: skip
RULES = _by_name(*_TABLES)
"""The rule of each operation that has one of its own, by name."""

KEEPING = frozenset(_by_name(*_TABLES[:4]))
"""Operations through which a unit that has one constant value keeps it."""


_SHARING = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten", "t",
    "transpose", "permute", "numpy_T", "swapaxes", "movedim", "expand", "select", "unbind", "flip", "roll", "copy",
    "native_dropout", "_softmax", "softmax", "_safe_softmax", "mul", *COPIES,
}  # fmt: skip
"""Operations whose results may be weights that are 1 in sum: they move those, draw among them or make them."""


def apply(
    tracer: Watcher,
    func: OpOverload,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    inputs: list[Tensor],
    results: list[Tensor],
) -> list[Marks]:
    """Return the marks of an operation's results.

    Args:
        tracer: the tracer that watches the forward.
        func: the operation.
        args: its positional arguments.
        kwargs: its keyword arguments.
        inputs: the tensors among its arguments.
        results: the tensors that it returned.
    """
    call = Call(tracer, func, args, kwargs, inputs, results)
    if call.name not in ("sum", "mean"):
        call.ledger.kept_scales.update(m.factors.event for m in map(call.marks, inputs) if m.factors)
    rule = RULES.get(call.name) or (pointwise if torch.Tag.pointwise in func.tags else unknown)
    marks = rule(call)
    found = marks if isinstance(marks, list) else [marks]
    # Nothing is known of side results, such as saved statistics and indices.
    found = found + [opaque(call, x) for x in results[len(found) :]]
    if call.name not in _SHARING:
        found = [replace(m, shares=None) for m in found]
    return _traced(call, [with_zeros(call, _with_history(call, m), call.name in KEEPING) for m in found])


def _with_history(call: Call, m: Marks) -> Marks:
    """Add the operation to the history of a result's units."""
    if not m.labels or not (m.is_activation or m.origin) or call.name in KEEPING:
        return m
    inputs = [call.marks(x) for x in call.inputs]
    if m.is_activation and call.name == "mul" and any(math.isclose(x.drawn_mean, 1) for x in inputs):
        return m  # a dropout keeps a unit's mean
    step: list[str] = [
        call.name,
        *(f"{name}={x}" for name, x in call.arguments.items() if _is_plain(x)),
        *sorted(name for x in inputs if not x.is_activation for name in x.origin),
    ]
    if any(not x.is_activation and not x.origin for x in inputs):
        step.append(f"constant {len(call.ledger.histories)}")
    return with_step(call.ledger, m, step)


def _is_plain(x: Any) -> bool:
    """Whether an argument is a number, a text or a list of these."""
    if isinstance(x, list):
        return not any(isinstance(entry, Tensor) for entry in x)
    return isinstance(x, (bool, int, float, str))


def _traced(call: Call, results: list[Marks]) -> list[Marks]:
    """Note the tensors that the results were computed from."""
    inputs = [m for m in map(call.marks, call.inputs) if m.is_activation]
    upstream = path = 0
    for m in inputs:
        upstream |= m.upstream | m.path
        path |= m.path
    if not upstream and not any(m.is_activation and m.labels for m in results):
        return results
    out: list[Marks] = []
    for m in results:
        # A bit for each: the steps of a sequence are results of one operation.
        own = call.ledger.next_bit()
        out.append(replace(m, path=own if call.starts_anew else own | path, upstream=upstream))
    return out
