"""Kill long sweeps again and again, go on with them each time, and compare with sweeps that ran undisturbed.

``python tests/benchmarks/kills.py [--kills 100] [--workers 2] [--seed 0] [--out FOLDER] [experiment own program]``

A sweep takes half a minute or more. A third of the kills fall late, in its last third; a third while it resumes,
before its first new step; the others anywhere. With workers a kill takes all processes, the sweep's own alone, or one
worker alone, which the sweep replaces. Every run that ends is compared with the undisturbed one, to the bit.

The sweeps run in forks of this process, which has imported all that they need.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tqdm.auto  # noqa: F401
import xarray  # noqa: F401
import zarr  # noqa: F401

import fcbp
from fcbp.sweeps import advance, execution

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
import own_problem

LATE = 2 / 3
"""The part of a run from which on a kill is late."""
KINDS = ("late", "resuming", "any")
VICTIMS = ("all", "sweep", "worker")


class Case(NamedTuple):
    """A sweep of half a minute or more."""

    what: Any
    members: dict[str, list[Any]]
    steps: int
    bin: int
    piece: int
    """Steps between two moments at which a checkpoint may be written."""


RATES = {"seed": [0, 1, 2, 3], "replacement_rate": [0.0, 0.01]}
CASES = {
    "experiment": Case(fcbp.experiment.Experiment(maturity_threshold=50), RATES, steps=1400, bin=70, piece=20),
    "own": Case(own_problem.experiment, RATES, steps=800, bin=40, piece=10),
    "program": Case(
        own_problem.logistic, {"seed": [0, 1, 2, 3], "growth": [3.5, 3.7, 3.9]}, steps=60_000, bin=2000, piece=500
    ),
}


class Seen:
    """What a sweep in a fork tells of itself: how far it is, and the part of the run that it took up."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 16)

    def write(self, done: float, new_steps: int) -> None:
        self.memory[:] = struct.pack("dq", done, new_steps)

    def read(self) -> tuple[float, int]:
        done, new_steps = struct.unpack("dq", self.memory[:])
        return done, new_steps


def sweep(case: Case, out: Path, workers: int, seen: Seen) -> None:
    """A checkpoint every half second."""
    handle = execution.Execution._handle
    new_steps = 0

    def telling(self: execution.Execution, event: Any) -> None:
        nonlocal new_steps
        handle(self, event)
        new_steps += isinstance(event, execution.Advanced)
        total = len(self.plan.members) * self.plan.steps
        seen.write(self._done_steps() / total, new_steps)

    execution.Execution._handle = telling
    advance.PIECE = case.piece
    fcbp.sweep(
        case.what,
        case.members,
        steps=case.steps,
        bin=case.bin,
        out=out,
        resume=True,
        members_at_once=-(-_count(case) // 2),
        checkpoint_every=0.5,
        progress=False,
        compile=False,
        devices=workers if workers > 1 else None,
    )


def _count(case: Case) -> int:
    return int(np.prod([len(values) for values in case.members.values()]))


def child(work: Callable[[], None]) -> int:
    """A process, at the head of a group of its own."""
    if pid := os.fork():
        return pid
    os.setpgrp()
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def ended(pid: int) -> bool:
    """Whether the process has ended; it must not have failed."""
    found, status = os.waitpid(pid, os.WNOHANG)
    if found and os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a sweep failed")
    return bool(found)


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def wait_until(pid: int, done: Callable[[], bool]) -> bool:
    """Whether it came to that, before the process ended."""
    while not done():
        if ended(pid):
            return False
        time.sleep(0.005)
    return True


class Killer:
    """Runs and kills of one case."""

    def __init__(self, name: str, workers: int, folder: Path, chance: random.Random) -> None:
        self.case, self.workers, self.folder, self.chance = CASES[name], workers, folder, chance
        self.label = f"{name}, {workers} worker{'s' * (workers > 1)}"
        self.number = itertools.count(1)
        self.kills: Counter[str] = Counter()
        self.victims: Counter[str] = Counter()
        self.runs = 0
        self.undisturbed, self.seconds, self.start = folder / "undisturbed", 0.0, 0.0
        self.run_undisturbed()

    def begin(self, out: Path) -> tuple[int, Seen]:
        seen = Seen()
        return child(lambda: sweep(self.case, out, self.workers, seen)), seen

    def run_undisturbed(self) -> None:
        began = time.monotonic()
        pid, seen = self.begin(self.undisturbed)
        wait_until(pid, lambda: seen.read()[1] > 0)
        self.start = time.monotonic() - began
        wait_until(pid, lambda: False)
        self.seconds = time.monotonic() - began

    def run(self, kinds: list[str]) -> None:
        """One run with such kills, and what they cost."""
        out = self.folder / f"killed-{next(self.number)}"
        pid, seen = self.begin(out)
        for kind in kinds:
            if not self.kill(kind, pid, seen):
                break
            if self.last != "worker":
                pid, seen = self.begin(out)
        else:
            wait_until(pid, lambda: False)
        same(self.undisturbed, out)
        self.runs += 1
        shutil.rmtree(out)

    def kill(self, kind: str, pid: int, seen: Seen) -> bool:
        """Whether there was something to kill."""
        chance = self.chance
        if kind == "resuming":
            until = time.monotonic() + chance.uniform(0, self.start)
            came = wait_until(pid, lambda: time.monotonic() >= until or seen.read()[1] > 0)
        else:
            came = wait_until(pid, lambda: seen.read()[1] > 0)
            now = seen.read()[0]
            low = max(LATE, now) if kind == "late" else now
            aim = chance.uniform(low, low + (1 - low) / (6 if kind == "late" else 12))
            came = came and wait_until(pid, lambda: seen.read()[0] >= aim)
        if not came:
            return False
        self.last = chance.choice(VICTIMS) if self.workers > 1 else "sweep"
        below = children(pid)
        if self.last == "worker" and not below:
            self.last = "all"
        if self.last == "worker":
            os.kill(chance.choice(below), signal.SIGKILL)
        else:
            # A fork's group is made by the fork itself, a moment after its birth.
            (os.killpg if self.last == "all" and os.getpgid(pid) == pid else os.kill)(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.kills[kind] += 1
        self.victims[self.last] += 1
        return True

    def report(self) -> dict[str, Any]:
        kinds, victims = dict(self.kills), dict(self.victims)
        total = sum(kinds.values())
        return {"case": self.label, "kills": total, "kinds": kinds, "victims": victims, "runs": self.runs,
                "seconds": round(self.seconds, 1)}  # fmt: skip


def same(expected: Path, found: Path) -> None:
    """Compare two runs to the bit.

    Raises:
        AssertionError: they differ.
    """
    ours, theirs = fcbp.open(found), fcbp.open(expected)
    assert fcbp.sweeps.state(found) == "finished", found
    assert set(ours) == set(theirs)
    for name in theirs.variables:
        a, b = ours[name].values, theirs[name].values
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (found, name)
        assert a.tobytes() == b.tobytes() if a.dtype != object else list(a) == list(b), (found, name)
    assert not list((found / "checkpoints").glob("*"))


def order(kills: int, chance: random.Random) -> list[list[str]]:
    """The kinds of kills of each run: those anywhere before the late ones, those while resuming after any other."""
    runs = []
    while kills > 0:
        length = min(kills, 12)
        late, resuming = length // 3, length // 3
        main = ["any"] * (length - late - resuming) + ["late"] * late
        for _ in range(resuming):
            main.insert(chance.randint(1, len(main)) if main else 0, "resuming")
        runs.append(main)
        kills -= length
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)  # a fork has no other threads
    chance = random.Random(given.seed)
    if given.out:
        Path(given.out).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.out) as folder:
        killers = []
        for name in given.cases:
            place = Path(folder, name)
            place.mkdir()
            killers.append(Killer(name, given.workers, place, chance))
            print(json.dumps(killers[-1].report()), flush=True)
        while (left := given.kills - sum(sum(k.kills.values()) for k in killers)) > 0:
            for killer, kinds in zip(itertools.cycle(killers), order(left, chance), strict=False):
                killer.run(kinds)
                print(json.dumps(killer.report()), flush=True)


if __name__ == "__main__":
    main()
