"""The page of a suite: tables, pictures, settings, costs and versions, as Markdown beside the runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcbp import analysis, tuning
from fcbp import experiment as experiments
from fcbp.bench.picture import draw
from fcbp.bench.suite import Suite
from fcbp.checks import arguments
from fcbp.paths import expanded
from fcbp.sweeps import files
from fcbp.sweeps.folder import read_config
from fcbp.tuning import Tuned

__all__ = ["PAGE", "page"]

PAGE, PICTURE = "index.md", "methods.png"
VERSIONS = ("fcbp", "torch", "python", "device", "threads", "git")


@arguments
def page(suite: Suite, found: Mapping[str, Tuned], out: Path | str, command: str = "") -> Path:
    """Write the page of a suite that was run.

    Args:
        suite: what was run.
        found: what :func:`fcbp.bench.run` gave.
        out: its directory.
        command: what was typed, to be shown.

    Returns:
        The page's path.
    """
    place = expanded("out", out)
    parts = [f"# {suite.name}\n\n{suite.summary}.\n"]
    if command:
        parts.append(f"```bash\n{command}\n```\n")
    if _drawn(found, place / PICTURE):
        parts.append(f"![Each method at its chosen setting]({PICTURE})\n\n{_caption(found)}\n")
    for name, tuned in found.items():
        parts.append(_section(name, tuned, place))
    files.write(place / PAGE, "\n".join(parts).encode())
    return place / PAGE


def _section(name: str, tuned: Tuned, place: Path) -> str:
    config = read_config(place / name / tuning.REPORT)
    seconds = sum(results.attrs["seconds"] for results in (tuned.tune, tuned.report))
    shared = {key: value for key, value in config["experiment"].items() if value is not None}
    versions = "\n".join(f"- {key}: {config[key]}" for key in VERSIONS if key in config)
    costs = "\n\n".join(
        f"{title}:\n\n```text\n{analysis.times(results)}\n```"
        for title, results in (("Tuning", tuned.tune), ("Report", tuned.report))
    )
    return (
        f"## {name}\n\n```text\n{tuning.table(tuned)}\n```\n\n"
        f"### Settings that were tried\n\n```text\n{_tried(tuned)}\n```\n\n"
        f"### The experiment\n\n```yaml\n{experiments.lines(shared)}```\n\n"
        f"### Costs\n\n{seconds:,.0f} seconds in all.\n\n{costs}\n\n### Versions\n\n{versions}\n"
    )


def _tried(tuned: Tuned) -> str:
    """Return a line for each setting: its mean over the tuning seeds, and whether it was chosen."""
    rows = analysis.summary(tuned.tune, tuned.variable, last=tuned.over)
    chosen = {choice.place for choice in tuned.choices}
    return analysis.columns(
        {
            "setting": [analysis.describe(row.setting) or "-" for row in rows],
            tuned.variable.replace("_", " "): [f"{row.end:.3f}" for row in rows],
            "NaN": [str(row.failed) for row in rows],
            "": ["chosen" if i in chosen else "" for i in range(len(rows))],
        }
    )


def _drawn(found: Mapping[str, Tuned], path: Path) -> bool:
    """Draw the picture and tell whether there is one; without matplotlib there is none."""
    panels: dict[str, Any] = {
        name: tuned.report.assign_coords(label=("setting", [choice.method for choice in tuned.choices]))
        for name, tuned in found.items()
    }
    variables = {tuned.variable for tuned in found.values()}
    try:
        draw(panels, path, variables.pop() if len(variables) == 1 else "loss")
    except ImportError:
        return False
    return True


def _caption(found: Mapping[str, Tuned]) -> str:
    tuned = next(iter(found.values()))
    number, first = tuned.report.sizes["seed"], int(tuned.report["seed"][0])
    steps = json.dumps({name: int(one.report.attrs["steps"]) for name, one in found.items()})
    return (
        f"Means of {number} fresh seeds ({first} to {first + number - 1}) in bands of one standard error, each method "
        f"at the setting that was chosen on seeds 0 to {first - 1}. Steps: {steps}."
    )
