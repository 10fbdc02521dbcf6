"""Rollouts: some steps of several copies of an environment, as one loop.

Every copy begins a new episode where one has ended, by ``torch.where``: nothing depends on the data but numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import optree
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from fcbp import loop, random
from fcbp.checks import arguments
from fcbp.envs import Environment, step_and_reset
from fcbp.envs.changes import Change
from fcbp.kinds import PyTree

__all__ = ["Copies", "Rollout", "Situation", "ended_episodes", "make_rollout", "new_level", "start_copies"]


class Copies(NamedTuple):
    """Copies of an environment that one agent acts in, ``(copies, ...)``."""

    state: Any
    """The state of each environment."""
    observation: Float[Tensor, "copies observation"]
    """The observation as the environment gives it."""
    score: Float[Tensor, "copies"]
    """Sum of the rewards of the episode so far."""
    length: Int32[Tensor, "copies"]
    """Steps of the episode so far."""


class Situation(NamedTuple):
    """The parts that stay the same during a rollout."""

    physics: Any
    """The numbers of the physics at this level."""
    change_key: Int64[Tensor, ""]
    """The key of the rule of change."""
    level: Int64[Tensor, ""]
    chooser: Any
    """The parameters that ``choose`` reads."""


class Rollout(NamedTuple):
    """Steps of all copies, ``(steps, copies, ...)``."""

    observations: Float[Tensor, "steps copies observation"]
    """The observations that the actions were chosen by, as they are seen at this level."""
    final_observations: Float[Tensor, "steps copies observation"]
    """Observations at the ends of the steps, before any reset."""
    draws: Tensor
    """The draws of the policy."""
    told: Any
    """The other results of ``choose``, beside its draw."""
    rewards: Float[Tensor, "steps copies"]
    terminated: Bool[Tensor, "steps copies"]
    truncated: Bool[Tensor, "steps copies"]
    scores: Float[Tensor, "steps copies"]
    """Sum of the rewards of the episode up to and with this step."""
    lengths: Int32[Tensor, "steps copies"]
    """Steps of the episode up to and with this one."""


@arguments
def start_copies(environment: Environment, keys: Int64[Tensor, "copies"], physics: PyTree) -> Copies:
    """Start copies of an environment at the beginning of an episode, each drawn from a key of its own.

    Example:
        >>> import fcbp
        >>> cartpole = fcbp.envs.get("cartpole")
        >>> start_copies(cartpole, fcbp.random.split(fcbp.random.key(0), 3), cartpole.physics).observation.shape
        torch.Size([3, 4])
    """
    state = torch.vmap(lambda key: environment.reset(key, physics))(keys)
    observation = torch.vmap(lambda one: environment.observe(one, physics))(state)
    zeros = torch.zeros_like(observation[:, 0])
    return Copies(state, observation, zeros, torch.zeros_like(zeros, dtype=torch.int32))


@arguments
def new_level(
    environment: Environment, copies: Copies, begins: Bool[Tensor, ""], keys: Int64[Tensor, "copies"], physics: PyTree
) -> Copies:
    """Return the copies, all at the start of an episode where a new level begins.

    Args:
        environment: the environment.
        copies: at the end of the last rollout.
        begins: whether a new level begins.
        keys: of the new episodes.
        physics: of the new level.
    """
    fresh: Any = start_copies(environment, keys, physics)
    before: Any = copies
    found: Any = optree.tree_map(lambda new, old: torch.where(begins, new.to(old.dtype), old), fresh, before)
    return cast(Copies, found)


@arguments
def make_rollout(
    environment: Environment,
    change: Change,
    choose: Callable[[Tensor, Any, Any], tuple[Tensor, Any]],
    act: Callable[[Tensor], Tensor],
) -> Callable[..., tuple[Copies, Rollout]]:
    """Make a function that takes some steps in all copies.

    Args:
        environment: the environment.
        change: the rule by which it changes.
        choose: ``choose(observations, noise, chooser) -> (draws, told)``, of all copies at once; pure.
        act: ``act(draw) -> action``, of one copy.

    Returns:
        ``rollout(copies, noise, key, situation, length=steps) -> (copies, rollout)``. ``noise`` is a pytree ``(steps,
        copies, ...)``, of which each step has its part; the key draws the starts of new episodes.
    """

    def one_step(copies: Copies, x: Any, situation: Situation) -> tuple[Copies, Rollout]:
        noise, keys = x

        def shown(observations: Tensor) -> Tensor:
            see = change.observation
            return torch.vmap(lambda one: see(one, situation.change_key, situation.level))(observations)

        seen = shown(copies.observation)
        draws, told = choose(seen, noise, situation.chooser)
        state, after = torch.vmap(
            lambda key, state, draw: step_and_reset(environment, key, state, act(draw), situation.physics)
        )(keys, copies.state, draws)
        ended = after.terminated | after.truncated
        score, length = copies.score + after.reward, copies.length + 1
        moved = Copies(state, after.observation, torch.where(ended, 0, score), torch.where(ended, 0, length))
        final = shown(after.final_observation)
        return moved, Rollout(seen, final, draws, told, after.reward, after.terminated, after.truncated, score, length)

    def rollout(
        copies: Copies, noise: Any, key: Int64[Tensor, ""], situation: Situation, *, length: int
    ) -> tuple[Copies, Rollout]:
        number = len(copies.score)
        keys = random.split(key, length * number).reshape(length, number)
        return loop.nested(one_step, copies, (noise, keys), situation, length=length)

    return rollout


@arguments
def ended_episodes(rollout: Rollout) -> dict[str, Tensor]:
    """Return sums over the episodes that ended in a rollout: of their returns, of their lengths, and their number.

    Of returns and lengths a program's results hold the mean of an episode (:attr:`fcbp.Program.per`).
    """
    ended = rollout.terminated | rollout.truncated
    return {
        "episode_return": torch.where(ended, rollout.scores, 0).sum(),
        "episode_length": torch.where(ended, rollout.lengths, 0).sum().to(torch.float32),
        "episodes": ended.sum(dtype=torch.int32),
    }
