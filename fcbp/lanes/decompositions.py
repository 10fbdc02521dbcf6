"""Operations in terms of others, where an older torch has no such decomposition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["decompositions"]

aten = torch.ops.aten


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Torch's table of decompositions by operation, with those of this module where it has none."""
    from torch._decomp import decomposition_table

    return {**OWN, **decomposition_table}


def _max_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the maximum of each window, and its place in the flattened picture."""
    kernel, pad, gap = (_pair(sizes) for sizes in (kernel_size, padding, dilation))
    stride = _pair(stride) if len(stride) else kernel
    height, width = x.shape[-2:]
    rows, columns = (
        _windows(size, kernel[i], stride[i], pad[i], gap[i], ceil_mode, x.device)
        for i, size in enumerate((height, width))
    )
    place = rows[:, None, :, None] * width + columns[None, :, None, :]
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[None, :, None, :]
    shape = (*place.shape[:2], math.prod(kernel))
    place, inside = place.reshape(shape), inside.reshape(shape)
    values = x.flatten(-2)[..., torch.where(inside, place, 0)]
    values, which = torch.where(inside, values, -torch.inf).max(-1)
    return values, place.expand(*which.shape, -1).gather(-1, which.unsqueeze(-1)).squeeze(-1)


def _max_pool_backward(grad: Tensor, x: Tensor, *options: Any, indices: Tensor | None = None) -> Tensor:
    """Return the gradients, each added where its window's maximum lay. The places are the last of ``options``."""
    places = options[-1] if indices is None else indices
    flat = torch.zeros_like(x).flatten(-2)
    return flat.scatter_add(-1, places.flatten(-2), grad.flatten(-2)).reshape(x.shape)


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    return (sizes[0], sizes[-1])


def _windows(size: int, kernel: int, stride: int, pad: int, gap: int, ceil_mode: bool, device: torch.device) -> Tensor:
    """Return the places along one side of each window, ``(windows, kernel)``; the padding lies outside of the side."""
    room = size + 2 * pad - gap * (kernel - 1) - 1
    count = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (count - 1) * stride >= size + pad:  # the last one would lie in the padding alone
        count -= 1
    first = torch.arange(count, device=device) * stride - pad
    return first[:, None] + torch.arange(kernel, device=device) * gap


OWN: dict[Any, Callable[..., Any]] = {
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
}
