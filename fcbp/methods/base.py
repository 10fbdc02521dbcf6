"""What every method is: ``init`` and ``update``, and for what acts on the gradient ``adjust``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Kind", "Method", "NoHyperparams", "keep_gradients"]


class NoHyperparams(NamedTuple):
    """The numbers of a method that has none."""


def keep_gradients(state: Any, grads: Any, params: Any, **_: Any) -> tuple[Any, Any]:
    """The ``adjust`` of a method that leaves the gradients alone."""
    return grads, state


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

    What a method does not read it takes no notice of, so ``update`` may be called with any of them.
    """

    init: Callable[..., Any]
    """``init(units, params, key) -> state``"""
    update: Callable[..., tuple[Any, Any, Any, Any, dict[str, Any]]]
    """``update(state, params, opt_state, buffers, *, grads, features, hyper, ...)
    -> (params, opt_state, buffers, state, info)``.

    ``info["replaced"]`` maps group names to masks ``(units,)`` and is empty where a method replaces none;
    ``info["reset_weights"]``, where a method resets single weights, is a pytree of masks like ``params``."""
    adjust: Callable[..., tuple[Any, Any]] = keep_gradients
    """``adjust(state, grads, params, *, features, hyper, ...) -> (grads, state)``: the optimiser steps along what is
    returned; ``params`` are those before its step."""


@dataclass(frozen=True)
class Kind:
    """A method as sweeps and the command know it, by its name in :data:`fcbp.methods.METHODS`."""

    summary: str
    """A line for the command's help."""
    build: Callable[..., Method]
    """Makes the method; its keywords are what changes the program."""
    hyperparams: Callable[..., Any] = NoHyperparams
    """The NamedTuple class of its numbers, with the published defaults."""
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    """The small grid of its numbers that a comparison searches."""
