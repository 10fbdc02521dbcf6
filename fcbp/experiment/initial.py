"""A module's own initial weights as a pure function of a key."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from fcbp import random
from fcbp.initializers import default_uniform

__all__ = ["module_params", "stock_params"]

Make = Callable[[], nn.Module]

_makers: dict[int, tuple[Make, dict[str, Tensor]]] = {}
_numbers = itertools.count()


def module_params(make: Make, model: nn.Module) -> Callable[[Int64[Tensor, ""]], dict[str, Tensor]]:
    """Return the parameters that ``make()`` draws, as a function of a key that can be vmapped.

    A module draws from torch's global generator. Here that generator is seeded by the key, and afterwards it is put
    back to its state before, so that equal keys give equal weights and nothing else changes.

    Args:
        make: makes the module anew.
        model: a module that it made; all that follow have its parameters' names, shapes and dtypes.

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


DRAWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers of torch whose weights and biases are uniform within ``1 / sqrt(fan_in)``."""
CONSTANT = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Layers of torch that begin with ones and zeros."""


def stock_params(make: Make, model: nn.Module) -> Callable[[Int64[Tensor, ""]], dict[str, Tensor]] | None:
    """Return the rule by which ``make()`` draws, in operations that compile; ``None`` where it is not that of its
    layers.

    The draws differ from the module's, and have the same distribution. Whether the rule is that of the layers is seen
    by resetting them one after the other from the generator's state in which ``make()`` began: that must give the same.

    Args:
        make: makes the module anew.
        model: a module that it made.

    Example:
        >>> draw = stock_params(lambda: nn.Linear(100, 1), nn.Linear(100, 1))
        >>> bool(draw(torch.tensor(3))["weight"].abs().max() <= 0.1)
        True
    """
    layers = {n: m for n, m in model.named_modules() if type(m) in DRAWN + CONSTANT}
    own = {f"{name}.{p}" if name else p for name, layer in layers.items() for p, _ in layer.named_parameters()}
    if own != {name for name, _ in model.named_parameters()} or not _is_reset_of_layers(make):
        return None
    first = {name: p.detach().clone() for name, p in model.named_parameters()}

    def draw(key: Int64[Tensor, ""]) -> dict[str, Tensor]:
        params = {name: p.to(key.device) for name, p in first.items()}
        for i, (name, layer) in enumerate(layers.items()):
            if type(layer) not in DRAWN:
                continue
            fan_in = layer.weight[0].numel()
            for j, (part, p) in enumerate(layer.named_parameters()):
                own = random.fold_in(random.fold_in(key, i), j)
                full = f"{name}.{part}" if name else part
                params[full] = default_uniform(own, tuple(p.shape), fan_in, 1, p.dtype, key.device)
        return params

    return draw


def _is_reset_of_layers(make: Make) -> bool:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make()
        expected = [p.detach().clone() for p in made.parameters()]
        torch.manual_seed(0)
        for layer in made.modules():
            if type(layer) in DRAWN + CONSTANT:
                layer.reset_parameters()  # type: ignore[operator]
    return all(torch.equal(a, b) for a, b in zip(expected, made.parameters(), strict=True))


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
