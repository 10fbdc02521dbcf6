"""What a trace learns about the entries of parameter axes: which are one unit, which differ, and why.

Every axis of every parameter and buffer is a *slot*, and every entry of a slot has a number. Two facts about entries
decide what a group is: entries that meet position by position in a sum or product are *tied* (one unit owns both),
and entries that the network treats differently are *told apart* (they can never be exchanged). Units are the classes
of tied entries; a group is a class of units that nothing told apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fcbp.units.marks import Marks

__all__ = ["Brittle", "Event", "Ids", "Ledger", "Slot"]

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter or buffer; its entries are numbered ``start`` to ``start + size - 1``."""

    name: str
    axis: int
    start: int
    size: int
    is_buffer: bool

    @property
    def ids(self) -> Ids:
        """The numbers of its entries."""
        return np.arange(self.start, self.start + self.size)


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


def _none() -> Ids:
    return np.zeros(0, dtype=np.int64)


@dataclass
class Ledger:
    """Collects slots, ties, distinctions and events while a forward is traced."""

    slots: list[Slot] = field(default_factory=list)
    colour: Ids = field(default_factory=_none)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    summed: set[int] = field(default_factory=set)  # events of scales that are summed, ...
    kept: set[int] = field(default_factory=set)  # ... and of those that are used as they are
    bias_of: dict[str, str] = field(default_factory=dict)
    distinctions: list[tuple[Ids, str]] = field(default_factory=list)
    forbidden: list[tuple[Ids, str]] = field(default_factory=list)
    statistics: list[tuple[Ids, str]] = field(default_factory=list)
    of_weights: set[int] = field(default_factory=set)  # the statistics of parameters' entries, not of activations
    norms: list[tuple[Ids, str]] = field(default_factory=list)
    brittle: list[Brittle] = field(default_factory=list)
    residual: list[tuple[Ids, str]] = field(default_factory=list)
    shortcuts: list[tuple[Ids, str, int]] = field(default_factory=list)
    values: list[tuple[Ids, str]] = field(default_factory=list)
    reads: list[tuple[str, Marks]] = field(default_factory=list)
    forms: dict[tuple[Hashable, ...], int] = field(default_factory=dict)
    uneven: dict[int, str] = field(default_factory=dict)  # forms of which a constant unit is no constant, and why
    _last_colour: int = 0

    def form(self, what: tuple[Hashable, ...], uneven: str = "") -> int:
        """A number for what is done to values; the same for the same.

        The integers in ``what`` are the numbers of what was done before, last the one of the value itself. ``uneven``
        says why a constant unit is no constant then, as it is not either where it was none before.
        """
        if what not in self.forms:
            number = self.forms[what] = len(self.forms) + 1
            before = [self.uneven[i] for i in what if isinstance(i, int) and i in self.uneven]
            if uneven or before:
                self.uneven[number] = uneven or before[0]
        return self.forms[what]

    def slot(self, name: str, axis: int, size: int, is_buffer: bool) -> Ids:
        """Number the entries of one axis of a leaf."""
        start = len(self.colour)
        self.slots.append(Slot(name, axis, start, size, is_buffer))
        self.colour = np.concatenate([self.colour, np.zeros(size, dtype=np.int64)])
        return np.arange(start, start + size)

    def tie(self, a: Ids, b: Ids) -> None:
        """Entries at equal positions are one unit; negative entries stand for none."""
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        known = (a >= 0) & (b >= 0) & (a != b)
        if known.any():
            pairs = np.unique(np.stack([a[known], b[known]]), axis=1)
            self.ties.append((pairs[0], pairs[1]))

    def tell_apart(self, ids: Ids, colours: Ids, why: str) -> None:
        """An entry is met by the colours at its positions; entries met by different colours cannot be exchanged."""
        ids, colours = (x.ravel() for x in np.broadcast_arrays(ids, colours))
        known = ids >= 0
        ids, colours = ids[known], colours[known]
        if not len(ids):
            return
        order = np.lexsort((colours, ids))
        ids, colours = ids[order], colours[order]
        entries, first, counts = np.unique(ids, return_index=True, return_counts=True)
        if (counts == counts[0]).all():
            _, codes = np.unique(colours.reshape(len(entries), -1), axis=0, return_inverse=True)
            codes = codes.ravel()
        else:
            seen: dict[bytes, int] = {}
            codes = np.array(
                [seen.setdefault(colours[i : i + n].tobytes(), len(seen)) for i, n in zip(first, counts, strict=True)]
            )
        if codes.max() > 0:
            self._recolour(entries, codes)
            self.distinctions.append((entries, why))

    def pin(self, ids: Ids, why: str) -> None:
        """No two of these entries can be exchanged."""
        self.tell_apart(ids, ids, why)

    def differ(self, ids: Ids) -> bool:
        """Whether no two of these entries can be exchanged, as far as is known."""
        entries = np.unique(ids[ids >= 0])
        return len(np.unique(self.colour[entries])) == len(entries)

    def touch(self, ids: Ids, why: str) -> None:
        """These entries are treated alike, but apart from all others."""
        entries = np.unique(ids[ids >= 0])
        if len(entries):
            self._recolour(entries, np.zeros(len(entries), dtype=np.int64))
            self.distinctions.append((entries, why))

    def _recolour(self, entries: Ids, codes: Ids) -> None:
        _, fresh = np.unique(np.stack([self.colour[entries], codes]), axis=1, return_inverse=True)
        self.colour[entries] = self._last_colour + 1 + fresh.ravel()
        self._last_colour += 1 + int(fresh.max())

    def forbid(self, ids: Ids, why: str) -> None:
        """Units that own one of these entries cannot be reset."""
        ids = np.unique(ids[ids >= 0])
        if len(ids):
            self.forbidden.append((ids, why))

    def record(self, event: Event) -> int:
        """Add an event; returns its number."""
        self.events.append(event)
        return len(self.events) - 1

    def units(self) -> Ids:
        """For every entry the number of its unit: the lowest entry that it is tied to."""
        root = np.arange(len(self.colour))
        if not self.ties:
            return root
        a, b = (np.concatenate(side) for side in zip(*self.ties, strict=True))
        while True:
            low = np.minimum(root[a], root[b])
            new = root.copy()
            # A root takes the lower one's place, so a whole unit moves at once.
            for end in (root[a], root[b]):
                np.minimum.at(new, end, low)
            new = new[new]
            if (new == root).all():
                return root
            root = new


def names_of(parameters: Iterable[str]) -> str:
    """Parameter names for a message."""
    return ", ".join(sorted(parameters))
