"""Draws of reset weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import initializers, random
from fcbp.checks import arguments
from fcbp.kinds import Count, DrawDevice, Finite, NonNegative
from fcbp.names import lookup

__all__ = ["check_initializer", "constant", "draw", "normal", "quantile_table", "uniform"]

_SAMPLED = 65536
_QUANTILES = 1025


@arguments
def uniform(
    key: Int64[Tensor, ""],
    shape: tuple[int, ...],
    fan_in: Count,
    fan_out: Count,
    dtype: torch.dtype,
    device: DrawDevice = None,
    *,
    width: NonNegative = 0.05,
) -> Float[Tensor, "*shape"]:
    """Draw uniformly within ``width`` of 0; ``functools.partial(uniform, width=0.1)`` makes another width.

    Args:
        key: a key.
        shape: of the result.
        fan_in: inputs of an output; not read.
        fan_out: outputs of an input; not read.
        dtype: of the result.
        device: of the result; by default the key's.
        width: the greatest distance from 0.
    """
    fine = torch.promote_types(dtype, torch.float32)
    return ((2 * random.uniform(key, shape, fine) - 1) * width).to(dtype)


@arguments
def normal(
    key: Int64[Tensor, ""],
    shape: tuple[int, ...],
    fan_in: Count,
    fan_out: Count,
    dtype: torch.dtype,
    device: DrawDevice = None,
    *,
    std: NonNegative = 0.1,
) -> Float[Tensor, "*shape"]:
    """Draw from a normal distribution around 0.

    Args:
        key: a key.
        shape: of the result.
        fan_in: inputs of an output; not read.
        fan_out: outputs of an input; not read.
        dtype: of the result.
        device: of the result; by default the key's.
        std: the standard deviation.
    """
    return (random.normal(key, shape, torch.promote_types(dtype, torch.float32)) * std).to(dtype)


@arguments
def constant(
    key: Int64[Tensor, ""],
    shape: tuple[int, ...],
    fan_in: Count,
    fan_out: Count,
    dtype: torch.dtype,
    device: DrawDevice = None,
    *,
    value: Finite = 0.0,
) -> Float[Tensor, "*shape"]:
    """Fill with one value.

    Args:
        key: a key.
        shape: of the result.
        fan_in: inputs of an output; not read.
        fan_out: outputs of an input; not read.
        dtype: of the result.
        device: of the result; by default the CPU.
        value: the value.
    """
    return torch.full(shape, value, dtype=dtype, device=device)


_OWN: dict[str, initializers.Initializer] = {
    "uniform": uniform,
    "normal": normal,
    "constant": constant,
}
_OF_THE_TENSOR = ("initial", "initial_mean", "orthogonal")
_NAMES: dict[str, Any] = {**initializers.INITIALIZERS, **_OWN, **dict.fromkeys(_OF_THE_TENSOR)}


def check_initializer(initializer: str | initializers.Initializer, shapes: Mapping[str, torch.Size]) -> None:
    if callable(initializer):
        return
    if not isinstance(initializer, str):
        raise ValueError(f"initializer is {initializer!r}; expected a name or a function")
    lookup("initializer", initializer, _NAMES)
    if initializer in initializers.INITIALIZERS or initializer == "orthogonal":
        for name, shape in shapes.items():
            if len(shape) < 2:
                raise ValueError(
                    f"initializer is {initializer!r}, and {name!r} has shape {tuple(shape)}; "
                    "expected two axes or more, or an initializer that needs none, such as 'initial'"
                )


def draw(
    initializer: str | initializers.Initializer,
    key: Int64[Tensor, ""],
    initial: Float[Tensor, "quantiles"],
    number: int,
    shape: torch.Size,
    like: Float[Tensor, "weights"],
) -> Float[Tensor, "number or weights"]:
    """Draw ``number`` values, or all values of an orthogonal matrix."""
    if initializer == "initial":
        last = initial.shape[0] - 1
        fine = torch.promote_types(like.dtype, torch.float32)
        at = random.uniform(key, (number,), torch.float64) * last
        below = at.floor().clamp(max=max(last - 1, 0))
        left, right = (initial[(below + k).clamp(max=last).to(torch.int64)].to(fine) for k in (0, 1))
        return torch.lerp(left, right, (at - below).to(fine)).to(like.dtype)
    if initializer == "initial_mean":
        return initial.mean(dtype=torch.float64).to(like.dtype).expand(number)
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, shape[0] if shape else 1)
    if initializer == "orthogonal":
        tall = random.normal(
            key, (max(rows, columns), min(rows, columns)), torch.promote_types(like.dtype, torch.float32)
        )
        q, r = torch.linalg.qr(tall)
        q = q * torch.where(r.diagonal() < 0, -1, 1)
        values: Tensor = (q if rows >= columns else q.T).flatten().to(like.dtype)
        return values
    function = initializers.checked(initializer) if callable(initializer) else _NAMES[initializer]
    fan_out = rows * (columns // shape[1] if len(shape) > 1 else 1)
    return function(key, (number,), columns, fan_out, like.dtype, like.device)


def quantile_table(values: Float[Tensor, "weights"]) -> Float[Tensor, "quantiles"]:
    """Return the values in order; of more than 1025, as many evenly spaced ones (of an even sample, past 65536)."""
    n = values.shape[0]
    if n > _SAMPLED:
        values = values[_even(n, _SAMPLED, values.device)]
    values = values.sort().values
    return values if n <= _QUANTILES else values[_even(values.shape[0], _QUANTILES, values.device)]


def _even(n: int, count: int, device: torch.device) -> Int64[Tensor, "count"]:
    return torch.arange(count, device=device) * (n - 1) // (count - 1)
