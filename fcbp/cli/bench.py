"""``fcbp bench``: a suite, tuned and reported apart, on one page."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from fcbp import bench, tuning
from fcbp.cli.run import REPORT_SEEDS, TUNE_SEEDS, notes_on_stderr, places, tuned_as_data
from fcbp.cli.words import as_json
from fcbp.names import lookup
from fcbp.paths import expanded
from fcbp.sweeps.files import fresh

__all__ = ["Bench"]


@dataclass
class Bench:
    """Compare methods on a suite of problems: settings are chosen on some seeds and reported on others."""

    suite: str
    """such as digits"""
    out: Path | None = None
    """directory, new or empty; by default runs/SUITE-TIME"""
    tune_seeds: int = TUNE_SEEDS
    """choose each method's setting on so many seeds"""
    report_seeds: int = REPORT_SEEDS
    """report the chosen on so many fresh seeds"""
    quick: bool = False
    """a few short tasks and methods, to see that all works"""
    resume: bool = False
    """go on with the suite in --out, where there is one"""
    device: str | None = None
    """cpu or cuda"""
    devices: tuple[str, ...] = ()
    """all, a number of processes, or names"""
    backend: str | None = None
    """ray runs the members as tasks of a cluster"""
    address: str | None = None
    """of the Ray cluster, such as auto"""
    checkpoint_every: float = 60.0
    """seconds between two checkpoints"""
    json: bool = False
    """as JSON: by problem what was chosen and reported"""

    def __call__(self) -> int:
        suite = lookup("suite", self.suite, bench.SUITES)
        if self.resume and self.out is None:
            raise ValueError("--resume is given without --out; expected the directory of the suite to go on with")
        name = f"{self.suite}-{time.strftime('%Y%m%d-%H%M%S')}"
        place = fresh(Path("runs") / name) if self.out is None else nullcontext(expanded("--out", self.out))
        seeds = f"--tune-seeds {self.tune_seeds} --report-seeds {self.report_seeds}{' --quick' if self.quick else ''}"
        with place as out, notes_on_stderr():
            found = bench.run(
                suite,
                out,
                tune_seeds=self.tune_seeds,
                report_seeds=self.report_seeds,
                quick=self.quick,
                resume=self.resume,
                **places(self),
            )
            page = bench.page(suite, found, out, f"fcbp bench {self.suite} {seeds}")
        if self.json:
            problems = {problem: tuned_as_data(tuned, out / problem) for problem, tuned in found.items()}
            print(as_json({"page": page, "problems": problems}))
            return 0
        for problem, tuned in found.items():
            print(f"{problem}\n{tuning.table(tuned)}\n")
        print(f"page      {page}")
        return 0
