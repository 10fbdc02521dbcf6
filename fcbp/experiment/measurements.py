"""Measurements of a learner by name: in every step of a bin, at its end, or on held-out examples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import optree
import torch
from jaxtyping import Float
from torch import Tensor

from fcbp import learner, metrics
from fcbp.cbp import CBPState
from fcbp.checks import arguments
from fcbp.experiment import parts
from fcbp.program import RESERVED

__all__ = [
    "ASKED",
    "AVERAGED",
    "METRICS",
    "OF_GRADIENTS",
    "ONLINE",
    "PER_STEP",
    "PROBES",
    "VARIABLES",
    "Metric",
    "Seen",
    "measure",
    "metric_name",
    "metrics_of",
    "per_step",
    "variables_of",
]

Metric = Callable[[Tensor, Tensor], Tensor]

BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


@dataclass
class Seen:
    """The values that a measurement may read."""

    state: learner.LearnerState
    hyper: learner.LearnerHyperparams
    layers: list[Tensor]
    """The activations ``(samples, units)`` of each group on fresh examples."""
    gradient: Any
    """The gradient of the mean loss on these examples, a pytree like the parameters; only for :data:`OF_GRADIENTS`."""
    activation: str

    @functools.cached_property
    def spectra(self) -> list[metrics.Spectrum]:
        """The singular values of each group's activations, which are most of a rank's work."""
        return [metrics.spectrum(h) for h in self.layers]


def _fraction(which: Callable[[Tensor], Tensor]) -> Callable[[Seen], Tensor]:
    """Return the fraction of all groups' units that a function of a group's activations finds."""
    return lambda seen: torch.cat([which(h) for h in seen.layers]).to(torch.float32).mean()


def _saturated_units(seen: Seen) -> Tensor | dict[str, Tensor]:
    if bounds := BOUNDS.get(seen.activation):
        return _fraction(lambda h: metrics.saturated_units(h, *bounds))(seen)
    return {}


def _inactive_units(seen: Seen) -> Float[Tensor, ""]:
    if bounds := BOUNDS.get(seen.activation):
        return _fraction(lambda h: metrics.dead_units(h) | metrics.saturated_units(h, *bounds))(seen)
    return _fraction(metrics.dead_units)(seen)


def _mature_fraction(seen: Seen) -> Tensor | dict[str, Tensor]:
    state = seen.state.method
    return metrics.mature_fraction(state, seen.hyper.method) if isinstance(state, CBPState) else {}


def _mean_rank(rank: Callable[[metrics.Spectrum], Tensor]) -> Callable[[Seen], Tensor]:
    return lambda seen: torch.stack([rank(spectrum) for spectrum in seen.spectra]).mean()


def _quantiles(name: str) -> Callable[[Seen], dict[str, Tensor]]:
    """Return the spread, over the units of all groups, of a number that a method keeps for every unit."""

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

PER_STEP = {
    "units_replaced": ("units replaced in the bin", "units"),
    "weights_reset": ("weights reset in the bin", "weights"),
    "reset_fraction": ("mean fraction of a unit that a step resets", "1"),
    "update_magnitude": ("mean absolute change of a weight in a step", "1"),
    "plasticity": ("plasticity: share of a batch's loss that its step takes away", "1"),
}
"""The values summed or averaged over the steps of a bin: where a method resets units, single weights, or part of a
unit; the last two where they are asked for."""
ASKED = ("update_magnitude", "plasticity")
"""The measurements that cost a pass of their own."""
AVERAGED = ("loss", "reset_fraction", *ASKED)

PROBES: dict[str, Callable[[Seen], Tensor | dict[str, Tensor]]] = {
    "inactive_units": _inactive_units,
    "dead_units": _fraction(metrics.dead_units),
    "saturated_units": _saturated_units,
    "dormant_units": _fraction(metrics.dormant_units),
    "mature_units": _mature_fraction,
    "weight_magnitude": lambda seen: metrics.weight_magnitude(seen.state.params),
    "gradient_magnitude": lambda seen: metrics.gradient_magnitude(seen.gradient),
    "rank": _mean_rank(metrics.rank),
    "effective_rank": _mean_rank(metrics.effective_rank),
    "approximate_rank": _mean_rank(metrics.approximate_rank),
    "srank": _mean_rank(metrics.srank),
    "stable_rank": _mean_rank(metrics.stable_rank),
    "age": _quantiles("age"),
    "utility": _quantiles("utility"),
}
"""The measurements at the end of a bin: a value, or several by variable; none where a learner has no such thing."""

OF_GRADIENTS = ("gradient_magnitude",)
"""The measurements that read the gradient."""
OF_WEIGHTS = ("weight_magnitude", "gradient_magnitude")
"""The measurements that also a network without units has."""

ONLINE: dict[str, Metric] = {"accuracy": metrics.accuracy, "error": metrics.error}
"""Functions ``(output, targets) -> scalar`` of the online predictions, before the update; means over a bin."""

TEST = "test_"
"""The beginning of the name of a measurement on held-out examples: ``test_loss``, ``test_accuracy``."""

METRICS = (*PROBES, *ASKED)
"""The names that the ``metrics`` of any experiment may have."""

VARIABLES: Mapping[str, tuple[str, str]] = {
    "loss": ("mean loss over the bin", "1"),
    **PER_STEP,
    "accuracy": ("online accuracy", "1"),
    "error": ("online error", "1"),
    "test_loss": ("loss on held-out examples", "1"),
    "test_accuracy": ("accuracy on held-out examples", "1"),
    "test_error": ("error on held-out examples", "1"),
    "inactive_units": ("fraction of dead or saturated units", "1"),
    "dead_units": ("fraction of dead units", "1"),
    "saturated_units": ("fraction of saturated units", "1"),
    "dormant_units": ("fraction of dormant units", "1"),
    "mature_units": ("fraction of units old enough to be replaced", "1"),
    "weight_magnitude": ("mean absolute weight", "1"),
    "gradient_magnitude": ("mean absolute gradient on fresh examples", "1"),
    "rank": ("rank of the activations", "1"),
    "effective_rank": ("effective rank of the activations", "1"),
    "approximate_rank": ("approximate rank of the activations", "1"),
    "srank": ("srank of the activations", "1"),
    "stable_rank": ("stable rank of the activations", "1"),
    **{f"age_quantile_{level}": (f"{level}% quantile of the units' ages", "steps") for level in LEVELS},
    **{f"utility_quantile_{level}": (f"{level}% quantile of the units' utilities", "1") for level in LEVELS},
}
"""Long name and unit of every variable that results may hold."""


def per_step(info: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the resets and changes that a step's ``info`` tells of, by variable: counts int32, fractions and
    magnitudes floats."""
    none = torch.zeros((), dtype=torch.int32, device=info["loss"].device)

    def number(masks: Any) -> Tensor:
        return sum((mask.sum(dtype=torch.int32) for mask in optree.tree_leaves(masks)), none)

    found = {"units_replaced": number(info["replaced"])}
    if "reset_weights" in info:
        found["weights_reset"] = number(info["reset_weights"])
    if "reset_fraction" in info:
        found["reset_fraction"] = torch.cat(list(info["reset_fraction"].values())).mean()
    return found | {name: info[name] for name in ASKED if name in info}


def measure(names: Iterable[str], seen: Seen) -> dict[str, Tensor]:
    """Return the measurements of those names that are made at the end of a bin, by variable."""
    found: dict[str, Tensor] = {}
    for name in names:
        value = PROBES[name](seen) if name in PROBES and (seen.layers or name in OF_WEIGHTS) else {}
        found |= value if isinstance(value, dict) else {name: value}
    return found


@arguments
def variables_of(metric: object) -> set[str]:
    """Return the variables that a measurement may give.

    Raises:
        ValueError: there is no such measurement.
    """
    if isinstance(metric, str) and metric in METRICS:
        return {name for name in VARIABLES if name == metric or name.startswith(f"{metric}_quantile_")}
    return {metric if isinstance(metric, str) and metric in VARIABLES else metric_name(metric)}


def metric_name(chosen: object) -> str:
    """Return the variable of a measurement that is given by name, as a function, or by address.

    Raises:
        ValueError: there is none of that name, or the object is no function of an output and targets.
    """
    if isinstance(chosen, str) and (chosen in METRICS or chosen == f"{TEST}loss"):
        return chosen
    if isinstance(chosen, str) and chosen.removeprefix(TEST) in ONLINE:
        return chosen
    if isinstance(chosen, str):
        name = chosen.rpartition(":")[2].rpartition(".")[2]
    else:
        name = getattr(_own_metric(chosen), "__name__", "")
    if isinstance(chosen, str):
        _own_metric(chosen)
    if not name.isidentifier():
        raise ValueError(f"metrics has {chosen!r}, which has no name; expected a function of a module's")
    if name in RESERVED or name in VARIABLES:
        raise ValueError(f"metrics has {chosen!r}, whose name {name!r} is another measurement's; expected another name")
    return name


def _own_metric(chosen: Any) -> Metric:
    expected = "names such as accuracy, test_accuracy and effective_rank, or functions (output, targets) -> scalar"
    function = parts.find("metrics", chosen, dict.fromkeys((*METRICS, *ONLINE)), expected)
    if isinstance(function, torch.nn.Module) or not callable(function):
        raise ValueError(f"metrics has {chosen!r}, which is {type(function).__name__}; expected {expected}")
    return cast(Metric, function)


def metrics_of(chosen: Iterable[Any]) -> tuple[dict[str, Metric], dict[str, Metric | None]]:
    """Return the functions of predictions among the measurements of an experiment.

    Returns:
        By variable those of the online predictions, and those on held-out examples; ``None`` is the loss there.
    """
    online: dict[str, Metric] = {}
    held_out: dict[str, Metric | None] = {}
    for one in chosen:
        name = metric_name(one)
        if name == f"{TEST}loss":
            held_out[name] = None
        elif name in ONLINE:
            online[name] = ONLINE[name]
        elif name.startswith(TEST):
            held_out[name] = ONLINE.get(name.removeprefix(TEST)) or _own_metric(one)
        elif name not in METRICS:
            online[name] = _own_metric(one)
    return online, held_out
