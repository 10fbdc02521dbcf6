"""Acrobot: swing the free end of two links up by a torque at the joint between them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.envs.base import Discrete, Environment, Number, Range, build

__all__ = ["AcrobotPhysics", "AcrobotState", "acrobot"]

SPEED_LIMITS = (4 * math.pi, 9 * math.pi)
"""The greatest angular velocities of the two links, in rad/s."""

Angles = tuple[Tensor, ...]
"""The two angles and their velocities."""


class AcrobotPhysics(NamedTuple):
    """The numbers of Acrobot's physics."""

    gravity: Number = 9.8
    """m/s^2."""
    length_1: Number = 1.0
    """Metres, of the first link. That of the second acts through ``center_2`` alone."""
    mass_1: Number = 1.0
    """kg, of the first link."""
    mass_2: Number = 1.0
    """kg, of the second link."""
    center_1: Number = 0.5
    """Metres from the first link's upper end to its centre of mass."""
    center_2: Number = 0.5
    """Metres from the second link's upper end to its centre of mass."""
    inertia: Number = 1.0
    """kg m^2, of each link about its centre of mass."""
    torque: Number = 1.0
    """N m, positive with action 2 and negative with action 0; a negative torque exchanges the two."""
    friction: Number = 0.0
    """N m for each rad/s, at both joints, against the movement."""
    time_step: Number = 0.2
    """Seconds."""


RANGES: dict[str, Range] = {
    "gravity": "finite",
    "length_1": "positive",
    "mass_1": "positive",
    "mass_2": "positive",
    "center_1": "positive",
    "center_2": "positive",
    "inertia": "positive",
    "torque": "finite",
    "friction": "not negative",
    "time_step": "positive",
}


class AcrobotState(NamedTuple):
    """State of Acrobot."""

    angle_1: Float[Tensor, ""]
    """Angle of the first link, in radians from hanging down."""
    angle_2: Float[Tensor, ""]
    """Angle of the second link, in radians from the direction of the first."""
    velocity_1: Float[Tensor, ""]
    """rad/s."""
    velocity_2: Float[Tensor, ""]
    """rad/s."""
    steps: Int32[Tensor, ""]
    """Steps since the reset."""


@arguments
def acrobot(*, time_limit: int | None = 500, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the two-link robot of Sutton (1996), as Gymnasium's ``Acrobot-v1``, by the equations of Sutton and Barto's
    book.

    Action 0 applies a negative torque, 1 none, 2 a positive one. Each step costs 1, the last one nothing. An episode
    terminates where the free end is more than one link's length above the fixed joint. ``friction``, which Gymnasium
    lacks, is 0 by default.

    Args:
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of states and observations, ``torch.float32`` or ``torch.float64``.

    Returns:
        An environment with cosine and sine of both angles and both velocities as its observation, and 3 actions.

    Raises:
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is none of the two.

    Example:
        >>> import fcbp
        >>> environment = acrobot()
        >>> state = environment.reset(fcbp.random.key(0), environment.physics)
        >>> environment.step(state, torch.tensor(2), environment.physics)[2]
        tensor(-1.)
    """

    def draw(key: Int64[Tensor, ""], physics: AcrobotPhysics) -> AcrobotState:
        angle_1, angle_2, velocity_1, velocity_2 = random.uniform(key, (4,), dtype, -0.1, 0.1).unbind()
        return AcrobotState(angle_1, angle_2, velocity_1, velocity_2, torch.zeros_like(key, dtype=torch.int32))

    return build(
        "acrobot",
        draw=draw,
        move=_move,
        observe=_observe,
        physics=AcrobotPhysics(),
        ranges=RANGES,
        drive="torque",
        observation_size=6,
        actions=Discrete(3),
        time_limit=time_limit,
        dtype=dtype,
    )


def _observe(state: AcrobotState, physics: AcrobotPhysics) -> Float[Tensor, "6"]:
    first, second = state.angle_1, state.angle_2
    return torch.stack([first.cos(), first.sin(), second.cos(), second.sin(), state.velocity_1, state.velocity_2])


def _move(
    state: AcrobotState, action: Int64[Tensor, ""], physics: AcrobotPhysics
) -> tuple[AcrobotState, Tensor, Tensor]:
    """Take one step by the rule of Runge and Kutta of fourth order."""
    torque = (action - 1).to(state.angle_1.dtype) * physics.torque
    start: Angles = state[:4]

    def along(slope: Angles, share: float) -> Angles:
        return tuple(x + share * physics.time_step * dx for x, dx in zip(start, slope, strict=True))

    k1 = _slope(start, torque, physics)
    k2 = _slope(along(k1, 0.5), torque, physics)
    k3 = _slope(along(k2, 0.5), torque, physics)
    k4 = _slope(along(k3, 1.0), torque, physics)
    mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
    angle_1, angle_2, velocity_1, velocity_2 = along(mean, 1.0)
    moved = state._replace(
        angle_1=_within_a_turn(angle_1),
        angle_2=_within_a_turn(angle_2),
        velocity_1=velocity_1.clamp(-SPEED_LIMITS[0], SPEED_LIMITS[0]),
        velocity_2=velocity_2.clamp(-SPEED_LIMITS[1], SPEED_LIMITS[1]),
    )
    terminated = -moved.angle_1.cos() - (moved.angle_2 + moved.angle_1).cos() > 1.0
    return moved, terminated.to(angle_1.dtype) - 1.0, terminated


def _slope(angles: Angles, torque: Float[Tensor, ""], physics: AcrobotPhysics) -> Angles:
    """Return the velocities and the accelerations."""
    first, second, velocity_1, velocity_2 = angles
    m1, m2, l1 = physics.mass_1, physics.mass_2, physics.length_1
    c1, c2, inertia, gravity = physics.center_1, physics.center_2, physics.inertia, physics.gravity
    cos, sin = second.cos(), second.sin()
    d1 = m1 * c1**2 + m2 * (l1**2 + c2**2 + 2 * l1 * c2 * cos) + inertia + inertia
    d2 = m2 * (c2**2 + l1 * c2 * cos) + inertia
    pull = m2 * c2 * gravity * (first + second - math.pi / 2).cos()
    phi2 = pull + physics.friction * velocity_2
    phi1 = (
        -m2 * l1 * c2 * velocity_2.square() * sin
        - 2 * m2 * l1 * c2 * velocity_2 * velocity_1 * sin
        + (m1 * c1 + m2 * l1) * gravity * (first - math.pi / 2).cos()
        + pull
        + physics.friction * velocity_1
    )
    acceleration_2 = (torque + d2 / d1 * phi1 - m2 * l1 * c2 * velocity_1.square() * sin - phi2) / (
        m2 * c2**2 + inertia - d2**2 / d1
    )
    acceleration_1 = -(d2 * acceleration_2 + phi1) / d1
    return velocity_1, velocity_2, acceleration_1, acceleration_2


def _within_a_turn(angle: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Bring the angle into ``[-pi, pi]`` by whole turns."""
    above = ((angle - math.pi) / (2 * math.pi)).ceil().clamp(min=0)
    below = ((-math.pi - angle) / (2 * math.pi)).ceil().clamp(min=0)
    return angle - 2 * math.pi * (above - below)
