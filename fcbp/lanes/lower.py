"""From a traced graph to :mod:`fcbp.lanes.ir`, operation by operation.

An operation that stands in no table is :class:`Unsupported`, and names the line of the user's code that asked for it.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fcbp.lanes import places, pointwise, reductions, shapes
from fcbp.lanes.ir import SHORT, Builder, Node
from fcbp.lanes.pointwise import OPERATIONS, Out

__all__ = ["DTYPES", "Lowered", "Unsupported", "UnsupportedOperation", "is_supported", "lower"]

# Importing a table enters its operations.
TABLES = (pointwise, shapes, reductions, places)
DTYPES = (
    torch.float32,
    torch.float64,
    torch.int32,
    torch.int64,
    torch.bool,
    *SHORT,
)


# Where and how a tensor lies is not a lane's business.
_WITHOUT_MEANING = ("layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit")


class Unsupported(Exception):
    """The step cannot run in lanes; the message says why, and where."""


class UnsupportedOperation(Unsupported):
    """What the step computes is not in the tables."""


@dataclass(frozen=True)
class Lowered:
    """A step in lowered form."""

    leaves: dict[tuple[str, int], Node]
    """The inputs by role and number."""
    results: list[Node]
    """The new carry's leaves and then those of ``y``."""
    checks: dict[Node, str]
    """Nodes that the program looks at the arguments of, and what asked for them."""


def is_supported(target: Any) -> bool:
    """Whether a table has the operator."""
    return getattr(target, "namespace", "") in ("aten", "prims") and _name(target) in OPERATIONS


def _name(target: Any) -> str:
    return target._schema.name.split("::")[1]


def lower(graph: fx.Graph, inputs: list[tuple[str, int, bool]], constants: dict[str, int]) -> Lowered:
    """Lower a traced step.

    Args:
        graph: its placeholders are ``inputs``: role, number, and whether the members share it.
        constants: numbers of the tensors that the graph holds, by attribute.

    Raises:
        Unsupported: an operation or a dtype is.
    """
    b = Builder()
    values: dict[fx.Node, Any] = {}
    leaves: dict[tuple[str, int], Node] = {}

    def leaf(role: str, number: int, meta: Any, uniform: bool, node: fx.Node) -> Node:
        if meta.dtype not in DTYPES:
            raise UnsupportedOperation(f"dtype {meta.dtype} of {role} leaf {number}")
        made = b.make("leaf", (), (role, number), meta.shape, meta.dtype, uniform)
        leaves[role, number] = made
        return made

    placeholders = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            role, number, uniform = next(placeholders)
            values[node] = leaf(role, number, node.meta["tensor_meta"], uniform, node)
        elif node.op == "get_attr":
            value = getattr(graph.owning_module, node.target)
            values[node] = leaf("constant", constants[node.target], value, True, node)
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.target is operator.getitem:
                values[node] = args[0][args[1]]
            elif node.target is torch.ops.aten.copy_.default:
                values[node.args[0]] = values[node] = _written(b, node, *args[:2])
            else:
                values[node] = _lower_node(b, node, args, kwargs)
        else:
            carried = [n for role, n, _ in inputs if role == "carry"]
            results = [values[result] for result in node.args[0]]
            for i, result in enumerate(results):
                own = i < len(carried) and result is leaves["carry", i]
                if not own and (result.uniform or result.kind in ("leaf", "scalar", "position", "view")):
                    # A result lies in an array of its own.
                    results[i] = b.make("map", (result,), "same", result.shape, result.dtype, uniform=False)
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
    kwargs = {key: value for key, value in kwargs.items() if key not in _WITHOUT_MEANING}
    b.asked = f"{node.target} {where(node)}"
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
    """Whether an operation's result shares its argument's memory."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and not schema.is_mutable and any(r.alias_info is not None for r in schema.returns)


def _written(b: Builder, node: fx.Node, old: Node, new: Node) -> Node:
    """What a tensor holds after ``copy_``: all later readers see it, which views of it made before would not."""
    target = node.all_input_nodes[0]
    if is_view(target) or any(is_view(user) for user in target.users):
        raise UnsupportedOperation(f"operation {node.target} on a view {where(node)}")
    return b.expand(b.to(new, old.dtype), old.shape)


def where(node: fx.Node) -> str:
    """The line of the user's code that a traced operation comes from, where it was noted."""
    return str(node.meta.get("line", "(line unknown)"))


def is_own(file: str) -> bool:
    """Whether a line of code is the step's, and not of what traces it."""
    return not any(part in file.replace("\\", "/") for part in ("/torch/", "/optree/", "/fcbp/loop/", "/fcbp/lanes/"))
