"""Tensors that meet in sums, products and einsums: units that are one after it, and units that are told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from fcbp.units.entries import Entries, Ids, Unevenness
from fcbp.units.marks import Fixed, Marks, axes_of, numbered, simplify, without

__all__ = ["Operand", "contract", "history_along", "innermost", "meet", "reduce", "tell_apart", "with_step"]

Operand = Literal["", "a", "b"]
"""One of two operands, or none."""


def innermost(label: Ids) -> int:
    """Return the axis along which neighbouring entries of a parameter lie side by side."""
    steps = {}
    for axis in axes_of(label):
        line = np.diff(label, axis=axis)
        steps[axis] = int(np.abs(line).min())
    return min(steps, key=lambda a: (steps[a] == 0, steps[a], -a))


def meet(entries: Entries, a: Marks, b: Marks, why: str) -> tuple[tuple[Ids, ...], tuple[Fixed, ...]]:
    """Tie the entries of two tensors that meet element by element, or tell them apart.

    Args:
        entries: the ledger of all entries.
        a: a tensor.
        b: the other one, of as many axes.
        why: the operation, for messages.

    Returns:
        The labels and the fixed arrays of the result.
    """
    a, b = _settled(entries, a), _settled(entries, b)
    labels = list(a.labels)
    fixed = [*a.fixed, *b.fixed]
    own = range(len(labels))
    free = list(own)  # labels of ``a`` that no label of ``b`` has been tied to
    for other in b.labels:
        axes = axes_of(other)
        same = [i for i in free if axes_of(labels[i]) == axes]
        match = _partner(labels, same, other, alone=sum(axes_of(x) == axes for x in b.labels) == 1)
        if match is not None:
            entries.tie(labels[match], other)
            labels[match] = np.where(labels[match] < 0, other, labels[match])
            free.remove(match)
            continue
        overlapping = [i for i in own if set(axes_of(labels[i])) & set(axes)]
        if not overlapping:
            labels.append(other)
            continue
        for i in overlapping:
            mine = labels[i]
            small, large = sorted((mine, other), key=lambda x: len(axes_of(x)))
            nested = set(axes_of(small)) < set(axes_of(large))
            if nested and innermost(large) in axes_of(small):
                entries.tie(small, large)
                labels[i] = small
            elif nested:
                # The small label's entries are shared by several units of the large one.
                entries.tell_apart(large, small, why)
                entries.pin(small, f"one entry is shared by several units at {why}")
                fixed.append(Fixed(small, why))
                labels[i] = large
            else:
                for x in (mine, other):
                    entries.pin(x, f"two unit axes lie across each other at {why}")
    tell_apart(entries, labels, fixed)
    return tuple(labels), simplify(fixed)


def tell_apart(entries: Entries, labels: Iterable[Ids], fixed: Iterable[Fixed]) -> None:
    """Tell entries apart that lie at positions which differ."""
    fixed = tuple(fixed)
    for label in labels:
        own = set(axes_of(label))
        for values, why in fixed:
            if own & set(axes_of(values)):
                entries.tell_apart(label, without(values, set(axes_of(values)) - own), why)


def _settled(entries: Entries, m: Marks) -> Marks:
    """Make labels that share an axis (a flattened map) fixed arrays, where all of their entries differ."""
    axes = [set(axes_of(x)) for x in m.labels]
    sharing = [i for i, own in enumerate(axes) if any(own & other for k, other in enumerate(axes) if k != i)]
    if not sharing:
        return m
    pinned = [i for i in sharing if entries.differ(m.labels[i])]
    fixed = simplify([*m.fixed, *(Fixed(m.labels[i], "positions") for i in pinned)])
    return replace(m, labels=tuple(x for i, x in enumerate(m.labels) if i not in pinned), fixed=fixed)


def _partner(labels: list[Ids], same: list[int], other: Ids, alone: bool) -> int | None:
    """Return the number of the label that describes the same units as ``other`` does, on the same axes."""
    for i in same:
        if len(same) == 1 and alone:
            return i
        patterns = [np.unique(x, return_inverse=True)[1].ravel() for x in (labels[i], other)]
        if (patterns[0] == patterns[1]).all():
            return i
    return None


def reduce(
    entries: Entries, m: Marks, axes: Sequence[int], keepdim: bool, why: str, across: bool = False
) -> tuple[Marks, Ids]:
    """Sum a tensor over axes.

    A label over several axes of which only some are summed stands for rows of units (a head's channels). Where the
    innermost axis is summed, each row is summed up: rows differ, units within a row do not. Otherwise, and with
    ``across``, the units that are summed into one result are tied.

    Args:
        entries: the ledger of all entries.
        m: the tensor.
        axes: the axes that are summed.
        keepdim: whether these stay, with one entry each.
        why: the operation, for messages.
        across: whether units that are summed into one result are always tied.

    Returns:
        The marks of the sum, and the entries that were summed over.
    """
    summed = {a % len(m.shape) for a in axes}
    labels: list[Ids] = []
    fixed: list[Fixed] = []
    gone: list[Ids] = []
    for label in m.labels:
        own = set(axes_of(label))
        rest = sorted(own - summed)
        if not own & summed:
            labels.append(label)
        elif not rest:
            gone.append(label.ravel())
        elif across or innermost(label) not in summed:
            first = label
            for a in own & summed:
                first = first.take([0], a)
            entries.tie(label, first)
            labels.append(first)
        else:
            rows = numbered(m.shape, rest)
            entries.tell_apart(label, rows, why)
            fixed.append(Fixed(rows, why))
            gone.append(label.ravel())
    fixed += [Fixed(without(values, summed), reason) for values, reason in m.fixed]
    kept = tuple(1 if i in summed else n for i, n in enumerate(m.shape))
    shape = kept if keepdim else tuple(n for i, n in enumerate(m.shape) if i not in summed)
    history = history_along(entries, m.history, summed)
    new = replace(m, labels=tuple(labels), fixed=simplify(fixed), product_of=frozenset(), history=history, shares=None)

    def drop(x: Ids) -> Ids:
        return x if keepdim else x.reshape([n for i, n in enumerate(x.shape) if i not in summed])

    ids = np.unique(np.concatenate(gone)) if gone else np.zeros(0, dtype=np.int64)
    return new.move(drop, shape), ids[ids >= 0]


def contract(
    entries: Entries, a: Marks, b: Marks, spec: str, sizes: dict[str, int], why: str, averaged: Operand = ""
) -> tuple[Marks, dict[str, Ids]]:
    """Take ``einsum(spec, a, b)``.

    Args:
        entries: the ledger of all entries.
        a: the first operand.
        b: the second operand.
        spec: the einsum, such as ``"bi,oi->bo"``.
        sizes: the length of the axis of each letter.
        why: the operation, for messages.
        averaged: the operand of which the other one, weights that are 1 in sum, makes a mean; empty for none.

    Returns:
        The marks of the result, and the operands' entries on summed and kept axes, under ``a_summed``, ``a_kept``,
        ``b_summed`` and ``b_kept``.
    """
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    order = output + "".join(sorted((set(left) | set(right)) - set(output)))
    shape = [sizes[c] for c in order]
    a = a.placed([order.index(c) for c in left], shape)
    b = b.placed([order.index(c) for c in right], shape)
    labels, fixed = meet(entries, a, b, why)
    summed = list(range(len(output), len(order)))
    history = None
    if averaged:
        uneven = Unevenness(f"are averaged at several places by {why}")
        history = history_along(entries, (a if averaged == "a" else b).history, summed, uneven)
    joint = Marks(tuple(shape), labels, fixed, history=history)
    result, _ = reduce(entries, joint, summed, False, why) if summed else (joint, None)
    found = {}
    for side, m in (("a", a), ("b", b)):
        found[f"{side}_summed"] = m.label_entries(summed)
        kept = [x.ravel() for x in m.labels if not set(axes_of(x)) & set(summed)]
        ids = np.unique(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
        found[f"{side}_kept"] = ids[ids >= 0]
    return result, found


def history_along(
    entries: Entries, history: Ids | None, axes: Iterable[int], uneven: Unevenness | None = None
) -> Ids | None:
    """Return one history for all values along the axes: theirs, or where they differ, a new one."""
    if history is None:
        return None
    own = tuple(a for a in axes if history.shape[a] > 1)
    if not own:
        return history
    rows = np.moveaxis(history, own, range(len(own))).reshape(int(np.prod([history.shape[a] for a in own])), -1)
    steps = [("places", *np.unique(row).tolist()) for row in rows.T]
    numbers = [int(row[0]) if len(step) == 2 else entries.history_number(step, uneven)
               for step, row in zip(steps, rows.T, strict=True)]  # fmt: skip
    return np.array(numbers).reshape([1 if a in own else n for a, n in enumerate(history.shape)])


def with_step(entries: Entries, m: Marks, step: Sequence[str], uneven: Unevenness | None = None) -> Marks:
    """Return the marks after one more step of the units' history; ``uneven``: see :meth:`Entries.history_number`."""
    numbers, where = np.unique(m.histories, return_inverse=True)
    new = np.array([entries.history_number((*step, int(i)), uneven) for i in numbers])
    return replace(m, history=new[where].reshape(m.histories.shape))
