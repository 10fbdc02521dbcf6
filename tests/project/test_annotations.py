"""A public signature says of each argument what it is: ``Any`` stands for a pytree alone, under the name ``PyTree``."""

import ast
from pathlib import Path

import pytest

import fcbp

ROOT = Path(fcbp.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
SPECIAL = {"__init__", "__call__"}


def public_names(tree: ast.Module) -> set[str] | None:
    """The names in ``__all__``; ``None`` where a module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            return {word.value for word in ast.walk(node.value) if isinstance(word, ast.Constant)}
    return None


def public_functions(tree: ast.Module):
    """Each public function, and each public method of a public class, with its name; implementations of overloads,
    which no type checker shows, left out."""
    public = public_names(tree)
    bodies = [("", [node for node in tree.body if public is None or getattr(node, "name", "") in public])]
    bodies += [(f"{node.name}.", node.body) for node in bodies[0][1] if isinstance(node, ast.ClassDef)]
    for owner, nodes in bodies:
        functions = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        overloaded = {f.name for f in functions if any(getattr(d, "id", "") == "overload" for d in f.decorator_list)}
        for function in functions:
            is_public = not function.name.startswith("_") or function.name in SPECIAL
            is_shown = function.name not in overloaded or bool(function.decorator_list)
            if is_public and is_shown:
                yield f"{owner}{function.name}", function


def bare(source: str) -> list[str]:
    """The arguments and the results of public functions that are annotated with ``Any`` alone."""
    found = []
    for name, function in public_functions(ast.parse(source)):
        a = function.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(one for one in (a.vararg, a.kwarg) if one is not None)]
        annotations = [(one.arg, one.annotation) for one in arguments] + [("the result", function.returns)]
        found += [f"{name}: {what}" for what, kind in annotations if kind is not None and ast.unparse(kind) == "Any"]
    return found


def test_no_public_signature_has_a_bare_any():
    found = {path.relative_to(ROOT).as_posix(): bare(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: places for path, places in found.items() if places} == {}
    assert sum(len(list(public_functions(ast.parse(path.read_text(encoding="utf-8"))))) for path in SOURCES) > 500


@pytest.mark.parametrize(
    ("source", "places"),
    [
        ("def f(a: Any, *b: Any, c: Any = 0, **d: Any) -> Any: ...", ["f: a", "f: c", "f: b", "f: d", "f: the result"]),
        ("def f(a: PyTree, b: list[Any]) -> None: ...", []),
        ("def _f(a: Any): ...", []),
        ("__all__ = ['g']\ndef f(a: Any): ...\ndef g(a: Any): ...", ["g: a"]),
        ("class C:\n    def __init__(self, a: Any): ...\n    def _m(self, a: Any): ...", ["C.__init__: a"]),
        ("class C:\n    @property\n    def m(self) -> Any: ...", ["C.m: the result"]),
        ("@overload\ndef f(a: int) -> int: ...\ndef f(a: Any) -> Any: ...", []),
        ("@overload\ndef f(a: Any) -> int: ...\ndef f(a: Any) -> Any: ...", ["f: a"]),
    ],
)
def test_every_form_of_signature_is_seen(source, places):
    assert bare(source) == places
