"""What every stream is: ``init`` and ``sample``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Stream"]


class Stream(NamedTuple):
    """A non-stationary problem as a pair of pure functions; ``vmap`` them for a population."""

    init: Callable[[Tensor], Any]
    """``init(key) -> state``"""
    sample: Callable[[Any, int], tuple[Any, tuple[Tensor, ...]]]
    """``sample(state, length) -> (state, (inputs, targets))``: the next ``length`` batches, on a leading axis. A run
    cut into pieces of any lengths is the same run. Where a stream tells its tasks apart, a third entry ``(length,)``,
    bool, is true where a new task begins."""
