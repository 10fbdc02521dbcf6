"""Environments of reinforcement learning as pure functions: many run side by side under ``torch.vmap``.

>>> import torch, fcbp
>>> cartpole = fcbp.envs.get("cartpole")
>>> keys = fcbp.random.split(fcbp.random.key(0), 100)
>>> states = torch.vmap(lambda key: cartpole.reset(key, cartpole.physics))(keys)
>>> actions = torch.ones(100, dtype=torch.int64)
>>> states, observations, rewards, terminated, truncated = torch.vmap(cartpole.step, in_dims=(0, 0, None))(
...     states, actions, cartpole.physics
... )
>>> observations.shape
torch.Size([100, 4])
"""

from fcbp.envs import changes, mujoco
from fcbp.envs.acrobot import AcrobotPhysics, AcrobotState, acrobot
from fcbp.envs.base import (
    Actions,
    Continuous,
    Discrete,
    Environment,
    Transition,
    build,
    check_physics,
    step_and_reset,
)
from fcbp.envs.cartpole import CartPolePhysics, CartPoleState, cartpole
from fcbp.envs.changes import Change
from fcbp.envs.mountain_car import (
    ContinuousMountainCarPhysics,
    MountainCarPhysics,
    MountainCarState,
    continuous_mountain_car,
    mountain_car,
)
from fcbp.envs.pendulum import PendulumPhysics, PendulumState, pendulum
from fcbp.envs.table import ENVIRONMENTS, get

__all__ = [
    "ENVIRONMENTS",
    "AcrobotPhysics",
    "AcrobotState",
    "Actions",
    "CartPolePhysics",
    "CartPoleState",
    "Change",
    "Continuous",
    "ContinuousMountainCarPhysics",
    "Discrete",
    "Environment",
    "MountainCarPhysics",
    "MountainCarState",
    "PendulumPhysics",
    "PendulumState",
    "Transition",
    "acrobot",
    "build",
    "cartpole",
    "changes",
    "check_physics",
    "continuous_mountain_car",
    "get",
    "mountain_car",
    "mujoco",
    "pendulum",
    "step_and_reset",
]
