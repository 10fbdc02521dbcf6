"""Bad input to the functions of Continual Backpropagation is named."""

import copy
import dataclasses
import math

import optree
import pytest
import torch
from cbp_cases import KEY, perceptron

import fcbp
from fcbp import optim
from fcbp.units import Slice


def call(hyper=None, features=None, state=None, params=None, update=None, units=None, **options):
    """One update and one selection of a good network, but for what is given."""
    good, own = perceptron()
    units = own if units is None else units
    params = good if params is None else params
    hyper = fcbp.Hyperparams(**{"replacement_rate": 0.1, **(hyper or {})})
    if state is None:
        state = fcbp.init_state(own, good, KEY)
        # Mature, and so much is due that somebody is replaced.
        state = state._replace(age={"h": state.age["h"] + 1000}, owed={"h": state.owed["h"] + 1})
    features = {"h": torch.ones(2, 6)} if features is None else features
    state = fcbp.update_utility(state, params, features, hyper, units=units, **(update or {}))
    return fcbp.select_and_reset(state, params, hyper, units=units, **options)


NAN = math.nan


BAD_CALLS = [
    ({"hyper": {"replacement_rate": -0.1}}, r"replacement_rate is -0\.1; expected a number in \[0, 1\]"),
    ({"hyper": {"replacement_rate": 1.01}}, r"replacement_rate is 1\.01; expected a number in \[0, 1\]"),
    ({"hyper": {"replacement_rate": NAN}}, r"replacement_rate is nan; expected a number in \[0, 1\]"),
    ({"hyper": {"decay_rate": 1.0}}, r"decay_rate is 1\.0; expected a number in \[0, 1\)"),
    ({"hyper": {"decay_rate": -0.5}}, r"decay_rate is -0\.5; expected a number in \[0, 1\)"),
    ({"hyper": {"decay_rate": NAN}}, r"decay_rate is nan; expected a number in \[0, 1\)"),
    ({"hyper": {"maturity_threshold": -1}}, r"maturity_threshold is -1; expected a number of steps, 0 or more"),
    ({"hyper": {"maturity_threshold": NAN}}, r"maturity_threshold is nan; expected a number of steps, 0 or more"),
    ({"features": {}}, r"features has no entry for group 'h'; expected one tensor a group, found \[\]"),
    ({"features": {"g": torch.ones(2, 6)}}, r"features has no entry for group 'h'; .* found \['g'\]"),
    (
        {"features": {"h": torch.ones(2, 5)}},
        r"features\['h'\] has shape \(2, 5\); expected 6 entries on its unit axis -1",
    ),
    ({"features": {"h": torch.ones(())}}, r"features\['h'\] has shape \(\); expected 6 entries on its unit axis -1"),
    (
        {"update": {"measure": "contribtion"}},
        r"measure is 'contribtion'; expected one of .*; did you mean 'contribution'",
    ),
    ({"update": {"measure": "removal"}}, r"grads is None; expected a pytree like params, for a measure of gradients"),
    ({"initializer": "kaiming"}, r"initializer is 'kaiming'; expected one of .*; did you mean 'kaiming_"),
    ({"rounding": "accumlate"}, r"rounding is 'accumlate'; expected one of accumulate, .*did you mean 'accumulate'"),
    ({"rate_counts": "eligable"}, r"rate_counts is 'eligable'; expected one of all, eligible; did you mean 'eligible'"),
    ({"capacity": -1}, r"capacity is -1; expected a number of units, 0 or more, or None"),
    ({"capacity": 1.5}, r"capacity is 1\.5; expected a number of units, 0 or more, or None"),
    ({"capacity": True}, r"capacity is True; expected a number of units, 0 or more, or None"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_a_state_of_other_groups_is_named():
    params, units = perceptron(6)
    _, others = perceptron(5)
    state = fcbp.init_state(units, params, KEY)
    message = r"state\.age holds \{'h': \(6,\)\}; expected \(5,\) for group 'h'"
    with pytest.raises(ValueError, match=message):
        fcbp.update_utility(state, params, {"h": torch.ones(1, 5)}, fcbp.Hyperparams(), units=others)
    with pytest.raises(ValueError, match=message):
        fcbp.select_and_reset(state, params, fcbp.Hyperparams(), units=others)
    replaced = {"h": torch.ones(6, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"replaced holds \{'h': \(6,\)\}; expected \(5,\) for group 'h'"):
        fcbp.reset_moments((), replaced, units=others)
    with pytest.raises(ValueError, match=r"replaced holds \{\}; expected \(5,\) for group 'h'"):
        fcbp.reset_buffers({}, {}, units=others)


def test_moments_of_another_shape_are_named():
    params, units = perceptron()
    replaced = {"h": torch.ones(6, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"opt_state has nothing by the name of w1, and state/0/momentum_buffer"):
        fcbp.reset_moments({"state": {0: {"momentum_buffer": params["w1"]}}}, replaced, units=units)
    assert fcbp.reset_moments(optim.SGDState(()), replaced, units=units) == optim.SGDState(())


def test_missing_buffers_are_named():
    _, (group,) = perceptron()
    units = (dataclasses.replace(group, running_mean=(Slice(("1.running_mean",), 0),)),)
    with pytest.raises(ValueError, match=r"buffers has no 1\.running_mean, a running statistic of group 'h'"):
        fcbp.reset_buffers({}, {"h": torch.ones(6, dtype=torch.bool)}, units=units)


@pytest.mark.parametrize("key", [0, torch.tensor(0.0), torch.zeros(2, dtype=torch.int64)])
def test_a_state_needs_one_key(key):
    params, units = perceptron()
    with pytest.raises(ValueError, match=r"key is .*; expected a 0-d int64 tensor, such as fcbp\.random\.key\(0\)"):
        fcbp.init_state(units, params, key)


def test_nothing_has_changed_when_bad_input_is_named():
    params, units = perceptron()
    state = fcbp.init_state(units, params, KEY)
    before = copy.deepcopy((state, params))
    with pytest.raises(ValueError, match="features"):
        fcbp.update_utility(state, params, {"h": torch.ones(1, 7)}, fcbp.Hyperparams(), units=units)
    for a, b in zip(*map(optree.tree_leaves, (before, (state, params))), strict=True):
        assert a.equal(b)


REFUSED = [
    (
        lambda u, p: fcbp.init_state(u, torch.nn.Linear(3, 2), KEY),
        r"params is a module, Linear; .*dict\(model\.named",
    ),
    (lambda u, p: fcbp.init_state(u, None, KEY), r"params is None; expected a pytree of tensors"),
    (lambda u, p: fcbp.init_state(None, p, KEY), r"units is None; expected an iterable of UnitGroup"),
    (lambda u, p: fcbp.init_state(u[0], p, KEY), r"units is UnitGroup\(.*; expected an iterable of UnitGroup"),
    (lambda u, p: fcbp.init_state("h", p, KEY), r"units is 'h'; expected an iterable of UnitGroup"),
    (lambda u, p: fcbp.init_state(u + u, p, KEY), r"units: 2 groups are called 'h'"),
    (lambda u, p: fcbp.reset_buffers({}, {"h": torch.zeros(6)}, units=u + u), r"units: 2 groups are called 'h'"),
    (lambda u, p: fcbp.reset_moments((), {"h": torch.zeros(6)}, units=u + u), r"units: 2 groups are called 'h'"),
    (lambda u, p: fcbp.reset_moments((), None, units=u), r"replaced is None; expected a dict by the groups' names"),
    (lambda u, p: call(units=u + u), r"units: 2 groups are called 'h'"),
    (lambda u, p: call(params=torch.nn.Linear(3, 2)), r"params is a module, Linear"),
    (
        lambda u, p: call(features=torch.ones(2, 6)),
        r"features is tensor(.|\n)*; expected a dict with one tensor a group",
    ),
    (lambda u, p: call(state={}), r"state is \{\}; expected a CBPState, as init_state gives it"),
    (
        lambda u, p: call(hyper={"replacement_rate": "0.1"}),
        r"replacement_rate is '0\.1'; expected a number in \[0, 1\]",
    ),
    (lambda u, p: call(hyper={"decay_rate": None}), r"decay_rate is None; expected a number in \[0, 1\)"),
    (lambda u, p: call(hyper={"replacement_rate": True}), r"replacement_rate is True; expected a number"),
    (
        lambda u, p: call(hyper={"replacement_rate": torch.ones(2)}),
        r"replacement_rate is a tensor \(2,\) .* 0-d",
    ),
    (lambda u, p: call(transfer_bias="no"), r"transfer_bias is 'no'; expected True or False"),
    (lambda u, p: call(transfer_bias=None), r"transfer_bias is None; expected True or False"),
    (lambda u, p: call(initializer=3), r"initializer is 3; expected a name of INITIALIZERS or a function"),
    (lambda u, p: call(initializer=lambda *_: 0.0), r"gives 0\.0; expected a tensor of shape \(\d, 3\) torch\.float32"),
    (
        lambda u, p: call(initializer=lambda key, shape, *_: torch.zeros(shape, dtype=torch.float64)),
        r"gives \(\d, 3\) torch\.float64; expected a tensor of shape",
    ),
    (
        lambda u, p: call(initializer=lambda *_: torch.zeros(3)),
        r"gives \(3,\) torch\.float32; expected a tensor of shape",
    ),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_of_another_kind_is_named(number):
    function, message = REFUSED[number]
    params, units = perceptron()
    with pytest.raises(ValueError, match=message):
        function(units, params)
