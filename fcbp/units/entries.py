"""The entries of parameter axes: which of them are one unit, and which differ.

Every axis of every parameter and buffer is a *slot*, and every entry of a slot has a number. Two facts about entries
decide what a group is: entries that meet position by position in a sum or product are *tied* (one unit owns both),
and entries that the network treats differently are *told apart* (they can never be exchanged). Units are the classes
of tied entries; a group is a class of units that nothing told apart.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Entries", "Ids", "Slot", "Unevenness"]

Ids = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Slot:
    """One axis of one parameter or buffer.

    Attributes:
        name: the parameter or buffer.
        axis: the axis.
        start: the number of its first entry; its entries have the numbers ``start`` to ``start + size - 1``.
        size: its length.
        is_buffer: whether it belongs to a buffer.
    """

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


class Unevenness(NamedTuple):
    """A reason for which a constant unit is not constant, and the entries whose units it concerns; ``None`` for all."""

    why: str
    entries: Ids | None = None


@dataclass
class Entries:
    """The entries of all parameter axes, and the facts that a trace finds about them.

    Attributes:
        slots: the axes.
        colour: a number for each entry; entries of different colours cannot be exchanged.
        ties: pairs of arrays of equal lengths, whose entries at equal positions are one unit.
        distinctions: entries that were told apart, and the reason.
        histories: the number of each history of a unit's values (see ``Marks.history``), by its steps.
        uneven: histories after which a constant unit is not constant, each with the reasons.
    """

    slots: list[Slot] = field(default_factory=list)
    colour: Ids = field(default_factory=_none)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    distinctions: list[tuple[Ids, str]] = field(default_factory=list)
    histories: dict[tuple[Hashable, ...], int] = field(default_factory=dict)
    uneven: dict[int, tuple[Unevenness, ...]] = field(default_factory=dict)
    _last_colour: int = 0

    def history_number(self, steps: tuple[Hashable, ...], uneven: Unevenness | None = None) -> int:
        """Number a history of a unit's values; equal histories have one number.

        Args:
            steps: the names of operations and of their arguments; an integer is the number of an earlier history.
            uneven: the reason for which a constant unit is not constant after the last step, if there is one. Where a
                unit was not constant before, it is not constant after.
        """
        if steps not in self.histories:
            number = self.histories[steps] = len(self.histories) + 1
            before = [why for i in steps if isinstance(i, int) for why in self.uneven.get(i, ())]
            if uneven or before:
                self.uneven[number] = (*([uneven] if uneven else []), *before)
        return self.histories[steps]

    def slot(self, name: str, axis: int, size: int, is_buffer: bool) -> Ids:
        """Number the entries of one axis of a leaf."""
        start = len(self.colour)
        self.slots.append(Slot(name, axis, start, size, is_buffer))
        self.colour = np.concatenate([self.colour, np.zeros(size, dtype=np.int64)])
        return np.arange(start, start + size)

    def tie(self, a: Ids, b: Ids) -> None:
        """Note that entries at equal positions are one unit; negative numbers stand for no entry."""
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        known = (a >= 0) & (b >= 0) & (a != b)
        if known.any():
            pairs = np.unique(np.stack([a[known], b[known]]), axis=1)
            self.ties.append((pairs[0], pairs[1]))

    def tell_apart(self, ids: Ids, colours: Ids, why: str) -> None:
        """Note that entries cannot be exchanged where the colours at their positions differ."""
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
        """Note that no two of these entries can be exchanged."""
        self.tell_apart(ids, ids, why)

    def differ(self, ids: Ids) -> bool:
        """Whether it is known that no two of these entries can be exchanged."""
        entries = np.unique(ids[ids >= 0])
        return len(np.unique(self.colour[entries])) == len(entries)

    def touch(self, ids: Ids, why: str) -> None:
        """Note that the network treats these entries alike, but unlike all others."""
        entries = np.unique(ids[ids >= 0])
        if len(entries):
            self._recolour(entries, np.zeros(len(entries), dtype=np.int64))
            self.distinctions.append((entries, why))

    def _recolour(self, entries: Ids, codes: Ids) -> None:
        _, fresh = np.unique(np.stack([self.colour[entries], codes]), axis=1, return_inverse=True)
        self.colour[entries] = self._last_colour + 1 + fresh.ravel()
        self._last_colour += 1 + int(fresh.max())

    def units(self) -> Ids:
        """Find the unit of every entry; its number is that of its lowest entry."""
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
