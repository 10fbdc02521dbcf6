"""``fcbp info`` and ``fcbp completion``: the installation, and the shell that the command is typed into."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fcbp import data
from fcbp.cli.words import as_json
from fcbp.data.cache import folder_for
from fcbp.lanes.build import COMPILERS, cache_folder
from fcbp.version import __version__

__all__ = ["Completion", "Info", "information"]

CORE = ("torch", "optree", "numpy", "jaxtyping", "filelock")
EXTRAS = {
    "xarray": "sweep",
    "zarr": "sweep",
    "matplotlib": "plot",
    "tyro": "cli",
    "ipywidgets": "notebook",
    "tensorboardX": "tensorboard",
    "ray": "ray",
}
"""Packages, each with the extra that brings it."""


@dataclass
class Info:
    """Tell the versions, the compiler, the devices, the caches and the data sets that are there."""

    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        found = information()
        print(as_json(found) if self.json else "\n".join(_lines(found)))
        return 0


def information() -> dict[str, Any]:
    """Describe an installation, for the report of a fault."""
    root = data.default_root()
    kept = {"programs": cache_folder(), "data": folder_for(root)}
    return {
        "versions": {"fcbp": __version__, "python": platform.python_version(), **_versions()},
        "system": platform.platform(),
        "compiler": _compiler(),
        "devices": _devices(),
        "caches": {name: {"path": str(path), "bytes": _size(path)} for name, path in kept.items()},
        "data": {"path": str(root), "found": [name for name in data.names() if data.about(name)["there"] == "yes"]},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in (*CORE, *EXTRAS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = f"not installed; pip install 'fcbp[{EXTRAS[name]}]'" if name in EXTRAS else "not installed"
    return found


def _compiler() -> str:
    """Return the first compiler that is there, and its version."""
    path = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if path is None:
        return f"none; looked for {' and '.join(COMPILERS)}"
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path}, which does not answer: {error}"
    return f"{path}: {(answer.splitlines() or [''])[0]}"


def _devices() -> list[str]:
    cpu = f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    cuda = [f"cuda:{i}: {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return [cpu, *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _size(path: Path) -> int:
    """Return bytes of the files under a folder; those that cannot be read count nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:
                continue
    return total


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for name, version in found["versions"].items():
        yield f"{name:13} {version}"
    yield f"{'system':13} {found['system']}"
    yield f"{'compiler':13} {found['compiler']}"
    for device in found["devices"]:
        yield f"{'device':13} {device}"
    for name, cache in found["caches"].items():
        yield f"{f'{name} cache':13} {cache['path']}, {cache['bytes'] / 1e6:,.1f} MB"
    yield f"{'data sets':13} {' '.join(found['data']['found'])}; others would lie in {found['data']['path']}"


@dataclass
class Completion:
    """Print a script that completes commands and flags when Tab is pressed, for bash or zsh."""

    shell: Literal["bash", "zsh"]
    """For bash: `fcbp completion bash > ~/.local/share/bash-completion/completions/fcbp`.
    For zsh: `fcbp completion zsh > ~/.zfunc/_fcbp`, with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc."""
