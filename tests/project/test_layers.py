"""Who may import whom, and that importing costs little."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcbp

ROOT = Path(fcbp.__file__).parent

# A module imports only from lower layers and from its own; a package is one module here.
LAYERS = [
    {"checks", "kinds", "paths", "random", "tree", "names", "concrete", "designs", "addresses", "show", "version"},
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


def test_importing_is_quick_and_needs_no_extra():
    seconds, extras = probe()
    assert extras == []
    # The processor's time, and the least of several: other processes can only make it slower.
    for _ in range(5):
        if seconds > 0.3:
            seconds = min(seconds, probe()[0])
    assert seconds <= 0.3
