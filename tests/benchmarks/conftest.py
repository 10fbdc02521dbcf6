"""The ``contest`` fixture: time ``fcbp`` and its peers in turn; and the table that comes of it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from table import Row, Table

TABLE = pytest.StashKey[Table]()


class Contestant(NamedTuple):
    """What is timed."""

    run: Callable[[], Any]
    work: int
    """Member-steps (or other units of work) in one run."""


@pytest.fixture
def cores(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of cores that the case may use; ``indirect`` parametrisation chooses, the default is one.

    A case on one core pins this process, so that every library's threads share that core.
    """
    number = getattr(request, "param", 1)
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    allowed = sorted(before)
    number = min(number, len(allowed))
    os.sched_setaffinity(0, allowed[-number:])
    torch.set_num_threads(number)
    yield number
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, before)


@pytest.fixture
def contest(benchmark: Any, cores: int, request: pytest.FixtureRequest) -> Callable[..., dict[str, float]]:
    """``contest(case, contestants, target, rounds)``: time all in turn, every round in the same order.

    The first contestant is what the case is about: its times are pytest-benchmark's; the others run before each of its
    rounds. On one core the clock counts this process's CPU time, which other people's work on the machine does not
    lengthen; on several it is the wall's. Every run must wait for its results.

    Returns:
        Median seconds per unit of work by contestant. Ratios in the table are medians over rounds of the ratio in a
        round.
    """

    def run(
        case: str, contestants: dict[str, Contestant], target: str, reached: Callable[[float], bool], rounds: int = 9
    ) -> dict[str, float]:
        first, *others = contestants
        clock = time.process_time if cores == 1 else time.perf_counter
        seconds: dict[str, list[float]] = {name: [] for name in contestants}

        def once(name: str) -> None:
            start = clock()
            contestants[name].run()
            seconds[name].append((clock() - start) / contestants[name].work)

        for contestant in contestants.values():
            contestant.run()  # compiles, and warms the caches up
        benchmark._timer = clock
        benchmark.pedantic(
            lambda: once(first), setup=lambda: [once(name) for name in others] and None, rounds=rounds, iterations=1
        )
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        for name in others:
            ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[first], strict=True))
            row = Row(case, cores, first, medians[first], name, medians[name], ratio, target, reached(ratio))
            request.config.stash[TABLE].add(row)
            target, reached = "", lambda ratio: True
        benchmark.extra_info.update({"seconds_per_unit_of_work": medians})
        return medians

    return run


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[Row], None]:
    """Add a row that no contest made."""
    return request.config.stash[TABLE].add


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()
