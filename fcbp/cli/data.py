"""The commands for data sets: ``data ls``, ``data fetch``, ``data check``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcbp import analysis, data
from fcbp.cli.words import as_json

__all__ = ["DATA_COMMANDS"]


@dataclass
class List:
    """List the data sets that have a name, and which of them are there."""

    root: Path | None = None
    """folder of data; by default FCBP_DATA, or ~/.cache/fcbp/data"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        rows = [data.about(name, self.root) for name in data.names()]
        root = data.default_root() if self.root is None else self.root
        if self.json:
            print(as_json({"root": root, "data": rows}))
            return 0
        print(f"data sets in {root}")
        print(analysis.columns({key: [row[key] for row in rows] for key in rows[0]}, left=True))
        return 0


@dataclass
class Fetch:
    """Download a data set; a download that was interrupted goes on where it ended."""

    name: str
    """data set, such as `fcbp data ls` prints"""
    root: Path | None = None
    """folder of data; by default FCBP_DATA, or ~/.cache/fcbp/data"""

    def __call__(self) -> int:
        folder = data.fetch(self.name, self.root)
        print(f"{self.name} is in {folder}")
        return 0


@dataclass
class Check:
    """Look at the files of data sets: whether they can be read and are the published ones; nothing is written."""

    names: tuple[str, ...] = ()
    """data sets; by default all that are there"""
    root: Path | None = None
    """folder of data; by default FCBP_DATA, or ~/.cache/fcbp/data"""
    json: bool = False
    """as JSON"""

    def __call__(self) -> int:
        lines = [line for name in self.names or (None,) for line in data.check(name, self.root)]
        told = [line for line in lines if self.names or line.state != "missing"]
        if self.json:
            print(as_json(told))
        for line in told if not self.json else ():
            print(f"{line.name:16} {line.state:8} {f'{line.path}: ' if line.path else ''}{line.detail}")
        wrong = {"other", "damaged"} | ({"missing"} if self.names else set())
        return 1 if any(line.state in wrong for line in lines) else 0


DATA_COMMANDS: dict[str, Any] = {"ls": List, "fetch": Fetch, "check": Check}
