"""Checks of the arguments of optimisers, schedules and the clipping of gradients."""

from __future__ import annotations

import math
import numbers
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp import tree
from fcbp.kinds import PyTree

__all__ = ["Number", "check_floats", "check_like", "check_number", "check_state"]

Number = float | Tensor


def check_number(
    name: str, value: object, *, least: float = 0.0, below: float = math.inf, infinite: bool = False
) -> None:
    """Check a number: plain, from ``least`` up to, without, ``below``; or a 0-d tensor, whose value is not read.

    Args:
        name: the argument.
        value: its value.
        least: the least it may be.
        below: what it is below.
        infinite: whether infinity is allowed too: a bound that bounds nothing.

    Raises:
        ValueError: it is neither.
    """
    words = f"a number, {least:g} or more" if below == math.inf else f"a number in [{least:g}, {below:g})"
    if isinstance(value, Tensor):
        if value.ndim or value.is_complex():
            raise ValueError(
                f"{name} is a tensor {tuple(value.shape)} of {value.dtype}; expected {words}, or a 0-d tensor (vmap it)"
            )
    elif (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not (least <= value < below or (infinite and value == math.inf))  # type: ignore[operator]
    ):
        raise ValueError(f"{name} is {value!r}; expected {words}")


def check_floats(name: str, given: PyTree) -> None:
    """Check that a pytree holds floating-point tensors alone.

    Raises:
        ValueError: it holds something else.
    """
    for path, leaf in zip(optree.tree_paths(given), optree.tree_leaves(given), strict=True):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            kind = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ValueError(f"{name} holds {kind} at {tree.show(path)}; expected floating-point tensors")


def check_state(opt_state: PyTree, kind: type) -> None:
    """Check that an optimiser is given a state of its own kind.

    Raises:
        ValueError: it is given another.
    """
    if not isinstance(opt_state, kind):
        words = type(opt_state).__name__ if hasattr(opt_state, "_fields") else repr(opt_state)
        raise ValueError(f"opt_state is {words}; expected {kind.__name__}, as init makes it")


def check_like(name: str, given: PyTree, params: PyTree, *, dtype: torch.dtype | None = None) -> None:
    """Check that a pytree has the structure, the shapes and the dtypes of ``params``.

    Args:
        name: the pytree's name in a message.
        given: the pytree.
        params: the parameters.
        dtype: another dtype than the parameters', of all leaves.

    Raises:
        ValueError: it differs; the message names the leaf.
    """
    leaves, spec = optree.tree_flatten(params)
    try:
        others = spec.flatten_up_to(given)
    except ValueError:
        raise ValueError(f"{name} has not the structure of params: {_difference(given, params)}") from None
    for i, (leaf, other) in enumerate(zip(leaves, others, strict=True)):
        expected = dtype or leaf.dtype
        if not isinstance(other, Tensor) or other.shape != leaf.shape or other.dtype != expected:
            words = f"{tuple(other.shape)} of {other.dtype}" if isinstance(other, Tensor) else type(other).__name__
            raise ValueError(
                f"{name} holds {words} at {tree.show(optree.tree_paths(params)[i]) or 'its root'}; expected "
                f"{tuple(leaf.shape)} of {expected}, as params"
            )


def _difference(given: Any, params: Any) -> str:
    """Return the leaves that only one of two pytrees has, in words."""
    there, expected = (
        {tree.show(path) or "the root": None for path in optree.tree_paths(one, none_is_leaf=True)}
        for one in (given, params)
    )
    lacking = [name for name in expected if name not in there]
    more = [name for name in there if name not in expected]
    if not lacking and not more:
        return f"expected {optree.tree_structure(params)}"
    parts = [f"{', '.join(some[:5])} {word}" for some, word in ((lacking, "missing"), (more, "too many")) if some]
    return "; ".join(parts)
