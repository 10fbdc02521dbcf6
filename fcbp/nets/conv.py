"""The convolutional networks of the supervised problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments
from fcbp.names import lookup
from fcbp.nets.mlp import ACTIVATIONS

__all__ = ["ConvNet", "PlainConvNet", "cnn16", "lenet"]

Make = Callable[[], nn.Module]


class ConvNet(nn.Module):
    """Three convolutions and three linear layers: the network of continual ImageNet.

    Convolutions of 5x5, 3x3 and 3x3 without padding, 32, 64 and 128 channels, each followed by the activation and
    max-pooling over 2x2; then 512 (of 32x32 images) -> 128 -> 128 -> classes. Weights are drawn as torch's layers draw
    theirs. That of Dohare et al. (Nature 2024), Continual ImageNet; ``lop/nets/conv_net.py`` of their code.

    Args:
        classes: outputs; 2 in the paper.
        activation: a name of :data:`fcbp.nets.ACTIVATIONS`, or what makes the module.
        image: channels, height and width of an image.

    Raises:
        ValueError: the activation is unknown, or images are too small.

    Example:
        >>> model = ConvNet(classes=2)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 2])
    """

    @arguments
    def __init__(self, classes: int = 2, activation: str | Make = "relu", *, image: tuple[int, int, int] = (3, 32, 32)):
        super().__init__()
        make = _activation(activation)
        self.conv1 = nn.Conv2d(image[0], 32, 5)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.conv3 = nn.Conv2d(64, 128, 3)
        self.fc1 = nn.Linear(128 * _positions(image, (5, 3, 3)), 128)
        self.fc2 = nn.Linear(128, 128)
        self.fc3 = nn.Linear(128, classes)
        self.activation = make()
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = images
        for conv in (self.conv1, self.conv2, self.conv3):
            x = self.pool(self.activation(conv(x)))
        x = torch.flatten(x, 1)
        for layer in (self.fc1, self.fc2):
            x = self.activation(layer(x))
        outputs: Tensor = self.fc3(x)
        return outputs


class PlainConvNet(nn.Sequential):
    """Convolutions of 5x5 without padding, each with max-pooling over 2x2, then linear layers.

    Weights are drawn as torch's layers draw theirs.

    Args:
        classes: outputs.
        channels: output channels of each convolution.
        hidden: units of each hidden linear layer.
        image: channels, height and width of an image.
        activation: of the hidden linear layers; a name of :data:`fcbp.nets.ACTIVATIONS`, or what makes the module.
        after_convolutions: the same, between a convolution and its pooling; ``"linear"`` is none.

    Raises:
        ValueError: an activation is unknown, or images are too small.

    Example:
        >>> model = PlainConvNet(10, (4, 8), (20,), image=(1, 28, 28))
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    @arguments
    def __init__(
        self,
        classes: int,
        channels: Sequence[int],
        hidden: Sequence[int],
        *,
        image: tuple[int, int, int] = (3, 32, 32),
        activation: str | Make = "relu",
        after_convolutions: str | Make = "relu",
    ):
        make, between = _activation(activation), _activation(after_convolutions)
        layers: list[nn.Module] = []
        inputs = image[0]
        for outputs in channels:
            layers += [nn.Conv2d(inputs, outputs, 5)]
            layers += [] if after_convolutions == "linear" else [between()]
            layers += [nn.MaxPool2d(2)]
            inputs = outputs
        size = inputs * _positions(image, (5,) * len(channels))
        layers += [nn.Flatten()]
        for width in hidden:
            layers += [nn.Linear(size, width), make()]
            size = width
        super().__init__(*layers, nn.Linear(size, classes))


@arguments
def lenet(
    classes: int = 10, *, image: tuple[int, int, int] = (3, 32, 32), activation: str | Make = "relu"
) -> nn.Module:
    """Return the LeNet of UPGD: 6 and 16 channels, 400-120-84-classes, and no activation after the convolutions.

    That of Elsayed and Mahmood (ICLR 2024) for label-permuted CIFAR-10; ``core/network`` of their code.

    Example:
        >>> [tuple(p.shape) for p in lenet().parameters() if p.ndim > 1]
        [(6, 3, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84)]
    """
    return PlainConvNet(classes, (6, 16), (120, 84), image=image, activation=activation, after_convolutions="linear")


@arguments
def cnn16(
    classes: int = 10, *, image: tuple[int, int, int] = (3, 32, 32), activation: str | Make = "relu"
) -> nn.Module:
    """Return the network of 16 channels of L2 Init: two convolutions of 16 channels, then 400-100-100-classes.

    That of Kumar et al. (arXiv 2308.11958) for random-label CIFAR-10, 5+1 CIFAR and continual ImageNet.

    Example:
        >>> [tuple(p.shape) for p in cnn16().parameters() if p.ndim > 1]
        [(16, 3, 5, 5), (16, 16, 5, 5), (100, 400), (100, 100), (10, 100)]
    """
    return PlainConvNet(
        classes, (16, 16), (100, 100), image=image, activation=activation, after_convolutions=activation
    )


def _activation(given: str | Make) -> Make:
    return lookup("activation", given, ACTIVATIONS) if isinstance(given, str) else given


def _positions(image: tuple[int, int, int], kernels: Sequence[int]) -> int:
    """Return the positions that are left of an image after convolutions without padding, each with a pooling over 2x2.

    Raises:
        ValueError: none are.
    """
    least = 1
    for kernel in reversed(kernels):
        least = 2 * least + kernel - 1
    sides = []
    for side in image[1:]:
        for kernel in kernels:
            side = (side - kernel + 1) // 2
        sides.append(side)
    if min(sides) < 1:
        raise ValueError(f"image is {image}; expected a height and a width of {least} pixels or more")
    return sides[0] * sides[1]
