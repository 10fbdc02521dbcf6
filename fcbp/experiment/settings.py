"""An experiment as data: a stream, a network, an optimiser and a method, with their settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from fcbp import initializers, losses
from fcbp.addresses import name_of
from fcbp.checks import arguments, shown
from fcbp.designs import plain
from fcbp.experiment import parts
from fcbp.experiment.measurements import METRICS, metric_name
from fcbp.experiment.parts import Part
from fcbp.kinds import LARGEST
from fcbp.names import unknown
from fcbp.program import RESERVED

__all__ = ["Experiment", "set_names", "setting_names", "unread"]

SHORT_FOR = {"lr": "step_size", "learning_rate": "step_size", "loss": "loss_function", "rho": "replacement_rate"}
"""Names that people try, and the settings that they mean."""
Initial = Literal["drawn", "module"]
"""Initial weights are drawn by the initializer, or are the module's own."""
ROLES = ("stream", "network", "schedule", "optimizer", "method")
BELOW_1 = math.nextafter(1, 0)
RANGES: dict[str, tuple[float, float, str]] = {
    "init_scale": (0, LARGEST, "a finite number, 0 or more"),
    "clip": (0, math.inf, "a number, 0 or more"),
    "momentum": (0, 1, "a number in [0, 1]"),
    "beta1": (0, BELOW_1, "a number in [0, 1)"),
    "beta2": (0, BELOW_1, "a number in [0, 1)"),
    "replacement_rate": (0, 1, "a number in [0, 1]"),
}
"""The ranges of numbers that no part of an experiment checks under their names."""
BY_NETWORK = ("hidden", "activation")
"""Fields that are options of the network: their defaults are the network's."""


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, init=False, repr=False)
class Experiment:
    """One learner on one stream, as frozen data.

    Beside its fields an experiment has the settings of the parts that it names: those of the stream, the network, the
    optimiser and the method, each a keyword and an attribute. What is not set has the part's own default. A setting
    that two parts have under one name is written with its part: ``Experiment(**{"method.beta": 0.9})``.

    ``stream``, ``network``, ``loss_function``, ``optimizer``, ``method`` and each of ``metrics`` take a name, an
    object, or the address where it is found: ``"package.module:name"`` or ``"path/to/file.py:name"``. See
    ``docs/extending.md``.

    The defaults are those of the slowly-changing regression problem of Dohare et al. (Nature 2024).

    Raises:
        ValueError: no part has a setting, or two parts have it; near misses are offered.

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
    stream: Any = _field("bit-flipping", "the problem: a name, or module:name or file.py:name")
    network: Any = _field("mlp", "the network: a name, or module:name or file.py:name")
    hidden: tuple[int, ...] = _field((5,), "units of each hidden layer")
    activation: str = _field("relu", "activation of the hidden units")
    initial: Initial = _field("drawn", "initial weights: drawn by the initializer, or the module's own")
    initializer: str = _field("kaiming_uniform", "how weights are drawn, at the start and after a replacement")
    init_scale: float = _field(1.0, "times the initializer's standard deviation")
    loss_function: Any = _field(
        "mse",
        "what the learner minimises: mse, cross_entropy, or module:name or file.py:name; by default as the stream",
    )
    optimizer: Any = _field("sgd", "sgd, adam or adamw, or module:name or file.py:name")
    step_size: float = _field(0.01, "step size of the optimiser")
    schedule: Any = _field(None, "factor of the step size over time: a name, or module:name or file.py:name")
    clip: float | None = _field(None, "bound on the global norm of the gradients")
    method: Any = field(default="cbp", metadata={"help": "a name of fcbp.methods.METHODS, or what they name"})
    steps: int = _field(1_000_000, "learner steps of every member")
    bin: Any = _field(None, "steps averaged into one value, or task; by default a fiftieth of the run, at most 20,000")
    metrics: tuple[Any, ...] = _field(
        ("inactive_units", "weight_magnitude", "effective_rank", "stable_rank", "age", "utility"),
        f"what is measured beside the loss and resets: {', '.join(METRICS)}, test_NAME on held-out examples, or "
        "module:name or file.py:name",
    )
    settings: tuple[tuple[str, Any], ...] = _field((), "what is set of the parts, by name in alphabetical order")

    def __init__(self, **settings: object) -> None:
        fields = {f.name: f.default for f in dataclasses.fields(self)}
        given: dict[str, Any] = dict(settings)
        own: dict[str, Any] = dict(given.pop("settings", ()))
        given = {name: plain(value) for name, value in given.items()}
        for name, value in given.items():
            _check_value(name, value)
            (fields if name in fields else own)[name] = value
        if not isinstance(fields["metrics"], tuple):
            raise ValueError(f"metrics is {shown(fields['metrics'])}; expected names, such as ('accuracy',)")
        fields |= _defaults_of_parts(fields, given)
        object.__setattr__(self, "settings", tuple(sorted(own.items())))
        fields["settings"] = self.settings
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        for name in own:
            self._check_known(name)

    def _check_known(self, name: str) -> None:
        """Check that a setting is one of some part's, and of one part alone."""
        all_parts = _parts_that_exist(self)
        role, dot, rest = name.rpartition(".")
        if dot:
            matching = [part for part in all_parts if part.role == role]
            if not any(rest in part.defaults for part in matching):
                raise unknown("setting", name, [f"{p.role}.{n}" for p in all_parts for n in p.defaults])
            return
        mine = [part for part in all_parts if name in part.defaults]
        roles = sorted({part.role for part in mine})
        if len(roles) > 1 and set(roles) != {"method", "optimizer"}:
            raise ValueError(
                f"{name} is a setting of {' and '.join(f'the {role}' for role in roles)}; expected one of them, "
                f"written {' or '.join(f'{role}.{name}' for role in roles)}"
            )
        if mine or any(name in part.defaults for part in parts.every()):
            return
        if name in SHORT_FOR:
            raise ValueError(f"setting is {name!r}, which there is none of; did you mean {SHORT_FOR[name]!r}?")
        known = {n for part in all_parts for n in part.defaults} | set(FIELDS)
        raise unknown("setting", name, known)

    def __getattr__(self, name: str) -> Any:
        # Reached for what is no field: a setting of a part. Copying and pickling look here before there are fields.
        if not name.startswith("_") and "settings" in self.__dict__:
            settings = dict(self.settings)
            if name in settings:
                return settings[name]
            role, dot, rest = name.rpartition(".")
            for part in self.parts():
                if dot and part.role == role and rest in part.defaults:
                    return settings.get(rest, part.defaults[rest])
                if name in part.defaults:
                    return settings.get(f"{part.role}.{name}", part.defaults[name])
        raise AttributeError(f"Experiment has no setting {name!r} with method {parts.method_name(self.method)!r}")

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:-1]}
        defaults = {f.name: f.default for f in dataclasses.fields(self)} | _defaults_of_parts(shown, {})
        changed = {
            name: name_of(value) if callable(value) else value
            for name, value in shown.items()
            if value != defaults[name]
        }
        return f"Experiment({', '.join(f'{k}={v!r}' for k, v in (changed | dict(self.settings)).items())})"

    def replace(self, **settings: object) -> Experiment:
        """Return the experiment with other settings.

        A default that follows the network or the stream follows the new one; what is set of a part that another takes
        the place of, and that nothing reads any more, is left out.
        """
        now = {name: getattr(self, name) for name in FIELDS}
        following = {n: v for n, v in _defaults_of_parts(now, {}).items() if now[n] == v}
        kept = {name: value for name, value in now.items() if name not in following}
        gone = self._unread_after({name: settings[name] for name in ROLES if name in settings})
        kept = {name: value for name, value in kept.items() if name not in gone}
        own = tuple((name, value) for name, value in self.settings if name not in gone)
        return Experiment(**{**kept, "settings": own, **settings})

    def changes_from(self, base: Experiment) -> dict[str, Any]:
        """Return the settings that ``base`` would need to become this experiment; ``steps`` and ``bin`` aside.

        Args:
            base: another experiment.

        Returns:
            This experiment's values by the names of the settings.

        Example:
            >>> Experiment(method="l2", strength=0.1).changes_from(Experiment(step_size=0.1))
            {'method': 'l2', 'step_size': 0.01, 'strength': 0.1}
        """
        then = base.replace(method=self.method)
        names = {*FIELDS, *dict(self.settings), *dict(then.settings)} - {"method", "steps", "bin"}
        changed = {name: getattr(self, name) for name in sorted(names) if getattr(self, name) != getattr(then, name)}
        return {"method": self.method, **changed} if self.method != base.method else changed

    def _unread_after(self, changes: Mapping[str, Any]) -> set[str]:
        """Return the settings of parts that ``changes`` replace, which nothing reads then."""
        changes = {name: chosen for name, chosen in changes.items() if chosen != getattr(self, name)}
        if not changes:
            return set()
        own = {n for p in _parts_that_exist(self) if p.role in changes for n in (*p.defaults, *BY_NETWORK)}
        then = Experiment(**{**{name: getattr(self, name) for name in ROLES}, **changes})
        if not own or not _parts_that_exist(then):
            return set()
        names = [name for name, _ in self.settings] + [*BY_NETWORK]
        return {n for n in names if n.rpartition(".")[2] in own and not then.reads(n)}

    def parts(self) -> tuple[Part, Part, Part, Part, Part]:
        """Return stream, network, schedule, optimiser and method.

        Raises:
            ValueError: one of them is unknown.
        """
        method, optimizer = parts.method(self.method), parts.optimizer(self.optimizer)
        # A name that both have (UPGD brings a weight decay of its own) is the method's.
        numbers = {name: value for name, value in optimizer.numbers.items() if name not in method.numbers}
        optimizer = dataclasses.replace(optimizer, numbers=numbers)
        return parts.stream(self.stream), parts.network(self.network), parts.schedule(self.schedule), optimizer, method

    def reads(self, name: str) -> bool:
        """Tell whether the setting is a field, or one of a part that the experiment names."""
        role, _, rest = name.rpartition(".")
        if name in BY_NETWORK:
            return name in self.parts()[1].defaults
        return name in FIELDS or any(rest in part.defaults for part in self.parts() if role in ("", part.role))

    def number_names(self, part: Part) -> dict[str, str]:
        """Return the numbers of an optimiser or a method, each with its name in this experiment: with its part's before
        it where another part has a setting of that name."""
        others = [other for other in self.parts() if other.role != part.role]
        taken = {name for other in others for name in other.defaults} | {*FIELDS}
        return {name: f"{part.role}.{name}" if name in taken else name for name in part.numbers}

    def numbers(self) -> dict[str, float]:
        """Return the numbers of the optimiser and the method, which members that share a program may have different."""
        *_, schedule, optimizer, method = self.parts()
        numbers: dict[str, Any] = {"step_size": self.step_size, "clip": self.clip}
        for part in (schedule, optimizer, method):
            numbers |= {full: self.setting(part, name) for name, full in self.number_names(part).items()}
        return {name: value for name, value in numbers.items() if value is not None}

    def _check_numbers(self) -> None:
        *_, schedule, optimizer, method = self.parts()
        given: dict[str, Any] = {"step_size": self.step_size, "init_scale": self.init_scale}
        given |= {} if self.clip is None else {"clip": self.clip}
        for part in (schedule, optimizer, method):
            given |= {full: self.setting(part, name) for name, full in self.number_names(part).items()}
        for name, value in given.items():
            whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
            if not whole and (not isinstance(value, float) or math.isnan(value)):
                raise ValueError(f"{name} is {shown(value)}; expected a number")
            low, high, words = RANGES.get(name.rpartition(".")[2], (-math.inf, math.inf, ""))
            if not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; expected {words}")

    def setting(self, part: Part, name: str) -> object:
        """Return the value of a part's setting."""
        settings = dict(self.settings)
        default = getattr(self, name) if part.role == "network" and name in BY_NETWORK else part.defaults[name]
        return settings.get(f"{part.role}.{name}", settings.get(name, default))

    def options(self, part: Part) -> dict[str, Any]:
        """Return the options of a part: their set values, and the defaults of the others."""
        return {name: self.setting(part, name) for name in part.options}

    def program_key(self) -> Hashable:
        """Return a hashable key; members with equal keys share one compiled program, each with its seed and its
        numbers."""
        numbers = self.numbers()
        all_parts = self.parts()
        # Whether there is momentum or decay at all changes the program; how much does not.
        optimizer = all_parts[3]
        present = (self.clip is None, *(self.setting(optimizer, name) != 0 for name in optimizer.numbers))
        fields = tuple(getattr(self, name) for name in FIELDS if name not in ("seed", "step_size", "clip", "method"))
        options = tuple((part.name, part.build, *self.options(part).items()) for part in all_parts)
        return fields, options, present, tuple(numbers)

    def check(self) -> None:
        """Check every setting by itself; :func:`fcbp.experiment.check` checks their numbers and that they are read.

        Raises:
            ValueError: a setting is unknown or out of range; the message names it, its value and what was expected.
        """
        network = self.parts()[1]
        if self.loss_function is not None:
            loss_of(self.loss_function)
        closed: dict[str, Iterable[str]] = {"initializer": initializers.INITIALIZERS, "initial": get_args(Initial)}
        if "activation" in network.options and network.name in parts.NETWORKS:
            closed["activation"] = parts.ACTIVATIONS
        for name, names in closed.items():
            if getattr(self, name) not in tuple(names):
                raise unknown(name, getattr(self, name), names)
        self._check_lengths()
        self._check_numbers()
        for part in self.parts():
            for name, default in part.options.items():
                if isinstance(default, bool) and not isinstance(self.setting(part, name), bool):
                    raise ValueError(f"{name} is {self.setting(part, name)!r}; expected True or False")
        if network.name == "mlp":
            _check_hidden(self.hidden)
        _check_metric_names(self.metrics)
        for part in self.parts():
            _check_option_names(part)

    def _check_lengths(self) -> None:
        of_bin = ("bin",) if self.bin not in (None, "task") else ()
        for name in ("seed", "steps", *of_bin):
            value, low = getattr(self, name), int(name != "seed")
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 63:
                also = ", or 'task'" if name == "bin" else ""
                raise ValueError(f"{name} is {value!r}; expected a whole number, {low} or more and below 2^63{also}")
        if of_bin and self.bin > self.steps:
            raise ValueError(f"bin is {self.bin!r}; expected at most steps, {self.steps}")

    def describe(self) -> str:
        """Return the problem in a sentence."""
        build = parts.stream(self.stream).build
        document = str(getattr(build, "__doc__", None) or name_of(self.stream))
        return document.strip().splitlines()[0].rstrip(".")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the settings of the parts as plain data, from which :class:`Experiment` makes this
        again."""
        fields = {name: getattr(self, name) for name in FIELDS}
        fields["method"] = parts.method_name(self.method)
        for name in ("stream", "network", "optimizer", "schedule", "loss_function"):
            fields[name] = None if fields[name] is None else name_of(fields[name])
        fields["metrics"] = tuple(map(name_of, self.metrics))
        return {**fields, **{name: name_of(v) if callable(v) else v for name, v in self.settings}}

    def with_defaults(self) -> dict[str, Any]:
        """Return :meth:`to_dict`, with the defaults of the parts' other settings."""
        own = {name: value for part in self.parts() for name, value in part.defaults.items() if name not in BY_NETWORK}
        return {**own, **self.to_dict()}


FIELDS = tuple(f.name for f in dataclasses.fields(Experiment) if f.name != "settings")
"""The settings that every experiment reads."""


def _check_value(name: str, value: Any) -> None:
    """Check that a value may be a setting's: a number, a word, a list of these, or an object."""
    try:
        hash(value)
        good = not isinstance(value, (Tensor, bytes, complex))
    except TypeError:
        good = False
    if not good:
        raise ValueError(f"{name} is {shown(value)}; expected a number, a word, or a list of them")
    for part in value if isinstance(value, tuple) else ():
        _check_value(name, part)


def _parts_that_exist(run: Experiment) -> tuple[Part, ...]:
    """Return the parts of an experiment; none where one is unknown, which its check says."""
    try:
        return run.parts()
    except ValueError:
        return ()


def _defaults_of_parts(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not given and whose defaults are those of the network or of the stream."""
    found: dict[str, Any] = {}
    if fields["network"] != "mlp":
        try:
            options = parts.network(fields["network"]).options
            found |= {"hidden": options.get("hidden", ()), "activation": options.get("activation", "")}
        except ValueError:  # it is unknown, which its check says
            pass
    if fields["stream"] != "bit-flipping":
        found["loss_function"] = None
    return {name: value for name, value in found.items() if name not in given}


def _check_hidden(hidden: Any) -> None:
    if not isinstance(hidden, tuple) or not hidden or not all(isinstance(n, int) and n > 0 for n in hidden):
        raise ValueError(
            f"hidden is {hidden!r}; expected a tuple with a positive number of units for each layer, such as (5,)"
        )


def _check_metric_names(chosen: Iterable[Any]) -> None:
    by_name: dict[str, Any] = {}
    for metric in chosen:
        other = by_name.setdefault(metric_name(metric), metric)
        if name_of(other) != name_of(metric):
            raise ValueError(
                f"metrics has {name_of(other)!r} and {name_of(metric)!r}, two of one name; expected different names"
            )


def _check_option_names(part: Part) -> None:
    """Check that a user's own part has no option that is a setting of every experiment, or a dimension of results."""
    follows = BY_NETWORK if part.role == "network" else ()
    for name in () if part.is_named else part.options:
        if name in RESERVED or (name in FIELDS and name not in follows):
            what = "a setting of every experiment" if name in FIELDS else "a dimension of the results"
            raise ValueError(f"{part.role} is {part.name!r}, whose option {name!r} is {what}; rename it")


def loss_of(chosen: Any) -> losses.Loss:
    """Return the loss that a setting names.

    Raises:
        ValueError: there is none.
    """
    expected = f"one of {', '.join(losses.LOSSES)}, or a function (output, targets) -> scalar, or its address"
    found: Any = parts.find("loss_function", chosen, losses.LOSSES, expected)
    try:
        return losses.get(found)
    except ValueError as error:
        raise ValueError(f"loss_function is {name_of(chosen)!r}: {error}") from error


@arguments
def setting_names(*own: Part) -> dict[str, Any]:
    """Return every setting of an experiment and of any part, with a default (of the first part that has it).

    Args:
        own: parts beside those that have a name.
    """
    found: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(Experiment) if f.name != "settings"}
    for part in (*own, *parts.every()):
        for name, value in part.defaults.items():
            found.setdefault(name, value)
    return found


def unread(runs: Iterable[Experiment], names: Iterable[str]) -> list[str]:
    """Return the ``names`` that none of the experiments reads."""
    runs = {(run.stream, run.network, run.optimizer, parts.method_name(run.method)): run for run in runs}.values()
    return [name for name in names if not any(run.reads(name) for run in runs)]


def set_names(runs: Iterable[Experiment]) -> set[str]:
    """Return the names that any of the experiments sets: settings of parts, and fields that are a network's."""
    found = {name for run in runs for name, _ in run.settings}
    following = {run: _defaults_of_parts({n: getattr(run, n) for n in FIELDS}, {}) for run in runs}
    return found | {n for run, own in following.items() for n in BY_NETWORK if n in own and getattr(run, n) != own[n]}
