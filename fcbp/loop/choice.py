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
from fcbp.loop.program import check_carry

__all__ = ["LaneProgram", "lane_program"]

Step = Callable[[Any, Any], tuple[Any, Any]]

CACHE = 1 << 19
"""Bytes of a block of members that a core's own cache holds: there lanes are always the best way."""
SHARED_CACHE = 1 << 24
"""Bytes of a block up to which lanes are the best way for a step that uses what it loads a few times."""
REUSE = 16
"""How often that is at most. Products of large matrices, which the compiled scan leaves to a library, do more."""
MOST = 1 << 30
"""Bytes of a block beyond which there are no lanes."""
SMALL = 20_000
"""Elements a step up to which lanes pay even where all but one are empty: the compiled scan's operations cost some 20
microseconds, however small they are."""
LONGEST = 5_000
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
        if too_large := _too_large(self.draft.block_bytes, self.draft.width, SHARED_CACHE):
            return too_large
        reuse = 4 * self.draft.work * self.draft.width // self.draft.block_bytes
        if self.draft.block_bytes > CACHE and reuse > REUSE:
            return f"the step uses what a block holds {reuse} times; more than {REUSE} are for products of matrices"
        if self.draft.lines > LONGEST:
            return f"the program has {self.draft.lines} lines; more than {LONGEST} compile for too long"
        if count == 1 and self.draft.work > SMALL:
            return f"1 of {self.draft.width} lanes would be used, for {self.draft.work} elements a step"
        return ""

    def reason_for(self, count: int) -> str:
        """What lanes do with so many members."""
        assert self.draft is not None
        kib = max(self.draft.block_bytes >> 10, 1)
        return f"{count} members, {self.draft.width} to a block of {kib} KiB; {self.draft.work} elements a step"

    def build(self) -> lanes.Program | None:
        """The program, compiled at its first use; ``None`` where that fails, and ``why_not`` says why."""
        assert self.draft is not None
        try:
            self.program = self.program or self.draft.compile()
        except lanes.BuildError as error:
            self.draft, self.why_not, self.unbuilt = None, str(error), True
        return self.program

    def run(self, leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any] | None:
        """Run the program; ``None`` where it cannot be compiled."""
        program = self.build()
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
    if too_large := _too_large(bytes, width, MOST if insist else SHARED_CACHE):
        return LaneProgram(why_not=too_large), count
    x_leaves, x_spec = optree.tree_flatten(xs)
    first, x_first = int(members.population), 1 + int(members.population and not members.shared_x)
    described = (
        *((leaf.shape[first:], leaf.dtype, leaf.device) for leaf in leaves),
        *((x.shape[x_first:], x.dtype, x.device) for x in x_leaves),
    )
    key = (members.population, members.shared_x, spec, x_spec, described)
    programs = _programs.setdefault(members.step, {})
    if key not in programs:
        try:
            draft = lanes.draft(step, leaves, spec, xs, check_carry)
            too_large = _too_large(draft.block_bytes, width, MOST)
            programs[key] = LaneProgram(why_not=too_large) if too_large else LaneProgram(draft)
        except lanes.Unsupported as error:
            programs[key] = LaneProgram(why_not=str(error))
    return programs[key], count


def _too_large(size: int, width: int, most: int) -> str:
    """What to say of a block larger than ``most``; empty where it is not."""
    return f"a block of {width} members takes {size >> 10} KiB; expected at most {most >> 10}" if size > most else ""
