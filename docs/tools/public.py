"""The public names of fcbp, by the page of the site that describes them."""

from __future__ import annotations

import functools
import types

import fcbp

__all__ = ["identifiers", "modules", "symbols"]


@functools.cache
def modules() -> tuple[str, ...]:
    """The public modules: fcbp itself, those in its ``__all__``, and the packages that its functions come from."""
    named = {f"fcbp.{name}" for name in fcbp.__all__ if isinstance(getattr(fcbp, name), types.ModuleType)}
    return ("fcbp", *sorted(named | {"fcbp.cbp", "fcbp.sweeps", "fcbp.program"}))


@functools.cache
def symbols(module: str) -> tuple[str, ...]:
    """The names in a module's ``__all__`` that are no modules of a page of their own."""
    loaded = functools.reduce(getattr, module.split(".")[1:], fcbp)
    # Names that are loaded when they are asked for may need an extra, and are no modules.
    return tuple(name for name in loaded.__all__ if not isinstance(vars(loaded).get(name), types.ModuleType))


@functools.cache
def identifiers() -> frozenset[str]:
    """All that an API page has an anchor for."""
    return frozenset(modules()) | {f"{module}.{name}" for module in modules() for name in symbols(module)}
