"""Every function that users call says what it does, takes and raises: the count of those that lack it is 0."""

import ast
import importlib
import inspect
import pkgutil
import textwrap

import fcbp

MODULES = [
    fcbp,
    *(
        importlib.import_module(f"fcbp.{module.name}")
        for module in pkgutil.iter_modules(fcbp.__path__)
        if module.name in fcbp.__all__
    ),
]


def public_functions():
    """The functions of the public modules and the methods of their classes, by name."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            try:
                thing = getattr(module, name)
            except ImportError:  # it belongs to an extra that is not installed
                continue
            if inspect.isfunction(thing):
                found[f"{module.__name__}.{name}"] = thing
            elif inspect.isclass(thing) and thing.__module__.startswith("fcbp"):
                for method, member in vars(thing).items():
                    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
                    is_own = getattr(function, "__qualname__", "").startswith(f"{thing.__name__}.")
                    if is_own and inspect.isfunction(function) and not method.startswith("_"):
                        found[f"{module.__name__}.{name}.{method}"] = function
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
    """Names of functions without a docstring, of those with many parameters without ``Args``, and of those that raise
    without ``Raises``."""
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
    return found


def test_no_public_function_lacks_any():
    assert lacking(public_functions()) == {"docstring": [], "Args": [], "Raises": []}


def test_the_count_sees_what_is_lacking():
    def silent(a): ...

    def many(a, b, c, d):
        """Does it."""

    def stops(a):
        """Stops."""
        raise ValueError(a)

    found = lacking({"silent": silent, "many": many, "stops": stops})
    assert found == {"docstring": ["silent"], "Args": ["many"], "Raises": ["stops"]}
    assert len(public_functions()) > 150
