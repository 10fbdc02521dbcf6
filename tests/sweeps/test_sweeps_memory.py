"""Chunks: how many members run at once, and what happens where they do not fit."""

import itertools

import numpy as np
import pytest
import torch

import fcbp
from fcbp.experiment import ExperimentMaker, build_program
from fcbp.sweeps import advance, memory, plan, population
from fcbp.sweeps.chunk import Advanced, Split
from fcbp.sweeps.execution import Execution, Interrupted

EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=40, bin=20)
MEMBERS = {"seed": [0, 1, 2], "replacement_rate": [0.0, 0.1]}


def sweep(members=MEMBERS, **options):
    return fcbp.sweep(EXPERIMENT, members, progress=False, **options)


@pytest.fixture(scope="module")
def whole():
    return sweep()


@pytest.fixture
def sizes(monkeypatch):
    """``(members, streams)`` of every call of the loop."""
    found = []
    scan = advance.loop.scan

    def recorded(step, carry, xs, **options):
        found.append((len(carry[-1]), xs[0].shape[1]))
        return scan(step, carry, xs, **options)

    monkeypatch.setattr(advance.loop, "scan", recorded)
    return found


def equal(found, expected):
    """To the last bits where the number of members is another: the draws are the same, sums are in another order."""
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found["units_replaced"], expected["units_replaced"])


# --- what fits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 4, 5, 100])
def test_chunks_give_what_the_whole_gives(whole, sizes, at_once):
    equal(sweep(members_at_once=at_once), whole)
    assert len(set(sizes)) == 1, "one program serves all chunks"
    assert sizes[0][0] == {1: 1, 4: 3, 5: 3, 100: 6}[at_once], "chunks are of nearly equal size"


def test_the_last_chunk_is_padded(sizes):
    members = {"seed": [0, 1, 2, 3, 4], "replacement_rate": 0.1}
    expected = sweep(members)
    sizes.clear()
    equal(sweep(members, members_at_once=2), expected)
    assert sizes == [(2, 2)] * 6


def test_chunks_are_what_the_free_memory_holds(whole, sizes, monkeypatch):
    program = build_program([EXPERIMENT])
    side_by_side = population.population(program, compile=False, device="cpu")
    two = side_by_side.start([0, 1], [EXPERIMENT.numbers()] * 2, 2, 2)
    per_member = memory.COPIES * advance.size_of((two.members, two.settings)) // 2
    per_member += advance.size_of(two.problem) // 2
    free = (2 * memory.PIECE_BYTES + 2.5 * per_member) / memory.USED
    monkeypatch.setattr(memory, "available", lambda device: free)
    equal(sweep(), whole)
    assert {size for size, _ in sizes} == {2}
    member = (0, EXPERIMENT.numbers())
    assert memory.members_that_fit(side_by_side, [member], "cpu", workers=2) == 1
    monkeypatch.setattr(memory, "available", lambda device: 0)
    assert memory.members_that_fit(side_by_side, [member], "cpu") == 1


@pytest.mark.parametrize("stream", ["permuted-inputs", "random-labels", "class-pairs", "growing-classes"])
def test_members_over_data_have_their_weights_and_state_and_the_data_once(stream):
    run = fcbp.Experiment(stream=stream, optimizer="adam", hidden=(8,), metrics=("accuracy",))
    program = build_program([run])
    side_by_side = population.population(program, compile=False, device="cpu")
    one, many = (side_by_side.start(list(range(n)), [run.numbers()] * n, n, n) for n in (1, 500))
    learner = one.members
    own = advance.size_of((learner.params, learner.opt_state, learner.method, learner.buffers))
    assert advance.size_of(one.members) == own
    assert advance.size_of(one.problem) == 2 * 8, "a key and the number of the step"
    for field in one._fields:
        assert advance.size_of(getattr(many, field)) == 500 * advance.size_of(getattr(one, field))
    # What makes the examples holds the images as they are loaded, those of another program too.
    images = fcbp.data.load("digits").train.inputs
    held = [build.stream.at.__self__.pixels for build in (program, build_program([run.replace(step_size=0.1)]))]
    pointers = {pixels.constants(torch.device("cpu"))["train"].data_ptr() for pixels in held}
    assert len(pointers) == 1
    assert images.numel() == held[0].constants(torch.device("cpu"))["train"].numel()


def test_on_cuda_what_members_take_is_measured(monkeypatch):
    """Without a GPU: the measurement's two readings give the memory of a member and what all share."""
    monkeypatch.setattr(memory, "_peak", lambda side_by_side, runs, count, device: 1000 + 10 * count)
    monkeypatch.setattr(memory, "available", lambda device: 10_000)
    assert memory.members_that_fit(None, [], "cuda:0") == (0.8 * 10_000 - 1000) // 10


def test_free_memory_of_this_machine():
    assert 1 << 20 < memory.available("cpu") < 1 << 50


@pytest.mark.parametrize(
    ("members", "at_once", "workers", "expected"),
    [
        (10, 100, 1, [10]),
        (10, 7, 1, [5, 5]),
        (10, 4, 1, [4, 4, 2]),
        (10, 100, 3, [4, 4, 2]),
        (2, 100, 8, [1, 1]),
        (7, 1, 1, [1] * 7),
    ],
)
def test_members_are_divided_evenly(members, at_once, workers, expected):
    divided = plan.divide(
        plan.Plan(ExperimentMaker(EXPERIMENT), fcbp.grid(seed=range(members)), 10, 10, False), [at_once], workers
    )
    assert [len(chunk.members) for chunk in divided] == expected
    assert list(itertools.chain(*(chunk.members for chunk in divided))) == list(range(members))
    assert [chunk.id for chunk in divided] == list(range(len(expected)))
    assert {(chunk.size, chunk.streams) for chunk in divided} == {(expected[0], expected[0])}


def test_programs_have_chunks_of_their_own():
    members = fcbp.grid(activation=["relu", "tanh"], seed=range(3))
    divided = plan.divide(plan.Plan(ExperimentMaker(EXPERIMENT), members, 10, 10, False), [2, 2])
    assert [(chunk.group, chunk.members) for chunk in divided] == [
        (0, (0, 1)), (0, (2,)), (1, (3, 4)), (1, (5,)),
    ]  # fmt: skip


@pytest.mark.parametrize(("steps", "most"), [(1, 1000), (10, 3), (999, 1000), (2001, 1000), (3, 2)])
def test_pieces(steps, most):
    lengths = list(plan.pieces(steps, most))
    assert sum(lengths) == steps
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1


def test_pieces_are_short_where_examples_are_large(sizes, monkeypatch):
    expected = sweep()
    sizes.clear()
    carry_bytes = (3 + 6) * (20 + 1) * 4 + 6 * 8  # drawn for each stream, then laid out for each member
    monkeypatch.setattr(advance, "PIECE_BYTES", 10 * carry_bytes)
    found = sweep()
    assert len(sizes) == 4
    np.testing.assert_array_equal(found["loss"], expected["loss"])


# --- what does not fit ----------------------------------------------------------------------------------

SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]


def short_of_memory(monkeypatch, most, error=SHORT[0], from_call=0):
    """The loop fails for more than ``most`` members, from its so-manieth call on."""
    scan = advance.loop.scan
    calls = itertools.count()

    def limited(step, carry, xs, **options):
        if len(carry[-1]) > most and next(calls) >= from_call:
            raise error
        return scan(step, carry, xs, **options)

    monkeypatch.setattr(advance.loop, "scan", limited)


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_a_chunk_that_does_not_fit_is_halved(whole, sizes, monkeypatch, error):
    short_of_memory(monkeypatch, 2, error)
    with pytest.warns(UserWarning, match=r"members do not fit into memory \(.*\); going on with") as said:
        equal(sweep(), whole)
    assert [str(warning.message).split("with ")[-1] for warning in said] == ["3 at once", "2 at once"]
    assert {size for size, _ in sizes} == {2}


def test_memory_that_runs_short_midway_loses_no_step(whole, monkeypatch):
    monkeypatch.setattr(advance, "PIECE", 5)
    seen = []
    handle = Execution._handle
    monkeypatch.setattr(Execution, "_handle", lambda self, event: (handle(self, event), seen.append(event)))
    short_of_memory(monkeypatch, 3, from_call=3)
    with pytest.warns(UserWarning, match="6 members do not fit"):
        equal(sweep(), whole)
    steps = [event.step for event in seen if isinstance(event, Advanced)]
    assert steps == [5, 10, 15, *range(20, 41, 5), *range(20, 41, 5)]


def test_chunks_that_wait_are_made_smaller_too(whole, monkeypatch):
    seen = []
    handle = Execution._handle
    monkeypatch.setattr(Execution, "_handle", lambda self, event: (handle(self, event), seen.append(event)))
    short_of_memory(monkeypatch, 2)
    with pytest.warns(UserWarning, match="3 members do not fit"):
        equal(sweep(members_at_once=3), whole)
    assert [type(event) for event in seen].count(Split) == 1


def test_a_sweep_that_was_halved_and_killed_goes_on(whole, monkeypatch, tmp_path):
    monkeypatch.setattr(advance, "PIECE", 5)
    handle = Execution._handle
    count = itertools.count()

    def stopped(self, event):
        handle(self, event)
        self.stop.asked |= next(count) == 9

    with monkeypatch.context() as patch:
        short_of_memory(patch, 3, from_call=2)
        patch.setattr(Execution, "_handle", stopped)
        with pytest.warns(UserWarning, match="6 members do not fit"), pytest.raises(Interrupted):
            sweep(out=tmp_path, checkpoint_every=0)
    equal(fcbp.resume(tmp_path, progress=False), whole)


def test_one_member_that_does_not_fit_is_an_error(monkeypatch, tmp_path):
    short_of_memory(monkeypatch, 0)
    with (
        pytest.warns(UserWarning, match="do not fit"),
        pytest.raises(MemoryError, match="a single member does not fit into the memory of cpu: CUDA out of memory"),
    ):
        sweep(out=tmp_path)
    assert fcbp.sweeps.state(tmp_path) == "failed"


def test_other_errors_are_not_taken_for_it(monkeypatch):
    short_of_memory(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        sweep()


@pytest.mark.parametrize("value", [1, "scan"])
def test_compiling_is_yes_or_no(value):
    with pytest.raises(ValueError, match=f"compile is {value!r}; expected True or False or None"):
        sweep(compile=value)


@pytest.mark.parametrize("value", [0, -1, 2.0, True])
def test_a_bad_number_of_members(value):
    with pytest.raises(ValueError, match=f"members_at_once is {value}"):
        sweep(members_at_once=value)
