"""Agents of PPO on CartPole, 4 environments, 128 steps, two networks of 64-64: environment steps on one core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Contestant

import fcbp
from fcbp.loop import compiling

AGENTS, STEPS = 64, 4 * 128


def _population(agents: int, iterations: int) -> Callable[[], Any]:
    options = {"hidden": (64, 64), "copies": 4, "horizon": 128, "epochs": 4, "minibatch": 128}
    program = fcbp.agents.ppo("cartpole", **options)
    numbers = {name: value.expand(agents) for name, value in program.numbers.items()}
    state = torch.vmap(program.init)(fcbp.random.key(torch.arange(agents)), numbers)
    step = torch.vmap(program.step)

    def run() -> Any:
        now = state
        with compiling(True), torch.no_grad():
            for _ in range(iterations):
                now, told = step(now, numbers)
        return told

    return run


def test_64_agents_against_one_in_the_manner_of_cleanrl(contest: Any) -> None:
    cleanrl = pytest.importorskip("cleanrl_style", reason="pip install 'fcbp[rl]'", exc_type=ImportError)
    contest(
        "PPO on CartPole, 64 agents",
        {
            "fcbp": Contestant(_population(AGENTS, 2), 2 * AGENTS * STEPS),
            "CleanRL's manner": Contestant(cleanrl.Agent().iteration, STEPS),
        },
        ">= 60",
        lambda ratio: ratio >= 60,
        rounds=5,
    )


def test_64_agents_against_jax(contest: Any) -> None:
    peer = pytest.importorskip("jax_ppo", reason="pip install jax, to compare with it", exc_type=ImportError)
    contest(
        "PPO on CartPole, 64 agents",
        {
            "fcbp": Contestant(_population(AGENTS, 2), 2 * AGENTS * STEPS),
            "purejaxrl's manner": Contestant(peer.runner(AGENTS, 2), 2 * AGENTS * STEPS),
        },
        ">= 1.2",
        lambda ratio: ratio >= 1.2,
        rounds=5,
    )
