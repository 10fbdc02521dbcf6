"""One operation of a traced forward, as its rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch._ops import OpOverload

from fcbp.units.entries import Ids
from fcbp.units.ledger import Event, Ledger
from fcbp.units.marks import Marks, varying
from fcbp.units.meeting import after

__all__ = ["Call", "Rule", "Table", "Watcher", "flow_out", "opaque", "unevenly", "unknown"]


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
    """One operation: its arguments by name, its tensors, and the tracer that watches."""

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


Rule = Callable[[Call], Marks | list[Marks]]
"""The marks of an operation's first result, or of all results."""

Table = Mapping[Rule, tuple[str, ...]]
"""Rules, each with the names of the operations that it is for, as ``aten.<name>`` without a last ``_`` (in place)."""


def flow_out(ledger: Ledger, marks: Marks, to: str) -> None:
    """Statistics over units that reach something other than these units are read without a weight."""
    for i in marks.stats - ledger.of_weights:
        ids, why = ledger.statistics[i]
        ledger.forbid(ids, f"{why} reads them without a weight and passes the result to {to}")


def unevenly(call: Call, m: Marks, why: str) -> Marks:
    """A result of which a constant unit is no constant."""
    return after(call.ledger, m, [call.name, f"call {len(call.ledger.forms)}"], why)


def opaque(call: Call, x: Tensor) -> Marks:
    data = any(call.marks(t).data for t in call.inputs)
    return Marks(tuple(x.shape), fixed=varying(x.shape, call.where), data=data)


def unknown(call: Call) -> list[Marks]:
    """Ends all knowledge."""
    for x in call.inputs:
        m = call.marks(x)
        call.ledger.forbid(m.label_entries(), f"they pass through {call.where}, which cannot be followed")
        flow_out(call.ledger, m, call.where)
    return [opaque(call, x) for x in call.results]
