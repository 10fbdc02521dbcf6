"""Initial parameters of any module."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from fcbp import initializers, random
from fcbp.checks import arguments

__all__ = ["Params", "draw_params"]

Params = dict[str, Tensor]


@arguments
def draw_params(
    model: nn.Module,
    key: Int64[Tensor, ""],
    *,
    initializer: str | initializers.Initializer = "kaiming_uniform",
    nonlinearity: str = "relu",
) -> Params:
    """Draw initial parameters for ``model``, as the published CBP code draws them.

    Weights of linear and convolutional layers are drawn by ``initializer``, with the gain of ``nonlinearity`` and in
    the last of them with gain 1; their biases are 0. Other parameters (norms, embeddings) keep the model's values.

    Args:
        model: the module, which is not changed.
        key: a key of :mod:`fcbp.random`; under ``vmap`` every member draws its own.
        initializer: a name or a function; see :mod:`fcbp.initializers`.
        nonlinearity: a name of :func:`fcbp.initializers.gain`.
    """
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }
    for i, (name, layer) in enumerate(layers.items()):
        last = i == len(layers) - 1
        draw = initializers.get(initializer, "linear" if last else nonlinearity)
        weight = layer.weight
        fan_in = weight[0].numel()
        fan_out = weight.shape[0] * weight[0, 0].numel()
        prefix = f"{name}." if name else ""
        # A tied or parametrised weight goes by another name, which keeps the model's value.
        if f"{prefix}weight" in params:
            params[f"{prefix}weight"] = draw(
                random.fold_in(key, i), tuple(weight.shape), fan_in, fan_out, weight.dtype, weight.device
            )
        if f"{prefix}bias" in params:
            params[f"{prefix}bias"] = torch.zeros_like(params[f"{prefix}bias"])
    return params
