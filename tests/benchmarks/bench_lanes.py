"""Members as SIMD lanes, on the main job: against the peers, the compiled scan and more cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import problems
import pytest
import torch
from bench_first_call import FIRST_CALL, in_a_fresh_process
from bench_main_job import compiled, fastest_jax, original
from conftest import Contestant
from table import Row

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
