"""CCBP: continuous Continual Backpropagation, and the discrete form that goes with it.

McCutcheon, Chatzaroulas and Fallah, "Learning continually at peak performance with continuous continual
backpropagation", submitted to ICLR 2026 (Algorithm 1, equation 5), in the form of ccbp-pytorch 0.0.3. With g the
gradients of a unit's incoming weights and g_b that of its bias, each step::

    u = decay u + (1 - decay) (mean abs(g) + abs(g_b)) / the layer's mean of that      u starts at 1

and every ``period`` steps::

    r = rate / (1 + exp(sharpness (u - 1))) min(age / maturity, 1)
    w_out = (1 - r) w_out      w_in = (1 - r) w_in + r fresh      b = (1 - r) b + r initial b
    age = (1 - r) age      u = (1 - r) u + r

and ``age`` grows by 1 each step. In the discrete form r is 1 for the due number of mature units of lowest utility and 0
for the others: Continual Backpropagation, but for its utility and its events.

What differs from ccbp-pytorch:

- its discrete count carries the fraction that is not yet due *and* rounds it up by chance: at an expected number of
  0.001, 0.01, 0.1 and 0.5 units an event it replaces 25, 8, 2.7 and 1.3 times as many. Here fractions are carried: the
  number replaced is ``rate`` times the sum of the eligible, to less than one.
- it takes a layer's mean as at least 1e-8; here a layer whose mean is 0 has utilities that fall to 0, and others keep
  their ratios at any scale. A unit of no finite utility is left alone.
- it pairs layers in the order of their registration; a group knows who reads it, flattened maps and several consumers
  included, and no output layer is a group.
- it draws rows of other axes than the first with the wrong fan.
- in the discrete form it sets second moments to the mean of those kept; here moments and step counts become 0, each
  element's by itself. Norms and buffers of replaced units are made new as by Continual Backpropagation; the continuous
  form leaves them, and optimiser state, alone, as published.
- it draws ``kaiming_normal``; the paper's code draws uniformly from the same variance, as does the default here, which
  costs a fraction of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, show, tree
from fcbp.cbp.state import check_capacity, count_dtype
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_grads, need_units
from fcbp.methods.reset import (
    Chosen,
    gradient_magnitude,
    lowest,
    masks,
    mix,
    relative,
    reset_partially,
    reset_units,
    state_dtype,
    tick,
)
from fcbp.optim import cast_like, moving_average
from fcbp.units import UnitGroup
from fcbp.units.group import Slice, spread, take
from fcbp.units.group import update as write

__all__ = ["CCBPHyperparams", "CCBPState", "ccbp"]


class CCBPHyperparams(NamedTuple):
    """The numbers of continuous Continual Backpropagation; each a float or a 0-d tensor, which may be vmapped."""

    replacement_rate: float | Tensor = 0.015
    """The most of a unit that is reset at an event (rho), in [0, 1]; in the discrete form the fraction of the eligible
    units replaced at an event (0.003 in the paper)."""
    sharpness: float | Tensor = 16.0
    """Speed at which the reset falls off with utility, at least 0. The discrete form does not read it."""
    decay_rate: float | Tensor = 0.99
    """Decay of the running mean of utility, in [0, 1]."""
    period: float | Tensor = 1000
    """Steps between events, at least 1."""
    maturity_threshold: float | Tensor = 0
    """Age at which a unit is reset by the whole rate, younger ones by less in proportion; in the discrete form the age
    from which on it may be replaced (100 in the paper)."""


RANGES = {
    "replacement_rate": "a number in [0, 1]",
    "sharpness": "a number, 0 or more",
    "decay_rate": "a number in [0, 1]",
    "period": "a whole number of steps, 1 or more",
    "maturity_threshold": "a number, 0 or more",
}


@show.by_fields
class CCBPState(NamedTuple):
    """The memory of continuous Continual Backpropagation; the dicts are by group name."""

    utility: dict[str, Float[Tensor, "units"]]
    """Running mean of a unit's gradient relative to its layer's."""
    age: dict[str, Float[Tensor, "units"]]
    """Steps since the unit was made, less the fractions of it that were reset."""
    owed: dict[str, Float[Tensor, ""]]
    """Replacements carried over by the discrete form."""
    initial_bias: dict[str, Float[Tensor, "..."]]
    """The leaves that hold the units' biases as they began, by path."""
    since: Int32[Tensor, ""]
    """Steps since the last event."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


@arguments
def ccbp(
    *,
    continuous: bool = True,
    initializer: str | initializers.Initializer = "kaiming_uniform",
    capacity: int | None = None,
) -> Method:
    """Make the method of continuous Continual Backpropagation; its ``hyper`` is :class:`CCBPHyperparams`.

    ``info["replaced"]`` holds what the discrete form replaced, and is empty in the continuous one, where
    ``info["reset_fraction"]`` holds by group name how much of each unit was reset, ``(units,)``.

    Args:
        continuous: reset a little of every unit, or whole units.
        initializer: how fresh incoming weights are drawn; see :func:`fcbp.select_and_reset`.
        capacity: in the discrete form, the most units replaced per group and event; more are deferred. Rows are drawn
            for ``capacity`` units at every step, so a small one is cheaper. By default all.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    draw = initializers.get(initializer)
    check_capacity(capacity)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> CCBPState:
        return _init(units, params, key, continuous)

    @torch.no_grad()
    def update(
        state: CCBPState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        units: Iterable[UnitGroup],
        hyper: CCBPHyperparams,
        grads: Any = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, CCBPState, dict[str, Any]]:
        units = tuple(units)
        check_numbers(hyper, CCBPHyperparams, **RANGES)
        grads = need_grads(grads, "ccbp")
        event, since, key, draws = tick(state, hyper.period)
        utility, age, owed = {}, {}, {}
        fraction, chosen = {}, {}
        for group in units:
            name, old = group.name, state.age[group.name]
            u = moving_average(hyper.decay_rate, state.utility[name], relative(_magnitude(group, grads, old.dtype)))
            if continuous:
                r = _fraction(u, old, hyper)
                fraction[name] = torch.where(event & (r > 0), r, 0)
            else:
                chosen[name], owed[name] = _due(u, old, state.owed[name], event, hyper, capacity)
                fraction[name] = chosen[name].mask.to(u.dtype)
            age[name] = (1 - fraction[name]) * old + 1
            utility[name] = mix(u, 1.0, fraction[name])
        if continuous:
            params = reset_partially(params, fraction, draws, units=units, draw=draw)
        else:
            params, opt_state, buffers = reset_units(params, opt_state, buffers, chosen, draws, units=units, draw=draw)

        def pull(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
            return mix(leaf, state.initial_bias[tree.show(s.path)], spread(fraction[group.name], s, leaf, 0.0))

        params = write(params, units, pull, "bias")
        state = CCBPState(utility, age, owed, state.initial_bias, since, key)
        if continuous:
            return params, opt_state, buffers, state, {"replaced": {}, "reset_fraction": fraction}
        return params, opt_state, buffers, state, {"replaced": masks(chosen)}

    return Method(init, update)


def _init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""], continuous: bool) -> CCBPState:
    random.check_key(key)
    utility, age, owed = {}, {}, {}
    initial: dict[str, Tensor] = {}
    for group in need_units(units, params, "ccbp", incoming=True):
        dtype, device = state_dtype(group, params)
        utility[group.name] = torch.ones(group.size, dtype=dtype, device=device)
        age[group.name] = torch.zeros(group.size, dtype=dtype, device=device)
        if not continuous:
            owed[group.name] = torch.zeros((), dtype=count_dtype(device), device=device)
        initial |= {tree.show(s.path): tree.get(params, s.path).detach().clone() for s in group.bias}
    since = torch.zeros((), dtype=torch.int32, device=key.device)
    return CCBPState(utility, age, owed, initial, since, key.clone())


def _magnitude(group: UnitGroup, grads: Any, dtype: torch.dtype) -> Float[Tensor, "units"]:
    """Return the mean ``abs(g)`` of the incoming weights and the biases' own, together."""
    total = gradient_magnitude(group, grads, dtype)
    for s in group.bias:
        total = total + take(tree.get(grads, s.path), s, group.size).to(dtype).abs().mean(-1)
    return total


def _fraction(
    utility: Float[Tensor, "units"], age: Float[Tensor, "units"], hyper: CCBPHyperparams
) -> Float[Tensor, "units"]:
    """Return the fraction of each unit that is reset at an event; NaN where its utility is."""
    rate, sharpness, maturity = (
        cast_like(value, utility) for value in (hyper.replacement_rate, hyper.sharpness, hyper.maturity_threshold)
    )
    r = rate * torch.sigmoid(sharpness * (1 - utility))
    return torch.where(age < maturity, r * (age / maturity), r)


def _due(
    utility: Float[Tensor, "units"],
    age: Float[Tensor, "units"],
    owed: Float[Tensor, ""],
    event: Bool[Tensor, ""],
    hyper: CCBPHyperparams,
    capacity: int | None,
) -> tuple[Chosen, Float[Tensor, ""]]:
    """Return the units that the discrete form replaces, and what is owed afterwards."""
    eligible = (age >= cast_like(hyper.maturity_threshold, age)) & torch.isfinite(utility)
    fresh = eligible.sum(dtype=torch.int32).to(owed.dtype) * cast_like(hyper.replacement_rate, owed)
    owed = owed + torch.where(event, fresh, 0)
    chosen = lowest(eligible & event, utility, capacity, owed)
    return chosen, owed - chosen.mask.sum(dtype=torch.int32)
