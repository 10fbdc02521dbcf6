"""The promises of a pure function: nothing modified, members as in a loop, compiled as in eager."""

import functools
import math

import optree
import pytest
import torch
from weights_cases import KEY, bits_equal, normal, state_with, step

from fcbp import random, weights
from fcbp.weights import Hyperparams

MANAGED = {"outliers": {"maturity": "outliers"}, "protected": {"protect": True, "managed": "all"}, "plain": {}}


SHAPES = {"w": (3, 5), "big": (70, 90), "b": (5,)}


def member(i, kind):
    """A learner some steps on: one of many."""
    key = random.fold_in(KEY, i)
    params = {n: random.normal(random.fold_in(key, k), s) for k, (n, s) in enumerate(SHAPES.items())}
    grads = {n: random.normal(random.fold_in(key, 10 + k), s) for k, (n, s) in enumerate(SHAPES.items())}
    state = weights.init_state(params, key, **MANAGED[kind])
    state = state._replace(
        step=torch.tensor(11 + i % 2, dtype=torch.int32),
        born={n: random.randint(random.fold_in(key, 20), b.shape, 0, 10).int() for n, b in state.born.items()},
        utility={n: random.uniform(random.fold_in(key, 21), u.shape) for n, u in state.utility.items()},
        outliers={n: random.randint(random.fold_in(key, 22), o.shape, 0, 4).int() for n, o in state.outliers.items()},
        protected={n: random.bernoulli(random.fold_in(key, 23), 0.3, p.shape) for n, p in state.protected.items()},
        owed={n: o + 0.3 for n, o in state.owed.items()},
    )
    rate = [0.3, 0.0, 1.0, 1e-3, 0.5, 0.15][i % 6]
    hyper = Hyperparams(
        torch.tensor(rate, dtype=torch.float64), torch.tensor(i % 3), torch.tensor(0.9 + 0.01 * i),
        torch.tensor(1 + i % 3), torch.tensor(0.3 * i), torch.tensor(0.1), torch.tensor(0.5),
    )  # fmt: skip
    return state, params, grads, hyper


CASES = {
    "lowest": ("plain", {}),
    "few": ("plain", {"capacity": 20, "utility": "magnitude"}),
    "one": ("outliers", {"capacity": 1, "rounding": "stochastic"}),
    "below": ("protected", {"selection": "below", "initializer": "normal"}),
    "random": ("protected", {"selection": "random", "utility": "random", "rate_counts": "all"}),
    "orthogonal": ("plain", {"initializer": "orthogonal", "capacity": 50}),
}


cases = pytest.mark.parametrize("name", CASES)


def stacked(name, indices):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *(member(i, CASES[name][0]) for i in indices))


@functools.cache
def alone(name, i):
    kind, options = CASES[name]
    return step(member(i, kind), **options)


def assert_members(together, name, indices, exact=True):
    for k, i in enumerate(indices):
        wanted = optree.tree_leaves(alone(name, i))
        for ours, theirs in zip(optree.tree_leaves(together), wanted, strict=True):
            if exact or not ours.is_floating_point():
                assert bits_equal(ours[k], theirs)
            else:
                torch.testing.assert_close(ours[k], theirs, rtol=3e-6, atol=1e-6)


@cases
def test_no_argument_is_modified_and_the_outputs_are_repeated(name):
    kind, options = CASES[name]
    inputs = member(2, kind)
    before, seed = optree.tree_map(torch.clone, inputs), torch.random.get_rng_state()
    outputs = step(inputs, **options)
    assert bits_equal(inputs, before)
    assert torch.random.get_rng_state().equal(seed)
    assert bits_equal(outputs, step(inputs, **options))
    assert bits_equal(outputs, alone(name, 2))
    assert any(mask.any() for mask in outputs[2].values())
    for a, b in zip(optree.tree_leaves(outputs[:2]), optree.tree_leaves((inputs[1], inputs[0])), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert optree.tree_structure(outputs[2]) == optree.tree_structure(inputs[1])


@cases
def test_vmap_is_the_loop_in_any_company(name):
    function = functools.partial(step, **CASES[name][1])
    # The QR decomposition of many matrices rounds otherwise than that of one; the masks are the same.
    exact = name != "orthogonal"
    assert_members(torch.vmap(function)(stacked(name, range(6))), name, range(6), exact)
    assert_members(torch.vmap(function)(stacked(name, (4, 0, 4))), name, (4, 0, 4), exact)


def test_nested_vmap_over_hyperparameters_alone():
    state, params, grads, _ = member(0, "plain")
    rates = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    decays = torch.tensor([0.0, 0.9], dtype=torch.float64)

    def run(rate, decay):
        return step((state, params, grads, Hyperparams(rate, 1, decay)))

    together = torch.vmap(torch.vmap(run, (None, 0)), (0, None))(rates, decays)
    for i, rate in enumerate(rates.tolist()):
        for j, decay in enumerate(decays.tolist()):
            one = run(rate, decay)
            for ours, theirs in zip(optree.tree_leaves(together), optree.tree_leaves(one), strict=True):
                torch.testing.assert_close(ours[i, j], theirs, rtol=1e-5, atol=1e-6)
            assert torch.equal(together[2]["big"][i, j], one[2]["big"])


@cases
def test_a_member_that_breaks_harms_no_other(name):
    function = functools.partial(step, **CASES[name][1])
    inputs = stacked(name, range(4))
    healthy = torch.vmap(function)(inputs)
    broken = {n: torch.cat([g[:2], torch.full_like(g[2:3], math.nan), g[3:]]) for n, g in inputs[2].items()}
    spoiled = torch.vmap(function)((*inputs[:2], broken, inputs[3]))
    for ours, theirs in zip(optree.tree_leaves(spoiled), optree.tree_leaves(healthy), strict=True):
        assert bits_equal(ours[[0, 1, 3]], theirs[[0, 1, 3]])
    if CASES[name][1].get("utility", "gradient") == "gradient":
        assert not any(mask[2].any() for n, mask in spoiled[2].items())


@pytest.mark.compiled
def test_compiled_members_equal_eager_ones():
    names = ["lowest", "random"]

    def every(inputs):
        return {n: torch.vmap(functools.partial(step, **CASES[n][1]))(inputs[n]) for n in names}

    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")
    for attempt, members in enumerate([(0, 1, 2), (5, 4, 3)]):
        with torch.compiler.set_stance("fail_on_recompile" if attempt else "default"):
            together = compiled({n: stacked(n, members) for n in names})
        for n in names:
            assert_members(together[n], n, members, exact=False)


@pytest.mark.compiled
def test_generated_code_equals_eager_whichever_way_is_searched():
    """One program: a tensor that is sorted, one searched by histogram and one by blocks."""
    shapes = {"w": (3, 5), "big": (70, 90), "wide": (100, 100)}

    def learner(i):
        params = {n: normal(10 * i + k, *shape, dtype=torch.float32) for k, (n, shape) in enumerate(shapes.items())}
        state = state_with(params, {n: p.flatten().abs() for n, p in params.items()}, owed=100.0 * i)
        return state, params, {n: p.flip(0) for n, p in params.items()}

    def run(inputs, rate):
        return step((*inputs, Hyperparams(rate, 2, 0.9)), capacity=150)

    compiled = torch.compile(run, fullgraph=True)
    for i in (0, 1):
        inputs, rate = learner(i), torch.tensor(0.005, dtype=torch.float64)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            outputs, wanted = compiled(inputs, rate), run(inputs, rate)
        for ours, theirs in zip(*map(optree.tree_leaves, (outputs, wanted)), strict=True):
            if ours.is_floating_point():
                torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=1e-6)
            else:
                assert ours.equal(theirs)
        assert {n: int(m.sum()) for n, m in wanted[2].items()} == [
            {"w": 0, "big": 31, "wide": 50},
            {"w": 15, "big": 131, "wide": 150},
        ][i]
