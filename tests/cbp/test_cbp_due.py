"""How many units are due."""

import math

import optree
import pytest
import torch
from cbp_cases import KEY, perceptron, state_with
from hypothesis import given, settings
from hypothesis import strategies as st

import fcbp
from fcbp.units import Slice, UnitGroup


def eligible_count(state, hyper, name="h"):
    return (state.age[name] > hyper.maturity_threshold).sum()


def counting(size, rates, maturity, **options):
    """A member's step ``(state, rate) -> (state, numbers replaced and eligible)`` with little else, and all states."""
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
    return step, state


def drive(steps, size, rates, maturity, **options):
    """Replacements and the sum of eligible counts of many rates at once, over a run."""
    step, state = counting(size, rates, maturity, **options)
    together = torch.vmap(step, out_dims=(0, 1))
    counts = torch.zeros(2, len(rates), dtype=torch.int64)
    for _ in range(steps):
        state, new = together(state, rates)
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
    step, state = counting(4, RATES, 3)

    def counted(carry, _):
        state, rate, counts = carry
        state, new = step(state, rate)
        return (state, rate, counts + new), ()

    carry = (state, RATES, torch.zeros(len(RATES), 2, dtype=torch.int64))
    (_, _, counts), _ = fcbp.loop.scan(torch.vmap(counted), carry, length=100_000, backend="lanes")
    replaced, eligible = counts.T
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
