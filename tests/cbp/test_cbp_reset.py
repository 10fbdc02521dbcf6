"""What a replaced unit's weights, norms and running statistics become."""

import optree
import oracle
import torch
from cbp_cases import KEY, perceptron, state_with, two_layers

import fcbp
from fcbp import optim
from fcbp.units import Slice, UnitGroup


def test_between_two_units_replaced_in_one_step_lies_the_fresh_draw():
    params, units = two_layers()
    utility = {"h1": torch.tensor([0.0, 1, 2, 3]), "h2": torch.tensor([3.0, 2, 1, 0])}
    state = state_with(units, params, utility)
    new, _, replaced = fcbp.select_and_reset(
        state, params, fcbp.Hyperparams(0.25), units=units, initializer=oracle.pattern_initializer
    )
    assert replaced["h1"].tolist() == [True, False, False, False]
    assert replaced["h2"].tolist() == [False, False, False, True]
    fresh = torch.from_numpy(oracle.pattern(1, (4,), 4))[0]
    assert new["w2"][3].equal(fresh)  # the incoming row of the second, the first's column among it
    assert (new["w2"][:3, 0] == 0).all()
    assert new["w2"][:3, 1:].equal(params["w2"][:3, 1:])
    assert (new["w3"][:, 3] == 0).all()
    assert new["w3"][:, :3].equal(params["w3"][:, :3])
    assert new["b1"].tolist() == [0.0, *params["b1"][1:].tolist()]
    assert new["b2"].tolist() == [*params["b2"][:3].tolist(), 0.0]


def test_the_order_of_the_groups_is_of_no_account():
    """Every group is selected, and its bias transferred, from the weights as they were."""
    params, units = two_layers()
    state = state_with(units, params, torch.tensor([0.0, 1, 2, 3]), mean=0.5)
    options = {"initializer": oracle.pattern_initializer, "transfer_bias": True}
    hyper = fcbp.Hyperparams(0.5)
    runs = [fcbp.select_and_reset(state, params, hyper, units=order, **options) for order in (units, units[::-1])]
    for a, b in zip(*map(optree.tree_leaves, runs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=1e-15)


def test_norms_and_their_running_statistics_start_afresh():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 3)
    )
    params = {name: torch.full_like(p, 5.0) for name, p in model.named_parameters()}
    buffers = {name: torch.full_like(b, 7) for name, b in model.named_buffers()}
    units = (
        UnitGroup(
            "0",
            3,
            (Slice(("0.weight",), 0),),
            (Slice(("0.bias",), 0),),
            (Slice(("3.weight",), 1),),
            (("3.bias",),),
            norm_scale=(Slice(("1.weight",), 0),),
            norm_shift=(Slice(("1.bias",), 0),),
            running_mean=(Slice(("1.running_mean",), 0),),
            running_var=(Slice(("1.running_var",), 0),),
        ),
    )
    fcbp.units.check_units(units, params, buffers)
    state = state_with(units, params, torch.tensor([2.0, 1.0, 3.0]))
    new, _, replaced = fcbp.select_and_reset(state, params, fcbp.Hyperparams(0.34), units=units)
    reset = fcbp.reset_buffers(buffers, replaced, units=units)
    assert new["1.weight"].tolist() == [5.0, 1.0, 5.0]
    assert new["1.bias"].tolist() == [5.0, 0.0, 5.0]
    assert new["0.bias"].tolist() == [5.0, 0.0, 5.0]
    assert reset["1.running_mean"].tolist() == [7.0, 0.0, 7.0]
    assert reset["1.running_var"].tolist() == [7.0, 1.0, 7.0]
    assert reset["1.num_batches_tracked"].equal(buffers["1.num_batches_tracked"])
    assert all((buffer == 7).all() for buffer in buffers.values())


def test_without_groups_nothing_happens():
    params, _ = perceptron()
    hyper = fcbp.Hyperparams()
    state = fcbp.init_state((), params, KEY)
    state = fcbp.update_utility(state, params, {}, hyper, units=())
    new, state, replaced = fcbp.select_and_reset(state, params, hyper, units=())
    assert (new, replaced) == (params, {})
    assert fcbp.reset_moments(optim.adam().init(params), replaced, units=()) is not None
    assert fcbp.reset_buffers({}, replaced, units=()) == {}
