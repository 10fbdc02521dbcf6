"""The number of replacements that fall due: of units here, of weights in :mod:`fcbp.weights`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from fcbp import random
from fcbp.cbp.running import bias_correction
from fcbp.cbp.state import CBPState, Hyperparams, RateCounts, Rounding
from fcbp.concrete import is_concrete
from fcbp.units import UnitGroup

__all__ = ["Due", "corrected_utility", "due", "most_due", "pay", "replacements_due"]


class Due(NamedTuple):
    """A group's replacements that are due, before units are chosen for them."""

    owed: Float[Tensor, ""]
    """Replacements owed, this step's included."""
    eligible: Bool[Tensor, "units"]
    """Units that may be replaced: mature, and of finite utility."""
    number_eligible: Int32[Tensor, ""]


def due(
    state: CBPState,
    units: Iterable[UnitGroup],
    hyper: Hyperparams,
    rounding: Rounding,
    rate_counts: RateCounts,
    key: Int64[Tensor, ""],
) -> dict[str, Due]:
    """Take step 5 for every group, by its name."""
    result: dict[str, Due] = {}
    for i, group in enumerate(units):
        name = group.name
        eligible = (state.age[name] > hyper.maturity_threshold) & _finite(state, name, hyper)
        number_eligible = counted = eligible.sum(dtype=torch.int32)
        if rate_counts == "all":
            counted = group.size * (counted > 0)
        owed = replacements_due(state.owed[name], counted, hyper.replacement_rate, rounding, key, i)
        result[name] = Due(owed, eligible, number_eligible)
    return result


def _finite(state: CBPState, name: str, hyper: Hyperparams) -> Bool[Tensor, "units"]:
    """Find the units whose bias-corrected utility is finite.

    The correction divides by at least ``1 - eta``, so that of most utilities it need not be known: where that can be
    seen, and in lanes, it is then not computed.
    """
    utility = state.utility[name]
    least = 1 - hyper.decay_rate
    bound = (least.to(utility.dtype) if isinstance(least, Tensor) else least) * (torch.finfo(utility.dtype).max / 2)
    unsure = ~(utility.abs() <= bound)
    if is_concrete(utility, bound) and not unsure.any():
        return ~unsure
    return torch.where(unsure, torch.isfinite(corrected_utility(state, name, hyper)), True)


def corrected_utility(state: CBPState, name: str, hyper: Hyperparams) -> Float[Tensor, "units"]:
    """Return a group's utility without the bias of its start at 0: step 4's second half."""
    return state.utility[name] / bias_correction(state.age[name], hyper.decay_rate, state.utility[name])


def most_due(size: int, rate: float | Tensor, capacity: int | None) -> int:
    """Return the most of ``size`` that one step replaces: ``capacity``, or by default what can fall due at such a
    rate."""
    if capacity is not None:
        return min(capacity, size)
    if isinstance(rate, Tensor):
        return size
    return min(math.floor(rate * size) + 1, size) if rate else 0


def replacements_due(
    owed: Float[Tensor, ""],
    counted: Int[Tensor, ""],
    rate: float | Tensor,
    rounding: Rounding,
    key: Int64[Tensor, ""],
    index: int,
) -> Float[Tensor, ""]:
    """Return the replacements due: the debt and ``rate`` times the units counted, rounded here if at random."""
    fresh = counted.to(owed.dtype) * (rate.to(owed.dtype) if isinstance(rate, Tensor) else rate)
    if rounding == "accumulate":
        return owed + fresh
    whole = torch.floor(fresh)
    return owed + whole + (random.uniform(random.fold_in(key, index), (), owed.dtype) < fresh - whole)


def pay(
    owed: Float[Tensor, ""], number_eligible: Int[Tensor, ""], limit: int, rate: float | Tensor
) -> tuple[Int32[Tensor, ""], Float[Tensor, ""]]:
    """Return the number replaced now, at most ``limit``, and the number owed afterwards.

    At rate 0 nobody is replaced. Whole replacements that nobody eligible is left for are forgiven, so that a debt is
    never larger than the eligible.
    """
    whole = torch.floor(owed)
    payable = torch.minimum(whole, number_eligible)
    number = torch.clamp(payable, max=limit)
    if isinstance(rate, Tensor):
        number = torch.where(rate > 0, number, 0)
    elif rate == 0:
        number = torch.zeros_like(number)
    return number.to(torch.int32), owed - (whole - payable + number)
