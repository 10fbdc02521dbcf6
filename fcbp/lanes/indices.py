"""Indices: integer expressions of the positions in a loop, by which a node's elements are read and written.

A loop over an array has one position for each axis. An :data:`Index` adds up multiples of positions, of quotients and
of remainders; so it describes slices, transposes, reshapes and windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = [
    "Index",
    "at",
    "axes_of",
    "bounds",
    "code",
    "divided",
    "linear",
    "plus",
    "reshaped",
    "substitute",
    "times",
    "variable",
]

Index = tuple[int, tuple[tuple[Any, int], ...]]
"""``(constant, ((atom, factor), ...))``; an atom is an axis's number, ``("/", index, n)`` or ``("%", index, n)``."""


def at(constant: int) -> Index:
    """Return the index that is one number at every position."""
    return constant, ()


def variable(axis: int, sizes: Sequence[int]) -> Index:
    """Return the position along an axis of a loop of these sizes; 0 along an axis of one element."""
    return (0, ((axis, 1),)) if sizes[axis] != 1 else at(0)


def plus(*indices: Index) -> Index:
    """Return the sum of indices."""
    constant = 0
    factors: dict[Any, int] = {}
    for c, terms in indices:
        constant += c
        for atom, factor in terms:
            factors[atom] = factors.get(atom, 0) + factor
    return constant, tuple(sorted(((a, f) for a, f in factors.items() if f), key=repr))


def times(index: Index, factor: int) -> Index:
    """Return a multiple of an index."""
    return (index[0] * factor, tuple((atom, f * factor) for atom, f in index[1])) if factor else at(0)


def bounds(index: Index, sizes: Sequence[int]) -> tuple[int, int]:
    """Return the least and the greatest value over all positions."""
    low = high = index[0]
    for atom, factor in index[1]:
        if isinstance(atom, int):
            least, most = 0, sizes[atom] - 1
        elif atom[0] == "%":
            least, most = 0, atom[2] - 1
        else:
            least, most = (edge // atom[2] for edge in bounds(atom[1], sizes))
        low += min(least * factor, most * factor)
        high += max(least * factor, most * factor)
    return low, high


def axes_of(index: Index) -> set[int]:
    """Return the axes on which an index depends."""
    atoms = [atom for atom, _ in index[1]]
    return set().union(*({atom} if isinstance(atom, int) else axes_of(atom[1]) for atom in atoms))


def divided(index: Index, n: int, sizes: Sequence[int]) -> tuple[Index, Index]:
    """Return the quotient and the remainder of a division by ``n``, rounded down."""
    quotient = (index[0] // n, tuple((a, f // n) for a, f in index[1] if f % n == 0))
    rest = (index[0] % n, tuple((a, f) for a, f in index[1] if f % n))
    low, high = bounds(rest, sizes)
    if low // n == high // n:
        return plus(quotient, at(low // n)), plus(rest, at(-(low // n) * n))
    return plus(quotient, (0, ((("/", rest, n), 1),))), (0, ((("%", rest, n), 1),))


def substitute(index: Index, values: Sequence[Index], sizes: Sequence[int]) -> Index:
    """Return an index with each axis replaced by its index in ``values``, which are of a loop of other ``sizes``."""
    result = at(index[0])
    for atom, factor in index[1]:
        if isinstance(atom, int):
            value = values[atom]
        else:
            value = divided(substitute(atom[1], values, sizes), atom[2], sizes)[atom[0] == "%"]
        result = plus(result, times(value, factor))
    return result


def strides(shape: Sequence[int]) -> list[int]:
    """Return the distance in memory between neighbours along each axis of an array."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def linear(place: Sequence[Index], shape: Sequence[int]) -> Index:
    """Return the place in memory of an element, from its index along each axis."""
    return plus(at(0), *(times(i, s) for i, s in zip(place, strides(shape), strict=True)))


def reshaped(old: Sequence[int], new: Sequence[int]) -> list[Index]:
    """Return the elements of an array of the ``new`` shape in one of the ``old`` shape: their index along each old
    axis."""
    flat = linear([variable(a, new) for a in range(len(new))], new)
    indices: list[Index] = []
    for n in reversed(old):
        flat, rest = divided(flat, n, new) if n else (flat, at(0))
        indices.insert(0, rest)
    return indices


def code(index: Index) -> str:
    """Return the C++ of an index; the positions are called ``i0``, ``i1`` and so on."""

    def atom_code(atom: Any) -> str:
        return f"i{atom}" if isinstance(atom, int) else f"({code(atom[1])}) {atom[0]} {atom[2]}"

    terms = [atom_code(a) if f == 1 else f"({atom_code(a)}) * {f}" for a, f in index[1]]
    return " + ".join([*terms, *([str(index[0])] if index[0] or not terms else [])])
