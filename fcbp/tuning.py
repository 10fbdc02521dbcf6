"""Choosing and reporting apart: each method's settings are chosen on some seeds, and its best is reported on others.

A setting that was the best of many on some seeds looks better on these than it is; on fresh seeds it does not.

>>> import fcbp
>>> settings = [{"method": "bp", "step_size": s} for s in (0.001, 0.01)]
>>> settings += [{"method": "l2", "strength": s} for s in (1e-4, 1e-3)]
>>> tuned = tune(fcbp.Experiment(steps=200, bin=50), settings, tune_seeds=2, report_seeds=3, progress=False)
>>> [choice.method for choice in tuned.choices], tuned.report.seed.values.tolist()
(['bp', 'l2'], [2, 3, 4])
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp import analysis, designs, sweeps
from fcbp.analysis import Setting
from fcbp.checks import arguments
from fcbp.designs import Members, plain
from fcbp.paths import expanded
from fcbp.sweeps import files
from fcbp.sweeps.folder import Folder, read_plan

if TYPE_CHECKING:
    import xarray

    from fcbp.experiment import Experiment
    from fcbp.program import Program
    from fcbp.sweeps.makers import Maker

__all__ = ["Choice", "Tuned", "is_tuned", "resume", "sweeps_of", "table", "tune"]

NAME = "tuning.json"
TUNE, REPORT, TABLE = "tune", "report", "table.txt"


@dataclass(frozen=True)
class Choice:
    """A method's best setting, and what it was chosen from."""

    method: str
    setting: Setting
    """The settings of the members of the report."""
    tried: int
    """The number of settings of the method that were tried."""
    value: float
    """Its mean over the tuning seeds."""
    place: int
    """Its place among the settings of the tuning sweep, and its method's among those of the report."""


@dataclass(frozen=True)
class Tuned:
    """The choices made on some seeds, and their results on others."""

    choices: tuple[Choice, ...]
    tune: xarray.Dataset
    """Results of all settings on the tuning seeds, along ``setting``."""
    report: xarray.Dataset
    """Results of the chosen settings on fresh seeds, along ``setting``, in the order of ``choices``."""
    variable: str
    """The variable by which settings were chosen."""
    over: float
    """The last fraction of the run whose mean was compared; 1 is the whole run."""

    @property
    def budgets(self) -> dict[str, int]:
        """The number of settings of each method that were tried."""
        return {choice.method: choice.tried for choice in self.choices}


@arguments
def tune(
    experiment: str | Experiment | Program | Callable[..., Program] | Maker,
    settings: Members | Iterable[Mapping[str, Any]],
    *,
    tune_seeds: int = 3,
    report_seeds: int = 20,
    variable: str | None = None,
    over: float = 1.0,
    apart: Sequence[str] = (),
    out: Path | str | None = None,
    resume: bool = False,
    **how: object,
) -> Tuned:
    """Run all settings on some seeds, choose each method's best, and run these on fresh seeds.

    The seeds of tuning are ``0`` to ``tune_seeds - 1``, those of the report the ``report_seeds`` that follow. A setting
    of which a seed became NaN is not chosen where another is left. Kumar et al. (arXiv 2308.11958, App. A.1) choose on
    3 seeds and report on 10 fresh ones; Patterson et al. (JMLR 2024, Sec. 4) say why.

    Args:
        experiment: what :func:`fcbp.sweep` takes.
        settings: of each setting its values by name; or a design without seeds. Settings with one ``method`` compete;
            without methods all do.
        tune_seeds: how many seeds settings are chosen on.
        report_seeds: how many fresh seeds the chosen ones are reported on.
        variable: by which settings are chosen; by default the accuracy where it is measured, else the loss or the first
            variable.
        over: the last fraction of the run whose mean is compared: 1 is the whole run.
        apart: settings that do not compete where they differ in these, such as ``("weight_decay",)``: a method with and
            without is reported as two.
        out: directory for both sweeps, ``tune`` and ``report``; by default nothing is written.
        resume: where ``out`` holds this, go on with it.
        how: other arguments of :func:`fcbp.sweep`.

    Raises:
        ValueError: a number of seeds is not positive, a setting has a seed of its own, ``over`` is no fraction, or what
            :func:`fcbp.sweep` raises.

    Warns:
        UserWarning: methods have different numbers of settings: more are likelier to hold a good one.
    """
    for name, value in (("tune_seeds", tune_seeds), ("report_seeds", report_seeds)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a number of seeds, 1 or more")
    if isinstance(over, bool) or not isinstance(over, (int, float)) or not 0 < over <= 1:
        raise ValueError(f"over is {over!r}; expected a fraction of the run, above 0 and at most 1")
    rows = [{name: plain(value) for name, value in row.items()} for row in settings]
    if any("seed" in row for row in rows):
        raise ValueError("settings have 'seed'; expected none, for tune_seeds and report_seeds choose the seeds")
    for name in apart:
        if not any(name in row for row in rows):
            raise ValueError(f"apart has {name!r}, which no setting has; expected names of theirs")
    members = designs.listed(rows, seed=range(tune_seeds))
    if len({_method(row, apart) for row in rows}) != len(rows) and (note := _unequal(rows, apart)):
        warnings.warn(note, UserWarning, stacklevel=3)
    kept = {
        "settings": rows, "tune_seeds": tune_seeds, "report_seeds": report_seeds, "variable": variable, "over": over,
        "apart": list(apart), "notes": how.get("notes"),
    }  # fmt: skip
    folder = None if out is None else _prepared(expanded("out", out), kept, resume)
    return _run(experiment, members, rows, kept, folder, how)


@arguments
def resume(out: Path | str, **how: object) -> Tuned:
    """Go on with a tuning that was interrupted or killed, to the same bits as if it had not been.

    Args:
        out: that of :func:`tune`.
        how: arguments of :func:`fcbp.sweep` that say where and how it runs.

    Raises:
        ValueError: ``out`` holds no tuning, or it was killed before it began.
    """
    path = expanded("out", out)
    if not is_tuned(path):
        raise ValueError(f"out is {str(path)!r}, which holds no {NAME}; expected the directory of a tuning")
    kept = files.read_sealed(files.Directory(path), NAME)
    rows = [{name: plain(value) for name, value in row.items()} for row in kept["settings"]]
    folder = Folder(path / TUNE)
    try:
        plan = read_plan(folder)
    finally:
        folder.release()
    lengths = {} if hasattr(plan.maker, "base") else {"steps": plan.steps, "bin": plan.bin}
    members = designs.listed(rows, seed=range(kept["tune_seeds"]))
    return _run(plan.maker, members, rows, kept, path, {"notes": kept.get("notes"), **lengths, **how})


@arguments
def is_tuned(out: Path | str) -> bool:
    """Tell whether a directory holds a tuning."""
    return (Path(out) / NAME).is_file()


@arguments
def sweeps_of(out: Path | str) -> list[Path]:
    """Return the run directories of a tuning that are there: that of the tuning seeds, and that of the report."""
    paths = (Path(out) / TUNE, Path(out) / REPORT)
    return [path for path in paths if (path / sweeps.CONFIG).is_file()]


@arguments
def table(tuned: Tuned, *, baseline: str = "fresh", last: float = 0.1) -> str:
    """Show each choice, the number of settings that it was made from, and its result on fresh seeds.

    Args:
        tuned: what :func:`tune` returned.
        baseline: a method that the others are compared with, paired by seed, where it was run.
        last: the fraction of the run that counts as its end.
    """
    variable, seeds = tuned.variable, tuned.report.sizes["seed"]
    whole, end = (_rows(tuned, fraction) for fraction in (tuned.over, last))
    order = sorted(range(len(whole)), key=lambda i: _rank(whole[i].end, variable))
    span = _span(tuned.over)
    cells = {
        "method": [tuned.choices[i].method for i in order],
        "chosen": [analysis.describe(analysis.others(tuned.choices[i].setting)) or "-" for i in order],
        "tried": [str(tuned.choices[i].tried) for i in order],
        f"tuning seeds, {span}": [f"{tuned.choices[i].value:.3f}" for i in order],
        f"fresh seeds, {span}": [_with_error(whole[i]) for i in order],
        f"{analysis.LEVEL:.0%} interval": [_interval(whole[i]) for i in order],
        f"fresh seeds, {_span(last)}": [_with_error(end[i]) for i in order],
    }
    number = tuned.tune.sizes["seed"]
    head = (
        f"{variable.replace('_', ' ')}: each method's setting is the best by its mean over {span} on seeds 0 to "
        f"{number - 1}; reported on seeds {number} to {number + seeds - 1}"
    )
    lines = [head, analysis.columns(cells)]
    if note := _budget_note(tuned.budgets):
        lines.append(note)
    if baseline in tuned.budgets and len(tuned.choices) > 1:
        lines += [
            "",
            f"loss of plasticity: the difference to {baseline}, paired by seed, {_span(last)}",
            analysis.lost_table(_by_method(tuned), variable, baseline=baseline, last=last),
        ]
    return "\n".join(lines)


def _run(
    experiment: Any,
    members: Members,
    rows: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Any],
    folder: Path | None,
    how: Mapping[str, Any],
) -> Tuned:
    given = {**how, "resume": folder is not None}
    first = sweeps.sweep(experiment, members, out=None if folder is None else folder / TUNE, **given)
    variable = kept["variable"] or analysis.chosen_variable(first)
    choices = _choose(first, rows, variable, kept["over"], kept.get("apart", ()))
    seeds = range(kept["tune_seeds"], kept["tune_seeds"] + kept["report_seeds"])
    chosen = designs.listed([rows[choice.place] for choice in choices], seed=seeds)
    second = sweeps.sweep(experiment, chosen, out=None if folder is None else folder / REPORT, **given)
    tuned = Tuned(choices, first, second, variable, kept["over"])
    if folder is not None:
        files.write(folder / TABLE, f"{table(tuned)}\n".encode())
    return tuned


def _prepared(path: Path, kept: Mapping[str, Any], resume: bool) -> Path:
    """Return the directory, with what it is a tuning of."""
    directory = files.Directory(path, create=True)
    if is_tuned(path):
        if not resume:
            raise ValueError(
                f"out is {str(path)!r}, which holds a tuning; expected a new or an empty directory, or resume=True"
            )
        there, here = files.read_sealed(directory, NAME), _plain(kept)
        for name, value in here.items():
            if there.get(name, [] if name == "apart" else None) != value and name != "notes":
                raise ValueError(
                    f"out is {str(path)!r}, which holds another tuning: {name} is {there.get(name)!r} there and "
                    f"{value!r} here"
                )
        return path
    if any(path.iterdir()):
        raise ValueError(f"out is {str(path)!r}, which is not empty; expected a new or an empty directory")
    files.write_sealed(directory, NAME, kept)
    return path


def _plain(kept: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(kept), default=str))
    return plain


def _choose(
    results: xarray.Dataset,
    rows: Sequence[Mapping[str, Any]],
    variable: str,
    over: float,
    apart: Sequence[str] = (),
) -> tuple[Choice, ...]:
    found = analysis.summary(results, variable, last=over)
    values = [(row.failed > 0, _rank(row.end, variable), place, row.end) for place, row in enumerate(found)]
    best: dict[str, tuple[Any, ...]] = {}
    for value, row in zip(values, rows, strict=True):
        method = _method(row, apart)
        best[method] = min(best.get(method, value), value)
    tried = [_method(row, apart) for row in rows]
    return tuple(
        Choice(method, dict(rows[place]), tried.count(method), end, place)
        for method, (_, _, place, end) in best.items()
    )


def _method(row: Mapping[str, Any], apart: Sequence[str] = ()) -> str:
    """Name the method of a setting. Settings of one name compete; a number that sets them apart is named where it is
    not 0."""
    told = {name: row[name] for name in apart if row.get(name)}
    return str(row.get("method", "all")) + (f" with {analysis.describe(told)}" if told else "")


def _rank(value: float, variable: str) -> float:
    if not np.isfinite(value):
        return float("inf")
    return -value if analysis.is_higher_better(variable) else value


def _rows(tuned: Tuned, last: float) -> list[analysis.Row]:
    """Return the result of each choice on the fresh seeds."""
    return analysis.summary(tuned.report, tuned.variable, last=last)


def _by_method(tuned: Tuned) -> xarray.Dataset:
    """Return the report with each setting's method, also where only one differs."""
    return tuned.report.assign_coords(method=("setting", [choice.method for choice in tuned.choices]))


def _with_error(row: analysis.Row) -> str:
    failed = f", {row.failed} NaN" if row.failed else ""
    return f"{row.end:.3f}" + (f" ± {row.error:.3f}" if np.isfinite(row.error) else "") + failed


def _interval(row: analysis.Row) -> str:
    return f"{row.low:.3f} to {row.high:.3f}" if np.isfinite(row.low) else ""


def _span(fraction: float) -> str:
    return "the whole run" if fraction == 1 else f"last {fraction:.0%}"


def _unequal(rows: Sequence[Mapping[str, Any]], apart: Sequence[str]) -> str:
    methods = [_method(row, apart) for row in rows]
    return _budget_note({method: methods.count(method) for method in methods})


def _budget_note(budgets: Mapping[str, int]) -> str:
    """Return a sentence where methods have different numbers of settings."""
    if len(set(budgets.values())) < 2:
        return ""
    told = ", ".join(f"{method} {number}" for method, number in budgets.items())
    return f"budgets differ: settings tried are {told}; more are likelier to hold a good one"
