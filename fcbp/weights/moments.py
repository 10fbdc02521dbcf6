"""What an optimiser remembers of each weight: as a scale of its utility, and reset with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from fcbp import tree
from fcbp.weights.leaves import flat, leaf_at, leaves_of

__all__ = ["reset_moments", "scales"]


@torch.no_grad()
def reset_moments(opt_state: Any, replaced: Any) -> Any:
    """Zero what an optimiser remembers of the reset weights: moments and per-element step counts.

    Every subtree of ``opt_state`` shaped like ``params`` is reset, wherever it lies; a per-tensor count (a 0-d tensor)
    belongs to other weights as well and stays.

    Args:
        opt_state: a pytree; those of :mod:`fcbp.optim`, or any with subtrees shaped like ``params``.
        replaced: the masks that :func:`select_and_reset` returned.

    Raises:
        ValueError: ``opt_state`` holds tensors, but no subtree shaped like ``params``.
    """
    masks = dict(leaves_of(replaced))
    found = False

    def walk(node: Any) -> Any:
        nonlocal found
        leaves = {path: leaf_at(node, path) for path in masks}
        if masks and all(leaf is not None and leaf.shape in ((), masks[p].shape) for p, leaf in leaves.items()):
            found = True
            same = {p: leaf for p, leaf in leaves.items() if leaf is not None and leaf.shape == masks[p].shape}
            return tree.replace(node, {path: _clear(leaf, masks[path]) for path, leaf in same.items()})
        if not isinstance(node, (Mapping, tuple, list)):
            return node
        entries = node.keys() if isinstance(node, Mapping) else range(len(node))
        return tree.replace(node, {(entry,): walk(node[entry]) for entry in entries})

    new = walk(opt_state)
    if masks and not found and next(leaves_of(opt_state), None) is not None:
        raise ValueError(
            f"opt_state has type {type(opt_state).__name__} and no subtree of the masks' shapes; "
            "expected moments shaped like params"
        )
    return new


def _clear(x: Tensor, gone: Bool[Tensor, "*shape"]) -> Tensor:
    return torch.where(gone, torch.zeros((), dtype=x.dtype, device=x.device), x)


def scales(moments: Any, managed: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """By what each weight's utility is multiplied; see :func:`fcbp.weights.update_utility`.

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
