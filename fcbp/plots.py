"""Pictures of a sweep's results."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

__all__ = ["learning_curves", "save", "sensitivity"]


def learning_curves(
    results: xarray.Dataset, variable: str = "loss", *, over: str = "seed", ax: Axes | None = None
) -> Axes:
    """A line for each setting: the mean over seeds against steps, in a band of one standard error.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables.
        over: the dimension that is averaged.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable`` or ``over`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    ax = _axes(ax)
    curves = _variable(results, variable)
    many = curves.sizes.get(over, 1) > 1
    lines = list(_settings(curves, keep=("step", over)))
    for (label, curve), style in zip(lines, _styles(len(lines)), strict=True):
        mean = curve.mean(over) if over in curve.dims else curve
        (line,) = ax.plot(curve["step"], mean, label=label, **style)
        if many:
            error = _standard_error(curve, over)
            ax.fill_between(
                curve["step"].values, mean - error, mean + error, color=line.get_color(), alpha=0.2, linewidth=0
            )
    ax.set_xlabel(_label(results["step"]))
    ax.set_ylabel(_label(curves))
    if many:
        ax.set_title(f"mean ± standard error of {curves.sizes[over]} {over}s", fontsize="medium")
    if any(label for label, _ in lines):
        ax.legend(fontsize="small")
    ax.margins(x=0.01)
    return ax


def sensitivity(
    results: xarray.Dataset,
    variable: str = "loss",
    *,
    across: str = "replacement_rate",
    over: str = "seed",
    last: float = 0.2,
    ax: Axes | None = None,
) -> Axes:
    """The end of the run against one setting: the mean of the last bins, with standard errors over seeds.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables.
        across: the swept setting on the horizontal axis; 0 has its place left of a logarithmic axis.
        over: the dimension that is averaged.
        last: the fraction of the run that counts as its end.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable``, ``across`` or ``over`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    ax = _axes(ax)
    if across not in results.dims:
        raise ValueError(
            f"across is {across!r}; expected one of the swept settings, {', '.join(map(str, results.dims))}"
        )
    values = end_of_run(_variable(results, variable), last)
    lines = list(_settings(values, keep=(across, over)))
    for (label, line_values), style in zip(lines, _styles(len(lines)), strict=True):
        line_values = line_values.sortby(across)
        mean = line_values.mean(over) if over in line_values.dims else line_values
        error = _standard_error(line_values, over) if over in line_values.dims else None
        ax.errorbar(line_values[across], mean, error, label=label, marker="o", capsize=3, **style)
    settings = np.asarray(results[across].values, float)
    positive = settings[settings > 0]
    if len(positive) > 1 and positive.max() >= 10 * positive.min():
        smallest = positive.min()
        ax.set_xscale("symlog", linthresh=smallest, linscale=0.5) if (settings == 0).any() else ax.set_xscale("log")
        ax.set_xticks(sorted(settings), [f"{value:g}" for value in sorted(settings)])
        ax.set_xticks([], minor=True)
    ax.set_xlabel(across.replace("_", " "))
    ax.set_ylabel(f"{_label(values)}, last {last:.0%} of the run")
    if any(label for label, _ in lines):
        ax.legend(fontsize="small")
    return ax


def save(results: xarray.Dataset, folder: Path) -> list[Path]:
    """Draw what the results allow into PNG files in ``folder``: learning curves, units replaced, sensitivity."""
    pyplot = _pyplot()
    pictures = []
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for ax, variable in zip(axes, ("loss", "inactive_units", "effective_rank"), strict=True):
        learning_curves(results, variable, ax=ax)
    pictures.append((figure, "learning_curves.png"))
    if results.sizes.get("replacement_rate", 1) > 1:
        figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
        sensitivity(results, ax=axes[0])
        learning_curves(results, "units_replaced", ax=axes[1])
        pictures.append((figure, "replacement_rate.png"))
    paths = []
    for figure, name in pictures:
        figure.savefig(folder / name, dpi=120)
        pyplot.close(figure)
        paths.append(folder / name)
    return paths


def end_of_run(values: xarray.DataArray, last: float = 0.2) -> xarray.DataArray:
    """The mean over the last bins."""
    bins = max(1, round(last * values.sizes["step"]))
    # A member that failed has NaN at the end, and its mean says so.
    return values.isel(step=slice(-bins, None)).mean("step", skipna=False, keep_attrs=True)


def settings_of(values: xarray.DataArray, keep: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], xarray.DataArray]]:
    """Every point of the dimensions but ``keep``, with its values."""
    dims = [dim for dim in values.dims if dim not in keep]
    for point in itertools.product(*(values[dim].values for dim in dims)):
        setting = dict(zip(map(str, dims), point, strict=True))
        yield setting, values.sel(setting)


def _settings(values: xarray.DataArray, keep: tuple[str, ...]) -> Iterator[tuple[str, xarray.DataArray]]:
    for setting, chosen in settings_of(values, keep):
        shown = {name: value for name, value in setting.items() if values.sizes[name] > 1}
        yield ", ".join(f"{name.replace('_', ' ')} {_show(value)}" for name, value in shown.items()), chosen


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float, np.number)) else str(value)


def _standard_error(values: xarray.DataArray, over: str) -> xarray.DataArray:
    return values.std(over, ddof=1) / np.sqrt(values.count(over))


def _styles(count: int) -> list[dict[str, Any]]:
    """A colour for each line; dashes once the colours are used up."""
    colors = [f"C{i}" for i in range(10)]
    dashes = ["-", "--", ":", "-."]
    return [{"color": colors[i % 10], "linestyle": dashes[i // 10 % 4]} for i in range(count)]


def _label(values: xarray.DataArray) -> str:
    unit = values.attrs.get("units", "1")
    name = values.attrs.get("long_name", str(values.name))
    return name if unit in ("1", name.split()[0]) else f"{name} ({unit})"


def _variable(results: xarray.Dataset, variable: str) -> xarray.DataArray:
    if variable not in results.data_vars:
        raise ValueError(f"variable is {variable!r}; expected one of {', '.join(map(str, results.data_vars))}")
    return results[variable]


def _axes(ax: Axes | None) -> Axes:
    return _pyplot().subplots(layout="constrained")[1] if ax is None else ax


def _pyplot() -> Any:
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise ImportError("plots need matplotlib; install it with: pip install 'fcbp[plot]'") from None
