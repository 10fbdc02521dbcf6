"""ReDo: recycle dormant units.

Sokar, Agarwal, Castro and Evci, "The dormant neuron phenomenon in deep reinforcement learning", ICML 2023
(arXiv 2302.12902): the score of a unit is the mean of ``abs(h)`` over the batch, divided by the mean of its layer
(equation 1); every ``period`` steps each unit of score ``threshold`` or less is made new: incoming weights drawn anew,
outgoing weights 0, moments 0. Code: google/dopamine, ``labs/redo``, commit 5873f54.

What differs from published code:

- dopamine adds 1e-9 to the layer's mean, and the loss-of-plasticity code (``gntRedo.py``) nothing: there a layer whose
  mean is 0 scores NaN and is never reset. Here such a layer's units score 0, at any scale of the others.
- dopamine zeroes Adam's moments and keeps its one count; loss-of-plasticity resets no optimiser state. Here moments and
  counts of the weights that were reset become 0, each element's by itself.
- dopamine spreads a conv map's mask over a flattened map's columns in the wrong order (``repeat`` where its maps are
  channels last); a group knows its columns.
- dopamine scores a batch of some hundreds of examples. Online, batch by batch of 1, half of all rectifiers would score
  0; ``decay_rate`` scores a running mean instead.

Its other options: ``RedoHyperparams(threshold=0.0, period=200_000)`` are dopamine's defaults,
``RedoHyperparams(threshold=0.01, period=1000)`` those of loss-of-plasticity (0.03 in its PPO).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from fcbp import initializers
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import need_features
from fcbp.methods.reset import activation_magnitude
from fcbp.methods.threshold import Magnitude, threshold_method
from fcbp.units import UnitGroup

__all__ = ["RedoHyperparams", "redo"]


class RedoHyperparams(NamedTuple):
    """The numbers of ReDo; each a float or a 0-d tensor, which may be vmapped."""

    threshold: float | Tensor = 0.025
    """Share of its layer's mean at or below which a unit is dormant (tau). 0 resets units that are dead, -1 none."""
    period: float | Tensor = 1000
    """Steps between events, at least 1."""
    decay_rate: float | Tensor = 0.0
    """Decay of the running mean of ``abs(h)``, in [0, 1]; 0 scores the last batch alone, as published."""


@arguments
def redo(*, initializer: str | initializers.Initializer = "kaiming_uniform", capacity: int | None = None) -> Method:
    """Make the method ReDo; its ``hyper`` is :class:`RedoHyperparams`, its state a ``ThresholdState``.

    Args:
        initializer: how incoming weights are drawn; see :func:`fcbp.select_and_reset`. dopamine's is
            ``"xavier_uniform"``, its networks' own.
        capacity: the most units reset per group and event, those of lowest score; the others wait for the next. Rows
            are drawn for ``capacity`` units at every step, so a small one is cheaper. By default all.

    Raises:
        ValueError: an option is unknown or out of range.

    Example:
        >>> import torch, fcbp
        >>> model = fcbp.nets.mlp(20, (5,), 1)
        >>> units = fcbp.find_units(model, torch.zeros(1, 20))
        >>> learner = fcbp.make_learner(model, units, method=redo())
        >>> hyper = fcbp.LearnerHyperparams(method=RedoHyperparams(threshold=0.1, period=1))
        >>> state, info = learner.step(learner.init(fcbp.random.key(0)), (torch.ones(9, 20), torch.ones(9, 1)), hyper)
        >>> info["replaced"].keys()
        dict_keys(['0'])
    """

    def observe(units: tuple[UnitGroup, ...], features: Mapping[str, Tensor] | None, grads: Any) -> Magnitude:
        given = need_features(features, units, "redo")
        return lambda group, dtype: activation_magnitude(group, given, dtype)

    return threshold_method(
        "redo", RedoHyperparams, observe, incoming=False, initializer=initializer, capacity=capacity
    )
