"""The record of a trace: every use of parameters, and the facts that decide which units a reset may touch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fcbp.units.entries import Entries, Ids
from fcbp.units.marks import Marks

__all__ = ["Event", "Kind", "Ledger", "Singularity", "bits", "names_of"]


Kind = Literal[
    "product", "lookup", "scale", "shift", "token", "norm_scale", "norm_shift", "running_mean", "running_var", "slope",
    "other",
]  # fmt: skip
"""The uses of parameters: ``product`` (a weight meets an activation and an axis is summed), ``lookup`` (a table's row
is picked), ``scale`` and ``shift`` (element by element), ``token`` (put beside activations), the scales, shifts and
running averages of norms, ``slope`` (of a PReLU), and ``other``."""


@dataclass(frozen=True)
class Singularity:
    """An operation on parameters that has no finite value or slope where all entries of a unit are 0.

    Attributes:
        names: the parameters.
        entries: their entries on the axes along which the operation's result varies.
        where: the operation, for messages.
        gain: the parameter that scales each unit's weights after their norm, where the operation is a weight norm.
    """

    names: frozenset[str]
    entries: Ids
    where: str
    gain: str = ""


@dataclass(frozen=True)
class Event:
    """A use of parameters in the forward.

    Attributes:
        kind: the use (see :data:`Kind`).
        names: the parameters or buffers used.
        makes: entries on the axes that stay; for the kinds that sum nothing, all entries.
        reads: entries on the axes that are summed.
        where: the operation and the innermost module, for messages.
        inputs: the first input of every running module by the module's path, innermost first.
        activation: the marks of the activation that is read, for products and lookups.
        singularities: numbers of ``Ledger.singularities``, operations by which the weight was computed.
        uneven: the reason for which a constant unit does not add the same everywhere; empty where there is none.
    """

    kind: Kind
    names: frozenset[str]
    makes: Ids
    reads: Ids
    where: str
    inputs: tuple[tuple[str, Marks], ...] = ()
    activation: Marks | None = None
    singularities: frozenset[int] = frozenset()
    uneven: str = ""


@dataclass
class Ledger(Entries):
    """The facts that are collected while a forward is traced.

    A fact about entries is a pair: the entries, and the reason or the operation.

    Attributes:
        events: every use of parameters, in order; other fields and ``Marks.makers`` refer to events by number.
        summed_scales: the scales (events) whose product with an activation is summed, as in ``(h * w).sum(-1)``.
        kept_scales: the scales whose product is used as it is; one event may be in both.
        bias_of: the bias that is added to a weight's product, by weight.
        forbidden: entries whose units cannot be reset.
        statistics: reductions over units, such as the mean of a norm; ``Marks.statistics`` refers to them by number.
        weight_statistics: the statistics over entries of parameters instead of activations.
        norms: norms over units: a replaced unit still takes part in their statistics.
        singularities: operations on parameters that are singular at 0; marks and events refer to them by number.
        residuals: units of residual streams.
        shortcuts: units of sums that are residual streams unless the third part, an event, closes a loop.
        value_channels: the value channels of attention heads.
        readings: each parameter that reads an activation through a function, and the activation.
        tensors: the number of tensors so far.
    """

    events: list[Event] = field(default_factory=list)
    summed_scales: set[int] = field(default_factory=set)
    kept_scales: set[int] = field(default_factory=set)
    bias_of: dict[str, str] = field(default_factory=dict)
    forbidden: list[tuple[Ids, str]] = field(default_factory=list)
    statistics: list[tuple[Ids, str]] = field(default_factory=list)
    weight_statistics: set[int] = field(default_factory=set)
    norms: list[tuple[Ids, str]] = field(default_factory=list)
    singularities: list[Singularity] = field(default_factory=list)
    residuals: list[tuple[Ids, str]] = field(default_factory=list)
    shortcuts: list[tuple[Ids, str, int]] = field(default_factory=list)
    value_channels: list[tuple[Ids, str]] = field(default_factory=list)
    readings: list[tuple[str, Marks]] = field(default_factory=list)
    tensors: int = 0

    def forbid(self, ids: Ids, why: str) -> None:
        """Note that units which own one of these entries cannot be reset."""
        ids = np.unique(ids[ids >= 0])
        if len(ids):
            self.forbidden.append((ids, why))

    def record(self, event: Event) -> int:
        """Add an event and return its number."""
        self.events.append(event)
        return len(self.events) - 1

    def next_bit(self) -> int:
        """Return the bit of one more tensor."""
        self.tensors += 1
        return 1 << self.tensors


def names_of(parameters: Iterable[str]) -> str:
    """List parameter names for a message."""
    return ", ".join(sorted(parameters))


def bits(x: int) -> list[int]:
    """List the numbers of the bits that are set."""
    return [i for i in range(x.bit_length()) if x >> i & 1]
