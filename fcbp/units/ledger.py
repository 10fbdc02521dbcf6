"""What a trace writes down: every use of parameters, and the facts that decide which units a reset may touch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fcbp.units.entries import Entries, Ids
from fcbp.units.marks import Marks

__all__ = ["Brittle", "Event", "Ledger", "bits", "names_of"]


@dataclass(frozen=True)
class Brittle:
    """An operation on parameters that has no finite value or slope where all entries of a unit are 0.

    Attributes:
        names: the parameters.
        entries: their entries on the axes along which the operation's result varies.
        where: the operation.
        gain: the parameter that scales each unit's weights after their norm, if the operation is a weight norm.
    """

    names: frozenset[str]
    entries: Ids
    where: str
    gain: str = ""


@dataclass(frozen=True)
class Event:
    """A use of parameters in the forward.

    Attributes:
        kind: ``product`` (a weight meets an activation and an axis is summed), ``lookup`` (an embedding),
            ``scale``, ``shift``, ``token``, ``norm_scale``, ``norm_shift``, ``running_mean``,
            ``running_var``, ``slope`` (of a PReLU), ``other``.
        names: the parameters or buffers used.
        makes: entries on the axes that stay; for the kinds that sum nothing, all entries.
        reads: entries on the axes that are summed.
        where: the innermost module, and the operation, for messages.
        inputs: the first input of every module being run, innermost first, by module path.
        read: the marks of the activation read, for products and lookups.
        brittle: numbers of ``Ledger.brittle`` that the weight was computed by.
        uneven: why what a constant unit adds is not the same everywhere; empty where it is.
    """

    kind: str
    names: frozenset[str]
    makes: Ids
    reads: Ids
    where: str
    inputs: tuple[tuple[str, Marks], ...] = ()
    read: Marks | None = None
    brittle: frozenset[int] = frozenset()
    uneven: str = ""


@dataclass
class Ledger(Entries):
    """Collects slots, ties, distinctions and events while a forward is traced."""

    events: list[Event] = field(default_factory=list)
    summed: set[int] = field(default_factory=set)  # events of scales that are summed, ...
    kept: set[int] = field(default_factory=set)  # ... and of those that are used as they are
    bias_of: dict[str, str] = field(default_factory=dict)
    forbidden: list[tuple[Ids, str]] = field(default_factory=list)
    statistics: list[tuple[Ids, str]] = field(default_factory=list)
    of_weights: set[int] = field(default_factory=set)  # the statistics of parameters' entries, not of activations
    norms: list[tuple[Ids, str]] = field(default_factory=list)
    brittle: list[Brittle] = field(default_factory=list)
    residual: list[tuple[Ids, str]] = field(default_factory=list)
    shortcuts: list[tuple[Ids, str, int]] = field(default_factory=list)
    values: list[tuple[Ids, str]] = field(default_factory=list)
    reads: list[tuple[str, Marks]] = field(default_factory=list)
    tensors: int = 0

    def forbid(self, ids: Ids, why: str) -> None:
        """Units that own one of these entries cannot be reset."""
        ids = np.unique(ids[ids >= 0])
        if len(ids):
            self.forbidden.append((ids, why))

    def record(self, event: Event) -> int:
        """Add an event; returns its number."""
        self.events.append(event)
        return len(self.events) - 1

    def next_bit(self) -> int:
        """A bit for one more tensor."""
        self.tensors += 1
        return 1 << self.tensors


def names_of(parameters: Iterable[str]) -> str:
    """Parameter names for a message."""
    return ", ".join(sorted(parameters))


def bits(x: int) -> list[int]:
    """The bits that are set."""
    return [i for i in range(x.bit_length()) if x >> i & 1]
