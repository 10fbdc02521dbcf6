"""A suite of problems, and its run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcbp import tuning
from fcbp.checks import arguments
from fcbp.experiment import Experiment
from fcbp.paths import expanded
from fcbp.tuning import Tuned

__all__ = ["Problem", "Suite", "run"]


@dataclass(frozen=True)
class Problem:
    """An experiment, and the settings among which each method's best is chosen."""

    name: str
    experiment: Experiment
    settings: tuple[Mapping[str, Any], ...]
    short: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Settings of the experiment under which it takes a second, for a test."""

    def quick(self, methods: int = 3) -> Problem:
        """Return a short form for a test: a few short tasks, and two settings of the first methods."""
        known = list(dict.fromkeys(row["method"] for row in self.settings))[:methods]
        rows = [[row for row in self.settings if row["method"] == method][:2] for method in known]
        return dataclasses.replace(
            self,
            experiment=self.experiment.replace(**self.short),
            settings=tuple(row for some in rows for row in some),
        )


@dataclass(frozen=True)
class Suite:
    """Problems that methods are compared on."""

    name: str
    summary: str
    problems: tuple[Problem, ...]


@arguments
def run(
    suite: Suite,
    out: Path | str,
    *,
    tune_seeds: int = 3,
    report_seeds: int = 20,
    quick: bool = False,
    resume: bool = False,
    **how: object,
) -> dict[str, Tuned]:
    """Choose each method's setting on some seeds of each problem, and report it on fresh ones.

    Args:
        suite: one of :data:`fcbp.bench.SUITES`, or one of your own.
        out: directory; each problem has one in it, as :func:`fcbp.tuning.tune` makes it.
        tune_seeds: as for :func:`fcbp.tuning.tune`.
        report_seeds: as for :func:`fcbp.tuning.tune`.
        quick: a few short tasks and methods, to see that all works; the numbers mean nothing.
        resume: go on where ``out`` holds this suite.
        how: other arguments of :func:`fcbp.sweep`, such as ``devices=2``.

    Returns:
        The results by the problem's name.

    Raises:
        ValueError: ``out`` holds something else, or is there and ``resume`` is not given.
    """
    path = expanded("out", out)
    if path.is_dir() and any(path.iterdir()) and not resume:
        raise ValueError(f"out is {str(path)!r}, which is not empty; expected a new or an empty directory, or resume")
    found = {}
    given: dict[str, Any] = how
    for problem in suite.problems:
        one = problem.quick() if quick else problem
        found[problem.name] = tuning.tune(
            one.experiment,
            one.settings,
            tune_seeds=tune_seeds,
            report_seeds=report_seeds,
            out=path / problem.name,
            resume=resume,
            **given,
        )
    return found
