"""Checks of arguments: which argument of a call does not fit its annotation, before the call and after a failure."""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from fcbp.kinds import SHOWN, Device, Tensors, Test, fits, hints_of, misfit, shape_misfit, shown, test_of, words_of

__all__ = ["arguments", "check_device", "check_elements", "misfit", "shown"]

F = TypeVar("F", bound=Callable[..., Any])

MOST = 1 << 40
"""Elements of a tensor that no machine holds."""


@overload
def arguments(function: F) -> F: ...


@overload
def arguments(*, at_once: bool) -> Callable[[F], F]: ...


def arguments(function: Any = None, *, at_once: bool = False) -> Any:
    """Make a function name any argument that does not fit its annotation.

    The arguments are looked at before the function runs. A function whose own ``ValueError`` names an argument says
    more than an annotation, so it is asked what is wrong, unless it is to be refused ``at_once``. Where a function
    fails with good kinds, the arguments are looked at more closely; an error that none explains, such as one of a
    user's network, stays.

    Args:
        function: a function, or a class, whose arguments have annotations.
        at_once: for a function that works long, or changes something: it does not run with a wrong argument.

    Returns:
        The function, with a ``ValueError`` in place of an error from an argument that does not fit its annotation.

    Example:
        >>> @arguments
        ... def half(number: float) -> float:
        ...     return number / 2
        >>> half("4")
        Traceback (most recent call last):
        ValueError: number is '4'; expected a number
    """
    if function is None:
        return functools.partial(arguments, at_once=at_once)
    if isinstance(function, type):
        function.__init__ = arguments(function.__init__, at_once=at_once)  # type: ignore[misc, call-overload]
        return function

    @functools.cache
    def tests() -> tuple[tuple[str, ...], str, dict[str, Test]]:
        return _tests(function)

    @functools.wraps(function)
    def checked(*given: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*given, **named)
        wrong = _misfit(function, given, named, *tests())
        if wrong is not None and at_once:
            raise wrong[1]
        try:
            result = function(*given, **named)
        except Exception as error:
            if wrong is not None and not (isinstance(error, ValueError) and _tells(str(error), {wrong[0]})):
                raise wrong[1] from error
            better = None if wrong else _explained(function, given, named, error)
            if better is None:
                raise
            raise better from error
        if wrong is not None:
            raise wrong[1]
        return result

    return checked


def _misfit(
    function: Callable[..., Any],
    given: tuple[Any, ...],
    named: dict[str, Any],
    in_order: tuple[str, ...],
    rest: str,
    tests: dict[str, Test],
) -> tuple[str, ValueError] | None:
    """Return the name of the first argument that does not fit its annotation, and the error about it."""
    for i, value in enumerate(given):
        name = in_order[i] if i < len(in_order) else rest
        if name in tests and not tests[name](value):
            return name, ValueError(misfit(name, value, hints_of(function)[name]))
    for name, value in named.items():
        if name in tests and not tests[name](value):
            return name, ValueError(misfit(name, value, hints_of(function)[name]))
    return None


def _tests(function: Callable[..., Any]) -> tuple[tuple[str, ...], str, dict[str, Test]]:
    """Return the arguments that a call may give by their places, what takes those beyond, and a test of each kind."""
    parameters = inspect.signature(function).parameters
    in_order = tuple(p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    rest = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), "")
    more = {p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD}
    hints = {name: kind for name, kind in hints_of(function).items() if kind not in (Any, object) and name not in more}
    return in_order, rest, {name: test_of(kind) for name, kind in hints.items()}


def check_device(name: str, value: object, *, elsewhere: bool = False) -> None:
    """Check a device, before anything is put there.

    Args:
        name: the argument.
        value: a device or its name.
        elsewhere: whether the device may be another machine's: its CPU, or a GPU of CUDA's.

    Raises:
        ValueError: it is no device, or this machine does not have it.

    Example:
        >>> check_device("device", "meta")
        Traceback (most recent call last):
        ValueError: device is 'meta'; expected 'cpu', or a GPU that this machine has, such as 'cuda:0'
    """
    if elsewhere and re.fullmatch(r"cpu|cuda(:\d+)?", str(value)):
        return
    if value is None or not fits(value, Device):
        raise ValueError(f"{name} is {shown(value)}; expected {words_of(Device)}")


def check_elements(name: str, value: object, *sizes: int) -> None:
    """Check that an argument asks for no more elements than a machine holds, before memory is asked for.

    Args:
        name: the argument.
        value: its value.
        sizes: sizes of the axes; their product is the number of elements.

    Raises:
        ValueError: it asks for more.

    Example:
        >>> check_elements("hidden", 10**12, 10**12, 20)
        Traceback (most recent call last):
        ValueError: hidden is 1000000000000; expected at most 1,099,511,627,776 elements in a tensor
    """
    if math.prod(sizes) > MOST:
        raise ValueError(f"{name} is {shown(value)}; expected at most {MOST:,} elements in a tensor")


def _explained(
    function: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], error: Exception
) -> ValueError | None:
    """Return the error that names the argument; ``None`` where the error does so, or no argument explains it."""
    if isinstance(error, (OSError, ImportError, torch.OutOfMemoryError)):
        return None
    parameters = inspect.signature(function).parameters
    try:
        bound = inspect.signature(function).bind(*given, **named).arguments
    except TypeError:  # an argument that the function does not have, or lacks: Python says so
        return None
    variadic = {p.name for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    more: Mapping[str, Any] = next(
        (bound[p.name] for p in parameters.values() if p.kind is p.VAR_KEYWORD and p.name in bound), {}
    )
    values = {name: value for name, value in {**bound, **more}.items() if name not in {"self", *variadic}}
    hints = hints_of(function)
    if (
        isinstance(error, KeyError) and isinstance(error, ValueError) and "path" not in values
    ):  # a path that a tree does not have
        for name in values:
            if hints.get(name) == Tensors:
                return ValueError(f"{name} is {shown(values[name])}; expected a pytree that has it: {error}")
    if isinstance(error, ValueError):
        said = _renamed(values, str(error))
        if said is not None or "; expected" in str(error) or _tells(str(error), {*values, *variadic}):
            return said
    for name, value in values.items():
        if (message := misfit(name, value, hints.get(name, Any))) is not None:
            return ValueError(message)
    if (message := shape_misfit(values, hints)) is not None:
        return ValueError(f"{message} ({_first(error)})")
    for name, value in values.items():
        if _is_extreme(value):
            return ValueError(f"{name} is {shown(value)}; expected a number in range ({_first(error)})")
    if isinstance(error, (TypeError, AttributeError)):
        for name, value in values.items():
            if isinstance(value, nn.Module) and hints.get(name) is not nn.Module:
                return ValueError(f"{name} is {shown(value)}; expected a function that fits ({_first(error)})")
    for name, value in values.items():
        optional = name in parameters and parameters[name].default is None and value is None
        if hints.get(name, Any) in (Any, Tensors) and not optional and _holds_no_tensor(value):
            return ValueError(f"{name} is {shown(value)}; expected what it takes ({_first(error)})")
    return None


def _tells(message: str, names: set[str]) -> bool:
    """Tell whether a message is about one of the arguments."""
    return any(re.search(rf"\b{re.escape(name)}\b", message) for name in names)


def _renamed(values: Mapping[str, Any], message: str) -> ValueError | None:
    """Return the message of a function within about the same value, under the name that it has here."""
    name, _, rest = message.partition(" is ")
    if not name.isidentifier() or "; expected" not in rest:
        return None

    def is_about(value: Any) -> bool:
        if not rest.startswith(_BEGINNINGS.get(type(value), "")):
            return False  # without its whole text, which takes long of tensors
        return any(rest.startswith(f"{text}; expected") for text in (shown(value), _represented(value)))

    same = [
        own for own, value in values.items() if value is not None and not isinstance(value, bool) and is_about(value)
    ]
    # A common value, such as (), may be that of any argument: the name in the message is to be one here, or a word.
    if name in same or len(same) != 1:
        return None
    if name not in values and not isinstance(values[same[0]], str) and not _is_extreme(values[same[0]]):
        return None
    return ValueError(f"{same[0]} is {rest}")


_BEGINNINGS: dict[type, str | tuple[str, ...]] = {
    dict: "{",
    list: "[",
    tuple: "(",
    Tensor: ("tensor(", "a tensor "),
    nn.Parameter: ("Parameter ", "a tensor "),
}
"""The beginning of a value's text in a message."""


def _represented(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return ""


def _is_extreme(value: Any) -> bool:
    """Tell whether a number, or one of several, is one that sizes and rates seldom are."""
    if isinstance(value, (tuple, list)):
        return any(map(_is_extreme, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not 0 <= value < 1 << 31


def _holds_no_tensor(value: Any) -> bool:
    """Tell whether a value is surely no pytree of tensors, no number, and nothing to call."""
    if isinstance(value, (dict, list, tuple)):
        parts = value.values() if isinstance(value, dict) else value
        return any(map(_holds_no_tensor, parts))
    return not isinstance(value, (Tensor, numbers.Number)) and (isinstance(value, nn.Module) or not callable(value))


def _first(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:SHOWN]}"
