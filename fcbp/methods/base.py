"""The protocol of methods: ``init`` and ``update``, and ``adjust`` for a method that acts on the gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from fcbp import show
from fcbp.checks import arguments
from fcbp.kinds import PyTree

__all__ = ["Kind", "Method", "NoHyperparams", "given_what_it_takes", "keep_gradients", "parameters_of"]


class NoHyperparams(NamedTuple):
    """The numbers of a method that has none."""


@arguments
def keep_gradients(state: PyTree, grads: PyTree, params: PyTree, **_: object) -> tuple[Any, Any]:
    """Leave the gradients alone, as the ``adjust`` of a method does that works after the step.

    Args:
        state: the method's.
        grads: gradients of the loss.
        params: the parameters; not read.

    Returns:
        ``grads`` and ``state`` as they were.
    """
    return grads, state


@show.by_maker
class Method(NamedTuple):
    """Pure functions that a learner calls: ``init`` once, ``adjust`` before every optimiser step, ``update`` after it.

    A learner gives each function those of these keywords that it takes:

    - ``units``: the groups, static;
    - ``grads``: gradients of the loss, a pytree like ``params``;
    - ``previous``: the parameters before the optimiser's step, for ``update``;
    - ``features``: by group name, the activation in the forward pass before the step;
    - ``hyper``: the method's own numbers, which may be vmapped;
    - ``step_size``: the optimiser's, a number or a 0-d tensor;
    - ``new_task``: a 0-d bool tensor, true on the first batch of a new task; ``None`` where the batches have none.

    A method takes no notice of the keywords that it does not read, so ``update`` may be called with any of them.
    """

    init: Callable[..., Any]
    """``init(units, params, key) -> state``"""
    update: Callable[..., tuple[Any, Any, Any, Any, dict[str, Any]]]
    """``update(state, params, opt_state, buffers, *, grads, features, hyper, ...)
    -> (params, opt_state, buffers, state, info)``. The entries of ``info``:

    - ``"replaced"``: masks ``(units,)`` by group name of the units that were made new; empty where a method replaces
      none;
    - ``"reset_weights"``, where a method resets single weights: a pytree of masks like ``params``;
    - ``"reset_fraction"``, where a method resets units in part: by group name the fraction of each unit that was
      reset, ``(units,)``, from 0 to 1;
    - others, a method's own."""
    adjust: Callable[..., tuple[Any, Any]] = keep_gradients
    """``adjust(state, grads, params, *, features, hyper, ...) -> (grads, state)``: the optimiser steps along the
    gradients that it returns; ``params`` are those before that step."""
    reads_new_task: bool = False
    """Whether the method acts on ``new_task``, so that batches must say when a new task begins."""
    renews: bool = False
    """Whether a learner begins anew with every task: before the first batch it makes its whole state again, as ``init``
    does, from a key of that task."""


@dataclass(frozen=True)
class Kind:
    """A method as sweeps and the command know it, by its name in :data:`fcbp.methods.METHODS`.

    Raises:
        ValueError: ``build`` does not take a declared keyword, ``hyperparams`` makes no NamedTuple, or ``grid`` names
            a number that is not there.

    Example:
        >>> import fcbp
        >>> mine = Kind("CBP by another measure", lambda: fcbp.methods.cbp("weight"), fcbp.Hyperparams)
    """

    summary: str
    """A line for the command's help."""
    build: Callable[..., Method]
    """Makes the method; its keywords are the options that change the program."""
    hyperparams: Callable[..., Any] = NoHyperparams
    """The NamedTuple class of its numbers, with the published defaults."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """The small grid of its numbers that a comparison searches."""
    capacity: bool = False
    """Whether ``build`` takes ``capacity``, the most units (or weights) that it resets at once in a group."""
    initializer: bool = False
    """Whether the method draws weights as the initial ones are drawn: ``build`` takes ``initializer``, a name of
    :mod:`fcbp.initializers` or a function."""

    def __post_init__(self) -> None:
        if not callable(self.build):
            raise ValueError(f"build is {self.build!r}; expected a function that makes a Method")
        for name, declared in (("capacity", self.capacity), ("initializer", self.initializer)):
            if declared and name not in (parameters := parameters_of(self.build)) and None not in parameters:
                raise ValueError(f"{name} is True, but build takes no keyword {name!r}; it takes {list(parameters)}")
        numbers = self.hyperparams() if callable(self.hyperparams) else self.hyperparams
        if not hasattr(numbers, "_asdict"):
            raise ValueError(
                f"hyperparams makes {numbers!r}; expected a NamedTuple class whose fields have defaults (for a chain "
                "of methods fcbp.methods.chain_kinds makes it)"
            )
        for name in self.grid:
            if name not in numbers._fields:
                raise ValueError(f"grid has {name!r}; expected numbers of hyperparams: {', '.join(numbers._fields)}")


def parameters_of(function: Callable[..., Any]) -> dict[str | None, inspect.Parameter]:
    """Return the parameters of a function by name; under ``None`` the one that takes all other keywords.

    A function that tells of none, being written in C, is taken to take any.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = [inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)]
    return {None if p.kind is p.VAR_KEYWORD else p.name: p for p in parameters}


def given_what_it_takes(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, given of the keywords of a method's protocol those that it takes.

    Example:
        >>> given_what_it_takes(lambda x, *, hyper: x + hyper)(1, hyper=2, grads=3)
        3
    """
    if torch.compiler.is_compiling():
        return function  # signatures are no code that compiles; a method that is made there takes the other keywords
    parameters = parameters_of(function)
    if None in parameters:
        return function

    def given(*args: Any, **keywords: Any) -> Any:
        return function(*args, **{name: value for name, value in keywords.items() if name in parameters})

    return given
