"""What is managed, and the optimiser's state."""

import optree
import pytest
import torch
from weights_cases import KEY, bits_equal, normal, two_by_three

from fcbp import optim, weights
from fcbp.weights import Hyperparams


def test_what_is_managed():
    params = {
        "w": torch.ones(2, 2),
        "b": torch.ones(2),
        "n": torch.ones(2, 2, dtype=torch.int32),
        "e": torch.ones(0, 3),
    }
    assert set(weights.init_state(params, KEY).born) == {"w"}
    assert set(weights.init_state(params, KEY, managed="all").born) == {"w", "b"}
    assert set(weights.init_state(params, KEY, managed=lambda path, leaf: path == ("b",)).born) == {"b"}
    none = weights.init_state(params, KEY, managed=lambda path, leaf: False)
    hyper = Hyperparams(1.0, 0)
    new, _, replaced = weights.select_and_reset(weights.update_utility(none, params, (), hyper), params, hyper)
    assert bits_equal(new, params)
    assert not any(mask.any() for mask in replaced.values())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"inner": (s, [torch.tensor(1.0)])}, lambda s: [s, None, 3]])
def test_moments_and_counts_are_reset_wherever_they_lie(wrap):
    params = two_by_three()
    ones = optree.tree_map(torch.ones_like, params)
    state = optim.AdamState(ones, ones, optree.tree_map(lambda p: torch.ones_like(p, dtype=torch.int32), params))
    replaced = {"w": torch.tensor([[True, False, False], [False, True, True]]), "b": torch.zeros(2, dtype=torch.bool)}
    reset = weights.reset_moments(wrap(state), replaced)
    inner = reset if isinstance(reset, optim.AdamState) else reset["inner"][0] if isinstance(reset, dict) else reset[0]
    for field, old in zip(inner, state, strict=True):
        assert field["w"].bool().equal(~replaced["w"])
        assert field["b"].all()
        assert all(field[n].dtype == old[n].dtype for n in old)
        assert old["w"].all()
    whole = {"mean": params, "step": {n: torch.tensor(5.0) for n in params}}
    assert weights.reset_moments(whole, replaced)["step"]["w"] == 5
    assert weights.reset_moments(optim.SGDState(()), replaced) == optim.SGDState(())


def test_a_single_tensor_is_a_pytree():
    params = normal(1, 4, 3)
    hyper = Hyperparams(0.25, 0)
    state = weights.update_utility(weights.init_state(params, KEY), params, params, hyper)
    new, _, replaced = weights.select_and_reset(state, params, hyper)
    assert int(replaced.sum()) == 3
    assert (new != params).equal(replaced)
    adam = optim.adam()
    _, opt_state = adam.update(params, adam.init(params), params, step_size=0.1)
    assert weights.reset_moments(opt_state, replaced).step.equal((~replaced).to(torch.int32))
