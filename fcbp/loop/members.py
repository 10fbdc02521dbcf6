"""A vmapped step over pytrees as every backend takes them: with ``None``, and with numbers among what it returns."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp.kinds import PyTree
from fcbp.loop.in_turn import Member
from fcbp.loop.tracing import check_carry

__all__ = ["check_members", "is_vmapped", "member_of", "named", "over_pytrees", "tell"]

Step = Callable[[Any, Any], tuple[Any, Any]]


def is_vmapped(step: Step) -> bool:
    """Tell whether a step is a ``torch.vmap`` of one."""
    return getattr(step, "__code__", None) is torch.vmap(lambda x: x).__code__


def _member_of(step: Step) -> Any:
    """Return one member's step and the way it is vmapped; ``None`` for a step that is no ``torch.vmap``, or one of
    another kind."""
    if not is_vmapped(step):
        return None
    from fcbp import lanes  # slow to import, and of vmapped steps alone

    try:
        return lanes.members_of(step)
    except lanes.Unsupported:
        return None


def member_of(step: Step) -> Member | None:
    """Return one member's step of a vmapped one; ``None`` of any other."""
    members = _member_of(step)
    return Member(members.step, members.shared_x) if members is not None and members.population else None


def named(step: Step) -> str:
    """Return the name of a step; of a vmapped step, the name of the function under it."""
    inner = getattr(step, "__wrapped__", step)
    return str(getattr(inner, "__qualname__", type(inner).__name__))


def tell(what: str, seconds: str) -> None:
    """Say what is about to be compiled: by the logger ``fcbp``, which writes to stderr unless told otherwise."""
    logging.getLogger("fcbp").warning("compiling %s (once; %s)", what, seconds)


def over_pytrees(step: Step) -> Step:
    """Return the same step. ``torch.vmap`` takes ``None`` for a leaf, which it cannot map; here it is an empty tree."""
    members = _member_of(step)
    if members is None:
        return step

    def run(carry: Any, x: Any) -> tuple[Any, Any]:
        leaves, spec = optree.tree_flatten(carry)
        x_leaves, x_spec = optree.tree_flatten(x)
        specs: list[optree.PyTreeSpec] = []

        def one(leaves: list[Tensor], x_leaves: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            new, y = members.step(optree.tree_unflatten(spec, leaves), optree.tree_unflatten(x_spec, x_leaves))
            check_carry(leaves, spec, new)
            y_leaves, y_spec = optree.tree_flatten(y)
            specs.append(y_spec)
            return optree.tree_leaves(new), [torch.as_tensor(leaf) for leaf in y_leaves]

        in_dims = (0, 0 if x_leaves and not members.shared_x else None)
        new, ys = torch.vmap(one, in_dims=in_dims)(leaves, x_leaves)
        return optree.tree_unflatten(spec, new), optree.tree_unflatten(specs[0], ys)

    return run


def check_members(step: Step, carry: PyTree, xs: PyTree) -> None:
    """Check that a vmapped step has members.

    Raises:
        ValueError: a population is empty.
    """
    members = _member_of(step)
    if members is None:
        return
    for name, tree, axis in (("carry", carry, 0), *((("xs", xs, 1),) if not members.shared_x else ())):
        for i, leaf in enumerate(optree.tree_leaves(tree)):
            if isinstance(leaf, Tensor) and leaf.ndim > axis and leaf.shape[axis] == 0:
                place = optree.tree_accessors(tree)[i].codify(name)
                shape = tuple(leaf.shape)
                raise ValueError(
                    f"{place} has shape {shape}, a population of 0 members; expected 1 or more on axis {axis}"
                )
