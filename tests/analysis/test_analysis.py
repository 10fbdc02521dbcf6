"""What results say: intervals, the best settings, tables, and differences between runs."""

import numpy as np
import pytest
import xarray
from made_results import methods, results

from fcbp import analysis


def ends(*values):
    """A run of settings x seeds whose loss is constant in time."""
    loss = np.repeat(np.array(values, np.float32)[..., None], 10, -1)
    dims = ("step_size", "seed", "step")
    coords = {"step_size": np.arange(1, len(values) + 1) / 10, "seed": range(loss.shape[1]), "step": range(1, 11)}
    return xarray.Dataset({"loss": (dims, loss)}, coords)


NAN = float("nan")
SEVERAL = methods(("bp", NAN, 1.0), ("cbp", 0.1, 0.9), ("cbp", 0.01, 0.5), ("l2", NAN, 0.7))


def test_the_bootstrap_interval_covers_the_mean_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr("fcbp.analysis.numbers.DRAWS", 1000)
    generator = np.random.default_rng(0)
    covered = 0
    for i in range(300):
        low, high = analysis.bootstrap(generator.normal(2.0, 1.0, 40), key=i)
        covered += low <= 2.0 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_bootstrap_leaves_out_what_failed_and_needs_two():
    values = np.array([1.0, 3.0, NAN, 2.0])
    assert analysis.bootstrap(values) == analysis.bootstrap(values[[0, 1, 3]])
    assert np.isnan(analysis.bootstrap(np.array([1.0, NAN]))).all()
    low, high = analysis.bootstrap(np.full(5, 0.25))
    assert low == high == 0.25


def test_a_summary_has_means_over_seeds_and_marks_the_best():
    rows = analysis.summary(ends([1.0, 2.0, 3.0], [0.5, 1.0, NAN], [NAN, NAN, NAN]))
    assert [row.setting for row in rows] == [{"step_size": 0.1}, {"step_size": 0.2}, {"step_size": 0.3}]
    assert [row.best for row in rows] == [False, True, False]
    assert [row.failed for row in rows] == [0, 1, 3]
    assert (rows[0].end, rows[1].end) == (2.0, 0.75)
    assert rows[0].error == pytest.approx(1 / np.sqrt(3))
    assert 1.0 <= rows[0].low < 2.0 < rows[0].high <= 3.0
    assert np.isnan(rows[2].end)
    assert not analysis.summary(ends([1.0, 2.0]))[0].best  # of one there is no best


def test_the_best_of_each_method():
    rows = analysis.summary(SEVERAL)
    assert [row.best for row in rows] == [True, False, True, True]
    best = analysis.best_of_each(rows)
    assert [row.setting for row in best] == [
        {"method": "cbp", "replacement_rate": 0.01},
        {"method": "l2"},
        {"method": "bp"},
    ]


def test_what_failed_altogether_is_ranked_last():
    rows = analysis.best_of_each(analysis.summary(methods(("bp", NAN, NAN), ("cbp", 0.1, 0.9))))
    assert [row.method for row in rows] == ["cbp", "bp"]


def test_a_setting_that_never_differs_within_its_method_is_not_told():
    data = methods(("bp", NAN, 1.0), ("cbp", 0.1, 0.9))
    assert [setting for _, setting in analysis.settings(data)] == [{"method": "bp"}, {"method": "cbp"}]


def test_the_ranking():
    lines = analysis.ranking(SEVERAL).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["1", "cbp"], ["2", "l2"], ["3", "bp"]]
    assert "replacement rate 0.01" in lines[2]
    assert "0.500 ± 0.058" in lines[2]
    assert "95% interval" in lines[0]


def test_the_table_marks_the_best_of_each_method_and_leaves_blank_what_is_not_set():
    lines = analysis.table(SEVERAL).splitlines()
    assert [line.split("best ")[-1] if "best " in line else "" for line in lines[2:]] == ["bp", "", "cbp", "l2"]
    assert "nan" not in lines[2]


def test_small_losses_are_told_to_some_digits():
    assert "0.000123" in analysis.table(ends([1.23e-4, 1.23e-4]))


def test_runs_are_compared_seed_by_seed():
    first, second = ends([1.0, 2.0, 3.0], [9.0, 9.0, 9.0]), ends([0.9, 1.8, 2.9], [0.1, 2.0, 9.0])
    best, other = analysis.compare(first, second)
    assert (best.first, best.second) == ({"step_size": 0.1}, {"step_size": 0.1})
    assert best.mean == pytest.approx(-0.4 / 3)
    # Far narrower than the spread between seeds, which both runs share.
    assert -0.201 <= best.low < best.high <= -0.099
    assert best.seeds == 3
    assert other.first == other.second == {"step_size": 0.2}
    assert other.mean == pytest.approx((0.1 + 2 + 9) / 3 - 9)


def test_only_seeds_of_both_that_did_not_fail_are_compared():
    first, second = ends([1.0, NAN, 3.0, 4.0]), ends([2.0, 2.0, 5.0])
    (difference,) = analysis.compare(first, second)
    assert difference.seeds == 2
    assert difference.mean == pytest.approx(1.5)
    assert difference.ends == (2.0, 3.5)
    with pytest.raises(ValueError, match="runs have seeds 0, 1 and 5, 6; expected some in common"):
        analysis.compare(ends([1.0, 2.0]), ends([1.0, 2.0]).assign_coords(seed=[5, 6]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.summary(SEVERAL, "los"), "variable is 'los'; expected one of loss"),
        (lambda: analysis.summary(SEVERAL, last=0), "last is 0"),
        (lambda: analysis.end_of_run(results()["loss"], last=1.5), "last is 1.5"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
