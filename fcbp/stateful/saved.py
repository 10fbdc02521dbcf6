"""Checks of a saved state against the method and the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fcbp.kinds import PyTree

__all__ = ["FORMAT", "check_saved", "leaves_by_name"]

FORMAT = 1
"""Version of the saved state, raised with every change of it."""


def leaves_by_name(tree: PyTree, prefix: str = "") -> dict[str, Tensor]:
    """Return a pytree's tensors by the names of keys, fields and places that lead to them.

    Example:
        >>> import torch, fcbp
        >>> list(leaves_by_name(fcbp.optim.SGDState({"0.weight": torch.zeros(2)})))
        ['momentum/0.weight']
    """
    if isinstance(tree, Tensor):
        return {prefix: tree}
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    entries = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    found: dict[str, Tensor] = {}
    for name, child in entries:
        found |= leaves_by_name(child, f"{prefix}/{name}" if prefix else str(name))
    return found


def check_saved(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Check a saved state against one's own.

    Raises:
        ValueError: something is missing, or the state is of another method or network.
    """
    for key in own:
        if key not in state:
            raise ValueError(f"state has no {key!r}; expected what ContinualBackprop.state_dict() gave")
    for key, kind in (("format", "version of fcbp"), ("method", "method"), ("units", "network")):
        if state[key] != own[key]:
            raise ValueError(f"state has {key} {state[key]!r}; expected {own[key]!r}: it is of another {kind}")
    for key in ("state", "replaced"):
        found, expected = _shapes(state[key]), _shapes(own[key])
        for name in [*expected, *found]:
            if found.get(name) != expected.get(name):
                raise ValueError(
                    f"state[{key!r}] has shape {found.get(name)} for {name!r}; expected {expected.get(name)}: it is of "
                    "another network"
                )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in tensors.items()}
