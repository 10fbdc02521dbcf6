"""The networks of the papers: shapes, initialisations, bad input."""

import math

import pytest
import torch
from torch import nn

from fcbp.nets import (
    ACTIVATIONS,
    Actor,
    ConvNet,
    Critic,
    ResNet,
    TransformerEncoder,
    VisionTransformer,
    mlp,
    resnet18,
)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp(activation):
    net = mlp(3, (5, 4), 2, activation=activation)
    assert [type(m) for m in net] == [nn.Linear, ACTIVATIONS[activation], nn.Linear, ACTIVATIONS[activation], nn.Linear]
    assert net(torch.zeros(7, 3)).shape == (7, 2)
    assert len(mlp(3, (), 2)) == 1


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation is 'rely'; expected one of .*did you mean 'relu'"):
        mlp(3, (5,), 2, activation="rely")
    with pytest.raises(ValueError, match="activation is 'rely'"):
        ConvNet(activation="rely")


def test_conv_net_is_the_originals():
    net = ConvNet(classes=2)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (32, 3, 5, 5),
        "conv2.weight": (64, 32, 3, 3),
        "conv3.weight": (128, 64, 3, 3),
        "fc1.weight": (128, 512),
        "fc2.weight": (128, 128),
        "fc3.weight": (2, 128),
    }
    leaky = ConvNet(activation=lambda: nn.LeakyReLU(0.1))
    assert leaky(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_resnet18_is_the_originals():
    net = resnet18(100)
    assert sum(p.numel() for p in net.parameters()) == 11_224_932
    assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))
    assert not any(isinstance(m, nn.MaxPool2d) for m in net.modules())
    assert net.conv1.stride == (1, 1)
    assert net.conv1.kernel_size == (3, 3)
    weight = net.layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    assert net.fc.weight.std().item() == pytest.approx(math.sqrt(1 / 512), rel=0.02)
    assert all(not m.bias.any() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_resnet_stages():
    net = ResNet((1, 2), 5, width=4, norm=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    seen = []
    net.layer2.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert seen == [(2, 8, 16, 16)]


def test_actor_and_critic():
    actor, critic = Actor(27, 8, (64, 32), activation="tanh", log_std=-1.0), Critic(27, (16,))
    mean, std = actor(torch.zeros(5, 27))
    assert mean.shape == (5, 8)
    assert torch.allclose(std, torch.full((8,), math.exp(-1)))
    assert critic(torch.zeros(27)).shape == (1,)
    weight = actor.mean_net[0].weight
    assert weight.abs().max() <= math.sqrt(3 / 27)
    assert weight.std().item() == pytest.approx(math.sqrt(1 / 27), rel=0.1)
    assert not actor.mean_net[0].bias.any()


def test_transformers():
    encoder = TransformerEncoder(width=8, depth=2, heads=2, hidden=12)
    x = torch.randn(3, 5, 8)
    assert encoder(x).shape == x.shape
    # Without positions an encoder does not know the order of its tokens.
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(encoder(x[:, order]), encoder(x)[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(x[0]), encoder(x)[0], rtol=1e-4, atol=1e-5)
    vit = VisionTransformer(classes=10, image=16, patch=4, width=8, depth=1, heads=2)
    assert vit.positions.shape == (1, 17, 8)
    assert not vit(torch.randn(2, 3, 16, 16)).any()  # the head starts at 0
    with pytest.raises(ValueError, match="width is 8, heads is 3; expected heads to divide width"):
        TransformerEncoder(width=8, depth=1, heads=3)
    with pytest.raises(ValueError, match="patch is 5, image is 32"):
        VisionTransformer(classes=10, patch=5)
