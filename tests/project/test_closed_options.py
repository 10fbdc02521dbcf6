"""Every closed option is annotated with its ``Literal``, wherever an argument or a field has its name."""

import ast
from pathlib import Path

import fcbp

SOURCE = Path(fcbp.__file__).parent
CHECKS = ("check_option", "unknown")
# Words of the command line are strings: the functions that they are handed to refuse them by name.
LEFT_OUT = ("lanes", "units", "cli")


def checked_options(tree):
    """The name of each option that a function compares with a closed set, and the function.

    That is the string that ``check_option`` is given first; of ``unknown`` where the names are written there.
    """
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in CHECKS:
                    name, value, options = [*call.args, None, None, None][:3]
                    is_closed = call.func.id == "check_option" or is_written(options)
                    if isinstance(name, ast.Constant) and is_closed:
                        yield name.value, value, function


def is_written(options):
    """Whether the names that ``unknown`` is given are closed: a display of strings, or a ``Literal``'s arguments."""
    if isinstance(options, (ast.Tuple, ast.List, ast.Set)):
        return all(isinstance(name, ast.Constant) for name in options.elts)
    return isinstance(options, ast.Call) and ast.unparse(options.func) == "get_args"


def parameters(function):
    """The arguments of a function and their annotations as text."""
    known = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    return {one.arg: ast.unparse(one.annotation) for one in known if one.annotation is not None}


def is_plain(annotation):
    """Whether an annotation says ``str`` for an option, alone or beside others."""
    return "str" in annotation.replace("'", "").replace('"', "").split(" | ")


def plain_options(sources):
    """``file: function(option: annotation)`` of each closed option that is annotated as any string."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    closed = {option for tree in trees.values() for option, _, _ in checked_options(tree)}
    found = set()
    for name, tree in trees.items():
        # Where the option is checked, whatever its name is there.
        for option, value, function in checked_options(tree):
            names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)} if value is not None else set()
            for argument, annotation in parameters(function).items():
                if argument in {option, *names} and is_plain(annotation):
                    found.add(f"{name}: {function.name}({argument}: {annotation})")
        # And where an argument or a field of its name is handed on.
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                given = {k: v for k, v in parameters(node).items() if k in closed}
                found |= {f"{name}: {node.name}({k}: {v})" for k, v in given.items() if is_plain(v)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in closed:
                annotation = ast.unparse(node.annotation)
                found |= {f"{name}: {node.target.id}: {annotation}"} if is_plain(annotation) else set()
    return sorted(found)


def own_sources():
    files = (path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] not in LEFT_OUT)
    return {str(path.relative_to(SOURCE)): path.read_text() for path in files}


def test_every_closed_option_is_a_literal():
    assert plain_options(own_sources()) == []


def test_the_search_finds_an_option_that_is_any_string():
    checks = {
        "a.py": "def f(rounding: str): check_option('rounding', rounding, Rounding)",
        "b.py": "def f(name: str | None): check_option('policy', name, Policy)",
        "c.py": "def f(norm: str): raise unknown('norm', norm, ('layer',))",
    }
    handed_on = {"d.py": "def f(rounding: str = 'a'): g(rounding)", "e.py": "class A:\n    norm: 'str | None' = None"}
    good = {"g.py": "def f(rounding: Rounding, activation: str): raise unknown('activation', activation, TABLE)"}
    assert plain_options(checks | handed_on | good) == [
        "a.py: f(rounding: str)",
        "b.py: f(name: str | None)",
        "c.py: f(norm: str)",
        "d.py: f(rounding: str)",
        "e.py: norm: 'str | None'",
    ]
