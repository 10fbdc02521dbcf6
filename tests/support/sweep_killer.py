"""Run as a program: kill a sweep again and again, go on with it each time, and compare with one that ran undisturbed.

``python sweep_killer.py FOLDER SEED`` prints a line of JSON. The sweeps run in forks of this process, which has
imported all that they need: a new one every time would take longer to start than to kill.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import tqdm.auto  # noqa: F401
import xarray  # noqa: F401
import zarr  # noqa: F401

import fcbp
from fcbp.sweeps import advance, files

KILLS = 20
MEMBERS = {"seed": [0, 1, 2], "replacement_rate": [0.0, 0.1]}
EXPERIMENT = fcbp.experiment.Experiment(maturity_threshold=5, steps=60, bin=10)


def sweep(out: Path) -> None:
    """Two chunks, a bin every fifth piece, and a checkpoint after every piece."""
    fcbp.sweep(
        EXPERIMENT, MEMBERS, out=out, resume=True, members_at_once=3, checkpoint_every=0, progress=False, compile=False
    )


def die_while_writing(number: int, where: str) -> None:
    """Kill this process in its ``number``-th write of a checkpoint: half-way, before the rename, or just after."""
    write = files.Directory.write
    count = 0

    def dying(folder: files.Directory, name: str, data: bytes, sync: bool = True) -> None:
        nonlocal count
        count += folder.path.name == "checkpoints"
        if count == number and where == "half-way":
            (folder.path / f"{name}.part").write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        if count == number:
            module, name_of_it = (os, "fsync") if where == "before the rename" else (files.Directory, "sync")
            setattr(module, name_of_it, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        write(folder, name, data, sync)

    files.Directory.write = dying


def child(out: Path, number: int = 0, where: str = "") -> int:
    """A process that runs the sweep."""
    if pid := os.fork():
        return pid
    try:
        if number:
            die_while_writing(number, where)
        sweep(out)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def wait(pid: int) -> bool:
    """Whether the process was killed; it must not have failed."""
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a sweep failed")
    return os.WIFSIGNALED(status)


def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    start = time.monotonic()
    wait(child(folder / "undisturbed"))
    whole = time.monotonic() - start
    by_clock, writing, runs = 0, {"half-way": 0, "before the rename": 0, "after the rename": 0}, 1
    while by_clock + sum(writing.values()) < KILLS:
        out = folder / f"killed-{runs}"
        if chance.random() < 0.5:
            pid = child(out)
            time.sleep(chance.uniform(0, whole / 4))
            os.kill(pid, signal.SIGKILL)
            killed = wait(pid)
            by_clock += killed
            whole /= 1 if killed else 2  # the machine is less busy than it was
        else:
            where = chance.choice(list(writing))
            killed = wait(child(out, chance.randint(1, 8), where))
            writing[where] += killed
        runs += not killed  # it was through: the next one starts anew
    wait(child(folder / f"killed-{runs}"))
    print(json.dumps({"by_clock": by_clock, "writing": writing, "runs": runs}))


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fork has no other threads
    advance.PIECE = 2
    main(Path(sys.argv[1]), int(sys.argv[2]))
