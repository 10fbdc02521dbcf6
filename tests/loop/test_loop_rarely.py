"""The work of steps that replace units: left out where nobody is due, and then done to the same bits."""

import logging

import optree
import pytest
import torch

import fcbp
from fcbp import initializers, loop, rare
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.loop import objects, program
from fcbp.loop.caches import Caches

MEMBERS, STEPS = 4, 30
RATES = torch.tensor([0.0, 0.01, 0.1, 0.6], dtype=torch.float64)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that would be compiled, which run as they are."""
    found = []

    def load(module, arguments, threads, announce):
        module.shapes = [tuple(x.shape) for x in arguments]
        found.append(module)
        return lambda given: module(*given)

    monkeypatch.setattr(program, "load", load)
    return found


def population(method, optimizer="sgd", rates=RATES, batch=3, module=None):
    """A vmapped step, its first carry and its examples."""
    module = module or fcbp.nets.mlp(6, (12, 9), 2)
    shape = (2, 8, 8) if any(isinstance(m, torch.nn.Conv2d) for m in module.modules()) else (6,)
    units = fcbp.find_units(module, torch.zeros(batch, *shape))
    learner = make_learner(module, units, method=method, optimizer=optimizer)
    column = torch.ones_like(rates)
    hyper = LearnerHyperparams(0.05 * column.float(), fcbp.Hyperparams(rates, 3 * column, 0.9 * column))

    def step(carry, pair):
        state, hyper = carry
        state, info = learner.step(state, pair, hyper)
        return (state, hyper), info

    keys = fcbp.random.split(fcbp.random.key(0), len(rates))
    inputs = fcbp.random.normal(fcbp.random.key(1), (STEPS, len(rates), batch, *shape))
    return torch.vmap(step), (torch.vmap(learner.init)(keys), hyper), (inputs, inputs.flatten(3)[..., :2].sin())


def assert_equal(ours, theirs):
    ours, theirs = optree.tree_leaves(ours), optree.tree_leaves(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        (fcbp.methods.cbp(), "sgd"),
        (fcbp.methods.cbp("adaptable_contribution", transfer_bias=True, rounding="stochastic"), "adam"),
        (fcbp.methods.cbp("zero_contribution", capacity=2), "sgd"),
    ],
    ids=["default", "transfer", "capacity"],
)
def test_what_is_left_out_and_done_later_is_the_whole_step(method, optimizer, graphs):
    step, carry, xs = population(method, optimizer)
    found, info = loop.scan(step, carry, xs, backend="scan")
    expected, expected_info = loop.scan(step, carry, xs, backend="eager")
    number = torch.stack([mask.sum((0, 2)) for mask in expected_info["replaced"].values()]).sum(0)
    assert number[0] == 0
    assert (number[1:] > 3).all()
    for name, mask in expected_info["replaced"].items():
        assert torch.equal(info["replaced"][name], mask)
    assert_equal(found, expected)
    assert_equal(info["loss"], expected_info["loss"])
    # The first of them neither ranks nor draws; the others are for a unit of each group, and for more.
    sorts = [len(g.graph.find_nodes(op="call_function", target=torch.ops.aten.sort.stable)) for g in graphs]
    assert sorts[0] == 0
    assert len(graphs) >= 2
    assert not graphs[0].graph.find_nodes(op="call_function", target=torch.ops.aten.index_put.default)


def test_where_nobody_is_ever_due_there_is_one_program(graphs):
    step, carry, xs = population(fcbp.methods.cbp(), rates=torch.zeros(MEMBERS, dtype=torch.float64))
    assert_equal(loop.scan(step, carry, xs, backend="scan"), loop.scan(step, carry, xs, backend="eager"))
    assert len(graphs) == 1


def test_a_step_that_tells_of_no_rare_work_is_one_program(graphs):
    step, carry, xs = population("redo", rates=RATES)
    hyper = fcbp.methods.METHODS["redo"].hyperparams()
    hyper = optree.tree_map(lambda x: torch.full((MEMBERS,), float(x)), hyper)
    carry = carry[0], carry[1]._replace(method=hyper)
    assert_equal(loop.scan(step, carry, xs, backend="scan"), loop.scan(step, carry, xs, backend="eager"))
    assert len(graphs) == 1


def test_members_of_convolutions_run_one_after_the_other(graphs):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(108, 5), torch.nn.ReLU(),
        torch.nn.Linear(5, 2),
    )  # fmt: skip
    step, carry, xs = population(fcbp.methods.cbp(), module=module)
    _, info = loop.scan(step, carry, xs, backend="scan")
    _, expected_info = loop.scan(step, carry, xs, backend="eager")
    for name, mask in expected_info["replaced"].items():
        assert torch.equal(info["replaced"][name], mask)
        assert mask.any()
    assert_equal(info["loss"], expected_info["loss"])
    convolutions = graphs[0].graph.find_nodes(op="call_function", target=torch.ops.aten.convolution.default)
    assert [node.args[-1] for node in convolutions] == [1]  # groups


def test_members_that_outgrow_the_caches_run_one_after_the_other(graphs, monkeypatch):
    monkeypatch.setattr(program, "caches", lambda: Caches(1, 1))
    step, carry, xs = population(fcbp.methods.cbp())
    assert_equal(loop.scan(step, carry, xs, backend="scan")[0], loop.scan(step, carry, xs, backend="eager")[0])
    assert (12, 6) in graphs[0].shapes


# --- eager, under vmap alone ----------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "drawn"), [(0.0, 0), (1e-3, 0), (0.2, 2)])
def test_under_vmap_alone_rows_are_drawn_only_where_some_member_is_due(rate, drawn):
    calls = []

    def initializer(key, shape, fan_in, fan_out, dtype, device):
        calls.append(shape)
        return initializers.kaiming_uniform(key, shape, fan_in, fan_out, dtype, device)

    rates = torch.tensor([0.0, 0.0, rate], dtype=torch.float64)
    step, carry, xs = population(fcbp.methods.cbp(initializer=initializer), rates=rates)
    for i in range(5):  # ages are above 3 from the fourth step on
        carry, _ = step(carry, optree.tree_map(lambda x: x[i], xs))  # noqa: B023
    assert len(calls) == 2 * drawn


def test_named_initializers_draw_as_many_rows_as_are_due_and_no_more():
    number, limit = torch.tensor([0, 3, 1]), 10
    seen = []
    torch.vmap(lambda n: seen.append(rare.rows(n, limit)) or n)(number)
    torch.vmap(lambda n: seen.append(rare.rows(n, limit, least=limit)) or n)(number)
    torch.vmap(lambda n: seen.append(rare.rows(n, limit)) or n)(torch.zeros(3))
    assert seen == [3, limit, 0]


@pytest.mark.parametrize("gain", [None, 2.0])
def test_the_named_initializers_draw_in_order(gain):
    for function in initializers.INITIALIZERS.values():
        draw = function if gain is None else lambda *a, f=function: f(*a, gain=gain)
        more, fewer = (draw(fcbp.random.key(3), (n, 4, 2), 8, 5) for n in (7, 2))
        assert torch.equal(more[:2], fewer)
        assert initializers.draws_in_order(function)
    assert not initializers.draws_in_order(lambda *_: None)


# --- kept programs --------------------------------------------------------------------------------------


@pytest.mark.compiled
def test_a_compiled_program_is_kept_for_later_processes_and_told_of_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(objects, "_loaded", {})

    def made():
        def step(carry, x):
            return carry * 0.25 + x.sin(), carry.sum()

        return step

    given = torch.ones(3), torch.arange(12.0).reshape(4, 3)
    with caplog.at_level(logging.WARNING, "fcbp"):
        first = loop.scan(made(), *given, backend="scan")
    (said,) = [record.getMessage() for record in caplog.records if record.name == "fcbp"]
    assert "compiling the scan of" in said
    caplog.clear()

    def fails(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(objects, "_loaded", {})
    monkeypatch.setattr(objects, "_compile", fails)
    with caplog.at_level(logging.WARNING, "fcbp"):
        second = loop.scan(made(), *given, backend="scan")
    assert not [record for record in caplog.records if record.name == "fcbp"]
    assert_equal(first, second)
    assert_equal(first, loop.scan(made(), *given, backend="eager"))
    (library,) = (tmp_path / "scan").glob("*.so")
    assert library.stat().st_mode & 0o077 == 0


@pytest.mark.compiled
def test_a_kept_program_that_is_broken_is_said_so_and_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(objects, "_loaded", {})
    broken = []

    def breaks(module, arguments, threads, library):
        broken.append(library)
        library.write_bytes(b"no library")
        library.chmod(0o700)

    monkeypatch.setattr(objects, "_compile", breaks)
    given = torch.ones(3), torch.ones(4, 3)
    with pytest.warns(RuntimeWarning, match="cannot load"):
        carry, _ = loop.scan(lambda c, x: (c + x, ()), *given, backend="scan")
    assert torch.equal(carry, torch.full((3,), 5.0))
    assert not broken[0].exists()
