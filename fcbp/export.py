"""Results for other programs: CSV, Parquet, Weights & Biases, TensorBoard.

A table is in long form: a row for each member and bin, in the order of the results. Its columns are what the members
set, the bin (``step``, the last of the bin, or ``task``), ``examples`` where they are counted, and every measured
variable. A cell is empty where a member does not set a thing, or where it failed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp import analysis
from fcbp.checks import arguments
from fcbp.paths import expanded

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["frame", "to_csv", "to_parquet", "to_tensorboard", "to_wandb"]


@arguments
def frame(results: xarray.Dataset) -> pandas.DataFrame:
    """Return results as a table in long form; of an unfinished run, the bins that are there.

    Args:
        results: what :func:`fcbp.sweep` or :func:`fcbp.open` gave.

    Example:
        >>> import fcbp
        >>> members = fcbp.grid(seed=range(2), step_size=[0.01, 0.1])
        >>> results = fcbp.sweep(fcbp.Experiment(method="bp"), members, steps=40, bin=20, progress=False)
        >>> table = frame(results)
        >>> len(table), list(table.columns)[:5]
        (8, ['seed', 'step_size', 'step', 'loss', 'units_replaced'])
    """
    dimension = analysis.bins_of(results)
    order = [str(dim) for dim in results.dims if dim != dimension]
    table = results.to_dataframe(dim_order=[*order, dimension]).reset_index()
    variables = [str(name) for name in results.data_vars]
    if results.attrs.get("state", "finished") != "finished":
        table = table.dropna(how="all", subset=variables)
    settings = [name for name in table.columns if name not in (*variables, dimension, "step", "examples")]
    bins = [name for name in dict.fromkeys((dimension, "step", "examples")) if name in table.columns]
    return table[[*settings, *bins, *variables]].reset_index(drop=True)


@arguments
def to_csv(results: xarray.Dataset, path: Path | str) -> Path:
    """Write :func:`frame` as CSV: a line of names, then one for each row; UTF-8, numbers with all their digits.

    Raises:
        OSError: ``path`` cannot be written; what was there stays.
    """
    table = frame(results)
    with _whole(path) as part:
        table.to_csv(part, index=False)
    return Path(path)


@arguments
def to_parquet(results: xarray.Dataset, path: Path | str) -> Path:
    """Write :func:`frame` as Parquet.

    Raises:
        ImportError: the extra ``fcbp[parquet]`` is not installed.
        OSError: ``path`` cannot be written; what was there stays.
    """
    _need("pyarrow", "parquet")
    table = frame(results)
    with _whole(path) as part:
        table.to_parquet(part, index=False, engine="pyarrow")
    return Path(path)


@arguments
def to_wandb(results: xarray.Dataset, project: str, *, folder: Path | str | None = None) -> int:
    """Write a Weights & Biases run for each member: its settings are the run's configuration.

    Runs of one setting share a group. Nothing is sent, ``wandb sync`` does that, unless the environment variable
    ``WANDB_MODE`` says otherwise.

    Args:
        results: what :func:`fcbp.sweep` or :func:`fcbp.open` gave.
        project: the project's name.
        folder: where ``wandb/`` is made; by default the current directory.

    Returns:
        How many runs were written.

    Raises:
        ImportError: the extra ``fcbp[wandb]`` is not installed.
    """
    wandb = _need("wandb", "wandb")
    shared = analysis.experiment_of(results)
    place = None if folder is None else str(expanded("folder", folder))
    mode = os.environ.get("WANDB_MODE", "offline")
    number = 0
    for member, setting in _members(results):
        group = analysis.describe({name: value for name, value in setting.items() if name != "seed"}) or "all"
        run = wandb.init(
            project=project, name=analysis.describe(setting) or "member", group=group[:128],
            config={**shared, **setting}, mode=mode, dir=place, reinit=True,
        )  # fmt: skip
        for step, values in _points(member):
            run.log(values, step=step)
        run.finish()
        number += 1
    return number


@arguments
def to_tensorboard(results: xarray.Dataset, folder: Path | str) -> int:
    """Write TensorBoard's files, a run for each member, and give their number.

    Raises:
        ImportError: the extra ``fcbp[tensorboard]`` is not installed.
    """
    writers = _need("tensorboardX", "tensorboard")
    number = 0
    for member, setting in _members(results):
        words = ",".join(f"{name}={analysis.show(value)}" for name, value in setting.items())
        writer = writers.SummaryWriter(str(Path(folder) / (words.replace("/", "_").replace(" ", "") or "run")))
        for step, values in _points(member):
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        writer.close()
        number += 1
    return number


def _members(results: xarray.Dataset) -> Iterator[tuple[xarray.Dataset, dict[str, Any]]]:
    for at, setting in analysis.settings(results, over="step"):
        yield results.isel(at), setting


def _points(member: xarray.Dataset) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the bins of a member, each with what was measured and is a number."""
    places = member["step"] if "step" in member.coords else member[analysis.bins_of(member)]
    for i, step in enumerate(np.atleast_1d(places.values)):
        values = {str(name): float(column.values[i]) for name, column in member.data_vars.items()}
        finite = {name: value for name, value in values.items() if np.isfinite(value)}
        if finite:
            yield int(step), finite


@contextlib.contextmanager
def _whole(path: Path | str) -> Iterator[Path]:
    """Write to a file beside ``path`` that takes its place once it is whole."""
    place = expanded("path", path)
    if place.is_dir():
        raise ValueError(f"path is {str(path)!r}, which is a directory; expected a file's name")
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def _need(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"the export needs {module}; install it with: pip install 'fcbp[{extra}]'") from None
