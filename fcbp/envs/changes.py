"""Rules of the change of an environment from level to level: apart from the environment, pure functions of a key.

>>> import torch, fcbp
>>> cartpole = fcbp.envs.get("cartpole")
>>> change = physics(cartpole, period=1000, number="gravity", low=5.0, high=20.0)
>>> key = fcbp.random.key(0)
>>> level = change.level(torch.tensor(2500))
>>> level, change.physics(cartpole.physics, key, level).gravity
(tensor(2), tensor(...))
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments, shown
from fcbp.envs.base import Environment, Number, check_physics, check_whole
from fcbp.names import check_option, lookup, unknown

__all__ = ["CHANGES", "Change", "get", "none", "offset", "physics", "sign"]

Scale = Literal["log", "linear"]


def _same(value: Any, key: Int64[Tensor, ""], level: Int[Tensor, ""]) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class Change:
    """A rule by which an environment changes: pure functions of a key and a level.

    The key is that of the whole run, the same at every level. Levels count from 0.
    """

    name: str
    period: int | None
    """Steps of a level; ``None`` where nothing changes."""
    physics: Callable[[Any, Int64[Tensor, ""], Int[Tensor, ""]], Any] = field(default=_same, repr=False)
    """``physics(physics, key, level) -> physics``: the numbers of the physics at a level."""
    observation: Callable[[Tensor, Int64[Tensor, ""], Int[Tensor, ""]], Tensor] = field(default=_same, repr=False)
    """``observation(observation, key, level) -> observation``: an observation as it is seen at a level."""

    def level(self, step: Int[Tensor, ""]) -> Int[Tensor, ""]:
        """Return the level that a step lies in, the steps counted from 0."""
        return torch.zeros_like(step) if self.period is None else step // self.period


@arguments
def none(environment: Environment, *, period: int | None = None) -> Change:
    """Return the rule of an environment that stays as it is.

    Args:
        environment: the environment.
        period: steps of a level, where levels are counted all the same.

    Raises:
        ValueError: ``period`` is no whole number, or below 1.

    Example:
        >>> import fcbp
        >>> none(fcbp.envs.get("cartpole"))
        Change(name='none', period=None)
    """
    check_whole("period", period, optional=True)
    return Change("none", period)


@arguments
def offset(environment: Environment, *, period: int, std: Number = 2.0) -> Change:
    """Add a constant to each coordinate of the observation, drawn anew for each level; level 0 has none.

    The offsets of a level are independent normal draws. The rule of continual Gym control, with a standard deviation of
    2: Muppidi et al. (TRAC, NeurIPS 2024, arXiv 2405.16642) and Tang et al. (C-CHAIN, ICML 2025).

    Args:
        environment: whose observations are shifted.
        period: steps of a level.
        std: standard deviation of an offset, a number or a 0-d tensor.

    Raises:
        ValueError: ``period`` is no whole number, or below 1; ``std`` is not above 0.

    Example:
        >>> import fcbp
        >>> change = offset(fcbp.envs.get("cartpole"), period=100)
        >>> change.observation(torch.zeros(4), fcbp.random.key(0), torch.tensor(0))
        tensor([0., 0., 0., 0.])
        >>> change.observation(torch.zeros(4), fcbp.random.key(0), torch.tensor(1))
        tensor([...])
    """
    check_whole("period", period)
    if not isinstance(std, Tensor) and not (_is_number(std) and 0 < std < math.inf):
        raise ValueError(f"std is {shown(std)}; expected a number above 0 (a change of 0 changes nothing)")

    def shifted(observation: Float[Tensor, "n"], key: Int64[Tensor, ""], level: Int[Tensor, ""]) -> Float[Tensor, "n"]:
        drawn = random.normal(random.fold_in(key, level), observation.shape, observation.dtype)
        shift = drawn * (std.to(observation.dtype) if isinstance(std, Tensor) else float(std))
        return observation + torch.where(level > 0, shift, torch.zeros_like(shift))

    return Change("offset", period, observation=shifted)


@arguments
def physics(
    environment: Environment, *, period: int, number: str, low: float, high: float, scale: Scale = "log"
) -> Change:
    """Draw a number of the physics anew for each level, the first one included.

    With ``"friction"`` from 0.02 to 2 this is the rule of Slippery Ant of Dohare et al. (Nature 2024).

    Args:
        environment: whose physics change.
        period: steps of a level.
        number: a number of ``environment.physics``.
        low: the least value.
        high: the value that draws stay below.
        scale: ``"log"``: the logarithm is uniform; ``"linear"``: the number is.

    Raises:
        ValueError: ``period`` is no whole number, or below 1; the environment has no such number; ``low`` and ``high``
            are out of its range, equal, or in descending order; ``scale`` is unknown, or ``"log"`` with a ``low`` that
            is not above 0.

    Example:
        >>> import fcbp
        >>> change = physics(fcbp.envs.get("cartpole"), period=100, number="force", low=2.0, high=20.0)
        >>> change.physics(fcbp.envs.get("cartpole").physics, fcbp.random.key(0), torch.tensor(3)).force
        tensor(...)
    """
    check_whole("period", period)
    _check_number(environment, number)
    for name, value in (("low", low), ("high", high)):
        if not _is_number(value) or not math.isfinite(value):
            raise ValueError(f"{name} is {shown(value)}; expected a finite number")
        try:
            check_physics(environment, environment.physics._replace(**{number: value}))
        except ValueError as error:
            raise ValueError(f"{name} is {value!r}, and {error}") from None
    if not low < high:
        raise ValueError(f"high is {high!r}; expected more than low, {low!r} (a range of one value changes nothing)")
    check_option("scale", scale, Scale)
    if scale == "log" and low <= 0:
        raise ValueError(f"low is {low!r}; expected a number above 0, or scale='linear'")

    def drawn(physics: Any, key: Int64[Tensor, ""], level: Int[Tensor, ""]) -> Any:
        # Computed in float64 and rounded: the exponential functions of different compilers differ in the last place.
        unit = random.uniform(random.fold_in(key, level), (), torch.float64)
        value = low + (high - low) * unit if scale == "linear" else low * torch.exp(unit * math.log(high / low))
        return physics._replace(**{number: value.to(torch.float32)})

    return Change("physics", period, physics=drawn)


@arguments
def sign(environment: Environment, *, period: int, number: str | None = None) -> Change:
    """Flip the sign of a number of the physics at each level: plain at levels 0, 2, ..., flipped at levels 1, 3, ...

    Nothing is drawn: with a drawn sign half of the changes would be none.

    Args:
        environment: whose physics change.
        period: steps of a level.
        number: a number of ``environment.physics``; by default the one whose sign says in which direction an action
            acts.

    Raises:
        ValueError: ``period`` is no whole number, or below 1; the environment has no such number, or it cannot be
            negative, or its default is 0.

    Example:
        >>> import fcbp
        >>> cartpole = fcbp.envs.get("cartpole")
        >>> change = sign(cartpole, period=100)
        >>> change.physics(cartpole.physics, fcbp.random.key(0), torch.tensor(1)).force
        tensor(-10.)
    """
    check_whole("period", period)
    name = environment.drive if number is None else number
    _check_number(environment, name)
    default = float(getattr(environment.physics, name))
    if environment.ranges[name] in ("positive", "not negative"):
        raise ValueError(f"number is {name!r}, which cannot be negative; expected one such as {environment.drive!r}")
    if default == 0:
        raise ValueError(f"number is {name!r}, which is 0; expected one such as {environment.drive!r} (-0 is 0)")

    def flipped(physics: Any, key: Int64[Tensor, ""], level: Int[Tensor, ""]) -> Any:
        value = getattr(physics, name)
        dtype = value.dtype if isinstance(value, Tensor) else torch.float32
        direction = (1 - 2 * (level % 2)).to(dtype)
        return physics._replace(**{name: direction * value})

    return Change("sign", period, physics=flipped)


CHANGES: dict[str, Callable[..., Change]] = {"none": none, "offset": offset, "physics": physics, "sign": sign}
"""The functions ``(environment, *, period, ...) -> Change`` by name."""


@arguments
def get(change: str | Change, environment: Environment, **options: object) -> Change:
    """Look a rule of change up by its name; a rule is given back as it is.

    Args:
        change: a name of :data:`CHANGES`, or a :class:`Change`.
        environment: the environment that changes.
        **options: of the function that makes the rule, such as ``period``.

    Raises:
        ValueError: the name is unknown, ``change`` is no rule, or a rule is given with options.

    Example:
        >>> import fcbp
        >>> get("offset", fcbp.envs.get("cartpole"), period=160_000)
        Change(name='offset', period=160000)
    """
    if isinstance(change, Change):
        if options:
            raise ValueError(f"change is {change!r} with {sorted(options)}; expected a name with options")
        return change
    return lookup("change", change, CHANGES)(environment, **options)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_number(environment: Environment, number: Any) -> None:
    if not isinstance(number, str) or number not in environment.physics._fields:
        raise unknown("number", number, environment.physics._fields)
