"""Initializers: how incoming weights are drawn, one pure function a way.

An initializer maps ``(key, shape, fan_in, fan_out, dtype, device)`` to a tensor of that shape, ``shape[0]`` being
the number of units drawn; those here take a keyword ``gain`` as well, times their standard deviation. Draws of more
units begin with those of fewer. A user's function of the six arguments serves wherever a name does:

    >>> import functools, fcbp
    >>> rows = kaiming_uniform(fcbp.random.key(0), (3, 20), fan_in=20, fan_out=5)
    >>> tanh_rows = functools.partial(kaiming_uniform, gain=gain("tanh"))
    >>> get("kaiming_uniform", nonlinearity="tanh")(fcbp.random.key(0), (3, 20), 20, 5).shape
    torch.Size([3, 20])
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments
from fcbp.kinds import Count, DrawDevice, NonNegative
from fcbp.names import lookup

__all__ = [
    "INITIALIZERS",
    "Initializer",
    "checked",
    "default_normal",
    "default_uniform",
    "draws_in_order",
    "gain",
    "get",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "xavier_normal",
    "xavier_uniform",
]

Initializer = Callable[..., Tensor]
Scale = Callable[[int, int], float]  # (fan_in, fan_out) -> standard deviation at gain 1

GAINS: dict[str, float] = {
    "linear": 1.0,
    "identity": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3.0,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.sqrt(2.0 / (1 + 0.01**2)),
    "selu": 3.0 / 4.0,
    # torch has no gain for these; as published CBP code does, the rectifier they resemble stands for them.
    "elu": math.sqrt(2.0),
    "gelu": math.sqrt(2.0),
    "silu": math.sqrt(2.0),
    "swish": math.sqrt(2.0),
    # Two features for each unit, whose squares sum to that of the unit, or to 1: a half on average, as a rectifier's.
    "crelu": math.sqrt(2.0),
    "fourier": math.sqrt(2.0),
}


@arguments
def gain(nonlinearity: str) -> float:
    """Return the gain of a nonlinearity, as ``torch.nn.init.calculate_gain`` has it; relu's for elu, gelu, silu.

    Raises:
        ValueError: the nonlinearity is unknown.
    """
    return lookup("nonlinearity", nonlinearity, GAINS)


def _uniform(
    key: Int64[Tensor, ""], shape: Sequence[int], std: float, dtype: torch.dtype
) -> Float[Tensor, "units *rest"]:
    # The centred draw is exact, so one rounding is left: the same bits with and without fused multiply-adds.
    return (2 * random.uniform(key, shape, dtype) - 1) * (math.sqrt(3.0) * std)


def _normal(
    key: Int64[Tensor, ""], shape: Sequence[int], std: float, dtype: torch.dtype
) -> Float[Tensor, "units *rest"]:
    return random.normal(key, shape, dtype) * std


def _fan_in(fan_in: int, fan_out: int) -> float:
    return 1.0 / math.sqrt(fan_in)


def _fan_mean(fan_in: int, fan_out: int) -> float:
    return math.sqrt(2.0 / (fan_in + fan_out))


ARGUMENTS = """Args:
    key: a key.
    shape: of the result, ``(units, *rest)``.
    fan_in: inputs of an output.
    fan_out: outputs of an input.
    dtype: of the result.
    device: of the result; by default the key's.
    gain: factor of the standard deviation, which follows the activation.
"""


def _initializer(name: str, draw: Callable[..., Tensor], scale: Scale, gain: float, doc: str) -> Initializer:
    default_gain = gain

    @arguments
    def initializer(
        key: Int64[Tensor, ""],
        shape: Sequence[int],
        fan_in: Count,
        fan_out: Count,
        dtype: torch.dtype = torch.float32,
        device: DrawDevice = None,
        *,
        gain: NonNegative = default_gain,
    ) -> Float[Tensor, "units *rest"]:
        key = key if device is None else key.to(device)
        # Half-precision draws would be a few hundred values with a mean off 0: drawn finer, then rounded.
        fine = torch.promote_types(dtype, torch.float32)
        return draw(key, shape, gain * scale(fan_in, fan_out), fine).to(dtype)

    initializer.__name__ = initializer.__qualname__ = name
    initializer.__doc__ = f"{doc}\n\n{ARGUMENTS}"
    return initializer


def _pair(name: str, scale: Scale, gain: float, what: str) -> tuple[Initializer, Initializer]:
    uniform = _initializer(f"{name}_uniform", _uniform, scale, gain, f"Uniform with standard deviation {what}.")
    normal = _initializer(f"{name}_normal", _normal, scale, gain, f"Normal with standard deviation {what}.")
    return uniform, normal


kaiming_uniform, kaiming_normal = _pair(
    "kaiming", _fan_in, math.sqrt(2.0), "``gain / sqrt(fan_in)`` (He et al., 2015, arXiv 1502.01852)"
)
xavier_uniform, xavier_normal = _pair(
    "xavier", _fan_mean, 1.0, "``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)"
)
lecun_uniform, lecun_normal = _pair("lecun", _fan_in, 1.0, "``gain / sqrt(fan_in)`` (LeCun et al., 1998)")
default_uniform, default_normal = _pair(
    "default",
    _fan_in,
    math.sqrt(1.0 / 3.0),
    "``gain / sqrt(fan_in)``; that of ``torch.nn.Linear`` and the convolutions, uniform within ``1 / sqrt(fan_in)``",
)

INITIALIZERS: dict[str, Initializer] = {
    f.__name__: f
    for f in (
        kaiming_uniform,
        kaiming_normal,
        xavier_uniform,
        xavier_normal,
        lecun_uniform,
        lecun_normal,
        default_uniform,
        default_normal,
    )
}
_FOLLOW_NONLINEARITY = ("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal")


@arguments
def draws_in_order(initializer: Initializer) -> bool:
    """Tell whether draws of more units are known to begin with those of fewer: of the named ones, whatever their gain.

    Example:
        >>> draws_in_order(kaiming_uniform)
        True
    """
    while isinstance(initializer, functools.partial):
        initializer = initializer.func
    return initializer in INITIALIZERS.values()


@arguments
def checked(initializer: Initializer) -> Initializer:
    """Return the same function, whose result is looked at: a wrong one would change the parameters' shape or dtype.

    Raises:
        ValueError: at a call, the result is no tensor of the shape and dtype that were asked for.
    """
    if initializer in INITIALIZERS.values():
        return initializer

    @functools.wraps(initializer, updated=())
    def draw(
        key: Any,
        shape: Sequence[int],
        fan_in: int,
        fan_out: int,
        dtype: torch.dtype = torch.float32,
        device: DrawDevice = None,
        **options: Any,
    ) -> Tensor:
        values = initializer(key, shape, fan_in, fan_out, dtype, device, **options)
        if isinstance(values, Tensor) and (values.shape, values.dtype) == (torch.Size(shape), dtype):
            return values
        found = f"{tuple(values.shape)} {values.dtype}" if isinstance(values, Tensor) else repr(values)
        name = getattr(initializer, "__name__", type(initializer).__name__)
        raise ValueError(f"initializer {name} gives {found}; expected a tensor of shape {tuple(shape)} {dtype}")

    return draw


@arguments
def get(initializer: str | Initializer, nonlinearity: str | None = None) -> Initializer:
    """Return the initializer of that name, with the gain of ``nonlinearity`` where it has one; or the function,
    checked.

    Raises:
        ValueError: the initializer or the nonlinearity is unknown.
    """
    if callable(initializer):
        return checked(initializer)
    if not isinstance(initializer, str):
        raise ValueError(f"initializer is {initializer!r}; expected a name of INITIALIZERS or a function")
    function = lookup("initializer", initializer, INITIALIZERS)
    if nonlinearity is None or initializer not in _FOLLOW_NONLINEARITY:
        return function
    return functools.partial(function, gain=gain(nonlinearity))
