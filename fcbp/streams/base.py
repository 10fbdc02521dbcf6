"""What every stream is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["Stream"]


class Stream(NamedTuple):
    """A non-stationary problem as pure functions; ``vmap`` them for a population."""

    init: Callable[[Tensor], Any]
    """``init(key) -> state``"""
    sample: Callable[[Any, int], tuple[Any, tuple[Tensor, ...]]]
    """``sample(state, length) -> (state, (inputs, targets))``: the next ``length`` batches, on a leading axis. A run
    cut into pieces of any lengths is the same run. Where a stream tells its tasks apart, a third entry ``(length,)``,
    bool, is true where a new task begins."""
    window: Callable[[Any, int], Any]
    """``window(state, length) -> window``: what the next ``length`` batches are made of, which takes little memory."""
    at: Callable[[Any, Tensor], tuple[Tensor, ...]]
    """``at(window, index) -> (inputs, targets)``: the batches with these numbers, counted from 0: what ``sample`` gives
    at once, made in the loop that learns from them."""
    skip: Callable[[Any, int], Any]
    """``skip(state, length) -> state``: the state after ``length`` batches."""
