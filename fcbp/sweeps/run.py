"""``sweep`` and ``resume``: carry a plan out, keep its results, and end well whatever happens."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fcbp import experiment as experiments
from fcbp.designs import Members, grid
from fcbp.experiment import Experiment
from fcbp.sweeps import folder as folders
from fcbp.sweeps import places
from fcbp.sweeps.execution import Execution
from fcbp.sweeps.files import expanded
from fcbp.sweeps.folder import Folder
from fcbp.sweeps.plan import Plan, compiling_for, surprises
from fcbp.sweeps.store import need

if TYPE_CHECKING:
    import xarray

__all__ = ["resume", "sweep"]


def sweep(
    experiment: str | Experiment,
    members: Members | Mapping[str, Any],
    *,
    steps: int | None = None,
    bin: int | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    compile: bool | None = None,
    progress: bool = True,
    device: torch.device | str | None = None,
    devices: str | int | Sequence[str] | None = None,
    backend: str | None = None,
    address: str | None = None,
    members_at_once: int | None = None,
    checkpoint_every: float = 60.0,
    notes: str | None = None,
) -> xarray.Dataset:
    """Train every member side by side and measure it in bins.

    Members that differ only in seed and numbers (step size, rates) share one program; others are run group by group. A
    member's results do not depend on which others run. Those that do not fit into memory together run one chunk after
    the other; where memory runs short all the same, the chunk goes on as two.

    With ``out`` the results are on the disk seconds after they are there, beside the experiment, the versions and the
    seeds, and from time to time the whole state: a sweep that was interrupted or killed, even while writing, goes on
    to the same bits as one that was not. :func:`fcbp.open` reads the results, also while they are being written.

    Args:
        experiment: a name of :data:`fcbp.experiment.EXPERIMENTS`, or an experiment.
        members: what :func:`fcbp.grid` or another design gives; a mapping is taken for a grid.
        steps: learner steps (examples) of every member; by default the experiment's.
        bin: steps averaged into one value; by default the experiment's, or a fiftieth of the run, at most 20,000.
        out: run directory, new or empty; by default nothing is written.
        resume: where ``out`` holds this sweep, go on with it.
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
        weights became NaN or infinite is NaN from there on.

    Raises:
        ValueError: a setting or an argument is unknown or out of range, or ``out`` holds something else.
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
    plan = _plan(experiment, members, steps, bin, compile)
    place = places.choose(device, devices, backend, address)
    places.check_number("checkpoint_every", checkpoint_every, 0)
    if members_at_once is not None:
        places.check_whole("members_at_once", members_at_once)
    if resume and out is None:
        raise ValueError("resume is True and out is None; expected the directory of the sweep to go on with")
    for message in surprises(plan.runs, plan.steps):
        warnings.warn(message, UserWarning, stacklevel=2)
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
            plan = dataclasses.replace(plan, compile=folders.compiling(folder))
        elif foreign := folder.foreign():
            raise ValueError(
                f"out is {str(out)!r}, which holds {', '.join(foreign[:3])} and no run; expected a new or an empty "
                "directory"
            )
        if notes is not None:
            folder.keep(notes)
        return Execution(plan, place, folder, progress, checkpoint_every, members_at_once).run()
    finally:
        folder.release()


def resume(
    run: Path | str,
    *,
    progress: bool = True,
    device: torch.device | str | None = None,
    devices: str | int | Sequence[str] | None = None,
    backend: str | None = None,
    address: str | None = None,
    checkpoint_every: float = 60.0,
) -> xarray.Dataset:
    """Go on with a sweep that was interrupted or killed, to the same bits as if it had not been.

    Of a finished run this gives the results, after computing again what is damaged on the disk.

    Args:
        run: the ``out`` of :func:`sweep`; the other arguments are those of it.

    Raises:
        ValueError: there is no run, or it was killed before it began.
    """
    need("xarray")
    folders.state(run)
    place = places.choose(device, devices, backend, address)
    places.check_number("checkpoint_every", checkpoint_every, 0)
    folder = Folder(expanded("run", run))
    try:
        plan = folders.read_plan(folder)
        return Execution(plan, place, folder, progress, checkpoint_every, None).run()
    finally:
        folder.release()


def _plan(
    experiment: str | Experiment,
    members: Members | Mapping[str, Any],
    steps: int | None,
    bin: int | None,
    compile: bool | None,
) -> Plan:
    base = experiments.get(experiment) if isinstance(experiment, str) else experiment
    if not isinstance(members, Members):
        members = grid(**members)
    if not len(members):
        raise ValueError("members is empty; expected at least one")
    if compile is not None and not isinstance(compile, bool):
        raise ValueError(f"compile is {compile!r}; expected True, False or None")
    lengths: dict[str, Any] = {"steps": steps, "bin": bin}
    base = base.replace(**{name: value for name, value in lengths.items() if value is not None})
    runs = [base.replace(**settings) for settings in members]
    experiments.check(runs, members.names())
    bin = base.bin or max(1, min(base.steps // 50, 20_000))
    return Plan(base, members, base.steps, bin, compiling_for(base.steps) if compile is None else compile)
