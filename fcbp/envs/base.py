"""The record of an environment, and the parts that all environments have in common."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import optree
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fcbp.checks import arguments, shown
from fcbp.concrete import is_concrete
from fcbp.kinds import PyTree
from fcbp.names import check_option

__all__ = [
    "Actions",
    "Continuous",
    "Discrete",
    "Environment",
    "Number",
    "Range",
    "Transition",
    "build",
    "check_physics",
    "check_whole",
    "step_and_reset",
]

Number = float | Tensor

Range = Literal["finite", "positive", "not negative", "not zero"]

_HOLDS: dict[Range, tuple[str, Callable[[float], bool]]] = {
    "finite": ("a finite number", lambda x: True),
    "positive": ("a number above 0", lambda x: x > 0),
    "not negative": ("a number, 0 or more", lambda x: x >= 0),
    "not zero": ("a number other than 0", lambda x: x != 0),
}


class Discrete(NamedTuple):
    """Actions ``0 .. n - 1``, each a 0-d integer tensor."""

    n: int

    @property
    def size(self) -> int:
        """Numbers that a policy gives for one observation: a logit for each action."""
        return self.n


class Continuous(NamedTuple):
    """Actions ``(size,)`` of floating-point numbers; an environment clips them to its bounds."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def size(self) -> int:
        """Dimensions of an action."""
        return len(self.low)


Actions = Discrete | Continuous


class Transition(NamedTuple):
    """One step of an environment that begins anew by itself, as :func:`step_and_reset` gives it."""

    observation: Float[Tensor, "observation"]
    """The observation that the next action is chosen by: after an ending, the first of the new episode."""
    reward: Float[Tensor, ""]
    terminated: Bool[Tensor, ""]
    """Whether the episode came to an ending of the problem, after which no reward follows."""
    truncated: Bool[Tensor, ""]
    """Whether the episode was cut off by its time limit."""
    final_observation: Float[Tensor, "observation"]
    """The observation at the end of this step, before a reset; its value is what a truncated episode lacks."""


@dataclass(frozen=True, eq=False)
class Environment:
    """An environment as pure functions of one copy of it; ``torch.vmap`` them for many.

    ``state`` is a NamedTuple of tensors with a field ``steps``, the steps since the reset. ``physics`` is a NamedTuple
    of numbers, each a ``float`` or a 0-d tensor, so that each member of a population may have its own.
    """

    name: str
    reset: Callable[..., Any] = field(repr=False)
    """``reset(key, physics) -> state``, the state at the start of an episode."""
    step: Callable[..., tuple[Any, Tensor, Tensor, Tensor, Tensor]] = field(repr=False)
    """``step(state, action, physics) -> (state, observation, reward, terminated, truncated)``."""
    observe: Callable[..., Tensor] = field(repr=False)
    """``observe(state, physics) -> observation``, ``(observation_size,)``."""
    physics: Any
    """The numbers of the physics, with their defaults."""
    ranges: Mapping[str, Range] = field(repr=False)
    """The range of each number of the physics."""
    drive: str = field(repr=False)
    """The number of the physics whose sign says in which direction an action acts."""
    observation_size: int
    actions: Actions
    time_limit: int | None
    """Steps after which an episode is truncated; ``None`` for no limit."""


def check_whole(name: str, value: object, *, optional: bool = False) -> None:
    """Check a number of steps.

    Raises:
        ValueError: it is no whole number, or below 1.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        words = "a whole number of steps, 1 or more"
        raise ValueError(f"{name} is {value!r}; expected {words}{', or None' if optional else ''}")


@arguments
def check_physics(environment: Environment, physics: PyTree) -> None:
    """Check the numbers of the physics, as far as they can be read: not those that are vmapped or traced.

    Args:
        environment: whose physics they are.
        physics: a NamedTuple of the type of ``environment.physics``.

    Raises:
        ValueError: ``physics`` is of another type, or a number is out of its range.

    Example:
        >>> import fcbp
        >>> cartpole = fcbp.envs.get("cartpole")
        >>> check_physics(cartpole, cartpole.physics._replace(pole_mass=-1.0))
        Traceback (most recent call last):
        ValueError: physics.pole_mass is -1.0; expected a number above 0
    """
    _check_physics(physics, environment.physics, environment.ranges)


def _check_physics(physics: Any, defaults: Any, ranges: Mapping[str, Range]) -> None:
    if type(physics) is not type(defaults):
        raise ValueError(f"physics is {shown(physics)}; expected {type(defaults).__name__}")
    for name, value in zip(physics._fields, physics, strict=True):
        words, holds = _HOLDS[ranges[name]]
        if isinstance(value, Tensor):
            if value.ndim or not value.is_floating_point():
                raise ValueError(f"physics.{name} is {shown(value)}; expected {words}, or a 0-d tensor (vmap it)")
            if not is_concrete(value):
                continue
            value = value.item()
        elif isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"physics.{name} is {shown(value)}; expected {words}")
        if not math.isfinite(value) or not holds(value):
            raise ValueError(f"physics.{name} is {value}; expected {words}")


def _check_action(action: Any, actions: Actions) -> None:
    if isinstance(actions, Discrete):
        words = f"a 0-d integer tensor from 0 to {actions.n - 1}"
        whole = isinstance(action, Tensor) and not (action.is_floating_point() or action.is_complex())
        if not whole or action.dtype == torch.bool or action.ndim:
            raise ValueError(f"action is {shown(action)}; expected {words}")
        if is_concrete(action) and not 0 <= int(action) < actions.n:
            raise ValueError(f"action is {int(action)}; expected {words}")
    elif not isinstance(action, Tensor) or not action.is_floating_point() or action.shape != (actions.size,):
        raise ValueError(f"action is {shown(action)}; expected a floating-point tensor ({actions.size},)")


def _in_dtype(physics: Any, dtype: torch.dtype) -> Any:
    """Return the physics in a dtype, so that a state keeps its own."""
    return type(physics)(*(value.to(dtype) if isinstance(value, Tensor) else float(value) for value in physics))


@arguments
def build(
    name: str,
    *,
    draw: Callable[[Int64[Tensor, ""], Any], Any],
    move: Callable[[Any, Tensor, Any], tuple[Any, Tensor, Tensor]],
    observe: Callable[[Any, Any], Tensor],
    physics: PyTree,
    ranges: Mapping[str, Range],
    drive: str,
    observation_size: int,
    actions: Actions,
    time_limit: int | None,
    dtype: torch.dtype = torch.float32,
) -> Environment:
    """Build an environment from its movement alone: the checks, the count of the steps and the time limit are added.

    Args:
        name: of the environment.
        draw: ``draw(key, physics) -> state``, a NamedTuple whose field ``steps`` is 0.
        move: ``move(state, action, physics) -> (state, reward, terminated)``; it leaves ``steps`` alone. Tensors of
            ``physics`` come in ``dtype``.
        observe: ``observe(state, physics) -> observation``.
        physics: a NamedTuple of the numbers, with their defaults.
        ranges: for each number of the physics its range.
        drive: the number whose sign says in which direction an action acts.
        observation_size: numbers of an observation.
        actions: the space of the actions.
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of states and observations.

    Raises:
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is not one of two; ``ranges`` does not
            name the numbers of ``physics``.
    """
    check_whole("time_limit", time_limit, optional=True)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype is {dtype!r}; expected torch.float32 or torch.float64")
    if set(ranges) != set(physics._fields):
        raise ValueError(f"ranges has {sorted(ranges)}; expected the numbers of physics: {', '.join(physics._fields)}")
    for given in ranges.values():
        check_option("ranges", given, Range)

    def reset(key: Int64[Tensor, ""], physics: Any) -> Any:
        _check_physics(physics, defaults, ranges)
        return draw(key, physics)

    def step(state: Any, action: Tensor, physics: Any) -> tuple[Any, Tensor, Tensor, Tensor, Tensor]:
        _check_physics(physics, defaults, ranges)
        _check_action(action, actions)
        physics = _in_dtype(physics, dtype)
        moved, reward, terminated = move(state, action, physics)
        moved = moved._replace(steps=state.steps + 1)
        truncated = moved.steps >= time_limit if time_limit is not None else torch.zeros_like(terminated)
        return moved, observe(moved, physics), reward, terminated, truncated

    defaults = physics
    return Environment(name, reset, step, observe, physics, ranges, drive, observation_size, actions, time_limit)


@arguments
def step_and_reset(
    environment: Environment, key: Int64[Tensor, ""], state: PyTree, action: Tensor, physics: PyTree
) -> tuple[Any, Transition]:
    """Take one step, and begin a new episode where one has ended.

    Args:
        environment: the environment.
        key: of the new episode; give another one at each step. A key that is not needed is left unused.
        state: the state before the step.
        action: the action.
        physics: the numbers of the physics.

    Returns:
        The state after the step, and the :class:`Transition`.

    Raises:
        ValueError: ``state`` is of another type than those of the environment.

    Example:
        >>> import torch, fcbp
        >>> cartpole = fcbp.envs.get("cartpole", time_limit=1)
        >>> keys = fcbp.random.split(fcbp.random.key(0))
        >>> state = cartpole.reset(keys[0], cartpole.physics)
        >>> state, transition = step_and_reset(cartpole, keys[1], state, torch.tensor(1), cartpole.physics)
        >>> int(state.steps), bool(transition.truncated)
        (0, True)
    """
    fresh = environment.reset(key, physics)
    if type(state) is not type(fresh):
        raise ValueError(f"state is {shown(state)}; expected a {type(fresh).__name__}, such as reset and step give")
    moved, final, reward, terminated, truncated = environment.step(state, action, physics)
    ended = terminated | truncated
    state = optree.tree_map(lambda new, old: torch.where(ended, new.to(old.dtype), old), fresh, moved)
    # Both are observed: an observation may be of more than the state, such as of the last movement.
    observation = torch.where(ended, environment.observe(fresh, physics).to(final.dtype), final)
    return state, Transition(observation, reward, terminated, truncated, final)
