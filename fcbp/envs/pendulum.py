"""Pendulum: swing a pendulum up by a torque that is too weak to lift it, and hold it there."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.envs.base import Continuous, Environment, Number, Range, build

__all__ = ["PendulumPhysics", "PendulumState", "pendulum"]

SPEED_LIMIT = 8.0
"""The greatest angular velocity, in rad/s."""


class PendulumPhysics(NamedTuple):
    """The numbers of Pendulum's physics."""

    gravity: Number = 10.0
    """m/s^2."""
    mass: Number = 1.0
    """kg."""
    length: Number = 1.0
    """Metres."""
    torque_limit: Number = 2.0
    """The torque, in N m, that an action is clipped to."""
    gain: Number = 1.0
    """Torque for each N m of the clipped action; a negative one exchanges the directions."""
    friction: Number = 0.0
    """N m for each rad/s, against the movement."""
    time_step: Number = 0.05
    """Seconds."""


RANGES: dict[str, Range] = {
    "gravity": "finite",
    "mass": "positive",
    "length": "positive",
    "torque_limit": "not negative",
    "gain": "finite",
    "friction": "not negative",
    "time_step": "positive",
}


class PendulumState(NamedTuple):
    """State of Pendulum."""

    angle: Float[Tensor, ""]
    """Radians from the upright, with all the turns made since the reset."""
    angular_velocity: Float[Tensor, ""]
    """rad/s."""
    steps: Int32[Tensor, ""]
    """Steps since the reset."""


@arguments
def pendulum(*, time_limit: int | None = 200, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the pendulum of Gymnasium's ``Pendulum-v1``.

    The reward is ``-(angle^2 + 0.1 angular_velocity^2 + 0.001 torque^2)`` of the state before the step, the torque
    being the clipped action. Nothing terminates an episode. ``friction`` and ``gain``, which Gymnasium lacks, are 0 and
    1 by default.

    Args:
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of states and observations, ``torch.float32`` or ``torch.float64``.

    Returns:
        An environment with the observation ``(cos angle, sin angle, angular_velocity)`` and one action, the torque.

    Raises:
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is none of the two.

    Example:
        >>> import fcbp
        >>> environment = pendulum()
        >>> state = environment.reset(fcbp.random.key(0), environment.physics)
        >>> environment.step(state, torch.tensor([0.5]), environment.physics)[1].shape
        torch.Size([3])
    """

    def draw(key: Int64[Tensor, ""], physics: PendulumPhysics) -> PendulumState:
        angle, velocity = random.uniform(key, (2,), dtype, -1.0, 1.0).unbind()
        return PendulumState(angle * math.pi, velocity, torch.zeros_like(key, dtype=torch.int32))

    return build(
        "pendulum",
        draw=draw,
        move=_move,
        observe=_observe,
        physics=PendulumPhysics(),
        ranges=RANGES,
        drive="gain",
        observation_size=3,
        actions=Continuous((-2.0,), (2.0,)),
        time_limit=time_limit,
        dtype=dtype,
    )


def _observe(state: PendulumState, physics: PendulumPhysics) -> Float[Tensor, "3"]:
    return torch.stack([state.angle.cos(), state.angle.sin(), state.angular_velocity])


def _move(
    state: PendulumState, action: Float[Tensor, "1"], physics: PendulumPhysics
) -> tuple[PendulumState, Tensor, Tensor]:
    angle, velocity = state.angle, state.angular_velocity
    limit = angle.new_zeros(()) + physics.torque_limit
    torque = torch.minimum(torch.maximum(action[0].to(angle.dtype), -limit), limit)
    from_upright = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
    cost = from_upright.square() + 0.1 * velocity.square() + 0.001 * torque.square()
    turning = physics.gain * torque - physics.friction * velocity
    acceleration = 3 * physics.gravity / (2 * physics.length) * angle.sin()
    acceleration = acceleration + 3.0 / (physics.mass * physics.length**2) * turning
    velocity = (velocity + acceleration * physics.time_step).clamp(-SPEED_LIMIT, SPEED_LIMIT)
    moved = state._replace(angle=angle + velocity * physics.time_step, angular_velocity=velocity)
    return moved, -cost, torch.zeros_like(cost, dtype=torch.bool)
