"""The table of results: printed as it grows, kept as JSON, shown as Markdown."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One comparison; times in seconds per unit of work, ``nan`` where only the ratio means something."""

    case: str
    cores: int
    subject: str
    subject_seconds: float
    peer: str
    peer_seconds: float
    ratio: float
    """Peer over subject: how many times faster the subject is."""
    target: str = ""
    reached: bool = True

    def markdown(self) -> str:
        verdict = f"{self.target}: {'reached' if self.reached else 'not reached'}" if self.target else ""
        cells = [
            self.case,
            str(self.cores),
            f"{self.subject} {duration(self.subject_seconds)}",
            f"{self.peer} {duration(self.peer_seconds)}",
            f"{self.ratio:,.3g}",
            verdict,
        ]
        return "| " + " | ".join(cells) + " |"


def duration(seconds: float) -> str:
    """``12.3 us`` and the like; nothing for ``nan``."""
    if seconds != seconds:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        model = f"{fields.get('model name', model)} (family {fields.get('cpu family')}, model {fields.get('model')})"
    versions = {}
    for package in ("torch", "jax", "jaxlib"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **versions,
        "date": datetime.date.today().isoformat(),
    }


@dataclass
class Table:
    """Rows of this run, over those that earlier runs saved for other cases."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print("\n" + row.markdown())
        self.save()

    def save(self, folder: Path = HERE) -> None:
        """Write ``RESULTS.json`` and ``RESULTS.md``, after every row; a case run again replaces its rows."""
        path = folder / "RESULTS.json"
        here = machine()
        records = [{**dataclasses.asdict(row), "machine": here} for row in self.rows]
        cases = {row.case for row in self.rows}
        if path.exists():
            kept = [record for record in json.loads(path.read_text()) if record["case"] not in cases]
            records = sorted(kept + records, key=lambda record: record["case"])
        path.write_text(json.dumps(records, indent=1) + "\n")
        text = ["# Benchmark results", "", "Written by `python -m tests.benchmarks`.", ""]
        machines: dict[str, list[Row]] = {}
        for record in records:
            about = ", ".join(f"{key}: {value}" for key, value in record.pop("machine").items())
            machines.setdefault(about, []).append(Row(**record))
        for about, rows in machines.items():
            text += [
                about,
                "",
                "| case | cores | time | against | times faster | target |",
                "|---|---|---|---|---|---|",
            ]
            text += [*(row.markdown() for row in rows), ""]
        (folder / "RESULTS.md").write_text("\n".join(text))
