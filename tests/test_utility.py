"""Every measure against loops over NumPy arrays (``oracle.py``), and the gradients' against autograd."""

import math

import numpy as np
import optree
import oracle
import pytest
import torch

import fcbp
from fcbp import utility
from fcbp.units import Slice, UnitGroup

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def draw(seed, *shape):
    return fcbp.random.normal(fcbp.random.key(seed), shape, torch.float64)


def linear():
    params = {"w1": draw(1, 4, 3), "b1": draw(2, 4), "w2": draw(3, 2, 4), "b2": draw(4, 2)}
    group = UnitGroup("h", 4, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),))
    return params, group, draw(5, 7, 4)


def kernels():
    """The other layout, another container, units on the first axis of the activation."""
    params = [{"kernel": draw(1, 3, 4), "bias": draw(2, 4)}, {"kernel": draw(3, 4, 2), "bias": draw(4, 2)}]
    group = UnitGroup(
        "h",
        4,
        (Slice((0, "kernel"), -1),),
        (Slice((0, "bias"), 0),),
        (Slice((1, "kernel"), -2),),
        ((1, "bias"),),
        activation_axis=0,
    )
    return params, group, draw(5, 4, 7)


def unbatched():
    params, group, h = linear()
    return params, group, h[0]


def conv_to_conv():
    params = {"w1": draw(1, 4, 2, 3, 3), "w2": draw(3, 5, 4, 3, 3)}
    group = UnitGroup("h", 4, (Slice(("w1",), 0),), (), (Slice(("w2",), 1),), (None,), activation_axis=1)
    return params, group, draw(5, 6, 4, 2, 3)


def flattened():
    """A conv map of six positions flattened into a linear layer, channel by channel."""
    params = {"w1": draw(1, 4, 2, 3, 3), "w2": draw(3, 5, 24)}
    group = UnitGroup("h", 4, (Slice(("w1",), 0),), (), (Slice(("w2",), 1, stride=6, block=6),), (None,))
    return params, group, draw(5, 7, 24)


def flattened_positions_first():
    """The same of a map whose channels are last: position by position."""
    params = {"w1": draw(1, 4, 2, 3, 3), "w2": draw(3, 5, 24)}
    group = UnitGroup("h", 4, (Slice(("w1",), 0),), (), (Slice(("w2",), 1, block=6, block_stride=4),), (None,))
    return params, group, draw(5, 7, 24)


def several():
    """Two producers (one with gates side by side) and three consumers (one with the units in its middle)."""
    params = {
        "gates": draw(1, 12, 3),
        "direct": draw(2, 4, 2),
        "w2": draw(3, 2, 4),
        "wide": draw(4, 3, 9),
        "vector": draw(6, 4),
    }
    group = UnitGroup(
        "h",
        4,
        (Slice(("gates",), 0, block=3, block_stride=4), Slice(("direct",), 0)),
        (),
        (Slice(("w2",), 1), Slice(("wide",), 1, start=3), Slice(("vector",), 0)),
        (None, None, None),
    )
    return params, group, draw(5, 7, 4)


def flattened_and_pooled():
    """One consumer reads the flattened map, another the channels."""
    params = {"w1": draw(1, 4, 3), "w2": draw(3, 5, 24), "pooled": draw(4, 2, 4)}
    group = UnitGroup(
        "h", 4, (Slice(("w1",), 0),), (), (Slice(("w2",), 1, stride=6, block=6), Slice(("pooled",), 1)), (None, None)
    )
    return params, group, draw(5, 7, 24)


SCENES = {
    f.__name__: f
    for f in (
        linear,
        kernels,
        unbatched,
        conv_to_conv,
        flattened,
        flattened_positions_first,
        several,
        flattened_and_pooled,
    )
}


def cast(tree, dtype):
    return optree.tree_map(lambda leaf: leaf.to(dtype), tree)


def numbers(tree):
    return optree.tree_map(lambda leaf: leaf.to(torch.float64).numpy(), tree)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("measure", utility.MEASURES)
def test_measures_follow_the_loops(measure, scene, dtype):
    params, group, h = SCENES[scene]()
    params, h = cast(params, dtype), h.to(dtype)
    grads = optree.tree_map(lambda p: torch.cos(3 * p), params)
    state = fcbp.init_state((group,), params, fcbp.random.key(0))
    expected = oracle.Oracle((group,), numbers(params))
    decay = 0.75
    for t in range(3):
        features = {"h": h * (t + 1)}
        state = fcbp.update_utility(
            state, params, features, fcbp.Hyperparams(decay_rate=decay), units=(group,), measure=measure, grads=grads
        )
        expected.update_utility(numbers(features), decay, measure, numbers(grads))
        for ours, theirs in ((state.utility, expected.utility), (state.mean_activation, expected.mean)):
            assert ours["h"].dtype == dtype
            torch.testing.assert_close(
                ours["h"].double(),
                torch.tensor(theirs["h"], dtype=torch.float64),
                rtol=TOLERANCE[dtype],
                atol=TOLERANCE[dtype],
            )
    assert state.age["h"].tolist() == [3] * 4
    assert np.ptp(expected.utility["h"]) > 1e-3  # the measure tells the units apart


def test_positions_are_multiplied_before_they_are_averaged():
    # Each unit is active where nothing reads it: position by position that is no contribution at all.
    params = {"w1": torch.ones(2, 1), "w2": torch.tensor([[0.0, 1.0, 1.0, 0.0]])}
    group = UnitGroup("h", 2, (Slice(("w1",), 0),), (), (Slice(("w2",), 1, stride=2, block=2),), (None,))
    state = fcbp.init_state((group,), params, fcbp.random.key(0))
    h = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    state = fcbp.update_utility(state, params, {"h": h}, fcbp.Hyperparams(decay_rate=0.0), units=(group,))
    assert state.utility["h"].tolist() == [0.0, 0.25]


def observe(params, group, h, grads=None, measure="contribution"):
    state = fcbp.init_state((group,), params, fcbp.random.key(0))
    hyper = fcbp.Hyperparams(decay_rate=0.0)
    return fcbp.update_utility(state, params, {"h": h}, hyper, units=(group,), measure=measure, grads=grads).utility[
        "h"
    ]


def test_removal_is_the_first_order_change_of_the_loss():
    params, group, _ = linear()
    x, y = draw(8, 7, 3), draw(9, 7, 2)

    def loss(h):
        return ((h @ params["w2"].T + params["b2"] - y) ** 2).mean()

    h = torch.tanh(x @ params["w1"].T + params["b1"])
    by_activation = torch.func.grad(loss)(h)
    grads = torch.func.grad(lambda p: ((h @ p["w2"].T + p["b2"] - y) ** 2).mean())(params)
    removal = observe(params, group, h, grads, "removal")
    torch.testing.assert_close(removal, (h * by_activation).sum(0).abs())

    def loss_without(unit, amount):
        return loss(h - amount * h * torch.nn.functional.one_hot(torch.tensor(unit), 4))

    slopes = [abs(loss_without(u, 1e-6) - loss_without(u, -1e-6)) / 2e-6 for u in range(4)]
    torch.testing.assert_close(removal, torch.stack(slopes), rtol=1e-5, atol=1e-8)


def test_measures_of_gradients_need_them():
    params, group, h = linear()
    for measure in ("weight_gradient", "incoming_gradient", "removal"):
        with pytest.raises(ValueError, match="grads is None; expected a pytree like params"):
            observe(params, group, h, None, measure)


def test_random_utilities_are_fresh_uniform_draws():
    group = UnitGroup("h", 1000, (Slice(("w1",), 0),), (), (Slice(("w2",), 1),), (None,))
    other = UnitGroup("k", 1000, (Slice(("w3",), 0),), (), (Slice(("w4",), 1),), (None,))
    params = {f"w{i}": torch.ones(1000, 1) if i % 2 else torch.ones(1, 1000) for i in (1, 2, 3, 4)}
    features = {"h": torch.ones(1, 1000), "k": torch.ones(1, 1000)}
    state = fcbp.init_state((group, other), params, fcbp.random.key(0))
    hyper = fcbp.Hyperparams(decay_rate=0.99)
    draws = []
    for t in range(1, 4):
        state = fcbp.update_utility(state, params, features, hyper, units=(group, other), measure="random")
        draws += [state.utility[name] / (1 - 0.99**t) for name in ("h", "k")]
    for i, draw_i in enumerate(draws):
        assert abs(draw_i.mean() - 0.5) < 4 / math.sqrt(12 * 1000)
        counts = torch.histc(draw_i, 10, 0, 1)
        assert counts.sum() == 1000
        assert (counts - 100).abs().max() < 5 * math.sqrt(100)
        for draw_j in draws[:i]:
            assert abs(torch.corrcoef(torch.stack([draw_i, draw_j]))[0, 1]) < 4 / math.sqrt(1000)


def test_a_function_of_the_observation_is_a_measure():
    params, group, h = flattened()
    grads = optree.tree_map(torch.ones_like, params)
    seen = []

    def own(observation):
        seen.append(observation)
        return torch.arange(4.0)

    assert observe(params, group, h, grads, own).tolist() == [0.0, 1.0, 2.0, 3.0]
    (observation,) = seen
    assert observation.activation.equal(h.unflatten(1, (4, 6)))
    torch.testing.assert_close(observation.mean_activation, h.unflatten(1, (4, 6)).mean((0, 2)))
    (incoming,), (outgoing,) = observation.incoming, observation.outgoing
    assert incoming.equal(params["w1"].permute(1, 2, 3, 0).unsqueeze(-1))
    assert outgoing.equal(params["w2"].unflatten(1, (4, 6)))
    assert observation.incoming_grads[0].shape == incoming.shape
    assert observation.outgoing_grads[0].shape == outgoing.shape


def test_the_own_function_of_the_documentation_works():
    def largest_outgoing_weight(group):
        return torch.stack([w.abs().flatten(0, -3).amax((0, -1)) for w in group.outgoing]).amax(0)

    params, group, h = linear()
    assert observe(params, group, h, measure=largest_outgoing_weight).equal(params["w2"].abs().amax(0))


def test_measures_are_named_as_they_are_called():
    assert all(
        utility.get(name) is function and function.__name__ == name for name, function in utility.MEASURES.items()
    )
    assert set(utility.MEASURES) < set(utility.__all__)
    with pytest.raises(ValueError, match=r"measure is 'contributions'; expected one of .*did you mean 'contribution'"):
        utility.get("contributions")
    with pytest.raises(ValueError, match=r"measure is 'rndom'; expected one of .*did you mean 'random'"):
        utility.get("rndom")
