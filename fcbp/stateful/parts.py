"""The parts of a model and its optimisers that a method may change, and a check that they are still there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fcbp.units import UnitGroup

__all__ = ["Parts", "managed", "trainable", "unwrapped"]


def unwrapped(optimizer: object) -> tuple[torch.optim.Optimizer, ...]:
    """Return the optimisers of torch in one, in several, or inside of another library's.

    Raises:
        ValueError: there is none, or something else.
    """
    several = optimizer if isinstance(optimizer, Sequence) else (optimizer,)
    found = []
    for one in several:
        inner: Any = one
        while isinstance(getattr(inner, "optimizer", None), torch.optim.Optimizer):
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            raise ValueError(f"optimizer is {one!r}; expected a torch.optim.Optimizer, or several")
        found.append(inner)
    if not found:
        raise ValueError("optimizer is empty; expected a torch.optim.Optimizer, or several")
    return tuple(found)


def trainable(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> dict[str, nn.Parameter]:
    """Return the model's parameters that are trained, by name.

    Raises:
        ValueError: no optimiser has a parameter of the model, or a parameter to be trained is in none of them.
    """
    owned = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not any(id(p) in owned for p in params.values()):
        raise ValueError(
            "optimizer has no parameter of the model; expected one made of model.parameters(), after any change of the "
            "model that makes new parameters"
        )
    lacking = [name for name, p in params.items() if id(p) not in owned]
    if lacking:
        raise ValueError(
            f"optimizer lacks {', '.join(lacking[:4])}{', ...' if len(lacking) > 4 else ''}, which "
            "requires_grad; expected every optimiser of the model in a tuple, and what is not trained frozen by "
            "requires_grad_(False)"
        )
    return params


def managed(
    units: Iterable[UnitGroup], params: dict[str, nn.Parameter]
) -> tuple[tuple[UnitGroup, ...], dict[str, str]]:
    """Return the groups all of whose weights are trained; and by name why others are left out."""
    kept, left_out = [], {}
    for group in units:
        frozen = [str(s.path[0]) for s in group.parameter_slices() if str(s.path[0]) not in params]
        if frozen:
            left_out[group.name] = f"{frozen[0]} is frozen"
        else:
            biases = tuple(b if b is not None and str(b[0]) in params else None for b in group.outgoing_bias)
            kept.append(replace(group, outgoing_bias=biases))
    if left_out:
        kept = [_among_others(group) for group in kept]
    return tuple(kept), left_out


def _among_others(group: UnitGroup) -> UnitGroup:
    """Return a group whose weights may have entries on their axes that are no longer a group's."""
    fields = ("incoming", "bias", "outgoing", "norm_scale", "norm_shift", "running_mean", "running_var", "slope")
    partial: dict[str, Any] = {f: tuple(replace(s, partial=True) for s in getattr(group, f)) for f in fields}
    return replace(group, **partial)


class Parts:
    """The places of a model's parameters and buffers, for a check that they are still there.

    Args:
        model: the module.
        params: its parameters that are trained, by name.
        read: names of the modules that are read.
    """

    def __init__(self, model: nn.Module, params: dict[str, nn.Parameter], read: Iterable[str]):
        self.params = params
        self.kinds = {name: (p.device, p.dtype) for name, p in params.items()}
        self.homes = {name: _home(model, name) for name in params}
        self.buffer_homes = {name: _home(model, name) for name, _ in model.named_buffers()}
        modules = dict(model.named_modules())
        owners = [name.rpartition(".")[0] for name in params] + [name for name in read if name in modules]
        paths = {".".join(name.split(".")[: i + 1]) for name in owners for i in range(name.count(".") + 1)}
        self.modules = {path: (*_home(model, path), modules[path]) for path in sorted(paths) if path}

    def buffers(self) -> dict[str, Tensor]:
        """Return the buffers as they are now."""
        found = {name: home._buffers[leaf] for name, (home, leaf) in self.buffer_homes.items()}
        return {name: buffer for name, buffer in found.items() if buffer is not None}

    def check(self) -> None:
        """Check that the model is as it was.

        Raises:
            ValueError: a parameter or module was replaced, moved, cast or frozen.
        """
        for name, (home, leaf, module) in self.modules.items():
            if home._modules.get(leaf) is not module:
                raise _changed(f"the module {name} was replaced", "with an optimiser of the new parameters")
        for name, (home, leaf) in self.homes.items():
            p = self.params[name]
            if home._parameters.get(leaf) is not p:
                raise _changed(f"the parameter {name} was replaced", "with an optimiser of the new parameters")
            device, dtype = self.kinds[name]
            if p.device != device or p.dtype != dtype:
                raise _changed(
                    f"the parameter {name} was moved from {device}, {dtype} to {p.device}, {p.dtype}",
                    "after model.to(...), and take up its state by load_state_dict",
                )
            if not p.requires_grad:
                raise _changed(f"the parameter {name} was frozen", "after freezing")


def _changed(what: str, then: str) -> ValueError:
    return ValueError(
        f"model: {what} since ContinualBackprop was made; expected to call remove() and make a new one {then}"
    )


def _home(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, leaf = name.rpartition(".")
    return model.get_submodule(owner), leaf
