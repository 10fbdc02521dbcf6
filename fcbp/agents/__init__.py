"""Agents: environment, policy and method as one program."""

from fcbp.agents.ppo import PPOState, ppo

__all__ = ["PPOState", "ppo"]
