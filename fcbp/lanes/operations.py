"""The table of operations: torch's name of each, and the function that lowers it.

``pointwise``, ``shapes``, ``reductions`` and ``indexing`` enter their operations with the decorator :func:`operation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

__all__ = ["OPERATIONS", "Lowering", "Out", "operation"]


@dataclass(frozen=True)
class Out:
    """The shape and the dtype that a traced operation returns."""

    shape: tuple[int, ...]
    dtype: torch.dtype


Lowering = Callable[..., Any]
"""``(builder, out, *args, **kwargs) -> Node``: ``out`` holds the result's shape and dtype, tensors come as nodes."""

OPERATIONS: dict[str, Lowering] = {}
"""By name of the ATen operator, whatever its overload."""


AnyLowering = TypeVar("AnyLowering", bound=Lowering)


def operation(*names: str) -> Callable[[AnyLowering], AnyLowering]:
    """Enter a lowering in the table, under each of the names."""

    def enter(lowering: AnyLowering) -> AnyLowering:
        for name in names:
            OPERATIONS[name] = lowering
        return lowering

    return enter
