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
    from matplotlib.figure import Figure

__all__ = ["learning_curves", "save", "sensitivity"]

Setting = dict[str, Any]


def learning_curves(
    results: xarray.Dataset,
    variable: str = "loss",
    *,
    over: str = "seed",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """A line for each setting: the mean over seeds against steps, in a band of one standard error.

    Where two settings were swept, one has the colours and the other the dashes.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables.
        over: the dimension that is averaged.
        legend: name the lines, and say above them what they are the mean of.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    curves = _variable(results, variable)
    ax = _axes(ax)
    for curve, label, style in _lines(curves, keep=("step", over)):
        mean, error = _mean_and_error(curve, over)
        (line,) = ax.plot(curve["step"], mean, label=label, **style)
        if error is not None:
            low, high = mean - error, mean + error
            ax.fill_between(curve["step"].values, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    ax.set_xlabel(_label(results["step"]))
    ax.set_ylabel(_label(curves))
    ax.xaxis.set_major_formatter(_matplotlib("ticker").EngFormatter(sep=""))
    ax.xaxis.set_major_locator(_matplotlib("ticker").MaxNLocator(6))
    ax.margins(x=0.01)
    if legend:
        ax.set_title(_what_is_drawn(curves, over), fontsize="medium")
        _legend(ax)
    return ax


def sensitivity(
    results: xarray.Dataset,
    variable: str = "loss",
    *,
    across: str = "replacement_rate",
    over: str = "seed",
    last: float = 0.2,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """The end of the run against one setting: the mean of the last bins, with standard errors over seeds.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables.
        across: the swept setting on the horizontal axis; 0 has its place left of a logarithmic axis.
        over: the dimension that is averaged.
        last: the fraction of the run that counts as its end.
        legend: name the lines, and say above them what they are the mean of.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable`` or ``across`` is not in ``results``, or ``last`` is no fraction.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    curves = _variable(results, variable)
    swept = [str(dim) for dim in curves.dims if dim not in ("step", over)]
    if across not in swept:
        raise ValueError(f"across is {across!r}; expected one of the swept settings, {', '.join(swept) or '(none)'}")
    values = end_of_run(curves, last)
    ax = _axes(ax)
    numeric = np.issubdtype(results[across].dtype, np.number)
    for line, label, style in _lines(values, keep=(across, over)):
        line = line.sortby(across) if numeric else line
        mean, error = _mean_and_error(line, over)
        where = line[across].values if numeric else range(line.sizes[across])
        bars = None if error is None else error.values
        ax.errorbar(where, mean.values, bars, label=label, marker="o", capsize=3, **style)
    if numeric:
        _scale(ax, np.sort(results[across].values.astype(float)))
    else:
        ax.set_xticks(range(results.sizes[across]), [_show(value) for value in results[across].values])
    ax.set_xlabel(across.replace("_", " "))
    ax.set_ylabel(f"{_label(values)}, last {last:.0%} of the run")
    if legend:
        ax.set_title(_what_is_drawn(curves, over), fontsize="medium")
        _legend(ax)
    return ax


def save(results: xarray.Dataset, folder: Path) -> list[Path]:
    """Draw what the results allow into PNG files in ``folder``: learning curves, units replaced, sensitivity."""
    pictures = [(_curves_picture(results), "learning_curves.png")]
    if results.sizes.get("replacement_rate", 1) > 1:
        pictures.append((_rates_picture(results), "replacement_rate.png"))
    paths = []
    for figure, name in pictures:
        figure.savefig(folder / name, dpi=120)
        _matplotlib("pyplot").close(figure)
        paths.append(folder / name)
    return paths


def _curves_picture(results: xarray.Dataset) -> Figure:
    figure, axes = _matplotlib("pyplot").subplots(1, 3, figsize=(15, 5), layout="constrained")
    for ax, variable in zip(axes, ("loss", "inactive_units", "effective_rank"), strict=True):
        learning_curves(results, variable, legend=False, ax=ax)
    figure.suptitle(_what_is_drawn(results["loss"], "seed"), fontsize="medium")
    _legend_below(figure, axes[0], columns=4)
    return figure


def _rates_picture(results: xarray.Dataset) -> Figure:
    figure, axes = _matplotlib("pyplot").subplots(1, 2, figsize=(11, 5), layout="constrained")
    sensitivity(results, legend=False, ax=axes[0])
    _legend(axes[0])
    replaced = results["units_replaced"]
    so_far = replaced.cumsum("step", skipna=False).assign_coords(step=results["step"])
    so_far.attrs = {"long_name": "units replaced so far", "units": "units"}
    learning_curves(results.assign(units_replaced=so_far), "units_replaced", legend=False, ax=axes[1])
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_ylim(bottom=0)
    figure.suptitle(_what_is_drawn(results["loss"], "seed"), fontsize="medium")
    _legend_below(figure, axes[1], columns=3)
    return figure


def end_of_run(values: xarray.DataArray, last: float = 0.2) -> xarray.DataArray:
    """The mean over the last bins."""
    if not 0 < last <= 1:
        raise ValueError(f"last is {last!r}; expected a fraction of the run, above 0 and at most 1")
    bins = max(1, round(last * values.sizes["step"]))
    # A member that failed has NaN at the end, and its mean says so.
    return values.isel(step=slice(-bins, None)).mean("step", skipna=False, keep_attrs=True)


def settings_of(values: xarray.DataArray, keep: tuple[str, ...]) -> Iterator[tuple[Setting, xarray.DataArray]]:
    """Every point of the dimensions but ``keep``, with its values."""
    dims = [str(dim) for dim in values.dims if dim not in keep]
    for index in itertools.product(*(range(values.sizes[dim]) for dim in dims)):
        chosen = values.isel(dict(zip(dims, index, strict=True)))
        yield {dim: chosen[dim].values[()] for dim in dims}, chosen


# --- parts ----------------------------------------------------------------------------------------------


def _lines(values: xarray.DataArray, keep: tuple[str, ...]) -> Iterator[tuple[xarray.DataArray, str, dict[str, Any]]]:
    """Each setting's values, its label, and its style."""
    dims = [str(dim) for dim in values.dims if dim not in keep and values.sizes[dim] > 1]
    lines = list(settings_of(values, keep))
    styles = _styles([values.sizes[dim] for dim in dims])
    for (setting, chosen), style in zip(lines, styles, strict=True):
        yield chosen, ", ".join(_describe(values, dim, setting[dim], chosen) for dim in dims), style


def _describe(values: xarray.DataArray, dim: str, value: Any, chosen: xarray.DataArray) -> str:
    if dim != "member":
        return f"{dim.replace('_', ' ')} {_show(value)}"
    # Of members side by side: what sets them apart.
    names = [str(name) for name, coordinate in values.coords.items() if coordinate.dims == ("member",)]
    apart = [name for name in names if name != "member" and len(np.unique(values[name])) > 1]
    return ", ".join(f"{name.replace('_', ' ')} {_show(chosen[name].values[()])}" for name in apart or ["member"])


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else str(value)


_DASHES = ("-", "--", ":", "-.")


def _styles(sizes: list[int]) -> list[dict[str, Any]]:
    """Colours for the first swept setting and dashes for the second, where there are enough; else both in turn."""
    if len(sizes) == 2 and sizes[0] <= 10 and sizes[1] <= len(_DASHES):
        return [{"color": f"C{i}", "linestyle": _DASHES[j]} for i in range(sizes[0]) for j in range(sizes[1])]
    count = int(np.prod(sizes))
    return [{"color": f"C{i % 10}", "linestyle": _DASHES[i // 10 % len(_DASHES)]} for i in range(count)]


def _mean_and_error(values: xarray.DataArray, over: str) -> tuple[xarray.DataArray, xarray.DataArray | None]:
    """The mean over members that did not fail, and its standard error."""
    if over not in values.dims:
        return values, None
    count = values.count(over)
    mean = values.sum(over) / count.where(count > 0)
    if values.sizes[over] == 1:
        return mean, None
    variance = ((values - mean) ** 2).sum(over) / (count - 1).where(count > 1)
    return mean, (variance / count) ** 0.5


def _what_is_drawn(values: xarray.DataArray, over: str) -> str:
    number = values.sizes.get(over, 1)
    return f"mean ± standard error of {number} {over}s" if number > 1 else ""


def _scale(ax: Axes, settings: np.ndarray) -> None:
    """A logarithmic axis where the settings span it, with a place for 0, and a tick for each of them."""
    positive = settings[settings > 0]
    if len(positive) == len(settings) - (settings == 0).sum() and len(positive) > 1:
        smallest = positive.min()
        if positive.max() >= 10 * smallest:
            # As far from 0 to the smallest as over the decade that follows.
            symlog = {"linthresh": smallest, "linscale": 0.9}
            ax.set_xscale("symlog", **symlog) if (settings == 0).any() else ax.set_xscale("log")
    if len(settings) <= 12:
        ax.set_xticks(settings, [_show(value) for value in settings])
        ax.set_xticks([], minor=True)


def _legend(ax: Axes) -> None:
    if any(label and not label.startswith("_") for label in ax.get_legend_handles_labels()[1]):
        ax.legend(fontsize="small")


def _legend_below(figure: Figure, ax: Axes, columns: int) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if any(labels):
        number = min(columns, len(labels))
        figure.legend(handles, labels, loc="outside lower center", ncols=number, fontsize="small", frameon=False)


def _label(values: xarray.DataArray) -> str:
    unit = values.attrs.get("units", "1")
    name = values.attrs.get("long_name", str(values.name))
    return name if unit in ("1", name.split()[0]) else f"{name} ({unit})"


def _variable(results: xarray.Dataset, variable: str) -> xarray.DataArray:
    if variable not in results.data_vars:
        raise ValueError(f"variable is {variable!r}; expected one of {', '.join(map(str, results.data_vars))}")
    return results[variable]


def _axes(ax: Axes | None) -> Axes:
    return _matplotlib("pyplot").subplots(layout="constrained")[1] if ax is None else ax


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError:
        raise ImportError("plots need matplotlib; install it with: pip install 'fcbp[plot]'") from None
