"""What is measured of a learner at the end of a bin, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fcbp import learner, metrics

__all__ = ["COUNTS", "PROBES", "VARIABLES", "Seen"]

BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


class Seen(NamedTuple):
    """What a measurement may look at."""

    state: learner.LearnerState
    layers: list[Tensor]
    """The activations ``(samples, units)`` of each group on fresh examples."""
    activation: str


def _inactive_units(seen: Seen) -> Float[Tensor, ""]:
    inactive = [metrics.dead_units(h) for h in seen.layers]
    if bounds := BOUNDS.get(seen.activation):
        saturated = (metrics.saturated_units(h, *bounds) for h in seen.layers)
        inactive = [d | s for d, s in zip(inactive, saturated, strict=True)]
    return torch.cat(inactive).to(torch.float32).mean()


def _mean_rank(rank: Callable[[Tensor], Tensor]) -> Callable[[Seen], Tensor]:
    return lambda seen: torch.stack([rank(h) for h in seen.layers]).mean()


COUNTS = {
    "units_replaced": ("units replaced in the bin", "units"),
    "weights_reset": ("weights reset in the bin", "weights"),
}
"""Summed over the steps of a bin; the second where a method resets single weights."""

PROBES: dict[str, tuple[str, str, Callable[[Seen], Any]]] = {
    "inactive_units": ("fraction of dead or saturated units", "1", _inactive_units),
    "weight_magnitude": ("mean absolute weight", "1", lambda seen: metrics.weight_magnitude(seen.state.params)),
    "effective_rank": ("effective rank of the activations", "1", _mean_rank(metrics.effective_rank)),
    "stable_rank": ("stable rank of the activations", "1", _mean_rank(metrics.stable_rank)),
}
"""Name: long name, unit, and the function of what is :class:`Seen`."""

VARIABLES: Mapping[str, tuple[str, str]] = {
    "loss": ("mean loss over the bin", "1"),
    **COUNTS,
    **{name: (long_name, unit) for name, (long_name, unit, _) in PROBES.items()},
}
"""Long name and unit of everything that results may hold."""
