"""ResNet-18 on 32x32 images, members side by side and compiled, against each member trained alone in an eager loop.

``python tests/benchmarks/resnet_members.py [--members 8] [--steps 20] [--batch 2]``

Prints what compiling took, the time of a step, how many units were replaced, and how far the losses of all steps are
from the loop's: of one run of all steps, in which a rounding grows from step to step, and of single steps that each
start from the loop's state.
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
        return (state, hyper), (info["loss"], sum(mask.sum() for mask in info["replaced"].values()))

    together = torch.vmap(step)
    start = time.perf_counter()
    loop.scan(together, (states, hyper), (images[:2], labels[:2]), backend="scan")
    print(f"first call, two steps: {time.perf_counter() - start:.0f} s", flush=True)
    start = time.perf_counter()
    _, (losses, replaced) = loop.scan(together, (states, hyper), (images, labels), backend="scan")
    print(f"a step of {members} members: {(time.perf_counter() - start) / steps:.2f} s", flush=True)

    alone = [optree.tree_map(lambda leaf: leaf[i], (states, hyper)) for i in range(members)]  # noqa: B023
    expected, number = torch.zeros(steps, members), torch.zeros(steps, members, dtype=torch.int64)
    singly = torch.zeros(steps, members)
    for t in range(steps):
        carry = optree.tree_map(lambda *leaves: torch.stack(leaves), *alone)
        piece = slice(t, t + 2) if t + 2 <= steps else slice(t - 1, t + 1)
        if piece.start == t:
            singly[t] = loop.scan(together, carry, (images[piece], labels[piece]), backend="scan")[1][0][0]
        for i in range(members):
            alone[i], (expected[t, i], number[t, i]) = step(alone[i], (images[t, i], labels[t, i]))
    print(f"units replaced: {int(replaced.sum())}, in the loop {int(number.sum())}")
    print(f"steps with the loop's numbers of units replaced: {int((replaced == number).all(1).sum())} of {steps}")
    apart = ((losses - expected) / expected).abs()
    print("largest relative difference of a loss, by step:", " ".join(f"{x:.0e}" for x in apart.amax(1)))
    print(f"single steps from the loop's states: {((singly - expected) / expected).abs()[:-1].max():.0e}")


if __name__ == "__main__":
    main()
