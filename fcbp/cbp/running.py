"""Running means of each unit's activation and utility, and their bias correction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fcbp import random, tree, utility
from fcbp.cbp.state import (
    CBPState,
    Hyperparams,
    Params,
    check_by_group,
    check_groups,
    check_hyperparams,
    check_params,
    check_state,
)
from fcbp.checks import arguments
from fcbp.units import UnitGroup, check_features
from fcbp.units.group import Slice, flattened, take

__all__ = ["bias_correction", "running_mean_weights", "unit_activations", "update_utility"]


@arguments
@torch.no_grad()
def update_utility(
    state: CBPState,
    params: Params,
    features: Mapping[str, Float[Tensor, "..."]],
    hyper: Hyperparams,
    *,
    units: Iterable[UnitGroup],
    measure: str | utility.Measure = "contribution",
    grads: Params | None = None,
) -> CBPState:
    """Age every unit by one step and move its running means.

    Args:
        state: the state before this step.
        params: parameters **after** the optimiser's step.
        features: by group name, the activation in the forward pass **before** it, its units on
            ``activation_axis``; all other axes (batch, positions) are averaged over.
        hyper: see :class:`Hyperparams`.
        units: the groups of :func:`init_state`.
        measure: a name of :data:`fcbp.utility.MEASURES`, ``"random"``, or a function of an
            :class:`fcbp.utility.Observation`.
        grads: gradients, a pytree like ``params``; needed by measures of gradients.

    Returns:
        The state after the step; ``params`` are not changed.

    Raises:
        ValueError: a feature is missing or its unit axis does not match the group; the measure is unknown or needs
            ``grads``; a hyperparameter is out of range.
    """
    units = check_groups(units)
    check_state(state, CBPState)
    check_params(params)
    check_hyperparams(hyper)
    if not isinstance(features, Mapping):
        raise ValueError(f"features is {features!r}; expected a dict with one tensor a group")
    check_by_group("state.age", state.age, units)
    check_features(units, features)
    instantaneous = utility.get(measure)
    looks_at_grads = grads is not None and (callable(measure) or measure in utility.OF_GRADIENTS)
    age, util, mean, key = dict(state.age), dict(state.utility), dict(state.mean_activation), state.key
    for group in units:
        name = group.name
        # 1 and 2: age, mean activation and their bias correction.
        age[name] = age[name] + 1
        h = unit_activations(group, features[name]).to(mean[name].dtype)
        keep, take_in = running_mean_weights(hyper.decay_rate, mean[name])
        mean[name] = keep * mean[name] + take_in * h.mean((*range(h.ndim - 2), -1))
        debias = bias_correction(age[name], hyper.decay_rate, mean[name])
        # 3 and 4: the instantaneous utility and its running mean.
        if measure == "random":
            key, draw = random.split(key).unbind()
            util[name] = random.uniform(draw, (group.size,), util[name].dtype) * debias
            continue
        observation = utility.Observation(
            activation=h,
            mean_activation=mean[name] / debias,
            incoming=_weights(group, group.incoming, params),
            outgoing=_weights(group, group.outgoing, params),
            incoming_grads=_weights(group, group.incoming, grads) if looks_at_grads else (),
            outgoing_grads=_weights(group, group.outgoing, grads) if looks_at_grads else (),
        )
        value = instantaneous(observation)
        if not isinstance(value, Tensor):
            raise ValueError(f"measure is {measure!r}, which gives {value!r}; expected a tensor ({group.size},)")
        util[name] = keep * util[name] + take_in * value.to(util[name].dtype)
    return state._replace(age=age, utility=util, mean_activation=mean, key=key)


# --- parts ----------------------------------------------------------------------------------------------


def unit_activations(group: UnitGroup, h: Float[Tensor, "..."]) -> Float[Tensor, "*samples units positions"]:
    """Return a group's activation, its units last but one; behind them a unit's positions: of a flattened feature map
    its channel's, else one."""
    if h.shape[group.activation_axis] == group.size:
        return h.movedim(group.activation_axis, -1).unsqueeze(-1)
    return take(h, flattened(group, h.shape[group.activation_axis]), group.size)


def _weights(group: UnitGroup, slices: tuple[Slice, ...], params: Params) -> tuple[Tensor, ...]:
    return tuple(take(tree.get(params, s.path), s, group.size) for s in slices)


def running_mean_weights(decay_rate: float | Tensor, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
    """``eta`` for the old mean and ``1 - eta`` for the new value; the difference is taken before rounding to ``like``'s
    dtype."""
    if isinstance(decay_rate, Tensor):
        return decay_rate.to(like.dtype), (1 - decay_rate).to(like.dtype)
    return decay_rate, 1 - decay_rate


def bias_correction(age: Int[Tensor, "units"], decay_rate: float | Tensor, like: Tensor) -> Float[Tensor, "units"]:
    """``1 - eta ** age``, the share of a running mean that is not its start at 0; without the cancellation that costs a
    young unit's first digits."""
    if isinstance(decay_rate, Tensor):
        log_decay: float | Tensor = torch.log(decay_rate.to(torch.float64)).to(like.dtype)
    else:
        log_decay = math.log(decay_rate) if decay_rate else -math.inf
    return -torch.expm1(age.to(like.dtype) * log_decay)
