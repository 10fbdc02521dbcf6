"""The plan of a sweep, made before it starts: its members, their groups by program, bins and chunks."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from fcbp.designs import Members
from fcbp.loop.nested import Compile
from fcbp.program import Program
from fcbp.sweeps.makers import Maker

__all__ = ["COMPILE_FROM", "Chunk", "Plan", "compiling_for", "divide"]

COMPILE_FROM = {"lanes": 500, "scan": 5_000}
"""Steps from which on compiling pays. It takes 2 s for lanes, or 0.3 s where the program is kept from another run, and
15 to 60 s for the compiled scan; an eager step takes 4 ms, of many members more."""


@dataclass(frozen=True)
class Plan:
    """A sweep as data.

    Attributes:
        maker: makes the members' programs.
        members: the members' settings.
        steps: steps of every member.
        bin: steps averaged into one value.
        compile: whether the loop is compiled; ``"lanes"`` only where lanes suit.
        dimension: the dimension of the bins: ``"step"`` or ``"task"``.
    """

    maker: Maker
    members: Members
    steps: int
    bin: int
    compile: Compile
    dimension: Literal["step", "task"] = "step"

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each member."""
        return tuple(self.maker.seed(settings) for settings in self.members)

    @functools.cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Members that share a program."""
        groups: dict[Hashable, list[int]] = {}
        for i, settings in enumerate(self.members):
            groups.setdefault(self.maker.key(settings), []).append(i)
        return tuple(map(tuple, groups.values()))

    def program(self, group: int, device: torch.device | str | None = None) -> Program:
        """Return the program of a group, made once for each device."""
        key = group, str(device or "cpu")
        if key not in self._programs:
            self._programs[key] = self.maker.make([self.members.settings[i] for i in self.groups[group]], device)
        return self._programs[key]

    @functools.cached_property
    def _programs(self) -> dict[tuple[int, str], Program]:
        return {}

    def numbers(self, member: int) -> Mapping[str, float]:
        """Return the numbers that a member sets."""
        return self.maker.numbers(self.members.settings[member])

    @functools.cached_property
    def program_settings(self) -> tuple[dict[str, Any], ...]:
        """The differences of the groups, as plain data: swept settings that its members share and not all groups do."""
        shared: list[dict[str, Any]] = []
        for group in self.groups:
            rows = [self.maker.shared(self.members.settings[i]) for i in group]
            alike = (name for name in self.members.names() if all(row.get(name) == rows[0].get(name) for row in rows))
            shared.append({name: rows[0][name] for name in alike if name in rows[0]})
        return tuple({k: v for k, v in one.items() if any(other.get(k) != v for other in shared)} for one in shared)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The last step of each bin."""
        return (*range(self.bin, self.steps, self.bin), self.steps)

    def __getstate__(self) -> dict[str, Any]:
        # Without what is computed: a worker computes it again.
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


class Chunk(NamedTuple):
    """Members that run side by side, from the first step to the last."""

    id: int
    group: int
    """Position in :attr:`Plan.groups`."""
    members: tuple[int, ...]
    """Positions in :attr:`Plan.members`."""
    size: int
    """The program's members; where there are fewer, the last is repeated, so that one program serves all chunks."""
    streams: int
    """The program's streams, likewise."""


def compiling_for(steps: int) -> Compile:
    """Return the value of :attr:`Plan.compile` that pays back in a run of that length."""
    if steps >= COMPILE_FROM["scan"]:
        return True
    return "lanes" if steps >= COMPILE_FROM["lanes"] else False


def divide(plan: Plan, at_once: Sequence[int], workers: int = 1) -> list[Chunk]:
    """Divide the members into chunks of nearly equal size.

    Args:
        plan: the sweep.
        at_once: the most members of a chunk, for each group.
        workers: the number of processes, each of which should get a chunk.
    """
    chunks: list[Chunk] = []
    for group, (members, most) in enumerate(zip(plan.groups, at_once, strict=True)):
        most = max(1, min(most, -(-len(members) // max(1, workers // len(plan.groups)))))
        number = -(-len(members) // most)
        size = -(-len(members) // number)
        parts = [members[i : i + size] for i in range(0, len(members), size)]
        streams = max(len({plan.seeds[i] for i in part}) for part in parts)
        chunks += [Chunk(len(chunks) + i, group, part, size, streams) for i, part in enumerate(parts)]
    return chunks


def halves(members: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return the members in two parts, the first not smaller."""
    half = -(-len(members) // 2)
    return tuple(members[:half]), tuple(members[half:])


def pieces(steps: int, most: int) -> Iterator[int]:
    """Divide a run into lengths of at most ``most`` that sum to ``steps`` and differ by one at the most."""
    number = -(-steps // most)
    return (steps // number + (i < steps % number) for i in range(number))
