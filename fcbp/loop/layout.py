"""The places of a population's numbers in memory, and the work that a step does once instead of many times.

Leaves that share a leading axis are a population's. In memory small members lie side by side, so that one vector
instruction serves many of them however small a member's own axes are. Shapes, and so results, stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx

aten = torch.ops.aten

__all__ = [
    "STORES",
    "arrange",
    "is_side_by_side",
    "is_view",
    "pin",
    "population",
    "store",
    "stored",
    "suits_side_by_side",
    "work",
]

SMALL_MEMBER = 1 << 15
"""Elements of a member's state up to which members lie side by side. A larger one's own axes fill vectors."""

STORES = "stores"
"""The entry of a node's ``meta`` with the node whose numbers it has, in another layout."""
LIBRARY = 1 << 12
"""Multiply-adds of a member's product of two matrices from which on a library makes it."""


def population(leaves: Iterable[Tensor]) -> int:
    """Return the number of small members whose states the leaves hold; 0 where they are no such population."""
    leaves = list(leaves)
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(sizes) != 1 or len(leaves) < 2 or max(leaf.ndim for leaf in leaves) < 2:
        return 0
    (count,) = sizes
    return count if sum(leaf.numel() for leaf in leaves) <= SMALL_MEMBER * count else 0


def suits_side_by_side(graph: fx.Graph) -> bool:
    """Tell whether the members of a traced step may lie side by side.

    A library's product of matrices would copy each member's. And batch norm under vmap writes the running statistics
    through a view that only a member's own layout allows.
    """
    products = graph.find_nodes(op="call_function", target=aten.bmm.default)
    large = any(
        min(*_shape(a), *_shape(b)[1:]) > 1 and math.prod(_shape(a)) * _shape(b)[2] >= _shape(a)[0] * LIBRARY
        for a, b in (node.args for node in products)
    )
    return not large and not graph.find_nodes(op="call_function", target=aten.native_batch_norm.default)


def is_side_by_side(x: Tensor, count: int) -> bool:
    """Tell whether ``x`` holds something of every member, and in the layout of :func:`store`."""
    return count > 0 and x.ndim > 1 and x.shape[0] == count and x.movedim(0, -1).is_contiguous()


def store(leaf: Tensor, count: int) -> Tensor:
    """Return the leaf as the loop keeps it: contiguous, a population's members side by side."""
    values = leaf.movedim(0, -1).contiguous() if count else leaf.contiguous()
    # Axes of size 1 keep whatever stride they had, and the loop compares strides.
    return values.as_strided(leaf.shape, _strides(leaf.shape, count))


def stored(graph: fx.Graph, node: fx.Node, shape: Sequence[int], count: int) -> fx.Node:
    """``node`` in memory of its own, laid out as :func:`store` does."""
    ndim = len(shape)
    moved = count > 0 and ndim > 1
    if moved:
        node = graph.call_function(aten.permute.default, (node, [*range(1, ndim), 0]))
    node = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
    if moved:
        node = graph.call_function(aten.permute.default, (node, [ndim - 1, *range(ndim - 1)]))
    # The compiler stores what as_strided reads, where it would else compute it anew for every reader.
    return graph.call_function(aten.as_strided.default, (node, list(shape), _strides(shape, count)))


def _strides(shape: Sequence[int], count: int) -> list[int]:
    strides, step = [0] * len(shape), 1
    for axis in reversed([*range(1, len(shape)), 0] if count else range(len(shape))):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return strides


def arrange(graph: fx.Graph, count: int, xs: Sequence[fx.Node]) -> None:
    """Rewrite a traced step: examples side by side, what is broadcast stored, outer products left to their readers.

    Args:
        graph: as ``make_fx`` traced it, with the shapes of its values.
        count: the population's members, or 0.
        xs: the placeholders of the examples that do not lie side by side.
    """
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        if _shape(node.args[0])[1] == 1:  # an outer product, as of a batch of one: computed where it is read
            node.target = aten.mul.Tensor
    first = next(node for node in graph.nodes if node.op != "placeholder")
    for x in xs:
        if count and len(_shape(x)) > 1 and _shape(x)[0] == count:
            _replace_uses(graph, x, first, count)
    for node in _broadcast(graph, count):
        _replace_uses(graph, node, node.next, count)


def pin(graph: fx.Graph, results: Sequence[fx.Node], count: int) -> None:
    """Have what is computed of a population's carry read as it is stored: else the compiler lays it out twice."""
    for node in dict.fromkeys(results):
        if node.op == "call_function" and not is_view(node.target) and len(_shape(node)) > 1:
            _replace_uses(graph, node, node.next, count)


def _replace_uses(graph: fx.Graph, node: fx.Node, before: fx.Node, count: int) -> None:
    users = list(node.users)
    with graph.inserting_before(before):
        new = stored(graph, node, _shape(node), count)
        new.meta = {**node.meta, STORES: node}
    for user in users:
        user.replace_input_with(node, new)


def _broadcast(graph: fx.Graph, count: int) -> list[fx.Node]:
    """Find computed values that an operation spreads over something larger: the compiler would compute them anew for
    each of its elements."""
    found: dict[fx.Node, None] = {}
    for node in filter(_is_pointwise, graph.nodes):
        for operand in node.all_input_nodes:
            if math.prod(_shape(operand)) >= math.prod(_shape(node)):
                continue
            while operand.op == "call_function" and is_view(operand.target):
                operand = operand.args[0]
            # Masks are cheaper to compute than to load.
            ours = not count or _shape(operand)[:1] == (count,)
            if ours and _is_pointwise(operand) and "tensor_meta" in operand.meta and _dtype(operand) != torch.bool:
                found[operand] = None
    return list(found)


def work(graph: fx.Graph) -> int:
    """Count the elements that the operations of a traced graph compute."""
    computed = (node for node in graph.nodes if node.op == "call_function" and not is_view(node.target))
    return sum(math.prod(_shape(node)) for node in computed)


def is_view(operator: object) -> bool:
    """Tell whether an operator's result shares its argument's memory."""
    return hasattr(operator, "_schema") and any(r.alias_info is not None for r in operator._schema.returns)


def _is_pointwise(node: fx.Node) -> bool:
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.target is aten._to_copy.default


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _dtype(node: fx.Node) -> torch.dtype | None:
    return getattr(node.meta.get("tensor_meta"), "dtype", None)
