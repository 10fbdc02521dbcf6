"""Policies: from a network's numbers to an action, as pure functions of one observation's numbers.

A policy draws an action from noise that is drawn before it, so that a whole rollout's noise is drawn at once. It keeps
the draw apart from the action that the environment gets: of the squashed policy the draw is the number before the
hyperbolic tangent, of which the logarithm of the density is exact.

>>> import torch, fcbp
>>> policy = categorical(3)
>>> logits = torch.tensor([0.0, 1.0, 2.0])
>>> draw = policy.draw(logits, (), torch.tensor(0.99))
>>> draw, policy.log_density(logits, (), draw)
(tensor(2), tensor(-0.4076))
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.envs import Continuous, Discrete
from fcbp.names import check_option

__all__ = ["Policy", "PolicyName", "categorical", "gaussian", "get", "squashed"]

PolicyName = Literal["categorical", "gaussian", "squashed"]

LOG_TWO_PI = math.log(2 * math.pi)


class Policy(NamedTuple):
    """Pure functions of the network's output for one observation, ``(outputs,)``, and of the logarithms of the standard
    deviations, ``(dimensions,)``, or ``()`` where there are none."""

    name: str
    outputs: int
    """Numbers that the network gives for one observation."""
    deviations: int
    """Standard deviations that are parameters of their own."""
    noise: Callable[..., Tensor]
    """``noise(key, shape) -> noise``, for ``shape`` draws."""
    draw: Callable[[Tensor, Any, Tensor], Tensor]
    """``draw(output, log_std, noise) -> draw``"""
    action: Callable[[Tensor], Tensor]
    """``action(draw) -> action``, as the environment takes it."""
    log_density: Callable[[Tensor, Any, Tensor], Tensor]
    """``log_density(output, log_std, draw)``, ``()``: the logarithm of the action's probability, or of its density."""
    entropy: Callable[[Tensor, Any, Tensor], Tensor]
    """``entropy(output, log_std, draw)``, ``()``; ``draw`` is read where there is no closed form."""
    greedy: Callable[[Tensor, Any], Tensor]
    """``greedy(output, log_std) -> draw``: the most probable action, or the mean."""


@arguments
def categorical(actions: int) -> Policy:
    """Return a policy over several actions, whose logits the network gives.

    A draw is that of the inverse distribution function at a uniform number, which costs one random number.

    Args:
        actions: the number of actions.

    Example:
        >>> import torch
        >>> categorical(2).entropy(torch.zeros(2), (), torch.tensor(0))
        tensor(0.6931)
    """

    def draw(output: Float[Tensor, "actions"], log_std: Any, noise: Float[Tensor, ""]) -> Int64[Tensor, ""]:
        chances = output.softmax(-1)
        below, chosen = torch.zeros_like(noise), torch.zeros_like(noise, dtype=torch.int64)
        for i in range(actions - 1):
            below = below + chances[i]
            chosen = chosen + (noise >= below)
        return chosen

    def log_density(output: Float[Tensor, "actions"], log_std: Any, draw: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        # A sum over all actions, and no read at a place: a place that differs by member is slow to read.
        chosen = draw == torch.arange(actions, device=output.device)
        return torch.where(chosen, output.log_softmax(-1), 0).sum(-1)

    def entropy(output: Float[Tensor, "actions"], log_std: Any, draw: Int64[Tensor, ""]) -> Float[Tensor, ""]:
        logarithms = output.log_softmax(-1)
        return -(logarithms.exp() * logarithms).sum(-1)

    def greedy(output: Float[Tensor, "actions"], log_std: Any) -> Int64[Tensor, ""]:
        return output.argmax(-1)

    return Policy("categorical", actions, 0, random.uniform, draw, _same, log_density, entropy, greedy)


@arguments
def gaussian(size: int, low: tuple[float, ...] | None = None, high: tuple[float, ...] | None = None) -> Policy:
    """Make a policy of independent normal draws: the network gives the means, and the standard deviations are
    parameters.

    This is the policy of Dohare et al. (Nature 2024) and of CleanRL. The density is of the draw before clipping.

    Args:
        size: dimensions of an action.
        low: the least action; by default actions are not clipped.
        high: the greatest.

    Example:
        >>> import torch
        >>> gaussian(1).log_density(torch.zeros(1), torch.zeros(1), torch.zeros(1))
        tensor(-0.9189)
    """

    def action(draw: Float[Tensor, "size"]) -> Float[Tensor, "size"]:
        if low is None or high is None:
            return draw
        return torch.minimum(torch.maximum(draw, draw.new_tensor(low)), draw.new_tensor(high))

    return Policy("gaussian", size, size, _normal(size), _shifted, action, _normal_density, _normal_entropy, _mean)


@arguments
def squashed(size: int, low: tuple[float, ...], high: tuple[float, ...]) -> Policy:
    """Make a policy by the hyperbolic tangent of independent normal draws, stretched to the bounds (Haarnoja et al.,
    2018, appendix C).

    The entropy has no closed form: it is estimated by the negative logarithm of the density of the action taken.

    Args:
        size: dimensions of an action.
        low: the least action.
        high: the greatest.

    Example:
        >>> import torch
        >>> policy = squashed(1, (-2.0,), (2.0,))
        >>> policy.action(torch.tensor([100.0]))
        tensor([2.])
    """
    if not all(map(math.isfinite, (*low, *high))):
        raise ValueError(f"low and high are {low} and {high}; expected finite bounds for a squashed policy")
    middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    half = tuple((b - a) / 2 for a, b in zip(low, high, strict=True))

    def action(draw: Float[Tensor, "size"]) -> Float[Tensor, "size"]:
        return draw.new_tensor(middle) + draw.new_tensor(half) * draw.tanh()

    def log_density(output: Tensor, log_std: Tensor, draw: Tensor) -> Float[Tensor, ""]:
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which does not round to the logarithm of 0.
        slope = 2 * (math.log(2) - draw - torch.nn.functional.softplus(-2 * draw)) + draw.new_tensor(half).log()
        return _normal_density(output, log_std, draw) - slope.sum(-1)

    def entropy(output: Tensor, log_std: Tensor, draw: Tensor) -> Float[Tensor, ""]:
        return -log_density(output, log_std, draw)

    return Policy("squashed", size, size, _normal(size), _shifted, action, log_density, entropy, _mean)


@arguments
def get(name: PolicyName | None, actions: Discrete | Continuous) -> Policy:
    """Return the policy of that name for an environment's actions.

    Args:
        name: ``"categorical"``, ``"gaussian"`` or ``"squashed"``; ``None`` is categorical or Gaussian, as the actions.
        actions: of the environment.

    Raises:
        ValueError: the name is unknown, or such a policy does not fit the actions.

    Example:
        >>> import fcbp
        >>> get(None, fcbp.envs.get("cartpole").actions).name
        'categorical'
    """
    if name is None:
        name = "categorical" if isinstance(actions, Discrete) else "gaussian"
    check_option("policy", name, PolicyName)
    if isinstance(actions, Discrete):
        if name != "categorical":
            raise ValueError(f"policy is {name!r}, and the environment has {actions.n} actions; expected 'categorical'")
        return categorical(actions.n)
    if name == "categorical":
        raise ValueError(
            f"policy is 'categorical', and an action has {actions.size} dimensions; expected 'gaussian' or 'squashed'"
        )
    return (gaussian if name == "gaussian" else squashed)(actions.size, actions.low, actions.high)


def _same(draw: Tensor) -> Tensor:
    return draw


def _normal(size: int) -> Callable[..., Tensor]:
    return functools.partial(_normals, size)


def _normals(size: int, key: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    return random.normal(key, (*shape, size))


def _shifted(output: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    return output + log_std.exp() * noise


def _mean(output: Tensor, log_std: Tensor) -> Tensor:
    return output


def _normal_density(output: Tensor, log_std: Tensor, draw: Tensor) -> Tensor:
    away = (draw - output) * (-log_std).exp()
    return -(0.5 * away.square() + log_std + 0.5 * LOG_TWO_PI).sum(-1)


def _normal_entropy(output: Tensor, log_std: Tensor, draw: Tensor) -> Tensor:
    return (log_std + 0.5 + 0.5 * LOG_TWO_PI).sum(-1) + 0 * output.sum(-1)
