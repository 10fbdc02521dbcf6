"""README's step as a program of a sweep, beside the same step in ``loop.scan``, on the same examples at hand."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from table import Row

import fcbp

MEMBERS, STEPS, ROUNDS = 512, 20_000, 5
XS = fcbp.random.normal(fcbp.random.key(0), (STEPS, 1, 20))
YS = XS[..., :1].sin()

model = torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
units = fcbp.find_units(model, torch.zeros(1, 20))
forward = fcbp.forward_with_features(model, units)
sgd = fcbp.optim.sgd(momentum=0.9)


def init(key: Any, settings: Any) -> Any:
    params = fcbp.learner.draw_params(model, key)
    return params, sgd.init(params), fcbp.init_state(units, params, key)


def step(carry: Any, settings: Any, batch: Any) -> Any:
    params, opt_state, state = carry
    hyper = fcbp.Hyperparams(settings["replacement_rate"], maturity_threshold=100, decay_rate=0.99)

    def loss_fn(params: Any) -> Any:
        output, features, _ = forward(params, {}, batch[0])
        return torch.nn.functional.mse_loss(output, batch[1]), features

    grads, (loss, features) = torch.func.grad_and_value(loss_fn, has_aux=True)(params)
    params, opt_state = sgd.update(grads, opt_state, params, step_size=0.01)
    state = fcbp.update_utility(state, params, features, hyper, units=units)
    params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
    return (params, fcbp.reset_moments(opt_state, replaced, units=units), state), {"loss": loss}


def _sample(state: Any, length: int) -> Any:
    rows = (state + torch.arange(length)) % STEPS
    return state + length, (XS[rows], YS[rows])


stream = fcbp.streams.from_sampler(torch.zeros_like, _sample, spec=fcbp.streams.Spec((20,), 1))
program = fcbp.Program(init, step, numbers={"replacement_rate": None}, stream=stream)
rates = torch.linspace(0, 1e-3, MEMBERS, dtype=torch.float32)


def swept(steps: int) -> float:
    start = time.perf_counter()
    members = fcbp.grid(seed=[0], replacement_rate=rates.tolist())
    fcbp.sweep(program, members, steps=steps, bin=STEPS, compile=True, progress=False)
    return time.perf_counter() - start


def scanned(carry: Any, steps: int) -> float:
    def one(carry: Any, x: Any, y: Any, rate: Any) -> Any:
        return step(carry, {"replacement_rate": rate}, (x, y))

    def body(carry: Any, batch: Any) -> Any:
        return torch.vmap(one, in_dims=(0, None, None, 0))(carry, *batch, rates)

    start = time.perf_counter()
    for _ in range(steps // STEPS):
        carry, _ = fcbp.loop.scan(body, carry, (XS, YS))
    return time.perf_counter() - start


def test_own_step(report: Any) -> None:
    """The time of five times the steps less that of the steps: what starts and ends a sweep is in neither."""
    torch.set_num_threads(1)
    keys = fcbp.random.key(torch.arange(MEMBERS))
    carry = torch.vmap(lambda key: init(key, {}))(keys)
    swept(STEPS), scanned(carry, STEPS)
    ratios, ours, theirs = [], [], []
    for _ in range(ROUNDS):
        ours.append((swept(5 * STEPS) - swept(STEPS)) / (4 * STEPS * MEMBERS))
        theirs.append((scanned(carry, 5 * STEPS) - scanned(carry, STEPS)) / (4 * STEPS * MEMBERS))
        ratios.append(theirs[-1] / ours[-1])
    ratio = statistics.median(ratios)
    name = "README's step, 512 members, in a sweep"
    pair = ("sweep", statistics.median(ours), "loop.scan", statistics.median(theirs))
    report(Row(name, 1, *pair, ratio, ">= 0.91", ratio >= 1 / 1.1))
