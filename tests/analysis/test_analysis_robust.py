"""Robust numbers of few runs, against slow versions of their published definitions, and by their properties."""

import itertools
import math
import random

import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import methods
from scipy import stats

from fcbp import analysis

NUMBERS = st.floats(-100, 100, width=32)
TABLES = (
    st.integers(1, 4)
    .flatmap(lambda tasks: st.lists(st.lists(NUMBERS, min_size=tasks, max_size=tasks), min_size=1, max_size=9))
    .map(np.array)
)


@settings(deadline=None, max_examples=60)
@given(TABLES)
def test_the_interquartile_mean_is_the_mean_of_the_middle_half(values):
    flat = sorted(values.ravel().tolist())
    cut = math.floor(len(flat) * 0.25)
    middle = flat[cut : len(flat) - cut]
    assert analysis.interquartile_mean(values) == pytest.approx(sum(middle) / len(middle), abs=1e-6)
    assert analysis.interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=None), abs=1e-6)


def test_the_interquartile_mean_does_not_follow_an_outlier():
    values = np.arange(8.0)
    assert analysis.interquartile_mean(values) == analysis.interquartile_mean(np.append(values[:-1], 1e9)) == 3.5


@settings(deadline=None, max_examples=60)
@given(TABLES, st.lists(NUMBERS, min_size=1, max_size=5))
def test_a_profile_counts_the_runs_above_each_threshold(values, thresholds):
    found = analysis.performance_profile(values, np.array(thresholds))
    runs, tasks = values.shape
    for threshold, fraction in zip(thresholds, found, strict=True):
        by_task = [sum(values[n, m] > threshold for n in range(runs)) / runs for m in range(tasks)]
        assert fraction == pytest.approx(sum(by_task) / tasks)
    order = np.argsort(thresholds)
    assert (np.diff(found[order]) <= 0).all()


def test_the_area_under_a_profile_is_the_mean():
    values = np.random.default_rng(0).uniform(size=(7, 3))
    grid = np.linspace(0, 1, 20001)
    assert analysis.performance_profile(values, grid).mean() == pytest.approx(values.mean(), abs=1e-3)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_probability_of_improvement_is_the_mann_whitney_statistic(data):
    tasks = data.draw(st.integers(1, 3))
    whole = st.integers(-3, 3).map(float)
    row = st.lists(whole, min_size=tasks, max_size=tasks)
    a, b = (np.array(data.draw(st.lists(row, min_size=1, max_size=6))) for _ in range(2))
    by_task = []
    for m in range(tasks):
        wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(a[:, m], b[:, m])]
        by_task.append(sum(wins) / len(wins))
        u = (
            stats.mannwhitneyu(a[:, m], b[:, m], method="asymptotic").statistic
            if np.ptp([*a[:, m], *b[:, m]])
            else None
        )
        assert u is None or u / (len(a) * len(b)) == pytest.approx(by_task[-1])
    found = analysis.probability_of_improvement(a, b)
    assert found == pytest.approx(sum(by_task) / tasks)
    assert found + analysis.probability_of_improvement(b, a) == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(TABLES, NUMBERS)
def test_the_optimality_gap_is_the_mean_shortfall(values, target):
    shortfall = [max(target - x, 0.0) for x in values.ravel().tolist()]
    assert analysis.optimality_gap(values, target) == pytest.approx(sum(shortfall) / len(shortfall), abs=1e-6)


def test_the_bootstrap_draws_runs_within_each_task():
    """Against one written with Python's lists and generator: ends agree within their sampling error."""
    values = np.random.default_rng(3).normal(size=(12, 2)) + np.array([0.0, 10.0])
    found = analysis.stratified_bootstrap(np.mean, values, draws=4000)
    generator, means = random.Random(0), []
    for _ in range(4000):
        drawn = [generator.choice(values[:, m].tolist()) for m in range(2) for _ in range(12)]
        means.append(sum(drawn) / len(drawn))
    means.sort()
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(means[100], abs=0.02)
    assert found.high == pytest.approx(means[3899], abs=0.02)
    # Drawn across tasks, whose levels lie 10 apart, it would be many times as wide.
    assert found.high - found.low < 1


def test_the_bootstrap_of_two_arrays_and_of_a_statistic_that_is_an_array():
    generator = np.random.default_rng(0)
    a, b = generator.normal(1, 1, (30, 2)), generator.normal(0, 1, (20, 2))
    better = analysis.stratified_bootstrap(analysis.probability_of_improvement, a, b, draws=300)
    assert 0.5 < better.low < better.value < better.high < 1
    thresholds = np.array([-5.0, 0.5, 9.0])
    profile = analysis.stratified_bootstrap(lambda x: analysis.performance_profile(x, thresholds), a, draws=300)
    assert profile.low.shape == profile.value.shape == (3,)
    assert profile.low[0] == profile.high[0] == 1
    assert profile.low[1] < profile.value[1] < profile.high[1]
    again = analysis.stratified_bootstrap(lambda x: analysis.performance_profile(x, thresholds), a, draws=300)
    np.testing.assert_array_equal(profile.low, again.low)


def test_its_interval_covers_as_often_as_it_says():
    generator, covered = np.random.default_rng(0), 0
    for i in range(200):
        found = analysis.stratified_bootstrap(np.mean, generator.normal(2, 1, (25, 2)), draws=300, key=i)
        covered += found.low <= 2 <= found.high
    assert 0.88 <= covered / 200 <= 0.985


SWEEP = methods(("fresh", 0.1, 0.5), ("bp", 0.1, 0.9), ("bp", 0.2, 0.8), ("cbp", 0.1, 0.45), ("l2", 0.1, 0.5))


def test_scores_are_the_ends_of_each_method_at_its_best():
    found = analysis.scores(SWEEP)
    assert set(found) == {"fresh", "bp", "cbp", "l2"}
    np.testing.assert_allclose(found["bp"], [0.7, 0.8, 0.9], rtol=1e-6)


# --- loss of plasticity: the difference to learners begun anew ------------------------------------------------


def paired(*rows):
    """Methods whose seeds differ far more than the methods do."""
    data = methods(*((name, 0.1, level) for name, level, _ in rows), seeds=6)
    noise = np.random.default_rng(0).normal(0, 1e-3, (len(rows), 6, 10))
    shared = np.linspace(0, 5, 6)[None, :, None]
    loss = np.array([level for _, level, _ in rows])[:, None, None] + shared + noise
    found = data.assign(loss=(("setting", "seed", "step"), loss))
    accuracy = np.array([accuracy for *_, accuracy in rows])[:, None, None] - shared / 10 + noise
    return found.assign(accuracy=(("setting", "seed", "step"), accuracy))


PAIRED = paired(("fresh", 1.0, 0.9), ("bp", 1.1, 0.8), ("cbp", 0.9, 0.95), ("l2", 1.0, 0.9))


@pytest.mark.parametrize(("variable", "sign"), [("loss", 1), ("accuracy", -1), (None, -1)])
def test_differences_to_fresh_are_paired_by_seed(variable, sign):
    found = {d.second["method"]: d for d in analysis.lost_plasticity(PAIRED, variable)}
    assert list(found) == ["cbp", "l2", "bp"] or list(found) == ["cbp", "bp", "l2"]
    assert all(d.first == {"method": "fresh"} and d.seeds == 6 for d in found.values())
    assert found["bp"].mean == pytest.approx(sign * 0.1, abs=3e-3)
    # Seeds lie far apart; differences do not.
    assert all(d.high - d.low < 0.01 for d in found.values())
    lines = analysis.lost_table(PAIRED, variable).splitlines()[2:]
    verdicts = {line.split()[0]: line.split()[-1] for line in lines}
    assert (verdicts["bp"], verdicts["cbp"]) == ("lost", "better")


def test_what_does_not_differ_has_lost_nothing():
    data = PAIRED.isel(setting=[0, 3])
    data["loss"][1] = data["loss"][0] + [[0.001], [-0.001], [0.002], [-0.002], [0.003], [-0.003]]
    (line,) = analysis.lost_table(data, "loss").splitlines()[2:]
    assert line.split()[-1] == "6"


def test_without_fresh_it_says_which_methods_there_are():
    with pytest.raises(ValueError, match=r"baseline is 'scratch'; expected one of the methods that were run: .*bp"):
        analysis.lost_plasticity(PAIRED, baseline="scratch")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.interquartile_mean(np.array([])), r"values has shape \(0,\); expected \(runs,\)"),
        (lambda: analysis.interquartile_mean(np.array([1.0, np.nan])), "values has 1 values that are not finite"),
        (
            lambda: analysis.probability_of_improvement(np.ones((2, 2)), np.ones((2, 3))),
            "first has 2 tasks and second 3",
        ),
        (lambda: analysis.stratified_bootstrap(np.mean, np.ones(3), draws=0), "draws is 0"),
        (lambda: analysis.stratified_bootstrap(np.mean, np.ones(3), level=1.0), r"level is 1\.0"),
        (lambda: analysis.scores(SWEEP, "los"), "variable is 'los'"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_function_takes_results_that_have_accuracies_alone():
    data = xarray.Dataset({"accuracy": PAIRED["accuracy"]})
    assert set(analysis.scores(data)) == {"fresh", "bp", "cbp", "l2"}
