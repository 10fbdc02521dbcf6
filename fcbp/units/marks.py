"""``Marks``: the units that the axes of a tensor index, and the changes that operations make to them.

A tensor's *labels* are integer arrays that broadcast to its shape: at each position the entry (see ``entries``) that
the position belongs to, or -1. A label may depend on one axis (the channels of a conv map), on several (attention
heads times channels, after a view) or share an axis with others (a flattened map). Operations that move data are run on
the labels themselves, so that views, chunks and concatenations need no logic of their own. *Fixed* arrays say which
positions differ along the other axes (the batch, positions, the network's input). Along an axis with neither, the
tensor is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fcbp.units.entries import Ids

__all__ = [
    "AtZero", "Factors", "Fixed", "Marks", "Shares", "axes_of", "numbered", "reshape_like", "shares_of", "simplify",
    "squeeze", "varying", "without",
]  # fmt: skip


class Fixed(NamedTuple):
    """Positions of a tensor that differ."""

    values: Ids
    """An array that broadcasts to the tensor's shape: positions with different numbers differ."""
    why: str
    """The reason why they differ, for messages."""


class Shares(NamedTuple):
    """Weights that are 1 in sum, as a softmax gives them, or values that were multiplied by such weights."""

    places: Ids
    """The number of weights that are 1 in sum, shifted by 32 bits, plus the number of the weight at each position."""
    history: Ids | None
    """The history (see ``Marks``) of the values that were multiplied; ``None`` for the weights themselves."""

    def whole(self, axes: Iterable[int]) -> bool:
        """Tell whether a sum over the axes takes every weight once."""
        own = self.places.ravel()
        return set(axes_of(self.places)) <= set(axes) and len(np.unique(own)) == own.size == own[0] >> 32


class Factors(NamedTuple):
    """The operands of an activation times a weight, element by element; their sum is a product as ``h @ w`` is."""

    activation: Marks
    weight: Marks
    event: int
    """The number of the event that the ledger has of the weight."""


class AtZero(NamedTuple):
    """The value of a tensor that is computed from parameters where all of a unit's entries in these are 0."""

    lost_by: str = ""
    """The operation after which it is not 0: for ``w.exp()`` this one; for ``2 * w`` none."""
    nonzero: bool = False
    """Whether it is a number well away from 0: for ``w.exp()``, which is 1, yes; for ``2 * w`` no."""
    singularities: frozenset[int] = frozenset()
    """Numbers of ``Ledger.singularities``, operations without a finite value or slope there: for ``w / w.norm()``."""


@dataclass(frozen=True)
class Marks:
    """The facts about one tensor of the traced forward.

    The examples are of ``h`` (8, 5) in ``h = relu(x @ w.T + b)``, with ``x`` (8, 3), ``w`` (5, 3) and ``b`` (5,); the
    entries of axis 0 of ``w`` have the numbers 0 to 4.

    Attributes:
        shape: the tensor's: ``(8, 5)``.
        labels: the entry of a parameter axis that each position belongs to, an array for each unit axis:
            ``[[0, 1, 2, 3, 4]]``.
        fixed: positions that cannot be exchanged: the 8 rows, ``[[0], [1], ..., [7]]``, which are the batch.
        is_activation: whether the tensor depends on the network's inputs: ``h`` and ``x`` do, ``w.T`` does not.
        origin: the parameters and buffers that a tensor is computed from, which is no activation: for ``w.T``
            ``{"w"}``.
        makers: the events whose units the labels are, as a bit set: bit 0, where ``x @ w.T`` is the first event.
        path: bits of the tensors that these units went through since their weights met an activation, the own one last:
            those of ``x @ w.T``, the sum and ``h``.
        upstream: bits of all tensors that this one was computed from; those of its path belong to the next one's.
        statistics: numbers of ``Ledger.statistics``, reductions over units whose result has not met these units again:
            of ``h.mean(1)`` one, of ``h - h.mean(1, keepdim=True)`` none.
        product_of: the weights of a product to which nothing has been added: ``{"w"}`` for ``x @ w.T``. A weight that
            is computed from parameters is left out, as what it adds does not follow from them alone.
        history: the number by position of all that was done to the units' values since their weights met an activation
            (``Entries.history_number``); ``None`` for nothing: one number for ``h``. Where two entries of one unit have
            the same history, a constant unit has the same value at both.
        at_zero: the value where the parameters that it is computed from are 0; of no meaning for activations.
        factors: the operands of an activation times a weight: ``h`` and ``v`` of ``h * v``.
        drawn_mean: the mean of numbers drawn at random, 1 for a dropout's mask over the rate that it keeps; 0 for all
            else.
        shares: weights that are 1 in sum, or values that were multiplied by such: for ``h.softmax(1)``.
    """

    shape: tuple[int, ...]
    labels: tuple[Ids, ...] = ()
    fixed: tuple[Fixed, ...] = ()
    is_activation: bool = False
    origin: frozenset[str] = frozenset()
    makers: int = 0
    path: int = 0
    upstream: int = 0
    statistics: frozenset[int] = frozenset()
    product_of: frozenset[str] = frozenset()
    history: Ids | None = None
    at_zero: AtZero = AtZero()  # noqa: RUF009  (it cannot be changed)
    factors: Factors | None = None
    drawn_mean: float = 0.0
    shares: Shares | None = None

    @property
    def histories(self) -> Ids:
        """The history as an array, 0 where nothing was done."""
        return np.zeros((1,) * len(self.shape), dtype=np.int64) if self.history is None else self.history

    def loses_zeros(self, by: str) -> Marks:
        """Note the operation by which the tensor is not 0 where parameters are 0; empty for none."""
        return replace(self, at_zero=self.at_zero._replace(lost_by=by))

    def singular(self, numbers: Iterable[int]) -> Marks:
        """Add singularities, by number."""
        both = self.at_zero.singularities | frozenset(numbers)
        return replace(self, at_zero=self.at_zero._replace(singularities=both))

    def move(self, f: Callable[[Ids], Ids], shape: Sequence[int]) -> Marks:
        """Return the marks after a movement of data; ``f`` moves each array."""
        labels = tuple(squeeze(f(x)) for x in self.labels)
        fixed = simplify(Fixed(f(x.values), x.why) for x in self.fixed)
        history = None if self.history is None else squeeze(f(self.history))
        labels = tuple(x for x in labels if x.size > 1)
        shares = self.shares
        if shares is not None:
            shares = Shares(squeeze(f(shares.places)), None if shares.history is None else squeeze(f(shares.history)))
        return replace(self, shape=tuple(shape), labels=labels, fixed=fixed, history=history, shares=shares)

    def aligned(self, ndim: int) -> Marks:
        """Add axes of size 1 in front, as broadcasting does."""
        extra = (1,) * (ndim - len(self.shape))
        return self.move(lambda x: x.reshape(extra + x.shape), extra + self.shape) if extra else self

    def placed(self, positions: Sequence[int], shape: Sequence[int]) -> Marks:
        """Put axis ``i`` at ``positions[i]`` of a larger space of the given shape."""
        order = np.argsort(positions)

        def place(x: Ids) -> Ids:
            full = [1] * len(shape)
            for axis, position in enumerate(positions):
                full[position] = x.shape[axis]
            return x.transpose(order).reshape(full)

        return self.move(place, [n if i in positions else 1 for i, n in enumerate(shape)])

    def viewed(self, shape: Sequence[int]) -> Marks:
        """Give the tensor another shape, its elements in the same order."""
        shape = tuple(shape)
        return self.move(lambda x: reshape_like(x, self.shape, shape), shape)

    def permuted(self, order: Sequence[int]) -> Marks:
        """Give the axes another order."""
        return self.move(lambda x: x.transpose(order), [self.shape[i] for i in order])

    def label_entries(self, axes: Iterable[int] | None = None) -> Ids:
        """Return the entries of all labels, or of the labels that depend on one of the axes."""
        chosen = [x.ravel() for x in self.labels if axes is None or set(axes_of(x)) & set(axes)]
        ids = np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
        return ids[ids >= 0]


def axes_of(x: Ids) -> tuple[int, ...]:
    """Return the axes that an array depends on."""
    return tuple(i for i, n in enumerate(x.shape) if n > 1)


def squeeze(x: Ids) -> Ids:
    """Give an array size 1 along the axes over which it is constant."""
    for axis in axes_of(x):
        first = x.take([0], axis)
        if (x == first).all():
            x = first
    return x


def numbered(shape: Sequence[int], axes: Sequence[int]) -> Ids:
    """Number the positions along the axes; the array is constant along all others."""
    full = [n if i in axes else 1 for i, n in enumerate(shape)]
    return np.arange(int(np.prod(full))).reshape(full)


def shares_of(shape: Sequence[int], axis: int) -> Shares | None:
    """Return the shares of weights that are 1 in sum along an axis."""
    n = shape[axis]
    return Shares((n << 32) + numbered(shape, [axis]), None) if n > 1 else None


def without(values: Ids, axes: Iterable[int]) -> Ids:
    """Return a fixed array of the other axes: positions differ there where any entries along ``axes`` differ."""
    gone = [a for a in axes if values.shape[a] > 1]
    rest = [n for a, n in enumerate(values.shape) if a not in gone]
    rows = np.moveaxis(values, gone, range(len(gone))).reshape(-1, int(np.prod(rest)))
    codes = np.unique(rows, axis=1, return_inverse=True)[1]
    return codes.reshape([1 if a in gone else n for a, n in enumerate(values.shape)])


def varying(shape: Sequence[int], why: str, axes: Iterable[int] | None = None) -> tuple[Fixed, ...]:
    """Return the fixed arrays of a tensor whose positions along the axes (by default all) differ."""
    chosen = range(len(shape)) if axes is None else axes
    return tuple(Fixed(numbered(shape, [a]), why) for a in chosen if shape[a] > 1)


def simplify(fixed: Iterable[Fixed]) -> tuple[Fixed, ...]:
    """Join fixed arrays: one for each set of axes, none where those of single axes say the same."""
    by_axes: dict[tuple[int, ...], Fixed] = {}
    for values, why in fixed:
        values = squeeze(values)
        axes = axes_of(values)
        if not axes:
            continue
        if len(axes) > 1 and len(np.unique(values)) == values.size:
            # Arrays of the single axes say that all positions differ.
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
    """Move ``x``, which broadcasts to ``old``, as ``tensor.reshape(new)`` moves the tensor, and keep it small."""
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
