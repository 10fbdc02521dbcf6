"""Who may import whom, in the whole and inside each package, and that importing costs little."""

import ast
import graphlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcbp

ROOT = Path(fcbp.__file__).parent

# A module imports only from lower layers and from its own; a package is one module here.
LAYERS = [
    {"checks", "kinds", "paths", "random", "tree", "names", "concrete", "rare"}
    | {"designs", "addresses", "show", "version"},
    {"units", "utility", "initializers", "losses", "data", "envs"},
    {"cbp", "weights", "optim", "methods", "metrics"},
    {"learner", "nets", "streams", "program", "stateful"},
    {"loop", "lanes"},
    {"agents"},
    {"rehearsal", "experiment", "sweep", "sweeps"},
    {"analysis"},
    {"plots", "tuning", "export"},
    {"bench", "cli"},
    {"__main__"},
]
# The same inside of packages: here a module imports only from lower layers.
INSIDE = {
    "units": [
        {"entries", "group", "expose", "copies", "reads"},
        {"checks", "features", "marks"},
        {"ledger", "meeting"},
        {"calls", "transfer"},
        {"search", "zeros"},
        {"elementwise"},
        {"movement", "products"},
        {"layers"},
        {"rules"},
        {"trace"},
        {"find"},
        {"explain"},
        {"__init__"},
    ],
}
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in modules}
SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def module_of(path: Path) -> str:
    """``random`` for ``fcbp/random.py``, ``units`` for ``fcbp/units/group.py``."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(source: str, package: list[str]) -> set[str]:
    """The modules of fcbp that a source imports, wherever in it; ``package`` is where relative imports start."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            parts = parts + (node.module.split(".") if node.module else [])
            base = ".".join(parts)
            # From the package itself come modules by name; from a module come its contents.
            dotted = [f"fcbp.{alias.name}" for alias in node.names] if base == "fcbp" else [base]
        else:
            continue
        for name in dotted:
            first, *rest = name.split(".")
            if first == "fcbp":
                names.add(rest[0] if rest else "fcbp")
    return names


def violations(module: str, imports: set[str]) -> set[str]:
    return {other for other in imports if other not in LAYER or LAYER[other] > LAYER[module]}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    module = module_of(path)
    assert module in LAYER, f"{module} has no layer; add it to LAYERS"
    package = ["fcbp", *path.relative_to(ROOT).parent.parts]
    bad = violations(module, imported(path.read_text(), package))
    assert not bad, f"{module} is of layer {LAYER[module]} and imports {sorted(bad)}"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import fcbp.cbp", {"cbp"}),
        ("import fcbp", {"fcbp"}),
        ("from fcbp import random, tree", {"random", "tree"}),
        ("from fcbp import __version__", {"__version__"}),
        ("from fcbp.units.group import Slice", {"units"}),
        ("from . import features", {"units"}),
        ("from .group import Slice", {"units"}),
        ("from ..cbp import init_state", {"cbp"}),
        ("from .. import cbp", {"cbp"}),
        ("def f():\n    from fcbp import cli", {"cli"}),
        ("import torch\nfrom torch import nn", set()),
    ],
)
def test_every_form_of_import_is_seen(source, names):
    assert imported(source, ["fcbp", "units"]) == names


def test_an_import_upwards_is_seen():
    assert violations("units", {"random", "units", "utility"}) == set()
    assert violations("units", {"cbp", "fcbp"}) == {"cbp", "fcbp"}


def name_of(path: Path) -> str:
    """``fcbp.random`` for ``fcbp/random.py``, ``fcbp.units`` for ``fcbp/units/__init__.py``."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files_imported(source: str, package: list[str], names: set[str]) -> set[str]:
    """Those of the files ``names`` that a source imports, wherever in it, under ``TYPE_CHECKING`` and in functions too.

    ``from fcbp.units import group`` imports ``fcbp.units.group``, ``from fcbp.units import UnitGroup`` the package.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(parts + (node.module.split(".") if node.module else []))
            dotted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            while name and name not in names:
                name = name.rpartition(".")[0]
            found |= {name} - {""}
    return found


def file_imports() -> dict[str, set[str]]:
    """What each file of fcbp imports from others, by name."""
    files = {name_of(path): path for path in ROOT.rglob("*.py")}
    return {
        name: files_imported(path.read_text(), [*path.relative_to(ROOT.parent).parent.parts], set(files))
        for name, path in files.items()
    }


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the last the first; none where there are no circles."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return []


def test_no_modules_import_each_other_in_a_circle():
    imports = file_imports()
    assert len(imports) > 150
    assert circle(imports) == []


def test_no_packages_import_each_other_in_a_circle():
    packages: dict[str, set[str]] = {}
    for name, others in file_imports().items():
        package, *others = [".".join(other.split(".")[:2]) for other in (name, *sorted(others))]
        packages.setdefault(package, set()).update(set(others) - {package})
    assert circle(packages) == []


@pytest.mark.parametrize("package", INSIDE)
def test_imports_inside_a_package_go_down(package):
    layers = {module: number for number, modules in enumerate(INSIDE[package]) for module in modules}
    assert set(layers) == {path.stem for path in (ROOT / package).glob("*.py")}
    for path in (ROOT / package).glob("*.py"):
        names = {f"fcbp.{package}": "__init__"} | {f"fcbp.{package}.{module}": module for module in layers}
        for other in files_imported(path.read_text(), ["fcbp", package], set(names)):
            assert layers[names[other]] < layers[path.stem], f"{path.stem} imports {names[other]}"


def test_circles_are_seen_inside_of_packages_under_type_checking_and_in_functions():
    names = {"fcbp", "fcbp.units", "fcbp.units.a", "fcbp.units.b"}
    sources = {
        "fcbp.units.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fcbp.units.b import B",
        "fcbp.units.b": "def f():\n    from . import a",
        "fcbp.units": "from fcbp.units.b import B",
    }
    imports = {name: files_imported(source, ["fcbp", "units"], names) for name, source in sources.items()}
    assert imports == {
        "fcbp.units.a": {"fcbp.units.b"}, "fcbp.units.b": {"fcbp.units.a"}, "fcbp.units": {"fcbp.units.b"},
    }  # fmt: skip
    assert set(circle(imports)) == {"fcbp.units.a", "fcbp.units.b"}
    assert circle({**imports, "fcbp.units.b": set()}) == []
    # A module that imports from its own package imports whatever the package puts together.
    assert files_imported("from fcbp.units import B", ["fcbp", "units"], names) == {"fcbp.units"}


EXTRAS = ["xarray", "zarr", "matplotlib", "tyro", "tqdm", "pandas", "scipy", "ipywidgets", "IPython"]
PROBE = f"""
import time, torch, sys
before = set(sys.modules)
start = time.process_time()
import fcbp
print(time.process_time() - start, *[name for name in {EXTRAS} if name in sys.modules and name not in before])
"""


def probe() -> tuple[float, list[str]]:
    # As on anybody's machine: the bytecode is kept from the first import on.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=environment)
    seconds, *extras = run.stdout.split()
    return float(seconds), extras


@pytest.mark.slow
def test_importing_is_quick_and_needs_no_extra():
    seconds, extras = probe()
    assert extras == []
    # The processor's time, and the least of several: other processes can only make it slower.
    for _ in range(5):
        if seconds > 0.3:
            seconds = min(seconds, probe()[0])
    assert seconds <= 0.3
