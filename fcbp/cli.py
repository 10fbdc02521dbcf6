"""The ``fcbp`` command.

``fcbp run NAME`` runs a named experiment (several values after a flag sweep it), ``fcbp plot RUN`` draws a run's
pictures again, ``fcbp list`` tells what there is.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fcbp import analysis, designs, sweeps
from fcbp import experiment as experiments

if TYPE_CHECKING:
    import xarray

__all__ = ["main"]

STORE = "results.zarr"
CONFIG = "config.json"
SWEPT = {"replacement_rate": (0.0, 1e-4, 1e-3)}
"""Swept where the command line names no values: a run shows the loss of plasticity and its cure."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: by default those of the process.

    Returns:
        The exit status: 0, or 2 where an argument was wrong.
    """
    try:
        import tyro
    except ImportError:
        print("fcbp: the command needs tyro; install it with: pip install 'fcbp[cli]'", file=sys.stderr)
        return 2
    run_arguments = _run_arguments()
    command = tyro.extras.subcommand_cli_from_dict(
        {"run": run_arguments, "plot": tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(Plot), "list": List},
        prog="fcbp",
        description="Continual Backpropagation, vmapped over seeds and settings.",
        args=arguments,
        sort_subcommands=False,
    )
    try:
        return run(command) if isinstance(command, run_arguments) else command()
    except (ValueError, ImportError, OSError) as error:
        print(f"fcbp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nfcbp: interrupted; a run is written at its end, and this one had not ended", file=sys.stderr)
        return 130


def _run_arguments() -> type:
    """A dataclass with a flag for every setting of an experiment."""
    import tyro

    def flag(kind: Any, help: str) -> Any:
        return Annotated[kind, tyro.conf.arg(help=help)]

    names = f"one of: {', '.join(experiments.EXPERIMENTS)}"

    fields: list[tuple[str, Any, Any]] = [
        ("experiment", Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=names)], ...),
        ("seeds", flag(int, "number of seeds, from 0 on"), 10),
        ("steps", flag(int, "examples that every member sees"), 1_000_000),
        ("bin", flag(int | None, "examples averaged into one value; by default a fiftieth of the run"), None),
        ("out", flag(Path | None, "run directory, new or empty; by default runs/NAME-TIME"), None),
        ("compile", flag(bool | None, "by default where it pays back"), None),
        ("device", flag(str, "cpu or cuda"), "cpu"),
    ]
    helps = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(experiments.Experiment)}
    for name, default in experiments.setting_names().items():
        if name in ("seed", "steps", "bin", "metrics", "hidden"):
            continue
        kind = tuple[type(default), ...] if default is not None else tuple[str, ...]  # type: ignore[misc]
        values = SWEPT.get(name, (default,) if name in helps else None)
        fields.append((name, flag(kind if values else kind | None, helps.get(name, "")), values))
    fields.append(("hidden", flag(tuple[int, ...], "units of each hidden layer"), (5,)))
    arguments = dataclasses.make_dataclass(
        "Run",
        [(name, kind) if default is ... else (name, kind, default) for name, kind, default in fields],
    )
    arguments.__doc__ = "Run a named experiment; several values after a flag sweep it."
    return arguments


def run(arguments: Any) -> int:
    """Sweep, save, draw, and print a table."""
    base = experiments.get(arguments.experiment)
    out = arguments.out or Path("runs") / f"{arguments.experiment}-{time.strftime('%Y%m%d-%H%M%S')}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out is {out}, which exists and holds something; expected a new or an empty directory")
    if arguments.seeds < 1:
        raise ValueError(f"--seeds is {arguments.seeds}; expected the number of seeds, 1 or more")
    swept, fixed = {}, {"hidden": arguments.hidden}
    for name in experiments.setting_names():
        values = getattr(arguments, name, None)
        if name in ("hidden", "seed", "steps", "bin", "metrics") or values is None:
            continue
        if not values:
            raise ValueError(f"--{name.replace('_', '-')} has no value; expected at least one")
        if values == SWEPT.get(name) and "cbp" not in arguments.method:
            continue  # nothing would read them
        if len(values) > 1:
            swept[name] = values
        else:
            fixed[name] = values[0]
    members = designs.grid(seed=range(arguments.seeds), **swept)
    base = base.replace(**fixed)
    lengths = {"steps": arguments.steps} | ({"bin": arguments.bin} if arguments.bin is not None else {})
    experiments.check([base.replace(**lengths, **settings) for settings in members], members.names())

    out.mkdir(parents=True, exist_ok=True)  # what cannot be written should fail now and not after the sweep
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
            results = sweeps.sweep(
                base,
                members,
                steps=arguments.steps,
                bin=arguments.bin,
                compile=arguments.compile,
                device=arguments.device,
            )
    except BaseException:
        out.rmdir()
        raise
    save(results, out)
    print(analysis.table(results))
    print(
        f"\n{len(members)} members x {arguments.steps:,} steps in {results.attrs['seconds']:.0f} s; "
        f"{results.attrs['members_with_nan']} members with NaN"
    )
    print(f"data      {out / STORE}")
    _draw(results, out)
    return 0


@dataclass
class Plot:
    """Draw a run's pictures."""

    run: Path
    """run directory, such as `fcbp list` prints"""

    def __call__(self) -> int:
        _draw(load(self.run), self.run)
        return 0


@dataclass
class List:
    """List the named experiments, and the runs in a folder."""

    runs: Path = Path("runs")
    """where runs are"""

    def __call__(self) -> int:
        print("experiments")
        for name, experiment in experiments.EXPERIMENTS.items():
            print(f"  {name}: {experiment.describe()}")
        configs = sorted(self.runs.glob(f"*/{CONFIG}"))
        print(f"runs in {self.runs}/" if configs else f"no runs in {self.runs}/")
        for path in configs:
            attributes = json.loads(path.read_text())
            sizes = " x ".join(f"{size} {name}" for name, size in attributes["sizes"].items())
            print(f"  {path.parent}: {sizes}, {attributes['seconds']:.0f} s")
        return 0


def save(results: xarray.Dataset, out: Path) -> None:
    """Write a run directory: the results as Zarr, and the configuration beside them."""
    out.mkdir(parents=True, exist_ok=True)
    # Format 3 has no settled way to store the text of a swept activation.
    results.to_zarr(out / STORE, mode="w", consolidated=False, zarr_format=2)
    config = {**results.attrs, "experiment": json.loads(results.attrs["experiment"]), "sizes": dict(results.sizes)}
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load(path: Path) -> xarray.Dataset:
    """The results of a run directory.

    Raises:
        ValueError: there is no run.
    """
    import xarray

    if not (path / STORE).is_dir():
        raise ValueError(f"RUN is {path}, which holds no {STORE}; expected a run directory, such as `fcbp list` prints")
    return xarray.open_zarr(path / STORE, consolidated=False)


def _draw(results: xarray.Dataset, out: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no pictures: matplotlib is not installed; pip install 'fcbp[plot]'", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from fcbp import plots

    for path in plots.save(results, out):
        print(f"picture   {path}")


if __name__ == "__main__":
    sys.exit(main())
