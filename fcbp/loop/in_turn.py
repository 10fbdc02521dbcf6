"""The members of a population one after the other, each through all steps, by one member's compiled program.

A member's weights then stay in the caches from step to step, its products of matrices are a library's, and its
convolutions are those of one network; for all members at once they are grouped ones, which take longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from fcbp.kinds import PyTree

__all__ = ["Member", "first_of", "in_turn"]

Program = Callable[[list[Tensor], Any, int], tuple[Any, Any]]


class Member(NamedTuple):
    """One member's step."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    shared_x: bool
    """Whether all members have the same examples."""


def first_of(member: Member, leaves: list[Tensor], xs: PyTree) -> tuple[list[Tensor], Any]:
    """Return the first member's carry leaves and examples."""
    return _one(member, leaves, xs, 0)


def in_turn(program: Program, member: Member) -> Program:
    """Return the program of a population, from ``(carry_leaves, xs, length) -> (carry, ys)`` of one member."""

    def run(leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any]:
        done = [program(*_one(member, leaves, xs, i), length) for i in range(len(leaves[0]))]
        carries, ys = zip(*done, strict=True)
        return (
            optree.tree_map(lambda *leaves: torch.stack(leaves), *carries),
            optree.tree_map(lambda *leaves: torch.stack(leaves, 1), *ys),
        )

    return run


def _one(member: Member, leaves: list[Tensor], xs: Any, i: int) -> tuple[list[Tensor], Any]:
    own = xs if member.shared_x else optree.tree_map(lambda x: x[:, i], xs)
    return [leaf[i] for leaf in leaves], own
