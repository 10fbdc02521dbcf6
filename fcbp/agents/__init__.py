"""Agents: environment, policy and method as one program, of which a sweep runs hundreds side by side.

>>> import fcbp
>>> members = fcbp.grid(seed=range(2), step_size=[1e-3, 1e-2])
>>> agent = fcbp.agents.ppo("cartpole", copies=2, horizon=8, minibatch=8, hidden=(8,))
>>> fcbp.sweep(agent, members, steps=2, progress=False)["policy_loss"].dims
('seed', 'step_size', 'step')
"""

from fcbp.agents.continual import continual_acrobot, continual_cartpole, continual_pendulum, with_defaults
from fcbp.agents.dqn import DQNState, dqn
from fcbp.agents.ppo import PPOState, ppo

__all__ = [
    "DQNState",
    "PPOState",
    "continual_acrobot",
    "continual_cartpole",
    "continual_pendulum",
    "dqn",
    "ppo",
    "with_defaults",
]
