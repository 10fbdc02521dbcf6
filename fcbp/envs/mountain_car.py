"""MountainCar: drive out of a valley with an engine that is weaker than gravity, by discrete or continuous actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.envs.base import Continuous, Discrete, Environment, Number, Range, build

__all__ = [
    "ContinuousMountainCarPhysics",
    "MountainCarPhysics",
    "MountainCarState",
    "continuous_mountain_car",
    "mountain_car",
]

LOWEST, HIGHEST = -1.2, 0.6
"""The bounds of the position."""
SPEED_LIMIT = 0.07
"""The greatest speed, in units of the position for each step."""
GOAL = 0.5
"""The position at which an episode terminates."""
CONTINUOUS_GOAL = 0.45
"""The position at which an episode of the continuous problem terminates."""


class MountainCarPhysics(NamedTuple):
    """The numbers of MountainCar's physics, in units of the position and of steps."""

    gravity: Number = 0.0025
    force: Number = 0.001
    """The engine's force, with action 0 to the left and with action 2 to the right; a negative force exchanges the
    two."""
    friction: Number = 0.0
    """The share of the velocity that is lost with each step."""


class ContinuousMountainCarPhysics(NamedTuple):
    """The numbers of the continuous MountainCar's physics, in units of the position and of steps."""

    gravity: Number = 0.0025
    force: Number = 0.0015
    """The engine's force at an action of 1; a negative force exchanges the directions."""
    friction: Number = 0.0
    """The share of the velocity that is lost with each step."""


RANGES: dict[str, Range] = {"gravity": "finite", "force": "finite", "friction": "not negative"}


class MountainCarState(NamedTuple):
    """State of MountainCar."""

    position: Float[Tensor, ""]
    velocity: Float[Tensor, ""]
    steps: Int32[Tensor, ""]
    """Steps since the reset."""


@arguments
def mountain_car(*, time_limit: int | None = 200, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the car in a valley of Moore (1990), as Gymnasium's ``MountainCar-v0``.

    Action 0 drives to the left, 1 rolls, 2 drives to the right. Each step costs 1. An episode terminates at position
    0.5. ``friction``, which Gymnasium lacks, is 0 by default.

    Args:
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of states and observations, ``torch.float32`` or ``torch.float64``.

    Returns:
        An environment with the observation ``(position, velocity)`` and 3 actions.

    Raises:
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is none of the two.

    Example:
        >>> import fcbp
        >>> environment = mountain_car()
        >>> state = environment.reset(fcbp.random.key(0), environment.physics)
        >>> environment.step(state, torch.tensor(2), environment.physics)[2]
        tensor(-1.)
    """

    def move(
        state: MountainCarState, action: Int64[Tensor, ""], physics: MountainCarPhysics
    ) -> tuple[MountainCarState, Tensor, Tensor]:
        moved = _roll(state, (action - 1).to(state.position.dtype), physics)
        terminated = (moved.position >= GOAL) & (moved.velocity >= 0)
        return moved, -torch.ones_like(moved.position), terminated

    return build(
        "mountain-car",
        draw=_draw_in(dtype),
        move=move,
        observe=_observe,
        physics=MountainCarPhysics(),
        ranges=RANGES,
        drive="force",
        observation_size=2,
        actions=Discrete(3),
        time_limit=time_limit,
        dtype=dtype,
    )


@arguments
def continuous_mountain_car(*, time_limit: int | None = 999, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the car in a valley with a continuous action, as Gymnasium's ``MountainCarContinuous-v0``.

    A step costs ``0.1 action^2``, of the action before it is clipped to [-1, 1]; the last step, at position 0.45, gives
    100. Gymnasium keeps this state in float32 whatever the actions are.

    Args:
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of states and observations, ``torch.float32`` or ``torch.float64``.

    Returns:
        An environment with the observation ``(position, velocity)`` and one action, the engine's force.

    Raises:
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is none of the two.

    Example:
        >>> import fcbp
        >>> environment = continuous_mountain_car()
        >>> state = environment.reset(fcbp.random.key(0), environment.physics)
        >>> environment.step(state, torch.tensor([0.5]), environment.physics)[2]
        tensor(-0.0250)
    """

    def move(
        state: MountainCarState, action: Float[Tensor, "1"], physics: ContinuousMountainCarPhysics
    ) -> tuple[MountainCarState, Tensor, Tensor]:
        drive = action[0].to(state.position.dtype)
        moved = _roll(state, drive.clamp(-1.0, 1.0), physics)
        terminated = (moved.position >= CONTINUOUS_GOAL) & (moved.velocity >= 0)
        return moved, 100.0 * terminated.to(drive.dtype) - drive.square() * 0.1, terminated

    return build(
        "continuous-mountain-car",
        draw=_draw_in(dtype),
        move=move,
        observe=_observe,
        physics=ContinuousMountainCarPhysics(),
        ranges=RANGES,
        drive="force",
        observation_size=2,
        actions=Continuous((-1.0,), (1.0,)),
        time_limit=time_limit,
        dtype=dtype,
    )


def _draw_in(dtype: torch.dtype) -> Callable[[Tensor, Any], MountainCarState]:
    def draw(key: Int64[Tensor, ""], physics: Any) -> MountainCarState:
        position = random.uniform(key, (), dtype, -0.6, -0.4)
        return MountainCarState(position, torch.zeros_like(position), torch.zeros_like(key, dtype=torch.int32))

    return draw


def _observe(state: MountainCarState, physics: Any) -> Float[Tensor, "2"]:
    return torch.stack([state.position, state.velocity])


def _roll(
    state: MountainCarState, drive: Float[Tensor, ""], physics: MountainCarPhysics | ContinuousMountainCarPhysics
) -> MountainCarState:
    """Move the car by one step; it stops dead at the lowest position."""
    push = drive * physics.force - physics.gravity * (3 * state.position).cos() - physics.friction * state.velocity
    velocity = (state.velocity + push).clamp(-SPEED_LIMIT, SPEED_LIMIT)
    position = (state.position + velocity).clamp(LOWEST, HIGHEST)
    stopped = (position <= LOWEST) & (velocity < 0)
    return state._replace(position=position, velocity=torch.where(stopped, torch.zeros_like(velocity), velocity))
