"""The end of a run, intervals over seeds, the best settings, and differences between runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from fcbp.analysis.members import Setting, bins_of, chosen_variable, main_variable, settings
from fcbp.checks import arguments
from fcbp.kinds import Fraction

if TYPE_CHECKING:
    import xarray

__all__ = [
    "COUNTS",
    "LEVEL",
    "Difference",
    "Row",
    "best_of_each",
    "bootstrap",
    "by_seed",
    "compare",
    "end_of_run",
    "experiment_of",
    "is_higher_better",
    "lost_plasticity",
    "summary",
]

DRAWS = 10_000
LEVEL = 0.95
HIGHER = ("accuracy", "return", "plasticity")
"""Ends of the names of variables of which more is better."""
COUNTS = {"units_replaced": "units replaced", "weights_reset": "weights reset"}


@arguments
def end_of_run(values: xarray.DataArray, last: float = 0.2) -> xarray.DataArray:
    """Return the mean over the last bins; NaN where a member failed before the end."""
    _check_fraction(last)
    dimension = bins_of(values)
    bins = max(1, round(last * values.sizes[dimension]))
    # A member that failed has NaN at the end, and its mean says so.
    return values.isel({dimension: slice(-bins, None)}).mean(dimension, skipna=False, keep_attrs=True)


@arguments
def bootstrap(values: Float[np.ndarray, "seeds"], *, level: Fraction = LEVEL, key: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean (Efron and Tibshirani, 1993); NaN for less than two values.

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


@dataclass(frozen=True)
class Row:
    """A setting, and its results over the seeds."""

    setting: Setting
    """The values that set it apart, by name."""
    at: Setting
    """Its place in the results: ``results.isel(row.at)``."""
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
    higher: bool = False
    """Whether the best are those of the highest end."""

    @property
    def method(self) -> str | None:
        """The method, where methods were swept."""
        name: str | None = self.setting.get("method")
        return name


@arguments
def summary(results: xarray.Dataset, variable: str | None = None, *, last: float = 0.2) -> list[Row]:
    """Return a row for every setting, in the order of the results. Lower is better, except for an accuracy.

    The best are chosen on the seeds that their errors are computed from. So the best of many looks a little better
    than it is.

    Args:
        results: what :func:`fcbp.sweep` or :func:`fcbp.open` gave.
        variable: by which settings are judged; by default the loss, or the first variable where there is none.
        last: the fraction of the run that counts as its end, and as its start.

    Raises:
        ValueError: ``variable`` is not in ``results``, or ``last`` is no fraction.
    """
    _check_fraction(last)
    named, variable = variable is not None, main_variable(results) if variable is None else variable
    _check_variable(results, variable)
    bins = max(1, round(last * results.sizes[bins_of(results)]))
    rows = [_row(results.isel(at), setting, at, variable, last, bins) for at, setting in settings(results)]
    higher = is_higher_better(variable)
    best = {
        method: _best((row for row in rows if row.method == method), higher) for method in {row.method for row in rows}
    }
    # Of a program's own variable nobody knows which end is good.
    several = len(rows) > 1 and (named or variable == "loss")
    return [dataclasses.replace(row, best=several and row is best[row.method], higher=higher) for row in rows]


def _check_variable(results: xarray.Dataset, variable: str) -> None:
    if variable not in results.data_vars:
        raise ValueError(f"variable is {variable!r}; expected one of {', '.join(map(str, results.data_vars))}")


def _row(chosen: xarray.Dataset, setting: Setting, at: Setting, variable: str, last: float, bins: int) -> Row:
    ends = np.atleast_1d(end_of_run(chosen[variable], last).values).astype(float)
    good = ends[np.isfinite(ends)]
    low, high = bootstrap(good)
    dimension = bins_of(chosen)
    counts = {name: float(chosen[name].sum(dimension).mean()) for name in COUNTS if name in chosen}
    return Row(
        setting,
        at,
        start=float(chosen[variable].isel({dimension: slice(0, bins)}).mean()),
        end=float(good.mean()) if good.size else float("nan"),
        error=float(good.std(ddof=1) / np.sqrt(good.size)) if good.size > 1 else float("nan"),
        low=low,
        high=high,
        counts=counts,
        inactive=float(end_of_run(chosen["inactive_units"], last).mean()) if "inactive_units" in chosen else np.nan,
        failed=int(ends.size - good.size),
    )


def _best(rows: Any, higher: bool = False) -> Row | None:
    sign = -1 if higher else 1
    return min((row for row in rows if np.isfinite(row.end)), key=lambda row: sign * row.end, default=None)


@arguments
def best_of_each(rows: Sequence[Row]) -> list[Row]:
    """Return the best setting of each method, the best method first; those that failed altogether last."""
    by_method = {row.method: row for row in rows}  # of a method that failed altogether: any
    by_method |= {row.method: row for row in rows if row.best}
    higher = rows[0].higher if rows else False
    return sorted(by_method.values(), key=lambda row: (not np.isfinite(row.end), -row.end if higher else row.end))


@dataclass(frozen=True)
class Difference:
    """The difference of two runs' ends, the second less the first, seed by seed."""

    first: Setting
    second: Setting
    """The settings that are compared."""
    seeds: int
    """Seeds of both that failed in neither."""
    ends: tuple[float, float]
    """Means of the two."""
    mean: float
    """Mean of the differences; below 0 the second run's error is lower."""
    low: float
    """Lower end of their bootstrap interval."""
    high: float
    """Upper end."""


@arguments
def compare(
    first: xarray.Dataset, second: xarray.Dataset, variable: str | None = None, *, last: float = 0.2
) -> list[Difference]:
    """Return paired differences between two runs, over the seeds of both: of their best settings, then of those of
    both.

    Args:
        first: a sweep's results.
        second: another's.
        variable: compared; by default the loss, or the first variable that was measured.
        last: fraction of the runs that counts as their end.

    Raises:
        ValueError: ``variable`` is not in both, or they have no seed in common.
    """
    variable = main_variable(first) if variable is None else variable
    sides = [(results, summary(results, variable, last=last)) for results in (first, second)]
    best = [_best(rows, is_higher_better(variable)) or rows[0] for _, rows in sides]
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


@arguments
def lost_plasticity(
    results: xarray.Dataset, variable: str | None = None, *, baseline: str = "fresh", last: float = 0.2
) -> list[Difference]:
    """Return the difference of each method, at its best, to learners begun anew with every task, paired by seed.

    A network has lost plasticity where it ends worse than one that is new to the task (Dohare et al., Nature 2024,
    Fig. 2). That is :func:`fcbp.methods.fresh`, itself at its best.

    Args:
        results: of a sweep over methods, of which one is the baseline.
        variable: what is compared; by default the accuracy where it was measured, else the loss or the first variable.
        baseline: the method that the others are compared with.
        last: the fraction of the run that counts as its end.

    Returns:
        The baseline first and a method second, the best method first.

    Raises:
        ValueError: there is no such method in the results, or no such variable.
    """
    variable = variable or chosen_variable(results)
    rows = best_of_each(summary(results, variable, last=last))
    first = next((row for row in rows if row.method == baseline), None)
    if first is None:
        known = ", ".join(str(row.method) for row in rows)
        raise ValueError(f"baseline is {baseline!r}; expected one of the methods that were run: {known}")
    return [_difference((results, first), (results, row), variable, last) for row in rows if row is not first]


@arguments
def is_higher_better(variable: str) -> bool:
    """Tell whether the best are those with the highest values: of accuracies, returns and plasticity; else the lowest.

    Example:
        >>> is_higher_better("test_accuracy"), is_higher_better("loss")
        (True, False)
    """
    return variable.endswith(HIGHER)


@arguments
def by_seed(chosen: xarray.Dataset, variable: str, last: float = 0.2) -> dict[int, float]:
    """Return the end of the run of each seed of one setting."""
    _check_variable(chosen, variable)
    ends = np.atleast_1d(end_of_run(chosen[variable], last).values).astype(float)
    if "seed" in chosen.coords:
        seeds = np.atleast_1d(chosen["seed"].values).tolist()
    else:
        seeds = [experiment_of(chosen).get("seed", 0)]
    return dict(zip(seeds, ends.tolist(), strict=True))


@arguments
def experiment_of(results: xarray.Dataset) -> dict[str, Any]:
    """Return the settings that all members share, as they were recorded."""
    settings: dict[str, Any] = json.loads(results.attrs.get("experiment", "{}"))
    return settings


def _seeds(ends: dict[int, float]) -> str:
    seeds = list(ends)
    return ", ".join(map(str, seeds[:5])) + (", ..." if len(seeds) > 5 else "")


def _check_fraction(last: float) -> None:
    if not 0 < last <= 1:
        raise ValueError(f"last is {last!r}; expected a fraction of the run, above 0 and at most 1")
