"""A population: the members of a chunk side by side, as pure functions of one pytree of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.experiment import Experiment, Program
from fcbp.sweeps.advance import Advance, Carry
from fcbp.sweeps.probe import Probe

__all__ = ["Population", "is_broken", "population", "select"]


class Population(NamedTuple):
    """A program's members side by side."""

    start: Callable[[Sequence[Experiment], int, int], Carry]
    """``start(runs, size, streams)``: a population of ``size``, the last member repeated where there are fewer."""
    advance: Callable[[Carry, int], tuple[Carry, dict[str, Tensor]]]
    """``advance(carry, steps)``: also sums over the steps ``(members,)``: counts int64, others float64."""
    probe: Callable[[Carry], dict[str, Tensor]]
    """Measurements ``(members,)`` on examples to come."""
    sums: tuple[str, ...]
    """What ``advance`` sums."""
    piece: Callable[[Carry], int]
    """The most steps of one ``advance``: a function of the carry's shapes alone, so that a run resumed is cut alike."""
    backend: Callable[[Carry], str]
    """What ``advance`` runs in: ``"lanes"``, ``"scan"`` or ``"eager"``; like ``piece``."""


def population(
    program: Program, *, compile: bool | str, device: torch.device | str | None, threads: int | None = None
) -> Population:
    """The functions of a program for many members.

    Settings that share a seed share the data and the initial weights: comparisons between them are paired. Compiled,
    small learners run in lanes (:mod:`fcbp.lanes`), others in the compiled scan.

    Args:
        program: what a member does.
        compile: whether steps are compiled; ``"lanes"`` only where lanes suit.
        device: where the members are.
        threads: what lanes may use; by default torch's number.
    """

    def start(runs: Sequence[Experiment], size: int, streams: int) -> Carry:
        runs = [*runs, *[runs[-1]] * (size - len(runs))]
        seeds, stream_of = np.unique([run.seed for run in runs], return_inverse=True)
        seeds = np.append(seeds, [seeds[-1]] * (streams - len(seeds))).astype(np.int64)
        keys = torch.vmap(lambda key: random.split(key))(random.key(torch.tensor(seeds, device=device)))
        index = torch.tensor(stream_of, device=device)
        numbers = {
            name: torch.tensor([program.number_of(run, name) for run in runs], dtype=torch.float64, device=device)
            for name in program.numbers
        }
        numbers["step_size"] = numbers["step_size"].to(torch.float32)
        return Carry(
            torch.vmap(program.stream.init)(keys[:, 0]),
            torch.vmap(program.learner.init)(keys[index, 1]),
            program.hyper(numbers),
            index,
        )

    advance = Advance(program, compile, threads)
    return Population(start, advance, Probe(program), advance.sums, advance.most_steps, advance.backend)


def select(carry: Carry, rows: Int64[Tensor, "rows"]) -> Carry:
    """The population of some members."""
    ours: Any = tuple(carry[1:])
    chosen: Any = optree.tree_map(lambda leaf: leaf[rows], ours)
    return Carry(carry.problem, *chosen)


def is_broken(loss: Float[Tensor, "members"], learners: Any) -> Tensor:
    """Which members' loss, or mean magnitude of some parameter, is no longer finite ``(members,)``."""
    magnitudes = [leaf.reshape(len(loss), -1).abs().mean(1) for leaf in optree.tree_leaves(learners.params)]
    return ~torch.stack([loss, *magnitudes]).isfinite().all(0)
