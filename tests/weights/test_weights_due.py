"""How many weights are reset."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_cases import KEY, bits_equal, normal, state_with

from fcbp import random, weights
from fcbp.weights import Hyperparams


def drive(steps, n, rates, maturity, **options):
    """Resets and sums of eligible counts, of many rates at once."""
    params = {"w": torch.zeros(n, 1)}

    def step(state, rate):
        state = state._replace(step=state.step + 1)
        state = state._replace(utility={"w": (1 + torch.sin(state.step + torch.arange(n).float()))})
        hyper = Hyperparams(rate, maturity, 0.0)
        eligible = (state.step - state.born["w"] > maturity).sum()
        _, state, replaced = weights.select_and_reset(state, params, hyper, initializer="constant", **options)
        return state, torch.stack([replaced["w"].sum(), eligible])

    state = torch.vmap(lambda key: weights.init_state(params, key))(random.split(KEY, len(rates)))
    counts = torch.zeros(2, len(rates), dtype=torch.int64)
    for _ in range(steps):
        state, new = torch.vmap(step, out_dims=(0, 1))(state, rates)
        counts += new
    return *counts, state


@pytest.mark.slow
@settings(max_examples=10)
@given(
    st.lists(st.floats(1e-6, 1.0), min_size=6, max_size=6), st.integers(1, 70), st.integers(0, 9), st.booleans(),
    st.sampled_from(["lowest", "random"]),
)  # fmt: skip
def test_the_count_law_holds_for_any_rate_size_and_threshold(rates, n, maturity, single, selection):
    rates = torch.tensor(rates, dtype=torch.float32 if single else torch.float64)
    replaced, eligible, state = drive(30, n, rates, maturity, selection=selection)
    torch.testing.assert_close(replaced + state.owed["w"], rates.double() * eligible, rtol=1e-12, atol=1e-9)
    assert (state.owed["w"] < 1).all()
    assert (state.owed["w"] >= 0).all()


def test_what_the_capacity_defers_is_owed():
    params = {"w": torch.zeros(6, 1)}
    state = state_with(params, torch.arange(1.0, 7))
    gone, owed = [], []
    for _ in range(4):
        _, state, replaced = weights.select_and_reset(state, params, Hyperparams(1.0, 0), capacity=2)
        gone.append(replaced["w"].flatten().nonzero().flatten().tolist())
        owed.append(state.owed["w"].item())
    assert (gone, owed) == ([[0, 1], [2, 3], [4, 5], []], [4, 2, 0, 0])


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("rounding", ["accumulate", "stochastic"])
@pytest.mark.parametrize("selection", ["lowest", "random"])
def test_a_debt_is_bounded_by_the_eligible_and_not_paid_at_rate_zero(selection, rounding, as_tensor):
    params = {"w": torch.zeros(6, 1)}
    state = state_with(params, torch.arange(1.0, 7), owed=1183.0)
    counts = []
    for rate in (0.5, 0.5, 0.0, 0.0, 0.5):
        hyper = Hyperparams(torch.tensor(rate) if as_tensor else rate, 0)
        _, state, replaced = weights.select_and_reset(
            state, params, hyper, selection=selection, rounding=rounding, capacity=1
        )
        counts.append(replaced["w"].sum().item())
        assert 3 <= state.owed["w"] <= 5
    assert counts == [1, 1, 0, 0, 1]


def test_stochastic_rounding_resets_the_rate_times_the_eligible_on_average():
    rates = torch.tensor([0.003, 0.03, 0.3, 0.77, 1.0], dtype=torch.float64).repeat(200)
    replaced, eligible, state = drive(20, 5, rates, 2, rounding="stochastic")
    assert (state.owed["w"] == 0).all()
    gap = (replaced - rates * eligible).reshape(200, 5)
    assert (gap.mean(0).abs() * math.sqrt(200) <= 4 * gap.std(0)).all()
    assert (gap.std(0)[:4] > 0.1).all()


@pytest.mark.parametrize("n", [30, 7000])
@pytest.mark.parametrize("selection", ["lowest", "random"])
def test_the_capacity_changes_nothing_but_the_cost(n, selection):
    """A plain rate searches few of many, a tensor all: the same weights, the same values, to the bit."""
    params = {"w": normal(1, n // 10, 10, dtype=torch.float32)}
    state = state_with(params, random.uniform(KEY, (n,)))
    results = [
        weights.select_and_reset(state, params, Hyperparams(rate, 100, 0.9), selection=selection, capacity=capacity)
        for rate in (0.004, torch.tensor(0.004, dtype=torch.float64))
        for capacity in (None, n // 70 + 1, n)
    ]
    for other in results[1:]:
        assert bits_equal(results[0], other)
