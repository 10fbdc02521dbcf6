"""A population: the members of a chunk side by side, as pure functions of one pytree of tensors."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import optree
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import loop, random
from fcbp.experiment import PER_STEP, Experiment, Program

__all__ = ["Carry", "Population", "population"]

PIECE = 1000
"""The most steps per call of the compiled program, whose examples are drawn at once."""
PIECE_BYTES = 1 << 28
"""What the examples and the losses of a piece may take."""
PROBE_SAMPLES = 200
"""Examples on which units and ranks are measured at the end of a bin."""


class Carry(NamedTuple):
    """All that a population goes on from."""

    problem: Any
    """States of the streams; members of one seed share theirs."""
    learners: Any
    """States of the learners, members first."""
    hyper: Any
    """The members' numbers."""
    stream_of: Int64[Tensor, "members"]
    """Each member's stream."""


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


def population(
    program: Program, *, compile: bool, device: torch.device | str | None, threads: int | None = None
) -> Population:
    """The functions of a program for many members.

    Settings that share a seed share the data and the initial weights: comparisons between them are paired. Compiled,
    small learners run in lanes (:mod:`fcbp.lanes`), others in the compiled scan.

    Args:
        program: what a member does.
        compile: whether steps are compiled.
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

    def sample(problem: Any, length: int) -> Any:
        return torch.vmap(lambda state: program.stream.sample(state, length), out_dims=(0, 1))(problem)

    def member_step(learner: Any, hyper: Any, batch: Any) -> Any:
        learner, info = program.learner.step(learner, batch, hyper)
        return learner, {"loss": info["loss"], **program.per_step(info)}

    side_by_side = torch.vmap(member_step)

    def step(carry: Any, batches: tuple[Tensor, ...]) -> Any:
        learners, hyper, stream_of = carry
        learners, seen = side_by_side(learners, hyper, tuple(part[stream_of] for part in batches))
        return (learners, hyper, stream_of), seen

    def lane_step(carry: Any, batch: Any) -> Any:
        learner, hyper = carry
        learner, seen = member_step(learner, hyper, batch)
        return (learner, hyper), seen

    lanes = torch.vmap(lane_step)

    def in_lanes(carry: Carry, batches: tuple[Tensor, ...]) -> tuple[Any, dict[str, Tensor]] | None:
        """The last learners and what was seen; ``None`` where lanes do not suit or cannot be compiled."""
        if not compile:
            return None
        ours = (carry.learners, carry.hyper)
        # One step's examples tell whether lanes suit; all are laid out only where they do.
        one = tuple(part[:1].index_select(1, carry.stream_of) for part in batches)
        if loop.explain(lanes, ours, one).backend != "lanes":
            return None
        mine = tuple(part.index_select(1, carry.stream_of) for part in batches)
        try:
            with using_threads(threads or torch.get_num_threads()):
                (learners, _), seen = loop.scan(lanes, ours, mine, backend="lanes")
        except ValueError as error:
            warnings.warn(f"the compiled scan runs in place of lanes: {error}", RuntimeWarning, stacklevel=2)
            return None
        return learners, seen

    def advance(carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]]:
        problem, batches = sample(carry.problem, steps)
        _, learners, hyper, stream_of = carry
        done = in_lanes(carry, batches)
        if done is None:
            (learners, hyper, stream_of), seen = loop.scan(step, tuple(carry[1:]), batches, compile=compile)
        else:
            learners, seen = done
        sums = {
            name: value.sum(0, dtype=torch.float64 if value.is_floating_point() else torch.int64)
            for name, value in seen.items()
        }
        return Carry(problem, learners, hyper, stream_of), sums

    def probe(carry: Carry) -> dict[str, Tensor]:
        _, batches = sample(carry.problem, PROBE_SAMPLES)
        mine = tuple(part[:, carry.stream_of].transpose(0, 1) for part in batches)
        return torch.vmap(program.probe)(carry.learners, carry.hyper, mine)

    def piece(carry: Carry) -> int:
        _, batches = sample(carry.problem, 1)
        members, streams = len(carry.stream_of), len(batches[0][0])
        return max(2, min(PIECE, PIECE_BYTES // (8 * members + size_of(batches) * (streams + members) // streams)))

    return Population(
        start, advance, probe, ("loss", *(name for name in PER_STEP if name in program.measurements)), piece
    )


@contextlib.contextmanager
def using_threads(number: int) -> Iterator[None]:
    """``number`` threads for the operations within."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def select(carry: Carry, rows: Int64[Tensor, "rows"]) -> Carry:
    """The population of some members."""
    ours: Any = tuple(carry[1:])
    chosen: Any = optree.tree_map(lambda leaf: leaf[rows], ours)
    return Carry(carry.problem, *chosen)


def size_of(tree: Any) -> int:
    """Bytes of a pytree's tensors."""
    return sum(leaf.numel() * leaf.element_size() for leaf in optree.tree_leaves(tree))


def is_broken(loss: Float[Tensor, "members"], learners: Any) -> Tensor:
    """Which members' loss, or mean magnitude of some parameter, is no longer finite ``(members,)``."""
    magnitudes = [leaf.reshape(len(loss), -1).abs().mean(1) for leaf in optree.tree_leaves(learners.params)]
    return ~torch.stack([loss, *magnitudes]).isfinite().all(0)
