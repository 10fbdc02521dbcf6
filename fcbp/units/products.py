"""The rules of sums over axes: reductions, and products of activations with weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from fcbp.units.calls import Call, Table, flow_out, mark_uneven, unknown
from fcbp.units.elementwise import join, pointwise
from fcbp.units.entries import Ids, Unevenness
from fcbp.units.ledger import Singularity, names_of
from fcbp.units.marks import Marks, axes_of, numbered, shares_of
from fcbp.units.meeting import Operand, contract, history_along, meet, reduce

__all__ = ["KEEPING_RULES", "RULES", "biased", "note_norm", "product", "summed"]


def _reduction(call: Call) -> Marks | list[Marks]:
    if len(call.inputs) == 2:
        return pointwise(call)
    m = call.first
    dims = call.arguments.get("dim")
    axes = list(range(len(m.shape))) if dims is None or dims == [] else dims if isinstance(dims, list) else [dims]
    if m.factors and call.name in ("sum", "mean"):
        read = _summed_product(call, m, *m.factors, axes)
        if read is not None:
            return read
    if m.shares and call.name in ("sum", "mean") and m.shares.whole(a % len(m.shape) for a in axes):
        uneven = Unevenness(f"are averaged at several places by {call.where}")
        m = replace(m, history=history_along(call.ledger, m.shares.history, [a % len(m.shape) for a in axes], uneven))
    across = call.name in ("amax", "amin", "max", "min")
    result = summed(call, m, axes, bool(call.arguments.get("keepdim", False)), across)
    both = call.name in ("var_mean", "std_mean")
    if len(call.results) == 2 and not both:
        for label in m.labels:
            if {a % len(m.shape) for a in axes} & set(axes_of(label)) and not across:
                call.ledger.pin(label, call.where)
        return [result]
    return [result] * len(call.results)


def _summed_product(call: Call, m: Marks, x: Marks, w: Marks, number: int, axes: Sequence[int]) -> Marks | None:
    """Return the marks of ``(x * w).sum(axes)`` if the weight has an entry for each summed unit, else ``None``."""
    ledger = call.ledger
    over = {a % len(m.shape) for a in axes}
    weighted = {a for label in w.labels for a in axes_of(label)}
    reads = w.label_entries(over)
    if not len(reads) or any(over & set(axes_of(label)) - weighted for label in m.labels):
        ledger.kept_scales.add(number)
        return None
    ledger.summed_scales.add(number)
    makes = np.concatenate([np.zeros(0, np.int64), *(y.ravel() for y in w.labels if not over & set(axes_of(y)))])
    result, _ = reduce(ledger, m, axes, bool(call.arguments.get("keepdim", False)), call.where)
    made = _record_reading(call, x, w, makes, reads)
    call.starts_anew = True
    whole = w.origin if w.history is None and call.name == "sum" else frozenset()
    return replace(result, is_activation=True, makers=1 << made, product_of=whole, statistics=x.statistics)


def summed(call: Call, m: Marks, axes: Sequence[int], keepdim: bool, across: bool = False) -> Marks:
    """Return the marks of a reduction; units that are reduced over become statistics."""
    result, ids = reduce(call.ledger, m, axes, keepdim, call.where, across)
    result = replace(result, drawn_mean=0.0).loses_zeros(call.where)
    if len(ids) and (m.is_activation or m.origin):
        number = len(call.ledger.statistics)
        call.ledger.statistics.append((ids, call.where))
        if not m.is_activation:
            call.ledger.weight_statistics.add(number)
        result = replace(result, statistics=result.statistics | {number})
    return result


def _softmax(call: Call) -> Marks:
    m = call.first
    note_norm(call, m, [call["dim"] % len(m.shape)])
    shares = shares_of(m.shape, call["dim"] % len(m.shape)) if m.is_activation and "log" not in call.name else None
    return replace(m, product_of=frozenset(), shares=shares).loses_zeros(call.where)


def note_norm(call: Call, m: Marks, axes: Sequence[int], why: str | None = None) -> None:
    """Note a norm along the axes: its rows differ, and the units within one share statistics."""
    why = why or call.where
    for label in m.labels:
        own = set(axes_of(label))
        if own & set(axes):
            rest = sorted(own - set(axes))
            if rest:
                call.ledger.tell_apart(label, numbered(m.shape, rest), why)
            call.ledger.norms.append((np.unique(label[label >= 0]), why))


# --- products -------------------------------------------------------------------------------------------


def product(call: Call, x: Marks, w: Marks, spec: str, sizes: dict[str, int], uneven: str = "") -> Marks:
    """Take an einsum of two operands, and record the event of a weight that meets an activation.

    Args:
        call: the operation.
        x: the first operand.
        w: the second operand.
        spec: the einsum, such as ``"bi,oi->bo"``.
        sizes: the length of the axis of each letter.
        uneven: the reason for which a constant unit does not add the same everywhere, if there is one.
    """
    ledger = call.ledger
    averaged = _averaged(x, w, spec)
    result, entries = contract(ledger, x, w, spec, sizes, call.where, averaged)
    call.starts_anew = True
    if x.is_activation and w.is_activation:
        for side in ("a", "b"):
            ledger.forbid(entries[f"{side}_summed"], f"they meet other activations in a dot product ({call.where})")
            if len(entries[f"{side}_kept"]):
                ledger.value_channels.append((entries[f"{side}_kept"], call.where))
        result = replace(result, is_activation=True, makers=x.makers | w.makers, statistics=x.statistics | w.statistics)
        return result if averaged else mark_uneven(call, result, f"are weighted by other activations in {call.where}")
    for state, other in ((x, w), (w, x)):
        if not x.is_activation and not w.is_activation and other.origin and state.origin and _is_expanded(state):
            # The initial state of a recurrence is a parameter, the same for all examples: it stands for an activation.
            call.event("shift", state.origin, state.label_entries())
            x, w = (replace(m, is_activation=m.is_activation or m is state) for m in (x, w))
            break
    if not x.is_activation and not w.is_activation and bool(x.origin) == bool(w.origin):
        both = np.concatenate([entries["a_summed"], entries["b_summed"]])
        ledger.forbid(both, f"two parameters or constants are multiplied with each other ({call.where}): no activation")
        lost_by = max(x.at_zero.lost_by, w.at_zero.lost_by)
        return replace(result, origin=x.origin | w.origin).loses_zeros(lost_by)
    # A constant (an initial state of zeros) that meets a parameter stands for an activation.
    (source, weight, side) = (x, w, "b") if x.is_activation or not (x.origin or w.is_activation) else (w, x, "a")
    number = _record_reading(call, source, weight, entries[f"{side}_kept"], entries[f"{side}_summed"], uneven)
    whole = weight.origin if weight.history is None else frozenset()
    result = replace(result, is_activation=True, makers=1 << number, product_of=whole)
    spread = _spread(*((x, w, spec) if side == "b" else (w, x, _swapped(spec))), sizes)
    if len(spread):
        return mark_uneven(call, result, f"are weighted by the entries of a matrix in {call.where}", spread)
    return result


def _swapped(spec: str) -> str:
    """Put the operands of an einsum in the other order."""
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    return f"{right},{left}->{output}"


def _spread(source: Marks, matrix: Marks, spec: str, sizes: dict[str, int]) -> Ids:
    """Find the entries whose units a matrix passes on as several sums of their values, each with weights of its own.

    A graph's adjacency does so, and so do the weights that mix positions or tokens.
    """
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    summed = any(c not in output and sizes[c] > 1 for c in right)
    several = any(c in output and c not in left and sizes[c] > 1 for c in right)
    met = {right[a] for label in matrix.labels for a in axes_of(label)}
    passed = [
        label.ravel()
        for label in source.labels
        if all(left[a] in output and left[a] not in met for a in axes_of(label))
    ]
    ids = np.unique(np.concatenate(passed)) if summed and several and passed else np.zeros(0, dtype=np.int64)
    return ids[ids >= 0]


def _averaged(x: Marks, w: Marks, spec: str) -> Operand:
    """Return the activation of which the other one, weights that are 1 in sum, makes a mean; empty for none."""
    if not (x.is_activation and w.is_activation):
        return ""
    inputs, output = spec.split("->")
    others: tuple[Operand, Operand] = ("b", "a")
    for weights, letters, other in zip((x, w), inputs.split(","), others, strict=True):
        summed = [i for i, c in enumerate(letters) if c not in output]
        if weights.shares and weights.shares.history is None and not weights.labels and weights.shares.whole(summed):
            return other
    return ""


def _record_reading(call: Call, source: Marks, weight: Marks, makes: Ids, reads: Ids, uneven: str = "") -> int:
    """Record the event of a weight that reads an activation, and return its number."""
    flow_out(call.ledger, source, call.where)
    call.ledger.norms.extend(call.ledger.statistics[i] for i in sorted(weight.statistics))
    if weight.at_zero.lost_by:
        through = f"{names_of(weight.origin)} reads them through {weight.at_zero.lost_by}"
        call.ledger.forbid(reads, f"{through}, so a weight of 0 does not silence them")
    return call.event("product", weight.origin, makes, reads, source, weight.at_zero.singularities, uneven)


def _is_expanded(m: Marks) -> bool:
    """Tell whether a tensor repeats itself along an axis, or along a part of an axis that was flattened."""
    arrays = [*m.labels, *(f.values for f in m.fixed)]
    if any(len(np.unique(own)) < len(own) for own in (x[x >= 0] for x in m.labels)):
        return True
    return any(n > 1 and all(x.shape[a] == 1 for x in arrays) for a, n in enumerate(m.shape))


def biased(call: Call, m: Marks, bias: Tensor | None, shape: Sequence[int]) -> Marks:
    """Add the operation's own bias in a shape, if there is one."""
    if bias is None:
        return m
    return join(call, [m, call.marks(bias).viewed(shape)], m.shape, kind="shift")


def _matmul(call: Call) -> Marks | list[Marks]:
    names = {"bmm": ("self", "mat2"), "mm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "mv": ("self", "vec"),
             "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec"), "dot": ("self", "tensor"),
             "linear": ("input", "weight"), "matmul": ("self", "other")}[call.name]  # fmt: skip
    a, b = (call.marks(call[n]) for n in names)
    bias = call.arguments.get("self") if call.name.startswith(("add", "badd")) else call.arguments.get("bias")
    if call.name == "linear":
        b = b.permuted(range(len(b.shape))[::-1])
    if call.name in ("linear", "matmul") and (len(b.shape) != 2 or len(a.shape) < 2):
        return unknown(call)
    lead = "abcdefgh"[: len(a.shape) - 2]
    if len(b.shape) == 1:
        left, right, out = ("k", "k", "") if len(a.shape) == 1 else ("ik", "k", "i")
    else:
        left, right, out = f"{lead}ik", "kj" if len(b.shape) == 2 else f"{lead}kj", f"{lead}ij"
    sizes = dict(zip(left + right, a.shape + b.shape, strict=True))
    m = product(call, a, b, f"{left},{right}->{out}", sizes)
    return m if bias is None else join(call, [m, call.marks(bias)], call.shape, kind="shift")


def _trilinear(call: Call) -> Marks | list[Marks]:
    """Sum a weight that reads two activations at once, as the one of ``nn.Bilinear`` does, over one joint space."""
    widened = []
    for k in "123":
        m, shape = call.marks(call[f"i{k}"]), list(call[f"i{k}"].shape)
        for d in sorted(call[f"expand{k}"]):
            shape.insert(d, 1)
        widened.append(m.viewed(shape))
    a, w, b = widened
    if not (a.is_activation and b.is_activation and w.origin):
        return unknown(call)
    joint = a
    for m in (w, b):
        labels, fixed = meet(call.ledger, joint, m, call.where)
        joint = Marks(np.broadcast_shapes(joint.shape, m.shape), labels, fixed)
    result, _ = reduce(call.ledger, joint, call["sumdim"], False, call.where)
    call.starts_anew = True
    makers = 0
    makes = [x.ravel() for x in w.labels if not set(axes_of(x)) & set(call["sumdim"])]
    for m in (a, b):
        read = [d for d in call["sumdim"] if m.shape[d] > 1]
        makers |= 1 << _record_reading(
            call, m, w, np.concatenate([np.zeros(0, np.int64), *makes]), w.label_entries(read)
        )
    return replace(result, is_activation=True, makers=makers)


def _weight_norm(call: Call) -> Marks | list[Marks]:
    """Take ``g * v / norm(v)``: each entry of one axis has a norm of its own, over all other axes."""
    v, g, dim = call.marks(call["v"]), call.marks(call["g"]), call["dim"]
    if v.is_activation or g.is_activation:
        return unknown(call)
    # torch takes -1 for one norm of the whole weight.
    axes = [a for a in range(len(v.shape)) if dim == -1 or a != dim % len(v.shape)]
    note_norm(call, v, axes)
    own = v.label_entries([a for a in range(len(v.shape)) if a not in axes])
    ledger = call.ledger
    if len(own):
        # Where the weight reads units along this axis, a v of 0 gives 0 / 0; the gain can be 0.
        gain = next(iter(g.origin), "") if len(g.origin) == 1 and g.history is None else ""
        ledger.singularities.append(Singularity(v.origin, own, call.where, gain))
        v = v.singular({len(ledger.singularities) - 1})
    return join(call, [v, g], call.shape, kind="scale").singular(v.at_zero.singularities)


KEEPING_RULES: Table = {
    _reduction: ("mean", "amax", "amin", "max", "min"),
}  # fmt: skip
"""Rules of operations through which a unit that has one constant value keeps it."""

RULES: Table = {
    _reduction: (
        "sum", "var", "std", "var_mean", "prod", "logsumexp", "linalg_vector_norm", "norm", "any", "all", "nansum",
        "std_mean",
    ),
    _softmax: ("_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax"),
    _matmul: ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "linear", "matmul"),
    _trilinear: ("_trilinear",),
    _weight_norm: ("_weight_norm_interface", "_weight_norm"),
}  # fmt: skip
"""Rules of all other operations."""
