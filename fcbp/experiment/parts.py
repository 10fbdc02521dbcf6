"""An experiment's parts: streams, networks, optimisers and methods, each by name, as an object, or by address."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from torch import nn

from fcbp import addresses, initializers, optim, streams
from fcbp.experiment import networks
from fcbp.experiment.over_data import OVER_DATA
from fcbp.methods import METHODS, Kind, Method
from fcbp.names import unknown
from fcbp.optim.optimizers import adam_of_numbers

__all__ = [
    "ACTIVATIONS",
    "NETWORKS",
    "OPTIMIZERS",
    "STREAMS",
    "NetworkKind",
    "Part",
    "Role",
    "StreamKind",
    "find",
    "method",
    "network",
    "optimizer",
    "schedule",
    "stream",
]

Role = Literal["stream", "network", "schedule", "optimizer", "method"]
T = TypeVar("T")

ACTIVATIONS = tuple(initializers.GAINS)
PAPER = {"cbp": {"measure": "adaptable_contribution"}}
"""Settings in which the experiments of Dohare et al. (Nature 2024) depart from a method's own defaults."""


@dataclass(frozen=True)
class StreamKind:
    """A stream as experiments and the command know it.

    Example:
        >>> import fcbp
        >>> fcbp.experiment.STREAMS["short"] = StreamKind(
        ...     functools.partial(fcbp.streams.bit_flipping, flip_period=100), task_signal="task_signal"
        ... )
        >>> fcbp.Experiment(stream="short").flip_period
        100
        >>> del fcbp.experiment.STREAMS["short"]
    """

    build: Callable[..., streams.Stream]
    """``build(**options) -> Stream``; its keywords are the stream's settings."""
    task_signal: str | None = None
    """The keyword that, set to ``True``, makes batches tell new tasks; ``None`` where they do or do not by
    themselves."""


@dataclass(frozen=True)
class NetworkKind:
    """A network as experiments and the command know it.

    Example:
        >>> import torch
        >>> def linear(spec, *, bias=True):
        ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(spec.outputs, bias))
        >>> mine = NetworkKind(linear, activation="linear")
    """

    build: Callable[..., nn.Module]
    """``build(spec, **options) -> module``; its keywords are the network's settings."""
    activation: str | None = None
    """The option that names the activation of the hidden units, which the scale of initial weights and the bounds of
    saturated units follow; or that activation itself."""


def _adamw(beta1: Any = 0.9, beta2: Any = 0.999, eps: Any = 1e-8, weight_decay: Any = 0.01) -> optim.Optimizer:
    return optim.adamw((beta1, beta2), eps=eps, weight_decay=weight_decay)


STREAMS: dict[str, StreamKind] = {
    "bit-flipping": StreamKind(streams.bit_flipping, task_signal="task_signal"),
    **{name: StreamKind(build, task_signal="task_signal") for name, build in OVER_DATA.items()},
}
NETWORKS: dict[str, NetworkKind] = {
    "mlp": NetworkKind(networks.mlp, activation="activation"),
    "conv-net": NetworkKind(networks.conv_net, activation="activation"),
    "lenet": NetworkKind(networks.lenet, activation="activation"),
    "cnn16": NetworkKind(networks.cnn16, activation="activation"),
    "resnet18": NetworkKind(networks.resnet18, activation="relu"),
    "vision-transformer": NetworkKind(networks.vision_transformer, activation="gelu"),
}
OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {"sgd": optim.sgd, "adam": adam_of_numbers, "adamw": _adamw}


@dataclass(frozen=True)
class Part:
    """A stream, a network, an optimiser or a method as an experiment sees it."""

    role: Role
    name: str
    build: Callable[..., Any]
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Settings that may be vmapped, with their defaults."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings that change the program, with their defaults."""

    @property
    def is_named(self) -> bool:
        """Whether the part has a name."""
        tables: dict[str, Mapping[str, Any]] = {
            "stream": STREAMS,
            "network": NETWORKS,
            "schedule": {"none": None, **optim.SCHEDULES},
            "optimizer": OPTIMIZERS,
            "method": METHODS,
        }
        return self.name in tables[self.role]

    @property
    def defaults(self) -> dict[str, Any]:
        """All settings that the part reads, with their defaults."""
        return {**self.options, **self.numbers}


def find(role: str, chosen: object, table: Mapping[str, T], expected: str) -> object:
    """Return the object that a setting names: an entry of ``table``, the object at an address, or the object itself.

    Raises:
        ValueError: there is none; near misses are offered.
    """
    if not isinstance(chosen, str):
        return chosen
    if chosen in table:
        return table[chosen]
    if not addresses.is_address(chosen):
        raise unknown(role, chosen, table)
    try:
        return addresses.load(chosen)
    except ValueError as error:
        raise ValueError(f"{role} is {chosen!r}, which cannot be found: {error}; expected {expected}") from error


def stream(chosen: object) -> Part:
    """Return a stream by name, by address, or as a function ``(**options) -> Stream``, a :class:`StreamKind` or a
    stream.

    Raises:
        ValueError: it is unknown, or something else.
    """
    expected = f"one of {', '.join(STREAMS)}, or a function (**options) -> Stream, or its address"
    return _stream(addresses.name_of(chosen), stream_kind(chosen, expected))


def stream_kind(chosen: Any, expected: str = "a stream") -> StreamKind:
    """Return a stream's record."""
    found = find("stream", chosen, STREAMS, expected)
    if isinstance(found, streams.Stream):
        return StreamKind(_always(found))
    return found if isinstance(found, StreamKind) else StreamKind(_function("stream", chosen, found, expected))


def network(chosen: object) -> Part:
    """Return a network by name, by address, or as a function ``(spec, **options) -> module`` or a :class:`NetworkKind`.

    Raises:
        ValueError: it is unknown, or something else.
    """
    return _network(addresses.name_of(chosen), network_kind(chosen))


def network_kind(chosen: Any) -> NetworkKind:
    """Return a network's record."""
    expected = f"one of {', '.join(NETWORKS)}, or a function (spec, **options) -> nn.Module, or its address"
    found = find("network", chosen, NETWORKS, expected)
    return found if isinstance(found, NetworkKind) else NetworkKind(_function("network", chosen, found, expected))


def schedule(chosen: object) -> Part:
    """Return a step-size schedule by name, by address, or as a function ``(**numbers) -> schedule``; ``None`` is none
    at all.

    Raises:
        ValueError: it is unknown, or something else.
    """
    if chosen is None:
        return Part("schedule", "none", _always(None))
    expected = f"one of {', '.join(optim.SCHEDULES)}, or a function (**numbers) -> schedule, or its address"
    build = _function("schedule", chosen, find("schedule", chosen, optim.SCHEDULES, expected), expected)
    settings = _keywords(build)
    numbers = {key: v for key, v in settings.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    options = {key: value for key, value in settings.items() if key not in numbers}
    return Part("schedule", addresses.name_of(chosen), build, numbers, options)


def optimizer(chosen: object) -> Part:
    """Return an optimiser by name, by address, or as a function ``(**numbers) -> Optimizer`` or an optimiser.

    Raises:
        ValueError: it is unknown, or something else.
    """
    expected = f"one of {', '.join(OPTIMIZERS)}, or a function (**numbers) -> fcbp.optim.Optimizer, or its address"
    found = find("optimizer", chosen, OPTIMIZERS, expected)
    build = _always(found) if isinstance(found, optim.Optimizer) else _function("optimizer", chosen, found, expected)
    settings = _keywords(build)
    numbers = {key: value for key, value in settings.items() if not isinstance(value, bool)}
    options = {key: value for key, value in settings.items() if key not in numbers}
    return Part("optimizer", addresses.name_of(chosen), build, numbers, options)


def method(chosen: object) -> Part:
    """Return a method by name (``"backprop"`` is another for ``"bp"``), by address, or as a :class:`fcbp.methods.Kind`,
    a method, or a function that makes one.

    Raises:
        ValueError: it is unknown, or something else.
    """
    return _method(method_name(chosen), kind(chosen))


def kind(chosen: Any) -> Kind:
    """Return a method's record.

    Raises:
        ValueError: it is unknown.
    """
    expected = f"one of {', '.join(METHODS)}, or a fcbp.methods.Kind, or its address"
    found = find("method", method_name(chosen) if isinstance(chosen, str) else chosen, METHODS, expected)
    if isinstance(found, Kind):
        return found
    return _plain_kind(found if isinstance(found, Method) else _function("method", chosen, found, expected))


@functools.lru_cache(maxsize=256)
def _plain_kind(found: Any) -> Kind:
    return Kind("", _always(found) if isinstance(found, Method) else found)


@functools.cache
def _method(name: str, kind: Kind) -> Part:
    hidden = {"capacity"} if kind.capacity else set()
    hidden |= {"initializer"} if kind.initializer else set()  # it is the experiment's
    options = {key: value for key, value in _keywords(kind.build).items() if key not in hidden}
    return Part("method", name, kind.build, kind.hyperparams()._asdict(), {**options, **PAPER.get(name, {})})


def method_name(chosen: Any) -> str:
    """Return the name of a method in :data:`fcbp.methods.METHODS`; of one that is not there, its address or its own."""
    if isinstance(chosen, str):
        return "bp" if chosen == "backprop" else chosen
    return next((name for name, kind in METHODS.items() if kind is chosen), None) or addresses.name_of(chosen)


@functools.lru_cache(maxsize=256)
def _stream(name: str, kind: StreamKind) -> Part:
    return Part("stream", name, kind.build, options=_options(name, "stream", kind.build, {kind.task_signal}, 0))


@functools.lru_cache(maxsize=256)
def _network(name: str, kind: NetworkKind) -> Part:
    return Part("network", name, kind.build, options=_options(name, "network", kind.build, set(), 1))


def every() -> list[Part]:
    """Return all parts that have a name."""
    makers: tuple[tuple[Callable[[str], Part], Mapping[str, Any]], ...] = (
        (stream, STREAMS),
        (network, NETWORKS),
        (schedule, optim.SCHEDULES),
        (optimizer, OPTIMIZERS),
        (method, METHODS),
    )
    return [make(name) for make, table in makers for name in table]


def _function(role: str, chosen: Any, found: Any, expected: str) -> Callable[..., Any]:
    if isinstance(found, nn.Module):
        raise ValueError(
            f"{role} is a model, {type(found).__name__} ({addresses.name_of(chosen)}); expected {expected}"
        )
    if not callable(found):
        raise ValueError(f"{role} is {chosen!r}, which is {type(found).__name__}; expected {expected}")
    return cast(Callable[..., Any], found)


def _options(
    name: str, role: str, build: Callable[..., Any], hidden: set[str | None], positional: int
) -> dict[str, Any]:
    """Return the keywords of a builder; those before ``positional`` are given by the experiment."""
    try:
        parameters = list(inspect.signature(build).parameters.values())
    except (TypeError, ValueError):
        return {}
    given = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(given) < positional:
        raise ValueError(f"{role} is {name!r}, which takes no argument; expected (spec, **options)")
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for p in parameters[positional:]:
        if p.default is p.empty and p.kind not in variable:
            wanted = "(spec, **options)" if positional else "(**options)"
            raise ValueError(
                f"{role} is {name!r}, whose argument {p.name!r} has no default; expected a function {wanted} whose "
                "options have defaults"
            )
    first = {p.name for p in parameters[:positional]}
    return {key: value for key, value in _keywords(build).items() if key not in hidden and key not in first}


@functools.lru_cache(maxsize=256)
def _always(value: T) -> Callable[[], T]:
    return lambda: value


PLAIN = (bool, int, float, str, tuple, list, type(None))


@functools.lru_cache(maxsize=256)
def _keywords(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters that have a default that is plain data."""
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return {}
    return {
        name: tuple(parameter.default) if isinstance(parameter.default, list) else parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty and isinstance(parameter.default, PLAIN)
    }
