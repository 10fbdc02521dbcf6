"""``sweep`` and ``resume``: carry a plan out, keep its results, and end well in every case."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from fcbp.addresses import check_not_importing, looked_up_once
from fcbp.checks import arguments
from fcbp.designs import Members, grid
from fcbp.experiment import PROGRAMS, Experiment, ExperimentMaker
from fcbp.paths import expanded
from fcbp.program import Program
from fcbp.rehearsal import rehearse_members
from fcbp.sweeps import folder as folders
from fcbp.sweeps import origins, places
from fcbp.sweeps.execution import Execution
from fcbp.sweeps.folder import Folder
from fcbp.sweeps.makers import Maker
from fcbp.sweeps.plan import Plan, compiling_for
from fcbp.sweeps.store import need

if TYPE_CHECKING:
    import xarray

__all__ = ["resume", "sweep"]

MOST_VALUES = 10**9
"""Values of a measurement at most, of all members and bins: more take gigabytes."""


@arguments(at_once=True)
def sweep(
    experiment: str | Experiment | Program | Callable[..., Program] | Maker,
    members: Members | Mapping[str, Any],
    *,
    steps: int | None = None,
    bin: int | Literal["task"] | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    accept_changes: bool = False,
    compile: bool | None = None,
    progress: bool = True,
    device: torch.device | str | None = None,
    devices: str | int | Sequence[str] | None = None,
    backend: places.Cluster | None = None,
    address: str | None = None,
    members_at_once: int | None = None,
    checkpoint_every: float = 60.0,
    notes: str | None = None,
) -> xarray.Dataset:
    """Run every member side by side and measure it in bins.

    A member is a learner on a stream (an experiment), or any pure program (:class:`fcbp.Program`). Of a function
    ``make(**options) -> Program`` the settings that its signature names are options, each combination of which has a
    program of its own; all others are the program's numbers.

    Members that differ only in seed and numbers (step size, rates) share one program; others are run group by group. A
    member's results do not depend on which others run. Those that do not fit into memory together run one chunk after
    the other; where memory runs short all the same, the chunk goes on as two.

    With ``out`` the results are on the disk seconds after they are there, beside the experiment, the versions and the
    seeds, and from time to time the whole state: a sweep that was interrupted or killed, even while writing, goes on
    to the same bits as one that was not. :func:`fcbp.open` reads the results, also while they are being written.

    Args:
        experiment: a name of :data:`fcbp.experiment.EXPERIMENTS` or
            :data:`fcbp.experiment.PROGRAMS`, an experiment, a program, a function that makes
            programs, or the address of one of these: ``"package.module:name"`` or ``"path/to/file.py:name"``.
        members: a design, such as :func:`fcbp.grid` gives; a mapping is taken for a grid.
        steps: steps of every member; by default the experiment's.
        bin: steps averaged into one value; by default the experiment's, or a fiftieth of the run, at most 20,000.
            ``"task"`` makes each task of the stream a bin, and ``task`` the results' dimension.
        out: run directory, new or empty; by default nothing is written.
        resume: where ``out`` holds this sweep, go on with it.
        accept_changes: go on although the source of a part has changed since, or the steps cannot be compiled as they
            were before.
        compile: by default where it pays back in the run's length; see :data:`fcbp.sweeps.COMPILE_FROM`.
        progress: show a bar with steps per second and the time left, and say what may surprise.
        device: by default the CPU.
        devices: several, each with a process of its own that runs chunks: ``"all"`` is every GPU or, without one, every
            core; a number is so many processes on the CPU; or names such as ``["cuda:0", "cuda:1"]``.
        backend: ``"ray"`` runs the chunks as Ray tasks: as many at a time as ``devices`` says, by default as a cluster
            has cores (with ``device="cuda"`` GPUs).
        address: of the Ray cluster, such as ``"auto"``; by default Ray starts on this machine.
        members_at_once: the most members of a chunk; by default what fits into memory.
        checkpoint_every: seconds between two checkpoints.
        notes: a text to keep in ``out`` as ``experiment.yaml``; ``fcbp run`` keeps there what runs the sweep again.

    Returns:
        A dataset with the swept names and ``step`` (the last of each bin) as dimensions. A member whose loss or
        weights became NaN or infinite is NaN from there on; of a program, one whose measured floating-point values did,
        or that it calls ``failed``.

    Raises:
        ValueError: a setting or an argument is unknown or out of range, a part or a function of a program is not as
            described, is not pure or is not found, or ``out`` holds something else.
        BlockingIOError: another process is at work in ``out``.
        OSError: ``out`` cannot be written; what was written stays.
        KeyboardInterrupt: Ctrl-C or SIGTERM, with ``out`` after the state was saved.
        ImportError: an extra is not installed.

    Example:
        >>> import fcbp, tempfile
        >>> members = fcbp.grid(seed=range(3), replacement_rate=[0.0, 0.1])
        >>> with tempfile.TemporaryDirectory() as run:
        ...     results = fcbp.sweep("bit-flipping", members, steps=200, bin=100, out=run, progress=False)
        ...     fcbp.open(run)["loss"].dims
        ('seed', 'replacement_rate', 'step')
    """
    need("xarray")
    check_not_importing()
    elsewhere = out is not None or devices is not None or backend is not None
    plan = _plan(experiment, members, steps, bin, compile, elsewhere)
    place = places.choose(device, devices, backend, address)
    places.check_number("checkpoint_every", checkpoint_every, 0)
    if members_at_once is not None:
        places.check_whole("members_at_once", members_at_once)
    if resume and out is None:
        raise ValueError("resume is True and out is None; expected the directory of the sweep to go on with")
    for message in plan.maker.surprises(plan.members, plan.steps):
        warnings.warn(message, UserWarning, stacklevel=3)
    if out is None:
        return Execution(plan, place, None, progress, math.inf, members_at_once).run()
    folder = Folder(expanded("out", out))
    try:
        if folder.holds_run():
            if not resume:
                raise ValueError(
                    f"out is {str(out)!r}, which holds a run; expected a new or an empty directory, or resume=True"
                )
            folders.check_same(folder, plan)
            if not accept_changes:
                origins.check_sources(folders.sources(folder), folder.path)
            plan = dataclasses.replace(plan, compile=folders.compiling(folder))
        elif foreign := folder.foreign():
            raise ValueError(
                f"out is {str(out)!r}, which holds {', '.join(foreign[:3])} and no run; expected a new or an empty "
                "directory"
            )
        notes = origins.notes(plan) if notes is None else notes
        return Execution(
            plan, place, folder, progress, checkpoint_every, members_at_once, notes, accept_changes=accept_changes
        ).run()
    finally:
        folder.release()


@arguments(at_once=True)
def resume(
    run: Path | str,
    *,
    progress: bool = True,
    device: torch.device | str | None = None,
    devices: str | int | Sequence[str] | None = None,
    backend: places.Cluster | None = None,
    address: str | None = None,
    checkpoint_every: float = 60.0,
    accept_changes: bool = False,
) -> xarray.Dataset:
    """Go on with a sweep that was interrupted or killed, to the same bits as if it had not been.

    Of a finished run this gives the results, after computing again what is damaged on the disk. The parts that the run
    names by address are imported, after a line that says so: installed ones, and files under the current directory.

    Args:
        run: the ``out`` of :func:`sweep`.
        progress: as for :func:`sweep`, as are all arguments below.
        device: by default the CPU.
        devices: several, each with a process of its own.
        backend: ``"ray"`` runs the members as Ray tasks.
        address: of the Ray cluster.
        checkpoint_every: seconds between two checkpoints.
        accept_changes: go on although a part's source, or what compiles, has changed.

    Returns:
        The results, as :func:`sweep` gives them.

    Raises:
        ValueError: there is no run, or it was killed before it began; a part lies outside of the current directory, or
            its source has changed since; the steps were compiled before and cannot be here, or the reverse: they would
            differ in rounding.
    """
    need("xarray")
    folders.state(run)
    place = places.choose(device, devices, backend, address)
    places.check_number("checkpoint_every", checkpoint_every, 0)
    folder = Folder(expanded("run", run))
    try:
        plan = folders.read_plan(folder, lambda text: print(f"fcbp: {text}", file=sys.stderr))
        if not accept_changes:
            origins.check_sources(folders.sources(folder), folder.path)
        return Execution(plan, place, folder, progress, checkpoint_every, None, accept_changes=accept_changes).run()
    finally:
        folder.release()


@looked_up_once()
def _plan(
    experiment: Any,
    members: Members | Mapping[str, Any],
    steps: int | None,
    bin: int | Literal["task"] | None,
    compile: bool | None,
    elsewhere: bool,
) -> Plan:
    maker = origins.maker_of(experiment)
    if not isinstance(members, Members):
        members = grid(**members)
    if not len(members):
        raise ValueError("members is empty; expected at least one")
    if compile is not None and not isinstance(compile, bool):
        raise ValueError(f"compile is {compile!r}; expected True, False or None")
    maker, members = origins.addressed(maker, members, elsewhere)
    if isinstance(maker, ExperimentMaker):
        lengths: dict[str, Any] = {"steps": steps, "bin": bin}
        maker = ExperimentMaker(maker.base.replace(**{n: value for n, value in lengths.items() if value is not None}))
        steps, bin = maker.base.steps, maker.base.bin
    elif isinstance(experiment, str) and experiment in PROGRAMS:
        named = PROGRAMS[experiment]
        steps, bin = steps or named.steps, bin or named.bin  # type: ignore[assignment]
    maker.check(members)
    steps, length, dimension = _lengths(steps, bin)
    if (values := -(-steps // length) * len(members)) > MOST_VALUES and dimension == "step":
        raise ValueError(
            f"bin is {length:,} and steps {steps:,}: {values:,} values of each measurement; expected at most "
            f"{MOST_VALUES:,}"
        )
    plan = Plan(maker, members, steps, length, compiling_for(steps) if compile is None else compile, dimension)
    if compile is None and any(plan.program(group).loops for group in range(len(plan.groups))):
        # One of their steps is a hundred or more of others.
        plan = dataclasses.replace(plan, compile=compiling_for(LOOP * steps))
    _rehearse(plan)
    return plan if dimension == "step" else dataclasses.replace(plan, bin=_task_length(plan))


LOOP = 100
"""Steps of the loops in a step of a program that has some, for the choice whether compiling pays."""


def _lengths(steps: int | None, bin: int | Literal["task"] | None) -> tuple[int, int, Literal["step", "task"]]:
    """Return the steps, the steps of a bin, and the dimension of the bins."""
    if steps is None:
        raise ValueError("steps is None; expected the number of steps of every member")
    for name, value in (("steps", steps), *((("bin", bin),) if bin not in (None, "task") else ())):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 1 << 63:
            also = ", 'task' or None" if name == "bin" else ""
            raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more and below 2^63{also}")
    if isinstance(bin, int) and bin > steps:
        raise ValueError(f"bin is {bin!r}; expected at most steps, {steps}")
    usual = max(1, min(steps // 50, 20_000))
    return steps, bin if isinstance(bin, int) else usual, "task" if bin == "task" else "step"


def _rehearse(plan: Plan) -> None:
    """Run each program's functions once, and a step with the values of each number."""
    measured: set[str] = set()
    for group, members in enumerate(plan.groups):
        numbers = [plan.numbers(i) for i in members]
        measured |= set(rehearse_members(plan.program(group), numbers, plan.maker.name).variables)
    plan.maker.check_measured(plan.members, measured)


def _task_length(plan: Plan) -> int:
    """Return the steps of a task, which all programs' streams number alike."""
    programs = [plan.program(group) for group in range(len(plan.groups))]
    lengths = {one.task_length if one.stream is None else one.stream.task_length for one in programs}
    length = lengths.pop()
    if lengths or length is None:
        raise ValueError(
            "bin is 'task', and the members do not have tasks of one known length in steps; expected a stream or a "
            "program with task_length, the same for all members, or a number of steps"
        )
    return min(length, plan.steps)
