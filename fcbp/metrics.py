"""Measurements of a network's plasticity: pure functions, for one learner, vmappable.

Activations are ``(*samples, units)``: every axis but the last is a sample.
"""

from __future__ import annotations

from typing import Any

import optree
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "dead_units",
    "effective_rank",
    "saturated_units",
    "squared_error",
    "stable_rank",
    "weight_magnitude",
]

Activation = Float[Tensor, "*samples units"]


def squared_error(output: Float[Tensor, "..."], targets: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean squared difference."""
    return (output - targets).square().mean()


def dead_units(activation: Activation) -> Bool[Tensor, "units"]:
    """Units that are 0 on every sample: rectifiers that never fire.

    Example:
        >>> dead_units(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([ True, False])
    """
    return (activation == 0).reshape(-1, activation.shape[-1]).all(0)


def saturated_units(
    activation: Activation, lower: float, upper: float, tolerance: float = 0.05
) -> Bool[Tensor, "units"]:
    """Units of a bounded activation that lie at one of its ends on every sample.

    Args:
        activation: outputs of a function with values in ``[lower, upper]``: -1 and 1 for tanh, 0 and 1 for sigmoid.
        lower: the function's infimum.
        upper: its supremum.
        tolerance: how near to an end counts, as a fraction of the range.

    Example:
        >>> saturated_units(torch.tensor([[0.99, 0.2], [-0.98, 0.99]]), -1.0, 1.0)
        tensor([ True, False])
    """
    margin = tolerance * (upper - lower)
    at_an_end = (activation <= lower + margin) | (activation >= upper - margin)
    return at_an_end.reshape(-1, activation.shape[-1]).all(0)


def weight_magnitude(params: Any) -> Float[Tensor, ""]:
    """Mean absolute value over every element of a pytree."""
    leaves = optree.tree_leaves(params)
    totals = [leaf.abs().sum() for leaf in leaves]
    return sum(totals[1:], totals[0]) / sum(leaf.numel() for leaf in leaves)


def effective_rank(matrix: Float[Tensor, "samples features"]) -> Float[Tensor, ""]:
    """The exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007); 0 for a zero matrix.

    Example:
        >>> effective_rank(torch.eye(4))
        tensor(4.)
    """
    relative, is_zero = _relative_singular_values(matrix)
    p = relative / relative.sum()
    return torch.where(is_zero, 0.0, torch.exp(-torch.special.xlogy(p, p).sum()))


def stable_rank(matrix: Float[Tensor, "samples features"]) -> Float[Tensor, ""]:
    """The squared Frobenius norm over the squared spectral norm (Rudelson and Vershynin, 2007); 0 for a zero matrix.

    Published continual-learning code also calls the number of singular values that sum to 99 % so; this is not that.

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        tensor(1.5000)
    """
    relative, is_zero = _relative_singular_values(matrix)
    return torch.where(is_zero, 0.0, relative.square().sum())


def _relative_singular_values(matrix: Tensor) -> tuple[Float[Tensor, "rank"], Bool[Tensor, ""]]:
    """Singular values over the largest, so that no sum or square leaves the dtype's range; and whether all are 0.

    They are roots of the eigenvalues of the smaller Gram matrix, in float64, whose error is that of a decomposition in
    float32: for many samples of few features 20 times faster than one.
    """
    # LAPACK refuses NaN, and under vmap one member's NaN would end all the others.
    finite = torch.isfinite(matrix).all()
    largest_entry = matrix.abs().amax()
    is_zero = largest_entry == 0
    scaled = torch.where(finite & ~is_zero, matrix / largest_entry, 1.0)
    fine = scaled if matrix.device.type == "mps" else scaled.to(torch.float64)
    gram = fine.mT @ fine if fine.shape[0] >= fine.shape[1] else fine @ fine.mT
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    relative = (singular / singular.amax()).to(matrix.dtype)
    return torch.where(finite, relative, torch.nan), is_zero
