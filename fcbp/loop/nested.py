"""``nested``: a loop inside of a step that is vmapped, run by :func:`fcbp.loop.scan` for all members at once."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import optree
import torch
from torch import Tensor

from fcbp import rare
from fcbp.checks import arguments, shown
from fcbp.concrete import is_plain
from fcbp.kinds import PyTree
from fcbp.loop import scanning
from fcbp.loop.program import check_carry

__all__ = ["compiling", "nested"]

Compile = bool | Literal["lanes"]
"""Whether loops are compiled; ``"lanes"`` only where lanes suit."""
_compile: ContextVar[Compile] = ContextVar("compile", default=False)


@contextlib.contextmanager
def compiling(compile: Compile) -> Iterator[None]:
    """Say how the nested loops within run.

    Args:
        compile: whether they are compiled; ``"lanes"`` only where lanes suit.

    Example:
        >>> with compiling(True):
        ...     pass
    """
    token = _compile.set(compile)
    try:
        yield
    finally:
        _compile.reset(token)


@arguments
def nested(
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: PyTree,
    xs: PyTree = None,
    fixed: PyTree = (),
    *,
    length: int,
) -> tuple[Any, Any]:
    """Run ``carry, y = step(carry, x, fixed)`` over the leading axis of ``xs``, also in a function that is vmapped.

    Where the function around it is vmapped, the loop is one :func:`fcbp.loop.scan` of ``torch.vmap(step)``: in lanes,
    in the compiled scan, or eagerly, as :func:`compiling` says. Gradients do not flow through it.

    Args:
        step: pure, for one member; all that it reads comes by its arguments. Pass the same object each time.
        carry: a pytree of tensors.
        xs: a pytree of tensors that share their leading axis.
        fixed: a pytree of tensors that every step reads; or of plain numbers, where nothing is vmapped.
        length: number of steps.

    Returns:
        The last carry, and the ``y`` of all steps stacked on a leading axis.

    Raises:
        ValueError: as :func:`fcbp.loop.scan`.

    Example:
        >>> def add(total, x, factor):
        ...     total = total + factor * x
        ...     return total, total
        >>> def summed(x, factor):
        ...     return nested(add, torch.tensor(0.0), x, factor, length=3)
        >>> summed(torch.tensor([1.0, 2.0, 3.0]), torch.tensor(2.0))
        (tensor(12.), tensor([ 2.,  6., 12.]))
        >>> torch.vmap(summed, (None, 0))(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0]))[0]
        tensor([ 6., 12.])
    """
    leaves, spec = optree.tree_flatten(carry)
    fixed_leaves, fixed_spec = optree.tree_flatten(fixed)
    if not all(isinstance(leaf, Tensor) for leaf in fixed_leaves):
        # Plain numbers, whose ranges a step checks, stay as they are.
        return scanning.scan(lambda carry, x: step(carry, x, fixed), carry, xs, length, compile=False)
    x_leaves, x_spec = optree.tree_flatten(xs)
    entry = _entry(step, spec, fixed_spec, x_spec, length)
    # Within an operator torch's tape records nothing: a step that differentiates by it needs none around it.
    run = _run if is_plain() else _scan
    results = run(leaves, fixed_leaves, x_leaves, entry.number)
    number = len(leaves)
    return optree.tree_unflatten(spec, results[:number]), optree.tree_unflatten(entry.y_spec[0], results[number:])


@dataclass(eq=False)
class _Entry:
    """A loop by its number, by which the operator knows it."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    """``((leaves, fixed), xs) -> ((leaves, fixed), ys)``, of flat lists."""
    length: int
    number: int
    y_spec: list[Any]
    """One entry, once a step has run."""
    batched: _Entry | None = field(default=None)
    """The same loop for many members."""


_entries: weakref.WeakValueDictionary[int, _Entry] = weakref.WeakValueDictionary()
# An entry lives as long as the step that it is of.
_of_steps: weakref.WeakKeyDictionary[Any, dict[Any, _Entry]] = weakref.WeakKeyDictionary()


def _entry(step: Callable[..., Any], spec: Any, fixed_spec: Any, x_spec: Any, length: int) -> _Entry:
    known = _of_steps.setdefault(step, {})
    key = spec, fixed_spec, x_spec, length
    if key not in known:
        y_spec: list[Any] = []
        # The entry must not keep the step alive, which would keep the entry.
        function = weakref.ref(step)

        def flat(carry: Any, x_leaves: list[Tensor]) -> tuple[Any, list[Tensor]]:
            leaves, fixed_leaves = carry
            call = function()
            assert call is not None
            pair = call(
                optree.tree_unflatten(spec, leaves),
                optree.tree_unflatten(x_spec, x_leaves),
                optree.tree_unflatten(fixed_spec, fixed_leaves),
            )
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(f"step gives {shown(pair)}; expected a pair (carry, y)")
            new, y = pair
            check_carry(leaves, spec, new)
            y_leaves, found = optree.tree_flatten(y)
            y_spec[:] = [found]
            return (optree.tree_leaves(new), fixed_leaves), y_leaves

        known[key] = _registered(flat, length, y_spec)
    return known[key]


def _registered(step: Callable[..., Any], length: int, y_spec: list[Any]) -> _Entry:
    entry = _Entry(step, length, max(_entries, default=0) + 1, y_spec)
    _entries[entry.number] = entry
    return entry


def _run(leaves: list[Tensor], fixed: list[Tensor], xs: list[Tensor], number: int) -> list[Tensor]:
    entry, compile = _entries[number], _compile.get()
    with torch.no_grad(), rare.unbounded():
        backend = None
        if compile == "lanes":
            backend = scanning.explain(entry.step, (leaves, fixed), xs or None).backend
            backend = backend if backend == "lanes" else "eager"
        carry, compiled = (leaves, fixed), bool(compile)
        (new, _), ys = scanning.scan(entry.step, carry, xs, entry.length, compile=compiled, backend=backend)
    # An operator's results share no memory with its arguments.
    given = {leaf.untyped_storage().data_ptr() for leaf in (*leaves, *fixed, *xs)}
    return [x.clone() if x.untyped_storage().data_ptr() in given else x for x in (*new, *ys)]


_scan = torch.library.custom_op("fcbp::nested_scan", _run, mutates_args=())


@_scan.register_vmap
def _scan_of_members(
    info: Any, in_dims: Any, leaves: list[Tensor], fixed: list[Tensor], xs: list[Tensor], number: int
) -> tuple[list[Tensor], list[int]]:
    entry = _entries[number]
    if entry.batched is None:
        entry.batched = _registered(torch.vmap(entry.step), entry.length, entry.y_spec)
    leaf_dims, fixed_dims, x_dims, _ = in_dims
    size = info.batch_size
    results = _scan(
        [_at(leaf, axis, 0, size) for leaf, axis in zip(leaves, leaf_dims, strict=True)],
        [_at(leaf, axis, 0, size) for leaf, axis in zip(fixed, fixed_dims, strict=True)],
        [_at(leaf, axis, 1, size) for leaf, axis in zip(xs, x_dims, strict=True)],
        entry.batched.number,
    )
    return results, [0] * len(leaves) + [1] * (len(results) - len(leaves))


def _at(x: Tensor, axis: int | None, place: int, size: int) -> Tensor:
    """Return the tensor with its members on the axis ``place``."""
    if axis is None:
        return x.unsqueeze(place).expand(*x.shape[:place], size, *x.shape[place:]).contiguous()
    return x.movedim(axis, place)
