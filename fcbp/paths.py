"""Paths that a user gives: expanded once, at the border."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["expanded"]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expanded(name: str, path: str | os.PathLike[str]) -> Path:
    """Return a path on this machine, ``~`` expanded.

    Args:
        name: the argument's name.
        path: its value, a string or a path.

    Raises:
        ValueError: it is no path, or names a place that is not on this machine.
    """
    expected = "expected a path on this machine, such as 'runs/rates'"
    try:
        text = os.fspath(path)
    except TypeError:
        raise ValueError(f"{name} is {path!r}; {expected}") from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{name} is {path!r}; {expected}")
    if URL.match(text):
        raise ValueError(f"{name} is {str(path)!r}, which is a URL; {expected}: copy the finished run to where it goes")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} is {text!r}: {error}; {expected}") from None
