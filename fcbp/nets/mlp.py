"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fcbp.names import lookup

__all__ = ["ACTIVATIONS", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "selu": nn.SELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "linear": nn.Identity,
    "identity": nn.Identity,
}


def mlp(input_size: int, hidden_sizes: Sequence[int], output_size: int, *, activation: str = "relu") -> nn.Sequential:
    """A multilayer perceptron: ``Linear, activation, ..., Linear``.

    Args:
        input_size: features of the input ``(..., input_size)``.
        hidden_sizes: units of each hidden layer; one for the slowly-changing regression of Dohare et al. (Nature 2024),
            three of 2,000 for their online permuted MNIST.
        output_size: features of the output ``(..., output_size)``.
        activation: a name of :data:`ACTIVATIONS`.

    Raises:
        ValueError: the activation is unknown.

    Example:
        >>> mlp(20, (5,), 1)
        Sequential(
          (0): Linear(in_features=20, out_features=5, bias=True)
          (1): ReLU()
          (2): Linear(in_features=5, out_features=1, bias=True)
        )
    """
    make = lookup("activation", activation, ACTIVATIONS)
    layers: list[nn.Module] = []
    size = input_size
    for width in hidden_sizes:
        layers += [nn.Linear(size, width), make()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, output_size))
