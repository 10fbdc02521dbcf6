"""What else belongs to replaced units: an optimiser's moments, and running statistics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fcbp import tree
from fcbp.cbp.state import Replaced, check_by_group
from fcbp.concrete import is_nothing
from fcbp.units import UnitGroup
from fcbp.units.group import FRESH, Slice, put, update

__all__ = ["reset_buffers", "reset_moments"]


@torch.no_grad()
def reset_moments(opt_state: Any, replaced: Replaced, *, units: Iterable[UnitGroup]) -> Any:
    """Zero what an optimiser remembers of the replaced units' weights: moments and per-element step counts.

    Every subtree of ``opt_state`` shaped like ``params`` is reset, wherever it lies; a per-tensor count (a 0-d
    tensor) belongs to other units as well and stays.

    Args:
        opt_state: a pytree; those of :mod:`fcbp.optim`, or any with subtrees shaped like ``params``.
        replaced: the masks that :func:`select_and_reset` returned.
        units: the groups.

    Raises:
        ValueError: ``opt_state`` holds tensors, but no subtree shaped like ``params``; ``replaced`` lacks a group.
    """
    units = tuple(units)
    check_by_group("replaced", replaced, units)

    def zero(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        return put(leaf, s, replaced[group.name], 0) if leaf.ndim else leaf

    found = False

    def walk(node: Any) -> Any:
        nonlocal found
        if all(_holds(node, s) for group in units for s in group.parameter_slices()):
            found = True
            if is_nothing(replaced):
                return node
            return update(node, units, zero, " ".join(("incoming", "outgoing", *FRESH)))
        if not isinstance(node, (Mapping, tuple, list)):
            return node
        entries = node.keys() if isinstance(node, Mapping) else range(len(node))
        return tree.replace(node, {(entry,): walk(node[entry]) for entry in entries})

    new = walk(opt_state)
    if units and not found and _has_tensors(opt_state):
        raise ValueError(
            f"opt_state has type {type(opt_state).__name__} and no subtree that holds every leaf of the groups; "
            "expected moments shaped like params"
        )
    return new


@torch.no_grad()
def reset_buffers(buffers: Mapping[str, Tensor], replaced: Replaced, *, units: Iterable[UnitGroup]) -> Any:
    """Running means of the replaced units to 0, running variances to 1.

    Args:
        buffers: a pytree of buffers, such as ``dict(model.named_buffers())``.
        replaced: the masks that :func:`select_and_reset` returned.
        units: the groups.

    Raises:
        ValueError: ``buffers`` lacks a running mean or variance that a group names; ``replaced`` lacks a group.
    """
    units = tuple(units)
    check_by_group("replaced", replaced, units)
    for group in units:
        for s in group.buffer_slices():
            if not _holds(buffers, s):
                raise ValueError(f"buffers has no {tree.show(s.path)}, a running statistic of group {group.name!r}")
    buffers = update(buffers, units, lambda g, s, leaf: put(leaf, s, replaced[g.name], 0.0), "running_mean")
    return update(buffers, units, lambda g, s, leaf: put(leaf, s, replaced[g.name], 1.0), "running_var")


def _holds(node: Any, s: Slice) -> bool:
    try:
        return isinstance(tree.get(node, s.path), Tensor)
    except KeyError:
        return False


def _has_tensors(node: Any) -> bool:
    if isinstance(node, Mapping):
        return any(map(_has_tensors, node.values()))
    return isinstance(node, Tensor) or (isinstance(node, (tuple, list)) and any(map(_has_tensors, node)))
