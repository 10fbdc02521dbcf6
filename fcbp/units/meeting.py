"""Which units are one where tensors meet in sums, products and einsums, and which the network tells apart there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from fcbp.units.entries import Entries, Ids
from fcbp.units.marks import Fixed, Marks, axes_of, count, simplify, without

__all__ = ["after", "contract", "formed_along", "innermost", "meet", "reduce", "tell_apart"]


def innermost(label: Ids) -> int:
    """The axis along which neighbouring entries of a parameter lie side by side."""
    steps = {}
    for axis in axes_of(label):
        line = np.diff(label, axis=axis)
        steps[axis] = int(np.abs(line).min())
    return min(steps, key=lambda a: (steps[a] == 0, steps[a], -a))


def meet(entries: Entries, a: Marks, b: Marks, why: str) -> tuple[tuple[Ids, ...], tuple[Fixed, ...]]:
    """Labels and fixed arrays of a sum or product of two tensors of equal ndim: what meets is tied or told apart."""
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
    """Entries at positions that differ, differ."""
    fixed = tuple(fixed)
    for label in labels:
        own = set(axes_of(label))
        for values, why in fixed:
            if own & set(axes_of(values)):
                entries.tell_apart(label, without(values, set(axes_of(values)) - own), why)


def _settled(entries: Entries, m: Marks) -> Marks:
    """Where labels share an axis (a flattened map), those whose entries all differ are no more than positions."""
    axes = [set(axes_of(x)) for x in m.labels]
    sharing = [i for i, own in enumerate(axes) if any(own & other for k, other in enumerate(axes) if k != i)]
    if not sharing:
        return m
    pinned = [i for i in sharing if entries.differ(m.labels[i])]
    fixed = simplify([*m.fixed, *(Fixed(m.labels[i], "positions") for i in pinned)])
    return replace(m, labels=tuple(x for i, x in enumerate(m.labels) if i not in pinned), fixed=fixed)


def _partner(labels: list[Ids], same: list[int], other: Ids, alone: bool) -> int | None:
    """The label on the same axes that ``other`` describes the same units as."""
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
    """Marks of a sum over axes, and the entries that were summed over.

    A label over several axes of which only some are summed stands for rows of units (a head's channels). Where the
    innermost axis is summed, each row is summed up: rows differ, units within a row do not. Otherwise, and with
    ``across``, the units that are summed into one result are tied.
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
            rows = count(m.shape, rest)
            entries.tell_apart(label, rows, why)
            fixed.append(Fixed(rows, why))
            gone.append(label.ravel())
    fixed += [Fixed(without(values, summed), reason) for values, reason in m.fixed]
    kept = tuple(1 if i in summed else n for i, n in enumerate(m.shape))
    shape = kept if keepdim else tuple(n for i, n in enumerate(m.shape) if i not in summed)
    form = formed_along(entries, m.form, summed)
    new = replace(m, labels=tuple(labels), fixed=simplify(fixed), product=frozenset(), form=form, shares=None)

    def drop(x: Ids) -> Ids:
        return x if keepdim else x.reshape([n for i, n in enumerate(x.shape) if i not in summed])

    ids = np.unique(np.concatenate(gone)) if gone else np.zeros(0, dtype=np.int64)
    return new.move(drop, shape), ids[ids >= 0]


def contract(
    entries: Entries, a: Marks, b: Marks, spec: str, sizes: dict[str, int], why: str, averaged: str = ""
) -> tuple[Marks, dict[str, Ids]]:
    """Marks of ``einsum(spec, a, b)``, and the entries of both operands on summed and kept axes.

    The entries come under ``a_summed``, ``a_kept``, ``b_summed`` and ``b_kept``. ``averaged``: the operand, ``a`` or
    ``b``, of which the other one's weights make a mean.
    """
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    order = output + "".join(sorted((set(left) | set(right)) - set(output)))
    shape = [sizes[c] for c in order]
    a = a.placed([order.index(c) for c in left], shape)
    b = b.placed([order.index(c) for c in right], shape)
    labels, fixed = meet(entries, a, b, why)
    summed = list(range(len(output), len(order)))
    form = None
    if averaged:
        form = formed_along(
            entries, (a if averaged == "a" else b).form, summed, f"are averaged at several places by {why}"
        )
    joint = Marks(tuple(shape), labels, fixed, form=form)
    result, _ = reduce(entries, joint, summed, False, why) if summed else (joint, None)
    found = {}
    for side, m in (("a", a), ("b", b)):
        found[f"{side}_summed"] = m.label_entries(summed)
        kept = [x.ravel() for x in m.labels if not set(axes_of(x)) & set(summed)]
        ids = np.unique(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
        found[f"{side}_kept"] = ids[ids >= 0]
    return result, found


def formed_along(entries: Entries, form: Ids | None, axes: Iterable[int], uneven: str = "") -> Ids | None:
    """What was done to the values along the axes, as one number each: theirs, or where they differ, one for all."""
    if form is None:
        return None
    own = tuple(a for a in axes if form.shape[a] > 1)
    if not own:
        return form
    rows = np.moveaxis(form, own, range(len(own))).reshape(int(np.prod([form.shape[a] for a in own])), -1)
    numbers = [entries.form(("places", *np.unique(row).tolist()), uneven) if len(set(row.tolist())) > 1 else int(row[0])
               for row in rows.T]  # fmt: skip
    return np.array(numbers).reshape([1 if a in own else n for a, n in enumerate(form.shape)])


def after(entries: Entries, m: Marks, step: Sequence[str], uneven: str = "") -> Marks:
    """Marks after one more thing was done to the units' values."""
    old = np.zeros((1,) * len(m.shape), dtype=np.int64) if m.form is None else m.form
    numbers, where = np.unique(old, return_inverse=True)
    new = np.array([entries.form((*step, int(i)), uneven) for i in numbers])
    return replace(m, form=new[where].reshape(old.shape))
