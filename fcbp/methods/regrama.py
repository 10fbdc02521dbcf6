"""ReGraMa: reset units whose gradients are small.

Liu, Wu, Obando-Ceron, Castro, Courville and Pan, "Measure gradients, not activations! Enhancing neuronal activity in
deep reinforcement learning", NeurIPS 2025 (arXiv 2505.24061): the score of a unit (GraMa) is the mean of ``abs(g)``
over its incoming weights, ``g`` the gradient of the loss, divided by the mean of its layer; every ``period`` steps each
unit of score ``threshold`` or less is reset as by ReDo. Code: LucMc/continual-learning, ``optim/regrama.py``, commit
6fc2af3.

What differs from published code:

- it adds 1e-8 to the layer's mean, which a layer of small gradients is not small against. Here a layer whose mean is 0
  scores 0 throughout, at any scale of the others.
- it zeroes Adam's moments and keeps its one count; here moments and counts of the weights that were reset become 0,
  each element's by itself.
- it scores the gradient of one batch. Online, batch by batch of 1, an idle rectifier has none; ``decay_rate`` scores a
  running mean instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from fcbp import initializers
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import need_grads
from fcbp.methods.reset import gradient_magnitude
from fcbp.methods.threshold import Magnitude, threshold_method
from fcbp.units import UnitGroup

__all__ = ["RegramaHyperparams", "regrama"]


class RegramaHyperparams(NamedTuple):
    """The numbers of ReGraMa; each a float or a 0-d tensor, which may be vmapped."""

    threshold: float | Tensor = 0.01
    """Share of its layer's mean gradient at or below which a unit is reset (tau). 0 resets units without a gradient,
    -1 none."""
    period: float | Tensor = 1000
    """Steps between events, at least 1."""
    decay_rate: float | Tensor = 0.0
    """Decay of the running mean of ``abs(g)``, in [0, 1]; 0 scores the last batch alone, as published."""


@arguments
def regrama(*, initializer: str | initializers.Initializer = "kaiming_uniform", capacity: int | None = None) -> Method:
    """Make the method ReGraMa; its ``hyper`` is :class:`RegramaHyperparams`, its state a ``ThresholdState``.

    Args:
        initializer: how incoming weights are drawn; see :func:`fcbp.select_and_reset`.
        capacity: the most units reset per group and event; see :func:`fcbp.methods.redo`.

    Raises:
        ValueError: an option is unknown or out of range.
    """

    def observe(units: tuple[UnitGroup, ...], features: Mapping[str, Tensor] | None, grads: Any) -> Magnitude:
        given = need_grads(grads, "regrama")
        return lambda group, dtype: gradient_magnitude(group, given, dtype)

    return threshold_method(
        "regrama", RegramaHyperparams, observe, incoming=True, initializer=initializer, capacity=capacity
    )
