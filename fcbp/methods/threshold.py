"""Reset, at times, every unit whose score is below a fraction of its layer's mean: what ReDo and ReGraMa share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, show
from fcbp.cbp.state import check_capacity
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_units
from fcbp.methods.reset import lowest, masks, relative, reset_units, state_dtype, tick
from fcbp.optim import cast_like
from fcbp.units import UnitGroup

__all__ = ["ThresholdState", "threshold_method"]


class ThresholdHyperparams(Protocol):
    """The numbers that :func:`threshold_method` reads."""

    threshold: float | Tensor
    period: float | Tensor
    decay_rate: float | Tensor


@show.by_fields
class ThresholdState(NamedTuple):
    """The memory of a threshold method; the dicts are by group name."""

    magnitude: dict[str, Float[Tensor, "units"]]
    """Running mean of the scored magnitude; its ratio to the layer's mean is the score."""
    age: dict[str, Int32[Tensor, "units"]]
    """Steps since the unit was made."""
    since: Int32[Tensor, ""]
    """Steps since the last event."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


Magnitude = Callable[[UnitGroup, torch.dtype], Float[Tensor, "units"]]


def threshold_method(
    name: str,
    hyperparams: type,
    observe: Callable[[tuple[UnitGroup, ...], Any, Any], Magnitude],
    *,
    incoming: bool,
    initializer: str | initializers.Initializer,
    capacity: int | None,
) -> Method:
    """Make a method that resets the units whose score is at or below a threshold, every so many steps.

    Args:
        name: whom errors speak of.
        hyperparams: the class of its numbers.
        observe: ``(units, features, grads) -> (group, dtype) -> magnitude of each unit``; checks what it reads.
        incoming: whether it reads gradients of incoming weights.
        initializer: see :func:`fcbp.select_and_reset`.
        capacity: see :func:`fcbp.methods.redo`.
    """
    draw = initializers.get(initializer)
    check_capacity(capacity)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> ThresholdState:
        random.check_key(key)
        magnitude, age = {}, {}
        for group in need_units(units, params, name, incoming=incoming):
            dtype, device = state_dtype(group, params)
            magnitude[group.name] = torch.zeros(group.size, dtype=dtype, device=device)
            age[group.name] = torch.zeros(group.size, dtype=torch.int32, device=device)
        return ThresholdState(magnitude, age, torch.zeros((), dtype=torch.int32, device=key.device), key.clone())

    @torch.no_grad()
    def update(
        state: ThresholdState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        units: Iterable[UnitGroup],
        hyper: ThresholdHyperparams,
        features: Mapping[str, Tensor] | None = None,
        grads: Any = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, ThresholdState, dict[str, Any]]:
        units = tuple(units)
        check_numbers(
            hyper,
            hyperparams,
            threshold="a number",
            period="a whole number of steps, 1 or more",
            decay_rate="a number in [0, 1]",
        )
        magnitude_of = observe(units, features, grads)
        event, since, key, draws = tick(state, hyper.period)
        magnitude, age, chosen = {}, {}, {}
        for group in units:
            old, older = state.magnitude[group.name], state.age[group.name] + 1
            new = running_mean(old, magnitude_of(group, old.dtype), older, hyper.decay_rate)
            score = relative(new)
            chosen[group.name] = lowest(event & (score <= cast_like(hyper.threshold, score)), score, capacity)
            mask = chosen[group.name].mask
            magnitude[group.name], age[group.name] = new.masked_fill(mask, 0), older.masked_fill(mask, 0)
        params, opt_state, buffers = reset_units(params, opt_state, buffers, chosen, draws, units=units, draw=draw)
        state = ThresholdState(magnitude, age, since, key)
        return params, opt_state, buffers, state, {"replaced": masks(chosen)}

    return Method(init, update)


def running_mean(
    mean: Float[Tensor, "units"],
    value: Float[Tensor, "units"],
    age: Int32[Tensor, "units"],
    decay_rate: float | Tensor,
) -> Float[Tensor, "units"]:
    """``mean`` moved towards ``value``: the plain mean of all values until a unit is as old as a running mean of that
    decay reaches back, so that a young unit's needs no correction."""
    weight = age.to(mean.dtype).reciprocal().clamp(min=cast_like(1 - decay_rate, mean))
    return (1 - weight) * mean + weight * value
