"""A program: one member of a sweep as pure functions, whatever it does.

>>> import torch, fcbp
>>> def init(key, settings):  # the logistic map from a random start
...     return fcbp.random.uniform(key)
>>> def step(x, settings):
...     x = settings["growth"] * x * (1 - x)
...     return x, {"population": x}
>>> logistic = Program(init, step, numbers={"growth": 3.5})
>>> results = fcbp.sweep(logistic, fcbp.grid(seed=range(2), growth=[2.0, 3.9]), steps=100, bin=50, progress=False)
>>> dict(results["population"].sizes)
{'seed': 2, 'growth': 2, 'step': 2}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fcbp.streams import Stream

__all__ = ["RESERVED", "Program"]

RESERVED = ("seed", "step", "task", "member", "setting", "examples")
"""Names of dimensions and coordinates of results, which neither a number nor a measured value can have."""

Numbers = Mapping[str, "float | Tensor | None"]


@dataclass(frozen=True, eq=False)
class Program:
    """One member of a sweep as pure functions; :func:`fcbp.sweep` runs many of them side by side.

    The functions are written for one member, from operations of torch, and are vmapped: they branch by ``torch.where``
    and draw random numbers by :mod:`fcbp.random` from keys in their carry. Large constants, such as a set of examples,
    are closed over: they are held once, and are no part of a carry or of a checkpoint.

    Args:
        init: ``init(key, settings) -> carry``, a pytree of tensors; ``key`` is ``fcbp.random.key(seed)``.
        step: ``step(carry, settings) -> (carry, measured)``. The new carry has the structure, shapes and dtypes of the
            old one. ``measured`` maps names to 0-d tensors: the results hold the mean of a floating-point value over
            the steps of a bin, and the sum of a bool or an integer.
        probe: ``probe(carry, settings) -> measured``, asked once at the end of a bin.
        numbers: what members may have different: the names with their defaults, a default of ``None`` for a number
            that every member sets; or the names alone. ``settings`` maps each name to a 0-d tensor, float32, or of the
            default's dtype where that is a tensor.
        stream: examples that the step takes as a third argument, ``step(carry, settings, batch)``; members with the
            same seed share them. Then ``probe(carry, settings, coming, held_out)`` takes the next batches, on a
            leading axis, and ``held_out`` is the stream's held-out examples, or ``()``.
        failed: ``failed(carry) -> bool``, a 0-d tensor: whether the member can only give nonsense from now on. Its
            results are then NaN to the end of the run.
        finite: names of the measured floating-point values of ``step`` that must be finite, or the member has failed;
            by default all of them.
        variables: for a measured name its long name and its unit, which pictures show.
        per: for a measured floating-point name of ``step`` the name of a count: the results hold the sum over a bin
            divided by the sum of the count, NaN where that is 0. The return of an episode is such a value.
        task_length: steps of a task, where the program has tasks and no stream; ``bin="task"`` makes each a bin.
        loops: whether ``step`` runs loops of its own (:func:`fcbp.loop.nested`): they are then compiled, and not the
            step around them.
        next_border: ``next_border(step)``: the first number of steps after ``step`` at which ``border`` is called, the
            same for all members; ``None`` where it never is again.
        border: ``border(carry, problem, step) -> carry``, called between two steps, after a bin that ends there is
            measured; ``problem`` is the stream's state, ``step`` the number of steps so far, a plain number.

    Raises:
        ValueError: an argument is of another kind than described, or a name collides with a dimension of results.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Mapping[str, Tensor]]]
    probe: Callable[..., Mapping[str, Tensor]] | None = None
    numbers: Numbers = field(default_factory=dict)
    stream: Stream | None = None
    failed: Callable[[Any], Tensor] | None = None
    finite: tuple[str, ...] | None = None
    variables: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    per: Mapping[str, str] = field(default_factory=dict)
    task_length: int | None = None
    loops: bool = False
    next_border: Callable[[int], int | None] | None = None
    border: Callable[[Any, Any, int], Any] | None = None

    def __post_init__(self) -> None:
        functions = {"init": self.init, "step": self.step}
        functions |= {n: f for n, f in {"probe": self.probe, "failed": self.failed}.items() if f is not None}
        for name, function in functions.items():
            if isinstance(function, nn.Module):
                raise ValueError(f"{name} is a model, {type(function).__name__}; expected a pure function")
            if not callable(function):
                raise ValueError(f"{name} is {function!r}; expected a function")
        if self.stream is not None and not isinstance(self.stream, Stream):
            raise ValueError(f"stream is {self.stream!r}; expected an fcbp.streams.Stream, or None")
        object.__setattr__(self, "numbers", _checked_numbers(self.numbers))

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """The dtype that each number has in ``settings``."""
        return {
            name: value.dtype if isinstance(value, Tensor) else torch.float32 for name, value in self.numbers.items()
        }

    def settings(self, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return a member's value of each number: the ``given`` ones, and the defaults of the others.

        Raises:
            ValueError: a number has neither.
        """
        given = given or {}
        found = {name: given.get(name, value) for name, value in self.numbers.items()}
        for name, value in found.items():
            if value is None:
                raise ValueError(f"{name} has no value; expected one for every member, such as {name}=[0.1, 0.2]")
        return {name: float(value) for name, value in found.items() if value is not None}


def _checked_numbers(numbers: Numbers | Iterable[str]) -> dict[str, float | Tensor | None]:
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        raise ValueError(f"numbers is {numbers!r}; expected names with defaults, such as {{'step_size': 0.1}}")
    found = dict(numbers) if isinstance(numbers, Mapping) else dict.fromkeys(numbers)
    for name, value in found.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"numbers has {name!r}; expected a name such as 'step_size'")
        if name in RESERVED:
            raise ValueError(f"numbers has {name!r}, which is a dimension of the results; expected another name")
        scalar = isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex()
        if not (scalar or value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))):
            raise ValueError(f"numbers has {name!r}: {value!r}; expected a number, a 0-d tensor, or None")
    return found
