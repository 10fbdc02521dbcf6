"""Sweeps: an experiment for many seeds and settings side by side.

>>> import fcbp
>>> members = fcbp.grid(seed=range(3), replacement_rate=[0.0, 1e-2])
>>> len(members)
6
>>> results = fcbp.sweep("bit-flipping", members, steps=200, bin=100, progress=False)
>>> dict(results.sizes)
{'seed': 3, 'replacement_rate': 2, 'step': 2}
"""

from __future__ import annotations

import contextlib
import itertools
import json
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optree
import torch
from torch import Tensor

from fcbp import experiment as experiments
from fcbp import loop, random
from fcbp.designs import Members, grid
from fcbp.experiment import VARIABLES, Experiment, build_program

if TYPE_CHECKING:
    import xarray

__all__ = ["COMPILE_FROM", "sweep"]

CHUNK = 1000
"""Steps per call of the compiled program, whose examples are drawn at once."""
COMPILE_FROM = 8_000
"""Steps from which on compiling (10 to 30 s) pays: an eager step of any small population takes 2 to 5 ms."""
PROBE_SAMPLES = 200
"""Examples on which units and ranks are measured at the end of a bin."""


def sweep(
    experiment: str | Experiment,
    members: Members | Mapping[str, Any],
    *,
    steps: int | None = None,
    bin: int | None = None,
    compile: bool | None = None,
    progress: bool = True,
    device: torch.device | str | None = None,
) -> xarray.Dataset:
    """Train every member side by side and measure it in bins.

    Members that differ only in seed and numbers (step size, rates) share one program; others are run group by group. A
    member's results do not depend on which others run.

    Args:
        experiment: a name of :data:`fcbp.experiment.EXPERIMENTS`, or an experiment.
        members: what :func:`grid` or :func:`paired` gives; a mapping is taken for a grid.
        steps: learner steps (examples) of every member; by default the experiment's.
        bin: steps averaged into one value; by default the experiment's, or a fiftieth of the run, at most 20,000.
        compile: by default where it pays back in the run's length; see :data:`COMPILE_FROM`.
        progress: show a bar with steps per second and the time left, and say what may surprise.
        device: by default the CPU.

    Returns:
        A dataset with the swept names and ``step`` (the last of each bin) as dimensions. A member whose loss or
        weights became NaN or infinite is NaN from there on.

    Raises:
        ValueError: a setting is unknown or out of range, or ``steps`` or ``bin`` is not positive.
        ImportError: the extra ``fcbp[sweep]`` is not installed.
    """
    xarray = _import("xarray")
    base = experiments.get(experiment) if isinstance(experiment, str) else experiment
    if not isinstance(members, Members):
        members = grid(**members)
    lengths = {"steps": steps, "bin": bin}
    base = base.replace(**{name: value for name, value in lengths.items() if value is not None})
    if not len(members):
        raise ValueError("members is empty; expected at least one")
    runs = [base.replace(**settings) for settings in members]
    experiments.check(runs, members.names())
    steps, bin = base.steps, base.bin or max(1, min(base.steps // 50, 20_000))
    too_short = compile is None and steps < COMPILE_FROM
    compile = steps >= COMPILE_FROM if compile is None else compile

    groups: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(run.program_key(), []).append(i)
    for message in surprises(runs, steps):
        warnings.warn(message, UserWarning, stacklevel=2)

    started = time.time()
    ends = [*range(bin, steps, bin), steps]
    results: dict[str, np.ndarray] = {}
    with _bar(steps * len(groups), len(runs), progress) as bar:
        if too_short and progress:
            bar.write(f"{steps:,} steps: running eagerly, compiling (10 to 30 s) would not pay back.", file=sys.stderr)
        for indices in groups.values():
            values = _run([runs[i] for i in indices], steps, ends, compile, bar, device)
            for name, array in values.items():
                # Programs may measure different things: NaN where one does not.
                empty = np.full((len(runs), len(ends)), np.nan, np.float32)
                results.setdefault(name, empty)[indices] = array
    # Weights that broke in the last step of a bin show in no loss of that bin.
    broken = ~np.isfinite(results["loss"]) | ~np.isfinite(results.get("weight_magnitude", results["loss"]))
    failed = np.logical_or.accumulate(broken, axis=1)
    for array in results.values():
        array[failed] = np.nan

    shape = tuple(len(axis) for axis in members.axes.values())
    dims = (*members.axes, "step")
    data = {
        name: (dims, results[name].reshape(*shape, len(ends)), {"long_name": long_name, "units": unit})
        for name, (long_name, unit) in VARIABLES.items()
        if name in results
    }
    coords: dict[str, Any] = {
        name: (dim, [_coordinate(value) for value in values]) for name, (dim, values) in members.coordinates().items()
    }
    coords["step"] = ("step", ends, {"long_name": "examples seen", "units": "examples"})
    attributes = {
        "experiment": json.dumps(base.to_dict()),
        "steps": steps,
        "bin": bin,
        "seconds": round(time.time() - started, 1),
        "compiled": int(compile),
        "members_with_nan": int(failed.any(1).sum()),
        **_versions(),
    }
    return xarray.Dataset(data, coords, attributes)


def surprises(runs: Sequence[Experiment], steps: int) -> list[str]:
    """What a person should know before a run starts: settings under which no unit can or is likely to be replaced."""
    messages = []
    cbp = [run for run in runs if run.reads("replacement_rate") and run.reads("maturity_threshold")]
    active = [run for run in cbp if run.replacement_rate > 0]
    young = sorted({run.maturity_threshold for run in active if steps <= run.maturity_threshold})
    if young:
        messages.append(
            f"no unit will be replaced: steps is {steps} and maturity_threshold {_join(young)}; a unit is only "
            "replaced when it is older"
        )
    idle = sorted(
        {
            (run.replacement_rate, max(run.hidden))
            for run in active
            if run.maturity_threshold < steps
            and run.replacement_rate * max(run.hidden) * (steps - run.maturity_threshold) < 1
        }
    )
    for units in sorted({units for _, units in idle}):
        rates = _join(rate for rate, n in idle if n == units)
        messages.append(
            f"no unit is expected to be replaced: replacement_rate {rates} x {units} units x {steps} steps gives less "
            "than one replacement in a layer"
        )
    return messages


def _join(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _run(
    runs: Sequence[Experiment],
    steps: int,
    ends: Sequence[int],
    compile: bool,
    bar: Any,
    device: torch.device | str | None,
) -> dict[str, np.ndarray]:
    """All members of one program, side by side: arrays ``(members, bins)`` by variable."""
    program = build_program(runs, device)
    numbers = {
        name: torch.tensor([program.number_of(run, name) for run in runs], dtype=torch.float64, device=device)
        for name in program.numbers
    }
    hyper = program.hyper({**numbers, "step_size": numbers["step_size"].to(torch.float32)})
    # Settings that share a seed share the data and the initial weights: comparisons between them are paired.
    seeds, seed_of_member = np.unique([run.seed for run in runs], return_inverse=True)
    keys = torch.vmap(lambda key: random.split(key))(random.key(torch.tensor(seeds, device=device)))
    member = torch.tensor(seed_of_member, device=device)
    problem = torch.vmap(program.stream.init)(keys[:, 0])
    learners = torch.vmap(program.learner.init)(keys[member, 1])

    def sample(problem: Any, length: int) -> Any:
        return torch.vmap(lambda state: program.stream.sample(state, length), out_dims=(0, 1))(problem)

    def member_step(carry: Any, batch: Any) -> Any:
        state, hyper = carry
        state, info = program.learner.step(state, batch, hyper)
        return (state, hyper), (info["loss"], program.counts(info))

    side_by_side = torch.vmap(member_step)

    def step(carry: Any, batch: Any) -> Any:
        *state, member = carry
        state, y = side_by_side(tuple(state), tuple(piece[member] for piece in batch))
        return (*state, member), y

    carry = (learners, hyper, member)
    probe = torch.vmap(program.probe)
    columns: dict[str, list[Tensor]] = {name: [] for name in program.measurements}
    counts = [name for name in experiments.COUNTS if name in columns]
    with _few_threads(carry):
        for start, end in itertools.pairwise((0, *ends)):
            losses = torch.zeros(len(runs), dtype=torch.float64, device=device)
            totals = {name: torch.zeros(len(runs), dtype=torch.int64, device=device) for name in counts}
            for length in _pieces(end - start):
                problem, batches = sample(problem, length)
                carry, (loss, count) = loop.scan(step, carry, batches, compile=compile)
                losses += loss.sum(0, dtype=torch.float64)
                for name in counts:
                    totals[name] += count[name].sum(0)
                bar.update(length)
            columns["loss"].append(losses / (end - start))
            _, batches = sample(problem, PROBE_SAMPLES)
            batch = tuple(piece[:, member].transpose(0, 1) for piece in batches)
            for name, value in (totals | probe(carry[0], batch)).items():
                columns[name].append(value)
    return {name: torch.stack(values, 1).to("cpu", torch.float32).numpy() for name, values in columns.items()}


@contextlib.contextmanager
def _few_threads(carry: Any) -> Iterator[None]:
    """One thread for the operations of a small population, as in its compiled program: on a busy machine threads that
    wait for one another make them a hundred times slower."""
    before = torch.get_num_threads()
    if sum(leaf.numel() for leaf in optree.tree_leaves(carry)) < loop.PARALLEL_FROM:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pieces(steps: int) -> list[int]:
    """Lengths of at most about ``CHUNK`` that sum to ``steps``; none is 1, which would be no loop to compile."""
    number = -(-steps // CHUNK)
    return [steps // number + (i < steps % number) for i in range(number)]


def _coordinate(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) else str(value)


def _versions() -> dict[str, str]:
    from fcbp import __version__

    return {"fcbp": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"sweeps need {name}; install it with: pip install 'fcbp[sweep]'") from None


def _bar(steps: int, members: int, progress: bool) -> Any:
    return _import("tqdm.auto").tqdm(
        total=steps, unit=" steps", unit_scale=True, desc=f"{members} members", disable=not progress
    )
