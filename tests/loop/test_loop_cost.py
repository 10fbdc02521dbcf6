"""The backend that is chosen is the faster one: the sizes of published problems, as they were measured."""

import functools
import weakref

import optree
import pytest
import torch

import fcbp
from fcbp import lanes, loop
from fcbp.loop import choice, cost

# Microseconds per member and step, lanes and the compiled scan, on one core of a Zen 4 with 16 lanes.
MEASURED = [
    ((64, 100, 100, 100, 10), 1, 32, False, 3.7, 10.8),
    ((64, 100, 100, 100, 10), 1, 32, True, 4.7, 57),
    ((64, 100, 100, 100, 10), 32, 32, False, 50, 88),
    ((64, 100, 100, 100, 10), 32, 32, True, 53, 106),
    ((784, 100, 100, 100, 10), 1, 10, False, 15, 26),
    ((784, 100, 100, 100, 10), 1, 10, True, 17, 120),
    ((784, 300, 150, 10), 1, 20, True, 41, 350),
    ((784, 300, 150, 10), 1, 20, False, 36, 140),
    ((784, 300, 150, 10), 32, 20, False, 570, 777),
    ((784, 300, 150, 10), 32, 20, True, 600, 878),
    ((17, 64, 64, 6), 64, 64, False, 22, 54),
    ((17, 64, 64, 6), 64, 64, True, 24, 54),
    # Fewer members than lanes.
    ((64, 100, 100, 100, 10), 1, 2, False, 17, 99),
    ((64, 100, 100, 100, 10), 32, 6, False, 75, 254),
    ((784, 300, 150, 10), 1, 3, False, 91, 76),
    ((784, 300, 150, 10), 1, 9, False, 58, 75),
    ((784, 300, 150, 10), 32, 3, False, 1370, 620),
    ((784, 300, 150, 10), 32, 6, True, 834, 952),
    ((17, 64, 64, 6), 64, 6, False, 34, 122),
]


@functools.cache
def drafted(sizes, batch, members, with_cbp):
    model = fcbp.nets.mlp(sizes[0], sizes[1:-1], sizes[-1])
    units = fcbp.find_units(model, torch.zeros(batch, sizes[0]))
    method = fcbp.methods.cbp() if with_cbp else None
    learner = fcbp.make_learner(model, units, loss="cross_entropy", method=method)
    numbers = fcbp.Hyperparams(*(torch.full((members,), value) for value in (1e-4, 100.0, 0.99)))
    hyper = fcbp.LearnerHyperparams(torch.full((members,), 0.003), method=numbers if with_cbp else ())

    def step(carry, example):
        state, info = learner.step(carry[0], example, carry[1])
        return (state, carry[1]), info["loss"]

    state = torch.vmap(learner.init)(torch.stack([fcbp.random.key(i) for i in range(members)]))
    examples = torch.rand(1, members, batch, sizes[0]), torch.randint(sizes[-1], (1, members, batch))
    return torch.vmap(step), (state, hyper), examples


@pytest.fixture(autouse=True, scope="module")
def _machine():
    """The one that was measured on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes.build, "lanes", lambda: 16)
        patch.setattr(cost, "splits_vectors", lambda: True)
        patch.setattr(cost, "caches", lambda: cost.Caches(1 << 20, 32 << 20))
        patch.setattr(choice, "_programs", weakref.WeakKeyDictionary())
        yield
    drafted.cache_clear()


@pytest.mark.parametrize(("sizes", "batch", "members", "with_cbp", "ours", "theirs"), MEASURED)
def test_the_faster_backend_is_chosen(sizes, batch, members, with_cbp, ours, theirs):
    chosen = loop.explain(*drafted(sizes, batch, members, with_cbp)).backend
    taken = ours if chosen == "lanes" else theirs
    assert taken <= 1.1 * min(ours, theirs)


@pytest.mark.parametrize(("sizes", "batch", "members", "with_cbp", "ours", "theirs"), MEASURED[:9:3])
def test_estimates_are_of_the_measured_order(sizes, batch, members, with_cbp, ours, theirs):
    step, carry, examples = drafted(sizes, batch, members, with_cbp)
    leaves, spec = optree.tree_flatten(carry)
    program, count = choice.lane_program(step, leaves, spec, examples)
    for estimate, measured in zip(program.seconds(count), (ours, theirs), strict=True):
        assert 0.5 < estimate / count * 1e6 / measured < 2


def test_blocks_are_halved_where_that_is_clearly_faster(monkeypatch):
    small, wide = ((17, 64, 64, 6), 1), ((784, 300, 150, 10), 1)
    words = lambda sizes, members: loop.explain(*drafted(*sizes, members, False)).reason  # noqa: E731
    cases = (small, 5), (small, 16), (wide, 16)  # 16 wide networks do not fit the caches
    assert ["8 to a block" in words(*case) for case in cases] == [True, False, True]
    monkeypatch.setattr(cost, "splits_vectors", lambda: False)
    assert ["8 to a block" in words(*case) for case in cases] == [True, False, False]


def test_more_members_than_lanes_fill_change_the_choice():
    shapes = (784, 300, 150, 10), 32
    few, many = (loop.explain(*drafted(*shapes, members, False)) for members in (1, 32))
    assert (few.backend, many.backend) == ("scan", "lanes")
    assert "7 of 8 lanes idle" in few.reason
