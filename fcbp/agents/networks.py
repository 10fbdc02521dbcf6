"""The networks of an agent: an actor and a critic in one module, and their initial weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fcbp import initializers, random
from fcbp.checks import arguments
from fcbp.nets import mlp

__all__ = ["ActionValues", "ActorCritic", "draw_weights"]


class ActorCritic(nn.Module):
    """A policy and a value function, with networks of their own or with hidden layers in common.

    Args:
        observation_size: numbers of an observation.
        outputs: numbers that the policy needs of an observation.
        deviations: standard deviations of the policy, each a parameter ``log_std``; 0 for none.
        hidden: units of each hidden layer, of each network where they are apart.
        activation: a name of :data:`fcbp.nets.ACTIVATIONS`, or ``"crelu"`` or ``"fourier"``.
        shared: whether the hidden layers are common to both.
        log_std: where the logarithms of the standard deviations start.

    Example:
        >>> import torch
        >>> network = ActorCritic(4, 2, hidden=(8, 8))
        >>> output, value = network(torch.zeros(5, 4))
        >>> output.shape, value.shape
        (torch.Size([5, 2]), torch.Size([5]))
    """

    @arguments
    def __init__(
        self,
        observation_size: int,
        outputs: int,
        deviations: int = 0,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        shared: bool = False,
        log_std: float = 0.0,
    ):
        super().__init__()
        self.shared = shared
        if shared and not hidden:
            raise ValueError("hidden is () and shared is True; expected a hidden layer to share")
        if shared:
            # The heads are one layer, whose last row is the value: each unit of the body is then read by one layer.
            self.both = mlp(observation_size, hidden, outputs + 1, activation=activation)
        else:
            self.policy = mlp(observation_size, hidden, outputs, activation=activation)
            self.value = mlp(observation_size, hidden, 1, activation=activation)
        if deviations:
            self.log_std = nn.Parameter(torch.full((deviations,), float(log_std)))

    def forward(self, observations: Float[Tensor, "*batch observation"]) -> tuple[Tensor, ...]:
        """Return the policy's numbers ``(*batch, outputs)``, the values ``(*batch,)`` and, where there are any, the
        logarithms of the standard deviations."""
        if self.shared:
            both = self.both(observations)
            found = both[..., :-1], both[..., -1]
        else:
            found = self.policy(observations), self.value(observations)[..., 0]
        return (*found, self.log_std) if hasattr(self, "log_std") else found


class ActionValues(nn.Module):
    """The value of each action in a state.

    Args:
        observation_size: numbers of an observation.
        actions: how many there are.
        hidden: units of each hidden layer.
        activation: as of :class:`ActorCritic`.

    Example:
        >>> import torch
        >>> ActionValues(4, 2)(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """

    @arguments
    def __init__(
        self, observation_size: int, actions: int, *, hidden: Sequence[int] = (64, 64), activation: str = "relu"
    ):
        super().__init__()
        self.value = mlp(observation_size, hidden, actions, activation=activation)

    def forward(self, observations: Float[Tensor, "*batch observation"]) -> Float[Tensor, "*batch actions"]:
        found: Tensor = self.value(observations)
        return found


@arguments
def draw_weights(
    network: nn.Module,
    key: Int64[Tensor, ""],
    *,
    initializer: str | initializers.Initializer = "lecun_uniform",
    nonlinearity: str = "relu",
    head_scale: float = 1.0,
) -> dict[str, Tensor]:
    """Return initial weights of an agent's networks; biases are 0, other parameters keep the module's values.

    Args:
        network: its ``nn.Sequential`` children are networks of their own, each with a last layer.
        key: a key of :mod:`fcbp.random`; under ``vmap`` every member draws its own.
        initializer: of the weights; a name of :data:`fcbp.initializers.INITIALIZERS`, or a function.
        nonlinearity: whose gain the hidden layers have; the last layers have gain 1.
        head_scale: times the last layer of a network that is called ``policy`` or ``both``. A small one, such as 0.01,
            makes the first actions as good as uniform.

    Example:
        >>> import fcbp
        >>> weights = draw_weights(ActorCritic(4, 2), fcbp.random.key(0), head_scale=0.0)
        >>> bool((weights["policy.4.weight"] == 0).all())
        True
    """
    params = {name: p.detach().clone() for name, p in network.named_parameters()}
    for i, (name, layer) in enumerate(network.named_modules()):
        if not isinstance(layer, nn.Linear):
            continue
        child, _, place = name.partition(".")
        last = int(place) == len(getattr(network, child)) - 1
        draw = initializers.get(initializer, "linear" if last else nonlinearity)
        out, size = layer.weight.shape
        weight = draw(random.fold_in(key, i), (out, size), size, out, layer.weight.dtype, layer.weight.device)
        scaled = last and child in ("policy", "both") and not math.isclose(head_scale, 1.0)
        params[f"{name}.weight"] = head_scale * weight if scaled else weight
        params[f"{name}.bias"] = torch.zeros_like(params[f"{name}.bias"])
    return params
