"""A backend of :func:`fcbp.loop.scan` for small learners: members as SIMD lanes, the time loop innermost.

The step of **one member** passes through five forms, each made by one part of the package:

1. ``trace``: a flat graph of torch's operations.
2. ``lower``: nodes of few kinds (``ir``). ``pointwise``, ``shapes``, ``reductions`` and ``indexing`` lower the
   operations, each under torch's name; ``peephole`` has the rewrites that are made for continual backpropagation.
3. ``planner``: the stored nodes, their order and their arrays (``plan``).
4. ``emit``: C++ whose elements are vectors of 4, 8 or 16 members.
5. ``build``: a compiled program, which is kept. On a GPU, ``gpu`` makes a CUDA kernel in which a thread has one member.

A vector's members are a block. A block runs through all steps before the next begins, so that its state stays in
registers and caches; blocks are spread over threads. No lane's arithmetic depends on another's: a member's numbers are
the same to the bit whatever the number of members, their order and the pieces that a run is cut into.

An index may lie outside of its array, and an integer may be divided by 0. The program looks for both, and the run then
ends with an error. An operation on which no result depends is neither computed nor checked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optree
import torch
from torch import Tensor

from fcbp.kinds import PyTree
from fcbp.lanes import build, gpu
from fcbp.lanes.ahead import with_sums_ahead
from fcbp.lanes.build import BuildError
from fcbp.lanes.emit import emit, workspace
from fcbp.lanes.ir import Map, Node, Reduce
from fcbp.lanes.lower import DTYPES, Unsupported, UnsupportedOperation
from fcbp.lanes.plan import Plan
from fcbp.lanes.trace import Members, Traced, members_of, trace

__all__ = [
    "BuildError",
    "Lanes",
    "Members",
    "Program",
    "Unsupported",
    "UnsupportedOperation",
    "draft",
    "elements_on",
    "made_by",
    "members_of",
    "width",
]

OPTIMIZE = "-O3"
"""The compiler's level of optimisation."""
WIDEST = 16
"""Members of the widest vectors. Those of 8 are computed at once wherever there are any."""

Program = Callable[[list[Tensor], Any, int], tuple[Any, Any]]
"""``program(carry_leaves, xs, length) -> (carry, ys)``"""


@dataclass(frozen=True)
class Lanes:
    """A step in lanes: its size, and its program."""

    population: bool
    shared_x: bool
    traced: Traced
    plan: Plan
    source: str
    spec: optree.PyTreeSpec
    elements: str
    """``"vectors"`` on the CPU, ``"threads"`` on a GPU."""
    width: int
    """Members of a block."""

    @functools.cached_property
    def halved(self) -> Lanes | None:
        """The step with half as many members to a block, to the same bits; ``None`` where there is no such program.

        Where a vector of 16 numbers takes two turns, half of it computes at the same rate, its block needs half of the
        cache, and fewer lanes are idle.
        """
        if self.elements != "vectors" or self.width < WIDEST:
            return None
        half = self.width // 2
        return replace(self, source=f"#define LANES {half}\n{self.source}", width=half)

    @functools.cached_property
    def block_bytes(self) -> int:
        """Memory of one block of members: state, temporaries and one step's examples."""
        return workspace(self.traced.lowered, self.plan) * self.width

    @functools.cached_property
    def lines(self) -> int:
        """Lines of the source."""
        return self.source.count("\n")

    @functools.cached_property
    def work(self) -> int:
        """Elements that a step of one block computes."""
        return sum(node.args[0].size if isinstance(node, Reduce) else node.size for node in self.plan.order)

    def is_built(self) -> bool:
        """Tell whether the program was compiled before, so that compiling takes no time.

        Raises:
            BuildError: as :meth:`compile`.
        """
        return self.elements == "vectors" and build.is_built(self.source, OPTIMIZE)

    def compile(self) -> Program:
        """Return the program, which serves every length and every number of members.

        Raises:
            BuildError: there is no compiler, or it fails.

        At the end of a run, where a result depends on it, the program raises the errors of eager:
            IndexError: an index is out of range.
            ZeroDivisionError: an integer is divided by 0.
        """
        if self.elements == "threads":
            launch = gpu.launcher(self.source)
        else:
            launch = build.launcher(self.source, OPTIMIZE, self.work, self.width)
        spec, y_spec, moving = self.spec, self.traced.y_spec, self.plan.moving
        population, by_member = self.population, self.population and not self.shared_x
        constants = [c.contiguous() for c in self.traced.constants]
        checks = list(self.traced.lowered.checks.items())
        ahead = [(leaf.shape, leaf.dtype) for leaf in self.traced.lowered.ahead]
        y_kinds = [(y.shape, y.dtype) for y in self.traced.lowered.results[self.traced.carried + len(ahead) :]]

        def run(leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any]:
            count = leaves[0].shape[0] if population else 1
            device = leaves[0].device if leaves else None
            state = [leaf.detach().contiguous() for leaf in leaves]
            given = len(state)
            state += [torch.zeros(count, *shape, dtype=dtype) for shape, dtype in ahead]
            for i in moving:  # the program writes to these, and must not write to the caller's
                state[i] = state[i].clone(memory_format=torch.contiguous_format)
            examples, strides = _examples(xs, by_member)
            lead = (length, count) if population else (length,)
            ys = [torch.empty((*lead, *shape), dtype=dtype, device=device) for shape, dtype in y_kinds]
            failed = launch(build.Arguments(count, length, state, constants, examples, strides, ys))
            if checks and failed:
                raise _error(*checks[int(failed) - 1])
            return optree.tree_unflatten(spec, state[:given]), optree.tree_unflatten(y_spec, ys)

        return run


def elements_on(device: torch.device) -> str:
    """Return the kind of a program's elements on a device: ``"vectors"`` or ``"threads"``."""
    return "threads" if device.type == "cuda" else "vectors"


def width(elements: str) -> int:
    """Return the number of members of a block.

    Raises:
        BuildError: there is no compiler, which knows the length of the CPU's vectors.
    """
    return 1 if elements == "threads" else build.lanes()


def made_by(device: torch.device) -> str:
    """Name the kind of processor and the compiler of a device's programs, such as ``"AVX-512, g++"``.

    Raises:
        BuildError: there is no compiler.
    """
    return "CUDA, NVRTC" if elements_on(device) == "threads" else build.made_by()


def _error(node: Node, origin: str) -> Exception:
    """Return the error that eager raises, with the operation and its line."""
    if isinstance(node, Map):
        return ZeroDivisionError(f"division of an integer by 0 in {origin}")
    return IndexError(f"index out of range in {origin}")


def _examples(xs: Any, by_member: bool) -> tuple[list[Tensor], list[int]]:
    """Return the examples, each member's own lying together, and their strides from step to step and member to
    member."""
    examples, strides = [], []
    for x in optree.tree_leaves(xs):
        x = x.detach()
        one = x[0, 0] if by_member else x[0]
        if not one.is_contiguous():
            x = x.contiguous()
        examples.append(x)
        strides += [x.stride(0), x.stride(1) if by_member else 0]
    return examples, strides


def draft(
    step: Callable[..., Any], leaves: list[Tensor], spec: optree.PyTreeSpec, xs: PyTree, check: Callable[..., None]
) -> Lanes:
    """Trace a step and write its program, without compiling it.

    Args:
        step: ``torch.vmap`` of one member's step, or the step of a single member.
        leaves: the carry's.
        spec: the carry's structure.
        xs: of at least one step.
        check: raises a ``ValueError`` where a new carry is unlike the old.

    Raises:
        Unsupported: the step cannot run in lanes.
    """
    members = members_of(step)
    x_leaves, x_spec = optree.tree_flatten(xs)
    devices = {leaf.device for leaf in (*leaves, *x_leaves)}
    if len(devices) > 1 or any(device.type not in ("cpu", "cuda") for device in devices):
        raise Unsupported(f"tensors on {' and '.join(sorted(map(str, devices)))}")
    for leaf in (*leaves, *x_leaves):
        if leaf.dtype not in DTYPES:
            raise Unsupported(f"dtype {leaf.dtype}")
    by_member = members.population and not members.shared_x
    if members.population:
        counts = {leaf.shape[:1] for leaf in leaves} | {x.shape[1:2] for x in x_leaves if by_member}
        if not leaves or len(counts) > 1 or counts == {()}:
            raise Unsupported("leaves with different numbers of members")
    one = [leaf[0] for leaf in leaves] if members.population else leaves
    x = [x[0, 0] if by_member else x[0] for x in x_leaves]
    traced = trace(members, one, spec, x, x_spec, check)
    elements = elements_on(next(iter(devices), torch.device("cpu")))
    if elements == "vectors":
        traced = traced._replace(lowered=with_sums_ahead(traced.lowered))
    registers = 32 if elements == "vectors" and build.lanes() == 16 else 16
    source, plan = emit(traced.lowered, elements, registers)
    return Lanes(members.population, members.shared_x, traced, plan, source, spec, elements, width(elements))
