"""One pass over each large matrix: what a step does to a weight matrix entry by entry, and its sums, as one kernel.

A step that updates matrices beyond the caches takes as long as its passes over memory. The compiler fuses elementwise
operations and sums along rows, but not sums along columns, nor a vector's product with the matrix: the update, CBP's
sums of absolute weights and the backward product would be passes of their own. Here they are one loop over the rows,
which keeps the column sums in the nearest cache and writes the new matrix over the old.
"""

from __future__ import annotations

import functools
import heapq
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fcbp.loop import kernels, layout

aten = torch.ops.aten

__all__ = ["LARGE_MATRIX", "fuse", "is_for"]

LARGE_MATRIX = 1 << 18
"""Elements from which on a matrix is worth a kernel of its own: a mebibyte, more than a core's own caches hold."""

Axes = tuple[str, ...]
"""The meaning of each axis of a value: the matrix's ``rows`` or ``columns``, or ``""`` for an axis of size 1."""
MATRIX = ("rows", "columns")

_RESHAPES = {aten.alias.default, aten.clone.default, aten.view.default, aten.unsqueeze.default, aten.squeeze.dim}
_VIEWS = {aten.t.default, aten.permute.default, *_RESHAPES}
_EXPRESSIONS: dict[Any, str] = {
    aten.add.Tensor: "({} + {})",
    aten.sub.Tensor: "({} - {})",
    aten.mul.Tensor: "({} * {})",
    aten.div.Tensor: "({} / {})",
    aten.reciprocal.default: "(1.0f / {})",
    aten.neg.default: "(-{})",
    aten.abs.default: "std::fabs({})",
    aten.sqrt.default: "std::sqrt({})",
}


@dataclass
class _Pass:
    """The results of one loop over the rows of a matrix."""

    given: dict[fx.Node, Axes]
    """Values with an entry for each of the matrix's that are read: the matrix, and others like it."""
    computed: dict[fx.Node, Axes] = field(default_factory=dict)
    """Such values that operations in the loop make, each after those that it is made of."""
    sums: dict[fx.Node, str] = field(default_factory=dict)
    """Sums of them, each with the axis that is left."""

    def axes(self, node: fx.Node) -> Axes | None:
        return self.given.get(node) or self.computed.get(node)

    def prune(self, results: Iterable[fx.Node]) -> None:
        """Remove the operations that neither the sums nor these results need."""
        wanted = {*results, *(node for total in self.sums for node in total.all_input_nodes)}
        for node in reversed(self.computed):
            if node in wanted:
                wanted.update(node.all_input_nodes)
        self.computed = {node: axes for node, axes in self.computed.items() if node in wanted}
        self.given = {node: axes for node, axes in self.given.items() if node in wanted}

    def small(self) -> dict[fx.Node, str]:
        """Return the vectors and scalars that the loop reads, each with the axis of its entries."""
        found = {}
        for node, axes in self.computed.items():
            for operand, its in _operands(node, axes):
                if self.axes(operand) is None:
                    found[operand] = "".join(its)
        products = (node for node in self.sums if node.target is aten.mm.default)
        return found | {_args(node)[0]: "rows" for node in products}


def is_for(graph: fx.Graph, number: int) -> bool:
    """Tell whether there is a large matrix among the first ``number`` arguments of a traced step."""
    return any(_is_large_matrix(leaf) for leaf in graph.find_nodes(op="placeholder")[:number])


def fuse(graph: fx.Graph, number: int) -> None:
    """Put one kernel in place of what ``graph`` does to each large matrix among its first ``number`` arguments.

    The first ``number`` results are those arguments' new values. A kernel writes them over the old ones, as the graph's
    order then allows: whatever else reads an old matrix comes before.
    """
    (output,) = graph.find_nodes(op="output")
    leaves = graph.find_nodes(op="placeholder")[:number]
    done: set[fx.Node] = set()
    for matrix in leaves:
        if matrix in done or not _is_large_matrix(matrix):
            continue
        needs = _needs(graph)
        for products in (True, False):
            found = _grow(graph, needs, matrix, products)
            results = zip(leaves, _args(output)[0], strict=False)
            ends = {leaf: _end(found, result) for leaf, result in results if found.given.get(leaf) == MATRIX}
            new = {leaf: end for leaf, end in ends.items() if end is not None}
            written = dict.fromkeys([*new.values(), *_read_by_others(found, needs, [matrix, *new])])
            found.prune(written)
            readers = [node for node in _readers(new) if node not in found.computed and node not in found.sums]
            if matrix in new and _is_one_piece(needs, found, [*written], readers):
                _replace(graph, found, list(new), list(written), readers)
                done.update(new)
                break
    _write_in_place(graph)


def _grow(graph: fx.Graph, needs: dict[fx.Node, int], matrix: fx.Node, products: bool) -> _Pass:
    """Find all elementwise operations and sums that lead on from ``matrix``, and their operands."""
    found = _Pass({matrix: MATRIX})
    reached = 0

    def take(node: fx.Node, axes: Axes) -> bool:
        """Have ``node`` computed in the loop, with all that it is made of."""
        pairs = _operands(node, axes)
        if not pairs or _dtype(node) != torch.float32:
            return False
        for operand, its in pairs:
            known = found.axes(operand)
            if known is not None:
                if known != its:
                    return False
            elif _dtype(operand) != torch.float32 or needs[operand] & reached:
                return False
            elif {*MATRIX} <= {*its} and not take(operand, its):
                found.given[operand] = its
        found.computed[node] = axes
        return True

    for node in graph.nodes:
        known = next((operand for operand in node.all_input_nodes if found.axes(operand)), None)
        if node.op != "call_function" or known is None or node in found.computed:
            continue
        axes = found.axes(known) or ()
        if node.target is aten.sum.dim_IntList:
            left = _left(node, axes)
            if left:
                found.sums[node] = left
        elif node.target is aten.mm.default:  # a row vector times the matrix
            if products and _args(node)[1] is known and axes == MATRIX and _shape(node)[0] == 1:
                found.sums[node] = "columns"
        elif result := _result(node, known, axes):
            take(node, result)
        if node in found.sums or (node in found.computed and node.target not in _VIEWS):
            reached |= _bit(needs, node)
    return found


def _is_one_piece(needs: dict[fx.Node, int], found: _Pass, written: list[fx.Node], readers: list[fx.Node]) -> bool:
    """Tell whether nothing that comes before the loop depends on what it makes."""
    made = functools.reduce(operator.or_, (_bit(needs, node) for node in (*found.sums, *written)), 0)
    return not any(needs[node] & made for node in (*found.given, *found.small(), *readers))


def _read_by_others(found: _Pass, needs: dict[fx.Node, int], leaves: list[fx.Node]) -> list[fx.Node]:
    """Return the values that the loop makes of the leaves and others read; a view is left to its readers."""
    old = functools.reduce(operator.or_, (_bit(needs, leaf) for leaf in leaves))

    def is_read(node: fx.Node) -> bool:
        return any(
            is_read(user) if user.target in _VIEWS else user not in found.computed and user not in found.sums
            for user in node.users
        )

    made = (node for node in found.computed if node.target not in _VIEWS and needs[node] & old)
    return [node for node in made if is_read(node)]


def _end(found: _Pass, result: fx.Node) -> fx.Node | None:
    """Return the value of the loop that the carry's new ``result`` is, but for views and for entries written into it
    later."""
    axes = None
    while result.op == "call_function":
        axes = axes or found.computed.get(result)
        if result.target not in _VIEWS | {aten.index_copy.default}:
            return result if axes == MATRIX and result in found.computed else None
        result = _args(result)[0]
    return None


def _replace(
    graph: fx.Graph, found: _Pass, leaves: list[fx.Node], written: list[fx.Node], readers: list[fx.Node]
) -> None:
    """Call a kernel for the pass, after ``readers``; its results stand in for the values that others read.

    The first of ``written`` are the new ``leaves``.
    """
    given = [*leaves, *(node for node in found.given if node not in leaves)]
    small = found.small()
    names = {node: f"given{i}" for i, node in enumerate(given)} | {node: f"small{i}" for i, node in enumerate(small)}
    operations: list[tuple[str, str]] = []
    for node, axes in found.computed.items():
        operands = _operands(node, axes)
        if node.target in _VIEWS:
            names[node] = names[operands[0][0]]
        else:
            names[node] = f"value{len(operations)}"
            values = (names[a] if isinstance(a, fx.Node) else f"{float(a).hex()}f" for a in _args(node))
            operations.append((names[node], _EXPRESSIONS[node.target].format(*values)))
    sums = []
    for node, axis in found.sums.items():
        factors = _args(node)[:2] if node.target is aten.mm.default else _args(node)[:1]
        sums.append((axis, " * ".join(names[factor] for factor in factors)))
    kernel = kernels.Kernel(
        given=len(given),
        in_place=len(leaves),
        small=tuple(small.values()),
        operations=tuple(operations),
        written=tuple(names[node] for node in written),
        sums=tuple(sums),
    )
    rows, columns = _shape(leaves[0])
    (output,) = graph.find_nodes(op="output")
    with graph.inserting_before(output):
        matrices = list(leaves)
        for node in given[len(leaves) :]:
            order = [i for axis in (*MATRIX, "") for i, its in enumerate(found.given[node]) if its == axis]
            turned = graph.call_function(aten.permute.default, (node, order))
            matrices.append(graph.call_function(aten.reshape.default, (turned, [rows, columns])))
        vectors = [graph.call_function(aten.reshape.default, (node, [-1])) for node in small]
        lengths = [rows if axis == "rows" else columns for axis in found.sums.values()]
        arguments = kernels.load(kernel), matrices, vectors, len(leaves), len(written) - len(leaves), lengths
        results = graph.call_function(kernels.run, arguments)
        for i, node in enumerate((*written, *found.sums)):
            value = graph.call_function(_entry, (results, i))
            axes = found.computed.get(node, MATRIX)
            if axes != MATRIX and axes.index("rows") > axes.index("columns"):
                value = graph.call_function(aten.t.default, (value,))
            if node in found.sums or len(axes) > 2:
                value = graph.call_function(aten.reshape.default, (value, list(_shape(node))))
            value.meta = dict(node.meta)
            node.replace_all_uses_with(value)
    _sort(graph, {results: readers})
    graph.eliminate_dead_code()


def _write_in_place(graph: fx.Graph) -> None:
    """Have resets of a kernel's matrices write the units that are due, where the graph writes others back as they were.

    Such a write is ``index_copy(leaf, axis, index, where(mask, value, index_select(leaf, axis, index)))``.
    """
    for node in graph.find_nodes(op="call_function", target=aten.index_copy.default):
        leaf, axis, index, new = _args(node)
        if leaf.target not in (_entry, kernels.write) or new.target is not aten.where.self:
            continue
        mask, value, old = _args(new)
        if (
            old.target is not aten.index_select.default
            or _args(old) != (leaf, axis, index)
            or _shape(old) != _shape(new)
        ):
            continue
        needs = _needs(graph)
        readers = [reader for reader in _readers([leaf]) if reader is not node]
        if any(needs[reader] & _bit(needs, node) for reader in readers):
            continue
        with graph.inserting_before(node):
            call = graph.call_function(kernels.write, (leaf, axis, index, mask, value))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
        _sort(graph, {call: readers})
    graph.eliminate_dead_code()


def _entry(values: list[Tensor], i: int) -> Tensor:
    return values[i]


# --- axes -----------------------------------------------------------------------------------------------


def _operands(node: fx.Node, axes: Axes) -> list[tuple[fx.Node, Axes]]:
    """Return the operands of an operation that a loop can do, with their axes, from those of its result."""
    if node.target in _RESHAPES:
        operand = _args(node)[0]
        long = [axis for axis in axes if axis]
        sizes = _shape(operand)
        if [n for n in sizes if n > 1] != [n for n in _shape(node) if n > 1]:
            return []
        return [(operand, tuple(long.pop(0) if n > 1 else "" for n in sizes))]
    if node.target in _VIEWS:
        order = _args(node)[1] if node.target is aten.permute.default else [1, 0]
        its = dict(zip((i % len(axes) for i in order), axes, strict=True))
        return [(_args(node)[0], tuple(its[i] for i in range(len(axes))))]
    if node.target not in _EXPRESSIONS or node.kwargs.get("alpha", 1) != 1:
        return []
    pairs = []
    for operand in _args(node):
        if isinstance(operand, fx.Node):
            sizes = _shape(operand)
            aligned = axes[len(axes) - len(sizes) :]
            pairs.append((operand, tuple(axis if n > 1 else "" for axis, n in zip(aligned, sizes, strict=True))))
        elif isinstance(operand, bool) or not math.isfinite(operand):
            return []
    return pairs


def _result(node: fx.Node, operand: fx.Node, axes: Axes) -> Axes | None:
    """Return the axes of an operation's result, from those of an operand as large as it."""
    sizes, its = _shape(node), _shape(operand)
    if math.prod(sizes) != math.prod(its):
        return None
    if node.target is aten.permute.default:
        return tuple(axes[i] for i in _args(node)[1])
    if node.target is aten.t.default:
        return axes[::-1]
    if [n for n in sizes if n > 1] != [n for n in its if n > 1]:
        return None
    long = [axis for axis in axes if axis]
    return tuple(long.pop(0) if n > 1 else "" for n in sizes)


def _left(node: fx.Node, axes: Axes) -> str | None:
    """Return the axis that a sum leaves, where it sums over the other."""
    if node.kwargs.get("dtype") is not None:
        return None
    gone = {axes[i] for i in _args(node)[1]} - {""}
    left = {*MATRIX} - gone
    return left.pop() if len(left) == 1 else None


# --- graphs ---------------------------------------------------------------------------------------------


def _is_large_matrix(node: fx.Node) -> bool:
    shape = _shape(node)
    return len(shape) == 2 and min(shape) > 1 and math.prod(shape) >= LARGE_MATRIX and _dtype(node) == torch.float32


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _dtype(node: fx.Node) -> torch.dtype | None:
    return getattr(node.meta.get("tensor_meta"), "dtype", None)


def _args(node: fx.Node) -> tuple[Any, ...]:
    return node.args


def _readers(values: Iterable[fx.Node]) -> list[fx.Node]:
    """Return the readers of these values, views of them included."""
    readers: list[fx.Node] = []
    values = list(values)
    while values:
        for user in values.pop().users:
            (values if layout.is_view(user.target) else readers).append(user)
    return readers


def _needs(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return the nodes that each node depends on, itself among them, as bits."""
    needs: dict[fx.Node, int] = {}
    for i, node in enumerate(graph.nodes):
        needs[node] = 1 << i
        for operand in node.all_input_nodes:
            needs[node] |= needs[operand]
    return needs


def _bit(needs: dict[fx.Node, int], node: fx.Node) -> int:
    """Return a node's own bit: the highest, for what it depends on comes before it."""
    return 1 << (needs[node].bit_length() - 1)


def _sort(graph: fx.Graph, after: Mapping[fx.Node, Iterable[fx.Node]]) -> None:
    """Put every operation after what it reads, and ``after`` these others, else in the order that they have."""
    nodes = list(graph.nodes)
    place = {node: i for i, node in enumerate(nodes)}
    before = {node: {*node.all_input_nodes, *after.get(node, ())} for node in nodes}
    waiting: dict[fx.Node, list[fx.Node]] = {node: [] for node in nodes}
    for node, its in before.items():
        for other in its:
            waiting[other].append(node)
    ready = [place[node] for node in nodes if not before[node]]
    last = graph._root
    while ready:
        node = nodes[heapq.heappop(ready)]
        last.append(node)
        last = node
        for other in waiting[node]:
            before[other].discard(node)
            if not before[other]:
                heapq.heappush(ready, place[other])
