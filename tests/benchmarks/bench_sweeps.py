"""Whole sweeps of the main job: what keeping results costs, a second worker process, and ten thousand members."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TABLE
from table import Row

import fcbp
from fcbp.sweeps.chunk import Advanced
from fcbp.sweeps.execution import Execution
from fcbp.sweeps.progress import Progress


def sweep(members: int, steps: int, bin: int = 10_000, **options: Any) -> None:
    experiment = fcbp.Experiment(maturity_threshold=100, replacement_rate=1e-4)
    fcbp.sweep(experiment, {"seed": range(members)}, steps=steps, bin=bin, compile=True, **options)


def test_what_keeping_results_costs(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds in what writes and shows, and all others from the first piece on; a checkpoint every 5 s, not 60."""
    spent = [0.0]
    began: list[float] = []

    def timed(function: Any) -> Any:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = function(*args)
            if began:
                spent[0] += time.perf_counter() - start
            return result

        return call

    handle = timed(Execution._handle)

    def handled(self: Execution, event: Any) -> None:
        handle(self, event)
        if not began and isinstance(event, Advanced):
            began.append(time.perf_counter())

    monkeypatch.setattr(Execution, "_handle", handled)
    monkeypatch.setattr(Progress, "update", timed(Progress.update))
    sweep(500, 600_000, out=tmp_path / "run", checkpoint_every=5)
    whole = time.perf_counter() - began[0]
    ratio = (whole - spent[0]) / whole
    steps = 590_000 * 500
    request.config.stash[TABLE].add(
        Row(
            "main job, 500 members: results on the disk, a checkpoint every 5 s and progress",
            1,
            "sweep",
            whole / steps,
            "without them",
            (whole - spent[0]) / steps,
            ratio,
            ">= 0.97",
            ratio >= 0.97,
        )
    )


def test_a_second_worker_process(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Member-steps per second while all workers are at work: they compile first, each for itself."""
    steps, members = 400_000, 500
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as each of the two processes has
    handle, seconds = Execution._handle, {}
    for number in (1, 2):
        seen: dict[int, list[float]] = {}

        def look(self: Execution, event: Any, seen: dict[int, list[float]] = seen) -> None:
            handle(self, event)
            if isinstance(event, Advanced):
                seen.setdefault(event.chunk, []).append(time.perf_counter())

        with monkeypatch.context() as patch:
            patch.setattr(Execution, "_handle", look)
            sweep(members * number, steps, progress=False, members_at_once=members, devices=number)
        start, end = max(times[1] for times in seen.values()), min(times[-1] for times in seen.values())
        done = sum(sum(start < t <= end for t in times) for times in seen.values()) * 10_000 * members
        seconds[number] = (end - start) / done
    torch.set_num_threads(threads)
    ratio = seconds[1] / seconds[2]
    request.config.stash[TABLE].add(
        Row(
            "main job: two worker processes of 500 members each",
            2,
            "two processes",
            seconds[2],
            "one",
            seconds[1],
            ratio,
            ">= 1.7",
            ratio >= 1.7,
        )
    )


def test_ten_thousand_members(request: Any, tmp_path: Path) -> None:
    """10,000 members, 10,000 steps on two cores, with the memory of this process."""
    used: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            used.append(pages * 4096 / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    try:
        sweep(10_000, 10_000, 1000, out=tmp_path / "run", checkpoint_every=10)
    finally:
        done.set()
        thread.join()
    seconds = time.perf_counter() - start
    # A bin's measurements take memory and give it back.
    half = len(used) // 2
    growth = max(used[half:]) / max(used[:half])
    print(f"{seconds:.0f} s, {max(used):,.0f} MB at most")
    request.config.stash[TABLE].add(
        Row(
            "main job, 10,000 members x 10,000 steps, with compiling; memory of the second half over the first",
            2,
            "sweep",
            seconds / 1e8,
            "",
            math.nan,
            growth,
            "flat",
            growth < 1.1,
        )
    )
