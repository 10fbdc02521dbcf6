"""One problem, permuted digits, by a loop of torch, a functional loop, a program and an experiment: one curve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fcbp

STEPS = 200
RATE = 2.0**-5  # a power of two: a product with it is exact, and so are fused multiplications and additions
NUMBERS = {"replacement_rate": 0.01, "maturity_threshold": 20}
LOOPS = {"sgd": {}, "sgd with momentum": {"momentum": 0.5}}
MODEL = nn.Sequential(nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
UNITS = fcbp.find_units(MODEL, torch.zeros(1, 64))
STREAM = fcbp.streams.permuted_inputs(fcbp.data.load("digits"), batch_size=16)


def start(key: Tensor) -> tuple[Any, dict[str, Tensor], Tensor]:
    """The stream's state, the initial weights and the key of the draws."""
    data_key, learner_key = fcbp.random.split(key).unbind()
    draw_key, method_key = fcbp.random.split(learner_key).unbind()
    return STREAM.init(data_key), fcbp.learner.draw_params(MODEL, draw_key), method_key


def by_torch(seed: int, **numbers: float) -> tuple[Tensor, int]:
    """The losses of a loop of torch, and how many units it replaced."""
    data, params, method_key = start(fcbp.random.key(seed))
    _, batches = STREAM.sample(data, STEPS)
    MODEL.load_state_dict(params)
    optimizer = torch.optim.SGD(MODEL.parameters(), lr=RATE, **numbers)
    cbp = fcbp.stateful.ContinualBackprop(MODEL, optimizer, batches[0][0], seed=method_key, **NUMBERS)
    losses, replaced = [], 0
    for x, y in zip(*batches, strict=True):
        loss = nn.functional.cross_entropy(MODEL(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        replaced += sum(int(mask.sum()) for mask in cbp.step().values())
        losses.append(loss.detach())
    cbp.remove()
    return torch.stack(losses), replaced


def functional_step(**numbers: float) -> Any:
    """``step(carry, batch) -> (carry, loss)`` of the pure functions."""
    forward, sgd, hyper = (
        fcbp.forward_with_features(MODEL, UNITS),
        fcbp.optim.sgd(**numbers),
        fcbp.Hyperparams(**NUMBERS),
    )

    def loss_fn(params: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Any]:
        output, features, _ = forward(params, {}, x)
        return nn.functional.cross_entropy(output, y), features

    def step(carry: Any, batch: Any) -> tuple[Any, Tensor]:
        params, opt_state, state = carry
        grads, (loss, features) = torch.func.grad_and_value(loss_fn, has_aux=True)(params, *batch)
        params, opt_state = sgd.update(grads, opt_state, params, step_size=RATE)
        state = fcbp.update_utility(state, params, features, hyper, units=UNITS)
        params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=UNITS)
        return (params, fcbp.reset_moments(opt_state, replaced, units=UNITS), state), loss

    return step


def first_carry(key: Tensor, **numbers: float) -> Any:
    _, params, method_key = start(key)
    return params, fcbp.optim.sgd(**numbers).init(params), fcbp.init_state(UNITS, params, method_key)


def by_functions(seed: int, **numbers: float) -> Tensor:
    """The losses of a functional loop."""
    key = fcbp.random.key(seed)
    _, batches = STREAM.sample(start(key)[0], STEPS)
    return fcbp.loop.scan(functional_step(**numbers), first_carry(key, **numbers), batches, backend="eager")[1]


def in_sweep(what: Any, seeds: list[int]) -> Tensor:
    results = fcbp.sweep(what, fcbp.grid(seed=seeds), steps=STEPS, bin=1, compile=False, progress=False)
    return torch.tensor(results["loss"].values)


def by_program(seeds: list[int], **numbers: float) -> Tensor:
    """The losses of a sweep over a program of one's own, a row for each seed."""
    step = functional_step(**numbers)

    def member(carry: Any, settings: Any, batch: Any) -> tuple[Any, dict[str, Tensor]]:
        carry, loss = step(carry, batch)
        return carry, {"loss": loss}

    stream = STREAM._replace(init=lambda key: start(key)[0])
    return in_sweep(fcbp.Program(lambda key, settings: first_carry(key, **numbers), member, stream=stream), seeds)


def by_name(seeds: list[int], **numbers: float) -> Tensor:
    """The losses of a sweep over the experiment that has a name."""
    return in_sweep(
        fcbp.experiment.EXPERIMENTS["permuted-digits"].replace(
            hidden=(30, 20), initial="drawn", optimizer="sgd", step_size=RATE, metrics=(), **NUMBERS, **numbers
        ),
        seeds,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOPS)
def test_all_four_doors_give_the_same_curve(name):
    numbers, seeds = LOOPS[name], [0, 3]
    program, named = by_program(seeds, **numbers), by_name(seeds, **numbers)
    for i, seed in enumerate(seeds):
        functional = by_functions(seed, **numbers)
        losses, replaced = by_torch(seed, **numbers)
        assert replaced > 20
        assert torch.equal(losses, functional)
        # Members side by side are computed by other matrix products.
        torch.testing.assert_close(program[i], functional)
        torch.testing.assert_close(named[i], functional)
    assert not torch.allclose(program[0], program[1])
