"""Utilities and resets of groups found, against the oracle: exactly what belongs to the replaced units changes."""

import numpy as np
import oracle
import pytest
import torch
from permutation import randomised, state
from small_nets import CReLU, Inception, MobileNet, SwiGLU, UNet
from torch import nn

import fcbp
from fcbp import optim
from fcbp.nets import ResNet

NETS = {
    "mobilenet": (MobileNet, (2, 3, 8, 8), {}),
    "mobilenet with its stream": (MobileNet, (2, 3, 8, 8), {"residual": True}),
    "grouped convolution": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3, groups=2), nn.ReLU(), nn.Conv1d(6, 2, 3)
        ),
        (2, 3, 16),
        {},
    ),
    "u-net": (UNet, (2, 1, 8, 8), {}),
    "inception": (Inception, (2, 3, 6, 6), {}),
    "swiglu": (SwiGLU, (5, 4), {}),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 2)), (5, 4), {}),
    "crelu": (CReLU, (5, 4), {}),
    "resnet with its streams": (lambda: ResNet((2, 2), 3, width=4), (2, 3, 8, 8), {"residual": True}),
}
HYPER = fcbp.Hyperparams(replacement_rate=0.4, maturity_threshold=2, decay_rate=0.9)
STEPS = 4


def numbers(tree):
    return {name: leaf.detach().numpy().copy() for name, leaf in tree.items()}


def prepared(name):
    """The network in training mode, its groups, parameters and buffers in double precision, and its inputs."""
    make, shape, options = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = randomised(make().double())
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, fcbp.find_units(model, inputs, **options), *state(model), inputs


def owned(leaf, slices, replaced, size):
    """The entries of a leaf that belong to the replaced units, visited one by one."""
    mask = torch.zeros(leaf.shape, dtype=torch.bool)
    for s in slices:
        for unit in replaced.nonzero().flatten().tolist():
            for entry in s.entries(size)[unit]:
                mask.select(s.axis, entry).fill_(True)
    return mask


def assert_only(units, replaced, slices_of, before, after, name):
    """What changed lies in the replaced units' slices of the leaf ``name``; with it the mask of all those."""
    mask = torch.zeros(before.shape, dtype=torch.bool)
    for group in units:
        slices = [s for s in slices_of(group) if s.path == (name,)]
        mask |= owned(before, slices, replaced[group.name], group.size)
    assert torch.equal(after[~mask], before[~mask]), name
    return mask


@pytest.mark.parametrize("measure", ["contribution", "adaptable_contribution", "weight_gradient", "removal"])
@pytest.mark.parametrize("name", NETS)
def test_utilities_and_resets_of_groups_found(name, measure):
    model, units, params, buffers, inputs = prepared(name)
    assert units
    forward = fcbp.forward_with_features(model, units)
    fcbp_state = fcbp.init_state(units, params, fcbp.random.key(0))
    expected = oracle.Oracle(units, numbers(params))

    def objective(params, x):
        output, features, new_buffers = forward(params, buffers, x)
        return (output.sin() ** 2).sum(), (features, new_buffers)

    for t in range(STEPS):
        grads, (features, new_buffers) = torch.func.grad(objective, has_aux=True)(params, inputs + t)
        fcbp_state = fcbp.update_utility(fcbp_state, params, features, HYPER, units=units, measure=measure, grads=grads)
        expected.update_utility(numbers(features), HYPER.decay_rate, measure, numbers(grads))
        for group in units:
            for ours, theirs in ((fcbp_state.utility, expected.utility), (fcbp_state.mean_activation, expected.mean)):
                np.testing.assert_allclose(ours[group.name].numpy(), theirs[group.name], rtol=1e-9, atol=1e-12)

    opt_state = optim.AdamState(
        {name: p.sin() + 2 for name, p in params.items()},
        {name: p.cos() + 2 for name, p in params.items()},
        {name: torch.full_like(p, 9, dtype=torch.int32) for name, p in params.items()},
    )
    new, _, replaced = fcbp.select_and_reset(
        fcbp_state, params, HYPER, units=units, initializer=oracle.pattern_initializer, transfer_bias=False
    )
    new_opt_state = fcbp.reset_moments(opt_state, replaced, units=units)
    reset = fcbp.reset_buffers(new_buffers, replaced, units=units)

    chosen = expected.select(HYPER.replacement_rate, HYPER.maturity_threshold, HYPER.decay_rate)
    for group in units:
        assert sorted(chosen[group.name]) == replaced[group.name].nonzero().flatten().tolist()
        assert 0 < len(chosen[group.name]) < group.size
    expected.reset(chosen, HYPER.decay_rate)
    for name, leaf in new.items():
        np.testing.assert_allclose(leaf.numpy(), expected.params[name], rtol=1e-12, atol=1e-12, err_msg=name)
        mask = assert_only(units, replaced, lambda g: g.parameter_slices(), params[name], leaf, name)
        for field, old in zip(new_opt_state, opt_state, strict=True):
            assert_only(units, replaced, lambda g: g.parameter_slices(), old[name], field[name], name)
            assert not field[name][mask].any(), name
    for name, leaf in reset.items():
        changed = new_buffers[name].clone()
        for group in units:
            for role, value in (("running_mean", 0), ("running_var", 1)):
                slices = [s for s in getattr(group, role) if s.path == (name,)]
                changed[owned(changed, slices, replaced[group.name], group.size)] = value
        assert torch.equal(leaf, changed), name


def test_the_groups_are_of_the_shapes_that_are_meant():
    groups = {name: {g.name: g for g in prepared(name)[1]} for name in NETS}
    assert len(groups["resnet with its streams"]["conv1"].incoming) == 3
    assert len(groups["resnet with its streams"]["conv1"].outgoing) == 4
    assert len(groups["mobilenet"]["expand"].running_var) == 2
    assert ("depthwise.weight",) in [s.path for s in groups["mobilenet"]["expand"].incoming]
    assert groups["grouped convolution"]["2:1"].incoming[0].start == 3
    assert [s.start for s in groups["u-net"]["e1"].outgoing] == [0, 5]
    assert groups["prelu"]["0"].slope[0].path == ("1.weight",)
    assert groups["swiglu"]["w12"].incoming[0].block_stride == 8
    assert groups["crelu"]["a"].outgoing[0].block == 2
    assert "stem" in groups["mobilenet with its stream"]
