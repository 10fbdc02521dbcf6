"""The parts of the charts: lines, looks, labels, scales and legends."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp import analysis
from fcbp.analysis import Setting

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "DASHES",
    "MOST_LINES",
    "PALETTE",
    "add_legend",
    "add_legend_below",
    "along",
    "axes_or_new",
    "draw_curve",
    "finish_curves",
    "label_of",
    "looks",
    "matplotlib",
    "mean_and_error",
    "scale_to",
    "styles_of",
    "variable_of",
    "what_is_drawn",
]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A8A8A")
"""Colours that people with any colour vision tell apart (Okabe and Ito, 2008), and a grey."""
DASHES = ("-", "--", ":", "-.")
MOST_LINES = 12
"""The most settings drawn; of more, the best of each method are drawn, or the best."""


def draw_curve(ax: Axes, curve: xarray.DataArray, over: str, label: str, style: dict[str, Any], alpha: float) -> None:
    """Draw a line, the mean over seeds, in a band of one standard error."""
    mean, error = mean_and_error(curve, over)
    places = along(curve)
    (line,) = ax.plot(places, mean, label=label, **style)
    if error is not None:
        low, high = mean - error, mean + error
        ax.fill_between(places.values, low, high, color=line.get_color(), alpha=alpha, linewidth=0)


def along(results: xarray.Dataset | xarray.DataArray) -> xarray.DataArray:
    """Return the horizontal axis of curves: tasks where a bin is one, else examples where they are counted, else
    steps."""
    if analysis.bins_of(results) == "task":
        return results["task"]
    return results["examples"] if "examples" in results.coords else results["step"]


def finish_curves(ax: Axes, results: xarray.Dataset, curves: xarray.DataArray) -> None:
    """Set the labels and ticks of an axis with curves."""
    ax.set_xlabel(label_of(along(results)))
    ax.set_ylabel(label_of(curves))
    ax.xaxis.set_major_formatter(matplotlib("ticker").EngFormatter(sep=""))
    ax.xaxis.set_major_locator(matplotlib("ticker").MaxNLocator(6, integer=True))
    ax.margins(x=0.01)


def styles_of(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Return a colour and dashes for each setting. On a grid of two names the first has the colours and the second the
    dashes, where there are enough; of methods, one look each whatever their order; else colours, then dashes."""
    methods = sorted({str(setting.get("method")) for setting in settings})
    if 1 < len(methods) == len(settings):
        by_method = dict(zip(methods, looks(len(methods)), strict=True))
        return [by_method[str(setting.get("method"))] for setting in settings]
    names = list(dict.fromkeys(name for setting in settings for name in setting))
    values = {name: list(dict.fromkeys(setting.get(name) for setting in settings)) for name in names}
    sizes = [len(column) for column in values.values()]
    if len(sizes) == 2 and sizes[0] * sizes[1] == len(settings) and sizes[0] <= len(PALETTE) and sizes[1] <= 4:
        return [
            {
                "color": PALETTE[values[names[0]].index(setting.get(names[0]))],
                "linestyle": DASHES[values[names[1]].index(setting.get(names[1]))],
            }
            for setting in settings
        ]
    return list(looks(len(settings)))


def looks(count: int) -> Iterator[dict[str, Any]]:
    """Return colours, then dashes."""
    n = len(PALETTE)
    return ({"color": PALETTE[i % n], "linestyle": DASHES[i // n % len(DASHES)]} for i in range(count))


def mean_and_error(values: xarray.DataArray, over: str) -> tuple[xarray.DataArray, xarray.DataArray | None]:
    """Return the mean over members that did not fail, and its standard error."""
    if over not in values.dims:
        return values, None
    count = values.count(over)
    mean = values.sum(over) / count.where(count > 0)
    if values.sizes[over] == 1:
        return mean, None
    variance = ((values - mean) ** 2).sum(over) / (count - 1).where(count > 1)
    return mean, (variance / count) ** 0.5


def what_is_drawn(values: xarray.DataArray, over: str, what: str = "mean ± standard error") -> str:
    """Say over how many members a picture's lines are means; return nothing where each line is one member."""
    number = values.sizes.get(over, 1)
    return f"{what} of {number} {over}s" if number > 1 else ""


def scale_to(ax: Axes, settings: np.ndarray) -> None:
    """Make an axis logarithmic where the settings span it, with a place for 0, and a tick for each of them."""
    positive = settings[settings > 0]
    if len(positive) == len(settings) - (settings == 0).sum() and len(positive) > 1:
        smallest = positive.min()
        if positive.max() >= 10 * smallest:
            # As far from 0 to the smallest as over the decade that follows.
            symlog = {"linthresh": smallest, "linscale": 0.9}
            ax.set_xscale("symlog", **symlog) if (settings == 0).any() else ax.set_xscale("log")
    if len(settings) <= MOST_LINES:
        ax.set_xticks(settings, [analysis.show(value) for value in settings])
        ax.set_xticks([], minor=True)


def add_legend(ax: Axes) -> None:
    """Add a legend to the axis, where there is something to name."""
    if any(label and not label.startswith("_") for label in ax.get_legend_handles_labels()[1]):
        ax.legend(fontsize="small")


def add_legend_below(figure: Figure, ax: Axes, columns: int) -> None:
    """Add one legend for all axes of a figure, below them."""
    handles, labels = ax.get_legend_handles_labels()
    if any(labels):
        number = min(columns, len(labels))
        figure.legend(handles, labels, loc="outside lower center", ncols=number, fontsize="small", frameon=False)


def label_of(values: xarray.DataArray) -> str:
    """Return a variable's long name and unit."""
    unit = values.attrs.get("units", "1")
    name = values.attrs.get("long_name", str(values.name))
    return name if unit in ("1", name.split()[0]) else f"{name} ({unit})"


def variable_of(results: xarray.Dataset, variable: str | None) -> xarray.DataArray:
    """Return a variable of the results; by default the main one.

    Raises:
        ValueError: there is none of that name.
    """
    variable = variable or analysis.main_variable(results)
    if variable not in results.data_vars:
        raise ValueError(f"variable is {variable!r}; expected one of {', '.join(map(str, results.data_vars))}")
    return results[variable]


def axes_or_new(ax: Axes | None) -> Axes:
    """Return the axis, or one in a new figure."""
    return matplotlib("pyplot").subplots(layout="constrained")[1] if ax is None else ax


def matplotlib(module: str) -> ModuleType:
    """Return a module of matplotlib's.

    Raises:
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError:
        raise ImportError("plots need matplotlib; install it with: pip install 'fcbp[plot]'") from None
