"""Files and functions stay short: code alone counts, without docstrings, comments and blank lines."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import fcbp

ROOT = Path(fcbp.__file__).parent
FILE_LINES = 400
FUNCTION_LINES = 60

LONGER: dict[str, str] = {}
"""Exceptions, each with its reason."""


def docstrings(tree: ast.AST) -> set[int]:
    """The lines of all docstrings, and of the strings under fields."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


@functools.cache
def sizes() -> list[tuple[str, int, int]]:
    return list(measured())


def measured() -> Iterator[tuple[str, int, int]]:
    """Each file and each function, by name: its lines of code and their limit."""
    for path in sorted(ROOT.rglob("*.py")):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        told = docstrings(tree)
        code = {
            number
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.strip().startswith("#") and number not in told
        }
        yield name, len(code), FILE_LINES
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                own = len(code.intersection(range(node.lineno, (node.end_lineno or 0) + 1)))
                yield f"{name}:{node.name}", own, FUNCTION_LINES


def test_no_file_and_no_function_is_long():
    found = sizes()
    assert len(found) > 1000
    assert {name: lines for name, lines, limit in found if lines > limit and name not in LONGER} == {}


def test_the_exceptions_are_needed():
    long = {name for name, lines, limit in sizes() if lines > limit}
    assert set(LONGER) <= long
