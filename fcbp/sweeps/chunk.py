"""One chunk of members from its first or its last saved step to the end, as a sequence of events.

Whoever runs it (this process, a worker process, a Ray task) passes the events on; one process keeps the results.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import optree
import torch
from torch import Tensor

from fcbp import loop
from fcbp.sweeps import checkpoint
from fcbp.sweeps.advance import Backend, Carry, using_threads
from fcbp.sweeps.plan import Chunk, Plan, halves, pieces
from fcbp.sweeps.population import Population, population, select

__all__ = [
    "ENDINGS",
    "Advanced",
    "Began",
    "Event",
    "Finished",
    "Measured",
    "Saved",
    "Split",
    "Stopped",
    "Task",
    "population_of",
    "run_chunk",
]


class Task(NamedTuple):
    """The inputs of a process that runs a chunk."""

    plan: Plan
    chunk: Chunk
    saved: bytes | None
    """The checkpoint to go on from."""
    digest: str
    """The mark of this sweep's checkpoints."""
    device: str
    threads: int
    checkpoint_every: float
    """Seconds between two checkpoints."""
    ran: Backend | None = None
    """The backend in which the group's steps ran before, where the rest is to run in the same."""
    structure: str = ""
    """The program's structure in the process that keeps the results; empty is not compared."""


class Began(NamedTuple):
    """The chunk is about to take its first step."""

    chunk: int
    backend: Backend
    """The backend in which it will run."""


class Advanced(NamedTuple):
    """A piece is done."""

    chunk: int
    step: int
    seconds: float
    """Duration of the piece and of the work before it: the first piece of a program compiles."""
    backend: Backend
    """The backend in which it ran."""


class Measured(NamedTuple):
    """A bin is done."""

    chunk: int
    bin: int
    values: Mapping[str, np.ndarray]
    """``(members,)`` float32 by variable."""


class Saved(NamedTuple):
    """The whole state."""

    chunk: int
    data: bytes


class Split(NamedTuple):
    """The members did not fit into memory: they go on as two chunks."""

    chunk: int
    size: int
    """The program's members from now on."""
    saved: tuple[bytes | None, ...]
    """The halves' states; ``None`` where they start anew."""
    reason: str


class Finished(NamedTuple):
    """All steps are done."""

    chunk: int


class Stopped(NamedTuple):
    """Asked to stop, the chunk has saved its state and ended before its last step."""

    chunk: int


Event: TypeAlias = Began | Advanced | Measured | Saved | Split | Finished | Stopped
ENDINGS = (Finished, Split, Stopped)
"""The last event of a chunk is one of these."""


class _State(NamedTuple):
    carry: Carry
    totals: dict[str, Tensor]
    """Sums over the steps of the bin that is not done."""
    failed: Tensor
    """Members that broke in a bin before."""


def run_chunk(
    task: Task, stop: Callable[[], bool] = lambda: False, programs: dict[Any, Population] | None = None
) -> Iterator[Event]:
    """Run a chunk.

    Args:
        task: the members, and the checkpoint to go on from.
        stop: asked after every piece whether to save and end.
        programs: kept from chunk to chunk, so that one compiled program serves all.

    Raises:
        MemoryError: a single member does not fit into memory.
        ValueError: the checkpoint is not of this sweep, or what the steps ran in before cannot be compiled any more.
    """
    plan, chunk = task.plan, task.chunk
    programs = {} if programs is None else programs
    began = saved_at = time.monotonic()
    state, step, short = None, 0, ""
    try:
        if chunk.group not in programs:
            programs[chunk.group] = population_of(plan, chunk.group, task.device, task.threads)
            _check_structure(task, programs[chunk.group].rehearsed.structure)
        side_by_side = programs[chunk.group]
        state, step = _start(task, side_by_side)
        borders = plan.program(chunk.group, task.device).next_border
        yield Began(chunk.id, _backend(task, side_by_side.backend(state.carry), tried=False))
        with _threads(task.threads, state):
            for bin, start, end in _cuts(plan, side_by_side.piece(state.carry), borders):
                if end <= step:
                    continue
                state, values = _advance(side_by_side, state, plan, bin, max(start, step), end)
                if borders is not None and end < plan.steps and borders(end - 1) == end:
                    state = state._replace(carry=side_by_side.border(state.carry, end))
                step = end
                yield Advanced(
                    chunk.id, step, time.monotonic() - began, _backend(task, side_by_side.backend(state.carry))
                )
                began = time.monotonic()
                if values:
                    yield Measured(chunk.id, bin, {name: v[: len(chunk.members)] for name, v in values.items()})
                if step == plan.steps:
                    break
                asked = stop()
                if asked or time.monotonic() - saved_at >= task.checkpoint_every:
                    yield Saved(chunk.id, _pack(task, chunk.members, state, step))
                    saved_at = time.monotonic()
                if asked:
                    yield Stopped(chunk.id)
                    return
    except Exception as error:
        if not loop.is_out_of_memory(error):
            raise
        short = " ".join(str(error).split()) or type(error).__name__
    # Outside of the handler, for the error holds what the failed step had allocated.
    yield _split(task, state, step, short) if short else Finished(chunk.id)


def _backend(task: Task, now: Backend, tried: bool = True) -> Backend:
    """Name the backend of the steps.

    Args:
        task: the members and their backend.
        now: the backend here.
        tried: whether they have run; before, nobody knows whether the scan compiles.

    Raises:
        ValueError: it is not what they ran in before, for something can be compiled now that could not, or the
            reverse.
    """
    before = task.ran
    if before is None or (now.name == "scan" and before.name == "eager" and not tried):
        return now
    if before.name != now.name and bool(before.unbuilt) != bool(now.unbuilt):
        why = f", which cannot be built here: {now.unbuilt}" if now.unbuilt else f", for {before.unbuilt}"
        raise ValueError(
            f"the steps of this run were {WORDS[before.name]}{why}; here they would be {WORDS[now.name]}, and differ "
            "in rounding from those before. Go on where they can be the same, or accept it with accept_changes=True "
            "(--accept-changes)"
        )
    return now


WORDS = {"lanes": "taken in lanes", "scan": "taken in the compiled scan", "eager": "taken eagerly"}


def _check_structure(task: Task, found: str) -> None:
    """Check that a program is the same in this process as in the one that keeps the results.

    Raises:
        ValueError: it is another: a module of a user's imports differently here.
    """
    if task.structure not in ("", found):
        parts = ", ".join(f"{name} {value}" for name, value in task.plan.maker.describe().items())
        raise ValueError(
            f"a program is another in a worker process: {found[:300]}; expected {task.structure[:300]}; a module "
            f"imports differently there: {parts[:500]}"
        )


def population_of(plan: Plan, group: int, device: str, threads: int | None = None) -> Population:
    """Put a group's members side by side."""
    numbers = plan.numbers(plan.groups[group][0])
    return population(plan.program(group, device), numbers, compile=plan.compile, device=device, threads=threads)


def _start(task: Task, side_by_side: Population) -> tuple[_State, int]:
    """Return the first state, or the saved one."""
    plan, chunk = task.plan, task.chunk
    seeds, numbers = [plan.seeds[i] for i in chunk.members], [plan.numbers(i) for i in chunk.members]
    carry = side_by_side.start(seeds, numbers, chunk.size, chunk.streams)
    device = carry.stream_of.device
    totals = {name: torch.zeros(chunk.size, dtype=dtype, device=device) for name, dtype in side_by_side.sums.items()}
    state = _State(carry, totals, torch.zeros(chunk.size, dtype=torch.bool, device=device))
    if task.saved is None:
        return state, 0
    step, tensors = checkpoint.restore(task.saved, checkpoint.Owner(task.digest, chunk.members, plan.steps))
    leaves, spec = _flat(state)
    found, expected = [[(tuple(x.shape), x.dtype) for x in xs] for xs in (tensors, leaves)]
    if found != expected:
        raise ValueError(f"the checkpoint holds tensors {found}; expected {expected}: use the version that wrote it")
    moved = [tensor.to(leaf.device) for tensor, leaf in zip(tensors, leaves, strict=True)]
    resumed: Any = optree.tree_unflatten(spec, moved)
    return resumed, step


def _advance(
    side_by_side: Population, state: _State, plan: Plan, bin: int, start: int, end: int
) -> tuple[_State, dict[str, np.ndarray]]:
    """Return the state some steps later and, where they end a bin, its results."""
    carry, sums = side_by_side.advance(state.carry, end - start)
    totals = {name: total + sums[name] for name, total in state.totals.items()}
    if end != plan.ends[bin]:
        return _State(carry, totals, state.failed), {}
    # Parameters that broke in the last step of a bin show in no loss of that bin.
    failed = state.failed | side_by_side.failed(carry, totals)
    steps = end - bin * plan.bin
    per = side_by_side.rehearsed.per
    means = {name: totals[name] / totals.get(per.get(name, ""), steps) for name in side_by_side.rehearsed.averaged}
    measured = {**totals, **means, **side_by_side.probe(carry)}
    values = {name: value.to(torch.float32).where(~failed, torch.nan).cpu().numpy() for name, value in measured.items()}
    return _State(carry, {name: torch.zeros_like(total) for name, total in totals.items()}, failed), values


def _cuts(plan: Plan, most: int, borders: Callable[[int], int | None] | None = None) -> Iterator[tuple[int, int, int]]:
    """``(bin, start, end)`` of every piece; a piece ends where a bin does, and at the program's borders."""
    start = 0
    border = borders(0) if borders else None
    for bin, last in enumerate(plan.ends):
        while start < last:
            end = last if border is None else min(last, border)
            for length in pieces(end - start, most):
                yield bin, start, start + length
                start += length
            if borders and border == start:
                border = borders(start)


def _flat(state: _State) -> tuple[list[Tensor], Any]:
    leaves, spec = optree.tree_flatten(state)  # type: ignore[arg-type, var-annotated]
    return leaves, spec


def _pack(task: Task, members: tuple[int, ...], state: _State, step: int) -> bytes:
    owner = checkpoint.Owner(task.digest, members, task.plan.steps)
    return checkpoint.pack(owner.about(step), _flat(state)[0])


def _split(task: Task, state: _State | None, step: int, reason: str) -> Split:
    """Divide the members into halves, each with its state."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    count = len(task.chunk.members)
    if count == 1:
        raise MemoryError(f"a single member does not fit into the memory of {task.device}: {reason}")
    parts = halves(range(count))
    size = len(parts[0])
    saved: list[bytes | None] = []
    for rows in parts:
        if state is None or step == 0:
            saved.append(None)
            continue
        index = torch.tensor([*rows, *rows[-1:] * (size - len(rows))], device=state.failed.device)
        totals = {name: total[index] for name, total in state.totals.items()}
        half = _State(select(state.carry, index), totals, state.failed[index])
        saved.append(_pack(task, tuple(task.chunk.members[row] for row in rows), half, step))
    return Split(task.chunk.id, size, tuple(saved), reason)


def _threads(most: int, state: _State) -> contextlib.AbstractContextManager[None]:
    """Use one thread for the operations of a small population, as in its compiled program: on a busy machine threads
    that wait for one another make them a hundred times slower."""
    small = sum(leaf.numel() for leaf in _flat(state)[0]) < loop.PARALLEL_FROM
    return using_threads(1 if small else most)
