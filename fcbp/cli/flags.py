"""The flags of ``fcbp run``: one for every setting of an experiment and of any part, or of a program."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

from fcbp import experiment as experiments
from fcbp.experiment import Experiment, parts
from fcbp.experiment.parts import Part
from fcbp.methods import METHODS
from fcbp.optim import SCHEDULES
from fcbp.program import Program
from fcbp.sweeps.makers import FunctionMaker

__all__ = ["Flag", "Unset", "flags_of", "given", "run_arguments"]

LENGTHS = ("steps", "bin")
"""Settings of the whole run, which cannot be swept."""


class Unset(tuple[()]):
    """The value of a flag that is not on the command line."""


UNSET = Unset()


@dataclass(frozen=True)
class Flag:
    """A setting on the command line."""

    name: str
    kind: type
    """The type of one value."""
    help: str
    default: str
    """The default in words."""
    several: bool = False
    """Whether one value of the setting is several words."""
    optional: bool = False
    """Whether the default is none at all, which does not tell words from numbers."""

    @property
    def field(self) -> str:
        return self.name.replace(".", "__")

    @property
    def dashed(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def flags_of(subject: Experiment | FunctionMaker, own: Sequence[Part] = ()) -> list[Flag]:
    """Return a flag for every setting: of an experiment and of any part, or of a program.

    Args:
        subject: what is run.
        own: parts of the user's own, whose settings have flags as well.
    """
    if not isinstance(subject, Experiment):
        return _flags_of_program(subject)
    documents, sequences = _documents(own), _sequences(own)
    all_parts = [*own, *parts.every()]
    flags = [
        Flag(
            name,
            _kind(name, default, all_parts),
            documents.get(name, ""),
            _default(name, default, all_parts),
            name in sequences,
            default is None and name not in LENGTHS,
        )
        for name, default in experiments.setting_names(*own).items()
        if name != "seed"
    ]
    return flags + [
        Flag(full, _kind(name, part.defaults[name], [part]), documents.get(name, ""), _text(part.defaults[name]))
        for part in own
        for name, full in subject.number_names(part).items()
        if full != name
    ]


def _flags_of_program(maker: FunctionMaker) -> list[Flag]:
    documents = {} if isinstance(maker.function, Program) else _arguments(maker.function)
    flags = [Flag("steps", int, "steps of every member", "must be given"), Flag("bin", str, BIN, "a fiftieth")]
    for name, default in maker.defaults.items():
        if default is inspect.Parameter.empty:
            raise ValueError(
                f"program is {maker.name!r}, whose option {name!r} has no default; give it one to run it from here"
            )
        kind = type(default[0]) if isinstance(default, tuple) and default else type(default)
        kind = str if default is None or kind in (tuple, list) else kind
        several = isinstance(default, (tuple, list))
        flags.append(Flag(name, kind, documents.get(name, ""), _text(default), several, default is None))
    program = maker.make([{}])
    for name, value in program.numbers.items():
        flags.append(Flag(name, float, "", "must be given" if value is None else f"{float(value):g}"))
    for option, numbers in (("method", _numbers_of_methods), ("schedule", _numbers_of_schedules)):
        if option in maker.defaults:
            flags += _flags_of_numbers(numbers(), {flag.name for flag in flags})
    return flags


Numbers = dict[str, tuple[str, dict[str, Any]]]
"""By the name of a number: a line on it, and its default in each thing that has it."""


def _numbers_of_methods() -> Numbers:
    """Return the numbers of all methods, of which a program with an option ``method`` takes one by its name."""
    found: Numbers = {}
    for method, kind in METHODS.items():
        documents = _attributes(kind.hyperparams)
        for name, value in kind.hyperparams()._asdict().items():
            found.setdefault(name, (_first_line(documents.get(name, "")), {}))[1][method] = value
    return found


def _numbers_of_schedules() -> Numbers:
    """Return the numbers of all schedules, of which a program with an option ``schedule`` takes one by its name."""
    found: Numbers = {}
    for schedule, make in SCHEDULES.items():
        documents = _arguments(make)
        for name, parameter in inspect.signature(make).parameters.items():
            if isinstance(parameter.default, (int, float)):
                found.setdefault(name, (documents.get(name, "").rstrip("."), {}))[1][schedule] = parameter.default
    return found


def _flags_of_numbers(numbers: Numbers, taken: set[str]) -> list[Flag]:
    return [
        Flag(name, float, help, ", ".join(f"{owner}: {_text(value)}" for owner, value in defaults.items()))
        for name, (help, defaults) in numbers.items()
        if name not in taken
    ]


BIN = "steps averaged into one value, or task"


class Places(Protocol):
    """The fields of a command that say where members run."""

    device: str | None
    backend: str | None
    address: str | None
    checkpoint_every: float

    @property
    def devices(self) -> tuple[str, ...] | Unset:
        """Words after ``--devices``; none of them, or :class:`Unset`, is the process itself."""


class RunArguments(Places, Protocol):
    """The fields of ``fcbp run`` beside those of the flags of settings."""

    experiment: str
    seeds: int | None
    tune_seeds: int | None
    report_seeds: int | None
    choose_by: str | None
    choose_over: float
    choose_apart: tuple[str, ...]
    grid: bool
    out: Path | None
    resume: bool
    accept_changes: bool
    compile: bool | None
    members_at_once: int | None
    json: bool


def run_arguments(flags: Sequence[Flag]) -> type:
    """Make the dataclass of ``fcbp run``: the fields of :class:`RunArguments`, and one for every flag."""
    import tyro

    def flag(kind: Any, help: str, default: str, name: str | None = None) -> Any:
        return Annotated[kind, tyro.conf.arg(name=name, help=help, help_behavior_hint=f"({default})")]

    known = ", ".join([*experiments.EXPERIMENTS, *experiments.PROGRAMS])
    names = f"one of: {known}; or a YAML file; or module:name or file.py:name"
    fields: list[tuple[str, Any, Any]] = [
        ("experiment", Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=names)], dataclasses.MISSING),
        ("seeds", flag(int | None, "number of seeds, from 0 on", "10"), None),
        ("tune_seeds", flag(int | None, "choose each method's setting on so many seeds", "all is one run"), None),
        (
            "report_seeds",
            flag(int | None, "report the chosen on so many fresh seeds", "20 with --tune-seeds"),
            None,
        ),
        ("choose_by", flag(str | None, "the variable by which settings are chosen", "accuracy, or loss"), None),
        ("choose_over", flag(float, "the last fraction of the run whose mean is compared", "1, the whole run"), 1.0),
        (
            "choose_apart",
            flag(tuple[str, ...], "settings that differ in these are chosen and reported apart", "none"),
            (),
        ),
        ("grid", flag(bool, "try each method over its small grid of the numbers that are not given", "True"), True),
        ("out", flag(Path | None, "run directory, new or empty", "runs/NAME-TIME"), None),
        ("resume", flag(bool, "go on with the run in --out, where there is one", "False"), False),
        ("accept_changes", flag(bool, "go on although a part's source, or what compiles, has changed", "False"), False),
        ("compile", flag(bool | None, "compile the loop", "where it pays back"), None),
        ("device", flag(str | None, "cpu or cuda", "cpu"), None),
        ("devices", flag(tuple[str, ...], "all, a number of processes, or names", "one, in this process"), UNSET),
        ("backend", flag(str | None, "ray runs the members as tasks of a cluster", "this machine"), None),
        ("address", flag(str | None, "of the Ray cluster, such as auto", "a new one on this machine"), None),
        ("members_at_once", flag(int | None, "the most members side by side", "what fits into memory"), None),
        ("checkpoint_every", flag(float, "seconds between two checkpoints", "60"), 60.0),
        ("json", flag(bool, "print JSON in place of the tables", "False"), False),
    ]
    taken = {name for name, *_ in fields}
    for one in flags:
        if one.name in taken:
            raise ValueError(f"setting is {one.name!r}, which is a flag of `fcbp run`; expected another name")
        many: Any = tuple[one.kind, ...]
        dashed = one.dashed.removeprefix("--") if "." in one.name else None
        fields.append((one.field, flag(many, one.help, one.default, dashed), UNSET))
    arguments = dataclasses.make_dataclass(
        "Run",
        [
            (name, kind) if default is dataclasses.MISSING else (name, kind, dataclasses.field(default=default))
            for name, kind, default in fields
        ],
    )
    arguments.__doc__ = (
        "Run an experiment or a program; several values after a flag sweep it, and several methods are compared, each "
        "at its best."
    )
    return arguments


def given(arguments: object, flags: Sequence[Flag]) -> dict[str, tuple[Any, ...]]:
    """Return the values of every setting that is on the command line.

    Raises:
        ValueError: a flag has no value, or one of the whole run has several.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for flag in flags:
        values = getattr(arguments, flag.field, UNSET)
        if isinstance(values, Unset):
            continue
        if flag.optional and flag.kind is str:
            values = tuple(map(_number, values))
        if flag.several:
            values = (tuple(values),)
        if not values:
            raise ValueError(f"{flag.dashed} has no value; expected at least one")
        if flag.name in LENGTHS and len(values) > 1:
            raise ValueError(f"{flag.dashed} has {len(values)} values; expected one for all members")
        found[flag.name] = tuple(map(_bin, values)) if flag.name == "bin" else values
    return found


def _bin(value: str) -> int | str:
    if value == "task":
        return value
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"--bin is {value!r}; expected a number of steps, or task") from None


def _number(word: str) -> Any:
    """Return a word as the number that it is, if it is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


def _kind(name: str, default: Any, all_parts: Sequence[Part]) -> type:
    if name in LENGTHS:
        return int if name == "steps" else str
    if isinstance(default, tuple):
        return type(default[0]) if default else int
    if any(name in part.numbers for part in all_parts):
        return float
    if default is None:
        told = {str(_signature(part.build).get(name, "")) for part in all_parts if name in part.options}
        return next((kind for kind in (int, float) if f"{kind.__name__} | None" in told), str)
    return type(default) if isinstance(default, (bool, int, float)) else str


def _sequences(own: Sequence[Part]) -> set[str]:
    """Return settings of which one value is several words: by their default, or by what the builder's annotation
    says."""
    found = {name for name, default in experiments.setting_names(*own).items() if isinstance(default, tuple)}
    for part in (*own, *parts.every()):
        for name in part.options:
            annotation = str(_signature(part.build).get(name, ""))
            if "Sequence" in annotation or "tuple[" in annotation:
                found.add(name)
    return found


@functools.lru_cache(maxsize=256)
def _signature(build: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a builder's parameters."""
    try:
        return {name: p.annotation for name, p in inspect.signature(build).parameters.items()}
    except (TypeError, ValueError):
        return {}


def _default(name: str, default: Any, all_parts: Sequence[Part]) -> str:
    """Return the default of every part that has the setting, where they differ by part."""
    readers = [part for part in all_parts if name in part.defaults]
    values = {part.name: part.defaults[name] for part in readers}
    is_field = name in {f.name for f in dataclasses.fields(Experiment)}
    if len({str(value) for value in values.values()}) > 1 and not is_field:
        return ", ".join(f"{part}: {_text(value)}" for part, value in values.items())
    return _text(default) if is_field else f"{', '.join(values)}: {_text(default)}"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- what the settings mean ------------------------------------------------------------------------------


def _documents(own: Sequence[Part]) -> dict[str, str]:
    """Return the meaning of each setting, from the place where it is documented."""
    found = {f.name: str(f.metadata.get("help", "")) for f in dataclasses.fields(experiments.Experiment)}
    builders = [part.build for part in own]
    builders += [kind.build for table in (experiments.STREAMS, experiments.NETWORKS) for kind in table.values()]
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
    """Return the section ``Args`` of a docstring."""
    import docstring_parser

    function = build.func if isinstance(build, functools.partial) else build
    parsed = docstring_parser.parse(inspect.getdoc(function) or "", docstring_parser.DocstringStyle.GOOGLE)
    return {p.arg_name: p.description or "" for p in parsed.params}


@functools.cache
def _attributes(kind: Any) -> dict[str, str]:
    """Return the strings below a class's fields."""
    import docstring_parser

    try:
        parsed = docstring_parser.parse_from_object(kind)
    except (OSError, TypeError, SyntaxError):
        return {}
    return {p.arg_name: p.description or "" for p in parsed.params if p.args[0] == "attribute"}


def _first_line(text: str) -> str:
    """Return a description in one line, without the marks of reStructuredText and what follows its first sentence."""
    words = " ".join(text.replace("``", "").split())
    return words.split(". ")[0].rstrip(".").replace(":func:", "").replace(":mod:", "").replace("`", "")
