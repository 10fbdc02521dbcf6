"""What an experiment is made of: streams, networks, optimisers and methods by name, and what each can be set to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fcbp import initializers, nets, optim, streams
from fcbp.methods import METHODS, Kind
from fcbp.names import lookup

__all__ = ["ACTIVATIONS", "NETWORKS", "OPTIMIZERS", "STREAMS", "Part", "method", "network", "optimizer", "stream"]

ACTIVATIONS = tuple(initializers.GAINS)
STREAMS: dict[str, Callable[..., streams.Stream]] = {"bit-flipping": streams.bit_flipping}
NETWORKS: dict[str, Callable[..., Any]] = {"mlp": nets.mlp}
PAPER = {"cbp": {"measure": "adaptable_contribution"}}
"""Where the experiments of Dohare et al. (Nature 2024) depart from a method's own defaults."""


def _adam(
    beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 0.0
) -> optim.Optimizer:  # one setting a number, so that each can be swept
    return optim.adam((beta1, beta2), eps=eps, weight_decay=weight_decay)


def _adamw(beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 0.01) -> optim.Optimizer:
    return optim.adamw((beta1, beta2), eps=eps, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {"sgd": optim.sgd, "adam": _adam, "adamw": _adamw}


@dataclass(frozen=True)
class Part:
    """A stream, a network, an optimiser or a method as an experiment sees it."""

    name: str
    build: Callable[..., Any]
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Settings that may be vmapped, with their defaults."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change the program, with their defaults."""

    @property
    def defaults(self) -> dict[str, Any]:
        """All settings that the part reads, with their defaults."""
        return {**self.options, **self.numbers}


def method(chosen: str | Kind) -> Part:
    """A method by its name in :data:`fcbp.methods.METHODS` (``"backprop"`` is another for ``"bp"``), or itself.

    Raises:
        ValueError: the name is unknown.
    """
    return _method(method_name(chosen), kind(chosen))


def kind(chosen: str | Kind) -> Kind:
    """What a method's name stands for.

    Raises:
        ValueError: it is unknown.
    """
    return chosen if isinstance(chosen, Kind) else lookup("method", method_name(chosen), METHODS)


@functools.cache
def _method(name: str, kind: Kind) -> Part:
    options = {key: value for key, value in _keywords(kind.build).items() if key != "capacity"}
    if shares_initializer(kind.build):
        del options["initializer"]  # it is the experiment's
    return Part(name, kind.build, kind.hyperparams()._asdict(), {**options, **PAPER.get(name, {})})


def method_name(chosen: str | Kind) -> str:
    """The name of a method in :data:`fcbp.methods.METHODS`; of one that is not there, its function's."""
    if isinstance(chosen, str):
        return "bp" if chosen == "backprop" else chosen
    return next((name for name, kind in METHODS.items() if kind is chosen), getattr(chosen.build, "__name__", "method"))


def stream(name: str) -> Part:
    """A stream by name; whether it signals new tasks is the method's to say."""
    build = lookup("stream", name, STREAMS)
    return Part(name, build, options={key: v for key, v in _keywords(build).items() if key != "task_signal"})


def network(name: str) -> Part:
    """A network by name; its activation is the experiment's."""
    build = lookup("network", name, NETWORKS)
    return Part(name, build, options={key: v for key, v in _keywords(build).items() if key != "activation"})


def optimizer(name: str) -> Part:
    """An optimiser by name."""
    build = lookup("optimizer", name, OPTIMIZERS)
    settings = _keywords(build)
    numbers = {key: value for key, value in settings.items() if not isinstance(value, bool)}
    return Part(name, build, numbers, {key: value for key, value in settings.items() if key not in numbers})


def every() -> list[Part]:
    """All parts that have a name."""
    makers: tuple[tuple[Callable[[str], Part], Mapping[str, Any]], ...] = (
        (stream, STREAMS),
        (network, NETWORKS),
        (optimizer, OPTIMIZERS),
        (method, METHODS),
    )
    return [make(name) for make, table in makers for name in table]


def shares_initializer(build: Callable[..., Any]) -> bool:
    """Whether a method draws weights as the initial ones are drawn."""
    return _keywords(build).get("initializer") in initializers.INITIALIZERS


def takes(function: Callable[..., Any], keyword: str) -> bool:
    """Whether a function has that parameter by name."""
    return keyword in inspect.signature(function).parameters


@functools.cache
def _keywords(build: Callable[..., Any]) -> dict[str, Any]:
    """The parameters that have a default that is plain data."""
    plain = (bool, int, float, str, tuple, type(None))
    return {
        name: parameter.default
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.default is not parameter.empty and isinstance(parameter.default, plain)
    }
