"""Every kind of operation, one small network each: the permutation test holds, and the group is found whole."""

import pytest
import torch
import torch.nn.functional as F
from permutation import check_group, randomised
from torch import nn

from fcbp import Slice, find_units
from fcbp.units import elementwise, explain, layers, movement, products, rules


class Net(nn.Module):
    """A function of an input and of modules and parameters by name."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(torch.rand(part)))
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def linear(middle, size=6, reads=None, **parts):
    """``a``, something in between, ``b``, on vectors of 3."""
    return Net(lambda m, x: m.b(middle(m, m.a(x))), a=nn.Linear(3, size), b=nn.Linear(reads or size, 2), **parts)


def between(*layers, dims=1, channels=6, reads=None, kernel=1):
    """Convolution, something in between, convolution."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return nn.Sequential(conv(2, channels, 3, padding=1), *layers, conv(reads or channels, 3, kernel))


VECTOR, MAP1, MAP2, MAP3 = (4, 3), (2, 2, 8), (2, 2, 8, 8), (1, 2, 4, 4, 4)

ELEMENTWISE = {
    "relu": F.relu,
    "in place": lambda x: F.relu(x, inplace=True),
    "gelu": F.gelu,
    "elu": F.elu,
    "selu": F.selu,
    "leaky": F.leaky_relu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp": lambda x: x.clamp(-1, 1),
    "square": lambda x: x**2,
    "exp": torch.exp,
    "abs": torch.abs,
    "neg": torch.neg,
    "sin": torch.sin,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "log1p": lambda x: x.abs().log1p(),
    "dropout": lambda x: F.dropout(x, 0.5, False),
    "masked": lambda x: x.masked_fill(x < 0, -1.0),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "lerp": lambda x: torch.lerp(x, x.tanh(), 0.3),
    "detached": lambda x: x + x.detach() * 0.5,
    "constant": lambda x: x + torch.tensor(0.5),
    "softmax": lambda x: x.softmax(-1),
    "checked": lambda x: x.contiguous().clone(),
    "standardised": lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True),
    "unit": lambda x: F.normalize(x, dim=-1),
    "rms": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6),
    "max norm": lambda x: x / x.abs().amax(-1, keepdim=True),
}

MOVEMENTS = {
    "views": lambda x: x.view(2, 2, 2, 3).reshape(4, 6),
    "transposed": lambda x: x.t().contiguous().t(),
    "expanded": lambda x: x[:, None, None].expand(-1, 2, 3, -1).mean((1, 2)),
    "squeezed": lambda x: x.unsqueeze(1).squeeze(1),
    "stacked": lambda x: torch.stack([x, 2 * x]).sum(0),
    "stacked and unbound": lambda x: sum(torch.stack([x, -x], -1).unbind(-1)),
    "repeated": lambda x: x.repeat(3, 1).view(3, 4, 6).mean(0),
    "flipped back": lambda x: x.flip(1).tanh().flip(1),
    "rolled back": lambda x: x.roll(2, 1).tanh().roll(-2, 1),
    "permuted": lambda x: x[None].permute(2, 1, 0)[..., 0].t(),
    "joined in the batch": lambda x: torch.cat([x, x * 2])[2:6],
    "broadcast": lambda x: x * x.sum(0, keepdim=True),
    "einsum": lambda x: torch.einsum("bi,i->bi", x, torch.ones(6)),
    "movedim": lambda x: x.movedim(1, 0).movedim(0, 1),
}

WHOLE = {
    **{f"elementwise: {name}": (linear(lambda m, x, f=f: f(x)), VECTOR, 1) for name, f in ELEMENTWISE.items()},
    **{f"movement: {name}": (linear(lambda m, x, f=f: f(x)), VECTOR, 1) for name, f in MOVEMENTS.items()},
    "stride": (between(nn.Conv1d(6, 4, 3, stride=2), nn.ReLU(), reads=4), MAP1, 2),
    "dilation": (between(nn.Conv1d(6, 4, 3, dilation=2), nn.Tanh(), reads=4), MAP1, 2),
    "conv2d": (between(nn.ReLU(), nn.MaxPool2d(2), dims=2, kernel=3), MAP2, 1),
    "conv3d": (between(nn.ReLU(), nn.AvgPool3d(2), dims=3), MAP3, 1),
    "transposed 1d": (between(nn.ConvTranspose1d(6, 4, 3, stride=2), nn.ReLU(), reads=4), MAP1, 2),
    "transposed 2d": (between(nn.ConvTranspose2d(6, 4, 2, stride=2), nn.ReLU(), dims=2, reads=4), MAP2, 2),
    "transposed depthwise": (between(nn.ConvTranspose1d(6, 6, 3, groups=6), nn.ReLU()), MAP1, 1),
    "depthwise": (between(nn.Conv1d(6, 6, 3, groups=6), nn.ReLU()), MAP1, 1),
    "depthwise times two": (between(nn.Conv1d(6, 12, 3, groups=6), nn.ReLU(), reads=12), MAP1, 1),
    "depthwise 2d, dilated": (between(nn.Conv2d(6, 6, 3, groups=6, dilation=2), dims=2), MAP2, 1),
    "batch norm 2d": (between(nn.BatchNorm2d(6), nn.ReLU(), dims=2), MAP2, 1),
    "batch norm 3d, no affine": (between(nn.BatchNorm3d(6, affine=False), dims=3), MAP3, 1),
    "batch norm, no statistics": (between(nn.BatchNorm1d(6, track_running_stats=False)), MAP1, 1),
    "instance norm": (between(nn.InstanceNorm2d(6, affine=True, track_running_stats=True), dims=2), MAP2, 1),
    "group norm of one": (between(nn.GroupNorm(1, 6)), MAP1, 1),
    "group norm of all": (between(nn.GroupNorm(6, 6)), MAP1, 1),
    "layer norm": (linear(lambda m, x: m.n(x), n=nn.LayerNorm(6)), VECTOR, 1),
    "layer norm of maps": (between(nn.LayerNorm((6, 8))), MAP1, 1),
    "rms norm": (linear(lambda m, x: m.n(x), n=nn.RMSNorm(6)), VECTOR, 1),
    "scale and shift": (linear(lambda m, x: x * m.s + m.t, s=(6,), t=(6,)), VECTOR, 1),
    "prelu": (linear(lambda m, x: m.p(x), p=nn.PReLU(6)), VECTOR, 1),
    "prelu of maps": (between(nn.PReLU(6), nn.PReLU(), dims=2), MAP2, 1),
    "pools": (
        between(nn.MaxPool1d(3, 1, 1), nn.AvgPool1d(2), nn.AdaptiveMaxPool1d(3), nn.AdaptiveAvgPool1d(2)),
        MAP1,
        1,
    ),
    "upsampling": (between(nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"), dims=2), MAP2, 1),
    "padding": (between(nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), dims=2), MAP2, 1),
    "dropout": (between(nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout()), MAP1, 1),
    "pixel shuffle": (between(nn.PixelShuffle(2), dims=2, channels=8, reads=2, kernel=3), MAP2, 1),
    "pixel unshuffle": (between(nn.PixelUnshuffle(2), dims=2, reads=24), MAP2, 1),
    "glu": (linear(lambda m, x: F.glu(x, -1), reads=3), VECTOR, 1),
    "maxout": (linear(lambda m, x: x.unflatten(1, (3, 2)).amax(-1), reads=3), VECTOR, 1),
    "squeeze and excitation": (
        Net(
            lambda m, x: m.out((h := m.conv(x)) * m.up(m.down(h.mean(-1)).relu()).sigmoid()[..., None]),
            conv=nn.Conv1d(2, 6, 3),
            down=nn.Linear(6, 4),
            up=nn.Linear(4, 6),
            out=nn.Conv1d(6, 2, 1),
        ),
        MAP1,
        2,
    ),
    "weight norm": (
        nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(3, 6)),
            nn.Tanh(),
            nn.utils.parametrizations.weight_norm(nn.Linear(6, 2)),
        ),
        VECTOR,
        1,
    ),
    "low rank": (
        Net(lambda m, x: m.b(F.linear(x, m.u @ m.v).relu()), u=(6, 2), v=(2, 3), b=nn.Linear(6, 2)),
        VECTOR,
        1,
    ),
    "einsum": (
        Net(lambda m, x: m.b(torch.einsum("bi,oi->bo", x, m.w).relu()), w=(6, 3), b=nn.Linear(6, 2)),
        VECTOR,
        1,
    ),
    "bmm": (
        Net(lambda m, x: m.b(torch.bmm(x[:, None], m.w.expand(4, 3, 6))[:, 0]), w=(3, 6), b=nn.Linear(6, 2)),
        VECTOR,
        1,
    ),
    "mv": (Net(lambda m, x: m.b((x[:1] @ m.w).relu()), w=(3, 6), b=nn.Linear(6, 2)), VECTOR, 1),
    "bilinear heads": (
        Net(
            lambda m, x: m.b(torch.einsum("bi,hdi->bhd", x, m.w).mean(1)),
            w=(2, 6, 3),
            b=nn.Linear(6, 2),
        ),
        VECTOR,
        1,
    ),
    "shared layer, twice in a row": (
        Net(lambda m, x: m.b(m.s(m.s(m.a(x)).relu()).relu()), a=nn.Linear(3, 6), s=nn.Linear(6, 6), b=nn.Linear(6, 2)),
        VECTOR,
        1,
    ),
    "flattened map": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)), MAP2, 1),
    "flattened, channels last": (
        Net(lambda m, x: m.b(m.a(x).movedim(1, -1).flatten(1)), a=nn.Conv2d(2, 4, 3), b=nn.Linear(4 * 36, 2)),
        MAP2,
        1,
    ),
    "norm after flattening": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.BatchNorm1d(144), nn.LayerNorm(144), nn.Linear(144, 2)),
        MAP2,
        1,
    ),
    "cross attention": (
        Net(
            lambda m, x: m.o(m.a(x, x[:1].expand(2, -1, -1), x * 2, need_weights=True)[0]),
            a=nn.MultiheadAttention(8, 2, batch_first=True),
            o=nn.Linear(8, 2),
        ),
        (2, 2, 8),
        3,
    ),
    "grouped queries": (
        Net(
            lambda m, x: m.o(
                F.scaled_dot_product_attention(
                    m.q(x).unflatten(-1, (4, 3)).transpose(1, 2),
                    m.k(x).unflatten(-1, (2, 3)).transpose(1, 2),
                    m.v(x).unflatten(-1, (2, 3)).transpose(1, 2),
                    enable_gqa=True,
                )
                .transpose(1, 2)
                .flatten(2)
            ),
            q=nn.Linear(8, 12),
            k=nn.Linear(8, 6),
            v=nn.Linear(8, 6),
            o=nn.Linear(12, 2),
        ),
        (2, 5, 8),
        2,
    ),
    "linear attention": (
        Net(
            lambda m, x: m.o((m.q(x).softmax(-1) @ m.k(x).softmax(1).transpose(1, 2)) @ m.v(x)),
            q=nn.Linear(8, 3),
            k=nn.Linear(8, 3),
            v=nn.Linear(8, 6),
            o=nn.Linear(6, 2),
        ),
        (2, 5, 8),
        1,
    ),
    "batch of one head": (
        Net(
            lambda m, x: m.o(
                F.multi_head_attention_forward(
                    x.transpose(0, 1),
                    x.transpose(0, 1),
                    x.transpose(0, 1),
                    8,
                    2,
                    m.i,
                    None,
                    None,
                    None,
                    False,
                    0.0,
                    m.o0.weight,
                    m.o0.bias,
                    need_weights=False,
                )[0].relu()
            ),
            i=(24, 8),
            o0=nn.Linear(8, 8),
            o=nn.Linear(8, 2),
        ),
        (2, 5, 8),
        1,
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_units_of_an_operation_are_found_and_can_be_exchanged(name):
    net, shape, count = WHOLE[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    found = explain(net.train(), x, residual=True)
    assert len(found.units) == count, found
    randomised(net).eval()
    assert explain(net, x, residual=True).units == found.units
    for group in found.units:
        check_group(net, [x], group)


def test_every_operation_has_one_rule():
    modules = (elementwise, layers, movement, products)
    tables = [table for module in modules for table in (module.KEEPING_RULES, module.RULES)]
    names = [name for table in tables for names in table.values() for name in names]
    assert len(names) == len(set(names)) == len(rules.RULES) > 150
    assert set(names) == set(rules.RULES)
    assert rules.RULES["pixel_shuffle"] in layers.KEEPING_RULES
    assert "pixel_shuffle" in rules.KEEPING
    assert "convolution" not in rules.KEEPING


def test_blocks_strides_and_partial_slices():
    def group(name):
        net, shape, _ = WHOLE[name]
        return find_units(net, torch.zeros(shape))[0]

    assert group("depthwise times two").incoming[1] == Slice(("1.weight",), 0, stride=2, block=2)
    assert group("pixel shuffle").incoming == (Slice(("0.weight",), 0, stride=4, block=4),)
    assert group("maxout").incoming == (Slice(("a.weight",), 0, stride=2, block=2),)
    assert group("flattened, channels last").outgoing == (Slice(("b.weight",), 1, block=36, block_stride=4),)
    assert group("norm after flattening").norm_scale[0] == Slice(("2.weight",), 0, stride=36, block=36)
    assert group("bilinear heads").incoming == (Slice(("w",), 1),)
    assert group("prelu of maps").slope == (Slice(("1.weight",), 0),)
    assert group("scale and shift").norm_scale == (Slice(("s",), 0),)
    assert group("scale and shift").bias == (Slice(("a.bias",), 0), Slice(("t",), 0))
    assert group("glu").incoming == (Slice(("a.weight",), 0, block=2, block_stride=3),)
    assert group("low rank").incoming == (Slice(("u",), 0),)


def test_a_consumer_without_a_bias_has_none():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    assert find_units(net, torch.zeros(1, 3))[0].outgoing_bias == (None,)
    written = Net(lambda m, x: m.b(m.a(x)) + m.c, a=nn.Linear(3, 4), b=nn.Linear(4, 2, bias=False), c=(2,))
    assert find_units(written, torch.zeros(1, 3))[0].outgoing_bias == (("c",),)


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        (lambda x: x.cumsum(-1), "aten.cumsum"),
        (lambda x: x + torch.arange(6.0), "each differs from all others"),
        (lambda x: x[:, torch.tensor([0, 0, 1, 2, 3, 4])], None),
        (lambda x: torch.cat([x[:, :1], x[:, 1:]], -1), "single"),
        (lambda x: x @ torch.ones(6, 6).tril(), "no parameter"),
        (lambda x: x * (x @ x.t()).mean(), "dot product"),
        (lambda x: x.topk(6).values, "aten.topk"),
    ],
)
def test_what_treats_units_differently_is_no_group_of_them(middle, said):
    net = linear(lambda m, x: middle(x))
    found = explain(net, torch.randn(VECTOR), residual=True)
    assert said is None or said in str(found)
    for group in found.units:
        assert group.size < 6
        check_group(randomised(net), [torch.randn(VECTOR)], group)
