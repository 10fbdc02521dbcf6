"""The forward pass as a pure function that also returns every group's activation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments
from fcbp.units.copies import copied
from fcbp.units.expose import Unfused, expose
from fcbp.units.group import Slice, UnitGroup, flattened
from fcbp.units.reads import Reads

__all__ = ["forward_with_features"]

Forward = Callable[..., tuple[Any, dict[str, Float[Tensor, "..."]], dict[str, Tensor]]]


@arguments
def forward_with_features(model: nn.Module, units: Iterable[UnitGroup], *, method: str = "forward") -> Forward:
    """``model`` as a pure function ``(params, buffers, *inputs) -> (output, features, buffers)``.

    ``features`` holds by group name what the group's consumer reads, after activation, norm and pooling: the input of
    the module that the group's ``activation`` names, or where that is a parameter, what a product, a convolution or a
    recurrent layer has it read. Several readings in one forward (the steps of a sequence) are further samples.
    ``buffers`` come back new. ``model`` itself is copied and never touched; the copy has no parameters of its own to
    train.

    Args:
        model: any module; its ``training`` flags are kept as they are now.
        units: groups whose ``activation`` names a module or a parameter of ``model``.
        method: the method that is run, for modules whose forward has another name.

    Raises:
        ValueError: a group's ``activation`` names no module and no parameter of ``model``, or nothing reads it in the
            forward; the model cannot be copied, or has no such method.

    Example:
        >>> import torch, fcbp
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
        >>> forward = fcbp.forward_with_features(model, fcbp.find_units(model, torch.zeros(1, 20)))
        >>> output, features, buffers = forward(dict(model.named_parameters()), {}, torch.ones(8, 20))
        >>> features["0"].shape
        torch.Size([8, 5])
    """
    units = tuple(units)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for group in units:
        if group.activation not in modules and group.activation not in parameters:
            raise ValueError(
                f"units: group {group.name!r} has activation {group.activation!r}; expected the name of a module of "
                f"the model, such as {', '.join(list(modules)[1:5])}, or of a parameter that reads the group"
            )
    model = copied(model, {}, "forward_with_features", method)
    expose(model)
    read: dict[str, list[Tensor]] = {group.activation: [] for group in units}

    def reader(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            read[name].append(inputs[0])

        return hook

    def record(name: str, activation: Tensor) -> None:
        if name in read:
            read[name].append(activation)

    for name in read:
        if name in modules:
            model.get_submodule(name).register_forward_pre_hook(reader(name))
    recurrent = any(isinstance(module, nn.RNNBase) for module in modules.values())
    watched = any(name in parameters for name in read)

    def forward(
        params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *inputs: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        # Batch norm writes its running statistics in place: into copies, then, and not into the caller's.
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        params = dict(params)
        if watched and torch.compiler.is_compiling():
            # A view of a view does not lead back to the first.
            params = {name: p if p._base is None else p.clone() for name, p in params.items()}
        try:
            with (
                Unfused() if recurrent else contextlib.nullcontext(),
                Reads(params, buffers.values(), record) if watched else contextlib.nullcontext(),
            ):
                output = torch.func.functional_call(model, (params, buffers), inputs, kwargs)
            features = {group.name: _group_activation(group, read[group.activation]) for group in units}
        finally:
            for calls in read.values():
                calls.clear()
        return output, features, buffers

    return forward


def _group_activation(group: UnitGroup, calls: list[Tensor]) -> Tensor:
    axis = group.activation_axis
    if not calls:
        raise ValueError(
            f"units: nothing in the forward reads group {group.name!r} at its activation {group.activation!r}; "
            "expected the name of a module that is called, or of a parameter that a product reads the group with"
        )
    h = calls[0] if len(calls) == 1 else _samples(calls, axis)
    readers = [s for s in group.outgoing if f"{s.path[0]}.".startswith(f"{group.activation}.")]
    if not readers:
        return h
    return _in_order(group, readers[0], h)


def _in_order(group: UnitGroup, s: Slice, h: Tensor) -> Tensor:
    """The group's own part of what a consumer reads through a slice, in the order of the units."""
    axis, count = group.activation_axis, h.shape[group.activation_axis]
    total, (low, high) = group.size * s.count, s.bounds(group.size)
    shift = 0
    if high >= count:
        # Written by hand: the consumer puts other units beside these by itself.
        shift, low, high = low, 0, high - low
    if high >= count:
        return h
    # The usual order is seen without a list of its entries, which would take longer than the method's arithmetic.
    if s.is_run or (s.is_run_of_blocks and flattened(group, total).is_run_of_blocks):
        return h if total == count else h.narrow(axis, low, total)
    entries = [[entry - shift for entry in unit] for unit in s.entries(group.size)]
    run = list(range(low, low + total))
    if s.count == 1:
        order = [entry for (entry,) in entries]
        if order == run:
            return h if total == count else h.narrow(axis, low, total)
        if order == run[::-1]:
            return (h if total == count else h.narrow(axis, low, total)).flip(axis)
        return h.index_select(axis, torch.tensor(order, device=h.device))
    own = [entry for unit in entries for entry in unit]
    layout = flattened(group, total)
    if sorted(own) == run and [[e - low for e in unit] for unit in entries] == layout.entries(group.size):
        return h if total == count else h.narrow(axis, low, total)
    # Units between others, or laid out as no other weight has them: each unit's entries become samples.
    part = h.index_select(axis, torch.tensor(own, device=h.device))
    return torch.unflatten(part.movedim(axis, -1), -1, (group.size, s.count)).movedim(-2, axis)


def _samples(calls: list[Tensor], axis: int) -> Tensor:
    """Several activations as one: whatever lies beside the unit axis, in whichever call, is a sample."""
    rows = torch.cat([call.movedim(axis, -1).reshape(-1, call.shape[axis]) for call in calls])
    if axis < 0:
        return rows.reshape(*rows.shape, *(1,) * (-axis - 1))
    return rows.T if axis == 0 else rows.reshape(len(rows), *(1,) * (axis - 1), -1)
