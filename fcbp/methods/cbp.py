"""Continual Backpropagation as a method: :mod:`fcbp.cbp`'s functions in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fcbp import initializers, utility
from fcbp.cbp import (
    CBPState,
    Hyperparams,
    init_state,
    reset_buffers,
    reset_moments,
    select_and_reset,
    update_utility,
)
from fcbp.cbp.state import RateCounts, Rounding, check_counting
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.units import UnitGroup

__all__ = ["cbp"]


@arguments
def cbp(
    measure: str | utility.Measure = "contribution",
    *,
    initializer: str | initializers.Initializer = "kaiming_uniform",
    transfer_bias: bool = False,
    rounding: Rounding = "accumulate",
    rate_counts: RateCounts = "eligible",
    capacity: int | None = None,
) -> Method:
    """Make the method of Continual Backpropagation with fixed options; its ``hyper`` is :class:`fcbp.Hyperparams`.

    The options are those of :func:`fcbp.update_utility` and :func:`fcbp.select_and_reset`.

    Args:
        measure: how useful a unit is, a name of :data:`fcbp.utility.MEASURES` or a function.
        initializer: how incoming weights are drawn anew.
        transfer_bias: add the mean contribution of a reset unit to the biases of its consumers.
        rounding: how a fraction of a unit becomes whole units.
        rate_counts: which units the replacement rate is a fraction of.
        capacity: the most units of a group that a step replaces; by default all of them.

    Raises:
        ValueError: an option is unknown or out of its range.
    """
    check_counting(rounding, rate_counts, capacity, "units")
    utility.get(measure)
    initializers.get(initializer)

    def update(
        state: CBPState,
        params: Any,
        opt_state: Any,
        buffers: Mapping[str, Tensor],
        *,
        units: Iterable[UnitGroup],
        grads: Any,
        features: Mapping[str, Tensor],
        hyper: Hyperparams,
        **_: Any,
    ) -> tuple[Any, Any, Any, CBPState, dict[str, Any]]:
        state = update_utility(state, params, features, hyper, units=units, measure=measure, grads=grads)
        params, state, replaced = select_and_reset(
            state,
            params,
            hyper,
            units=units,
            initializer=initializer,
            transfer_bias=transfer_bias,
            rounding=rounding,
            rate_counts=rate_counts,
            capacity=capacity,
        )
        opt_state = reset_moments(opt_state, replaced, units=units, params=params)
        buffers = reset_buffers(buffers, replaced, units=units)
        return params, opt_state, buffers, state, {"replaced": replaced}

    return Method(init_state, update)
