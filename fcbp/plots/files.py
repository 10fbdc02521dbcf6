"""A run's pictures as files."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp import analysis
from fcbp.analysis import Setting
from fcbp.checks import arguments
from fcbp.experiment import ASKED, PER_STEP, Experiment, variables_of
from fcbp.paths import expanded
from fcbp.plots.charts import heat, histogram, learning_curves, methods, sensitivity
from fcbp.plots.parts import MOST_LINES, add_legend, add_legend_below, matplotlib, what_is_drawn
from fcbp.sweeps import files

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_picture", "replaced_picture", "save"]

MOST_PANELS = 12
"""Variables of one picture."""


@arguments
def save(results: xarray.Dataset, folder: Path | str) -> list[Path]:
    """Draw the pictures that the results allow into PNG files in ``folder``: learning curves, the methods at their
    best, sensitivity to each swept number, tables of two numbers, units replaced, utilities and ages."""
    folder = expanded("folder", folder)
    several_methods = len({row.method for row in analysis.summary(results)}) > 1
    drawn = _few(results)
    pictures = [("learning_curves.png", curves_picture(drawn))]
    if several_methods:
        pictures.append(("methods.png", methods(results)))
    if numbers := _swept_numbers(results):
        pictures.append(("sensitivity.png", _sensitivity_picture(results, numbers)))
        if pairs := _pairs(results, numbers):
            pictures.append(("heat.png", _heat_picture(results, pairs)))
    if _any_reset(drawn):
        pictures.append(("replaced.png", replaced_picture(drawn)))
    if any("_quantile_" in str(name) for name in results.data_vars):
        pictures.append(("units.png", _units_picture(drawn)))
    paths = []
    for name, figure in pictures:
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        matplotlib("pyplot").close(figure)
        files.write(folder / name, picture.getvalue())
        paths.append(folder / name)
    return paths


def _few(results: xarray.Dataset) -> xarray.Dataset:
    """Return the results, or of very many settings the best: of each method, or of all."""
    rows = analysis.summary(results)
    if len(rows) <= MOST_LINES:
        return results
    best = analysis.best_of_each(rows)
    if len(best) == 1:
        ranked = sorted(rows, key=lambda row: (not np.isfinite(row.end), row.end))
        best = ranked[:MOST_LINES]
    return _listed(results, best, len(rows))


def _listed(results: xarray.Dataset, rows: Sequence[analysis.Row], of: int) -> xarray.Dataset:
    """Return some of the settings, along one dimension."""
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
    """Return swept settings that are numbers, in the order of the results."""
    numbers = []
    for name in analysis.apart(results):
        values = {
            setting[name]
            for _, setting in analysis.settings(results[analysis.main_variable(results)])
            if name in setting
        }
        if all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in values) and len(values) > 1:
            numbers.append(name)
    return [name for name in numbers if name not in analysis.ROWS]


def _any_reset(results: xarray.Dataset) -> bool:
    return any(bool((results[name] > 0).any()) for name in analysis.COUNTS if name in results)


def curves_picture(results: xarray.Dataset) -> Figure:
    # What was measured because someone asked for it is drawn as well: of a program all.
    usual = {variable for metric in Experiment().metrics for variable in variables_of(metric)} | {*PER_STEP} - {*ASKED}
    main = analysis.main_variable(results)
    asked = [name for name in map(str, results.data_vars) if name not in (*usual, main)]
    wanted = [name for name in dict.fromkeys((main, "inactive_units", "effective_rank", *asked)) if name in results]
    wanted = wanted[:MOST_PANELS]
    figure, axes = _grid(len(wanted), 3)
    for ax, variable in zip(axes, wanted, strict=False):
        learning_curves(results, variable, legend=False, ax=ax)
    return _titled(figure, axes[0], results)


def _sensitivity_picture(results: xarray.Dataset, numbers: Sequence[str]) -> Figure:
    figure, axes = _grid(len(numbers), 3)
    for ax, name in zip(axes, numbers, strict=False):
        sensitivity(results, across=name, legend=False, ax=ax)
        if len(numbers) > 1 or len(ax.get_legend_handles_labels()[1]) <= 8:
            add_legend(ax)
    figure.suptitle(what_is_drawn(results[analysis.main_variable(results)], "seed"), fontsize="medium")
    return figure


def _pairs(results: xarray.Dataset, numbers: Sequence[str]) -> list[tuple[str, str]]:
    """Return pairs of swept numbers that some method crosses: two values or more of each."""
    found = []
    settings = [setting for _, setting in analysis.settings(results[analysis.main_variable(results)])]
    for down, across in itertools.combinations(numbers, 2):
        by_method: dict[Any, set[tuple[Any, Any]]] = {}
        for setting in settings:
            if down in setting and across in setting:
                by_method.setdefault(setting.get("method"), set()).add((setting[down], setting[across]))
        if any(len({a for a, _ in both}) > 1 and len({b for _, b in both}) > 1 for both in by_method.values()):
            found.append((down, across))
    return found[:MOST_PANELS]


def _heat_picture(results: xarray.Dataset, pairs: Sequence[tuple[str, str]]) -> Figure:
    figure, axes = _grid(len(pairs), 3)
    for ax, (down, across) in zip(axes, pairs, strict=False):
        heat(results, across=across, down=down, ax=ax)
    figure.suptitle(what_is_drawn(results[analysis.main_variable(results)], "seed", "mean"), fontsize="medium")
    return figure


def replaced_picture(results: xarray.Dataset) -> Figure:
    """Draw the number of resets so far, over time."""
    wanted = [name for name in analysis.COUNTS if name in results and bool((results[name] > 0).any())]
    figure, axes = _grid(len(wanted), 2, width=7)
    for ax, name in zip(axes, wanted, strict=False):
        dimension = analysis.bins_of(results)
        so_far = results[name].cumsum(dimension, skipna=False).assign_coords(results[name].coords)
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
    figure, axes = matplotlib("pyplot").subplots(
        rows, columns, figsize=(max(width * columns, 7), 4.6 * rows), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for spare in flat[panels:]:
        spare.remove()
    return figure, flat[:panels]


def _titled(figure: Figure, ax: Axes, results: xarray.Dataset, what: str = "mean ± standard error") -> Figure:
    parts = [what_is_drawn(results[analysis.main_variable(results)], "seed", what), results.attrs.get("drawn", "")]
    figure.suptitle("; ".join(part for part in parts if part), fontsize="medium")
    add_legend_below(figure, ax, columns=4)
    return figure
