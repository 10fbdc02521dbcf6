"""ResNet-18 on 32x32 images, members side by side and compiled, against each member trained alone in an eager loop.

``python tests/benchmarks/resnet_members.py [--members 8] [--steps 20] [--batch 2]``

Prints what compiling took, the time of a step, in how many steps the same units were replaced, and how far the losses
are from the loop's: of one run of all steps, in which a rounding grows from step to step, and of the step after one
that starts from the loop's state: an update, a reset and a forward pass.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import optree
import torch

import fcbp
from fcbp import loop, methods, optim, random
from fcbp.learner import LearnerHyperparams, make_learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    members, steps, batch = options.members, options.steps, options.batch

    torch.manual_seed(0)
    model = fcbp.nets.resnet18(100)
    units = fcbp.find_units(model, torch.zeros(2, 3, 32, 32))
    learner = make_learner(model, units, loss="cross_entropy", optimizer=optim.sgd(0.9), method=methods.cbp(capacity=1))
    hyper = LearnerHyperparams(
        torch.full((members,), 0.001),
        fcbp.Hyperparams(
            torch.full((members,), 1e-3, dtype=torch.float64), torch.full((members,), 3.0), torch.full((members,), 0.9)
        ),
    )
    states = torch.vmap(learner.init)(random.split(random.key(0), members))
    images = random.normal(random.key(1), (steps, members, batch, 3, 32, 32))
    labels = random.randint(random.key(2), (steps, members, batch), 0, 100)

    def step(carry: Any, batch: Any) -> Any:
        state, hyper = carry
        state, info = learner.step(state, batch, hyper)
        return (state, hyper), (info["loss"], info["replaced"])

    together = torch.vmap(step)
    start = time.perf_counter()
    loop.scan(together, (states, hyper), (images[:2], labels[:2]), backend="scan")
    print(f"first call, two steps: {time.perf_counter() - start:.0f} s", flush=True)
    start = time.perf_counter()
    _, (losses, replaced) = loop.scan(together, (states, hyper), (images, labels), backend="scan")
    print(f"a step of {members} members: {(time.perf_counter() - start) / steps:.2f} s", flush=True)

    alone = [optree.tree_map(lambda leaf: leaf[i], (states, hyper)) for i in range(members)]  # noqa: B023
    expected, after_one = torch.zeros(steps, members), torch.full((steps, members), torch.nan)
    agree = torch.ones(steps, dtype=torch.bool)
    number = 0
    for t in range(steps):
        carry = optree.tree_map(lambda *leaves: torch.stack(leaves), *alone)
        if t + 2 <= steps:
            piece = slice(t, t + 2)
            after_one[t + 1] = loop.scan(together, carry, (images[piece], labels[piece]), backend="scan")[1][0][1]
        for i in range(members):
            alone[i], (expected[t, i], masks) = step(alone[i], (images[t, i], labels[t, i]))
            agree[t] &= all(torch.equal(replaced[name][t, i], mask) for name, mask in masks.items())
            number += sum(int(mask.sum()) for mask in masks.values())
    print(f"units replaced in the loop: {number}; the same units in {int(agree.sum())} of {steps} steps")
    apart = ((losses - expected) / expected).abs()
    print("largest relative difference of a loss, by step:", " ".join(f"{x:.0e}" for x in apart.amax(1)))
    print(f"one step after the loop's state: {((after_one - expected) / expected).abs()[1:].max():.0e}")


if __name__ == "__main__":
    main()
