"""The networks that experiments know by name, made for the inputs and outputs of a stream."""

from __future__ import annotations

from torch import nn

from fcbp import nets
from fcbp.nets.mlp import Norm
from fcbp.streams import Spec

__all__ = ["cnn16", "conv_net", "lenet", "mlp", "resnet18", "vision_transformer"]


def mlp(
    spec: Spec, *, hidden: tuple[int, ...] = (5,), activation: str = "relu", norm: Norm | None = None
) -> nn.Sequential:
    """Return a multilayer perceptron of the inputs, flattened.

    Args:
        hidden: units of each hidden layer
        activation: activation of the hidden units
        norm: "layer" for a layer norm before each activation
    """
    size = 1
    for n in spec.input_shape:
        size *= n
    built = nets.mlp(size, hidden, spec.outputs, activation=activation, norm=norm)
    return built if len(spec.input_shape) == 1 else nn.Sequential(nn.Flatten(), *built)


def _images(spec: Spec, network: str, least: int = 1) -> tuple[int, int, int]:
    """Return the shape of the stream's images.

    Raises:
        ValueError: its inputs are no images, or smaller ones than the network takes.
    """
    shape = spec.input_shape
    if len(shape) != 3 or min(shape[1:]) < least:
        size = f" of {least}x{least} pixels or more" if least > 1 else ""
        raise ValueError(
            f"network is {network!r}, which takes images (channels, height, width){size}; the stream's inputs are "
            f"{shape}; expected such images, or network 'mlp'"
        )
    return shape[0], shape[1], shape[2]


def conv_net(spec: Spec, *, activation: str = "relu") -> nn.Module:
    """Return the network of continual ImageNet: three convolutions, three linear layers, for images of 24x24 pixels or
    more.

    Args:
        activation: activation of the hidden units
    """
    return nets.ConvNet(spec.outputs, activation, image=_images(spec, "conv-net", 24))


def lenet(spec: Spec, *, activation: str = "relu") -> nn.Module:
    """Return the LeNet of label-permuted CIFAR-10, without activations after its two convolutions.

    Args:
        activation: activation of the hidden units of the linear layers
    """
    return nets.lenet(spec.outputs, activation=activation, image=_images(spec, "lenet", 16))


def cnn16(spec: Spec, *, activation: str = "relu") -> nn.Module:
    """Make a network of two convolutions of 16 channels and three linear layers: random-label CIFAR-10, 5+1 CIFAR.

    Args:
        activation: activation of the hidden units
    """
    return nets.cnn16(spec.outputs, activation=activation, image=_images(spec, "cnn16", 16))


def resnet18(spec: Spec, *, norm: bool = True, width: int = 64) -> nn.Module:
    """Return the ResNet-18 of class-incremental CIFAR-100, for images.

    Args:
        norm: whether convolutions are followed by batch norm
        width: channels of the first stage; later stages have twice, four and eight times as many
    """
    return nets.resnet18(spec.outputs, norm=norm, width=width, channels=_images(spec, "resnet18")[0])


def vision_transformer(spec: Spec, *, patch: int = 4, width: int = 192, depth: int = 6, heads: int = 3) -> nn.Module:
    """Return a small vision transformer, for square images.

    Args:
        patch: height and width of a patch
        width: features of a token
        depth: encoder blocks
        heads: attention heads a block
    """
    shape = spec.input_shape
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ValueError(f"network is 'vision-transformer', which takes square images; the stream's inputs are {shape}")
    return nets.VisionTransformer(
        spec.outputs, image=shape[1], patch=patch, channels=shape[0], width=width, depth=depth, heads=heads
    )
