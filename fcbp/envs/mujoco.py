"""Robots of MuJoCo as pure functions: the simulator's whole state is a tensor, and members are simulated in threads.

>>> import fcbp
>>> ant = fcbp.envs.get("ant")  # doctest: +SKIP
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.envs.base import Continuous, Environment, Number, Range, build

__all__ = ["RobotPhysics", "RobotState", "ant", "half_cheetah", "hopper", "walker2d"]


class RobotPhysics(NamedTuple):
    """The numbers of a robot's physics that may be changed."""

    friction: Number = 1.0
    """Factor on the sliding friction of every geom, the floor's too. Each of the ant's is 1 by itself."""
    gravity: Number = 9.81
    """m/s^2, downwards."""
    gain: Number = 1.0
    """Factor on the controls; a negative one exchanges the directions."""


RANGES: dict[str, Range] = {"friction": "positive", "gravity": "finite", "gain": "finite"}


class RobotState(NamedTuple):
    """State of a robot."""

    simulator: Float[Tensor, "size"]
    """MuJoCo's whole state for integration (``mjSTATE_INTEGRATION``), float64."""
    place: Float[Tensor, "2"]
    """Place of the torso, in metres, as the simulator computed it last; Gymnasium reads the ant's speed off it."""
    steps: Int32[Tensor, ""]
    """Steps since the reset."""


class Robot(NamedTuple):
    """The facts that tell one robot from another, all as Gymnasium's version 5."""

    frames: int
    """Steps of the simulator for one of the environment."""
    hidden: int
    """Leading positions that an observation leaves out."""
    control_cost: float
    noise: float
    """Noise of the start: half the range of the positions."""
    normal_velocities: bool
    """Whether the velocities at the start are normal draws; else they are uniform as the positions."""
    speed_limit: float
    """The bound to which observed velocities are clipped."""
    healthy_reward: float
    healthy: Callable[[Tensor, Tensor], Tensor] | None
    """``healthy(positions, velocities) -> bool``; an unhealthy robot ends the episode."""


def _ant_is_healthy(positions: Tensor, velocities: Tensor) -> Tensor:
    finite = positions.isfinite().all() & velocities.isfinite().all()
    return finite & (positions[2] >= 0.2) & (positions[2] <= 1.0)


def _hopper_is_healthy(positions: Tensor, velocities: Tensor) -> Tensor:
    bounded = (positions[2:].abs() < 100).all() & (velocities.abs() < 100).all()
    return bounded & (positions[1] > 0.7) & (positions[2].abs() < 0.2) & positions[1].isfinite()


def _walker_is_healthy(positions: Tensor, velocities: Tensor) -> Tensor:
    return (positions[1] > 0.8) & (positions[1] < 2.0) & (positions[2].abs() < 1.0)


ROBOTS = {
    "ant": Robot(5, 2, 0.5, 0.1, True, math.inf, 1.0, _ant_is_healthy),
    "half-cheetah": Robot(5, 1, 0.1, 0.1, True, math.inf, 0.0, None),
    "hopper": Robot(4, 1, 1e-3, 5e-3, False, 10.0, 1.0, _hopper_is_healthy),
    "walker2d": Robot(4, 1, 1e-3, 5e-3, False, 10.0, 1.0, _walker_is_healthy),
}
FILES = {"ant": "ant", "half-cheetah": "half_cheetah", "hopper": "hopper", "walker2d": "walker2d_v5"}


def _need(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{package} is not installed, which MuJoCo's environments need; install them by pip install 'fcbp[rl]'"
        ) from error


class _Worker:
    """A model and the data of a simulation, of one thread."""

    def __init__(self, path: str, frames: int) -> None:
        self.mujoco = _need("mujoco")
        self.model = self.mujoco.MjModel.from_xml_path(path)
        self.data = self.mujoco.MjData(self.model)
        self.spec = self.mujoco.mjtState.mjSTATE_INTEGRATION
        self.frames = frames
        # Views of the simulator's memory: to look one up takes a share of a step's time.
        self.sliding, self.gravity = self.model.geom_friction[:, 0], self.model.opt.gravity
        self.controls, self.place = self.data.ctrl, self.data.xpos[1, :2]
        self.friction = self.sliding.copy()
        self.physics: list[float] = []
        # A state that MuJoCo finds bad is not replaced by a start in silence.
        kinds = self.mujoco.mjtWarning
        self.bad = {int(kind): kind.name for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)}
        self.warned = self.data.warning.number.tolist()

    def step(self, state: np.ndarray, control: np.ndarray, physics: np.ndarray, place: np.ndarray) -> str:
        """Move a finite ``state`` and ``place`` on, in place; the warning of the simulator, or nothing."""
        mujoco, model, data = self.mujoco, self.model, self.data
        numbers = physics.tolist()
        if numbers != self.physics:
            self.physics = numbers
            self.sliding[:] = self.friction * numbers[0]
            self.gravity[2] = -numbers[1]
        mujoco.mj_setState(model, data, state, self.spec)
        if state[0] == 0:
            mujoco.mj_forward(model, data)  # as a reset of Gymnasium does, which leaves a start for the solver
        self.controls[:] = control
        mujoco.mj_step(model, data, self.frames)
        warned = data.warning.number.tolist()
        if warned != self.warned:
            found: list[str] = [name for kind, name in self.bad.items() if warned[kind] > self.warned[kind]]
            self.warned = warned
            if found:
                state[:] = place[:] = np.nan
                return found[0]
        mujoco.mj_getState(model, data, state, self.spec)
        place[:] = self.place
        return ""


class _Simulator:
    """A robot's threads, each with its own copy of the model."""

    def __init__(self, name: str) -> None:
        mujoco = _need("mujoco")
        found = importlib.util.find_spec("gymnasium")
        if found is None or found.origin is None:
            _need("gymnasium")
            raise ImportError("gymnasium has no file")
        path = Path(found.origin).parent / "envs" / "mujoco" / "assets" / f"{FILES[name]}.xml"
        # MuJoCo would write to the terminal and to a file; its warnings are counted in the data all the same.
        mujoco.set_mju_user_warning(lambda message: None)
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = [_Worker(str(path), ROBOTS[name].frames) for _ in range(threads)]
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=f"fcbp-{name}")
        self.lock = threading.Lock()
        first = self.workers[0]
        self.positions, self.velocities, self.controls = first.model.nq, first.model.nv, first.model.nu
        self.start = np.empty(mujoco.mj_stateSize(first.model, first.spec))
        mujoco.mj_getState(first.model, first.data, self.start, first.spec)

    def step(self, states: np.ndarray, controls: np.ndarray, physics: np.ndarray, places: np.ndarray) -> None:
        """Move every row on, in place."""
        finite = np.isfinite(states).all(1) & np.isfinite(controls).all(1) & np.isfinite(physics).all(1)
        states[~finite] = places[~finite] = np.nan
        (going,) = finite.nonzero()
        pieces = np.array_split(going, len(self.workers))

        def piece(worker: _Worker, rows: np.ndarray) -> list[tuple[int, str]]:
            told = [(i, worker.step(states[i], controls[i], physics[i], places[i])) for i in rows.tolist()]
            return [(i, message) for i, message in told if message]

        with self.lock:
            told = [item for found in self.pool.map(piece, self.workers, pieces) for item in found]
        for member, message in told:
            warnings.warn(f"MuJoCo, member {member}: {message}; it goes on as NaN", RuntimeWarning, stacklevel=2)


@functools.cache
def _simulator(name: str, process: int) -> _Simulator:
    return _Simulator(name)


def simulator(name: str) -> _Simulator:
    """Return the simulator of a robot in this process; a forked process has none of its parent's threads."""
    return _simulator(name, os.getpid())


@torch.library.custom_op("fcbp::mujoco_step", mutates_args=())
def mujoco_step(name: str, state: Tensor, place: Tensor, control: Tensor, physics: Tensor) -> tuple[Tensor, Tensor]:
    """Take one step of the environment for each row of the leading axes, all float64: the next state and the torso's
    place.

    Args:
        name: of the robot.
        state: ``(..., size)``.
        place: ``(..., 2)``.
        control: ``(..., controls)``.
        physics: ``(..., 2)``: friction and gravity.
    """
    moved, placed = (x.detach().cpu().contiguous().clone() for x in (state, place))
    rows = [x.reshape(-1, x.shape[-1]).numpy() for x in (moved, control.detach().cpu(), physics.detach().cpu(), placed)]
    if len(rows[0]):
        simulator(name).step(*rows)
    return moved.to(state.device), placed.to(state.device)


@mujoco_step.register_fake
def _(name: str, state: Tensor, place: Tensor, control: Tensor, physics: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(state), torch.empty_like(place)


@mujoco_step.register_vmap
def _(info: Any, in_dims: Any, name: str, *tensors: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    rows = [
        tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims[1:], strict=True)
    ]
    return mujoco_step(name, *rows), (0, 0)


def _robot(name: str, time_limit: int | None, dtype: torch.dtype) -> Environment:
    robot, sim = ROBOTS[name], simulator(name)
    positions = slice(1, 1 + sim.positions)
    velocities = slice(1 + sim.positions, 1 + sim.positions + sim.velocities)
    base = torch.from_numpy(sim.start.copy())
    seconds = robot.frames * sim.workers[0].model.opt.timestep

    def draw(key: Int64[Tensor, ""], physics: RobotPhysics) -> RobotState:
        first, second = random.split(key).unbind()
        noise = random.uniform(first, (sim.positions,), torch.float64, -robot.noise, robot.noise)
        if robot.normal_velocities:
            velocity = robot.noise * random.normal(second, (sim.velocities,), torch.float64)
        else:
            velocity = random.uniform(second, (sim.velocities,), torch.float64, -robot.noise, robot.noise)
        start = base.to(key.device)
        position = start[positions] + noise
        state = torch.cat([start[:1], position, velocity, start[velocities.stop :]])
        return RobotState(state, position[:2], torch.zeros_like(key, dtype=torch.int32))

    def observe(state: RobotState, physics: RobotPhysics) -> Float[Tensor, "n"]:
        position, velocity = state.simulator[positions], state.simulator[velocities]
        velocity = velocity.clamp(-robot.speed_limit, robot.speed_limit)
        return torch.cat([position[robot.hidden :], velocity]).to(dtype)

    def move(state: RobotState, action: Tensor, physics: RobotPhysics) -> tuple[RobotState, Tensor, Tensor]:
        action = action.to(torch.float64)
        numbers = [torch.as_tensor(x, dtype=torch.float64, device=action.device) for x in physics[:2]]
        after, place = mujoco_step(name, state.simulator, state.place, action * physics.gain, torch.stack(numbers))
        forward = place[0] - state.place[0] if name == "ant" else after[1] - state.simulator[1]
        position, velocity = after[positions], after[velocities]
        healthy = robot.healthy(position, velocity) if robot.healthy else torch.ones_like(forward, dtype=torch.bool)
        reward = forward / seconds + robot.healthy_reward * healthy - robot.control_cost * action.square().sum()
        return RobotState(after, place, state.steps), reward.to(dtype), ~healthy

    return build(
        name,
        draw=draw,
        move=move,
        observe=observe,
        physics=RobotPhysics(),
        ranges=RANGES,
        drive="gain",
        observation_size=sim.positions + sim.velocities - robot.hidden,
        actions=Continuous(*(tuple(x.tolist()) for x in sim.workers[0].model.actuator_ctrlrange.T)),
        time_limit=time_limit,
        dtype=dtype,
    )


@arguments
def ant(*, time_limit: int | None = 1000, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the ant of Gymnasium's ``Ant-v5`` without contact forces: the 27 observations and the rewards of
    ``Ant-v3``.

    Slippery Ant of Dohare et al. (Nature 2024) changes its ``friction``.

    Args:
        time_limit: steps after which an episode is truncated, or ``None``.
        dtype: of observations and rewards, ``torch.float32`` or ``torch.float64``; states are float64.

    Raises:
        ImportError: MuJoCo is not installed; ``pip install 'fcbp[rl]'``.
        ValueError: ``time_limit`` is no whole number, or below 1; ``dtype`` is none of the two.
    """
    return _robot("ant", time_limit, dtype)


@arguments
def hopper(*, time_limit: int | None = 1000, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the one-legged robot of Gymnasium's ``Hopper-v5``; arguments as :func:`ant`."""
    return _robot("hopper", time_limit, dtype)


@arguments
def walker2d(*, time_limit: int | None = 1000, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the two-legged robot of Gymnasium's ``Walker2d-v5``; arguments as :func:`ant`."""
    return _robot("walker2d", time_limit, dtype)


@arguments
def half_cheetah(*, time_limit: int | None = 1000, dtype: torch.dtype = torch.float32) -> Environment:
    """Return the running robot of Gymnasium's ``HalfCheetah-v5``, which nothing terminates; arguments as
    :func:`ant`."""
    return _robot("half-cheetah", time_limit, dtype)
