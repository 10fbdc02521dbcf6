"""Networks as people write them: what is found, that it is a group, what it reads, and why the rest is left out."""

import ordinary_networks as networks
import pytest
import torch
from permutation import check_group, randomised, state

import fcbp
from fcbp.units import explain
from fcbp.units.group import put, update


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


TOKENS = torch.arange(10).view(2, 5)

# The network, its inputs, its groups as ``name size reader``, and those that only residual=True finds.
NETS = {
    "DenseNet": ([normal(2, 3, 6, 6)], "stem 4 c1, c1 3 c2, c2 3 fc", ""),
    "ConvNeXt": ([normal(2, 3, 6, 6)], "up 16 down", "stem 4 up"),
    "Dueling": ([normal(2, 2, 7, 7)], "trunk.0 4 trunk.2, trunk.2 5 a1, a1 7 a2, v1 6 v2", ""),
    "Classifier": ([TOKENS], "embed 5 rnn, rnn:0 6 head, rnn:1 6 head", ""),
    "Autoencoder": (
        [normal(2, 1, 8, 8)], "encode.0 4 encode.3, encode.3 5 spread, spread 6 decode.0, decode.0 4 decode.2", "",
    ),
    "FiLM": ([normal(2, 3, 6, 6), normal(2, 4)], "film 6 out", ""),
    "Highway": ([normal(4, 3)], "", "i 6 t"),
    "Experts": ([normal(4, 3)], "experts.0.0 5 experts.0.2, experts.0.2 4 out, experts.1.0 5 experts.1.2", ""),
    "Ensemble": ([normal(7, 3)], "w1 5 w2", ""),
    "Positions": ([TOKENS], "tokens 6 a, a 9 o", ""),
    "Bilinear": ([normal(4, 3)], "a 5 b, b 4 o", ""),
    "Fourier": ([normal(4, 3)], "a 6 b, b 5 c", ""),
    "LearntStart": ([normal(2, 4, 3)], "i 6 h", ""),
    "Cells": ([normal(2, 4, 3)], "first 6 second, second 4 o", ""),
    "Masked": ([normal(2, 1, 6, 6)], "a 4 b.weight", ""),
    "Pooling": ([normal(2, 4, 3)], "k 5 score, v 6 o", ""),
    "LowRank": ([normal(4, 3)], "a 5 b, down 2 up", "b 4 o"),
    "MaskToken": ([normal(2, 4, 3)], "e 6 a, a 7 o", ""),
    "DeepSet": ([normal(2, 4, 3)], "phi.0 6 phi.2, phi.2 5 rho.0, rho.0 4 rho.2", ""),
    "Perceiver": (
        [normal(2, 5, 3)],
        "attention:0 4 attention.out_proj, attention:1 4 attention.out_proj, f.1 12 f.3",
        "kv 8 attention",
    ),
    "ConvLSTM": ([normal(2, 3, 2, 5, 5)], "gates 4 gates", ""),
    "Projected": ([normal(2, 4, 3)], "first 4 second, second 3 o", ""),
    "Graph": ([normal(4, 3), normal(4, 4)], "a 6 b, b 5 o", ""),
    "Quantiles": ([normal(4, 3), normal(4, 7)], "f 6 h, h 5 o", ""),
}  # fmt: skip


def build(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(networks, name)().eval(), NETS[name][0]


def brief(units):
    return ", ".join(f"{g.name} {g.size} {g.activation}" for g in units)


pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


@pytest.mark.parametrize("name", NETS)
def test_what_is_found_and_that_it_can_be_exchanged(name):
    net, inputs = build(name)
    plain, whole = explain(net, *inputs), explain(net, *inputs, residual=True)
    assert brief(plain.units) == NETS[name][1], plain
    assert brief(g for g in whole.units if g not in plain.units) == NETS[name][2], whole
    randomised(net)
    params, buffers = state(net)
    output, features, _ = fcbp.forward_with_features(net, whole.units)(params, buffers, *inputs)
    torch.testing.assert_close(output, net(*inputs))
    fcbp.units.check_features(whole.units, features)
    for group in whole.units:
        check_group(net, inputs, group)


@pytest.mark.parametrize("name", NETS)
def test_replaced_units_add_nothing(name):
    """A unit whose outgoing weights are 0 may be made of anything."""
    net, inputs = build(name)
    net = randomised(net).double()
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    params, buffers = state(net)

    def with_units(params, group, value, roles):
        mask = torch.arange(group.size) == 1
        return update(params, [group], lambda g, s, leaf: put(leaf, s, mask, value), roles)

    for group in explain(net, *inputs).units:
        silent = with_units(params, group, 0.0, "outgoing")
        # What a recurrent unit reads of itself is both: it stays 0.
        other = with_units(with_units(silent, group, 3.0, "incoming bias"), group, 0.0, "outgoing")
        outputs = [torch.func.functional_call(net, (p, buffers), tuple(inputs)) for p in (silent, other)]
        assert torch.equal(*outputs), group.name


def test_transfer_where_weights_meet_several_activations_or_functions():
    def biases(name):
        net, inputs = build(name)
        return {g.name: g.outgoing_bias for g in explain(net, *inputs).units}

    assert biases("Bilinear")["a"] == (None,), "what a unit adds depends on the other layer's"
    assert biases("Fourier") == {"a": (None,), "b": (("c.bias",),)}
    assert biases("DeepSet")["phi.2"] == (None,)
    assert biases("Masked") == {"a": (None,)}, "the mask is no part of the weight"
    assert biases("MaskToken")["e"] == (("a.bias",),)
    assert biases("Classifier")["rnn:0"] == (("rnn.bias_hh_l0",), ("head.bias",))


@pytest.mark.parametrize(
    ("name", "unit", "reason"),
    [
        ("Bilinear", "c", "no module or product that reads them takes them as they lie in its weight (b.weight)"),
        ("Highway", "i", "a residual stream"),
        ("Projected", "second", "no module or product that reads them takes them as they lie in its weight"),
        ("Experts", "gate", "no parameter reads them"),
        ("Quantiles", "phi", "no parameter makes them: aten.arange"),
    ],
)
def test_why_the_rest_is_left_out(name, unit, reason):
    net, inputs = build(name)
    assert any(x.reason.startswith(reason) for x in explain(net, *inputs).excluded if x.name == unit)
