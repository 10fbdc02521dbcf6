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

from fcbp.units.entries import Ids

__all__ = [
    "Fixed", "Marks", "Shares", "axes_of", "count", "reshape_like", "shares_of", "simplify", "squeeze", "varying",
    "without",
]  # fmt: skip


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
