"""What every stream promises, for every row of ``stream_rows.STREAM_ROWS``.

A run in pieces is the run. ``at`` gives what ``sample`` gives, ``skip`` leads where ``sample`` leads. vmap is the loop.
No argument is modified, no global random state is read. The spec says what the examples are.
"""

import inspect

import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_rows import STREAM_ROWS, StreamRow, drifting_classes
from torch.overrides import TorchFunctionMode

import fcbp
from fcbp import streams
from fcbp.streams import Spec, Stream

rows = pytest.mark.parametrize("row", STREAM_ROWS, ids=lambda row: row.name)
lazy = pytest.mark.parametrize("row", [row for row in STREAM_ROWS if row.build().window], ids=lambda row: row.name)


def same(a, b):
    """Equal structure, dtypes and numbers, to the bit."""
    assert optree.tree_structure(a) == optree.tree_structure(b)
    for path, x, y in zip(optree.tree_paths(a), optree.tree_leaves(a), optree.tree_leaves(b), strict=True):
        assert x.dtype == y.dtype, path
        assert torch.equal(x, y), path


def started(stream, seed=0, batches=0):
    state = stream.init(fcbp.random.key(seed))
    return stream.sample(state, batches)[0] if batches else state


def stack(trees):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


@settings(max_examples=8)
@given(pieces=st.lists(st.integers(1, 25), min_size=2, max_size=4), seed=st.integers(0, 2**62))
@rows
def test_a_run_in_pieces_is_the_run(row, pieces, seed):
    check_pieces(row.build(), pieces, seed)


def check_pieces(stream, pieces, seed=0):
    state = start = started(stream, seed)
    whole_state, whole = stream.sample(start, sum(pieces))
    parts = []
    for piece in pieces:
        state, part = stream.sample(state, piece)
        assert all(len(entry) == piece for entry in part)
        parts.append(part)
    same(state, whole_state)
    same(tuple(torch.cat(entry) for entry in zip(*parts, strict=True)), tuple(whole))


@settings(max_examples=8)
@given(before=st.integers(1, 20), length=st.integers(1, 30), beyond=st.integers(0, 9), seed=st.integers(0, 2**62))
@lazy
def test_a_window_holds_what_sample_gives_and_skip_leads_where_it_leads(row, before, length, beyond, seed):
    check_windows(row.build(), before, length, beyond, seed)


def check_windows(stream, before, length, beyond=3, seed=0):
    state = started(stream, seed, before)
    after, batches = stream.sample(state, length)
    same(stream.skip(state, length), after)
    window = stream.window(state, length + beyond)
    for i in {0, length // 2, length - 1}:
        same(tuple(stream.at(window, torch.tensor(i))), tuple(entry[i] for entry in batches))
    same(tuple(stream.at(window, torch.arange(length))), tuple(batches))


@rows
def test_vmap_is_the_loop(row):
    stream = row.build()
    keys = fcbp.random.key(torch.arange(4))
    states = torch.vmap(stream.init)(keys)
    together = torch.vmap(lambda state: stream.sample(state, 15))(states)
    alone = [stream.sample(stream.init(key), 15) for key in keys]
    same(together, stack(alone))
    same(torch.vmap(lambda state: stream.sample(state, 3))(together[0]), stack([stream.sample(s, 3) for s, _ in alone]))
    if stream.held_out is not None:
        same(torch.vmap(stream.held_out)(together[0]), stack([stream.held_out(state) for state, _ in alone]))
    if stream.window is not None:
        windows = torch.vmap(lambda state: stream.window(state, 9))(states)
        found = torch.vmap(lambda window: stream.at(window, torch.tensor(8)))(windows)
        same(found, stack([stream.at(stream.window(stream.init(key), 9), torch.tensor(8)) for key in keys]))
        skipped = torch.vmap(lambda state: stream.skip(state, 15))(states)
        same(skipped, together[0])


class NoIndexWithoutAxes(TorchFunctionMode):
    """An older torch cannot vmap an index that is a tensor without axes, as a batched one may be."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(i, torch.Tensor) and not i.ndim for i in index), f"an index without axes: {index}"
        return function(*args, **kwargs or {})


@rows
def test_every_torch_can_vmap_the_indexing(row):
    stream = row.build()
    states = torch.vmap(stream.init)(fcbp.random.key(torch.arange(2)))
    with NoIndexWithoutAxes():
        states, _ = torch.vmap(lambda state: stream.sample(state, 15))(states)
        if stream.held_out is not None:
            torch.vmap(stream.held_out)(states)
        if stream.window is not None:
            windows = torch.vmap(lambda state: stream.window(state, 9))(states)
            torch.vmap(lambda window: stream.at(window, torch.tensor(8)))(windows)
            torch.vmap(lambda state: stream.skip(state, 15))(states)


@rows
def test_every_key_is_another_problem_and_the_same_key_the_same(row):
    stream = row.build()
    _, many = torch.vmap(lambda state: stream.sample(state, 15))(
        torch.vmap(stream.init)(fcbp.random.key(torch.arange(4)))
    )
    for entry in many[:2]:
        assert len({tuple(member.flatten().tolist()) for member in entry}) == 4
    same(row.build().sample(row.build().init(fcbp.random.key(3)), 15)[1], optree.tree_map(lambda x: x[3], many))


@rows
def test_no_argument_is_modified_and_no_global_state_is_read(row):
    stream = row.build()
    state = started(stream, batches=3)
    given = [state, fcbp.random.key(0)]
    before = [leaf.clone() for leaf in optree.tree_leaves(given)]
    versions = [leaf._version for leaf in optree.tree_leaves(given)]

    def all_of_it():
        results = [stream.init(given[1]), stream.sample(state, 8)]
        if stream.held_out is not None:
            results.append(stream.held_out(state))
        if stream.window is not None:
            results += [stream.at(stream.window(state, 8), torch.tensor(5)), stream.skip(state, 8)]
        return results

    torch.manual_seed(0)
    generator = torch.get_rng_state()
    first = all_of_it()
    assert torch.get_rng_state().equal(generator)
    torch.manual_seed(1)
    same(all_of_it(), first)
    assert [leaf._version for leaf in optree.tree_leaves(given)] == versions
    same(optree.tree_leaves(given), before)


@rows
def test_states_are_tensors_of_shapes_that_stay(row):
    stream = row.build()
    state = started(stream)
    for length in (1, 9, 2):
        new, _ = stream.sample(state, length)
        assert optree.tree_structure(new, none_is_leaf=True) == optree.tree_structure(state, none_is_leaf=True)
        for a, b in zip(optree.tree_leaves(new), optree.tree_leaves(state), strict=True):
            assert isinstance(a, torch.Tensor)
            assert not a.requires_grad
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
        state = new


def check_spec(stream, row):
    """Examples are what ``spec`` says, those held out as well."""
    spec = stream.spec
    state, batches = stream.sample(started(stream, 5), 40)
    assert len(batches) == 2 + row.signalled
    groups = [(batches[0], batches[1], (40, row.batch))]
    if stream.held_out is not None:
        inputs, targets = stream.held_out(state)
        groups.append((inputs, targets, inputs.shape[:1]))
    for inputs, targets, leading in groups:
        assert inputs.shape == (*leading, *spec.input_shape)
        assert inputs.dtype == spec.dtype
        assert inputs.isfinite().all()
        if spec.kind == "classification":
            assert targets.shape == leading
            assert targets.dtype == torch.int64
            assert 0 <= targets.min() <= targets.max() < spec.outputs
        else:
            assert targets.shape == (*leading, spec.outputs)
            assert targets.is_floating_point()
            assert targets.isfinite().all()
    if row.signalled:
        assert batches[2].shape == (40,)
        assert batches[2].dtype == torch.bool
        if stream.task_length is not None:
            assert batches[2].tolist() == [t > 0 and t % stream.task_length == 0 for t in range(40)]


@rows
def test_the_spec_says_what_the_examples_are(row):
    check_spec(row.build(), row)


@rows
def test_a_network_and_a_loss_can_be_made_of_the_spec(row):
    """One step of a learner that knows of the stream no more than its spec."""
    stream = row.build()
    spec = stream.spec
    model = torch.nn.Sequential(torch.nn.Flatten(), fcbp.nets.mlp(spec.input_shape[0], (5,), spec.outputs))
    loss = {"regression": "mse", "classification": "cross_entropy"}[spec.kind]
    learner = fcbp.make_learner(model, fcbp.find_units(model, torch.zeros(1, *spec.input_shape)), loss=loss)
    _, batches = stream.sample(started(stream), 1)
    batch = tuple(entry[0] for entry in batches)
    _, info = learner.step(learner.init(fcbp.random.key(0)), batch, fcbp.LearnerHyperparams())
    assert info["loss"].isfinite()


# --- the table is whole, and can fail ---------------------------------------------------------------------


def makers():
    """The public functions that give a stream."""
    functions = {name: getattr(streams, name) for name in streams.__all__ if inspect.isfunction(getattr(streams, name))}
    return {name for name, f in functions.items() if inspect.signature(f).return_annotation in (Stream, "Stream")}


def test_every_stream_has_a_row():
    """A stream that is added and not entered in the table has no promise tested."""
    assert {row.subject for row in STREAM_ROWS} == makers()
    assert len({row.name for row in STREAM_ROWS}) == len(STREAM_ROWS)


def broken(**functions):
    """A stream of the table with a fault."""
    return drifting_classes(lazily=True)._replace(**functions)


WHOLE = drifting_classes(lazily=True)


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_pieces(broken(sample=lambda s, n: (WHOLE.skip(s, n + 1), WHOLE.sample(s, n)[1])), [3, 4]),
        lambda: check_pieces(broken(sample=lambda s, n: (s, WHOLE.sample(s, n)[1])), [3, 4]),
        lambda: check_windows(broken(at=lambda w, i: WHOLE.at(w, i + 1)), 2, 9),
        lambda: check_windows(broken(skip=lambda s, n: WHOLE.skip(s, n + 1)), 2, 9),
        lambda: check_spec(broken(spec=Spec((2,), 2, "classification")), StreamRow("", "", broken, 4)),
        lambda: check_spec(broken(spec=Spec((2,), 3)), StreamRow("", "", broken, 4)),
        lambda: check_spec(broken(spec=Spec((2,), 3, "classification", torch.float64)), StreamRow("", "", broken, 4)),
        lambda: check_spec(
            broken(held_out=lambda s: tuple(x[:, None] for x in WHOLE.held_out(s))), StreamRow("", "", broken, 4)
        ),
    ],
)
def test_a_stream_with_a_fault_is_found(check):
    with pytest.raises(AssertionError):
        check()
