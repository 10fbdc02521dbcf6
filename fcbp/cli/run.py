"""``fcbp run``: from the command line to members, and from results to tables and pictures."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcbp import addresses, analysis, designs, sweeps, tuning
from fcbp import experiment as experiments
from fcbp.cli.flags import LENGTHS, Flag, Places, RunArguments, given
from fcbp.cli.subject import read
from fcbp.cli.words import as_json
from fcbp.designs import Members
from fcbp.experiment import Experiment, parts
from fcbp.paths import expanded
from fcbp.sweeps.files import fresh
from fcbp.sweeps.makers import FunctionMaker

if TYPE_CHECKING:
    import xarray

__all__ = ["as_data", "members_of", "notes_on_stderr", "print_tables", "report", "report_tuned", "run", "tuned_as_data"]

SEEDS = 10
TUNE_SEEDS, REPORT_SEEDS = 3, 20
MOST_SEEDS = 100_000
"""A sweep lists its members before it starts: more of them take minutes and the memory of the machine."""
CBP_SWEEP = {"replacement_rate": (0.0, 1e-4, 1e-3)}
"""The sweep of CBP alone where the command line names no numbers: so a run shows the loss of plasticity as well."""


def run(arguments: RunArguments, flags: Sequence[Flag]) -> int:
    """Sweep, save, draw, and print a table."""
    if arguments.resume and arguments.out is None:
        raise ValueError("--resume is given without --out; expected the directory of the run to go on with")
    if arguments.seeds is not None and not 1 <= arguments.seeds <= MOST_SEEDS:
        raise ValueError(
            f"--seeds is {arguments.seeds}; expected the number of seeds, 1 or more and at most {MOST_SEEDS:,}"
        )
    tuned = arguments.tune_seeds is not None or arguments.report_seeds is not None
    if tuned and arguments.seeds is not None:
        raise ValueError(
            f"--seeds is {arguments.seeds} beside --tune-seeds or --report-seeds; expected these two, which name the "
            "seeds of both sweeps"
        )
    subject, swept = read(arguments.experiment)
    values = {**swept, **given(arguments, flags)}
    if arguments.seeds is not None or "seed" not in values:
        values["seed"] = tuple(range(arguments.seeds or SEEDS))
    lengths: dict[str, Any] = {}
    notes: str | None = None
    if isinstance(subject, Experiment):
        problem = experiments.PROBLEMS.get(arguments.experiment)
        subject, members = members_of(subject, values, grid=arguments.grid, problem=problem)
        notes = experiments.to_yaml(subject, _swept(members, values))
        notes = notes if arguments.grid else f"# run with --no-grid\n{notes}"
    else:
        lengths = {name: values.pop(name)[0] for name in LENGTHS if name in values}
        subject, members = _members_of_program(subject, values)
    name = f"{_short(arguments.experiment)}-{time.strftime('%Y%m%d-%H%M%S')}"
    place = fresh(Path("runs") / name) if arguments.out is None else nullcontext(expanded("--out", arguments.out))
    how = {"accept_changes": arguments.accept_changes, "compile": arguments.compile, **places(arguments)}
    how |= {"members_at_once": arguments.members_at_once, "notes": notes}
    how |= {**lengths, "resume": arguments.resume}
    if tuned:
        with place as out, notes_on_stderr():
            done = _tuned(subject, members, arguments, out, how)
        report_tuned(done, out, json=arguments.json)
        return 0
    with place as out, notes_on_stderr():
        results = sweeps.sweep(subject, members, out=out, **how)
    report(results, out, json=arguments.json)
    return 0


def _tuned(
    subject: Experiment | FunctionMaker, members: Members, arguments: RunArguments, out: Path, how: Mapping[str, Any]
) -> tuning.Tuned:
    first = next(iter(members)).get("seed")
    return tuning.tune(
        subject,
        [_without_seed(settings, subject) for settings in members if settings.get("seed") == first],
        variable=arguments.choose_by,
        over=arguments.choose_over,
        apart=[name.replace("-", "_") for name in arguments.choose_apart],
        out=out,
        tune_seeds=TUNE_SEEDS if arguments.tune_seeds is None else arguments.tune_seeds,
        report_seeds=REPORT_SEEDS if arguments.report_seeds is None else arguments.report_seeds,
        **how,
    )


def _without_seed(settings: Mapping[str, Any], subject: Experiment | FunctionMaker) -> dict[str, Any]:
    """Return a member's setting, with the experiment's method where it names none."""
    method = {"method": subject.method} if isinstance(subject, Experiment) else {}
    return {**method, **{name: value for name, value in settings.items() if name != "seed"}}


def report_tuned(done: tuning.Tuned, out: Path, *, json: bool = False) -> None:
    """Print the choices and their results, and draw pictures."""
    if json:
        pictures = [path for name, found in _sweeps_of(done) for path in drawn(found, out / name)]
        print(as_json({**tuned_as_data(done, out), "pictures": pictures}))
        return
    print(tuning.table(done))
    for name, results in _sweeps_of(done):
        print(f"\n{name}: {duration(results.attrs['seconds'])}, {results.attrs['members_with_nan']} members with NaN")
        if _has_programs(results):
            print(analysis.times(results))
        print(f"data      {out / name / sweeps.STORE}")
        draw(results, out / name)


def _sweeps_of(done: tuning.Tuned) -> tuple[tuple[str, xarray.Dataset], ...]:
    """Return the sweep that settings were chosen by and the one that reports them, each with the name of its folder."""
    return (tuning.TUNE, done.tune), (tuning.REPORT, done.report)


def as_data(run: Path, results: xarray.Dataset) -> dict[str, Any]:
    """Return the tables of a run as plain data, a row for each setting."""
    about = {name: results.attrs[name] for name in ("state", "steps", "seconds", "members_with_nan")}
    rows = analysis.summary(results)
    lost = analysis.lost_plasticity(results) if _has_baseline({row.method for row in rows}) else []
    return {"run": run, **about, "variable": analysis.main_variable(results), "rows": rows, "lost_plasticity": lost}


def _has_baseline(methods: set[str | None]) -> bool:
    """Tell whether methods are there to compare with learners that are begun anew."""
    return len(methods) > 1 and "fresh" in methods


def tuned_as_data(done: tuning.Tuned, out: Path) -> dict[str, Any]:
    """Return the choices of a tuning, and the tables of both sweeps, as plain data."""
    return {"choices": done.choices, **{name: as_data(out / name, found) for name, found in _sweeps_of(done)}}


def _short(name: str) -> str:
    """Return a name for a run directory: of a file its stem, of an address its last word."""
    return name.rpartition(":")[2] if addresses.is_address(name) else Path(name).stem


def _members_of_program(maker: FunctionMaker, values: Mapping[str, tuple[Any, ...]]) -> tuple[FunctionMaker, Members]:
    """Return the program with all that has one value, and the grid of the rest.

    Where several programs have not the same numbers, each is listed with every combination of those that it has.
    """
    fixed = {name: column[0] for name, column in values.items() if len(column) == 1 and name != "seed"}
    crossed = {name: column for name, column in values.items() if name not in fixed}
    options = {**dict(maker.options), **{name: value for name, value in fixed.items() if name in maker.defaults}}
    chosen = {name: column for name, column in crossed.items() if name in maker.defaults}
    programs = [dict(zip(chosen, point, strict=True)) for point in itertools.product(*chosen.values())]
    base = FunctionMaker(maker.given, tuple(options.items()))
    known = [base.make([program]).numbers for program in programs]
    numbers = [name for name in values if name not in maker.defaults and name != "seed"]
    own = [name for name in numbers if any(name in k for k in known) and not all(name in k for k in known)]
    options |= {name: value for name, value in fixed.items() if name not in own}
    maker = FunctionMaker(maker.given, tuple(options.items()))
    if not own:
        return maker, designs.grid(**crossed)
    rows = []
    for program, reads in zip(programs, known, strict=True):
        columns = {name: values[name] for name in own if name in reads}
        rows += [
            {**program, **dict(zip(columns, point, strict=True))} for point in itertools.product(*columns.values())
        ]
    rest = {name: column for name, column in crossed.items() if name not in chosen and name not in own}
    seeds = {"seed": rest.pop("seed")} if "seed" in rest else {}
    return maker, designs.listed(rows, **rest, **seeds)


def _swept(members: Members, values: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """Return the sweep in a file that gives these members again; of several methods, the words of the command line."""
    axes = {name: axis for name, axis in members.axes.items() if name != "setting"}
    listed = {name for row in members for name in row} if "setting" in members.axes else set()
    return axes | {name: column for name, column in values.items() if name in listed and name not in axes}


def members_of(
    base: Experiment,
    values: Mapping[str, tuple[Any, ...]],
    *,
    grid: bool = True,
    problem: experiments.Problem | None = None,
) -> tuple[Experiment, Members]:
    """Return the experiment that all members share, and the members.

    Of one method, they are the grid of everything that has several values. Of several, each method is listed with every
    combination of those values that it reads, and everything else is crossed with them. The numbers of a method's small
    grid that are not given have the grid's values.

    Args:
        base: what the values change.
        values: by setting; the order is the results'.
        grid: ``False``: with its defaults instead.
        problem: the published problem that ``base`` is of; each method has the settings published for it.
    """
    methods = values.get("method", (base.method,))
    own = {name for method in methods for name in parts.method(method).defaults}
    shared = {name: column for name, column in values.items() if name not in own and name != "method"}
    fixed = {name: column[0] for name, column in shared.items() if len(column) == 1 and name != "seed"}
    crossed = {name: column for name, column in shared.items() if name not in fixed and name != "seed"}
    seeds = {"seed": values["seed"]} if "seed" in values else {}
    runs = [
        (base if problem is None or method == base.method else problem.with_method(method)).replace(
            **fixed, method=method
        )
        for method in methods
    ]
    if len(runs) == 1:
        (first,) = runs
        columns = _numbers(first, values, own, CBP_SWEEP if methods[0] == "cbp" else None, grid)
        base = first.replace(**{name: column[0] for name, column in columns.items() if len(column) == 1})
        columns = {name: column for name, column in columns.items() if len(column) > 1}
        return base, designs.grid(**seeds, **crossed, **columns)
    base = base.replace(**fixed).replace(method=methods[0])
    rows = []
    for method, run in zip(methods, runs, strict=True):
        changed = {name: value for name, value in run.changes_from(base).items() if name not in crossed}
        columns = _numbers(run, values, own, None, grid)
        rows += [
            {"method": method, **changed, **dict(zip(columns, point, strict=True))}
            for point in itertools.product(*columns.values())
        ]
    return base, designs.listed(rows, **crossed, **seeds)


def _numbers(
    run: Experiment,
    values: Mapping[str, tuple[Any, ...]],
    own: set[str],
    instead: Mapping[str, tuple[float, ...]] | None,
    grid: bool,
) -> dict[str, tuple[Any, ...]]:
    """Return the values of what a method reads; of the numbers of its small grid that are not given, the grid's."""
    columns = {name: column for name, column in values.items() if name in own and run.reads(name)}
    small = parts.kind(run.method).grid if instead is None else instead
    return {**{name: column for name, column in small.items() if grid and name not in dict(run.settings)}, **columns}


def places(arguments: Places) -> dict[str, Any]:
    """Return the keywords of :func:`fcbp.sweep` that say where members run."""
    devices: Any = None
    if arguments.devices:
        devices = list(arguments.devices)
        if len(devices) == 1:
            devices = int(devices[0]) if devices[0].isdigit() else devices[0]
        if isinstance(devices, str) and devices != "all":
            devices = [devices]
    return {
        "device": arguments.device,
        "devices": devices,
        "backend": arguments.backend,
        "address": arguments.address,
        "checkpoint_every": arguments.checkpoint_every,
    }


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Print warnings as lines that a person reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _note
        yield


def _note(message: Warning | str, *_: Any, **__: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads them: stderr is closed
        print(f"note: {message}", file=sys.stderr)


def print_tables(results: xarray.Dataset) -> None:
    """Print the results of the members, and the time they took."""
    print(analysis.table(results))
    methods = {row.method for row in analysis.summary(results)}
    if len(methods) > 1:
        print(f"\n{analysis.ranking(results)}")
    if _has_baseline(methods):
        print("\nloss of plasticity: the difference to fresh, paired by seed, last fifth of the run")
        print(analysis.lost_table(results))
    if _has_programs(results):
        print(f"\n{analysis.times(results)}")
    members = results[analysis.main_variable(results)].size // results.sizes[analysis.bins_of(results)]
    print(
        f"\n{members} members x {results.attrs['steps']:,} steps in {duration(results.attrs['seconds'])}; "
        f"{results.attrs['members_with_nan']} members with NaN"
    )


def _has_programs(results: xarray.Dataset) -> bool:
    """Tell whether several programs ran, whose times a table compares."""
    return len(json.loads(results.attrs.get("programs", "[]"))) > 1


def report(results: xarray.Dataset, out: Path, *, json: bool = False) -> None:
    """Print the tables and the paths, and draw pictures."""
    if json:
        print(as_json({**as_data(out, results), "pictures": drawn(results, out)}))
        return
    print_tables(results)
    print(f"data      {out / sweeps.STORE}")
    draw(results, out)


def duration(seconds: float) -> str:
    """Write a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def draw(results: xarray.Dataset, out: Path) -> None:
    """Draw the pictures that the results allow, and print the paths."""
    for path in drawn(results, out):
        print(f"picture   {path}")


def drawn(results: xarray.Dataset, out: Path) -> list[Path]:
    """Draw the pictures that the results allow, and return the paths."""
    try:
        import matplotlib
    except ImportError:
        print("no pictures: matplotlib is not installed; pip install 'fcbp[plot]'", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    from fcbp import plots

    return list(plots.save(results, expanded("run", out)))
