"""Experiments as data, and the programs that they become."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

import fcbp
from fcbp import Experiment, experiment
from fcbp.experiment import build_program
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
    assert program.group_sizes == (4, 3)
    assert program.numbers == ("step_size", "replacement_rate", "maturity_threshold", "decay_rate")
    info = {
        "loss": torch.tensor(0.5),
        "replaced": {"a": torch.tensor([True, False]), "b": torch.tensor([True])},
        "reset_weights": {"w": torch.ones(2, 2, dtype=torch.bool)},
    }
    assert program.counts(info) == {"units_replaced": 2, "weights_reset": 4}
    state = program.learner.init(fcbp.random.key(0))
    _, batches = program.stream.sample(program.stream.init(fcbp.random.key(1)), 20)
    assert set(program.probe(state, batches)) == {"stable_rank"}


def test_the_scale_of_the_initial_weights():
    plain, scaled = (
        build_program([Experiment(init_scale=scale)]).learner.init(fcbp.random.key(0)).params for scale in (1.0, 0.5)
    )
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value * 0.5)


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
        ({"method": "cpb"}, "method is 'cpb'.*did you mean 'cbp'"),
        ({"network": "mpl"}, "network is 'mpl'.*did you mean 'mlp'"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 10, "bin": 11}, "bin is 11; expected at most steps, 10"),
        ({"metrics": ("efective_rank",)}, "metrics is 'efective_rank'.*'effective_rank'"),
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
