"""The forward pass as a pure function that also returns every group's activation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.units.expose import expose
from fcbp.units.group import UnitGroup, unit_axis_sizes

__all__ = ["forward_with_features"]

Forward = Callable[..., tuple[Any, dict[str, Float[Tensor, "..."]], dict[str, Tensor]]]


def forward_with_features(model: nn.Module, units: Iterable[UnitGroup]) -> Forward:
    """``model`` as a pure function ``(params, buffers, *inputs) -> (output, features, buffers)``.

    ``features`` holds by group name what the group's consumer reads: the input of the module that the group's
    ``activation`` names, after activation, norm and pooling. ``buffers`` come back new. ``model`` itself is copied and
    never touched; the copy has no parameters of its own to train.

    Args:
        model: any module; its ``training`` flags are kept as they are now.
        units: groups whose ``activation`` names a module of ``model``.

    Raises:
        ValueError: a group's ``activation`` names no module of ``model``.

    Example:
        >>> import torch, fcbp
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
        >>> forward = fcbp.forward_with_features(model, fcbp.find_units(model, torch.zeros(1, 20)))
        >>> output, features, buffers = forward(dict(model.named_parameters()), {}, torch.ones(8, 20))
        >>> features["0"].shape
        torch.Size([8, 5])
    """
    units = tuple(units)
    modules = dict(model.named_modules())
    for group in units:
        if group.activation not in modules:
            raise ValueError(
                f"units: group {group.name!r} has activation {group.activation!r}; expected the name of a module of "
                f"the model, such as {', '.join(list(modules)[1:5])}"
            )
    model = copy.deepcopy(model)
    expose(model)
    read: dict[str, list[Tensor]] = {}

    def reader(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            read.setdefault(name, []).append(inputs[0])

        return hook

    for name in {group.activation: None for group in units}:
        model.get_submodule(name).register_forward_pre_hook(reader(name))

    def forward(
        params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], *inputs: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
        # Batch norm writes its running statistics in place: into copies, then, and not into the caller's.
        buffers = {name: buffer.clone() for name, buffer in buffers.items()}
        try:
            output = torch.func.functional_call(model, (dict(params), buffers), inputs, kwargs)
            features = {group.name: _group_activation(group, read[group.activation]) for group in units}
        finally:
            read.clear()
        return output, features, buffers

    return forward


def _group_activation(group: UnitGroup, calls: list[Tensor]) -> Tensor:
    axis = group.activation_axis
    if len(calls) == 1:
        h = calls[0]
    else:  # every call of a shared module is a further sample
        h = torch.cat([call.movedim(axis, -1).flatten(0, -2) for call in calls]).movedim(-1, axis)
    if h.shape[axis] in unit_axis_sizes(group):
        return h
    # The consumer reads other units too (a concatenation): the group's own part, in the consumer's order.
    s = next(s for s in group.outgoing if s.path[0] in (f"{group.activation}.weight", group.activation))
    entries = sorted(entry for unit in s.entries(group.size) for entry in unit)
    if entries[-1] - entries[0] == len(entries) - 1:
        return h.narrow(axis, entries[0], len(entries))
    own = h.index_select(axis, torch.tensor(s.entries(group.size), device=h.device).flatten())
    # Units between others: each unit's entries become samples.
    return own.movedim(axis, -1).unflatten(-1, (group.size, s.block)).movedim(-2, axis)
