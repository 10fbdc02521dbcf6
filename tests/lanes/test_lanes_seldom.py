"""What few steps need is computed in those alone: draws, ranks and writes of replaced units, in lanes."""

import re

import optree
import pytest
import torch

import fcbp
from fcbp import lanes, loop

UNITS, INPUTS, MEMBERS = 24, 40, 19


@pytest.fixture(autouse=True)
def _quick_to_compile(monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")


def learners(capacity, rate=0.01):
    """A population's step with CBP, its carry and its examples."""
    model = fcbp.nets.mlp(INPUTS, (UNITS, UNITS), 3)
    units = fcbp.find_units(model, torch.zeros(1, INPUTS))
    learner = fcbp.make_learner(model, units, loss="cross_entropy", method=fcbp.methods.cbp(capacity=capacity))
    numbers = fcbp.Hyperparams(*(torch.full((MEMBERS,), value) for value in (rate, 3.0, 0.9)))
    hyper = fcbp.LearnerHyperparams(step_size=torch.full((MEMBERS,), 0.01), method=numbers)

    def step(carry, example):
        state, hyper = carry
        state, info = learner.step(state, example, hyper)
        return (state, hyper), info["loss"]

    state = torch.vmap(learner.init)(torch.stack([fcbp.random.key(i) for i in range(MEMBERS)]))
    examples = torch.rand(30, MEMBERS, 1, INPUTS), torch.randint(3, (30, MEMBERS, 1))
    return torch.vmap(step), (state, hyper), examples


def drafted(step, carry, xs):
    leaves, spec = optree.tree_flatten(carry)
    return lanes.draft(step, leaves, spec, xs, lambda *_: None)


@pytest.mark.slow
def test_the_default_capacity_needs_no_more_memory_than_one_unit():
    default, one = (drafted(*learners(capacity)) for capacity in (None, 1))
    assert default.block_bytes <= 1.1 * one.block_bytes
    weights = UNITS * (INPUTS + UNITS)
    assert default.block_bytes < default.width * 4 * (weights + 60 * UNITS)  # no rows of draws beside the weights


def test_weights_are_passed_over_by_the_update_alone_unless_a_lane_has_the_row():
    source = drafted(*learners(None)).source
    weight = re.escape("for (int64 i1 = 0; i1 < 40; i1++) {")
    loops = re.findall(rf"(\S+.*\S+)\n *{weight}", source[source.index("for (int64 t = 0") :])
    rows = [head for head in loops if "SELDOM(some_lane" in head]
    assert len(rows) == 1
    assert source.count("rank_first(") == 1 + 2  # its definition, and one for each group


@pytest.mark.compiled
@pytest.mark.parametrize("rate", [0.01, 0.3])
def test_rows_and_ranks_of_few_units_are_eagers(rate):
    step, carry, xs = learners(None, rate)
    (state, _), loss = loop.scan(step, carry, xs, backend="lanes")
    (expected, _), eager_loss = loop.scan(step, carry, xs, backend="eager")
    torch.testing.assert_close(loss, eager_loss, rtol=1e-3, atol=1e-4)
    assert any(age.max() > age.min() for age in expected.method.age.values())  # somebody was replaced
    for found, known in zip(optree.tree_leaves(state), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-3, atol=1e-4)


@pytest.mark.compiled
def test_a_rank_compared_with_a_number_is_a_whole_sorts():
    def step(carry, x):
        rank = torch.empty(9, dtype=torch.int32).scatter(0, x.sort(stable=True).indices, torch.arange(9).int())
        down = torch.empty(9, dtype=torch.int32).scatter(
            0, x.argsort(descending=True, stable=True), torch.arange(9).int()
        )
        drawn = fcbp.random.uniform(carry, (9, 5))
        taken = torch.where((rank < number(x))[:, None], drawn[rank.clamp(0, 8).long()], -1.0)
        return carry + 1, (rank < number(x), (down < 3), taken)

    def number(x):
        return x[0].abs().floor().to(torch.int32)

    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0])
    xs = torch.randn(12, MEMBERS, 9) * 3
    xs = torch.where(torch.rand(xs.shape) < 0.5, special[torch.randint(6, xs.shape)], xs)
    xs[..., 0] = torch.arange(12.0)[:, None] - 1
    keys = torch.stack([fcbp.random.key(i) for i in range(MEMBERS)])
    found, expected = (loop.scan(torch.vmap(step), keys, xs, backend=name) for name in ("lanes", "eager"))
    for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_summed_over_a_batch_is_not_stored():
    def step(carry, example):
        w, size = carry
        inputs, targets = example
        grad = torch.func.grad(lambda w: torch.nn.functional.cross_entropy(inputs @ w.T, targets))(w)
        return (w - size * grad, size), ()

    carry = torch.randn(MEMBERS, 3, INPUTS), torch.rand(MEMBERS)
    examples = torch.rand(2, MEMBERS, 8, INPUTS), torch.randint(3, (2, MEMBERS, 8))
    program = drafted(torch.vmap(step), carry, examples)
    assert (3, INPUTS) in [result.shape for result in program.plan.epilogues.values()]
    assert program.source.count(f"F carry0[{3 * INPUTS}];") == 1
    assert program.source.count(f"[{3 * INPUTS}];") == 1
