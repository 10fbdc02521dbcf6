"""Which axis of a tensor indexes which units: ``Marks``, and how operations on tensors move them.

A tensor's *labels* are integer arrays that broadcast to its shape: at each position the entry (see ``ledger``) that
the position belongs to, or -1. A label may depend on one axis (the channels of a conv map), on several (attention
heads times channels, after a view) or share an axis with others (a flattened map). Data movement is run on the labels
themselves, so views, chunks and concatenations need no rules of their own. Along an axis that the tensor varies over
but no label describes (the batch, positions, the network's input), *fixed* arrays say which positions differ. An axis
with neither is one the tensor is constant over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fcbp.units.ledger import Ids, Ledger

__all__ = ["Fixed", "Marks", "Shares", "contract", "meet", "reduce", "shares_of", "tell_apart", "varying", "without"]


class Fixed(NamedTuple):
    """Positions that differ: an array that broadcasts to the tensor's shape, and what makes them differ."""

    values: Ids
    why: str


class Shares(NamedTuple):
    """Weights that are 1 in sum, as a softmax gives them, or what was multiplied by them."""

    places: Ids
    """Along what they sum to 1: the number of the weights, shifted, plus the weight's own."""
    form: Ids | None
    """What was done to the values that were multiplied (``Marks.form``)."""

    def whole(self, axes: Iterable[int]) -> bool:
        """Whether a sum over the axes takes every weight once."""
        own = self.places.ravel()
        return set(axes_of(self.places)) <= set(axes) and len(np.unique(own)) == own.size == own[0] >> 32


@dataclass(frozen=True)
class Marks:
    """What is known of one tensor of the traced forward.

    Attributes:
        shape: the tensor's.
        labels: entries of parameter axes by position.
        fixed: positions that cannot be exchanged.
        data: whether the tensor depends on the network's inputs.
        origin: where it does not, the parameters and buffers it is computed from.
        makers: events whose units the labels are, as a bit set.
        path: bits of the tensors that these units went through since their weights met an activation, this one's last.
        upstream: bits of all tensors that this one was computed from.
        stats: reductions over units whose result has not met these units again (see ``Ledger.statistics``).
        product: the weights whose product with an activation this is, while nothing has been added; a weight that is
            computed of parameters has none, as what it adds is not known from them.
        form: what was done to the units' values since their weights met an activation, a number of ``Ledger.form`` by
            position; ``None`` for nothing. Where two entries of one unit have the same, a constant unit has the same
            value at both.
        loud: where it does not depend on inputs, the operation after which it is not 0 where a parameter's entries are.
        solid: whether, where a parameter's entries are 0, this is a number well away from 0.
        brittle: numbers of ``Ledger.brittle``: operations on parameters that this was computed by, which have no finite
            value or slope where the parameters' entries are 0.
        factors: of a product, element by element, of an activation and a weight: the two, and the number of the event;
            summed, it is a product as ``h @ w`` is.
        drawn: the mean of numbers drawn at random, as a dropout's mask; 0 for all else.
        shares: weights that are 1 in sum, by which a unit's values are weighted; ``None`` for all else.
    """

    shape: tuple[int, ...]
    labels: tuple[Ids, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    data: bool = False
    origin: frozenset[str] = frozenset()
    makers: int = 0
    path: int = 0
    upstream: int = 0
    stats: frozenset[int] = frozenset()
    product: frozenset[str] = frozenset()
    form: Ids | None = None
    loud: str = ""
    solid: bool = False
    brittle: frozenset[int] = frozenset()
    factors: tuple[Marks, Marks, int] | None = None
    drawn: float = 0.0
    shares: Shares | None = None

    def move(self, f: Callable[[Ids], Ids], shape: Sequence[int]) -> Marks:
        """The marks after a movement of data that ``f`` does to each array."""
        labels = tuple(squeeze(f(x)) for x in self.labels)
        fixed = simplify(Fixed(f(x.values), x.why) for x in self.fixed)
        form = None if self.form is None else squeeze(f(self.form))
        labels = tuple(x for x in labels if x.size > 1)
        shares = self.shares
        if shares is not None:
            shares = Shares(squeeze(f(shares.places)), None if shares.form is None else squeeze(f(shares.form)))
        return replace(self, shape=tuple(shape), labels=labels, fixed=fixed, form=form, shares=shares)

    def aligned(self, ndim: int) -> Marks:
        """With axes of size 1 in front, as broadcasting adds them."""
        extra = (1,) * (ndim - len(self.shape))
        return self.move(lambda x: x.reshape(extra + x.shape), extra + self.shape) if extra else self

    def placed(self, positions: Sequence[int], shape: Sequence[int]) -> Marks:
        """With axis ``i`` at ``positions[i]`` of a larger space of the given shape."""
        order = np.argsort(positions)

        def place(x: Ids) -> Ids:
            full = [1] * len(shape)
            for axis, position in enumerate(positions):
                full[position] = x.shape[axis]
            return x.transpose(order).reshape(full)

        return self.move(place, [n if i in positions else 1 for i, n in enumerate(shape)])

    def viewed(self, shape: Sequence[int]) -> Marks:
        """With the tensor's elements, in order, in another shape."""
        shape = tuple(shape)
        return self.move(lambda x: reshape_like(x, self.shape, shape), shape)

    def permuted(self, order: Sequence[int]) -> Marks:
        """With the axes in another order."""
        return self.move(lambda x: x.transpose(order), [self.shape[i] for i in order])

    def label_entries(self, axes: Iterable[int] | None = None) -> Ids:
        """The entries of all labels, or of those that depend on one of the axes."""
        chosen = [x.ravel() for x in self.labels if axes is None or set(axes_of(x)) & set(axes)]
        ids = np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
        return ids[ids >= 0]


def axes_of(x: Ids) -> tuple[int, ...]:
    """Axes that an array depends on."""
    return tuple(i for i, n in enumerate(x.shape) if n > 1)


def formed_along(ledger: Ledger, form: Ids | None, axes: Iterable[int], uneven: str = "") -> Ids | None:
    """What was done to the values along the axes, as one number each: theirs, or where they differ, one for all."""
    if form is None:
        return None
    own = tuple(a for a in axes if form.shape[a] > 1)
    if not own:
        return form
    rows = np.moveaxis(form, own, range(len(own))).reshape(int(np.prod([form.shape[a] for a in own])), -1)
    numbers = [ledger.form(("places", *np.unique(row).tolist()), uneven) if len(set(row.tolist())) > 1 else int(row[0])
               for row in rows.T]  # fmt: skip
    return np.array(numbers).reshape([1 if a in own else n for a, n in enumerate(form.shape)])


def squeeze(x: Ids) -> Ids:
    """The array with size 1 along the axes over which it is constant."""
    for axis in axes_of(x):
        first = x.take([0], axis)
        if (x == first).all():
            x = first
    return x


def count(shape: Sequence[int], axes: Sequence[int]) -> Ids:
    """An array that differs at every position along the axes and is constant along all others."""
    full = [n if i in axes else 1 for i, n in enumerate(shape)]
    return np.arange(int(np.prod(full))).reshape(full)


def shares_of(shape: Sequence[int], axis: int) -> Shares | None:
    """Weights that are 1 in sum along an axis."""
    n = shape[axis]
    return Shares((n << 32) + count(shape, [axis]), None) if n > 1 else None


def without(values: Ids, axes: Iterable[int]) -> Ids:
    """A fixed array seen along its other axes: positions differ there where anything along ``axes`` differs."""
    gone = [a for a in axes if values.shape[a] > 1]
    rest = [n for a, n in enumerate(values.shape) if a not in gone]
    rows = np.moveaxis(values, gone, range(len(gone))).reshape(-1, int(np.prod(rest)))
    codes = np.unique(rows, axis=1, return_inverse=True)[1]
    return codes.reshape([1 if a in gone else n for a, n in enumerate(values.shape)])


def varying(shape: Sequence[int], why: str, axes: Iterable[int] | None = None) -> tuple[Fixed, ...]:
    """Fixed arrays saying that all positions along the axes (all axes) differ."""
    chosen = range(len(shape)) if axes is None else axes
    return tuple(Fixed(count(shape, [a]), why) for a in chosen if shape[a] > 1)


def simplify(fixed: Iterable[Fixed]) -> tuple[Fixed, ...]:
    """One array for each set of axes, none for what is implied by the arrays of single axes."""
    by_axes: dict[tuple[int, ...], Fixed] = {}
    for values, why in fixed:
        values = squeeze(values)
        axes = axes_of(values)
        if not axes:
            continue
        if len(axes) > 1 and len(np.unique(values)) == values.size:
            # All positions differ: so do those along each axis, and that says it.
            for f in varying(values.shape, why):
                by_axes[axes_of(f.values)] = f
        elif axes in by_axes:
            both = np.stack([by_axes[axes].values.ravel(), values.ravel()])
            codes = np.unique(both, axis=1, return_inverse=True)[1]
            by_axes[axes] = Fixed(codes.reshape(values.shape), by_axes[axes].why)
        else:
            by_axes[axes] = Fixed(values, why)
    whole = {a for (a, *rest), f in by_axes.items() if not rest and len(np.unique(f.values)) == f.values.size}
    return tuple(f for axes, f in by_axes.items() if len(axes) == 1 or not set(axes) <= whole)


def reshape_like(x: Ids, old: tuple[int, ...], new: tuple[int, ...]) -> Ids:
    """``x``, which broadcasts to ``old``, as ``tensor.reshape(new)`` moves the tensor; small where ``x`` is."""
    if 0 in old:
        return np.zeros((1,) * len(new), dtype=np.int64)
    full: list[int] = []
    out: list[int] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = i, j
        m = n = 1
        while True:
            if i < len(old) and (m < n or (m == n and (i == left or old[i] == 1))):
                m *= old[i]
                i += 1
            elif j < len(new) and (n < m or (m == n and (j == right or new[j] == 1))):
                n *= new[j]
                j += 1
            else:
                break
        varies = any(x.shape[k] > 1 for k in range(left, i))
        full += old[left:i] if varies else [1] * (i - left)
        out += new[right:j] if varies else [1] * (j - right)
    return np.broadcast_to(x, full).reshape(out)


def innermost(label: Ids) -> int:
    """The axis along which neighbouring entries of a parameter lie side by side."""
    steps = {}
    for axis in axes_of(label):
        line = np.diff(label, axis=axis)
        steps[axis] = int(np.abs(line).min())
    return min(steps, key=lambda a: (steps[a] == 0, steps[a], -a))


def meet(ledger: Ledger, a: Marks, b: Marks, why: str) -> tuple[tuple[Ids, ...], tuple[Fixed, ...]]:
    """Labels and fixed arrays of a sum or product of two tensors of equal ndim: what meets is tied or told apart."""
    a, b = _settled(ledger, a), _settled(ledger, b)
    labels = list(a.labels)
    fixed = [*a.fixed, *b.fixed]
    own = range(len(labels))
    free = list(own)  # labels of ``a`` that no label of ``b`` has been tied to
    for other in b.labels:
        axes = axes_of(other)
        same = [i for i in free if axes_of(labels[i]) == axes]
        match = _partner(labels, same, other, alone=sum(axes_of(x) == axes for x in b.labels) == 1)
        if match is not None:
            ledger.tie(labels[match], other)
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
                ledger.tie(small, large)
                labels[i] = small
            elif nested:
                # The small label's entries are shared by several units of the large one.
                ledger.tell_apart(large, small, why)
                ledger.pin(small, f"one entry is shared by several units at {why}")
                fixed.append(Fixed(small, why))
                labels[i] = large
            else:
                for x in (mine, other):
                    ledger.pin(x, f"two unit axes lie across each other at {why}")
    tell_apart(ledger, labels, fixed)
    return tuple(labels), simplify(fixed)


def tell_apart(ledger: Ledger, labels: Iterable[Ids], fixed: Iterable[Fixed]) -> None:
    """Entries at positions that differ, differ."""
    fixed = tuple(fixed)
    for label in labels:
        own = set(axes_of(label))
        for values, why in fixed:
            if own & set(axes_of(values)):
                ledger.tell_apart(label, without(values, set(axes_of(values)) - own), why)


def _settled(ledger: Ledger, m: Marks) -> Marks:
    """Where labels share an axis (a flattened map), those whose entries all differ are no more than positions."""
    axes = [set(axes_of(x)) for x in m.labels]
    sharing = [i for i, own in enumerate(axes) if any(own & other for k, other in enumerate(axes) if k != i)]
    if not sharing:
        return m
    pinned = [i for i in sharing if ledger.differ(m.labels[i])]
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
    ledger: Ledger, m: Marks, axes: Sequence[int], keepdim: bool, why: str, across: bool = False
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
            ledger.tie(label, first)
            labels.append(first)
        else:
            rows = count(m.shape, rest)
            ledger.tell_apart(label, rows, why)
            fixed.append(Fixed(rows, why))
            gone.append(label.ravel())
    fixed += [Fixed(without(values, summed), reason) for values, reason in m.fixed]
    kept = tuple(1 if i in summed else n for i, n in enumerate(m.shape))
    shape = kept if keepdim else tuple(n for i, n in enumerate(m.shape) if i not in summed)
    form = formed_along(ledger, m.form, summed)
    new = replace(m, labels=tuple(labels), fixed=simplify(fixed), product=frozenset(), form=form, shares=None)

    def drop(x: Ids) -> Ids:
        return x if keepdim else x.reshape([n for i, n in enumerate(x.shape) if i not in summed])

    ids = np.unique(np.concatenate(gone)) if gone else np.zeros(0, dtype=np.int64)
    return new.move(drop, shape), ids[ids >= 0]


def contract(
    ledger: Ledger, a: Marks, b: Marks, spec: str, sizes: dict[str, int], why: str, averaged: str = ""
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
    labels, fixed = meet(ledger, a, b, why)
    summed = list(range(len(output), len(order)))
    form = None
    if averaged:
        form = formed_along(
            ledger, (a if averaged == "a" else b).form, summed, f"are averaged at several places by {why}"
        )
    joint = Marks(tuple(shape), labels, fixed, form=form)
    result, _ = reduce(ledger, joint, summed, False, why) if summed else (joint, None)
    entries = {}
    for side, m in (("a", a), ("b", b)):
        entries[f"{side}_summed"] = m.label_entries(summed)
        kept = [x.ravel() for x in m.labels if not set(axes_of(x)) & set(summed)]
        ids = np.unique(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)
        entries[f"{side}_kept"] = ids[ids >= 0]
    return result, entries
