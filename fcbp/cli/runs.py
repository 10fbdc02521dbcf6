"""The commands beside ``run``, most for runs that exist: ``resume``, ``ls``, ``show``, ``plot``, ``report``, ..."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcbp import analysis, export, sweeps, tuning
from fcbp import experiment as experiments
from fcbp.cli.about import Completion, Info
from fcbp.cli.bench import Bench
from fcbp.cli.page import page
from fcbp.cli.run import as_data, draw, duration, notes_on_stderr, places, print_tables, report, report_tuned
from fcbp.cli.words import as_json, experiments_by_kind
from fcbp.paths import expanded
from fcbp.sweeps.files import write
from fcbp.sweeps.folder import read_config

__all__ = ["COMMANDS"]


@dataclass
class Resume:
    """Go on with a run that was interrupted or killed."""

    run: Path
    """run directory, such as `fcbp ls` prints"""
    device: str | None = None
    """cpu or cuda"""
    devices: tuple[str, ...] = ()
    """all, a number of processes, or names"""
    backend: str | None = None
    """ray runs the members as tasks of a cluster"""
    address: str | None = None
    """of the Ray cluster, such as auto"""
    checkpoint_every: float = 60.0
    """seconds between two checkpoints"""
    accept_changes: bool = False
    """go on although the source of a part, or what can be compiled, has changed since the run began"""
    json: bool = False
    """as JSON: a row for each setting"""

    def __call__(self) -> int:
        if tuning.is_tuned(self.run):
            with notes_on_stderr():
                done = tuning.resume(self.run, **places(self), accept_changes=self.accept_changes)
            report_tuned(done, self.run, json=self.json)
            return 0
        with notes_on_stderr():
            results = sweeps.resume(self.run, **places(self), accept_changes=self.accept_changes)
        report(results, self.run, json=self.json)
        return 0


@dataclass
class Plot:
    """Draw a run's pictures; a run that is not finished is drawn as far as it goes."""

    run: Path
    """run directory, such as `fcbp ls` prints"""

    def __call__(self) -> int:
        for run in _sweeps_of(self.run):
            draw(_done_bins(sweeps.open(run)), run)
        return 0


@dataclass
class Show:
    """Print a run's tables again; a run that is not finished is printed as far as it goes."""

    run: Path
    """run directory, such as `fcbp ls` prints"""
    json: bool = False
    """as JSON: a row for each setting"""

    def __call__(self) -> int:
        found = [(run, _done_bins(sweeps.open(run))) for run in _sweeps_of(self.run)]
        if self.json:
            told = [as_data(run, results) for run, results in found]
            print(as_json(told[0] if len(told) == 1 else told))
            return 0
        for run, results in found:
            print_tables(results)
            print(f"data      {run / sweeps.STORE}")
        return 0


def _sweeps_of(run: Path) -> Sequence[Path]:
    """Return the run itself, or the sweeps of one whose settings were chosen and reported apart."""
    return tuning.sweeps_of(run) if tuning.is_tuned(run) else (run,)


@dataclass
class Report:
    """Write a run as one HTML page: settings, tables, pictures and versions; it opens without server or network."""

    run: Path
    """run directory, such as `fcbp ls` prints"""
    out: Path | None = None
    """file to write; by default report.html in the run directory"""

    def __call__(self) -> int:
        runs = _sweeps_of(self.run)
        if self.out is not None and len(runs) > 1:
            raise ValueError(
                f"out is {str(self.out)!r} for the {len(runs)} sweeps of {str(self.run)!r}; expected one of "
                f"{', '.join(map(str, runs))} as the run"
            )
        for run in runs:
            text = page(_done_bins(sweeps.open(run)), run.resolve().name)
            out = expanded("run", run) / "report.html" if self.out is None else expanded("--out", self.out)
            write(out, text.encode(errors="backslashreplace"))
            print(f"page      {out}")
        return 0


@dataclass
class List:
    """List the named experiments, and the runs in a folder: their settings and state."""

    runs: Path = Path("runs")
    """where runs are; `fcbp ls FOLDER` lists those alone"""
    named: bool = True
    """list the named experiments too"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        folder = expanded("--runs", self.runs)
        if not (self.named or self.runs == Path("runs") or folder.is_dir()):
            raise ValueError(f"runs is {str(self.runs)!r}, which is no folder; expected one with run directories in it")
        found = [path.parent for path in folder.glob(f"*/{sweeps.CONFIG}")]
        found += [run for path in folder.glob("*") if tuning.is_tuned(path) for run in tuning.sweeps_of(path)]
        paths = sorted(found)
        rows = [_described(path) for path in paths]
        if self.json:
            named = {"experiments": experiments_by_kind()} if self.named else {}
            print(as_json({**named, "runs": rows}))
            return 0
        if self.named:
            print("experiments")
            for name, experiment in experiments.EXPERIMENTS.items():
                print(f"  {name}: {experiment.describe()}")
        print(f"runs in {folder}/" if paths else f"no runs in {folder}/")
        if paths:
            columns = {name: [row.get(name, "") for row in rows] for name in rows[0]}
            print(analysis.columns(columns, left=True))
        return 0


def _described(path: Path) -> dict[str, str]:
    """Return a run in a line, of characters that can be shown."""
    row = {"run": str(path), "state": "damaged", "members": "", "steps": "", "time": "", "NaN": "", "settings": ""}
    try:
        config = read_config(path)
        sizes = {name: size for name, size in config["sizes"].items() if name not in analysis.BINS}
        what = config["experiment"] if "experiment" in config else config["program"]
        changed = {k: v for k, v in what.items() if v != DEFAULTS.get(k) and k not in ("steps", "bin")}
        row |= {
            "members": " x ".join(f"{size} {name}" for name, size in sizes.items()) or "1",
            "steps": f"{config['steps']:,}",
            "time": duration(config["seconds"]),
            "NaN": str(config["members_with_nan"]),
            "settings": analysis.describe(
                {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in changed.items()}
            ),
            "state": sweeps.state(path),
        }
    except Exception:  # whatever a file of somebody's may hold, the other runs are listed
        row = {**dict.fromkeys(row, ""), "run": str(path), "state": "damaged"}
    return {name: _printable(text) for name, text in row.items()}


def _printable(text: str, most: int = 300) -> str:
    """Return text without characters that move a terminal's cursor or change its colours."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return shown if len(shown) <= most else f"{shown[:most]}..."


DEFAULTS = json.loads(json.dumps(experiments.Experiment().to_dict()))


@dataclass
class Compare:
    """Tell how two runs differ, seed by seed: at their best, and in the settings that both have."""

    first: Path
    """a run directory"""
    second: Path
    """another"""
    variable: str | None = None
    """what is compared: by default the loss, or the first that was measured"""
    last: float = 0.2
    """the fraction of the runs that counts as their end"""
    json: bool = False
    """as JSON: an entry for each pair of settings, the best ones first"""

    def __call__(self) -> int:
        first, second = sweeps.open(self.first), sweeps.open(self.second)
        variable = self.variable or analysis.main_variable(first)
        differences = analysis.compare(first, second, variable, last=self.last)
        if self.json:
            about = {"first": self.first, "second": self.second, "variable": variable, "last": self.last}
            print(as_json({**about, "differences": differences}))
            return 0
        print(f"{variable}, last {self.last:.0%} of the run: {self.second} less {self.first}, paired by seed")
        print(analysis.differences_table(differences))
        return 0


@dataclass
class Export:
    """Write a run for other programs."""

    run: Path
    """run directory, such as `fcbp ls` prints"""
    tensorboard: Path | None = None
    """folder to write TensorBoard's files to, a run for each member"""
    csv: Path | None = None
    """file to write a table to, a row for each member and bin"""
    parquet: Path | None = None
    """the same table as Parquet"""
    wandb: str | None = None
    """project of Weights & Biases, a run for each member; offline unless WANDB_MODE says otherwise"""

    def __call__(self) -> int:
        given = {name: getattr(self, name) for name in ("csv", "parquet", "tensorboard", "wandb")}
        if not any(given.values()):
            raise ValueError(
                "export has nothing to write; expected --csv or --parquet and a file, --tensorboard and a folder, or "
                "--wandb and a project"
            )
        targets = {  # every flag is looked at before any work
            name: expanded(f"--{name}", path) for name, path in given.items() if path is not None and name != "wandb"
        }
        results = sweeps.open(self.run)
        for name, to_table in {"csv": export.to_csv, "parquet": export.to_parquet}.items():
            if name in targets:
                print(f"table     {to_table(results, targets[name])}")
        if "tensorboard" in targets:
            target = targets["tensorboard"]
            number = export.to_tensorboard(results, target)
            print(f"{number} members in {target}; to see them: tensorboard --logdir {target}")
        if self.wandb is not None:
            number = export.to_wandb(results, self.wandb)
            print(f"{number} members in wandb/; to send those that are offline: wandb sync --sync-all")
        return 0


def _done_bins(results: Any) -> Any:
    """Return the bins that are there for every member; of a finished run all."""
    if results.attrs.get("state", "finished") == "finished":
        return results
    values = results[analysis.main_variable(results)]
    dimension = analysis.bins_of(values)
    there = values.notnull().all([dim for dim in values.dims if dim != dimension]).values
    if not there.any():
        raise ValueError("RUN has no bin yet that every member has passed; expected at least one")
    return results.isel({dimension: there})


COMMANDS: dict[str, Any] = {
    "resume": Resume,
    "ls": List,
    "list": List,
    "show": Show,
    "plot": Plot,
    "report": Report,
    "compare": Compare,
    "export": Export,
    "bench": Bench,
    "info": Info,
    "completion": Completion,
}
