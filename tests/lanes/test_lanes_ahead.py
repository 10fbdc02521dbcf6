"""Sums that the step before computes, in the loop in which it writes the weights."""

import optree
import pytest
import torch

import fcbp
from fcbp import lanes
from fcbp.lanes import ahead

pytestmark = pytest.mark.compiled


def learner_of(method):
    """A step whose units are replaced every few steps, and 19 members."""
    model = fcbp.nets.mlp(11, (9, 7), 3)
    units = fcbp.find_units(model, torch.zeros(1, 11))
    learner = fcbp.make_learner(model, units, loss="cross_entropy", method=method)
    numbers = fcbp.Hyperparams(0.05, 2.0, 0.9) if method is not None else ()
    hyper = fcbp.LearnerHyperparams(0.05, method=numbers)

    def step(state, example):
        state, info = learner.step(state, example, hyper)
        return state, (info["loss"], info.get("replaced", ()))

    return step, torch.vmap(learner.init)(torch.stack([fcbp.random.key(i) for i in range(19)]))


def drafted(step, state, xs, large, monkeypatch):
    monkeypatch.setattr(ahead, "LARGE", large)
    leaves, spec = optree.tree_flatten(state)
    return lanes.draft(step, leaves, spec, xs, lambda *_: None), leaves


METHODS = {
    "backpropagation": None,
    "CBP": fcbp.methods.cbp(),
    "CBP by incoming weights": fcbp.methods.cbp("adaptable_contribution"),
}


@pytest.mark.parametrize(
    ("method", "shared"), [("backpropagation", True), ("CBP", False), ("CBP by incoming weights", False)]
)
def test_sums_ahead_are_the_same_to_the_bit(method, shared, monkeypatch):
    step, state = learner_of(METHODS[method])
    shape = (23,) if shared else (23, 19)
    xs = torch.randn(*shape, 1, 11), torch.randint(3, (*shape, 1))
    step = torch.vmap(step, in_dims=(0, None) if shared else 0)
    (with_sums, leaves), (without, _) = (drafted(step, state, xs, large, monkeypatch) for large in (50, 1 << 40))
    assert (len(with_sums.traced.lowered.ahead), len(without.traced.lowered.ahead)) == (1, 0)
    program = with_sums.compile()
    expected = optree.tree_leaves(without.compile()(leaves, xs, 23))
    whole = program(leaves, xs, 23)
    assert all(map(torch.equal, optree.tree_leaves(whole), expected))
    # A run that is cut into pieces begins each of them anew.
    new, ys = leaves, []
    for begin, end in ((0, 1), (1, 9), (9, 23)):
        carry, y = program(new, tuple(x[begin:end] for x in xs), end - begin)
        new = optree.tree_leaves(carry)
        ys.append(optree.tree_leaves(y))
    ys = [torch.cat(parts) for parts in zip(*ys, strict=True)]
    assert all(map(torch.equal, [*new, *ys], expected))
    _, *replaced = ys
    assert bool(replaced) == (method != "backpropagation")
    # The rows of units that are replaced, in some members and at some steps, are summed again.
    assert all(0 < mask.float().mean() < 0.5 for mask in replaced)


REFUSED = {
    "a sum over a part": lambda w, x: ((w[:, 2:] * x[2:]).sum(-1), w - 0.1 * x),
    "weights in another order": lambda w, x: ((w.flip(1) * x).sum(-1), w - 0.1 * x),
    "weights that stay": lambda w, x: ((w * x).sum(-1), w),
    "weights that are sorted": lambda w, x: ((w * x).sum(-1), w.sort(-1).values),
    "two examples at once": lambda w, x: (w @ torch.stack([x, x * 2]).T, w - 0.1 * x),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_sums_are_computed_in_their_own_step(case, monkeypatch):
    def step(w, x):
        sums, new = REFUSED[case](w, x)
        return new, sums

    draft, _ = drafted(torch.vmap(step), torch.randn(5, 6, 9), torch.randn(3, 5, 9), 10, monkeypatch)
    assert not draft.traced.lowered.ahead


def test_two_large_layers_that_read_the_example_are_both_ahead(monkeypatch):
    def step(carry, x):
        first, second = carry
        sums = (first * x).sum(-1) + (second * x).sum(-1)
        return (first - 0.1 * sums[:, None] * x, second + 0.1 * x * sums.abs()[:, None]), sums

    carry, xs = (torch.randn(5, 4, 9), torch.randn(5, 4, 9)), 0.1 * torch.randn(7, 5, 9)
    step = torch.vmap(step)
    (both, leaves), (none, _) = (drafted(step, carry, xs, large, monkeypatch) for large in (10, 1 << 40))
    assert len(both.traced.lowered.ahead) == 2
    found, expected = (optree.tree_leaves(each.compile()(leaves, xs, 7)) for each in (both, none))
    assert all(map(torch.equal, found, expected))
