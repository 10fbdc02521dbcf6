"""Roles of docstrings, such as ``:func:`scan```, as links to the pages of the API."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))

import public

__all__ = ["Roles", "linked"]

ROLE = re.compile(r":(?:func|class|mod|data|attr|meth|obj|exc):`~?([^`]+)`")
SESSION = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
LITERAL_BLOCK = re.compile(r"::\n\n(?= {4})")


def linked(text: str, module: str) -> str:
    """A docstring with each role as a link, or as code where no page has the name.

    Args:
        text: the docstring.
        module: the module that the docstring stands in, where a short name is looked for first.
    """

    def link(match: re.Match[str]) -> str:
        name = match[1].removesuffix("()")
        parts = module.split(".")
        places = [".".join([*parts[:depth], name]) for depth in range(len(parts), 0, -1)]
        alike = [full for full in public.identifiers() if full.endswith(f".{name}")]
        found = [full for full in (name, *places, *sorted(alike, key=len)) if full in public.identifiers()]
        return f"[`{name}`][{found[0]}]" if found else f"`{name}`"

    text = SESSION.sub(lambda session: f"```pycon\n{session[0].rstrip()}\n```\n", ROLE.sub(link, text))
    # griffe knows the section by its plural alone.
    return LITERAL_BLOCK.sub(":\n\n", EXAMPLE.sub("Examples:", text))


class Roles(griffe.Extension):
    """The extension that mkdocstrings loads."""

    def on_instance(self, *, node: Any, obj: griffe.Object, **_: Any) -> None:
        """Replace the roles of one object's docstring."""
        self._mend(obj)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Replace the roles of an attribute's docstring."""
        self._mend(attr)

    def _mend(self, obj: griffe.Object) -> None:
        if obj.docstring and obj.module:
            obj.docstring.value = linked(obj.docstring.value, obj.module.path)
