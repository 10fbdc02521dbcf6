"""A peer: Continual Backpropagation as an eager, stateful learner, one example at a time.

Written for the benchmarks alone, in the style in which CBP is usually found: a module whose forward pass keeps the
hidden activations, ``loss.backward()``, a ``torch.optim`` optimiser, and a generate-and-test object that walks over
the layers in Python and changes weights in place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """A ReLU network that returns its output and the activations of every hidden layer."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(sizes))
        with torch.no_grad():
            for layer in self.layers:
                gain = 1.0 if layer is self.layers[-1] else math.sqrt(2.0)
                bound = gain * math.sqrt(3.0 / layer.in_features)
                layer.weight.uniform_(-bound, bound)
                layer.bias.zero_()

    def predict(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        for layer in self.layers[:-1]:
            inputs = torch.relu(layer(inputs))
            features.append(inputs)
        return self.layers[-1](inputs), features


class GenerateAndTest:
    """Utilities, ages and replacement of the hidden units, layer by layer."""

    def __init__(self, network: Network, replacement_rate: float, maturity_threshold: int, decay_rate: float) -> None:
        self.layers = network.layers
        self.replacement_rate = replacement_rate
        self.maturity_threshold = maturity_threshold
        self.decay_rate = decay_rate
        sizes = [layer.out_features for layer in network.layers[:-1]]
        self.ages = [torch.zeros(n) for n in sizes]
        self.utilities = [torch.zeros(n) for n in sizes]
        self.mean_activations = [torch.zeros(n) for n in sizes]
        self.owed = [0.0 for _ in sizes]

    def corrected_utility(self, i: int, activation: Tensor) -> Tensor:
        """Move the running means of layer ``i`` and return its bias-corrected adaptable contribution."""
        correction = 1 - self.decay_rate ** self.ages[i]
        mean, utility = self.mean_activations[i], self.utilities[i]
        mean.mul_(self.decay_rate).add_(activation.mean(0), alpha=1 - self.decay_rate)
        outgoing = self.layers[i + 1].weight.abs().mean(0)
        incoming = self.layers[i].weight.abs().mean(1)
        contribution = (activation - mean / correction).abs().mean(0) * outgoing / incoming
        utility.mul_(self.decay_rate).add_(contribution, alpha=1 - self.decay_rate)
        return utility / correction

    def select(self, i: int, activation: Tensor) -> Tensor:
        """The units of layer ``i`` to replace at this step."""
        self.ages[i] += 1
        nobody = torch.empty(0, dtype=torch.long)
        utility = self.corrected_utility(i, activation)
        eligible = torch.where(self.ages[i] > self.maturity_threshold)[0]
        if eligible.shape[0] == 0:
            return nobody
        self.owed[i] += self.replacement_rate * eligible.shape[0]
        number = int(self.owed[i])
        self.owed[i] -= number
        if number == 0:
            return nobody
        return eligible[torch.topk(-utility[eligible], number)[1]]

    def replace(self, i: int, units: Tensor) -> None:
        """Give these units of layer ``i`` new incoming weights and no outgoing ones."""
        if units.shape[0] == 0:
            return
        incoming, outgoing = self.layers[i], self.layers[i + 1]
        bound = math.sqrt(2.0) * math.sqrt(3.0 / incoming.in_features)
        incoming.weight[units] = torch.empty(units.shape[0], incoming.in_features).uniform_(-bound, bound)
        incoming.bias[units] = 0
        outgoing.weight[:, units] = 0
        for state in (self.ages, self.utilities, self.mean_activations):
            state[i][units] = 0

    @torch.no_grad()
    def step(self, features: list[Tensor]) -> None:
        chosen = [self.select(i, activation) for i, activation in enumerate(features)]
        for i, units in enumerate(chosen):
            self.replace(i, units)


class Learner:
    """Stochastic gradient descent, with Continual Backpropagation after each step unless told otherwise.

    Args:
        sizes: of the layers, inputs and outputs included.
        loss: ``(output, target) -> scalar``.
        cbp: without it this is plain ``torch.optim`` training.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        loss: nn.Module,
        *,
        step_size: float = 0.01,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        decay_rate: float = 0.99,
        cbp: bool = True,
    ) -> None:
        self.network = Network(sizes)
        self.loss = loss
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=step_size)
        self.generate_and_test = (
            GenerateAndTest(self.network, replacement_rate, maturity_threshold, decay_rate) if cbp else None
        )

    def learn(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step on a batch ``(batch, inputs)``; returns the loss before it."""
        output, features = self.network.predict(inputs)
        loss = self.loss(output, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.generate_and_test is not None:
            self.generate_and_test.step([activation.detach() for activation in features])
        return loss.detach()

    def run(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step for each leading entry."""
        return torch.stack([self.learn(x, y) for x, y in zip(inputs, targets, strict=True)])
