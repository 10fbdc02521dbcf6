"""The short cut for a known and small number of weights."""

import math

import pytest
import torch
from weights_cases import KEY, bits_equal, normal

from fcbp import random, weights
from fcbp.weights import Hyperparams
from fcbp.weights import few as shortcut


@pytest.mark.parametrize(
    ("rate", "maturity", "decay", "options"),
    [
        (1e-3, 3, 0.5, {}),
        (0.02, 0, 0.1, {}),
        (0.05, 2, 0.0, {"rounding": "stochastic", "rate_counts": "all"}),
        (torch.tensor(2e-3), torch.tensor(4.0), torch.tensor(0.5), {}),
        (0.01, 1, 0.5, {"initializer": "orthogonal"}),
        (0.01, 1, 0.5, {"initializer": "kaiming_normal", "capacity": 3}),
    ],
)
def test_the_short_cut_for_known_values_changes_no_bit(rate, maturity, decay, options, monkeypatch):
    monkeypatch.setattr(shortcut, "_SAMPLED", 128)
    taken = []

    def few(*arguments):
        taken.append(found := shortcut.few_lowest(*arguments))
        return found

    def run(function):
        monkeypatch.setattr(weights.core, "few_lowest", function)
        params = {"w": normal(1, 120, 50, dtype=torch.float32), "b": normal(2, 8)}
        hyper = Hyperparams(rate, maturity, decay, period=2)
        state = weights.init_state(params, KEY)
        for t in range(12):
            # One digit: many utilities are equal.
            grads = {name: normal(t + 3, *p.shape, dtype=p.dtype).round(decimals=1) for name, p in params.items()}
            state = weights.update_utility(state, params, grads, hyper)
            params, state, replaced = weights.select_and_reset(state, params, hyper, **options)
        return params, state, replaced

    quick, plain = run(few), run(lambda *_: None)
    assert any(found is not None and len(found.places) < 3000 for found in taken)
    bits_equal(quick, plain)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e37])
def test_the_short_cut_is_not_taken_where_a_utility_is_no_common_number(bad, monkeypatch):
    monkeypatch.setattr(shortcut, "_SAMPLED", 128)
    utility = random.uniform(KEY, (4000,))
    born = torch.zeros(4000, dtype=torch.int32)
    assert shortcut.few_lowest(utility, born, 1, lambda u, b: u, 5) is not None
    utility[17] = bad
    assert shortcut.few_lowest(utility, born, 1, lambda u, b: u, 5) is None


def test_between_events_nothing_is_computed():
    params = {"w": normal(1, 3, 4), "b": normal(2, 3)}
    hyper = Hyperparams(0.5, 0, 0.9, period=3)
    state = weights.update_utility(weights.init_state(params, KEY), params, params, hyper)
    new, after, replaced = weights.select_and_reset(state, params, hyper)
    assert new is params
    assert after.born is state.born
    assert not after.key.equal(state.key)
    assert all(mask.shape == params[name].shape and not mask.any() for name, mask in replaced.items())
