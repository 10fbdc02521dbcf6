"""Functions that make streams of tasks: their own settings, and the common ones."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from fcbp.checks import arguments
from fcbp.names import unknown
from fcbp.streams.base import Stream
from fcbp.streams.tasks.engine import Common, Kind, make
from fcbp.streams.tasks.examples import to_dataset

__all__ = ["builder"]

FIELDS = {field.name: field.type for field in fields(Common)}


def builder(**defaults: object) -> Callable[[Callable[..., Kind]], Callable[..., Stream]]:
    """Make a decorator that turns a function ``(data, **settings) -> Kind`` into one that returns a stream.

    The function made has the settings of :class:`~fcbp.streams.tasks.engine.Common` too, which its signature and its
    documentation show.

    Args:
        **defaults: defaults of these settings that differ from ``Common``'s.
    """
    given_defaults: dict[str, Any] = defaults
    base = Common(**given_defaults)

    def decorate(kind: Callable[..., Kind]) -> Callable[..., Stream]:
        own = inspect.signature(kind)
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=getattr(base, name), annotation=kind)
            for name, kind in FIELDS.items()
        ]
        names = [name for name in own.parameters if name not in ("data", "common")]

        @functools.wraps(kind)
        def build(data: Any, **settings: Any) -> Stream:
            for name in settings:
                if name not in names and name not in FIELDS:
                    raise unknown("setting", name, (*names, *FIELDS))
            given = {name: settings.pop(name) for name in FIELDS if name in settings}
            # A length that is given takes the place of a default of the other kind.
            other = {"epochs": "task_length", "task_length": "epochs"}
            kept = {name: value for name, value in defaults.items() if given.get(other.get(name, "")) is None}
            common = Common(**{**kept, **given})
            return make(kind(to_dataset(data), common, **settings), common)

        # A data set, or arrays, which ``to_dataset`` checks.
        kept = [p.replace(annotation=Any) if n == "data" else p for n, p in own.parameters.items() if n != "common"]
        build.__signature__ = own.replace(parameters=[*kept, *shared], return_annotation="Stream")  # type: ignore[attr-defined]
        build.__annotations__ = {**build.__annotations__, "data": Any}
        build.__doc__ = _documented(kind.__doc__ or "", defaults)
        return arguments(build)

    return decorate


def _documented(doc: str, defaults: dict[str, Any]) -> str:
    """Return the function's documentation with the settings that all have, after its own."""
    text = inspect.getdoc(Common) or ""
    shared = text.partition("Args:\n")[2].rstrip()
    before, _, after = doc.partition("\n    Returns:")
    indented = "\n".join(f"    {line}" if line else line for line in shared.splitlines())
    set_here = "".join(f" ``{name}`` is {value!r}." for name, value in defaults.items())
    note = f"    Defaults of the last, where they differ from those of other tasks:{set_here}\n\n" if defaults else ""
    return f"{before.rstrip()}\n{indented}\n\n{note}    Returns:{after}"
