"""A population measured at the end of a bin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp.experiment import Program
from fcbp.sweeps.advance import Carry

__all__ = ["Probe"]

SAMPLES = 200
"""Examples on which units and ranks are measured."""
TRACE_AFTER = 15_000
"""Members measured, after which the operations are traced: that takes half a second, and from then on saves 35
microseconds a member, for a measurement needs little of what a stream computes."""


class Probe:
    """``probe(carry)``: measurements ``(members,)`` by variable, on examples to come.

    Args:
        program: what a member does.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.measured = 0
        self.traced: dict[tuple[torch.Size, ...], Callable[[Any], dict[str, Tensor]]] = {}

    def __call__(self, carry: Carry) -> dict[str, Tensor]:
        leaves: Any = optree.tree_leaves(carry)  # type: ignore[arg-type]
        shapes = tuple(leaf.shape for leaf in leaves)
        if shapes not in self.traced and self.measured >= TRACE_AFTER:
            self.traced[shapes] = operations_of(self.measure, carry)
        self.measured += len(carry.stream_of)
        return self.traced.get(shapes, self.measure)(carry)

    def measure(self, carry: Carry) -> dict[str, Tensor]:
        _, batches = torch.vmap(lambda state: self.program.stream.sample(state, SAMPLES))(carry.problem)
        examples = tuple(part.index_select(0, carry.stream_of) for part in batches)
        return torch.vmap(self.program.probe)(carry.learners, carry.hyper, examples)


def operations_of(function: Callable[[Any], Any], example: Any) -> Callable[[Any], Any]:
    """A function of a pytree of tensors as the operations that its results need, in their order: the same to the bit.

    Args:
        function: pure.
        example: its argument, or one with the same shapes.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, spec = optree.tree_flatten(example)

    def flat(*leaves: Tensor) -> Any:
        return function(optree.tree_unflatten(spec, leaves))

    with torch.no_grad():
        traced = make_fx(flat)(*leaves)
    traced.graph.eliminate_dead_code()
    traced.recompile()

    def run(tree: Any) -> Any:
        with torch.no_grad():
            return traced(*optree.tree_leaves(tree))

    return run
