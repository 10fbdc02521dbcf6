"""Running means and variances of observations and returns, as pure functions.

>>> import torch
>>> statistics = update_statistics(start_statistics(torch.zeros(2)), torch.tensor([[0.0, 2.0], [2.0, 2.0]]))
>>> statistics.mean
tensor([1., 2.])
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fcbp.checks import arguments

__all__ = ["Statistics", "discounted", "normalised", "start_statistics", "update_statistics"]


class Statistics(NamedTuple):
    """Mean and variance of all samples so far, by coordinate."""

    mean: Float[Tensor, "*coordinates"]
    variance: Float[Tensor, "*coordinates"]
    count: Float[Tensor, ""]  # type: ignore[assignment]
    """The number of samples seen, float64."""


@arguments
def start_statistics(like: Float[Tensor, "*coordinates"]) -> Statistics:
    """Make the statistics of no samples: mean 0, variance 1.

    Args:
        like: a tensor with the shape and the dtype of a sample.
    """
    return Statistics(torch.zeros_like(like), torch.ones_like(like), torch.zeros_like(like.sum(), dtype=torch.float64))


@arguments
def update_statistics(statistics: Statistics, seen: Float[Tensor, "samples *coordinates"]) -> Statistics:
    """Update the statistics by more samples (Chan, Golub and LeVeque, 1983), as Gymnasium's ``RunningMeanStd``.

    Gymnasium begins with 1e-4 samples of variance 1, and this with none.

    Args:
        statistics: the statistics of the samples before.
        seen: the samples.
    """
    number = len(seen)
    mean, variance = seen.mean(0), seen.var(0, correction=0)
    count = statistics.count + number
    share = (number / count).to(mean.dtype)
    away = mean - statistics.mean
    together = (1 - share) * statistics.variance + share * variance + share * (1 - share) * away.square()
    return Statistics(statistics.mean + share * away, together, count)


@arguments
def normalised(
    x: Float[Tensor, "*samples"],
    statistics: Statistics,
    *,
    centred: bool = True,
    bound: float = 10.0,
    eps: float = 1e-8,
) -> Float[Tensor, "*samples"]:
    """Return samples over their standard deviation.

    Args:
        x: the samples.
        statistics: of them.
        centred: whether the mean is subtracted: of rewards it is not.
        bound: the greatest size of a result.
        eps: added to the variance.
    """
    away = x - statistics.mean if centred else x
    return (away / (statistics.variance + eps).sqrt()).clamp(-bound, bound)


def discounted(before: Tensor, x: tuple[Tensor, Tensor], discount: Tensor) -> tuple[Tensor, Tensor]:
    """Return the discounted sum of the rewards of each copy, which begins anew after an ending; a step of a loop.

    Args:
        before: the sum before the step.
        x: the rewards of the step, and whether an episode ended with it.
        discount: factor of the earlier rewards.

    Example:
        >>> discounted(torch.tensor([2.0]), (torch.tensor([1.0]), torch.tensor([False])), torch.tensor(0.5))
        (tensor([2.]), tensor([2.]))
    """
    reward, ended = x
    total = discount * before + reward
    return torch.where(ended, 0, total), total
