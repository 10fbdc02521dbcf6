"""Each problem, gradual changes and augmentation, walked through in NumPy."""

import itertools
import math

import numpy as np
import pytest
import task_walk
import torch
from task_cases import COLOUR, KEY, MADE, STREAMS, TEST_X, TEST_Y, X, Y, made, same

from fcbp import streams

WORD = int(KEY) % (1 << 64)


CHANGED = task_walk.fold_in(WORD, task_walk.CHANGE)


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
