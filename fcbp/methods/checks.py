"""Checks of the arguments of methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from fcbp.kinds import PyTree
from fcbp.units import UnitGroup, check_features, check_units

__all__ = ["check_numbers", "need_features", "need_grads", "need_signal", "need_step", "need_units"]

RANGES: dict[str, Callable[[float], bool]] = {
    "a number": lambda x: not math.isnan(x),
    "a number, 1 or more": lambda x: 1 <= x < math.inf,
    "a number, 0 or more": lambda x: 0 <= x < math.inf,
    "a number in [0, 1]": lambda x: 0 <= x <= 1,
    "a number in [0, 1)": lambda x: 0 <= x < 1,
    "a whole number of steps, 1 or more": lambda x: 1 <= x < math.inf and x == int(x),
}


def check_numbers(hyper: object, kind: type, **expected: str) -> None:
    """Check that ``hyper`` has the fields of ``kind``, and of those what is a plain number (a tensor may be vmapped).

    Args:
        hyper: a method's numbers.
        kind: the NamedTuple that it should be.
        expected: for a field the words of :data:`RANGES` that say what it may be.

    Raises:
        ValueError: a field is missing, or its number is out of its range.
    """
    for name, words in expected.items():
        if not hasattr(hyper, name):
            raise ValueError(f"hyper is {hyper!r}; expected {kind.__name__}")
        value = getattr(hyper, name)
        if not isinstance(value, Tensor) and not RANGES[words](value):
            raise ValueError(f"{name} is {value}; expected {words}")


def need_step(previous: PyTree, step_size: object, method: str) -> None:
    """Check that ``update`` was told of the optimiser's step.

    Raises:
        ValueError: it was not.
    """
    for name, value, what in (
        ("previous", previous, "the parameters before the optimiser's step"),
        ("step_size", step_size, "the optimiser's step size"),
    ):
        if value is None:
            raise ValueError(f"{name} is None; {method} needs {what}: pass {name}= to update, as a learner does")


def need_signal(new_task: Tensor | None, method: str) -> Tensor:
    """``new_task``.

    Raises:
        ValueError: there is none.
    """
    if new_task is None:
        raise ValueError(
            f"new_task is None; {method} needs to know when a new task begins: give batches a third entry, a 0-d bool "
            "tensor, as streams do with task_signal=True"
        )
    return new_task


def need_units(
    units: Iterable[UnitGroup], params: PyTree, method: str, *, incoming: bool = False
) -> tuple[UnitGroup, ...]:
    """``units`` as a tuple.

    Args:
        method: who asks.
        incoming: whether it reads gradients of incoming weights.

    Raises:
        ValueError: there are none, one does not fit ``params``, or one has no incoming weights to read.
    """
    units = tuple(units)
    if not units:
        raise ValueError(f"units is (); {method} needs the groups whose units it resets: give find_units'")
    check_units(units, params)
    for group in units:
        if incoming and not group.incoming:
            raise ValueError(f"units: group {group.name!r} has no incoming slice; {method} reads the gradients there")
    return units


def need_features(
    features: Mapping[str, Tensor] | None, units: Iterable[UnitGroup], method: str
) -> Mapping[str, Tensor]:
    """``features``.

    Raises:
        ValueError: they are missing, whole or for a group.
    """
    if features is None:
        raise ValueError(f"features is None; {method} needs every group's activation by name: pass features= to update")
    check_features(units, features)
    return features


def need_grads(grads: PyTree, method: str) -> PyTree:
    """``grads``.

    Raises:
        ValueError: they are missing.
    """
    if grads is None:
        raise ValueError(f"grads is None; {method} needs a pytree like params: pass grads= to update")
    return grads
