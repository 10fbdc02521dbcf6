"""What a trace learns about the entries of parameter axes: which are one unit, which differ, and why.

Every axis of every parameter and buffer is a *slot*, and every entry of a slot has a number. Two facts about entries
decide what a group is: entries that meet position by position in a sum or product are *tied* (one unit owns both),
and entries that the network treats differently are *told apart* (they can never be exchanged). Units are the classes
of tied entries; a group is a class of units that nothing told apart.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Entries", "Ids", "Slot"]

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


def _none() -> Ids:
    return np.zeros(0, dtype=np.int64)


@dataclass
class Entries:
    """The entries of all parameter axes."""

    slots: list[Slot] = field(default_factory=list)
    colour: Ids = field(default_factory=_none)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    distinctions: list[tuple[Ids, str]] = field(default_factory=list)
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
