"""Copies of modules whose attributes may hold any tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["copied"]


class _Detached(TorchFunctionMode):
    """A mode in which copies of tensors have no history; torch refuses to copy tensors that have one."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            x, memo = args
            if id(x) not in memo:
                memo[id(x)] = x.detach().clone()
            return memo[id(x)]
        return func(*args, **(kwargs or {}))


def copied(model: nn.Module, memo: dict[int, Any], caller: str, method: str = "forward") -> nn.Module:
    """Copy a module.

    Tensors that a forward left in attributes (cached features, an auxiliary loss) are copied without their history.

    Args:
        model: the module.
        memo: tensors to put in place of the model's, by the ``id`` of these.
        caller: the function that error messages name.
        method: the method that is the copy's forward.

    Raises:
        ValueError: a part of the model is compiled by ``torch.jit``, or cannot be copied; there is no such method.
    """
    if not isinstance(method, str) or not callable(getattr(model, method, None)):
        raise ValueError(f"{caller}: method is {method!r}; expected the name of a method of {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            where = f"its part {name!r}" if name else "the model"
            raise ValueError(
                f"{caller}: {where} is a torch.jit module, whose forward cannot be watched or copied; expected the "
                "module as it was before torch.jit.script or torch.jit.trace"
            )
    try:
        with _Detached():
            replica = copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(
            f"{caller}: the model cannot be copied because of {_culprit(model)}: {type(error).__name__}: {error}. "
            "Expected attributes that copy.deepcopy copies: set it to None before the call"
        ) from error
    if method != "forward":
        replica.forward = getattr(replica, method)
    return replica


def _culprit(model: nn.Module) -> str:
    """Name the attribute that cannot be copied."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                with _Detached():
                    copy.deepcopy(value)
            except Exception:
                return f"its attribute {f'{path}.{name}' if path else name!r}"
    return "a parameter or buffer"
