"""Output of the command for people and for programs: overviews, lists of experiments, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from fcbp import experiment as experiments
from fcbp.experiment import Experiment

__all__ = ["as_json", "experiments_by_kind", "list_of_experiments", "overview"]

OVER_DATA = "classification"
REGRESSION = "regression"
PROGRAMS = "reinforcement learning"


def overview(commands: Mapping[str, Any]) -> str:
    """List the commands, a line each, and two to begin with.

    Args:
        commands: classes by name; the first line of a class's docstring says what it does.
    """
    lines = {"run": "Run an experiment or a program, swept over seeds and settings."}
    for name, command in commands.items():
        if command not in list(commands.values())[: list(commands).index(name)]:  # a second name of the same
            lines[name] = str(command.__doc__).strip().splitlines()[0]
    width = max(map(len, lines))
    listed = "\n".join(f"  {name:{width}}  {line}" for name, line in lines.items())
    return (
        "fcbp: Continual Backpropagation, vmapped over seeds and settings\n\n"
        f"{listed}\n\n"
        "To begin:\n"
        "  fcbp run bit-flipping --seeds 3   train three seeds at three replacement rates\n"
        "  fcbp run                          list the experiments\n"
        "  fcbp COMMAND --help               list the flags of a command"
    )


def experiments_by_kind() -> dict[str, dict[str, str]]:
    """Return a line about every named experiment, by kind and name."""
    found: dict[str, dict[str, str]] = {}
    for name, experiment in experiments.EXPERIMENTS.items():
        found.setdefault(_kind(experiment), {})[name] = _about(experiment)
    for name, program in experiments.PROGRAMS.items():
        found.setdefault(PROGRAMS, {})[name] = f"{program.address}; {program.steps:,} steps"
    return found


def list_of_experiments() -> str:
    """List the named experiments by kind, a line each, and the other subjects of ``fcbp run``."""
    kinds = experiments_by_kind()
    width = max(len(name) for lines in kinds.values() for name in lines)
    listed = "\n\n".join(
        "\n".join([kind, *(f"  {name:{width}}  {line}" for name, line in lines.items())])
        for kind, lines in kinds.items()
    )
    return (
        f"{listed}\n\n"
        "To run one:    fcbp run NAME; several values after a flag sweep it: --step-size 0.01 0.003\n"
        "Its flags:     fcbp run NAME --help\n"
        "Your own:      fcbp run FILE.yaml, fcbp run mine.py:experiment, fcbp run package.module:program"
    )


def _kind(experiment: Experiment) -> str:
    return OVER_DATA if experiment.reads("dataset") else REGRESSION


def _about(experiment: Experiment) -> str:
    """Return the problem, the network and the optimiser, in a line."""
    settings = experiment.with_defaults()
    data = f"{settings['dataset']}, " if "dataset" in settings else ""
    hidden = " ".join(map(str, experiment.hidden))
    network = f"{settings['network']} {hidden}".strip()
    return f"{experiment.describe()}; {data}{network}, {settings['optimizer']}, {experiment.steps:,} steps"


def as_json(value: object) -> str:
    """Return plain data as JSON text, in which numbers that are not finite are ``null``.

    Args:
        value: mappings, sequences, dataclasses, named tuples, numbers and text; anything else as its text.
    """
    return json.dumps(_plain(value), indent=2, default=str, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(value.item()) if hasattr(value, "item") else value
