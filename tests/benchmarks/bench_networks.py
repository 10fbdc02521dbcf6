"""Larger networks: classifiers of pictures at batch 1, and a ConvNet at batch 100."""

from __future__ import annotations

from typing import Any

import floor
import original_style
import problems
import pytest
import torch
from conftest import Contestant
from table import Row

from fcbp import methods


@pytest.mark.parametrize("cores", [1, 2], indirect=True)
def test_large_network(contest: Any, report: Any, cores: int) -> None:
    length = 50
    xs = problems.digits(problems.LARGE, length)
    job = problems.job(*problems.mlp(problems.LARGE), xs, loss="cross_entropy")
    sgd = original_style.Learner(problems.LARGE, torch.nn.CrossEntropyLoss(), step_size=0.003, cbp=False)
    case = f"784-2000-2000-2000-10, batch 1, 1 member, {cores} core{'s' if cores > 1 else ''}"
    medians = contest(
        case,
        {
            "fcbp": Contestant(job.run, length),
            "eager torch.optim.SGD without CBP": Contestant(lambda: sgd.run(xs[0][:10], xs[1][:10]), 10),
        },
        ">= 1.54 (<= 0.65 of its time)",
        lambda ratio: ratio >= 1 / 0.65,
        rounds=7,
    )
    bound = floor.mlp_step_bytes(problems.LARGE) * floor.seconds_per_byte()
    ratio = bound / medians["fcbp"]
    report(
        Row(
            f"{case}: bandwidth", cores, "fcbp", medians["fcbp"], "memory floor", bound, ratio,
            ">= 0.74 (<= 1.35 of the floor)", ratio >= 1 / 1.35,
        )
    )  # fmt: skip


def test_ten_members_against_ten_runs(contest: Any) -> None:
    length, members = 100, 10
    xs = problems.digits(problems.SMALL, length, members)
    job = problems.job(*problems.mlp(problems.SMALL), xs, members=members, loss="cross_entropy")
    learners = [
        original_style.Learner(problems.SMALL, torch.nn.CrossEntropyLoss(), step_size=0.003) for _ in range(members)
    ]

    def in_turn() -> None:
        for i, learner in enumerate(learners):
            learner.run(xs[0][:20, i], xs[1][:20, i])

    contest(
        "784-100-100-100-10, 10 members against 10 runs in turn",
        {
            "fcbp": Contestant(job.run, length * members),
            "original-style": Contestant(in_turn, 20 * members),
        },
        ">= 12",
        lambda ratio: ratio >= 12,
    )


def _cost(contest: Any, case: str, jobs: dict[str, problems.Job], most: float) -> None:
    contest(
        case,
        {name: Contestant(job.run, job.length) for name, job in jobs.items()},
        f">= {1 / (1 + most):.3g} (costs <= {most:.0%})",
        lambda ratio: ratio >= 1 / (1 + most),
        rounds=7,
    )


def test_cost_of_cbp_in_the_large_network(contest: Any) -> None:
    xs = problems.digits(problems.LARGE, 50)
    network = problems.mlp(problems.LARGE)
    jobs = {
        "with CBP": problems.job(*network, xs, loss="cross_entropy"),
        "without": problems.job(*network, xs, loss="cross_entropy", method=methods.backprop()),
    }
    _cost(contest, "CBP's cost, 784-2000-2000-2000-10, batch 1", jobs, 0.08)


def test_cost_of_cbp_in_a_convnet(contest: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    length = 5
    inputs = torch.rand(length, 100, 3, 32, 32, generator=generator)
    xs = (inputs, torch.randint(2, (length, 100), generator=generator))
    network = problems.convnet()
    jobs = {
        "with CBP": problems.job(*network, xs, loss="cross_entropy", momentum=0.9),
        "without": problems.job(*network, xs, loss="cross_entropy", momentum=0.9, method=methods.backprop()),
    }
    _cost(contest, "CBP's cost, ConvNet, batch 100", jobs, 0.05)
