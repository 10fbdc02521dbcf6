"""Which weights are reset: known answers."""

import functools
import math

import optree
import pytest
import torch
from weights_cases import KEY, bits_equal, normal, state_with, two_by_three

from fcbp import random, weights
from fcbp.weights import Hyperparams


def test_the_useless_weight_is_the_one_reset():
    params = two_by_three()
    grads = {"w": torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]), "b": torch.zeros(2)}
    hyper = Hyperparams(0.1, 5, 0.9)
    state = weights.init_state(params, KEY)
    for _ in range(1, 20):
        state = weights.update_utility(state, params, grads, hyper)
        new, state, replaced = weights.select_and_reset(state, params, hyper)
        if replaced["w"].any():
            break
    assert state.step == 7  # eligible from step 6 on, 0.6 a step
    assert replaced["w"].tolist() == [[False] * 3, [False, True, False]]
    assert not replaced["b"].any()
    assert new["b"] is params["b"]
    assert (new["w"] != params["w"]).equal(replaced["w"])
    assert params["w"].min() <= new["w"][1, 1] <= params["w"].max()
    assert state.born["w"].tolist() == [0, 0, 0, 0, 7, 0]
    assert state.utility["w"][4] == 0


@pytest.mark.parametrize("rate", [0, 0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("options", [{}, {"rounding": "stochastic"}, {"selection": "random", "rate_counts": "all"}])
def test_rate_zero_leaves_the_parameters_bit_identical(rate, options):
    params = {"w": normal(1, 100, 70, dtype=torch.float32), "b": torch.tensor([-0.0, math.nan])}
    params["w"][0, 0], params["w"][1, 1] = -0.0, math.nan
    state = state_with(params, torch.arange(7000.0))
    for _ in range(2):
        new, state, replaced = weights.select_and_reset(state, params, Hyperparams(rate, 0), **options)
        assert not any(mask.any() for mask in replaced.values())
        assert bits_equal(new, params)


@pytest.mark.parametrize("n", [6, 7000])
def test_ties_go_to_the_lower_index(n):
    params = {"w": torch.zeros(n, 1)}
    utility = torch.ones(n)
    utility[[2, 4, 5]] = 0.5
    for options, count in (({}, 2), ({"capacity": 2}, 2), ({"capacity": 1}, 1)):
        state = state_with(params, utility, owed=2.0)
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(torch.tensor(1e-9)), **options)
        assert replaced["w"].flatten().nonzero().flatten().tolist() == [2, 4][:count]


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("selection", ["lowest", "random", "below"])
@pytest.mark.parametrize("n", [6, 7000])
def test_a_utility_that_is_no_number_is_never_chosen(bad, selection, n):
    params = {"w": torch.ones(n, 1)}
    utility = torch.arange(1.0, n + 1)
    utility[[0, 3]] = bad
    state = state_with(params, utility)
    hyper = Hyperparams(1.0, mean_fraction=10.0)
    _, after, replaced = weights.select_and_reset(state, params, hyper, selection=selection, initializer="constant")
    assert replaced["w"].flatten().logical_not().nonzero().flatten().tolist() == [0, 3]
    assert after.owed["w"] == 0


def test_a_tensor_without_a_finite_utility_is_left_alone():
    params = two_by_three()
    state = state_with(params, math.nan)
    for options in ({}, {"rate_counts": "all"}, {"selection": "below"}, {"selection": "random"}):
        hyper = Hyperparams(1.0, mean_fraction=1.0)
        new, after, replaced = weights.select_and_reset(state, params, hyper, **options)
        assert not replaced["w"].any()
        assert after.owed["w"] == 0
        assert bits_equal(new, params)


@pytest.mark.parametrize("fraction", [0.0, 0.5, torch.tensor(0.5)])
def test_below_the_mean_of_a_dead_tensor_is_all_of_it(fraction):
    params = two_by_three()
    state = state_with(params, 0.0)
    hyper = Hyperparams(mean_fraction=fraction)
    new, _, replaced = weights.select_and_reset(state, params, hyper, selection="below", initializer="constant")
    assert replaced["w"].all()
    assert not new["w"].any()
    _, _, replaced = weights.select_and_reset(
        state, params, hyper._replace(mean_fraction=torch.tensor(math.nan)), selection="below"
    )
    assert not replaced["w"].any()


def test_dead_weights_are_not_protected_and_go_at_the_rate():
    params = {"w": torch.zeros(10, 10)}
    state = state_with(params, 0.0, protect=True)
    _, state, replaced = weights.select_and_reset(state, params, Hyperparams(0.07), initializer="normal")
    assert not state.protected["w"].any()
    assert replaced["w"].flatten().nonzero().flatten().tolist() == list(range(7))


def test_the_period_is_kept_and_what_lies_between_is_untouched():
    params = {"w": normal(1, 4, 5)}
    hyper = Hyperparams(0.1, 0, 0.5, period=4)
    state = weights.init_state(params, KEY)
    counts = []
    for _ in range(13):
        state = weights.update_utility(state, params, params, hyper)
        new, state, replaced = weights.select_and_reset(state, params, hyper)
        assert replaced["w"].any() or bits_equal(new, params)
        counts.append(int(replaced["w"].sum()))
    assert counts == [0, 0, 0, 2] * 3 + [0]


def test_maturity_is_exact_after_many_steps():
    """float32 has no odd numbers past 2^24."""
    step = 2**25 + 1
    params = {"w": torch.zeros(1, 3)}
    state = state_with(params, 1.0, age=torch.tensor([100, 101, 102]), step=step)
    for threshold in (100, 100.0, 100.9, torch.tensor(100), torch.tensor(100.5)):
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(1.0, threshold))
        assert replaced["w"].tolist() == [[False, True, True]]
    for threshold in (math.inf, torch.tensor(math.inf), torch.tensor(math.nan), 2**31):
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(1.0, threshold))
        assert not replaced["w"].any()


def test_young_weights_are_ranked_by_their_corrected_mean():
    """0.1 after one step of decay 0.9 is a mean of 1; 0.9 after many is 0.9."""
    params = {"w": torch.zeros(1, 2)}
    state = state_with(params, torch.tensor([0.1, 0.9]), age=torch.tensor([1, 1000]), owed=1.0)
    for decay in (0.9, torch.tensor(0.9)):
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(1e-9, 0, decay))
        assert replaced["w"].tolist() == [[False, True]]


def test_protection_is_entered_left_and_respected():
    params = {"w": torch.zeros(10, 10)}
    utility = torch.arange(100.0)
    state = state_with(params, utility, protect=True)
    hyper = Hyperparams(1.0, protect_fraction=0.1, release_fraction=0.5)
    _, after, replaced = weights.select_and_reset(state, params, hyper)
    assert after.protected["w"].nonzero().flatten().tolist() == list(range(90, 100))
    assert int(replaced["w"].sum()) == 90
    # Weight 95 falls to the 60th rank and stays protected, then to the 20th and is released.
    still = state._replace(protected=after.protected, utility={"w": utility.clone()})
    still.utility["w"][95] = 60.5
    _, after, _ = weights.select_and_reset(still, params, hyper._replace(reset_rate=0.0))
    assert after.protected["w"][95]
    still.utility["w"][95] = 20.5
    _, after, _ = weights.select_and_reset(still, params, hyper._replace(reset_rate=0.0))
    assert not after.protected["w"][95]
    _, after, _ = weights.select_and_reset(still, params, hyper._replace(reset_rate=0.0, release_fraction=1.0))
    assert after.protected["w"][95]


def test_random_selection_is_uniform_among_the_eligible():
    params = {"w": torch.zeros(10, 10)}
    state = state_with(params, 1.0, age=torch.where(torch.arange(100) < 20, 1, 1000))
    states = [state._replace(key=random.fold_in(KEY, i)) for i in range(400)]
    many = optree.tree_map(lambda *leaves: torch.stack(leaves), *states)
    select = functools.partial(weights.select_and_reset, selection="random", initializer="constant")
    _, _, replaced = torch.vmap(lambda s: select(s, params, Hyperparams(0.25)))(many)
    counts = replaced["w"].flatten(1).sum(0)
    assert (replaced["w"].sum((1, 2)) == 20).all()
    assert not counts[:20].any()
    # Binomial of 400 and 1/4: mean 100, standard deviation 8.7.
    assert (counts[20:] - 100).abs().max() < 4 * 8.7
    assert 6 < counts[20:].float().std() < 11
