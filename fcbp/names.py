"""Looking a thing up by name, with an error that knows what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

__all__ = ["lookup", "unknown"]


def unknown(argument: str, value: object, names: Iterable[str]) -> ValueError:
    """The error for a ``value`` of ``argument`` that is none of ``names``; near misses come first."""
    names = sorted(names)
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return ValueError(f"{argument} is {value!r}; expected one of {', '.join(names)}{hint}")


def lookup(argument: str, value: str, table: Mapping[str, T]) -> T:
    """``table[value]``.

    Raises:
        ValueError: ``value`` is not in ``table``; the message names ``argument`` and the near misses.
    """
    if value not in table:
        raise unknown(argument, value, table)
    return table[value]
