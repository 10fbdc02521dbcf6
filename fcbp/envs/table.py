"""The environments by name."""

from __future__ import annotations

from collections.abc import Callable

from fcbp.checks import arguments
from fcbp.envs.acrobot import acrobot
from fcbp.envs.base import Environment
from fcbp.envs.cartpole import cartpole
from fcbp.envs.mountain_car import continuous_mountain_car, mountain_car
from fcbp.envs.mujoco import ant, half_cheetah, hopper, walker2d
from fcbp.envs.pendulum import pendulum
from fcbp.names import lookup

__all__ = ["ENVIRONMENTS", "get"]

ENVIRONMENTS: dict[str, Callable[..., Environment]] = {
    "acrobot": acrobot,
    "ant": ant,
    "cartpole": cartpole,
    "continuous-mountain-car": continuous_mountain_car,
    "half-cheetah": half_cheetah,
    "hopper": hopper,
    "mountain-car": mountain_car,
    "pendulum": pendulum,
    "walker2d": walker2d,
}
"""The functions that make an environment, by name; add an entry and :func:`get` finds it."""


@arguments
def get(environment: str | Environment, **options: object) -> Environment:
    """Look an environment up by its name; an environment is given back as it is.

    Args:
        environment: a name of :data:`ENVIRONMENTS`; or an :class:`~fcbp.envs.Environment`.
        **options: of the function that makes it, such as ``time_limit``.

    Raises:
        ValueError: the name is unknown, ``environment`` is no environment, or an environment is given with options.

    Example:
        >>> get("cartpole").actions
        Discrete(n=2)
        >>> get("cartpole", time_limit=0)
        Traceback (most recent call last):
        ValueError: time_limit is 0; expected a whole number of steps, 1 or more, or None
    """
    if isinstance(environment, Environment):
        if options:
            raise ValueError(f"environment is {environment!r} with {sorted(options)}; expected a name with options")
        return environment
    return lookup("environment", environment, ENVIRONMENTS)(**options)
