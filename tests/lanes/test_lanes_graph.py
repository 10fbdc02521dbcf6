"""The passes over a graph of nodes: their names, and that each walks a shared value once."""

import ast
import importlib
import re
from pathlib import Path

import optree
import pytest
import torch

from fcbp import lanes
from fcbp.lanes import reads
from fcbp.lanes.emit import emit, prelude
from fcbp.lanes.functions import Function
from fcbp.lanes.ir import Map
from fcbp.lanes.operations import OPERATIONS

FOLDER = Path(lanes.__file__).parent
CHAIN = 60
MODULES = [importlib.import_module(f"fcbp.lanes.{path.stem}") for path in sorted(FOLDER.glob("*.py"))]
WALKS = ("base", "is_map", "is_choice", "linear", "substitute", "literal", "_range", "_implied", "_position")
"""Functions that passes call for a node, or for an element of one."""


def drafted(step, carry):
    leaves, spec = optree.tree_flatten(carry)
    return lanes.draft(step, leaves, spec, (), lambda *_: None)


@pytest.mark.parametrize("elements", ["vectors", "threads"])
@pytest.mark.parametrize("function", sorted(set(Function) - {Function.ARGMIN, Function.ARGMAX}))
def test_every_function_is_defined_in_cpp(function, elements):
    name = "to_F" if function is Function.CAST else str(function)
    assert re.search(rf"\b{name}\b", prelude(elements))


def test_a_program_calls_the_function_of_the_table():
    found = drafted(lambda x, _: (x.atan2(x + 1), x.sum()), torch.ones(3))
    functions = {node.function for node in found.plan.needed if isinstance(node, Map)}
    assert Function.ATAN2 in functions
    assert "v_atan2(" in found.source.removeprefix(prelude("vectors"))


def test_every_operation_is_found_by_its_name():
    sources = [(FOLDER / f"{name}.py").read_text() for name in ("pointwise", "shapes", "reductions", "indexing")]
    assert len(OPERATIONS) > 100
    for name in OPERATIONS:
        assert sum(f'"{name}"' in source for source in sources) >= 1, name


def imports_of(path):
    """The modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("fcbp.lanes"):
            inner = node.module.removeprefix("fcbp.lanes").lstrip(".")
            found |= {inner} if inner else {alias.name for alias in node.names}
    return found


def test_no_modules_of_lanes_import_each_other_in_a_circle():
    waiting = {path.stem: imports_of(path) for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    assert "ir" in waiting["planner"]
    while free := [name for name, imports in waiting.items() if not imports & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert waiting == {}


def doubled(x):
    """A chain in which each value is read twice, by a product and through a view."""
    y = x
    for _ in range(CHAIN):
        y = y * y + y.flip(0)
    return x + (y[:, None] * x).sum(1)


def polynomial(x):
    """A chain without views: of integers it has no array, and is computed where its end is."""
    for _ in range(CHAIN):
        x = x * x + x
    return x


def chosen(x):
    """A chain of masks, each made of two readings of the one before."""
    mask = x > 0
    for _ in range(CHAIN):
        mask = mask & mask.flip(0)
    return torch.where(mask, x * x + x.flip(0), x)


def picked(x):
    """A chain whose element at a computed index is computed where it is read."""
    index = x.argmax().reshape(1)
    y = torch.arange(len(x)) * x.sum()
    for _ in range(CHAIN):
        y = y * y + y.flip(0)
    return x + y.gather(0, index)


def bounded(x):
    """A chain of integers whose range decides whether an index is checked."""
    index = x.argmin().expand(4)
    for _ in range(CHAIN):
        index = torch.maximum(index, index.flip(0)) + index.flip(0)
    return x + x.gather(0, index)


@pytest.mark.parametrize(
    ("chain", "dtype"),
    [
        (doubled, torch.float32),
        (doubled, torch.int32),
        (polynomial, torch.int32),
        (chosen, torch.float32),
        (picked, torch.int64),
        (bounded, torch.float32),
    ],
)
def test_passes_visit_a_value_that_is_read_twice_once(chain, dtype, monkeypatch):
    calls = 0

    def counted(function):
        def count(*args):
            nonlocal calls
            calls += 1
            assert calls < 200 * CHAIN**2, f"{function.__name__} is called for each path of the graph"
            return function(*args)

        return count

    for module in MODULES:
        # Every walk over nodes asks for their kinds.
        monkeypatch.setattr(module, "isinstance", counted(isinstance), raising=False)
        for name in WALKS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counted(getattr(module, name)))
    found = drafted(lambda x, _: (chain(x), ()), torch.ones(4, dtype=dtype))
    emit(found.traced.lowered, "threads")
    assert len(reads.dependencies(found.traced.lowered.results)) > CHAIN
    assert calls > CHAIN
