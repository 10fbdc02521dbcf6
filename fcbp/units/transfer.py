"""Bias transfer: the consumers whose biases can take over the mean contribution of a replaced unit.

The mean of a unit's activation is taken where one consumer reads it. The unit's contribution to another consumer, or
through several entries of one consumer, follows from that mean only where the same function of the unit is read there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from fcbp.tree import Path
from fcbp.units.entries import Ids
from fcbp.units.group import Slice
from fcbp.units.ledger import Event, Ledger
from fcbp.units.marks import Marks, axes_of, squeeze

__all__ = ["histories", "outgoing_biases"]


def outgoing_biases(
    ledger: Ledger, root: Ids, unit: int, outgoing: Sequence[Slice], parameters: Mapping[str, Tensor], measured: str
) -> tuple[tuple[Path | None, ...], tuple[str, ...]]:
    """Find the biases that bias transfer may add to.

    Args:
        ledger: the record of the trace.
        root: the unit of every entry of the ledger.
        unit: the first of the group's units.
        outgoing: the group's consumers.
        parameters: the model's, by name.
        measured: the weight that reads the group's ``activation``.

    Returns:
        ``UnitGroup.outgoing_bias``, and remarks on consumers whose biases are left alone.
    """
    biases: list[Path | None] = []
    remarks: dict[str, None] = {}
    for s in outgoing:
        leaf = str(s.path[0])
        bias = _bias(ledger, s, parameters)
        why = bias and _obstacle(ledger, root, unit, leaf, measured)
        if why:
            remarks[f"{leaf} {why}: bias transfer leaves {ledger.bias_of[leaf]} as it is"] = None
        biases.append(None if bias is None or why else (bias,))
    return tuple(biases), tuple(remarks)


def _bias(ledger: Ledger, s: Slice, parameters: Mapping[str, Tensor]) -> str | None:
    """Return the parameter that is added to the weighted sum itself, one entry for each output."""
    leaf = str(s.path[0])
    bias = ledger.bias_of.get(leaf)
    if bias is None or bias not in parameters or leaf not in parameters or parameters[leaf].ndim < 2:
        return None
    return bias if parameters[bias].shape == parameters[leaf].movedim(s.axis, -1).shape[:1] else None


def _obstacle(ledger: Ledger, root: Ids, unit: int, leaf: str, measured: str) -> str:
    """Say why a unit's contribution through a weight does not follow from its mean; empty where it does."""
    own = _readings(ledger, root, unit, leaf)
    if any(_is_several(root, unit, read) for read in own):
        return "reads several functions of each unit"
    sides = [own, _readings(ledger, root, unit, measured)]
    found = [{history for read in side for history in histories(root, unit, read)} for side in sides]
    for why in _uneven(ledger, root, unit, leaf, found[0]):
        return f"reads units that {why}, so a constant one does not add a constant"
    if leaf == measured or (found[0] == found[1] and len(found[0]) == 1):
        return ""
    if any(np.isin(unit, root[e.makes]) and _has(root, unit, e) for e in ledger.events):
        # Each state of a recurrent unit is the same function of the state before it, of one step more.
        last = {number: what[:-1] for what, number in ledger.histories.items()}
        steps = [
            ({last[history] for history in side if history}, _makers(ledger, root, unit, reads))
            for side, reads in zip(found, sides, strict=True)
        ]
        if steps[0] == steps[1] and len(steps[0][0]) == 1:
            return ""
    return f"reads another function of the units than {measured}, where their mean is taken"


def _uneven(ledger: Ledger, root: Ids, unit: int, leaf: str, found: set[int]) -> list[str]:
    """List reasons for which a constant unit does not add the same everywhere through a weight."""
    here = [e.uneven for e in ledger.events if leaf in e.names and e.uneven and _has(root, unit, e)]
    reasons = [reason for history in sorted(found) for reason in ledger.uneven.get(history, ())]
    return here + [why for why, entries in reasons if entries is None or np.isin(unit, root[entries])]


def _has(root: Ids, unit: int, event: Event) -> bool:
    """Whether an event reads the unit."""
    return bool(np.isin(unit, root[event.reads]))


def _readings(ledger: Ledger, root: Ids, unit: int, leaf: str) -> list[Marks]:
    """List the tensors in which a weight reads the unit."""
    return [e.activation for e in ledger.events if leaf in e.names and e.activation is not None and _has(root, unit, e)]


def _makers(ledger: Ledger, root: Ids, unit: int, reads: Sequence[Marks]) -> frozenset[str]:
    """Return the weights that made the unit in these tensors."""
    makers = 0
    for read in reads:
        makers |= read.makers
    made = (e for i, e in enumerate(ledger.events) if makers >> i & 1 and np.isin(unit, root[e.makes]))
    return frozenset(name for e in made for name in e.names)


def histories(root: Ids, unit: int, marks: Marks) -> frozenset[int]:
    """Return the histories (``Marks.history``) of a unit wherever a tensor holds it."""
    return frozenset(number for rows in _rows(root, unit, marks) for number in rows.ravel().tolist())


def _is_several(root: Ids, unit: int, marks: Marks) -> bool:
    """Whether a unit's entries at one place along the other axes are different functions of it."""
    return any(bool((rows != rows[:, :1]).any()) for rows in _rows(root, unit, marks))


def _rows(root: Ids, unit: int, marks: Marks) -> list[Ids]:
    """Return for each label the histories at a unit's entries, a row for each place along the other axes."""
    found = []
    for label in marks.labels:
        held = squeeze(np.where(label >= 0, root[label], -1))
        axes = axes_of(held)
        history = marks.histories
        shape = [max(n, held.shape[a]) if a in axes else n for a, n in enumerate(history.shape)]
        history = np.broadcast_to(history, shape)
        rows = np.moveaxis(history, axes, range(-len(axes), 0)).reshape(-1, held.size)
        own = held.ravel() == unit
        if own.any():
            found.append(rows[:, own])
    return found
