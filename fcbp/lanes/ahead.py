"""Sums of a step that the step before computes, where it writes the large array that they read.

A network's first layer reads weights that lie far from the processor, once for the sums and once more where they are
updated. The next step's example is known. So the sums of the next step are computed in the loop of the update, from the
same numbers in the same order, and the step finds them in its carry.

Where a few rows are replaced after the update, their sums are computed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, axes_of, linear, substitute, variable
from fcbp.lanes.ir import Leaf, Map, Node, Reduce, Role, View, base, is_choice, is_map
from fcbp.lanes.lower import Lowered
from fcbp.lanes.reads import dependencies, inline

__all__ = ["with_sums_ahead"]

LARGE = 1 << 14
"""Elements of an array from which on a second pass over it takes longer than the work around it."""


def with_sums_ahead(lowered: Lowered) -> Lowered:
    """The step with such sums as further leaves of its carry, behind the others."""
    for total, weights in _candidates(lowered):
        lowered = _moved(lowered, total, weights) or lowered
    return lowered


def _candidates(lowered: Lowered) -> Iterator[tuple[Reduce, Leaf]]:
    """The sums of products of an example with a large part of the carry, each of whose elements they read once."""
    for node in dependencies(lowered.results):
        if not isinstance(node, Reduce) or node.function is not Function.ADD or node.axes != 1 or node.uniform:
            continue
        (x,) = node.args
        if not is_map(x, Function.MUL) or x.dtype != torch.float32 or x.size < LARGE:
            continue
        leaves = {leaf.role: leaf for leaf in map(base, x.args) if isinstance(leaf, Leaf)}
        if leaves.keys() == {"x", "carry"} and leaves["carry"].size == x.size:
            yield node, leaves["carry"]


def _moved(lowered: Lowered, total: Reduce, weights: Leaf) -> Lowered | None:
    """The step in which one sum is computed ahead; ``None`` where the new weights are not written in one loop."""
    carried = sum(role == "carry" for role, _ in lowered.leaves)
    sums = Leaf((), total.shape, total.dtype, False, total.number, "carry", carried)
    new = _rebuilt(lowered, total, sums)
    results, place = [new[result] for result in lowered.results], _place(total, weights)
    number = max(node.number for node in (*new.values(), *lowered.leaves.values())) + 1
    example = next(leaf for leaf in map(base, total.args[0].args) if leaf is not weights)
    assert isinstance(example, Leaf)
    following = lowered.leaves.get(("next", example.position)) or replace(example, number=number, role="next")
    maker = _Ahead(total, weights, following, number + 1)
    written = results[weights.position]
    choices = []
    while is_choice(written):
        choices.append(written)
        written = written.args[2]
    if place is None or not isinstance(written, Map) or weights not in inline(written, set()):
        return None
    ahead: Node = maker.sums(written)
    for choice in reversed(choices):
        mask = maker.mask(choice)
        if mask is None:
            return None
        ahead = maker.map(Function.CHOOSE, mask, maker.sums(choice), ahead)
    before = [leaf for (role, _), leaf in lowered.leaves.items() if role == "carry"]
    leaves: dict[tuple[Role, int], Node] = {("carry", i): leaf for i, leaf in enumerate([*before, sums])}
    leaves |= {key: leaf for key, leaf in lowered.leaves.items() if key[0] != "carry"}
    leaves["next", example.position] = following
    return Lowered(
        leaves,
        [*results[:carried], ahead, *results[carried:]],
        {new[node]: origin for node, origin in lowered.checks.items() if node in new},
        {**lowered.ahead, sums: maker.sums(weights)},
    )


def _rebuilt(lowered: Lowered, old: Node, leaf: Leaf) -> dict[Node, Node]:
    """By each node the same with a leaf in place of ``old``."""
    new: dict[Node, Node] = {}
    for node in dependencies([*lowered.results, *lowered.checks]):
        args = tuple(new[a] for a in node.args)
        new[node] = leaf if node is old else node if args == node.args else replace(node, args=args)
    return new


def _place(total: Reduce, weights: Leaf) -> tuple[Index, ...] | None:
    """Where a sum reads the weights; ``None`` if not in the order in which they lie in memory."""
    (x,) = total.args
    here = [variable(a, x.shape) for a in range(len(x.shape))]
    factor = next(a for a in x.args if base(a) is weights)
    place = factor.indices if isinstance(factor, View) else tuple(here)
    return place if linear(place, weights.shape) == linear(here, x.shape) else None


class _Ahead:
    """Makes the nodes of a sum that is computed ahead."""

    def __init__(self, total: Reduce, weights: Leaf, following: Node, number: int) -> None:
        self.total, self.weights, self.following, self.number = total, weights, following, number

    def _next(self) -> int:
        self.number += 1
        return self.number

    def sums(self, weights: Node) -> Reduce:
        """The sums of the next example with other weights."""
        (x,) = self.total.args
        args = []
        for factor in x.args:
            of = weights if base(factor) is self.weights else self.following
            same = replace(factor, args=(of,), number=self._next()) if isinstance(factor, View) else of
            args.append(same)
        product = replace(x, args=tuple(args), number=self._next())
        return replace(self.total, args=(product,), number=self._next())

    def map(self, function: Function, *args: Node) -> Map:
        """A function of arrays of the sums' shape."""
        return Map(args, self.total.shape, self.total.dtype, False, self._next(), function)

    def mask(self, choice: Map) -> Node | None:
        """A choice's mask, for each sum; ``None`` where it differs between the elements of one."""
        mask, (x,) = choice.args[0], self.total.args
        place = _place(self.total, self.weights)
        if place is None or not isinstance(mask, View):
            return None
        indices = tuple(substitute(i, place, x.shape) for i in mask.indices)
        if any(len(x.shape) - 1 in axes_of(i) for i in indices):
            return None
        return View(mask.args, self.total.shape, mask.dtype, mask.uniform, self._next(), indices)
