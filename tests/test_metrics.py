"""Metrics against their definitions in NumPy."""

import contract
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


def holding(parts, fraction):
    """The least k of which the first k hold the fraction of the sum."""
    return next(k for k in range(1, len(parts) + 1) if parts[:k].sum() >= fraction * parts.sum() - 1e-9)


def approximate_rank(matrix):
    return holding(np.linalg.svd(matrix, compute_uv=False) ** 2, 0.99)


def srank(matrix):
    return holding(np.linalg.svd(matrix, compute_uv=False), 0.99)


RANKS = {
    "effective_rank": effective_rank,
    "stable_rank": stable_rank,
    "approximate_rank": approximate_rank,
    "srank": srank,
    "rank": lambda matrix: np.linalg.matrix_rank(matrix, rtol=1e-5),
}


@pytest.mark.parametrize("name", RANKS)
@given(rows=st.integers(1, 12), columns=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 99))
def test_ranks(name, rows, columns, rank, seed):
    matrix = normal(seed, rows, rank) @ normal(seed + 1000, rank, columns)
    expected = RANKS[name](matrix.double().numpy())
    result = getattr(metrics, name)(matrix)
    assert result.shape == ()
    np.testing.assert_allclose(result.item(), expected, rtol=1e-3)


@pytest.mark.parametrize("name", RANKS)
def test_the_ranks_of_a_spectrum_are_those_of_its_matrix(name):
    members = torch.stack([normal(0, 7, 4), normal(1, 7, 1) * normal(2, 4), torch.zeros(7, 4), normal(3, 7, 4) / 0])
    rank = getattr(metrics, name)
    assert torch.equal(rank(metrics.spectrum(members[0])), rank(members[0]))
    spectra = torch.vmap(metrics.spectrum)(members)
    torch.testing.assert_close(torch.vmap(rank)(spectra), torch.vmap(rank)(members), rtol=0, atol=0, equal_nan=True)


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


def test_the_ranks_differ_as_their_papers_have_them():
    """10, 1, 0.5, 0.5: squares 100, 1, 0.25, 0.25."""
    matrix = torch.diag(torch.tensor([10.0, 1.0, 0.5, 0.5, 0.0]))
    assert metrics.rank(matrix) == 4
    assert metrics.approximate_rank(matrix) == 2  # 100 / 101.5 is less than 0.99, 101 / 101.5 is more
    assert metrics.srank(matrix) == 4  # 11.5 / 12 is less than 0.99
    torch.testing.assert_close(metrics.stable_rank(matrix), torch.tensor(1.015))
    p = np.array([10, 1, 0.5, 0.5]) / 12
    torch.testing.assert_close(metrics.effective_rank(matrix).item(), np.exp(-(p * np.log(p)).sum()), rtol=1e-5, atol=0)
    assert metrics.approximate_rank(matrix, 0.9) == 1
    assert metrics.srank(matrix, 0.1) == 2
    assert metrics.rank(matrix, tolerance=0.07) == 2


@pytest.mark.parametrize("n", [1, 10, 100, 200])
def test_99_of_100_equal_singular_values_hold_99_per_cent(n):
    matrix = torch.eye(n)
    assert metrics.srank(matrix) == metrics.approximate_rank(matrix) == np.ceil(0.99 * n)
    assert metrics.rank(matrix) == n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(300, 20), (20, 300)])
def test_rank_does_not_count_rounding(dtype, shape):
    matrix = (normal(5, shape[0], 7) @ normal(6, 7, shape[1])).to(dtype)
    assert metrics.rank(matrix) == 7
    assert metrics.rank(matrix + 0.01 * normal(7, *shape).to(dtype)) == 20


# Definition 3.1 of Sokar et al.
@pytest.mark.parametrize("shape", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("threshold", [0.0, 0.025, 0.5])
def test_dormant_units(shape, threshold):
    h = normal(3, *shape) * torch.tensor([1.0, 0.01, 0.0, 3.0, 0.3])
    size = [abs(h[..., j].double().numpy()).mean() for j in range(5)]
    expected = [s / (sum(size) / 5) <= threshold for s in size]
    assert metrics.dormant_units(h, threshold).tolist() == expected
    assert sum(expected) >= {0.0: 1, 0.025: 2, 0.5: 2}[threshold]
    assert not all(expected)
    assert metrics.dormant_units(h, torch.tensor(threshold)).tolist() == expected
    assert torch.equal(metrics.dormant_units(-7 * h, threshold), metrics.dormant_units(h, threshold))


def test_in_a_dead_layer_every_unit_is_dormant_and_beside_a_broken_one_none():
    layers = torch.stack([torch.zeros(4, 3), torch.ones(4, 3), torch.full((4, 3), torch.nan), normal(0, 4, 3)])
    layers[3, :, 1] = 0
    many = torch.vmap(metrics.dormant_units)(layers)
    assert many.tolist() == [[True] * 3, [False] * 3, [False] * 3, [False, True, False]]


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


def test_gradient_and_update_magnitude():
    before = {"a": torch.zeros(3, 4), "b": [torch.ones(2), torch.tensor(5.0)]}
    after = {"a": torch.full((3, 4), -2.0), "b": [torch.ones(2) * 1.5, torch.tensor(1.0)]}
    torch.testing.assert_close(metrics.update_magnitude(before, after), torch.tensor((24.0 + 1.0 + 4.0) / 15))
    torch.testing.assert_close(metrics.gradient_magnitude(after), torch.tensor((24.0 + 3.0 + 1.0) / 15))


# --- of a state, and of a step ----------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[3.0, 1.0, 8.0, 7.0], [2.0], [-1.0, -1.0, 5.0]])
def test_a_summary(values):
    array = np.array(values)
    median = np.sort(array)[(len(array) - 1) // 2]
    result = metrics.summarize(torch.tensor(values).reshape(-1, 1))
    np.testing.assert_allclose(result, [array.min(), median, array.mean(), array.max()])
    np.testing.assert_allclose(metrics.summarize(torch.tensor(values).to(torch.int32)), result)
    assert torch.stack(metrics.summarize(torch.tensor([*values, torch.nan]))).isnan().all()


@pytest.mark.parametrize("threshold", [0.0, 2, torch.tensor(4.0)])
def test_summaries_of_a_state(threshold):
    state, hyper = contract.state(0), fcbp.Hyperparams(maturity_threshold=threshold, decay_rate=0.9)
    ages = np.concatenate([age.numpy() for age in state.age.values()])
    utilities = np.concatenate([u.double().numpy() for u in state.utility.values()])
    corrected = [u / (1 - 0.9**a) if a else 0.0 for u, a in zip(utilities, ages, strict=True)]
    assert 0 in ages
    for result, values in ((metrics.age_summary(state), ages), (metrics.utility_summary(state, hyper), corrected)):
        expected = [min(values), np.sort(values)[(len(values) - 1) // 2], np.mean(values), max(values)]
        np.testing.assert_allclose(result, expected, rtol=1e-5)
    mature = metrics.mature_fraction(state, hyper)
    np.testing.assert_allclose(mature, np.mean(ages > float(threshold)), rtol=1e-6)
    assert 0 < mature < 1


def test_numbers_of_a_step():
    info = {
        "replaced": {"0": torch.tensor([True, False, True]), "1": torch.tensor([False, True])},
        "reset_weights": {"0.weight": torch.ones(2, 3, dtype=torch.bool), "0.bias": torch.zeros(3, dtype=torch.bool)},
    }
    assert metrics.units_reset(info) == 3
    assert metrics.weights_reset(info) == 6
    assert metrics.units_reset({"replaced": {}}) == metrics.weights_reset({"replaced": {}}) == 0
    assert metrics.units_reset(info).dtype == metrics.units_reset({"replaced": {}}).dtype == torch.int32


def test_squared_error():
    output, targets = normal(3, 4, 2), normal(4, 4, 2)
    expected = ((output - targets).double().numpy() ** 2).mean()
    np.testing.assert_allclose(metrics.squared_error(output, targets), expected, rtol=1e-6)


def test_accuracy_and_error_are_the_shares_of_right_and_wrong_classes():
    output, targets = normal(9, 50, 4), torch.arange(50) % 4
    right = (output.numpy().argmax(-1) == targets.numpy()).mean()
    np.testing.assert_allclose(metrics.accuracy(output, targets), right, rtol=1e-6)
    np.testing.assert_allclose(metrics.error(output, targets), 1 - right, rtol=1e-6)


def states():
    return (contract.stack([contract.state(i) for i in range(3)]),)


FUNCTIONS = {
    "dead_units": (metrics.dead_units, lambda: (normal(0, 3, 6, 4).relu(),)),
    "saturated_units": (lambda h: metrics.saturated_units(h, -1.0, 1.0), lambda: (normal(1, 3, 6, 4).mul(3).tanh(),)),
    "effective_rank": (metrics.effective_rank, lambda: (normal(2, 3, 6, 4),)),
    "stable_rank": (metrics.stable_rank, lambda: (normal(3, 3, 6, 4),)),
    "approximate_rank": (metrics.approximate_rank, lambda: (normal(2, 3, 6, 4),)),
    "srank": (metrics.srank, lambda: (normal(3, 3, 6, 4),)),
    "spectrum": (metrics.spectrum, lambda: (normal(2, 3, 6, 4),)),
    "rank": (metrics.rank, lambda: (normal(3, 3, 6, 4) * torch.tensor([1.0, 0.0, 1.0, 1.0]),)),
    "dormant_units": (lambda h: metrics.dormant_units(h, 0.5), lambda: (normal(1, 3, 6, 4).relu(),)),
    "weight_magnitude": (metrics.weight_magnitude, lambda: ({"a": normal(4, 3, 2), "b": normal(5, 3, 2, 2)},)),
    "gradient_magnitude": (metrics.gradient_magnitude, lambda: ({"a": normal(4, 3, 2), "b": normal(5, 3, 2, 2)},)),
    "update_magnitude": (metrics.update_magnitude, lambda: ({"a": normal(4, 3, 2)}, {"a": normal(5, 3, 2)})),
    "summarize": (metrics.summarize, lambda: (normal(4, 3, 7),)),
    "age_summary": (metrics.age_summary, states),
    "utility_summary": (lambda state: metrics.utility_summary(state, fcbp.Hyperparams()), states),
    "mature_fraction": (lambda state: metrics.mature_fraction(state, fcbp.Hyperparams(maturity_threshold=3)), states),
    "units_reset": (metrics.units_reset, lambda: ({"replaced": {"0": normal(4, 3, 5) > 0}},)),
    "weights_reset": (metrics.weights_reset, lambda: ({"reset_weights": {"w": normal(4, 3, 5, 2) > 0}},)),
    **{
        name: (getattr(metrics, name), lambda: (normal(8, 3, 4, 5), torch.tensor([[0, 1, 2, 3]] * 3)))
        for name in ("accuracy", "error")
    },
    "squared_error": (metrics.squared_error, lambda: (normal(6, 3, 4), normal(7, 3, 4))),
    "plasticity": (metrics.plasticity, lambda: (normal(6, 3, 4).abs(), normal(7, 3, 4).abs())),
}


@pytest.mark.parametrize("name", sorted({*metrics.__all__} - {"Spectrum", "Summary"}))
def test_vmap_is_the_loop_and_nothing_is_modified(name):
    function, make = FUNCTIONS[name]
    arguments = make()
    leaves = torch.utils._pytree.tree_leaves(arguments)
    before = [leaf.clone() for leaf in leaves]
    many = torch.vmap(function)(*arguments)
    for i in range(3):
        one = function(*torch.utils._pytree.tree_map(lambda leaf: leaf[i], arguments))  # noqa: B023
        torch.testing.assert_close(torch.utils._pytree.tree_map(lambda leaf: leaf[i], many), one)  # noqa: B023
    assert all(map(torch.equal, leaves, before))


@pytest.mark.parametrize("name", sorted({*metrics.__all__} - {"Spectrum", "Summary", "squared_error"}))
def test_a_broken_member_harms_no_other(name):
    function, make = FUNCTIONS[name]
    arguments = make()
    broken = torch.utils._pytree.tree_map(
        lambda leaf: leaf.index_fill(0, torch.tensor(1), torch.nan) if leaf.is_floating_point() else leaf, arguments
    )
    healthy, beside = (torch.vmap(function)(*given) for given in (arguments, broken))
    leaves = torch.utils._pytree.tree_leaves
    for a, b in zip(leaves(healthy), leaves(beside), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
