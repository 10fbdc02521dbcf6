"""Tasks over data sets: what every stream promises, and each problem against an independent walk in NumPy."""

import inspect
import itertools
import math

import numpy as np
import pytest
import task_walk
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp import data, streams
from fcbp.streams.tasks import domain, shuffle
from fcbp.streams.tasks.engine import Common


def made(n=47, classes=5, shape=(1, 4, 4), seed=0, test=23):
    """A data set of made-up images; classes have different numbers of examples."""
    rng = np.random.default_rng(seed)
    parts = [
        data.Split(
            torch.from_numpy(rng.integers(0, 256, (size, *shape), dtype=np.uint8)),
            torch.from_numpy(rng.permutation(np.arange(size) % classes)),
        )
        for size in (n, test)
    ]
    channels = shape[0]
    published = data.Normalisation(tuple(0.1 + 0.1 * i for i in range(channels)), (0.3,) * channels)
    return data.Dataset("made", *parts, normalisation=published)


MADE = made()
COLOUR = made(40, 4, (3, 6, 6), seed=1)

STREAMS = {
    "permuted_inputs": lambda **o: streams.permuted_inputs(MADE, **{"batch_size": 3, **o}),
    "permuted_inputs, first as it is": lambda **o: streams.permuted_inputs(
        MADE, **{"batch_size": 2, "subset": 31, "first_task_permuted": False, "epochs": 2, "gradual": 5, **o}
    ),
    "permuted_inputs, colours": lambda **o: streams.permuted_inputs(
        COLOUR, **{"batch_size": 4, "normalise": "published", "flatten": False, "task_length": 7, **o}
    ),
    "permuted_labels": lambda **o: streams.permuted_labels(MADE, **{"batch_size": 1, "task_length": 13, **o}),
    "permuted_labels, gradual": lambda **o: streams.permuted_labels(
        MADE, **{"batch_size": 3, "subset": 30, "gradual": 6, "reshuffle": False, "epochs": 2, **o}
    ),
    "random_labels": lambda **o: streams.random_labels(MADE, **{"batch_size": 4, "subset": 21, "epochs": 3, **o}),
    "random_labels, uniform": lambda **o: streams.random_labels(
        MADE, **{"batch_size": 4, "labels": "uniform", "gradual": 4, **o}
    ),
    "class_pairs": lambda **o: streams.class_pairs(MADE, **{"batch_size": 5, "epochs": 2, **o}),
    "class_pairs, augmented": lambda **o: streams.class_pairs(
        COLOUR,
        **{
            "batch_size": 6,
            "new_order": True,
            "flip": True,
            "crop": 2,
            "rotation": (0.0, 15.0),
            "gradual": 2,
            "normalise": "published",
            **o,
        },
    ),
    "growing_classes": lambda **o: streams.growing_classes(MADE, **{"batch_size": 4, "increment": 2, "epochs": 2, **o}),
    "growing_classes, gradual": lambda **o: streams.growing_classes(
        MADE, **{"batch_size": 4, "increment": 2, "task_length": 9, "gradual": 3, "numbering": "class", **o}
    ),
    "growing_data": lambda **o: streams.growing_data(MADE, **{"batch_size": 3, "increment": 10, "epochs": 2, **o}),
    "growing_data, two phases": lambda **o: streams.growing_data(
        MADE, **{"batch_size": 3, "sizes": (20, 40), "gradual": 2, "normalise": "symmetric", **o}
    ),
    "hard_and_easy": lambda **o: streams.hard_and_easy(
        MADE, **{"batch_size": 2, "hard": 3, "easy": 1, "task_length": 11, **o}
    ),
    "hard_and_easy, epochs": lambda **o: streams.hard_and_easy(
        MADE, **{"batch_size": 2, "hard": 2, "easy": 1, "epochs": 2, "numbering": "task", **o}
    ),
}
EVERY = pytest.mark.parametrize("name", STREAMS)


def same(a, b):
    one, other = (torch.utils._pytree.tree_leaves(tree) for tree in (a, b))
    assert len(one) == len(other)
    for x, y in zip(one, other, strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


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


# --- each problem, walked through in NumPy --------------------------------------------------------------------------

KEY = fcbp.random.key(11)
WORD = int(KEY) % (1 << 64)
CHANGED = task_walk.fold_in(WORD, task_walk.CHANGE)
X, Y = MADE.train.inputs.numpy(), MADE.train.targets.numpy()
TEST_X, TEST_Y = MADE.test.inputs.numpy(), MADE.test.targets.numpy()


def check_walk(stream, walk, length):
    """The first batches, and the test sets after each of them, against ``walk``: (inputs, targets) of each batch."""
    _, (inputs, targets) = stream.sample(stream.init(KEY), length)
    for t, (x, y) in enumerate(itertools.islice(walk, length)):
        np.testing.assert_array_equal(targets[t].numpy(), y, err_msg=f"targets of batch {t}")
        np.testing.assert_allclose(inputs[t].numpy(), x, rtol=1e-6, atol=1e-6, err_msg=f"inputs of batch {t}")


def check_test(stream, batches, x, y):
    inputs, targets = stream.held_out(stream.skip(stream.init(KEY), batches))
    np.testing.assert_array_equal(targets.numpy(), y)
    np.testing.assert_array_equal(inputs.numpy(), x)


def subset(size):
    rows = task_walk.shuffled(task_walk.fold_in(WORD, task_walk.SUBSET), 0, len(Y))
    return rows[:size] if size else list(range(len(Y)))


@pytest.mark.parametrize("size", [None, 30])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("form", [{}, {"epochs": 2}, {"task_length": 8}, {"epochs": 2, "reshuffle": False}])
def test_permuted_inputs_walked(size, first, form):
    rows = subset(size)

    def order(task):
        return range(16) if task == 0 and not first else task_walk.permutation(task_walk.fold_in(CHANGED, task), 16)

    def walk():
        for task, _, positions in task_walk.batches(WORD, itertools.repeat(len(rows)), batch_size=4, **form):
            chosen = [rows[p] for p in positions]
            yield task_walk.images(X[chosen].reshape(4, 16)[:, order(task)]), Y[chosen]

    stream = streams.permuted_inputs(MADE, batch_size=4, subset=size, first_task_permuted=first, **form)
    check_walk(stream, walk(), 45)
    length = stream.task_length
    for batches, task in ((length, 0), (length + 1, 1), (3 * length, 2)):
        check_test(stream, batches, task_walk.images(TEST_X.reshape(-1, 16)[:, order(task)]), TEST_Y)


@pytest.mark.parametrize(
    ("normalise", "mean", "sd"), [("unit", 0, 1), ("symmetric", 0.5, 0.5), ("published", None, 0.3)]
)
def test_pixels_keep_the_mean_of_their_channel_when_they_are_permuted(normalise, mean, sd):
    x = COLOUR.train.inputs.numpy()
    mean = (0.1, 0.2, 0.3) if mean is None else mean
    order = task_walk.permutation(task_walk.fold_in(CHANGED, 0), 108)
    mean, sd = (tuple(float(np.float32(v)) for v in np.atleast_1d(values)) for values in (mean, sd))
    expected = task_walk.images(x, 255, mean, sd).reshape(-1, 108)[:, order]
    stream = streams.permuted_inputs(COLOUR, batch_size=40, normalise=normalise)
    _, (inputs, _) = stream.sample(stream.init(KEY), 1)
    (_, _, positions) = next(task_walk.batches(WORD, [40], batch_size=40))
    np.testing.assert_array_equal(inputs[0].numpy(), expected[positions])


@pytest.mark.parametrize("size", [None, 30])
def test_permuted_labels_walked(size):
    rows = subset(size)

    def labels(task):
        return np.array(task_walk.permutation(task_walk.fold_in(CHANGED, task), 5))

    def walk():
        for task, _, positions in task_walk.batches(
            WORD, itertools.repeat(len(rows)), batch_size=2, task_length=18, pass_length=7
        ):
            chosen = [rows[p] for p in positions]
            yield task_walk.images(X[chosen]), labels(task)[Y[chosen]]

    stream = streams.permuted_labels(MADE, batch_size=2, subset=size, task_length=18, pass_length=7)
    check_walk(stream, walk(), 60)
    check_test(stream, 19, task_walk.images(TEST_X), labels(1)[TEST_Y])


def test_random_labels_walked():
    rows = subset(30)

    def walk():
        for task, _, positions in task_walk.batches(WORD, itertools.repeat(30), batch_size=5, epochs=2):
            other = task_walk.shuffled(CHANGED, task, 30)
            yield task_walk.images(X[[rows[p] for p in positions]]), Y[[rows[other[p]] for p in positions]]

    check_walk(streams.random_labels(MADE, batch_size=5, subset=30, epochs=2), walk(), 40)


def test_shuffled_labels_keep_the_classes_counts_and_uniform_ones_are_uniform():
    stream = streams.random_labels(MADE, batch_size=47, epochs=1)
    _, (_, targets) = stream.sample(stream.init(KEY), 30)
    expected = MADE.train.targets.bincount()
    assert all(torch.equal(task.bincount(), expected) for task in targets)
    stream = streams.random_labels(MADE, batch_size=47, labels="uniform", epochs=2)
    _, (inputs, targets) = stream.sample(stream.init(KEY), 200)
    counts = targets[::2].flatten().bincount().double()
    assert ((counts - 940) ** 2 / 940).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001
    # Within a task an image has one label.
    for task in range(5):
        seen = {}
        for x, y in zip(
            inputs[2 * task : 2 * task + 2].flatten(0, 1), targets[2 * task : 2 * task + 2].flatten(), strict=True
        ):
            assert seen.setdefault(x.numpy().tobytes(), int(y)) == int(y)


@pytest.mark.parametrize("numbering", ["task", "arrival", "class"])
@pytest.mark.parametrize("new_order", [False, True])
def test_class_pairs_walked(numbering, new_order):
    def classes(task):
        cycle, at = divmod(task, 2)  # 5 classes are two pairs
        order = task_walk.permutation(task_walk.fold_in(CHANGED, cycle if new_order else 0), 5)
        return order[2 * at : 2 * at + 2], 2 * at

    def rows_of(task, targets, per_class):
        pair, first = classes(task)
        rows = [(row, j) for j, c in enumerate(pair) for row in task_walk.of_class(targets, c, per_class)]
        return [(row, {"task": j, "arrival": first + j, "class": pair[j]}[numbering]) for row, j in rows]

    def walk():
        for task, _, positions in task_walk.batches(WORD, itertools.repeat(18), batch_size=4, epochs=2):
            rows, labels = zip(*(rows_of(task, Y, 9)[p] for p in positions), strict=True)
            yield task_walk.images(X[list(rows)]), labels

    stream = streams.class_pairs(MADE, batch_size=4, epochs=2, numbering=numbering, new_order=new_order)
    check_walk(stream, walk(), 60)
    for batches, task in ((8, 0), (9, 1), (17, 2)):
        rows, labels = zip(*rows_of(task, TEST_Y, 4), strict=True)
        check_test(stream, batches, task_walk.images(TEST_X[list(rows)]), labels)
    assert stream.spec.outputs == (2 if numbering == "task" else 5)


@pytest.mark.parametrize("numbering", ["arrival", "class"])
def test_growing_classes_walked(numbering):
    order = task_walk.permutation(task_walk.fold_in(CHANGED, 0), 5)

    def rows_of(known, targets, per_class):
        rows = [(row, j) for j, c in enumerate(order[:known]) for row in task_walk.of_class(targets, c, per_class)]
        return [(row, j if numbering == "arrival" else order[j]) for row, j in rows]

    def walk():
        known = [2, 4, 5]  # of 8 images each; the last goes on
        for task, _, positions in task_walk.batches(WORD, (8 * k for k in known), batch_size=3, epochs=2):
            rows, labels = zip(*(rows_of(known[task], Y, 8)[p] for p in positions), strict=True)
            yield task_walk.images(X[list(rows)]), labels

    stream = streams.growing_classes(MADE, increment=2, batch_size=3, epochs=2, per_class=8, numbering=numbering)
    check_walk(stream, walk(), 10 + 20 + 26)
    assert stream.task_length is None
    # 4 test images a class: of 8 of the first task's each one comes as often as another, or once more.
    for batches, known in ((5, 2), (11, 4), (31, 5), (500, 5)):
        rows, labels = zip(*(rows_of(known, TEST_Y, 4)[i * 4 * known // 20] for i in range(20)), strict=True)
        check_test(stream, batches, task_walk.images(TEST_X[list(rows)]), labels)


def test_the_last_of_growing_tasks_goes_on():
    stream = streams.growing_classes(MADE, increment=2, batch_size=3, epochs=2, per_class=8)
    state = stream.skip(stream.init(KEY), 10 + 20)
    _, (_, targets) = stream.sample(state, 13 * 9)
    for epoch in range(9):
        assert (targets[13 * epoch : 13 * epoch + 13].flatten().bincount() >= 7).all()


@pytest.mark.parametrize("sizes", [(), (20, 33)])
def test_growing_data_walked(sizes):
    order = task_walk.shuffled(task_walk.fold_in(WORD, task_walk.SUBSET), 0, len(Y))
    grown = sizes or (15, 30, 45, 47)

    def walk():
        for _, _, positions in task_walk.batches(WORD, grown, batch_size=4, epochs=2):
            chosen = [order[p] for p in positions]
            yield task_walk.images(X[chosen]), Y[chosen]

    stream = streams.growing_data(MADE, increment=15, sizes=sizes, batch_size=4, epochs=2)
    check_walk(stream, walk(), sum(2 * (n // 4) for n in grown))
    check_test(stream, 1, task_walk.images(TEST_X), TEST_Y)


@pytest.mark.parametrize("form", [{"task_length": 11}, {"epochs": 2}])
def test_hard_and_easy_walked(form):
    order = task_walk.permutation(task_walk.fold_in(CHANGED, 0), 5)
    turns = [order[:3], order[3:4]]  # 3 + 1 of 5 classes: then the order begins again

    def walk():
        sizes = itertools.cycle([27, 9])
        for task, _, positions in task_walk.batches(WORD, sizes, batch_size=2, **form):
            pairs = [(row, c) for c in turns[task % 2] for row in task_walk.of_class(Y, c, 9)]
            rows, labels = zip(*(pairs[p] for p in positions), strict=True)
            yield task_walk.images(X[list(rows)]), labels

    stream = streams.hard_and_easy(MADE, hard=3, easy=1, batch_size=2, **form)
    check_walk(stream, walk(), 75)


def test_hard_and_easy_have_no_class_twice():
    many = made(200, 20)
    stream = streams.hard_and_easy(many, hard=5, easy=1, batch_size=5, task_length=10)
    _, (_, targets) = stream.sample(stream.init(KEY), 60)
    of_tasks = [set(task.flatten().tolist()) for task in targets.reshape(6, -1)]
    assert [len(classes) for classes in of_tasks] == [5, 1, 5, 1, 5, 1]
    assert len(set.union(*of_tasks)) == 18


# --- gradual changes ------------------------------------------------------------------------------------------------


def test_inputs_change_by_equal_steps():
    stream = streams.permuted_inputs(MADE, batch_size=47, epochs=9, gradual=3)
    at_once = streams.permuted_inputs(MADE, batch_size=47, epochs=9)
    _, (inputs, targets) = stream.sample(stream.init(KEY), 27)
    _, (new, same_targets) = at_once.sample(at_once.init(KEY), 27)
    assert torch.equal(targets, same_targets)
    orders = [task_walk.permutation(task_walk.fold_in(CHANGED, task), 16) for task in range(3)]
    for t in range(27):
        task, within = divmod(t, 9)
        share = min(1, (within + 1) / 4) if task else 1
        plain = new[t][:, np.argsort(orders[task])]
        old = plain[:, orders[task - 1]] if task else plain
        torch.testing.assert_close(inputs[t], share * new[t] + (1 - share) * old)
        if share == 1:
            assert torch.equal(inputs[t], new[t])


def test_labels_change_example_by_example():
    settings = {"batch_size": 40, "epochs": 400, "subset": 40}
    stream, at_once = (streams.permuted_labels(MADE, **settings, gradual=g) for g in (300, 0))
    _, (inputs, targets) = stream.sample(stream.init(KEY), 800)
    _, (same_inputs, new) = at_once.sample(at_once.init(KEY), 800)
    assert torch.equal(inputs, same_inputs)
    labels = [task_walk.permutation(task_walk.fold_in(CHANGED, task), 5) for task in range(2)]
    old = torch.tensor(labels[0])[torch.tensor(np.argsort(labels[1]))[new[400:]]]
    is_new, is_old = targets[400:] == new[400:], targets[400:] == old
    assert (is_new | is_old).all()
    assert torch.equal(targets[:400], new[:400])
    assert is_new[300:].all()
    moved = new[400:] != old
    for third in range(3):
        part = slice(100 * third, 100 * third + 100)
        share = is_new[part][moved[part]].double().mean()
        assert abs(share - (third + 0.5) / 3) < 4 * 0.5 / math.sqrt(int(moved[part].sum()))


@pytest.mark.parametrize("name", [name for name in STREAMS if "inputs" not in name])
def test_gradual_tasks_are_made_of_the_old_and_the_new(name):
    lengths = {"epochs": None, "task_length": 14}
    stream, at_once = (STREAMS[name](**lengths, gradual=gradual, task_signal=True) for gradual in (3, 0))
    _, (inputs, targets, signal) = stream.sample(stream.init(KEY), 80)
    _, (plain, plain_targets, _) = at_once.sample(at_once.init(KEY), 80)
    first = int(signal.nonzero()[0])
    same((inputs[:first], targets[:first]), (plain[:first], plain_targets[:first]))
    second = first + 3
    end = int(signal.nonzero()[1]) if signal.sum() > 1 else 80
    same((inputs[second:end], targets[second:end]), (plain[second:end], plain_targets[second:end]))


# --- augmentation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flip", "crop", "rotation"),
    [(True, 0, (0.0, 0.0)), (False, 2, (0.0, 0.0)), (False, 0, (0.0, 90.0)), (True, 4, (-20.0, 15.0))],
)
def test_images_are_changed_as_the_walk_changes_them(flip, crop, rotation):
    settings = {"batch_size": 8, "normalise": "published", "task_length": 10}
    stream = streams.permuted_labels(COLOUR, **settings, flip=flip, crop=crop, rotation=rotation)
    plain = streams.permuted_labels(COLOUR, **settings)
    _, (inputs, targets) = stream.sample(stream.init(KEY), 12)
    _, (images, same_targets) = plain.sample(plain.init(KEY), 12)
    assert torch.equal(targets, same_targets)
    different = 0
    for number, (made_, image) in enumerate(
        zip(inputs.flatten(0, 1).numpy(), images.flatten(0, 1).numpy(), strict=True)
    ):
        np.testing.assert_array_equal(made_, task_walk.augmented(image, WORD, number, flip, crop, rotation))
        different += not np.array_equal(made_, image)
    assert different > 30


def test_a_quarter_turn_is_counter_clockwise():
    stream = streams.permuted_labels(COLOUR, batch_size=8, rotation=(90.0, 90.0))
    plain = streams.permuted_labels(COLOUR, batch_size=8)
    _, (inputs, _) = stream.sample(stream.init(KEY), 5)
    _, (images, _) = plain.sample(plain.init(KEY), 5)
    assert torch.equal(inputs, images.rot90(1, (-2, -1)))


def test_a_test_set_is_changed_only_where_asked_for():
    settings = {"batch_size": 8, "flip": True, "crop": 2}
    plain = streams.permuted_labels(COLOUR, batch_size=8)
    stream, changing = (streams.permuted_labels(COLOUR, **settings, augment_test=a) for a in (False, True))
    state = stream.init(KEY)
    same(stream.held_out(state), plain.held_out(state))
    inputs, targets = changing.held_out(state)
    assert torch.equal(targets, plain.held_out(state)[1])
    assert not torch.equal(inputs, plain.held_out(state)[0])


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
