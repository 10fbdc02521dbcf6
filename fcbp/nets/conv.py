"""The convolutional network of the continual ImageNet problem."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments
from fcbp.names import lookup
from fcbp.nets.mlp import ACTIVATIONS

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Three convolutions and three linear layers on 32x32 images.

    Convolutions of 5x5, 3x3 and 3x3 without padding, 3 -> 32 -> 64 -> 128 channels, each followed by the activation and
    max-pooling over 2x2; then 512 -> 128 -> 128 -> classes. Weights are drawn as torch's layers draw theirs. That of
    Dohare et al. (Nature 2024), Continual ImageNet; ``lop/nets/conv_net.py`` of their code.

    Args:
        classes: outputs; 2 in the paper.
        activation: a name of :data:`fcbp.nets.ACTIVATIONS`, or what makes the module.

    Raises:
        ValueError: the activation is unknown.

    Example:
        >>> model = ConvNet(classes=2)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2])
    """

    @arguments
    def __init__(self, classes: int = 2, activation: str | Callable[[], nn.Module] = "relu"):
        super().__init__()
        make = lookup("activation", activation, ACTIVATIONS) if isinstance(activation, str) else activation
        self.conv1 = nn.Conv2d(3, 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 128, 3)
        self.fc1 = nn.Linear(128 * 2 * 2, 128)
        self.fc2 = nn.Linear(128, 128)
        self.fc3 = nn.Linear(128, classes)
        self.activation = make()
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Float[Tensor, "batch 3 32 32"]) -> Float[Tensor, "batch classes"]:
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(self.activation(conv(x)))
        x = torch.flatten(x, 1)
        for layer in (self.fc1, self.fc2):
            x = self.activation(layer(x))
        return self.fc3(x)
