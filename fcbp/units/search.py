"""From the record of a trace to classes of units, and from these to groups, or to reasons for having none."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fcbp.units.entries import Ids, Slot
from fcbp.units.group import Slice, UnitGroup
from fcbp.units.ledger import Event, Ledger, bits, names_of
from fcbp.units.marks import Marks, axes_of, squeeze
from fcbp.units.transfer import histories, outgoing_biases

__all__ = ["Candidate", "Excluded", "Search"]


@dataclass(frozen=True)
class Excluded:
    """Units that were left out.

    Attributes:
        name: the module that makes them, or where none does, reads them.
        size: the number of units.
        reason: why they cannot be, or are not to be, reset.
    """

    name: str
    size: int
    reason: str


# The uses of a leaf's entries, as bits.
_IN, _OUT, _TOKEN, _SHIFT, _OTHER = 1, 2, 4, 8, 16
_SCALE, _NORM_SCALE, _NORM_SHIFT, _MEAN, _VAR, _SLOPE, _DIRECTION = 32, 64, 128, 256, 512, 1024, 2048
_BITS = {
    "token": _TOKEN, "shift": _SHIFT, "scale": _SCALE, "norm_scale": _NORM_SCALE, "norm_shift": _NORM_SHIFT,
    "running_mean": _MEAN, "running_var": _VAR, "slope": _SLOPE, "other": _OTHER,
}  # fmt: skip
_ROLE = {
    _IN: "incoming", _TOKEN: "incoming", _IN | _TOKEN: "incoming", _OUT: "outgoing", _SHIFT: "bias",
    _SCALE: "norm_scale", _NORM_SCALE: "norm_scale", _NORM_SHIFT: "norm_shift", _MEAN: "running_mean",
    _VAR: "running_var", _SLOPE: "slope", _TOKEN | _SHIFT: "incoming", _DIRECTION: "direction",
}  # fmt: skip


@dataclass
class Candidate:
    """A class of units that nothing tells apart.

    Attributes:
        units: the units, by number.
        entries: their entries on the axis of each slot, a row a unit, by the slot's number.
        name: the module that makes them.
        order: a key by which candidates are sorted in the order of the forward.
    """

    units: Ids
    entries: dict[int, Ids]
    name: str = ""
    order: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)


class Search:
    """The classes of units in a ledger, the uses of their leaves, and the reasons for which a class is no group.

    Args:
        model: the module that was traced.
        ledger: the record of the trace.
        attention_heads: whether the value channels of attention heads are groups.
        residual: whether residual streams are groups.
    """

    def __init__(self, model: nn.Module, ledger: Ledger, attention_heads: bool, residual: bool):
        self.ledger = ledger
        self.attention_heads, self.residual = attention_heads, residual
        self.parameters = dict(model.named_parameters())
        self.leaves: dict[str, torch.Tensor] = {**self.parameters, **dict(model.named_buffers())}
        self.root = ledger.units()
        n = len(self.root)
        self.slot_of = np.zeros(n, dtype=np.int64)
        self.slots_of: dict[str, list[int]] = defaultdict(list)
        for i, slot in enumerate(ledger.slots):
            self.slot_of[slot.start : slot.start + slot.size] = i
            self.slots_of[slot.name].append(i)
        self.roles = np.zeros(n, dtype=np.int64)
        self.first = np.full(n, len(ledger.events))  # for each entry the first event that uses it
        for i, event in enumerate(ledger.events):
            if i not in ledger.summed_scales - ledger.kept_scales:
                self._note_use(i, event)
        self.forbidden_facts = ledger.forbidden + [
            fact for event in ledger.events for fact in self._singular_facts(event)
        ]
        self.forbidden = self._first_reason(self.forbidden_facts)
        self.distinct = self._first_reason(ledger.distinctions)
        # Where the long branch's last layer reads its own earlier output, the sum is a step of a recurrence.
        shortcuts = [(ids, why) for ids, why, i in ledger.shortcuts if not self._is_loop(ledger.events[i])]
        self.residuals = ledger.residuals + shortcuts
        self.in_residual = self._first_reason(self.residuals)
        self.in_values = self._first_reason(ledger.value_channels)
        self.remarks: dict[tuple[Slice, ...], tuple[str, ...]] = {}

    def _note_use(self, number: int, event: Event) -> None:
        """Note the use that an event makes of entries."""
        for ids, bit in [(event.makes, _BITS.get(event.kind, _IN)), (event.reads, _OUT)]:
            units = np.unique(self.root[ids])
            for name in sorted(event.names):
                own = np.concatenate([ids[:0], *(self.ledger.slots[i].ids for i in self.slots_of[name])])
                # A weight computed from several leaves (a weight norm) carries the entries of one of them.
                named = own[np.isin(own, ids)] if np.isin(own, ids).any() else own[np.isin(self.root[own], units)]
                self.roles[named] |= bit
                self.first[named] = np.minimum(self.first[named], number)

    def _singular_facts(self, event: Event) -> list[tuple[Ids, str]]:
        """List units that zeros in the weight which reads them do not silence; of a weight norm, zero the gain."""
        facts = []
        for singularity in (self.ledger.singularities[i] for i in sorted(event.singularities)):
            zeroed = event.makes if event.kind in ("shift", "norm_shift") else event.reads
            units = np.intersect1d(self.root[singularity.entries], self.root[zeroed])
            if not singularity.names & event.names or not len(units):
                continue
            if singularity.gain:
                for names, old, new in ((event.names, _OUT, _DIRECTION), ({singularity.gain}, _SCALE, _OUT)):
                    slots = [self.ledger.slots[i].ids for name in sorted(names) for i in self.slots_of[name]]
                    own = np.concatenate(slots)
                    own = own[np.isin(self.root[own], units) & (self.roles[own] & old > 0)]
                    self.roles[own] = self.roles[own] & ~old | new
                continue
            why = (
                f"{singularity.where} has no finite value or slope where a unit's part of {names_of(event.names)} is 0"
            )
            facts.append((units, f"{why}, as a reset leaves it"))
        return facts

    def _is_loop(self, event: Event) -> bool:
        """Tell whether weights read their own output, directly or through other weights."""
        seen = 0
        new = event.activation.makers if event.activation else 0
        while new:
            seen |= new
            makers = [self.ledger.events[i] for i in bits(new)]
            if any(maker.names == event.names for maker in makers):
                return True
            new = 0
            for maker in makers:
                new |= maker.activation.makers if maker.activation else 0
            new &= ~seen
        return False

    def _first_reason(self, facts: list[tuple[Ids, str]]) -> Ids:
        """Return for each unit the number of the first fact about one of its entries, or -1."""
        index = np.full(len(self.root), -1)
        for i in range(len(facts) - 1, -1, -1):
            index[self.root[facts[i][0]]] = i
        return index

    # --- candidates ---

    def candidates(self) -> list[Candidate]:
        """List classes of units that have a weight, in the order in which the forward meets them."""
        order = np.lexsort((np.arange(len(self.root)), self.slot_of, self.root))
        used = order[np.isin(self.root[order], np.unique(self.root[self.roles & (_IN | _OUT) > 0]))]
        units, starts = np.unique(self.root[used], return_index=True)
        classes: dict[bytes, list[int]] = defaultdict(list)
        pieces = np.split(used, starts[1:])
        for i, ids in enumerate(pieces[: len(units)]):
            look = np.stack([self.slot_of[ids], self.ledger.colour[ids], self.roles[ids]])
            classes[look.tobytes()].append(i)
        found = [self._candidate(np.stack([pieces[i] for i in members])) for members in classes.values()]
        return sorted(found, key=lambda c: c.order)

    def _candidate(self, ids: Ids) -> Candidate:
        """Make a class from its entries, a row a unit, a column for each role in it."""
        slots = self.slot_of[ids[0]]
        makers = self._with_role(ids[0], _IN | _TOKEN) or self._with_role(ids[0], _OUT)
        lead = min(makers, key=lambda k: (self.first[ids[0, k]], slots[k], ids[0, k]))
        ids = ids[np.argsort(ids[:, lead], kind="stable")]
        entries = {int(s): ids[:, slots == s] - self.ledger.slots[s].start for s in dict.fromkeys(slots)}
        slot = self.ledger.slots[slots[lead]]
        order = (int(self.first[ids[0, lead]]), int(slots[lead]), int(ids[0, lead]))
        return Candidate(self.root[ids[:, lead]], entries, slot.name.rpartition(".")[0] or slot.name, order)

    def _with_role(self, ids: Ids, bits: int) -> list[int]:
        """List the columns whose entries have one of the uses."""
        return [k for k in range(len(ids)) if self.roles[ids[k]] & bits]

    def _role(self, c: Candidate, slot: int) -> int:
        """Return the uses of a class's entries on the axis of a slot."""
        return int(np.bitwise_or.reduce(self.roles[c.entries[slot][0] + self.ledger.slots[slot].start]))

    # --- reasons ---

    def reason(self, c: Candidate) -> str | None:
        """Say why a class cannot be reset; ``None`` where its uses allow it."""
        unit = c.units[0]
        slots = [(self.ledger.slots[i], self._role(c, i)) for i in c.entries]
        difference = self.ledger.distinctions[self.distinct[unit]][1] if self.distinct[unit] >= 0 else ""
        if self.forbidden[unit] >= 0:
            return self.forbidden_facts[int(self.forbidden[unit])][1]
        for slot, role in slots:
            if slot.is_buffer and role & ~(_MEAN | _VAR):
                return f"they meet the buffer {slot.name}, which is no parameter"
        for slot, _ in slots:
            if not self.leaves[slot.name].is_floating_point():
                return f"{slot.name} is of dtype {self.leaves[slot.name].dtype}, and a reset draws real numbers"
        if not any(role & (_IN | _TOKEN) for _, role in slots):
            return "no parameter makes them" + (f": {difference}" if difference else "")
        if not any(role & _OUT for _, role in slots):
            return "no parameter reads them" + (f": {difference}" if difference else "")
        for slot, role in slots:
            if role & _OUT and role & (_IN | _TOKEN):
                return f"tied weights: axis {slot.axis} of {slot.name} both makes and reads them"
            if self._field(slot, role) is None:
                return f"{slot.name} is used in a way that no reset value is known for"
        return self._reason_to_leave_out(c, slots, difference)

    def _reason_to_leave_out(self, c: Candidate, slots: list[tuple[Slot, int]], difference: str) -> str | None:
        """Say why a class that could be reset is left out; ``None`` where it is not."""
        unit = c.units[0]
        if c.size == 1:
            most = max(c.entries, key=lambda i: c.entries[i].shape[1])
            if c.entries[most].shape[1] == self.ledger.slots[most].size:
                return f"all entries on axis {self.ledger.slots[most].axis} of {self.ledger.slots[most].name} are tied"
            return f"each differs from all others: {difference or 'no two are made and read by the same weights alike'}"
        if self.in_residual[unit] >= 0 and not self.residual:
            where = self.residuals[self.in_residual[unit]][1]
            return f"a residual stream, joined by {where} (residual=True includes it)"
        if self.in_values[unit] >= 0 and not self.attention_heads:
            return "value channels of an attention head (attention_heads=True includes them)"
        frozen = [s.name for s, _ in slots if not s.is_buffer and not self.parameters[s.name].requires_grad]
        if frozen:
            return f"{', '.join(dict.fromkeys(frozen))} is frozen (requires_grad=False), and a reset would change it"
        return None

    def _field(self, slot: Slot, role: int) -> str | None:
        """Return the field of ``UnitGroup`` that a leaf's entries belong to, ``None`` where there is none."""
        field = _ROLE.get(role)
        if field == "bias" and self.leaves[slot.name].numel() != slot.size:
            return "incoming"  # a table that is added, such as positions: it makes the units as an embedding does
        return field

    # --- groups ---

    def group(self, c: Candidate) -> UnitGroup | tuple[str, int, str]:
        """Make a class a ``UnitGroup``, or a row of units left out where nothing reads them as they lie in a weight."""
        fields: dict[str, list[Slice]] = defaultdict(list)
        events = {i: int(self.first[c.entries[i][0, 0] + self.ledger.slots[i].start]) for i in c.entries}
        for i in sorted(c.entries, key=lambda i: (events[i], i)):
            slot = self.ledger.slots[i]
            fields[str(self._field(slot, self._role(c, i)))] += _slices(slot, c.entries[i])
        activation = self._activation(c)
        if activation is None:
            reads = ", ".join(dict.fromkeys(str(s.path[0]) for s in fields["outgoing"]))
            why = f"no module or product that reads them takes them as they lie in its weight ({reads})"
            return (
                c.name,
                c.size,
                f"{why}, so their activation is out of reach; read them with a module such as Linear",
            )
        path, axis, measured = activation
        outgoing = tuple(fields["outgoing"])
        biases, self.remarks[outgoing] = outgoing_biases(
            self.ledger, self.root, c.units[0], outgoing, self.parameters, measured
        )
        return UnitGroup(
            c.name, c.size, outgoing_bias=biases, activation=path, activation_axis=axis,
            **{name: tuple(fields[name]) for name in (
                "incoming", "bias", "outgoing", "norm_scale", "norm_shift", "running_mean", "running_var", "slope",
                "direction")},
        )  # fmt: skip

    def _activation(self, c: Candidate) -> tuple[str, int, str] | None:
        """Find the group's activation: its name, the unit axis and the weight that reads it.

        It is the first module whose first input holds the units as the module's weight reads them, in the weight's
        layout. Where functions are handed the weights, it is the first such weight.
        """
        for event in self.ledger.events:
            for name in sorted(event.names):
                for i in self.slots_of[name]:
                    if i not in c.entries or not np.isin(c.units[0], self.root[event.reads]):
                        continue
                    for path, marks in event.inputs:
                        axis = self._unit_axis(c, i, marks) if name.startswith(f"{path}.") else None
                        # The weight of a module that applies an activation function first does not read its input.
                        if (
                            axis is not None
                            and event.activation
                            and histories(self.root, c.units[0], event.activation)
                            == histories(self.root, c.units[0], marks)
                        ):
                            return path, axis, name
        for name in dict.fromkeys(name for name, _ in self.ledger.readings):
            for i in self.slots_of[name]:
                if i in c.entries and self._role(c, i) & _OUT:
                    # A forward does not tell the readings of one parameter apart: all must agree.
                    axes = {self._unit_axis(c, i, marks) for other, marks in self.ledger.readings if other == name}
                    axis = axes.pop()
                    if axis is not None and not axes:
                        return name, axis, name
        return None

    def _unit_axis(self, c: Candidate, slot: int, marks: Marks) -> int | None:
        """Return the axis, from the end, on which a tensor holds the units as a slot does, if there is one."""
        for label in marks.labels:
            units = squeeze(np.where(label >= 0, self.root[label], -1))
            axes = axes_of(units)
            if len(axes) == 1 and self._same_layout(c, slot, units.ravel()):
                return axes[0] - len(marks.shape)
        return None

    def _same_layout(self, c: Candidate, slot: int, units: Ids) -> bool:
        """Tell whether units lie along an axis as their entries lie in a slot."""
        places = [np.flatnonzero(units == unit) for unit in c.units]
        return all(np.array_equal(p, np.sort(e)) for p, e in zip(places, c.entries[slot], strict=True))

    def notes(self, group: UnitGroup) -> tuple[str, ...]:
        """List remarks on a group.

        They name norms over its own axis, in whose statistics a replaced unit still takes part, and weights through
        which a unit's mean contribution is not known.
        """
        slot = self.slots_of[str(group.incoming[0].path[0])]
        entry = next(
            self.ledger.slots[i].start + group.incoming[0].start
            for i in slot
            if self.ledger.slots[i].axis == group.incoming[0].axis
        )
        reasons = [why for ids, why in self.ledger.norms if np.isin(self.root[entry], self.root[ids])]
        return (
            *(
                f"{why} normalises over the units: a replaced one still takes part in its statistics"
                for why in dict.fromkeys(reasons)
            ),
            *self.remarks.get(group.outgoing, ()),
        )


def _slices(slot: Slot, entries: Ids) -> list[Slice]:
    """Make slices that own the entries, a row a unit: one, or one for each column, or one that lists them."""
    for columns in ([entries], [entries[:, [k]] for k in range(entries.shape[1])]):
        slices = [_slice(slot, part) for part in columns]
        if all(slices):
            return [s for s in slices if s is not None]
    listed = tuple(map(tuple, entries.tolist()))
    return [Slice((slot.name,), slot.axis, listed=listed, partial=entries.size < slot.size)]


def _slice(slot: Slot, entries: Ids) -> Slice | None:
    """Make one slice that owns the entries, ``None`` where they lie on no grid."""
    size, block = entries.shape
    start = int(entries[0, 0])
    stride = int(entries[1, 0]) - start if size > 1 else 1
    step = int(entries[0, 1]) - start if block > 1 else 1
    grid = start + stride * np.arange(size)[:, None] + step * np.arange(block)
    if (grid != entries).any():
        return None
    return Slice((slot.name,), slot.axis, start, stride, block, step, partial=size * block < slot.size)
