"""Proximal policy optimisation as a program: a population of agents, each a pure step.

Schulman, Wolski, Dhariwal, Radford and Klimov (arXiv 1707.06347). A step of the program is one iteration: a rollout in
some copies of the environment, advantages, and some epochs of minibatches, with any method of :mod:`fcbp.methods` after
each of their updates.

>>> import fcbp
>>> results = fcbp.sweep(
...     fcbp.agents.ppo, fcbp.grid(seed=range(2), copies=[2], horizon=[8], minibatch=[8], hidden=[(8,)]), steps=2,
...     progress=False,
... )
>>> results["episode_return"].dims[0]
'seed'
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import loop, random
from fcbp.agents import policies
from fcbp.agents.advantages import advantages
from fcbp.agents.measurements import reset_counts, watch
from fcbp.agents.networks import ActorCritic
from fcbp.agents.normalisation import discounted, normalised, start_statistics, update_statistics
from fcbp.agents.objective import Advantages, Batch, check_batch, make_objective, standardised
from fcbp.agents.parts import (
    AgentLearner,
    World,
    check_numbers,
    check_sizes,
    make_agent_learner,
    make_program,
    make_world,
)
from fcbp.agents.policies import PolicyName
from fcbp.agents.rollout import (
    Copies,
    Rollout,
    Situation,
    ended_episodes,
    make_rollout,
    new_level,
    start_copies,
)
from fcbp.checks import arguments
from fcbp.envs import Environment
from fcbp.envs.changes import Change
from fcbp.learner import LearnerState
from fcbp.methods import Kind
from fcbp.program import Program
from fcbp.units import forward_with_features

__all__ = ["PPOState", "ppo"]

NUMBERS = {
    "discount": 0.99,
    "trace_decay": 0.95,
    "clip_range": 0.2,
    "value_weight": 0.5,
    "entropy_weight": 0.0,
    "reward_scale": 1.0,
}
RANGES: dict[str, tuple[float, float]] = {
    "discount": (0, 1),
    "trace_decay": (0, 1),
    "clip_range": (1e-9, math.inf),
    "value_weight": (0, math.inf),
    "entropy_weight": (0, math.inf),
    "reward_scale": (1e-30, math.inf),
    "clip": (0, math.inf),
}
"""The least and the greatest value of a number."""
WATCHED = 1000
"""The most observations on which units and ranks are measured."""


class PPOState(NamedTuple):
    """The state that an agent carries from iteration to iteration."""

    copies: Copies
    learner: LearnerState
    of_observations: Any
    """Statistics of the observations; ``()`` where they are not normalised."""
    of_returns: Any
    """Statistics of the discounted rewards, and these of each copy; ``()`` where rewards are not normalised."""
    watched: Float[Tensor, "watched observation"]
    """Observations of the last rollout, on which units are measured."""
    key: Int64[Tensor, ""]
    change_key: Int64[Tensor, ""]
    """The key of the rule of change, the same at every step."""
    iteration: Int64[Tensor, ""]


@arguments
def ppo(
    environment: str | Environment = "cartpole",
    change: str | Change = "none",
    task_length: int | None = None,
    time_limit: int | None = None,
    method: str | Kind = "bp",
    policy: PolicyName | None = None,
    hidden: tuple[int, ...] = (64, 64),
    activation: str = "tanh",
    shared: bool = False,
    initializer: str = "lecun_uniform",
    head_scale: float = 0.01,
    copies: int = 8,
    horizon: int = 128,
    epochs: int = 4,
    minibatch: int = 256,
    schedule: str | None = None,
    normalize_advantages: Advantages = "minibatch",
    normalize_observations: bool = False,
    normalize_rewards: bool = False,
    clip_values: bool = False,
    bootstrap_truncated: bool = True,
    capacity: int | None = None,
    measure: str | None = None,
    change_options: Mapping[str, Any] | None = None,
) -> Program:
    """Make the program of an agent; a step of it is an iteration, and each of its numbers may be swept.

    The numbers are ``discount``, ``trace_decay``, ``clip_range``, ``value_weight``, ``entropy_weight``,
    ``reward_scale``, ``step_size``, ``clip`` (the bound on the gradients' norm), Adam's ``beta1``, ``beta2``, ``eps``
    and ``weight_decay``, those of the method, of the schedule and of the environment's physics. The loss is the
    policy's, plus ``value_weight`` times the mean squared error of the values, less ``entropy_weight`` times the
    entropy; a schedule counts updates.

    Args:
        environment: a name of :data:`fcbp.envs.ENVIRONMENTS`, or an environment
        change: what changes from level to level: a name of :data:`fcbp.envs.CHANGES`, or a rule
        task_length: iterations of a level
        time_limit: steps after which an episode is truncated; by default the environment's
        method: what runs after each update: a name of :data:`fcbp.methods.METHODS`, or a kind
        policy: categorical, gaussian or squashed; by default as the environment's actions
        hidden: units of each hidden layer
        activation: activation of the hidden units
        shared: whether policy and value function share their hidden layers
        initializer: how weights are drawn, at the start and after a replacement: a name of
            :data:`fcbp.initializers.INITIALIZERS`, or orthogonal, as CleanRL's start
        head_scale: times the initial weights of the policy's last layer
        copies: environments that an agent acts in at once
        horizon: steps of each copy in an iteration
        epochs: passes over the steps of an iteration
        minibatch: steps of a minibatch
        schedule: factor of the step size over the updates
        normalize_advantages: over each minibatch, over the whole batch, or plain
        normalize_observations: by the running mean and variance
        normalize_rewards: by the running variance of the discounted rewards
        clip_values: whether the values are clipped as the ratios are
        bootstrap_truncated: whether the value of the last observation stands for what a truncated episode lacks; false
            takes a truncation for an ending, as the published code of Dohare et al. (Nature 2024) does
        capacity: the most units of a group replaced at once; by default a sixteenth of the largest group for methods
            with a replacement rate, and all for others
        measure: of utility, where the method has one
        change_options: further options of the rule of change, such as ``{"std": 2.0}``

    Raises:
        ValueError: a name is unknown, an option is out of range or does not fit the others.

    Example:
        >>> import fcbp
        >>> program = ppo("cartpole", method="cbp", copies=2, horizon=8, minibatch=8)
        >>> sorted(program.numbers)[:4]
        ['beta1', 'beta2', 'cart_mass', 'clip']
    """
    check_sizes(hidden, copies=copies, horizon=horizon, epochs=epochs, minibatch=minibatch)
    check_batch(copies * horizon, minibatch, normalize_advantages)
    world = make_world(environment, change, task_length, change_options or {}, time_limit)
    found = policies.get(policy, world.environment.actions)
    size = world.environment.observation_size
    network = ActorCritic(size, found.outputs, found.deviations, hidden=hidden, activation=activation, shared=shared)
    built = make_agent_learner(
        network,
        size,
        make_objective(found, normalize_advantages=normalize_advantages, clip_values=clip_values),
        method=method,
        activation=activation,
        initializer=initializer,
        head_scale=head_scale,
        schedule=schedule,
        capacity=capacity,
        measure=measure,
        step_size=3e-4,
        clip=0.5,
        task_length=world.task_length,
        taken=(*NUMBERS, *world.numbers),
    )
    agent = _Agent(
        world,
        built,
        found,
        forward_with_features(network, built.units),
        (copies, horizon, epochs, minibatch),
        normalize_advantages == "batch",
        normalize_observations,
        normalize_rewards,
        bootstrap_truncated,
    )
    return make_program(agent, world, {**NUMBERS, **world.numbers}, built, ("policy_loss", "value_loss"))


class _Agent:
    """The functions of the program; all members share the values that they close over."""

    def __init__(
        self,
        world: World,
        built: AgentLearner,
        policy: policies.Policy,
        forward: Callable[..., Any],
        sizes: tuple[int, int, int, int],
        standardise: bool,
        of_observations: bool,
        of_rewards: bool,
        bootstrap_truncated: bool,
    ) -> None:
        self.world, self.built, self.policy, self.forward = world, built, policy, forward
        self.copies, self.horizon, self.epochs, self.minibatch = sizes
        self.standardise, self.bootstrap_truncated = standardise, bootstrap_truncated
        self.of_observations, self.of_rewards = of_observations, of_rewards
        self.rollout = make_rollout(world.environment, world.change, self._choose, policy.action)
        self.update = self._make_update()

        def judge(_: Any, x: tuple[Tensor, Tensor], params: dict[str, Tensor]) -> tuple[Any, Tensor]:
            seen, asked = x
            return (), torch.where(asked, forward(params, {}, seen)[0][1], 0)

        self.judge = judge

    def init(self, key: Tensor, settings: Mapping[str, Any]) -> PPOState:
        key, learner_key, change_key, start_key = random.split(key, 4).unbind()
        iteration = torch.zeros_like(key)
        physics = self.world.change.physics(self.world.physics(settings), change_key, iteration)
        copies = start_copies(self.world.environment, random.split(start_key, self.copies), physics)
        of_observations, of_returns = self._statistics_of(copies)
        rows = min(WATCHED, self.copies * self.horizon)
        return PPOState(
            copies,
            self.built.learner.init(learner_key),
            of_observations,
            of_returns,
            copies.observation.new_zeros((rows, self.world.environment.observation_size)),
            key,
            change_key,
            iteration,
        )

    def step(self, state: PPOState, settings: Mapping[str, Any]) -> tuple[PPOState, dict[str, Tensor]]:
        check_numbers(settings, RANGES)
        key, noise_key, start_key, level_key, order_key = random.split(state.key, 5).unbind()
        level, begins, ends = self.world.level(state.iteration)
        physics = self.world.change.physics(self.world.physics(settings), state.change_key, level)
        copies = new_level(self.world.environment, state.copies, begins, random.split(level_key, self.copies), physics)
        state = self._renewed(state, begins)
        params = state.learner.params
        noise = self.policy.noise(noise_key, (self.horizon, self.copies))
        situation = Situation(physics, state.change_key, level, (params, state.of_observations))
        copies, rollout = self.rollout(copies, noise, start_key, situation, length=self.horizon)
        of_observations, of_returns, rewards = self._statistics(state, rollout, settings)
        observations, batch = self._batch(state, rollout, rewards, settings)
        learner, told = self._learn(state.learner, observations, batch, ends, order_key, settings)
        new = PPOState(
            copies,
            learner,
            of_observations,
            of_returns,
            observations[: len(state.watched)].to(state.watched.dtype),
            key,
            state.change_key,
            state.iteration + 1,
        )
        return new, {**ended_episodes(rollout), **told}

    def probe(self, state: PPOState, settings: Mapping[str, Any]) -> dict[str, Tensor]:
        _, features, _ = self.forward(state.learner.params, {}, state.watched)
        return watch(state.learner.params, features)

    def failed(self, state: PPOState) -> Tensor:
        parts = [leaf.abs().mean() for leaf in state.learner.params.values()]
        parts += [state.copies.observation.abs().mean(), state.watched.abs().mean()]
        return ~torch.stack(parts).isfinite().all()

    # --- parts of a step --------------------------------------------------------------------------------

    def _renewed(self, state: PPOState, begins: Tensor) -> PPOState:
        """Return an agent that has seen nothing where the method and a level begin anew; else the state."""
        if not self.built.method.renews:
            return state
        before: Any = (state.of_observations, state.of_returns)
        new: Any = self._statistics_of(state.copies)
        kept: Any = optree.tree_map(lambda a, b: torch.where(begins, a, b), new, before)
        learner = self.built.learner.renew(state.learner, begins)
        return state._replace(learner=learner, of_observations=kept[0], of_returns=kept[1])

    def _statistics_of(self, copies: Copies) -> tuple[Any, Any]:
        """Return the statistics of observations and of returns before the first sample."""
        of_observations = start_statistics(copies.observation[0]) if self.of_observations else ()
        of_returns = (start_statistics(copies.score[0]), torch.zeros_like(copies.score)) if self.of_rewards else ()
        return of_observations, of_returns

    def _seen(self, observations: Tensor, statistics: Any) -> Tensor:
        return normalised(observations, statistics) if self.of_observations else observations

    def _choose(self, observations: Tensor, noise: Tensor, chooser: Any) -> tuple[Tensor, Tensor]:
        params, statistics = chooser
        output, _, *free = self.forward(params, {}, self._seen(observations, statistics))[0]
        log_std = free[0] if free else ()
        draws = torch.vmap(self.policy.draw, (0, None, 0))(output, log_std, noise)
        return draws, torch.vmap(self.policy.log_density, (0, None, 0))(output, log_std, draws)

    def _statistics(self, state: PPOState, rollout: Rollout, settings: Mapping[str, Any]) -> tuple[Any, Any, Tensor]:
        """Return the statistics with this rollout's observations and returns, and the rewards to learn from."""
        of_observations, of_returns = state.of_observations, state.of_returns
        if self.of_observations:
            of_observations = update_statistics(of_observations, rollout.observations.flatten(0, 1))
        rewards = settings["reward_scale"] * rollout.rewards
        if self.of_rewards:
            statistics, before = of_returns
            ended = rollout.terminated | rollout.truncated
            last, sums = loop.nested(
                discounted, before, (rollout.rewards, ended), settings["discount"], length=self.horizon
            )
            statistics = update_statistics(statistics, sums.flatten())
            rewards = normalised(rewards, statistics, centred=False)
            of_returns = statistics, last
        return of_observations, of_returns, rewards

    def _batch(
        self, state: PPOState, rollout: Rollout, rewards: Tensor, settings: Mapping[str, Any]
    ) -> tuple[Tensor, Batch]:
        """Return the observations as the network saw them ``(samples, observation)``, and the loss's other inputs."""
        shape = self.horizon, self.copies
        seen = self._seen(rollout.observations, state.of_observations).flatten(0, 1)
        values = self._values(seen, torch.ones_like(rollout.truncated), state).reshape(shape)
        # The observation at the end of a step is the next step's but for a truncated episode's, and the last of all.
        asked = torch.cat([rollout.truncated[:-1], torch.ones_like(rollout.truncated[-1:])])
        final = self._seen(rollout.final_observations, state.of_observations).flatten(0, 1)
        next_values = torch.where(asked, self._values(final, asked, state).reshape(shape), values.roll(-1, 0))
        gained = advantages(
            rewards,
            values,
            next_values,
            rollout.terminated,
            rollout.truncated,
            settings["discount"],
            settings["trace_decay"],
            bootstrap_truncated=self.bootstrap_truncated,
        )
        batch: Any = Batch(rollout.draws, rollout.told, gained, gained + values, values)
        flat: Any = optree.tree_map(lambda x: x.flatten(0, 1), batch)
        if self.standardise:
            flat = flat._replace(advantages=standardised(flat.advantages))
        return seen, flat

    def _values(self, seen: Tensor, asked: Tensor, state: PPOState) -> Tensor:
        """Return the values of the observations that are asked for, 0 for others, by a loop over minibatches."""
        values: Tensor
        parts = len(seen) // self.minibatch
        xs = seen.unflatten(0, (parts, self.minibatch)), asked.flatten().unflatten(0, (parts, self.minibatch))
        _, values = loop.nested(self.judge, (), xs, state.learner.params, length=parts)
        return values.flatten()

    def _learn(
        self,
        state: LearnerState,
        observations: Tensor,
        batch: Batch,
        ends: Tensor,
        key: Tensor,
        settings: Mapping[str, Any],
    ) -> tuple[LearnerState, dict[str, Tensor]]:
        """Return the learner after all epochs, and the measurements of them."""
        number = len(observations)
        orders = torch.vmap(lambda one: random.permutation(one, number))(random.split(key, self.epochs)).flatten()
        updates = self.epochs * number // self.minibatch

        def cut(x: Tensor) -> Tensor:
            minibatches: Tensor = x[orders].unflatten(0, (updates, self.minibatch))
            return minibatches

        last = torch.arange(updates, device=ends.device) == updates - 1
        both: Any = (observations, batch)
        minibatches: Any = optree.tree_map(cut, both)
        xs = (*minibatches, self.built.signal(last, ends))
        state, told = loop.nested(self.update, state, xs, dict(settings), length=updates)
        means = {name: x.mean(0) for name, x in told.items() if x.is_floating_point()}
        return state, {**means, **{n: x.sum(0, dtype=torch.int32) for n, x in told.items() if n not in means}}

    def _make_update(self) -> Callable[..., tuple[LearnerState, dict[str, Tensor]]]:
        """``update(learner_state, (observations, batch, new_task), settings)``, one minibatch."""
        built = self.built
        signal = built.method.reads_new_task

        def update(state: LearnerState, x: Any, settings: Mapping[str, Any]) -> tuple[LearnerState, dict[str, Tensor]]:
            observations, batch, new_task = x
            given = (observations, (batch, settings), *((new_task,) if signal else ()))
            state, info = built.learner.step(state, given, built.hyper(settings))
            return state, {**info["aux"], **reset_counts(info)}

        return update
