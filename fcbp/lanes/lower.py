"""From a traced graph to :mod:`fcbp.lanes.ir`, operation by operation.

An operation that stands in no table is :class:`Unsupported`; the message names the line of the user's code.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fcbp.lanes import indexing, pointwise, reductions, shapes
from fcbp.lanes.builder import Builder
from fcbp.lanes.ir import SHORT, Leaf, Node, Position, Role, Scalar, View
from fcbp.lanes.operations import OPERATIONS, Out

__all__ = ["DTYPES", "Lowered", "Unsupported", "UnsupportedOperation", "is_supported", "lower"]

# Importing a table enters its operations.
TABLES = (pointwise, shapes, reductions, indexing)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
    torch.bool,
    *SHORT,
)


# Options of the memory that a tensor lies in; elements do not depend on them.
_MEMORY_OPTIONS = ("layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit")


class Unsupported(Exception):
    """The step cannot run in lanes; the message says why, and where."""


class UnsupportedOperation(Unsupported):
    """An operation or a dtype of the step is not in the tables."""


@dataclass(frozen=True)
class Lowered:
    """A step in lowered form."""

    leaves: dict[tuple[Role, int], Node]
    """The inputs by role and number."""
    results: list[Node]
    """The new carry's leaves and then those of ``y``."""
    checks: dict[Node, str]
    """Nodes whose arguments the program looks at, and the operation and line from which they come."""
    ahead: dict[Node, Node] = field(default_factory=dict)
    """By a further leaf of the carry: what it is before the first step."""


def is_supported(target: object) -> bool:
    """Tell whether a table has the operator."""
    return getattr(target, "namespace", "") in ("aten", "prims") and _name(target) in OPERATIONS


def _name(target: Any) -> str:
    return str(target._schema.name.split("::")[1])


def lower(graph: fx.Graph, inputs: list[tuple[Role, int, bool]], constants: dict[str, int]) -> Lowered:
    """Lower a traced step.

    Args:
        graph: its placeholders are ``inputs``: role, number, and whether the members share it.
        constants: numbers of the tensors that the graph holds, by attribute.

    Raises:
        Unsupported: an operation or a dtype is.
    """
    b = Builder()
    values: dict[fx.Node, Any] = {}
    leaves: dict[tuple[Role, int], Node] = {}

    def leaf(role: Role, number: int, meta: Any, uniform: bool) -> Node:
        if meta.dtype not in DTYPES:
            raise UnsupportedOperation(f"dtype {meta.dtype} of {role} leaf {number}")
        leaves[role, number] = b.leaf(role, number, meta.shape, meta.dtype, uniform)
        return leaves[role, number]

    placeholders = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            role, number, uniform = next(placeholders)
            values[node] = leaf(role, number, node.meta["tensor_meta"], uniform)
        elif node.op == "get_attr":
            value = getattr(graph.owning_module, node.target)
            values[node] = leaf("constant", constants[node.target], value, True)
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.target is operator.getitem:
                values[node] = args[0][args[1]]
            elif node.target is torch.ops.aten.copy_.default:
                values[node.args[0]] = values[node] = _copied_into(b, node, *args[:2])
            else:
                values[node] = _lower_node(b, node, args, kwargs)
        else:
            carried = [n for role, n, _ in inputs if role == "carry"]
            results = [values[result] for result in node.args[0]]
            for i, result in enumerate(results):
                own = i < len(carried) and result is leaves["carry", i]
                if not own and (result.uniform or isinstance(result, (Leaf, Scalar, Position, View))):
                    # A result lies in an array of its own.
                    results[i] = b.copy(result, uniform=False)
            return Lowered(leaves, results, b.checks)
    raise AssertionError("a graph without an output")


def _lower_node(b: Builder, node: fx.Node, args: Any, kwargs: dict[str, Any]) -> Any:
    meta = node.meta.get("tensor_meta")
    if not is_supported(node.target):
        raise UnsupportedOperation(f"operation {node.target} {where(node)}")
    first = meta if hasattr(meta, "dtype") else next(iter(meta), None) if meta else None
    out = Out(tuple(first.shape), first.dtype) if first is not None else Out((), torch.float32)
    if out.dtype not in DTYPES:
        raise UnsupportedOperation(f"dtype {out.dtype} of {node.target} {where(node)}")
    if math.prod(out.shape) == 0:
        raise UnsupportedOperation(f"an empty tensor from {node.target} {where(node)}")
    kwargs = {key: value for key, value in kwargs.items() if key not in _MEMORY_OPTIONS}
    b.origin = f"{node.target} {where(node)}"
    try:
        result = OPERATIONS[_name(node.target)](b, out, *args, **kwargs)
    except (NotImplementedError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UnsupportedOperation(f"operation {node.target} with these arguments ({error}) {where(node)}") from error
    if isinstance(result, Node):
        if result.shape != out.shape:
            raise UnsupportedOperation(f"operation {node.target}: {result.shape} instead of {out.shape} {where(node)}")
        return b.to(result, out.dtype)
    return result


def is_view(node: fx.Node) -> bool:
    """Tell whether an operation's result shares its argument's memory."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and any(r.alias_info is not None for r in schema.returns)


def _copied_into(b: Builder, node: fx.Node, old: Node, new: Node) -> Node:
    """Return the value of a tensor after ``copy_``. Later readers of the tensor see it; views made before would not."""
    target = node.all_input_nodes[0]
    if is_view(target) or any(is_view(user) for user in target.users):
        raise UnsupportedOperation(f"operation {node.target} on a view {where(node)}")
    return b.expand(b.to(new, old.dtype), old.shape)


def where(node: fx.Node) -> str:
    """Return the line of the user's code from which a traced operation comes, where it was noted."""
    return str(node.meta.get("line", "(line unknown)"))


def is_own(file: str) -> bool:
    """Tell whether a file holds code of the step, and not of the libraries that trace it."""
    return not any(part in file.replace("\\", "/") for part in ("/torch/", "/optree/", "/fcbp/loop/", "/fcbp/lanes/"))
