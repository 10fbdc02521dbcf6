"""Tasks inside compiled loops: the examples that a loop makes are those that eager gives, to the bit."""

import numpy as np
import pytest
import torch
from test_tasks import COLOUR

import fcbp
from fcbp import loop, streams

MEMBERS, STEPS = 5, 40

FEATURES = (np.random.default_rng(0).normal(size=(47, 12)), np.arange(47) % 5)
IN_LANES = {
    "permuted_inputs": lambda: streams.permuted_inputs(FEATURES, batch_size=3, epochs=2, task_signal=True),
    "random_labels": lambda: streams.random_labels(FEATURES, batch_size=3, subset=30, gradual=2),
    "class_pairs": lambda: streams.class_pairs(FEATURES, batch_size=4, epochs=2),
    "growing_classes": lambda: streams.growing_classes(FEATURES, batch_size=4, increment=2, epochs=2),
    "hard_and_easy": lambda: streams.hard_and_easy(FEATURES, batch_size=4, hard=3, easy=1, task_length=11),
}


def step_of(stream):
    """A step that makes its example and adds up what it was."""

    def step(carry, _):
        window, index, seen, sums = carry
        inputs, targets, *_ = stream.at(window, index)
        inputs = inputs.flatten(1)
        # Exact, but for inputs that differ: the last bits of each are kept apart.
        seen = torch.maximum(seen, inputs * (index + 1))
        return (window, index + 1, seen, sums + targets * (index + 1)), ()

    return step


def carry_of(stream):
    states = torch.vmap(stream.init)(fcbp.random.key(torch.arange(MEMBERS)))
    windows = torch.vmap(lambda state: stream.window(state, STEPS))(states)
    _, (inputs, *_) = stream.sample(stream.init(fcbp.random.key(0)), 1)
    size = stream.spec.input_shape
    batch = inputs.shape[1]
    return (
        windows,
        torch.zeros(MEMBERS, dtype=torch.int64),
        torch.full((MEMBERS, batch, int(np.prod(size))), -1e9),
        torch.zeros(MEMBERS, batch, dtype=torch.int64),
    )


def compare(stream, backend):
    step, carry = torch.vmap(step_of(stream)), carry_of(stream)
    nothing = torch.zeros(STEPS, MEMBERS)
    made, _ = loop.scan(step, carry, nothing, backend="eager")
    compiled, _ = loop.scan(step, carry, nothing, backend=backend)
    for mine, theirs in zip(compiled[1:], made[1:], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.compiled
@pytest.mark.parametrize("name", IN_LANES)
def test_lanes_make_the_examples_that_eager_makes(name):
    compare(IN_LANES[name](), "lanes")


@pytest.mark.compiled
def test_scans_make_the_examples_that_eager_makes():
    # One graph: the compiler takes a minute for it.
    compare(streams.permuted_inputs(COLOUR, batch_size=2, gradual=4, normalise="published"), "scan")
