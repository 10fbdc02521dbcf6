"""Bad input to the functions per weight is named."""

import math

import pytest
import torch
from weights_cases import KEY, bits_equal, state_with, two_by_three

from fcbp import optim, weights
from fcbp.weights import Hyperparams


def call(hyper=None, init=None, update=None, params=None, grads=None, **options):
    good = two_by_three()
    state = weights.init_state(good, KEY, **(init or {}))
    params = good if params is None else params
    hyper = Hyperparams(**(hyper or {}))
    state = weights.update_utility(state, params, good if grads is None else grads, hyper, **(update or {}))
    return weights.select_and_reset(state, params, hyper, **options)


NAN = math.nan


BAD_CALLS = [
    ({"hyper": {"reset_rate": -0.1}}, r"reset_rate is -0\.1; expected a number in \[0, 1\]"),
    ({"hyper": {"reset_rate": 1.5}}, r"reset_rate is 1\.5; expected a number in \[0, 1\]"),
    ({"hyper": {"reset_rate": NAN}}, r"reset_rate is nan; expected"),
    ({"hyper": {"maturity_threshold": -1}}, r"maturity_threshold is -1; expected a number of steps, 0 or more"),
    ({"hyper": {"maturity_threshold": NAN}}, r"maturity_threshold is nan; expected"),
    ({"hyper": {"decay_rate": 1.0}}, r"decay_rate is 1\.0; expected a number in \[0, 1\)"),
    ({"hyper": {"period": 0}}, r"period is 0; expected a whole number of steps, 1 or more"),
    ({"hyper": {"period": 2.5}}, r"period is 2\.5; expected a whole number of steps, 1 or more"),
    ({"hyper": {"period": math.inf}}, r"period is inf; expected a whole number of steps, 1 or more"),
    ({"hyper": {"mean_fraction": -1.0}}, r"mean_fraction is -1\.0; expected a finite number, 0 or more"),
    ({"hyper": {"protect_fraction": 2.0}}, r"protect_fraction is 2\.0; expected a number in \[0, 1\]"),
    ({"hyper": {"release_fraction": 0.05}}, r"release_fraction is 0\.05; expected at least protect_fraction, 0\.1"),
    ({"init": {"managed": "matrixes"}}, r"managed is 'matrixes'; expected one of all, matrices; did you mean"),
    ({"init": {"maturity": "outlier"}}, r"maturity is 'outlier'; expected one of .*; did you mean 'outliers'"),
    ({"update": {"utility": "gradients"}}, r"utility is 'gradients'; expected one of .*; did you mean 'gradient'"),
    ({"update": {"moments": optim.SGDState(())}}, r"moments\.momentum has no 'w', which the state manages"),
    ({"update": {"moments": 3}}, r"moments is int; expected an AdamState, or an SGDState with momentum"),
    ({"grads": ()}, r"grads has no 'w', which the state manages; it holds \[\]"),
    ({"grads": {"w": torch.ones(3)}}, r"grads has 'w' of shape \(3,\); expected 6 weights, as at first"),
    ({"params": {"v": torch.ones(2, 3)}}, r"params has no 'w', which the state manages; it holds \['v'\]"),
    ({"selection": "low"}, r"selection is 'low'; expected one of below, lowest, random; did you mean"),
    ({"initializer": "kaiming"}, r"initializer is 'kaiming'; expected one of .*; did you mean 'kaiming_"),
    ({"init": {"managed": "all"}, "initializer": "orthogonal"},
     r"initializer is 'orthogonal', and 'b' has shape \(2,\); expected two axes or more"),
    ({"init": {"managed": "all"}, "initializer": "lecun_normal"}, r"initializer is 'lecun_normal', and 'b' has shape"),
    ({"rounding": "accumlate"}, r"rounding is 'accumlate'; expected one of accumulate, .*did you mean 'accumulate'"),
    ({"rate_counts": "eligable"}, r"rate_counts is 'eligable'; expected one of all, eligible"),
    ({"capacity": -1}, r"capacity is -1; expected a number of weights, 0 or more, or None"),
    ({"capacity": True}, r"capacity is True; expected a number of weights, 0 or more, or None"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_bad_choices_of_tensors_keys_and_moments_are_named():
    params = {"w": torch.ones(2, 2), "n": torch.ones(2, dtype=torch.int32), "e": torch.ones(0)}
    for name, what in (("n", r"torch\.int32 of shape \(2,\)"), ("e", r"torch\.float32 of shape \(0,\)")):
        with pytest.raises(ValueError, match=f"managed chooses '{name}', {what}; expected floating-point"):
            weights.init_state(params, KEY, managed=lambda path, leaf, name=name: path == (name,))
    with pytest.raises(ValueError, match=r"params holds two tensors by the name of 'a/b'"):
        weights.init_state({"a/b": torch.ones(1, 1), "a": {"b": torch.ones(1, 1)}}, KEY)
    with pytest.raises(ValueError, match=r"key is 0; expected a 0-d int64 tensor"):
        weights.init_state(params, 0)
    replaced = {"w": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(
        ValueError, match=r"opt_state has nothing by the name of w, and m of shape \(2, 2\) by no param"
    ):
        weights.reset_moments({"m": torch.ones(2, 2)}, replaced)


def test_a_capacity_of_zero_resets_nothing_and_owes_all():
    params = two_by_three()
    state = state_with(params, 1.0)
    new, after, replaced = weights.select_and_reset(state, params, Hyperparams(0.5), capacity=0)
    assert not replaced["w"].any()
    assert bits_equal(new, params)
    assert after.owed["w"] == 3
