"""Generalised advantage estimation, by a loop from the last step to the first.

Schulman, Moritz, Levine, Jordan and Abbeel, "High-dimensional continuous control using generalized advantage
estimation" (ICLR 2016, arXiv 1506.02438), equation 16.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fcbp import loop
from fcbp.checks import arguments

__all__ = ["advantages"]


@arguments
def advantages(
    rewards: Float[Tensor, "steps *environments"],
    values: Float[Tensor, "steps *environments"],
    next_values: Float[Tensor, "steps *environments"],
    terminated: Bool[Tensor, "steps *environments"],
    truncated: Bool[Tensor, "steps *environments"],
    discount: float | Tensor,
    trace_decay: float | Tensor,
    *,
    bootstrap_truncated: bool = True,
) -> Float[Tensor, "steps *environments"]:
    """Estimate the advantages of the actions of a rollout.

    Args:
        rewards: of each step.
        values: of the observation that the action of the step was chosen by.
        next_values: of the observation at the end of the step, before any reset.
        terminated: whether the episode came to its end with the step.
        truncated: whether it was cut off there by a time limit.
        discount: factor of later rewards (gamma).
        trace_decay: factor of later differences (lambda).
        bootstrap_truncated: whether what a truncated episode lacks is estimated by its last value. ``False`` takes a
            truncation for an end, as the published code of Dohare et al. (Nature 2024) does.

    Returns:
        The advantages; with ``values`` added they are the targets of the value function.

    Example:
        >>> import torch
        >>> one, no = torch.ones(2), torch.zeros(2, dtype=torch.bool)
        >>> advantages(one, 0 * one, one, no, no, 0.5, 0.5)
        tensor([1.8750, 1.5000])
        >>> advantages(one, 0 * one, one, torch.tensor([True, False]), no, 0.5, 0.5)
        tensor([1.0000, 1.5000])
    """
    ends = terminated if bootstrap_truncated else terminated | truncated
    differences = rewards + discount * torch.where(ends, 0, next_values) - values
    # What the loop carries is multiplied by this: an episode's last step looks at no later one.
    factors = torch.where(terminated | truncated, 0.0, torch.as_tensor(discount * trace_decay, dtype=values.dtype))
    backwards = (differences.flip(0), factors.flip(0))
    _, found = loop.nested(_discounted_sum, torch.zeros_like(differences[0]), backwards, length=len(rewards))
    advantages: Tensor = found.flip(0)
    return advantages


def _discounted_sum(later: Tensor, x: tuple[Tensor, Tensor], _: Any) -> tuple[Tensor, Tensor]:
    difference, factor = x
    here = difference + factor * later
    return here, here
