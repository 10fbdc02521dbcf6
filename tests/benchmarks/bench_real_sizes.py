"""The sizes that people publish with: CBP's cost, capacity, the choice of a backend, and the arithmetic's floor."""

from __future__ import annotations

import itertools
from typing import Any

import floor
import problems
import pytest
import torch
from conftest import Contestant
from table import Row

import fcbp
from fcbp import methods

ROWS = {
    "64-100-100-100-10, batch 1, 32 members": ((64, 100, 100, 100, 10), 1, 32, 300),
    "64-100-100-100-10, batch 32, 32 members": ((64, 100, 100, 100, 10), 32, 32, 50),
    "784-100-100-100-10, batch 1, 10 members": ((784, 100, 100, 100, 10), 1, 10, 200),
    "784-300-150-10, batch 1, 20 members": ((784, 300, 150, 10), 1, 20, 100),
    "784-300-150-10, batch 32, 20 members": ((784, 300, 150, 10), 32, 20, 20),
    "17-64-64-6, batch 64, 64 members": ((17, 64, 64, 6), 64, 64, 30),
}
"""Sizes, batch, members and steps."""


def jobs(name: str) -> tuple[dict[str, problems.Job], int]:
    """With SGD alone, with CBP by default and with a capacity of 1; and the member-steps of a run."""
    sizes, batch, members, steps = ROWS[name]
    model = fcbp.nets.mlp(sizes[0], sizes[1:-1], sizes[-1])
    units = fcbp.find_units(model, torch.zeros(batch, sizes[0]))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(steps, members, batch, sizes[0], generator=generator)
    xs = (inputs, torch.randint(sizes[-1], inputs.shape[:3], generator=generator))
    kinds = {"SGD": methods.backprop(), "CBP": methods.cbp(), "CBP, capacity 1": methods.cbp(capacity=1)}
    made = {
        kind: problems.job(model, units, xs, members=members, method=method, loss="cross_entropy")
        for kind, method in kinds.items()
    }
    return made, members * steps


@pytest.mark.parametrize("name", ROWS)
def test_real_sizes_cost_of_cbp_and_of_its_default(contest: Any, report: Any, name: str) -> None:
    made, work = jobs(name)
    sizes, batch, *_ = ROWS[name]
    most = 0.15 if batch == 1 else 0.05
    medians = contest(
        name,
        {f"fcbp {kind}": Contestant(made[kind].run, work) for kind in ("CBP", "SGD", "CBP, capacity 1")},
        f">= {1 / (1 + most):.3g} (costs <= {most:.0%})",
        lambda ratio: ratio >= 1 / (1 + most),
    )
    # Forward and update, and backward in all layers but the first.
    multiply_adds = sum((2 if i == 0 else 3) * a * b for i, (a, b) in enumerate(itertools.pairwise(sizes))) * batch
    bound = multiply_adds * floor.seconds_per_multiply_add()
    own = medians["fcbp SGD"]
    row = Row(f"{name}: arithmetic", 1, "fcbp SGD", own, "floor", bound, bound / own, ">= 0.5", bound / own >= 0.5)
    report(row)


@pytest.mark.parametrize("kind", ["SGD", "CBP"])
@pytest.mark.parametrize("name", ROWS)
def test_real_sizes_choice_of_a_backend(contest: Any, name: str, kind: str) -> None:
    made, work = jobs(name)
    job = made[kind]
    chosen = fcbp.loop.explain(job.step, job.carry, job.xs).backend
    other = {"lanes": "scan", "scan": "lanes"}[chosen]
    contest(
        f"{name}: {kind}, the backend that is chosen",
        {f"fcbp {name}": Contestant(lambda name=name: job.run(backend=name), work) for name in (chosen, other)},
        ">= 0.91",
        lambda ratio: ratio >= 1 / 1.1,
        rounds=5,
    )
