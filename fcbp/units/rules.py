"""What each ATen operation does to the marks of its tensors.

An operation without a rule of its own ends all knowledge of the axes it touches: its inputs' units cannot be reset and
its output varies along every axis. So an unknown operation costs groups, never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fcbp.units.ledger import Event, Ids, Ledger
from fcbp.units.marks import Marks, Shares, axes_of, meet, varying
from fcbp.units.zeros import COPIES, SHIFTS, loud, weighed

if TYPE_CHECKING:
    from fcbp.units.trace import Tracer

__all__ = ["Call", "apply", "bits", "flow_out", "join", "pointwise", "rule", "unevenly", "unknown"]

Rule = Callable[["Call"], "Marks | list[Marks | None] | None"]
_RULES: dict[str, Rule] = {}
_KEEPS: set[str] = set()


class Call:
    """One operation: its arguments by name, its tensors, and the tracer that watches."""

    def __init__(
        self, tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor], out: Any
    ):
        self.tracer, self.ledger, self.func = tracer, tracer.ledger, func
        self.inputs: list[Tensor] = inputs
        self.results: list[Tensor] = out
        name: str = func._schema.name.split("::")[-1]
        self.name = name if name.endswith("__") else name.removesuffix("_")
        # Whether the results are new values: products, and parts of a longer axis (one step of a sequence).
        self.cuts = False
        names = [a.name for a in func._schema.arguments]
        defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        self.arguments: dict[str, Any] = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        self.where = tracer.where(func)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def marks(self, x: Tensor) -> Marks:
        return self.tracer.marks(x)

    @property
    def first(self) -> Marks:
        return self.marks(self.inputs[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The first result's."""
        return tuple(self.results[0].shape)

    def event(
        self,
        kind: str,
        names: frozenset[str],
        makes: Ids,
        reads: Ids | None = None,
        read: Marks | None = None,
        brittle: frozenset[int] = frozenset(),
        uneven: str = "",
    ) -> int:
        """Record a use of the parameters ``names``."""
        modules = tuple((path, m) for path, m in reversed(self.tracer.modules) if m is not None)
        reads = np.zeros(0, dtype=np.int64) if reads is None else reads
        return self.ledger.record(Event(kind, names, makes, reads, self.where, modules, read, brittle, uneven))


def apply(
    tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor], out: list[Tensor]
) -> list[Marks | None]:
    """Marks of an operation's results; ``None`` where a result keeps those it has."""
    call = Call(tracer, func, args, kwargs, inputs, out)
    factors = [m.factors[2] for m in map(call.marks, inputs) if m.factors and call.name not in ("sum", "mean")]
    tracer.ledger.kept.update(factors)
    known = _RULES.get(call.name) or (pointwise if torch.Tag.pointwise in func.tags else unknown)
    marks = known(call)
    found = marks if isinstance(marks, list) else [marks]
    if len(found) < len(out):
        # Side results (saved statistics, indices): nothing is known of them.
        found = found + [_opaque(call, x) for x in out[len(found) :]]
    if call.name not in _SHARING:
        found = [m and replace(m, shares=None) for m in found]
    return _traced(call, [m and weighed(call, _formed(call, m), call.name in _KEEPS) for m in found])


# Operations whose results may be weights that are 1 in sum: they move those, draw among them or make them.
_SHARING = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten", "t",
    "transpose",
    "permute", "numpy_T", "swapaxes", "movedim", "expand", "select", "unbind", "flip", "roll", "copy", "native_dropout",
    "_softmax", "softmax", "_safe_softmax", "mul", *COPIES,
}  # fmt: skip


def _formed(call: Call, m: Marks) -> Marks:
    """A result with the number of what has been done to its units' values."""
    if not m.labels or not (m.data or m.origin) or call.name in _KEEPS:
        return m
    inputs = [call.marks(x) for x in call.inputs]
    if m.data and call.name == "mul" and any(math.isclose(x.drawn, 1) for x in inputs):
        return m  # a dropout, which keeps a unit's mean
    what: tuple[Any, ...] = (
        call.name,
        *(f"{name}={x}" for name, x in call.arguments.items() if isinstance(x, (bool, int, float, str, list)) and not
          _has_tensor(x)),
        *sorted(name for x in inputs if not x.data for name in x.origin),
    )  # fmt: skip
    if any(not x.data and not x.origin for x in inputs):
        what = (*what, f"constant {len(call.ledger.forms)}")
    old = np.zeros((1,) * len(m.shape), dtype=np.int64) if m.form is None else m.form
    ids, where = np.unique(old, return_inverse=True)
    new = np.array([call.ledger.form((*what, int(i))) for i in ids])
    return replace(m, form=new[where].reshape(old.shape))


def unevenly(call: Call, m: Marks, why: str) -> Marks:
    """A result of which a constant unit is no constant."""
    old = np.zeros((1,) * len(m.shape), dtype=np.int64) if m.form is None else m.form
    ids, where = np.unique(old, return_inverse=True)
    number = len(call.ledger.forms)
    new = np.array([call.ledger.form((call.name, f"call {number}", int(i)), why) for i in ids])
    return replace(m, form=new[where].reshape(old.shape))


def _has_tensor(x: Any) -> bool:
    return isinstance(x, list) and any(isinstance(entry, Tensor) for entry in x)


def _traced(call: Call, results: list[Marks | None]) -> list[Marks | None]:
    """The results with the tensors they were computed from."""
    inputs = [m for m in map(call.marks, call.inputs) if m.data]
    upstream = path = 0
    for m in inputs:
        upstream |= m.upstream | m.path
        path |= m.path
    if not upstream and not any(m is not None and m.data and m.labels for m in results):
        return results
    out: list[Marks | None] = []
    for marks in results:
        # A bit for each: the steps of a sequence are results of one operation.
        own = call.tracer.next_bit()
        out.append(marks and replace(marks, path=own if call.cuts else own | path, upstream=upstream))
    return out


def flow_out(tracer: Tracer, marks: Marks, to: str) -> None:
    """Statistics over units that reach something other than these units are read without a weight."""
    for i in marks.stats - tracer.ledger.of_weights:
        ids, why = tracer.ledger.statistics[i]
        tracer.ledger.forbid(ids, f"{why} reads them without a weight and passes the result to {to}")


def rule(*names: str, keeps: bool = False) -> Callable[[Rule], Rule]:
    """Register the rule of the operations ``aten.<name>`` (and of their in-place forms).

    ``keeps``: a unit whose value is one constant has it still, wherever it goes.
    """

    def register(f: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, f))
        _KEEPS.update(names if keeps else ())
        return f

    return register


def _opaque(call: Call, x: Tensor) -> Marks:
    data = any(call.marks(t).data for t in call.inputs)
    return Marks(tuple(x.shape), fixed=varying(x.shape, call.where), data=data)


def unknown(call: Call) -> list[Marks | None]:
    """Ends all knowledge."""
    for x in call.inputs:
        m = call.marks(x)
        call.ledger.forbid(m.label_entries(), f"they pass through {call.where}, which cannot be followed")
        flow_out(call.tracer, m, call.where)
    return [_opaque(call, x) for x in call.results]


# --- elementwise ----------------------------------------------------------------------------------------

_SCALES = {"mul", "div"}


def pointwise(call: Call) -> list[Marks | None]:
    """Tensors that meet element by element."""
    m = join(call, [call.marks(x) for x in call.inputs], call.shape)
    return [m if tuple(x.shape) == m.shape else _opaque(call, x) for x in call.results]


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


def bits(x: int) -> list[int]:
    """The bits that are set."""
    return [i for i in range(x.bit_length()) if x >> i & 1]


# Elementwise, though not tagged so (leaky_relu: in torch 2.9).
_UNTAGGED = {"hardswish", "leaky_relu", "log_sigmoid_forward", "rrelu_with_noise", "masked_fill"}


@rule(*COPIES, keeps=True)
@rule(*_UNTAGGED)
def _elementwise(call: Call) -> list[Marks | None]:
    return pointwise(call)


@rule("_prelu_kernel")
def _prelu(call: Call) -> Marks:
    return join(call, [call.marks(x) for x in call.inputs], call.shape, kind="slope")


@rule("native_dropout", keeps=True)
def _dropout(call: Call) -> Marks:
    return call.first


@rule("bernoulli")
def _bernoulli(call: Call) -> Marks | list[Marks | None]:
    # Draws are exchangeable: the mask of a dropout tells no units apart.
    if (
        "self" in call.arguments
        and not isinstance(call.arguments.get("p"), Tensor)
        and call.func._overloadname == "float"
    ):
        return Marks(call.shape, drawn=call["p"])
    return pointwise(call)


@rule(
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like",
    "full_like", "empty_like", "rand", "randn", "rand_like", "randn_like", "scalar_tensor", "empty_strided",
    "new_empty_strided", "fill", "zero", "normal", "uniform", "exponential",
)  # fmt: skip
def _uniform(call: Call) -> Marks:
    return Marks(call.shape)


@rule("copy")
def _copy(call: Call) -> Marks:
    source = call.marks(call["src"]).aligned(len(call.shape))
    return replace(source, shape=call.shape)
