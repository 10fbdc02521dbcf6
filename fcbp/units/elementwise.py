"""The rules of operations element by element: tensors that meet, copies, draws, new tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from torch import Tensor

from fcbp.units.calls import Call, Table, mark_uneven, opaque
from fcbp.units.entries import Ids
from fcbp.units.ledger import Kind, Ledger, bits
from fcbp.units.marks import Factors, Marks, Shares, axes_of
from fcbp.units.meeting import meet
from fcbp.units.zeros import COPIES, SHIFTS, zeros_lost_by

__all__ = ["KEEPING_RULES", "RULES", "join", "pointwise"]

_SCALES = {"mul", "div"}


def pointwise(call: Call) -> list[Marks]:
    """Apply the rule of tensors that meet element by element."""
    m = join(call, [call.marks(x) for x in call.inputs], call.shape)
    return [m if tuple(x.shape) == m.shape else opaque(call, x) for x in call.results]


def join(call: Call, operands: list[Marks], shape: tuple[int, ...], kind: Kind | None = None) -> Marks:
    """Return the marks of a sum, a product or another function, element by element.

    Args:
        call: the operation.
        operands: the marks of the tensors that meet.
        shape: the result's.
        kind: the use of the parameters among them, by default as the operation's name says.
    """
    ledger, name = call.ledger, call.name
    operands = [m.aligned(len(shape)) for m in operands]
    if kind is None:
        kind = "shift" if name in SHIFTS else "scale" if name in _SCALES else "other"
    activations = [m for m in operands if m.is_activation]
    origin: frozenset[str] = frozenset()
    factors: Factors | None = None
    size = int(np.prod(shape))
    for m in operands:
        if m.is_activation or not m.origin:
            continue
        smaller = int(np.prod(m.shape)) < size and len(operands) > 1
        if activations or (smaller and kind != "other"):
            number = call.event(kind, m.origin, m.label_entries(), singularities=m.at_zero.singularities)
            if name == "mul" and len(activations) == 1 and len(operands) == 2:
                factors = Factors(activations[0], m, number)
        else:
            origin |= m.origin
    plain = name not in ("sub", "rsub") and all(call.arguments.get(factor, 1) == 1 for factor in ("alpha", "beta"))
    if kind == "shift" and len(activations) == 1 and activations[0].product_of and plain:
        for m in operands:
            if not m.is_activation and len(m.origin) == 1 and m.history is None:
                ledger.bias_of.update(dict.fromkeys(activations[0].product_of, *m.origin))
    if kind == "shift" and len(activations) == 2:
        _note_residual(call, *activations)
    result = operands[0]
    for m in operands[1:]:
        labels, fixed = meet(ledger, result, m, call.where)
        result = Marks(shape, labels, fixed)
    statistics: frozenset[int] = frozenset().union(*(m.statistics for m in operands))
    back = _met_again(ledger, statistics, result, bool(activations))
    ledger.norms.extend(ledger.statistics[i] for i in sorted(back))
    makers = 0
    for m in operands:
        makers |= m.makers
    is_copy = name in COPIES and len(operands) == 1 and bool(activations)
    result = replace(
        result,
        shape=shape,
        is_activation=bool(activations),
        origin=frozenset() if activations else origin,
        makers=makers,
        statistics=statistics - back,
        product_of=activations[0].product_of if is_copy else frozenset(),
        history=_common_history(ledger, activations or operands),
        factors=factors,
        drawn_mean=_drawn_mean(call, operands),
        shares=_shares_after(call, operands),
    ).loses_zeros("" if activations else zeros_lost_by(call, operands, shape))
    others = [m for m in activations if not (back & m.statistics)] if len(activations) > 1 else []
    if any(_stand_apart(label, m) for label in result.labels for m in others):
        return mark_uneven(call, result, f"meet other activations in {call.where}")
    return result


def _met_again(ledger: Ledger, statistics: frozenset[int], m: Marks, is_activation: bool) -> frozenset[int]:
    """Return the statistics over units that meet these units again, or that a weight brings to an activation."""
    own = set(m.label_entries().tolist())
    return frozenset(
        i
        for i in statistics
        if own & set(ledger.statistics[i][0].tolist()) or (is_activation and i in ledger.weight_statistics)
    )


def _stand_apart(label: Ids, m: Marks) -> bool:
    """Whether none of the units of a label are an operand's."""
    own = set(axes_of(label))
    return not any(own & set(axes_of(x)) for x in m.labels)


def _shares_after(call: Call, operands: list[Marks]) -> Shares | None:
    """Return the weights that are 1 in sum, or the values that they multiply, after an operation."""
    if len(operands) == 1 and call.name in COPIES:
        return operands[0].shares
    if call.name != "mul" or len(operands) != 2:
        return None
    for m, other in (operands, operands[::-1]):
        if m.shares is not None and m.is_activation != other.is_activation and math.isclose(other.drawn_mean, 1):
            return m.shares
        if (
            m.shares is not None
            and m.shares.history is None
            and m.is_activation
            and other.is_activation
            and not m.labels
        ):
            history = np.zeros((1,) * len(other.shape), np.int64) if other.history is None else other.history
            return Shares(m.shares.places, history)
    return None


def _drawn_mean(call: Call, operands: list[Marks]) -> float:
    """Return the mean of draws that are divided by a number, as a dropout's mask is by its mean."""
    by = call.arguments.get("other")
    return operands[0].drawn_mean / by if call.name == "div" and isinstance(by, float) and by else 0.0


def _common_history(ledger: Ledger, operands: list[Marks]) -> Ids | None:
    """Return the common history, position by position, of tensors that meet."""
    histories = [m.history for m in operands if m.history is not None]
    if len(operands) < 2 or not histories:
        return histories[0] if histories else None
    both = np.stack([x.ravel() for x in np.broadcast_arrays(*histories)])
    rows, where = np.unique(both, axis=1, return_inverse=True)
    new = np.array([ledger.history_number(("met", *map(int, row))) for row in rows.T])
    return new[where.ravel()].reshape(np.broadcast_shapes(*(x.shape for x in histories)))


def _note_residual(call: Call, a: Marks, b: Marks) -> None:
    """Note a residual stream, where a sum joins a branch and the tensor that the branch was computed from."""
    if not (a.labels and b.labels):
        return
    events = call.ledger.events

    def weights(m: Marks) -> set[str]:
        return {name for i in bits(m.makers) for name in events[i].names}

    if weights(a) <= weights(b) or weights(b) <= weights(a):
        return  # the same weights at another time or place are a recurrence, no skip connection
    ids = np.concatenate([a.label_entries(), b.label_entries()])
    for short, long in ((a, b), (b, a)):
        for i in bits(long.makers):
            read = events[i].activation
            if read is None:
                continue
            if short.path & (read.path | read.upstream):
                call.ledger.residuals.append((ids, call.where))
                return
                # A projection shortcut: the short branch is one layer, on a tensor that the long one went on from.
            starts = [r for r in (events[j].activation for j in bits(short.makers)) if r is not None and r.makers]
            if any(start.path & read.upstream & ~read.path for start in starts):
                call.ledger.shortcuts.append((ids, call.where, i))


def _prelu(call: Call) -> Marks:
    return join(call, [call.marks(x) for x in call.inputs], call.shape, kind="slope")


def _dropout(call: Call) -> Marks:
    return call.first


def _bernoulli(call: Call) -> Marks | list[Marks]:
    # Draws can be exchanged: the mask of a dropout tells no units apart.
    if (
        "self" in call.arguments
        and not isinstance(call.arguments.get("p"), Tensor)
        and call.func._overloadname == "float"
    ):
        return Marks(call.shape, drawn_mean=call["p"])
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
