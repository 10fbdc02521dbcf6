"""Pytree access by path: what optree leaves to its users."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fcbp.checks import arguments
from fcbp.kinds import PyTree

Path = tuple[str | int, ...]

__all__ = ["NoSuchPath", "Path", "get", "replace", "show"]


class NoSuchPath(KeyError, ValueError):
    """A path that a tree does not have: a missing key, and a wrong argument."""

    def __str__(self) -> str:
        return f"path is {self.args[0]!r}; expected one that the tree has"


def child(node: PyTree, entry: str | int) -> PyTree:
    """Return the child of a container under a key, a field's name or a position.

    Raises:
        NoSuchPath: there is none.
    """
    if isinstance(node, Mapping):
        if entry in node:  # asked first: a defaultdict would make an entry
            return node[entry]
    elif isinstance(node, (list, tuple)):
        if isinstance(entry, int) and 0 <= entry < len(node):
            return node[entry]
        if entry in getattr(node, "_fields", ()):
            return getattr(node, str(entry))
    raise NoSuchPath(entry)


@arguments
def get(tree: PyTree, path: Path) -> PyTree:
    """Return the subtree at ``path``: keys of mappings, positions of sequences, fields of named tuples.

    Raises:
        NoSuchPath: there is nothing at ``path``; it is a ``KeyError`` and a ``ValueError``.
    """
    for entry in path:
        try:
            tree = child(tree, entry)
        except KeyError:
            raise NoSuchPath(path) from None
    return tree


@arguments
def replace(tree: PyTree, updates: Mapping[Path, Any]) -> PyTree:
    """``tree`` with ``updates`` in place of its own leaves; containers on the way are new, the rest is shared.

    Raises:
        NoSuchPath: there is nothing at one of the paths.
    """
    for path in updates:
        get(tree, path)
    return _replaced(tree, updates)


def _replaced(tree: Any, updates: Mapping[Path, Any]) -> Any:
    if not updates:
        return tree
    if () in updates:
        return updates[()]
    below: dict[str | int, dict[Path, Any]] = {}
    for path, value in updates.items():
        below.setdefault(path[0], {})[path[1:]] = value
    new = {entry: _replaced(child(tree, entry), rest) for entry, rest in below.items()}
    if isinstance(tree, Mapping):
        out = {**tree, **new}
        if isinstance(tree, defaultdict):
            return type(tree)(tree.default_factory, out)
        return out if type(tree) is dict else type(tree)(out)  # type: ignore[call-arg]
    if hasattr(tree, "_replace"):
        return tree._replace(**{tree._fields[e] if isinstance(e, int) else e: v for e, v in new.items()})
    return type(tree)(new.get(i, old) for i, old in enumerate(tree))


@arguments
def show(path: Path) -> str:
    """``path`` for a message: ``0.weight``, ``layers/0/weight``."""
    return "/".join(map(str, path))
