"""Activations, utilities and bias transfer reach the units that they are of, in whatever order consumers read them."""

import random

import pytest
import test_find_units
import test_units_networks
import test_units_reset
import test_units_rules
import test_units_transfer
import test_units_zero
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from permutation import permuted, randomised, run, state
from random_nets import RandomNet
from torch import nn

import fcbp
from fcbp.cbp import unit_activations
from fcbp.units import explain
from fcbp.units.group import put, take, update


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class Read(nn.Module):
    """Eight rectified units, read by ``b`` as ``function`` lays them out."""

    def __init__(self, function, reads=8, **more):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(3, 8), nn.Linear(reads, 2), function
        for name, part in more.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, F.relu(self.a(x)))


class Coupling(nn.Module):
    """Two coupling layers of a flow, each of which moves one half by the other; the halves change places between."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(3, 8)
        self.s1, self.s2 = (nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 8)) for _ in range(2))
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        h = self.into(x)
        for net in (self.s1, self.s2):
            own, other = h.chunk(2, -1)
            scale, shift = net(own).chunk(2, -1)
            h = torch.cat([other * scale.tanh().exp() + shift, own], -1).flip(-1)
        return self.out(h)


class Maps(nn.Module):
    """Maps of four channels, laid out by ``function`` for a linear layer."""

    def __init__(self, function, reads=36, also=None):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Linear(reads, 2)
        self.c, self.function = nn.Linear(also or reads, 2), function

    def forward(self, x):
        return self.function(self, F.relu(self.a(x)))


def beside(m, h):
    return m.b(torch.cat([torch.tanh(m.c(h)), h.flip(-1)], -1)) + m.d(torch.cat([h, -h], -1))


ORDERS = {
    "flipped": (lambda: Read(lambda m, h: m.b(h.flip(-1))), (4, 3)),
    "flipped, a parameter reads": (lambda: Read(lambda m, h: h.flip(-1) @ m.b.weight.T), (4, 3)),
    "flipped among others": (
        lambda: Read(lambda m, h: m.b(torch.cat([m.c(h), h.flip(-1)], -1)), 11, c=nn.Linear(8, 3)), (4, 3),
    ),
    "halves exchanged": (lambda: Read(lambda m, h: m.b(torch.cat(h.chunk(2, -1)[::-1], -1))), (4, 3)),
    "odd ones first": (lambda: Read(lambda m, h: m.b(torch.cat([h[:, 1::2], h[:, ::2]], -1))), (4, 3)),
    "odd ones first, backwards": (
        lambda: Read(lambda m, h: m.b(torch.cat([h[:, 1::2], h[:, ::2]], -1).flip(-1))), (4, 3),
    ),
    "rolled": (lambda: Read(lambda m, h: m.b(h.roll(3, -1))), (4, 3)),
    "shuffled": (lambda: Read(lambda m, h: m.b(h.view(-1, 2, 4).transpose(1, 2).flatten(1))), (4, 3)),
    "in any order": (lambda: Read(lambda m, h: m.b(torch.cat([h[:, 3:5], h[:, 5:], h[:, :3]], -1))), (4, 3)),
    "both ways, shuffled": (
        lambda: Read(lambda m, h: m.b(torch.cat([h, -h.view(-1, 2, 4).transpose(1, 2).flatten(1)], -1)), 16), (4, 3),
    ),
    "rolled among others": (
        lambda: Read(lambda m, h: m.b(torch.cat([m.c(h), h.roll(3, -1)], -1)), 11, c=nn.Linear(8, 3)), (4, 3),
    ),
    "a map, shuffled": (
        lambda: Maps(lambda m, h: m.b(h.unflatten(1, (2, 2)).transpose(1, 2).flatten(1))), (2, 2, 5, 5),
    ),
    "both ways": (lambda: Read(lambda m, h: m.b(torch.cat([h, h.flip(-1)], -1)), 16), (4, 3)),
    "both ways, interleaved": (lambda: Read(lambda m, h: m.b(torch.stack([h, -h], -1).flatten(1)), 16), (4, 3)),
    "flipped, then straight": (lambda: Read(lambda m, h: m.b(h.flip(-1)) + m.c(h), c=nn.Linear(8, 2)), (4, 3)),
    "twice as long elsewhere": (
        lambda: Read(beside, 16, c=nn.Linear(8, 8), d=nn.Linear(16, 2)), (4, 3),
    ),
    "a coupling layer": (Coupling, (4, 3)),
    "channels flipped": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), Function(lambda h: h.flip(1)), nn.Conv1d(5, 2, 1)), (2, 2, 8),
    ),
    "a flattened map, flipped": (lambda: Maps(lambda m, h: m.b(h.flatten(1).flip(-1))), (2, 2, 5, 5)),
    "a map, flipped and flattened": (lambda: Maps(lambda m, h: m.b(h.flip(1).flatten(1))), (2, 2, 5, 5)),
    "a map, channels last": (lambda: Maps(lambda m, h: m.b(h.movedim(1, -1).flip(-1).flatten(1))), (2, 2, 5, 5)),
    "a map, two layouts": (
        lambda: Maps(lambda m, h: m.b(h.flip(1).flatten(1)) + m.c(h.movedim(1, -1).flatten(1))), (2, 2, 5, 5),
    ),
    "a map beside its layer": (
        lambda: Maps(lambda m, h: m.b(torch.cat([m.c(h.flatten(1)), h.flip(1).flatten(1)], -1)), 38, 36), (2, 2, 5, 5),
    ),
}  # fmt: skip


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def all_networks():
    """Every network of these tests, by name: what makes it, its inputs and the options of the search."""
    for name, (make, inputs) in test_find_units.NETS.items():
        yield f"hand-written: {name}", lambda make=make, inputs=inputs: (make(), inputs(), {"residual": True})
    for name, (inputs, _, _) in test_units_networks.NETS.items():
        yield f"ordinary: {name}", lambda name=name, inputs=inputs: (
            test_units_networks.build(name)[0], inputs, {"residual": True})  # fmt: skip
    for name, (net, shape, _) in test_units_rules.WHOLE.items():
        yield f"operation: {name}", lambda net=net, shape=shape: (net, [normal(*shape)], {"residual": True})
    for name, (make, shape, options) in test_units_reset.NETS.items():
        yield f"reset: {name}", lambda make=make, shape=shape, options=options: (make(), [normal(*shape)], options)
    for kind in (test_units_transfer.NETS, test_units_zero.NETS, ORDERS):
        for name, (make, shape) in kind.items():
            yield f"other: {name}", lambda make=make, shape=shape: (make(), [normal(*shape)], {})


NETS = dict(all_networks())
MEASURES = ("contribution", "adaptable_contribution", "weight_gradient", "removal")


def observed(net, units, params, buffers, inputs):
    """Every group's activation by unit, and its utilities, after one step."""
    forward = fcbp.forward_with_features(net, units)

    def objective(params):
        output, features, _ = forward(params, buffers, *inputs)
        leaves = [x for x in torch.utils._pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]
        return sum(((x + 0.3).sin() ** 2).sum() for x in leaves), features

    grads, features = torch.func.grad(objective, has_aux=True)(params)
    start = fcbp.init_state(units, params, fcbp.random.key(0))
    hyper = fcbp.Hyperparams(0.1, 3, 0.9)
    states = {
        measure: fcbp.update_utility(start, params, features, hyper, units=units, measure=measure, grads=grads)
        for measure in MEASURES
    }
    found = {}
    for g in units:
        h = unit_activations(g, features[g.name]).movedim(-2, 0)
        found[g.name] = {"activation": h, "mean": states["contribution"].mean_activation[g.name]}
        found[g.name] |= {measure: s.utility[g.name] for measure, s in states.items()}
    return found


def check_order(net, inputs, units, seed=0):
    """With a group's parameters in another order, its activations and utilities are in that order, and no others."""
    params, buffers = state(net)
    params = {name: p.double() for name, p in params.items()}
    buffers = {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    before = observed(net, units, params, buffers, inputs)
    generator = torch.Generator().manual_seed(seed)
    for group in units:
        order = torch.randperm(group.size, generator=generator)
        after = observed(net, units, *permuted(params, buffers, group, order), inputs)
        for name, values in before.items():
            for what, value in values.items():
                expected = value[order] if name == group.name else value
                if what == "activation":  # the samples of one group may be the units of another (a mixer's tokens)
                    after[name][what], expected = (h.flatten(1).sort(1).values for h in (after[name][what], expected))
                torch.testing.assert_close(
                    after[name][what], expected, rtol=1e-7, atol=1e-9, msg=f"{what} of {name} after {group.name}"
                )


pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


@pytest.mark.parametrize("name", NETS)
def test_activations_and_utilities_are_permuted_as_the_parameters_are(name):
    net, inputs, options = NETS[name]()
    net = randomised(net.eval())
    check_order(net, inputs, explain(net, *inputs, **options).units)


@given(seed=st.integers(0, 10**6))
def test_random_networks_activations_are_permuted_as_their_parameters_are(seed):
    net = randomised(RandomNet(random.Random(seed)).eval(), seed)
    check_order(net, [normal(2, 2, 8)], explain(net, normal(2, 2, 8), residual=True).units, seed)


@pytest.mark.parametrize("name", ORDERS)
def test_activations_are_those_of_the_units_that_the_incoming_weights_make(name):
    """A unit's activation follows its own incoming weights, and nobody else's does."""
    make, shape = ORDERS[name]
    net, x = randomised(make().eval()), normal(*shape)
    units = explain(net, x).units
    assert units
    params, buffers = state(net)
    forward = fcbp.forward_with_features(net, units)
    for group in units:
        before = unit_activations(group, forward(params, buffers, x)[1][group.name])
        for unit in range(group.size):
            mask = torch.arange(group.size) == unit
            changed = update(params, [group], lambda g, s, leaf, m=mask: put(leaf, s, m, 0.9), "incoming bias")
            after = unit_activations(group, forward(changed, buffers, x)[1][group.name])
            moved = (after != before).movedim(-2, 0).flatten(1).any(1)
            assert moved.nonzero().flatten().tolist() == [unit]


@pytest.mark.parametrize("name", ORDERS)
def test_what_a_dead_unit_adds_is_what_its_own_bias_takes_over(name):
    """The least useful unit is the dead one; where biases take over, constant units can go and the output stays."""
    make, shape = ORDERS[name]
    net, x = randomised(make().eval()), normal(*shape)
    for group in explain(net, x).units:
        if None in group.outgoing_bias:
            continue
        before, after, _ = test_units_transfer.replace_constant_unit(net, x, group, transfer_bias=True)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_the_dead_unit_of_a_flipped_layer_is_the_one_replaced():
    net, x = randomised(ORDERS["flipped"][0]()), normal(4, 3)
    (group,) = fcbp.find_units(net, x)
    params, buffers = state(net)
    params["a.weight"][2], params["a.bias"][2] = 0, -1
    units = (group,)
    features = fcbp.forward_with_features(net, units)(params, buffers, x)[1]
    hyper = fcbp.Hyperparams(1.0, 0, 0.9)
    start = fcbp.init_state(units, params, fcbp.random.key(0))
    new = fcbp.update_utility(start, params, features, hyper, units=units)
    new_params, _, gone = fcbp.select_and_reset(new, params, hyper, units=units, capacity=1)
    assert gone["a"].nonzero().flatten().tolist() == [2]
    weights = take(new_params["b.weight"], group.outgoing[0], 8)
    assert not weights[:, 2].any()
    torch.testing.assert_close(run(net, new_params, buffers, [x]), run(net, params, buffers, [x]))
