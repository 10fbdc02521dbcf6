"""CPR: continuous partial resets, a little of every unit by how low its utility is.

McCutcheon, Chatzaroulas and Fallah, "Learning continually at peak performance with continuous continual
backpropagation", submitted to ICLR 2026, in the form of its authors' code, LucMc/continual-learning, ``optim/cpr.py``,
commit 6fc2af3. With g the gradients of a unit's incoming weights, each step::

    u = decay u + (1 - decay) (mean abs(g) / its layer's mean)      u starts at 1

and every ``period`` steps::

    r = rate T(u)      w_out = (1 - r) w_out      w_in = (1 - r) w_in + r fresh      u = 1

``T`` falls from 1 at or below the threshold to 0 above it, the faster the greater the sharpness. With
d = sharpness (u - threshold) it is one of ``sigmoid``: min(1, 2 / (1 + exp(d))); ``exp``: min(1, exp(-d));
``softplus``: min(1, log(1 + exp(-d)) / log 2); ``linear``: 1 - d, clipped to [0, 1]. Biases, norms, optimiser state and
buffers stay as they are, as published.

:func:`fcbp.methods.ccbp` is the same idea in another published form: there T at the threshold is a half, the utility is
pulled to 1 only as far as a unit was reset, and biases are pulled to where they began.

What differs from the published code: it adds 1e-8 to the layer's mean; here a layer whose mean is 0 has utilities that
fall to 0, and others keep their ratios at any scale. A unit of no finite utility is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, show
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_grads, need_units
from fcbp.methods.reset import gradient_magnitude, relative, reset_partially, state_dtype, tick
from fcbp.names import lookup
from fcbp.optim import cast_like, moving_average
from fcbp.units import UnitGroup

__all__ = ["TRANSFORMS", "CPRHyperparams", "CPRState", "cpr"]

Transform = Callable[[Tensor], Tensor]

TRANSFORMS: dict[str, Transform] = {
    "sigmoid": lambda d: (2 * torch.sigmoid(-d)).clamp(max=1),
    "exp": lambda d: torch.exp(-d).clamp(max=1),
    "softplus": lambda d: (torch.nn.functional.softplus(-d) / math.log(2)).clamp(max=1),
    "linear": lambda d: (1 - d).clamp(0, 1),
}
"""The share of the rate by which a unit is reset, from ``d = sharpness (utility - threshold)``."""


class CPRHyperparams(NamedTuple):
    """The numbers of continuous partial resets; each a float or a 0-d tensor, which may be vmapped."""

    rate: float | Tensor = 0.015
    """The most of a unit that is reset at an event (rho), in [0, 1]."""
    sharpness: float | Tensor = 16.0
    """Speed at which the reset falls off with utility (k), at least 0."""
    threshold: float | Tensor = 1.0
    """Utility, relative to the layer's mean, at or below which a unit is reset by the whole rate (theta)."""
    decay_rate: float | Tensor = 0.99
    """Decay of the running mean of utility, in [0, 1]."""
    period: float | Tensor = 1000
    """Steps between events, at least 1."""


@show.by_fields
class CPRState(NamedTuple):
    """The memory of continuous partial resets."""

    utility: dict[str, Float[Tensor, "units"]]
    """By group name, the running mean of a unit's gradient relative to its layer's."""
    since: Int32[Tensor, ""]
    """Steps since the last event."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


@arguments
def cpr(
    transform: str | Transform = "sigmoid",
    *,
    initializer: str | initializers.Initializer = "kaiming_uniform",
) -> Method:
    """Make the method of continuous partial resets; its ``hyper`` is :class:`CPRHyperparams`.

    ``info["replaced"]`` is empty: no unit is made new at once. ``info["reset_fraction"]`` holds by group name how much
    of each unit was reset, ``(units,)``.

    Args:
        transform: a name of :data:`TRANSFORMS`, or a function like them.
        initializer: how fresh incoming weights are drawn; see :func:`fcbp.select_and_reset`.

    Raises:
        ValueError: an option is unknown.
    """
    share = transform if callable(transform) else lookup("transform", transform, TRANSFORMS)
    draw = initializers.get(initializer)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> CPRState:
        random.check_key(key)
        utility = {}
        for group in need_units(units, params, "cpr", incoming=True):
            dtype, device = state_dtype(group, params)
            utility[group.name] = torch.ones(group.size, dtype=dtype, device=device)
        return CPRState(utility, torch.zeros((), dtype=torch.int32, device=key.device), key.clone())

    @torch.no_grad()
    def update(
        state: CPRState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        units: Iterable[UnitGroup],
        hyper: CPRHyperparams,
        grads: Any = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, CPRState, dict[str, Any]]:
        units = tuple(units)
        check_numbers(
            hyper,
            CPRHyperparams,
            rate="a number in [0, 1]",
            sharpness="a number, 0 or more",
            threshold="a number",
            decay_rate="a number in [0, 1]",
            period="a whole number of steps, 1 or more",
        )
        grads = need_grads(grads, "cpr")
        event, since, key, draws = tick(state, hyper.period)
        utility, fraction = {}, {}
        for group in units:
            u = state.utility[group.name]
            u = moving_average(hyper.decay_rate, u, relative(gradient_magnitude(group, grads, u.dtype)))
            rate, sharpness, threshold = (
                cast_like(value, u) for value in (hyper.rate, hyper.sharpness, hyper.threshold)
            )
            shared = share(sharpness * (u - threshold))
            if not isinstance(shared, Tensor):
                raise ValueError(f"transform is {transform!r}, which gives {shared!r}; expected a tensor")
            r = rate * shared
            fraction[group.name] = torch.where(event & (r > 0), r, 0)
            utility[group.name] = u.masked_fill(event, 1)
        params = reset_partially(params, fraction, draws, units=units, draw=draw)
        state = CPRState(utility, since, key)
        return params, opt_state, buffers, state, {"replaced": {}, "reset_fraction": fraction}

    return Method(init, update)
