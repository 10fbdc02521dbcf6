"""Runs timed in turn, round by round: what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["over_first", "seconds_in_turn"]


def seconds_in_turn(
    runs: Mapping[str, Callable[[], Any]], rounds: int, *, tell: Callable[[str], Any] = print
) -> dict[str, list[float]]:
    """This process's CPU time of each run in each round.

    Args:
        runs: by name; each waits for its results.
        rounds: after a first call of each, which compiles.
        tell: takes a line on each first call.
    """
    for name, run in runs.items():
        start, cpu = time.perf_counter(), time.process_time()
        run()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        tell(f"{name}: first call {wall:.0f} s, {cpu:.0f} s of this process's CPU")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return seconds


def over_first(seconds: Mapping[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Of each run the median, and the median over rounds of its ratio to the first run's in the same round."""
    first = next(iter(seconds.values()))
    return {
        name: (statistics.median(times), statistics.median(a / b for a, b in zip(times, first, strict=True)))
        for name, times in seconds.items()
    }
