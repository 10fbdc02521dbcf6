"""The networks of the papers, as plain modules.

They are drawn as ``torch.nn`` draws: from the global generator, when made.
"""

from fcbp.nets.conv import ConvNet, PlainConvNet, cnn16, lenet
from fcbp.nets.mlp import ACTIVATIONS, CReLU, Fourier, mlp
from fcbp.nets.ppo import Actor, Critic
from fcbp.nets.resnet import ResNet, resnet18
from fcbp.nets.transformer import TransformerEncoder, VisionTransformer

__all__ = [
    "ACTIVATIONS",
    "Actor",
    "CReLU",
    "ConvNet",
    "Critic",
    "Fourier",
    "PlainConvNet",
    "ResNet",
    "TransformerEncoder",
    "VisionTransformer",
    "cnn16",
    "lenet",
    "mlp",
    "resnet18",
]
