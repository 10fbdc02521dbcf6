"""Checks of groups against the parameters, buffers and activations that they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import optree
from torch import Tensor

from fcbp import tree
from fcbp.checks import arguments
from fcbp.kinds import PyTree
from fcbp.tree import Path
from fcbp.units.group import FRESH, Slice, UnitGroup

__all__ = ["check_features", "check_units"]


def _check_slice(group: UnitGroup, role: str, s: Slice, params: Any) -> None:
    """Check one slice of a group against the leaf that it names."""
    where = f"units: group {group.name!r}, {role}: {s}"
    try:
        leaf = tree.get(params, s.path)
    except KeyError:
        leaf = None
    if not isinstance(leaf, Tensor):
        raise ValueError(f"{where} names no leaf; expected a path to a tensor such as {_some_paths(params)} of params")
    if not leaf.is_floating_point():
        raise ValueError(f"{where} names a leaf of dtype {leaf.dtype}; expected a floating-point tensor")
    if not -leaf.ndim <= s.axis < leaf.ndim:
        raise ValueError(
            f"{where} has axis {s.axis}; expected one of the {leaf.ndim} axes of a leaf {tuple(leaf.shape)}"
        )
    if s.block < 1:
        raise ValueError(f"{where} has block {s.block}; expected 1 or more entries a unit")
    if s.listed and (len(s.listed) != group.size or len({len(unit) for unit in s.listed}) > 1 or not s.listed[0]):
        raise ValueError(f"{where} lists {s.listed}; expected a tuple for each of {group.size} units, of equal lengths")
    entries = [entry for unit in s.entries(group.size) for entry in unit]
    length = leaf.shape[s.axis]
    if min(entries) < 0 or max(entries) >= length:
        raise ValueError(
            f"{where}: sizes disagree: {group.size} units reach entries {min(entries)} to {max(entries)}; expected "
            f"entries within 0 to {length - 1} on axis {s.axis} of a leaf {tuple(leaf.shape)}"
        )
    if len(set(entries)) != len(entries):
        raise ValueError(f"{where} gives one entry to two units; expected disjoint entries")


def _some_paths(params: Any) -> str:
    """List the first paths of a pytree for a message."""
    return ", ".join(map(str, optree.tree_paths(params)[:4]))


@arguments
def check_units(units: Iterable[UnitGroup], params: PyTree, buffers: Mapping[str, Tensor] | None = None) -> None:
    """Check groups against the parameters (and buffers) that they name.

    Args:
        units: the groups.
        params: the parameters, a pytree.
        buffers: the buffers by name; without them, the groups' buffers are not checked.

    Raises:
        ValueError: a group names a missing leaf or an axis out of range, its sizes disagree, a leaf is not
            floating-point, or groups overlap: two of their slices name one entry, both to make or both to read units.
    """
    units = tuple(units)
    for group in units:
        if not isinstance(group, UnitGroup):
            raise ValueError(f"units holds {group!r}; expected UnitGroup")
    for name, count in Counter(g.name for g in units).items():
        if count > 1:
            raise ValueError(f"units: {count} groups are called {name!r}; expected distinct names")
    owners: dict[tuple[str, Path, int], dict[int, tuple[str, str, int]]] = {}
    for group in units:
        if group.size < 1 or not (group.incoming or group.outgoing):
            raise ValueError(
                f"units: group {group.name!r} has size {group.size}, {len(group.incoming)} incoming and "
                f"{len(group.outgoing)} outgoing slices; expected at least one unit and one slice"
            )
        if len(group.outgoing_bias) != len(group.outgoing):
            raise ValueError(
                f"units: group {group.name!r} has {len(group.outgoing_bias)} outgoing_bias for "
                f"{len(group.outgoing)} outgoing slices; expected one (or None) each"
            )
        for number, (role, s, holder) in enumerate(_slices(group, params, buffers)):
            _check_slice(group, role, s, holder)
            axis = s.axis % tree.get(holder, s.path).ndim
            taken = owners.setdefault((_side(role), s.path, axis), {})
            for entry in (e for unit in s.entries(group.size) for e in unit):
                first = taken.setdefault(entry, (group.name, role, number))
                if first != (group.name, role, number):
                    both = " and ".join(f"group {name!r} ({r})" for name, r in (first[:2], (group.name, role)))
                    raise ValueError(
                        f"units overlap: {both} own entry {entry} of axis {axis} of {tree.show(s.path)}; expected "
                        "groups and slices without an entry in common"
                    )
        for s, path in zip(group.outgoing, group.outgoing_bias, strict=True):
            if path is not None:
                _check_outgoing_bias(group, s, path, params)
    for group in units:
        for role, s, holder in _slices(group, params, buffers):
            leaf = tree.get(holder, s.path)
            taken = owners[_side(role), s.path, s.axis % leaf.ndim]
            if s.start == 0 and not s.partial and len(taken) != leaf.shape[s.axis]:
                raise ValueError(
                    f"units: group {group.name!r}, {role}: sizes disagree: {group.size} units, but axis {s.axis} of "
                    f"{tree.show(s.path)} {tuple(leaf.shape)} has {leaf.shape[s.axis]} entries; expected equal "
                    "sizes (or partial=True in the Slice, where the rest of the axis is no unit's)"
                )


def _side(role: str) -> Literal["makes", "reads", "buffers"]:
    """Say whether the slices of a role make units or read them, or lie in buffers; within a side none overlap."""
    if role in ("running_mean", "running_var"):
        return "buffers"
    return "reads" if role in ("outgoing", "direction") else "makes"


def _slices(group: UnitGroup, params: Any, buffers: Mapping[str, Tensor] | None) -> Iterable[tuple[str, Slice, Any]]:
    """Yield the slices of a group, each with its role and the tree that it lies in."""
    for role in ("incoming", "outgoing", "direction", *FRESH):
        yield from ((role, s, params) for s in getattr(group, role))
    if buffers is not None:
        for role in ("running_mean", "running_var"):
            yield from ((role, s, buffers) for s in getattr(group, role))


def _outputs(s: Slice, weight: Tensor) -> tuple[int, ...]:
    """Return the shape of a consumer's outputs: the first axis of its weight other than the one that reads units."""
    return weight.movedim(s.axis, -1).shape[:-1][:1]


def _check_outgoing_bias(group: UnitGroup, s: Slice, path: Path, params: Any) -> None:
    """Check one entry of ``outgoing_bias`` against the weight that it belongs to."""
    where = f"units: group {group.name!r}, outgoing_bias {tree.show(path)}"
    try:
        bias = tree.get(params, path)
    except KeyError:
        bias = None
    if not isinstance(bias, Tensor):
        raise ValueError(f"{where} names no leaf; expected a path to a tensor such as {_some_paths(params)} of params")
    weight = tree.get(params, s.path)
    if tuple(bias.shape) != _outputs(s, weight):
        raise ValueError(
            f"{where} has shape {tuple(bias.shape)}; expected {tuple(_outputs(s, weight))}, "
            f"one entry for each output of {tree.show(s.path)} {tuple(weight.shape)}"
        )


@arguments
def check_features(units: Iterable[UnitGroup], features: Mapping[str, Tensor]) -> None:
    """Check that ``features`` holds every group's activation with its unit axis in place.

    Args:
        units: the groups.
        features: activations by group name, as ``forward_with_features`` returns them.

    Raises:
        ValueError: a group's activation is missing, or its unit axis does not match the group.
    """
    for group in units:
        if group.name not in features:
            raise ValueError(
                f"features has no entry for group {group.name!r}; expected one tensor a group, found {sorted(features)}"
            )
        h = features[group.name]
        axis = group.activation_axis
        if not -h.ndim <= axis < h.ndim or h.shape[axis] not in unit_axis_sizes(group):
            sizes = " or ".join(map(str, sorted(unit_axis_sizes(group))))
            raise ValueError(
                f"features[{group.name!r}] has shape {tuple(h.shape)}; expected {sizes} entries on its unit axis {axis}"
            )


def unit_axis_sizes(group: UnitGroup) -> set[int]:
    """Return the lengths that the unit axis of the activation may have: units, or units times flattened positions."""
    return {group.size} | {group.size * s.count for s in group.outgoing}
