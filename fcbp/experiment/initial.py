"""A module's own initial weights as a pure function of a key."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

__all__ = ["module_params"]

Make = Callable[[], nn.Module]

_makers: dict[int, tuple[Make, dict[str, Tensor]]] = {}
_numbers = itertools.count()


def module_params(make: Make, model: nn.Module) -> Callable[[Int64[Tensor, ""]], dict[str, Tensor]]:
    """The parameters that ``make()`` draws, as a function of a key that can be vmapped.

    A module draws from torch's global generator. Here that generator is seeded by the key, and afterwards it is put
    back to its state before, so that equal keys give equal weights and nothing else changes.

    Args:
        make: makes the module anew.
        model: a module that it made, whose parameters have the names, shapes and dtypes of all that follow.

    Returns:
        ``key -> params`` by name.

    Example:
        >>> draw = module_params(lambda: nn.Linear(2, 1), nn.Linear(2, 1))
        >>> keys = torch.tensor([3, 3, 4])
        >>> weight = torch.vmap(draw)(keys)["weight"]
        >>> torch.equal(weight[0], weight[1]), torch.equal(weight[0], weight[2])
        (True, False)
    """
    number = next(_numbers)
    shapes = {name: p.detach().clone() for name, p in model.named_parameters()}
    _makers[number] = (make, shapes)

    def draw(key: Int64[Tensor, ""]) -> dict[str, Tensor]:
        return dict(zip(shapes, _draw(key, number), strict=True))

    return draw


@torch.library.custom_op("fcbp::module_params", mutates_args=())
def _draw(key: Tensor, number: int) -> list[Tensor]:
    make, expected = _makers[number]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key))
        params = {name: p.detach() for name, p in make().named_parameters()}
    if {name: p.shape for name, p in params.items()} != {name: p.shape for name, p in expected.items()}:
        raise ValueError("network has other parameters each time that it is made; expected the same names and shapes")
    return [p.to(device=key.device, copy=True) for p in params.values()]


@_draw.register_vmap
def _draw_each(
    info: object, in_dims: tuple[int | None, None], key: Tensor, number: int
) -> tuple[list[Tensor], list[int]]:
    axis = in_dims[0]
    assert axis is not None
    drawn = [_draw(one, number) for one in key.unbind(axis)]
    stacked = [torch.stack(columns) for columns in zip(*drawn, strict=True)]
    return stacked, [0] * len(stacked)
