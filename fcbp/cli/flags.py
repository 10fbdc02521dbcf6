"""The flags of ``fcbp run``: one for every setting of an experiment and of any part."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fcbp import experiment as experiments
from fcbp.experiment import parts
from fcbp.methods import METHODS

__all__ = ["Unset", "given", "run_arguments"]

ONE_VALUE = ("hidden", "metrics")
"""Settings that are several values themselves."""
LENGTHS = ("steps", "bin")
"""Settings of the whole run, which cannot be swept."""


class Unset(tuple):
    """The value of a flag that is not on the command line."""


UNSET = Unset()


def run_arguments() -> type:
    """A dataclass with a flag for every setting."""
    import tyro

    def flag(kind: Any, help: str, default: str) -> Any:
        return Annotated[kind, tyro.conf.arg(help=help, help_behavior_hint=f"({default})")]

    names = f"one of: {', '.join(experiments.EXPERIMENTS)}; or a YAML file"
    fields: list[tuple[str, Any, Any]] = [
        ("experiment", Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=names)], dataclasses.MISSING),
        ("seeds", flag(int | None, "number of seeds, from 0 on", "10"), None),
        ("grid", flag(bool, "try each method over its small grid of the numbers that are not given", "True"), True),
        ("out", flag(Path | None, "run directory, new or empty", "runs/NAME-TIME"), None),
        ("resume", flag(bool, "go on with the run in --out, where there is one", "False"), False),
        ("compile", flag(bool | None, "compile the loop", "where it pays back"), None),
        ("device", flag(str | None, "cpu or cuda", "cpu"), None),
        ("devices", flag(tuple[str, ...], "all, a number of processes, or names", "one, in this process"), UNSET),
        ("backend", flag(str | None, "ray runs the members as tasks of a cluster", "this machine"), None),
        ("address", flag(str | None, "of the Ray cluster, such as auto", "a new one on this machine"), None),
        ("members_at_once", flag(int | None, "the most members side by side", "what fits into memory"), None),
        ("checkpoint_every", flag(float, "seconds between two checkpoints", "60"), 60.0),
    ]
    documents = _documents()
    for name, default in experiments.setting_names().items():
        if name != "seed":
            fields.append((name, flag(_kind(name, default), documents.get(name, ""), _default(name, default)), UNSET))
    arguments = dataclasses.make_dataclass(
        "Run",
        [
            (name, kind) if default is dataclasses.MISSING else (name, kind, dataclasses.field(default=default))
            for name, kind, default in fields
        ],
    )
    arguments.__doc__ = (
        "Run an experiment; several values after a flag sweep it, and several methods are compared, each at its best."
    )
    return arguments


def given(arguments: Any) -> dict[str, tuple[Any, ...]]:
    """The values of every setting that is on the command line.

    Raises:
        ValueError: a flag has no value, or one of the whole run has several.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for name in experiments.setting_names():
        values = getattr(arguments, name, UNSET)
        if isinstance(values, Unset):
            continue
        dashed = f"--{name.replace('_', '-')}"
        if name in ONE_VALUE:
            values = (tuple(values),)
        if not values:
            raise ValueError(f"{dashed} has no value; expected at least one")
        if name in LENGTHS and len(values) > 1:
            raise ValueError(f"{dashed} has {len(values)} values; expected one for all members")
        found[name] = values
    return found


def _kind(name: str, default: Any) -> Any:
    if name in ONE_VALUE:
        return tuple[type(default[0]), ...]  # type: ignore[misc]
    if name in LENGTHS:
        return tuple[int, ...]
    if any(name in part.numbers for part in parts.every()):
        return tuple[float, ...]
    return tuple[str if default is None else type(default), ...]  # type: ignore[misc]


def _default(name: str, default: Any) -> str:
    """The default of every part that has the setting, where they differ by part."""
    readers = [part for part in parts.every() if name in part.defaults]
    values = {part.name: part.defaults[name] for part in readers}
    if len({str(value) for value in values.values()}) > 1:
        return ", ".join(f"{part}: {_text(value)}" for part, value in values.items())
    if name in {f.name for f in dataclasses.fields(experiments.Experiment)}:
        return _text(default)
    return f"{', '.join(values)}: {_text(default)}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- what the settings mean ------------------------------------------------------------------------------


def _documents() -> dict[str, str]:
    """What each setting means, from where it is documented."""
    found = {f.name: str(f.metadata.get("help", "")) for f in dataclasses.fields(experiments.Experiment)}
    builders = [*experiments.STREAMS.values(), *experiments.NETWORKS.values()]
    builders += [kind.build for kind in METHODS.values()]
    for build in builders:
        for name, text in _arguments(build).items():
            found.setdefault(name, text)
    for kind in METHODS.values():
        for name, text in _attributes(kind.hyperparams).items():
            found.setdefault(name, text)
    found |= {name: f"{name.replace('_', ' ')} of the optimiser" for name in ("momentum", "weight_decay", "nesterov")}
    found |= {"beta1": "decay of Adam's mean", "beta2": "decay of Adam's mean square", "eps": "Adam's epsilon"}
    found["method"] = f"several are compared, each at its best: {', '.join(METHODS)}"
    return {name: _first_line(text) for name, text in found.items()}


@functools.cache
def _arguments(build: Callable[..., Any]) -> dict[str, str]:
    """The section ``Args`` of a docstring."""
    import docstring_parser

    function = build.func if isinstance(build, functools.partial) else build
    parsed = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    return {p.arg_name: p.description or "" for p in parsed.params}


@functools.cache
def _attributes(kind: Any) -> dict[str, str]:
    """The strings below a class's fields."""
    try:
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    body = node.body if isinstance(node, ast.ClassDef) else []
    for before, after in itertools.pairwise(body):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            found[before.target.id] = str(getattr(after.value, "value", ""))
    return found


def _first_line(text: str) -> str:
    """A description in one line, without the marks of reStructuredText and what follows its first sentence."""
    words = " ".join(text.replace("``", "").split())
    return words.split(". ")[0].rstrip(".").replace(":func:", "").replace(":mod:", "").replace("`", "")
