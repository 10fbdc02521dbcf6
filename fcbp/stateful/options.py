"""The method, its numbers, and the facts that it reads, from the keywords of a constructor."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedFakeTensorException,
)

from fcbp.kinds import PyTree
from fcbp.methods import METHODS, Method, keep_gradients
from fcbp.names import lookup, unknown
from fcbp.stateful.readings import laid
from fcbp.units import UnitGroup
from fcbp.utility import OF_GRADIENTS

__all__ = ["Choice", "accepted", "choose", "reads", "rehearse"]

OF_MOMENTS = frozenset({"contribution", "weight", "adaptation", "random", *OF_GRADIENTS})
"""Utility measures that read no more of an activation than its mean and its mean absolute value."""


class Choice(NamedTuple):
    """A method, ready to be called."""

    name: str
    """Its name, ``"custom"`` for one given as a :class:`fcbp.methods.Method`."""
    method: Method
    """Its functions."""
    hyper: Any
    """Its numbers."""
    by_moments: bool
    """Whether it reads no more of an activation than its mean and its mean absolute value."""

    def reads(self, keyword: str) -> bool:
        """Tell whether ``adjust`` or ``update`` takes a keyword."""
        return reads(self.method.update, keyword) or (self.adjusts and reads(self.method.adjust, keyword))

    @property
    def adjusts(self) -> bool:
        """Whether it acts on the gradients."""
        return self.method.adjust is not keep_gradients


def choose(method: str | Method, hyper: PyTree, options: Mapping[str, Any]) -> Choice:
    """Return the method of that name with its options and numbers.

    Args:
        method: a name of :data:`fcbp.methods.METHODS`, or a method.
        hyper: its numbers; by default those among ``options``, and the method's own defaults.
        options: by keyword the method's numbers and what it is built with.

    Raises:
        ValueError: the name or an option is unknown, or a method is given without its numbers.
    """
    if isinstance(method, Method):
        if hyper is None:
            raise ValueError("hyper is None; expected the numbers of the method that was given, such as Hyperparams()")
        if options:
            raise ValueError(f"{next(iter(options))} is given beside a Method; expected hyper= with its numbers")
        return Choice("custom", _not_renewing("method", method), hyper, False)
    kind = lookup("method", method, METHODS)
    numbers = kind.hyperparams._fields  # type: ignore[attr-defined]
    keywords = list(inspect.signature(kind.build).parameters)
    for option in options:
        if option not in (*numbers, *keywords):
            raise unknown("option", option, (*numbers, *keywords))
    built = {name: value for name, value in options.items() if name in keywords}
    given = {name: value for name, value in options.items() if name in numbers and name not in built}
    if hyper is not None and given:
        raise ValueError(f"hyper and {next(iter(given))} are both given; expected the numbers in one of them")
    measure = built.get("measure", "contribution")
    by_moments = method == "redo" or (method == "cbp" and isinstance(measure, str) and measure in OF_MOMENTS)
    made = _not_renewing(f"method is {method!r}, which", kind.build(**built))
    return Choice(method, made, kind.hyperparams(**given) if hyper is None else hyper, by_moments)


def _not_renewing(about: str, method: Method) -> Method:
    if method.renews:
        raise ValueError(
            f"{about} begins anew with every task, which a learner does (fcbp.make_learner); in a loop of torch make "
            "the model, the optimiser and what wraps them again"
        )
    return method


def reads(function: Callable[..., Any], keyword: str) -> bool:
    """Tell whether a function of a method's protocol takes a keyword: by name, or to hand it on (``**given``).

    A function takes the keywords that it does not read as ``**_``.
    """
    parameters = inspect.signature(function).parameters
    return keyword in parameters or any(p.kind is p.VAR_KEYWORD and p.name != "_" for p in parameters.values())


def accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that a function takes."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(given)
    return {name: value for name, value in given.items() if name in parameters}


def rehearse(
    choice: Choice,
    key: Tensor,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    units: tuple[UnitGroup, ...],
) -> None:
    """Take a first step of one group on tensors without values, for the method to check its options and numbers.

    Raises:
        ValueError: an option is unknown or a number out of its range.
    """
    device = next(iter(params.values())).device
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes, fake_buffers = ({name: mode.from_tensor(x) for name, x in of.items()} for of in (params, buffers))
        given = {
            "units": units[:1],
            "features": {g.name: laid(torch.zeros(2, g.size, device=device), g.activation_axis) for g in units[:1]},
            "hyper": choice.hyper,
            "step_size": 0.0,
            "new_task": torch.tensor(True, device=device),
        }
        after = {**given, "grads": fakes, "previous": fakes}
        method = choice.method
        with contextlib.suppress(*WITHOUT_VALUES):
            # A state of this group alone: a method may ask its state for what the groups have, and the groups for what
            # its state has.
            state = method.init(units[:1], fakes, mode.from_tensor(key))
            method.adjust(state, fakes, fakes, **accepted(method.adjust, given))
            method.update(state, fakes, (), fake_buffers, **accepted(method.update, after))


WITHOUT_VALUES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedFakeTensorException)
"""Errors of a stranger's method that reads values: the first step shows whether it is right."""
