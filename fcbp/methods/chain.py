"""Several methods as one: :func:`chain` of methods for a learner, :func:`chain_kinds` of names for an experiment."""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optree
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.methods.base import Kind, Method, given_what_it_takes, parameters_of
from fcbp.methods.table import METHODS
from fcbp.names import lookup
from fcbp.units import UnitGroup

__all__ = ["ChainKind", "chain", "chain_kinds"]


@arguments
def chain(*methods: Method) -> Method:
    """Apply methods one after the other, to the gradients and after the optimiser's step.

    State and ``hyper`` are tuples, one entry a method. ``info`` tells of all of them: masks are joined by "or"; of a
    unit that two methods reset by the fractions a and b, ``1 - (1 - a)(1 - b)`` is reset; of another entry that
    several methods give, the last one stays.

    Raises:
        ValueError: there are no methods, one of them is none, or ``hyper`` has not an entry for each.

    Example:
        >>> import fcbp
        >>> both = fcbp.methods.chain(fcbp.methods.cbp(), fcbp.methods.cbp("weight"))
        >>> hyper = (fcbp.Hyperparams(replacement_rate=1e-3), fcbp.Hyperparams())
    """
    if not methods:
        raise ValueError("methods is (); expected at least one")
    for method in methods:
        if not isinstance(method, Method):
            raise ValueError(f"methods holds {method!r}; expected methods such as fcbp.methods.cbp()")

    def entries(hyper: Any) -> Sequence[Any]:
        if not isinstance(hyper, (tuple, list)) or hasattr(hyper, "_fields") or len(hyper) != len(methods):
            raise ValueError(f"hyper is {hyper!r}; expected a tuple of {len(methods)}, one for each method")
        return hyper

    return _chain(methods, entries)


@arguments
def chain_kinds(*kinds: str | Kind) -> ChainKind:
    """Make a :class:`fcbp.methods.Kind` of a chain, so that it can be the method of an experiment.

    Its numbers are those of all parts, in one NamedTuple, and the keywords of its ``build`` are those of all parts. A
    name that two parts share is written with the part's name before it, ``l2_strength`` and ``weight_decay_strength``;
    parts of one name are numbered, ``cbp_1_decay_rate`` and ``cbp_2_decay_rate``. ``initializer`` goes to every part
    that declares it, and ``capacity`` to those that also have a ``replacement_rate``.

    Args:
        kinds: names of :data:`fcbp.methods.METHODS`, or kinds, in the order in which they act.

    Raises:
        ValueError: a name is unknown, there are no parts, or two names are the same with the part's name before.

    Example:
        >>> both = chain_kinds("cbp", "l2")
        >>> both.hyperparams(replacement_rate=1e-3, strength=1e-4)
        ChainHyperparams(replacement_rate=0.001, maturity_threshold=..., decay_rate=0.99, strength=0.0001)
        >>> chain_kinds("l2", "weight-decay").hyperparams()
        ChainHyperparams(l2_strength=..., weight_decay_strength=0.01)
        >>> method = both.build(measure="weight")
    """
    if not kinds:
        raise ValueError("kinds is (); expected at least one")
    for kind in kinds:
        if not isinstance(kind, (str, Kind)):
            raise ValueError(f"kinds holds {kind!r}; expected names such as 'cbp', or Kinds")
    return _chain_kind(tuple(lookup("kinds", kind, METHODS) if isinstance(kind, str) else kind for kind in kinds))


@dataclass(frozen=True)
class ChainKind(Kind):
    """The :class:`Kind` of a chain. Chains of the same parts are one object, also after pickling."""

    parts: tuple[Kind, ...] = ()
    """The methods in their order."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return chain_kinds, tuple(_name(part) or part for part in self.parts)


@functools.cache
def _chain_kind(parts: tuple[Kind, ...]) -> ChainKind:
    labels = _labels(parts)
    numbers = [part.hyperparams()._asdict() for part in parts]
    options = [_options(part) for part in parts]
    shared = _shared(parts)
    own_names = [[*own, *others] for own, others in zip(numbers, options, strict=True)]
    names = _joint_names(labels, own_names, [p.name for p in shared])
    defaults = {names[i][name]: value for i, own in enumerate(numbers) for name, value in own.items()}
    hyperparams = namedtuple("ChainHyperparams", defaults, defaults=defaults.values())  # type: ignore[misc]

    def entries(hyper: Any) -> Sequence[Any]:
        missing = [name for name in defaults if not hasattr(hyper, name)]
        if missing:
            raise ValueError(f"hyper is {hyper!r}; expected the numbers of the chain: {', '.join(defaults)}")
        return [
            part.hyperparams(**{name: getattr(hyper, names[i][name]) for name in numbers[i]})
            for i, part in enumerate(parts)
        ]

    own = [
        options[i][name].replace(name=names[i][name], kind=inspect.Parameter.KEYWORD_ONLY)
        for i in range(len(parts))
        for name in options[i]
    ]

    def build(**given: Any) -> Method:
        for name in given:
            if name not in signature.parameters:
                raise ValueError(f"{name} is given; expected keywords of {', '.join(signature.parameters)}")
        built = []
        for i, part in enumerate(parts):
            chosen = {name: given[names[i][name]] for name in options[i] if names[i][name] in given}
            if part.initializer and "initializer" in given:
                chosen["initializer"] = given["initializer"]
            if part.capacity and "replacement_rate" in numbers[i] and "capacity" in given:
                chosen["capacity"] = given["capacity"]
            built.append(part.build(**chosen))
        return _chain(tuple(built), entries)

    signature = inspect.Signature([*own, *shared])
    build.__signature__ = signature  # type: ignore[attr-defined]
    build.__name__ = "_".join(labels)
    return ChainKind(
        ", then ".join(_name(part) or part.summary for part in parts),
        build,
        hyperparams,
        {names[i][name]: values for i, part in enumerate(parts) for name, values in part.grid.items()},
        capacity=any(p.name == "capacity" for p in shared),
        initializer=any(p.name == "initializer" for p in shared),
        parts=parts,
    )


def _name(kind: Kind) -> str | None:
    return next((name for name, known in METHODS.items() if known is kind), None)


def _labels(parts: Sequence[Kind]) -> list[str]:
    """Return a name for each part that can begin an identifier."""
    labels = []
    for part in parts:
        name = str(_name(part) or getattr(part.build, "__name__", "method"))
        name = re.sub(r"\W+", "_", name).strip("_")
        labels.append(name if name.isidentifier() else "method")
    counts = Counter(labels)
    return [f"{label}_{labels[: i + 1].count(label)}" if counts[label] > 1 else label for i, label in enumerate(labels)]


def _options(part: Kind) -> dict[str, inspect.Parameter]:
    """Return the keywords of a part's ``build`` that are its own."""
    declared = {"capacity": part.capacity, "initializer": part.initializer}
    return {
        name: p
        for name, p in parameters_of(part.build).items()
        if name is not None and p.kind is not p.VAR_POSITIONAL and not declared.get(name)
    }


def _shared(parts: Sequence[Kind]) -> list[inspect.Parameter]:
    """Return the declared keywords that any of the parts takes, with the first one's default."""
    found = []
    for keyword in ("initializer", "capacity"):
        takers = [part for part in parts if getattr(part, keyword)]
        if takers:
            given = parameters_of(takers[0].build).get(keyword)
            default = inspect.Parameter.empty if given is None else given.default
            found.append(inspect.Parameter(keyword, inspect.Parameter.KEYWORD_ONLY, default=default))
    return found


def _joint_names(labels: Sequence[str], names: Sequence[Sequence[str]], taken: Sequence[str]) -> list[dict[str, str]]:
    """Return for each part a name in the chain for each of its ``names``, other than those ``taken``."""
    counts = Counter([*taken, *(name for own in names for name in set(own))])
    joint = [
        {name: f"{label}_{name}" if counts[name] > 1 else name for name in own}
        for label, own in zip(labels, names, strict=True)
    ]
    twice = [name for name, count in Counter(n for own in joint for n in own.values()).items() if count > 1]
    if twice:
        raise ValueError(f"kinds have two settings called {twice[0]!r}; expected names that differ")
    return joint


def _chain(methods: tuple[Method, ...], entries: Callable[[Any], Sequence[Any]]) -> Method:
    """Return the chain of ``methods``; ``entries`` finds the numbers of each in the chain's ``hyper``."""
    adjusts = [given_what_it_takes(method.adjust) for method in methods]
    updates = [given_what_it_takes(method.update) for method in methods]

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> tuple[Any, ...]:
        units, keys = tuple(units), random.split(key, len(methods)).unbind()
        return tuple(method.init(units, params, own) for method, own in zip(methods, keys, strict=True))

    def adjust(
        state: tuple[Any, ...], grads: Any, params: Any, *, hyper: Any, **given: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        new = list(state)
        for i, own in enumerate(entries(hyper)):
            grads, new[i] = adjusts[i](new[i], grads, params, hyper=own, **given)
        return grads, tuple(new)

    def update(
        state: tuple[Any, ...], params: Any, opt_state: Any, buffers: Any, *, hyper: Any, **given: Any
    ) -> tuple[Any, Any, Any, tuple[Any, ...], dict[str, Any]]:
        new = list(state)
        info: dict[str, Any] = {}
        for i, own in enumerate(entries(hyper)):
            params, opt_state, buffers, new[i], done = updates[i](
                new[i], params, opt_state, buffers, hyper=own, **given
            )
            info = _together(info, done)
        return params, opt_state, buffers, tuple(new), info

    reads_new_task, renews = (any(getattr(method, name) for method in methods) for name in ("reads_new_task", "renews"))
    return Method(init, update, adjust, reads_new_task, renews)


def _together(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``info`` of two methods, one after the other."""
    both = {**earlier, **later}
    for name in earlier.keys() & later.keys():
        a, b = earlier[name], later[name]
        if name == "replaced":
            both[name] = _by_group(_or, a, b)
        elif name == "reset_weights":
            both[name] = optree.tree_map(_or, a, b)
        elif name == "reset_fraction":
            both[name] = _by_group(_fraction_of_both, a, b)
    return both


def _or(a: Tensor, b: Tensor) -> Tensor:
    return a | b


def _fraction_of_both(a: Float[Tensor, "units"], b: Float[Tensor, "units"]) -> Float[Tensor, "units"]:
    return a + b - a * b


def _by_group(
    join: Callable[[Tensor, Tensor], Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {**a, **{name: join(a[name], value) if name in a else value for name, value in b.items()}}
