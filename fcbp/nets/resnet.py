"""The residual network of the class-incremental CIFAR-100 problem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments

__all__ = ["ResNet", "resnet18"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool):
        super().__init__()

        def make_norm() -> nn.Module:
            return nn.BatchNorm2d(outputs) if norm else nn.Identity()

        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.bn1 = make_norm()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn2 = make_norm()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), make_norm())

    def forward(self, x: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs h w"]:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """A residual network for 32x32 images: a 3x3 stem of stride 1, no max-pooling, biases in every convolution.

    Convolutions are drawn from ``N(0, 2 / fan_in)``, the last layer from ``N(0, 1 / fan_in)``, biases are 0. That of
    Dohare et al. (Nature 2024), class-incremental CIFAR-100; ``lop/nets/torchvision_modified_resnet.py`` of their code.

    Args:
        blocks: blocks of each stage; stages after the first halve the image and double the channels.
        classes: outputs.
        width: channels of the first stage.
        norm: whether convolutions are followed by batch norm. In training it normalises by the batch's own mean and
            variance, of which the running averages are kept in the buffers; in ``eval`` mode by these averages.
        channels: of an image.

    Example:
        >>> model = ResNet(blocks=(1, 1), classes=10, width=4)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    @arguments
    def __init__(self, blocks: Sequence[int], classes: int, *, width: int = 64, norm: bool = True, channels: int = 3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.bn1: nn.Module = nn.BatchNorm2d(width) if norm else nn.Identity()
        inputs = width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            layers = []
            for i in range(count):
                layers.append(BasicBlock(inputs, outputs, stride=2 if stage > 0 and i == 0 else 1, norm=norm))
                inputs = outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nonlinearity = "relu" if isinstance(module, nn.Conv2d) else "linear"
                nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)  # type: ignore[arg-type]
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = F.relu(self.bn1(self.conv1(images)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        outputs: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return outputs


@arguments
def resnet18(classes: int = 100, *, norm: bool = True, width: int = 64, channels: int = 3) -> ResNet:
    """Return the ResNet-18 of Dohare et al. (Nature 2024): two blocks in each of four stages, 64 to 512 channels.

    Args:
        classes: outputs.
        norm: whether convolutions are followed by batch norm.
        width: channels of the first stage.
        channels: of the images.

    Example:
        >>> sum(p.numel() for p in resnet18(classes=100).parameters())
        11224932
    """
    return ResNet((2, 2, 2, 2), classes, norm=norm, width=width, channels=channels)
