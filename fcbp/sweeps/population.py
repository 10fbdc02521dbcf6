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
from fcbp.experiment import AVERAGED, PER_STEP, Experiment, Program
from fcbp.sweeps.plan import pieces

__all__ = ["Carry", "Population", "population"]

PIECE = 1000
"""The most steps per call of the compiled program, whose examples are drawn at once."""
PIECE_BYTES = 1 << 28
"""What the examples and the losses of a piece may take."""
WINDOWS = (10_000, 1000)
"""The most steps per call where examples are made in the loop: the first whose window is small."""
WINDOW_BYTES = 1 << 13
"""What a stream's window may take; a member's lies in the cache beside its state."""
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
        learner, hyper, sums = carry
        learner, seen = member_step(learner, hyper, batch)
        return (learner, hyper, {name: total + seen[name].to(total.dtype) for name, total in sums.items()}), ()

    def whole_step(carry: Any, _: None) -> Any:
        window, index, *ours = carry
        ours, _ = lane_step(ours, program.stream.at(window, index))
        return (window, index + 1, *ours), ()

    lanes, whole_lanes = torch.vmap(lane_step), torch.vmap(whole_step)

    def zeros(carry: Carry) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(carry.stream_of, dtype=torch.float64 if name in AVERAGED else torch.int64)
            for name in sums
        }

    def windows(problem: Any, length: int) -> Any:
        return torch.vmap(lambda state: program.stream.window(state, length))(problem)

    def of_members(carry: Carry, window: Any) -> Any:
        return optree.tree_map(lambda leaf: leaf.index_select(0, carry.stream_of), window)

    def window_length(carry: Carry) -> int:
        """The most steps of a call in which lanes make their own examples; 0 where they do not suit."""
        size = len(carry.stream_of)
        if compile and size not in lengths:
            first: Any = optree.tree_map(lambda leaf: leaf[:1], carry.problem)
            small = (n for n in WINDOWS if size_of(windows(first, n)) <= WINDOW_BYTES)
            length = next(small, 0)
            if length:
                index = torch.zeros_like(carry.stream_of)
                window = of_members(carry, windows(carry.problem, length))
                suits = loop.explain(whole_lanes, (window, index, carry.learners, carry.hyper, zeros(carry)))
                length = length if suits.backend == "lanes" else 0
            lengths[size] = length
        return lengths.get(size, 0)

    lengths: dict[int, int] = {}
    latest: list[Any] = []  # the problem that the last call left, its window and the next index there

    def with_own_examples(carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]] | None:
        """The steps in lanes that make their examples; ``None`` where they cannot be compiled."""
        length = window_length(carry)
        if latest and latest[0] is carry.problem and latest[2] + steps <= length:
            _, window, start = latest
        else:
            window, start = of_members(carry, windows(carry.problem, length)), 0
        index = torch.full_like(carry.stream_of, start)
        done = in_lanes(whole_lanes, (window, index, carry.learners, carry.hyper, zeros(carry)), None, steps)
        if done is None:
            lengths[len(carry.stream_of)] = 0
            return None
        *_, learners, _, totals = done
        problem = torch.vmap(lambda state: program.stream.skip(state, steps))(carry.problem)
        latest[:] = problem, window, start + steps
        return carry._replace(problem=problem, learners=learners), totals

    def in_lanes(step: Any, ours: Any, batches: Any, length: int) -> Any:
        """The last carry; ``None`` where the program cannot be compiled."""
        try:
            with using_threads(threads or torch.get_num_threads()):
                return loop.scan(step, ours, batches, length, backend="lanes")[0]
        except ValueError as error:
            warnings.warn(f"the compiled scan runs in place of lanes: {error}", RuntimeWarning, stacklevel=2)
            return None

    def with_examples(carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]]:
        problem, batches = sample(carry.problem, steps)
        _, learners, hyper, stream_of = carry
        ours = (learners, hyper, zeros(carry))

        def laid_out(batches: tuple[Tensor, ...], steps: int) -> tuple[Tensor, ...]:
            return tuple(part[:steps].index_select(1, stream_of) for part in batches)

        # One step's examples tell whether lanes suit; all are laid out only where they do.
        if compile and loop.explain(lanes, ours, laid_out(batches, 1)).backend == "lanes":
            done = in_lanes(lanes, ours, laid_out(batches, steps), steps)
            if done is not None:
                return Carry(problem, done[0], hyper, stream_of), done[2]
        (learners, hyper, stream_of), seen = loop.scan(
            step, tuple(carry[1:]), batches, backend="scan" if compile else "eager"
        )
        totals = {name: value.sum(0, dtype=ours[2][name].dtype) for name, value in seen.items()}
        return Carry(problem, learners, hyper, stream_of), totals

    def advance(carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]]:
        if steps <= window_length(carry):
            done = with_own_examples(carry, steps)
            if done is not None:
                return done
        totals = zeros(carry)
        for length in pieces(steps, piece_with_examples(carry)):
            carry, more = with_examples(carry, length)
            totals = {name: total + more[name] for name, total in totals.items()}
        return carry, totals

    def probe(carry: Carry) -> dict[str, Tensor]:
        _, batches = sample(carry.problem, PROBE_SAMPLES)
        mine = tuple(part[:, carry.stream_of].transpose(0, 1) for part in batches)
        return torch.vmap(program.probe)(carry.learners, carry.hyper, mine)

    def piece_with_examples(carry: Carry) -> int:
        """The most steps of a call whose examples are laid out before it."""
        members = len(carry.stream_of)
        if members not in laid_out_lengths:
            _, batches = sample(carry.problem, 1)
            streams = len(batches[0][0])
            bytes = 8 * members + size_of(batches) * (streams + members) // streams
            laid_out_lengths[members] = max(2, min(PIECE, PIECE_BYTES // bytes))
        return laid_out_lengths[members]

    laid_out_lengths: dict[int, int] = {}

    def piece(carry: Carry) -> int:
        return window_length(carry) or piece_with_examples(carry)

    sums = ("loss", *(name for name in PER_STEP if name in program.measurements))
    return Population(start, advance, probe, sums, piece)


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
