"""Utility measures: how useful each unit of a group is at one step, one pure function a measure.

A measure maps an :class:`Observation` of one group to a tensor ``(units,)``. Names are those of Dohare et al.
(2021, arXiv 2108.06325; 2024, Nature 632) and of their code where they had one. ``abs(w_in)`` and
``abs(w_out)`` are means over every element of a unit's incoming (outgoing) weights.

Any function of an observation is a measure:

    >>> def largest_outgoing_weight(group: Observation):
    ...     return torch.stack([w.abs().flatten(0, -3).amax((0, -1)) for w in group.outgoing]).amax(0)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fcbp.checks import arguments
from fcbp.names import lookup

__all__ = [
    "MEASURES",
    "Measure",
    "Observation",
    "adaptable_contribution",
    "adaptation",
    "contribution",
    "feature_by_input",
    "get",
    "incoming_gradient",
    "removal",
    "weight",
    "weight_gradient",
    "zero_contribution",
]

Weights = tuple[Float[Tensor, "*rest units block"], ...]


@dataclass(frozen=True)
class Observation:
    """The input of a measure: one group at one step.

    Attributes:
        activation: the group's activation in the forward pass before the update, ``(*samples, units, positions)``;
            ``positions`` is 1 but where a conv map was flattened into a linear layer.
        mean_activation: its bias-corrected running mean, ``(units,)``.
        incoming: the incoming weights after the update, one ``(*rest, units, block)`` a slice.
        outgoing: the outgoing weights after the update, likewise; where ``positions`` is more than 1 so is
            ``block``, position by position.
        incoming_grads: gradients of ``incoming``; empty where no gradients were given.
        outgoing_grads: gradients of ``outgoing``; likewise.
    """

    activation: Float[Tensor, "*samples units positions"]
    mean_activation: Float[Tensor, "units"]
    incoming: Weights
    outgoing: Weights
    incoming_grads: Weights = ()
    outgoing_grads: Weights = ()


Measure = Callable[[Observation], Float[Tensor, "units"]]


def _sum_rest(x: Float[Tensor, "*rest units block"]) -> Float[Tensor, "units block"]:
    return x.sum(tuple(range(x.ndim - 2))) if x.ndim > 2 else x


def _mean_samples(x: Float[Tensor, "*samples units positions"]) -> Float[Tensor, "units positions"]:
    return x.mean(tuple(range(x.ndim - 2))) if x.ndim > 2 else x


def _magnitude(weights: Weights, positions: int = 1) -> Float[Tensor, "units positions"]:
    """Return the mean absolute weight of each unit, position by position where the weights know positions."""
    totals, count = [], 0
    for w in weights:
        total = _sum_rest(w.abs())
        by_position = w.shape[-1] == positions
        totals.append(total if by_position else total.sum(-1, keepdim=True))
        count += w.numel() // w.shape[-2] // (positions if by_position else 1)
    return sum(totals[1:], totals[0]) / count


def _mean_positions(x: Float[Tensor, "units positions"]) -> Float[Tensor, "units"]:
    return x.squeeze(-1) if x.shape[-1] == 1 else x.mean(-1)


def _deviation(group: Observation) -> Float[Tensor, "units positions"]:
    return _mean_samples((group.activation - group.mean_activation.unsqueeze(-1)).abs())


def _outgoing_by_position(group: Observation) -> Float[Tensor, "units positions"]:
    return _magnitude(group.outgoing, group.activation.shape[-1])


@arguments
def contribution(group: Observation) -> Float[Tensor, "units"]:
    """``mean abs(h) * abs(w_out)``: Nature 2024, equation 1 (which sums the weights; the ranking is the same)."""
    return _mean_positions(_mean_samples(group.activation.abs()) * _outgoing_by_position(group))


@arguments
def zero_contribution(group: Observation) -> Float[Tensor, "units"]:
    """``mean abs(h - mean) * abs(w_out)``: the mean-corrected contribution of arXiv 2108.06325."""
    return _mean_positions(_deviation(group) * _outgoing_by_position(group))


@arguments
def adaptable_contribution(group: Observation) -> Float[Tensor, "units"]:
    """``mean abs(h - mean) * abs(w_out) / abs(w_in)``: the overall utility of arXiv 2108.06325."""
    return zero_contribution(group) * adaptation(group)


@arguments
def feature_by_input(group: Observation) -> Float[Tensor, "units"]:
    """``mean abs(h - mean) / abs(w_in)``."""
    return _mean_positions(_deviation(group)) * adaptation(group)


@arguments
def adaptation(group: Observation) -> Float[Tensor, "units"]:
    """``1 / abs(w_in)``: how far a gradient step moves the unit, relative to its weights (arXiv 2108.06325)."""
    return _magnitude(group.incoming).squeeze(-1).reciprocal()


@arguments
def weight(group: Observation) -> Float[Tensor, "units"]:
    """``abs(w_out)``."""
    return _magnitude(group.outgoing).squeeze(-1)


@arguments
def weight_gradient(group: Observation) -> Float[Tensor, "units"]:
    """``mean abs(g * w)`` over the incoming weights, ``g`` their gradient."""
    return _magnitude(tuple(g * w for g, w in zip(_given(group.incoming_grads), group.incoming, strict=True))).squeeze(
        -1
    )


@arguments
def incoming_gradient(group: Observation) -> Float[Tensor, "units"]:
    """``mean abs(g)`` over the incoming weights, ``g`` their gradient."""
    return _magnitude(_given(group.incoming_grads)).squeeze(-1)


@arguments
def removal(group: Observation) -> Float[Tensor, "units"]:
    """``abs(sum g * w)`` over the outgoing weights: the first-order change of the loss if the unit goes."""
    pairs = zip(_given(group.outgoing_grads), group.outgoing, strict=True)
    return torch.stack([_sum_rest(g * w).sum(-1) for g, w in pairs]).sum(0).abs()


def _given(grads: Weights) -> Weights:
    if not grads:
        raise ValueError("grads is None; expected a pytree like params, for a measure of gradients")
    return grads


MEASURES: dict[str, Measure] = {
    f.__name__: f
    for f in (
        contribution,
        zero_contribution,
        adaptable_contribution,
        feature_by_input,
        adaptation,
        weight,
        weight_gradient,
        incoming_gradient,
        removal,
    )
}
"""The measures by name. A further name, ``"random"``, replaces the utility by a fresh uniform draw."""

OF_GRADIENTS = frozenset(f.__name__ for f in (weight_gradient, incoming_gradient, removal))
"""The measures that read gradients."""


@arguments
def get(measure: str | Measure) -> Measure:
    """Return the measure of that name, or the function itself.

    Raises:
        ValueError: there is no such measure.
    """
    return measure if callable(measure) else lookup("measure", measure, MEASURES | {"random": contribution})
