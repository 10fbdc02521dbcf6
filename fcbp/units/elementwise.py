"""The rules of operations element by element: tensors that meet, copies, draws, new tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from fcbp.units.calls import Call, Table, opaque, unevenly
from fcbp.units.entries import Ids
from fcbp.units.ledger import Ledger, bits
from fcbp.units.marks import Marks, Shares, axes_of
from fcbp.units.meeting import meet
from fcbp.units.zeros import COPIES, SHIFTS, loud

__all__ = ["KEEPING_RULES", "RULES", "join", "pointwise"]

_SCALES = {"mul", "div"}


def pointwise(call: Call) -> list[Marks]:
    """Tensors that meet element by element."""
    m = join(call, [call.marks(x) for x in call.inputs], call.shape)
    return [m if tuple(x.shape) == m.shape else opaque(call, x) for x in call.results]


def join(call: Call, operands: list[Marks], shape: tuple[int, ...], kind: str | None = None) -> Marks:
    """Marks of a sum or product, element by element; ``kind`` overrides the use that parameters are put to."""
    ledger, name = call.ledger, call.name
    operands = [m.aligned(len(shape)) for m in operands]
    if kind is None:
        kind = "shift" if name in SHIFTS else "scale" if name in _SCALES else "other"
    data = [m for m in operands if m.data]
    origin: frozenset[str] = frozenset()
    factors: tuple[Marks, Marks, int] | None = None
    size = int(np.prod(shape))
    for m in operands:
        if m.data or not m.origin:
            continue
        smaller = int(np.prod(m.shape)) < size and len(operands) > 1
        if data or (smaller and kind != "other"):
            number = call.event(kind, m.origin, m.label_entries(), brittle=m.brittle)
            if name == "mul" and len(data) == 1 and len(operands) == 2:
                factors = (data[0], m, number)
        else:
            origin |= m.origin
    plain = name not in ("sub", "rsub") and all(call.arguments.get(factor, 1) == 1 for factor in ("alpha", "beta"))
    if kind == "shift" and len(data) == 1 and data[0].product and plain:
        for m in operands:
            if not m.data and len(m.origin) == 1 and m.form is None:
                ledger.bias_of.update(dict.fromkeys(data[0].product, *m.origin))
    if kind == "shift" and len(data) == 2:
        _note_residual(call, *data)
    result = operands[0]
    for m in operands[1:]:
        labels, fixed = meet(ledger, result, m, call.where)
        result = Marks(shape, labels, fixed)
    stats: frozenset[int] = frozenset().union(*(m.stats for m in operands))
    own = set(result.label_entries().tolist())
    back = frozenset(
        i for i in stats if own & set(ledger.statistics[i][0].tolist()) or (data and i in ledger.of_weights)
    )
    ledger.norms.extend(ledger.statistics[i] for i in sorted(back))
    makers = 0
    for m in operands:
        makers |= m.makers
    product = data[0].product if len(operands) == 1 and data else frozenset()
    result = replace(
        result, shape=shape, data=bool(data), origin=frozenset() if data else origin, makers=makers,
        stats=stats - back, product=product if name in COPIES else frozenset(),
        loud="" if data else loud(call, operands, shape), form=_met(ledger, data or operands),
        drawn=_drawn(call, operands), factors=factors, shares=_shared(call, operands),
    )  # fmt: skip
    others = [m for m in data if not (back & m.stats)] if len(data) > 1 else []
    if any(_stand_apart(label, m) for label in result.labels for m in others):
        return unevenly(call, result, f"meet other activations in {call.where}")
    return result


def _stand_apart(label: Ids, m: Marks) -> bool:
    """Whether units that a result holds are none of an operand's."""
    own = set(axes_of(label))
    return not any(own & set(axes_of(x)) for x in m.labels)


def _shared(call: Call, operands: list[Marks]) -> Shares | None:
    """Weights that are 1 in sum, or what is multiplied by them."""
    if len(operands) == 1 and call.name in COPIES:
        return operands[0].shares
    if call.name != "mul" or len(operands) != 2:
        return None
    for m, other in (operands, operands[::-1]):
        if m.shares is not None and m.data != other.data and math.isclose(other.drawn, 1):
            return m.shares
        if m.shares is not None and m.shares.form is None and m.data and other.data and not m.labels:
            form = np.zeros((1,) * len(other.shape), np.int64) if other.form is None else other.form
            return Shares(m.shares.places, form)
    return None


def _drawn(call: Call, operands: list[Marks]) -> float:
    """The mean of draws that are divided by a number, as a dropout's mask is by its mean."""
    by = call.arguments.get("other")
    return operands[0].drawn / by if call.name == "div" and isinstance(by, float) and by else 0.0


def _met(ledger: Ledger, operands: list[Marks]) -> Ids | None:
    """What has been done to the values of tensors that meet, position by position."""
    forms = [m.form for m in operands if m.form is not None]
    if len(operands) < 2 or not forms:
        return forms[0] if forms else None
    both = np.stack([x.ravel() for x in np.broadcast_arrays(*forms)])
    rows, where = np.unique(both, axis=1, return_inverse=True)
    new = np.array([ledger.form(("met", *map(int, row))) for row in rows.T])
    return new[where.ravel()].reshape(np.broadcast_shapes(*(x.shape for x in forms)))


def _note_residual(call: Call, a: Marks, b: Marks) -> None:
    """A sum that joins a branch with what the branch was computed from makes its units a residual stream."""
    if not (a.labels and b.labels):
        return
    events = call.ledger.events

    def weights(m: Marks) -> set[str]:
        return {name for i in bits(m.makers) for name in events[i].names}

    if weights(a) <= weights(b) or weights(b) <= weights(a):
        return  # the same weights at another time or place: a recurrence, not a skip connection
    ids = np.concatenate([a.label_entries(), b.label_entries()])
    for short, long in ((a, b), (b, a)):
        for i in bits(long.makers):
            read = events[i].read
            if read is None:
                continue
            if short.path & (read.path | read.upstream):
                call.ledger.residual.append((ids, call.where))
                return
            # A projection shortcut: the short branch is one layer on something that the long one went on from.
            starts = [r for r in (events[j].read for j in bits(short.makers)) if r is not None and r.makers]
            if any(start.path & read.upstream & ~read.path for start in starts):
                call.ledger.shortcuts.append((ids, call.where, i))


def _prelu(call: Call) -> Marks:
    return join(call, [call.marks(x) for x in call.inputs], call.shape, kind="slope")


def _dropout(call: Call) -> Marks:
    return call.first


def _bernoulli(call: Call) -> Marks | list[Marks]:
    # Draws are exchangeable: the mask of a dropout tells no units apart.
    if (
        "self" in call.arguments
        and not isinstance(call.arguments.get("p"), Tensor)
        and call.func._overloadname == "float"
    ):
        return Marks(call.shape, drawn=call["p"])
    return pointwise(call)


def _uniform(call: Call) -> Marks:
    return Marks(call.shape)


def _copy(call: Call) -> Marks:
    source = call.marks(call["src"]).aligned(len(call.shape))
    return replace(source, shape=call.shape)


KEEPING_RULES: Table = {
    pointwise: (*COPIES,),
    _dropout: ("native_dropout",),
}  # fmt: skip
"""Rules of operations through which a unit that has one constant value keeps it."""

RULES: Table = {
    # Elementwise, though not tagged so (leaky_relu: in torch 2.9).
    pointwise: ("hardswish", "leaky_relu", "log_sigmoid_forward", "rrelu_with_noise", "masked_fill"),
    _prelu: ("_prelu_kernel",),
    _bernoulli: ("bernoulli",),
    _uniform: (
        "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like",
        "ones_like", "full_like", "empty_like", "rand", "randn", "rand_like", "randn_like", "scalar_tensor",
        "empty_strided", "new_empty_strided", "fill", "zero", "normal", "uniform", "exponential",
    ),
    _copy: ("copy",),
}  # fmt: skip
"""Rules of all other operations."""
