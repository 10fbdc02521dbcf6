"""Which units are replaced: known answers."""

import math

import numpy as np
import optree
import pytest
import torch
from cbp_cases import KEY, normal, perceptron, state_with, two_layers

import fcbp


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
