"""A step as a graph over flat lists of tensors, and the parts of it: computed once, or at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, fx

from fcbp import rare
from fcbp.checks import arguments
from fcbp.kinds import PyTree
from fcbp.loop import layout

__all__ = ["Flat", "Traced", "check_carry", "constants_of", "results_of", "split", "trace"]


class Traced(NamedTuple):
    """A step as a graph over flat lists of tensors: ``(*carry, *x) -> (*carry, *y[, most])``."""

    module: fx.GraphModule
    graph: fx.Graph
    y_spec: optree.PyTreeSpec
    tells_most: bool
    """Whether the last result is the most units of any group and member that are due: no more than traced for, or the
    other results are wrong."""


class Flat(NamedTuple):
    """A step over flat lists of tensors, split into what is the same at every step and what is not."""

    prologue: fx.GraphModule
    """``(*constants) -> hoisted``: what depends on constants alone, computed once."""
    body: fx.GraphModule
    """``(*moving, *constants, *hoisted, *x) -> (*moving, *y)``"""
    moving: list[int]
    """Positions of the carry leaves that the step changes."""
    constants: list[int]
    """Positions of the carry leaves that it returns as they are."""


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


def trace(
    step: Callable[..., Any],
    leaves: list[Tensor],
    spec: optree.PyTreeSpec,
    xs: list[Tensor],
    x_spec: optree.PyTreeSpec,
    count: int,
    rows: int | None = None,
) -> Traced:
    """Trace a step.

    Args:
        step: ``(carry, x) -> (carry, y)``.
        leaves: the carry's.
        spec: its structure.
        xs: leaves of the examples, of all steps.
        x_spec: their structure.
        count: the members that lie side by side, or 0.
        rows: the most units of a group and member that the trace is to replace; by default all that can fall due.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    y_spec = None
    numbers: list[Tensor] = []

    def flat_step(*args: Tensor) -> list[Tensor]:
        nonlocal y_spec, numbers
        carry, x = optree.tree_unflatten(spec, args[: len(leaves)]), optree.tree_unflatten(x_spec, args[len(leaves) :])
        with rare.unbounded() if rows is None else rare.at_most(rows) as bound:
            new, y = step(carry, x)
        check_carry(leaves, spec, new)
        y_leaves, y_spec = optree.tree_flatten(y)
        results = [*optree.tree_leaves(new), *map(torch.as_tensor, y_leaves)]
        numbers = bound.numbers if bound else []
        return [*results, torch.cat([number.reshape(-1) for number in numbers]).amax()] if numbers else results

    # The tracer notes the shape of each value with a mode of its own, unless it finds one: half of its time.
    noting = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
    with torch.no_grad(), tracing(noting):
        # Detached: the tracer takes one tensor passed twice for one argument. Functionalized: what follows moves and
        # copies operations, which is right for those without side effects alone.
        arguments = [*(layout.store(leaf.detach(), count) for leaf in leaves), *(x[0] for x in xs)]
        traced = make_fx(torch.func.functionalize(flat_step, remove="mutations"))(*arguments)
    assert y_spec is not None
    inputs = traced.graph.find_nodes(op="placeholder")
    apart = [n for n, x in zip(inputs[len(leaves) :], xs, strict=True) if not layout.is_side_by_side(x[0], count)]
    layout.arrange(traced.graph, count, apart)
    return Traced(traced, traced.graph, y_spec, bool(numbers))


def constants_of(traced: Traced, number: int) -> list[int]:
    """Return the positions of the ``number`` carry leaves that a step returns as they are."""
    inputs = traced.graph.find_nodes(op="placeholder")
    results = results_of(traced.graph)
    return [i for i in range(number) if results[i] is inputs[i]]


def results_of(graph: fx.Graph) -> Sequence[fx.Node]:
    """Return the results of a traced graph."""
    (output,) = graph.find_nodes(op="output")
    results: Sequence[fx.Node] = output.args[0]
    return results


def split(
    traced: Traced,
    number: int,
    carried: Callable[[fx.Graph, fx.Node, int], fx.Node],
    constants: list[int],
    others: Sequence[fx.Node] = (),
) -> Flat:
    """Take a traced step apart.

    Args:
        traced: the step.
        number: leaves of the carry.
        carried: ``(graph, node, leaf)`` to the node that the body returns of a leaf.
        constants: positions of the leaves that no step changes.
        others: nodes that the body returns after the step's own results.
    """
    graph = traced.graph
    inputs = graph.find_nodes(op="placeholder")
    results = results_of(graph)
    moving = [i for i in range(number) if i not in constants]

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
    ys = [*results[number:], *others]
    body.output((*new, *(body.call_function(clone, (nodes[y],), contiguous) for y in ys)))
    for part in (prologue, body):
        part.eliminate_dead_code()
    return Flat(fx.GraphModule(traced.module, prologue), fx.GraphModule(traced.module, body), moving, constants)


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
    """Return a graph of ``nodes`` with ``arguments`` as its inputs, and what became of each node."""
    graph = fx.Graph()
    new = {node: graph.placeholder(f"argument_{i}") for i, node in enumerate(arguments)}
    for node in nodes:
        if node not in new:
            new[node] = graph.node_copy(node, new.__getitem__)
    return graph, new
