"""One member's step as a flat graph of ATen operations."""

from __future__ import annotations

import contextlib
import inspect
import linecache
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fcbp.lanes.decompositions import decompositions
from fcbp.lanes.ir import Role
from fcbp.lanes.lower import Lowered, Unsupported, UnsupportedOperation, is_own, is_supported, lower

__all__ = ["Members", "Traced", "members_of", "trace"]

Step = Callable[[Any, Any], tuple[Any, Any]]


class Members(NamedTuple):
    """One member's step, and how members share their arguments."""

    step: Step
    """One member's step."""
    population: bool
    """Whether the carry has a leading axis of members."""
    shared_x: bool
    """Whether all members read the same ``x``."""


class Traced(NamedTuple):
    """A step, traced and lowered."""

    lowered: Lowered
    constants: list[Tensor]
    """Tensors that the step closes over."""
    y_spec: optree.PyTreeSpec
    carried: int
    """The number of the carry's leaves, which are the first results."""
    graph: str
    """The traced operations, a line each."""


def members_of(step: Step) -> Members:
    """Return one member's step from ``torch.vmap(step)``; a step that is not vmapped is that of one member.

    Raises:
        Unsupported: members lie along other axes than the first.
    """
    if getattr(step, "__code__", None) is not torch.vmap(lambda x: x).__code__:
        return Members(step, False, False)
    options = inspect.getclosurevars(step).nonlocals
    in_dims, out_dims = options["in_dims"], options["out_dims"]
    if in_dims == 0:
        in_dims = (0, 0)
    if out_dims not in (0, (0, 0)) or in_dims not in ((0, 0), (0, None)) or options.get("randomness") != "error":
        raise Unsupported(
            f"torch.vmap with in_dims={in_dims}, out_dims={out_dims}; lanes take (0, 0) or (0, None) and 0"
        )
    inner: Step = step.__wrapped__  # type: ignore[attr-defined]
    if members_of(inner).population:
        raise Unsupported("torch.vmap of torch.vmap")
    return Members(inner, True, in_dims[1] is None)


def trace(
    members: Members,
    leaves: list[Tensor],
    spec: optree.PyTreeSpec,
    x_leaves: list[Tensor],
    x_spec: optree.PyTreeSpec,
    check: Callable[..., None],
) -> Traced:
    """Trace and lower ``members.step``.

    Args:
        leaves: the carry's, of one member.
        x_leaves: one step's, of one member.
        check: raises a ``ValueError`` where the new carry is unlike the old.

    Raises:
        Unsupported: something in the step cannot run in lanes.
        IndexError, ZeroDivisionError: of the numbers given, as in eager.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    y_spec = None

    def flat(*args: Tensor) -> list[Tensor]:
        nonlocal y_spec
        carry, x = optree.tree_unflatten(spec, args[: len(leaves)]), optree.tree_unflatten(x_spec, args[len(leaves) :])
        new, y = members.step(carry, x)
        check(leaves, spec, new)
        y_leaves, y_spec = optree.tree_flatten(y)
        return [*optree.tree_leaves(new), *map(torch.as_tensor, y_leaves)]

    table: Any = {op: f for op, f in decompositions().items() if not is_supported(op)}
    arguments = [leaf.detach().clone() for leaf in (*leaves, *x_leaves)]

    def graph(mode: contextlib.AbstractContextManager[Any]) -> fx.GraphModule:
        def function(*args: Tensor) -> list[Tensor]:
            with mode:
                results: list[Tensor] = torch.func.functionalize(flat, remove="mutations")(*args)
                return results

        with torch.no_grad():
            traced = make_fx(function, decomposition_table=table)(*arguments)
        traced.graph.eliminate_dead_code()
        return traced

    def lowered(graph: fx.GraphModule) -> Traced:
        names = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
        constants = {name: i for i, name in enumerate(dict.fromkeys(names))}
        inputs: list[tuple[Role, int, bool]] = [("carry", i, False) for i in range(len(leaves))]
        inputs += [("x", i, members.shared_x) for i in range(len(x_leaves))]
        assert y_spec is not None
        low = lower(graph.graph, inputs, constants)
        values = [getattr(graph, name).detach() for name in constants]
        return Traced(low, values, y_spec, len(leaves), str(graph.graph))

    try:
        with _WithoutValues():
            traced = graph(contextlib.nullcontext())
    except ValueError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        # Tracing computes a step of the first member; eager may have no result for it either.
        if re.search(r"out of (DATA )?bounds|out of range", reason):
            raise IndexError(f"{reason} {_line(error)}") from error
        if "ZeroDivisionError" in reason:
            raise ZeroDivisionError(f"{reason} {_line(error)}") from error
        if "_local_scalar_dense" in reason:
            reason = "Python asks for a tensor's value (in a branch, say; torch.where does without)"
        raise UnsupportedOperation(f"tracing failed {_line(error)}: {reason}") from error
    with contextlib.suppress(UnsupportedOperation):
        result = lowered(traced)
        if not result.lowered.checks:
            return result
    # A second time, with the lines of code that errors name.
    with _WithoutValues():
        return lowered(graph(_Lines()))


def _line(error: BaseException) -> str:
    """Return the last line of the user's code that an error passed through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_own(f.filename)]
    return f"at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


class _Lines(TorchDispatchMode):
    """Notes at every traced operation its line in the user's code."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        result = function(*args, **(kwargs or {}))
        frame = sys._getframe(1)
        while frame.f_back is not None and not is_own(frame.f_code.co_filename):
            frame = frame.f_back
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        source = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        mode = get_proxy_mode()
        for node in reversed(mode.tracer.graph.nodes) if mode is not None else ():
            if "line" in node.meta:
                break
            node.meta["line"] = f"at {line}: {source}"
        return result


def _is_scalar_index(index: Any) -> bool:
    """Tell whether an index is one integer in a tensor."""
    return isinstance(index, Tensor) and index.ndim == 0 and index.dtype in (torch.int64, torch.int32)


class _WithoutValues(TorchFunctionMode):
    """``one_hot`` by comparisons, and ``x[i]`` of a 0-d ``i`` by indexing. Torch's own forms read the values, and a
    traced tensor has none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is Tensor.__getitem__ and _is_scalar_index(args[1]):
            return args[0][args[1].reshape(1)].squeeze(0)
        classes = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
        if function is torch.nn.functional.one_hot and classes > 0:
            index = args[0] if args else kwargs["tensor"]
            return (index.unsqueeze(-1) == torch.arange(classes)).to(torch.int64)
        return function(*args, **kwargs)
