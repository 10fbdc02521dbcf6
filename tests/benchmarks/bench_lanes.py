"""Members as SIMD lanes, on the main job: against the peers, the compiled scan and more cores."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import problems
import pytest
import torch
from bench_first_call import FIRST_CALL, in_a_fresh_process
from bench_main_job import compiled, fastest_jax, original
from conftest import Contestant
from table import Row

import fcbp
from fcbp.experiment import build_program
from fcbp.lanes import build
from fcbp.lanes.emit import prelude
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.sweeps.population import population

MEMBERS = 512


def test_against_jax(contest: Any) -> None:
    contest(
        f"main job in lanes against JAX, {MEMBERS} members",
        {"fcbp lanes": compiled(MEMBERS, "lanes"), **fastest_jax(MEMBERS)},
        ">= 7",
        lambda ratio: ratio >= 7,
    )


def test_against_the_original_style(contest: Any) -> None:
    contest(
        f"main job in lanes, {MEMBERS} members",
        {"fcbp lanes": compiled(MEMBERS, "lanes"), "original-style": original()},
        ">= 12,000",
        lambda ratio: ratio >= 12_000,
    )


def test_against_the_compiled_scan(contest: Any) -> None:
    contest(
        f"main job in lanes against the compiled scan, {MEMBERS} members",
        {"fcbp lanes": compiled(MEMBERS, "lanes"), "fcbp scan": compiled(MEMBERS, "scan")},
        "",
        lambda ratio: True,
    )


def test_the_whole_job_against_learner_steps(contest: Any) -> None:
    """A piece of a sweep: the stream inside the loop, one for every member, and sums in place of losses."""
    length = 10_000
    runs = [fcbp.Experiment(seed=seed) for seed in range(MEMBERS)]
    side_by_side = population(build_program(runs), compile=True, device=None)
    carry = side_by_side.start(range(MEMBERS), [run.numbers() for run in runs], MEMBERS, MEMBERS)
    contest(
        f"main job in lanes, {MEMBERS} members, stream and sums inside, against learner steps alone",
        {
            "whole": Contestant(lambda: side_by_side.advance(carry, length), length * MEMBERS),
            "learner": compiled(MEMBERS, "lanes"),
        },
        ">= 0.67 (the stream takes less than half of the learner's time)",
        lambda ratio: ratio >= 1 / 1.5,
    )


def test_a_ppo_sized_actor(contest: Any) -> None:
    """Where lanes gain less than a factor of 2, they are not chosen."""
    members, length = 64, 10
    model = fcbp.nets.mlp(16, (64, 64), 4, activation="tanh")
    units = fcbp.find_units(model, torch.zeros(1, 16))
    method = fcbp.methods.cbp("contribution", capacity=1)
    learner = make_learner(model, units, loss="mse", optimizer=fcbp.optim.adam(), method=method)

    def step(state: Any, batch: Any) -> Any:
        state, info = learner.step(state, batch, LearnerHyperparams(1e-3, fcbp.Hyperparams(1e-4, 100, 0.99)))
        return state, info["loss"]

    side_by_side = torch.vmap(step)
    states = torch.vmap(learner.init)(fcbp.random.split(fcbp.random.key(0), members))
    xs = tuple(fcbp.random.normal(fcbp.random.key(1), (length, members, 64, size)) for size in (16, 4))
    chosen = fcbp.loop.explain(side_by_side, states, xs).backend

    def on(backend: str) -> Contestant:
        return Contestant(lambda: fcbp.loop.scan(side_by_side, states, xs, backend=backend), length * members)

    contest(
        f"16-64-64-4, batch 64, Adam, {members} members, in lanes against the compiled scan, which explain chooses",
        {"fcbp lanes": on("lanes"), "fcbp scan": on("scan")},
        ">= 2, or not chosen",
        lambda ratio: ratio >= 2 or chosen != "lanes",
    )


def lenet() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(256, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(), torch.nn.Linear(84, 10),
    )  # fmt: skip


@pytest.mark.parametrize("network", ["784-100-100-100-10", "LeNet"])
def test_larger_networks_against_the_compiled_scan(contest: Any, network: str) -> None:
    members, length = 16, 20
    if network == "LeNet":
        model, shape = lenet(), (1, 28, 28)
        units = fcbp.find_units(model, torch.zeros(1, *shape))
    else:
        (model, units), shape = problems.mlp(problems.SMALL), (784,)
    images, labels = problems.digits(problems.SMALL, length, members)
    xs = (images.view(length, members, 1, *shape), labels)
    job = problems.job(model, units, xs, members=members, loss="cross_entropy")
    assert fcbp.loop.explain(job.step, job.carry, job.xs).backend == "lanes"
    contest(
        f"{network}, batch 1, {members} members, in lanes against the compiled scan",
        {
            f"fcbp {backend}": Contestant(lambda backend=backend: job.run(backend=backend), length * members)
            for backend in ("lanes", "scan")
        },
        "",
        lambda ratio: True,
    )


@pytest.mark.parametrize("cores", [2], indirect=True)
def test_two_cores_against_one(contest: Any, cores: int) -> None:
    if cores < 2:
        pytest.skip("one core alone is there")
    length = 8000
    job = problems.main_job(MEMBERS, length)

    def on(threads: int) -> Contestant:
        def run() -> None:
            torch.set_num_threads(threads)
            job.run(backend="lanes")

        return Contestant(run, length * MEMBERS)

    contest(
        f"main job in lanes, {MEMBERS} members: two cores against one",
        {"two cores": on(2), "one core": on(1)},
        ">= 1.85",
        lambda ratio: ratio >= 1.85,
    )


def test_first_call(benchmark: Any, report: Any, tmp_path: Path) -> None:
    limit = 5.0
    program = FIRST_CALL.format(members=MEMBERS, backend="lanes")
    _, call = benchmark.pedantic(in_a_fresh_process, args=(program, tmp_path), rounds=1)
    name = "main job in lanes, first call to first result, cold cache"
    report(Row(name, 2, "call", call, "limit", limit, limit / call, f"<= {limit:g} s", call <= limit))


def by_hand(job: problems.Job) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    """The job by the kernel written for it: losses and numbers of units replaced, ``(length, members)`` each."""
    kernel = build.build(prelude("vectors") + Path(__file__).with_name("by_hand.cpp").read_text())
    state, hyper = job.carry
    weights = [state.params[name].contiguous() for name in ("0.weight", "2.weight")]
    numbers = [number.float().contiguous() for number in (hyper.step_size, *hyper.method)]
    strides = [stride for x in job.xs for stride in x.stride()[:2]]

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        losses = torch.empty(job.length, MEMBERS)
        replaced = torch.empty(job.length, MEMBERS, dtype=torch.int32)
        x, y, w1, w2, loss, count = (ctypes.c_void_p(t.data_ptr()) for t in (*job.xs, *weights, losses, replaced))
        table = (ctypes.c_void_p * 4)(*(number.data_ptr() for number in numbers))
        steps = (ctypes.c_int64(MEMBERS), ctypes.c_int64(job.length))
        kernel(*steps, x, y, (ctypes.c_int64 * 4)(*strides), w1, w2, table, loss, count)
        return losses, replaced

    return run


def test_against_a_kernel_written_by_hand(contest: Any) -> None:
    length = 1000
    job = problems.main_job(MEMBERS, length)
    run = by_hand(job)
    losses, replaced = run()
    _, (expected, number) = job.run(backend="lanes")
    # Until the first replacement the two do the same; after it they draw other weights, equally often.
    torch.testing.assert_close(losses[:100], expected[:100], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(replaced.sum(0), number.sum(0, dtype=torch.int64), rtol=0, atol=1)
    contest(
        f"main job in lanes against a kernel written by hand, {MEMBERS} members",
        {"fcbp lanes": compiled(MEMBERS, "lanes"), "by hand": Contestant(run, length * MEMBERS)},
        ">= 0.67",
        lambda ratio: ratio >= 0.67,
    )
