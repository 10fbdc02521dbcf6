"""What a reset event of per-weight CBP costs: in a network of 9.6 million weights, against plain training steps."""

from __future__ import annotations

from typing import Any

import problems
import pytest
import torch
from conftest import Contestant

from fcbp import nets, random, weights


@pytest.mark.parametrize("rate", [1e-4, 1e-2])
@pytest.mark.parametrize("batch", [1, 100])
def test_reset_event(contest: Any, batch: int, rate: float) -> None:
    torch.manual_seed(0)
    sizes = problems.LARGE
    model = nets.mlp(sizes[0], sizes[1:-1], sizes[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs, labels = torch.rand(batch, sizes[0]), torch.randint(sizes[-1], (batch,))

    def plain_step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    grads = {name: torch.randn_like(p) for name, p in params.items()}
    hyper = weights.Hyperparams(reset_rate=rate, maturity_threshold=100)
    state = weights.init_state(params, random.key(0))._replace(step=torch.tensor(1000, dtype=torch.int32))
    state = weights.update_utility(state, params, grads, hyper)
    held: dict[str, Any] = {}

    def event() -> None:
        held["result"] = weights.select_and_reset(state, params, hyper)

    contest(
        f"reset event, rate {rate:g}, 9.6 million weights, eager, batch {batch}",
        {"event": Contestant(event, 1), "plain training step": Contestant(plain_step, 1)},
        ">= 0.5 (<= 2 plain steps)",
        lambda ratio: ratio >= 0.5,
        rounds=7,
    )
