"""Results as tables of text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp.analysis.members import chosen_variable, describe, main_variable, others, show
from fcbp.analysis.numbers import (
    COUNTS,
    LEVEL,
    Difference,
    Row,
    best_of_each,
    is_higher_better,
    lost_plasticity,
    summary,
)
from fcbp.checks import arguments

if TYPE_CHECKING:
    import xarray

__all__ = ["columns", "differences_table", "label", "lost_table", "ranking", "table", "times"]


@arguments
def table(results: xarray.Dataset) -> str:
    """Write a line for each setting: the loss, or the first variable, at the start and at the end of the run, and what
    happened to its units.

    Errors are means over seeds, the last with its standard error and its 95% bootstrap interval; the best is marked, of
    each method where there are several.
    """
    rows = summary(results)
    what = label(results)
    names = list(dict.fromkeys(name for row in rows for name in row.setting))
    methods = len({row.method for row in rows}) > 1
    marks = [(f"best {row.method}" if methods else "best") if row.best else "" for row in rows]
    return columns(
        {name: [show(row.setting[name]) if name in row.setting else "" for row in rows] for name in names}
        | _measured(rows, what)
        | {"": marks}
    )


@arguments
def ranking(results: xarray.Dataset) -> str:
    """Rank the methods, each at its best, the best first."""
    rows = best_of_each(summary(results))
    what = label(results)
    return columns(
        {"": [str(i + 1) for i in range(len(rows))], "method": [str(row.method) for row in rows]}
        | {"at its best": [describe(others(row.setting)) or "-" for row in rows]}
        | _measured(rows, what)
    )


@arguments
def times(results: xarray.Dataset) -> str:
    """Return a line for each program that the members were grouped by, such as one for each method: the seconds that it
    ran, compiling and measuring included, summed over processes."""
    programs = json.loads(results.attrs.get("programs", "[]"))
    names = list(dict.fromkeys(name for program in programs for name in program["settings"]))
    steps = results.attrs["steps"]
    return columns(
        {name: [_told(program["settings"].get(name, "")) for program in programs] for name in names}
        | {
            "members": [f"{program['members']:,}" for program in programs],
            "seconds": [f"{program['seconds']:,.1f}" for program in programs],
            "µs per member and step": [f"{1e6 * p['seconds'] / (p['members'] * steps):,.3f}" for p in programs],
        }
    )


def _told(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else show(value)


@arguments
def label(results: xarray.Dataset) -> str:
    """Return the name of the main variable."""
    return main_variable(results).replace("_", " ")


def _measured(rows: Sequence[Row], what: str) -> dict[str, list[str]]:
    ends = [abs(row.end) for row in rows if np.isfinite(row.end) and row.end]
    digits = max(3, 2 - int(np.floor(np.log10(min(ends))))) if ends else 3
    cells = {
        f"{what}, first fifth": [f"{row.start:.{digits}f}" for row in rows],
        f"{what}, last fifth": [
            f"{row.end:.{digits}f}" + (f" ± {row.error:.{digits}f}" if np.isfinite(row.error) else "") for row in rows
        ],
    }
    if any(np.isfinite(row.low) for row in rows):
        cells[f"{LEVEL:.0%} interval"] = [
            f"{row.low:.{digits}f} to {row.high:.{digits}f}" if np.isfinite(row.low) else "" for row in rows
        ]
    for name, heading in COUNTS.items():
        if any(np.isfinite(row.counts.get(name, np.nan)) for row in rows):
            cells[heading] = [_count(row.counts.get(name, np.nan)) for row in rows]
    if any(np.isfinite(row.inactive) for row in rows):
        cells["inactive units"] = [f"{row.inactive:.1%}" for row in rows]
    return {**cells, "NaN": [str(row.failed) for row in rows]}


def _count(value: float) -> str:
    return f"{value:,.1f}" if np.isfinite(value) else ""


@arguments
def columns(cells: dict[str, list[str]], *, left: bool = False) -> str:
    """Return cells by heading as lines of text, to the right or to the left of their columns."""
    widths = [max(map(len, (name, *column))) for name, column in cells.items()]
    lines = [list(cells), ["-" * width for width in widths], *map(list, zip(*cells.values(), strict=True))]
    adjust = str.ljust if left else str.rjust
    return "\n".join(
        "  ".join(adjust(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


@arguments
def lost_table(
    results: xarray.Dataset, variable: str | None = None, *, baseline: str = "fresh", last: float = 0.2
) -> str:
    """Show the loss of plasticity in a line for each method, with its difference to :func:`fcbp.methods.fresh`.

    See :func:`lost_plasticity`. "lost" stands where the interval holds only values that are worse than the baseline's,
    "better" where it holds only better ones.

    Args:
        results: a sweep's, of several methods.
        variable: compared; by default the accuracy, or the loss.
        baseline: name of the method that the others are compared with.
        last: fraction of the run that counts as its end.
    """
    variable = variable or chosen_variable(results)
    found = lost_plasticity(results, variable, baseline=baseline, last=last)
    sign = 1 if is_higher_better(variable) else -1

    def verdict(d: Difference) -> str:
        return "" if not d.low * d.high > 0 else "better" if sign * d.mean > 0 else "lost"

    return columns(
        {
            "method": [str(d.second["method"]) for d in found],
            "at its best": [describe(others(d.second)) or "-" for d in found],
            variable.replace("_", " "): [f"{d.ends[1]:.3f}" for d in found],
            baseline: [f"{d.ends[0]:.3f}" for d in found],
            "difference": [f"{d.mean:+.3f}" for d in found],
            f"{LEVEL:.0%} interval": [f"{d.low:+.3f} to {d.high:+.3f}" if np.isfinite(d.low) else "" for d in found],
            "seeds": [str(d.seeds) for d in found],
            "plasticity": [verdict(d) for d in found],
        }
    )


@arguments
def differences_table(differences: Sequence[Difference]) -> str:
    """Return a line for each pair of settings; a difference whose interval holds no 0 is marked."""
    size = [abs(value) for d in differences for value in (d.mean, d.high - d.low) if np.isfinite(value) and value]
    digits = min(8, max(3, 1 - int(np.floor(np.log10(min(size)))))) if size else 3
    sides = [(describe(d.first) or "-", describe(d.second) or "-") for d in differences]
    marks = ["" if not d.low * d.high > 0 else "lower" if d.mean < 0 else "higher" for d in differences]
    return columns(
        {
            "": ["best" if i == 0 else "" for i in range(len(differences))],
            "first": [first for first, _ in sides],
            "second": [second for _, second in sides],
            "seeds": [str(d.seeds) for d in differences],
            "means": [f"{d.ends[0]:.{digits}f}, {d.ends[1]:.{digits}f}" for d in differences],
            "difference": [f"{d.mean:+.{digits}f}" for d in differences],
            f"{LEVEL:.0%} interval": [
                f"{d.low:+.{digits}f} to {d.high:+.{digits}f}" if np.isfinite(d.low) else "" for d in differences
            ],
            "second is": marks,
        }
    )
