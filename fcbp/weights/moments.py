"""An optimiser's memory of each weight: a scale of the weight's utility, which is reset with the weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from fcbp import tree
from fcbp.cbp.matching import axes_of, match
from fcbp.cbp.moments import Fresh, fresh_value
from fcbp.checks import arguments
from fcbp.kinds import PyTree, Tensors
from fcbp.weights.leaves import flat, leaves_of

__all__ = ["reset_moments", "scales"]


@arguments
@torch.no_grad()
def reset_moments(opt_state: PyTree, replaced: Tensors, *, fresh: Fresh = 0.0) -> PyTree:
    """Reset an optimiser's memory of the reset weights: moments and per-element step counts.

    Every tensor shaped like a parameter under that parameter's name is reset, wherever it lies, as by
    :func:`fcbp.reset_moments`. A number for a whole tensor, and a factored moment's rows and columns, belong to other
    weights as well and stay.

    Args:
        opt_state: a pytree; those of :mod:`fcbp.optim`, or any that holds tensors under the parameters' names.
        replaced: the masks that :func:`select_and_reset` returned.
        fresh: the new value of a reset entry, as for :func:`fcbp.reset_moments`.

    Raises:
        ValueError: ``opt_state`` is no pytree of tensors; a tensor under a parameter's name has another shape; a
            parameter's name is missing, and a tensor that may be its lies elsewhere.
    """
    masks = dict(leaves_of(replaced))
    moments, strangers = match(opt_state, list(masks))
    new: dict[tree.Path, Tensor] = {}
    for moment in moments:
        mask, leaf = masks[moment.parameter], moment.leaf
        if len(axes_of(moment._replace(side=0), tuple(mask.shape))) == mask.ndim == leaf.ndim and mask.ndim:
            value = fresh_value(fresh, moment.path, leaf)
            new[moment.path] = _clear(leaf, mask, value)
    named = {moment.parameter for moment in moments}
    for path, mask in masks.items():
        fits = [(where, leaf) for where, leaf in strangers if leaf.ndim and (not named or leaf.shape == mask.shape)]
        if path not in named and fits:
            raise ValueError(
                f"opt_state has nothing by the name of {tree.show(path)}, and {tree.show(fits[0][0])} of shape "
                f"{tuple(fits[0][1].shape)} by no parameter's name; expected every moment under its parameter's name"
            )
    return tree.replace(opt_state, new)


def _clear(x: Tensor, gone: Bool[Tensor, "*shape"], value: float | Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.full((), value, dtype=x.dtype, device=x.device)
    return torch.where(gone, value, x)


def scales(moments: PyTree, managed: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Return factors of each weight's utility; see :func:`fcbp.weights.update_utility`.

    Raises:
        ValueError: ``moments`` is no state of an optimiser that it knows, or lacks a managed tensor.
    """
    if moments is None:
        return None
    if hasattr(moments, "mean") and hasattr(moments, "mean_square"):
        mean, square = (
            flat("moments.mean", moments.mean, managed),
            flat("moments.mean_square", moments.mean_square, managed),
        )
        return {name: (mean[name].abs() + 1e-8) / (square[name].sqrt() + 1e-8) for name in managed}
    if hasattr(moments, "momentum"):
        return {name: leaf.abs() for name, leaf in flat("moments.momentum", moments.momentum, managed).items()}
    raise ValueError(f"moments is {type(moments).__name__}; expected an AdamState, or an SGDState with momentum")
