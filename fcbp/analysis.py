"""What a sweep's results say: the end of a run, intervals over seeds, the best settings, and differences between runs.

>>> import fcbp
>>> members = fcbp.grid(seed=range(4), step_size=[0.003, 0.03])
>>> results = fcbp.sweep(fcbp.Experiment(method="bp"), members, steps=300, bin=50, progress=False)
>>> [(row.setting, row.best) for row in summary(results)]
[({'step_size': 0.003}, False), ({'step_size': 0.03}, True)]
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from fcbp.designs import plain

if TYPE_CHECKING:
    import xarray

__all__ = [
    "Difference",
    "Row",
    "best_of_each",
    "bootstrap",
    "compare",
    "end_of_run",
    "ranking",
    "summary",
    "table",
    "times",
]

Setting = dict[str, Any]
ROWS = ("member", "setting")
"""Dimensions along which settings are listed, each a coordinate of its own."""
DRAWS = 10_000
LEVEL = 0.95


def end_of_run(values: xarray.DataArray, last: float = 0.2) -> xarray.DataArray:
    """The mean over the last bins; NaN where a member failed before the end."""
    _check_fraction(last)
    bins = max(1, round(last * values.sizes["step"]))
    # A member that failed has NaN at the end, and its mean says so.
    return values.isel(step=slice(-bins, None)).mean("step", skipna=False, keep_attrs=True)


def bootstrap(values: Float[np.ndarray, "seeds"], *, level: float = LEVEL, key: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean (Efron and Tibshirani, 1993); NaN for less than two values.

    Args:
        values: one for each seed; those that are not finite are left out.
        level: how often such intervals hold the mean, of very many seeds.
        key: of the resampling.

    Example:
        >>> low, high = bootstrap(np.array([1.0, 2.0, 3.0, 4.0]))
        >>> low, high
        (1.5, 3.5)
    """
    good = values[np.isfinite(values)]
    if good.size < 2:
        return float("nan"), float("nan")
    means = good[np.random.default_rng(key).integers(good.size, size=(DRAWS, good.size))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# --- one run --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A setting, and what came of it over its seeds."""

    setting: Setting
    """What sets it apart, by name."""
    at: Setting
    """Where it is in the results: ``results.isel(row.at)``."""
    start: float
    """Mean of the first part of the run."""
    end: float
    """Mean of the last part, over the seeds that did not fail."""
    error: float
    """Its standard error; NaN for one seed."""
    low: float
    """Lower end of its bootstrap interval."""
    high: float
    """Upper end."""
    counts: dict[str, float]
    """Units replaced and weights reset in the whole run, means over seeds."""
    inactive: float
    """Fraction of inactive units in the last part of the run."""
    failed: int
    """Seeds that became NaN."""
    best: bool = False
    """Whether it is the best, of its method where there are several."""

    @property
    def method(self) -> Any:
        """The method, where methods were swept."""
        return self.setting.get("method")


def summary(results: xarray.Dataset, variable: str = "loss", *, last: float = 0.2) -> list[Row]:
    """A row for every setting, in the order of the results; lower is better.

    The best are chosen by the same seeds that their errors are of, so of many settings the best looks a little better
    than it is.

    Args:
        results: what :func:`fcbp.sweep` or :func:`fcbp.open` gave.
        variable: by which settings are judged.
        last: the fraction of the run that counts as its end, and as its start.

    Raises:
        ValueError: ``variable`` is not in ``results``, or ``last`` is no fraction.
    """
    _check_fraction(last)
    if variable not in results.data_vars:
        raise ValueError(f"variable is {variable!r}; expected one of {', '.join(map(str, results.data_vars))}")
    bins = max(1, round(last * results.sizes["step"]))
    rows = [_row(results.isel(at), setting, at, variable, last, bins) for at, setting in settings(results)]
    best = {method: _best(row for row in rows if row.method == method) for method in {row.method for row in rows}}
    several = len(rows) > 1
    return [dataclasses.replace(row, best=several and row is best[row.method]) for row in rows]


def _row(chosen: xarray.Dataset, setting: Setting, at: Setting, variable: str, last: float, bins: int) -> Row:
    ends = np.atleast_1d(end_of_run(chosen[variable], last).values).astype(float)
    good = ends[np.isfinite(ends)]
    low, high = bootstrap(good)
    counts = {name: float(chosen[name].sum("step").mean()) for name in COUNTS if name in chosen}
    return Row(
        setting,
        at,
        start=float(chosen[variable].isel(step=slice(0, bins)).mean()),
        end=float(good.mean()) if good.size else float("nan"),
        error=float(good.std(ddof=1) / np.sqrt(good.size)) if good.size > 1 else float("nan"),
        low=low,
        high=high,
        counts=counts,
        inactive=float(end_of_run(chosen["inactive_units"], last).mean()) if "inactive_units" in chosen else np.nan,
        failed=int(ends.size - good.size),
    )


COUNTS = {"units_replaced": "units replaced", "weights_reset": "weights reset"}


def _best(rows: Any) -> Row | None:
    return min((row for row in rows if np.isfinite(row.end)), key=lambda row: row.end, default=None)


def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """The best setting of each method, the best method first; those that failed altogether last."""
    by_method = {row.method: row for row in rows}  # of a method that failed altogether: any
    by_method |= {row.method: row for row in rows if row.best}
    return sorted(by_method.values(), key=lambda row: (not np.isfinite(row.end), row.end))


def settings(results: xarray.Dataset | xarray.DataArray, over: str = "seed") -> Iterator[tuple[Setting, Setting]]:
    """Every setting: where it is (for ``isel``), and what sets it apart from the others.

    Args:
        results: a sweep's.
        over: the dimension that settings are averaged over.
    """
    dims = [str(dim) for dim in results.dims if dim not in (over, "step")]
    names = apart(results, over)
    for index in itertools.product(*(range(results.sizes[dim]) for dim in dims)):
        at = dict(zip(dims, index, strict=True))
        yield at, identity(results.isel(at), names)


def apart(results: xarray.Dataset | xarray.DataArray, over: str = "seed") -> list[str]:
    """What differs between settings: the method first, the dimensions, and what sets listed settings apart.

    A setting that only one method has, and always with one value, says no more than the method does.
    """
    names = [str(dim) for dim in results.dims if dim not in (over, "step", *ROWS) and results.sizes[dim] > 1]
    for dim in ROWS:
        if results.sizes.get(dim, 1) > 1:
            listed = {str(n): v.values.astype(str) for n, v in results.coords.items() if v.dims == (dim,) and n != dim}
            methods = listed.get("method", np.zeros(results.sizes[dim], str))
            names += ["method"] * (len(np.unique(methods)) > 1)
            for name, values in listed.items():
                if any(len(np.unique(values[methods == method])) > 1 for method in np.unique(methods)):
                    names.append(name)
            names = names or [dim]
    return sorted(names, key=lambda name: name != "method")


def identity(chosen: xarray.Dataset | xarray.DataArray, names: Sequence[str]) -> Setting:
    """What sets a setting apart, as plain numbers and words; what it does not set is left out."""
    found = {name: plain(chosen[name].values[()]) for name in names if name in chosen.coords}
    return {name: value for name, value in found.items() if not is_unset(value)}


def is_unset(value: Any) -> bool:
    """Whether a coordinate's value stands for a setting that a member does not set."""
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and np.isnan(value))


# --- tables ---------------------------------------------------------------------------------------------


def table(results: xarray.Dataset) -> str:
    """A line for each setting: loss at the start and at the end of the run, and what happened to its units.

    Errors are means over seeds, the last with its standard error and its 95% bootstrap interval; the best is marked, of
    each method where there are several.
    """
    rows = summary(results)
    names = list(dict.fromkeys(name for row in rows for name in row.setting))
    methods = len({row.method for row in rows}) > 1
    marks = [(f"best {row.method}" if methods else "best") if row.best else "" for row in rows]
    return columns(
        {name: [show(row.setting[name]) if name in row.setting else "" for row in rows] for name in names}
        | _measured(rows)
        | {"": marks}
    )


def ranking(results: xarray.Dataset) -> str:
    """Each method at its best, the best first."""
    rows = best_of_each(summary(results))
    return columns(
        {"": [str(i + 1) for i in range(len(rows))], "method": [str(row.method) for row in rows]}
        | {"at its best": [describe(others(row.setting)) or "-" for row in rows]}
        | _measured(rows)
    )


def times(results: xarray.Dataset) -> str:
    """A line for each program that the members were grouped by, such as one for each method: the seconds that it ran,
    compiling and measuring included, summed over processes."""
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


def _measured(rows: Sequence[Row]) -> dict[str, list[str]]:
    ends = [abs(row.end) for row in rows if np.isfinite(row.end) and row.end]
    digits = max(3, 2 - int(np.floor(np.log10(min(ends))))) if ends else 3
    cells = {
        "loss, first fifth": [f"{row.start:.{digits}f}" for row in rows],
        "loss, last fifth": [
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


def columns(cells: dict[str, list[str]], *, left: bool = False) -> str:
    """Cells by heading as lines of text, to the right or to the left of their columns."""
    widths = [max(map(len, (name, *column))) for name, column in cells.items()]
    lines = [list(cells), ["-" * width for width in widths], *map(list, zip(*cells.values(), strict=True))]
    adjust = str.ljust if left else str.rjust
    return "\n".join(
        "  ".join(adjust(cell, width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def describe(setting: Setting) -> str:
    """What sets a setting apart, in words."""
    words = {name: f"{name.replace('_', ' ')} {show(value)}" for name, value in setting.items() if name != "method"}
    return ", ".join([*([str(setting["method"])] if "method" in setting else []), *words.values()])


def others(setting: Setting) -> Setting:
    """A setting without its method."""
    return {name: value for name, value in setting.items() if name != "method"}


def show(value: Any) -> str:
    """A setting's value, short."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return str(value)
    return f"{value:g}"


# --- two runs -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The second run's end less the first's, seed by seed."""

    first: Setting
    second: Setting
    """The settings that are compared."""
    seeds: int
    """Seeds of both that failed in neither."""
    ends: tuple[float, float]
    """Means of the two."""
    mean: float
    """Of the differences; below 0 the second run's error is lower."""
    low: float
    """Lower end of their bootstrap interval."""
    high: float
    """Upper end."""


def compare(
    first: xarray.Dataset, second: xarray.Dataset, variable: str = "loss", *, last: float = 0.2
) -> list[Difference]:
    """Paired differences between two runs, over the seeds of both: of their best settings, then of those of both.

    Raises:
        ValueError: ``variable`` is not in both, or they have no seed in common.
    """
    sides = [(results, summary(results, variable, last=last)) for results in (first, second)]
    best = [_best(rows) or rows[0] for _, rows in sides]
    pairs = [(best[0], best[1])]
    pairs += [(a, b) for a in sides[0][1] for b in sides[1][1] if a.setting == b.setting and (a, b) != pairs[0]]
    return [_difference((first, a), (second, b), variable, last) for a, b in pairs]


def _difference(a: tuple[xarray.Dataset, Row], b: tuple[xarray.Dataset, Row], variable: str, last: float) -> Difference:
    ends = [by_seed(results.isel(row.at), variable, last) for results, row in (a, b)]
    common = sorted(set(ends[0]) & set(ends[1]))
    if not common:
        raise ValueError(f"runs have seeds {_seeds(ends[0])} and {_seeds(ends[1])}; expected some in common")
    pairs = np.array([[side[seed] for seed in common] for side in ends], float)
    good = pairs[:, np.isfinite(pairs).all(0)]
    difference = good[1] - good[0]
    low, high = bootstrap(difference)
    means = [float(side.mean()) if side.size else float("nan") for side in (*good, difference)]
    return Difference(a[1].setting, b[1].setting, difference.size, (means[0], means[1]), means[2], low, high)


def by_seed(chosen: xarray.Dataset, variable: str, last: float = 0.2) -> dict[int, float]:
    """The end of the run of each seed of one setting."""
    ends = np.atleast_1d(end_of_run(chosen[variable], last).values).astype(float)
    if "seed" in chosen.coords:
        seeds = np.atleast_1d(chosen["seed"].values).tolist()
    else:
        seeds = [experiment_of(chosen).get("seed", 0)]
    return dict(zip(seeds, ends.tolist(), strict=True))


def experiment_of(results: xarray.Dataset) -> dict[str, Any]:
    """The settings that all members share, as they were recorded."""
    return json.loads(results.attrs.get("experiment", "{}"))


def differences_table(differences: Sequence[Difference]) -> str:
    """A line for each pair of settings; a difference whose interval holds no 0 is marked."""
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


def _seeds(ends: dict[int, float]) -> str:
    seeds = list(ends)
    return ", ".join(map(str, seeds[:5])) + (", ..." if len(seeds) > 5 else "")


def _check_fraction(last: float) -> None:
    if not 0 < last <= 1:
        raise ValueError(f"last is {last!r}; expected a fraction of the run, above 0 and at most 1")
