"""A peer: one agent of PPO in eager PyTorch, in the manner of CleanRL's ``ppo.py``, on Gymnasium's CartPole."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from torch import nn

COPIES, HORIZON, EPOCHS, MINIBATCH = 4, 128, 4, 128


def _layer(inputs: int, outputs: int, gain: float = 2**0.5) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _network(outputs: int, gain: float) -> nn.Sequential:
    return nn.Sequential(_layer(4, 64), nn.Tanh(), _layer(64, 64), nn.Tanh(), _layer(64, outputs, gain))


class Agent:
    """An agent and its environments; :meth:`iteration` is a rollout and the updates on it."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        makers = [lambda: gymnasium.make("CartPole-v1") for _ in range(COPIES)]
        self.envs = gymnasium.vector.SyncVectorEnv(makers)
        self.actor, self.critic = _network(2, 0.01), _network(1, 1.0)
        self.params = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.params, lr=2.5e-4, eps=1e-5)
        self.seen = torch.as_tensor(self.envs.reset(seed=seed)[0])
        self.done = torch.zeros(COPIES)

    def _judged(self, seen: torch.Tensor) -> tuple[torch.distributions.Categorical, torch.Tensor]:
        return torch.distributions.Categorical(logits=self.actor(seen)), self.critic(seen).squeeze(-1)

    def iteration(self) -> None:
        seen = torch.zeros(HORIZON, COPIES, 4)
        actions, densities, rewards, dones, values = (torch.zeros(HORIZON, COPIES) for _ in range(5))
        for step in range(HORIZON):
            seen[step], dones[step] = self.seen, self.done
            with torch.no_grad():
                policy, values[step] = self._judged(self.seen)
                action = policy.sample()
            actions[step], densities[step] = action, policy.log_prob(action)
            after, reward, terminated, truncated, _ = self.envs.step(action.numpy())
            self.seen, rewards[step] = torch.as_tensor(after), torch.as_tensor(reward, dtype=torch.float32)
            self.done = torch.as_tensor(np.logical_or(terminated, truncated), dtype=torch.float32)
        self._learn(seen, actions, densities, self._advantages(rewards, dones, values), values)

    def _advantages(self, rewards: torch.Tensor, dones: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            following, going = self.critic(self.seen).squeeze(-1), 1 - self.done
        gained, last = torch.zeros_like(rewards), torch.zeros(COPIES)
        for step in reversed(range(HORIZON)):
            delta = rewards[step] + 0.99 * following * going - values[step]
            gained[step] = last = delta + 0.99 * 0.95 * going * last
            following, going = values[step], 1 - dones[step]
        return gained

    def _learn(self, *parts: torch.Tensor) -> None:
        seen, actions, before, gained, values = (part.flatten(0, 1) for part in parts)
        returns, order = gained + values, np.arange(HORIZON * COPIES)
        for _ in range(EPOCHS):
            np.random.default_rng(0).shuffle(order)
            for start in range(0, len(order), MINIBATCH):
                rows = torch.from_numpy(order[start : start + MINIBATCH])
                policy, value = self._judged(seen[rows])
                ratio = (policy.log_prob(actions[rows]) - before[rows]).exp()
                gain = gained[rows]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                loss = torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean()
                loss = loss - 0.01 * policy.entropy().mean() + 0.5 * 0.5 * (value - returns[rows]).square().mean()
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.params, 0.5)
                self.optimizer.step()
