"""Reset of the rest that belongs to replaced units: an optimiser's moments, and running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp import tree
from fcbp.cbp.matching import Moment, Owners, axes_of, match, misfit, place_in, shape_of, tensors_of
from fcbp.cbp.state import Params, Replaced, check_by_group, check_groups
from fcbp.checks import arguments
from fcbp.concrete import is_nothing
from fcbp.kinds import Finite, PyTree, Tensors
from fcbp.tree import Path
from fcbp.units import UnitGroup
from fcbp.units.group import Slice, put, update

__all__ = ["Fresh", "fresh_value", "reset_buffers", "reset_moments"]

Plan = tuple[tuple[Path, tuple[tuple[str, Slice], ...]], ...]
MOST_PLANS = 64

Fresh = Finite | Tensor | Callable[[Path, Tensor], float | Tensor] | Tensors
"""New value of an entry: a number, a function ``(path, leaf) -> number or tensor like leaf``, or a pytree like the
optimiser's state."""


@arguments
@torch.no_grad()
def reset_moments(
    opt_state: PyTree,
    replaced: Replaced,
    *,
    units: Iterable[UnitGroup],
    params: Params | None = None,
    fresh: Fresh = 0.0,
) -> PyTree:
    """Reset an optimiser's memory of the replaced units' weights: moments and per-element step counts.

    Every tensor shaped like a parameter under that parameter's name is reset, wherever it lies: in subtrees shaped like
    ``params`` or like a part of it (``{"muon": weights, "adam": biases}``, one optimiser a layer, ``None`` for what is
    frozen), or in a container in the parameter's place (``{name: {"exp_avg": ...}}``). Of a factored moment, a row and
    a column in place of a matrix, the replaced units' entries are reset. A number for a whole tensor, such as a count,
    belongs to other units as well and stays.

    Args:
        opt_state: a pytree; those of :mod:`fcbp.optim`, or any that holds tensors under the parameters' names.
        replaced: the masks that :func:`select_and_reset` returned.
        units: the groups.
        params: the parameters, of which the shapes are read; without them they are taken from the state.
        fresh: the new value of a reset entry: a number, for floating-point tensors (counts become 0); a function
            ``(path, leaf) -> number or tensor like leaf`` of a tensor's path in the state; or a pytree like
            ``opt_state``, such as ``optimizer.init(params)``.

    Returns:
        ``opt_state`` with those entries reset.

    Raises:
        ValueError: ``opt_state`` is no pytree of tensors; a tensor under a parameter's name has another shape, as from
            before a layer grew; a parameter's name is missing, and a tensor that may be its lies elsewhere;
            ``replaced`` or ``fresh`` lacks something.

    Example:
        >>> import torch, fcbp
        >>> units = (fcbp.UnitGroup("h", 3, (fcbp.Slice(("w",), 0),), (), (), ()),)
        >>> opt_state = {"w": {"exp_avg": torch.ones(3, 2), "step": torch.tensor(7.0)}}
        >>> reset_moments(opt_state, {"h": torch.tensor([True, False, False])}, units=units)
        {'w': {'exp_avg': tensor([[0., 0.], [1., 1.], [1., 1.]]), 'step': tensor(7.)}}
    """
    units = check_groups(units)
    check_by_group("replaced", replaced, units)
    plan = _kept_plan(opt_state, units, params)
    if is_nothing(replaced):
        return opt_state
    new: dict[Path, Tensor] = {}
    for path, slices in plan:
        leaf = tree.get(opt_state, path)
        value = fresh_value(fresh, path, leaf)
        for name, s in slices:
            leaf = put(leaf, s, replaced[name], value)
        new[path] = leaf
    return tree.replace(opt_state, new)


@arguments
@torch.no_grad()
def reset_buffers(
    buffers: Mapping[str, Tensor], replaced: Replaced, *, units: Iterable[UnitGroup]
) -> dict[str, Tensor]:
    """Set running means of the replaced units to 0, and running variances to 1.

    Args:
        buffers: a pytree of buffers, such as ``dict(model.named_buffers())``.
        replaced: the masks that :func:`select_and_reset` returned.
        units: the groups.

    Raises:
        ValueError: ``buffers`` lacks a running mean or variance that a group names; ``replaced`` lacks a group.
    """
    units = check_groups(units)
    check_by_group("replaced", replaced, units)
    for group in units:
        for s in group.buffer_slices():
            if not _holds(buffers, s):
                raise ValueError(f"buffers has no {tree.show(s.path)}, a running statistic of group {group.name!r}")
    new: dict[str, Tensor] = update(
        buffers, units, lambda g, s, leaf: put(leaf, s, replaced[g.name], 0.0), "running_mean"
    )
    new = update(new, units, lambda g, s, leaf: put(leaf, s, replaced[g.name], 1.0), "running_var")
    return dict(new)


# --- parts ----------------------------------------------------------------------------------------------


_plans: dict[Any, Plan] = {}


def _kept_plan(opt_state: Any, units: tuple[UnitGroup, ...], params: Params | None) -> Plan:
    """:func:`_plan`, kept by everything that it is made of: an eager loop asks for it at every step."""
    if torch.compiler.is_compiling():
        return _plan(opt_state, units, params)
    parts: list[Any] = [units]
    both: list[Any] = [opt_state, params]
    for part in both:
        leaves, spec = optree.tree_flatten(part)
        parts += [spec, tuple(leaf.shape if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves)]
    key = tuple(parts)
    if key not in _plans:
        plan = _plan(opt_state, units, params)
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        _plans[key] = plan
    return _plans[key]


def _plan(opt_state: Any, units: tuple[UnitGroup, ...], params: Params | None) -> Plan:
    """Return the tensors of the state that belong to units, each with the slices of it that do, by the group's name."""
    owners: Owners = {}
    for group in units:
        for s in group.parameter_slices():
            owners.setdefault(s.path, []).append((group, s))
    moments, strangers = match(opt_state, [*owners, *_others(params, owners)])
    moments = [moment for moment in moments if moment.parameter in owners]
    shapes = {path: shape_of(path, slices, moments, params) for path, slices in owners.items()}
    _check_missing(owners, moments, strangers)
    plan = []
    for moment in moments:
        shape = shapes[moment.parameter]
        axes = axes_of(moment, shape)
        own = [(group.name, s, axes.get(s.axis % max(len(shape), 1))) for group, s in owners[moment.parameter]]
        plan.append((moment.path, tuple((name, replace(s, axis=axis)) for name, s, axis in own if axis is not None)))
    return tuple((path, slices) for path, slices in plan if slices)


def fresh_value(fresh: Fresh, path: Path, leaf: Tensor) -> float | Tensor:
    """Return the new values of the reset entries of a tensor of the state.

    Raises:
        ValueError: ``fresh`` has nothing for the tensor, or something of another shape.
    """
    if callable(fresh):
        value = fresh(path, leaf)
    elif isinstance(fresh, (int, float, Tensor)) and not (isinstance(fresh, Tensor) and fresh.ndim):
        return fresh if leaf.is_floating_point() else 0
    else:
        try:
            value = tree.get(fresh, path)
        except KeyError:
            raise ValueError(f"fresh has nothing at {tree.show(path)}; expected a pytree like opt_state") from None
    if isinstance(value, Tensor):
        if value.shape not in ((), leaf.shape):
            raise ValueError(
                f"fresh has shape {tuple(value.shape)} at {tree.show(path)}; expected {tuple(leaf.shape)}, as there"
            )
        return value.to(leaf.dtype)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"fresh has {value!r} at {tree.show(path)}; expected a number or a tensor")
    return value


def _others(params: Params | None, owners: Owners) -> list[Path]:
    """Return the parameters that are no group's: known, their moments are not taken for another's."""
    if params is None:
        return []
    owned = {place_in(params, path) for path in owners}
    return [path for path, _ in tensors_of(params, argument="params") if path not in owned]


def _check_missing(owners: Owners, moments: list[Moment], strangers: list[tuple[Path, Tensor]]) -> None:
    """Check that no tensor without a parameter's name may be the moment of a parameter that has none."""
    named = {moment.parameter for moment in moments}
    for path, slices in owners.items():
        fits = [(where, leaf) for where, leaf in strangers if leaf.numel() > 1 and not misfit(leaf.shape, slices)]
        if path not in named and (fits or (strangers and not named)):
            where, leaf = (fits or strangers)[0]
            if not leaf.ndim:
                continue
            raise ValueError(
                f"opt_state has nothing by the name of {tree.show(path)}, and {tree.show(where)} of shape "
                f"{tuple(leaf.shape)} by no parameter's name; expected every moment under its parameter's name: "
                f"subtrees shaped like params, or {{name: {{'exp_avg': ...}}}}"
            )


def _holds(node: Any, s: Slice) -> bool:
    try:
        return isinstance(tree.get(node, s.path), Tensor)
    except KeyError:
        return False
