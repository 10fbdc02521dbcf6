"""Experiments as data, and the programs that they become."""

import copy
import dataclasses
import pickle
import sys

import numpy as np
import pytest
import torch

import fcbp
from fcbp import Experiment, experiment
from fcbp.experiment import assemble as build_program
from fcbp.methods import METHODS, Kind


def test_settings_of_the_parts_are_keywords_and_attributes():
    run = Experiment(method="cbp", replacement_rate=1e-3, flip_period=500, optimizer="adam", beta1=0.8, seed=3)
    assert (run.replacement_rate, run.flip_period, run.beta1, run.seed) == (1e-3, 500, 0.8, 3)
    # What is not set has the part's own default.
    assert (run.maturity_threshold, run.redraw_all, run.beta2, run.weight_decay) == (100, False, 0.999, 0.0)
    assert run.replace(optimizer="adamw").weight_decay == 0.01
    assert run.replace(replacement_rate=0.5).replacement_rate == 0.5
    with pytest.raises(AttributeError, match="momentum"):
        _ = run.momentum


def test_an_experiment_is_a_value():
    run = Experiment(replacement_rate=1e-3, hidden=[4, 3], step_size=np.float32(0.5))
    assert run == Experiment(step_size=0.5, hidden=(4, 3), replacement_rate=1e-3)
    assert hash(run) == hash(copy.deepcopy(run)) == hash(pickle.loads(pickle.dumps(run)))
    assert run == Experiment(**run.to_dict()) == dataclasses.replace(run)
    assert run != run.replace(replacement_rate=2e-3)
    assert repr(run) == "Experiment(hidden=(4, 3), step_size=0.5, replacement_rate=0.001)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.seed = 1


def test_members_that_differ_in_numbers_and_seed_share_a_program():
    key = Experiment(optimizer="adam").program_key()
    for numbers in ({"seed": 4}, {"step_size": 0.1}, {"beta1": 0.5}, {"eps": 1e-3}, {"replacement_rate": 0.1}):
        assert Experiment(optimizer="adam", **numbers).program_key() == key
    for static in ({"activation": "tanh"}, {"measure": "weight"}, {"flip_period": 3}, {"weight_decay": 0.1},
                   {"method": "bp"}, {"init_scale": 2.0}, {"hidden": (4,)}):  # fmt: skip
        assert Experiment(optimizer="adam", **static).program_key() != key
    assert Experiment(method="backprop").program_key() == Experiment(method="bp").program_key()


@pytest.mark.parametrize(
    ("fixed", "values"),
    [
        ({"optimizer": "sgd"}, {"momentum": [0.9, 0.5]}),
        ({"optimizer": "sgd", "momentum": 0.9, "nesterov": True}, {"weight_decay": [0.1, 0.2]}),
        ({"optimizer": "adam", "step_size": 1e-3}, {"beta1": [0.9, 0.5], "beta2": [0.9, 0.99], "eps": [1e-8, 1e-2]}),
        ({"optimizer": "adamw", "step_size": 1e-3}, {"weight_decay": [0.1, 0.5]}),
    ],
)
def test_numbers_of_the_optimiser_are_vmapped(fixed, values):
    rows = zip(*values.values(), strict=True)
    runs = [Experiment(method="bp", **fixed, **dict(zip(values, row, strict=True))) for row in rows]
    program = build_program(runs)
    assert set(values) < set(program.numbers)
    state = program.learner.init(fcbp.random.key(0))
    _, batches = program.stream.sample(program.stream.init(fcbp.random.key(1)), 3)
    numbers = {
        name: torch.tensor([program.number_of(run, name) for run in runs], dtype=torch.float64)
        for name in program.numbers
    }

    def three_steps(state, hyper):
        for i in range(3):
            state, _ = program.learner.step(state, tuple(piece[i] for piece in batches), hyper)
        return state.params

    together = torch.vmap(three_steps, in_dims=(None, 0))(state, program.hyper(numbers))
    for i, run in enumerate(runs):
        alone = build_program([run])
        own = alone.hyper({name: alone.number_of(run, name) for name in alone.numbers})
        for name, value in three_steps(state, own).items():
            torch.testing.assert_close(together[name][i], value)
    assert any((value[0] != value[1]).any() for value in together.values())


def test_the_program_says_what_it_measures():
    run = Experiment(metrics=("stable_rank",), hidden=(4, 3))
    program = build_program([run])
    assert list(program.measurements) == ["loss", "units_replaced", "stable_rank"]
    assert program.measurements["stable_rank"] == ("stable rank of the activations", "1")
    assert program.group_sizes == (4, 3)
    assert program.numbers == ("step_size", "replacement_rate", "maturity_threshold", "decay_rate")
    info = {
        "loss": torch.tensor(0.5),
        "replaced": {"a": torch.tensor([True, False]), "b": torch.tensor([True])},
        "reset_weights": {"w": torch.ones(2, 2, dtype=torch.bool)},
        "reset_fraction": {"a": torch.tensor([0.5, 0.0]), "b": torch.tensor([0.1])},
        "update_magnitude": torch.tensor(0.25),
    }
    found = {"units_replaced": 2, "weights_reset": 4, "reset_fraction": 0.2, "update_magnitude": 0.25}
    assert {name: round(value.item(), 6) for name, value in program.per_step(info).items()} == found
    state = program.learner.init(fcbp.random.key(0))
    _, batches = program.stream.sample(program.stream.init(fcbp.random.key(1)), 20)
    assert set(program.probe(state, hyper_of(program, run), batches)) == {"stable_rank"}


def hyper_of(program, run):
    return program.hyper({name: program.number_of(run, name) for name in program.numbers})


def trained(run, steps=30):
    """A program, its learner after some steps, its numbers, and examples."""
    program = build_program([run])
    state, hyper = program.learner.init(fcbp.random.key(0)), hyper_of(program, run)
    problem, batches = program.stream.sample(program.stream.init(fcbp.random.key(1)), steps)
    for batch in zip(*batches, strict=True):
        state, _ = program.learner.step(state, batch, hyper)
    _, batches = program.stream.sample(problem, 50)
    return program, state, hyper, batches


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
def test_every_metric_is_the_function_of_its_name(activation):
    metrics = fcbp.metrics
    run = Experiment(
        hidden=(6, 4), activation=activation, metrics=experiment.METRICS, init_scale=3.0, maturity_threshold=20,
        replacement_rate=0.1,
    )  # fmt: skip
    program, state, hyper, batches = trained(run)
    found = program.probe(state, hyper, batches)
    inputs, targets = (part.flatten(0, 1) for part in batches[:2])
    model = fcbp.nets.mlp(20, (6, 4), 1, activation=activation)
    forward = fcbp.forward_with_features(model, fcbp.find_units(model, inputs[:1]))
    layers = list(forward(state.params, {}, inputs)[1].values())
    bounds = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}.get(activation)

    def share(which):
        return torch.cat([which(h) for h in layers]).float().mean()

    def loss(params):
        return torch.nn.functional.mse_loss(forward(params, {}, inputs)[0], targets)

    expected = {
        "dead_units": share(metrics.dead_units),
        "dormant_units": share(metrics.dormant_units),
        "inactive_units": share(metrics.dead_units),
        "mature_units": metrics.mature_fraction(state.method, hyper.method),
        "weight_magnitude": metrics.weight_magnitude(state.params),
        "gradient_magnitude": metrics.gradient_magnitude(torch.func.grad(loss)(state.params)),
        "age_quantile_50": metrics.age_summary(state.method).median,
    }
    if bounds:
        expected["saturated_units"] = share(lambda h: metrics.saturated_units(h, *bounds))
        expected["inactive_units"] = share(lambda h: metrics.saturated_units(h, *bounds) | metrics.dead_units(h))
    for name in ("rank", "effective_rank", "approximate_rank", "srank", "stable_rank"):
        expected[name] = sum(getattr(metrics, name)(h) for h in layers) / len(layers)
    quantiles = {f"{name}_quantile_{level}" for name in ("age", "utility") for level in (0, 25, 50, 75, 100)}
    assert set(found) == {*expected, *quantiles}
    assert 0 < expected["mature_units"] < 1
    for name in {*expected} - {"age_quantile_50"}:  # which may lie between two
        torch.testing.assert_close(found[name], expected[name], msg=name)
    assert {name: (bool(x[0]), bool(x[1])) for name, x in program.measurements.items()} == dict.fromkeys(
        ["loss", "units_replaced", *experiment.ASKED, *found], (True, True)
    )


def test_the_magnitude_of_an_update_is_of_the_step_and_the_reset():
    run = Experiment(metrics=("update_magnitude",), method="shrink-perturb", strength=0.1)
    program, state, hyper, batches = trained(run)
    new, info = program.learner.step(state, tuple(part[0] for part in batches), hyper)
    change = torch.cat([(new.params[name] - state.params[name]).flatten() for name in state.params]).abs().mean()
    torch.testing.assert_close(program.per_step(info)["update_magnitude"], change)
    plain = build_program([run.replace(metrics=())])
    same, info = plain.learner.step(state, tuple(part[0] for part in batches), hyper)
    assert "update_magnitude" not in plain.per_step(info)
    for name, value in same.params.items():
        assert torch.equal(value, new.params[name])


def test_ages_and_utilities_of_the_units():
    run = Experiment(method="cbp", hidden=(4, 3), metrics=("age", "utility"))
    program = build_program([run])
    state = program.learner.init(fcbp.random.key(0))
    _, batches = program.stream.sample(program.stream.init(fcbp.random.key(1)), 20)
    ages = {"0": torch.tensor([3, 9, 1, 4]), "2": torch.tensor([7, 2, 8])}
    utility = {name: age / 10 for name, age in ages.items()}
    state = state._replace(method=state.method._replace(age=ages, utility=utility))
    found = program.probe(state, hyper_of(program, run), batches)
    levels = (0, 25, 50, 75, 100)
    expected = np.quantile([3, 9, 1, 4, 7, 2, 8], np.array(levels) / 100)
    for level, value in zip(levels, expected, strict=True):
        torch.testing.assert_close(found[f"age_quantile_{level}"].item(), value)
        torch.testing.assert_close(found[f"utility_quantile_{level}"], torch.tensor(value / 10, dtype=torch.float32))
    assert list(program.measurements) == ["loss", "units_replaced", *found]
    assert list(build_program([run.replace(method="bp")]).measurements) == ["loss", "units_replaced"]


def test_a_number_that_optimiser_and_method_both_have_is_the_methods():
    run = Experiment(method="upgd", optimizer="adamw", weight_decay=0.5)
    *_, optimizer, method = run.parts()
    assert "weight_decay" in method.numbers
    assert "weight_decay" not in optimizer.numbers
    hyper = build_program([run]).hyper(run.numbers())
    assert hyper.method.weight_decay == 0.5
    assert "weight_decay" not in hyper.optimizer


def test_the_scale_of_the_initial_weights():
    plain, scaled = (
        build_program([Experiment(init_scale=scale)]).learner.init(fcbp.random.key(0)).params for scale in (1.0, 0.5)
    )
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value * 0.5)


@pytest.mark.slow
def test_a_method_by_object():
    cbp = METHODS["cbp"]
    mine = Kind("mine", lambda strength=1.0: cbp.build("weight"), cbp.hyperparams)
    run = Experiment(method=mine, replacement_rate=0.1, strength=2.0)
    assert run.replacement_rate == 0.1
    experiment.check([run])
    assert build_program([run]).numbers == build_program([Experiment()]).numbers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replacment_rate": 0.1}, "setting is 'replacment_rate'.*did you mean 'replacement_rate'"),
        ({"method": "cpb"}, "method is 'cpb'.*did you mean .*'cbp'"),
        ({"network": "mpl"}, "network is 'mpl'.*did you mean 'mlp'"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10, "bin": 11}, "bin is 11; expected at most steps, 10"),
        ({"metrics": ("efective_rank",)}, "metrics is 'efective_rank'.*'effective_rank'"),
        ({"metrics": ("loss", "age")}, "metrics is 'loss'; expected one of accuracy, age, approximate_rank"),
        (
            {"metrics": ("rank", "saturated_units")},
            "metrics has 'saturated_units', which there is none of with .* relu units",
        ),
        ({"metrics": ("age",), "method": "bp"}, "metrics has 'age', which there is none of with method bp"),
        ({"init_scale": -1.0}, "init_scale is -1.0"),
        ({"beta1": 1.0, "optimizer": "adam"}, "1.0; expected a number in \\[0, 1\\)"),
        ({"momentum": 0.5, "optimizer": "adam"}, "momentum is set, which nothing reads.*sgd"),
        ({"replacement_rate": 0.5, "method": "bp"}, "replacement_rate is set, which nothing reads with method bp"),
        ({"nesterov": 1}, "nesterov is 1; expected True or False"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        experiment.check([Experiment(**settings)])


def test_what_one_of_the_members_reads_may_be_set():
    runs = [Experiment(method=name, replacement_rate=0.1) for name in ("bp", "cbp")]
    experiment.check(runs)
    with pytest.raises(ValueError, match="runs have different program keys"):
        build_program(runs)
    with pytest.raises(ValueError, match="steps is swept"):
        experiment.check([Experiment(steps=3), Experiment(steps=4)])
    with pytest.raises(ValueError, match="runs is empty"):
        build_program([])


def test_a_number_out_of_range_is_found_among_many():
    runs = [Experiment(decay_rate=rate) for rate in np.linspace(0, 1, 200)]
    with pytest.raises(ValueError, match=r"decay_rate is 1.0; expected a number in \[0, 1\)"):
        experiment.check(runs)


# --- files ----------------------------------------------------------------------------------------------


def test_yaml_there_and_back():
    run = Experiment(hidden=(4, 3), optimizer="adam", eps=1e-8, method="cbp", replacement_rate=1e-5, measure="weight")
    swept = {"seed": range(3), "activation": ["relu", "tanh"], "hidden": [(5,), (4, 4)], "step_size": [1e-3, 0.1]}
    text = experiment.to_yaml(run, swept)
    assert experiment.from_yaml(text) == (run, {name: tuple(values) for name, values in swept.items()})
    assert "\nhidden: [4, 3]\n" in text
    # What is not set is told, and changes nothing.
    assert "\n# maturity_threshold: 100\n" in text
    assert experiment.from_yaml(experiment.to_yaml(run)) == (run, {})


def test_numbers_in_yaml_are_numbers():
    run, _ = experiment.from_yaml("step_size: 1e-4\nreplacement_rate: 1E-3\nflip_period: 100\nredraw_all: true")
    assert (run.step_size, run.replacement_rate, run.flip_period, run.redraw_all) == (1e-4, 1e-3, 100, True)
    assert type(run.step_size) is float


def test_a_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("step_sise: 0.1")
    with pytest.raises(ValueError, match=r"mine.yaml: setting is 'step_sise'.*did you mean 'step_size'"):
        experiment.load(path)
    path.write_text("step_size: 0.1")
    assert experiment.load(path) == (Experiment(step_size=0.1), {})
    with pytest.raises(OSError, match="none"):
        experiment.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "no YAML"),
        ("- 1", r"text is \[1\]"),
        ("", "text is None"),
        ("steps: 1\nsteps: 2", "steps is set twice"),
        ("sweep: 3", "sweep is 3"),
        ("sweep: {seed: 3}", "sweep has seed: 3"),
        ("sweep: {seed: []}", r"sweep has seed: \[\]"),
        ("sweep: {sead: [3]}", "setting is 'sead'.*did you mean 'seed'"),
        ("method: cpb", "method is 'cpb'"),
        ("1: 2", "setting is '1'"),
    ],
)
def test_bad_yaml(text, message):
    with pytest.raises(ValueError, match=message):
        experiment.check([experiment.from_yaml(text)[0]])


def test_without_yaml_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"pip install 'fcbp\[sweep\]'"):
        experiment.from_yaml("seed: 0")
