"""Kinds of arguments: whether a value is of an annotation's kind, and how a message says so."""

from __future__ import annotations

import builtins
import collections.abc
import functools
import importlib
import inspect
import math
import numbers
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import numpy as np
import optree
import torch
from torch import Tensor, nn

from fcbp.names import unknown

__all__ = [
    "LARGEST",
    "Count",
    "Device",
    "DrawDevice",
    "Finite",
    "Fraction",
    "NonNegative",
    "PyTree",
    "Seed",
    "SomeTensors",
    "Tensors",
    "Test",
    "Within",
    "fits",
    "hints_of",
    "misfit",
    "shape_misfit",
    "shown",
    "test_of",
    "words_of",
]

PyTree: TypeAlias = Any
"""A tensor, or a tuple, a NamedTuple, a list or a dictionary of pytrees; type checkers know no narrower type."""
Test = Callable[[Any], Any]
SHOWN = 200
"""Characters of a value in a message."""
WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a string",
    Tensor: "a tensor",
    nn.Module: "a torch.nn.Module",
    Path: "a path on this machine",
    type(None): "None",
    numbers.Integral: "a whole number",
    torch.optim.Optimizer: "a torch.optim.Optimizer",
}


@dataclass(frozen=True)
class Within:
    """The range in an annotation of a number: it is from ``low`` to ``high``."""

    low: float
    high: float
    words: str

    def holds(self, value: float | Tensor) -> bool:
        """Tell whether a plain number is there; a tensor's values are not read."""
        return isinstance(value, Tensor) or self.low <= value <= self.high


@dataclass(frozen=True)
class Leaves:
    """The rule in an annotation of a pytree: all its leaves are tensors; there may be none."""

    least: int = 0
    words: str = "a pytree of tensors"

    def holds(self, value: Any) -> bool:
        """Tell whether all leaves are tensors, and enough of them."""
        if isinstance(value, Tensor):
            return True
        if isinstance(value, dict) and value and all(isinstance(part, Tensor) for part in value.values()):
            return True  # the usual one at once
        leaves = optree.tree_leaves(value)
        return value is not None and len(leaves) >= self.least and all(isinstance(leaf, Tensor) for leaf in leaves)


@dataclass(frozen=True)
class Here:
    """The rule in an annotation of a device: this machine has it."""

    meta: bool = False
    """Whether tensors without values, on which a step is rehearsed, have a place there too."""
    words: str = "'cpu', or a GPU that this machine has, such as 'cuda:0'"

    def holds(self, value: Any) -> bool:
        """Tell whether this machine has the device; ``None`` is a device by default."""
        try:
            device = torch.device(value) if isinstance(value, str) else value
            return device is None or (self.meta and device.type == "meta") or _is_here(device)
        except RuntimeError:  # no name of a device
            return False


def _is_here(device: torch.device) -> bool:
    if device.type in ("cpu", "meta"):
        return device.type == "cpu" and not device.index
    try:
        module = torch.get_device_module(device.type)
    except RuntimeError:
        return False
    return bool(module.is_available()) and (device.index or 0) < module.device_count()


LARGEST = torch.finfo(torch.float64).max
Finite = Annotated[float, Within(-LARGEST, LARGEST, "a finite number")]
Fraction = Annotated[float, Within(0, 1, "a number in [0, 1]")]
NonNegative = Annotated[float, Within(0, LARGEST, "a finite number, 0 or more")]
Count = Annotated[int, Within(1, math.inf, "a whole number, 1 or more")]
Tensors = Annotated[Any, Leaves()]
SomeTensors = Annotated[Any, Leaves(1, "a pytree of tensors, one or more")]
if TYPE_CHECKING:
    Seed = int
else:
    Seed = numbers.Integral
"""A whole number of any size, Python's or another library's, which type checkers know as ``int`` alone."""
Device = Annotated[torch.device | str | None, Here()]
DrawDevice = Annotated[torch.device | str | None, Here(meta=True)]


def shown(value: object) -> str:
    """Return a value in a message: short, a tensor by its shape, a network by its class."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    try:
        text = repr(value)
    except Exception:  # an int of more digits than Python prints, or an object that cannot be shown
        text = f"{type(value).__name__} that cannot be shown"
    if len(text) <= SHOWN:
        return text
    short = reprlib.Repr()
    short.maxother = short.maxlong = short.maxstring = SHOWN // 2
    try:
        return short.repr(value)
    except Exception:
        return text[:SHOWN]


def misfit(name: str, value: object, kind: object) -> str | None:
    """Return the message about a value that is not of a kind; ``None`` where it is.

    Args:
        name: the argument.
        value: its value.
        kind: its annotation.

    Example:
        >>> misfit("step_size", [1], float)
        'step_size is [1]; expected a number'
        >>> misfit("step_size", 1, float)
        >>> misfit("last", 1.5, Fraction)
        'last is 1.5; expected a number in [0, 1]'
        >>> misfit("backend", "rya", Literal["ray"] | None)
        "backend is 'rya'; expected one of ray; did you mean 'ray'?"
    """
    if fits(value, kind):
        return next(_within(name, value), None)
    if isinstance(value, str) and (options := _options(kind)):
        return str(unknown(name, value, options))
    return f"{name} is {shown(value)}; expected {words_of(kind)}"


def _options(kind: Any) -> tuple[str, ...]:
    """Return the words of a ``Literal``, which may be optional; empty where a kind takes anything else."""
    if get_origin(kind) in (typing.Union, types.UnionType):
        kinds = [part for part in get_args(kind) if part is not type(None)]
        return _options(kinds[0]) if len(kinds) == 1 else ()
    words = get_args(kind) if get_origin(kind) is Literal else ()
    return words if all(isinstance(word, str) for word in words) else ()


def _within(name: str, value: Any) -> Iterator[str]:
    """Yield a message for each field that does not fit in a tuple with names, such as a method's numbers."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        hints = hints_of(type(value))
        for field, part in zip(value._fields, value, strict=True):
            if (message := misfit(f"{name}.{field}", part, hints.get(field, Any))) is not None:
                yield message


def shape_misfit(values: Mapping[str, Any], hints: Mapping[str, Any]) -> str | None:
    """Return the message about the first tensor whose shape is not as its annotation says, or has another size than an
    argument before it; ``None`` where all fit.

    Args:
        values: by argument.
        hints: their annotations.

    Example:
        >>> from jaxtyping import Float
        >>> hints = {"matrix": Float[Tensor, "rows columns"], "vector": Float[Tensor, "columns"]}
        >>> shape_misfit({"matrix": torch.zeros(2, 3), "vector": torch.zeros(4)}, hints)
        'vector is a tensor (4,) of torch.float32; expected a tensor columns of float, columns being 3 of matrix'
    """
    sizes: dict[str, Any] = {}
    for name, value in values.items():
        kinds = [kind for kind in (hints.get(name), *get_args(hints.get(name))) if hasattr(kind, "array_type")]
        if not isinstance(value, Tensor) or not kinds:
            continue
        found = _sizes(kinds[0].dim_str.split(), tuple(value.shape))
        other = [axis for axis, size in (found or {}).items() if sizes.get(axis, (size,))[0] != size]
        if found is None or other or not isinstance(value, kinds[0]):
            being = "".join(f", {axis} being {sizes[axis][0]} of {sizes[axis][1]}" for axis in other)
            return f"{name} is {shown(value)}; expected {words_of(kinds[0])}{being}"
        sizes |= {axis: (size, name) for axis, size in found.items()}
    return None


def _sizes(axes: list[str], shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Return the size of every axis with a name; ``None`` where the number of axes is another."""
    several = [i for i, axis in enumerate(axes) if axis.startswith(("*", "..."))]
    if len(several) > 1 or (len(shape) < len(axes) - 1 if several else len(shape) != len(axes)):
        return {} if len(several) > 1 else None
    if several:
        end = len(shape) - (len(axes) - 1 - several[0])
        shape = (*shape[: several[0]], shape[several[0] : end], *shape[end:])  # type: ignore[arg-type]
    return {axis: size for axis, size in zip(axes, shape, strict=True) if axis.isidentifier() or axis.startswith("*")}


class _Names(dict[str, Any]):
    """The names in annotations that a module imports for type checkers alone: a module, or anything."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        super().__init__()
        self.known = known

    def __missing__(self, name: str) -> Any:
        if name in self.known or hasattr(builtins, name):
            raise KeyError(name)
        try:
            return importlib.import_module(name)
        except ImportError:
            return Any


def hints_of(function: Callable[..., object]) -> dict[str, Any]:
    """Return the annotations of a function or of a class, by name; what has none, or cannot be read, is anything."""
    module = inspect.getmodule(inspect.unwrap(function))
    known = vars(module) if module else {}
    hints = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = parameter.annotation
        text = kind.__forward_arg__ if isinstance(kind, typing.ForwardRef) else kind
        try:
            hints[name] = eval(text, dict(known), _Names(known)) if isinstance(text, str) else text
        except Exception:
            hints[name] = Any
        hints[name] = Any if text is inspect.Parameter.empty else hints[name]
    return hints


def fits(value: object, kind: object) -> bool:
    """Tell whether a value is of an annotation's kind: a sequence may be a tuple or a list, a number NumPy's."""
    return bool(test_of(kind)(value))


def test_of(kind: object) -> Test:
    """Return the function that tells whether a value is of an annotation's kind."""
    try:
        return _made_test(kind)
    except TypeError:  # an annotation that cannot be hashed
        return _made_test.__wrapped__(kind)


@functools.lru_cache(maxsize=1024)
def _made_test(kind: Any) -> Test:
    """Return the function that tells whether a value is of a kind; made once, as calls are many."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, (TypeVar, str)):
        return lambda value: True
    if origin is Annotated:
        inner, rules = test_of(parts[0]), [rule for rule in parts[1:] if hasattr(rule, "holds")]
        return lambda value: inner(value) and all(rule.holds(value) for rule in rules)
    if origin in (typing.Union, types.UnionType):
        tests = tuple(map(test_of, parts))
        return lambda value: any(test(value) for test in tests)
    if origin is Literal:
        return lambda value: any(value is p or (_is_alike(value, p) and value == p) for p in parts)
    if hasattr(kind, "array_type"):  # of jaxtyping
        return lambda value: isinstance(value, kind.array_type)
    if kind is None or kind is type(None):
        return lambda value: value is None
    if kind in (float, int, bool):
        return {float: _is_number, int: _is_whole, bool: lambda value: isinstance(value, (bool, np.bool_))}[kind]
    if origin is collections.abc.Callable or kind is collections.abc.Callable:
        return lambda value: callable(value) and not isinstance(value, nn.Module)  # which has a kind of its own
    if isinstance(origin, type):
        return functools.partial(_several_fit, origin, parts)
    if isinstance(kind, type):
        return lambda value: isinstance(value, kind)
    return lambda value: True


def _is_alike(value: Any, option: Any) -> bool:
    """Tell whether a value is of an option's type; a string may be NumPy's."""
    return type(value) is type(option) or (isinstance(value, str) and isinstance(option, str))


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.SymFloat):
        return True
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        return _is_whole(value)
    return (not isinstance(value, int) and value == value) or _is_whole(value)  # NaN is no number


def _is_whole(value: Any) -> bool:
    if isinstance(value, torch.SymInt):
        return True
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and -(1 << 63) <= int(value) < 1 << 64


def _several_fit(origin: type, parts: tuple[Any, ...], value: Any) -> bool:
    if isinstance(value, (str, bytes, nn.Module, Tensor)):
        return False
    listed = isinstance(value, (tuple, list))
    if not isinstance(value, origin) and not (listed and origin in (tuple, list)) and not _is_column(value, origin):
        return False
    if isinstance(value, Mapping) and len(parts) == 2:
        key, inner = map(test_of, parts)
        return all(key(k) and inner(v) for k, v in value.items())
    if not isinstance(value, (tuple, list, set, frozenset, Mapping)) or not parts:
        return True
    if origin is tuple and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(test_of(part)(v) for v, part in zip(value, parts, strict=True))
    inner = test_of(parts[0])
    return all(map(inner, value))


def _is_column(value: Any, origin: type) -> bool:
    """Tell whether a value is a vector of NumPy's, in the place of a sequence."""
    return isinstance(value, np.ndarray) and value.ndim == 1 and origin is collections.abc.Sequence


def words_of(kind: object) -> str:
    """Return a kind in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return next((rule.words for rule in parts[1:] if hasattr(rule, "words")), words_of(parts[0]))
    if origin in (typing.Union, types.UnionType):
        several = [part for part in parts if len(get_args(part)) == 1 and get_args(part)[0] in parts]
        words = " or ".join(dict.fromkeys(words_of(part) for part in parts if part not in several))
        return f"{words}, or several" if several else words
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if isinstance(kind, type) and hasattr(kind, "array_type"):
        return f"a tensor {getattr(kind, 'dim_str', '') or 'without axes'} of {kind.__name__.split('[')[0].lower()}"
    if origin is collections.abc.Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return "a mapping"
    if isinstance(origin, type) and parts:
        return f"a sequence, each of it {words_of(parts[0])}"
    if kind in WORDS:
        return WORDS[kind]
    return f"a {kind.__name__}" if isinstance(kind, type) else str(kind)
