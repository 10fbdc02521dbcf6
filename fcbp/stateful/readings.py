"""The groups' activations in training forwards, collected by hooks."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.hooks import RemovableHandle

from fcbp.units import UnitGroup
from fcbp.units.checks import unit_axis_sizes
from fcbp.units.expose import expose
from fcbp.units.features import _group_activation, _samples
from fcbp.units.reads import Reads

__all__ = ["Readings", "laid", "moments"]

Key = tuple[str, int]
"""The place where a group is read: the name of a module or a parameter, and the unit axis there."""


class Hook:
    """A module's hook. A copy or a pickle of the model has an inert one in its place, so that a copy is not read."""

    def __init__(self, call: Any):
        self.call = call

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Inert:
        return Inert()

    def __reduce__(self) -> tuple[type[Inert], tuple[()]]:
        return Inert, ()


class Inert:
    """A hook that does nothing."""

    def __call__(self, *args: Any) -> None:
        return None


class Attention:
    """The forward of an ``nn.MultiheadAttention`` that calls its output projection as a module, for that to be read.

    A copy or a pickle of the module has its own forward again.
    """

    def __init__(self, module: nn.MultiheadAttention):
        self.module = module
        expose(module)
        self.call = module.forward
        module.forward = self  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return types.MethodType(type(self.module).forward, memo.get(id(self.module), self.module))

    def __reduce__(self) -> tuple[Any, tuple[Any, str]]:
        return getattr, (self.module, "forward")

    def remove(self) -> None:
        """Give the module its own forward back."""
        self.module.__dict__.pop("forward", None)


class Readings:
    """The activations of training forwards since the last step.

    A forward counts where the model is in ``train()`` mode and gradients are enabled. Several forwards are averaged.
    A forward that activation checkpointing repeats in the backward pass counts once.

    Args:
        model: the module whose forward is read.
        units: the groups to read.
        by_moments: whether the method reads no more of an activation than its mean and its mean absolute value. Several
            forwards then cost no more memory than one.
    """

    def __init__(self, model: nn.Module, units: Iterable[UnitGroup], *, by_moments: bool):
        self.model, self.units, self.by_moments = model, tuple(units), by_moments
        self.keys: dict[str, Key] = {}
        self.handles: list[RemovableHandle | Attention] = []
        self.watched: dict[str, list[Key]] = {}
        modules = dict(model.named_modules())
        for group in self.units:
            self.keys[group.name] = group.activation, group.activation_axis
        keys = dict.fromkeys(self.keys.values())
        # The activations of this forward, or of all forwards where a method reads more than their moments.
        self.calls: dict[Key, list[Tensor]] = {key: [] for key in keys}
        # Sums over earlier forwards: (mean, mean absolute value), and their number.
        self.sums: dict[Key, tuple[Tensor, int]] = {}
        # The same for compiled forwards, in place, since a compiled program cannot count in Python.
        self.compiled: dict[Key, list[Tensor]] = {key: _accumulators(modules.get(key[0])) for key in keys}
        self.outside_backward: set[Key] = set()
        for key in keys:
            if key[0] in modules:
                hook = Hook(self._reader(key))
                self.handles.append(modules[key[0]].register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self.watched.setdefault(key[0], []).append(key)
        attentions = dict.fromkeys(modules[name.rpartition(".")[0]] for name, _ in keys if name in modules)
        self.handles += [
            Attention(m)
            for m in attentions
            if isinstance(m, nn.MultiheadAttention) and m.forward == types.MethodType(nn.MultiheadAttention.forward, m)
        ]
        self.reads: list[contextlib.ExitStack] = []
        self.handles.append(model.register_forward_pre_hook(Hook(self._begin), prepend=True))
        if self.watched:
            self.handles.append(model.register_forward_hook(Hook(self._end), always_call=True))

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.clear()

    def clear(self) -> None:
        """Forget the activations read so far."""
        for calls in self.calls.values():
            calls.clear()
        self.sums.clear()
        self.outside_backward.clear()
        for buffers in self.compiled.values():
            for buffer in buffers:
                buffer.zero_()

    def check(self) -> None:
        """Check that a training forward has read every group since the last step, as far as the processor knows.

        Raises:
            ValueError: none has.
        """
        missing = [name for name, key in self.keys.items() if not self._is_read(key)]
        if not missing:
            return
        shown = ", ".join(missing[:4]) + (", ..." if len(missing) > 4 else "")
        parameter = next((self.keys[name][0] for name in missing if self.keys[name][0] in self.watched), None)
        if parameter is not None and len(missing) < len(self.keys):
            raise ValueError(
                f"no training forward read {shown}: the parameter {parameter} reads units in a function, which is not "
                "seen in a compiled forward; expected the model uncompiled, or units= without the group"
            )
        raise ValueError(
            f"no training forward read {shown} since the last cbp.step(); expected one in train() mode with gradients "
            "enabled, of the model that was given. If it was compiled and called before, call torch.compiler.reset() "
            "first; a group that some forwards leave out does not belong in units="
        )

    def features(self, *, as_moments: bool = False) -> dict[str, Tensor]:
        """Return the groups' activations by name.

        Args:
            as_moments: give two samples that have the mean and the mean absolute value of all.
        """
        read: dict[Key, Tensor] = {}
        for key, calls in self.calls.items():
            if as_moments or self.sums.get(key) or self._has_compiled(key):
                read[key] = _two_samples(self._moments(key), key[1])
            else:
                read[key] = calls[0] if len(calls) == 1 else _samples(calls, key[1])
        return {group.name: _own(group, read[self.keys[group.name]]) for group in self.units}

    def _moments(self, key: Key) -> Tensor:
        total, count = self.sums.get(key, (None, 0))
        if self.calls[key]:
            own = moments(self.calls[key], key[1])
            total, count = (own if total is None else total + own), count + 1
        if not self._has_compiled(key):
            assert total is not None
            return total / count
        summed, number = self.compiled[key]
        if total is None:
            return summed / number.clamp(min=1)
        return (total + summed) / (count + number)

    def _has_compiled(self, key: Key) -> bool:
        if not self.compiled[key]:
            return False
        number = self.compiled[key][1]
        # On a device its value is not read: nothing in Python was, so a compiled forward is what is left.
        return number.item() > 0 if number.device.type == "cpu" else not self.calls[key] and not self.sums.get(key)

    def _is_read(self, key: Key) -> bool:
        return bool(self.calls[key]) or key in self.sums or self._has_compiled(key)

    # --- hooks ------------------------------------------------------------------------------------------

    def _counts(self) -> bool:
        return self.model.training and torch.is_grad_enabled()

    def _reader(self, key: Key) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._counts():
                self._take(key, args[0] if args else next(iter(kwargs.values())))

        return hook

    def _take(self, key: Key, h: Tensor) -> None:
        if torch.compiler.is_compiling():
            self._take_compiled(key, h)
            return
        if isinstance(h, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(h):
            return  # traced, or within a function's transform: no training forward
        if torch._C._current_graph_task_id() != -1:
            # In a backward pass: activation checkpointing repeats a forward. Where gradients were off the first time
            # (its reentrant form), this is the first time that counts.
            if key in self.outside_backward:
                return
        else:
            self.outside_backward.add(key)
        self.calls[key].append(h.detach())

    def _take_compiled(self, key: Key, h: Tensor) -> None:
        if not self.by_moments:
            self.calls[key].append(h.detach())
            return
        with torch.no_grad():
            own = moments([h.detach()], key[1])
            if not self.compiled[key]:
                self.compiled[key].extend([torch.zeros_like(own), own.new_zeros(())])
            summed, number = self.compiled[key]
            summed.add_(own)
            number.add_(1)

    def _begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._counts():
            return
        if self.watched and not torch.compiler.is_compiling():
            self._watch()
        if self.by_moments and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
            self._fold()

    def _fold(self) -> None:
        """Add the last forward to the sums, so that its activations can go."""
        for key, calls in self.calls.items():
            if calls:
                total, count = self.sums.get(key, (None, 0))
                own = moments(calls, key[1])
                self.sums[key] = (own if total is None else total + own), count + 1
                calls.clear()

    def _watch(self) -> None:
        def record(name: str, activation: Tensor) -> None:
            for key in self.watched.get(name, ()):
                self._take(key, activation)

        parameters: Mapping[str, Tensor] = dict(self.model.named_parameters())
        entered = contextlib.ExitStack()
        entered.enter_context(Reads(parameters, self.model.buffers(), record))
        self.reads.append(entered)

    def _end(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.reads:
            self.reads.pop().close()


def _own(group: UnitGroup, h: Tensor) -> Tensor:
    """Return a group's part of an activation."""
    try:
        return _group_activation(group, [h])
    except (StopIteration, IndexError, RuntimeError):
        sizes = " or ".join(map(str, sorted(unit_axis_sizes(group))))
        raise ValueError(
            f"the activation of group {group.name!r} has shape {tuple(h.shape)}; expected {sizes} entries on its unit "
            f"axis {group.activation_axis}: inputs of the examples' rank, whose units lie there"
        ) from None


def _accumulators(module: nn.Module | None) -> list[Tensor]:
    """Return zeros for the moments of a module's input and their number; none where its width is not known
    beforehand."""
    width = next((getattr(module, name) for name in ("in_features", "in_channels") if hasattr(module, name)), None)
    weight = getattr(module, "weight", None)
    if width is None or not isinstance(weight, Tensor):
        return []
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return [
        torch.zeros(2, width, dtype=dtype, device=weight.device),
        torch.zeros((), dtype=dtype, device=weight.device),
    ]


@torch.no_grad()
def moments(calls: list[Tensor], axis: int) -> Tensor:
    """Return the mean and the mean absolute value over whatever lies beside the unit axis, ``(2, units)``.

    Example:
        >>> moments([torch.tensor([[1.0, -2.0], [3.0, 2.0]])], -1)
        tensor([[2., 0.],
                [2., 2.]])
    """
    h = calls[0] if len(calls) == 1 else _samples(calls, axis)
    h = h.to(torch.promote_types(h.dtype, torch.float32))
    beside = [i for i in range(h.ndim) if i != axis % h.ndim]
    if not beside:
        return torch.stack([h, h.abs()])
    return torch.stack([h.mean(beside), h.abs().mean(beside)])


def _two_samples(mean_and_magnitude: Tensor, axis: int) -> Tensor:
    """Return two samples of that mean and that mean absolute value: ``mean + magnitude`` and ``mean - magnitude``."""
    mean, magnitude = mean_and_magnitude
    return laid(torch.stack([mean + magnitude, mean - magnitude]), axis)


def laid(rows: Tensor, axis: int) -> Tensor:
    """Return samples ``(samples, units)`` as an activation whose units are on ``axis``."""
    if axis < 0:
        return rows.reshape(*rows.shape, *(1,) * (-axis - 1))
    return rows.T if axis == 0 else rows.reshape(len(rows), *(1,) * (axis - 1), -1)
