"""Each named problem, small and on made data, against a walk in NumPy: batches, tests, and the learner's weights."""

import itertools
import re

import numpy as np
import problem_walk
import pytest
import torch

import fcbp
from fcbp import data
from fcbp.experiment import PROBLEMS, over_data, parts
from fcbp.experiment.program import build_program

CLASSES = 8


def made(seed=0, n=120, test=41, shape=(3, 6, 6)):
    rng = np.random.default_rng(seed)
    splits = [
        (rng.integers(0, 256, (size, *shape), dtype=np.uint8), rng.permutation(np.arange(size) % CLASSES))
        for size in (n, test)
    ]
    mean, sd = (0.25, 0.5, 0.375), (0.25, 0.5, 0.25)  # exact in binary
    walked = problem_walk.Made(*splits[0], *splits[1], np.array(mean), np.array(sd))
    train, held_out = (data.Split(torch.from_numpy(x), torch.from_numpy(y)) for x, y in splits)
    return walked, data.Dataset("made", train, held_out, normalisation=data.Normalisation(mean, sd))


WALKED, MADE = made()

SMALL = {
    "permuted-digits": {},
    "random-label-digits": {"subset": 35, "epochs": 3},
    "permuted-mnist": {},
    "continual-imagenet": {"per_class": 11, "batch_size": 5, "epochs": 3},
    "incremental-cifar100": {"increment": 2, "validation": 4, "batch_size": 5, "epochs": 3, "milestones": (1, 2)},
    "input-permuted-mnist": {"task_length": 50},
    "label-permuted-emnist": {"task_length": 25},
    "label-permuted-cifar10": {"task_length": 25},
    "label-permuted-mini-imagenet": {"task_length": 25},
    "permuted-mnist-l2init": {"subset": 80},
    "random-label-mnist": {"subset": 33, "epochs": 4},
    "random-label-cifar10": {"subset": 33, "epochs": 4},
    "five-plus-one-cifar100": {"task_length": 12, "batch_size": 8, "hard": 2},
    "continual-imagenet-l2init": {"per_class": 13, "batch_size": 6, "epochs": 3},
    "permuted-mnist-swr": {},
    "warm-start-cifar10": {"subset": 60, "increment": 12, "epochs": 2, "batch_size": 5},
}
"""What makes a problem small; all else is as published, but the network and the method."""


@pytest.fixture(autouse=True)
def _made_data(monkeypatch):
    monkeypatch.setattr(over_data, "_loaded", lambda name, root=None: MADE)


def small(name):
    return PROBLEMS[name].experiment.replace(
        network="mlp", hidden=(7,), method="bp", step_size=0.02, metrics=("accuracy",), **SMALL[name]
    )


def walk_of(run, key):
    """The walk of a stream under its own key."""
    part = parts.stream(run.stream)
    return problem_walk.Walk(run.stream, WALKED, int(key) % (1 << 64), run.options(part))


def steps_of(walk, tasks=3):
    """The batches of the first tasks, and two more."""
    return 2 + sum(1 for _ in itertools.takewhile(lambda batch: batch.task < tasks, walk))


def numbers(program):
    return {n: torch.tensor(v, dtype=program.dtypes[n]) for n, v in program.settings().items()}


def test_every_problem_is_walked():
    assert set(SMALL) == set(PROBLEMS)


@pytest.mark.parametrize("name", PROBLEMS)
def test_batches_tests_and_validation_are_those_of_the_walk(name):
    run, key = small(name), fcbp.random.key(5)
    walk = walk_of(run, key)
    part = parts.stream(run.stream)
    stream = part.build(**run.options(part))
    state, steps = stream.init(key), steps_of(walk)
    _, batches = stream.sample(state, steps)
    for t, batch in enumerate(itertools.islice(walk, steps)):
        np.testing.assert_array_equal(batches[1][t].numpy(), batch.y, err_msg=f"targets of batch {t}")
        np.testing.assert_allclose(batches[0][t].flatten(1).numpy(), batch.x, rtol=1e-5, atol=1e-6)
        if batch.ends_task:
            after = stream.skip(state, t + 1)
            pairs = [(stream.held_out, walk.test), (stream.validation, walk.validation)]
            for held_out, of_walk in pairs:
                if held_out is not None:
                    inputs, targets = held_out(after)
                    x, y = of_walk(batch.task, len(targets))
                    np.testing.assert_array_equal(targets.numpy(), y)
                    np.testing.assert_allclose(inputs.flatten(1).numpy(), x.reshape(len(x), -1), rtol=1e-5, atol=1e-6)
    assert (stream.held_out is None) == (run.stream == "random-labels")
    assert (stream.validation is None) == (name != "incremental-cifar100")


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_learner_ends_where_that_of_the_walk_does(name):
    run, key = small(name), fcbp.random.key(5)
    walk = walk_of(run, fcbp.random.split(key)[0])  # a member's first key is its stream's
    steps = steps_of(walk)
    program, right = build_program([run]), []
    settings, state = numbers(program), program.stream.init(key)
    carry = program.init(key, settings)
    for step in range(1, steps + 1):
        state, batch = program.stream.sample(state, 1)
        carry, measured = program.step(carry, settings, tuple(part[0] for part in batch))
        right.append(float(measured["accuracy"]))
        if program.next_border and program.next_border(step - 1) == step:
            carry = program.border(carry, state, step)
    found = (carry.learner if program.next_border else carry).params
    drawn, fresh = _draws(run, key, state)
    options = {"momentum": run.momentum, "weight_decay": run.weight_decay} if run.optimizer == "sgd" else {}
    optimizer = {"sgd": problem_walk.SGD, "adam": problem_walk.Adam}[run.optimizer]
    params, accuracies = problem_walk.learn(
        walk, drawn, steps, step_size=run.step_size, optimizer=lambda: optimizer(**options), fresh=fresh
    )
    assert right == pytest.approx(accuracies)
    for leaf, expected in zip(found.values(), params, strict=True):
        np.testing.assert_allclose(leaf.numpy(), expected, rtol=2e-3, atol=2e-4)


def _draws(run, key, state):
    """The weights as they are drawn, and a function of the fresh draws before each task where they are asked for."""
    plain = {"shrink_before": 1.0, "perturb_before": 0.0, "fresh_moments": False, "zero_head": False}
    program = build_program([run.replace(**plain)])
    carry = program.init(key, numbers(program))
    drawn = (carry.learner if program.next_border else carry).params
    if not run.perturb_before:
        return _arrays(drawn), None
    # With everything shrunk away, what a border leaves is what it drew.
    only_fresh = build_program([run.replace(shrink_before=0.0, perturb_before=1.0)])
    start = only_fresh.init(key, numbers(only_fresh))
    ends = [0]
    while (end := only_fresh.next_border(ends[-1])) is not None:
        ends.append(end)
    draws = [_arrays(start.learner.params)]
    draws += [_arrays(only_fresh.border(start, state, step).learner.params) for step in ends[1:]]
    assert all(not np.allclose(a[0], b[0]) for a, b in itertools.combinations([*draws, _arrays(drawn)], 2))
    return _arrays(drawn), lambda task: draws[task]


def _arrays(params):
    return [leaf.double().numpy() for leaf in params.values()]


def test_means_of_the_published_code_of_upgd_come_from_bins_of_one_step():
    problem = PROBLEMS["input-permuted-mnist"]
    (recipe,) = (text for text in problem.departs if "coarsen" in text)
    chain = re.search(r"results (\.isel.*)\)$", recipe).group(1)
    task_length, steps = 10, 34
    run = small("input-permuted-mnist").replace(task_length=task_length, steps=steps, bin=1)
    results = fcbp.sweep(run, {"seed": range(2)}, compile=False, progress=False)
    found = eval(f"results{chain}", {"results": results, "slice": slice, "task_length": task_length})["accuracy"]
    for seed in range(2):
        # Their loop: a task is closed where its number of steps divides the step's number, which is so at step 0 too.
        means, task = [], []
        for i, accuracy in enumerate(results["accuracy"].sel(seed=seed).values):
            task.append(accuracy)
            if i % task_length == 0:
                means.append(np.mean(task))
                task = []
        np.testing.assert_allclose(found.sel(seed=seed).values, means[1:], rtol=1e-6)
