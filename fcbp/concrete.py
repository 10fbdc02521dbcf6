"""Tests of whether a tensor's values can be read now: not while vmapped, traced or compiled, nor on a device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

__all__ = ["is_concrete", "is_nothing", "is_plain"]


def is_concrete(*values: object) -> bool:
    """Tell whether every tensor among ``values`` holds numbers that Python may branch on.

    A function that takes a short cut then must give the same bits as without it. Numbers on a device are not read: the
    processor would wait for all that was launched before.

    Example:
        >>> is_concrete(torch.ones(2), 0.5)
        True
        >>> torch.vmap(lambda x: x + is_concrete(x))(torch.zeros(2))
        tensor([0., 0.])
    """
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return False
    return all(
        type(value) in (Tensor, torch.nn.Parameter)
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)
        and value.device.type == "cpu"
        for value in values
        if isinstance(value, Tensor)
    )


def is_nothing(masks: Mapping[str, Tensor]) -> bool:
    """Tell whether it is known that every mask is false, and so every number 0."""
    return is_concrete(*masks.values()) and not any(bool(mask.any()) for mask in masks.values())


def is_plain() -> bool:
    """Tell whether nothing at all is vmapped, differentiated, traced or compiled here.

    Example:
        >>> is_plain()
        True
        >>> torch.vmap(lambda x: x + is_plain())(torch.zeros(2))
        tensor([0., 0.])
    """
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return False
    return torch._C._functorch.peek_interpreter_stack() is None
