"""What each method's step costs over plain backpropagation: compiled, members side by side, data given.

``python tests/benchmarks/method_cost.py [METHOD ...] [--members 500] [--length 100] [--rounds 15] [--capacity 1]
    [--backend lanes]``

The main job: a 20-5-1 network, batch 1, plain SGD, hyperparameters vmapped. Each method is a program of its own, and
all are timed in turn, round by round: CPU time on one thread, a ratio being the median over rounds of the ratio in a
round. Methods run with their defaults; ``--capacity`` is handed to those that take it. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from typing import Any

import optree
import torch
from in_turn import over_first, seconds_in_turn
from torch import Tensor

import fcbp
from fcbp import loop, random
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.methods import METHODS


def runner(name: str, members: int, length: int, capacity: int | None, backend: str) -> Callable[[], Tensor]:
    """A run of ``length`` steps that waits for its losses."""
    kind = METHODS[name]
    options: dict[str, Any] = {}
    if capacity is not None and "capacity" in inspect.signature(kind.build).parameters:
        options["capacity"] = capacity
    model = fcbp.nets.mlp(20, (5,), 1)
    units = fcbp.find_units(model, torch.zeros(1, 20))
    learner = make_learner(model, units, method=kind.build(**options))
    numbers = LearnerHyperparams(0.01, kind.hyperparams(**{n: values[0] for n, values in kind.grid.items()}))
    hyper = optree.tree_map(lambda x: torch.full((members,), x, dtype=torch.float64), numbers)

    def step(carry: Any, batch: Any) -> Any:
        state, hyper = carry
        state, info = learner.step(state, batch, hyper)
        return (state, hyper), info["loss"]

    state = torch.vmap(learner.init)(random.split(random.key(0), members))
    inputs = random.uniform(random.key(1), (length, members, 1, 20)).round()
    targets = random.normal(random.key(2), (length, members, 1, 1))
    signal = torch.zeros(length, members, dtype=torch.bool)
    side_by_side = torch.vmap(step)
    return lambda: loop.scan(side_by_side, (state, hyper), (inputs, targets, signal), backend=backend)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"by default all: {', '.join(METHODS)}")
    parser.add_argument("--members", type=int, default=500)
    parser.add_argument("--length", type=int, default=100, help="steps of a run")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--capacity", type=int, help="most units reset at once, for methods that take it")
    parser.add_argument("--backend", default="lanes", choices=["lanes", "scan"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["bp", *(name for name in options.methods or METHODS if name != "bp")]
    runs = {name: runner(name, options.members, options.length, options.capacity, options.backend) for name in names}
    seconds = seconds_in_turn(runs, options.rounds, tell=lambda line: print(line, file=sys.stderr, flush=True))
    print(f"| method | µs a step of {options.members} members | over plain backpropagation |\n|---|---|---|")
    for name, (median, ratio) in over_first(seconds).items():
        print(f"| `{name}` | {median / options.length * 1e6:.0f} | {ratio - 1:+.0%} |", flush=True)


if __name__ == "__main__":
    main()
