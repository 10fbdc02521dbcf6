"""A unit of constant activation, found by ``find_units``, is replaced and the output stays as it was."""

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


def test_a_transposed_convolution_with_a_stride_adds_no_constant():
    """Each output reads one of the kernel's positions, so no bias can take over."""
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.ConvTranspose2d(5, 3, 2, 2))
    (group,) = fcbp.find_units(model, torch.zeros(2, 2, 6, 6))
    assert group.outgoing_bias == (None,)
