"""The networks of the papers: shapes, initialisations, bad input."""

import math

import pytest
import torch
from torch import nn

import fcbp
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


@pytest.mark.parametrize("norm", [None, "layer"])
@pytest.mark.parametrize("activation", ["crelu", "fourier", "relu"])
def test_mlp_variants_and_their_groups(activation, norm):
    net = mlp(3, (5, 4), 2, activation=activation, norm=norm)
    x = torch.randn(7, 3)
    two = 1 if activation == "relu" else 2
    by_hand = {
        "crelu": lambda z: torch.cat([z.clamp(min=0), -z.clamp(max=0)], -1),
        "fourier": lambda z: torch.cat([torch.sin(z), torch.cos(z)], -1),
        "relu": lambda z: z.clamp(min=0),
    }[activation]
    params = dict(net.named_parameters())
    linear = [name for name, m in net.named_modules() if isinstance(m, nn.Linear)]
    h, features = x, {}
    for i, name in enumerate(linear):
        h = h @ params[f"{name}.weight"].T + params[f"{name}.bias"]
        if i < 2:
            h = nn.functional.layer_norm(h, h.shape[-1:]) if norm else h
            h = features[name] = by_hand(h)
    torch.testing.assert_close(net(x), h)

    units = fcbp.find_units(net, x)
    assert [(g.name, g.size) for g in units] == [(linear[0], 5), (linear[1], 4)]
    _, read, _ = fcbp.forward_with_features(net, units)(params, {}, x)
    for group, consumer in zip(units, linear[1:], strict=True):
        (outgoing,) = group.outgoing
        assert outgoing.path == (f"{consumer}.weight",)
        assert outgoing.entries(group.size) == [[j + k * group.size for k in range(two)] for j in range(group.size)]
        assert len(group.norm_scale) == len(group.norm_shift) == (norm is not None)
        torch.testing.assert_close(read[group.name], features[group.name])


@pytest.mark.parametrize("norm", [None, "layer"])
@pytest.mark.parametrize("activation", ["crelu", "fourier"])
def test_a_replaced_unit_of_two_features_contributes_nothing(activation, norm):
    net = mlp(3, (6,), 2, activation=activation, norm=norm)
    x = torch.randn(9, 3)
    (group,) = units = fcbp.find_units(net, x)
    params = {name: p.detach() for name, p in net.named_parameters()}
    hyper = fcbp.Hyperparams(replacement_rate=0.5, maturity_threshold=0)
    state = fcbp.init_state(units, params, fcbp.random.key(0))
    forward = fcbp.forward_with_features(net, units)
    _, features, _ = forward(params, {}, x)
    state = fcbp.update_utility(state, params, features, hyper, units=units)
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
    gone = replaced[group.name]
    assert gone.sum() == 3
    last = [name for name in params if name.endswith("weight")][-1]
    assert not new[last][:, gone.repeat(2)].any()
    assert torch.equal(new[last][:, ~gone.repeat(2)], params[last][:, ~gone.repeat(2)])
    output, features, _ = forward(new, {}, x)
    kept = (
        features[group.name][:, ~gone.repeat(2)] @ new[last][:, ~gone.repeat(2)].T + new[last.replace("weight", "bias")]
    )
    torch.testing.assert_close(output, kept)


def test_unknown_activation():
    with pytest.raises(ValueError, match=r"activation is 'rely'; expected one of .*did you mean 'relu'"):
        mlp(3, (5,), 2, activation="rely")
    with pytest.raises(ValueError, match="activation is 'rely'"):
        ConvNet(activation="rely")
    with pytest.raises(ValueError, match="norm is 'batch'; expected one of layer"):
        mlp(3, (5,), 2, norm="batch")


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
