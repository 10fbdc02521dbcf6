"""The subject of ``fcbp run``: an experiment or a program, by name, by address, or from a YAML file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fcbp import addresses
from fcbp import experiment as experiments
from fcbp.designs import plain
from fcbp.experiment import Experiment, ExperimentMaker, parts
from fcbp.experiment.parts import Part
from fcbp.names import unknown
from fcbp.sweeps.makers import FunctionMaker
from fcbp.sweeps.origins import check_imports, maker_of

__all__ = ["Subject", "read", "subject_of"]

PARTS = {
    "stream": parts.stream,
    "network": parts.network,
    "schedule": parts.schedule,
    "optimizer": parts.optimizer,
    "method": parts.method,
}


class Subject(NamedTuple):
    """The subject of a command line, and its settings."""

    given: Experiment | FunctionMaker
    swept: dict[str, tuple[Any, ...]]
    """The settings that its file sweeps."""
    own: tuple[Part, ...]
    """Parts of the user's own, whose settings are flags."""


def read(
    name: str, say: Callable[[str], object] = str
) -> tuple[Experiment | FunctionMaker, dict[str, tuple[Any, ...]]]:
    """Return an experiment or a program, and what its file sweeps.

    Args:
        name: of an experiment, an address, or a YAML file.
        say: told what a file has imported, before that happens.

    Raises:
        ValueError: there is none of that name; or a file names a part in a run's directory, or outside of the current
            directory.
    """
    if name in experiments.EXPERIMENTS:
        return experiments.get(name), {}
    if name in experiments.PROGRAMS:
        named = experiments.PROGRAMS[name]
        return FunctionMaker(named.address), {"steps": (named.steps,), "bin": (named.bin,)}
    if addresses.is_address(name):
        maker = maker_of(name)
        return (maker.base if isinstance(maker, ExperimentMaker) else maker), {}  # type: ignore[return-value]
    if not (Path(name).suffix or Path(name).exists()):
        raise unknown("experiment", name, [*experiments.EXPERIMENTS, *experiments.PROGRAMS])
    if Path(name).suffix == ".py":
        raise ValueError(f"experiment is {name!r}; expected a name in the file, such as {name}:experiment")
    settings, swept = experiments.read(name)
    check_imports([settings, swept], None, say)
    if "program" not in settings:
        experiment, swept = experiments.load(name)
        # A file that names one seed means this one, and not the usual number of seeds.
        return experiment, {**({"seed": (settings["seed"],)} if "seed" in settings else {}), **swept}
    options = {key: plain(value) for key, value in settings.items() if key not in ("program", "steps", "bin")}
    lengths = {key: (settings[key],) for key in ("steps", "bin") if settings.get(key) is not None}
    return FunctionMaker(str(settings["program"]), tuple(options.items())), {**lengths, **swept}


def subject_of(arguments: Sequence[str]) -> Subject | None:
    """Return the subject that the words after ``fcbp run`` name; ``None`` where they name none yet, as in ``fcbp run
    --help``."""
    name = next((word for word in arguments[:1] if not word.startswith("-")), None)
    if name is None:
        after = [word for word in arguments if _names_subject(word)]
        name = after[0] if after else None
    if name is None:
        return None
    given, swept = read(name, lambda text: print(f"fcbp: {text}", file=sys.stderr))
    if not isinstance(given, Experiment):
        return Subject(given, swept, ())
    chosen: list[tuple[str, Any]] = [(role, getattr(given, role)) for role in PARTS]
    chosen += [(role, value) for role, column in swept.items() if role in PARTS for value in column]
    role = ""
    for word in arguments:
        role = word.removeprefix("--") if word.startswith("--") else role
        if role in PARTS and not word.startswith("--"):
            chosen.append((role, word))
    own = {(role, addresses.name_of(value)): value for role, value in chosen if _is_own(role, value)}
    return Subject(given, swept, tuple(PARTS[role](value) for (role, _), value in own.items()))


def _names_subject(word: str) -> bool:
    return word in experiments.EXPERIMENTS or word in experiments.PROGRAMS or word.endswith((".yaml", ".yml"))


def _is_own(role: str, value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or addresses.is_address(value))
