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

__all__ = ["ORTHOGONAL", "ActionValues", "ActorCritic", "draw_weights", "orthogonal"]

ORTHOGONAL = "orthogonal"
"""The name of the initial weights of CleanRL's agents: hidden layers have gain :data:`ORTHOGONAL_GAIN`, last ones 1."""
ORTHOGONAL_GAIN = math.sqrt(2.0)


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
def orthogonal(
    key: Int64[Tensor, ""], outputs: int, inputs: int, gain: float = 1.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "outputs inputs"]:
    """Draw a random matrix whose rows are orthogonal and of length ``gain``; or its columns, where they are fewer.

    Saxe, McClelland and Ganguli (ICLR 2014, arXiv 1312.6120); the distribution of ``torch.nn.init.orthogonal_``.

    Args:
        key: of the draw.
        outputs: rows.
        inputs: columns.
        gain: length of the rows or columns.
        dtype: of the result; the draw is in float64.

    Example:
        >>> import fcbp
        >>> weight = orthogonal(fcbp.random.key(0), 3, 5, gain=2.0)
        >>> bool(torch.allclose(weight @ weight.T, 4 * torch.eye(3), atol=1e-6))
        True
    """
    normal = random.normal(key, (max(outputs, inputs), min(outputs, inputs)), torch.float64)
    columns: Tensor
    columns, triangle = torch.linalg.qr(normal)
    # Without the signs the decomposition would favour some directions.
    columns = gain * columns * triangle.diagonal().sign()
    return (columns.T if outputs < inputs else columns).to(dtype)


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
        initializer: of the weights; a name of :data:`fcbp.initializers.INITIALIZERS`, a function, or ``"orthogonal"``.
        nonlinearity: whose gain the hidden layers have; the last layers have gain 1. Orthogonal ones have sqrt 2.
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
        own, (out, size) = random.fold_in(key, i), layer.weight.shape
        if initializer == ORTHOGONAL:
            weight = orthogonal(own, out, size, 1.0 if last else ORTHOGONAL_GAIN, layer.weight.dtype)
        else:
            draw = initializers.get(initializer, "linear" if last else nonlinearity)
            weight = draw(own, (out, size), size, out, layer.weight.dtype, layer.weight.device)
        scaled = last and child in ("policy", "both") and not math.isclose(head_scale, 1.0)
        params[f"{name}.weight"] = head_scale * weight if scaled else weight
        params[f"{name}.bias"] = torch.zeros_like(params[f"{name}.bias"])
    return params
