"""The actor and the critic of the reinforcement learning problems."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments
from fcbp.kinds import Count, Finite
from fcbp.nets.mlp import mlp

__all__ = ["Actor", "Critic"]


def _lecun(net: nn.Sequential) -> nn.Sequential:
    for layer in net:
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(3 / layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
    return net


class Actor(nn.Module):
    """A Gaussian policy: a network for the mean, a free parameter for the logarithm of the standard deviation.

    Weights are drawn uniformly with variance ``1 / fan_in`` (lecun), biases are 0. That of Dohare et al. (Nature 2024),
    reinforcement learning; ``lop/nets/policies.py`` of their code.

    Args:
        observation_size: features of an observation.
        action_size: dimensions of an action.
        hidden_sizes: units of each hidden layer.
        activation: a name of :data:`fcbp.nets.ACTIVATIONS`.
        log_std: where the logarithm of the standard deviation starts.

    Example:
        >>> mean, std = Actor(27, 8)(torch.zeros(5, 27))
        >>> mean.shape, std.shape
        (torch.Size([5, 8]), torch.Size([8]))
    """

    @arguments
    def __init__(
        self,
        observation_size: Count,
        action_size: Count,
        hidden_sizes: Sequence[Count] = (256, 256),
        *,
        activation: str = "relu",
        log_std: Finite = 0.0,
    ):
        super().__init__()
        self.mean_net = _lecun(mlp(observation_size, hidden_sizes, action_size, activation=activation))
        self.log_std = nn.Parameter(torch.full((action_size,), float(log_std)))

    def forward(
        self, observations: Float[Tensor, "*batch observation"]
    ) -> tuple[Float[Tensor, "*batch action"], Float[Tensor, "action"]]:
        return self.mean_net(observations), self.log_std.exp()


class Critic(nn.Module):
    """A value function: a network with one output, drawn as the :class:`Actor`'s.

    ``lop/nets/valuefs.py`` of the code of Dohare et al. (Nature 2024).

    Args:
        observation_size: features of an observation.
        hidden_sizes: units of each hidden layer.
        activation: a name of :data:`fcbp.nets.ACTIVATIONS`.

    Example:
        >>> Critic(27)(torch.zeros(5, 27)).shape
        torch.Size([5, 1])
    """

    @arguments
    def __init__(
        self, observation_size: Count, hidden_sizes: Sequence[Count] = (256, 256), *, activation: str = "relu"
    ):
        super().__init__()
        self.value_net = _lecun(mlp(observation_size, hidden_sizes, 1, activation=activation))

    def forward(self, observations: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch 1"]:
        values: Tensor = self.value_net(observations)
        return values
