"""Measurements of a network's plasticity: pure functions, for one learner, vmappable.

Activations are ``(*samples, units)``: every axis but the last is a sample.

Five numbers go by the name of a rank; with the singular values s, largest first, they are

- :func:`rank`: how many exceed a tolerance, as in linear algebra;
- :func:`effective_rank`: the exponential of the entropy of ``s / sum(s)`` (Roy and Vetterli, 2007);
- :func:`approximate_rank`: how many hold 99 % of ``sum(s ** 2)`` (Yang et al., 2020);
- :func:`srank`: how many hold 99 % of ``sum(s)`` (Kumar et al., 2021);
- :func:`stable_rank`: ``sum(s ** 2) / max(s) ** 2`` (Rudelson and Vershynin, 2007).

On a few equal singular values they agree. The published code of "Loss of plasticity in deep
continual learning" (63c35f3) calls :func:`srank` the stable rank, and counts what is not exactly 0 for :func:`rank`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Bool, Float, Int, Int32, Num
from torch import Tensor

from fcbp.cbp import CBPState, Hyperparams, bias_correction
from fcbp.checks import arguments, shown
from fcbp.kinds import Finite, Fraction, NonNegative, SomeTensors

__all__ = [
    "Spectrum",
    "Summary",
    "accuracy",
    "age_summary",
    "approximate_rank",
    "dead_units",
    "dormant_units",
    "effective_rank",
    "error",
    "gradient_magnitude",
    "mature_fraction",
    "plasticity",
    "rank",
    "saturated_units",
    "spectrum",
    "squared_error",
    "srank",
    "stable_rank",
    "summarize",
    "units_reset",
    "update_magnitude",
    "utility_summary",
    "weight_magnitude",
    "weights_reset",
]

Activation = Float[Tensor, "*samples units"]


@arguments
def squared_error(output: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean squared difference."""
    return (output - targets).square().mean()


@arguments
def accuracy(output: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Return the fraction of the examples whose largest output is that of their class.

    Args:
        output: of a network, one number for each class.
        targets: class indices.

    Example:
        >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000)
    """
    return (output.argmax(-1) == targets).to(torch.float32).mean()


@arguments
def error(output: Float[Tensor, "*batch classes"], targets: Int[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Return the fraction of the examples whose largest output is not that of their class: ``1 - accuracy``.

    Example:
        >>> error(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
        tensor(0.5000)
    """
    return (output.argmax(-1) != targets).to(torch.float32).mean()


@arguments
def dead_units(activation: Activation) -> Bool[Tensor, "units"]:
    """Return units that are 0 on every sample: rectifiers that never fire.

    Example:
        >>> dead_units(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([ True, False])
    """
    return (activation == 0).reshape(-1, activation.shape[-1]).all(0)


@arguments
def dormant_units(activation: Activation, threshold: NonNegative | Float[Tensor, ""] = 0.025) -> Bool[Tensor, "units"]:
    """Return units whose mean absolute activation is at most ``threshold`` times their layer's.

    Sokar, Agarwal, Castro and Evci, "The dormant neuron phenomenon in deep reinforcement learning" (ICML 2023),
    Definition 3.1; 0.025 is theirs, and 0 finds the dead units. In a dead layer all units are dormant.

    Example:
        >>> dormant_units(torch.tensor([[0.01, 1.0], [0.0, -1.0]]))
        tensor([ True, False])
    """
    mean = activation.abs().reshape(-1, activation.shape[-1]).mean(0)
    return mean <= threshold * mean.mean()


@arguments
def saturated_units(
    activation: Activation, lower: Finite, upper: Finite, tolerance: NonNegative = 0.05
) -> Bool[Tensor, "units"]:
    """Return units of a bounded activation that lie at one of its ends on every sample.

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


@arguments
def weight_magnitude(params: SomeTensors) -> Float[Tensor, ""]:
    """Return the mean absolute value over every element of a pytree."""
    leaves = optree.tree_leaves(params)
    totals = [leaf.abs().sum() for leaf in leaves]
    mean: Tensor = sum(totals[1:], totals[0]) / sum(leaf.numel() for leaf in leaves)
    return mean


@arguments
def gradient_magnitude(grads: SomeTensors) -> Float[Tensor, ""]:
    """Return the mean absolute gradient over every element of a pytree."""
    return weight_magnitude(grads)


@arguments
def update_magnitude(before: SomeTensors, after: SomeTensors) -> Float[Tensor, ""]:
    """Return the mean absolute change over every element of two pytrees, such as the parameters before and after a
    step.

    Raises:
        ValueError: they have different structures, or a leaf is no tensor.
    """
    if optree.tree_structure(before) != optree.tree_structure(after):
        raise ValueError(
            f"after has the structure {optree.tree_structure(after)}; expected that of before, "
            f"{optree.tree_structure(before)}"
        )
    return weight_magnitude(optree.tree_map(torch.sub, after, before))


@arguments
def plasticity(before: Float[Tensor, "..."], after: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the share of the loss on some examples that a step on them takes away: ``1 - after / before``, from 0 to
    1.

    Elsayed and Mahmood, "Addressing loss of plasticity and catastrophic forgetting in continual learning" (ICLR 2024),
    Eq. 8; as their code (``mohmdelsayed/upgd`` b75e90a, ``core/run/run_stats.py``) has it, over ``max(before, 1e-8)``
    and clipped.

    Args:
        before: the loss on the examples before the step, 0 or more.
        after: the loss on the same examples after it.

    Raises:
        ValueError: their shapes do not fit one another.

    Example:
        >>> plasticity(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.5, 3.0, 0.0]))
        tensor([0.7500, 0.0000, 1.0000])
    """
    try:
        torch.broadcast_shapes(before.shape, after.shape)
    except RuntimeError as error:
        raise ValueError(f"after is {shown(after)} and before {shown(before)}; expected one shape") from error
    return (1 - after / before.clamp(min=1e-8)).clamp(0, 1)


class Summary(NamedTuple):
    """The spread of some numbers."""

    minimum: Float[Tensor, ""]
    median: Float[Tensor, ""]
    """The lower of two in the middle."""
    mean: Float[Tensor, ""]
    maximum: Float[Tensor, ""]


@arguments
def summarize(values: Num[Tensor, "..."]) -> Summary:
    """Return the least, the median, the mean and the greatest of a tensor's numbers; all NaN where one of them is.

    Example:
        >>> [x.item() for x in summarize(torch.tensor([3, 1, 8]))]
        [1.0, 3.0, 4.0, 8.0]
    """
    flat = values.flatten()
    flat = flat if flat.is_floating_point() else flat.to(torch.float32)
    return Summary(flat.amin(), flat.median(), flat.mean(), flat.amax())


@arguments
def age_summary(state: CBPState) -> Summary:
    """Return the ages, in steps, of all units of all groups."""
    return summarize(torch.cat(list(state.age.values())))


@arguments
def utility_summary(state: CBPState, hyper: Hyperparams) -> Summary:
    """Return the bias-corrected utilities of all units of all groups; that of a unit of age 0 is 0."""

    def corrected(name: str) -> Tensor:
        age, utility = state.age[name], state.utility[name]
        return torch.where(age > 0, utility / bias_correction(age.clamp(min=1), hyper.decay_rate, utility), 0)

    return summarize(torch.cat([corrected(name) for name in state.age]))


@arguments
def mature_fraction(state: CBPState, hyper: Hyperparams) -> Float[Tensor, ""]:
    """Return the share of units old enough to be replaced: where it is 0, nothing can be."""
    return torch.cat([age > hyper.maturity_threshold for age in state.age.values()]).to(torch.float32).mean()


@arguments
def units_reset(info: Mapping[str, Any]) -> Int32[Tensor, ""]:
    """Count the units that a learner's step replaced: the true entries of the masks in ``info["replaced"]``.

    Raises:
        ValueError: ``info`` has none.
    """
    if "replaced" not in info:
        raise ValueError(f"info has {', '.join(map(str, info)) or 'nothing'}; expected 'replaced', as a learner's has")
    return _number_true(info["replaced"])


@arguments
def weights_reset(info: Mapping[str, Any]) -> Int32[Tensor, ""]:
    """Count the single weights that a learner's step reset: the true entries of ``info["reset_weights"]``, 0 without
    it."""
    return _number_true(info.get("reset_weights", {}))


def _number_true(masks: Any) -> Int32[Tensor, ""]:
    counts = [mask.sum(dtype=torch.int32) for mask in optree.tree_leaves(masks)]
    return torch.stack(counts).sum(dtype=torch.int32) if counts else torch.zeros((), dtype=torch.int32)


class Spectrum(NamedTuple):
    """A matrix's singular values, which every rank is a function of."""

    relative: Float[Tensor, "rank"]
    """The singular values over the largest; NaN for a matrix that is not finite."""
    is_zero: Bool[Tensor, ""]
    """Whether all singular values are 0."""
    longer: Float[Tensor, ""]
    """The matrix's longer side."""


@arguments
def spectrum(matrix: Float[Tensor, "samples features"]) -> Spectrum:
    """Return the singular values of a matrix, for several of its ranks: each takes them in the matrix's place.

    They are roots of the eigenvalues of the smaller Gram matrix, in float64, whose error is that of a decomposition in
    float32: for many samples of few features 20 times faster than one.

    Args:
        matrix: ``(samples, features)``, of any floating-point dtype.

    Example:
        >>> found = spectrum(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        >>> rank(found), stable_rank(found)
        (tensor(3.), tensor(1.5000))
    """
    # LAPACK refuses NaN, and under vmap one member's NaN would end all the others.
    finite = torch.isfinite(matrix).all()
    largest_entry = matrix.abs().amax()
    is_zero = largest_entry == 0
    # Over the largest entry, so that no sum or square leaves the dtype's range.
    scaled = torch.where(finite & ~is_zero, matrix / largest_entry, 1.0)
    fine = scaled if matrix.device.type == "mps" else scaled.to(torch.float64)
    gram = fine.mT @ fine if fine.shape[0] >= fine.shape[1] else fine @ fine.mT
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    relative = (singular / singular.amax()).to(matrix.dtype)
    longer = torch.full((), max(matrix.shape), dtype=torch.float32, device=matrix.device)
    return Spectrum(torch.where(finite, relative, torch.nan), is_zero, longer)


@arguments
def rank(
    matrix: Float[Tensor, "samples features"] | Spectrum, tolerance: NonNegative | None = None
) -> Float[Tensor, ""]:
    """Count the singular values above ``tolerance`` times the largest.

    Args:
        matrix: of any floating-point dtype; or its :func:`spectrum`.
        tolerance: by default ``max(samples, features)`` times float32's precision, as ``torch.linalg.matrix_rank`` has
            it; for float64 as well, for these singular values are not known better.

    Returns:
        A whole number, as a float; like all ranks here 0 for a zero matrix, NaN for one that is not finite.

    Example:
        >>> rank(torch.tensor([[1.0, 2.0], [2.0, 4.0]]))
        tensor(1.)
    """
    relative, is_zero, longer = _spectrum(matrix)
    least = longer * torch.finfo(torch.float32).eps if tolerance is None else tolerance
    return _count(relative > least, relative, is_zero)


@arguments
def effective_rank(matrix: Float[Tensor, "samples features"] | Spectrum) -> Float[Tensor, ""]:
    """Return the exponential of the entropy of the normalised singular values (Roy and Vetterli, 2007); 0 for a zero
    matrix.

    Example:
        >>> effective_rank(torch.eye(4))
        tensor(4.)
    """
    relative, is_zero, _ = _spectrum(matrix)
    p = relative / relative.sum()
    return torch.where(is_zero, 0.0, torch.exp(-torch.special.xlogy(p, p).sum()))


@arguments
def approximate_rank(
    matrix: Float[Tensor, "samples features"] | Spectrum, fraction: Fraction = 0.99
) -> Float[Tensor, ""]:
    """Count the largest singular values that together hold 99 % of the sum of all squares.

    Yang, Zhang, Xu and Katabi, "Harnessing structures for value-based planning and reinforcement learning" (ICLR 2020).

    Example:
        >>> approximate_rank(torch.diag(torch.tensor([10.0, 1.0, 0.5, 0.5])))
        tensor(2.)
    """
    relative, is_zero, _ = _spectrum(matrix)
    return _holding(relative.square(), fraction, is_zero)


@arguments
def srank(matrix: Float[Tensor, "samples features"] | Spectrum, delta: Fraction = 0.01) -> Float[Tensor, ""]:
    """Count the largest singular values that together hold ``1 - delta`` of the sum of all.

    Kumar, Agarwal, Ghosh and Levine, "Implicit under-parameterization inhibits data-efficient deep reinforcement
    learning" (ICLR 2021), who call it the effective rank.

    Example:
        >>> srank(torch.diag(torch.tensor([10.0, 1.0, 0.5, 0.5])))
        tensor(4.)
    """
    relative, is_zero, _ = _spectrum(matrix)
    return _holding(relative, 1 - delta, is_zero)


@arguments
def stable_rank(matrix: Float[Tensor, "samples features"] | Spectrum) -> Float[Tensor, ""]:
    """Return the squared Frobenius norm over the squared spectral norm (Rudelson and Vershynin, 2007); 0 for a zero
    matrix.

    Published continual-learning code calls :func:`srank` so.

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0, 1.0])))
        tensor(1.5000)
    """
    relative, is_zero, _ = _spectrum(matrix)
    return torch.where(is_zero, 0.0, relative.square().sum())


def _spectrum(matrix: Float[Tensor, "samples features"] | Spectrum) -> Spectrum:
    return matrix if isinstance(matrix, Spectrum) else spectrum(matrix)


def _holding(parts: Float[Tensor, "rank"], fraction: float, is_zero: Bool[Tensor, ""]) -> Float[Tensor, ""]:
    """Count the largest parts that add up to a fraction of all."""
    share = parts.flip(0).to(torch.float32).cumsum(0)
    # Less a little: of 100 equal parts 99 are enough, whichever way their sum was rounded.
    enough = (fraction - 1e-5) * share[-1]
    return _count(torch.cat([torch.zeros_like(share[:1]), share[:-1]]) < enough, parts, is_zero)


def _count(which: Bool[Tensor, "rank"], parts: Float[Tensor, "rank"], is_zero: Bool[Tensor, ""]) -> Float[Tensor, ""]:
    number = torch.where(is_zero, 0, which.sum()).to(torch.float32)
    return torch.where(parts.isnan().any(), torch.nan, number)
