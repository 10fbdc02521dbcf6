"""The charts, one to an axis or a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp import analysis
from fcbp.analysis import Setting, end_of_run
from fcbp.checks import arguments
from fcbp.plots.parts import (
    MOST_LINES,
    add_legend,
    add_legend_below,
    axes_or_new,
    draw_curve,
    finish_curves,
    label_of,
    matplotlib,
    mean_and_error,
    scale_to,
    styles_of,
    variable_of,
    what_is_drawn,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["heat", "histogram", "learning_curves", "methods", "sensitivity"]


@arguments
def learning_curves(
    results: xarray.Dataset,
    variable: str | None = None,
    *,
    over: str = "seed",
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a line for each setting: the mean over seeds against examples, steps or tasks, in a band of one standard
    error.

    Where two settings were swept, one has the colours and the other the dashes.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables; by default the loss, or the first where there is none.
        over: the dimension that is averaged.
        legend: name the lines, and say above them over how many members they are means.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    curves = variable_of(results, variable)
    lines = list(analysis.settings(curves, over))
    ax = axes_or_new(ax)
    for (at, setting), style in zip(lines, styles_of([setting for _, setting in lines]), strict=True):
        draw_curve(ax, curves.isel(at), over, analysis.describe(setting), style, 0.15 if len(lines) <= 6 else 0.07)
    finish_curves(ax, results, curves)
    if legend:
        ax.set_title(what_is_drawn(curves, over), fontsize="medium")
        add_legend(ax)
    return ax


@arguments
def methods(results: xarray.Dataset, variable: str | None = None, *, last: float = 0.2) -> Figure:
    """Draw each method at its best: its learning curve, and the end of the run with 95% bootstrap intervals over seeds.

    Args:
        results: of a sweep over methods.
        variable: by which the best is chosen; lower is better.
        last: the fraction of the run that counts as its end.

    Raises:
        ValueError: ``variable`` is not in ``results``.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    figure: Figure
    curves = variable_of(results, variable)
    rows = analysis.best_of_each(analysis.summary(results, variable, last=last))
    figure, (left, right) = matplotlib("pyplot").subplots(
        1, 2, figsize=(13, max(4.5, 1.5 + 0.4 * len(rows))), layout="constrained", width_ratios=(3, 2)
    )
    styles = styles_of([{"method": row.method} for row in rows])
    for place, (row, style) in enumerate(zip(rows, styles, strict=True)):
        draw_curve(left, curves.isel(row.at), "seed", str(row.method), style, 0.15 if len(rows) <= 6 else 0.07)
        interval = [[row.end - row.low], [row.high - row.end]] if np.isfinite(row.low) else None
        right.errorbar([row.end], [place], xerr=interval, marker="o", capsize=3, color=style["color"])
    finish_curves(left, results, curves)
    labels = [f"{row.method}\n{analysis.describe(analysis.others(row.setting))}".strip() for row in rows]
    right.set_yticks(range(len(rows)), labels, fontsize="small")
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.3)
    right.set_xlabel(f"{label_of(curves)}, last {last:.0%} of the run")
    number = curves.sizes.get("seed", 1)
    if number > 1:
        left.set_title(what_is_drawn(curves, "seed"), fontsize="medium")
        right.set_title(f"mean and {analysis.LEVEL:.0%} bootstrap interval of {number} seeds", fontsize="medium")
    add_legend_below(figure, left, columns=8)
    return figure


@arguments
def sensitivity(
    results: xarray.Dataset,
    variable: str | None = None,
    *,
    across: str = "replacement_rate",
    over: str = "seed",
    last: float = 0.2,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the end of the run against one setting: the mean of the last bins, with standard errors over seeds.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables; by default the loss, or the first where there is none.
        across: the swept setting on the horizontal axis; 0 has its place left of a logarithmic axis.
        over: the dimension that is averaged.
        last: the fraction of the run that counts as its end.
        legend: name the lines, and say above them what they are the mean of.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable`` or ``across`` is not in ``results``, or ``last`` is no fraction.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    curves = variable_of(results, variable)
    swept = analysis.apart(curves, over)
    if across not in swept:
        raise ValueError(f"across is {across!r}; expected one of the swept settings, {', '.join(swept) or '(none)'}")
    values = end_of_run(curves, last)
    ax = axes_or_new(ax)
    # Settings that are alike but for this one are a line.
    points: dict[str, list[tuple[Any, float, float]]] = {}
    rest: dict[str, Setting] = {}
    for at, setting in analysis.settings(values, over):
        if across in setting:
            others = {name: value for name, value in setting.items() if name != across}
            mean, error = mean_and_error(values.isel(at), over)
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
    for (label, line), style in zip(points.items(), styles_of(list(rest.values())), strict=True):
        line = sorted(line) if numeric else line
        where = np.array([x if numeric else places.index(x) for x, _, _ in line], float)
        ends, errors = np.array([[end, error] for _, end, error in line]).T
        bars = None if np.isnan(errors).all() else errors
        ax.errorbar(where, ends, bars, label=label, marker="o", capsize=3, **{**style, **linestyle})
    if numeric:
        scale_to(ax, np.sort(np.array(places, float)))
    else:
        ax.set_xticks(range(len(places)), [analysis.show(value) for value in places])
    ax.set_xlabel(across.replace("_", " "))
    ax.set_ylabel(f"{label_of(values)}, last {last:.0%} of the run")
    if legend:
        ax.set_title(what_is_drawn(curves, over), fontsize="medium")
        add_legend(ax)
    return ax


@arguments
def heat(
    results: xarray.Dataset,
    variable: str | None = None,
    *,
    across: str,
    down: str,
    over: str = "seed",
    last: float = 0.2,
    ax: Axes | None = None,
) -> Axes:
    """Draw the end of the run as a table of two swept settings, its cells coloured: the mean over seeds.

    Of settings that differ in a third thing as well, a cell has the best.

    Args:
        results: what :func:`fcbp.sweep` returned.
        variable: one of its data variables; by default the loss, or the first where there is none.
        across: the swept setting of the columns.
        down: the swept setting of the rows.
        over: the dimension that is averaged.
        last: the fraction of the run that counts as its end.
        ax: where to draw; by default a new figure.

    Raises:
        ValueError: ``variable``, ``across`` or ``down`` is not in ``results``, or no setting has both.
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    curves = variable_of(results, variable)
    swept = analysis.apart(curves, over)
    for name, value in (("across", across), ("down", down)):
        if value not in swept:
            raise ValueError(f"{name} is {value!r}; expected one of the swept settings, {', '.join(swept) or '(none)'}")
    values = end_of_run(curves, last)
    higher = analysis.is_higher_better(str(curves.name))
    cells: dict[tuple[Any, Any], float] = {}
    for at, setting in analysis.settings(values, over):
        if across in setting and down in setting:
            place, mean = (setting[down], setting[across]), float(mean_and_error(values.isel(at), over)[0])
            known = cells.get(place, np.nan)
            cells[place] = mean if np.isnan(known) or (mean > known) == higher else known
    if not cells:
        raise ValueError(
            f"across is {across!r} and down is {down!r}, which no setting has both of; expected two that go together"
        )
    rows, columns = (sorted({place[i] for place in cells}) for i in (0, 1))
    table = np.array([[cells.get((row, column), np.nan) for column in columns] for row in rows])
    ax = axes_or_new(ax)
    picture = ax.imshow(table, cmap="viridis" if higher else "viridis_r", aspect="auto")
    middle = np.nanmean([np.nanmin(table), np.nanmax(table)]) if np.isfinite(table).any() else 0.0
    for (i, j), value in np.ndenumerate(table):
        dark = (value < middle) == higher
        ax.text(
            j, i, f"{value:.3g}" if np.isfinite(value) else "NaN", ha="center", va="center", color="w" if dark else "k"
        )
    ax.set_xticks(range(len(columns)), [analysis.show(value) for value in columns])
    ax.set_yticks(range(len(rows)), [analysis.show(value) for value in rows])
    ax.set_xlabel(across.replace("_", " "))
    ax.set_ylabel(down.replace("_", " "))
    ax.figure.colorbar(picture, ax=ax, label=f"{label_of(values)}, last {last:.0%} of the run")
    return ax


@arguments
def histogram(results: xarray.Dataset, variable: str = "age", *, legend: bool = True, ax: Axes | None = None) -> Axes:
    """Draw the spread of the units' utilities or ages at the end of the run, a line for each setting.

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
    end = results[names].isel({analysis.bins_of(results): -1})
    settings = list(analysis.settings(results[names[0]]))
    samples = [_spread(end.isel(at), names) for at, _ in settings]
    everything = np.concatenate(samples)
    everything = everything[np.isfinite(everything)]
    ax = axes_or_new(ax)
    what = [f"{variable} of a unit at the end of the run"] + (["steps"] if variable == "age" else [])
    if everything.size:
        edges = _edges(everything)
        styles = styles_of([setting for _, setting in settings])
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
        ax.set_title(what_is_drawn(results[names[0]], "seed", "mean"), fontsize="medium")
        add_legend(ax)
    return ax


def _edges(values: np.ndarray, number: int = 30) -> np.ndarray:
    """Return edges of bins: logarithmic where the values span decades, over most of the positive ones, six decades at
    most (a dead unit's utility decays to the smallest number there is)."""
    positive = values[values > 0]
    low, high = np.quantile(positive, [0.005, 1.0]) if positive.size else (0.0, 0.0)
    low = max(low, 1e-6 * high)
    if low > 0 and high >= 50 * low:
        return np.geomspace(low, high, number)
    low, high = values.min(), values.max()
    return np.linspace(low, high if high > low else low + 1, number)


def _spread(end: xarray.Dataset, names: Sequence[str], points: int = 200) -> np.ndarray:
    """Return values spread as the units are, read between the quantiles of each seed."""
    levels = [float(name.rsplit("_", 1)[1]) / 100 for name in names]
    order = np.argsort(levels)
    table = np.stack([np.atleast_1d(end[names[i]].values) for i in order], -1).reshape(-1, len(names))
    at = (np.arange(points) + 0.5) / points
    return np.concatenate([np.interp(at, np.sort(levels), row) for row in table])
