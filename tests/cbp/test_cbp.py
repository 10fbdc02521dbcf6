"""Continual Backpropagation against loops over NumPy arrays, step by step, and scenarios whose answer is known."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import optree
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fcbp
from fcbp import optim
from fcbp.units import Slice, UnitGroup

KEY = fcbp.random.key(3)


def normal(seed, *shape, dtype=torch.float64):
    return fcbp.random.normal(fcbp.random.key(seed), shape, dtype)


def numbers(tree):
    """The same pytree of float64 arrays, sharing nothing."""
    return optree.tree_map(lambda leaf: leaf.detach().to(torch.float64).numpy().copy(), tree)


def tensors(tree):
    return optree.tree_map(lambda array: torch.tensor(array, dtype=torch.float64), tree)


# --- whole runs against the oracle ------------------------------------------------------------------------

SIZES = (3, 6, 5, 2)


class TorchLayout:
    """Named parameters with ``(out, in)`` weights; no norms."""

    units = tuple(
        UnitGroup(
            f"layer{i}",
            SIZES[i + 1],
            incoming=(Slice((f"{i}.weight",), 0),),
            bias=(Slice((f"{i}.bias",), 0),),
            outgoing=(Slice((f"{i + 1}.weight",), 1),),
            outgoing_bias=((f"{i + 1}.bias",),),
        )
        for i in range(2)
    )

    @staticmethod
    def init():
        params = {}
        for i in range(3):
            params[f"{i}.weight"] = normal(10 + i, SIZES[i + 1], SIZES[i])
            params[f"{i}.bias"] = normal(20 + i, SIZES[i + 1])
        return params

    @staticmethod
    def forward(params, x):
        features = {}
        for i in range(3):
            x = x @ params[f"{i}.weight"].T + params[f"{i}.bias"]
            if i < 2:
                x = features[f"layer{i}"] = torch.relu(x)
        return x, features


class KernelLayout:
    """A list of dicts with ``(in, out)`` kernels, and a scale and a shift after each activation."""

    units = tuple(
        UnitGroup(
            f"layer{i}",
            SIZES[i + 1],
            incoming=(Slice((i, "kernel"), -1),),
            bias=(Slice((i, "bias"), -1),),
            outgoing=(Slice((i + 1, "kernel"), -2),),
            outgoing_bias=((i + 1, "bias"),),
            norm_scale=(Slice((i, "scale"), 0),),
            norm_shift=(Slice((i, "shift"), 0),),
        )
        for i in range(2)
    )

    @staticmethod
    def init():
        params = []
        for i in range(3):
            layer = {"kernel": normal(10 + i, SIZES[i], SIZES[i + 1]), "bias": normal(20 + i, SIZES[i + 1])}
            if i < 2:
                layer |= {"scale": normal(30 + i, SIZES[i + 1]), "shift": normal(40 + i, SIZES[i + 1])}
            params.append(layer)
        return params

    @staticmethod
    def forward(params, x):
        features = {}
        for i, layer in enumerate(params):
            x = x @ layer["kernel"] + layer["bias"]
            if i < 2:
                x = features[f"layer{i}"] = torch.tanh(x) * layer["scale"] + layer["shift"]
        return x, features


RUNS = [
    {"measure": measure, "rate": 0.05, "maturity": 3, "decay": 0.9, "transfer_bias": i % 2 == 0}
    for i, measure in enumerate(fcbp.utility.MEASURES)
] + [
    {"rate": 0.3, "maturity": 0, "decay": 0.0},
    {"rate": 1.0, "maturity": 2, "decay": 0.99, "transfer_bias": True},
    {"rate": 0.2, "maturity": 4, "decay": 0.9, "rate_counts": "all"},
    {"rate": 0.5, "maturity": 3, "decay": 0.9, "capacity": 1, "transfer_bias": True},
    {"rate": 0.5, "maturity": 3, "decay": 0.9, "capacity": 2, "rate_counts": "all"},
    {"rate": 0.15, "maturity": 2, "decay": 0.8, "rounding": "stochastic", "transfer_bias": True},
    {"rate": 0.6, "maturity": 1, "decay": 0.8, "rounding": "stochastic", "capacity": 1},
    {"rate": 0.1, "maturity": 5.5, "decay": 0.5, "rate_counts": "all", "rounding": "stochastic"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "dtype", "tolerance"),
    [(TorchLayout, torch.float64, 1e-9), (KernelLayout, torch.float64, 1e-9), (TorchLayout, torch.float32, 1e-3)],
)
@pytest.mark.parametrize("run", RUNS, ids=lambda run: " ".join(map(str, run.values())))
def test_fifty_steps_follow_the_oracle(run, layout, dtype, tolerance):
    """Both sides train on their own: forward pass, gradients, momentum SGD, utility, selection, reset."""
    run = dict(run)
    rate, maturity, decay = run.pop("rate"), run.pop("maturity"), run.pop("decay")
    measure, transfer_bias = run.pop("measure", "contribution"), run.pop("transfer_bias", False)
    units, hyper = layout.units, fcbp.Hyperparams(rate, maturity, decay)

    def objective(params, x, y):
        output, features = layout.forward(params, x)
        return ((output - y) ** 2).mean(), features

    gradient = torch.func.grad(objective, has_aux=True)
    optimizer, step_size = optim.sgd(0.5), 0.02
    params = optree.tree_map(lambda leaf: leaf.to(dtype), layout.init())
    opt_state = optimizer.init(params)
    state = fcbp.init_state(units, params, KEY)
    expected = oracle.Oracle(units, numbers(params))
    momentum = optree.tree_map(np.zeros_like, expected.params)
    total = 0

    for t in range(50):
        x, y = normal(100 + t, 4, 3), normal(200 + t, 4, 2)

        grads, features = gradient(params, x.to(dtype), y.to(dtype))
        params, opt_state = optimizer.update(grads, opt_state, params, step_size=step_size)
        state = fcbp.update_utility(state, params, features, hyper, units=units, measure=measure, grads=grads)
        # What chance adds this time: all of it is replaced or owed where nothing was before.
        anew = state._replace(owed=optree.tree_map(torch.zeros_like, state.owed))
        _, fresh, gone = fcbp.select_and_reset(anew, params, hyper, units=units, **{**run, "capacity": None})
        gained = {name: gone[name].sum().item() + fresh.owed[name].item() for name in gone}
        params, state, replaced = fcbp.select_and_reset(
            state,
            params,
            hyper,
            units=units,
            initializer=oracle.pattern_initializer,
            transfer_bias=transfer_bias,
            **run,
        )
        opt_state = fcbp.reset_moments(opt_state, replaced, units=units)

        theirs, reads = gradient(tensors(expected.params), x, y)
        for m, p, g in zip(*map(optree.tree_leaves, (momentum, expected.params, numbers(theirs))), strict=True):
            m[...] = 0.5 * m + g
            p[...] -= step_size * m
        expected.update_utility(numbers(reads), decay, measure, numbers(theirs))
        chosen = expected.select(rate, maturity, decay, due=lambda name, _, gained=gained: gained[name], **run)
        expected.reset(chosen, decay, transfer_bias)
        for role in ("incoming", "bias", "outgoing", "norm_scale", "norm_shift", "slope"):
            expected.write(chosen, role, 0.0, momentum)

        for group in units:
            name = group.name
            assert replaced[name].nonzero().flatten().tolist() == sorted(chosen[name])
            assert state.age[name].tolist() == expected.age[name]
            assert state.owed[name].item() == pytest.approx(expected.owed[name], abs=1e-9)
            for ours, wanted in ((state.utility, expected.utility), (state.mean_activation, expected.mean)):
                assert ours[name].dtype == dtype
                assert ours[name].tolist() == pytest.approx(wanted[name], rel=tolerance, abs=tolerance)
            total += len(chosen[name])
        for ours, wanted in ((params, expected.params), (opt_state.momentum, momentum)):
            for a, b in zip(optree.tree_leaves(ours), optree.tree_leaves(wanted), strict=True):
                assert a.dtype == dtype
                np.testing.assert_allclose(a.numpy(), b, rtol=tolerance, atol=tolerance)
    assert total >= 10


# --- known answers ----------------------------------------------------------------------------------------


def perceptron(hidden=6, inputs=3, outputs=2, dtype=torch.float32):
    """One hidden layer by hand."""
    params = {
        "w1": normal(1, hidden, inputs, dtype=dtype),
        "b1": normal(2, hidden, dtype=dtype),
        "w2": normal(3, outputs, hidden, dtype=dtype),
        "b2": normal(4, outputs, dtype=dtype),
    }
    units = (UnitGroup("h", hidden, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),)),)
    return params, units


def two_layers():
    """Two hidden layers of 4 units, the weight between them both outgoing and incoming."""
    params = {f"w{i}": normal(i, 4, 4) for i in (1, 2)} | {"w3": normal(3, 2, 4)}
    params |= {f"b{i}": normal(10 + i, n) for i, n in ((1, 4), (2, 4), (3, 2))}
    units = tuple(
        UnitGroup(
            f"h{i}",
            4,
            (Slice((f"w{i}",), 0),),
            (Slice((f"b{i}",), 0),),
            (Slice((f"w{i + 1}",), 1),),
            ((f"b{i + 1}",),),
        )
        for i in (1, 2)
    )
    return params, units


def state_with(units, params, utility, age=1000, mean=0.0, owed=0.0):
    """A state as after many steps, by group or for all groups."""
    state = fcbp.init_state(units, params, KEY)

    def vector(value, group, like):
        value = value[group.name] if isinstance(value, dict) else value
        return torch.as_tensor(value, dtype=like.dtype).expand(group.size).clone()

    return state._replace(
        age={g.name: vector(age, g, state.age[g.name]) for g in units},
        utility={g.name: vector(utility, g, state.utility[g.name]) for g in units},
        mean_activation={g.name: vector(mean, g, state.mean_activation[g.name]) for g in units},
        owed={g.name: torch.full_like(state.owed[g.name], owed) for g in units},
    )


def test_the_dead_unit_is_the_one_replaced():
    params, units = perceptron()
    params["b1"][4] = -100.0
    x = normal(5, 8, 3, dtype=torch.float32)
    hyper = fcbp.Hyperparams(replacement_rate=0.01, maturity_threshold=10, decay_rate=0.9)
    state = fcbp.init_state(units, params, KEY)
    when = []
    for t in range(1, 40):
        h = torch.relu(x @ params["w1"].T + params["b1"])
        state = fcbp.update_utility(state, params, {"h": h}, hyper, units=units)
        new, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
        if replaced["h"].any():
            when.append(t)
            assert replaced["h"].tolist() == [False] * 4 + [True, False]
            assert new["w2"][:, 4].tolist() == [0.0, 0.0]
            assert new["b1"][4] == 0
            assert (new["w1"][4] != params["w1"][4]).all()
            assert new["w1"][4].abs().max() <= math.sqrt(6 / 3)
            others = torch.arange(6) != 4
            assert new["w1"][others].equal(params["w1"][others])
            assert new["b1"][others].equal(params["b1"][others])
            assert new["w2"][:, others].equal(params["w2"][:, others])
            assert new["b2"].equal(params["b2"])
            assert state.age["h"].tolist() == [t] * 4 + [0, t]
            assert state.utility["h"][4] == state.mean_activation["h"][4] == 0
            break
        assert new is params or all(new[name].equal(params[name]) for name in params)
    # Eligible from step 11 on, 0.06 a step: the sum passes 1 in the 17th step of those.
    assert when == [27]


@pytest.mark.parametrize("owed", [[0.2, 0.3], [0.2, 0.99], [1.5, 0.1], [math.nan, 0.1]], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"rounding": "stochastic"}, {"rate_counts": "all", "transfer_bias": True}], ids=str
)
def test_what_is_skipped_where_no_unit_is_due_changes_no_bit(owed, options):
    """Under vmap nothing is known of the numbers, and nothing skipped."""
    params, units = two_layers()
    params = {name: leaf.to(torch.float32) for name, leaf in params.items()}
    utility = {group.name: normal(i, group.size, dtype=torch.float32) for i, group in enumerate(units)}
    utility[units[0].name][1] = math.nan
    utility[units[1].name][0] = 3e38
    state = state_with(units, params, utility, mean=0.5)
    state = state._replace(
        owed={g.name: torch.tensor(x, dtype=torch.float64) for g, x in zip(units, owed, strict=True)}
    )
    opt_state = optree.tree_map(torch.ones_like, params)

    def reset(state, params, opt_state):
        params, state, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(0.005), units=units, **options)
        return params, state, replaced, fcbp.reset_moments(opt_state, replaced, units=units)

    found = reset(state, params, opt_state)
    one = optree.tree_map(lambda leaf: leaf.detach().unsqueeze(0), (state, params, opt_state))
    expected = optree.tree_map(lambda leaf: leaf.squeeze(0), torch.vmap(reset)(*one))
    if not options:
        assert any(mask.any() for mask in found[2].values()) == (max(owed) > 0.9)
    for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.detach(), b)


@pytest.mark.parametrize("rounding", ["accumulate", "stochastic"])
@pytest.mark.parametrize("rate", [0, 0.0, torch.tensor(0.0)])
def test_rate_zero_leaves_the_parameters_bit_identical(rate, rounding):
    params, units = perceptron()
    params["w1"][0, 0] = params["b2"][0] = -0.0
    params["w2"][1, 1] = math.nan
    state = state_with(units, params, torch.arange(6.0))
    hyper = fcbp.Hyperparams(replacement_rate=rate, maturity_threshold=0)
    for _ in range(3):
        new, state, replaced = fcbp.select_and_reset(
            state, params, hyper, units=units, rounding=rounding, transfer_bias=True
        )
        assert not replaced["h"].any()
        for name, leaf in params.items():
            assert new[name].view(torch.int32).equal(leaf.view(torch.int32))


@pytest.mark.parametrize("capacity", [None, 1, 2])
@pytest.mark.parametrize("hidden", [6, 100])
def test_ties_go_to_the_lower_index(hidden, capacity):
    params, units = perceptron(hidden)
    utility = torch.ones(hidden)
    utility[[2, 4, 5]] = 0.5
    state = state_with(units, params, utility, owed=2.0)
    hyper = fcbp.Hyperparams(torch.tensor(1e-9), 100)
    _, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, capacity=capacity)
    assert replaced["h"].nonzero().flatten().tolist() == [2, 4][: capacity or 2]


@pytest.mark.parametrize("hidden", [6, 100])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_utility_that_is_no_number_is_never_the_lowest(bad, hidden):
    params, units = perceptron(hidden)
    utility = torch.arange(1.0, hidden + 1)
    utility[[0, 3]] = bad
    for capacity in (1, None):
        state = state_with(units, params, utility, owed=1.0)
        hyper = fcbp.Hyperparams(torch.tensor(1e-9))
        _, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units, capacity=capacity)
        assert replaced["h"].nonzero().flatten().tolist() == [1]
    # At full rate everything goes but these, and they are not counted.
    state = state_with(units, params, utility)
    _, state, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(1.0), units=units)
    assert replaced["h"].sum() == hidden - 2
    assert not replaced["h"][[0, 3]].any()
    assert state.owed["h"] == 0


def test_a_group_without_a_finite_utility_is_left_alone():
    params, units = perceptron()
    state = state_with(units, params, math.nan)
    for counts in ("eligible", "all"):
        new, after, replaced = fcbp.select_and_reset(
            state, params, fcbp.Hyperparams(1.0), units=units, rate_counts=counts
        )
        assert not replaced["h"].any()
        assert after.owed["h"] == 0
        assert all(new[name].equal(params[name]) for name in params)


def test_no_unit_is_eligible_before_its_age_exceeds_the_threshold():
    params, units = perceptron()
    hyper = fcbp.Hyperparams(1.0, maturity_threshold=3, decay_rate=0.5)
    state = fcbp.init_state(units, params, KEY)
    counts = []
    for _ in range(9):
        state = fcbp.update_utility(state, params, {"h": torch.ones(2, 6)}, hyper, units=units)
        _, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
        counts.append(replaced["h"].sum().item())
    assert counts == [0, 0, 0, 6, 0, 0, 0, 6, 0]


def test_a_fresh_state_replaces_nothing():
    params, units = perceptron()
    state = fcbp.init_state(units, params, KEY)
    hyper = fcbp.Hyperparams(1.0, 0)
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert not replaced["h"].any()
    assert all(new[name].equal(params[name]) for name in params)


# --- bias transfer ----------------------------------------------------------------------------------------


def test_a_constant_unit_leaves_the_function_as_it_was():
    """The mean is read before it is cleared, the outgoing weights before they are zeroed."""
    params, units = perceptron(dtype=torch.float64)
    params["w1"][2] = 0.0  # unit 2 is constant, and the least useful
    params["b1"][2] = 0.3
    params["w2"][:, 2] = torch.tensor([0.01, -0.02])
    x = normal(7, 50, 3)

    def forward(params):
        h = torch.relu(x @ params["w1"].T + params["b1"])
        return h, h @ params["w2"].T + params["b2"]

    hyper = fcbp.Hyperparams(replacement_rate=0.17, maturity_threshold=2, decay_rate=0.9)
    state = fcbp.init_state(units, params, KEY)
    h, before = forward(params)
    for _ in range(3):
        state = fcbp.update_utility(state, params, {"h": h}, hyper, units=units)
    moved, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].tolist() == [False, False, True, False, False, False]
    torch.testing.assert_close(forward(moved)[1], before, rtol=0, atol=1e-15)
    torch.testing.assert_close(moved["b2"] - params["b2"], 0.3 * torch.tensor([0.01, -0.02], dtype=torch.float64))
    jumped, _, _ = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=False)
    assert (forward(jumped)[1] - before).abs().min() > 0.002


def test_a_constant_channel_leaves_a_convolution_as_it_was():
    params = {"w1": normal(1, 3, 2, 3, 3), "b1": normal(2, 3), "w2": normal(3, 4, 3, 2, 2), "b2": normal(4, 4)}
    params["w1"][1], params["b1"][1] = 0.0, 0.7
    units = (
        UnitGroup(
            "h", 3, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),), activation_axis=1
        ),
    )
    x = normal(7, 5, 2, 6, 6)

    def forward(params):
        h = torch.conv2d(x, params["w1"], params["b1"])
        return h, torch.conv2d(h, params["w2"], params["b2"])

    hyper = fcbp.Hyperparams(0.34, 0, 0.9)
    state = fcbp.init_state(units, params, KEY)
    h, before = forward(params)
    state = fcbp.update_utility(state, params, {"h": h}, hyper, units=units, measure="zero_contribution")
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].tolist() == [False, True, False]
    torch.testing.assert_close(forward(new)[1], before, rtol=0, atol=1e-14)
    assert (new["w2"][:, 1] == 0).all()
    assert (new["w1"][1] != 0).all()


def test_every_consumer_gains_what_it_loses():
    """A residual stream read twice, one of the readers without a bias, and by channels of a flattened map."""
    params = {
        "w1": normal(1, 4, 3),
        "w2": normal(2, 2, 4),
        "b2": normal(3, 2),
        "w3": normal(4, 5, 4),
        "w4": normal(5, 3, 8),
        "b4": normal(6, 3),
    }
    units = (
        UnitGroup(
            "h",
            4,
            (Slice(("w1",), 0),),
            (),
            (Slice(("w2",), 1), Slice(("w3",), 1), Slice(("w4",), 1, stride=2, block=2)),
            (("b2",), None, ("b4",)),
        ),
    )
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    state = state_with(units, params, torch.tensor([1.0, 0.0, 2.0, 0.5]), age=1, mean=mean)
    hyper = fcbp.Hyperparams(0.5, 0, decay_rate=0.75)  # bias correction 1/4
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].tolist() == [False, True, False, True]
    gone = replaced["h"]
    torch.testing.assert_close(new["b2"], params["b2"] + params["w2"][:, gone] @ (4 * mean[gone]))
    columns = params["w4"].reshape(3, 4, 2).sum(-1)
    torch.testing.assert_close(new["b4"], params["b4"] + columns[:, gone] @ (4 * mean[gone]))
    assert (new["w2"][:, gone] == 0).all()
    assert (new["w3"][:, gone] == 0).all()
    assert (new["w4"].reshape(3, 4, 2)[:, gone] == 0).all()


# --- how many are replaced --------------------------------------------------------------------------------


def eligible_count(state, hyper, name="h"):
    return (state.age[name] > hyper.maturity_threshold).sum()


def counting(size, rates, maturity, **options):
    """A step ``(state, rates) -> (state, numbers replaced and eligible)`` with little else in it, and its state."""
    params = {"w1": torch.zeros(size, 1), "w2": torch.zeros(1, size)}
    units = (UnitGroup("h", size, (Slice(("w1",), 0),), (), (Slice(("w2",), 1),), (None,)),)

    def step(state, rate):
        # The ages of update_utility without its means; the utility ranks units by a turning order.
        age = state.age["h"] + 1
        state = state._replace(age={"h": age}, utility={"h": torch.sin(age.float() + torch.arange(size))})
        hyper = fcbp.Hyperparams(rate, maturity, 0.0)
        eligible = eligible_count(state, hyper)
        _, state, replaced = fcbp.select_and_reset(
            state, params, hyper, units=units, initializer=lambda *args: torch.zeros(args[1]), **options
        )
        return state, torch.stack([replaced["h"].sum(), eligible])

    state = torch.vmap(lambda key: fcbp.init_state(units, params, key))(fcbp.random.split(KEY, len(rates)))
    return torch.vmap(step, out_dims=(0, 1)), state


def drive(steps, size, rates, maturity, **options):
    """Replacements and the sum of eligible counts of many rates at once, over a run."""
    step, state = counting(size, rates, maturity, **options)
    counts = torch.zeros(2, len(rates), dtype=torch.int64)
    for _ in range(steps):
        state, new = step(state, rates)
        counts += new
    return *counts, state


RATES = torch.tensor([0.0, 1e-6, 1e-5, 1e-4, 1e-3, 0.0123, 0.1, 1 / 3, 0.5, 0.9, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("options", [{}, {"capacity": 5}])
def test_the_number_replaced_is_the_rate_times_the_eligible(options):
    replaced, eligible, state = drive(300, 5, RATES, 7, **options)
    owed = state.owed["h"]
    # Nothing is lost: what was due and not replaced is owed, less than one unit.
    torch.testing.assert_close(replaced + owed, RATES * eligible, rtol=1e-12, atol=1e-12)
    assert (owed < 1).all()
    assert (owed >= 0).all()
    assert (replaced - RATES * eligible).abs().max() < 1
    assert replaced[0] == 0
    assert replaced[-1] > 100


@pytest.mark.slow
@settings(max_examples=10)
@given(st.lists(st.floats(1e-6, 1.0), min_size=8, max_size=8), st.integers(1, 70), st.integers(0, 9), st.booleans())
def test_the_count_law_holds_for_any_rate_size_and_threshold(rates, size, maturity, single):
    rates = torch.tensor(rates, dtype=torch.float32 if single else torch.float64)
    replaced, eligible, state = drive(40, size, rates, maturity)
    assert (replaced - rates.double() * eligible).abs().max() < 1 + 1e-9
    assert (state.owed["h"] < 1).all()


@pytest.mark.compiled
def test_the_count_law_holds_over_a_hundred_thousand_steps():
    many, state = counting(4, RATES, 3)
    state = optree.tree_map(torch.Tensor.contiguous, state)  # vmap expands what is alike; one program for all steps
    step = torch.compile(many, fullgraph=True)
    counts = torch.zeros(2, len(RATES), dtype=torch.int64)
    for _ in range(100_000):
        state, new = step(state, RATES)
        counts += new
    replaced, eligible = counts
    assert (replaced - RATES * eligible).abs().max() < 1
    assert eligible.max() > 390_000
    assert replaced[1] == 0  # 1e-6 of less than 400,000
    assert replaced[2] == 3  # 1e-5


def test_stochastic_rounding_replaces_the_rate_times_the_eligible_on_average():
    rates = torch.tensor([0.003, 0.03, 0.3, 0.77, 1.0], dtype=torch.float64).repeat(200)
    replaced, eligible, state = drive(30, 5, rates, 2, rounding="stochastic")
    assert (state.owed["h"] == 0).all()
    gap = (replaced - rates * eligible).reshape(200, 5).double()
    assert (gap.mean(0).abs() * math.sqrt(200) <= 4 * gap.std(0)).all()
    assert (gap.std(0)[:4] > 0.1).all()


def test_stochastic_rounding_keeps_what_the_capacity_defers_and_whole_fractions_of_before():
    params, units = perceptron()
    hyper = fcbp.Hyperparams(0.5, 0)
    state = state_with(units, params, torch.arange(1.0, 7), owed=0.25)
    _, after, replaced = fcbp.select_and_reset(state, params, hyper, units=units, rounding="stochastic", capacity=1)
    assert replaced["h"].sum() == 1
    assert after.owed["h"] == 2.25


def test_counting_all_units_waits_until_one_is_eligible():
    params, units = perceptron()
    hyper = fcbp.Hyperparams(0.25, 100)
    young = state_with(units, params, 1.0, age=100)
    _, after, replaced = fcbp.select_and_reset(young, params, hyper, units=units, rate_counts="all")
    assert after.owed["h"] == 0
    age = torch.tensor([101, 1, 1, 1, 1, 1])
    state = state_with(units, params, 1.0, age=age)
    _, after, replaced = fcbp.select_and_reset(state, params, hyper, units=units, rate_counts="all")
    assert replaced["h"].tolist() == [True] + [False] * 5  # 1.5 fall due
    assert after.owed["h"] == 0.5
    _, after, replaced = fcbp.select_and_reset(state, params, hyper, units=units, rate_counts="eligible")
    assert not replaced["h"].any()
    assert after.owed["h"] == 0.25


def test_what_is_deferred_is_replaced_later():
    params, units = perceptron()
    state = state_with(units, params, torch.arange(1.0, 7))
    hyper = fcbp.Hyperparams(1.0, 0)
    gone, owed = [], []
    for _ in range(4):
        _, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units, capacity=2)
        gone.append(replaced["h"].nonzero().flatten().tolist())
        owed.append(state.owed["h"].item())
    assert gone == [[0, 1], [2, 3], [4, 5], []]
    assert owed == [4, 2, 0, 0]  # 6, 4 and 2 fell due, of which no more is owed than units are left


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("rounding", ["accumulate", "stochastic"])
@pytest.mark.parametrize("rate_counts", ["eligible", "all"])
def test_a_debt_is_bounded_by_the_eligible_and_not_paid_at_rate_zero(rounding, rate_counts, as_tensor):
    params, units = perceptron()
    state = state_with(units, params, torch.arange(1.0, 7), owed=1183.0)
    utility = dict(state.utility)
    counts = []
    for rate in (*[0.5] * 9, *[0.0] * 4, 0.5):
        hyper = fcbp.Hyperparams(torch.tensor(rate) if as_tensor else rate, 1)
        age = {"h": state.age["h"] + 1}
        eligible = (age["h"] > 1).sum()
        new, state, replaced = fcbp.select_and_reset(
            state._replace(age=age, utility=utility),
            params,
            hyper,
            units=units,
            rounding=rounding,
            rate_counts=rate_counts,
            capacity=1,
            transfer_bias=True,
        )
        counts.append(replaced["h"].sum().item())
        assert 1 <= state.owed["h"] <= eligible
        if not rate:
            assert all(new[name].equal(params[name]) for name in params)
    assert counts == [1] * 9 + [0] * 4 + [1]


def test_a_fraction_that_is_owed_outlasts_a_time_without_eligible_units():
    params, units = perceptron()
    state = state_with(units, params, torch.arange(1.0, 7), age=0, owed=2.75)
    _, state, _ = fcbp.select_and_reset(state, params, fcbp.Hyperparams(0.5), units=units)
    assert state.owed["h"] == 0.75


def test_a_great_debt_is_paid_without_overflow():
    params, units = perceptron()
    state = state_with(units, params, torch.arange(1.0, 7), owed=1e10)
    _, after, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(1.0, 0), units=units, capacity=2)
    assert replaced["h"].nonzero().flatten().tolist() == [0, 1]
    assert after.owed["h"] == 4


@given(st.floats(0, 1), st.integers(1, 80), st.floats(0, 0.999))
def test_the_capacity_by_default_defers_nothing(rate, size, owed):
    params = {"w1": torch.zeros(size, 2), "w2": torch.zeros(1, size)}
    units = (UnitGroup("h", size, (Slice(("w1",), 0),), (), (Slice(("w2",), 1),), (None,)),)
    state = state_with(units, params, torch.arange(size).float(), owed=owed if rate else 0.0)
    results = [
        fcbp.select_and_reset(state, params, fcbp.Hyperparams(r), units=units, capacity=capacity)
        for r, capacity in ((rate, None), (rate, size), (torch.tensor(rate, dtype=torch.float64), None))
    ]
    for other in results[1:]:
        for a, b in zip(optree.tree_leaves(results[0]), optree.tree_leaves(other), strict=True):
            assert a.equal(b)


# --- what is reset ----------------------------------------------------------------------------------------


def test_between_two_units_replaced_in_one_step_lies_the_fresh_draw():
    params, units = two_layers()
    utility = {"h1": torch.tensor([0.0, 1, 2, 3]), "h2": torch.tensor([3.0, 2, 1, 0])}
    state = state_with(units, params, utility)
    new, _, replaced = fcbp.select_and_reset(
        state, params, fcbp.Hyperparams(0.25), units=units, initializer=oracle.pattern_initializer
    )
    assert replaced["h1"].tolist() == [True, False, False, False]
    assert replaced["h2"].tolist() == [False, False, False, True]
    fresh = torch.from_numpy(oracle.pattern(1, (4,), 4))[0]
    assert new["w2"][3].equal(fresh)  # the incoming row of the second, the first's column among it
    assert (new["w2"][:3, 0] == 0).all()
    assert new["w2"][:3, 1:].equal(params["w2"][:3, 1:])
    assert (new["w3"][:, 3] == 0).all()
    assert new["w3"][:, :3].equal(params["w3"][:, :3])
    assert new["b1"].tolist() == [0.0, *params["b1"][1:].tolist()]
    assert new["b2"].tolist() == [*params["b2"][:3].tolist(), 0.0]


def test_the_order_of_the_groups_is_of_no_account():
    """Every group is selected, and its bias transferred, from the weights as they were."""
    params, units = two_layers()
    state = state_with(units, params, torch.tensor([0.0, 1, 2, 3]), mean=0.5)
    options = {"initializer": oracle.pattern_initializer, "transfer_bias": True}
    hyper = fcbp.Hyperparams(0.5)
    runs = [fcbp.select_and_reset(state, params, hyper, units=order, **options) for order in (units, units[::-1])]
    for a, b in zip(*map(optree.tree_leaves, runs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=1e-15)


def test_norms_and_their_running_statistics_start_afresh():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 3)
    )
    params = {name: torch.full_like(p, 5.0) for name, p in model.named_parameters()}
    buffers = {name: torch.full_like(b, 7) for name, b in model.named_buffers()}
    units = (
        UnitGroup(
            "0",
            3,
            (Slice(("0.weight",), 0),),
            (Slice(("0.bias",), 0),),
            (Slice(("3.weight",), 1),),
            (("3.bias",),),
            norm_scale=(Slice(("1.weight",), 0),),
            norm_shift=(Slice(("1.bias",), 0),),
            running_mean=(Slice(("1.running_mean",), 0),),
            running_var=(Slice(("1.running_var",), 0),),
        ),
    )
    fcbp.units.check_units(units, params, buffers)
    state = state_with(units, params, torch.tensor([2.0, 1.0, 3.0]))
    new, _, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(0.34), units=units)
    reset = fcbp.reset_buffers(buffers, replaced, units=units)
    assert new["1.weight"].tolist() == [5.0, 1.0, 5.0]
    assert new["1.bias"].tolist() == [5.0, 0.0, 5.0]
    assert new["0.bias"].tolist() == [5.0, 0.0, 5.0]
    assert reset["1.running_mean"].tolist() == [7.0, 0.0, 7.0]
    assert reset["1.running_var"].tolist() == [7.0, 1.0, 7.0]
    assert reset["1.num_batches_tracked"].equal(buffers["1.num_batches_tracked"])
    assert all((buffer == 7).all() for buffer in buffers.values())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"inner": (s, [torch.tensor(1.0)])}, lambda s: [s, None, 3]])
def test_moments_and_counts_are_reset_wherever_they_lie(wrap):
    params, units = perceptron()
    moments = optree.tree_map(torch.ones_like, params)
    state = optim.AdamState(moments, moments, optree.tree_map(lambda p: torch.ones_like(p, dtype=torch.int32), params))
    replaced = {"h": torch.tensor([True] + [False] * 5)}
    reset = fcbp.reset_moments(wrap(state), replaced, units=units)
    inner = reset if isinstance(reset, optim.AdamState) else reset["inner"][0] if isinstance(reset, dict) else reset[0]
    assert isinstance(inner, optim.AdamState)
    for field, old in zip(inner, state, strict=True):
        assert not field["w1"][0].any()
        assert not field["b1"][0].any()
        assert not field["w2"][:, 0].any()
        assert field["w1"][1:].all()
        assert field["b1"][1:].all()
        assert field["w2"][:, 1:].all()
        assert field["b2"].all()
        assert all(field[name].dtype == old[name].dtype for name in old)
        assert all(old[name].all() for name in old)


def by_kind(leaves, *names):
    return {name: leaves[name] for name in names}


def perceptron_moments(make=torch.ones_like):
    params, units = perceptron(hidden=6, inputs=3, outputs=2)
    return params, units, {name: make(leaf) for name, leaf in params.items()}


def adam_of(moments):
    counts = optree.tree_map(lambda leaf: torch.ones_like(leaf, dtype=torch.int32), moments)
    return optim.AdamState(moments, moments, counts)


PARTS = {
    "a part for each kind": lambda m: {
        "polyak": m,
        "muon": by_kind(m, "w1", "w2"),
        "adam": adam_of(by_kind(m, "b1", "b2")),
    },
    "two parts": lambda m: {"muon": by_kind(m, "w1", "w2"), "adam": by_kind(m, "b1", "b2")},
    "an optimiser a layer": lambda m: [adam_of(by_kind(m, "w1", "b1")), optim.SGDState(by_kind(m, "w2", "b2"))],
    "decay groups": lambda m: (
        {"decay": {"mean": by_kind(m, "w1", "w2")}, "rest": {"mean": by_kind(m, "b1", "b2")}},
        3,
    ),
    "by name": lambda m: {name: {"exp_avg": leaf, "step": torch.tensor(3.0)} for name, leaf in m.items()},
    "by name, in pairs": lambda m: {name: (leaf, leaf) for name, leaf in m.items()},
    "by name, in states": lambda m: {"state": {name: optim.AdamState(leaf, leaf, leaf) for name, leaf in m.items()}},
    "None for what is frozen": lambda m: adam_of({**m, "b1": None, "w2": None}),
    "() for what is frozen": lambda m: {"mean": {**m, "b1": (), "w2": ()}},
    "without the biases": lambda m: {"muon": by_kind(m, "w1", "w2"), "key": torch.zeros(2, dtype=torch.int64)},
    "tensors beside a subtree": lambda m: {"w1": m["w1"], "adam": by_kind(m, "b1", "w2", "b2")},
    "a placeholder for a factored tensor": lambda m: {"m": m, "v": {**m, "w1": torch.ones(1)}},
}


def assert_reset(reset, value=0.0, names=("w1", "b1", "w2")):
    """Of every tensor of a parameter's shape unit 0's entries are ``value`` and the others 1."""
    shapes = {(6, 3): "w1", (6,): "b1", (2, 6): "w2"}
    found = set()
    for leaf in optree.tree_leaves(reset):
        if isinstance(leaf, torch.Tensor) and tuple(leaf.shape) in shapes:
            name = shapes[tuple(leaf.shape)]
            found.add(name)
            own = leaf[:, 0] if name == "w2" else leaf[0]
            others = leaf[:, 1:] if name == "w2" else leaf[1:]
            assert (own == (value if leaf.is_floating_point() else 0)).all(), name
            assert (others == 1).all(), name
        elif isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            assert leaf.all()
    assert found == set(names)


@pytest.mark.parametrize("with_params", [False, True])
@pytest.mark.parametrize("case", PARTS)
def test_every_part_of_an_optimisers_state_is_reset(case, with_params):
    params, units, moments = perceptron_moments()
    state = PARTS[case](moments)
    before = copy.deepcopy(state)
    replaced = {"h": torch.tensor([True] + [False] * 5)}
    options = {"units": units, "params": params if with_params else None}
    reset = fcbp.reset_moments(state, replaced, **options)
    assert optree.tree_structure(reset) == optree.tree_structure(state)
    names = {"w1"} if "frozen" in case else {"w1", "w2"} if "without" in case else {"w1", "b1", "w2"}
    assert_reset(reset, names=names)
    assert_reset(fcbp.reset_moments(state, replaced, fresh=-3.0, **options), -3.0, names)
    for a, b in zip(*map(optree.tree_leaves, (state, before)), strict=True):
        assert a == b if not isinstance(a, torch.Tensor) else a.equal(b)
    nobody = {"h": torch.zeros(6, dtype=torch.bool)}
    for a, b in zip(*map(optree.tree_leaves, (fcbp.reset_moments(state, nobody, **options), state)), strict=True):
        assert a == b if not isinstance(a, torch.Tensor) else a.equal(b)


def square():
    params = {"w1": torch.ones(4, 4), "w2": torch.ones(2, 4)}
    return params, (UnitGroup("h", 4, (Slice(("w1",), 0),), (), (Slice(("w2",), 1),), (None,)),)


FACTORED = {
    "by role": lambda r, c: {"row": {"w1": r[0], "w2": r[1]}, "col": {"w1": c[0], "w2": c[1]}},
    "by name": lambda r, c: {f"w{i + 1}": {"exp_avg_sq_row": r[i], "exp_avg_sq_col": c[i]} for i in range(2)},
    "kept axes": lambda r, c: {f"w{i + 1}": {"a": r[i][:, None], "b": c[i][None]} for i in range(2)},
    "beside a moment": lambda r, c: {
        "m": {"w1": torch.ones(4, len(c[0])), "w2": torch.ones(2, 4)},
        "v_row": {"w1": r[0], "w2": r[1]},
        "v_col": {"w1": c[0], "w2": c[1]},
    },
}


@pytest.mark.parametrize("inputs", [3, 4])
# A pair may be of anything's moments, where the shapes are not known.
@pytest.mark.parametrize(("case", "with_params"), [*itertools.product(FACTORED, (False, True)), ("in pairs", True)])
def test_factored_moments_are_reset_along_the_units_axis(case, with_params, inputs):
    params, units = square()
    params["w1"] = torch.ones(4, inputs)
    rows, columns = [torch.ones(4), torch.ones(2)], [torch.ones(inputs), torch.ones(4)]
    pairs = lambda r, c: {f"w{i + 1}": (r[i], c[i]) for i in range(2)}  # noqa: E731
    state = FACTORED.get(case, pairs)(rows, columns)
    replaced = {"h": torch.tensor([False, True, False, False])}
    reset = fcbp.reset_moments(state, replaced, units=units, params=params if with_params else None)
    wanted = FACTORED.get(case, pairs)(
        [torch.tensor([1.0, 0, 1, 1]), torch.ones(2)], [torch.ones(inputs), torch.tensor([1.0, 0, 1, 1])]
    )
    if case == "beside a moment":
        wanted["m"]["w1"][1] = 0
        wanted["m"]["w2"][:, 1] = 0
    for a, b in zip(*map(optree.tree_leaves, (reset, wanted)), strict=True):
        assert a.equal(b)


def test_a_row_that_may_be_a_column_is_named():
    params, units = square()
    replaced = {"h": torch.zeros(4, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"a/w1 of shape \(4,\) under the name of w1, \(4, 4\), and may be a row or"):
        fcbp.reset_moments({"a": {"w1": torch.ones(4), "w2": torch.ones(2)}}, replaced, units=units, params=params)
    with pytest.raises(ValueError, match=r"w1/0 of shape \(4,\), w1/1 of shape \(4,\) .* cannot be told; .* params="):
        fcbp.reset_moments({"w1": (torch.ones(4), torch.ones(4))}, replaced, units=units)


def test_an_entry_becomes_what_a_function_or_the_optimisers_init_says():
    _, units, moments = perceptron_moments()
    replaced = {"h": torch.tensor([True] + [False] * 5)}
    state = {"log_step": moments, "trace": moments, "adam": adam_of(moments)}

    def fresh(path, leaf):
        return -4.6 if path[0] == "log_step" else torch.full_like(leaf, 0.5) if path[0] == "trace" else 0

    reset = fcbp.reset_moments(state, replaced, units=units, fresh=fresh)
    for part, value in (("log_step", -4.6), ("trace", 0.5), ("adam", 0.0)):
        assert_reset(reset[part], torch.tensor(value))
    init = optree.tree_map(lambda leaf: torch.full_like(leaf, 7), state)
    reset = fcbp.reset_moments(state, replaced, units=units, fresh=init)
    assert reset["adam"].step["w1"][:2].tolist() == [[7] * 3, [1] * 3]
    assert_reset({part: reset[part] for part in ("log_step", "trace")}, 7.0)
    for bad, message in (
        ({"log_step": moments}, r"fresh has nothing at trace/w1"),
        (lambda path, leaf: leaf[:1], r"fresh has shape \(1, 3\) at log_step/w1; expected \(6, 3\)"),
        (lambda path, leaf: "zero", r"fresh has 'zero' at log_step/w1; expected a number or a tensor"),
    ):
        with pytest.raises(ValueError, match=message):
            fcbp.reset_moments(state, replaced, units=units, fresh=bad)


@pytest.mark.parametrize("with_params", [False, True])
@pytest.mark.parametrize("name", ["w1", "b1", "w2"])
@pytest.mark.parametrize("change", ["grown", "shrunk"])
def test_moments_from_before_a_layer_changed_its_size_are_named(change, name, with_params):
    params, units, moments = perceptron_moments()
    old = 5 if change == "grown" else 7
    shape = [old if n == 6 else n for n in moments[name].shape]
    state = {"mean": {**moments, name: torch.ones(shape)}}
    replaced = {"h": torch.zeros(6, dtype=torch.bool)}
    with pytest.raises(ValueError, match=rf"opt_state has mean/{name} of shape .* under the name of {name}; expected "):
        fcbp.reset_moments(state, replaced, units=units, params=params if with_params else None)


def test_moments_of_a_grown_head_are_named():
    params, units, moments = perceptron_moments()
    replaced = {"h": torch.zeros(6, dtype=torch.bool)}
    grown = {**moments, "w2": torch.ones(5, 6)}
    with pytest.raises(ValueError, match=r"square/w2 of shape \(2, 6\) under the name of w2; expected \(5, 6\)"):
        fcbp.reset_moments({"mean": grown, "square": moments}, replaced, units=units)
    with pytest.raises(ValueError, match=r"mean/w2 of shape \(2, 6\) under the name of w2; expected \(5, 6\)"):
        fcbp.reset_moments({"mean": moments}, replaced, units=units, params={**params, "w2": torch.ones(5, 6)})


def test_another_parameters_moments_are_not_taken_for_a_units():
    """A decoder whose parameters have the encoder's names, one level deeper."""
    params = {"0": {"w": torch.ones(3, 2)}, "decoder": {"0": {"w": torch.ones(3, 2)}}}
    units = (UnitGroup("h", 3, (Slice(("0", "w"), 0),), (), (), ()),)
    state, replaced = {"mean": params}, {"h": torch.ones(3, dtype=torch.bool)}
    reset = fcbp.reset_moments(state, replaced, units=units, params=params)
    assert not reset["mean"]["0"]["w"].any()
    assert reset["mean"]["decoder"]["0"]["w"].all()
    with pytest.raises(ValueError, match=r"holds 0/w twice in one subtree, .* at mean/decoder/0/w; expected params="):
        fcbp.reset_moments(state, replaced, units=units)


class Record:
    def __init__(self):
        self.mean = torch.ones(2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            lambda p: torch.optim.Adam([*p.values()]),
            r"opt_state is a torch\.optim\.Adam; .*for name, p in model\.named_",
        ),
        (
            lambda p: {"a": torch.optim.SGD([*p.values()])},
            r"opt_state, at a, is a torch\.optim\.SGD; expected its state",
        ),
        (
            lambda p: optim.adam(),
            r"opt_state, at init, is function, no pytree of tensors; expected what an optimiser's",
        ),
        (lambda p: torch.nn.Linear(2, 2), r"opt_state is Linear, no pytree of tensors"),
        (lambda p: None, r"opt_state is None; expected what an optimiser's init\(params\) returned"),
        (lambda p: "adam", r"opt_state is 'adam'; expected"),
        (lambda p: [Record()], r"opt_state, at 0, is Record, in which tensors cannot be replaced"),
        (lambda p: torch.ones(3), r"opt_state has nothing by the name of w1, and  of shape \(3,\)"),
        (
            lambda p: {"mean": by_kind(p, "w1", "w2", "b2"), "other": {"bias": p["b1"]}},
            r"nothing by the name of b1, and other/bias of shape \(6,\) by no parameter's name",
        ),
    ],
)
def test_what_is_no_state_of_an_optimiser_is_named(state, message):
    params, units = perceptron()
    with pytest.raises(ValueError, match=message):
        fcbp.reset_moments(state(params), {"h": torch.zeros(6, dtype=torch.bool)}, units=units)


def test_the_state_of_a_torch_optimiser_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    units = fcbp.find_units(model, torch.zeros(1, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    state = {name: optimizer.state[p] for name, p in model.named_parameters()}
    reset = fcbp.reset_moments(state, {"0": torch.tensor([True] + [False] * 5)}, units=units)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert not reset["0.weight"][moment][0].any()
        assert not reset["2.weight"][moment][:, 0].any()
        assert reset["0.weight"][moment][1:].equal(state["0.weight"][moment][1:])
    assert reset["0.weight"]["step"] == 1


def test_many_members_with_parts_are_each_members_own():
    _, units, moments = perceptron_moments()
    state = PARTS["a part for each kind"](moments)
    many = optree.tree_map(lambda leaf: torch.stack([leaf, leaf * 2]), state)
    masks = torch.eye(6, dtype=torch.bool)[:2]
    together = torch.vmap(lambda s, m: fcbp.reset_moments(s, {"h": m}, units=units))(many, masks)
    for i in range(2):
        alone = fcbp.reset_moments(optree.tree_map(lambda leaf: leaf[i], many), {"h": masks[i]}, units=units)  # noqa: B023
        for a, b in zip(*map(optree.tree_leaves, (together, alone)), strict=True):
            assert a[i].equal(b)


def test_a_count_for_the_whole_tensor_stays():
    params, units = perceptron()
    state = {"mean": params, "step": {name: torch.tensor(5.0) for name in params}}
    reset = fcbp.reset_moments(state, {"h": torch.tensor([True] * 6)}, units=units)
    assert all(count == 5 for count in reset["step"].values())
    assert not reset["mean"]["w1"].any()


def test_a_single_tensor_is_a_pytree():
    """All the parameters in one leaf, at the empty path."""
    params = normal(1, 4, 3)
    units = (UnitGroup("h", 4, (Slice((), 0),), (), (), ()),)
    state = state_with(units, params, torch.tensor([3.0, 1.0, 2.0, 4.0]))
    new, _, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(0.25), units=units)
    assert replaced["h"].tolist() == [False, True, False, False]
    assert (new != params).any(1).tolist() == replaced["h"].tolist()
    adam = optim.adam()
    _, opt_state = adam.update(params, adam.init(params), params, step_size=0.1)
    reset = fcbp.reset_moments(opt_state, replaced, units=units)
    assert reset.step.tolist() == [[1] * 3, [0] * 3, [1] * 3, [1] * 3]


def test_a_broken_unit_that_stays_does_not_spoil_the_transfer():
    params, units = perceptron()
    params["w2"][:, 5] = math.inf
    state = state_with(units, params, torch.tensor([1.0, 0, 2, 3, 4, math.inf]), mean=1.0)
    hyper = fcbp.Hyperparams(0.2, 0, 0.5)
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].nonzero().flatten().tolist() == [1]
    torch.testing.assert_close(new["b2"], params["b2"] + params["w2"][:, 1])


def test_without_groups_nothing_happens():
    params, _ = perceptron()
    hyper = fcbp.Hyperparams()
    state = fcbp.init_state((), params, KEY)
    state = fcbp.update_utility(state, params, {}, hyper, units=())
    new, state, replaced = fcbp.select_and_reset(state, params, hyper, units=())
    assert (new, replaced) == (params, {})
    assert fcbp.reset_moments(optim.adam().init(params), replaced, units=()) is not None
    assert fcbp.reset_buffers({}, replaced, units=()) == {}


# --- groups of every shape --------------------------------------------------------------------------------


@st.composite
def layouts(draw, size, block=None):
    """A slice's start, stride, block and block_stride, and the length of an axis that it fits."""
    block = draw(st.integers(1, 3)) if block is None else block
    kind = draw(st.sampled_from(["blocks", "gates", "spaced"] if block > 1 else ["run", "spaced", "reversed"]))
    start = draw(st.integers(0, 2))
    spare = draw(st.integers(0, 2))
    if kind == "run":
        stride, block_stride = 1, 1
    elif kind == "reversed":
        start, stride, block_stride = start + size - 1, -1, 1
    elif kind == "blocks":
        stride, block_stride = block, 1
    elif kind == "gates":
        stride, block_stride = 1, size
    else:
        block_stride = draw(st.integers(1, 2))
        stride = block * block_stride + draw(st.integers(0, 1))
    last = max(start, start + (size - 1) * stride) + (block - 1) * block_stride
    return {"start": start, "stride": stride, "block": block, "block_stride": block_stride}, last + 1 + spare


@st.composite
def networks(draw):
    """A group whose weights lie any way that slices can say, in leaves of one to three axes."""
    size = draw(st.integers(1, 4))
    positions = draw(st.sampled_from([1, 2, 3]))
    params, roles = {}, {}
    vectors = ("bias", "norm_scale", "norm_shift", "slope")
    for role, count in (("incoming", 2), ("outgoing", 2), *((role, 1) for role in vectors)):
        slices = []
        for i in range(draw(st.integers(int(role in ("incoming", "outgoing")), count))):
            block = positions if role == "outgoing" and i == 0 and positions > 1 else None
            where, length = draw(layouts(size, block))
            ndim = 1 if role in vectors else draw(st.integers(2, 3))
            axis = draw(st.integers(0, ndim - 1))
            shape = [draw(st.integers(1, 3)) for _ in range(ndim)]
            shape[axis] = length
            name = f"{role}{i}"
            params[name] = normal(len(params), *shape)
            slices.append(Slice((name,), axis - ndim * draw(st.booleans()), partial=True, **where))
        roles[role] = tuple(slices)
    biases = []
    for i, s in enumerate(roles["outgoing"]):
        weight = params[s.path[0]]
        outputs = next(n for axis, n in enumerate(weight.shape) if axis != s.axis % weight.ndim)
        params[f"reader{i}"] = normal(50 + i, outputs)
        biases.append((f"reader{i}",) if draw(st.booleans()) else None)
    first, *others = roles["outgoing"]
    flattened = positions > 1 and draw(st.booleans())
    if flattened:
        # A flattened map is read from its first entry on, and has no other entries.
        first = dataclasses.replace(first, start=0)
        flattened = {e for u in range(size) for e in oracle.entries(first, u)} == set(range(size * positions))
    group = UnitGroup(
        "h",
        size,
        outgoing_bias=tuple(biases),
        activation_axis=draw(st.sampled_from([-1, 0, 1])),
        **{**roles, "outgoing": (first, *others)},
    )
    shape = [3, 3, 3]
    shape[group.activation_axis] = size * positions if flattened else size
    return params, (group,), shape


@settings(max_examples=60)
@given(networks(), st.sampled_from(sorted(fcbp.utility.MEASURES)), st.sampled_from([1, 2, None]))
def test_groups_of_every_shape_follow_the_oracle(network, measure, capacity):
    params, units, shape = network
    hyper = fcbp.Hyperparams(1.0, 0, 0.5)
    state = fcbp.init_state(units, params, KEY)
    expected = oracle.Oracle(units, numbers(params))
    grads = optree.tree_map(torch.sin, params)
    for t in range(2):
        features = {"h": normal(t, *shape)}
        state = fcbp.update_utility(state, params, features, hyper, units=units, measure=measure, grads=grads)
        expected.update_utility(numbers(features), 0.5, measure, numbers(grads))
        params, state, replaced = fcbp.select_and_reset(
            state,
            params,
            hyper,
            units=units,
            initializer=oracle.pattern_initializer,
            transfer_bias=True,
            capacity=capacity,
        )
        chosen = expected.select(1.0, 0, 0.5, capacity=capacity)
        expected.reset(chosen, 0.5, transfer_bias=True)
        assert replaced["h"].nonzero().flatten().tolist() == sorted(chosen["h"])
        for name, leaf in params.items():
            np.testing.assert_allclose(leaf.numpy(), expected.params[name], rtol=1e-9, atol=1e-12, err_msg=name)


# --- bad input --------------------------------------------------------------------------------------------


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
