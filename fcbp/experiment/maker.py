"""Experiments as the maker of a sweep's programs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fcbp.addresses import is_address, looked_up_once, name_of
from fcbp.checks import arguments
from fcbp.designs import Members
from fcbp.experiment import parts
from fcbp.experiment.checks import check_settings
from fcbp.experiment.measurements import METRICS, metric_name, variables_of
from fcbp.experiment.program import build_program
from fcbp.experiment.settings import Experiment
from fcbp.experiment.surprises import of_another_method, surprises
from fcbp.program import RESERVED, Program
from fcbp.rehearsal import rehearse_members

__all__ = ["ExperimentMaker", "check"]


@arguments
@looked_up_once()
def check(runs: Sequence[Experiment], swept: Sequence[str] = ()) -> None:
    """Check experiments before any work: each setting, that each is read, and the numbers by a step of each program.

    Args:
        runs: the members of a sweep.
        swept: the names that set the members apart.

    Raises:
        ValueError: a setting is unknown, out of range, or read by none of the members; lengths of run are swept; a part
            does not fit the others; ``metrics`` names something that none of the members has.
    """
    check_settings(runs, swept)
    groups: dict[Hashable, list[Experiment]] = {}
    for run in runs:
        groups.setdefault(run.program_key(), []).append(run)
    measured: set[str] = set()
    for group in groups.values():
        measured |= set(rehearse_members(build_program(group), [run.numbers() for run in group]).variables)
    _check_measured(runs, measured)


def _check_measured(runs: Sequence[Experiment], measured: set[str]) -> None:
    for chosen in runs[0].metrics if runs[0].metrics != Experiment().metrics else ():
        if chosen in METRICS and not measured & variables_of(chosen):
            methods = ", ".join(sorted({parts.method_name(run.method) for run in runs}))
            kinds = ", ".join(sorted({run.activation for run in runs}))
            raise ValueError(f"metrics has {chosen!r}, which there is none of with method {methods} and {kinds} units")


ROLES = ("stream", "network", "loss_function", "schedule", "optimizer", "method")


@dataclass(frozen=True)
class ExperimentMaker:
    """Makes the programs of an experiment's members.

    Attributes:
        base: the experiment that all members share.
    """

    base: Experiment
    _runs: dict[tuple[tuple[str, Any], ...], Experiment] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The addresses of the parts without names; empty where all parts have names, whose messages are enough."""
        chosen = [getattr(self.base, role) for role in ROLES] + [*self.base.metrics]
        own = dict.fromkeys(
            name_of(one) for one in chosen if one is not None and (is_address(one) or not isinstance(one, str))
        )
        return f"the experiment with {', '.join(own)}" if own else ""

    def run(self, settings: Mapping[str, Any]) -> Experiment:
        """Return the experiment of a member."""
        key = tuple(settings.items())
        if key not in self._runs:
            self._runs[key] = self.base.replace(**settings)
        return self._runs[key]

    def seed(self, settings: Mapping[str, Any]) -> int:
        """Return the seed of a member."""
        return self.run(settings).seed

    def key(self, settings: Mapping[str, Any]) -> Hashable:
        """Return the key that members of one program have in common."""
        key: Hashable = self.run(settings).program_key()
        return key

    def make(self, members: Sequence[Mapping[str, Any]], device: torch.device | str | None = None) -> Program:
        """Make the program of members whose keys are equal."""
        return build_program([self.run(settings) for settings in members], device)

    def numbers(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers of a member, by name."""
        return self.run(settings).numbers()

    def shared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return all settings of a member as plain data."""
        return self.run(settings).to_dict()

    def check(self, members: Members) -> None:
        """Check the settings of all members.

        Raises:
            ValueError: a setting is unknown, unread, or has a wrong value.
        """
        check_settings([self.run(settings) for settings in members], members.names())

    def check_measured(self, members: Members, measured: set[str]) -> None:
        """Check that some member has each measurement that was asked for, and that none is called as a setting.

        Raises:
            ValueError: none has it; or its name is that of a swept setting.
        """
        for name in sorted(measured.intersection([*RESERVED, *members.names(), *members.axes])):
            chosen = next((name_of(one) for one in self.base.metrics if metric_name(one) == name), name)
            raise ValueError(f"metrics has {chosen!r}, whose name {name!r} is a dimension of the results; rename it")
        _check_measured([self.run(settings) for settings in members], measured)

    def describe(self) -> dict[str, Any]:
        """Return the experiment as plain data, which a run directory keeps."""
        return {"experiment": self.base.to_dict()}

    def surprises(self, members: Members, steps: int) -> list[str]:
        """Return notes on settings that may not do as expected."""
        runs = [self.run(settings) for settings in members]
        return [*surprises(runs, steps), *of_another_method(self.base, runs)]

    def converted(self, convert: Callable[[str, Any], Any]) -> ExperimentMaker:
        """Return the maker whose parts are ``convert(name of the setting, part)``."""
        parts_of = {name: convert(name, getattr(self.base, name)) for name in ROLES}
        metrics = tuple(convert("metrics", metric) for metric in self.base.metrics)
        settings = {name: convert(name, value) for name, value in self.base.settings}
        now = {name: getattr(self.base, name) for name in parts_of}
        if (parts_of, metrics, settings) == (now, self.base.metrics, dict(self.base.settings)):
            return self
        return ExperimentMaker(self.base.replace(**parts_of, metrics=metrics, **settings))

    def __getstate__(self) -> dict[str, Any]:
        # Without the experiments that are worked out: a worker does so again.
        return {"base": self.base, "_runs": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
