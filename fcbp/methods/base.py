"""What every method is: ``init`` and ``update``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Method"]


class Method(NamedTuple):
    """A pair of pure functions, called by the learner once before the first step and after every optimiser step."""

    init: Callable[..., Any]
    """``init(units, params, key) -> state``"""
    update: Callable[..., tuple[Any, Any, Any, Any, dict[str, Any]]]
    """``update(state, params, opt_state, buffers, *, units, grads, features, hyper)
    -> (params, opt_state, buffers, state, info)``; ``info["replaced"]`` maps group names to masks ``(units,)``."""
