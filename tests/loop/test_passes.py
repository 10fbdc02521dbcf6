"""Long steps: one compiled step written over the old carry, with one kernel for each large matrix."""

import optree
import pytest
import torch

import fcbp
from fcbp import loop
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.loop import kernels, passes, program

pytestmark = pytest.mark.compiled

ROWS, COLUMNS = 9, 14


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(program, "LONG_STEP", 0)
    monkeypatch.setattr(passes, "LARGE_MATRIX", 64)
    monkeypatch.setattr("fcbp.cbp.replacement.LARGE_LEAF", 64)


@pytest.fixture
def calls(monkeypatch):
    """Graphs as the passes left them."""
    graphs = []
    fuse = passes.fuse

    def recorded(graph, number):
        fuse(graph, number)
        graph.lint()
        graphs.append(graph)

    monkeypatch.setattr(passes, "fuse", recorded)
    return lambda function: [node for graph in graphs for node in graph.nodes if node.target is function]


def assert_compiled_is_eager(step, carry, xs, **tolerance):
    before = optree.tree_map(torch.clone, (carry, xs))
    compiled = loop.scan(step, carry, xs, backend="scan")
    eager = loop.scan(step, carry, xs, compile=False)
    torch.testing.assert_close(optree.tree_leaves(compiled), optree.tree_leaves(eager), **tolerance)
    for now, then in zip(optree.tree_leaves((carry, xs)), optree.tree_leaves(before), strict=True):
        assert torch.equal(now, then)


def draw(*shape, seed=0):
    return fcbp.random.normal(fcbp.random.key(seed), shape)


def updated(weight, x):
    return weight - 0.1 * (weight * 0.5 + x["rows"].unsqueeze(1) * x["columns"])


def plain(weight, x):
    new = updated(weight, x)
    return new, (new.abs().sum(0), new.abs().sum(1, keepdim=True), x["rows"].unsqueeze(0) @ weight)


def old_is_read_later(weight, x):
    new = updated(weight, x)
    return new, weight @ new.sum(0)


def both_are_returned(weight, x):
    new = updated(weight, x)
    return new, (weight, new, new.abs())


def turned(weight, x):
    grad = x["columns"].unsqueeze(1) * x["rows"]
    new = (weight.t() - grad).t()
    return new, (grad * weight.t()).unsqueeze(0).abs().sum((0, 1))


def sum_feeds_the_update(weight, x):
    return updated(weight, x) / weight.abs().sum(0), weight.abs().sum(1)


def another_matrix(weight, x):
    grad = x["rows"].unsqueeze(1) @ x["columns"].unsqueeze(0)
    grad = torch.tanh(grad)
    return -weight + grad, (grad * weight).sum(1)


def swapped(carry, x):
    a, b = carry
    return (b, a * 0.5 + x["rows"].unsqueeze(1)), (a.sum(0), b)


CASES = {
    plain: 1, old_is_read_later: 0, both_are_returned: 0, turned: 1, sum_feeds_the_update: 0, another_matrix: 1
}  # fmt: skip


def test_kernels_are_what_they_stand_for(calls):
    def step(carry, x):
        new, ys = zip(*(case(weight, x) for case, weight in zip(CASES, carry[:-1], strict=True)), strict=True)
        pair, y = swapped(carry[-1], x)
        return (*new, pair), (ys, y)

    carry = *(draw(ROWS, COLUMNS, seed=i) for i in range(6)), (draw(ROWS, COLUMNS, seed=6), draw(ROWS, COLUMNS, seed=7))
    xs = {"rows": draw(5, ROWS, seed=8), "columns": draw(5, COLUMNS, seed=9)}
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            assert_compiled_is_eager(step, carry, xs, rtol=1e-5, atol=1e-5)
        finally:
            torch.set_num_threads(before)
    # Only where nothing that a matrix' update needs waits for the sums, and nobody reads the old one afterwards.
    fused = {node.args[1][0].name for node in calls(kernels.run)}
    assert fused == {f"arg{i}_1" for i, number in enumerate(CASES.values()) if number}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_learner_of_large_matrices(momentum, calls):
    model = fcbp.nets.mlp(20, (16, 24), 3)
    units = fcbp.find_units(model, torch.zeros(1, 20))
    learner = make_learner(
        model,
        units,
        loss="cross_entropy",
        optimizer=fcbp.optim.sgd(momentum),
        method=fcbp.methods.cbp("adaptable_contribution", capacity=2),
    )
    hyper = LearnerHyperparams(0.01, fcbp.Hyperparams(0.05, maturity_threshold=5, decay_rate=0.9))

    def step(state, batch):
        state, info = learner.step(state, batch, hyper)
        return state, info

    carry = learner.init(fcbp.random.key(0))
    xs = draw(60, 1, 20), fcbp.random.randint(fcbp.random.key(1), (60, 1), 0, 3)
    assert_compiled_is_eager(step, carry, xs, rtol=1e-3, atol=1e-4)
    _, info = loop.scan(step, carry, xs, backend="scan")
    assert all(mask.sum() > 10 for mask in info["replaced"].values())
    assert len(calls(kernels.run)) == 3
    # The first layer's weights by the units that it makes, the last one's by those that it reads, the other's by both.
    assert len(calls(kernels.write)) == 4
