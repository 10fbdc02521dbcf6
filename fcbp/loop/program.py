"""The compiled program of a scan: one traced step and its loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import optree
import torch
from torch import Tensor, fx

from fcbp.kinds import PyTree
from fcbp.loop import layout, passes
from fcbp.loop.caches import caches
from fcbp.loop.compiler import limited_compiler
from fcbp.loop.in_turn import Member, first_of, in_turn
from fcbp.loop.objects import PARALLEL_FROM, load
from fcbp.loop.stepped import Compiled, Stepped
from fcbp.loop.tracing import Traced, check_carry, constants_of, split, trace

__all__ = ["PARALLEL_FROM", "Program", "build", "check_carry"]

Program = Callable[[list[Tensor], Any, int], tuple[Any, Any]]
"""``program(carry_leaves, xs, length) -> (carry, ys)``"""

# Before, the compiler's loops of variable length come without the C++ around them.
_CAN_LOOP_IN_CPP = torch.__version__ >= "2.13"


def _read_scalars() -> contextlib.AbstractContextManager[Any]:
    """Let the compiler read a loop's counter, as torch before 2.11 needs."""
    if torch.__version__ >= "2.11":
        return contextlib.nullcontext()
    read: contextlib.AbstractContextManager[Any] = torch._dynamo.config.patch(capture_scalar_outputs=True)
    return read


CONVOLUTION = torch.ops.aten.convolution.default
LONG_STEP = 1 << 22
"""Elements that a step computes from which on, on a device, Python may stand between two steps."""


def build(
    step: Callable[..., Any],
    leaves: list[Tensor],
    spec: optree.PyTreeSpec,
    xs: PyTree,
    announce: Callable[[], None],
    member: Member | None = None,
) -> Program:
    """Trace ``step``, and compile it on the first call of what is returned.

    The program serves every length.

    Args:
        step: the step.
        leaves: the carry's.
        spec: its structure.
        xs: the examples.
        announce: called before something is compiled.
        member: one member's step, where ``step`` is that of a population.
    """
    given, x_spec = optree.tree_flatten(xs)
    on_cpu = all(leaf.device.type == "cpu" for leaf in (*leaves, *given))
    count = layout.population(leaves)

    def for_each() -> Program:
        assert member is not None
        own, own_xs = first_of(member, leaves, xs)
        return in_turn(build(member.step, own, spec, own_xs, announce), member)

    if member is not None and on_cpu and _outgrow_the_caches(leaves):
        return for_each()

    def traced(rows: int | None) -> Traced:
        return trace(step, leaves, spec, given, x_spec, count, rows)

    first = traced(0)
    if member is not None and leaves and on_cpu and first.graph.find_nodes(op="call_function", target=CONVOLUTION):
        return for_each()
    if count and not layout.suits_side_by_side(first.graph):
        count = 0
        first = traced(0)
    if on_cpu and not passes.is_for(first.graph, len(leaves)):
        threads = torch.get_num_threads() if sum(leaf.numel() for leaf in leaves) >= PARALLEL_FROM else 1
        return Stepped(first, traced, leaves, spec, given, count, lambda graph, xs: load(graph, xs, threads, announce))
    announce()
    whole = traced(None)
    if layout.work(whole.graph) < LONG_STEP:
        return _scanned(whole, leaves, spec, count)
    if count:
        count = 0
        whole = traced(None)
    if on_cpu:
        passes.fuse(whole.graph, len(leaves))
    return Stepped(whole, traced, leaves, spec, given, count, _compiled)


def _outgrow_the_caches(leaves: list[Tensor]) -> bool:
    """Tell whether each step of all members would load their numbers from memory, and one thread does all the work.

    Threads share the work of all members at once, not that of one.
    """
    return sum(leaf.nbytes for leaf in leaves) > caches().shared // 2 and torch.get_num_threads() == 1


def _compiled(module: fx.GraphModule, arguments: list[Tensor]) -> Compiled:
    with limited_compiler():
        function = torch._inductor.compile(module, [*arguments])
    return lambda arguments: function(*arguments)


def _scanned(traced: Traced, leaves: list[Tensor], spec: optree.PyTreeSpec, count: int) -> Program:
    """Make one loop without Python in it, for short steps."""
    from torch._higher_order_ops.scan import scan as scan_op

    flat = split(
        traced,
        len(leaves),
        lambda graph, node, leaf: layout.stored(graph, node, leaves[leaf].shape, count),
        constants_of(traced, len(leaves)),
    )
    number = len(flat.moving)

    def loop(moving: list[Tensor], constants: list[Tensor], xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hoisted = flat.prologue(*constants)

        # The operator wants something to carry, to read and to return: a count of the steps, whatever the step does.
        def body(carry: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            results = flat.body(*carry[1:], *constants, *hoisted, *x[1:])
            return [carry[0] + 1, *results[:number]], [x[0].clone(), *results[number:]]

        return scan_op(body, [xs[0].new_zeros(()), *moving], xs)

    # The compiler counts programs by code object and refuses the ninth: each loop gets its own. Nor is a size to become
    # a variable (dynamic=False) because another program had another: only the length is.
    loop.__code__ = loop.__code__.replace()
    options: dict[str, Any] = {"cpp_wrapper": _CAN_LOOP_IN_CPP}
    if sum(leaf.numel() for leaf in leaves) < PARALLEL_FROM:
        options["cpp.threads"] = 1
    compiled = torch.compile(loop, fullgraph=True, dynamic=False, options=options)

    def run(leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any]:
        moving = _apart([layout.store(leaves[i], count) for i in flat.moving])
        constants = [layout.store(leaves[i], count) for i in flat.constants]
        # Detached, for the mark below must not stay on the caller's tensors.
        given = [x.detach() for x in optree.tree_leaves(xs)]
        given = [x if layout.is_side_by_side(x[0], count) else x.contiguous() for x in given]
        stacked = [torch.empty(length, dtype=torch.int32), *given]
        for x in stacked:
            torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad(), _read_scalars(), limited_compiler():
            carry, ys = compiled(moving, constants, stacked)
        new = list(leaves)
        for i, value in zip(flat.moving, carry[1:], strict=True):
            new[i] = value
        return optree.tree_unflatten(spec, new), optree.tree_unflatten(traced.y_spec, list(ys[1:]))

    return run


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors, copied where one shares memory with an earlier one."""
    seen: set[int] = set()
    result = []
    for tensor in tensors:
        memory = tensor.untyped_storage().data_ptr()
        result.append(tensor.clone() if memory in seen else tensor)
        seen.add(memory)
    return result
