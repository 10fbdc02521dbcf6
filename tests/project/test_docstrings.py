"""Every function that users call says what it does, takes and raises: the count of those that lack it is 0."""

import ast
import contextlib
import importlib
import inspect
import itertools
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import fcbp

MODULES = [
    fcbp,
    *(
        importlib.import_module(f"fcbp.{module.name}")
        for module in pkgutil.iter_modules(fcbp.__path__)
        if module.name in fcbp.__all__
    ),
]


def public_things():
    """The contents of the public modules, by name."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            with contextlib.suppress(ImportError):  # it belongs to an extra that is not installed
                found[f"{module.__name__}.{name}"] = getattr(module, name)
    return found


def public_functions():
    """The functions of the public modules and the methods of their classes, by name."""
    found = {}
    for name, thing in public_things().items():
        if inspect.isfunction(thing):
            found[name] = thing
        elif inspect.isclass(thing) and thing.__module__.startswith("fcbp"):
            for method, member in vars(thing).items():
                function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                is_own = getattr(function, "__qualname__", "").startswith(f"{thing.__name__}.")
                if is_own and inspect.isfunction(function) and not method.startswith("_"):
                    found[f"{name}.{method}"] = function
    return {name: function for name, function in found.items() if function.__module__.startswith("fcbp")}


def raises(function) -> bool:
    """Whether the function's own body raises, its inner functions left out."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body
    waiting = list(ast.iter_child_nodes(node))
    while waiting:
        child = waiting.pop()
        if isinstance(child, ast.Raise) and child.exc is not None:
            return True
        if not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(child)
    return False


def lacking(functions, *, at_least=4):
    """Names of functions without a docstring; of those with many parameters without ``Args``, or with ``Args`` that
    leave one out; and of those that raise without ``Raises``."""
    found = {"docstring": [], "Args": [], "Raises": []}
    for name, function in functions.items():
        text = inspect.getdoc(function) or ""
        parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
        # Methods of a framework's classes, which documents them: a module of torch, callbacks of trainers.
        overridden = function.__name__ == "forward" or function.__name__.startswith("on_")
        if not text and not overridden:
            found["docstring"].append(name)
        if text and not overridden and len(parameters) >= at_least and "Args:" not in text:
            found["Args"].append(name)
        if text and raises(function) and "Raises:" not in text:
            found["Raises"].append(name)
        section = text.partition("Args:\n")[2].partition("\n\n")[0]
        named = set(re.findall(r"^ +\*{0,2}(\w+):", section, flags=re.MULTILINE))
        found["Args"] += [f"{name}: {one}" for one in parameters if section and one not in named and one != "_"]
    return found


def test_no_public_function_lacks_any():
    assert lacking(public_functions()) == {"docstring": [], "Args": [], "Raises": []}


NO_SUBJECT = {"What", "How", "Of", "That", "Those", "Which", "Who", "Whose", "It", "Why"}
"""Words with which no docstring begins: its subject is not said."""
NO_VERB = {"The", "A", "An", "Whether", "Where", "When", "For", "From", "By", "As", "At", "Their", "One", "All", "Some"}
"""Further words with which no docstring of a function begins: a function does something."""


def beginnings(source: str) -> Iterator[tuple[str, str, bool]]:
    """The first word of each docstring, and of each string under a name, with its place; and whether a function has it.

    A property is a thing, and so is a stream, whose function the command describes by its first sentence.
    """
    for node in ast.walk(ast.parse(source)):
        for before, text in itertools.pairwise([None, *getattr(node, "body", [])] if has_body(node) else []):
            if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
                continue
            if isinstance(text.value.value, str) and (
                before is None or isinstance(before, (ast.Assign, ast.AnnAssign))
            ):
                yield f"line {text.lineno}", text.value.value.split()[0].rstrip(",.:;"), before is None and acts(node)


def has_body(node: ast.AST) -> bool:
    return isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))


def acts(node: ast.AST) -> bool:
    """Whether a node is a function, no property, and no maker of a stream."""
    if not isinstance(node, ast.FunctionDef):
        return False
    is_property = any(ast.unparse(one).endswith(("property", "setter")) for one in node.decorator_list)
    return not is_property and (node.returns is None or ast.unparse(node.returns) not in ("Stream", "Kind"))


def without_subject(source: str) -> list[str]:
    return [
        f"{place}: {word}"
        for place, word, is_function in beginnings(source)
        if word in NO_SUBJECT or (is_function and word in NO_VERB)
    ]


def test_every_docstring_begins_with_its_subject_and_a_function_with_its_verb():
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(Path(fcbp.__file__).parent.rglob("*.py"))}
    found = {str(path): without_subject(source) for path, source in sources.items()}
    assert {name: places for name, places in found.items() if places} == {}
    assert sum(len(list(beginnings(source))) for source in sources.values()) > 2000


def test_a_docstring_without_a_subject_is_seen():
    fields = '"""What it is."""\nX = 1\n"""Of it."""\n'
    functions = 'def f():\n    """The f."""\n@property\ndef g():\n    """The g."""\n'
    assert without_subject(fields + functions) == ["line 1: What", "line 3: Of", "line 5: The"]
    assert without_subject('def f() -> Stream:\n    """A stream."""\ndef g():\n    """Make it."""') == []


def test_the_count_sees_what_is_lacking():
    def silent(a): ...

    def many(a, b, c, d):
        """Does it."""

    def stops(a):
        """Stops."""
        raise ValueError(a)

    def half(a, b):
        """Do it.

        Args:
            a: a number.
        """

    found = lacking({"silent": silent, "many": many, "stops": stops, "half": half})
    assert found == {"docstring": ["silent"], "Args": ["many", "half: b"], "Raises": ["stops"]}
    assert len(public_functions()) > 150


def public_classes():
    """The classes of the public modules, by name."""
    return {
        name: one for name, one in public_things().items() if inspect.isclass(one) and one.__module__.startswith("fcbp")
    }


def undescribed(classes):
    """Classes without a docstring, and arguments of their own constructors that the docstring leaves out."""
    found = []
    for name, kind in classes.items():
        text = inspect.cleandoc(vars(kind).get("__doc__") or "")
        made = "__init__" in vars(kind) and not hasattr(kind, "__dataclass_fields__")
        arguments = [one for one in inspect.signature(kind.__init__).parameters if one != "self"] if made else []
        named = set(re.findall(r"^ +\*{0,2}(\w+):", text.partition("Args:\n")[2], flags=re.MULTILINE))
        found += [name] * (not text) + [f"{name}: {one}" for one in arguments if one not in named]
    return found


def test_every_public_class_is_described_with_the_arguments_that_make_it():
    assert undescribed(public_classes()) == []
    assert len(public_classes()) > 60


def test_an_argument_that_is_left_out_of_a_class_is_seen():
    class Silent:
        pass

    class Half:
        """Half.

        Args:
            a: a number.
        """

        def __init__(self, a, b): ...

    assert undescribed({"Silent": Silent, "Half": Half}) == ["Silent", "Half: b"]
