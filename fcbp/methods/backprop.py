"""Plain backpropagation: the method that does nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from fcbp.methods.base import Method
from fcbp.units import UnitGroup

__all__ = ["backprop"]


def backprop() -> Method:
    """Leave parameters, optimiser state and buffers as the optimiser made them."""

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> tuple[()]:
        return ()

    def update(
        state: tuple[()], params: Any, opt_state: Any, buffers: Any, **_: Any
    ) -> tuple[Any, Any, Any, tuple[()], dict[str, Any]]:
        return params, opt_state, buffers, state, {"replaced": {}}

    return Method(init, update)
