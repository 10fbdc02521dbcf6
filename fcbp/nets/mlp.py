"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments, check_elements
from fcbp.kinds import Count
from fcbp.names import check_option, lookup

__all__ = ["ACTIVATIONS", "CReLU", "Fourier", "mlp"]

Norm = Literal["layer"]
"""Norms between layers."""
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


class CReLU(nn.Module):
    """``x -> [relu(x), relu(-x)]``, which loses no unit whole (Shang et al., ICML 2016; Abbas et al., CoLLAs 2023).

    Two features for each unit ``(..., units) -> (..., 2 * units)``.

    Example:
        >>> CReLU()(torch.tensor([1.0, -2.0]))
        tensor([1., 0., 0., 2.])
    """

    def forward(self, x: Float[Tensor, "*samples units"]) -> Float[Tensor, "*samples features"]:
        return torch.cat([x.relu(), (-x).relu()], -1)


class Fourier(nn.Module):
    """``x -> [sin(x), cos(x)]``: deep Fourier features.

    Lewandowski, Schuurmans and Machado, "Plastic learning with deep Fourier features" (ICLR 2025, arXiv 2410.20634).
    Two features for each unit ``(..., units) -> (..., 2 * units)``, of which one is always far from saturation.

    Example:
        >>> Fourier()(torch.tensor([0.0]))
        tensor([0., 1.])
    """

    def forward(self, x: Float[Tensor, "*samples units"]) -> Float[Tensor, "*samples features"]:
        return torch.cat([x.sin(), x.cos()], -1)


DOUBLING: dict[str, type[nn.Module]] = {"crelu": CReLU, "fourier": Fourier}
"""Activations that give two features for each unit."""


@arguments
def mlp(
    input_size: Count,
    hidden_sizes: Sequence[Count],
    output_size: Count,
    *,
    activation: str = "relu",
    norm: Norm | None = None,
) -> nn.Sequential:
    """Return a multilayer perceptron: ``Linear, activation, ..., Linear``.

    Args:
        input_size: features of the input ``(..., input_size)``.
        hidden_sizes: units of each hidden layer; one for the slowly-changing regression of Dohare et al. (Nature 2024),
            three of 2,000 for their online permuted MNIST.
        output_size: features of the output ``(..., output_size)``.
        activation: a name of :data:`ACTIVATIONS`; or ``"crelu"`` or ``"fourier"``, which give two features for each
            unit: half the units have as many features, as those who propose them compare.
        norm: ``"layer"`` for a layer norm over the units before each activation.

    Raises:
        ValueError: the activation or the norm is unknown.

    Example:
        >>> mlp(20, (5,), 1)
        Sequential(
          (0): Linear(in_features=20, out_features=5, bias=True)
          (1): ReLU()
          (2): Linear(in_features=5, out_features=1, bias=True)
        )
    """
    make = lookup("activation", activation, {**ACTIVATIONS, **DOUBLING})
    if norm is not None:
        check_option("norm", norm, Norm)
    layers: list[nn.Module] = []
    size = input_size
    for width in hidden_sizes:
        is_input = not layers and size > width
        check_elements(*(("input_size", size) if is_input else ("hidden_sizes", hidden_sizes)), size, width)
        layers += [nn.Linear(size, width), *([nn.LayerNorm(width)] if norm else []), make()]
        size = 2 * width if activation in DOUBLING else width
    check_elements("output_size", output_size, size, output_size)
    return nn.Sequential(*layers, nn.Linear(size, output_size))
