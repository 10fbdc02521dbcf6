"""Deep Q-learning as a program: memory, target network and learner in one state, with any method after each update.

Mnih et al., "Human-level control through deep reinforcement learning" (Nature 2015). A step of the program is a round:
some steps of each copy of the environment, which go into the memory, and some updates. The defaults are those of
CleanRL's ``dqn.py`` for classic control, but for the number of copies.

>>> import fcbp
>>> program = dqn(hidden=(8,), memory=64, minibatch=8)
>>> results = fcbp.sweep(program, fcbp.grid(seed=range(2)), steps=2, progress=False)
>>> results["episodes"].dims
('seed', 'step')
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Int64
from torch import Tensor

from fcbp import loop, random
from fcbp.agents.measurements import reset_counts, watch
from fcbp.agents.networks import ActionValues
from fcbp.agents.parts import (
    AgentLearner,
    World,
    check_numbers,
    check_sizes,
    make_agent_learner,
    make_program,
    make_world,
)
from fcbp.agents.replay import Memory, Transitions, push, sample, start_memory
from fcbp.agents.rollout import Copies, Situation, ended_episodes, make_rollout, new_level, start_copies
from fcbp.checks import arguments
from fcbp.envs import Discrete, Environment
from fcbp.envs.changes import Change
from fcbp.learner import LearnerState
from fcbp.methods import Kind
from fcbp.program import Program
from fcbp.units import forward_with_features

__all__ = ["DQNState", "dqn"]

NUMBERS = {
    "discount": 0.99,
    "reward_scale": 1.0,
    "explore_first": 1.0,
    "explore_last": 0.05,
    "explore_steps": 50_000.0,
    "learn_from": 1000.0,
    "target_period": 50.0,
    "target_share": 1.0,
}
RANGES: dict[str, tuple[float, float]] = {
    "discount": (0, 1),
    "reward_scale": (1e-30, math.inf),
    "explore_first": (0, 1),
    "explore_last": (0, 1),
    "explore_steps": (1, math.inf),
    "learn_from": (0, math.inf),
    "target_period": (1, math.inf),
    "target_share": (0, 1),
    "clip": (0, math.inf),
}


class DQNState(NamedTuple):
    """The state that an agent carries from round to round."""

    copies: Copies
    memory: Memory
    learner: LearnerState
    target: dict[str, Tensor]
    """Parameters of the target network."""
    key: Int64[Tensor, ""]
    change_key: Int64[Tensor, ""]
    """The key of the rule of change, the same at every step."""
    round: Int64[Tensor, ""]


@arguments
def dqn(
    environment: str | Environment = "cartpole",
    change: str | Change = "none",
    task_length: int | None = None,
    time_limit: int | None = None,
    method: str | Kind = "bp",
    hidden: tuple[int, ...] = (120, 84),
    activation: str = "relu",
    initializer: str = "kaiming_uniform",
    copies: int = 1,
    horizon: int = 10,
    updates: int = 1,
    memory: int = 10_000,
    minibatch: int = 128,
    double: bool = False,
    schedule: str | None = None,
    capacity: int | None = None,
    measure: str | None = None,
    change_options: Mapping[str, Any] | None = None,
) -> Program:
    """Make the program of an agent; a step of it is a round, and each of its numbers may be swept.

    The numbers are ``discount``, ``reward_scale``, ``explore_first``, ``explore_last`` and ``explore_steps`` (the
    chance of an action at random falls from the first to the last in so many steps), ``learn_from`` (steps in the
    memory before the first update), ``target_period`` (rounds) and ``target_share`` (how far the target network then
    moves), ``step_size``, ``clip``, those of Adam, of the method, of the schedule and of the environment's physics.

    Args:
        environment: a name of :data:`fcbp.envs.ENVIRONMENTS` with actions to choose from, or an environment
        change: what changes from level to level: a name of :data:`fcbp.envs.CHANGES`, or a rule
        task_length: rounds of a level
        time_limit: steps after which an episode is truncated; by default the environment's
        method: what runs after each update: a name of :data:`fcbp.methods.METHODS`, or a kind
        hidden: units of each hidden layer
        activation: activation of the hidden units
        initializer: how weights are drawn, as in :func:`fcbp.agents.ppo`
        copies: environments that an agent acts in at once
        horizon: steps of each copy in a round
        updates: of a round
        memory: the most steps that are held
        minibatch: steps of an update
        double: whether the network chooses the action that the target network values (van Hasselt et al., 2016)
        schedule: factor of the step size over the updates
        capacity: the most units of a group replaced at once
        measure: of utility, where the method has one
        change_options: further options of the rule of change

    Raises:
        ValueError: a name is unknown, an option is out of range or does not fit the others.
    """
    check_sizes(hidden, copies=copies, horizon=horizon, updates=updates, memory=memory, minibatch=minibatch)
    if memory < max(minibatch, copies * horizon):
        least = max(minibatch, copies * horizon)
        raise ValueError(f"memory is {memory}; expected at least {least}, a minibatch and the steps of a round")
    world = make_world(environment, change, task_length, change_options or {}, time_limit)
    actions = world.environment.actions
    if not isinstance(actions, Discrete):
        raise ValueError(
            f"environment is {world.environment.name!r}, whose actions have {actions.size} dimensions; expected one "
            "with actions to choose from, such as 'cartpole'"
        )
    network = ActionValues(world.environment.observation_size, actions.n, hidden=hidden, activation=activation)
    built = make_agent_learner(
        network,
        world.environment.observation_size,
        _loss,
        method=method,
        activation=activation,
        initializer=initializer,
        head_scale=1.0,
        schedule=schedule,
        capacity=capacity,
        measure=measure,
        step_size=2.5e-4,
        clip=math.inf,
        task_length=world.task_length,
        taken=(*NUMBERS, *world.numbers),
    )
    agent = _Agent(
        world,
        built,
        forward_with_features(network, built.units),
        actions.n,
        (copies, horizon, updates, memory),
        minibatch,
        double,
    )
    return make_program(agent, world, {**NUMBERS, **world.numbers}, built, ("value_loss",))


def _loss(output: Tensor, targets: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the mean squared difference of the values of the actions taken from their targets."""
    chosen, wanted = targets
    values = torch.where(chosen[:, None] == torch.arange(output.shape[-1], device=output.device), output, 0).sum(-1)
    loss = (values - wanted).square().mean()
    return loss, {"value_loss": loss, "value": values.mean()}


class _Agent:
    """The functions of the program; all members share the values that they close over."""

    def __init__(
        self,
        world: World,
        built: AgentLearner,
        forward: Callable[..., Any],
        actions: int,
        sizes: tuple[int, int, int, int],
        minibatch: int,
        double: bool,
    ) -> None:
        self.world, self.built, self.forward, self.actions = world, built, forward, actions
        self.copies, self.horizon, self.updates, self.capacity = sizes
        self.minibatch, self.double = minibatch, double
        self.rollout = make_rollout(world.environment, world.change, self._choose, lambda draw: draw)
        self.update = self._make_update()

    def init(self, key: Tensor, settings: Mapping[str, Any]) -> DQNState:
        key, learner_key, change_key, start_key = random.split(key, 4).unbind()
        nothing = torch.zeros_like(key)
        physics = self.world.change.physics(self.world.physics(settings), change_key, nothing)
        copies = start_copies(self.world.environment, random.split(start_key, self.copies), physics)
        learner = self.built.learner.init(learner_key)
        one = copies.observation[:1]
        like = Transitions(one, nothing.reshape(1), one[:, 0], one, one[:, 0] > 0)
        target = {name: p.clone() for name, p in learner.params.items()}
        return DQNState(copies, start_memory(like, self.capacity), learner, target, key, change_key, nothing)

    def step(self, state: DQNState, settings: Mapping[str, Any]) -> tuple[DQNState, dict[str, Tensor]]:
        check_numbers(settings, RANGES)
        key, noise_key, start_key, level_key, sample_key = random.split(state.key, 5).unbind()
        level, begins, ends = self.world.level(state.round)
        physics = self.world.change.physics(self.world.physics(settings), state.change_key, level)
        copies = new_level(self.world.environment, state.copies, begins, random.split(level_key, self.copies), physics)
        state = self._renewed(state, begins)
        noise = random.uniform(noise_key, (self.horizon, self.copies, 2))
        situation = Situation(
            physics, state.change_key, level, (state.learner.params, self._exploring(state, settings))
        )
        copies, done = self.rollout(copies, noise, start_key, situation, length=self.horizon)
        seen: Any = Transitions(done.observations, done.draws, done.rewards, done.final_observations, done.terminated)
        memory = push(state.memory, optree.tree_map(lambda x: x.flatten(0, 1), seen))
        learner, told = self._learn(state, memory, ends, sample_key, settings)
        due = (state.round % settings["target_period"] == 0).to(torch.float32) * settings["target_share"]
        target = {name: (1 - due) * t + due * learner.params[name] for name, t in state.target.items()}
        new = DQNState(copies, memory, learner, target, key, state.change_key, state.round + 1)
        return new, {**ended_episodes(done), **told}

    def probe(self, state: DQNState, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        seen = sample(state.memory, state.key, 256).observations
        return watch(state.learner.params, self.forward(state.learner.params, {}, seen)[1])

    def failed(self, state: DQNState) -> Tensor:
        parts = [leaf.abs().mean() for leaf in state.learner.params.values()]
        return ~torch.stack([*parts, state.copies.observation.abs().mean()]).isfinite().all()

    # --- parts of a step --------------------------------------------------------------------------------

    def _renewed(self, state: DQNState, begins: Tensor) -> DQNState:
        """Return an agent that remembers nothing where the method and a level begin anew; else the state."""
        if not self.built.method.renews:
            return state
        learner = self.built.learner.renew(state.learner, begins)
        target = {name: torch.where(begins, learner.params[name], t) for name, t in state.target.items()}
        memory = state.memory
        memory = memory._replace(size=torch.where(begins, 0, memory.size), next=torch.where(begins, 0, memory.next))
        return state._replace(learner=learner, target=target, memory=memory)

    def _exploring(self, state: DQNState, settings: Mapping[str, Any]) -> Tensor:
        """Return the chance of an action at random."""
        length = self.world.task_length
        rounds = state.round if length is None or not self.built.method.renews else state.round % length
        share = (rounds * (self.copies * self.horizon) / settings["explore_steps"]).clamp(max=1)
        chance: Tensor = settings["explore_first"] + share * (settings["explore_last"] - settings["explore_first"])
        return chance

    def _choose(self, observations: Tensor, noise: Tensor, chooser: Any) -> tuple[Tensor, tuple[()]]:
        params, exploring = chooser
        best = self.forward(params, {}, observations)[0].argmax(-1)
        drawn = (noise[:, 1] * self.actions).to(torch.int64)
        return torch.where(noise[:, 0] < exploring, drawn, best), ()

    def _learn(
        self, state: DQNState, memory: Memory, ends: Tensor, key: Tensor, settings: Mapping[str, Any]
    ) -> tuple[LearnerState, dict[str, Tensor]]:
        """Return the learner after the updates of a round, of which there are none before there is enough to learn
        from."""
        drawn = sample(memory, key, self.updates * self.minibatch)
        batches: Any = optree.tree_map(lambda x: x.unflatten(0, (self.updates, self.minibatch)), drawn)
        last = torch.arange(self.updates, device=ends.device) == self.updates - 1
        fixed = (dict(settings), state.target, memory.size >= settings["learn_from"])
        xs = (batches, self.built.signal(last, ends))
        learner, told = loop.nested(self.update, state.learner, xs, fixed, length=self.updates)
        means = {name: x.mean(0) for name, x in told.items() if x.is_floating_point()}
        return learner, {**means, **{n: x.sum(0, dtype=torch.int32) for n, x in told.items() if n not in means}}

    def _make_update(self) -> Callable[..., tuple[LearnerState, dict[str, Tensor]]]:
        """``update(learner_state, (transitions, new_task), (settings, target, learns))``."""
        built, signal, forward = self.built, self.built.method.reads_new_task, self.forward

        def update(state: LearnerState, x: Any, fixed: Any) -> tuple[LearnerState, dict[str, Tensor]]:
            (steps, new_task), (settings, target, learns) = x, fixed
            later = forward(target, {}, steps.next_observations)[0]
            if self.double:
                best = forward(state.params, {}, steps.next_observations)[0].argmax(-1, keepdim=True)
                later = torch.where(best == torch.arange(later.shape[-1], device=later.device), later, -math.inf)
            best_later = torch.where(steps.terminated, 0, later.amax(-1))
            wanted = settings["reward_scale"] * steps.rewards + settings["discount"] * best_later
            given = (steps.observations, (steps.actions, wanted), *((new_task,) if signal else ()))
            before: Any = state
            new: Any
            new, info = built.learner.step(state, given, built.hyper(settings))
            kept: Any = optree.tree_map(lambda a, b: torch.where(learns, a, b), new, before)
            counts = {name: torch.where(learns, count, 0) for name, count in reset_counts(info).items()}
            told = {name: torch.where(learns, value, 0) for name, value in info["aux"].items()}
            return kept, {**told, **counts}

        return update
