"""The common parts of the methods that reset units: the time of an event, the lowest scores, and the reset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64, Shaped
from torch import Tensor

from fcbp import initializers, random, tree, utility
from fcbp.cbp import rank_lowest, reset_buffers, reset_moments, unit_activations
from fcbp.concrete import is_nothing
from fcbp.kinds import PyTree
from fcbp.optim import cast_like
from fcbp.units import UnitGroup
from fcbp.units.group import FRESH, Slice, fans, put, put_rows, row_shape, spread, take, update
from fcbp.weights.lowest import settled

__all__ = [
    "Chosen",
    "activation_magnitude",
    "fires",
    "gradient_magnitude",
    "lowest",
    "masks",
    "mix",
    "relative",
    "reset_partially",
    "reset_units",
    "state_dtype",
    "tick",
]


# --- when, and who --------------------------------------------------------------------------------------


class Tick(NamedTuple):
    """A step of a method that acts every so many steps."""

    event: Bool[Tensor, ""]
    """Whether the method acts in this step."""
    since: Int32[Tensor, ""]
    """Steps since the last event, this step included."""
    key: Int64[Tensor, ""]
    """The key of the steps to come."""
    draws: Int64[Tensor, ""]
    """The key of this step's draws."""


def tick(state: PyTree, period: float | Tensor) -> Tick:
    """Count a step of a state that has ``since`` and ``key``; an event is due every ``period`` steps.

    A count, not a remainder: it costs less, and a period of 0 in a tensor is every step rather than a division by it.
    """
    since = state.since + 1
    event = since >= period
    key, draws = random.split(state.key).unbind()
    return Tick(event, since.masked_fill(event, 0), key, draws)


def activation_magnitude(
    group: UnitGroup, features: Mapping[str, Float[Tensor, "..."]], dtype: torch.dtype
) -> Float[Tensor, "units"]:
    """Return the mean of ``abs(h)`` over batch and positions."""
    h = unit_activations(group, features[group.name]).to(dtype)
    return h.abs().mean((*range(h.ndim - 2), -1))


def fires(
    group: UnitGroup, features: Mapping[str, Float[Tensor, "..."]], above: float | Tensor
) -> Bool[Tensor, "units"]:
    """Find the units whose ``h`` is above a number for any sample at any position."""
    h = unit_activations(group, features[group.name])
    return (h > cast_like(above, h)).any(-1).flatten(0, -2).any(0)


def gradient_magnitude(group: UnitGroup, grads: PyTree, dtype: torch.dtype) -> Float[Tensor, "units"]:
    """Return the mean of ``abs(g)`` over the incoming weights: :func:`fcbp.utility.incoming_gradient`."""
    own = tuple(take(tree.get(grads, s.path), s, group.size).to(dtype) for s in group.incoming)
    nothing = own[0].new_zeros(group.size, 1)
    return utility.incoming_gradient(utility.Observation(nothing, nothing, (), (), incoming_grads=own))


def relative(values: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
    """``values`` over their mean: 0 for all where the mean is 0, NaN where it is not finite."""
    mean = values.mean()
    return values / torch.where(mean == 0, 1, torch.where(mean < math.inf, mean, math.nan))


class Chosen(NamedTuple):
    """The units of a group that are reset, and which of the rows drawn each takes."""

    mask: Bool[Tensor, "units"]
    """Whether the unit is reset."""
    slot: Int32[Tensor, "units"] | None
    """Its row, where it is; ``None`` where each unit has a row of its own."""
    rows: int
    """The number of rows drawn."""


def masks(chosen: Mapping[str, Chosen]) -> dict[str, Bool[Tensor, "units"]]:
    """Return the masks alone, by group name."""
    return {name: one.mask for name, one in chosen.items()}


def lowest(
    eligible: Bool[Tensor, "units"],
    score: Shaped[Tensor, "units"],
    capacity: int | None,
    number: Shaped[Tensor, ""] | None = None,
) -> Chosen:
    """Choose the eligible units of lowest score, ties to the lower index: ``number`` of them, and at most
    ``capacity``."""
    size = score.shape[0]
    rows = size if capacity is None else min(capacity, size)
    if rows == size and number is None:
        return Chosen(eligible, None, size)
    slot, _ = rank_lowest(torch.where(eligible, score, torch.inf), rows)
    mask = eligible & (slot < rows)
    return Chosen(mask if number is None else mask & (slot + 1 <= number), slot, rows)


# --- resets ---------------------------------------------------------------------------------------------


def reset_units(
    params: PyTree,
    opt_state: PyTree,
    buffers: PyTree,
    chosen: Mapping[str, Chosen],
    key: Int64[Tensor, ""],
    *,
    units: Iterable[UnitGroup],
    draw: initializers.Initializer,
) -> tuple[Any, Any, Any]:
    """Make the chosen units new, as :func:`fcbp.select_and_reset` does.

    For all groups the outgoing weights become 0; then the incoming ones are drawn anew, biases and norm shifts become
    0, norm scales 1, slopes of PReLUs 0.25; moments and step counts of all these become 0, running means 0, running
    variances 1.

    Args:
        chosen: by group name the units, as :func:`lowest` gives them.
        key: the draws' own.
    """
    replaced = masks(chosen)
    if is_nothing(replaced):
        return params, opt_state, buffers
    units = [group for group in units if chosen[group.name].rows]
    drawn = 0

    def to(value: float) -> Callable[[UnitGroup, Slice, Tensor], Tensor]:
        return lambda group, s, leaf: put(leaf, s, replaced[group.name], value)

    def redraw(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        nonlocal drawn
        mask, slot, count = chosen[group.name]
        rows = _rows(draw, key, drawn, leaf, s, count)
        drawn += 1
        return put_rows(leaf, s, slot, mask, rows)

    params = update(params, units, to(0.0), "outgoing")
    params = update(params, units, redraw, "incoming")
    for role, value in FRESH.items():
        params = update(params, units, to(value), role)
    opt_state = reset_moments(opt_state, replaced, units=units, params=params)
    return params, opt_state, reset_buffers(buffers, replaced, units=units)


def reset_partially(
    params: PyTree,
    fraction: Mapping[str, Float[Tensor, "units"]],
    key: Int64[Tensor, ""],
    *,
    units: Iterable[UnitGroup],
    draw: initializers.Initializer,
) -> PyTree:
    """Move each unit by a fraction r of the way to a new one: ``w_out = (1 - r) w_out``, then
    ``w_in = (1 - r) w_in + r fresh``, for all groups one after the other.

    Where r is 0 the weights stay as they are, to the bit.
    """
    if is_nothing(fraction):
        return params
    drawn = 0

    def fade(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        return mix(leaf, 0.0, spread(fraction[group.name], s, leaf, 0.0))

    def refresh(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        nonlocal drawn
        r = fraction[group.name]
        rows = _rows(draw, key, drawn, leaf, s, group.size)
        drawn += 1
        fresh = put_rows(leaf, s, None, torch.ones_like(r, dtype=torch.bool), rows)
        return mix(leaf, fresh, spread(r, s, leaf, 0.0))

    return update(update(params, units, fade, "outgoing"), units, refresh, "incoming")


def mix(leaf: Float[Tensor, "..."], new: float | Tensor, r: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """``(1 - r) leaf + r new``; where r is 0, ``leaf``."""
    return torch.where(r > 0, ((1 - r) * leaf + r * new).to(leaf.dtype), leaf)


def _rows(
    draw: initializers.Initializer, key: Int64[Tensor, ""], index: int, leaf: Tensor, s: Slice, count: int
) -> Tensor:
    own = random.fold_in(key, index)
    # Settled: the compiler would work out the draws of all rows where they are read, their positions with them, as
    # memory addresses, whose products do not fit (see fcbp.random).
    return settled(draw(own, row_shape(leaf, s, count), *fans(leaf, s), leaf.dtype, leaf.device))


def state_dtype(group: UnitGroup, params: PyTree) -> tuple[torch.dtype, torch.device]:
    """Return the dtype and the device of a unit's running values: the weights' dtype, or float32 if that is finer."""
    leaf = tree.get(params, (group.incoming + group.outgoing)[0].path)
    return torch.promote_types(leaf.dtype, torch.float32), leaf.device
