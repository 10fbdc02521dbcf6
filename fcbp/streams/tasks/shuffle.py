"""Random permutations whose entries are computed one by one: a pass over a data set without replacement and without a
table of its size.

A position is two digits, of base ``a`` and of base ``b``. Each round of a Feistel network adds to one digit a random
function of the other, which is undone by subtracting it, so that the whole is a permutation of the ``a * b`` pairs
(Black and Rogaway, Ciphers with arbitrary finite domains, CT-RSA 2002, section 5, whose rounds alternate as these do).
Where ``a * b`` exceeds the number of positions, a position that leaves them is permuted again until it is back: *cycle
walking*, section 4 there. The pairs beyond the positions are few. Where each of them goes is computed once, so that a
walk is a few looks into a small table; it visits each of them once at most, so that as many looks as there are such
pairs are always enough, and the permutation is exact.

The random functions are words of a key of :mod:`fcbp.random` at places of their own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from fcbp import random

__all__ = ["ROUNDS", "Domain", "domain", "shuffle"]

ROUNDS = 10
"""Rounds of the network, as in NIST's FF1 (SP 800-38G)."""
FEW = 64
"""Positions up to which a network has more rounds."""
ROUNDS_OF_FEW = 24
"""With digits of 2 or 3 values each round changes little: over 3 to 7 positions, 24 rounds make every permutation
equally frequent, as far as half a million of them can tell."""


class Domain(NamedTuple):
    """Positions as pairs of digits. The first three are plain numbers, or tensors with an entry for each row."""

    size: int | Tensor
    """Positions."""
    low: int | Tensor
    """The base of the first digit."""
    high: int | Tensor
    """The base of the second, not below the first's."""
    beyond: int
    """The most pairs that are no positions."""
    rounds: int
    """Rounds of the network."""


def domain(size: int) -> Domain:
    """Return the positions 0 to ``size - 1`` as pairs: of bases that are alike, those with the fewest pairs beyond.

    Example:
        >>> domain(60_000).beyond, domain(1797).beyond, domain(7)
        (0, 1, Domain(size=7, low=2, high=4, beyond=1, rounds=24))
    """
    root = math.isqrt(size)
    # One digit of a single value would never change.
    least = min(max(2, root // 8), max(size - 1, 1))
    low = min(range(max(root, least), least - 1, -1), key=lambda base: -size % base)
    high = -(-size // low)
    return Domain(size, low, high, low * high - size, ROUNDS if size > FEW else ROUNDS_OF_FEW)


def shuffle(
    key: Int64[Tensor, ""], number: Int64[Tensor, "*rows"], position: Int64[Tensor, "*rows k"], domain: Domain
) -> Int64[Tensor, "*rows k"]:
    """Return the images of positions under permutations.

    Args:
        key: the key of all the permutations.
        number: the number of the permutation, for each row of positions.
        position: 0 to ``domain.size - 1``.
        domain: of the positions; its tensors have an entry for each row.

    Example:
        >>> key = random.key(0)
        >>> sorted(shuffle(key, torch.tensor(5), torch.arange(10), domain(10)).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    number = number.unsqueeze(-1)
    size, low, high = (part.unsqueeze(-1) if isinstance(part, Tensor) else part for part in domain[:3])
    of_row = domain._replace(size=size, low=low, high=high)
    if not domain.beyond:
        return _network(key, number, position, of_row)
    outside = (torch.arange(domain.beyond, device=position.device) + size).expand(*position.shape[:-1], domain.beyond)
    made = _network(key, number, torch.cat([position, outside], -1), of_row)
    found, table = made[..., : position.shape[-1]], made[..., position.shape[-1] :]
    for _ in range(domain.beyond):
        place = (found - size).clamp(0, domain.beyond - 1)
        found = torch.where(found < size, found, table.gather(-1, place))
    return found


def _network(key: Tensor, number: Tensor, position: Tensor, domain: Domain) -> Tensor:
    first, second = position // domain.high, position % domain.high
    for i in range(0, domain.rounds, 2):
        first = _add(first, domain.low, key, (number * domain.rounds + i) * domain.high + second)
        second = _add(second, domain.high, key, (number * domain.rounds + i + 1) * domain.high + first)
    return first * domain.high + second


def _add(digit: Tensor, base: int | Tensor, key: Tensor, place: Tensor) -> Tensor:
    """Return a digit and a random one, less the base where they exceed it."""
    # The word's upper half, as a fraction, times the base: no division.
    draw = (((random.bits_at(key, place) >> 32) & 0xFFFFFFFF) * base) >> 32
    total = digit + draw
    return torch.where(total >= base, total - base, total)
