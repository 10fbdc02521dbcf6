"""Which backend runs a step: lanes, the compiled scan, or plain eager."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp import lanes
from fcbp.loop import cost
from fcbp.loop.members import named, tell
from fcbp.loop.program import check_carry

__all__ = ["LaneProgram", "lane_program"]

Step = Callable[[Any, Any], tuple[Any, Any]]

UNASKED = 1 << 26
"""Bytes of a block beyond which there are no lanes for who does not ask for them: products of large matrices are a
library's, and tracing them takes long."""
MOST = 1 << 30
"""Bytes of a block beyond which there are no lanes."""
LONGEST = 6_000
"""Lines of a program beyond which the C++ compiler takes too long."""


@dataclass
class LaneProgram:
    """A step's program in lanes, or why there is none."""

    draft: lanes.Lanes | None = None
    why_not: str = ""
    program: lanes.Program | None = None
    unbuilt: bool = False
    """Whether it is building alone that stands against it: no compiler, or one that fails."""

    def reason_against(self, count: int) -> str:
        """Why lanes are not the best way for so many members; empty where they are."""
        if self.draft is None:
            return self.why_not
        if self.draft.elements == "threads":
            return "on a GPU they run only when asked for, with backend='lanes'"
        if too_large := _too_large(self.draft.block_bytes, self.draft.width, UNASKED):
            return too_large
        if self.draft.lines > LONGEST:
            return f"the program has {self.draft.lines} lines; more than {LONGEST} compile for too long"
        ours, theirs = self.seconds(count)
        if ours > theirs:
            return f"{self.reason_for(count)}: a step would take about {ours / theirs:.1f} times as long"
        return ""

    def seconds(self, count: int) -> tuple[float, float]:
        """About what a step takes in lanes, and in the compiled scan."""
        assert self.draft is not None
        return cost.lanes_seconds(self.draft, count), cost.scan_seconds(self.draft, count)

    def reason_for(self, count: int) -> str:
        """The course of lanes with so many members."""
        assert self.draft is not None
        width, kib = self.draft.width, max(self.draft.block_bytes >> 10, 1)
        used = f"{count} members, {width} to a block of {kib} KiB"
        blocks = -(-count // width)
        idle = f", {blocks * width - count} of {blocks * width} lanes idle" if count < blocks * width else ""
        return f"{used}{idle}; {self.draft.work} elements a step"

    def build(self, step: Step, count: int) -> lanes.Program | None:
        """The program, compiled at its first use; ``None`` where that fails, and ``why_not`` says why."""
        assert self.draft is not None
        try:
            if self.program is None and not self.draft.is_built():
                tell(f"lanes of {named(step)} for {self.reason_for(count)}", "a few seconds")
            self.program = self.program or self.draft.compile()
        except lanes.BuildError as error:
            self.draft, self.why_not, self.unbuilt = None, str(error), True
        return self.program

    def run(self, step: Step, leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any] | None:
        """Run the program; ``None`` where it cannot be compiled."""
        program = self.build(step, len(leaves[0]) if self.draft is not None and self.draft.population else 1)
        if program is None:
            return None
        with torch.no_grad():
            return program(leaves, xs, length)


# By one member's step and the shapes of one member.
_programs: weakref.WeakKeyDictionary[Step, dict[Any, LaneProgram]] = weakref.WeakKeyDictionary()


def lane_program(
    step: Step, leaves: list[Tensor], spec: optree.PyTreeSpec, xs: Any, insist: bool = False
) -> tuple[LaneProgram, int]:
    """The step's program in lanes, traced at its first use, and the number of members.

    Args:
        insist: also where it would be too large for the cache.

    Raises:
        ValueError: the new carry is unlike the old.
    """
    try:
        members = lanes.members_of(step)
        width = lanes.width(lanes.elements_on(leaves[0].device if leaves else torch.device("cpu")))
    except (lanes.Unsupported, lanes.BuildError) as error:
        return LaneProgram(why_not=str(error), unbuilt=isinstance(error, lanes.BuildError)), 1
    count = len(leaves[0]) if members.population and leaves and leaves[0].ndim else 1
    bytes = sum(leaf.numel() * leaf.element_size() for leaf in leaves) // max(count, 1) * width
    if too_large := _too_large(bytes, width, MOST if insist else UNASKED):
        return LaneProgram(why_not=too_large), count
    x_leaves, x_spec = optree.tree_flatten(xs)
    first, x_first = int(members.population), 1 + int(members.population and not members.shared_x)
    described = (
        *((leaf.shape[first:], leaf.dtype, leaf.device) for leaf in leaves),
        *((x.shape[x_first:], x.dtype, x.device) for x in x_leaves),
    )
    key = (members.population, members.shared_x, spec, x_spec, described, width)
    programs = _programs.setdefault(members.step, {})
    if key not in programs:
        try:
            draft = lanes.draft(step, leaves, spec, xs, check_carry)
            too_large = _too_large(draft.block_bytes, width, MOST)
            programs[key] = LaneProgram(why_not=too_large) if too_large else LaneProgram(draft)
        except lanes.Unsupported as error:
            programs[key] = LaneProgram(why_not=str(error))
    full = programs[key].draft
    if full is not None and full.halved is not None and cost.halving_pays(full, count):
        key = (*key[:-1], full.halved.width)
        programs.setdefault(key, LaneProgram(full.halved))
    return programs[key], count


def _too_large(size: int, width: int, most: int) -> str:
    """The words about a block larger than ``most``; empty for a smaller one."""
    return f"a block of {width} members takes {size >> 10} KiB; expected at most {most >> 10}" if size > most else ""
