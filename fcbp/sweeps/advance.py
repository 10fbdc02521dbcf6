"""A population some steps further: in lanes whose members make their own examples, in lanes with the examples laid out
before them, and in the compiled scan or eagerly with each stream's examples.

Which of them it is depends on the carry's shapes alone, and so does how long a call may be: a run resumed goes the same
ways and is cut alike.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Int64
from torch import Tensor

from fcbp import loop
from fcbp.kinds import PyTree
from fcbp.loop.nested import Compile
from fcbp.loop.origin import made_by
from fcbp.program import Program
from fcbp.rehearsal import Rehearsed
from fcbp.sweeps.plan import pieces

__all__ = ["Advance", "Backend", "Carry", "size_of", "using_threads"]

PIECE = 1000
"""The most steps of a call whose examples are drawn before it."""
PIECE_BYTES = 1 << 28
"""Bytes that the examples and the losses of such a call may take."""
WINDOWS = (10_000, 1000)
"""The most steps of a call in which examples are made: the first whose window is small."""
WINDOW_BYTES = 1 << 15
"""The memory that a window may take: three permutations of 784 pixels take 9.4 KB, and a step of a classifier of such
images that makes its examples takes 13 % longer than one to which they are given."""


class Carry(NamedTuple):
    """The state from which a population goes on."""

    problem: Any
    """States of the streams; members of one seed share theirs. Nothing where the program has no stream."""
    members: Any
    """The members' own carries, members first."""
    settings: dict[str, Tensor]
    """The members' numbers."""
    stream_of: Int64[Tensor, "members"]
    """Each member's stream."""


class Backend(NamedTuple):
    """The way in which steps run."""

    name: loop.BackendName
    """``"lanes"``, ``"scan"`` or ``"eager"``."""
    unbuilt: str
    """The compiler's error, where the way would else be lanes or the scan; else empty."""
    made_by: str = ""
    """The backend, the processor's instructions, and the compiler or the library: ``"lanes, AVX-512, g++"``."""


class Steps(NamedTuple):
    """A program's step, as each way of advancing runs it; one object each, for which compiled programs are kept."""

    own_examples: Callable[[Any, Any], Any]
    """Members in lanes: ``(window, index, member, settings, sums)`` is carried, the window empty without a stream."""
    given_examples: Callable[[Any, Any], Any]
    """Members in lanes: ``(member, settings, sums)`` is carried, each member's example given."""
    all_members: Callable[[Any, Any], Any]
    """All members as one: ``(members, settings, stream_of)`` is carried, each stream's example given."""


class Ahead(NamedTuple):
    """The rest of the members' windows after a call."""

    problem: Any
    """The state of the streams from which the window goes on."""
    stream_of: Int64[Tensor, "members"]
    """The members' streams."""
    window: Any
    next: int
    """The example in it that comes next."""


class Advance:
    """``advance(carry, steps)``: the new carry, and sums over the steps ``(members,)``: counts int64, others float64.

    Args:
        program: of one member.
        rehearsed: its measurements.
        compile: whether steps are compiled; ``"lanes"`` only where lanes suit.
        threads: threads of lanes; ``None`` is torch's number.
    """

    def __init__(self, program: Program, rehearsed: Rehearsed, compile: Compile, threads: int | None) -> None:
        self.program, self.rehearsed, self.compile, self.threads = program, rehearsed, compile, threads
        self.steps = _steps(program)
        # By number of members.
        self.window_lengths: dict[int, int] = {}
        self.lanes_suit: dict[int, bool] = {}
        self.piece_lengths: dict[int, int] = {}
        self.ahead: Ahead | None = None
        self.scan_failed = False
        self.unbuilt = ""
        """The reason why a suitable way could not be compiled; empty where all was."""

    def __call__(self, carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]]:
        if steps <= self.window_length(carry):
            done = self.making_examples(carry, steps)
            if done is not None:
                return done
        totals = self.zeros(carry)
        for length in pieces(steps, self.piece_length(carry)):
            carry, more = self.given_examples(carry, length)
            totals = {name: total + more[name] for name, total in totals.items()}
        return carry, totals

    def backend(self, carry: Carry) -> Backend:
        """Find the backend. Lanes are built here, so that it holds; the answer for the scan holds after a step."""
        device = carry.stream_of.device
        name: loop.BackendName = "scan" if self.compile is True and not self.scan_failed else "eager"
        if self.program.loops:
            name = "scan" if self.compile else "eager"
            return Backend(name, "", made_by(name, device))
        if self.window_length(carry) or self.suits_lanes(carry):
            return Backend("lanes", "", made_by("lanes", device))
        return Backend(name, self.unbuilt, made_by(name, device))

    def most_steps(self, carry: Carry) -> int:
        """Return the most steps of one call."""
        return self.window_length(carry) or self.piece_length(carry)

    # --- in lanes, examples made in the loop ------------------------------------------------------------

    def window_length(self, carry: Carry) -> int:
        """Return the most steps of a call in which lanes make their own examples; 0 where they do not suit."""
        members = len(carry.stream_of)
        if self.compile and not self.program.loops and members not in self.window_lengths:
            length = self.longest_window(carry)
            if length:
                ours = self.with_windows(carry, self.members_windows(carry, length), 0)
                length = length if self.lanes_are_built(self.steps.own_examples, ours) else 0
            self.window_lengths[members] = length
        return self.window_lengths.get(members, 0)

    def longest_window(self, carry: Carry) -> int:
        """Return the most steps whose examples a member can make from a small window; 0 where its stream has none."""
        stream = self.program.stream
        if stream is None:
            return WINDOWS[0] if WINDOWS else 0
        if stream.window is None:
            return 0
        first: Any = optree.tree_map(lambda leaf: leaf[:1], carry.problem)
        return next((n for n in WINDOWS if size_of(self.windows(first, n)) <= WINDOW_BYTES), 0)

    def making_examples(self, carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]] | None:
        """Run some steps whose members make their own examples; return ``None`` where they cannot be compiled."""
        length = self.window_length(carry)
        ahead = self.ahead
        follows = ahead is not None and ahead.problem is carry.problem and ahead.stream_of is carry.stream_of
        if ahead is None or not follows or ahead.next + steps > length:
            ahead = Ahead(carry.problem, carry.stream_of, self.members_windows(carry, length), 0)
        done = self.in_lanes(self.steps.own_examples, self.with_windows(carry, ahead.window, ahead.next), None, steps)
        if done is None:
            self.window_lengths[len(carry.stream_of)] = 0
            return None
        *_, members, _, totals = done
        stream = self.program.stream
        skip = None if stream is None else stream.skip
        problem = carry.problem if skip is None else torch.vmap(lambda state: skip(state, steps))(carry.problem)
        self.ahead = Ahead(problem, carry.stream_of, ahead.window, ahead.next + steps)
        return carry._replace(problem=problem, members=members), totals

    def with_windows(self, carry: Carry, window: PyTree, index: int) -> tuple[Any, ...]:
        """Return the carry of the step that makes its examples."""
        return window, torch.full_like(carry.stream_of, index), carry.members, carry.settings, self.zeros(carry)

    def windows(self, problem: PyTree, length: int) -> PyTree:
        stream = self.program.stream
        if stream is None or stream.window is None:
            return ()
        window = stream.window
        return torch.vmap(lambda state: window(state, length))(problem)

    def members_windows(self, carry: Carry, length: int) -> PyTree:
        return optree.tree_map(lambda leaf: leaf.index_select(0, carry.stream_of), self.windows(carry.problem, length))

    # --- examples given ---------------------------------------------------------------------------------

    def piece_length(self, carry: Carry) -> int:
        """Return the most steps of a call whose examples are laid out before it; of long steps, with loops in them,
        one."""
        if self.program.loops:
            return 1
        members = len(carry.stream_of)
        if members not in self.piece_lengths:
            bytes = 8 * members * len(self.rehearsed.averaged + self.rehearsed.summed)
            if self.program.stream is not None:
                _, batches = self.sample(carry, 1)
                streams = len(batches[0][0])
                bytes = 8 * members + size_of(batches) * (streams + members) // streams
            self.piece_lengths[members] = max(2, min(PIECE, PIECE_BYTES // bytes))
        return self.piece_lengths[members]

    def given_examples(self, carry: Carry, steps: int) -> tuple[Carry, dict[str, Tensor]]:
        suits = self.suits_lanes(carry)
        problem, batches = self.sample(carry, steps)
        totals = self.zeros(carry)
        if suits:
            ours = (carry.members, carry.settings, totals)
            done = self.in_lanes(self.steps.given_examples, ours, laid_out(batches, carry.stream_of), steps)
            if done is not None:
                members, _, totals = done
                return carry._replace(problem=problem, members=members), totals
            self.lanes_suit[len(carry.stream_of)] = False
        backend: loop.BackendName = "scan" if self.compile is True and not self.program.loops else "eager"
        ours = tuple(carry[1:])
        with loop.compiling(self.compile):  # of loops in the step
            (members, *_), seen = loop.scan(self.steps.all_members, ours, batches, length=steps, backend=backend)
        if backend == "scan" and not loop.compiles(self.steps.all_members, ours, batches):
            self.scan_failed = True
            self.unbuilt = self.unbuilt or "the compiled scan cannot be built"
        totals = {name: value.sum(0, dtype=totals[name].dtype) for name, value in seen.items()}
        return carry._replace(problem=problem, members=members), totals

    def suits_lanes(self, carry: Carry) -> bool:
        """Tell whether lanes are the best way where examples are given; one step's tell."""
        members = len(carry.stream_of)
        if self.program.stream is None:
            return False  # such a program makes its own examples, or does not suit lanes
        if self.compile and members not in self.lanes_suit:
            _, batches = self.sample(carry, 1)
            ours = (carry.members, carry.settings, self.zeros(carry))
            examples = laid_out(batches, carry.stream_of)
            self.lanes_suit[members] = self.lanes_are_built(self.steps.given_examples, ours, examples)
        return self.lanes_suit.get(members, False)

    # --- parts ------------------------------------------------------------------------------------------

    def lanes_are_built(self, step: loop.Step, ours: PyTree, examples: PyTree = None) -> bool:
        """Tell whether lanes suit a step and its program is built."""
        backend, failure = loop.prepare(step, ours, examples)
        self.unbuilt = self.unbuilt or failure
        return backend == "lanes"

    def in_lanes(self, step: loop.Step, ours: PyTree, batches: PyTree, length: int) -> PyTree:
        """Run steps in lanes and return the last carry; ``None`` where the program cannot be compiled."""
        instead = "the compiled scan runs" if self.compile is True else "steps run eagerly"
        try:
            with using_threads(self.threads or torch.get_num_threads()):
                return loop.scan(step, ours, batches, length, backend="lanes")[0]
        except ValueError as error:
            self.unbuilt = self.unbuilt or str(error)
            warnings.warn(f"{instead} in place of lanes: {error}", RuntimeWarning, stacklevel=2)
            return None

    def sample(self, carry: Carry, length: int) -> PyTree:
        """Draw batches: return the streams ``length`` batches later, and these batches ``(length, streams, ...)``."""
        stream = self.program.stream
        if stream is None:
            return carry.problem, ()
        return torch.vmap(lambda state: stream.sample(state, length), out_dims=(0, 1))(carry.problem)

    def zeros(self, carry: Carry) -> dict[str, Tensor]:
        """Return sums over no steps."""
        like = carry.stream_of
        means = {name: torch.zeros_like(like, dtype=torch.float64) for name in self.rehearsed.averaged}
        return means | {name: torch.zeros_like(like, dtype=torch.int64) for name in self.rehearsed.summed}


def _steps(program: Program) -> Steps:
    def given(carry: Any, batch: Any) -> Any:
        member, settings, sums = carry
        examples = () if program.stream is None else (batch,)
        member, seen = program.step(member, settings, *examples)
        return (member, settings, {name: total + seen[name].to(total.dtype) for name, total in sums.items()}), ()

    def making(carry: Any, _: None) -> Any:
        window, index, *ours = carry
        at = None if program.stream is None else program.stream.at
        ours, _ = given(ours, () if at is None else at(window, index))
        return (window, index + 1, *ours), ()

    side_by_side = torch.vmap(program.step)

    def together(carry: Any, batches: tuple[Tensor, ...]) -> Any:
        members, settings, stream_of = carry
        examples = () if program.stream is None else (tuple(part[stream_of] for part in batches),)
        members, seen = side_by_side(members, settings, *examples)
        return (members, settings, stream_of), dict(seen)

    return Steps(torch.vmap(making), torch.vmap(given), together)


def laid_out(batches: tuple[Tensor, ...], stream_of: Int64[Tensor, "members"]) -> tuple[Tensor, ...]:
    """Return each member's examples ``(length, members, ...)``."""
    return tuple(part.index_select(1, stream_of) for part in batches)


def size_of(tree: PyTree) -> int:
    """Count the bytes of a pytree's tensors."""
    return sum(leaf.numel() * leaf.element_size() for leaf in optree.tree_leaves(tree))


@contextlib.contextmanager
def using_threads(number: int) -> Iterator[None]:
    """Use ``number`` threads for the operations within."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
