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

from fcbp.lanes import build
from fcbp.lanes.emit import prelude

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
