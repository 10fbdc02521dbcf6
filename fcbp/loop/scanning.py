"""``scan`` and the choice of its backend."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import optree
import torch
from torch import Tensor

from fcbp.checks import arguments, shown
from fcbp.kinds import PyTree
from fcbp.loop.compiler import check_compiler_for
from fcbp.loop.members import check_members, is_vmapped, member_of, named, over_pytrees, tell
from fcbp.loop.program import Program, build, check_carry
from fcbp.names import check_option

if TYPE_CHECKING:
    from fcbp.loop.choice import LaneProgram
    from fcbp.loop.text import Source

__all__ = ["BackendName", "Choice", "compiles", "explain", "is_out_of_memory", "prepare", "scan", "source"]

Step = Callable[[Any, Any], tuple[Any, Any]]

BackendName = Literal["lanes", "scan", "eager"]
"""Lanes of vectors, the compiled scan, or a loop in Python."""


SLOWER = "a step then takes milliseconds, 10 to 1,000 times as long as compiled"


class Choice(NamedTuple):
    """A backend, and the reason for it."""

    backend: BackendName
    """``"lanes"``, ``"scan"`` or ``"eager"``."""
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


# By step and signature; None marks a step that would not compile.
_programs: weakref.WeakKeyDictionary[Step, dict[Any, Program | None]] = weakref.WeakKeyDictionary()


@arguments(at_once=True)
def scan(
    step: Step,
    carry: PyTree,
    xs: PyTree = None,
    length: int | None = None,
    *,
    compile: bool = True,
    backend: BackendName | None = None,
) -> tuple[Any, Any]:
    """Run ``carry, y = step(carry, x)`` over the leading axis of ``xs``; the semantics of ``jax.lax.scan``.

    A step is an ordinary pure function of pytrees of tensors, for one learner or under ``torch.vmap`` for many. The
    compiled program is the same function: it is traced once, put into one loop without Python in it, and kept for as
    long as ``step`` (of ``torch.vmap(step)``: the function under it) lives, for every later call with the same shapes
    and any length. Pass the same ``step`` object to reuse it (a function: a bound method is a new object each time),
    and pass numbers that change through ``carry``: what ``step`` closes over is a constant of the program. Gradients do
    not flow through a compiled loop.

    Where :mod:`fcbp.lanes` are the faster way, members run as lanes of vectors: 4, 8 or 16 members to a vector, as the
    processor has it, the whole run in one call. A model of what both ways compute and load decides, from the sizes of
    the step, the number of members and the machine's caches.
    That takes one member's step: pass ``torch.vmap(step)`` itself, not a function that calls it. A member's numbers are
    then the same to the bit whatever members are beside it. :func:`explain` says whether lanes suit a step, and if not,
    why.

    Args:
        step: ``(carry, x) -> (carry, y)``; the new carry has the structure, shapes and dtypes of the old.
        carry: a pytree of tensors.
        xs: a pytree of tensors that share their leading axis; ``None`` is an empty one.
        length: number of steps; needed where ``xs`` has no tensors.
        compile: ``False`` runs the step eagerly, with the same results. Compiling takes 2 to 10 seconds for lanes and
            10 to 20 for each program of the compiled scan, the first time on a machine; before, the logger ``"fcbp"``
            says what is compiled. Where it fails, a warning says why and the next backend runs.
        backend: ``"lanes"``, ``"scan"`` (the compiled scan) or ``"eager"``; by default what :func:`explain` says.

    Returns:
        The last carry, and the ``y`` of all steps stacked on a leading axis.

    Raises:
        ValueError: ``length`` is missing, negative or disagrees with ``xs``, or a carry leaf is no tensor or changes
            structure, shape or dtype; ``backend`` is unknown, or ``"lanes"`` and the step cannot run in lanes: the
            message names the operation and the line.

    Example:
        >>> def step(total, x):
        ...     total = total + x
        ...     return total, total
        >>> scan(step, torch.tensor(0.0), torch.tensor([1.0, 2.0, 3.0]), backend="eager")
        (tensor(6.), tensor([1., 3., 6.]))
    """
    if backend is not None:
        check_option("backend", backend, BackendName)
    _check_step(step)
    length = _length(xs, length)
    leaves, spec = _carry_leaves(carry)
    check_members(step, carry, xs)
    if not compile or backend == "eager" or length == 0:
        return _eager(step, carry, xs, length)
    if backend == "lanes":
        found, _ = _lane_program(step, leaves, spec, xs, insist=True)
        if not found.why_not:
            done = found.run(step, leaves, xs, length)
            if done is not None:
                return done
        raise ValueError(f"backend is 'lanes', in which this step cannot run: {found.why_not}")
    if backend is None and length > 1:
        found, count = _lane_program(step, leaves, spec, xs)
        if not found.reason_against(count):
            done = found.run(step, leaves, xs, length)
            if done is not None:
                return done
            warnings.warn(
                f"fcbp.loop.scan runs the compiled scan in place of lanes: {found.why_not}; small learners take "
                "several times as long",
                RuntimeWarning,
                stacklevel=3,
            )
    # A single step is no loop: the compiler would make a second program for it.
    if length > 1:
        programs = _programs.setdefault(step, {})
        key = _signature(leaves, spec, xs)
        try:
            if key not in programs:
                check_compiler_for(leaves)
                programs[key] = build(over_pytrees(step), leaves, spec, xs, _announcing(step, leaves), member_of(step))
            program = programs[key]
            if program is not None:
                return program(leaves, xs, length)
        except Exception as error:
            if isinstance(error, ValueError) or is_out_of_memory(error):
                raise  # with too little memory running eagerly is no help
            programs[key] = None
            # The first line alone may be no more than the compiler's name.
            reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:3])
            warnings.warn(
                f"fcbp.loop.scan runs eagerly, because compiling failed: {type(error).__name__}: {reason}; {SLOWER}",
                RuntimeWarning,
                stacklevel=3,
            )
    return _eager(step, carry, xs, length)


@arguments
def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory was short, on a GPU or on the CPU, where torch says so with an error of no type of its
    own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


@arguments
def explain(step: Step, carry: PyTree, xs: PyTree = None) -> Choice:
    """Tell which backend :func:`scan` chooses for these arguments, and why; nothing is compiled.

    Where a step cannot run in lanes, the reason names the first operation that stands against it and the line of code
    it comes from.

    Args:
        step: as for :func:`scan`.
        carry: as for :func:`scan`.
        xs: as for :func:`scan`; one step tells as much as many.

    Raises:
        ValueError: as :func:`scan`.

    Example:
        >>> def step(total, x):
        ...     return total + x, ()
        >>> explain(torch.vmap(step), torch.zeros(100), torch.zeros(10, 100)).backend
        'lanes'
    """
    _check_step(step)
    leaves, spec = _carry_leaves(carry)
    check_members(step, carry, xs)
    if optree.tree_leaves(xs) and _length(xs, None) == 0:
        return Choice("eager", "there are no steps")
    found, count = _lane_program(step, leaves, spec, xs)
    reason = found.reason_against(count)
    return Choice("scan", f"not in lanes: {reason}") if reason else Choice("lanes", found.reason_for(count))


@arguments
def prepare(step: Step, carry: PyTree, xs: PyTree = None) -> tuple[str, str]:
    """Build the lanes of a step that suits them, before it runs.

    Args:
        step: as for :func:`scan`.
        carry: as for :func:`scan`.
        xs: as for :func:`scan`.

    Returns:
        The backend that :func:`scan` will then choose, and why lanes cannot be built, where nothing else stands
        against them: there is no compiler, or it fails.
    """
    _check_step(step)
    leaves, spec = _carry_leaves(carry)
    _check_xs(xs)
    found, count = _lane_program(step, leaves, spec, xs)
    if not found.reason_against(count) and found.build(step, count) is not None:
        return "lanes", ""
    return "scan", found.why_not if found.unbuilt else ""


@arguments
def source(step: Step, carry: PyTree, xs: PyTree = None) -> Source:
    """Show one member's step as graph, nodes, plan and C++: its way to a program in lanes. Nothing is compiled.

    Args:
        step: as for :func:`scan`.
        carry: as for :func:`scan`.
        xs: as for :func:`scan`, of at least one step.

    Returns:
        The four forms as text; printed, one below the other.

    Raises:
        ValueError: the step cannot run in lanes; the message names the operation and the line. Otherwise as
            :func:`scan`.

    Example:
        >>> def step(total, x):
        ...     return total + x, ()
        >>> print(source(torch.vmap(step), torch.zeros(100), torch.zeros(10, 100)).nodes)
        n0   leaf carry0        float32 ()
        n1   leaf x0            float32 ()
        n2   map add(n0, n1)    float32 ()
    """
    from fcbp.loop.text import written

    _check_step(step)
    leaves, spec = _carry_leaves(carry)
    check_members(step, carry, xs)
    if optree.tree_leaves(xs) and _length(xs, None) == 0:
        raise ValueError("xs has 0 steps; expected at least 1, whose shapes are those of every step")
    found, _ = _lane_program(step, leaves, spec, xs, insist=True)
    if found.draft is None:
        raise ValueError(f"step cannot run in lanes: {found.why_not}")
    return written(found.draft)


@arguments
def compiles(step: Step, carry: PyTree, xs: PyTree = None) -> bool:
    """Tell whether the compiled scan of a step has not failed; it is compiled when it first runs."""
    leaves, spec = _carry_leaves(carry)
    _check_xs(xs)
    return _programs.get(step, {}).get(_signature(leaves, spec, xs), True) is not None


def _lane_program(
    step: Step, leaves: list[Tensor], spec: optree.PyTreeSpec, xs: Any, insist: bool = False
) -> tuple[LaneProgram, int]:
    from fcbp.loop import choice  # importing lanes takes a while, which who only runs eagerly need not wait for

    return choice.lane_program(step, leaves, spec, xs, insist)


def _carry_leaves(carry: Any) -> tuple[list[Tensor], optree.PyTreeSpec]:
    leaves, spec = optree.tree_flatten(carry)
    for i, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            place = optree.tree_accessors(carry)[i].codify("carry")
            raise ValueError(f"{place} is {leaf!r}; expected a tensor, such as torch.tensor({leaf!r})")
    return leaves, spec


def _check_xs(xs: Any) -> None:
    for i, leaf in enumerate(optree.tree_leaves(xs)):
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            place = optree.tree_accessors(xs)[i].codify("xs")
            raise ValueError(f"{place} is {leaf!r}; expected a tensor with a leading axis of steps")


def _length(xs: Any, length: int | None) -> int:
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise ValueError(f"length is {length!r}; expected a whole number of steps, 0 or more")
    if length is not None and length >= 1 << 63:
        raise ValueError(f"length is {shown(length)}; expected a whole number of steps below 2^63")
    _check_xs(xs)
    for i, leaf in enumerate(optree.tree_leaves(xs)):
        if length is None:
            length = leaf.shape[0]
        if leaf.shape[0] != length:
            place = optree.tree_accessors(xs)[i].codify("xs")
            raise ValueError(f"{place} has {leaf.shape[0]} steps; expected {length}, as length or other leaves have")
    if length is None:
        raise ValueError("length is None and xs holds no tensors; expected a number of steps")
    if length < 0:
        raise ValueError(f"length is {length}; expected 0 or more")
    return length


def _check_step(step: Step) -> None:
    if not callable(step):
        raise ValueError(f"step is {step!r}; expected a function (carry, x) -> (carry, y)")


def _announcing(step: Step, leaves: list[Tensor]) -> Callable[[], None]:
    """Return a function to call before a part of a step's program is compiled."""
    members = f" for {len(leaves[0])} members" if leaves and leaves[0].ndim and is_vmapped(step) else ""
    what = f"the scan of {named(step)}{members}"
    said: list[str] = []

    def announce() -> None:
        tell(f"more of {what}: units fall due" if said else what, "10 to 20 seconds")
        said.append(what)

    return announce


def _eager(step: Step, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    step = over_pytrees(step)
    if length == 0:
        example = optree.tree_map(lambda x: x.new_zeros(x.shape[1:]), xs)
        _, y = step(carry, example)
        return carry, optree.tree_map(lambda leaf: torch.as_tensor(leaf).unsqueeze(0)[:0], y)
    leaves, spec = optree.tree_flatten(carry)
    ys = []
    for i in range(length):
        carry, y = step(carry, optree.tree_map(lambda x: x[i], xs))  # noqa: B023
        ys.append(y)
        if i == 0:
            check_carry(leaves, spec, carry)
    y_leaves, y_spec = zip(*(optree.tree_flatten(y) for y in ys), strict=True)
    stacked = [torch.stack([torch.as_tensor(leaf) for leaf in leaves]) for leaves in zip(*y_leaves, strict=True)]
    return carry, optree.tree_unflatten(y_spec[0], stacked)


def _signature(leaves: list[Tensor], spec: optree.PyTreeSpec, xs: Any) -> Any:
    x_leaves, x_spec = optree.tree_flatten(xs)

    def describe(leaf: Tensor, first_axis: int) -> Any:
        return leaf.shape[first_axis:], leaf.dtype, leaf.device

    return spec, x_spec, *(describe(leaf, 0) for leaf in leaves), *(describe(leaf, 1) for leaf in x_leaves)
