"""Initializers: how incoming weights are drawn, one pure function a way.

An initializer maps ``(key, shape, fan_in, fan_out, dtype, device)`` to a tensor of that shape, ``shape[0]`` being
the number of units drawn. Draws of more units begin with those of fewer. A user's function of these six
arguments serves wherever a name does:

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

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.names import lookup

__all__ = [
    "INITIALIZERS",
    "Initializer",
    "default_normal",
    "default_uniform",
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
Device = torch.device | str | None

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
}


def gain(nonlinearity: str) -> float:
    """The gain of a nonlinearity, as ``torch.nn.init.calculate_gain`` has it; relu's for elu, gelu, silu.

    Raises:
        ValueError: the nonlinearity is unknown.
    """
    return lookup("nonlinearity", nonlinearity, GAINS)


def _uniform(
    key: Int64[Tensor, ""], shape: Sequence[int], std: float, dtype: torch.dtype, device: Device
) -> Float[Tensor, "..."]:
    bound = math.sqrt(3.0) * std
    # The centred draw is exact, so one rounding is left: the same bits with and without fused multiply-adds.
    return (2 * random.uniform(key.to(device), shape, dtype) - 1) * bound


def _normal(
    key: Int64[Tensor, ""], shape: Sequence[int], std: float, dtype: torch.dtype, device: Device
) -> Float[Tensor, "..."]:
    return random.normal(key.to(device), shape, dtype) * std


def kaiming_uniform(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
    *,
    gain: float = math.sqrt(2.0),
) -> Float[Tensor, "units *rest"]:
    """Uniform with standard deviation ``gain / sqrt(fan_in)`` (He et al., 2015, arXiv 1502.01852)."""
    return _uniform(key, shape, gain / math.sqrt(fan_in), dtype, device)


def kaiming_normal(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
    *,
    gain: float = math.sqrt(2.0),
) -> Float[Tensor, "units *rest"]:
    """Normal with standard deviation ``gain / sqrt(fan_in)`` (He et al., 2015, arXiv 1502.01852)."""
    return _normal(key, shape, gain / math.sqrt(fan_in), dtype, device)


def xavier_uniform(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
    *,
    gain: float = 1.0,
) -> Float[Tensor, "units *rest"]:
    """Uniform with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    return _uniform(key, shape, gain * math.sqrt(2.0 / (fan_in + fan_out)), dtype, device)


def xavier_normal(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
    *,
    gain: float = 1.0,
) -> Float[Tensor, "units *rest"]:
    """Normal with standard deviation ``gain * sqrt(2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    return _normal(key, shape, gain * math.sqrt(2.0 / (fan_in + fan_out)), dtype, device)


def lecun_uniform(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
) -> Float[Tensor, "units *rest"]:
    """Uniform with standard deviation ``1 / sqrt(fan_in)`` (LeCun et al., 1998)."""
    return _uniform(key, shape, 1.0 / math.sqrt(fan_in), dtype, device)


def lecun_normal(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
) -> Float[Tensor, "units *rest"]:
    """Normal with standard deviation ``1 / sqrt(fan_in)`` (LeCun et al., 1998)."""
    return _normal(key, shape, 1.0 / math.sqrt(fan_in), dtype, device)


def default_uniform(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
) -> Float[Tensor, "units *rest"]:
    """Uniform within ``1 / sqrt(fan_in)``: what ``torch.nn.Linear`` and the convolutions start from."""
    return _uniform(key, shape, 1.0 / math.sqrt(3.0 * fan_in), dtype, device)


def default_normal(
    key: Int64[Tensor, ""],
    shape: Sequence[int],
    fan_in: int,
    fan_out: int,
    dtype: torch.dtype = torch.float32,
    device: Device = None,
) -> Float[Tensor, "units *rest"]:
    """Normal with the standard deviation of :func:`default_uniform`, ``1 / sqrt(3 fan_in)``."""
    return _normal(key, shape, 1.0 / math.sqrt(3.0 * fan_in), dtype, device)


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
_WITH_GAIN = ("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal")


def get(initializer: str | Initializer, nonlinearity: str | None = None) -> Initializer:
    """The initializer of that name, with the gain of ``nonlinearity`` where it has one; or the function itself.

    Raises:
        ValueError: the initializer or the nonlinearity is unknown.
    """
    if callable(initializer):
        return initializer
    function = lookup("initializer", initializer, INITIALIZERS)
    if nonlinearity is None or initializer not in _WITH_GAIN:
        return function
    return functools.partial(function, gain=gain(nonlinearity))
