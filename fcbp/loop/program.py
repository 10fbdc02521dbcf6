"""The compiled program of a scan: one traced step inside one loop, without Python in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, fx

from fcbp.checks import arguments
from fcbp.kinds import PyTree
from fcbp.loop import layout, passes

__all__ = ["PARALLEL_FROM", "Program", "build", "check_carry"]

Program = Callable[[list[Tensor], Any, int], tuple[Any, Any]]
"""``program(carry_leaves, xs, length) -> (carry, ys)``"""

PARALLEL_FROM = 1 << 20
"""Elements of the carry from which on threads share an operation: with fewer, their meetings cost more than they save,
and on a busy machine many times more."""


# Before, the compiler's loops of variable length come without the C++ around them.
_CAN_LOOP_IN_CPP = torch.__version__ >= "2.13"


def _read_scalars() -> contextlib.AbstractContextManager[Any]:
    """Let the compiler read a loop's counter, as torch before 2.11 needs."""
    if torch.__version__ >= "2.11":
        return contextlib.nullcontext()
    read: contextlib.AbstractContextManager[Any] = torch._dynamo.config.patch(capture_scalar_outputs=True)
    return read


LONG_STEP = 1 << 22
"""Elements that a step computes from which on Python may stand between two steps: it takes about a tenth of a
millisecond, and the step several."""


class _Traced(NamedTuple):
    """A step as a graph over flat lists of tensors: ``(*carry, *x) -> (*carry, *y)``."""

    module: fx.GraphModule
    graph: fx.Graph
    y_spec: optree.PyTreeSpec


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


def build(step: Callable[..., Any], leaves: list[Tensor], spec: optree.PyTreeSpec, xs: PyTree) -> Program:
    """Trace ``step`` and compile it on the first call of what is returned.

    The program serves every length: the leading axis of ``xs`` is dynamic.
    """
    count = layout.population(leaves)
    traced = _trace(step, leaves, spec, xs, count)
    if layout.work(traced.graph) >= LONG_STEP:
        return _stepped(_trace(step, leaves, spec, xs, 0) if count else traced, leaves, spec)
    if count and traced.graph.find_nodes(op="call_function", target=torch.ops.aten.native_batch_norm.default):
        # Under vmap it writes the running statistics through a view that only a member's own layout allows.
        count = 0
        traced = _trace(step, leaves, spec, xs, count)
    return _scanned(traced, leaves, spec, count)


def _scanned(traced: _Traced, leaves: list[Tensor], spec: optree.PyTreeSpec, count: int) -> Program:
    """Make one loop without Python in it, for short steps."""
    from torch._higher_order_ops.scan import scan as scan_op

    flat = _split(traced, len(leaves), lambda graph, node, leaf: layout.stored(graph, node, leaves[leaf].shape, count))
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
        return optree.tree_unflatten(spec, new), optree.tree_unflatten(traced.y_spec, list(ys[1:]))

    return run


def _stepped(traced: _Traced, leaves: list[Tensor], spec: optree.PyTreeSpec) -> Program:
    """Make one compiled step, called again and again, that writes the new carry over the old, for long steps.

    What Python takes between two steps is little beside them, memory holds one copy of the carry instead of two, and
    the compiler meets a step's operations in pieces, not in one file.
    """
    if all(leaf.device.type == "cpu" for leaf in leaves):
        passes.fuse(traced.graph, len(leaves))
    flat = _split(traced, len(leaves), lambda graph, node, leaf: node)
    body = _over_the_old(flat.body, len(flat.moving))
    compiled: Callable[..., Any] | None = None

    def run(leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any]:
        nonlocal compiled
        moving = [leaves[i].detach().clone(memory_format=torch.contiguous_format) for i in flat.moving]
        constants = [leaves[i].detach().contiguous() for i in flat.constants]
        given = [x.detach().contiguous() for x in optree.tree_leaves(xs)]
        steps = []
        with torch.no_grad():
            carried = [*moving, *constants, *flat.prologue(*constants)]
            for i in range(length):
                arguments = [*carried, *(x[i] for x in given)]
                if compiled is None:
                    compiled = torch._inductor.compile(body, arguments)
                steps.append(compiled(*arguments))
        new = list(leaves)
        for i, value in zip(flat.moving, moving, strict=True):
            new[i] = value
        ys = [torch.stack(values) for values in zip(*steps, strict=True)]
        return optree.tree_unflatten(spec, new), optree.tree_unflatten(traced.y_spec, ys)

    return run


def _over_the_old(body: fx.GraphModule, number: int) -> fx.GraphModule:
    """``body`` with its first ``number`` results written over its first arguments; it returns the others."""
    graph = body.graph
    (output,) = graph.find_nodes(op="output")
    results = output.args[0]
    with graph.inserting_before(output):
        # First of all copied where it is an argument, which another's new value may be written over.
        new = [_copied(graph, result) for result in results[:number]]
        for leaf, value in zip(graph.find_nodes(op="placeholder"), new, strict=False):
            graph.call_function(torch.ops.aten.copy_.default, (leaf, value))
    output.args = (results[number:],)
    return fx.GraphModule(body, graph)


def _copied(graph: fx.Graph, result: fx.Node) -> fx.Node:
    source = result
    while source.op == "call_function" and layout.is_view(source.target):
        source = source.args[0]  # type: ignore[assignment]
    return graph.call_function(torch.ops.aten.clone.default, (result,)) if source.op == "placeholder" else result


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    """Return the tensors, copied where one shares memory with an earlier one."""
    seen: set[int] = set()
    result = []
    for tensor in tensors:
        memory = tensor.untyped_storage().data_ptr()
        result.append(tensor.clone() if memory in seen else tensor)
        seen.add(memory)
    return result


@arguments
def check_carry(leaves: list[Tensor], spec: optree.PyTreeSpec, new: PyTree) -> None:
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


def _trace(step: Callable[..., Any], leaves: list[Tensor], spec: optree.PyTreeSpec, xs: Any, count: int) -> _Traced:
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
    return _Traced(traced, traced.graph, y_spec)


def _split(traced: _Traced, number: int, carried: Callable[[fx.Graph, fx.Node, int], fx.Node]) -> _Flat:
    """Take a traced step of ``number`` carry leaves apart; ``carried(graph, node, leaf)`` is what it returns of one."""
    graph = traced.graph
    inputs = graph.find_nodes(op="placeholder")
    (output,) = graph.find_nodes(op="output")
    results = output.args[0]
    moving = [i for i in range(number) if results[i] is not inputs[i]]
    constants = [i for i in range(number) if results[i] is inputs[i]]

    fixed = [inputs[i] for i in constants]
    hoisted, invariant = _loop_invariants(graph, fixed)
    prologue, nodes = _copy(invariant, fixed)
    prologue.output(tuple(nodes[node] for node in hoisted))
    steps = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    read = [*(inputs[i] for i in moving), *fixed, *hoisted, *inputs[number:]]
    body, nodes = _copy(steps, read)
    # The loop owns its buffers: a result must share memory with no argument and with no other result.
    contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
    clone = torch.ops.aten.clone.default
    new = [carried(body, nodes[results[i]], i) for i in moving]
    body.output((*new, *(body.call_function(clone, (nodes[y],), contiguous) for y in results[number:])))
    for part in (prologue, body):
        part.eliminate_dead_code()
    return _Flat(fx.GraphModule(traced.module, prologue), fx.GraphModule(traced.module, body), moving, constants)


def _loop_invariants(graph: fx.Graph, fixed: list[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return values that a step need not compute again, and all the operations that lead to them.

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
    """Return a graph of ``nodes`` with ``arguments`` as its inputs, and what became of each node."""
    graph = fx.Graph()
    new = {node: graph.placeholder(f"argument_{i}") for i, node in enumerate(arguments)}
    for node in nodes:
        if node not in new:
            new[node] = graph.node_copy(node, new.__getitem__)
    return graph, new
