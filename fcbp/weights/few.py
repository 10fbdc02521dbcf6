"""A short cut where values can be read: a few weights with the lowest among them, found without a pass that writes.

The choice is that of :func:`fcbp.weights.lowest.lowest`, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor

__all__ = ["Few", "few_lowest"]

_BLOCK = 64
_SAMPLED = 1 << 14


class Few(NamedTuple):
    """Some of a tensor's weights, all of its lowest among them."""

    number_eligible: Int64[Tensor, ""]
    """Eligible weights of the whole tensor."""
    places: Int64[Tensor, "few"]
    """Their places, in ascending order."""
    utility: Float[Tensor, "few"]
    """Bias-corrected; infinity where a weight is not eligible."""

    def lowest(self, number: int, size: int) -> tuple[Bool[Tensor, "weights"], Int64[Tensor, "number"]]:
        """Return the mask and, in ascending order, the places of the ``number`` lowest, ties to the lower index."""
        places = self.places[self.utility.sort(stable=True).indices[:number]].sort().values
        return torch.zeros(size, dtype=torch.bool, device=places.device).index_fill(0, places, True), places


def few_lowest(
    utility: Float[Tensor, "weights"],
    born: Int32[Tensor, "weights"],
    youngest: int,
    debias: Callable[[Float[Tensor, "some"], Int32[Tensor, "some"]], Float[Tensor, "some"]],
    most: int,
) -> Few | None:
    """Find weights among which are the ``most`` lowest of the eligible; ``None`` where the short cut does not serve.

    Args:
        utility: running means, not bias-corrected; the correction makes none of them less.
        born: the steps after which the weights were made.
        youngest: the mature were made before this step.
        debias: the bias correction of some weights, from their ``utility`` and ``born``.
        most: the largest number that may be asked for.
    """
    size = utility.shape[0]
    stride = size // _SAMPLED
    if stride < 2 * _BLOCK // 8 or 8 * most > size:
        return None
    # Far from the largest number, a finite mean has a finite correction; NaN is its own maximum.
    if not utility.amax() <= torch.finfo(utility.dtype).max * 1e-9:
        return None
    immature = _matching(born, lambda x: x >= youngest, lambda rows: rows.amax(-1) >= youngest)
    number_eligible = size - immature.shape[0]

    sample = debias(utility[::stride], born[::stride])
    sample = torch.where(born[::stride] < youngest, sample, torch.inf).sort().values
    bound = sample[min(2 * most * sample.shape[0] // size + 32, sample.shape[0] - 1)]
    places = _matching(utility, lambda x: x <= bound, lambda rows: rows.amin(-1) <= bound)
    corrected = torch.where(born[places] < youngest, debias(utility[places], born[places]), torch.inf)
    if bound == torch.inf or (corrected <= bound).sum() < min(most, number_eligible):
        return None
    return Few(torch.tensor(number_eligible, device=utility.device), places, corrected)


def _matching(
    x: Shaped[Tensor, "weights"],
    matches: Callable[[Tensor], Bool[Tensor, "..."]],
    any_matches: Callable[[Shaped[Tensor, "blocks block"]], Bool[Tensor, "blocks"]],
) -> Int64[Tensor, "matching"]:
    """Return places that match, in ascending order, looked for in the blocks that have one."""
    whole = x.shape[0] // _BLOCK * _BLOCK
    rows = x[:whole].view(-1, _BLOCK)
    hit = any_matches(rows).nonzero().squeeze(-1)
    row, column = matches(rows[hit]).nonzero().unbind(-1)
    rest = matches(x[whole:]).nonzero().squeeze(-1) + whole
    return torch.cat([hit[row] * _BLOCK + column, rest])
