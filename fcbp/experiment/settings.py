"""An experiment as data: which stream, network, optimiser and method, with which settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fcbp import initializers, learner, streams
from fcbp.designs import plain
from fcbp.experiment import parts
from fcbp.experiment.measurements import METRICS
from fcbp.experiment.parts import Part
from fcbp.methods import Kind
from fcbp.names import unknown

__all__ = ["Experiment", "setting_names"]


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, init=False, repr=False)
class Experiment:
    """One learner on one stream, as frozen data.

    Beside its fields an experiment has the settings of the parts that it names: those of the stream, the network, the
    optimiser and the method, each a keyword and an attribute. What is not set has the part's own default.

    The defaults are those of the slowly-changing regression problem of Dohare et al. (Nature 2024).

    Raises:
        ValueError: a setting is one that nothing has; near misses are offered.

    Example:
        >>> experiment = Experiment(method="cbp", replacement_rate=1e-3)
        >>> experiment.replacement_rate, experiment.maturity_threshold, experiment.flip_period
        (0.001, 100, 10000)
        >>> experiment.replace(step_size=0.1)
        Experiment(step_size=0.1, replacement_rate=0.001)
    """

    seed: int = _field(
        0, "draws the target, the examples, the initial weights and every reset; settings with one seed share them"
    )
    stream: str = _field("bit-flipping", "the problem")
    network: str = _field("mlp", "the network")
    hidden: tuple[int, ...] = _field((5,), "units of each hidden layer")
    activation: str = _field("relu", "activation of the hidden units")
    initializer: str = _field("kaiming_uniform", "how weights are drawn, at the start and after a replacement")
    init_scale: float = _field(1.0, "times the initializer's standard deviation")
    loss_function: str = _field("mse", "what the learner minimises: mse or cross_entropy")
    optimizer: str = _field("sgd", "sgd, adam or adamw")
    step_size: float = _field(0.01, "step size of the optimiser")
    method: str | Kind = field(default="cbp", metadata={"help": "a name of fcbp.methods.METHODS, or what they name"})
    steps: int = _field(1_000_000, "learner steps of every member")
    bin: int | None = _field(None, "steps averaged into one value; by default a fiftieth of the run, at most 20,000")
    metrics: tuple[str, ...] = _field(
        ("inactive_units", "weight_magnitude", "effective_rank", "stable_rank", "age", "utility"),
        f"what is measured beside the loss and resets: {', '.join(METRICS)}",
    )
    settings: tuple[tuple[str, Any], ...] = _field((), "what is set of the parts, by name in alphabetical order")

    def __init__(self, **settings: Any) -> None:
        fields = {f.name: f.default for f in dataclasses.fields(self)}
        own = dict(settings.pop("settings", ()))
        for name, value in settings.items():
            (fields if name in fields else own)[name] = plain(value)
        chosen = fields["method"]
        known = {*(part_name for part in parts.every() for part_name in part.defaults)}
        if isinstance(chosen, Kind):
            known |= set(parts.method(chosen).defaults)
        for name in own:
            if name not in known:
                raise unknown("setting", name, known | set(fields) - {"settings"})
        fields["settings"] = tuple(sorted(own.items()))
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        # Reached for what is no field: a setting of a part. Copying and pickling look here before there are fields.
        if not name.startswith("_") and "settings" in self.__dict__:
            settings = dict(self.settings)
            if name in settings:
                return settings[name]
            for part in self.parts():
                if name in part.defaults:
                    return part.defaults[name]
        raise AttributeError(f"Experiment has no setting {name!r} with method {parts.method_name(self.method)!r}")

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:-1]}
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        changed = {name: value for name, value in shown.items() if value != defaults[name]}
        return f"Experiment({', '.join(f'{k}={v!r}' for k, v in (changed | dict(self.settings)).items())})"

    def replace(self, **settings: Any) -> Experiment:
        """The experiment with other settings."""
        return dataclasses.replace(self, **settings)

    def parts(self) -> tuple[Part, Part, Part, Part]:
        """Stream, network, optimiser and method.

        Raises:
            ValueError: one of them is unknown.
        """
        method, optimizer = parts.method(self.method), parts.optimizer(self.optimizer)
        # A name that both have (UPGD brings a weight decay of its own) is the method's.
        numbers = {name: value for name, value in optimizer.numbers.items() if name not in method.numbers}
        optimizer = dataclasses.replace(optimizer, numbers=numbers)
        return parts.stream(self.stream), parts.network(self.network), optimizer, method

    def reads(self, name: str) -> bool:
        """Whether the setting is a field, or one of a part that the experiment names."""
        return name in FIELDS or any(name in part.defaults for part in self.parts())

    def numbers(self) -> dict[str, float]:
        """The numbers of the optimiser and the method, which members that share a program may have different."""
        *_, optimizer, method = self.parts()
        numbers = {"step_size": self.step_size, **optimizer.numbers, **method.numbers}
        numbers |= {name: value for name, value in self.settings if name in numbers}
        return {name: value for name, value in numbers.items() if value is not None}

    def options(self, part: Part) -> dict[str, Any]:
        """What is set of a part's options, and the defaults of the others."""
        return {**part.options, **{name: value for name, value in self.settings if name in part.options}}

    def program_key(self) -> Any:
        """Hashable; members with equal keys share one compiled program, each with its seed and its numbers."""
        numbers = self.numbers()
        all_parts = self.parts()
        # Whether there is momentum or decay at all changes the program; how much does not.
        present = tuple(numbers[name] != 0 for name in all_parts[2].numbers)
        fields = tuple(getattr(self, name) for name in FIELDS if name not in ("seed", "step_size", "method"))
        options = tuple((part.name, part.build, *self.options(part).items()) for part in all_parts)
        return fields, options, present, tuple(numbers)

    def check(self) -> None:
        """Check every setting by itself; :func:`fcbp.experiment.check` checks their numbers and that they are read.

        Raises:
            ValueError: a setting is unknown or out of range; the message names it, its value and what was expected.
        """
        self.parts()
        for name, names in {
            "activation": parts.ACTIVATIONS,
            "loss_function": learner.LOSSES,
            "initializer": initializers.INITIALIZERS,
        }.items():
            if getattr(self, name) not in names:
                raise unknown(name, getattr(self, name), names)
        for name in ("seed", "steps", *(("bin",) if self.bin is not None else ())):
            value, low = getattr(self, name), int(name != "seed")
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 63:
                raise ValueError(f"{name} is {value!r}; expected a whole number, {low} or more and below 2^63")
        if self.bin is not None and self.bin > self.steps:
            raise ValueError(f"bin is {self.bin!r}; expected at most steps, {self.steps}")
        for name, value in (*self.numbers().items(), ("init_scale", self.init_scale)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
                raise ValueError(f"{name} is {value!r}; expected a number")
            if name == "momentum" and not 0 <= value <= 1:
                raise ValueError(f"momentum is {value!r}; expected a number in [0, 1]")
        if not 0 <= self.init_scale < math.inf:
            raise ValueError(f"init_scale is {self.init_scale!r}; expected a finite number, 0 or more")
        for part in self.parts():
            for name, default in part.options.items():
                if isinstance(default, bool) and not isinstance(getattr(self, name), bool):
                    raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False")
        hidden = self.hidden
        if not isinstance(hidden, tuple) or not hidden or not all(isinstance(n, int) and n > 0 for n in hidden):
            raise ValueError(
                f"hidden is {hidden!r}; expected a tuple with a positive number of units for each layer, such as (5,)"
            )
        for name in self.metrics:
            if name not in METRICS:
                raise unknown("metrics", name, METRICS)

    def describe(self) -> str:
        """The problem in a sentence."""
        document = str(getattr(streams, self.stream.replace("-", "_")).__doc__)
        return document.splitlines()[0].rstrip(".")

    def to_dict(self) -> dict[str, Any]:
        """The fields and what is set of the parts, as plain data: what :class:`Experiment` takes to make this again."""
        fields = {name: getattr(self, name) for name in FIELDS}
        fields["method"] = parts.method_name(self.method)
        return {**fields, **dict(self.settings)}

    def with_defaults(self) -> dict[str, Any]:
        """:meth:`to_dict`, and for what is not set of the parts their defaults."""
        return {**{name: value for part in self.parts() for name, value in part.defaults.items()}, **self.to_dict()}


FIELDS = tuple(f.name for f in dataclasses.fields(Experiment) if f.name != "settings")
"""The settings that every experiment reads."""


def setting_names() -> dict[str, Any]:
    """Every setting of an experiment and of any part, with a default (of the first part that has it)."""
    found: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Experiment) if f.name != "settings"}
    for part in parts.every():
        for name, value in part.defaults.items():
            found.setdefault(name, value)
    return found


def unread(runs: Iterable[Experiment], names: Iterable[str]) -> list[str]:
    """Those of ``names`` that none of the experiments reads."""
    runs = {(run.stream, run.network, run.optimizer, parts.method_name(run.method)): run for run in runs}.values()
    return [name for name in names if not any(run.reads(name) for run in runs)]


def set_names(runs: Iterable[Experiment]) -> set[str]:
    """What of the parts' settings any of the experiments sets."""
    return {name for run in runs for name, _ in run.settings}
