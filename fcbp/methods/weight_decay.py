"""Decoupled weight decay: shrink the parameters beside the optimiser's step, not through it."""

from __future__ import annotations

from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from fcbp.methods.backprop import backprop
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_step
from fcbp.optim import cast_like

__all__ = ["WeightDecayHyperparams", "weight_decay"]


class WeightDecayHyperparams(NamedTuple):
    """The number of weight decay; a float or a 0-d tensor, which may be vmapped."""

    strength: float | Tensor = 0.01
    """Share of the parameters that a step takes away, over the step size; at least 0."""


def weight_decay() -> Method:
    """Subtract ``step_size * strength * w`` from every parameter, ``w`` being its value before the step.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (ICLR 2019, arXiv 1711.05101), Algorithms 1 and 2
    without a schedule: with :func:`fcbp.optim.adam` it is :func:`fcbp.optim.adamw`, with :func:`fcbp.optim.sgd` SGDW.
    The default strength is ``torch.optim.AdamW``'s.

    Raises:
        ValueError: ``strength`` is no number, 0 or more; ``update`` is not given ``step_size`` and ``previous``, which
            a learner gives.

    Example:
        >>> import torch, fcbp
        >>> w = {"w": torch.tensor([2.0, -1.0])}
        >>> given = {"hyper": WeightDecayHyperparams(0.5), "step_size": 0.1, "previous": w}
        >>> fcbp.methods.weight_decay().update((), w, (), {}, **given)[0]["w"]
        tensor([ 1.9000, -0.9500])
    """
    plain = backprop()

    @torch.no_grad()
    def update(
        state: tuple[()],
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        hyper: WeightDecayHyperparams,
        previous: Any = None,
        step_size: Any = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, tuple[()], dict[str, Any]]:
        check_numbers(hyper, WeightDecayHyperparams, strength="a number, 0 or more")
        need_step(previous, step_size, "weight-decay")
        shrink = step_size * hyper.strength
        params = optree.tree_map(lambda w, before: w - cast_like(shrink, w) * before, params, previous)
        return plain.update(state, params, opt_state, buffers)

    return plain._replace(update=update)
