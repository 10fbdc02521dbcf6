"""Finding the lowest of many numbers, and their quantiles, without sorting them: of static shape, so that it may be
compiled and vmapped, and exact, ties to the lower index."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64, Shaped
from torch import Tensor

__all__ = ["count_finite", "finite_or_inf", "kth_lowest", "lowest", "quantiles", "settled"]

# Up to this many are sorted.
_SORTED = 4096


def settled(x: Float[Tensor, "weights"]) -> Float[Tensor, "weights"]:
    """Compute ``x`` once: a compiler may work out a value anew wherever it is read, in a vector here and as a scalar
    there, and the last digits of the two need not be equal. The operand of a sum has to lie in memory."""
    return x.index_add(0, torch.zeros(1, dtype=torch.int32, device=x.device), torch.zeros_like(x[:1]))


def count_finite(x: Float[Tensor, "weights"]) -> Int[Tensor, ""]:
    """Return the number of values less than infinity."""
    return (x < torch.inf).sum()


def finite_or_inf(x: Float[Tensor, "weights"]) -> Float[Tensor, "weights"]:
    return torch.where(x <= torch.finfo(x.dtype).max, x, torch.full_like(x[0], torch.inf))


def quantiles(x: Float[Tensor, "weights"], fractions: tuple[float | Tensor, ...]) -> tuple[Float[Tensor, ""], ...]:
    """Return quantiles of the finite values, as numpy's of ``method="lower"``; infinity where none is finite."""
    finite = count_finite(x)

    def rank(fraction: float | Tensor) -> Tensor:
        fraction = fraction.to(torch.float64) if isinstance(fraction, Tensor) else fraction
        return torch.floor((finite - 1).clamp(min=0).to(torch.float64) * fraction + 1e-9).to(torch.int32) + 1

    return kth_lowest(x, [rank(fraction) for fraction in fractions])


def kth_lowest(x: Shaped[Tensor, "weights"], ranks: list[Int[Tensor, ""]]) -> tuple[Shaped[Tensor, ""], ...]:
    """Return the ``k``-th lowest for each ``k``, from 1 on; none is negative or NaN.

    Without a sort where they are many: non-negative numbers are ordered as their bits are. The leading 16 of the
    ``k``-th are the first bin of a histogram at which ``k`` have been counted; then the next, of those numbers that
    have the same leading ones.
    """
    n = x.shape[0]
    if n <= _SORTED:
        ordered = x.sort().values
        return tuple(ordered.gather(0, (k.to(torch.int64) - 1).clamp(0, n - 1).unsqueeze(0)).squeeze(0) for k in ranks)
    order = x.view(torch.int64 if x.element_size() == 8 else torch.int32)
    bits = 8 * x.element_size() - 1
    one = torch.ones((), dtype=torch.int32, device=x.device).expand(n)
    first = _histogram(order >> (bits - 16), one, 1 << 16)
    found = []
    for k in ranks:
        counts, left, prefix = first, bits - 16, torch.zeros_like(order[0])
        while True:
            reached = counts.cumsum(0, dtype=torch.int32)
            digit = (reached < k).sum(dtype=torch.int32).clamp(max=counts.shape[0] - 1)
            k = k - torch.where(reached < k, counts, torch.zeros_like(k)).sum(dtype=torch.int32)
            prefix = prefix + (digit.to(order.dtype) << left)
            if not left:
                break
            width = min(left, 16)
            left -= width
            # Bins for the bits that follow, and one on either side for all that does not begin like the k-th.
            offset = ((order >> left) - (prefix >> left)).clamp(-1, 1 << width) + 1
            counts = _histogram(offset, one, (1 << width) + 2)[1:-1]
        found.append(prefix.view(x.dtype))
    return tuple(found)


def _histogram(bins: Int[Tensor, "weights"], one: Int32[Tensor, "weights"], number: int) -> Int32[Tensor, "number"]:
    return torch.zeros(number, dtype=torch.int32, device=bins.device).index_add(0, bins.to(torch.int32), one)


def lowest(
    x: Shaped[Tensor, "weights"], number: Shaped[Tensor, ""], capacity: int
) -> tuple[Bool[Tensor, "weights"], Int64[Tensor, "capacity"] | None]:
    """Return the ``number`` lowest, at most ``capacity``, ties to the lower index; infinity comes last, and there is no
    NaN.

    Returns:
        Their mask, and where there are few of many their places in order of index, of which those past ``number``
        repeat the first.
    """
    n = x.shape[0]
    if not capacity:
        return torch.zeros(n, dtype=torch.bool, device=x.device), None
    if n <= _SORTED:
        index = torch.arange(n, dtype=torch.int32, device=x.device)
        if capacity == 1:
            return (index == x.argmin()) & (number > 0), None
        rank = torch.empty_like(index).scatter(0, x.sort(stable=True).indices, index)
        return rank < number, None
    if 64 * capacity <= n:
        places = _lowest_places(x, capacity)
        slot = torch.arange(capacity, dtype=torch.int32, device=x.device)
        places = torch.where(slot < number, places, n).sort().values
        places = torch.where(slot < number, places, places[0]).clamp(max=n - 1)
        # In bytes: compiled code writes truth values one by one, which a mask that only others read spares.
        mask = torch.zeros(n, dtype=torch.uint8, device=x.device)
        return mask.scatter(0, places, (number > 0).to(torch.uint8).expand(capacity)) != 0, places
    x = settled(x) if x.is_floating_point() else x
    (last,) = kth_lowest(x, [number.clamp(min=1).to(torch.int32)])
    index = torch.arange(n, dtype=torch.int32, device=x.device)
    ties = x == last
    below = x < last
    needed = number - below.sum()
    return (below | (ties & (index <= _nth_true(ties, needed)))) & (number > 0), None


def _lowest_places(x: Shaped[Tensor, "weights"], count: int) -> Int64[Tensor, "count"]:
    """Return the places of the ``count`` lowest, lowest first, ties to the lower index.

    They lie in the ``count`` blocks whose minima are lowest, ties to the lower block: of an entry in any other block,
    each of those holds one that comes before it. So the minima are looked through first, by the same rule.
    """
    n, block = x.shape[0], 32
    blocks = n // block
    if n <= _SORTED or 2 * block * count > n:
        return x.sort(stable=True).indices[:count]
    rows = x[: blocks * block].reshape(blocks, block)
    chosen = _lowest_places(rows.amin(-1), count).sort().values
    within = torch.arange(block, device=x.device)
    rest = torch.arange(blocks * block, n, device=x.device)
    places = torch.cat([(chosen.unsqueeze(-1) * block + within).flatten(), rest])
    candidates = torch.cat([rows[chosen].flatten(), x[blocks * block :]])
    return places[candidates.sort(stable=True).indices[:count]]


def _nth_true(mask: Bool[Tensor, "weights"], nth: Shaped[Tensor, ""]) -> Shaped[Tensor, ""]:
    """Return the place of the ``nth`` that is true, from 1 on: its block by the counts of blocks, then its place
    there."""
    n, block = mask.shape[0], 1024
    blocks = -(-n // block)
    rows = torch.nn.functional.pad(mask, (0, blocks * block - n)).reshape(blocks, block)
    counts = rows.sum(-1, dtype=torch.int32)
    reached = counts.cumsum(0, dtype=torch.int32)
    at = (reached < nth).sum(dtype=torch.int32).clamp(max=blocks - 1)
    before = torch.where(torch.arange(blocks, device=mask.device) < at, counts, 0).sum(dtype=torch.int32)
    row = rows.index_select(0, at.to(torch.int64).unsqueeze(0)).squeeze(0)
    inside = (row.cumsum(0, dtype=torch.int32) < nth - before).sum(dtype=torch.int32)
    return at * block + inside
