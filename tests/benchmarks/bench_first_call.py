"""Costs of a process: the first call with a cold and a warm cache, and the peak memory; each in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from table import Row

HERE = Path(__file__).parent

FIRST_CALL = """
import time; start = time.perf_counter()
import json, torch, problems
torch.set_num_threads(1)
job = problems.main_job({members}, 1000)
imported = time.perf_counter()
job.run(backend={backend!r})
print(json.dumps([time.perf_counter() - start, time.perf_counter() - imported]))
"""

MEMORY = """
import json, re, torch, problems
from pathlib import Path
from torch.utils._pytree import tree_leaves
torch.set_num_threads(1)
kilobytes = lambda name: int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
sizes, members = problems.SMALL, {members}
xs = problems.digits(sizes, 2, members)
job = problems.job(*problems.mlp(sizes), xs, members=members, loss="cross_entropy")
leaves = tree_leaves(job.carry)
state = sum(t.numel() * t.element_size() for t in leaves) + 4 * members * sum(sizes)
job.run()  # compiles, which takes memory of its own, whatever the number of members
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
before = kilobytes("VmRSS")
job.run()
print(json.dumps([state + 1024 * (kilobytes("VmHWM") - before), state]))
"""


def in_a_fresh_process(program: str, cache: Path) -> Any:
    """What a program prints, as JSON, on its last line; whatever it compiles is kept in ``cache``."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "FCBP_CACHE_DIR": str(cache),
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("backend", "cache", "limit"),
    [(None, "cold", 25.0), (None, "warm", 8.0), ("scan", "cold", 20.0), ("scan", "warm", 2.0)],
)
def test_first_call(benchmark: Any, report: Any, tmp_path: Path, backend: str | None, cache: str, limit: float) -> None:
    program = FIRST_CALL.format(members=500, backend=backend)
    if cache == "warm":
        in_a_fresh_process(program, tmp_path)
    total, call = benchmark.pedantic(in_a_fresh_process, args=(program, tmp_path), rounds=1)
    nan = float("nan")
    job = "main job in the compiled scan" if backend else "main job"
    name = f"{job}, first call to first result, {cache} cache"
    report(Row(name, 2, "call", call, "limit", limit, limit / call, f"<= {limit:g} s", call <= limit))
    report(Row(f"{name}, import included", 2, "process", total, "", nan, nan))


def test_peak_memory(benchmark: Any, report: Any, tmp_path: Path) -> None:
    used, state = benchmark.pedantic(in_a_fresh_process, args=(MEMORY.format(members=500), tmp_path), rounds=1)
    nan = float("nan")
    case = "peak memory, 784-100-100-100-10, 500 members, over 500 times one member's (limit 2.5 / measured)"
    ratio = used / state
    report(Row(case, 1, f"{used / state:.2f} times", nan, "2.5 times", nan, 2.5 / ratio, "<= 2.5 times", ratio <= 2.5))
