"""``scan``: run a pure step many times, compiled."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

__all__ = ["scan"]

_PARALLEL_FROM = 1 << 20
"""Elements of the carry from which on threads share an operation: with fewer, their meetings cost more than they save,
and on a busy machine many times more."""

Step = Callable[[Any, Any], tuple[Any, Any]]


def scan(
    step: Step, carry: Any, xs: Any = None, length: int | None = None, *, compile: bool = True
) -> tuple[Any, Any]:
    """Run ``carry, y = step(carry, x)`` over the leading axis of ``xs``; the semantics of ``jax.lax.scan``.

    A step is an ordinary pure function of pytrees of tensors, for one learner or under ``torch.vmap`` for many. The
    compiled program is the same function: it is traced once, put into one loop without Python in it, and kept for as
    long as ``step`` lives, for every later call with the same shapes and any length. Pass the same ``step`` object to
    reuse it, and pass numbers that change through ``carry``: what ``step`` closes over is a constant of the program.

    Args:
        step: ``(carry, x) -> (carry, y)``; the new carry has the structure, shapes and dtypes of the old.
        carry: a pytree of tensors.
        xs: a pytree of tensors that share their leading axis, or ``None``.
        length: number of steps; needed where ``xs`` has no tensors.
        compile: ``False`` runs the step eagerly, with the same results. Compiling takes 10 to 60 seconds. Where it
            fails, a warning says why and the steps run eagerly.

    Returns:
        The last carry, and the ``y`` of all steps stacked on a leading axis.

    Raises:
        ValueError: ``length`` is missing, negative or disagrees with ``xs``, or a carry leaf is no tensor or changes
            structure, shape or dtype.

    Example:
        >>> def step(total, x):
        ...     total = total + x
        ...     return total, total
        >>> scan(step, torch.tensor(0.0), torch.tensor([1.0, 2.0, 3.0]), compile=False)
        (tensor(6.), tensor([1., 3., 6.]))
    """
    length = _length(xs, length)
    carry_leaves, carry_spec = pytree.tree_flatten(carry)
    for path, leaf in pytree.tree_flatten_with_path(carry)[0]:
        if not isinstance(leaf, Tensor):
            where = f"carry{pytree.keystr(path)}"
            raise ValueError(f"{where} is {leaf!r}; expected a tensor, such as torch.tensor({leaf!r})")
    # A single step is no loop: the compiler would make a second program for it.
    if compile and length > 1:
        programs = _programs.setdefault(step, {})
        key = _signature(carry_leaves, carry_spec, xs)
        try:
            if key not in programs:
                programs[key] = _program(step, carry_leaves, carry_spec, xs)
            program = programs[key]
            if program is not None:
                return program(carry_leaves, xs, length)
        except ValueError:
            raise
        except Exception as error:
            programs[key] = None
            reason = next(iter(str(error).strip().splitlines()), "")
            warnings.warn(
                f"fcbp.loop.scan runs eagerly, because compiling failed: {type(error).__name__}: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
    return _eager(step, carry, xs, length)


def _length(xs: Any, length: int | None) -> int:
    for path, leaf in pytree.tree_flatten_with_path(xs)[0]:
        if leaf is None:
            continue
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            raise ValueError(f"xs{pytree.keystr(path)} is {leaf!r}; expected a tensor with a leading axis of steps")
        if length is None:
            length = leaf.shape[0]
        if leaf.shape[0] != length:
            raise ValueError(
                f"xs{pytree.keystr(path)} has {leaf.shape[0]} steps; expected {length}, as length or other leaves have"
            )
    if length is None:
        raise ValueError("length is None and xs holds no tensors; expected a number of steps")
    if length < 0:
        raise ValueError(f"length is {length}; expected 0 or more")
    return length


def _eager(step: Step, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    if length == 0:
        example = pytree.tree_map_only(Tensor, lambda x: x.new_zeros(x.shape[1:]), xs)
        _, y = step(carry, example)
        return carry, pytree.tree_map_only(Tensor, lambda leaf: leaf.new_zeros((0, *leaf.shape)), y)
    leaves, spec = pytree.tree_flatten(carry)
    ys = []
    for i in range(length):
        carry, y = step(carry, pytree.tree_map_only(Tensor, lambda x: x[i], xs))  # noqa: B023
        ys.append(y)
        if i == 0:
            _check_carry(leaves, spec, carry)
    y_leaves, y_spec = zip(*(pytree.tree_flatten(y) for y in ys), strict=True)
    stacked = [torch.stack([torch.as_tensor(leaf) for leaf in leaves]) for leaves in zip(*y_leaves, strict=True)]
    return carry, pytree.tree_unflatten(stacked, y_spec[0])


def _check_carry(leaves: list[Tensor], spec: pytree.TreeSpec, new: Any) -> None:
    new_leaves, new_spec = pytree.tree_flatten(new)
    if new_spec != spec:
        raise ValueError(f"step returned a carry of another structure: {new_spec}; expected {spec}")
    paths = [path for path, _ in pytree.tree_flatten_with_path(new)[0]]
    for path, before, after in zip(paths, leaves, new_leaves, strict=True):
        if not isinstance(after, Tensor) or (before.shape, before.dtype) != (after.shape, after.dtype):
            found = f"{tuple(after.shape)} {after.dtype}" if isinstance(after, Tensor) else repr(after)
            raise ValueError(
                f"step returned carry{pytree.keystr(path)} as {found}; expected {tuple(before.shape)} {before.dtype}, "
                "as it came in"
            )


# --- the compiled program -------------------------------------------------------------------------------

_Program = Callable[[list[Tensor], Any, int], tuple[Any, Any]]

# None marks a step that would not compile.
_programs: weakref.WeakKeyDictionary[Step, dict[Any, _Program | None]] = weakref.WeakKeyDictionary()


def _signature(leaves: list[Tensor], spec: pytree.TreeSpec, xs: Any) -> Any:
    x_leaves, x_spec = pytree.tree_flatten(xs)

    def describe(leaf: Any, first_axis: int) -> Any:
        return (leaf.shape[first_axis:], leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf

    return spec, x_spec, *(describe(leaf, 0) for leaf in leaves), *(describe(leaf, 1) for leaf in x_leaves)


class _Flat(NamedTuple):
    """A step over flat lists of tensors."""

    graph: torch.fx.GraphModule
    """``(*carry, *x) -> [*carry, *y]``, of the new carry only the leaves that the step changes."""
    moving: list[int]
    """Positions of the carry leaves that the step changes; the others are constants of the loop."""
    y_spec: pytree.TreeSpec


def _trace(step: Step, leaves: list[Tensor], spec: pytree.TreeSpec, xs: Any) -> _Flat:
    from torch.fx.experimental.proxy_tensor import make_fx

    x_leaves, x_spec = pytree.tree_flatten(xs)
    example = [x[0] if isinstance(x, Tensor) else x for x in x_leaves]
    y_spec = None
    tensors = [x for x in example if isinstance(x, Tensor)]

    def flat_step(*args: Tensor) -> list[Tensor]:
        nonlocal y_spec
        given = iter(args[len(leaves) :])
        x = pytree.tree_unflatten([next(given) if isinstance(x, Tensor) else x for x in example], x_spec)
        new, y = step(pytree.tree_unflatten(list(args[: len(leaves)]), spec), x)
        _check_carry(leaves, spec, new)
        y_leaves, y_spec = pytree.tree_flatten(y)
        return [*pytree.tree_leaves(new), *map(torch.as_tensor, y_leaves)]

    with torch.no_grad():
        graph = make_fx(flat_step)(*leaves, *tensors)
    graph.graph.eliminate_dead_code()
    inputs = graph.graph.find_nodes(op="placeholder")
    (output,) = graph.graph.find_nodes(op="output")
    results = list(output.args[0])
    moving = [i for i in range(len(leaves)) if results[i] is not inputs[i]]
    # The loop owns its buffers: a result must share memory with no argument and with no other result.
    with graph.graph.inserting_before(output):
        for i, node in enumerate(results):
            if i >= len(leaves) or i in moving:
                results[i] = graph.graph.call_function(
                    torch.ops.aten.clone.default, (node,), {"memory_format": torch.contiguous_format}
                )
    output.args = ([results[i] for i in moving] + results[len(leaves) :],)
    graph.recompile()
    assert y_spec is not None
    return _Flat(graph, moving, y_spec)


def _program(step: Step, leaves: list[Tensor], spec: pytree.TreeSpec, xs: Any) -> _Program:
    from torch._higher_order_ops.scan import scan as scan_op

    flat = _trace(step, leaves, spec, xs)
    number, total = len(flat.moving), len(leaves)
    fixed = [i for i in range(total) if i not in flat.moving]

    def loop(moving: list[Tensor], constants: list[Tensor], xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        def body(carry: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            arguments: list[Any] = [None] * total
            for i, value in zip(flat.moving, carry, strict=True):
                arguments[i] = value
            for i, value in zip(fixed, constants, strict=True):
                arguments[i] = value
            results = flat.graph(*arguments, *x[1:])
            return list(results[:number]), list(results[number:])

        return scan_op(body, moving, xs)

    options: dict[str, Any] = {"cpp_wrapper": True}
    if sum(leaf.numel() for leaf in leaves) < _PARALLEL_FROM:
        options["cpp.threads"] = 1
    compiled = torch.compile(loop, fullgraph=True, options=options)

    def run(leaves: list[Tensor], xs: Any, length: int) -> tuple[Any, Any]:
        moving = [leaves[i].contiguous() for i in flat.moving]
        # The empty counter gives the loop its length where xs has no tensors.
        stacked = [torch.empty(length, 0), *(x.contiguous() for x in pytree.tree_leaves(xs) if isinstance(x, Tensor))]
        for x in stacked:
            torch._dynamo.mark_dynamic(x, 0)
        with torch.no_grad():
            carry, ys = compiled(moving, [leaves[i] for i in fixed], stacked)
        new = list(leaves)
        for i, value in zip(flat.moving, carry, strict=True):
            new[i] = value
        return pytree.tree_unflatten(new, spec), pytree.tree_unflatten(list(ys), flat.y_spec)

    return run
