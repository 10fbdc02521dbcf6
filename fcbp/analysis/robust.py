"""Numbers of few runs that outliers do not carry: interquartile means, profiles, probabilities of improvement.

Agarwal, Schwarzer, Castro, Courville and Bellemare, "Deep reinforcement learning at the edge of the statistical
precipice" (NeurIPS 2021, arXiv 2108.13264), whose library is rliable. Scores are ``(runs, tasks)``: a run is a seed,
and a task is a problem, on each of which a method is run with every seed. :func:`scores` takes them from results.

>>> import numpy as np
>>> interquartile_mean(np.array([0.0, 1.0, 2.0, 9.0]))
1.5
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from fcbp.analysis.members import chosen_variable
from fcbp.analysis.numbers import LEVEL, best_of_each, by_seed, summary
from fcbp.checks import arguments

if TYPE_CHECKING:
    import xarray

__all__ = [
    "Interval",
    "interquartile_mean",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "scores",
    "stratified_bootstrap",
]

Scores = Float[np.ndarray, "runs *tasks"]
DRAWS = 2000


class Interval(NamedTuple):
    """A number with the ends of its interval, which may be arrays."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@arguments
def interquartile_mean(values: Scores) -> float:
    """Return the mean of the middle half of all runs of all tasks: the 25 % trimmed mean (Agarwal et al., Sec. 4.3).

    As ``scipy.stats.trim_mean(values, 0.25)``: of n values ``floor(n / 4)`` at each end are left out.

    Raises:
        ValueError: there are no values, or one is not finite.

    Example:
        >>> interquartile_mean(np.array([[0.0, 1.0], [2.0, 100.0]]))
        1.5
    """
    ordered = np.sort(_checked("values", values).ravel())
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


@arguments
def optimality_gap(values: Scores, target: float = 1.0) -> float:
    """Return the mean distance of runs below a target, more counting as the target itself (Agarwal et al., Sec. 4.3).

    ``mean(target - min(score, target))``; lower is better.

    Example:
        >>> optimality_gap(np.array([0.5, 1.0, 3.0, 0.5]))
        0.25
    """
    return float((target - np.minimum(_checked("values", values), target)).mean())


@arguments
def performance_profile(values: Scores, thresholds: Float[np.ndarray, "thresholds"]) -> Float[np.ndarray, "thresholds"]:
    """Return the fraction of runs with scores above each threshold, averaged over tasks (Agarwal et al., Eq. 2).

    Example:
        >>> performance_profile(np.array([0.1, 0.5, 0.9]), np.array([0.0, 0.5, 1.0])).round(2).tolist()
        [1.0, 0.33, 0.0]
    """
    found = _checked("values", values)
    fractions: np.ndarray = (found.reshape(found.shape[0], -1)[..., None] > np.asarray(thresholds)).mean((0, 1))
    return fractions


@arguments
def probability_of_improvement(first: Scores, second: Scores) -> float:
    """Return the probability that a run of the first scores higher than one of the second, averaged over tasks.

    Agarwal et al., Sec. 4.3 and App. A.1: of each task the Mann-Whitney statistic over the number of pairs, in which a
    tie counts a half.

    Args:
        first: ``(runs, tasks)``.
        second: ``(other runs, tasks)``.

    Raises:
        ValueError: tasks differ in number, or a score is not finite.

    Example:
        >>> probability_of_improvement(np.array([1.0, 2.0]), np.array([0.0, 2.0]))
        0.625
    """
    a, b = (_checked(name, x).reshape(len(x), -1) for name, x in (("first", first), ("second", second)))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"first has {a.shape[1]} tasks and second {b.shape[1]}; expected as many")
    pairs = a[:, None] - b[None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


@arguments
def stratified_bootstrap(
    statistic: Callable[..., float | np.ndarray],
    *values: Scores,
    draws: int = DRAWS,
    level: float = LEVEL,
    key: int = 0,
) -> Interval:
    """Return a statistic with its percentile interval: runs are drawn with replacement within each task (Agarwal et
    al., Sec. 4.1).

    Args:
        statistic: of as many arrays of scores as are given; gives a number, or an array such as a profile.
        values: ``(runs, tasks)``; of each array runs are drawn by themselves.
        draws: how often.
        level: how often such intervals hold the statistic, of very many experiments.
        key: of the draws.

    Raises:
        ValueError: ``draws`` or ``level`` is out of range, or a score is not finite.

    Example:
        >>> found = stratified_bootstrap(interquartile_mean, np.arange(20.0).reshape(10, 2))
        >>> bool(found.low < found.value < found.high)
        True
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws is {draws!r}; expected a whole number, 1 or more")
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; expected a number between 0 and 1")
    given = [_checked("values", x).reshape(len(x), -1) for x in values]
    generator = np.random.default_rng(key)

    def again(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, generator.integers(len(x), size=x.shape), 0)

    found = np.array([statistic(*map(again, given)) for _ in range(draws)])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(np.asarray(statistic(*given)), low, high)


@arguments
def scores(results: xarray.Dataset, variable: str | None = None, *, last: float = 0.2) -> dict[str, np.ndarray]:
    """Return the end of the run of each seed ``(runs,)``, for each method at its best: the input of the functions here.

    Of several problems, ``np.stack([scores(one)["cbp"] for one in problems], 1)`` is ``(runs, tasks)``.

    Args:
        results: of a sweep.
        variable: by default the accuracy where it was measured, else the loss or the first variable.
        last: the fraction of the run that counts as its end; 1 is the whole run.
    """
    variable = variable or chosen_variable(results)
    rows = best_of_each(summary(results, variable, last=last))
    found: Mapping[str, dict[int, float]] = {
        str(row.method): by_seed(results.isel(row.at), variable, last) for row in rows
    }
    return {method: np.array([ends[seed] for seed in sorted(ends)]) for method, ends in found.items()}


def _checked(name: str, values: Scores) -> np.ndarray:
    found = np.asarray(values, float)
    if not found.size or not found.ndim:
        raise ValueError(f"{name} has shape {found.shape}; expected (runs,) or (runs, tasks), with at least one run")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} has {int((~np.isfinite(found)).sum())} values that are not finite; expected none")
    return found
