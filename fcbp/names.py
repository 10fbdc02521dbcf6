"""Look-up by name, with an error that offers near misses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar, get_args

T = TypeVar("T")

__all__ = ["check_option", "lookup", "unknown"]

MANY = 30
"""The number of names above which a message lists near misses alone."""


def unknown(argument: str, value: object, names: Iterable[str]) -> ValueError:
    """Return the error for a ``value`` of ``argument`` none of ``names``; of many names only near misses are
    offered."""
    names = sorted(names)
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    if len(names) > MANY:
        hint = f"; did you mean {_either(near)}?" if near else ""
        return ValueError(f"{argument} is {value!r}, which there is none of{hint}")
    hint = f"; did you mean {_either(near)}?" if near else ""
    return ValueError(f"{argument} is {value!r}; expected one of {', '.join(names)}{hint}")


def _either(names: list[str]) -> str:
    return " or ".join(map(repr, names))


def check_option(argument: str, value: object, options: object) -> None:
    """Refuse a ``value`` of ``argument`` that is none of a ``Literal``'s.

    Raises:
        ValueError: ``value`` is another; the message names ``argument`` and the options.
    """
    names = get_args(options)
    if not isinstance(value, str) or value not in names:
        raise unknown(argument, value, names)


def lookup(argument: str, value: str, table: Mapping[str, T]) -> T:
    """``table[value]``.

    Raises:
        ValueError: ``value`` is not in ``table``; the message names ``argument`` and the near misses.
    """
    if not isinstance(value, str) or value not in table:
        raise unknown(argument, value, table)
    return table[value]
