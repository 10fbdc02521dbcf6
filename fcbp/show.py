"""Short texts of records, for a prompt and for a notebook: a line a field, shapes in place of numbers.

A NamedTuple takes them by a line above its class, ``@show.by_fields`` or ``@show.by_maker``, and stays the plain tuple
that it is.
"""

from __future__ import annotations

import functools
import html as markup
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["by_fields", "by_maker", "describe", "html", "maker", "text"]

T = TypeVar("T")
LONG = 4
"""Entries of a mapping or a sequence up to which each is named."""
PLAIN = (bool, int, float, str, type(None))


def by_fields(record: type[T]) -> type[T]:
    """Give a class of records :func:`text` and :func:`html`."""
    return _showing(record, text)


def by_maker(record: type[T]) -> type[T]:
    """Give a class of records of functions :func:`maker` and :func:`html`."""
    return _showing(record, maker)


def _showing(record: type[T], written: Callable[[Any], str]) -> type[T]:
    record.__repr__ = written  # type: ignore[method-assign]
    record._repr_html_ = html  # type: ignore[attr-defined]
    return record


def text(record: object) -> str:
    """Return the record's name, and a line for each of its fields.

    Args:
        record: a NamedTuple, or another record that :func:`html` knows.

    Example:
        >>> import torch
        >>> from typing import NamedTuple
        >>> State = NamedTuple("State", [("weight", dict), ("step", torch.Tensor)])
        >>> print(text(State({"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3)}, torch.tensor(1))))
        State
          weight  2 tensors, 9 numbers: 0.weight (3, 2), 0.bias (3,) float32
          step    () int64
    """
    rows = _rows(record)
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([type(record).__name__, *(f"  {name:<{width}}  {words}" for name, words in rows)])


def html(record: object) -> str:
    """Return the same as a table, for notebooks."""
    cells = "".join(
        f'<tr><th style="text-align:left">{markup.escape(name)}</th>'
        f'<td style="text-align:left">{markup.escape(words)}</td></tr>'
        for name, words in _rows(record)
    )
    return f"<table><caption>{markup.escape(type(record).__name__)}</caption>{cells}</table>"


def maker(record: object) -> str:
    """Return a record of functions as the call that made them: the maker's name, and the plain options that they hold.

    Example:
        >>> import fcbp
        >>> fcbp.optim.sgd(0.9)
        Optimizer(sgd, has_momentum=True, momentum=0.9, nesterov=False, weight_decay=0.0)
    """
    functions = _functions(record)
    options = {name: value for f in functions for name, value in _held(f).items() if _is_plain(value)}
    words = [_made_by(functions), *(f"{name}={value!r}" for name, value in sorted(options.items()))]
    return f"{type(record).__name__}({', '.join(words)})"


def describe(value: object) -> str:
    """Return a value in one line: shapes and dtypes of tensors, names of functions, numbers of entries.

    Example:
        >>> import torch
        >>> describe(torch.ones(2, 3)), describe(()), describe([torch.ones(2), torch.ones(2)])
        ('(2, 3) float32', '()', '2 tensors, 4 numbers: (2,), (2,) float32')
        >>> describe(len)
        'len'
    """
    if isinstance(value, Tensor):
        return f"{_shape(value)} {_dtypes([value])}"
    if isinstance(value, nn.Module):
        count = sum(p.numel() for p in value.parameters())
        return f"{type(value).__name__}, {_many(count, 'parameter')}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        if any(callable(field) for field in value):
            return maker(value)
        parts = ", ".join(f"{name}: {_count(field)}" for name, field in zip(value._fields, value, strict=True))
        return f"{type(value).__name__}({parts})"
    if isinstance(value, (Mapping, list, tuple)) and value:
        return _collection(value)
    if callable(value) and not isinstance(value, type):
        return _named(value)
    return repr(value)


def _rows(record: Any) -> list[tuple[str, str]]:
    parts = [part for f in _functions(record) for part in getattr(f, "parts", {}).items()]
    if parts:
        return [(name, value if isinstance(value, str) else describe(value)) for name, value in parts]
    return [(name, describe(value)) for name, value in zip(record._fields, record, strict=True)]


def _collection(value: Mapping[Any, Any] | list[Any] | tuple[Any, ...]) -> str:
    named = value.items() if isinstance(value, Mapping) else [("", entry) for entry in value]
    entries = list(value.values()) if isinstance(value, Mapping) else list(value)
    if not all(isinstance(entry, Tensor) for entry in entries):
        words = [f"{name}: {describe(entry)}" if name else describe(entry) for name, entry in list(named)[:LONG]]
        return f"{', '.join(words)}{_more(entries)}"
    shapes = [f"{name} {_shape(entry)}".strip() for name, entry in list(named)[:LONG]]
    size = sum(entry.numel() for entry in entries)
    head = f"{_many(len(entries), 'tensor')}, {_many(size, 'number')}"
    return f"{head}: {', '.join(shapes)}{_more(entries)} {_dtypes(entries)}"


def _more(entries: list[Any]) -> str:
    return f", and {len(entries) - LONG} more" if len(entries) > LONG else ""


def _count(value: Any) -> str:
    """Return a field within a field."""
    if isinstance(value, Mapping) and all(isinstance(entry, Tensor) for entry in value.values()):
        return f"{_many(len(value), 'tensor')}, {_many(sum(entry.numel() for entry in value.values()), 'number')}"
    return describe(value)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _dtypes(tensors: list[Tensor]) -> str:
    return "/".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))


def _functions(record: Any) -> list[Callable[..., Any]]:
    """Return the functions of a record, and those of this package that they call by closure."""
    own = [inspect.unwrap(field) for field in record if callable(field)]
    inner = [inspect.unwrap(value) for f in own for value in _held(f).values() if inspect.isfunction(value)]
    return list(dict.fromkeys([*own, *(f for f in inner if str(f.__module__).startswith("fcbp."))]))


def _held(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the values that a function closes over, by name."""
    return dict(inspect.getclosurevars(function).nonlocals) if inspect.isfunction(function) else {}


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (
        isinstance(value, tuple) and len(value) <= LONG and all(isinstance(x, PLAIN) for x in value)
    )


def _made_by(functions: list[Callable[..., Any]]) -> str:
    """Return the function in whose body others were written: one that its module is named after, or else a public
    one."""
    makers = [f for f in functions if ".<locals>" in getattr(f, "__qualname__", "")]
    names = [f.__qualname__.split(".<locals>")[0] for f in makers]
    mains = [name for f, name in zip(makers, names, strict=True) if str(f.__module__).endswith(f".{name}")]
    public = [name for name in names if not name.startswith("_")]
    return (mains[-1:] or public or [name.strip("_") for name in names] or [_named(functions[0])])[0]


def _named(function: Callable[..., Any]) -> str:
    """Return a function's name; of one that another function made, the maker's with the plain numbers that it was
    given."""
    function = inspect.unwrap(function)
    if isinstance(function, functools.partial):
        return f"{_named(function.func)}(...)"
    name = getattr(function, "__qualname__", type(function).__name__)
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(_held(function).items()) if _is_plain(value))
    return f"{name.split('.<locals>')[0]}({options})" if options else name.replace(".<locals>", "")
