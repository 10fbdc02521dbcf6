"""What is measured of a learner at the end of a bin, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fcbp import learner, metrics

__all__ = ["COUNTS", "PROBES", "VARIABLES", "Seen", "measure"]

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


def _quantiles(name: str) -> Callable[[Seen], dict[str, Tensor]]:
    """Of a method that keeps a number for every unit, how it is spread over the units of all groups."""

    def measure(seen: Seen) -> dict[str, Tensor]:
        by_group = getattr(seen.state.method, name, None)
        if not isinstance(by_group, dict) or {len(h) for h in by_group.values()} != {h.shape[-1] for h in seen.layers}:
            return {}
        # A sort and a sum: torch.quantile has no rule for vmap.
        values = torch.cat(list(by_group.values())).to(torch.float32).sort().values
        places = [level / 100 * (len(values) - 1) for level in LEVELS]
        below = [values[math.floor(place)] for place in places]
        above = [values[math.ceil(place)] for place in places]
        return {
            f"{name}_quantile_{level}": a + (place - math.floor(place)) * (b - a)
            for level, place, a, b in zip(LEVELS, places, below, above, strict=True)
        }

    return measure


LEVELS = (0, 25, 50, 75, 100)
"""Per cent; of a layer of five units these are its units."""

COUNTS = {
    "units_replaced": ("units replaced in the bin", "units"),
    "weights_reset": ("weights reset in the bin", "weights"),
}
"""Summed over the steps of a bin; the second where a method resets single weights."""

PROBES: dict[str, Callable[[Seen], Tensor | dict[str, Tensor]]] = {
    "inactive_units": _inactive_units,
    "weight_magnitude": lambda seen: metrics.weight_magnitude(seen.state.params),
    "effective_rank": _mean_rank(metrics.effective_rank),
    "stable_rank": _mean_rank(metrics.stable_rank),
    "age": _quantiles("age"),
    "utility": _quantiles("utility"),
}
"""What can be measured at the end of a bin: a value, or several by variable; none where a method has no such thing."""

VARIABLES: Mapping[str, tuple[str, str]] = {
    "loss": ("mean loss over the bin", "1"),
    **COUNTS,
    "inactive_units": ("fraction of dead or saturated units", "1"),
    "weight_magnitude": ("mean absolute weight", "1"),
    "effective_rank": ("effective rank of the activations", "1"),
    "stable_rank": ("stable rank of the activations", "1"),
    **{f"age_quantile_{level}": (f"{level}% quantile of the units' ages", "steps") for level in LEVELS},
    **{f"utility_quantile_{level}": (f"{level}% quantile of the units' utilities", "1") for level in LEVELS},
}
"""Long name and unit of everything that results may hold."""


def measure(names: Iterable[str], seen: Seen) -> dict[str, Tensor]:
    """The measurements of those names, by variable."""
    found: dict[str, Tensor] = {}
    for name in names:
        value = PROBES[name](seen)
        found |= value if isinstance(value, dict) else {name: value}
    return found
