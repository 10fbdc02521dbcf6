"""Measurements of a learning agent: its units, its weights, its resets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp import metrics
from fcbp.checks import arguments
from fcbp.kinds import PyTree

__all__ = ["VARIABLES", "reset_counts", "watch"]

SELDOM = 0.01
"""A unit is stuck when it is active on at most this share of the states, or inactive on at most this share."""

VARIABLES: Mapping[str, tuple[str, str]] = {
    "episode_return": ("mean return of the episodes that ended", "1"),
    "episode_length": ("mean length of the episodes that ended", "steps"),
    "episodes": ("episodes that ended", "1"),
    "policy_loss": ("loss of the policy", "1"),
    "value_loss": ("mean squared error of the values", "1"),
    "value": ("mean value of the actions taken", "1"),
    "entropy": ("entropy of the policy", "1"),
    "divergence": ("estimate of the divergence of the new policy from the old", "1"),
    "clipped_fraction": ("fraction of the ratios beyond the bound", "1"),
    "units_replaced": ("units replaced", "1"),
    "weights_reset": ("weights reset", "1"),
    "seldom_active_units": ("fraction of units active on at most 1 % of the states", "1"),
    "always_active_units": ("fraction of units active on at least 99 % of the states", "1"),
    "stable_rank": ("mean stable rank of the last hidden layers", "1"),
    "weight_magnitude": ("mean absolute weight", "1"),
}
"""Long name and unit of every measurement of agents."""


@arguments
def reset_counts(info: Mapping[str, Any]) -> dict[str, Tensor]:
    """Count the units, or the weights, that a learner's step reset, where its method resets any."""
    found: dict[str, Tensor] = {}
    if info["replaced"]:
        found["units_replaced"] = metrics.units_reset(info)
    if optree.tree_leaves(info.get("reset_weights", {})):
        found["weights_reset"] = metrics.weights_reset(info)
    return found


@arguments
def watch(params: PyTree, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Measure a network on some states.

    Args:
        params: its parameters.
        features: by group the activations of its hidden units ``(states, units)``; the name of a group is that of its
            network, a dot and a number.
    """
    active = torch.cat([(h > 0).to(torch.float32).mean(0) for h in features.values()])
    last = {name.partition(".")[0]: h for name, h in features.items()}
    ranks = [metrics.stable_rank(h) for h in last.values()]
    return {
        "seldom_active_units": (active <= SELDOM).to(torch.float32).mean(),
        "always_active_units": (active >= 1 - SELDOM).to(torch.float32).mean(),
        "stable_rank": torch.stack(ranks).mean(),
        "weight_magnitude": metrics.weight_magnitude(params),
    }
