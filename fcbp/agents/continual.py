"""Named experiments: agents in an environment that changes from level to level, and the published ant.

Continual Gym control, as TRAC (Muppidi et al., NeurIPS 2024, arXiv 2405.16642) and C-CHAIN (Tang et al., ICML 2025)
have it: level 0 is the plain environment, and each further level adds a constant to each coordinate of the observation,
drawn from a normal distribution with standard deviation 2. Discount 0.99, trace decay 0.95, clip range 0.2, entropy
weight 0.01, value weight 0.5, 5 epochs, Adam with step size 0.001, rewards over 20, episodes of at most 400 steps, 800
steps an iteration, policy and value function apart.

What differs, so that two cores finish in minutes: 20 iterations a level and three layers of 32 units, rectified,
where C-CHAIN has 200 and three of 256, leaky; minibatches of 160 steps, where it has 32. Theirs is ``fcbp run
continual-cartpole --task-length 200 --steps 2000 --hidden 256 256 256 --minibatch 32 --activation leaky_relu``, but for
the slope of the units, which is 0.01 here and 0.1 there.

``ant`` and ``slippery-ant`` are those of Dohare et al. (Nature 632, 2024), with their settings: one environment, 2,048
steps an iteration, 10 epochs of 16 minibatches, two layers of 256 rectified units, Adam with step size 1e-4, an ending
of the time limit taken for one of the problem. The friction of Slippery Ant is log-uniform from 0.02 to 2. Theirs
changes at the end of the first episode after 2 million steps; here it changes with the first iteration after them, and
a new episode begins with it. Their runs with CBP add ``--beta1 0.99 --beta2 0.99 --weight-decay 1e-4
--replacement-rate 1e-4 --maturity-threshold 10000``.

>>> program = continual_cartpole()
>>> program.task_length, float(program.numbers["step_size"])
(20, 0.0010...)
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fcbp.agents.ppo import ppo
from fcbp.checks import arguments
from fcbp.program import Program

__all__ = ["ant", "continual_acrobot", "continual_cartpole", "continual_pendulum", "slippery_ant", "with_defaults"]


@arguments
def with_defaults(
    make: Callable[..., Program],
    numbers: Mapping[str, float],
    held: Mapping[str, Any] | None = None,
    **options: object,
) -> Callable[..., Program]:
    """Make a function of programs with other defaults of its options and of the programs' numbers.

    Args:
        make: ``make(**options) -> Program``.
        numbers: defaults of the numbers.
        held: values of options that the new function does not take.
        options: defaults of the options.

    Raises:
        ValueError: ``make`` has no such option. In a call: the program has no such number.

    Example:
        >>> import fcbp
        >>> small = with_defaults(fcbp.agents.ppo, {"step_size": 0.01}, copies=2, horizon=8, minibatch=8)
        >>> float(small().numbers["step_size"])
        0.0099...
    """
    signature, held = inspect.signature(make), dict(held or {})
    for role, names in (("options", options), ("held", held)):
        for name in names:
            if name not in signature.parameters:
                raise ValueError(f"{role} has {name!r}; expected options of make: {', '.join(signature.parameters)}")

    @functools.wraps(make)
    def maker(**given: Any) -> Program:
        program = make(**{**options, **given}, **held)
        for name in numbers:
            if name not in program.numbers:
                raise ValueError(f"numbers has {name!r}; expected numbers of {', '.join(program.numbers)}")
        changed = {
            name: torch.as_tensor(numbers[name], dtype=program.dtypes[name]) if name in numbers else value
            for name, value in program.numbers.items()
        }
        return dataclasses.replace(program, numbers=changed)

    taken = [p for p in signature.parameters.values() if p.name not in held]
    parameters = [p.replace(default=options.get(p.name, p.default)) for p in taken]
    maker.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return maker


_NUMBERS = {"step_size": 1e-3, "entropy_weight": 0.01, "value_weight": 0.5, "reward_scale": 1 / 20}
_OPTIONS: dict[str, Any] = {
    "change": "offset",
    "task_length": 20,
    "time_limit": 400,
    "hidden": (32, 32, 32),
    "activation": "relu",
    "head_scale": 1.0,
    "copies": 8,
    "horizon": 100,
    "epochs": 5,
    "minibatch": 160,
}

continual_cartpole = with_defaults(ppo, _NUMBERS, environment="cartpole", **_OPTIONS)
continual_acrobot = with_defaults(ppo, _NUMBERS, environment="acrobot", **_OPTIONS)
continual_pendulum = with_defaults(ppo, _NUMBERS, environment="pendulum", **{**_OPTIONS, "time_limit": 200})

_ANT_NUMBERS = {"step_size": 1e-4, "clip": 1e9, "value_weight": 1.0}
_ANT: dict[str, Any] = {
    "environment": "ant",
    "hidden": (256, 256),
    "activation": "relu",
    "head_scale": 1.0,
    "copies": 1,
    "horizon": 2048,
    "epochs": 10,
    "minibatch": 128,
    "normalize_advantages": "batch",
    "bootstrap_truncated": False,
}
_FRICTIONS = {"number": "friction", "low": 0.02, "high": 2.0, "scale": "log"}

ant = with_defaults(ppo, _ANT_NUMBERS, **_ANT)
slippery_ant = with_defaults(
    ppo, _ANT_NUMBERS, {"change_options": _FRICTIONS}, change="physics", task_length=math.ceil(2e6 / 2048), **_ANT
)
