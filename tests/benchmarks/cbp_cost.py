"""What CBP costs over plain backpropagation, and which part of it: compiled, all variants of a case in turn.

``python tests/benchmarks/cbp_cost.py mlp-1 mlp-100 convnet resnet18 [--members 1] [--length 20] [--rounds 7]
    [--replacement-rate 1e-4]``

Each variant is a program of its own, so a case compiles for minutes. Times are CPU time on one thread, which other work
on the machine lengthens only by what it takes of the memory's bandwidth; a ratio is the median over rounds of the ratio
in a round.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from in_turn import over_first, seconds_in_turn
from torch import Tensor, nn

import fcbp
from fcbp import loop, methods, optim, random
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.methods import Method

# Network, inputs of one example, momentum, batch, the cost aimed at.
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float, int, float]] = {
    "mlp-1": (lambda: fcbp.nets.mlp(784, (2000, 2000, 2000), 10), (784,), 0.0, 1, 0.08),
    "mlp-100": (lambda: fcbp.nets.mlp(784, (2000, 2000, 2000), 10), (784,), 0.0, 100, 0.10),
    "convnet": (lambda: fcbp.nets.ConvNet(2), (3, 32, 32), 0.9, 100, 0.05),
    "resnet18": (lambda: fcbp.nets.resnet18(100), (3, 32, 32), 0.9, 100, 0.10),
}


def utility_only(measure: str) -> Method:
    """CBP that measures and never replaces."""

    def update(state: Any, params: Any, opt_state: Any, buffers: Any, **given: Any) -> Any:
        state = fcbp.update_utility(
            state, params, given["features"], given["hyper"], units=given["units"], measure=measure
        )
        return params, opt_state, buffers, state, {"replaced": {}}

    return Method(fcbp.init_state, update)


VARIANTS: dict[str, Callable[[], Method]] = {
    "backprop": methods.backprop,
    "utility": lambda: utility_only("contribution"),
    "cbp": lambda: methods.cbp("contribution", capacity=1),
}


def runner(case: str, method: Method, batch: int, members: int, length: int, rate: float) -> Callable[[], Tensor]:
    """A run of ``length`` steps that waits for the units replaced, ``(length,)`` or ``(length, members)``."""
    make, shape, momentum, _, _ = CASES[case]
    torch.manual_seed(0)
    model = make()
    units = fcbp.find_units(model, torch.zeros(2, *shape))
    learner = make_learner(model, units, loss="cross_entropy", optimizer=optim.sgd(momentum), method=method)
    hyper = LearnerHyperparams(0.003, fcbp.Hyperparams(replacement_rate=rate, maturity_threshold=0))

    def step(state: Any, batch: Any) -> Any:
        state, info = learner.step(state, batch, hyper)
        return state, (info["loss"], sum((mask.sum() for mask in info["replaced"].values()), torch.tensor(0)))

    lead = (members,) if members > 1 else ()
    keys = random.split(random.key(0), members) if members > 1 else random.key(0)
    carry = (torch.vmap(learner.init) if members > 1 else learner.init)(keys)
    images = random.uniform(random.key(1), (length, *lead, batch, *shape))
    labels = random.randint(random.key(2), (length, *lead, batch), 0, 2)
    run_step = torch.vmap(step) if members > 1 else step
    return lambda: loop.scan(run_step, carry, (images, labels), backend="scan")[1][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--batch", type=int, help="instead of the case's own")
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--length", type=int, default=20, help="steps of a run")
    parser.add_argument("--replacement-rate", type=float, default=1e-4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in options.cases:
        batch = options.batch or CASES[case][3]
        runs = {
            f"{case}, {name}": runner(
                case, VARIANTS[name](), batch, options.members, options.length, options.replacement_rate
            )
            for name in options.variants
        }
        for name, (median, ratio) in over_first(seconds_in_turn(runs, options.rounds)).items():
            print(
                f"{name}, batch {batch}, {options.members} members: {median / options.length * 1e3:.3g} ms a step, "
                f"{ratio - 1:+.1%} over {options.variants[0]} (aim: {CASES[case][4]:.0%}), "
                f"{runs[name]().sum() / options.length:.2g} units replaced a step",
                flush=True,
            )


if __name__ == "__main__":
    main()
