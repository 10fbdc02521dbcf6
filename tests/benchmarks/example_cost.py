"""What it costs to make an example inside the loop, over steps to which examples are given: permuted images of MNIST's
size, batch 1, a network 784-100-100-100-10 with CBP, members in lanes, both in turn.

``python tests/benchmarks/example_cost.py [--members 30] [--length 200] [--rounds 7]``

Times are CPU time on one thread; the ratio is the median over rounds of the ratio in a round. The given examples lie in
memory before the clock starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from in_turn import over_first, seconds_in_turn
from torch import Tensor

import fcbp
from fcbp import loop, methods, random, streams
from fcbp.learner import LearnerHyperparams, make_learner

TASK = 1_000


def images() -> tuple[np.ndarray, np.ndarray]:
    """60,000 made-up images of 28x28, and labels."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (60_000, 1, 28, 28), dtype=np.uint8), draw.integers(0, 10, 60_000)


def runners(members: int, length: int) -> dict[str, Callable[[], Tensor]]:
    """Runs of ``length`` steps that wait for the losses ``(length, members)``: examples given, and made."""
    stream = streams.permuted_inputs(images(), task_length=TASK)
    model = fcbp.nets.mlp(784, (100, 100, 100), 10)
    units = fcbp.find_units(model, torch.zeros(2, 784))
    learner = make_learner(model, units, loss="cross_entropy", method=methods.cbp())
    hyper = LearnerHyperparams(0.003, fcbp.Hyperparams(replacement_rate=1e-5))
    keys = random.split(random.key(0), members)
    start = torch.vmap(learner.init)(keys)
    states = torch.vmap(stream.init)(keys)
    windows = torch.vmap(lambda state: stream.window(state, length))(states)
    _, given = torch.vmap(lambda state: stream.sample(state, length), out_dims=(0, 1))(states)

    def with_given(state: Any, batch: Any) -> Any:
        state, info = learner.step(state, batch, hyper)
        return state, info["loss"]

    def making(carry: Any, _: Any) -> Any:
        window, index, state = carry
        state, info = learner.step(state, stream.at(window, index), hyper)
        return (window, index + 1, state), info["loss"]

    zeros, nothing = torch.zeros(members, dtype=torch.int64), torch.zeros(length, members)
    return {
        "given": lambda: loop.scan(torch.vmap(with_given), start, given, backend="lanes")[1],
        "made": lambda: loop.scan(torch.vmap(making), (windows, zeros, start), nothing, backend="lanes")[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=30)
    parser.add_argument("--length", type=int, default=200, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = runners(options.members, options.length)
    torch.testing.assert_close(runs["made"](), runs["given"](), rtol=0, atol=0)
    for name, (median, ratio) in over_first(seconds_in_turn(runs, options.rounds)).items():
        each = median / options.length / options.members * 1e6
        print(f"{name}: {each:.3g} us a member and step, {ratio - 1:+.1%} over given (aim: 15%)", flush=True)


if __name__ == "__main__":
    main()
