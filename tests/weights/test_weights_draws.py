"""How a weight is drawn."""

import functools
import math

import optree
import pytest
import torch
from weights_cases import KEY, bits_equal, two_by_three

from fcbp import random, weights
from fcbp.weights import Hyperparams


def draw_all(initializer, params, **options):
    state = weights.init_state(params, KEY, **options)._replace(step=torch.tensor(1000, dtype=torch.int32))
    new, _, replaced = weights.select_and_reset(state, params, Hyperparams(1.0), initializer=initializer)
    assert all(mask.all() for name, mask in replaced.items() if name in state.born)
    return new


@pytest.mark.parametrize("n", [50, 1000, 5000, 90_000])
@pytest.mark.parametrize("shape", ["uniform", "normal", "two lumps"])
def test_initial_is_the_tensors_own_distribution(n, shape):
    w = random.uniform(random.key(1), (n,)) if shape == "uniform" else random.normal(random.key(1), (n,))
    w = torch.where(torch.arange(n) % 3 == 0, w.abs() + 5, -w.abs() - 5) if shape == "two lumps" else w
    new = draw_all("initial", {"w": w.reshape(-1, 10)})["w"].flatten()
    assert w.min() <= new.min()
    assert new.max() <= w.max()
    assert not new.equal(w)
    together = torch.cat([w, new]).sort().values
    gap = (torch.searchsorted(w.sort().values, together) - torch.searchsorted(new.sort().values, together)).abs().max()
    assert gap / n < 2 * math.sqrt(2 / n)  # Kolmogorov and Smirnov: far in the tail


@pytest.mark.parametrize("initializer", ["initial", "initial_mean"])
def test_a_constant_tensor_gets_its_constant_back(initializer):
    params = {"scale": torch.ones(7), "shift": torch.zeros(7), "odd": torch.full((3,), 0.1), "one": torch.tensor(0.3)}
    state = weights.init_state(params, KEY, managed="all")._replace(step=torch.tensor(1000, dtype=torch.int32))
    trained = {n: p + 5 for n, p in params.items()}
    new, _, _ = weights.select_and_reset(state, trained, Hyperparams(1.0), initializer=initializer)
    assert bits_equal(new, params)


def test_named_initialisers_have_their_scale():
    params = {"w": torch.ones(40, 30, 2, 2)}
    fan_in, fan_out = 120, 160
    for name, std in (
        ("kaiming_uniform", math.sqrt(2 / fan_in)),
        ("xavier_normal", math.sqrt(2 / (fan_in + fan_out))),
        ("uniform", 0.05 / math.sqrt(3)),
        ("normal", 0.1),
        (functools.partial(weights.normal, std=2.0), 2.0),
        (functools.partial(weights.uniform, width=3.0), math.sqrt(3)),
    ):
        new = draw_all(name, params)["w"]
        assert new.std().item() == pytest.approx(std, rel=0.05)
        assert new.mean().abs() < 4 * std / math.sqrt(4800)
    assert (draw_all(functools.partial(weights.constant, value=2.5), params)["w"] == 2.5).all()
    assert not draw_all("constant", params)["w"].any()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 1), (1, 5), (3, 2, 2)])
def test_orthogonal_draws_entries_of_an_orthogonal_matrix(shape):
    params = {"w": torch.zeros(shape)}
    full = draw_all("orthogonal", params)["w"].flatten(1)
    gram = full.T @ full if full.shape[0] >= full.shape[1] else full @ full.T
    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-6)
    state = weights.init_state(params, KEY)._replace(step=torch.tensor(1000, dtype=torch.int32))
    some, _, replaced = weights.select_and_reset(state, params, Hyperparams(0.4), initializer="orthogonal")
    assert 0 < replaced["w"].sum() < full.numel()
    assert some["w"].flatten(1).equal(torch.where(replaced["w"].flatten(1), full, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "initializer", ["initial", "initial_mean", "orthogonal", "kaiming_normal", "uniform", "normal", "constant"]
)
def test_dtypes_are_kept(initializer, dtype):
    params = two_by_three(dtype)
    state = weights.init_state(params, KEY)
    state = weights.update_utility(state, params, params, Hyperparams())
    new, after, _ = weights.select_and_reset(state, params, Hyperparams(1.0, 0), initializer=initializer)
    assert new["w"].dtype == dtype
    assert after.utility["w"].dtype == torch.promote_types(dtype, torch.float32)
    for a, b in zip(optree.tree_leaves(state), optree.tree_leaves(after), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
