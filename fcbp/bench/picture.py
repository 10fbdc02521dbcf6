"""A suite's picture: a panel for each problem, a line for each method with its name at the line's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcbp import analysis
from fcbp.checks import arguments
from fcbp.plots.parts import along, label_of, looks, matplotlib, mean_and_error

if TYPE_CHECKING:
    import xarray

__all__ = ["draw", "spread"]

SMOOTH = 30
"""Points of a line: bins are averaged to at most so many."""


@arguments
def draw(panels: Mapping[str, xarray.Dataset], path: Path, variable: str = "accuracy") -> Path:
    """Draw results, of one setting a method, side by side.

    Args:
        panels: results by title; along ``setting`` each has one setting, whose words are its coordinate ``label``.
        path: of the PNG.
        variable: the variable drawn.

    Raises:
        ImportError: the extra ``fcbp[plot]`` is not installed.
    """
    figure = matplotlib("figure").Figure(figsize=(5.6 * len(panels), 4.4), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    names = list(dict.fromkeys(str(name) for data in panels.values() for name in data["label"].values))
    styles = dict(zip(names, looks(len(names)), strict=True))
    for ax, (title, data) in zip(axes, panels.items(), strict=True):
        ends, colours, texts = [], [], []
        for i, name in enumerate(map(str, data["label"].values)):
            curve = _thinned(data[variable].isel(setting=i))
            mean, error = mean_and_error(curve, "seed")
            (line,) = ax.plot(along(curve), mean, linewidth=1.8, **styles[name])
            if error is not None:
                ax.fill_between(along(curve).values, mean - error, mean + error, color=line.get_color(), alpha=0.15)
            if np.isfinite(mean[-1]):
                ends.append(float(mean[-1]))
                colours.append(line.get_color())
                texts.append(name)
        low, high = ax.get_ylim()
        for y, colour, text in zip(spread(ends, 0.052 * (high - low)), colours, texts, strict=True):
            ax.annotate(
                text, (1.01, y), xycoords=("axes fraction", "data"), color=colour, va="center", fontsize=10,
                annotation_clip=False,
            )  # fmt: skip
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel(label_of(along(data)))
        ax.set_ylabel(label_of(data[variable]))
        ax.grid(alpha=0.25)
        ax.margins(x=0)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    return path


def _thinned(curve: xarray.DataArray) -> xarray.DataArray:
    """Return the means of neighbouring bins, at most :data:`SMOOTH` of them."""
    dimension = analysis.bins_of(curve)
    width = -(-curve.sizes[dimension] // SMOOTH)
    return curve if width == 1 else curve.coarsen({dimension: width}, boundary="trim").mean(keep_attrs=True)


def spread(places: Sequence[float], least: float) -> list[float]:
    """Return places of labels, in their order and near where they were, at least ``least`` apart.

    Example:
        >>> spread([1.0, 1.0, 5.0], 2.0)
        [0.0, 2.0, 5.0]
    """
    order = np.argsort(places, kind="stable")
    clusters: list[list[float]] = []  # [sum of wanted first places, number of labels]
    for rank, i in enumerate(order):
        clusters.append([places[i] - rank * least, 1.0])
        while len(clusters) > 1 and clusters[-2][0] / clusters[-2][1] > clusters[-1][0] / clusters[-1][1]:
            wanted, number = clusters.pop()
            clusters[-1][0] += wanted
            clusters[-1][1] += number
    base = [wanted / number for wanted, number in clusters for _ in range(int(number))]
    found = np.empty(len(order))
    found[order] = np.array(base) + least * np.arange(len(order))
    return [float(y) for y in found]
