"""Groups found equal lists written by hand, and each passes the permutation test, which defines a group."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from permutation import check_group, moved, permuted, randomised, run, state
from random_nets import RandomNet
from small_nets import (
    GRU,
    CReLU,
    Inception,
    LanguageModel,
    Mixer,
    MobileNet,
    MultiheadAttention,
    ParameterGRU,
    Recurrent,
    Siamese,
    SwiGLU,
    UNet,
    WrittenGRU,
)
from torch import nn

import fcbp
from fcbp import Slice, UnitGroup, find_units
from fcbp.nets import Actor, ConvNet, Critic, ResNet, VisionTransformer, mlp, resnet18
from fcbp.units import explain


def at(*names, axis=0, **where):
    """A slice of each leaf."""
    return tuple(Slice((name,), axis, **where) for name in names)


def layer(name, reader, size, *, axis=-1, norm=None, reads=None, **more):
    """The group of one layer that one other layer reads."""
    norms = {}
    if norm:
        norms = {
            "norm_scale": at(f"{norm}.weight"),
            "norm_shift": at(f"{norm}.bias"),
            "running_mean": at(f"{norm}.running_mean"),
            "running_var": at(f"{norm}.running_var"),
        }
    fields = {
        "incoming": at(f"{name}.weight"),
        "bias": at(f"{name}.bias"),
        "outgoing": reads or at(f"{reader}.weight", axis=1),
        "outgoing_bias": ((f"{reader}.bias",),),
        "activation": reader,
        "activation_axis": axis,
        **norms,
        **more,
    }
    return UnitGroup(name, size, **fields)


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


NETS = {
    "mlp": (lambda: mlp(3, (5, 4), 2), lambda: [image(7, 3)]),
    "conv net": (ConvNet, lambda: [image(2, 3, 32, 32)]),
    "resnet": (lambda: ResNet((2, 2), 3, width=4), lambda: [image(2, 3, 8, 8)]),
    "vit": (
        lambda: VisionTransformer(3, image=8, patch=4, width=8, depth=2, heads=2, hidden=12),
        lambda: [image(2, 3, 8, 8)],
    ),
    "gru": (GRU, lambda: [image(2, 3, 4)]),
    "gru written out": (WrittenGRU, lambda: [image(2, 3, 4)]),
    "gru of parameters": (ParameterGRU, lambda: [image(2, 3, 4)]),
    "nn.LSTM": (lambda: Recurrent(nn.LSTM), lambda: [image(2, 3, 4)]),
    "nn.GRU": (lambda: Recurrent(nn.GRU), lambda: [image(2, 3, 4)]),
    "u-net": (UNet, lambda: [image(2, 1, 8, 8)]),
    "inception": (Inception, lambda: [image(2, 3, 6, 6)]),
    "swiglu": (SwiGLU, lambda: [image(2, 4)]),
    "crelu": (CReLU, lambda: [image(2, 4)]),
    "mobilenet": (MobileNet, lambda: [image(2, 3, 8, 8)]),
    "siamese": (Siamese, lambda: [image(2, 4), image(4, 4)[2:]]),
    "multihead attention": (MultiheadAttention, lambda: [image(2, 5, 3)]),
    "language model": (lambda: LanguageModel(tied=False), lambda: [torch.arange(10).view(2, 5)]),
    "tied language model": (lambda: LanguageModel(tied=True), lambda: [torch.arange(10).view(2, 5)]),
    "mixer": (Mixer, lambda: [image(2, 5, 3)]),
}


def gates(name, count, size):
    return at(name, stride=1, block=count, block_stride=size)


def recurrent(count):
    """The two layers of a recurrent module with so many gates."""
    readers = [
        (0, "rnn.weight_ih_l1", "rnn.bias_ih_l1", "rnn.weight_ih_l1"),
        (1, "head.weight", "head.bias", "head"),
    ]
    return [
        UnitGroup(
            f"rnn:{k}",
            6,
            incoming=gates(f"rnn.weight_ih_l{k}", count, 6) + gates(f"rnn.weight_hh_l{k}", count, 6),
            bias=gates(f"rnn.bias_ih_l{k}", count, 6) + gates(f"rnn.bias_hh_l{k}", count, 6),
            outgoing=at(f"rnn.weight_hh_l{k}", reader, axis=1),
            outgoing_bias=((f"rnn.bias_hh_l{k}",), (bias,)),
            activation=activation,
        )
        for k, reader, bias, activation in readers
    ]


EXPECTED = {
    "mlp": [layer("0", "2", 5), layer("2", "4", 4)],
    "conv net": [
        layer("conv1", "conv2", 32, axis=-3),
        layer("conv2", "conv3", 64, axis=-3),
        layer("conv3", "fc1", 128, reads=at("fc1.weight", axis=1, stride=4, block=4)),
        layer("fc1", "fc2", 128),
        layer("fc2", "fc3", 128),
    ],
    "resnet": [
        layer(f"{block}.conv1", f"{block}.conv2", size, axis=-3, norm=f"{block}.bn1", outgoing_bias=(None,))
        for block, size in [("layer1.0", 4), ("layer1.1", 4), ("layer2.0", 8), ("layer2.1", 8)]
    ],
    "vit": [
        group
        for block in ("encoder.blocks.0", "encoder.blocks.1")
        for group in [
            *(
                UnitGroup(
                    f"{block}.attn.qkv:{head}",
                    4,
                    incoming=at(f"{block}.attn.qkv.weight", start=16 + 4 * head),
                    bias=at(f"{block}.attn.qkv.bias", start=16 + 4 * head),
                    outgoing=at(f"{block}.attn.proj.weight", axis=1, start=4 * head),
                    outgoing_bias=((f"{block}.attn.proj.bias",),),
                    activation=f"{block}.attn.proj",
                )
                for head in range(2)
            ),
            layer(f"{block}.mlp.0", f"{block}.mlp.2", 12),
        ]
    ],
    "gru": [
        UnitGroup(
            "cell",
            6,
            incoming=gates("cell.weight_ih", 3, 6) + gates("cell.weight_hh", 3, 6),
            bias=gates("cell.bias_ih", 3, 6) + gates("cell.bias_hh", 3, 6),
            outgoing=at("cell.weight_hh", "head.weight", axis=1),
            outgoing_bias=(("cell.bias_hh",), ("head.bias",)),
            activation="head",
        )
    ],
    "gru written out": [
        UnitGroup(
            "gates",
            6,
            incoming=gates("gates.weight", 2, 6) + at("new.weight"),
            bias=gates("gates.bias", 2, 6) + at("new.bias"),
            outgoing=at("gates.weight", "new.weight", axis=1, start=4) + at("head.weight", axis=1),
            outgoing_bias=(None, ("new.bias",), None),  # the others read the state, not what a gate lets through
            activation="new",
        )
    ],
    "gru of parameters": [
        UnitGroup(
            "wx",
            6,
            incoming=gates("wx", 3, 6) + gates("wh", 3, 6),
            bias=gates("bx", 3, 6) + gates("bh", 3, 6),
            outgoing=at("wh", axis=1) + at("wo"),
            outgoing_bias=(("bh",), ("bo",)),
            activation="wo",
        )
    ],
    "nn.LSTM": recurrent(4),
    "nn.GRU": recurrent(3),
    "u-net": [
        layer(
            "e1", "e2", 4, axis=-3,
            reads=at("e2.weight", axis=1) + at("d1.weight", axis=1, start=5),
            outgoing_bias=(None, None),  # at the border a padded convolution reads less of a unit
        ),
        layer("e2", "up", 6, axis=-3, reads=at("up.weight", axis=0), outgoing_bias=(None,)),
        layer("up", "d1", 5, axis=-3, incoming=at("up.weight", axis=1), outgoing_bias=(None,)),
        layer("d1", "out", 4, axis=-3),
    ],
    "inception": [
        layer("a", "c", 4, axis=-3),
        layer("b", "c", 5, axis=-3, reads=at("c.weight", axis=1, start=4)),
        layer("c", "fc", 6, reads=at("fc.weight", axis=1, stride=16, block=16)),
    ],
    "swiglu": [layer("w12", "w3", 8, incoming=gates("w12.weight", 2, 8), bias=gates("w12.bias", 2, 8))],
    "crelu": [layer("a", "b", 6, reads=at("b.weight", axis=1, block=2, block_stride=6), outgoing_bias=(None,))],
    "mobilenet": [
        UnitGroup(
            "expand",
            6,
            incoming=at("expand.weight", "depthwise.weight"),
            bias=at("depthwise.bias"),
            outgoing=at("project.weight", axis=1),
            outgoing_bias=(("project.bias",),),
            norm_scale=at("bn1.weight", "bn2.weight"),
            norm_shift=at("bn1.bias", "bn2.bias"),
            running_mean=at("bn1.running_mean", "bn2.running_mean"),
            running_var=at("bn1.running_var", "bn2.running_var"),
            activation="project",
            activation_axis=-3,
        )
    ],
    "siamese": [layer("f.0", "f.2", 6), layer("f.2", "head", 5)],
    "multihead attention": [
        *(
            UnitGroup(
                f"layer.self_attn:{head}",
                4,
                incoming=at("layer.self_attn.in_proj_weight", start=16 + 4 * head),
                bias=at("layer.self_attn.in_proj_bias", start=16 + 4 * head),
                outgoing=at("layer.self_attn.out_proj.weight", axis=1, start=4 * head),
                outgoing_bias=(("layer.self_attn.out_proj.bias",),),
                activation="layer.self_attn.out_proj",
            )
            for head in range(2)
        ),
        layer("layer.linear1", "layer.linear2", 12),
    ],
    "language model": [layer("f", "g", 6)],
    "tied language model": [layer("f", "g", 6)],
    "mixer": [layer("tokens.0", "tokens.2", 7), layer("channels.0", "channels.2", 9)],
}  # fmt: skip


def build(name, seed=0):
    make, inputs = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(), inputs()


@pytest.mark.parametrize("name", NETS)
def test_groups_equal_the_list_written_by_hand(name):
    model, inputs = build(name)
    assert list(find_units(model, *inputs)) == EXPECTED[name]


@pytest.mark.parametrize("name", NETS)
def test_exchanging_the_units_of_a_group_changes_nothing(name):
    model, inputs = build(name)
    randomised(model).eval()
    for group in find_units(model, *inputs, residual=True):
        check_group(model, inputs, group)


@pytest.mark.parametrize("name", NETS)
def test_a_group_names_no_place_too_many(name):
    """Without any one of its slices, exchanging the units changes the output."""
    model, inputs = build(name)
    randomised(model).eval()
    params, buffers = state(model)
    before = run(model, params, buffers, inputs)
    for group in find_units(model, *inputs):
        order = torch.arange(group.size).roll(1)
        new_params, new_buffers = permuted(params, buffers, group, order)
        back = torch.argsort(order)
        for s in group.parameter_slices():
            leaf = moved(new_params[s.path[0]], s, back)
            assert not torch.allclose(run(model, {**new_params, s.path[0]: leaf}, new_buffers, inputs), before), s
        for s in group.buffer_slices():
            leaf = moved(new_buffers[s.path[0]], s, back)
            assert not torch.allclose(run(model, new_params, {**new_buffers, s.path[0]: leaf}, inputs), before), s


@pytest.mark.parametrize("name", NETS)
def test_a_replaced_unit_is_silent(name):
    """With outgoing weights at 0, nothing that makes a replaced unit reaches the output."""
    model, inputs = build(name)
    randomised(model).eval()
    units = find_units(model, *inputs)
    params, buffers = state(model)
    fcbp_state = fcbp.init_state(units, params, fcbp.random.key(0))
    fcbp_state = fcbp_state._replace(age={g: age + 10 for g, age in fcbp_state.age.items()})
    hyper = fcbp.Hyperparams(replacement_rate=0.5, maturity_threshold=1, decay_rate=0.9)
    params, _, replaced = fcbp.select_and_reset(fcbp_state, params, hyper, units=units)
    before = run(model, params, buffers, inputs)
    assert all(mask.sum() > 0 for mask in replaced.values())
    notes = explain(model, *inputs).notes
    for group in units:
        changed = dict(params)
        for s in group.incoming + group.bias:
            # Not the weights between replaced units, which are the fresh draw.
            mask = fcbp.units.group.spread(replaced[group.name], s, changed[s.path[0]], False)
            changed[s.path[0]] = torch.where(mask, 7.0, changed[s.path[0]])
        # A recurrent unit's own outgoing weights lie in the rows that were just changed: those stay at 0.
        for s in group.outgoing:
            if any(s.path == other.path for other in group.incoming):
                mask = fcbp.units.group.spread(replaced[group.name], s, changed[s.path[0]], False)
                changed[s.path[0]] = torch.where(mask, params[s.path[0]], changed[s.path[0]])
        if not any("normalises over the units" in note for note in notes[group.name]):
            torch.testing.assert_close(run(model, changed, buffers, inputs), before, rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10**6))
def test_random_networks_pass_the_permutation_test(seed):
    net = randomised(RandomNet(random.Random(seed)).eval(), seed)
    x = image(2, 2, 8)
    for group in explain(net, x, residual=True).units:
        check_group(net, [x], group, seed)


def test_random_networks_have_groups():
    found = [explain(RandomNet(random.Random(seed)), image(2, 2, 8), residual=True).units for seed in range(30)]
    assert sum(map(len, found)) >= 60
    assert sum(not units for units in found) <= 3


@given(seed=st.integers(0, 10**6), frozen=st.booleans())
def test_the_call_is_deterministic_and_leaves_no_trace(seed, frozen):
    net = RandomNet(random.Random(seed)).train(not frozen)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    random_state = torch.get_rng_state()
    first = explain(net, image(2, 2, 8))
    assert first.units == explain(net, image(2, 2, 8)).units
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(before[name], x) for name, x in net.state_dict().items())
    assert all(m.training is not frozen and not m._forward_pre_hooks and not m._forward_hooks for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert torch.backends.mkldnn.enabled


def test_residual_streams_are_one_group_with_several_producers_and_consumers():
    model, inputs = build("resnet")
    streams = {g.name: g for g in find_units(model, *inputs, residual=True)}
    assert next(iter(streams)) == "conv1"
    stream = streams["conv1"]
    assert stream.incoming == at("conv1.weight", "layer1.0.conv2.weight", "layer1.1.conv2.weight")
    readers = ("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0")
    assert stream.outgoing == at(*(f"{reader}.weight" for reader in readers), axis=1)
    # The first reader is padded; what later ones read has passed through another block: another function of the units.
    assert stream.outgoing_bias == (None, None, None, None)
    assert stream.running_var == at("bn1.running_var", "layer1.0.bn2.running_var", "layer1.1.bn2.running_var")
    assert stream.activation == "layer1.0.conv1"
    end = streams["layer2.0.conv2"]
    assert end.incoming == at("layer2.0.conv2.weight", "layer2.0.downsample.0.weight", "layer2.1.conv2.weight")
    assert end.outgoing == at("layer2.1.conv1.weight", "fc.weight", axis=1)


def test_vit_residual_stream_takes_in_tokens_and_norms():
    model, inputs = build("vit")
    stream = find_units(model, *inputs, residual=True)[0]
    assert (stream.name, stream.size, stream.activation) == ("patches", 8, "encoder.blocks.0.attn.qkv")
    blocks = [f"encoder.blocks.{i}.{name}" for i in (0, 1) for name in ("attn.proj", "mlp.2")]
    assert stream.incoming == (
        *at("patches.weight"), *at("class_token", "positions", axis=2), *at(*(f"{b}.weight" for b in blocks))
    )  # fmt: skip
    assert len(stream.norm_scale) == len(stream.norm_shift) == 5
    assert any("norm1" in note for note in explain(model, *inputs, residual=True).notes["patches"])


def test_actor_and_critic():
    assert [g.name for g in find_units(Actor(27, 8), torch.zeros(1, 27))] == ["mean_net.0", "mean_net.2"]
    assert [g.name for g in find_units(Critic(27), torch.zeros(27))] == ["value_net.0", "value_net.2"]


def test_resnet18_is_found_in_one_forward_pass(monkeypatch):
    model, passes = resnet18(), []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: passes.append(x) or forward(self, x))
    units = find_units(model, torch.zeros(2, 3, 32, 32))
    assert len(passes) == 1
    assert [g.size for g in units] == [64, 64, 128, 128, 256, 256, 512, 512]


def test_inputs_with_and_without_a_batch_axis_give_the_same_groups():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AvgPool2d(2), nn.Conv2d(5, 2, 1))
    assert find_units(net, torch.zeros(3, 8, 8)) == find_units(net, torch.zeros(2, 3, 8, 8))
    assert find_units(mlp(3, (4,), 1), torch.zeros(3)) == find_units(mlp(3, (4,), 1), torch.zeros(2, 5, 3))


# --- what is left out, and whether the reason is true -----------------------------------------------------


def reason(model, *inputs, name, **options):
    found = {x.reason for x in explain(model, *inputs, **options).excluded if x.name == name}
    assert found, f"nothing of {name} was left out"
    return " | ".join(sorted(found))


def test_inputs_and_outputs():
    model = mlp(3, (5,), 2)
    x = image(4, 3)
    assert "the network's input" in reason(model, x, name="0")
    assert "the network's output" in reason(model, x, name="2")


def test_tied_embedding():
    model, inputs = build("tied language model")
    assert reason(model, *inputs, name="embed", residual=True).startswith(
        "they are the network's output | tied weights"
    )
    free, inputs = build("language model")
    (stream,) = [g for g in find_units(free, *inputs, residual=True) if g.name == "embed"]
    assert stream.incoming == at("embed.weight", axis=1) + at("g.weight")
    assert stream.outgoing == at("f.weight", "logits.weight", axis=1)


def test_queries_and_keys_meet_in_a_dot_product():
    """They can be exchanged together, so they are units; but no parameter reads them."""
    model, inputs = build("vit")
    name = "encoder.blocks.0.attn.qkv"
    assert "dot product" in reason(model, *inputs, name=name)
    randomised(model)
    params, buffers = state(model)
    order = torch.tensor([2, 0, 1, 3])
    swapped = dict(params)
    for leaf in (f"{name}.weight", f"{name}.bias"):
        for start in (0, 8):
            swapped[leaf] = moved(swapped[leaf], Slice((leaf,), 0, start=start), order)
    torch.testing.assert_close(run(model, swapped, buffers, inputs), run(model, params, buffers, inputs))


class Functional(nn.Module):
    """Parameters of its own, read by functions."""

    def __init__(self, forward, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.rand(shape) - 0.5))
        self.function = forward

    def forward(self, *inputs):
        return self.function(self, *inputs)


def test_a_weight_read_in_two_parts_has_no_activation_of_one():
    def forward(m, x):
        return F.linear(F.linear(x, m.a).relu(), m.c[:, :4]) + F.linear(F.linear(x, m.b).relu(), m.c[:, 4:])

    net = Functional(forward, a=(4, 3), b=(5, 3), c=(2, 9))
    why = "no module or product that reads them takes them as they lie in its weight (c)"
    assert why in reason(net, image(2, 3), name="a")
    assert why in reason(net, image(2, 3), name="b")


def test_grouped_convolution_makes_a_group_each_and_cannot_be_read():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv1d(6, 2, 3))
    assert "grouped" in reason(net, image(2, 3, 16), name="0")
    assert list(find_units(net, image(2, 3, 16))) == [
        UnitGroup(
            f"2:{g}", 3, at("2.weight", start=3 * g), at("2.bias", start=3 * g),
            at("4.weight", axis=1, start=3 * g), (("4.bias",),), activation="4", activation_axis=-2,
        )
        for g in (0, 1)
    ]  # fmt: skip


def test_group_norm_tells_its_groups_apart():
    net = nn.Sequential(nn.Conv1d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv1d(6, 2, 3))
    first, second = find_units(net, image(2, 3, 9))
    assert (first.name, first.size, second.norm_scale) == ("0:0", 3, at("1.weight", start=3))
    whole = UnitGroup(
        "0", 6, at("0.weight"), at("0.bias"), at("3.weight", axis=1), (("3.bias",),), at("1.weight"), at("1.bias")
    )
    with pytest.raises(AssertionError, match="0 is no group"):
        check_group(randomised(net), [image(2, 3, 9)], whole)


def test_axes_that_mix_with_others():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(F.avg_pool1d(self.a(x).unsqueeze(1), 3, 1, 1).squeeze(1))

    assert "aten.avg_pool2d mixes them" in reason(Pooled(), image(2, 3), name="a")


def test_statistics_that_are_read_without_a_weight():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = self.a(x)
            return self.b(h), h.mean(-1)

    assert "aten.mean reads them without a weight" in reason(Mean(), image(2, 3), name="a")


def test_unknown_operations_cost_groups_and_nothing_else():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(3, (5,), 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.net(x).sort(-1).values)

    net = Sorted()
    assert [g.name for g in find_units(net, image(2, 3))] == ["net.0"]
    assert "aten.sort" in reason(net, image(2, 3), name="net.2")


def test_writing_into_a_view_ends_the_knowledge_of_its_base():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = torch.zeros(x.shape[0], 2, 4)
            h[:, 0] = self.a(x)
            h[:, 1] = self.b(x)
            return self.c(h.sum(1))

    assert "written in place" in reason(Writes(), image(2, 3), name="a")


# --- options ----------------------------------------------------------------------------------------------


def test_include_and_exclude_by_pattern():
    model = mlp(3, (5, 4, 6), 2)
    x = image(1, 3)
    assert [g.name for g in find_units(model, x, include="[24]")] == ["2", "4"]
    assert [g.name for g in find_units(model, x, exclude=["0", "4"])] == ["2"]
    assert reason(model, x, name="4", exclude="4") == "exclude='4'"
    with pytest.raises(ValueError, match=r"include='fc\*' matches no group; expected a pattern for one of: 0, 2, 4"):
        find_units(model, x, include="fc*")


def test_attention_heads_can_be_left_out():
    model, inputs = build("vit")
    names = [g.name for g in find_units(model, *inputs, attention_heads=False)]
    assert names == ["encoder.blocks.0.mlp.0", "encoder.blocks.1.mlp.0"]
    assert "value channels" in reason(model, *inputs, name="encoder.blocks.0.attn.qkv", attention_heads=False)


def test_a_group_written_by_hand_is_added_or_replaces_what_it_overlaps():
    model, inputs = build("multihead attention")
    by_hand = layer("layer.linear1", "layer.linear2", 12, activation="layer.linear2")
    by_hand = UnitGroup(**{**by_hand.__dict__, "name": "mine"})
    units = find_units(model, *inputs, groups=(by_hand,))
    assert [g.name for g in units] == ["layer.self_attn:0", "layer.self_attn:1", "mine"]
    assert "replaced by the group 'mine'" in reason(model, *inputs, name="layer.linear1", groups=(by_hand,))
    wrong = UnitGroup("mine", 5, at("layer.linear1.weights"), (), at("layer.linear2.weight", axis=1), (None,))
    with pytest.raises(ValueError, match=r"'layer.linear1.weights'.* names no leaf"):
        find_units(model, *inputs, groups=(wrong,))
