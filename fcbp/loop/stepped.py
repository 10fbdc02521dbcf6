"""A compiled step that is called again and again, and writes the new carry over the old.

What stands between two steps is Python, and takes some microseconds. Memory holds one copy of the carry. Where a step
replaces units, the work that only they need is a program of its own (:mod:`fcbp.loop.rarely`), which is compiled when
units first fall due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import optree
import torch
from torch import Tensor, fx

from fcbp.kinds import PyTree
from fcbp.loop import layout
from fcbp.loop.rarely import Rest, rest_of
from fcbp.loop.tracing import Flat, Traced, constants_of, results_of, split

__all__ = ["Compile", "Compiled", "Stepped"]

Compiled = Callable[[list[Tensor]], Sequence[Tensor]]
Compile = Callable[[fx.GraphModule, list[Tensor]], Compiled]

ALL = 1 << 30
"""More rows than there can be."""
TIMES = 4
"""The rests are made for 1 unit of each group, and for so many times as many, and so on."""
LITTLE = 1 << 16
"""Bytes that are always worth keeping from one program for another."""
STACKED = 256
"""Steps whose results are stacked at once."""


class Stepped:
    """The program of a step: ``program(carry_leaves, xs, length) -> (carry, ys)``."""

    def __init__(
        self,
        first: Traced,
        traced: Callable[[int | None], Traced],
        leaves: list[Tensor],
        spec: optree.PyTreeSpec,
        xs: list[Tensor],
        count: int,
        compile: Compile,
    ) -> None:
        """Take a traced step apart.

        Args:
            first: the step's trace for no unit that is due, or for any number, which then tells none.
            traced: its trace for so many at most.
            leaves: the carry's.
            spec: its structure.
            xs: leaves of the examples.
            count: members that lie side by side, or 0.
            compile: makes a function of a graph.
        """
        self.traced, self.spec, self.count, self.compile = traced, spec, count, compile
        self.number = len(leaves)
        self.sides = [layout.is_side_by_side(x[0], count) for x in xs]
        self.first = first
        constants = constants_of(self.first, self.number)
        self.saved: list[fx.Node] = []
        self.rests: dict[int, _Compiled | None] = {}
        if self.first.tells_most:
            whole = traced(ALL)
            constants = [i for i in constants if i in constants_of(whole, self.number)]
            rest = rest_of(self.first, whole, self.number, constants)
            if rest is not None and _bytes(rest.saved) > max(sum(x.nbytes for x in leaves) // 2, LITTLE):
                self.first, rest = traced(None), None  # to keep what it reads would cost more than to do it
                constants = constants_of(self.first, self.number)
            self.rests[ALL] = None if rest is None else _Compiled(rest)
            self.saved = [] if rest is None else rest.saved
        if count:
            layout.pin(self.first.graph, results_of(self.first.graph)[: self.number], count)
        self.flat = split(self.first, self.number, lambda graph, node, leaf: node, constants, self.saved)
        self.ys = len(results_of(self.first.graph)) - self.number - self.first.tells_most
        self.body = over_the_old(self.flat)
        self.compiled: Compiled | None = None

    def __call__(self, leaves: list[Tensor], xs: PyTree, length: int) -> tuple[Any, Any]:
        """Run so many steps."""
        moving = [_copied(layout.store(leaves[i].detach(), self.count)) for i in self.flat.moving]
        constants = [layout.store(leaves[i].detach(), self.count) for i in self.flat.constants]
        given = [self._laid_out(x.detach(), side) for x, side in zip(optree.tree_leaves(xs), self.sides, strict=True)]
        stacked: list[list[Tensor]] = []
        with torch.no_grad():
            fixed = [*moving, *constants, *self.flat.prologue(*constants)]
            for start in range(0, length, STACKED):
                end = min(start + STACKED, length)
                examples = zip(*(x[start:end].unbind(0) for x in given), strict=True) if given else [()] * (end - start)
                results = [self._step(fixed, moving, constants, x) for x in examples]
                stacked.append([torch.stack(values) for values in zip(*results, strict=True)])
        new = list(leaves)
        for i, value in zip(self.flat.moving, moving, strict=True):
            new[i] = value
        ys = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*stacked, strict=True)]
        return optree.tree_unflatten(self.spec, new), optree.tree_unflatten(self.first.y_spec, ys)

    def _laid_out(self, x: Tensor, side: bool) -> Tensor:
        """Examples as the first ones lay."""
        return x.movedim(1, -1).contiguous().movedim(-1, 1) if side else x.contiguous()

    def _step(
        self, fixed: list[Tensor], moving: list[Tensor], constants: list[Tensor], x: Sequence[Tensor]
    ) -> list[Tensor]:
        arguments = [*fixed, *x]
        if self.compiled is None:
            self.compiled = self.compile(self.body, arguments)
        results = list(self.compiled(arguments))
        ys = results[: self.ys]
        if self.first.tells_most and (most := int(results[self.ys])) > 0:
            rest = self._rest(most)
            if rest is not None:
                rest(self, ys, moving, constants, x, results[self.ys + 1 :])
        return ys

    def _rest(self, most: int) -> _Compiled | None:
        """Return the work that remains where so many units are due of some group of some member."""
        rows = 1
        while rows < most:
            rows *= TIMES
        if rows not in self.rests:
            found = rest_of(self.first, self.traced(rows), self.number, self.flat.constants)
            fits = found is not None and all(node in self.saved for node in found.saved)
            self.rests[rows] = _Compiled(found) if found is not None and fits else self.rests[ALL]
        return self.rests[rows]


class _Compiled:
    """The rest of a step, compiled when it is first called for."""

    def __init__(self, rest: Rest) -> None:
        self.rest = rest
        self.compiled: Compiled | None = None

    def __call__(
        self,
        step: Stepped,
        ys: list[Tensor],
        moving: list[Tensor],
        constants: list[Tensor],
        x: Sequence[Tensor],
        saved: list[Tensor],
    ) -> None:
        """Write over the carry, and put results in place of the step's."""
        rest, flat = self.rest, step.flat
        leaves = dict(zip(flat.moving, moving, strict=True)) | dict(zip(flat.constants, constants, strict=True))
        kept = dict(zip(step.saved, saved, strict=True))
        arguments = [
            *(leaves[i] for i in rest.carry),
            *(leaves[i] if i < step.number else x[i - step.number] for i in rest.given),
            *(kept[node] for node in rest.saved),
        ]
        if self.compiled is None:
            self.compiled = step.compile(rest.module, arguments)
        for i, value in zip(rest.ys, self.compiled(arguments), strict=True):
            ys[i] = value


def over_the_old(flat: Flat) -> fx.GraphModule:
    """Return the body of a step with its new carry written over the old; it returns the other results."""
    body, number = flat.body, len(flat.moving)
    graph = body.graph
    (output,) = graph.find_nodes(op="output")
    results = output.args[0]
    with graph.inserting_before(output):
        # First of all copied where it is an argument, which another's new value may be written over.
        leaves = graph.find_nodes(op="placeholder")[:number]
        pairs = [(leaf, result) for leaf, result in zip(leaves, results, strict=False) if leaf is not result]
        new = [_clone(graph, result) for _, result in pairs]
        for (leaf, _), value in zip(pairs, new, strict=True):
            graph.call_function(torch.ops.aten.copy_.default, (leaf, value))
    output.args = (results[number:],)
    return fx.GraphModule(body, graph)


def _clone(graph: fx.Graph, result: fx.Node) -> fx.Node:
    source = result
    while source.op == "call_function" and layout.is_view(source.target):
        source = source.args[0]  # type: ignore[assignment]
    return graph.call_function(torch.ops.aten.clone.default, (result,)) if source.op == "placeholder" else result


def _copied(leaf: Tensor) -> Tensor:
    """Return the same numbers at the same strides, in memory of their own."""
    return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device=leaf.device).copy_(leaf)


def _bytes(nodes: Sequence[fx.Node]) -> int:
    values = (node.meta["tensor_meta"] for node in nodes if "tensor_meta" in node.meta)
    return sum(value.shape.numel() * value.dtype.itemsize for value in values)
