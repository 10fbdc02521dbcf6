"""The parts of an agent that are named, resolved and checked before any work."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fcbp import envs, initializers, learner, methods, optim
from fcbp.agents.measurements import VARIABLES
from fcbp.agents.networks import ORTHOGONAL, ORTHOGONAL_GAIN, draw_weights
from fcbp.checks import arguments
from fcbp.envs import Environment
from fcbp.envs.changes import Change
from fcbp.kinds import PyTree
from fcbp.methods import Kind, Method
from fcbp.methods.base import parameters_of
from fcbp.names import lookup
from fcbp.optim.optimizers import adam_of_numbers
from fcbp.program import Program
from fcbp.units import UnitGroup, find_units

__all__ = [
    "Agent",
    "AgentLearner",
    "World",
    "check_numbers",
    "check_sizes",
    "make_agent_learner",
    "make_program",
    "make_world",
]

ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
"""The optimiser's numbers."""


@arguments
def check_whole(least: int = 1, **given: Any) -> None:
    """Check whole numbers.

    Raises:
        ValueError: one is no whole number, or below ``least``.

    Example:
        >>> check_whole(copies=0)
        Traceback (most recent call last):
        ValueError: copies is 0; expected a whole number, 1 or more
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected a whole number, {least} or more")


def check_sizes(hidden: Sequence[int], **sizes: int) -> None:
    """Check the units of the hidden layers and an agent's other sizes.

    Raises:
        ValueError: one is no whole number, or below 1.
    """
    check_whole(**sizes)
    for size in hidden:
        check_whole(hidden=size)


@arguments
def check_numbers(settings: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check numbers that are plain: tensors are not read.

    Args:
        settings: a member's numbers.
        ranges: the least and the greatest value of each.

    Raises:
        ValueError: one is out of its range.

    Example:
        >>> check_numbers({"discount": 2.0}, {"discount": (0, 1)})
        Traceback (most recent call last):
        ValueError: discount is 2.0; expected a number from 0 to 1
    """
    for name, (low, high) in ranges.items():
        value = settings[name]
        if not isinstance(value, Tensor) and not low <= value <= high:
            words = f"a number from {low:g} to {high:g}" if high < math.inf else f"a number, {low:g} or more"
            raise ValueError(f"{name} is {value}; expected {words}")


class World(NamedTuple):
    """An environment, how it changes, and the numbers that members may have different."""

    environment: Environment
    change: Change
    task_length: int | None
    """Steps of the program of a level; ``None`` where nothing changes."""
    numbers: dict[str, float]
    """The numbers of the physics, and those of the rule of change that may be tensors."""

    def physics(self, settings: Mapping[str, Any]) -> PyTree:
        """Return a member's numbers of the physics, before any change."""
        return self.environment.physics._replace(
            **{name: settings[name] for name in self.environment.physics._fields if name in self.numbers}
        )

    def level(self, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the level of a step of the program, whether it begins with that step, and whether it ends with it."""
        if self.task_length is None:
            never = torch.zeros_like(step, dtype=torch.bool)
            return torch.zeros_like(step), never, never
        place = step % self.task_length
        return self.change.level(step), (place == 0) & (step > 0), place == self.task_length - 1


@arguments
def make_world(
    environment: str | Environment,
    change: str | Change,
    task_length: int | None,
    change_options: Mapping[str, Any],
    time_limit: int | None,
) -> World:
    """Look up the environment and its rule of change.

    Raises:
        ValueError: a name is unknown or an option does not fit; levels have no length; the time limit is below 1.
    """
    if time_limit is not None:
        check_whole(time_limit=time_limit)
    found = envs.get(environment, **({} if time_limit is None else {"time_limit": time_limit}))
    if task_length is not None:
        check_whole(task_length=task_length)
    named = isinstance(change, str)
    if named and change != "none" and task_length is None:
        raise ValueError(f"task_length is None and change is {change!r}; expected the number of steps of a level")
    if isinstance(change, str):
        maker = lookup("change", change, envs.changes.CHANGES)
        known = [name for name in inspect.signature(maker).parameters if name not in ("environment", "period")]
        for name in change_options:
            if name not in (*known, "period"):
                raise ValueError(f"change_options has {name!r}; expected options of {change!r}: {known}")
    options = {"period": task_length, **change_options} if named else change_options
    rule = envs.changes.get(change, found, **options)
    if rule.period is not None:
        task_length = rule.period
    numbers = {name: float(value) for name, value in found.physics._asdict().items()}
    return World(found, rule, task_length, numbers)


class AgentLearner(NamedTuple):
    """A learner, and what it is made of."""

    learner: learner.Learner
    units: tuple[UnitGroup, ...]
    numbers: dict[str, Tensor]
    """Numbers that members may have different, 0-d tensors."""
    hyper: Callable[[Mapping[str, Any]], learner.LearnerHyperparams]
    method: Method

    def signal(self, last: Tensor, ends: Tensor) -> Tensor:
        """Tell for each update of an iteration whether the method is told of a new task with it.

        Methods that make units or networks new with a task do so after the last update of a level, and so the next one
        begins with the new ones. A method that begins anew has done so before it acted.
        """
        return torch.zeros_like(last) if self.method.renews else ends & last


@arguments
def make_agent_learner(
    network: nn.Module,
    observation_size: int,
    loss: Callable[..., Any],
    *,
    method: str | Kind,
    activation: str,
    initializer: str,
    head_scale: float,
    schedule: str | None,
    capacity: int | None,
    measure: str | None,
    step_size: float,
    clip: float,
    task_length: int | None,
    taken: Sequence[str],
    draw: Callable[[Tensor], dict[str, Tensor]] | None = None,
) -> AgentLearner:
    """Make the learner of an agent: Adam, and any method after each of its updates.

    Args:
        network: of the agent.
        observation_size: numbers of an observation.
        loss: of the network's output and the targets.
        method: a name of :data:`fcbp.methods.METHODS`, or a kind.
        activation: of the hidden units, which the initial weights follow.
        initializer: how weights are drawn, at the start and by methods that do so too. With ``"orthogonal"`` methods
            draw weights of the variance that those of a square layer have.
        head_scale: times the policy's last layer.
        schedule: a name of :data:`fcbp.optim.SCHEDULES`, or ``None``.
        capacity: the most units of a group that are replaced at once.
        measure: of utility; by default the method's.
        step_size: default of the number.
        clip: likewise, the bound on the gradients' norm.
        task_length: of the levels, which methods that act on them need.
        taken: names of numbers that the agent has already.
        draw: ``key -> params``; by default :func:`draw_weights`.

    Raises:
        ValueError: a name is unknown, the method cannot be made, or it acts on levels and there are none.
    """
    kind = lookup("method", method, methods.METHODS) if isinstance(method, str) else method
    of_new = _initializer(initializer, activation)
    if capacity is not None:
        check_whole(0, capacity=capacity)
    units = find_units(network, torch.zeros(1, observation_size))
    built = _build(kind, of_new, capacity, measure, units)
    if built.reads_new_task and task_length is None:
        raise ValueError(f"method is {method!r}, which acts where a level ends; expected a change, or a task_length")
    make_schedule = None if schedule is None else lookup("schedule", schedule, optim.SCHEDULES)
    of_method = dict(kind.hyperparams()._asdict())
    of_optimizer = {name: value for name, value in ADAM.items() if name not in of_method}
    of_schedule = {} if make_schedule is None else _numbers_of(make_schedule)
    own = {"step_size": step_size, "clip": clip, **of_optimizer}
    full = {
        part: {name: f"{part}_{name}" if name in {*taken, *own, *before} else name for name in numbers}
        for part, numbers, before in (("method", of_method, ()), ("schedule", of_schedule, of_method))
    }

    def draw_params(key: Tensor) -> dict[str, Tensor]:
        return draw_weights(
            network, key, initializer=initializer, nonlinearity=_gain(activation), head_scale=head_scale
        )

    made = learner.make_learner(
        network,
        units,
        loss=loss,
        optimizer=adam_of_numbers,
        method=built,
        draw=draw_params if draw is None else draw,
        schedule=schedule,
    )

    def hyper(settings: Mapping[str, Any]) -> learner.LearnerHyperparams:
        return learner.LearnerHyperparams(
            settings["step_size"],
            kind.hyperparams(**{name: settings[full["method"][name]] for name in of_method}),
            {name: settings[name] for name in of_optimizer},
            {name: settings[full["schedule"][name]] for name in of_schedule} or (),
            settings["clip"],
        )

    numbers = {name: torch.tensor(float(value), dtype=torch.float32) for name, value in own.items()}
    # Rates are sums of many small ones.
    numbers |= {full["method"][n]: torch.tensor(float(v), dtype=torch.float64) for n, v in of_method.items()}
    numbers |= {full["schedule"][n]: torch.tensor(v, dtype=torch.float32) for n, v in of_schedule.items()}
    return AgentLearner(made, units, numbers, hyper, built)


def _numbers_of(make_schedule: Callable[..., Any]) -> dict[str, float]:
    """Return the numbers of a schedule, with their defaults."""
    return {
        name: float(p.default)
        for name, p in parameters_of(make_schedule).items()
        if name is not None and isinstance(p.default, (int, float))
    }


class Agent(Protocol):
    """The functions of an agent's program, for one member."""

    def init(self, key: Tensor, settings: Mapping[str, Any]) -> PyTree:
        """Make the member's state at the start."""

    def step(self, state: PyTree, settings: Mapping[str, Any]) -> tuple[PyTree, dict[str, Tensor]]:
        """Take one step."""

    def probe(self, state: PyTree, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        """Measure the member between steps."""

    def failed(self, state: PyTree) -> Tensor:
        """Say whether the member has a number that is not finite."""


def make_program(
    agent: Agent, world: World, numbers: Mapping[str, float], built: AgentLearner, finite: tuple[str, ...]
) -> Program:
    """Make the program of an agent's functions.

    Args:
        agent: has ``init``, ``step``, ``probe`` and ``failed``.
        world: the environment and its rule of change.
        numbers: the agent's own and the physics, with their defaults.
        built: the learner, which has numbers too.
        finite: names of the losses that are finite as long as a member is well.

    Returns:
        A program that measures returns and lengths by the episodes that ended.
    """
    own = {name: torch.tensor(value) for name, value in numbers.items()}
    return Program(
        agent.init,
        agent.step,
        agent.probe,
        {**own, **built.numbers},
        failed=agent.failed,
        finite=finite,
        variables=VARIABLES,
        per={"episode_return": "episodes", "episode_length": "episodes"},
        task_length=world.task_length,
        loops=True,
    )


def _gain(activation: str) -> str:
    return activation if activation in initializers.GAINS else "relu"


def _initializer(name: str, activation: str) -> initializers.Initializer:
    """Return the function by which methods draw weights."""
    if name == ORTHOGONAL:
        return functools.partial(initializers.kaiming_uniform, gain=ORTHOGONAL_GAIN)
    return initializers.get(name, _gain(activation))


def _build(
    kind: Kind,
    initializer: initializers.Initializer,
    capacity: int | None,
    measure: str | None,
    units: tuple[UnitGroup, ...],
) -> Method:
    options: dict[str, Any] = {}
    if kind.initializer:
        options["initializer"] = initializer
    if kind.capacity and capacity is not None:
        options["capacity"] = capacity
    elif kind.capacity and "replacement_rate" in kind.hyperparams()._asdict():
        # Rows are drawn for so many units at every update: a sixteenth of them is more than any published rate needs.
        options["capacity"] = math.ceil(max(group.size for group in units) / 16)
    if measure is not None:
        if "measure" not in parameters_of(kind.build):
            raise ValueError(f"measure is {measure!r}, which the method does not read; expected None")
        options["measure"] = measure
    return kind.build(**options)
