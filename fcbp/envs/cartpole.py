"""CartPole: keep a pole upright on a cart that is pushed to the left or to the right."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.envs.base import Discrete, Environment, Number, Range, build

__all__ = ["CartPolePhysics", "CartPoleState", "cartpole"]

ANGLE_LIMIT = 12 * 2 * math.pi / 360
"""Radians from the upright at which an episode terminates."""
POSITION_LIMIT = 2.4
"""Metres from the middle at which an episode terminates."""


class CartPolePhysics(NamedTuple):
    """The numbers of CartPole's physics."""

    gravity: Number = 9.8
    """m/s^2."""
    cart_mass: Number = 1.0
    """kg."""
    pole_mass: Number = 0.1
    """kg."""
    pole_length: Number = 0.5
    """Metres from the joint to the pole's middle: half of its length."""
    force: Number = 10.0
    """Newton, to the right with action 1 and to the left with action 0; a negative force exchanges the two."""
    friction: Number = 0.0
    """Newton for each m/s of the cart, against its movement."""
    time_step: Number = 0.02
    """Seconds."""


RANGES: dict[str, Range] = {
    "gravity": "finite",
    "cart_mass": "positive",
    "pole_mass": "positive",
    "pole_length": "positive",
    "force": "finite",
    "friction": "not negative",
    "time_step": "positive",
}


class CartPoleState(NamedTuple):
    """State of CartPole."""

    position: Float[Tensor, ""]
    """Position of the cart, in metres from the middle."""
    velocity: Float[Tensor, ""]
    """Velocity of the cart, in m/s."""
    angle: Float[Tensor, ""]
    """Angle of the pole, in radians from the upright, clockwise."""
    angular_velocity: Float[Tensor, ""]
    """Angular velocity of the pole, in rad/s."""
    steps: Int32[Tensor, ""]
    """Steps since the reset."""


@arguments
def cartpole(*, time_limit: int | None = 500, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the cart and pole of Barto, Sutton and Anderson (1983), as Gymnasium's ``CartPole-v1``.

    An episode terminates where the pole leans more than 12 degrees or the cart is more than 2.4 m from the middle. The
    reward of each step is 1, that of the last one included. ``friction``, which Gymnasium lacks, is 0 by default.
    Gymnasium gives no reward for steps after an ending; here they are steps like all others.

    Args:
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of states and observations, ``torch.float32`` or ``torch.float64``.

    Returns:
        An environment with the observation ``(position, velocity, angle, angular_velocity)`` and 2 actions.

    Raises:
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is none of the two.

    Example:
        >>> import fcbp
        >>> environment = cartpole()
        >>> state = environment.reset(fcbp.random.key(0), environment.physics)
        >>> state, observation, reward, terminated, truncated = environment.step(
        ...     state, torch.tensor(1), environment.physics
        ... )
        >>> observation.shape, reward
        (torch.Size([4]), tensor(1.))
    """

    def draw(key: Int64[Tensor, ""], physics: CartPolePhysics) -> CartPoleState:
        position, velocity, angle, angular_velocity = random.uniform(key, (4,), dtype, -0.05, 0.05).unbind()
        steps = torch.zeros_like(key, dtype=torch.int32)
        return CartPoleState(position, velocity, angle, angular_velocity, steps)

    return build(
        "cartpole",
        draw=draw,
        move=_move,
        observe=_observe,
        physics=CartPolePhysics(),
        ranges=RANGES,
        drive="force",
        observation_size=4,
        actions=Discrete(2),
        time_limit=time_limit,
        dtype=dtype,
    )


def _observe(state: CartPoleState, physics: CartPolePhysics) -> Float[Tensor, "4"]:
    return torch.stack([state.position, state.velocity, state.angle, state.angular_velocity])


def _move(
    state: CartPoleState, action: Int64[Tensor, ""], physics: CartPolePhysics
) -> tuple[CartPoleState, Tensor, Tensor]:
    """Take one step by Euler's rule, with the equations of Florian (2007), "Correct equations for the dynamics of the
    cart-pole system"."""
    mass = physics.pole_mass + physics.cart_mass
    lever = physics.pole_mass * physics.pole_length
    direction = (2 * action - 1).to(state.position.dtype)
    push = direction * physics.force - physics.friction * state.velocity
    sin, cos = state.angle.sin(), state.angle.cos()
    acceleration = (push + lever * state.angular_velocity.square() * sin) / mass
    angular = (physics.gravity * sin - cos * acceleration) / (
        physics.pole_length * (4.0 / 3.0 - physics.pole_mass * cos.square() / mass)
    )
    acceleration = acceleration - lever * angular * cos / mass
    position = state.position + physics.time_step * state.velocity
    angle = state.angle + physics.time_step * state.angular_velocity
    moved = state._replace(
        position=position,
        velocity=state.velocity + physics.time_step * acceleration,
        angle=angle,
        angular_velocity=state.angular_velocity + physics.time_step * angular,
    )
    terminated = (position.abs() > POSITION_LIMIT) | (angle.abs() > ANGLE_LIMIT)
    return moved, torch.ones_like(position), terminated
