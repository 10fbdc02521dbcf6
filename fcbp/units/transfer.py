"""Which consumers' biases can take over what a replaced unit contributed on average.

The mean of a unit's activation is taken where one consumer reads it. What the unit contributes to another consumer, or
through several entries of one, follows from that mean only where the same function of the unit is read there.
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

__all__ = ["forms", "outgoing_biases"]


def outgoing_biases(
    ledger: Ledger, root: Ids, unit: int, outgoing: Sequence[Slice], parameters: Mapping[str, Tensor], measured: str
) -> tuple[tuple[Path | None, ...], tuple[str, ...]]:
    """``UnitGroup.outgoing_bias``, and remarks on the consumers whose biases are left alone.

    Args:
        root: for every entry of the ledger its unit.
        unit: the first of the group's.
        measured: the weight that reads what the group's ``activation`` holds.
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
    """The parameter that is added to the weighted sum itself, one entry for each output."""
    leaf = str(s.path[0])
    bias = ledger.bias_of.get(leaf)
    if bias is None or bias not in parameters or leaf not in parameters or parameters[leaf].ndim < 2:
        return None
    return bias if parameters[bias].shape == parameters[leaf].movedim(s.axis, -1).shape[:1] else None


def _obstacle(ledger: Ledger, root: Ids, unit: int, leaf: str, measured: str) -> str:
    """Why what a unit adds through a weight does not follow from its mean; empty where it does."""
    own = _readings(ledger, root, unit, leaf)
    if any(_is_several(root, unit, read) for read in own):
        return "reads several functions of each unit"
    sides = [own, _readings(ledger, root, unit, measured)]
    found = [{form for read in side for form in forms(root, unit, read)} for side in sides]
    for why in _uneven(ledger, root, unit, leaf, found[0]):
        return f"reads units that {why}, so a constant one does not add a constant"
    if leaf == measured or (found[0] == found[1] and len(found[0]) == 1):
        return ""
    if any(np.isin(unit, root[e.makes]) and _has(root, unit, e) for e in ledger.events):
        # A recurrent unit's states are one function of the states before them, each of more steps than the last.
        last = {number: what[:-1] for what, number in ledger.forms.items()}
        steps = [
            ({last[form] for form in side if form}, _makers(ledger, root, unit, reads))
            for side, reads in zip(found, sides, strict=True)
        ]
        if steps[0] == steps[1] and len(steps[0][0]) == 1:
            return ""
    return f"reads another function of the units than {measured}, where their mean is taken"


def _uneven(ledger: Ledger, root: Ids, unit: int, leaf: str, found: set[int]) -> list[str]:
    """Why what a constant unit adds through a weight is not the same everywhere."""
    here = [e.uneven for e in ledger.events if leaf in e.names and e.uneven and _has(root, unit, e)]
    return here + [ledger.uneven[form] for form in sorted(found) if form in ledger.uneven]


def _has(root: Ids, unit: int, event: Event) -> bool:
    return bool(np.isin(unit, root[event.reads]))


def _readings(ledger: Ledger, root: Ids, unit: int, leaf: str) -> list[Marks]:
    """Each tensor that holds the unit where a weight reads it."""
    return [e.read for e in ledger.events if leaf in e.names and e.read is not None and _has(root, unit, e)]


def _makers(ledger: Ledger, root: Ids, unit: int, reads: Sequence[Marks]) -> frozenset[str]:
    """The weights that made the unit in these tensors."""
    makers = 0
    for read in reads:
        makers |= read.makers
    made = (e for i, e in enumerate(ledger.events) if makers >> i & 1 and np.isin(unit, root[e.makes]))
    return frozenset(name for e in made for name in e.names)


def forms(root: Ids, unit: int, marks: Marks) -> frozenset[int]:
    """What was done to a unit's values (``Marks.form``), wherever a tensor holds it."""
    return frozenset(number for rows in _rows(root, unit, marks) for number in rows.ravel().tolist())


def _is_several(root: Ids, unit: int, marks: Marks) -> bool:
    """Whether a unit's entries, at one place along the other axes, are different functions of it."""
    return any(bool((rows != rows[:, :1]).any()) for rows in _rows(root, unit, marks))


def _rows(root: Ids, unit: int, marks: Marks) -> list[Ids]:
    """For each label what was done to the values at a unit's entries, a row for each place along the other axes."""
    found = []
    for label in marks.labels:
        held = squeeze(np.where(label >= 0, root[label], -1))
        axes = axes_of(held)
        form = np.zeros((1,) * held.ndim, dtype=np.int64) if marks.form is None else marks.form
        form = np.broadcast_to(form, [max(n, held.shape[a]) if a in axes else n for a, n in enumerate(form.shape)])
        rows = np.moveaxis(form, axes, range(-len(axes), 0)).reshape(-1, held.size)
        own = held.ravel() == unit
        if own.any():
            found.append(rows[:, own])
    return found
