"""Sweeps: members, their independence and pairing, what surprises, and members that fail."""

import dataclasses
import functools
import json
import warnings

import numpy as np
import pytest
import torch
import xarray

import fcbp
from fcbp import grid, lanes, paired, sweeps
from fcbp.designs import Members
from fcbp.experiment import EXPERIMENTS, Experiment, build_program
from fcbp.experiment.measurements import PROBES
from fcbp.sweeps import advance, chunk, execution, population, probe
from fcbp.sweeps.execution import Execution

MEASURED = ("inactive_units", "weight_magnitude", "effective_rank", "stable_rank")
VARIABLES = {"loss", "units_replaced", *MEASURED}


def run(members, steps=120, bin=40, experiment="bit-flipping", compile=False):
    return fcbp.sweep(experiment, members, steps=steps, bin=bin, compile=compile, progress=False)


QUICK = Experiment(maturity_threshold=20, replacement_rate=0.05, metrics=MEASURED)
SEEDS, RATES = [0, 7, 3], [0.0, 0.02, 0.1]


@functools.cache
def results():
    return run(grid(seed=SEEDS, replacement_rate=RATES), experiment=QUICK)


def seeds_and_numbers(runs):
    """As a population takes its members."""
    return [run.seed for run in runs], [run.numbers() for run in runs]


def same(a, b):
    for name in VARIABLES:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


# --- members --------------------------------------------------------------------------------------------


def test_a_grid_is_the_product():
    members = grid(seed=range(2), replacement_rate=[0.0, 0.1, 0.2], activation="tanh")
    assert len(members) == 6
    assert dict(members.axes) == {"seed": (0, 1), "replacement_rate": (0.0, 0.1, 0.2), "activation": ("tanh",)}
    assert list(members)[1] == {"seed": 0, "replacement_rate": 0.1, "activation": "tanh"}
    assert list(members)[3] == {"seed": 1, "replacement_rate": 0.0, "activation": "tanh"}


def test_members_side_by_side():
    members = paired(seed=[0, 1], step_size=[0.1, 0.01])
    assert list(members) == [{"seed": 0, "step_size": 0.1}, {"seed": 1, "step_size": 0.01}]
    assert dict(members.axes) == {"member": (0, 1)}


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 0.25],
        (0.5, 0.25),
        np.array([0.5, 0.25]),
        torch.tensor([0.5, 0.25]),
        [np.float32(0.5), np.float64(0.25)],
        [torch.tensor(0.5), 0.25],
        (x for x in (0.5, 0.25)),
    ],
)
def test_values_become_plain_numbers(values):
    members = grid(step_size=values)
    assert members.axes["step_size"] == (0.5, 0.25)
    assert all(type(value) is float for value in members.axes["step_size"])


@pytest.mark.parametrize("value", [0.5, torch.tensor(0.5), np.float32(0.5), np.array(0.5)])
def test_a_value_alone(value):
    (settings,) = grid(step_size=value)
    assert settings == {"step_size": 0.5}
    assert type(settings["step_size"]) is float


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grid(seed=[]), r"seed is \[\]; expected at least one"),
        (lambda: grid(seed=range(0)), "seed is range"),
        (lambda: grid(replacement_rate=[0.1, 0.2, 0.1]), "replacement_rate is .*expected different values"),
        (lambda: grid(hidden=[[5], (5,)]), "hidden is .*expected different values"),
        (lambda: paired(seed=[0, 1], step_size=[0.1]), "members have different lengths: {'seed': 2, 'step_size': 1}"),
        (lambda: paired(), "no settings"),
        (lambda: paired(seed=[], step_size=[]), "seed is .*at least one"),
        (lambda: paired(seed=[0, 1, 0], step_size=[0.1, 0.1, 0.1]), "2 times; expected different members"),
    ],
)
def test_bad_members(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- results --------------------------------------------------------------------------------------------


def test_dimensions_coordinates_and_attributes():
    data = results()
    assert isinstance(data, xarray.Dataset)
    assert set(data.data_vars) == VARIABLES
    assert dict(data.sizes) == {"seed": 3, "replacement_rate": 3, "step": 3}
    assert data["loss"].dims == ("seed", "replacement_rate", "step")
    assert data["seed"].values.tolist() == SEEDS
    assert data["replacement_rate"].values.tolist() == RATES
    assert data["step"].values.tolist() == [40, 80, 120]
    for name in (*VARIABLES, "step"):
        assert data[name].attrs["long_name"]
        assert data[name].attrs["units"]
    assert json.loads(data.attrs["experiment"])["maturity_threshold"] == 20
    assert (data.attrs["steps"], data.attrs["bin"], data.attrs["compiled"], data.attrs["members_with_nan"]) == (
        120,
        40,
        0,
        0,
    )
    assert data.attrs["torch"] == torch.__version__
    assert data.attrs["fcbp"] == fcbp.__version__
    assert all(np.isfinite(data[name]).all() for name in VARIABLES)
    assert ((data["inactive_units"] >= 0) & (data["inactive_units"] <= 1)).all()
    assert ((data["stable_rank"] >= 0) & (data["stable_rank"] <= data["effective_rank"] + 1e-4)).all()
    assert (data["effective_rank"] <= 5).all()


def test_a_paired_sweep_has_members_as_its_dimension():
    data = run(paired(seed=[3, 0], replacement_rate=[0.1, 0.02]), experiment=QUICK)
    assert dict(data.sizes) == {"member": 2, "step": 3}
    assert data["seed"].dims == ("member",)
    assert data["replacement_rate"].values.tolist() == [0.1, 0.02]
    for member in range(2):
        mine = data.isel(member=member)
        same(mine, results().sel(seed=mine["seed"], replacement_rate=mine["replacement_rate"]))


def test_a_mapping_is_a_grid_and_no_settings_are_one_member():
    same(
        run({"seed": [7], "replacement_rate": [0.02]}, experiment=QUICK),
        results().sel(seed=[7]).isel(replacement_rate=[1]),
    )
    alone = run({}, experiment=dataclasses.replace(QUICK, seed=7, replacement_rate=0.02))
    assert dict(alone.sizes) == {"step": 3}
    same(alone, results().sel(seed=7).isel(replacement_rate=1))


@pytest.mark.parametrize("seeds", [[7], [3, 7], [7, 11, 12, 13, 14]])
def test_a_members_results_do_not_depend_on_which_others_run(seeds):
    others = run(grid(replacement_rate=[0.1, 0.5, 0.02], seed=seeds), experiment=QUICK)
    for rate in (0.02, 0.1):
        same(
            others.sel(seed=7, replacement_rate=rate),
            results().sel(seed=7, replacement_rate=rate),
        )


def test_the_same_sweep_again_is_the_same():
    same(run(grid(seed=SEEDS, replacement_rate=RATES), experiment=QUICK), results())


def test_a_bin_that_does_not_divide_the_steps():
    data = run(grid(seed=SEEDS, replacement_rate=RATES), bin=50, experiment=QUICK)
    assert data["step"].values.tolist() == [50, 100, 120]
    # The losses of all steps are in some bin, each weighing what it covers.
    widths = xarray.DataArray([50, 50, 20], dims="step", coords={"step": data["step"]})
    np.testing.assert_allclose((data["loss"] * widths).sum("step"), results()["loss"].sum("step") * 40, rtol=1e-5)
    np.testing.assert_array_equal(data["units_replaced"].sum("step"), results()["units_replaced"].sum("step"))
    for name in ("weight_magnitude", "effective_rank"):
        np.testing.assert_array_equal(data[name].isel(step=-1), results()[name].isel(step=-1))


def test_pieces_do_not_matter(monkeypatch):
    monkeypatch.setattr(advance, "PIECE", 17)
    same(run(grid(seed=SEEDS, replacement_rate=RATES), experiment=QUICK), results())


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [{}, {"method": "bp"}, {"activation": "tanh", "flip_period": 40}], ids=str)
def test_measurements_traced_are_the_same(chosen, monkeypatch):
    experiment = QUICK.replace(metrics=tuple(PROBES), **chosen)
    runs = [experiment.replace(seed=seed, step_size=step_size) for seed in (7, 3) for step_size in (0.01, 1e30)]
    side_by_side = population.population(build_program(runs), compile=False, device=None)
    carry, _ = side_by_side.advance(side_by_side.start(*seeds_and_numbers(runs), 4, 2), 30)
    expected = side_by_side.probe(carry)
    assert expected["weight_magnitude"].isfinite().tolist() == [True, False, True, False]
    monkeypatch.setattr(probe, "TRACE_AFTER", 4)
    traces = []
    trace = probe.operations_of
    monkeypatch.setattr(probe, "operations_of", lambda *args: traces.append(args) or trace(*args))
    for now in (carry, side_by_side.advance(carry, 7)[0], side_by_side.start(*seeds_and_numbers(runs[:3]), 3, 2)):
        found, expected = side_by_side.probe(now), side_by_side.probe.measure(now)
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert len(traces) == 2


def test_losses_and_members_differ():
    data = results()
    assert len(np.unique(data["loss"].isel(step=-1))) == 9
    assert (data["loss"].isel(step=-1).mean() < data["loss"].isel(step=0).mean()).item()


def test_seeds_pair_the_settings():
    """One seed is one problem, one start and one order of examples for every setting."""
    data = run(grid(seed=[1, 2], replacement_rate=[0.0, 0.3, 1.0]), bin=10, steps=40, experiment=QUICK)
    before = data["loss"].sel(step=slice(None, 20))  # no unit is older than the threshold yet
    for rate in (0.3, 1.0):
        np.testing.assert_array_equal(before.sel(replacement_rate=rate), before.sel(replacement_rate=0.0))
        after = data["loss"].sel(step=40, replacement_rate=rate) != data["loss"].sel(step=40, replacement_rate=0.0)
        assert after.all()
    assert (before.sel(seed=1) != before.sel(seed=2)).all()
    first = run(grid(seed=1, step_size=[0.01, 0.02, 0.0]), bin=1, steps=2, experiment=QUICK_BACKPROP)["loss"]
    assert len(np.unique(first.isel(step=0))) == 1
    assert len(np.unique(first.isel(step=1))) == 3


QUICK_BACKPROP = Experiment(method="bp", metrics=MEASURED)


def test_rate_0_is_backprop():
    plain = run(grid(seed=SEEDS), experiment=QUICK_BACKPROP)
    same(plain, results().sel(replacement_rate=0.0))


@pytest.mark.slow
def test_settings_that_change_the_program_are_swept_in_groups():
    members = grid(activation=["tanh", "relu"], seed=[0, 7], hidden=[(5,), (4, 3)], replacement_rate=[0.0, 0.1])
    data = run(members, experiment=QUICK)
    assert data["activation"].values.tolist() == ["tanh", "relu"]
    assert data["hidden"].values.tolist() == ["(5,)", "(4, 3)"]
    chosen = data.sel(activation="relu", hidden="(5,)")
    same(chosen, results().sel(seed=[0, 7], replacement_rate=[0.0, 0.1]))
    alone = run(
        grid(seed=[7], replacement_rate=[0.1]),
        experiment=dataclasses.replace(QUICK, activation="tanh", hidden=(4, 3)),
    )
    same(
        alone.isel(seed=0, replacement_rate=0),
        data.sel(activation="tanh", hidden="(4, 3)", seed=7, replacement_rate=0.1),
    )


@pytest.mark.parametrize(
    "setting",
    [
        {"flip_period": [5, 50]},
        {"redraw_all": [True, False]},
        {"optimizer": ["adam", "adamw"], "weight_decay": [0.1]},
        {"momentum": [0.0, 0.9]},
        {"weight_decay": [0.0, 0.1]},
        {"measure": ["random", "weight"]},
        {"initializer": ["kaiming_uniform", "xavier_normal"]},
        {"transfer_bias": [True, False]},
        {"rounding": ["accumulate", "stochastic"]},
        {"rate_counts": ["eligible", "all"]},
        {"maturity_threshold": [20, 30]},
        {"decay_rate": [0.9, 0.5]},
        {"loss_function": ["mse"], "seed": [0, 1]},
        {"method": ["cbp", "backprop"]},
    ],
)
def test_every_setting_can_be_swept_and_is_read(setting):
    data = run(
        grid(**setting), steps=40, bin=40, experiment=dataclasses.replace(QUICK, flip_period=25, replacement_rate=0.07)
    )
    flat = [data[name].values.ravel() for name in ("loss", "weight_magnitude", "units_replaced")]
    assert np.isfinite(flat).all()
    assert len({tuple(column) for column in zip(*flat, strict=True)}) == flat[0].size == 2


@pytest.mark.parametrize("rate_counts", ["eligible", "all"])
def test_units_replaced_is_the_rate_times_the_eligible(rate_counts):
    rates, thresholds, steps = [1e-6, 1e-3, 0.03, 0.4, 1.0], [0, 13.5, 60], 150
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        data = run(
            grid(replacement_rate=rates, maturity_threshold=thresholds),
            steps=steps,
            bin=50,
            experiment=Experiment(rate_counts=rate_counts, hidden=(5, 3)),
        )
    for rate in rates:
        for threshold in thresholds:
            expected = 0
            for units in (5, 3):
                # Which eligible unit is replaced does not change how many will be.
                age, owed = np.zeros(units), 0.0
                for _ in range(steps):
                    age += 1
                    eligible = np.flatnonzero(age > threshold)
                    owed += rate * (len(eligible) if rate_counts == "eligible" else units * (len(eligible) > 0))
                    due = min(int(np.floor(owed)), len(eligible))
                    owed -= due
                    age[eligible[:due]] = 0
                    expected += due
            found = data["units_replaced"].sel(replacement_rate=rate, maturity_threshold=threshold).sum()
            assert abs(found - expected) <= 2, (rate, threshold)  # one for each layer


# --- failures -------------------------------------------------------------------------------------------


def test_a_member_that_breaks_ends_neither_the_sweep_nor_the_others():
    data = run(grid(seed=SEEDS, step_size=[0.01, 1e6]), experiment=QUICK)
    broken = data.sel(step_size=1e6)
    assert data.attrs["members_with_nan"] == 3
    for name in VARIABLES:
        assert broken[name].isel(step=-1).isnull().all()
        # From there on.
        assert (broken[name].isnull().astype(int).diff("step") >= 0).all()
    good = run(grid(seed=SEEDS), experiment=QUICK)
    same(good, data.sel(step_size=0.01))


def test_weights_that_break_in_the_last_step_are_seen():
    data = run(grid(step_size=[0.0, 3e38]), steps=1, bin=1, experiment=QUICK_BACKPROP)
    assert np.isfinite(data["loss"].sel(step_size=0.0)).all()
    broken = data.sel(step_size=3e38)
    assert data.attrs["members_with_nan"] == 1
    assert all(broken[name].isnull().all() for name in VARIABLES)


def test_a_member_that_failed_once_counts_as_failed_from_there_on(monkeypatch):
    """Also where its numbers come back: parameters that a reset made finite again are no result of the method."""
    sick = iter([[False, False], [False, True], [False, False]])
    made = chunk.population_of

    def sometimes_sick(*args):
        return made(*args)._replace(failed=lambda carry, sums: torch.tensor(next(sick)))

    monkeypatch.setattr(chunk, "population_of", sometimes_sick)
    monkeypatch.setattr(execution, "population_of", sometimes_sick)
    data = run(grid(seed=[0, 1]), experiment=QUICK)
    for name in VARIABLES:
        np.testing.assert_array_equal(data[name].isnull(), [[False, False, False], [False, True, True]])
    assert data.attrs["members_with_nan"] == 1


# --- surprises ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "steps", "message"),
    [
        ({"replacement_rate": 0.1}, 100, r"no unit will be replaced: steps is 100 and maturity_threshold 100"),
        ({"replacement_rate": 0.1, "maturity_threshold": [5, 70, 90]}, 60, r"maturity_threshold 70, 90"),
        ({"replacement_rate": [1e-5, 1e-4, 0.1]}, 120, "no unit is expected .*rate 1e-05, 0.0001 x 5 units x 120"),
        ({"replacement_rate": 0.004, "hidden": [(5,), (50,)]}, 130, r"replacement_rate 0.004 x 5 units"),
    ],
)
def test_what_cannot_work_is_said_before_it_starts(members, steps, message, monkeypatch):
    def no_work(*args):
        raise InterruptedError

    monkeypatch.setattr(Execution, "run", no_work)
    with pytest.warns(UserWarning, match=message) as record, pytest.raises(InterruptedError):
        run(grid(**members), steps=steps, bin=steps)
    assert len(record) == 1
    assert record[0].filename == fcbp.sweep.__code__.co_filename or record[0].filename == __file__


@pytest.mark.parametrize(
    "settings", [{"replacement_rate": 0.0}, {"method": "backprop"}, {"replacement_rate": 0.1, "maturity_threshold": 10}]
)
def test_no_surprise_where_there_is_none(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(grid(**settings), steps=20, bin=20)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replacment_rate": [0.1]}, "setting is 'replacment_rate'.*did you mean 'replacement_rate'"),
        ({"activation": ["relu", "rleu"]}, "activation is 'rleu'.*'relu'"),
        ({"measure": "contribtion"}, "'contribution'"),
        ({"method": "cpb"}, "'cbp'"),
        ({"stream": "bit-fliping"}, "'bit-flipping'"),
        ({"optimizer": "adamm"}, "'adam'"),
        ({"initializer": "kaiming"}, "kaiming_uniform"),
        ({"rounding": "round"}, "rounding is 'round'"),
        ({"loss_function": "mae"}, "loss_function is 'mae'"),
        ({"replacement_rate": [0.1, 1.5]}, r"replacement_rate is 1.5; expected a number in \[0, 1\]"),
        ({"replacement_rate": float("nan")}, "replacement_rate is nan"),
        ({"replacement_rate": "high"}, "replacement_rate is 'high'"),
        ({"replacement_rate": True}, "replacement_rate is True"),
        ({"decay_rate": 1.0}, r"decay_rate is 1.0; expected a number in \[0, 1\)"),
        ({"maturity_threshold": -1}, "maturity_threshold is -1"),
        ({"step_size": [-0.1]}, "step_size is -0.1"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"seed": [-1]}, "seed is -1"),
        ({"seed": [0.5]}, "seed is 0.5"),
        ({"seed": [2**63]}, "seed is 9223372036854775808"),
        ({"flip_period": 0}, "flip_period is 0"),
        ({"redraw_all": "yes"}, "redraw_all is 'yes'"),
        ({"transfer_bias": [0.5]}, "transfer_bias is 0.5"),
        ({"hidden": [5]}, "hidden is 5; expected a tuple"),
        ({"hidden": [()]}, r"hidden is \(\)"),
        ({"hidden": [(5, 0)]}, r"hidden is \(5, 0\)"),
    ],
)
def test_bad_settings_are_named_before_any_work(settings, message, monkeypatch):
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=message):
        run(grid(**settings))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": -5}, "steps is -5"),
        ({"steps": 10.0}, r"steps is 10.0"),
        ({"steps": True}, "steps is True"),
        ({"bin": 0}, "bin is 0"),
        ({"bin": 2.5}, "bin is 2.5"),
        ({"bin": 121}, "bin is 121; expected at most steps, 120"),
        ({"experiment": "bit-fliping"}, "experiment is 'bit-fliping'.*'bit-flipping'"),
        ({"members": Members({"seed": ()}, ())}, "members is empty"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch):
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=message):
        run(**{"members": grid(seed=0), **arguments})


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"pip install 'fcbp\[sweep\]'"):
        run(grid(seed=0))


# --- progress and compiling -----------------------------------------------------------------------------


def test_a_short_run_says_that_it_does_not_compile(capsys):
    fcbp.sweep("bit-flipping", grid(seed=0, replacement_rate=0.0), steps=5)
    shown = capsys.readouterr()
    assert "5 steps: running eagerly, compiling" in shown.out + shown.err
    assert "steps/s" in shown.err


def test_without_progress_nothing_is_printed(capsys):
    fcbp.sweep("bit-flipping", grid(seed=0, replacement_rate=0.0), steps=5, progress=False)
    shown = capsys.readouterr()
    assert shown.out + shown.err == ""


LANES_FROM, SCAN_FROM = sweeps.COMPILE_FROM["lanes"], sweeps.COMPILE_FROM["scan"]


@pytest.mark.parametrize(
    ("steps", "compiled"), [(LANES_FROM - 1, 0), (LANES_FROM, "lanes"), (SCAN_FROM - 1, "lanes"), (SCAN_FROM, 1)]
)
def test_compiling_is_chosen_by_length(steps, compiled, monkeypatch, tmp_path):
    chosen = []

    def fake(self):
        chosen.append(self.plan.compile)
        self._write_config("finished")
        return self.results.dataset(self._attributes())

    monkeypatch.setattr(Execution, "run", fake)
    data = fcbp.sweep("bit-flipping", grid(replacement_rate=0.0), steps=steps, progress=False, out=tmp_path)
    assert data.attrs["compiled"] == compiled
    assert data.sizes["step"] >= 49
    fcbp.resume(tmp_path, progress=False)
    assert chosen == [compiled, compiled]


@pytest.mark.compiled
def test_a_run_of_some_length_is_compiled_where_lanes_suit(capsys, monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    monkeypatch.setitem(sweeps.COMPILE_FROM, "lanes", 40)
    monkeypatch.setattr(advance.loop.scanning, "build", lambda *args: pytest.fail("the compiled scan was built"))
    members = grid(hidden=[(5,), (600, 600)])  # one member of much work: lanes are for many, or for little
    found = fcbp.sweep(QUICK, members, steps=40, bin=20)
    assert [program["backend"] for program in json.loads(found.attrs["programs"])] == ["lanes", "eager"]
    shown = capsys.readouterr()
    assert "40 steps: running eagerly what does not suit lanes" in shown.out + shown.err
    eager = fcbp.sweep(QUICK, members, steps=40, bin=20, compile=False)
    assert [program["backend"] for program in json.loads(eager.attrs["programs"])] == ["eager", "eager"]
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("40 steps: running eagerly, as asked") == 1
    np.testing.assert_array_equal(found["units_replaced"], eager["units_replaced"])
    for name in VARIABLES:
        np.testing.assert_allclose(found[name], eager[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.compiled
@pytest.mark.parametrize(
    "experiment",
    [QUICK.replace(flip_period=25), Experiment(method="head-reset", flip_period=100, batch_size=2)],
    ids=["three periods", "tasks"],
)
def test_examples_made_in_the_loop_are_those_laid_out(experiment, monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    monkeypatch.setattr(advance, "PIECE", 7)
    lengths = []
    scan = advance.loop.scan

    def recorded(step, carry, xs, length=None, **options):
        lengths.append((options["backend"], length if xs is None else None))
        return scan(step, carry, xs, length, **options)

    monkeypatch.setattr(advance.loop, "scan", recorded)
    members = {"seed": [7, 3], "step_size": [0.01, 0.02]}
    monkeypatch.setattr(advance, "WINDOWS", (50,))
    inside = fcbp.sweep(experiment, members, steps=90, bin=30, compile=True, progress=False)
    assert lengths == [("lanes", 30)] * 3
    monkeypatch.setattr(advance, "WINDOWS", ())
    outside = fcbp.sweep(experiment, members, steps=90, bin=30, compile=True, progress=False)
    assert lengths[3:] == [("lanes", None)] * 15
    for name in inside:
        np.testing.assert_array_equal(inside[name], outside[name], err_msg=name)
    assert np.isfinite(inside["loss"]).all()


@pytest.mark.compiled
def test_members_put_in_another_order_see_their_own_examples(monkeypatch):
    """The examples made ahead were for the members as they were."""
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    monkeypatch.setattr(advance, "WINDOWS", (50,))
    runs = [QUICK.replace(seed=seed) for seed in (7, 3)]
    rows = torch.tensor([1, 0])
    side_by_side = population.population(build_program(runs), compile=True, device=None)
    carry, _ = side_by_side.advance(side_by_side.start(*seeds_and_numbers(runs), 2, 2), 20)
    assert side_by_side.piece(carry) == 50
    _, found = side_by_side.advance(population.select(carry, rows), 20)
    _, expected = side_by_side.advance(carry, 20)
    assert torch.equal(found["loss"], expected["loss"][rows])


@pytest.mark.compiled
def test_a_compiled_sweep_is_the_eager_one_of_more_members(monkeypatch):
    monkeypatch.setattr(advance, "PIECE", 50)
    compiled = run(grid(seed=[7, 3], replacement_rate=[0.02, 0.1]), experiment=QUICK, compile=True)
    assert compiled.attrs["compiled"] == 1
    eager = results().sel(seed=[7, 3], replacement_rate=[0.02, 0.1])
    np.testing.assert_array_equal(compiled["units_replaced"], eager["units_replaced"])
    for name in VARIABLES:
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.compiled
def test_what_is_averaged_over_the_steps_of_a_bin():
    """Of methods that reset part of a unit, how much; and changes of the weights. In lanes as eagerly."""
    rows = [{"method": "cpr", "period": 1}, {"method": "ccbp", "period": 1}, {"method": "bp"}]
    members = fcbp.designs.listed(rows, seed=[0, 1])
    experiment = Experiment(metrics=("update_magnitude",))
    fine, eager, lanes = (
        run(members, steps=60, bin=bin, experiment=experiment, compile=compile)
        for bin, compile in ((1, False), (20, False), (20, True))
    )
    for name in ("update_magnitude", "reset_fraction"):
        of_bins = fine[name].values.reshape(3, 2, 3, 20).mean(-1)
        np.testing.assert_allclose(eager[name], of_bins, rtol=1e-5)
        np.testing.assert_allclose(lanes[name], eager[name], rtol=1e-4)
        assert eager[name].attrs == {**fine[name].attrs, "units": "1"}
    assert eager["reset_fraction"].isnull().all(["seed", "step"]).values.tolist() == [False, False, True]
    assert ((eager["reset_fraction"] > 0) & (eager["reset_fraction"] < 0.015)).any("step")[:2].all()
    assert (eager["update_magnitude"] > 0).all()


def test_no_setting_has_the_name_of_a_result():
    """A swept setting is a coordinate beside the results."""
    assert not {field.name for field in dataclasses.fields(Experiment)} & {*VARIABLES, "step", "member"}


def test_named_experiments_pass_their_own_check():
    for experiment in EXPERIMENTS.values():
        experiment.check()
        assert len(experiment.describe()) > 20
        assert json.loads(json.dumps(experiment.to_dict()))["stream"] == experiment.stream
