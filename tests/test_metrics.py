"""Metrics against their definitions in NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp import metrics


def normal(seed, *shape):
    return fcbp.random.normal(fcbp.random.key(seed), shape)


def effective_rank(matrix):
    s = np.linalg.svd(matrix, compute_uv=False)
    p = s / s.sum()
    p = p[p > 0]
    return np.exp(-(p * np.log(p)).sum())


def stable_rank(matrix):
    s = np.linalg.svd(matrix, compute_uv=False)
    return (matrix**2).sum() / s.max() ** 2


RANKS = {"effective_rank": effective_rank, "stable_rank": stable_rank}


@pytest.mark.parametrize("name", RANKS)
@given(rows=st.integers(1, 12), columns=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_ranks(name, rows, columns, rank, seed):
    matrix = normal(seed, rows, rank) @ normal(seed + 1000, rank, columns)
    expected = RANKS[name](matrix.double().numpy())
    result = getattr(metrics, name)(matrix)
    assert result.shape == ()
    np.testing.assert_allclose(result.item(), expected, rtol=1e-3)


@pytest.mark.parametrize("name", RANKS)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ranks_do_not_depend_on_the_scale(name, scale):
    rank = getattr(metrics, name)
    matrix = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0]))
    torch.testing.assert_close(rank(matrix * scale), rank(matrix))
    torch.testing.assert_close(metrics.stable_rank(matrix), torch.tensor(1.5))
    torch.testing.assert_close(metrics.effective_rank(torch.eye(5)), torch.tensor(5.0))


@pytest.mark.parametrize("name", RANKS)
def test_ranks_of_zero_and_of_broken_matrices_beside_good_ones(name):
    rank = getattr(metrics, name)
    members = normal(0, 6, 8, 3)
    members[1] = 0
    members[2, 0, 0] = torch.nan
    members[4, 3, 1] = torch.inf
    many = torch.vmap(rank)(members)
    assert many[1] == 0
    assert many[[2, 4]].isnan().all()
    for i in (0, 3, 5):
        torch.testing.assert_close(many[i], rank(members[i]))
        np.testing.assert_allclose(many[i], RANKS[name](members[i].double().numpy()), rtol=1e-4)
    assert rank(members[2]).isnan()
    assert rank(torch.zeros(4, 2)) == 0


@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (3, 4, 5)])
def test_dead_and_saturated_units(shape):
    h = normal(1, *shape).relu() + 0.01
    h[..., 2] = 0
    h[..., 4] = torch.nan
    assert metrics.dead_units(h).tolist() == [False, False, True, False, False]
    bounded = normal(2, *shape).tanh() * 0.8
    bounded[..., 0] = 0.91
    bounded[..., 3] = -0.95
    bounded[..., 4] = torch.nan
    assert metrics.saturated_units(bounded, -1.0, 1.0).tolist() == [True, False, False, True, False]
    assert metrics.saturated_units(bounded, -1.0, 1.0, tolerance=0.04).tolist() == [False, False, False, True, False]


def test_a_unit_that_lives_once_is_not_dead():
    h = torch.zeros(100, 2)
    h[57, 1] = 1e-20
    assert metrics.dead_units(h).tolist() == [True, False]
    at_both_ends = torch.tensor([[0.99], [-0.99], [0.5]])
    assert metrics.saturated_units(at_both_ends[:2], -1.0, 1.0).all()
    assert not metrics.saturated_units(at_both_ends, -1.0, 1.0).any()


def test_sigmoid_saturates_at_its_own_ends():
    h = torch.tensor([[0.02, 0.5, 0.98], [0.04, 0.96, 0.96]])
    assert metrics.saturated_units(h, 0.0, 1.0).tolist() == [True, False, True]


def test_weight_magnitude_is_over_elements_not_leaves():
    params = {"a": torch.full((3, 4), -2.0), "b": [torch.ones(2), torch.tensor(5.0)]}
    expected = (12 * 2.0 + 2 * 1.0 + 5.0) / 15
    torch.testing.assert_close(metrics.weight_magnitude(params), torch.tensor(expected))


def test_squared_error():
    output, targets = normal(3, 4, 2), normal(4, 4, 2)
    expected = ((output - targets).double().numpy() ** 2).mean()
    np.testing.assert_allclose(metrics.squared_error(output, targets), expected, rtol=1e-6)


FUNCTIONS = {
    "dead_units": (metrics.dead_units, lambda: (normal(0, 3, 6, 4).relu(),)),
    "saturated_units": (lambda h: metrics.saturated_units(h, -1.0, 1.0), lambda: (normal(1, 3, 6, 4).mul(3).tanh(),)),
    "effective_rank": (metrics.effective_rank, lambda: (normal(2, 3, 6, 4),)),
    "stable_rank": (metrics.stable_rank, lambda: (normal(3, 3, 6, 4),)),
    "weight_magnitude": (metrics.weight_magnitude, lambda: ({"a": normal(4, 3, 2), "b": normal(5, 3, 2, 2)},)),
    "squared_error": (metrics.squared_error, lambda: (normal(6, 3, 4), normal(7, 3, 4))),
}


@pytest.mark.parametrize("name", metrics.__all__)
def test_vmap_is_the_loop_and_nothing_is_modified(name):
    function, make = FUNCTIONS[name]
    arguments = make()
    leaves = torch.utils._pytree.tree_leaves(arguments)
    before = [leaf.clone() for leaf in leaves]
    many = torch.vmap(function)(*arguments)
    for i in range(3):
        one = function(*torch.utils._pytree.tree_map(lambda leaf: leaf[i], arguments))  # noqa: B023
        torch.testing.assert_close(many[i], one)
    assert all(map(torch.equal, leaves, before))
