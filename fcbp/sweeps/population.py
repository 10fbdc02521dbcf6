"""A population: the members of a chunk side by side, as pure functions of one pytree of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch
from jaxtyping import Int64
from torch import Tensor

from fcbp import random
from fcbp.loop.nested import Compile
from fcbp.program import Program
from fcbp.rehearsal import Rehearsed, rehearse
from fcbp.sweeps.advance import Advance, Backend, Carry
from fcbp.sweeps.probe import Probe

__all__ = ["Population", "population", "select"]


class Population(NamedTuple):
    """A program's members side by side."""

    start: Callable[[Sequence[int], Sequence[Mapping[str, float]], int, int], Carry]
    """``start(seeds, numbers, size, streams)``: a population of ``size``, the last member repeated where there are
    fewer."""
    advance: Callable[[Carry, int], tuple[Carry, dict[str, Tensor]]]
    """``advance(carry, steps)``: also sums over the steps ``(members,)``: counts int64, others float64."""
    probe: Callable[[Carry], dict[str, Tensor]]
    """Measurements ``(members,)`` at the end of a bin."""
    failed: Callable[[Carry, Mapping[str, Tensor]], Tensor]
    """``failed(carry, sums)``: the members that can only give nonsense from now on ``(members,)``."""
    sums: Mapping[str, torch.dtype]
    """The sums of ``advance``, with their dtypes."""
    rehearsed: Rehearsed
    """The measurements."""
    piece: Callable[[Carry], int]
    """The most steps of one ``advance``: a function of the carry's shapes alone, so that a run resumed is cut alike."""
    backend: Callable[[Carry], Backend]
    """Name the backend that ``advance`` runs in: a function of the carry's shapes, and of what can be compiled."""
    border: Callable[[Carry, int], Carry]
    """``border(carry, step)``: the population at the program's border after so many steps."""


def population(
    program: Program,
    numbers: Mapping[str, float] | None = None,
    *,
    compile: Compile,
    device: torch.device | str | None,
    threads: int | None = None,
) -> Population:
    """Return the functions of a program for many members.

    Settings that share a seed share the stream and the key that a member begins with: comparisons between them are
    paired. Compiled, small members run in lanes (:mod:`fcbp.lanes`), others in the compiled scan.

    Args:
        program: of one member.
        numbers: a member's, to rehearse the program with; by default the program's own.
        compile: whether steps are compiled; ``"lanes"`` only where lanes suit.
        device: the device of the members.
        threads: threads of lanes; by default torch's number.
    """

    rehearsed = rehearse(program, numbers, device=device)

    def start(seeds: Sequence[int], numbers: Sequence[Mapping[str, float]], size: int, streams: int) -> Carry:
        seeds = [*seeds, *[seeds[-1]] * (size - len(seeds))]
        rows = [program.settings(row) for row in (*numbers, *[numbers[-1]] * (size - len(numbers)))]
        different, stream_of = np.unique(seeds, return_inverse=True)
        different = np.append(different, [different[-1]] * (streams - len(different))).astype(np.int64)
        keys = random.key(torch.tensor(different, device=device))
        index = torch.tensor(stream_of, device=device)
        settings = {
            name: torch.tensor([row[name] for row in rows], dtype=torch.float64, device=device).to(dtype)
            for name, dtype in program.dtypes.items()
        }
        problem = () if program.stream is None else torch.vmap(program.stream.init)(keys)
        return Carry(problem, torch.vmap(program.init)(keys[index], settings), settings, index)

    def failed(carry: Carry, sums: Mapping[str, Tensor]) -> Tensor:
        watched = rehearsed.averaged if program.finite is None else program.finite
        broken = torch.zeros_like(carry.stream_of, dtype=torch.bool)
        for name in watched:
            broken = broken | ~sums[name].isfinite()
        return broken if program.failed is None else broken | torch.vmap(program.failed)(carry.members)

    def border(carry: Carry, step: int) -> Carry:
        assert program.border is not None
        at = program.border
        problem: Any = optree.tree_map(lambda leaf: leaf.index_select(0, carry.stream_of), carry.problem)
        return carry._replace(members=torch.vmap(lambda member, own: at(member, own, step))(carry.members, problem))

    advance = Advance(program, rehearsed, compile, threads)
    sums = dict.fromkeys(rehearsed.averaged, torch.float64) | dict.fromkeys(rehearsed.summed, torch.int64)
    probe = Probe(program, rehearsed)
    return Population(start, advance, probe, failed, sums, rehearsed, advance.most_steps, advance.backend, border)


def select(carry: Carry, rows: Int64[Tensor, "rows"]) -> Carry:
    """Choose the population of some members."""
    ours: Any = tuple(carry[1:])
    chosen: Any = optree.tree_map(lambda leaf: leaf[rows], ours)
    return Carry(carry.problem, *chosen)
