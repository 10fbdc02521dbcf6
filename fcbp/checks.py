"""Checks of arguments: what a value is, what was expected, and which argument of a call does not fit its annotation."""

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
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import torch
from torch import Tensor, nn

__all__ = ["arguments", "check_elements", "misfit", "shown"]

F = TypeVar("F", bound=Callable[..., Any])

MOST = 1 << 40
"""Elements of a tensor that no machine holds."""
SHOWN = 200
"""Characters of a value in a message."""
WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a string",
    Tensor: "a tensor",
    nn.Module: "a torch.nn.Module",
    Path: "a path",
    type(None): "None",
}


def arguments(function: F) -> F:
    """Make a function name the argument that made it fail.

    The arguments are looked at after a failure alone: a call that works costs nothing more, and a function's own
    ``ValueError`` that names an argument stays as it is. An error that no argument explains, such as one of a user's
    network, stays as well.

    Args:
        function: a function, or a class, whose arguments have annotations.

    Returns:
        It, with a ``ValueError`` in place of any error that an argument of another kind than its annotation's causes.

    Example:
        >>> @arguments
        ... def half(number: float) -> float:
        ...     return number / 2
        >>> half("4")
        Traceback (most recent call last):
        ValueError: number is '4'; expected a number
    """
    if isinstance(function, type):
        function.__init__ = arguments(function.__init__)  # type: ignore[misc]
        return function

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*given, **named)
        try:
            return function(*given, **named)
        except Exception as error:
            better = _explained(function, given, named, error)
            if better is None:
                raise
            raise better from error

    return checked  # type: ignore[return-value]


def check_elements(name: str, value: Any, *sizes: int) -> None:
    """Check that an argument asks for no more elements than a machine holds, before memory is asked for.

    Args:
        name: the argument.
        value: what it is.
        sizes: whose product is the number of elements.

    Raises:
        ValueError: it asks for more.

    Example:
        >>> check_elements("hidden", 10**12, 10**12, 20)
        Traceback (most recent call last):
        ValueError: hidden is 1000000000000; expected at most 1,099,511,627,776 elements in a tensor
    """
    if math.prod(sizes) > MOST:
        raise ValueError(f"{name} is {shown(value)}; expected at most {MOST:,} elements in a tensor")


def shown(value: Any) -> str:
    """A value in a message: short, a tensor by its shape, a network by its class."""
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


def misfit(name: str, value: Any, kind: Any) -> str | None:
    """The message about a value that is not of a kind; ``None`` where it is.

    Args:
        name: the argument.
        value: its value.
        kind: its annotation.

    Example:
        >>> misfit("step_size", [1], float)
        'step_size is [1]; expected a number'
        >>> misfit("step_size", 1, float)
    """
    if _fits(value, kind):
        return next(_within(name, value), None)
    return f"{name} is {shown(value)}; expected {_words(kind)}"


def _within(name: str, value: Any) -> Iterator[str]:
    """What does not fit in the fields of a tuple with names, such as a method's numbers."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        hints = _hints(type(value))
        for field, part in zip(value._fields, value, strict=True):
            if (message := misfit(f"{name}.{field}", part, hints.get(field, Any))) is not None:
                yield message


def _explained(
    function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], error: Exception
) -> ValueError | None:
    """The error that names the argument; ``None`` where the error does so, or no argument explains it."""
    if isinstance(error, (OSError, ImportError, NotImplementedError, torch.OutOfMemoryError)):
        return None
    try:
        bound = inspect.signature(function).bind(*given, **named).arguments
    except TypeError:  # an argument that the function does not have, or lacks: Python says so
        return None
    values = {**bound, **bound.get("keywords", {})}
    if isinstance(error, ValueError) and any(name in str(error) for name in values):
        return None
    if isinstance(error, ValueError) and "; expected" in str(error):
        return _renamed(values, str(error))
    hints = _hints(function)
    variadic = [p.name for p in inspect.signature(function).parameters.values() if p.kind in (p.VAR_POSITIONAL, 4)]
    for name, value in values.items():
        if name not in variadic and (message := misfit(name, value, hints.get(name, Any))) is not None:
            return ValueError(message)
    if isinstance(error, ValueError):
        return None
    for name, value in values.items():
        if _is_extreme(value) or (name == "device" and value is not None):
            return ValueError(f"{name} is {shown(value)}; expected a number in range ({_first(error)})")
    for name, value in values.items():
        if name not in variadic and hints.get(name, Any) is Any and _holds_no_tensor(value):
            return ValueError(f"{name} is {shown(value)}; expected what it takes ({_first(error)})")
    return None


def _renamed(values: Mapping[str, Any], message: str) -> ValueError | None:
    """The message of a function within about the same value, under the name that it has here."""
    name, _, rest = message.partition(" is ")
    same = [own for own, value in values.items() if rest.startswith(f"{shown(value)}; expected")]
    return ValueError(f"{same[0]} is {rest}") if len(same) == 1 and name.isidentifier() else None


def _is_extreme(value: Any) -> bool:
    """Whether a number, or one of several, is one that sizes and rates seldom are."""
    if isinstance(value, (tuple, list)):
        return any(map(_is_extreme, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not 0 <= value < 1 << 31


def _holds_no_tensor(value: Any) -> bool:
    """Whether a value is surely no pytree of tensors, no number, and nothing to call."""
    if isinstance(value, (dict, list, tuple)):
        parts = value.values() if isinstance(value, dict) else value
        return any(map(_holds_no_tensor, parts))
    return not isinstance(value, (Tensor, numbers.Number)) and (isinstance(value, nn.Module) or not callable(value))


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:SHOWN]}"


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


def _hints(function: Any) -> dict[str, Any]:
    """The annotations of a function or of a class, by name; what has none, or cannot be read, is anything."""
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


def _fits(value: Any, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, (TypeVar, str)):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(value is part or (type(value) is type(part) and value == part) for part in parts)
    if hasattr(kind, "array_type"):  # of jaxtyping
        return isinstance(value, kind.array_type)
    if kind is None or kind is type(None):
        return value is None
    if kind in (float, int):
        number = numbers.Real if kind is float else numbers.Integral
        return isinstance(value, number) and not isinstance(value, bool)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is not None and isinstance(origin, type):
        return _several_fit(value, origin, parts)
    return isinstance(value, kind) if isinstance(kind, type) else True


def _several_fit(value: Any, origin: type, parts: tuple[Any, ...]) -> bool:
    if isinstance(value, (str, bytes, nn.Module)) or not isinstance(value, origin):
        return False
    if isinstance(value, Mapping):
        return len(parts) < 2 or all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if not isinstance(value, (tuple, list)) or not parts:
        return not (isinstance(value, Tensor) and value.ndim == 0)
    if origin is tuple and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(map(_fits, value, parts))
    return all(_fits(part, parts[0]) for part in value)


def _words(kind: Any) -> str:
    """A kind in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if hasattr(kind, "array_type"):
        return f"a tensor {kind.dim_str or 'without axes'} of {kind.__name__.split('[')[0].lower()}"
    if origin is collections.abc.Callable:
        return "a function"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return "a mapping"
    if isinstance(origin, type) and parts:
        return f"a sequence, each of it {_words(parts[0])}"
    if kind in WORDS:
        return WORDS[kind]
    return f"a {kind.__name__}" if isinstance(kind, type) else str(kind)
