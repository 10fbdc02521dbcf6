"""The slowly-changing regression problem: a network of 20-5-1, batch 1, SGD and CBP."""

from __future__ import annotations

from typing import Any

import numpy as np
import original_style
import problems
import pytest
import torch
from conftest import Contestant

LENGTH = {1: 1000, 30: 1000, 500: 1000, 512: 1000, 2000: 250, 8000: 100}


def compiled(members: int | None, backend: str | None = None) -> Contestant:
    length = LENGTH[members or 1]
    job = problems.main_job(members, length)
    return Contestant(lambda: job.run(backend=backend), length * (members or 1))


def original(length: int = 300) -> Contestant:
    learner = original_style.Learner(problems.MAIN, torch.nn.MSELoss())
    inputs, targets = problems.bit_flipping(length, 1)
    return Contestant(lambda: learner.run(inputs[:, 0], targets[:, 0]), length)


def test_500_members_against_the_original_style(contest: Any) -> None:
    contest(
        "main job, 500 members",
        {"fcbp": compiled(500), "original-style": original()},
        ">= 1,500",
        lambda ratio: ratio >= 1500,
    )


def test_1_member_against_the_original_style(contest: Any) -> None:
    contest(
        "main job, 1 member",
        {"fcbp": compiled(None), "original-style": original()},
        ">= 25",
        lambda ratio: ratio >= 25,
    )


def test_eager_against_the_original_style(contest: Any) -> None:
    length = 100
    job = problems.main_job(None, length)
    contest(
        "main job, 1 member, eager, no vmap",
        {"fcbp eager": Contestant(lambda: job.run(compile=False), length), "original-style": original()},
        ">= 0.5",
        lambda ratio: ratio >= 0.5,
    )


def fastest_jax(members: int) -> dict[str, Contestant]:
    """The fastest way that JAX has of running so many members, by name."""
    jax_peer = pytest.importorskip("jax_peer", reason="pip install jax, to compare with it", exc_type=ImportError)
    length = LENGTH[members]
    xs = tuple(x.numpy() for x in problems.bit_flipping(length, members))
    rates = np.logspace(-5, -2, members)
    peers = {
        f"JAX {generator}{', unrolled by 4' if unroll > 1 else ''}": Contestant(
            jax_peer.runner(xs, rates, generator=generator, unroll=unroll), length * members
        )
        for generator in jax_peer.RANDOM[:2]
        for unroll in (1, 4)
    }
    times = {name: _fastest(peer) for name, peer in peers.items()}
    fastest = min(times, key=times.__getitem__)
    return {fastest: peers[fastest]}


def _fastest(peer: Contestant, rounds: int = 3) -> float:
    import time

    peer.run()
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        peer.run()
        seconds.append(time.process_time() - start)
    return min(seconds) / peer.work


@pytest.mark.parametrize(("members", "target"), [(1, 0.0), (30, 0.9), (500, 1.4), (2000, 2.0)])
def test_against_jax(contest: Any, members: int, target: float) -> None:
    contest(
        f"main job against JAX, {members} members",
        {"fcbp": compiled(members), **fastest_jax(members)},
        f">= {target}" if target else "",
        lambda ratio: ratio >= target,
    )


def test_growth(contest: Any) -> None:
    contest(
        "main job, growth: time per member-step of 500 and of 8,000 members",
        {"8,000 members": compiled(8000), "500 members": compiled(500)},
        ">= 1 (0.95 with noise)",
        lambda ratio: ratio >= 0.95,
    )
