"""The protocol of streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fcbp.checks import arguments
from fcbp.names import check_option
from fcbp.streams.border import Border, Calendar

__all__ = ["Spec", "Stream", "from_sampler"]

Kind = Literal["regression", "classification"]


@dataclass(frozen=True)
class Spec:
    """The description of a stream's examples, from which a network knows its inputs and outputs, and a learner its
    loss.

    Args:
        input_shape: shape of one input, without the batch: ``(20,)``, ``(3, 32, 32)``.
        outputs: numbers that a network gives for one input: the targets' size, or the number of classes.
        kind: ``"regression"``: targets ``(batch, outputs)`` of ``dtype``; ``"classification"``: class indices
            ``(batch,)``, int64, from 0 to ``outputs - 1``.
        dtype: of the inputs.

    Raises:
        ValueError: an argument is of another kind than described.

    Example:
        >>> Spec((64,), 10, "classification")
        Spec(input_shape=(64,), outputs=10, kind='classification', dtype=torch.float32)
    """

    input_shape: tuple[int, ...]
    outputs: int
    kind: Kind = "regression"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        shape = self.input_shape
        if not isinstance(shape, (tuple, list)) or not all(_is_size(size) for size in shape):
            raise ValueError(f"input_shape is {shape!r}; expected the sizes of one input, such as (20,) or (3, 32, 32)")
        object.__setattr__(self, "input_shape", tuple(shape))
        if not _is_size(self.outputs):
            raise ValueError(f"outputs is {self.outputs!r}; expected a whole number, 1 or more")
        check_option("kind", self.kind, Kind)
        if self.kind == "classification" and self.outputs < 2:
            raise ValueError(f"outputs is {self.outputs!r}; expected 2 classes or more")
        if not isinstance(self.dtype, torch.dtype):
            raise ValueError(f"dtype is {self.dtype!r}; expected a dtype such as torch.float32")


class Stream(NamedTuple):
    """A non-stationary problem as pure functions; ``vmap`` them for a population.

    ``init`` and ``sample`` are enough. ``window``, ``at`` and ``skip`` (all three or none) make the examples inside a
    compiled loop; without them a sweep lays examples out before each call of the loop.
    """

    init: Callable[[Tensor], Any]
    """``init(key) -> state``"""
    sample: Callable[[Any, int], tuple[Any, tuple[Tensor, ...]]]
    """``sample(state, length) -> (state, (inputs, targets))``: the next ``length`` batches, on a leading axis. A run
    cut into pieces of any lengths is the same run. Where a stream signals its tasks, a third entry ``(length,)``,
    bool, is true where a new task begins."""
    window: Callable[[Any, int], Any] | None = None
    """``window(state, length) -> window``: the sources of the next ``length`` batches, which take little memory."""
    at: Callable[[Any, Tensor], tuple[Tensor, ...]] | None = None
    """``at(window, index) -> (inputs, targets)``: the batches with these numbers, counted from 0: those that ``sample``
    gives at once, made in the loop that learns from them."""
    skip: Callable[[Any, int], Any] | None = None
    """``skip(state, length) -> state``: the state after ``length`` batches."""
    spec: Spec | None = None
    """The examples' shapes and kind; ``None`` leaves them to be read off a first batch."""
    held_out: Callable[[Any], tuple[Tensor, Tensor]] | None = None
    """``held_out(state) -> (inputs, targets)``: examples of the state's task that no batch holds, for measurements
    named ``test_...``."""
    task_length: int | None = None
    """Batches of a task; ``None`` where tasks do not begin at batches that are known beforehand."""
    calendar: Calendar | None = None
    """The times at which tasks and passes begin; ``None`` where they are not known beforehand."""
    validation: Callable[[Any], tuple[Tensor, Tensor]] | None = None
    """``validation(state) -> (inputs, targets)``: examples of the state's task that are set aside of those to learn
    from."""
    border: Border = Border()
    """The acts of an experiment on a learner between tasks."""


@arguments
def from_sampler(
    init: Callable[[Tensor], Any],
    sample: Callable[[Any, int], tuple[Any, tuple[Tensor, ...]]],
    *,
    spec: Spec,
    window: Callable[[Any, int], Any] | None = None,
    at: Callable[[Any, Tensor], tuple[Tensor, ...]] | None = None,
    skip: Callable[[Any, int], Any] | None = None,
    held_out: Callable[[Any], tuple[Tensor, Tensor]] | None = None,
    task_length: int | None = None,
) -> Stream:
    """Make a stream from two pure functions.

    Args:
        init: ``init(key) -> state``, a pytree of tensors.
        sample: ``sample(state, length) -> (state, (inputs, targets))``: inputs ``(length, batch, *spec.input_shape)``,
            targets ``(length, batch)`` int64 of a classification, ``(length, batch, outputs)`` of a regression.
        spec: the examples' shapes and kind.
        window: see :class:`Stream`; with ``at`` and ``skip`` examples are made inside a compiled loop.
        at: see :class:`Stream`.
        skip: see :class:`Stream`.
        held_out: ``held_out(state) -> (inputs, targets)`` with one leading axis of examples.
        task_length: batches of a task.

    Raises:
        ValueError: an argument is no function where one is expected, ``spec`` is no :class:`Spec`, or only some of
            ``window``, ``at`` and ``skip`` are given.

    Example:
        >>> import torch, fcbp
        >>> def init(key):
        ...     return key
        >>> def sample(key, length):
        ...     keys = fcbp.random.split(key)
        ...     x = fcbp.random.normal(keys[0], (length, 1, 3))
        ...     return keys[1], (x, x.sum(-1, keepdim=True))
        >>> stream = from_sampler(init, sample, spec=Spec((3,), 1))
        >>> state, (inputs, targets) = stream.sample(stream.init(fcbp.random.key(0)), 5)
        >>> inputs.shape, targets.shape
        (torch.Size([5, 1, 3]), torch.Size([5, 1, 1]))
    """
    if not isinstance(spec, Spec):
        raise ValueError(f"spec is {spec!r}; expected fcbp.streams.Spec(input_shape, outputs, kind)")
    for name, function in {"init": init, "sample": sample}.items():
        if not callable(function):
            raise ValueError(f"{name} is {function!r}; expected a function")
    lazily = {"window": window, "at": at, "skip": skip}
    for name, optional in {**lazily, "held_out": held_out}.items():
        if optional is not None and not callable(optional):
            raise ValueError(f"{name} is {optional!r}; expected a function or None")
    if len({function is None for function in lazily.values()}) > 1:
        given = " and ".join(name for name, function in lazily.items() if function is not None)
        raise ValueError(f"{given} alone cannot make examples in a loop; expected window, at and skip, or none of them")
    if task_length is not None and not _is_size(task_length):
        raise ValueError(f"task_length is {task_length!r}; expected a number of batches, 1 or more, or None")
    return Stream(init, sample, window, at, skip, spec, held_out, task_length)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
