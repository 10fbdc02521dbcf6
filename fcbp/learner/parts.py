"""The parts of a learner, which may be named: each resolved and checked once, before any step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fcbp.methods import METHODS, Kind, Method
from fcbp.methods.base import parameters_of
from fcbp.names import lookup
from fcbp.optim import OPTIMIZERS, SCHEDULES, Optimizer, clip_by_global_norm
from fcbp.optim.checks import check_number

__all__ = ["clip_of", "method_of", "optimizer_of", "schedule_of"]


def optimizer_of(given: str | Optimizer | Callable[..., Optimizer]) -> Callable[[Any], Optimizer]:
    """Return a function of ``hyper.optimizer`` that makes the optimiser; one that is made already has its numbers."""
    if isinstance(given, Optimizer):
        return _of_keywords("hyper.optimizer", lambda: given)
    expected = (
        f"expected one of {', '.join(sorted(OPTIMIZERS))}, an optimiser such as fcbp.optim.adam(), or a function that "
        "makes one"
    )
    make = lookup("optimizer", given, OPTIMIZERS) if isinstance(given, str) else given
    if isinstance(make, (nn.Module, type, torch.optim.Optimizer)) or not callable(make):
        raise ValueError(f"optimizer is {_named(given)}; {expected}")
    try:
        made = make()
    except TypeError as error:
        raise ValueError(f"optimizer is {_named(given)}, which cannot be called without numbers; {expected}") from error
    if not isinstance(made, Optimizer):
        raise ValueError(f"optimizer is {_named(given)}, which makes {_named(made)}; {expected}")
    return _of_keywords("hyper.optimizer", make)


def schedule_of(given: str | Callable[..., Any] | None) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Return a function ``(step_size, step, hyper.schedule) -> (step_size, next step)``."""
    if given is None:
        fixed = _of_keywords("hyper.schedule", lambda: None)

        def unscheduled(step_size: Any, step: Any, numbers: Any) -> tuple[Any, Any]:
            fixed(numbers)
            return step_size, step

        return unscheduled
    if isinstance(given, (nn.Module, type)) or not (isinstance(given, str) or callable(given)):
        raise ValueError(
            f"schedule is {_named(given)}; expected one of {', '.join(sorted(SCHEDULES))}, or a function step -> "
            "factor such as fcbp.optim.cosine(decay_steps=1000)"
        )
    if isinstance(given, str):
        make = _of_keywords("hyper.schedule", lookup("schedule", given, SCHEDULES))
    else:
        if any(given is made for made in SCHEDULES.values()):
            raise ValueError(f"schedule is {_named(given)}, which makes schedules; expected its name, or call it first")
        make = _of_keywords("hyper.schedule", lambda **numbers: lambda step: given(step, **numbers), given)

    def scheduled(step_size: Any, step: Any, numbers: Any) -> tuple[Any, Any]:
        check_number("step_size", step_size)
        factor = make(numbers)(step)
        check_number("schedule(step)", factor)
        return step_size * factor, step + 1

    return scheduled


def clip_of(given: float | Tensor | None) -> Callable[[Any, Any], Any]:
    """Return a function ``(grads, hyper.clip) -> grads``; the bound in ``hyper`` goes before the one ``given``."""
    if given is not None:
        check_number("clip", given, infinite=True)

    def clipped(grads: Any, own: Any) -> Any:
        bound = given if isinstance(own, tuple) and not own else own
        return grads if bound is None else clip_by_global_norm(grads, bound)

    return clipped


def _of_keywords(
    name: str, function: Callable[..., Any], takes: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """``function`` of its keywords as one mapping, called ``name`` in a message; ``takes`` has its parameters."""
    parameters = parameters_of(takes or function)

    def call(keywords: Any) -> Any:
        try:
            given = dict(keywords)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {keywords!r}; expected numbers by name") from None
        wrong = [key for key in given if key not in parameters and None not in parameters]
        if wrong:
            words = ", ".join(map(str, parameters)) or "none: the learner has none to set"
            raise ValueError(f"{name} has {wrong[0]!r}; expected {words}")
        return function(**given)

    return call


def method_of(given: str | Kind | Method) -> Method:
    if isinstance(given, str):
        given = lookup("method", given, METHODS)
    method = given.build() if isinstance(given, Kind) else given
    if not isinstance(method, Method):
        hint = "; call it first" if callable(given) and not isinstance(given, nn.Module) else ""
        raise ValueError(
            f"method is {_named(given)}; expected one of {', '.join(sorted(METHODS))}, or a method such as "
            f"fcbp.methods.cbp(){hint}"
        )
    return method


def _named(value: Any) -> str:
    """Show a wrong argument in a message."""
    if isinstance(value, nn.Module):
        return f"a model, {type(value).__name__}"
    return f"the class {value.__name__}" if isinstance(value, type) else repr(value)
