"""Designs: which members a sweep has.

>>> import fcbp
>>> len(fcbp.grid(seed=range(3), replacement_rate=[0.0, 1e-2]))
6
>>> design = fcbp.designs.sobol(8, seed=range(3), step_size=log(1e-3, 1e-1), activation=["relu", "tanh"])
>>> len(design), dict(design.axes)
(24, {'setting': (0, 1, 2, 3, 4, 5, 6, 7), 'seed': (0, 1, 2)})
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from fcbp import random as prng
from fcbp.checks import arguments
from fcbp.kinds import shown

__all__ = ["Members", "Range", "grid", "linear", "listed", "log", "paired", "random", "sobol"]


MOST = 1_000_000
"""Members of a sweep at most: it lists them before it starts, which for more takes minutes and much memory."""


@dataclass(frozen=True)
class Members:
    """The members of a sweep.

    Attributes:
        axes: the dimensions of the results with their values: swept names, ``"member"``, or ``"setting"``.
        settings: for each member what it sets; in row-major order of ``axes``.
    """

    axes: Mapping[str, tuple[Any, ...]]
    settings: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.settings)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.settings)

    def names(self) -> list[str]:
        """List the names that any member sets."""
        return list(dict.fromkeys(name for settings in self.settings for name in settings))

    def coordinates(self) -> dict[str, tuple[str, tuple[Any, ...]]]:
        """Return the dimension and the values of every axis, and of every setting that is no axis.

        Along ``"member"`` and ``"setting"`` a value is ``None`` where a member does not set it.
        """
        found = {name: (name, values) for name, values in self.axes.items()}
        for axis in {"member", "setting"} & set(self.axes):
            place = list(self.axes).index(axis)
            after = math.prod(len(values) for values in list(self.axes.values())[place + 1 :])
            # The members whose other coordinates are all the first.
            rows = [self.settings[i * after] for i in range(len(self.axes[axis]))]
            for name in self.names():
                found.setdefault(name, (axis, tuple(row.get(name) for row in rows)))
        return found


@dataclass(frozen=True)
class Range:
    """The range that a design draws a setting from; see :func:`linear` and :func:`log`."""

    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low is {self.low!r} and high {self.high!r}; expected two finite numbers, low below high")
        if self.logarithmic and self.low <= 0:
            raise ValueError(f"low is {self.low!r}; expected positive numbers for a logarithmic one")

    def at(self, part: float) -> float:
        """Return the value at a place between 0 and 1."""
        if self.logarithmic:
            value = math.exp(math.log(self.low) + part * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + part * (self.high - self.low)
        return round(value) if self.whole else value


@arguments
def linear(low: float, high: float, *, whole: bool = False) -> Range:
    """Return values from ``low`` to ``high``, equally likely; ``whole`` rounds them."""
    return Range(low, high, whole=whole)


@arguments
def log(low: float, high: float, *, whole: bool = False) -> Range:
    """Return values from ``low`` to ``high`` whose logarithms are equally likely; ``whole`` rounds them."""
    return Range(low, high, logarithmic=True, whole=whole)


@arguments
def grid(**values: object) -> Members:
    """Return the cartesian product of settings; a value alone stands for itself.

    Args:
        values: settings of :class:`fcbp.experiment.Experiment`, each a value or several.

    Raises:
        ValueError: a setting has no values, or one value twice.

    Example:
        >>> list(grid(seed=range(2), step_size=0.1))
        [{'seed': 0, 'step_size': 0.1}, {'seed': 1, 'step_size': 0.1}]
    """
    axes = _axes(values)
    _check_product(axes)
    return Members(axes, tuple(dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())))


@arguments
def paired(**values: object) -> Members:
    """Put settings side by side, as ``zip`` does: the first member takes every first value, and so on.

    Raises:
        ValueError: the settings have different numbers of values, or none; two members are the same.

    Example:
        >>> list(paired(seed=[0, 1], step_size=[0.1, 0.01]))
        [{'seed': 0, 'step_size': 0.1}, {'seed': 1, 'step_size': 0.01}]
    """
    columns = {name: _several(name, value) for name, value in values.items()}
    if not columns:
        raise ValueError("paired() has no settings; expected at least one, such as seed=range(3)")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"members have different lengths: {lengths}; expected one value of each for every member")
    rows = tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    _check_different("members", rows)
    return Members({"member": tuple(range(len(rows)))}, rows)


@arguments
def listed(settings: Iterable[Mapping[str, Any]], **crossed: object) -> Members:
    """List settings one by one, each with every value of the settings ``crossed`` with them, most often the seeds.

    Raises:
        ValueError: there are no settings, two are the same, or one sets what is crossed.

    Example:
        >>> members = listed([{"method": "bp"}, {"method": "cbp", "replacement_rate": 1e-4}], seed=range(30))
        >>> dict(members.axes)["setting"], len(members)
        ((0, 1), 60)
    """
    rows = tuple({name: plain(value) for name, value in row.items()} for row in settings)
    if not rows:
        raise ValueError("settings is empty; expected at least one, such as [{'method': 'cbp'}]")
    _check_different("settings", rows)
    axes = _axes(crossed)
    for name in axes:
        if any(name in row for row in rows):
            raise ValueError(f"{name} is crossed and in settings; expected it in one of them")
    _check_product({"settings": rows, **axes})
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    members = tuple({**row, **point} for row in rows for point in points)
    return Members({"setting": tuple(range(len(rows))), **axes}, members)


@arguments
def random(number: int, *, key: int = 0, seed: object = 0, **values: object) -> Members:
    """Draw settings at random, each for every seed.

    Args:
        number: how many settings.
        key: of the draws; not the members' seeds.
        seed: the seeds that every setting is run with, a value or several.
        values: for a setting a range (:func:`linear`, :func:`log`), several values to choose from, or one value.

    Raises:
        ValueError: ``number`` is no positive whole number, nothing varies, or two settings came out the same.

    Example:
        >>> members = random(4, seed=range(2), step_size=log(1e-3, 1e-1), replacement_rate=linear(0.0, 1e-3))
        >>> len(members)
        8
    """
    return _drawn(
        number, seed, values, lambda n, width: prng.uniform(prng.key(key), (n, width), torch.float64).contiguous()
    )


@arguments
def sobol(number: int, *, key: int = 0, seed: object = 0, **values: object) -> Members:
    """Draw settings as :func:`random`, but so that they fill the space more evenly: a scrambled Sobol sequence (Owen,
    1998).

    It is balanced where ``number`` is a power of two.

    Args:
        number: settings drawn.
        key: of the scrambling.
        seed: one seed or several, crossed with the settings.
        **values: by setting: a range, several values, or one.

    Raises:
        ValueError: as for :func:`random`.
    """

    def places(n: int, width: int) -> Float64[Tensor, "n width"]:
        return torch.quasirandom.SobolEngine(width, scramble=True, seed=key).draw(n, dtype=torch.float64)

    return _drawn(number, seed, values, places)


def _drawn(number: int, seed: Any, values: Mapping[str, Any], places: Any) -> Members:
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST:
        raise ValueError(f"number is {shown(number)}; expected a whole number of settings, 1 or more, at most {MOST:,}")
    _check_product({"number": range(number), "seed": _several("seed", seed)})
    choices = {n: value if isinstance(value, Range) else _several(n, value) for n, value in values.items()}
    if not any(isinstance(choice, Range) or len(choice) > 1 for choice in choices.values()):
        raise ValueError("nothing varies; expected a setting with a range, such as step_size=log(1e-3, 1e-1)")
    rows = [
        {
            name: choice.at(place) if isinstance(choice, Range) else choice[int(place * len(choice))]
            for (name, choice), place in zip(choices.items(), row, strict=True)
        }
        for row in places(number, len(choices)).tolist()
    ]
    return listed(rows, seed=seed)


def _check_different(what: str, rows: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[Any, int] = {}
    for row in rows:
        point = tuple(sorted(row.items()))
        seen[point] = seen.get(point, 0) + 1
    for point, times in seen.items():
        if times > 1:
            raise ValueError(f"{what} are {dict(point)} {times} times; expected different {what}")


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """Return the values of a setting, as plain Python data."""
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    alone = isinstance(value, (str, bytes)) or not isinstance(value, Iterable)
    values = tuple(plain(v) for v in itertools.islice([value] if alone else value, MOST + 1))
    if not values:
        raise ValueError(f"{name} is {value!r}; expected at least one value")
    if len(values) > MOST:
        raise ValueError(f"{name} is {shown(value)}; expected at most {MOST:,} values")
    for seed in values if name == "seed" else ():
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
            raise ValueError(f"seed is {shown(seed)}; expected a whole number, 0 or more and below 2^63")
    for part in values:
        if isinstance(part, (Mapping, Set)) or (isinstance(part, float) and math.isnan(part)):
            raise ValueError(f"{name} is {shown(part)}; expected a setting's value")
    return values


def _check_product(axes: Mapping[str, Sequence[Any]]) -> None:
    """Check that settings crossed with one another are not too many members."""
    number = math.prod(map(len, axes.values()))
    if number > MOST:
        names, sizes = " and ".join(axes), " x ".join(f"{len(axis):,}" for axis in axes.values())
        raise ValueError(f"{names} are {sizes} values, {number:,} members; expected at most {MOST:,}")


def plain(value: Any) -> Any:
    """Turn a number of NumPy's or torch's into Python's, and a list, such as the units of several layers, into a
    tuple."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):  # a named tuple is an object: a stream
        return tuple(map(plain, value))
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 else value
    return value.item() if isinstance(value, np.generic) else value


def _axes(values: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    axes = {name: _several(name, value) for name, value in values.items()}
    for name, axis in axes.items():
        if len(set(axis)) < len(axis):
            raise ValueError(f"{name} is {list(axis)}; expected different values")
    return axes
