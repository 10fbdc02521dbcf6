"""Makers: the sources of a sweep's programs, an experiment or a user's own functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from fcbp import addresses
from fcbp.designs import Members
from fcbp.names import unknown
from fcbp.program import RESERVED, Program

__all__ = ["FunctionMaker", "Maker"]


@runtime_checkable
class Maker(Protocol):
    """Makes the programs of members. A member's settings are options, which change its program, or numbers."""

    def seed(self, settings: Mapping[str, Any]) -> int:
        """Return a member's seed."""

    def key(self, settings: Mapping[str, Any]) -> Hashable:
        """Return a key that is the same for members of one program."""

    def make(self, members: Sequence[Mapping[str, Any]], device: torch.device | str | None = None) -> Program:
        """Return the program of members with one key."""

    def numbers(self, settings: Mapping[str, Any]) -> dict[str, float]:
        """Return the numbers that a member sets, by name."""

    def shared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return a member's settings, those that it does not set included, as plain data."""

    def check(self, members: Members) -> None:
        """Check the members' settings before any program is made.

        Raises:
            ValueError: one is unknown or out of range.
        """

    def check_measured(self, members: Members, measured: set[str]) -> None:
        """Check the names of all measured values.

        Raises:
            ValueError: one that was asked for is not measured.
        """

    def describe(self) -> dict[str, Any]:
        """Return the maker as plain data, one entry; a run directory holds it."""

    def surprises(self, members: Members, steps: int) -> list[str]:
        """Return notes for a person before the sweep starts."""

    def converted(self, convert: Callable[[str, Any], Any]) -> Maker:
        """Return the maker whose parts are ``convert(name of the setting, part)``, a part being a name, an address or
        an object."""

    @property
    def name(self) -> str:
        """The name in messages about its programs; empty where their own messages are enough."""


@dataclass(frozen=True)
class FunctionMaker:
    """A program, or a function ``(**options) -> Program``.

    Attributes:
        given: the program, the function, or its address.
        options: values of the function's arguments that all members share.
    """

    given: Any
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        _ = self.defaults  # says what is wrong with the function

    @property
    def name(self) -> str:
        """The address, or the function's own name."""
        if isinstance(self.given, str):
            return self.given
        return addresses.name_of(self.given)

    @functools.cached_property
    def function(self) -> Program | Callable[..., Program]:
        """The program or the function itself."""
        found: object = addresses.load(self.given) if isinstance(self.given, str) else self.given
        if not isinstance(found, Program) and not callable(found):
            raise ValueError(
                f"program is {self.given!r}, which is {type(found).__name__}; expected an fcbp.Program or a function "
                "(**options) -> fcbp.Program"
            )
        return found

    @functools.cached_property
    def defaults(self) -> dict[str, Any]:
        """The function's options with their defaults; ``inspect.Parameter.empty`` where it has none."""
        if isinstance(self.function, Program):
            return {}
        parameters = inspect.signature(self.function).parameters.values()
        found = {p.name: p.default for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        for name in found:
            if name in RESERVED:
                raise ValueError(
                    f"program is {self.name!r}, whose option {name!r} is a dimension of the results; rename it"
                )
        return found

    def seed(self, settings: Mapping[str, Any]) -> int:
        seed: int = settings.get("seed", 0)
        return seed

    def key(self, settings: Mapping[str, Any]) -> Hashable:
        return tuple(sorted(self._options(settings).items()))

    def make(self, members: Sequence[Mapping[str, Any]], device: torch.device | str | None = None) -> Program:
        if isinstance(self.function, Program):
            return self.function
        options = self._options(members[0])
        missing = [n for n, default in self.defaults.items() if default is inspect.Parameter.empty and n not in options]
        if missing:
            raise ValueError(f"program is {self.name!r}, whose option {missing[0]!r} is not set; expected a value")
        try:
            made = self.function(**options)
        except ValueError as error:
            raise ValueError(f"program is {self.name!r}, which fails with {options}: {error}") from error
        except ImportError:
            raise  # which says what to install
        except Exception as error:
            raise ValueError(
                f"program is {self.name!r}, which fails with {options}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(made, Program):
            raise ValueError(
                f"program is {self.name!r}, which gives {type(made).__name__} with {options}; expected an fcbp.Program"
            )
        return made

    def numbers(self, settings: Mapping[str, Any]) -> dict[str, float]:
        shared = {n: v for n, v in self.options if n not in self.defaults}
        mine = {n: v for n, v in settings.items() if n != "seed" and n not in self.defaults}
        return {**shared, **mine}

    def shared(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**dict(self.options), **settings}

    def check(self, members: Members) -> None:
        for settings in members:
            seed = self.seed(settings)
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
                raise ValueError(f"seed is {seed!r}; expected a whole number, 0 or more and below 2^63")
            for name, value in self.numbers(settings).items():
                if isinstance(value, bool) or not isinstance(value, (int, float)):
                    raise ValueError(f"{name} is {value!r}; expected a number")
        programs = {self.key(settings): self.make([settings]) for settings in members}
        known = {name for program in programs.values() for name in program.numbers}
        for name in dict.fromkeys([*dict(self.options), *members.names()]):
            if name != "seed" and name not in known and name not in self.defaults:
                raise unknown("setting", name, {"seed", *known, *self.defaults})
        for settings in members:
            own = programs[self.key(settings)]
            own.settings(self.numbers(settings))

    def check_measured(self, members: Members, measured: set[str]) -> None:
        for name in sorted(measured):
            if name in (*RESERVED, *members.names(), *members.axes):
                raise ValueError(
                    f"program is {self.name!r}, which measures {name!r}, a dimension of the results; rename it"
                )

    def describe(self) -> dict[str, Any]:
        return {"program": {"program": self.name, **dict(self.options)}}

    def surprises(self, members: Members, steps: int) -> list[str]:
        return []

    def converted(self, convert: Callable[[str, Any], Any]) -> FunctionMaker:
        options = tuple((name, convert(name, value)) for name, value in self.options)
        return FunctionMaker(convert("program", self.given), options)

    def _options(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        given = {**dict(self.options), **settings}
        return {
            name: _object(given.get(name, default))
            for name, default in self.defaults.items()
            if name in given or default is not inspect.Parameter.empty
        }

    def __getstate__(self) -> dict[str, Any]:
        # Without what is looked up: a worker looks it up again.
        return {"given": self.given, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


def _object(value: Any) -> Any:
    """Return an option's value; of a function's address the function."""
    return addresses.load(value) if addresses.is_address(value) else value
