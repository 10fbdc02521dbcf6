"""Agents: environment, policy and method as one program."""

from fcbp.agents.continual import continual_acrobot, continual_cartpole, continual_pendulum
from fcbp.agents.ppo import PPOState, ppo

__all__ = ["PPOState", "continual_acrobot", "continual_cartpole", "continual_pendulum", "ppo"]
