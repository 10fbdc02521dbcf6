"""One operation of a traced forward, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch._ops import OpOverload

from fcbp.units.entries import Ids, Unevenness
from fcbp.units.ledger import Event, Kind, Ledger
from fcbp.units.marks import Marks, varying
from fcbp.units.meeting import with_step

__all__ = ["Call", "Rule", "Table", "Watcher", "flow_out", "mark_uneven", "opaque", "unknown"]


class Watcher(Protocol):
    """The part of a tracer that rules use."""

    ledger: Ledger
    modules: list[tuple[str, Marks | None]]

    def marks(self, x: Tensor) -> Marks:
        """Return the marks of a tensor of the forward."""

    def numbers(self, x: Tensor) -> Ids | None:
        """Return the numbers of a tensor that is the same in every forward, else ``None``."""

    def where(self, func: OpOverload) -> str:
        """Name the operation and the innermost module that runs it, for messages."""


class Call:
    """One operation of the traced forward.

    Attributes:
        ledger: the facts so far.
        name: the operation, as ``add`` for ``aten.add_``.
        inputs: the tensors among its arguments.
        results: the tensors that it returned.
        arguments: all arguments by name; ``call["dim"]`` is one of them.
        where: the operation and the innermost module, for messages.
        starts_anew: whether the results are new values, as products and parts of a longer axis (one step of a sequence)
            are; a rule sets it.
    """

    def __init__(
        self,
        tracer: Watcher,
        func: OpOverload,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        inputs: list[Tensor],
        results: list[Tensor],
    ):
        self.tracer, self.ledger, self.func = tracer, tracer.ledger, func
        self.inputs, self.results = inputs, results
        name: str = func._schema.name.split("::")[-1]
        self.name = name if name.endswith("__") else name.removesuffix("_")
        self.starts_anew = False
        names = [a.name for a in func._schema.arguments]
        defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
        self.arguments: dict[str, Any] = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        self.where = tracer.where(func)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def marks(self, x: Tensor) -> Marks:
        """Return the marks of a tensor."""
        return self.tracer.marks(x)

    @property
    def first(self) -> Marks:
        """The marks of the first input."""
        return self.marks(self.inputs[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return tuple(self.results[0].shape)

    def event(
        self,
        kind: Kind,
        names: frozenset[str],
        makes: Ids,
        reads: Ids | None = None,
        activation: Marks | None = None,
        singularities: frozenset[int] = frozenset(),
        uneven: str = "",
    ) -> int:
        """Record a use of parameters and return the number of the event.

        Args:
            kind: the use.
            names: the parameters.
            makes: as in :class:`Event`, as are all arguments below.
            reads: see there; none by default.
            activation: see there.
            singularities: see there.
            uneven: see there.
        """
        inputs = tuple((path, m) for path, m in reversed(self.tracer.modules) if m is not None)
        reads = np.zeros(0, dtype=np.int64) if reads is None else reads
        event = Event(kind, names, makes, reads, self.where, inputs, activation, singularities, uneven)
        return self.ledger.record(event)


Rule = Callable[[Call], Marks | list[Marks]]
"""The rule of an operation: it returns the marks of the first result, or those of all results."""

Table = Mapping[Rule, tuple[str, ...]]
"""Rules, each with the names of the operations that it is for, as ``aten.<name>`` without a last ``_`` (in place)."""


def flow_out(ledger: Ledger, marks: Marks, to: str) -> None:
    """Forbid the reset of units whose statistics reach anything but these units: no weight reads them."""
    for i in marks.statistics - ledger.weight_statistics:
        ids, why = ledger.statistics[i]
        ledger.forbid(ids, f"{why} reads them without a weight and passes the result to {to}")


def mark_uneven(call: Call, m: Marks, why: str, entries: Ids | None = None) -> Marks:
    """Note that constant units are not constant in a result: all units, or the units of these entries alone."""
    return with_step(call.ledger, m, [call.name, f"call {len(call.ledger.histories)}"], Unevenness(why, entries))


def opaque(call: Call, x: Tensor) -> Marks:
    """Return the marks of a result of which nothing is known: all of its positions differ."""
    activation = any(call.marks(t).is_activation for t in call.inputs)
    return Marks(tuple(x.shape), fixed=varying(x.shape, call.where), is_activation=activation)


def unknown(call: Call) -> list[Marks]:
    """Apply the rule of an unknown operation: its inputs' units cannot be reset, its results are opaque."""
    for x in call.inputs:
        m = call.marks(x)
        call.ledger.forbid(m.label_entries(), f"they pass through {call.where}, which cannot be followed")
        flow_out(call.ledger, m, call.where)
    return [opaque(call, x) for x in call.results]
