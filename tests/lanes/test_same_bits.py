"""Lanes give the same bits on every processor and by every compiler: emulated, where the processor is another."""

import types

import optree
import pytest
import torch
from elsewhere import MACHINES, launcher_on
from lanes_table import GROUPS
from lanes_values import values

import fcbp
from fcbp import lanes
from fcbp.lanes import build

pytestmark = [pytest.mark.compiled, pytest.mark.slow]

OTHERS = list(MACHINES)


def run_on(name, draft, leaves, xs, steps, monkeypatch, optimize="-O1"):
    """The results of a program on a machine."""
    with monkeypatch.context() as patch:
        patch.setattr(build, "launcher", launcher_on(name, optimize))
        return optree.tree_leaves(draft.compile()(leaves, xs, steps))


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        # A NaN's own bits are the processor's choice.
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))
        if one.is_floating_point():
            assert torch.equal(one.nan_to_num(7).signbit(), other.nan_to_num(7).signbit())


def draft_of(step, carry, xs):
    leaves, spec = optree.tree_flatten(carry)
    return lanes.draft(torch.vmap(step), leaves, spec, xs, lambda *_: None), leaves


@pytest.mark.parametrize(
    ("name", "group"),
    [
        *(("AArch64", group) for group in ("pointwise", "activations", "networks", "reductions", "places")),
        *(("AVX2, clang++", group) for group in ("pointwise", "networks")),
        ("x86-64", "pointwise"),
    ],
)
def test_operations(name, group, monkeypatch):
    def step(carry, _):
        member = types.SimpleNamespace(**carry)
        found = [optree.tree_leaves(operation(member)) for operation in GROUPS[group].values()]
        return carry, [torch.as_tensor(leaf) for leaves in found for leaf in leaves]

    draft, leaves = draft_of(step, values(5, 3, 4, 2, 3, size=20.0), ())
    with monkeypatch.context() as patch:
        patch.setattr(lanes, "OPTIMIZE", "-O0")
        expected = optree.tree_leaves(draft.compile()(leaves, (), 1))
    assert_same_bits(run_on(name, draft, leaves, (), 1, monkeypatch, "-O0"), expected)


def learners():
    """Learners whose steps have sums of products, exponentials, draws of random numbers, ranks and resets."""
    model = fcbp.nets.mlp(6, (9, 7), 3, activation="tanh")
    units = fcbp.find_units(model, torch.zeros(1, 6))
    learner = fcbp.make_learner(model, units, loss="cross_entropy", method=fcbp.methods.cbp(capacity=1))
    hyper = fcbp.LearnerHyperparams(0.05, method=fcbp.Hyperparams(0.05, 2.0, 0.9))

    def step(state, example):
        state, info = learner.step(state, example, hyper)
        return state, info["loss"] + fcbp.random.normal(fcbp.random.key(example[1].sum()))

    state = torch.vmap(learner.init)(torch.stack([fcbp.random.key(i) for i in range(19)]))
    return step, state, (torch.randn(40, 19, 5, 6), torch.randint(3, (40, 19, 5)))


@pytest.fixture(scope="module")
def drafted():
    step, state, xs = learners()
    draft, leaves = draft_of(step, state, tuple(x[:1] for x in xs))
    return draft, leaves, xs, optree.tree_leaves(draft.compile()(leaves, xs, 40))


@pytest.mark.parametrize("name", OTHERS)
def test_a_learner(name, drafted, monkeypatch):
    draft, leaves, xs, expected = drafted
    assert_same_bits(run_on(name, draft, leaves, xs, 40, monkeypatch), expected)


@pytest.mark.parametrize("name", ["AArch64", "AVX2, clang++"])
def test_a_run_goes_on_with_another_processor(name, drafted, monkeypatch):
    draft, leaves, xs, expected = drafted
    carried = len(leaves)
    here = optree.tree_leaves(draft.compile()(leaves, tuple(x[:17] for x in xs), 17))
    there = run_on(name, draft, here[:carried], tuple(x[17:] for x in xs), 23, monkeypatch)
    assert_same_bits(there[:carried], expected[:carried])
    assert_same_bits([torch.cat([here[carried], there[carried]])], expected[carried:])
