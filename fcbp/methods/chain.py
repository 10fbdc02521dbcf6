"""Several methods as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import optree
from jaxtyping import Int64
from torch import Tensor

from fcbp import random
from fcbp.methods.base import Method
from fcbp.units import UnitGroup

__all__ = ["chain"]


def chain(*methods: Method) -> Method:
    """Apply methods one after the other, to the gradients and after the optimiser's step.

    State and ``hyper`` are tuples, one entry a method; ``info`` says what any of them reset.

    Raises:
        ValueError: there are no methods, or ``hyper`` has not an entry for each.

    Example:
        >>> import fcbp
        >>> both = fcbp.methods.chain(fcbp.methods.cbp(), fcbp.methods.cbp("weight"))
        >>> hyper = (fcbp.Hyperparams(replacement_rate=1e-3), fcbp.Hyperparams())
    """
    if not methods:
        raise ValueError("methods is (); expected at least one")

    def each(hyper: Any) -> Iterable[tuple[int, Method, Any]]:
        if not isinstance(hyper, (tuple, list)) or hasattr(hyper, "_fields") or len(hyper) != len(methods):
            raise ValueError(f"hyper is {hyper!r}; expected a tuple of {len(methods)}, one for each method")
        return ((i, method, hyper[i]) for i, method in enumerate(methods))

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> tuple[Any, ...]:
        units, keys = tuple(units), random.split(key, len(methods)).unbind()
        return tuple(method.init(units, params, own) for method, own in zip(methods, keys, strict=True))

    def adjust(
        state: tuple[Any, ...], grads: Any, params: Any, *, hyper: Any, **given: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        new = list(state)
        for i, method, own in each(hyper):
            grads, new[i] = method.adjust(new[i], grads, params, hyper=own, **given)
        return grads, tuple(new)

    def update(
        state: tuple[Any, ...], params: Any, opt_state: Any, buffers: Any, *, hyper: Any, **given: Any
    ) -> tuple[Any, Any, Any, tuple[Any, ...], dict[str, Any]]:
        new = list(state)
        info: dict[str, Any] = {}
        for i, method, own in each(hyper):
            params, opt_state, buffers, new[i], done = method.update(
                new[i], params, opt_state, buffers, hyper=own, **given
            )
            info["replaced"] = _either(info.get("replaced", {}), done["replaced"])
            if "reset_weights" in done:
                masks = done["reset_weights"]
                earlier = info.get("reset_weights")
                info["reset_weights"] = masks if earlier is None else optree.tree_map(_or, earlier, masks)
        return params, opt_state, buffers, tuple(new), info

    return Method(init, update, adjust)


def _or(a: Tensor, b: Tensor) -> Tensor:
    return a | b


def _either(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**a, **{name: _or(a[name], mask) if name in a else mask for name, mask in b.items()}}
