"""Streams of tasks over data: promises, orders, settings."""

import inspect
import math

import numpy as np
import pytest
import task_walk
import torch
from hypothesis import given
from hypothesis import strategies as st
from task_cases import COLOUR, KEY, MADE, STREAMS, TEST_X, TEST_Y, X, Y, same

import fcbp
from fcbp import streams
from fcbp.streams.tasks import domain, shuffle
from fcbp.streams.tasks.engine import Common

EVERY = pytest.mark.parametrize("name", STREAMS)


# --- what every stream promises ------------------------------------------------------------------------------


def test_every_task_is_in_the_table():
    assert {name.split(",")[0] for name in STREAMS} == {
        name
        for name in streams.tasks.__all__
        if inspect.signature(getattr(streams.tasks, name)).return_annotation == "Stream"
    }


@EVERY
def test_batches_are_what_the_spec_says(name):
    stream = STREAMS[name]()
    _, (inputs, targets) = stream.sample(stream.init(fcbp.random.key(0)), 30)
    batch = inputs.shape[1]
    assert inputs.shape == (30, batch, *stream.spec.input_shape)
    assert inputs.dtype == stream.spec.dtype == torch.float32
    assert targets.shape == (30, batch)
    assert targets.dtype == torch.int64
    assert stream.spec.kind == "classification"
    assert targets.min() >= 0
    assert targets.max() < stream.spec.outputs


@EVERY
def test_pieces_are_the_whole(name):
    stream = STREAMS[name](task_signal=True)
    state = start = stream.init(fcbp.random.key(3))
    whole_state, whole = stream.sample(start, 70)
    parts = []
    for piece in (1, 19, 2, 31, 17):
        state, part = stream.sample(state, piece)
        parts.append(part)
    same(state, whole_state)
    same(tuple(torch.cat(column) for column in zip(*parts, strict=True)), whole)


@EVERY
@pytest.mark.parametrize("before", [0, 1, 11, 45])
def test_windows_hold_what_sample_gives(name, before):
    stream = STREAMS[name](task_signal=True)
    state = stream.init(fcbp.random.key(4))
    state = stream.skip(state, before) if before else state
    after, batches = stream.sample(state, 40)
    same(stream.skip(state, 40), after)
    window = stream.window(state, 45)  # one that reaches further
    for i in (0, 17, 39):
        same(stream.at(window, torch.tensor(i)), tuple(part[i] for part in batches))
    same(
        stream.at(window, torch.arange(6).reshape(2, 3)),
        tuple(part[:6].reshape(2, 3, *part.shape[1:]) for part in batches),
    )


@EVERY
def test_members_are_the_loop_and_those_of_one_key_share_all(name):
    stream = STREAMS[name]()
    keys = fcbp.random.key(torch.tensor([0, 1, 0, 2]))
    states = torch.vmap(stream.init)(keys)
    states, batches = torch.vmap(lambda s: stream.sample(s, 33))(states)
    tests = torch.vmap(stream.held_out)(states) if stream.held_out else ()
    for i, key in enumerate(keys):
        one, alone = stream.sample(stream.init(key), 33)
        same(torch.utils._pytree.tree_map(lambda leaf: leaf[i], (states, batches)), (one, alone))  # noqa: B023
        same(tuple(part[i] for part in tests), stream.held_out(one) if stream.held_out else ())
    same(*(tuple(part[i] for part in batches) for i in (0, 2)))
    assert not torch.equal(batches[0][0], batches[0][1])


@EVERY
def test_the_window_may_be_of_many_members(name):
    stream = STREAMS[name]()
    states = torch.vmap(stream.init)(fcbp.random.key(torch.arange(3)))
    windows = torch.vmap(lambda s: stream.window(s, 20))(states)
    made_ = torch.vmap(stream.at)(windows, torch.tensor([0, 7, 19]))
    _, batches = torch.vmap(lambda s: stream.sample(s, 20))(states)
    same(made_, tuple(torch.stack([part[i, t] for i, t in enumerate((0, 7, 19))]) for part in batches))


@EVERY
def test_states_are_small_whatever_the_data(name):
    state = STREAMS[name]().init(fcbp.random.key(0))
    assert sum(leaf.numel() for leaf in state) == 2
    window = STREAMS[name]().window(state, 100)
    assert all(isinstance(leaf, torch.Tensor) for leaf in torch.utils._pytree.tree_leaves(window))


@EVERY
def test_the_data_are_read_where_they_are(name):
    maker = STREAMS[name]().at.__self__
    held = maker.pixels.constants(torch.device("cpu"))
    there = maker.kind.dataset.train.inputs
    assert held["train"].data_ptr() == held["train flat"].data_ptr() == there.data_ptr()


def test_a_window_of_mnists_size_fits_beside_a_members_state():
    images = (np.zeros((100, 1, 28, 28), np.uint8), np.arange(100) % 10)
    stream = streams.permuted_inputs(images, task_length=1000)
    window = stream.window(stream.init(KEY), 1000)
    assert sum(leaf.numel() * leaf.element_size() for leaf in torch.utils._pytree.tree_leaves(window)) <= 1 << 13


@EVERY
def test_sampling_changes_nothing_and_reads_no_global_state(name):
    stream = STREAMS[name]()
    state = stream.init(fcbp.random.key(0))
    before = [leaf.clone() for leaf in state]
    torch.manual_seed(0)
    first = stream.sample(state, 20)
    torch.manual_seed(1)
    same(stream.sample(state, 20), first)
    same(list(state), before)


@EVERY
def test_a_task_signal_is_true_where_a_task_begins_but_not_the_first(name):
    stream = STREAMS[name](task_signal=True)
    _, (*_, signal) = stream.sample(stream.init(fcbp.random.key(0)), 90)
    assert signal.dtype == torch.bool
    starts = signal.nonzero().flatten().tolist()
    assert starts
    assert starts[0] > 0
    if stream.task_length is not None:
        assert starts == list(range(stream.task_length, 90, stream.task_length))
    elif len(starts) > 1:
        assert len(set(np.diff([0, *starts]))) > 1


@EVERY
def test_a_test_set_is_of_the_task_whose_batch_was_the_last(name):
    stream = STREAMS[name](task_signal=True)
    if stream.held_out is None:
        assert name.startswith("random_labels")
        return
    state = stream.init(fcbp.random.key(0))
    _, (*_, signal) = stream.sample(state, 80)
    first = int(signal.nonzero()[0])  # of the second task
    begin = stream.held_out(state)
    inputs, targets = begin
    assert inputs.shape[1:] == stream.spec.input_shape
    assert len(inputs) == len(targets) > 0
    same(stream.held_out(stream.skip(state, first)), begin)
    later = stream.held_out(stream.skip(state, first + 1))
    assert any(not torch.equal(x, y) for x, y in zip(begin, later, strict=True)) or "growing_data" in name


# --- the order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [*range(1, 40), 97, 255, 256, 257, 1437, 1797, 2048, 10_007])
def test_an_order_is_a_permutation(size):
    made_ = shuffle(fcbp.random.key(1), torch.arange(3), torch.arange(size).expand(3, -1), domain(size))
    assert (made_.sort(-1).values == torch.arange(size)).all()
    if size > 10:
        assert not torch.equal(made_[0], made_[1])


@given(size=st.integers(1, 500), number=st.integers(0, 1 << 40), seed=st.integers(0, 2**62))
def test_an_order_is_that_of_the_walk(size, number, seed):
    key = fcbp.random.key(seed)
    places = torch.arange(0, size, max(1, size // 7))
    made_ = shuffle(key, torch.tensor(number), places, domain(size)).tolist()
    walked = task_walk.shuffled(int(key) % (1 << 64), number, size)
    assert made_ == [walked[i] for i in places]


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_every_permutation_of_few_is_as_frequent(size):
    draws = 20_000
    made_ = shuffle(fcbp.random.key(size), torch.arange(draws), torch.arange(size).expand(draws, -1), domain(size))
    codes = (made_ * torch.tensor([size**i for i in range(size)])).sum(-1)
    counts = np.unique(codes.numpy(), return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    freedom = len(counts) - 1
    chi = ((counts - draws / len(counts)) ** 2 / (draws / len(counts))).sum()
    assert chi < freedom + 4 * math.sqrt(2 * freedom) + 4  # p < 0.001 or so


@pytest.mark.parametrize("size", [47, 70, 300, 1437])
def test_orders_look_random(size):
    draws = 2_000
    made_ = shuffle(fcbp.random.key(size), torch.arange(draws), torch.arange(size).expand(draws, -1), domain(size))
    # A permutation has one fixed point on average, with variance 1; so has one order against the next.
    for hits in ((made_ == torch.arange(size)).sum(-1), (made_[1:] == made_[:-1]).sum(-1)):
        assert abs(hits.double().mean() - 1) < 4 / math.sqrt(draws)
        assert abs(hits.double().var() - 1) < 4 * math.sqrt(3 / draws)
    for lag in (1, domain(size).high):  # neighbours, and those of one digit
        gaps = ((made_[:, lag:] - made_[:, :-lag]) % size).flatten().bincount(minlength=size)[1:].double()
        expected = gaps.sum() / (size - 1)
        chi = float(((gaps - expected) ** 2 / expected).sum())
        assert abs(chi - (size - 2)) < 4.5 * math.sqrt(2 * (size - 2))


# --- data and settings -----------------------------------------------------------------------------------------------


def test_arrays_are_data():
    pairs = [(X, Y), (torch.from_numpy(X), torch.from_numpy(Y)), (X, Y.astype(np.uint8)), [X, Y]]
    expected = streams.permuted_inputs(MADE, batch_size=3)
    for pair in pairs:
        stream = streams.permuted_inputs(pair, batch_size=3)
        same(stream.sample(stream.init(KEY), 20), expected.sample(expected.init(KEY), 20))
        assert stream.held_out is None
    stream = streams.permuted_inputs((X, Y, TEST_X, TEST_Y), batch_size=3)
    same(stream.held_out(stream.init(KEY)), expected.held_out(expected.init(KEY)))


def test_features_are_given_as_they_are():
    features = np.random.default_rng(0).normal(size=(20, 7))
    stream = streams.permuted_labels((features, np.arange(20) % 4), batch_size=20)
    _, (inputs, _) = stream.sample(stream.init(KEY), 1)
    assert stream.spec.input_shape == (7,)
    np.testing.assert_array_equal(np.sort(inputs[0].numpy(), 0), np.sort(features.astype(np.float32), 0))


def test_a_test_set_can_be_smaller():
    stream = streams.permuted_labels(MADE, batch_size=1, test_examples=10)
    inputs, _ = stream.held_out(stream.init(KEY))
    np.testing.assert_array_equal(inputs.numpy(), task_walk.images(TEST_X)[[i * 23 // 10 for i in range(10)]])


def test_inputs_keep_their_shape_or_are_flat():
    for name, build in (("permuted_inputs", streams.permuted_inputs), ("class_pairs", streams.class_pairs)):
        assert build(COLOUR, flatten=True).spec.input_shape == (108,), name
        assert build(COLOUR, flatten=False).spec.input_shape == (3, 6, 6), name
    assert streams.permuted_inputs(COLOUR).spec.input_shape == (108,)
    assert streams.permuted_labels(COLOUR).spec.input_shape == (3, 6, 6)


def test_signatures_and_documentation_show_the_settings_that_all_have():
    for name in ("permuted_inputs", "hard_and_easy", "growing_data"):
        build = getattr(streams, name)
        parameters = inspect.signature(build).parameters
        for field in Common.__dataclass_fields__:
            assert field in parameters
            assert f"{field}: " in build.__doc__
    assert inspect.signature(streams.hard_and_easy).parameters["task_length"].default == 780
    assert inspect.signature(streams.permuted_inputs).parameters["flatten"].default is True


NAN = np.full((20, 3), np.nan)


@pytest.mark.parametrize(
    ("build", "arguments", "settings", "message"),
    [
        ("permuted_inputs", (MADE,), {"batch_size": 0}, "batch_size is 0"),
        ("permuted_inputs", (MADE,), {"batch_size": True}, "batch_size is True"),
        ("permuted_inputs", (MADE,), {"batch_size": 48}, "batch_size is 48; expected at most the 47 examples"),
        ("permuted_inputs", (MADE,), {"subset": 48}, "subset is 48; expected 1 to the 47 examples of made"),
        ("permuted_inputs", (MADE,), {"subset": 4, "batch_size": 5}, "batch_size is 5; expected at most the 4"),
        ("permuted_inputs", (MADE,), {"epochs": 0}, "epochs is 0"),
        ("permuted_inputs", (MADE,), {"task_length": 1.5}, "task_length is 1.5"),
        ("permuted_inputs", (MADE,), {"task_length": 5, "epochs": 2}, "epochs is 2 and task_length is 5; expected one"),
        ("permuted_inputs", (MADE,), {"pass_length": 48}, "pass_length is 48 batches of 1; expected at most the 47"),
        ("permuted_inputs", (MADE,), {"gradual": -1}, "gradual is -1"),
        ("permuted_inputs", (MADE,), {"gradual": 47}, "gradual is 47; expected fewer than the 47 batches of a task"),
        ("permuted_inputs", (MADE,), {"normalise": "units"}, "normalise is 'units'.*did you mean 'unit'"),
        ("permuted_inputs", (MADE,), {"flip": True}, "expected none of them where pixels are permuted"),
        ("permuted_inputs", (MADE,), {"task_signal": 1}, "task_signal is 1; expected True or False"),
        ("permuted_inputs", (MADE,), {"first_task_permuted": 0}, "first_task_permuted is 0"),
        ("permuted_inputs", (MADE,), {"bath_size": 3}, "setting is 'bath_size'.*did you mean 'batch_size'"),
        ("permuted_labels", (MADE,), {"crop": 4}, "crop is 4; expected less than the images' 4 pixels"),
        ("permuted_labels", (MADE,), {"crop": -1}, "crop is -1"),
        ("permuted_labels", (MADE,), {"rotation": (10.0, 0.0)}, "rotation is"),
        ("permuted_labels", (MADE,), {"rotation": 15.0}, "rotation is 15.0"),
        ("permuted_labels", ((np.ones((20, 3)), Y[:20]),), {"flip": True}, "images"),
        ("permuted_labels", ((NAN, Y[:20]),), {}, "NaN or infinite"),
        ("permuted_labels", ((X, Y[:20]),), {}, r"train targets are \(20,\)"),
        ("permuted_labels", ((X, Y - 1),), {}, "a train target is -1"),
        ("permuted_labels", ((X, Y / 2),), {}, "train targets are .*float64"),
        ("permuted_labels", ((X.astype(np.int32), Y),), {}, "train inputs are torch.int32"),
        ("permuted_labels", ((X,),), {}, "data is tuple of 1"),
        ("permuted_labels", ("digits",), {}, "data is 'digits'; expected a fcbp.data.Dataset"),
        ("permuted_labels", ((X.tolist(), Y),), {}, "inputs are list; expected a tensor"),
        ("permuted_labels", ((X[:0], Y[:0]),), {}, "no example to learn from"),
        ("permuted_labels", ((X, Y * 0),), {}, "outputs is 1; expected 2 classes or more"),
        ("random_labels", (MADE,), {"labels": "shuffle"}, "did you mean 'shuffled'"),
        ("class_pairs", (MADE,), {"classes_per_task": 6}, "classes_per_task is 6; expected 1 to the 5 classes of made"),
        ("class_pairs", (MADE,), {"per_class": 10}, "per_class is 10; expected 1 to the 9 examples of each class"),
        ("class_pairs", (MADE,), {"numbering": "tasks"}, "did you mean 'task'"),
        ("class_pairs", ((X, Y + 1),), {}, "has no example of class '0'"),
        ("growing_classes", (MADE,), {"increment": 0}, "increment is 0"),
        ("growing_data", (MADE,), {"increment": 0}, "increment is 0"),
        ("growing_data", (MADE,), {"sizes": (30, 20)}, "sizes is .*; expected numbers of examples that grow"),
        ("growing_data", (MADE,), {"sizes": (30, 48)}, "sizes is .*grow to 47 at most"),
        (
            "growing_data",
            (MADE,),
            {"increment": 5, "batch_size": 6},
            "batch_size is 6; expected at most the 5 examples",
        ),
        ("hard_and_easy", (MADE,), {"batch_size": 2}, r"hard \+ easy is 6; expected 1 to the 5 classes of made"),
        ("hard_and_easy", (MADE,), {"hard": 0}, "hard is 0"),
        ("hard_and_easy", (MADE,), {"hard": 2}, "batch_size is 32; expected at most the 9 examples of a task"),
    ],
)
def test_bad_settings_are_told(build, arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        getattr(streams, build)(*arguments, **settings)


@pytest.mark.parametrize("length", [0, -1, 1.5])
def test_bad_lengths(length):
    stream = streams.permuted_labels(MADE)
    with pytest.raises(ValueError, match=f"length is {length}"):
        stream.sample(stream.init(KEY), length)
    with pytest.raises(ValueError, match=f"length is {length}"):
        stream.skip(stream.init(KEY), length)


def test_a_key_is_needed():
    with pytest.raises(ValueError, match="key is 0"):
        streams.permuted_labels(MADE).init(0)
