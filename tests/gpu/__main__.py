"""``python -m tests.gpu``: check and measure everything on a GPU, in under nine minutes; ``--dry`` does without one."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "benchmarks")]

import torch  # noqa: E402
from gpu_checks import CHECKS, run  # noqa: E402
from gpu_rows import COUNTS, ROWS, Device, line, measure  # noqa: E402

import fcbp  # noqa: E402

PART = 150
"""The most seconds of one part, which is a process of its own: a kernel that fails spoils the process."""
RESERVE = 10
"""Seconds before the end in which nothing begins."""


def arguments():
    parser = argparse.ArgumentParser("python -m tests.gpu", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="without a GPU: kernels are built and run as C++")
    parser.add_argument("--device", help="cuda, or another; by default cuda, with --dry the CPU")
    parser.add_argument("--json", default="gpu.json", help="the file of the results (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=520, help="what all may take (default: %(default)s)")
    parser.add_argument("--only", nargs="*", help="the parts to run: names of checks and rows, or words in them")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


def parts(given):
    """The names of all parts that were asked for: checks first, then rows from small to large."""
    names = [*CHECKS, *ROWS]
    if given.dry:
        names.remove("out of memory")  # a CPU's is not made short
    return [name for name in names if not given.only or any(word in name for word in given.only)]


def of_one_part(given, name):
    """A part's results, in this process."""
    device = given.device or ("cpu" if given.dry else "cuda")
    if name in CHECKS:
        begin = time.perf_counter()
        passed, text = run(name, device, given.dry)
        return {"checks": [{"name": name, "passed": passed, "seconds": time.perf_counter() - begin, "text": text}]}
    clock = Device(device)
    if given.dry:
        from gpu_dry import kernels_on_host

        with kernels_on_host():
            return {"rows": [measure(name, 8, clock, clock.peaks(), steps=2)]}
    peaks = clock.peaks()
    return {"rows": [measure(name, members, clock, peaks) for members in COUNTS], "peaks": peaks}


def in_a_process(given, name, seconds):
    """A part's results, from a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = [sys.executable, "-m", "tests.gpu", "--part", name, "--json", file.name]
        words += ["--dry"] * given.dry + (["--device", given.device] if given.device else [])
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, cwd=HERE.parent.parent)
            return json.loads(Path(file.name).read_text())
        except subprocess.TimeoutExpired:
            why = f"not done after {seconds:.0f} seconds"
        except json.JSONDecodeError:
            why = " ".join(done.stderr.split())[-600:]
    return {"checks": [{"name": name, "passed": False, "seconds": seconds, "text": why}]}


def shown(found):
    """A part's results as lines of the table."""
    for check in found.get("checks", []):
        mark = {True: "passed", False: "FAILED", None: "left out"}[check["passed"]]
        yield f"{check['name']:32} {mark:8} {check['seconds']:6.1f} s  {check['text']}"
    for row in found.get("rows", []):
        yield line(row)


def main():
    given = arguments()
    if given.part:
        Path(given.json).write_text(json.dumps(of_one_part(given, given.part)))
        return 0
    if not given.dry and given.device is None and not torch.cuda.is_available():
        print("no GPU is at hand; --dry builds the kernels and runs them as C++")
        return 2
    end = time.monotonic() + given.seconds
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    results = {"fcbp": fcbp.__version__, "torch": torch.__version__, "device": name, "dry": given.dry}
    results.update({"checks": [], "rows": []})
    print(f"fcbp {fcbp.__version__}, torch {torch.__version__}, {name}{', dry' if given.dry else ''}")
    for part in parts(given):
        left = end - time.monotonic() - RESERVE
        if left < RESERVE:
            found = {"checks": [{"name": part, "passed": None, "seconds": 0.0, "text": "no time was left"}]}
        else:
            found = in_a_process(given, part, min(PART, left))
        for kind in ("checks", "rows"):
            results[kind] += found.get(kind, [])
        print(*shown(found), sep="\n", flush=True)
        Path(given.json).write_text(json.dumps(results, indent=1))
    wrong = [check["name"] for check in results["checks"] if check["passed"] is False]
    print(
        f"{len(wrong)} of {len(results['checks'])} checks failed{': ' if wrong else ''}{', '.join(wrong)}; {given.json}"
    )
    return bool(wrong)


sys.exit(main())
