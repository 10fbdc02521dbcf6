"""The objective of proximal policy optimisation, term by term.

Schulman, Wolski, Dhariwal, Radford and Klimov, "Proximal policy optimization algorithms" (arXiv 1707.06347), equations
7 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fcbp.agents.policies import Policy
from fcbp.checks import arguments
from fcbp.names import check_option

__all__ = ["Advantages", "Batch", "check_batch", "clipped_objective", "make_objective", "standardised", "value_error"]

Number = float | Tensor
Advantages = Literal["minibatch", "batch", "plain"]


class Batch(NamedTuple):
    """The inputs of a minibatch's loss beside the observations, ``(samples, ...)``."""

    draws: Tensor
    log_densities: Float[Tensor, "samples"]
    """The log-probabilities of the policy that acted."""
    advantages: Float[Tensor, "samples"]
    returns: Float[Tensor, "samples"]
    """The targets of the value function."""
    values: Float[Tensor, "samples"]
    """The values of the value function before the update."""


@arguments
def check_batch(steps: int, minibatch: int, normalize_advantages: Advantages) -> None:
    """Check how the steps of an iteration are cut into minibatches.

    Raises:
        ValueError: ``minibatch`` is more than ``steps``, does not divide them, or is too small to be standardised.

    Example:
        >>> check_batch(100, 200, "minibatch")
        Traceback (most recent call last):
        ValueError: minibatch is 200; expected at most the steps of an iteration, copies x horizon 100
    """
    check_option("normalize_advantages", normalize_advantages, Advantages)
    if minibatch > steps:
        raise ValueError(
            f"minibatch is {minibatch}; expected at most the steps of an iteration, copies x horizon {steps}"
        )
    if steps % minibatch:
        divisors = [n for n in range(1, steps + 1) if steps % n == 0]
        near = min(divisors, key=lambda n: abs(n - minibatch))
        raise ValueError(
            f"minibatch is {minibatch}, which does not divide the steps of an iteration, copies x horizon {steps}; "
            f"expected a number such as {near}"
        )
    if minibatch == 1 and normalize_advantages == "minibatch":
        raise ValueError("minibatch is 1, whose advantage has no standard deviation; expected 2 or more")


@arguments
def standardised(x: Float[Tensor, "samples"]) -> Float[Tensor, "samples"]:
    """Subtract the mean and divide by the standard deviation (with Bessel's correction) and 1e-8, as CleanRL has it.

    Example:
        >>> import torch
        >>> standardised(torch.tensor([0.0, 2.0]))
        tensor([-0.7071,  0.7071])
    """
    return (x - x.mean()) / (x.std() + 1e-8)


@arguments
def clipped_objective(
    log_ratio: Float[Tensor, "samples"], advantages: Float[Tensor, "samples"], clip_range: Number
) -> Float[Tensor, ""]:
    """Return the loss of a policy: the mean of ``-min(r A, clip(r, 1 - c, 1 + c) A)``, equation 7.

    Args:
        log_ratio: logarithms of the ratios r of the new probability of an action to the old one.
        advantages: of the actions.
        clip_range: c.

    Example:
        >>> import torch
        >>> clipped_objective(torch.tensor([1.0]), torch.tensor([2.0]), 0.2)
        tensor(-2.4000)
    """
    ratio = log_ratio.exp()
    low, high = torch.as_tensor(1 - clip_range), torch.as_tensor(1 + clip_range)
    clipped = torch.minimum(torch.maximum(ratio, low.to(ratio)), high.to(ratio))
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


@arguments
def value_error(
    values: Float[Tensor, "samples"],
    returns: Float[Tensor, "samples"],
    before: Float[Tensor, "samples"] | None = None,
    clip_range: Number = 0.2,
) -> Float[Tensor, ""]:
    """Return the mean squared error of the values.

    Args:
        values: of the value function.
        returns: their targets.
        before: the values before the update. Where they are given, a value that has moved by more than ``clip_range``
            counts with the greater of its error and that of the value at the bound.
        clip_range: the bound.

    Example:
        >>> import torch
        >>> value_error(torch.tensor([1.0]), torch.tensor([3.0]))
        tensor(4.)
    """
    plain = (values - returns).square()
    if before is None:
        return plain.mean()
    bound = torch.as_tensor(clip_range, dtype=values.dtype)
    near = before + torch.minimum(torch.maximum(values - before, -bound), bound)
    return torch.maximum(plain, (near - returns).square()).mean()


@arguments
def make_objective(
    policy: Policy, *, normalize_advantages: Advantages = "minibatch", clip_values: bool = False
) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """Make the loss of a learner whose network gives the policy's numbers, the values and, where there are any, the
    logarithms of the standard deviations.

    Args:
        policy: what the numbers mean.
        normalize_advantages: ``"minibatch"`` standardises each minibatch's; others are left as they are.
        clip_values: whether the values are clipped as the ratios are.

    Returns:
        ``loss(output, (batch, settings)) -> (loss, told)``.
    """
    log_density = torch.vmap(policy.log_density, (0, None, 0))
    entropies = torch.vmap(policy.entropy, (0, None, 0))

    def objective(output: Any, targets: tuple[Batch, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        batch, settings = targets
        numbers, values, *free = output
        log_std = free[0] if free else ()
        log_ratio = log_density(numbers, log_std, batch.draws) - batch.log_densities
        gained = standardised(batch.advantages) if normalize_advantages == "minibatch" else batch.advantages
        clip_range = settings["clip_range"]
        of_policy = clipped_objective(log_ratio, gained, clip_range)
        of_values = value_error(values, batch.returns, batch.values if clip_values else None, clip_range)
        entropy = entropies(numbers, log_std, batch.draws).mean()
        loss = of_policy + settings["value_weight"] * of_values - settings["entropy_weight"] * entropy
        ratio = log_ratio.exp()
        return loss, {
            "policy_loss": of_policy,
            "value_loss": of_values,
            "entropy": entropy,
            "divergence": (ratio - 1 - log_ratio).mean(),
            "clipped_fraction": ((ratio - 1).abs() > clip_range).to(loss.dtype).mean(),
        }

    return objective
