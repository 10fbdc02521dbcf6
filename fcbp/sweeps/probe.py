"""A population measured at the end of a bin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor

from fcbp.program import Program
from fcbp.rehearsal import Rehearsed
from fcbp.sweeps.advance import Carry

T = TypeVar("T")

__all__ = ["Probe"]

SAMPLES = 200
"""Examples on which units and ranks are measured."""
TRACE_AFTER = 15_000
"""Members measured, after which the operations are traced: that takes half a second, and from then on saves 35
microseconds a member, for a measurement needs little of what a stream computes."""


class Probe:
    """``probe(carry)``: measurements ``(members,)`` by variable at the end of a bin.

    Args:
        program: of one member.
        rehearsed: what it measures.
    """

    def __init__(self, program: Program, rehearsed: Rehearsed) -> None:
        self.program = program
        self.batches = -(-SAMPLES // (rehearsed.batch_size or 1))
        self.measured = 0
        self.traced: dict[tuple[torch.Size, ...], Callable[[Any], dict[str, Tensor]]] = {}

    def __call__(self, carry: Carry) -> dict[str, Tensor]:
        if self.program.probe is None:
            return {}
        leaves: Any = optree.tree_leaves(carry)  # type: ignore[arg-type]
        shapes = tuple(leaf.shape for leaf in leaves)
        if shapes not in self.traced and self.measured >= TRACE_AFTER:
            self.traced[shapes] = operations_of(self.measure, carry)
        self.measured += len(carry.stream_of)
        measure: Callable[[Any], dict[str, Tensor]] = self.traced.get(shapes, self.measure)
        return measure(carry)

    def measure(self, carry: Carry) -> dict[str, Tensor]:
        return dict(self.probed(carry))

    def probed(self, carry: Carry) -> Mapping[str, Tensor]:
        probe, stream = self.program.probe, self.program.stream
        assert probe is not None
        if stream is None:
            return torch.vmap(probe)(carry.members, carry.settings)
        _, batches = torch.vmap(lambda state: stream.sample(state, self.batches))(carry.problem)
        coming = tuple(part.index_select(0, carry.stream_of) for part in batches)
        if stream.held_out is None:
            return torch.vmap(lambda member, settings, batch: probe(member, settings, batch, ()))(
                carry.members, carry.settings, coming
            )
        held_out = stream.held_out
        # Made within: examples that all members share are then one tensor, and no copy for each.
        problem: Any = optree.tree_map(lambda leaf: leaf.index_select(0, carry.stream_of), carry.problem)
        return torch.vmap(lambda member, settings, batch, state: probe(member, settings, batch, held_out(state)))(
            carry.members, carry.settings, coming, problem
        )


def operations_of(function: Callable[[Any], T], example: Any) -> Callable[[Any], T]:
    """Return a function of a pytree of tensors as the operations that its results need, in their order: the same to the
    bit.

    Args:
        function: pure.
        example: its argument, or one with the same shapes.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    leaves, spec = optree.tree_flatten(example)

    def flat(*leaves: Tensor) -> T:
        return function(optree.tree_unflatten(spec, leaves))

    with torch.no_grad():
        traced = make_fx(flat)(*leaves)
    traced.graph.eliminate_dead_code()
    traced.recompile()

    def run(tree: Any) -> T:
        with torch.no_grad():
            results: T = traced(*optree.tree_leaves(tree))
        return results

    return run
