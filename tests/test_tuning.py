"""Choosing and reporting apart: seeds that do not meet, the best of each method, and going on after a kill."""

import json

import numpy as np
import pytest
import xarray

import fcbp
from fcbp import analysis, bench, loop, sweeps, tuning
from fcbp.bench.picture import spread
from fcbp.cli import main
from fcbp.experiment import build_program
from fcbp.sweeps import advance, population

BASE = fcbp.Experiment(method="bp", steps=60, bin=20, metrics=("weight_magnitude",))
ROWS = [
    *({"method": "bp", "step_size": s} for s in (0.001, 0.03, 0.01)),
    *({"method": "l2", "step_size": 0.01, "strength": s} for s in (1e-4, 1e-3, 0.5)),
]
HOW = {"tune_seeds": 2, "report_seeds": 3, "progress": False, "compile": False}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    return tuning.tune(BASE, ROWS, out=tmp_path_factory.mktemp("tuned") / "run", **HOW)


@pytest.mark.slow
def test_each_methods_best_on_the_tuning_seeds_is_run_on_fresh_ones(tuned):
    values = tuned.tune["loss"].mean(("step", "seed")).values
    assert tuned.variable == "loss"
    assert [choice.method for choice in tuned.choices] == ["bp", "l2"]
    for choice, places in zip(tuned.choices, ((0, 1, 2), (3, 4, 5)), strict=True):
        best = min(places, key=lambda i: values[i])
        assert (choice.place, choice.setting, choice.tried) == (best, ROWS[best], 3)
        assert choice.value == pytest.approx(values[best], rel=1e-5)
    assert tuned.tune.seed.values.tolist() == [0, 1]
    assert tuned.report.seed.values.tolist() == [2, 3, 4]
    members = fcbp.designs.listed([c.setting for c in tuned.choices], seed=range(2, 5))
    alone = fcbp.sweep(BASE, members, progress=False, compile=False)
    np.testing.assert_array_equal(tuned.report["loss"].values, alone["loss"].values)


def made(values, variable="loss", nan=()):
    """Results of settings whose variable is constant in time, but for seeds that failed."""
    data = np.repeat(np.array(values, float)[:, None, None], 4, 2).repeat(2, 1)
    for place in nan:
        data[place, 0, 2:] = np.nan
    coords = {"setting": range(len(values)), "number": ("setting", range(len(values))), "seed": [0, 1]}
    return xarray.Dataset({variable: (("setting", "seed", "step"), data)}, {**coords, "step": range(4)})


def test_of_accuracies_the_highest_is_chosen_and_what_failed_is_not():
    rows = [{"number": i} for i in range(4)]
    assert tuning._choose(made([0.3, 0.9, 0.5, 0.1], "accuracy"), rows, "accuracy", 1.0)[0].place == 1
    assert tuning._choose(made([0.3, 0.9, 0.5, 0.1]), rows, "loss", 1.0)[0].place == 3
    assert tuning._choose(made([0.3, 0.9, 0.5, 0.1], nan=(3,)), rows, "loss", 1.0)[0].place == 0
    assert tuning._choose(made([0.3, 0.2], nan=(0, 1)), rows[:2], "loss", 1.0)[0].method == "all"


def test_the_part_of_the_run_that_is_compared_may_be_chosen():
    data = made([0.5, 0.4])
    data["loss"][1, :, 3:] = 3.0
    rows = [{"number": 0}, {"number": 1}]
    assert tuning._choose(data.isel(step=slice(3)), rows, "loss", 1.0)[0].place == 1
    assert tuning._choose(data, rows, "loss", 0.25)[0].place == 0


def test_the_table_and_the_directory_tell_both(tuned):
    text = tuning.table(tuned)
    assert "on seeds 0 to 1; reported on seeds 2 to 4" in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    best = tuned.choices[0]
    assert f"step size {best.setting['step_size']:g}" in lines["bp"]
    assert f"{best.value:.3f}" in lines["bp"]
    assert f"{float(tuned.report['loss'][0].mean()):.3f} ±" in lines["bp"]
    assert "budgets differ" not in text


def test_methods_with_other_numbers_of_settings_are_named():
    with pytest.warns(UserWarning, match="budgets differ: settings tried are bp 1, l2 3"):
        found = tuning.tune(BASE.replace(steps=4, bin=2), ROWS[2:], **HOW)
    assert "budgets differ: settings tried are bp 1, l2 3" in tuning.table(found)


def test_the_difference_to_fresh_stands_below_the_table():
    base = fcbp.experiment.get("permuted-digits").replace(
        hidden=(5,), steps=12, task_length=4, metrics=("accuracy",), initial="drawn"
    )
    rows = [{"method": m, "step_size": s} for m in ("fresh", "bp") for s in (0.01, 0.001)]
    found = tuning.tune(base, rows, **HOW)
    assert found.variable == "accuracy"
    assert "loss of plasticity: the difference to fresh, paired by seed" in tuning.table(found)


@pytest.mark.parametrize("when", ["before the report", "within the report"])
def test_an_interrupted_tuning_goes_on_to_the_same_numbers(tuned, tmp_path, monkeypatch, when):
    out, calls = tmp_path / "run", []

    def stopping(experiment, members, **given):
        calls.append(given["out"])
        if len(calls) == 2:
            if when == "within the report":
                (tmp_path / "run" / "report").mkdir()
            raise KeyboardInterrupt
        return sweep(experiment, members, **given)

    sweep = sweeps.sweep
    monkeypatch.setattr(sweeps, "sweep", stopping)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(BASE, ROWS, out=out, **HOW)
    monkeypatch.undo()
    assert tuning.is_tuned(out)
    again = tuning.resume(out, progress=False)
    np.testing.assert_array_equal(again.report["loss"].values, tuned.report["loss"].values)
    assert (out / "table.txt").read_text().strip() == tuning.table(tuned)
    # Once more, and by the same call, nothing is run.
    same = tuning.tune(BASE, ROWS, out=out, resume=True, **HOW)
    np.testing.assert_array_equal(same.report["loss"].values, tuned.report["loss"].values)


def test_a_directory_of_another_tuning_is_refused(tuned, tmp_path):
    out = tmp_path / "run"
    tuning.tune(BASE.replace(steps=4, bin=2), ROWS, out=out, **HOW)
    with pytest.raises(ValueError, match="which holds a tuning; expected a new or an empty directory"):
        tuning.tune(BASE, ROWS, out=out, **HOW)
    with pytest.raises(ValueError, match="which holds another tuning: report_seeds is 3 there and 4 here"):
        tuning.tune(BASE, ROWS, out=out, resume=True, **{**HOW, "report_seeds": 4})
    with pytest.raises(ValueError, match="which is not empty"):
        tuning.tune(BASE, ROWS, out=tmp_path, **HOW)
    with pytest.raises(ValueError, match=r"holds no tuning\.json"):
        tuning.resume(tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tune_seeds": 0}, "tune_seeds is 0; expected a number of seeds"),
        ({"report_seeds": True}, "report_seeds is True"),
        ({"over": 1.5}, r"over is 1\.5; expected a fraction"),
        ({"variable": "accurcy"}, "variable is 'accurcy'; expected one of loss"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        tuning.tune(BASE.replace(steps=2, bin=1), ROWS, **{**HOW, **given})


def test_settings_have_no_seeds_of_their_own():
    with pytest.raises(ValueError, match="settings have 'seed'; expected none"):
        tuning.tune(BASE, [{"seed": 3}], **HOW)


# --- the command, and the suite --------------------------------------------------------------------------------


def command(*words, capsys):
    status = main([str(word) for word in words])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.mark.slow
def test_the_command_tunes_resumes_and_lists(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("run", "bit-flipping", "--method", "bp", "l2", "--step-size", 0.01, 0.001, "--steps", 40, "--bin", 20)
    seeds = ("--tune-seeds", 2, "--report-seeds", 3, "--compile", "False", "--metrics", "weight_magnitude")
    status, shown, errors = command(*words, *seeds, "--out", "runs/one", capsys=capsys)
    assert status == 0
    assert "reported on seeds 2 to 4" in shown
    assert "budgets differ: settings tried are bp 2, l2 6" in errors
    assert fcbp.open("runs/one/report").sizes["seed"] == 3
    assert (tmp_path / "runs/one/tune/sensitivity.png").exists()
    assert (tmp_path / "runs/one/tune/heat.png").exists()
    status, again, _ = command("resume", "runs/one", capsys=capsys)
    assert (status, again.splitlines()[:5]) == (0, shown.splitlines()[:5])
    status, listed, _ = command("ls", capsys=capsys)
    assert "runs/one/tune" in listed
    assert "runs/one/report" in listed
    status, drawn, _ = command("plot", "runs/one", capsys=capsys)
    assert (status, "runs/one/report/methods.png" in drawn) == (0, True)
    status, _, errors = command(*words, *seeds, "--seeds", 4, capsys=capsys)
    assert (status, "--seeds is 4 beside --tune-seeds" in errors) == (2, True)


@pytest.mark.slow
def test_one_run_with_fresh_tells_the_loss_of_plasticity(tmp_path, capsys):
    words = ("run", "permuted-digits", "--method", "fresh", "bp", "--steps", 12, "--task-length", 4, "--hidden", 5)
    status, shown, _ = command(*words, "--seeds", 3, "--out", tmp_path / "run", "--compile", "False", capsys=capsys)
    assert status == 0
    assert "loss of plasticity: the difference to fresh, paired by seed" in shown


@pytest.mark.slow
def test_the_suite_writes_a_page_and_goes_on(tmp_path, capsys):
    out = tmp_path / "suite"
    words = ("bench", "digits", "--quick", "--tune-seeds", 2, "--report-seeds", 3, "--out", out)
    status, shown, _ = command(*words, capsys=capsys)
    assert status == 0
    page = (out / "index.md").read_text()
    for name in ("permuted-digits", "random-label-digits"):
        assert name in shown
        assert (out / name / "table.txt").read_text().strip() in page
    for words_of_page in (
        "Settings that were tried",
        "chosen",
        "task_length: 8",
        "seconds in all",
        "- torch: ",
        "--quick",
    ):
        assert words_of_page in page
    assert (out / "methods.png").stat().st_size > 10_000
    status, _, errors = command(*words, capsys=capsys)
    assert (status, "which is not empty" in errors) == (2, True)
    status, again, _ = command(*words, "--resume", capsys=capsys)
    assert (status, again) == (0, shown)
    status, _, errors = command("bench", "digit", capsys=capsys)
    assert (status, "did you mean 'digits'" in errors or "expected one of digits" in errors) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("method", dict.fromkeys(row["method"] for row in bench.SUITES["digits"].problems[0].settings))
def test_the_suites_methods_suit_lanes(method):
    """A compiled scan of these steps takes many times as long, and minutes to compile."""
    problem = bench.SUITES["digits"].problems[0]
    row = next(row for row in problem.settings if row["method"] == method)
    run = problem.experiment.replace(**row)
    side_by_side = population.population(build_program([run]), compile=True, device="cpu")
    carry = side_by_side.start([0, 1, 2], [run.numbers()] * 15, 15, 3)
    steps = side_by_side.advance
    _, batches = steps.sample(carry, 1)
    ours = (carry.members, carry.settings, steps.zeros(carry))
    choice = loop.explain(steps.steps.given_examples, ours, advance.laid_out(batches, carry.stream_of))
    assert choice.backend == "lanes", choice


@pytest.mark.slow
def test_the_suite_gives_every_method_the_same_budget():
    for problem in bench.SUITES["digits"].problems:
        methods = [row["method"] for row in problem.settings]
        assert {methods.count(method) for method in methods} == {6}
        assert set(methods) == {"fresh", "bp", "cbp", "redo", "l2-init", "shrink-perturb", "upgd", "swr"}
        fcbp.experiment.check([problem.experiment.replace(**row) for row in problem.settings])


def test_labels_are_moved_apart_and_keep_their_order():
    places = [0.5, 0.1, 0.5, 0.52, 0.9]
    found = spread(places, 0.1)
    order = np.argsort(places, kind="stable")
    assert (np.diff(np.array(found)[order]) >= 0.1 - 1e-9).all()
    assert found[1] == 0.1
    assert found[4] == 0.9
    assert spread([], 0.1) == []


def test_what_is_kept_is_plain_data(tuned):
    assert json.dumps([dict(choice.setting) for choice in tuned.choices])
    assert analysis.experiment_of(tuned.report)["steps"] == 60


def test_settings_that_are_kept_apart_are_chosen_and_reported_apart(tmp_path):
    rows = [{"method": "bp", "step_size": s, "momentum": m} for s in (0.01, 0.003) for m in (0.0, 0.9)]
    base = BASE.replace(steps=4, bin=2)
    found = tuning.tune(base, rows, apart=["momentum"], out=tmp_path / "run", **HOW)
    assert found.budgets == {"bp": 2, "bp with momentum 0.9": 2}
    assert [choice.setting["momentum"] for choice in found.choices] == [0.0, 0.9]
    assert "bp with momentum 0.9" in tuning.table(found)
    assert tuning.resume(tmp_path / "run", progress=False).budgets == found.budgets
    with pytest.raises(ValueError, match="which holds another tuning: apart is"):
        tuning.tune(base, rows, out=tmp_path / "run", resume=True, **HOW)
    with pytest.raises(ValueError, match="apart has 'momntum', which no setting has"):
        tuning.tune(base, rows, apart=["momntum"], **HOW)
