"""A unit of constant activation, found by ``find_units``, is replaced and the output stays as it was."""

import dataclasses

import pytest
import torch
from permutation import randomised, run, state
from torch import nn

import fcbp
from fcbp.nets import ConvNet, mlp


def constant(params, buffers, group, unit, value):
    """Parameters and buffers in which one unit is always ``value`` before its activation."""
    params, buffers = dict(params), dict(buffers)
    for role in ("incoming", "bias", "norm_scale", "norm_shift"):
        for s in getattr(group, role):
            leaf = params[s.path[0]].clone()
            for entry in s.entries(group.size)[unit]:
                at = leaf.select(s.axis, entry)
                at.fill_(value if role == ("norm_shift" if group.norm_shift else "bias") else 0.0)
            params[s.path[0]] = leaf
    return params, buffers


class Pools(nn.Module):
    """The mean and the maximum over positions side by side: of a constant the same."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 3), nn.Linear(10, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.b(torch.cat([x.mean((-2, -1)), x.amax((-2, -1))], -1))


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x))) * self.b(torch.tanh(self.a(x + 1)))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(2, 5, 3), nn.Conv1d(5, 4, 1), nn.Conv1d(9, 2, 1)

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = torch.relu(self.b(nn.functional.max_pool1d(x, 2)))
        return self.c(torch.cat([nn.functional.interpolate(y, scale_factor=2.0), x], 1))


NETS = {
    "mlp": (lambda: mlp(3, (5, 4), 2), (7, 3)),
    "a convolution read without padding": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3)),
        (2, 2, 8, 8),
    ),
    "strides and positions in one dimension": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Conv1d(5, 4, 3, stride=2, dilation=2)),
        (2, 2, 16),
    ),
    "a flattened map": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 3)),
        (2, 2, 6, 6),
    ),
    "the originals' convolutional network": (ConvNet, (2, 3, 32, 32)),
    "a transposed convolution of stride 1": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 3, 1)),
        (2, 2, 6, 6),
    ),
    "batch norm in evaluation": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 3, 3)),
        (2, 2, 8, 8),
    ),
    "slopes of their own": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.PReLU(5), nn.Conv2d(5, 3, 3)),
        (2, 2, 8, 8),
    ),
    "both kinds of pooling side by side": (
        Pools,
        (2, 2, 6, 6),
    ),
    "one network on two inputs": (Siamese, (5, 3)),
    "a skip beside what is pooled": (Skip, (2, 2, 8)),
    "batch norm between linear layers": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)),
        (7, 3),
    ),
}


def replace_constant_unit(model, inputs, group, unit=1, **options):
    """The output before and after one unit, constant and the least useful, is replaced; and the new parameters."""

    def measure(observation):
        return (torch.arange(group.size) != unit).double()

    units = (group,)  # alone: the other groups' units are not constant
    params, buffers = constant(*state(model), group, unit, 0.7)
    forward = fcbp.forward_with_features(model, units)
    hyper = fcbp.Hyperparams(replacement_rate=1.0, maturity_threshold=2, decay_rate=0.9)
    double = {name: leaf.double() for name, leaf in params.items()}
    doubled = {name: leaf.double() if leaf.is_floating_point() else leaf for name, leaf in buffers.items()}
    fcbp_state = fcbp.init_state(units, double, fcbp.random.key(0))
    before, features, _ = forward(double, doubled, inputs.double())
    for _ in range(4):
        fcbp_state = fcbp.update_utility(fcbp_state, double, features, hyper, units=units, measure=measure)
    new, _, replaced = fcbp.select_and_reset(fcbp_state, double, hyper, units=units, capacity=1, **options)
    new_buffers = fcbp.reset_buffers(doubled, replaced, units=units)
    assert replaced[group.name].nonzero().flatten().tolist() == [unit]
    return before.detach().flatten(), run(model, new, new_buffers, [inputs]), new


@pytest.mark.parametrize("name", NETS)
def test_a_constant_unit_is_replaced_and_the_output_stays(name):
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(make()).eval()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for group in fcbp.find_units(model, inputs):
        before, after, new = replace_constant_unit(model, inputs, group, transfer_bias=True)
        torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12)
        s = group.outgoing[0]
        assert not new[s.path[0]].index_select(s.axis, torch.tensor(s.entries(group.size)[1])).any()
        before, after, _ = replace_constant_unit(model, inputs, group, transfer_bias=False)
        assert (after - before).abs().max() > 1e-3, "the unit was of account"


class After(nn.Module):
    """A bias added to what ``function`` makes of the weighted sum of units."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 5), nn.Linear(5, 4, bias=False), function
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return self.function(self.b(torch.relu(self.a(x)))) + self.bias


@pytest.mark.parametrize(
    ("function", "bias"),
    [(lambda y: y, ("bias",)), (lambda y: 3 * y, None), (torch.tanh, None), (lambda y: y.cumsum(0), None)],
)
def test_only_a_bias_that_is_added_to_the_weighted_sum_itself_can_take_over(function, bias):
    (group,) = fcbp.find_units(After(function), torch.zeros(2, 3))
    assert group.outgoing_bias == (bias,)


@pytest.mark.parametrize(
    ("add", "bias"),
    [
        (lambda y, b: b + y, ("bias",)),
        (lambda y, b: y - b, None),
        (lambda y, b: y + 0.1 * b, None),
        (lambda y, b: y + b.exp(), None),
        (lambda y, b: torch.add(y, b, alpha=2), None),
        (lambda y, b: y + b.view(1, -1), ("bias",)),
    ],
)
def test_only_a_bias_that_is_added_as_it_is_can_take_over(add, bias):
    class Added(After):
        def forward(self, x):
            return add(self.b(torch.relu(self.a(x))), self.bias)

    (group,) = fcbp.find_units(Added(None), torch.zeros(2, 3))
    assert group.outgoing_bias == (bias,)


@pytest.mark.parametrize(
    "consume",
    [
        lambda m, h: torch.addmm(m.bias, h, m.b.weight.T, beta=0.5),
        lambda m, h: torch.addmm(m.bias, h, m.b.weight.T, alpha=2),
        lambda m, h: torch.nn.functional.linear(h, 0.5 * m.b.weight, m.bias),
        lambda m, h: torch.nn.functional.linear(h, torch.nn.functional.normalize(m.b.weight, dim=1), m.bias),
    ],
)
def test_no_bias_takes_over_from_a_weight_that_is_scaled(consume):
    class Scaled(After):
        def forward(self, x):
            return consume(self, torch.relu(self.a(x)))

    (group,) = fcbp.find_units(Scaled(None), torch.zeros(2, 3))
    assert group.outgoing_bias == (None,)


def test_a_transposed_convolution_with_a_stride_adds_no_constant():
    """Each output reads one of the kernel's positions, so no bias can take over."""
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2, 2))
    (group,) = fcbp.find_units(model, torch.zeros(2, 2, 6, 6))
    assert group.outgoing_bias == (None,)


class Several(nn.Module):
    """Five units, read by ``b`` and ``c`` as ``function`` gives them."""

    def __init__(self, function):
        super().__init__()
        reads = function(torch.zeros(1, 5))[0].shape[-1]
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(reads, 2), nn.Linear(reads, 2)
        self.function = function

    def forward(self, x):
        read = self.function(self.a(x))
        return self.b(read[0]) * self.c(read[1])


def crelu(y):
    return torch.cat([torch.relu(y), torch.relu(-y)], -1)


DIFFERENT = {
    "crelu": (lambda y: [crelu(y)] * 2, (None, None), "b.weight reads several functions of each unit"),
    "crelu in dropout": (
        lambda y: [nn.functional.dropout(crelu(y)).sin(), y.repeat(1, 2)],
        (None, None),
        "b.weight reads several functions",
    ),
    "twice the same": (lambda y: [y.relu().repeat(1, 2)] * 2, (("b.bias",), ("c.bias",)), ""),
    "a sum of the same": (
        lambda y: [torch.cat([y + y.tanh(), y + y.tanh()], -1)] * 2,
        (("b.bias",), ("c.bias",)),
        "",
    ),
    "relu and tanh": (
        lambda y: [y.relu(), y.tanh()],
        (("b.bias",), None),
        "c.weight reads another function of the units than b.weight",
    ),
    "scales": (lambda y: [2 * y, 3 * y], (("b.bias",), None), "c.weight reads another function"),
    "constants": (
        lambda y: [y * torch.tensor(2.0), y * torch.tensor(3.0)],
        (("b.bias",), None),
        "c.weight reads another function",
    ),
    "order": (lambda y: [-y.relu(), (-y).relu()], (("b.bias",), None), "c.weight reads another function"),
    "norms": (
        lambda y: [nn.functional.layer_norm(y, (5,)), y],
        (("b.bias",), None),
        "c.weight reads another function",
    ),
    "a dropout": (lambda y: [y, nn.functional.dropout(y, 0.3)], (("b.bias",), ("c.bias",)), ""),
    "dropouts of their own": (
        lambda y: [nn.functional.dropout(y, 0.3), nn.functional.dropout(y, 0.6)],
        (("b.bias",), ("c.bias",)),
        "",
    ),
    "a mask that is drawn": (lambda y: [y, y * torch.empty_like(y).bernoulli_(0.5)], (("b.bias",), None), "c.weight"),
    "the same": (lambda y: [y.relu(), y.relu()], (("b.bias",), ("c.bias",)), ""),
    "views": (lambda y: [y.relu().view(-1, 1, 5)[:, 0], y.relu()], (("b.bias",), ("c.bias",)), ""),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_bias_takes_over_only_where_the_function_that_is_measured_is_read(name):
    function, biases, note = DIFFERENT[name]
    x = torch.zeros(4, 3)
    net = Several(function)
    found = fcbp.units.explain(net, x)
    (group,) = found.units
    assert group.outgoing_bias == biases
    if note:
        assert note in str(found)
        assert "bias transfer leaves" in str(found)
    else:
        assert not any("bias transfer" in remark for remark in found.notes["a"])


def test_what_a_transfer_through_several_functions_would_do():
    """The mean of a unit's two entries is not what either contributes: no bias takes over, and it is lost."""
    model = randomised(nn.Sequential(nn.Linear(3, 5), Halves(), nn.Linear(10, 2)))
    inputs = torch.randn(4, 3)
    (group,) = fcbp.find_units(model, inputs)
    assert group.outgoing_bias == (None,)
    before, kept, _ = replace_constant_unit(model, inputs, group, transfer_bias=True)
    _, without, _ = replace_constant_unit(model, inputs, group, transfer_bias=False)
    torch.testing.assert_close(kept, without)
    wrong = dataclasses.replace(group, outgoing_bias=(("2.bias",),))
    _, after, _ = replace_constant_unit(model, inputs, wrong, transfer_bias=True)
    assert (after - before).abs().max() > 1e-3


class Halves(nn.Module):
    def forward(self, x):
        return crelu(x)


class Before(nn.Module):
    """A layer that applies its activation function to its input, and a weight of its own then."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2, 5))

    def forward(self, x):
        return torch.relu(x) @ self.weight.T


def test_a_module_that_reads_a_function_of_its_input_is_not_taken_at_its_input():
    net = nn.Sequential(nn.Linear(3, 5), Before())
    (group,) = fcbp.find_units(net, torch.zeros(4, 3))
    assert group.activation == "1.weight"
    x = torch.randn(4, 3)
    features = fcbp.forward_with_features(net, (group,))(*state(net), x)[1]
    torch.testing.assert_close(features["0"], net[0](x).relu())


# --- borders ----------------------------------------------------------------------------------------------


def maps(*layers, dims=2):
    """A convolution that makes five rectified maps, and what reads them."""
    return nn.Sequential((nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](2, 5, 3), nn.ReLU(), *layers)


def read(function):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(5, 3, 1)

        def forward(self, x):
            return function(self.conv, x)

    return Reads()


EXACT = {
    "a padding that reflects": lambda: maps(nn.Conv2d(5, 3, 3, padding=1, padding_mode="reflect")),
    "a padding that replicates": lambda: maps(nn.Conv2d(5, 3, 3, padding=2, padding_mode="replicate")),
    "padding by replication before": lambda: maps(nn.ReplicationPad2d(1), nn.Conv2d(5, 3, 3)),
    "a kernel of one position": lambda: maps(nn.Conv2d(5, 3, 1, padding="same")),
    "a transposed convolution cropped": lambda: maps(nn.ConvTranspose2d(5, 3, 3, padding=2)),
    "a transposed convolution cropped, dilated": lambda: maps(nn.ConvTranspose2d(5, 3, 2, padding=2, dilation=2)),
    "pooling without padding": lambda: maps(nn.AvgPool2d(2), nn.Conv2d(5, 3, 1)),
    "pooling with windows over the border": lambda: maps(nn.AvgPool2d(4, 4, ceil_mode=True), nn.Conv2d(5, 3, 1)),
    "padding that is not counted": lambda: maps(
        nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Conv2d(5, 3, 1)),
    "the largest of padded windows": lambda: maps(nn.MaxPool2d(3, 2, 1), nn.Conv2d(5, 3, 1)),
    "upsampling": lambda: maps(nn.Upsample(scale_factor=2, mode="bicubic"), nn.Conv2d(5, 3, 3)),
    "one dimension": lambda: maps(nn.Conv1d(5, 3, 3), dims=1),
    "three dimensions": lambda: maps(nn.Conv3d(5, 3, 2), dims=3),
}  # fmt: skip

UNEVEN = {
    "padding": lambda: maps(nn.Conv2d(5, 3, 3, padding=1)),
    "padding on one side": lambda: maps(nn.Conv2d(5, 3, 3, padding=(0, 1))),
    "the same size": lambda: maps(nn.Conv2d(5, 3, 3, padding="same")),
    "one dimension": lambda: maps(nn.Conv1d(5, 3, 3, padding=1), dims=1),
    "three dimensions": lambda: maps(nn.Conv3d(5, 3, 3, padding=1), dims=3),
    "zeros before": lambda: maps(nn.ZeroPad2d(1), nn.Conv2d(5, 3, 3)),
    "a constant before": lambda: maps(nn.ConstantPad2d(1, 0.5), nn.Conv2d(5, 3, 1)),
    "a transposed convolution": lambda: maps(nn.ConvTranspose2d(5, 3, 3)),
    "a transposed convolution, cropped a little": lambda: maps(nn.ConvTranspose2d(5, 3, 3, padding=1)),
    "a transposed convolution of a stride": lambda: maps(nn.ConvTranspose2d(5, 3, 2, 2)),
    "padded pooling": lambda: maps(nn.AvgPool2d(3, 2, 1), nn.Conv2d(5, 3, 1)),
    "padded pooling, flattened": lambda: maps(nn.AvgPool2d(3, 2, 1), nn.Flatten(), nn.LazyLinear(3)),
    "sums over windows": lambda: maps(
        read(lambda conv, x: conv(nn.functional.avg_pool2d(x, 3, ceil_mode=True, divisor_override=2)))),
    "a depthwise convolution of padded maps": lambda: maps(nn.ZeroPad2d(1), nn.AvgPool2d(3, 1), nn.Conv2d(5, 3, 1)),
}  # fmt: skip


def border(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = make()
    shape = (2, 2, *(7,) * {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[type(net[0])])
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    net(inputs)
    found = fcbp.units.explain(randomised(net).eval(), inputs)
    (group,) = (g for g in found.units if g.size == 5)
    return net, inputs, group, found.notes[group.name]


@pytest.mark.parametrize("name", EXACT)
def test_a_constant_unit_read_the_same_everywhere_is_taken_over(name):
    net, inputs, group, _ = border(EXACT[name])
    assert None not in group.outgoing_bias
    before, after, _ = replace_constant_unit(net, inputs, group, transfer_bias=True)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", UNEVEN)
def test_no_bias_takes_over_a_unit_that_is_read_differently_at_a_border(name):
    net, inputs, group, notes = border(UNEVEN[name])
    assert group.outgoing_bias == (None,)
    assert any("does not add a constant: bias transfer leaves" in note for note in notes), notes
    bias = (group.outgoing[0].path[0].replace("weight", "bias"),)
    wrong = dataclasses.replace(group, outgoing_bias=(bias,))
    before, after, _ = replace_constant_unit(net, inputs, wrong, transfer_bias=True)
    assert (after - before).abs().max() > 1e-3, "it would move the output indeed"
