"""A consumer's bias gains the effect that a replaced unit had."""

import math

import torch
from cbp_cases import KEY, normal, perceptron, state_with

import fcbp
from fcbp.units import Slice, UnitGroup


def test_a_constant_unit_leaves_the_function_as_it_was():
    """The mean is read before it is cleared, the outgoing weights before they are zeroed."""
    params, units = perceptron(dtype=torch.float64)
    params["w1"][2] = 0.0  # unit 2 is constant, and the least useful
    params["b1"][2] = 0.3
    params["w2"][:, 2] = torch.tensor([0.01, -0.02])
    x = normal(7, 50, 3)

    def forward(params):
        h = torch.relu(x @ params["w1"].T + params["b1"])
        return h, h @ params["w2"].T + params["b2"]

    hyper = fcbp.Hyperparams(replacement_rate=0.17, maturity_threshold=2, decay_rate=0.9)
    state = fcbp.init_state(units, params, KEY)
    h, before = forward(params)
    for _ in range(3):
        state = fcbp.update_utility(state, params, {"h": h}, hyper, units=units)
    moved, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].tolist() == [False, False, True, False, False, False]
    torch.testing.assert_close(forward(moved)[1], before, rtol=0, atol=1e-15)
    torch.testing.assert_close(moved["b2"] - params["b2"], 0.3 * torch.tensor([0.01, -0.02], dtype=torch.float64))
    jumped, _, _ = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=False)
    assert (forward(jumped)[1] - before).abs().min() > 0.002


def test_a_constant_channel_leaves_a_convolution_as_it_was():
    params = {"w1": normal(1, 3, 2, 3, 3), "b1": normal(2, 3), "w2": normal(3, 4, 3, 2, 2), "b2": normal(4, 4)}
    params["w1"][1], params["b1"][1] = 0.0, 0.7
    units = (
        UnitGroup(
            "h", 3, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),), activation_axis=1
        ),
    )
    x = normal(7, 5, 2, 6, 6)

    def forward(params):
        h = torch.conv2d(x, params["w1"], params["b1"])
        return h, torch.conv2d(h, params["w2"], params["b2"])

    hyper = fcbp.Hyperparams(0.34, 0, 0.9)
    state = fcbp.init_state(units, params, KEY)
    h, before = forward(params)
    state = fcbp.update_utility(state, params, {"h": h}, hyper, units=units, measure="zero_contribution")
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].tolist() == [False, True, False]
    torch.testing.assert_close(forward(new)[1], before, rtol=0, atol=1e-14)
    assert (new["w2"][:, 1] == 0).all()
    assert (new["w1"][1] != 0).all()


def test_every_consumer_gains_what_it_loses():
    """A residual stream read twice, one of the readers without a bias, and by channels of a flattened map."""
    params = {
        "w1": normal(1, 4, 3),
        "w2": normal(2, 2, 4),
        "b2": normal(3, 2),
        "w3": normal(4, 5, 4),
        "w4": normal(5, 3, 8),
        "b4": normal(6, 3),
    }
    units = (
        UnitGroup(
            "h",
            4,
            (Slice(("w1",), 0),),
            (),
            (Slice(("w2",), 1), Slice(("w3",), 1), Slice(("w4",), 1, stride=2, block=2)),
            (("b2",), None, ("b4",)),
        ),
    )
    mean = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    state = state_with(units, params, torch.tensor([1.0, 0.0, 2.0, 0.5]), age=1, mean=mean)
    hyper = fcbp.Hyperparams(0.5, 0, decay_rate=0.75)  # bias correction 1/4
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].tolist() == [False, True, False, True]
    gone = replaced["h"]
    torch.testing.assert_close(new["b2"], params["b2"] + params["w2"][:, gone] @ (4 * mean[gone]))
    columns = params["w4"].reshape(3, 4, 2).sum(-1)
    torch.testing.assert_close(new["b4"], params["b4"] + columns[:, gone] @ (4 * mean[gone]))
    assert (new["w2"][:, gone] == 0).all()
    assert (new["w3"][:, gone] == 0).all()
    assert (new["w4"].reshape(3, 4, 2)[:, gone] == 0).all()


def test_a_broken_unit_that_stays_does_not_spoil_the_transfer():
    params, units = perceptron()
    params["w2"][:, 5] = math.inf
    state = state_with(units, params, torch.tensor([1.0, 0, 2, 3, 4, math.inf]), mean=1.0)
    hyper = fcbp.Hyperparams(0.2, 0, 0.5)
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, transfer_bias=True)
    assert replaced["h"].nonzero().flatten().tolist() == [1]
    torch.testing.assert_close(new["b2"], params["b2"] + params["w2"][:, 1])
