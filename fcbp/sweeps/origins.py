"""The origin of a sweep's programs: makers from a person's argument, and from a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fcbp import addresses
from fcbp import experiment as experiments
from fcbp.designs import Members, plain
from fcbp.experiment import Experiment, ExperimentMaker
from fcbp.methods import METHODS
from fcbp.names import unknown
from fcbp.program import Program
from fcbp.sweeps.makers import FunctionMaker, Maker
from fcbp.sweeps.plan import Plan

__all__ = [
    "addressed",
    "addresses_in",
    "check_imports",
    "check_sources",
    "maker_from",
    "maker_of",
    "notes",
    "sources",
]


def maker_of(given: object) -> Maker:
    """Return the maker that a person means: an experiment or its name, a program, a function that makes one, or the
    address of any of them.

    Raises:
        ValueError: it is something else, or is not found.
    """
    if isinstance(given, str) and given in experiments.PROGRAMS:
        return FunctionMaker(experiments.PROGRAMS[given].address)
    if isinstance(given, str) and given not in experiments.EXPERIMENTS:
        if not addresses.is_address(given):
            raise unknown("experiment", given, [*experiments.EXPERIMENTS, *experiments.PROGRAMS])
        found = addresses.load(given)
        if not isinstance(found, (Experiment, Program)) and (not callable(found) or isinstance(found, nn.Module)):
            raise ValueError(f"experiment is {given!r}, which is {type(found).__name__}; expected {EXPECTED}")
        return ExperimentMaker(found) if isinstance(found, Experiment) else FunctionMaker(given)
    if isinstance(given, str):
        return ExperimentMaker(experiments.get(given))
    if isinstance(given, Experiment):
        return ExperimentMaker(given)
    if isinstance(given, (ExperimentMaker, FunctionMaker)):
        return given
    if isinstance(given, Program) or (callable(given) and not isinstance(given, nn.Module)):
        return FunctionMaker(given)
    hint = ""
    if hasattr(given, "init") and hasattr(given, "step"):
        hint = f"; of a {type(given).__name__} make a program: fcbp.Program(init, step, numbers=...)"
    raise ValueError(f"experiment is {type(given).__name__}; expected {EXPECTED}{hint}")


EXPECTED = "a name, an fcbp.Experiment, an fcbp.Program, a function (**options) -> fcbp.Program, or an address of one"


def addressed(maker: Maker, members: Members, needed: bool) -> tuple[Maker, Members]:
    """Return the maker and the members with addresses in the place of objects.

    Args:
        needed: whether another process, or a later one, must find them again.

    Raises:
        ValueError: an object has no address, and needs one.
    """

    def convert(name: str, value: Any) -> Any:
        if not _is_object(value):
            return value
        known = next((word for word, kind in METHODS.items() if kind is value), None) if name == "method" else None
        address = known or addresses.address_of(value)
        if address is None and needed:
            raise ValueError(
                f"{name} is {addresses.name_of(value)!r}, an object that no other process can find again; put it into "
                "a module at its top level, and give it or its address, such as 'mine.py:name'"
            )
        return value if address is None else address

    rows = tuple({n: convert(n, value) for n, value in settings.items()} for settings in members)
    axes = {name: tuple(convert(name, value) for value in axis) for name, axis in members.axes.items()}
    return maker.converted(convert), Members(axes, rows)


def _is_object(value: Any) -> bool:
    return callable(value) or isinstance(value, Program) or hasattr(value, "_fields") or hasattr(value, "build")


def maker_from(description: Mapping[str, Any]) -> Maker:
    """Return the maker that a run directory describes; :meth:`Maker.describe` is the inverse."""
    if "experiment" in description:
        return ExperimentMaker(Experiment(**description["experiment"]))
    options = {name: plain(value) for name, value in description["program"].items()}
    return FunctionMaker(options.pop("program"), tuple(options.items()))


def addresses_in(value: object) -> Iterator[str]:
    """Yield all addresses in plain data."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if addresses.is_address(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from addresses_in(part)


def check_imports(description: Sequence[Any], run: Path | None, say: Callable[[str], object]) -> list[str]:
    """Return the addresses that a run or a file names, checked before any is imported, and told.

    Args:
        description: the plain data that name them.
        run: the run's directory; ``None`` for a file of settings.
        say: told of them.

    Raises:
        ValueError: one lies outside of the current directory and is not installed, or in the run's directory.
    """
    named = list(dict.fromkeys(addresses_in(description)))
    for address in named:
        addresses.check_allowed(address, run)
    if named:
        say(f"importing {', '.join(named)}, as the {'file' if run is None else 'run'} names them")
    return named


def sources(named: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the file of each address, and the file's hash."""
    found = {address: addresses.source_of(address) for address in named}
    return {address: {"file": source.file, "sha256": source.sha256} for address, source in found.items()}


def check_sources(before: Mapping[str, Mapping[str, str]], run: Path) -> None:
    """Check that no source file changed since the run began.

    Raises:
        ValueError: one did; the message names it and says how to go on all the same.
    """
    for address, source in before.items():
        now = addresses.source_of(address)
        if now.sha256 != source["sha256"]:
            raise ValueError(
                f"{address!r} is not as it was when the run began ({now.file or 'it has no file'} has changed): the "
                f"rest may differ from the beginning; to go on all the same: fcbp resume {run} --accept-changes, or "
                "fcbp.resume(..., accept_changes=True)"
            )


def notes(plan: Plan) -> str:
    """Return a plan as the YAML file that ``fcbp run`` runs again."""
    members, swept = plan.members, dict(plan.members.axes)
    listed = "" if set(members.names()) <= set(swept) else "# The members are no grid: plan.json lists them.\n"
    sweep = {name: values for name, values in swept.items() if name not in ("member", "setting")}
    if isinstance(plan.maker, ExperimentMaker):
        return listed + experiments.to_yaml(plan.maker.base, sweep)
    lengths = {"steps": plan.steps, "bin": "task" if plan.dimension == "task" else plan.bin}
    return listed + experiments.lines({**plan.maker.describe()["program"], **lengths}, sweep=sweep)
