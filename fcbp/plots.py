"""Pictures of a sweep's results."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp import analysis
from fcbp.analysis import Setting, end_of_run
from fcbp.experiment import METRICS, Experiment, variables_of

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PALETTE", "histogram", "learning_curves", "methods", "save", "sensitivity"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#8A8A8A")
"""Colours that people with any colour vision tell apart (Okabe and Ito, 2008), and a grey."""
DASHES = ("-", "--", ":", "-.")
MOST_LINES = 12
"""More settings than this are not all drawn: the best of each method are, or the best."""


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
    lines = list(analysis.settings(curves, over))
    ax = _axes(ax)
    for (at, setting), style in zip(lines, _styles([setting for _, setting in lines]), strict=True):
        _curve(ax, curves.isel(at), over, analysis.describe(setting), style, 0.15 if len(lines) <= 6 else 0.07)
    _finish_curves(ax, results, curves)
    if legend:
        ax.set_title(_what_is_drawn(curves, over), fontsize="medium")
        _legend(ax)
    return ax


def methods(results: xarray.Dataset, variable: str = "loss", *, last: float = 0.2) -> Figure:
    """Each method at its best: its learning curve, and the end of the run with 95% bootstrap intervals over seeds.

    Args:
        results: of a sweep over methods.
        variable: by which the best is chosen; lower is better.
        last: the fraction of the run that counts as its end.

    Raises:
        ValueError: ``variable`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    curves = _variable(results, variable)
    rows = analysis.best_of_each(analysis.summary(results, variable, last=last))
    figure, (left, right) = _matplotlib("pyplot").subplots(
        1, 2, figsize=(13, max(4.5, 1.5 + 0.4 * len(rows))), layout="constrained", width_ratios=(3, 2)
    )
    styles = _styles([{"method": row.method} for row in rows])
    for place, (row, style) in enumerate(zip(rows, styles, strict=True)):
        _curve(left, curves.isel(row.at), "seed", str(row.method), style, 0.15 if len(rows) <= 6 else 0.07)
        interval = [[row.end - row.low], [row.high - row.end]] if np.isfinite(row.low) else None
        right.errorbar([row.end], [place], xerr=interval, marker="o", capsize=3, color=style["color"])
    _finish_curves(left, results, curves)
    labels = [f"{row.method}\n{analysis.describe(analysis.others(row.setting))}".strip() for row in rows]
    right.set_yticks(range(len(rows)), labels, fontsize="small")
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.3)
    right.set_xlabel(f"{_label(curves)}, last {last:.0%} of the run")
    number = curves.sizes.get("seed", 1)
    if number > 1:
        left.set_title(_what_is_drawn(curves, "seed"), fontsize="medium")
        right.set_title(f"mean and {analysis.LEVEL:.0%} bootstrap interval of {number} seeds", fontsize="medium")
    _legend_below(figure, left, columns=8)
    return figure


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
    swept = analysis.apart(curves, over)
    if across not in swept:
        raise ValueError(f"across is {across!r}; expected one of the swept settings, {', '.join(swept) or '(none)'}")
    values = end_of_run(curves, last)
    ax = _axes(ax)
    # Settings that are alike but for this one are a line.
    points: dict[str, list[tuple[Any, float, float]]] = {}
    rest: dict[str, Setting] = {}
    for at, setting in analysis.settings(values, over):
        if across in setting:
            others = {name: value for name, value in setting.items() if name != across}
            mean, error = _mean_and_error(values.isel(at), over)
            point = (setting[across], float(mean), float("nan") if error is None else float(error))
            points.setdefault(analysis.describe(others), []).append(point)
            rest[analysis.describe(others)] = others
    places = list(dict.fromkeys(x for line in points.values() for x, _, _ in line))
    numeric = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in places)
    if len(points) > MOST_LINES:  # a design that is no grid: points, and no lines
        by_method = {label: {k: v for k, v in others.items() if k == "method"} for label, others in rest.items()}
        merged: dict[str, list[tuple[Any, float, float]]] = {}
        for label, line in points.items():
            merged.setdefault(analysis.describe(by_method[label]), []).extend(line)
        points, rest = merged, {analysis.describe(method): method for method in by_method.values()}
    linestyle = {"linestyle": "none"} if len(places) > MOST_LINES else {}
    for (label, line), style in zip(points.items(), _styles(list(rest.values())), strict=True):
        line = sorted(line) if numeric else line
        where = np.array([x if numeric else places.index(x) for x, _, _ in line], float)
        ends, errors = np.array([[end, error] for _, end, error in line]).T
        bars = None if np.isnan(errors).all() else errors
        ax.errorbar(where, ends, bars, label=label, marker="o", capsize=3, **{**style, **linestyle})
    if numeric:
        _scale(ax, np.sort(np.array(places, float)))
    else:
        ax.set_xticks(range(len(places)), [analysis.show(value) for value in places])
    ax.set_xlabel(across.replace("_", " "))
    ax.set_ylabel(f"{_label(values)}, last {last:.0%} of the run")
    if legend:
        ax.set_title(_what_is_drawn(curves, over), fontsize="medium")
        _legend(ax)
    return ax


def histogram(results: xarray.Dataset, variable: str = "age", *, legend: bool = True, ax: Axes | None = None) -> Axes:
    """How the units' utilities or ages are spread at the end of the run, a line for each setting.

    The results hold quantiles of each learner's units; each line is the mean of its seeds' distributions.

    Args:
        results: of a method whose units have utilities and ages.
        variable: ``"utility"`` or ``"age"``.
        legend: name the lines, and say above them what they are the mean of.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    names = sorted(name for name in map(str, results.data_vars) if name.startswith(f"{variable}_quantile_"))
    if not names:
        raise ValueError(
            f"variable is {variable!r}; expected one whose quantiles were measured, such as age or utility"
        )
    end = results[names].isel(step=-1)
    settings = list(analysis.settings(results["loss"]))
    samples = [_spread(end.isel(at), names) for at, _ in settings]
    everything = np.concatenate(samples)
    everything = everything[np.isfinite(everything)]
    ax = _axes(ax)
    what = [f"{variable} of a unit at the end of the run"] + (["steps"] if variable == "age" else [])
    if everything.size:
        edges = _edges(everything)
        styles = _styles([setting for _, setting in settings])
        for (_, setting), sample, style in zip(settings, samples, styles, strict=True):
            good = sample[np.isfinite(sample)]
            if good.size:
                share = np.histogram(np.clip(good, edges[0], edges[-1]), edges)[0] / good.size
                ax.stairs(share, edges, label=analysis.describe(setting), **style)
        if edges[0] > 0 and edges[-1] >= 50 * edges[0]:
            ax.set_xscale("log")
            what += ["less at the left edge"] if everything.min() < 0.99 * edges[0] else []
    ax.set_xlabel(what[0] + (f" ({', '.join(what[1:])})" if what[1:] else ""))
    ax.set_ylabel("fraction of the units")
    if legend:
        ax.set_title(_what_is_drawn(results["loss"], "seed", "mean"), fontsize="medium")
        _legend(ax)
    return ax


def _edges(values: np.ndarray, number: int = 30) -> np.ndarray:
    """Edges of bins: logarithmic where the values span decades, over most of the positive ones, six decades at most (a
    dead unit's utility decays to the smallest number there is)."""
    positive = values[values > 0]
    low, high = np.quantile(positive, [0.005, 1.0]) if positive.size else (0.0, 0.0)
    low = max(low, 1e-6 * high)
    if low > 0 and high >= 50 * low:
        return np.geomspace(low, high, number)
    low, high = values.min(), values.max()
    return np.linspace(low, high if high > low else low + 1, number)


def _spread(end: xarray.Dataset, names: Sequence[str], points: int = 200) -> np.ndarray:
    """Values spread as the units are, read between the quantiles of each seed."""
    levels = [float(name.rsplit("_", 1)[1]) / 100 for name in names]
    order = np.argsort(levels)
    table = np.stack([np.atleast_1d(end[names[i]].values) for i in order], -1).reshape(-1, len(names))
    at = (np.arange(points) + 0.5) / points
    return np.concatenate([np.interp(at, np.sort(levels), row) for row in table])


# --- files ----------------------------------------------------------------------------------------------


def save(results: xarray.Dataset, folder: Path) -> list[Path]:
    """Draw what the results allow into PNG files in ``folder``: learning curves, the methods at their best, sensitivity
    to each swept number, units replaced, utilities and ages."""
    several_methods = len({row.method for row in analysis.summary(results)}) > 1
    drawn = _few(results)
    pictures = [("learning_curves.png", _curves_picture(drawn))]
    if several_methods:
        pictures.append(("methods.png", methods(results)))
    if numbers := _swept_numbers(results):
        pictures.append(("sensitivity.png", _sensitivity_picture(results, numbers)))
    if _any_reset(drawn):
        pictures.append(("replaced.png", _replaced_picture(drawn)))
    if any("_quantile_" in str(name) for name in results.data_vars):
        pictures.append(("units.png", _units_picture(drawn)))
    paths = []
    for name, figure in pictures:
        figure.savefig(folder / name, dpi=120)
        _matplotlib("pyplot").close(figure)
        paths.append(folder / name)
    return paths


def _few(results: xarray.Dataset) -> xarray.Dataset:
    """The results, or of very many settings the best: of each method, or of all."""
    rows = analysis.summary(results)
    if len(rows) <= MOST_LINES:
        return results
    best = analysis.best_of_each(rows)
    if len(best) == 1:
        ranked = sorted(rows, key=lambda row: (not np.isfinite(row.end), row.end))
        best = ranked[:MOST_LINES]
    return _listed(results, best, len(rows))


def _listed(results: xarray.Dataset, rows: Sequence[analysis.Row], of: int) -> xarray.Dataset:
    """Some of the settings, along one dimension."""
    import xarray

    names = list(dict.fromkeys(name for row in rows for name in row.setting if name not in analysis.ROWS))
    parts = [results.isel(row.at).drop_vars([*names, *analysis.ROWS], errors="ignore") for row in rows]
    data = xarray.concat(parts, "setting", coords="minimal", compat="override")
    columns: dict[str, Any] = {
        name: ("setting", [_or_unset(row.setting, name, rows) for row in rows]) for name in names
    }
    return data.assign_coords(setting=range(len(rows)), **columns).assign_attrs(drawn=f"best {len(rows)} of {of}")


def _or_unset(setting: Setting, name: str, rows: Sequence[analysis.Row]) -> Any:
    words = any(isinstance(row.setting.get(name), str) for row in rows)
    return setting.get(name, "" if words else np.nan)


def _swept_numbers(results: xarray.Dataset) -> list[str]:
    """Swept settings that are numbers, in the order of the results."""
    numbers = []
    for name in analysis.apart(results):
        values = {setting[name] for _, setting in analysis.settings(results["loss"]) if name in setting}
        if all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in values) and len(values) > 1:
            numbers.append(name)
    return [name for name in numbers if name not in analysis.ROWS]


def _any_reset(results: xarray.Dataset) -> bool:
    return any(bool((results[name] > 0).any()) for name in analysis.COUNTS if name in results)


def _curves_picture(results: xarray.Dataset) -> Figure:
    # And what was measured because someone asked for it.
    usual = {variable for metric in Experiment().metrics for variable in variables_of(metric)}
    asked = [name for metric in METRICS for name in sorted(variables_of(metric) - usual)]
    wanted = [name for name in ("loss", "inactive_units", "effective_rank", *asked) if name in results]
    figure, axes = _grid(len(wanted), 3)
    for ax, variable in zip(axes, wanted, strict=False):
        learning_curves(results, variable, legend=False, ax=ax)
    return _titled(figure, axes[0], results)


def _sensitivity_picture(results: xarray.Dataset, numbers: Sequence[str]) -> Figure:
    figure, axes = _grid(len(numbers), 3)
    for ax, name in zip(axes, numbers, strict=False):
        sensitivity(results, across=name, legend=False, ax=ax)
        if len(numbers) > 1 or len(ax.get_legend_handles_labels()[1]) <= 8:
            _legend(ax)
    figure.suptitle(_what_is_drawn(results["loss"], "seed"), fontsize="medium")
    return figure


def _replaced_picture(results: xarray.Dataset) -> Figure:
    """What was reset so far, over time."""
    wanted = [name for name in analysis.COUNTS if name in results and bool((results[name] > 0).any())]
    figure, axes = _grid(len(wanted), 2, width=7)
    for ax, name in zip(axes, wanted, strict=False):
        so_far = results[name].cumsum("step", skipna=False).assign_coords(step=results["step"])
        unit = results[name].attrs.get("units", "1")
        so_far.attrs = {"long_name": f"{analysis.COUNTS[name]} so far", "units": unit}
        learning_curves(results.assign({name: so_far}), name, legend=False, ax=ax)
        ax.set_yscale("symlog", linthresh=1)
        ax.set_ylim(bottom=0)
    return _titled(figure, axes[0], results)


def _units_picture(results: xarray.Dataset) -> Figure:
    wanted = [v for v in ("utility", "age") if any(str(n).startswith(f"{v}_quantile_") for n in results.data_vars)]
    figure, axes = _grid(len(wanted), 2, width=6)
    for ax, variable in zip(axes, wanted, strict=False):
        histogram(results, variable, legend=False, ax=ax)
    # Some methods give their units an age and no utility.
    named = max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    return _titled(figure, named, results, "mean")


def _grid(panels: int, columns: int, width: float = 5) -> tuple[Figure, list[Axes]]:
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure, axes = _matplotlib("pyplot").subplots(
        rows, columns, figsize=(max(width * columns, 7), 4.6 * rows), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for spare in flat[panels:]:
        spare.remove()
    return figure, flat[:panels]


def _titled(figure: Figure, ax: Axes, results: xarray.Dataset, what: str = "mean ± standard error") -> Figure:
    parts = [_what_is_drawn(results["loss"], "seed", what), results.attrs.get("drawn", "")]
    figure.suptitle("; ".join(part for part in parts if part), fontsize="medium")
    _legend_below(figure, ax, columns=4)
    return figure


# --- parts ----------------------------------------------------------------------------------------------


def _curve(ax: Axes, curve: xarray.DataArray, over: str, label: str, style: dict[str, Any], alpha: float) -> None:
    mean, error = _mean_and_error(curve, over)
    (line,) = ax.plot(curve["step"], mean, label=label, **style)
    if error is not None:
        low, high = mean - error, mean + error
        ax.fill_between(curve["step"].values, low, high, color=line.get_color(), alpha=alpha, linewidth=0)


def _finish_curves(ax: Axes, results: xarray.Dataset, curves: xarray.DataArray) -> None:
    ax.set_xlabel(_label(results["step"]))
    ax.set_ylabel(_label(curves))
    ax.xaxis.set_major_formatter(_matplotlib("ticker").EngFormatter(sep=""))
    ax.xaxis.set_major_locator(_matplotlib("ticker").MaxNLocator(6))
    ax.margins(x=0.01)


def _styles(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Of settings on a grid of two names: colours for the first and dashes for the second, where there are enough; of
    methods, one look each whatever their order; else colours, then dashes."""
    methods = sorted({str(setting.get("method")) for setting in settings})
    if 1 < len(methods) == len(settings):
        looks = dict(zip(methods, _cycle(len(methods)), strict=True))
        return [looks[str(setting.get("method"))] for setting in settings]
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
    return list(_cycle(len(settings)))


def _cycle(count: int) -> Iterator[dict[str, Any]]:
    n = len(PALETTE)
    return ({"color": PALETTE[i % n], "linestyle": DASHES[i // n % len(DASHES)]} for i in range(count))


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


def _what_is_drawn(values: xarray.DataArray, over: str, what: str = "mean ± standard error") -> str:
    number = values.sizes.get(over, 1)
    return f"{what} of {number} {over}s" if number > 1 else ""


def _scale(ax: Axes, settings: np.ndarray) -> None:
    """A logarithmic axis where the settings span it, with a place for 0, and a tick for each of them."""
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
