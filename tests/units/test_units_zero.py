"""A replaced unit's outgoing weights are 0: whatever the forward makes of them is finite, and so is its gradient."""

import pytest
import torch
import torch.nn.functional as F
from permutation import check_group, randomised, state
from torch import nn

import fcbp
from fcbp.units import explain, zeros
from fcbp.units.group import take


class Computed(nn.Module):
    """Five units, read by a weight that is computed of ``w`` (2, 5) and others."""

    def __init__(self, function):
        super().__init__()
        self.a, self.function = nn.Linear(3, 5), function
        shapes = {"w": (2, 5), "v": (2, 5), "gain": (1, 5), "row": (2, 1), "shift": (5,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.rand(shape) + 0.2))

    def forward(self, x):
        return F.linear(torch.relu(self.a(x)), self.function(self))


def norm(m):
    return m.w.norm(dim=0, keepdim=True)


FOUND = {
    "torch's weight norm by unit": lambda m: torch._weight_norm(m.w, m.gain, 1),
    "torch's weight norm by output": lambda m: torch._weight_norm(m.w, m.row, 0),
    "normalised by output": lambda m: F.normalize(m.w, dim=1),
    "softsign": lambda m: F.softsign(m.w),
    "a square": lambda m: m.w.pow(2),
    "over another parameter": lambda m: m.w / m.gain,
    "sinc": lambda m: m.w * torch.sinc(m.w),
    "softmax": lambda m: m.w * m.w.softmax(0),
    "by one norm": lambda m: m.w / m.w.norm(),
    "a smooth root": lambda m: m.w / (1 + m.w.square()).sqrt(),
    "differences": lambda m: m.w - m.w.flip(0),
    "nan_to_num": lambda m: torch.nan_to_num(m.w, nan=0.1),
}

LEFT_OUT = {
    "a norm by hand": lambda m: m.gain * m.w / norm(m),
    "a norm by hand, expanded": lambda m: m.gain * m.w / norm(m).expand_as(m.w),
    "normalised by unit": lambda m: F.normalize(m.w, dim=0),
    "a root and a small number": lambda m: m.w / (m.w.square().sum(0, keepdim=True).sqrt() + 1e-6).expand(2, 5),
    "rsqrt": lambda m: m.w * m.w.square().sum(0).rsqrt().expand(2, 5),
    "rsqrt and a small number": lambda m: m.w * (m.w.square().sum(0) + 1e-6).rsqrt().expand(2, 5),
    "the largest": lambda m: m.w / m.w.abs().amax(0, keepdim=True).expand(2, 5),
    "a sign by hand": lambda m: m.w / m.w.abs(),
    "a quotient of weights": lambda m: m.w / m.v,
    "times its reciprocal": lambda m: m.w * m.w.reciprocal(),
    "a constant over it": lambda m: torch.ones_like(m.w) / m.w,
    "a root": lambda m: m.w.abs().sqrt(),
    "a power below 1": lambda m: m.w.abs().pow(0.5),
    "times its logarithm": lambda m: m.w * m.w.abs().log(),
    "NaN made 0": lambda m: torch.nan_to_num(m.w / norm(m).expand(2, 5)),
    "clipped away from 0": lambda m: F.hardtanh(m.w, 0.1, 1.0),
    "clipped by a tensor": lambda m: torch.clamp(m.w, min=torch.tensor(0.1)),
    "a product of norms": lambda m: m.w / (norm(m) * norm(m)).sqrt().expand(2, 5),
}


def replaced(params, group, unit=1):
    """Parameters as a reset leaves them."""
    mask = torch.arange(group.size) == unit
    for role, value in (("outgoing", 0.0), *fcbp.units.group.FRESH.items()):
        params = fcbp.units.group.update(
            params, [group], lambda g, s, leaf, value=value: fcbp.units.group.put(leaf, s, mask, value), role
        )
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def assert_silent(net, x, group, notes=()):
    """A replaced unit adds nothing, unless a note says so, and the gradient there is a number to go on with."""
    params = replaced(dict(net.named_parameters()), group)
    output = torch.func.functional_call(net, params, (x,))
    assert output.isfinite().all()
    output.square().sum().backward()
    for name, p in params.items():
        assert p.grad is None or p.grad.abs().max() < 1e4, name
    other = dict(params)
    for s in group.incoming + group.bias:
        rows = s.entries(group.size)[1]
        other[s.path[0]] = other[s.path[0]].detach().index_fill(s.axis, torch.tensor(rows), 7.0)
    silent = torch.equal(torch.func.functional_call(net, other, (x,)), output)
    assert silent or any("normalises over the units" in note for note in notes)


@pytest.mark.parametrize("name", FOUND)
def test_a_unit_read_by_a_computed_weight_is_silent_after_a_reset(name):
    net, x = Computed(FOUND[name]), torch.randn(4, 3)
    (group,) = (g for g in explain(net, x).units if g.name == "a")
    check_group(randomised(net), [x], group)
    assert_silent(net, x, group)


@pytest.mark.parametrize("name", LEFT_OUT)
def test_units_whose_weights_cannot_be_zero_are_left_out_with_that_reason(name):
    net, x = Computed(LEFT_OUT[name]), torch.randn(4, 3)
    found = explain(net, x)
    assert not any(g.name == "a" for g in found.units)
    (row,) = (row for row in found.excluded if row.size == 5)
    assert "has no finite value or slope" in row.reason or "does not silence them" in row.reason
    assert name.startswith(("a constant", "clipped")) == ("does not silence" in row.reason)


def weight_norm(module, **options):
    return nn.utils.parametrizations.weight_norm(module, **options)


NETS = {
    "a transposed convolution": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), weight_norm(nn.ConvTranspose1d(5, 3, 3, 2))), (2, 2, 9),
    ),
    "a chain of them": (
        lambda: nn.Sequential(
            weight_norm(nn.Conv1d(2, 5, 3)), nn.LeakyReLU(), weight_norm(nn.ConvTranspose1d(5, 4, 4, 2)),
            nn.LeakyReLU(), weight_norm(nn.ConvTranspose1d(4, 3, 4, 2)), nn.Tanh(), weight_norm(nn.Conv1d(3, 1, 3))),
        (2, 2, 9),
    ),
    "a linear layer": (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), weight_norm(nn.Linear(5, 2), dim=1)), (4, 3)),
    "its last axis": (lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), weight_norm(nn.Linear(5, 2), dim=-2)), (4, 3)),
    "both sides": (
        lambda: nn.Sequential(weight_norm(nn.Linear(3, 5), dim=1), nn.Tanh(), weight_norm(nn.Linear(5, 2), dim=1)),
        (4, 3),
    ),
    "maps, flattened": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(), nn.Flatten(), weight_norm(nn.Linear(35, 2), dim=1)),
        (2, 2, 9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_a_weight_norm_of_each_unit_keeps_its_direction_and_has_no_gain(name):
    make, shape = NETS[name]
    net, x = randomised(make()), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    units, notes = explain(net, x).units, explain(net, x).notes
    assert any(g.direction for g in units) or name == "its last axis"
    for group in units:
        check_group(net, [x], group)
        assert_silent(net, x, group, notes[group.name])
    params, buffers = state(net)
    forward = fcbp.forward_with_features(net, units)
    fcbp_state = fcbp.init_state(units, params, fcbp.random.key(0))
    hyper = fcbp.Hyperparams(1.0, 0, 0.9)
    fcbp_state = fcbp.update_utility(fcbp_state, params, forward(params, buffers, x)[1], hyper, units=units)
    new, _, gone = fcbp.select_and_reset(fcbp_state, params, hyper, units=units, capacity=2)
    assert all(mask.sum() == 2 for mask in gone.values())
    assert torch.func.functional_call(net, new, (x,)).isfinite().all()
    for group in units:
        for s in group.direction:
            assert new[s.path[0]].movedim(s.axis, 0).flatten(1).norm(dim=1).min() > 0


@pytest.mark.parametrize("name", NETS)
def test_moments_of_a_direction_are_reset_though_it_is_kept(name):
    """They lead where the unit's old consumers were going, as those of any outgoing weight."""
    make, shape = NETS[name]
    net = randomised(make())
    units, (params, _) = fcbp.find_units(net, torch.randn(shape)), state(net)
    ones = {"exp_avg": {path: torch.ones_like(w) for path, w in params.items()}}
    for group in units:
        gone = {g.name: (torch.arange(g.size) == 0) & (g is group) for g in units}
        moments = fcbp.reset_moments(ones, gone, units=units, params=params)["exp_avg"]
        for s in group.direction:
            own = take(moments[s.path[0]], s, group.size)
            assert not own[..., 0, :].any()
            assert own[..., 1:, :].all()


def test_no_zero_of_a_bias_is_lost_in_a_logarithm():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.shift = nn.Linear(3, 5, bias=False), nn.Linear(5, 2), nn.Parameter(torch.rand(5))

        def forward(self, x):
            return self.b(torch.relu(self.a(x) + self.shift.log()))

    (row,) = (row for row in explain(Shifted(), torch.randn(4, 3)).excluded if row.size == 5)
    assert row.reason.startswith("aten.log has no finite value or slope where a unit's part of shift is 0")


@pytest.mark.parametrize("name", sorted(zeros.ZERO_AT_ZERO - {"_weight_norm_interface", "div"}))
def test_functions_that_are_taken_for_quiet_are_0_at_0_and_have_a_slope_there(name):
    x = torch.zeros(3, requires_grad=True)
    more = [torch.ones(3)] if name == "_prelu_kernel" else []
    y = getattr(torch.ops.aten, name).default(x, *more)
    assert not y.any()
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.isfinite().all() == (name not in zeros.SINGULAR)


@pytest.mark.parametrize("name", sorted(zeros.NONZERO_AT_ZERO - {"softmax", "_softmax"}))
def test_functions_that_are_taken_for_solid_are_not_0_at_0(name):
    assert getattr(torch.ops.aten, name).default(torch.zeros(3)).abs().min() > 0.1
