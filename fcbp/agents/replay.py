"""A memory of transitions: a ring of tensors of a fixed size, as pure functions.

>>> import torch, fcbp
>>> one = Transitions(torch.zeros(1, 4), torch.tensor([1]), torch.ones(1), torch.ones(1, 4), torch.tensor([False]))
>>> memory = push(start_memory(one, 100), one)
>>> int(memory.size), sample(memory, fcbp.random.key(0), 3).rewards
(1, tensor([1., 1., 1.]))
"""

from __future__ import annotations

from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.kinds import PyTree

__all__ = ["Memory", "Transitions", "push", "sample", "start_memory"]


class Transitions(NamedTuple):
    """Steps of an environment, ``(steps, ...)``."""

    observations: Float[Tensor, "steps observation"]
    actions: Int64[Tensor, "steps"]
    rewards: Float[Tensor, "steps"]
    next_observations: Float[Tensor, "steps observation"]
    """At the end of the step, before any reset."""
    terminated: Bool[Tensor, "steps"]


class Memory(NamedTuple):
    """The last transitions."""

    held: Any
    """:class:`Transitions`, ``(capacity, ...)``."""
    size: Int64[Tensor, ""]
    """The number of steps held."""
    next: Int64[Tensor, ""]
    """The place of the next one."""


@arguments
def start_memory(like: PyTree, capacity: int) -> Memory:
    """Make an empty memory.

    Args:
        like: a pytree of tensors ``(steps, ...)``, such as :class:`Transitions`.
        capacity: the most steps that it holds.

    Raises:
        ValueError: ``capacity`` is less than the steps that ``like`` has.
    """
    leaves: list[Tensor] = optree.tree_leaves(like)
    if capacity < len(leaves[0]):
        raise ValueError(f"capacity is {capacity}; expected at least {len(leaves[0])}, the steps of one push")
    held: Any = optree.tree_map(lambda x: x.new_zeros((capacity, *x.shape[1:])), like)
    nothing = torch.zeros_like(leaves[0].flatten()[0], dtype=torch.int64)
    return Memory(held, nothing, nothing.clone())


@arguments
def push(memory: Memory, steps: PyTree) -> Memory:
    """Add steps to the memory, in the places of the oldest where it is full.

    Args:
        memory: before.
        steps: a pytree as the memory holds, ``(steps, ...)``.
    """
    capacity, number = len(optree.tree_leaves(memory.held)[0]), len(optree.tree_leaves(steps)[0])
    places = (memory.next + torch.arange(number, device=memory.next.device)) % capacity

    def written(held: Tensor, new: Tensor) -> Tensor:
        return held.scatter(0, places.reshape(-1, *[1] * (new.ndim - 1)).expand(new.shape), new.to(held.dtype))

    held: Any = optree.tree_map(written, memory.held, steps)
    return Memory(held, (memory.size + number).clamp(max=capacity), (memory.next + number) % capacity)


@arguments
def sample(memory: Memory, key: Int64[Tensor, ""], number: int) -> PyTree:
    """Draw some of the held steps, with replacement; an empty memory gives zeros.

    Args:
        memory: the memory.
        key: the key of the draws.
        number: the number of steps drawn.
    """
    rows = random.randint(key, (number,), 0, memory.size.clamp(min=1))
    found: Any = optree.tree_map(lambda held: held[rows], memory.held)
    return found
