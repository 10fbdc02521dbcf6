"""Named programs: what a sweep and the command run by name beside the experiments."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PROGRAMS", "NamedProgram"]


class NamedProgram(NamedTuple):
    """A function ``(**options) -> Program`` by its address, which is imported when it is run."""

    address: str
    steps: int
    """Steps of every member, by default."""
    bin: int | str
    """Steps averaged into one value, or ``"task"``, by default."""


PROGRAMS: dict[str, NamedProgram] = {
    "ant": NamedProgram("fcbp.agents.continual:ant", 24_415, 49),
    "slippery-ant": NamedProgram("fcbp.agents.continual:slippery_ant", 9_766, 49),
    "continual-cartpole": NamedProgram("fcbp.agents.continual:continual_cartpole", 200, "task"),
    "continual-acrobot": NamedProgram("fcbp.agents.continual:continual_acrobot", 200, "task"),
    "continual-pendulum": NamedProgram("fcbp.agents.continual:continual_pendulum", 200, "task"),
}
"""Programs by name: agents in environments that change (:mod:`fcbp.agents.continual`)."""
