"""The compiled program of a scan: one traced step inside one loop, without Python in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, fx

from fcbp.loop import layout

__all__ = ["PARALLEL_FROM", "Program", "build", "check_carry"]

Program = Callable[[list[Tensor], Any, int], tuple[Any, Any]]
"""``program(carry_leaves, xs, length) -> (carry, ys)``"""

PARALLEL_FROM = 1 << 20
"""Elements of the carry from which on threads share an operation: with fewer, their meetings cost more than they save,
and on a busy machine many times more."""


# Before, the compiler's loops of variable length come without the C++ around them.
_CAN_LOOP_IN_CPP = torch.__version__ >= "2.13"


def _read_scalars() -> contextlib.AbstractContextManager[Any]:
    """What torch before 2.11 needs for a loop: that the compiler may read its counter."""
    if torch.__version__ >= "2.11":
        return contextlib.nullcontext()
    return torch._dynamo.config.patch(capture_scalar_outputs=True)


class _Flat(NamedTuple):
    """A step over flat lists of tensors, split into what is the same at every step and what is not."""

    prologue: fx.GraphModule
    """``(*constants) -> hoisted``: what depends on constants alone, computed once."""
    body: fx.GraphModule
    """``(*moving, *constants, *hoisted, *x) -> (*moving, *y)``"""
    moving: list[int]
    """Positions of the carry leaves that the step changes."""
    constants: list[int]
    """Positions of the carry leaves that it returns as they are."""
    y_spec: optree.PyTreeSpec


def build(step: Callable[..., Any], leaves: list[Tensor], spec: optree.PyTreeSpec, xs: Any) -> Program:
    """Trace ``step`` and compile it on the first call of what is returned.

    The program serves every length: the leading axis of ``xs`` is dynamic.
    """
    from torch._higher_order_ops.scan import scan as scan_op

    count = layout.population(leaves)
    flat = _trace(step, leaves, spec, xs, count)
    if count and flat.body.graph.find_nodes(op="call_function", target=torch.ops.aten.native_batch_norm.default):
        # Under vmap it writes the running statistics through a view that only a member's own layout allows.
        count = 0
        flat = _trace(step, leaves, spec, xs, count)
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
        with torch.no_grad(), _read_scalars():
            carry, ys = compiled(moving, constants, stacked)
        new = list(leaves)
        for i, value in zip(flat.moving, carry[1:], strict=True):
            new[i] = value
        return optree.tree_unflatten(spec, new), optree.tree_unflatten(flat.y_spec, list(ys[1:]))

    return run


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, copied where one shares memory with an earlier one."""
    seen: set[int] = set()
    result = []
    for tensor in tensors:
        memory = tensor.untyped_storage().data_ptr()
        result.append(tensor.clone() if memory in seen else tensor)
        seen.add(memory)
    return result


def check_carry(leaves: list[Tensor], spec: optree.PyTreeSpec, new: Any) -> None:
    """Check that a step's new carry is like the old.

    Raises:
        ValueError: structure, shape or dtype differ.
    """
    accessors, new_leaves, new_spec = optree.tree_flatten_with_accessor(new)
    if new_spec != spec:
        raise ValueError(f"step returned a carry of another structure: {new_spec}; expected {spec}")
    for accessor, before, after in zip(accessors, leaves, new_leaves, strict=True):
        if not isinstance(after, Tensor) or (before.shape, before.dtype) != (after.shape, after.dtype):
            found = f"{tuple(after.shape)} {after.dtype}" if isinstance(after, Tensor) else repr(after)
            raise ValueError(
                f"step returned {accessor.codify('carry')} as {found}; expected {tuple(before.shape)} {before.dtype}, "
                "as it came in"
            )


def _trace(step: Callable[..., Any], leaves: list[Tensor], spec: optree.PyTreeSpec, xs: Any, count: int) -> _Flat:
    from torch.fx.experimental.proxy_tensor import make_fx

    x_leaves, x_spec = optree.tree_flatten(xs)
    y_spec = None

    def flat_step(*args: Tensor) -> list[Tensor]:
        nonlocal y_spec
        carry, x = optree.tree_unflatten(spec, args[: len(leaves)]), optree.tree_unflatten(x_spec, args[len(leaves) :])
        new, y = step(carry, x)
        check_carry(leaves, spec, new)
        y_leaves, y_spec = optree.tree_flatten(y)
        return [*optree.tree_leaves(new), *map(torch.as_tensor, y_leaves)]

    with torch.no_grad():
        # Detached: the tracer takes one tensor passed twice for one argument. Functionalized: what follows moves and
        # copies operations, which is right for those without side effects alone.
        arguments = [*(layout.store(leaf.detach(), count) for leaf in leaves), *(x[0] for x in x_leaves)]
        traced = make_fx(torch.func.functionalize(flat_step, remove="mutations"))(*arguments)
    assert y_spec is not None
    inputs = traced.graph.find_nodes(op="placeholder")
    apart = [n for n, x in zip(inputs[len(leaves) :], x_leaves, strict=True) if not layout.is_side_by_side(x[0], count)]
    layout.arrange(traced.graph, count, apart)
    (output,) = traced.graph.find_nodes(op="output")
    results = output.args[0]
    moving = [i for i in range(len(leaves)) if results[i] is not inputs[i]]
    constants = [i for i in range(len(leaves)) if results[i] is inputs[i]]

    fixed = [inputs[i] for i in constants]
    hoisted, invariant = _loop_invariants(traced.graph, fixed)
    prologue, nodes = _copy(invariant, fixed)
    prologue.output(tuple(nodes[node] for node in hoisted))
    steps = [node for node in traced.graph.nodes if node.op not in ("placeholder", "output")]
    read = [*(inputs[i] for i in moving), *fixed, *hoisted, *inputs[len(leaves) :]]
    body, nodes = _copy(steps, read)
    # The loop owns its buffers: a result must share memory with no argument and with no other result.
    contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
    clone = torch.ops.aten.clone.default
    carried = [layout.stored(body, nodes[results[i]], leaves[i].shape, count) for i in moving]
    body.output((*carried, *(body.call_function(clone, (nodes[y],), contiguous) for y in results[len(leaves) :])))
    for graph in (prologue, body):
        graph.eliminate_dead_code()
    return _Flat(fx.GraphModule(traced, prologue), fx.GraphModule(traced, body), moving, constants, y_spec)


def _loop_invariants(graph: fx.Graph, fixed: list[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """Values that a step need not compute again, and all the operations that lead to them.

    A view is free in the loop, and would tie a hoisted value's memory to a constant's: it stays where it is used.
    """
    invariant: dict[fx.Node, None] = dict.fromkeys(fixed)
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema and node.all_input_nodes and all(n in invariant for n in node.all_input_nodes):
            invariant[node] = None
    operations = [node for node in invariant if node not in fixed]
    computed = [node for node in operations if not layout.is_view(node.target)]

    def is_used_in_the_loop(node: fx.Node) -> bool:
        return any(user not in invariant or (user not in computed and is_used_in_the_loop(user)) for user in node.users)

    return [node for node in computed if is_used_in_the_loop(node)], operations


def _copy(nodes: list[fx.Node], arguments: list[fx.Node]) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A graph of ``nodes`` with ``arguments`` as its inputs, and what became of each node."""
    graph = fx.Graph()
    new = {node: graph.placeholder(f"argument_{i}") for i, node in enumerate(arguments)}
    for node in nodes:
        if node not in new:
            new[node] = graph.node_copy(node, new.__getitem__)
    return graph, new
