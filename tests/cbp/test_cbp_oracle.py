"""Runs and groups of every shape follow the loop-based oracle in NumPy."""

import dataclasses

import numpy as np
import optree
import oracle
import pytest
import torch
from cbp_cases import KEY, normal
from hypothesis import given, settings
from hypothesis import strategies as st

import fcbp
from fcbp import optim
from fcbp.units import Slice, UnitGroup


def numbers(tree):
    """The same pytree of float64 arrays, sharing nothing."""
    return optree.tree_map(lambda leaf: leaf.detach().to(torch.float64).numpy().copy(), tree)


def tensors(tree):
    return optree.tree_map(lambda array: torch.tensor(array, dtype=torch.float64), tree)


# --- whole runs against the oracle ------------------------------------------------------------------------


SIZES = (3, 6, 5, 2)


class TorchLayout:
    """Named parameters with ``(out, in)`` weights; no norms."""

    units = tuple(
        UnitGroup(
            f"layer{i}",
            SIZES[i + 1],
            incoming=(Slice((f"{i}.weight",), 0),),
            bias=(Slice((f"{i}.bias",), 0),),
            outgoing=(Slice((f"{i + 1}.weight",), 1),),
            outgoing_bias=((f"{i + 1}.bias",),),
        )
        for i in range(2)
    )

    @staticmethod
    def init():
        params = {}
        for i in range(3):
            params[f"{i}.weight"] = normal(10 + i, SIZES[i + 1], SIZES[i])
            params[f"{i}.bias"] = normal(20 + i, SIZES[i + 1])
        return params

    @staticmethod
    def forward(params, x):
        features = {}
        for i in range(3):
            x = x @ params[f"{i}.weight"].T + params[f"{i}.bias"]
            if i < 2:
                x = features[f"layer{i}"] = torch.relu(x)
        return x, features


class KernelLayout:
    """A list of dicts with ``(in, out)`` kernels, and a scale and a shift after each activation."""

    units = tuple(
        UnitGroup(
            f"layer{i}",
            SIZES[i + 1],
            incoming=(Slice((i, "kernel"), -1),),
            bias=(Slice((i, "bias"), -1),),
            outgoing=(Slice((i + 1, "kernel"), -2),),
            outgoing_bias=((i + 1, "bias"),),
            norm_scale=(Slice((i, "scale"), 0),),
            norm_shift=(Slice((i, "shift"), 0),),
        )
        for i in range(2)
    )

    @staticmethod
    def init():
        params = []
        for i in range(3):
            layer = {"kernel": normal(10 + i, SIZES[i], SIZES[i + 1]), "bias": normal(20 + i, SIZES[i + 1])}
            if i < 2:
                layer |= {"scale": normal(30 + i, SIZES[i + 1]), "shift": normal(40 + i, SIZES[i + 1])}
            params.append(layer)
        return params

    @staticmethod
    def forward(params, x):
        features = {}
        for i, layer in enumerate(params):
            x = x @ layer["kernel"] + layer["bias"]
            if i < 2:
                x = features[f"layer{i}"] = torch.tanh(x) * layer["scale"] + layer["shift"]
        return x, features


RUNS = [
    {"measure": measure, "rate": 0.05, "maturity": 3, "decay": 0.9, "transfer_bias": i % 2 == 0}
    for i, measure in enumerate(fcbp.utility.MEASURES)
] + [
    {"rate": 0.3, "maturity": 0, "decay": 0.0},
    {"rate": 1.0, "maturity": 2, "decay": 0.99, "transfer_bias": True},
    {"rate": 0.2, "maturity": 4, "decay": 0.9, "rate_counts": "all"},
    {"rate": 0.5, "maturity": 3, "decay": 0.9, "capacity": 1, "transfer_bias": True},
    {"rate": 0.5, "maturity": 3, "decay": 0.9, "capacity": 2, "rate_counts": "all"},
    {"rate": 0.15, "maturity": 2, "decay": 0.8, "rounding": "stochastic", "transfer_bias": True},
    {"rate": 0.6, "maturity": 1, "decay": 0.8, "rounding": "stochastic", "capacity": 1},
    {"rate": 0.1, "maturity": 5.5, "decay": 0.5, "rate_counts": "all", "rounding": "stochastic"},
]
# The layout and the dtype do not touch the choice of units: these runs go over all that they touch.
SOME = [RUNS[0], *(run for run in RUNS if run.get("transfer_bias") and {"capacity", "rounding"} & set(run))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "layout", "dtype", "tolerance"),
    [
        *((run, TorchLayout, torch.float64, 1e-9) for run in RUNS),
        *((run, KernelLayout, torch.float64, 1e-9) for run in SOME),
        *((run, TorchLayout, torch.float32, 1e-3) for run in SOME),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_fifty_steps_follow_the_oracle(run, layout, dtype, tolerance):
    """Both sides train on their own: forward pass, gradients, momentum SGD, utility, selection, reset."""
    run = dict(run)
    rate, maturity, decay = run.pop("rate"), run.pop("maturity"), run.pop("decay")
    measure, transfer_bias = run.pop("measure", "contribution"), run.pop("transfer_bias", False)
    units, hyper = layout.units, fcbp.Hyperparams(rate, maturity, decay)

    def objective(params, x, y):
        output, features = layout.forward(params, x)
        return ((output - y) ** 2).mean(), features

    gradient = torch.func.grad(objective, has_aux=True)
    optimizer, step_size = optim.sgd(0.5), 0.02
    params = optree.tree_map(lambda leaf: leaf.to(dtype), layout.init())
    opt_state = optimizer.init(params)
    state = fcbp.init_state(units, params, KEY)
    expected = oracle.Oracle(units, numbers(params))
    momentum = optree.tree_map(np.zeros_like, expected.params)
    total = 0

    for t in range(50):
        x, y = normal(100 + t, 4, 3), normal(200 + t, 4, 2)

        grads, features = gradient(params, x.to(dtype), y.to(dtype))
        params, opt_state = optimizer.update(grads, opt_state, params, step_size=step_size)
        state = fcbp.update_utility(state, params, features, hyper, units=units, measure=measure, grads=grads)
        # What chance adds this time: all of it is replaced or owed where nothing was before.
        anew = state._replace(owed=optree.tree_map(torch.zeros_like, state.owed))
        _, fresh, gone = fcbp.select_and_reset(anew, params, hyper, units=units, **{**run, "capacity": None})
        gained = {name: gone[name].sum().item() + fresh.owed[name].item() for name in gone}
        params, state, replaced = fcbp.select_and_reset(
            state,
            params,
            hyper,
            units=units,
            initializer=oracle.pattern_initializer,
            transfer_bias=transfer_bias,
            **run,
        )
        opt_state = fcbp.reset_moments(opt_state, replaced, units=units)

        theirs, reads = gradient(tensors(expected.params), x, y)
        for m, p, g in zip(*map(optree.tree_leaves, (momentum, expected.params, numbers(theirs))), strict=True):
            m[...] = 0.5 * m + g
            p[...] -= step_size * m
        expected.update_utility(numbers(reads), decay, measure, numbers(theirs))
        chosen = expected.select(rate, maturity, decay, due=lambda name, _, gained=gained: gained[name], **run)
        expected.reset(chosen, decay, transfer_bias)
        for role in ("incoming", "bias", "outgoing", "norm_scale", "norm_shift", "slope"):
            expected.write(chosen, role, 0.0, momentum)

        for group in units:
            name = group.name
            assert replaced[name].nonzero().flatten().tolist() == sorted(chosen[name])
            assert state.age[name].tolist() == expected.age[name]
            assert state.owed[name].item() == pytest.approx(expected.owed[name], abs=1e-9)
            for ours, wanted in ((state.utility, expected.utility), (state.mean_activation, expected.mean)):
                assert ours[name].dtype == dtype
                assert ours[name].tolist() == pytest.approx(wanted[name], rel=tolerance, abs=tolerance)
            total += len(chosen[name])
        for ours, wanted in ((params, expected.params), (opt_state.momentum, momentum)):
            for a, b in zip(optree.tree_leaves(ours), optree.tree_leaves(wanted), strict=True):
                assert a.dtype == dtype
                np.testing.assert_allclose(a.numpy(), b, rtol=tolerance, atol=tolerance)
    assert total >= 10


# --- groups of every shape --------------------------------------------------------------------------------


@st.composite
def layouts(draw, size, block=None):
    """A slice's start, stride, block and block_stride, and the length of an axis that it fits."""
    block = draw(st.integers(1, 3)) if block is None else block
    kind = draw(st.sampled_from(["blocks", "gates", "spaced"] if block > 1 else ["run", "spaced", "reversed"]))
    start = draw(st.integers(0, 2))
    spare = draw(st.integers(0, 2))
    if kind == "run":
        stride, block_stride = 1, 1
    elif kind == "reversed":
        start, stride, block_stride = start + size - 1, -1, 1
    elif kind == "blocks":
        stride, block_stride = block, 1
    elif kind == "gates":
        stride, block_stride = 1, size
    else:
        block_stride = draw(st.integers(1, 2))
        stride = block * block_stride + draw(st.integers(0, 1))
    last = max(start, start + (size - 1) * stride) + (block - 1) * block_stride
    return {"start": start, "stride": stride, "block": block, "block_stride": block_stride}, last + 1 + spare


@st.composite
def networks(draw):
    """A group whose weights lie any way that slices can say, in leaves of one to three axes."""
    size = draw(st.integers(1, 4))
    positions = draw(st.sampled_from([1, 2, 3]))
    params, roles = {}, {}
    vectors = ("bias", "norm_scale", "norm_shift", "slope")
    for role, count in (("incoming", 2), ("outgoing", 2), *((role, 1) for role in vectors)):
        slices = []
        for i in range(draw(st.integers(int(role in ("incoming", "outgoing")), count))):
            block = positions if role == "outgoing" and i == 0 and positions > 1 else None
            where, length = draw(layouts(size, block))
            ndim = 1 if role in vectors else draw(st.integers(2, 3))
            axis = draw(st.integers(0, ndim - 1))
            shape = [draw(st.integers(1, 3)) for _ in range(ndim)]
            shape[axis] = length
            name = f"{role}{i}"
            params[name] = normal(len(params), *shape)
            slices.append(Slice((name,), axis - ndim * draw(st.booleans()), partial=True, **where))
        roles[role] = tuple(slices)
    biases = []
    for i, s in enumerate(roles["outgoing"]):
        weight = params[s.path[0]]
        outputs = next(n for axis, n in enumerate(weight.shape) if axis != s.axis % weight.ndim)
        params[f"reader{i}"] = normal(50 + i, outputs)
        biases.append((f"reader{i}",) if draw(st.booleans()) else None)
    first, *others = roles["outgoing"]
    flattened = positions > 1 and draw(st.booleans())
    if flattened:
        # A flattened map is read from its first entry on, and has no other entries.
        first = dataclasses.replace(first, start=0)
        flattened = {e for u in range(size) for e in oracle.entries(first, u)} == set(range(size * positions))
    group = UnitGroup(
        "h",
        size,
        outgoing_bias=tuple(biases),
        activation_axis=draw(st.sampled_from([-1, 0, 1])),
        **{**roles, "outgoing": (first, *others)},
    )
    shape = [3, 3, 3]
    shape[group.activation_axis] = size * positions if flattened else size
    return params, (group,), shape


@settings(max_examples=60)
@given(networks(), st.sampled_from(sorted(fcbp.utility.MEASURES)), st.sampled_from([1, 2, None]))
def test_groups_of_every_shape_follow_the_oracle(network, measure, capacity):
    params, units, shape = network
    hyper = fcbp.Hyperparams(1.0, 0, 0.5)
    state = fcbp.init_state(units, params, KEY)
    expected = oracle.Oracle(units, numbers(params))
    grads = optree.tree_map(torch.sin, params)
    for t in range(2):
        features = {"h": normal(t, *shape)}
        state = fcbp.update_utility(state, params, features, hyper, units=units, measure=measure, grads=grads)
        expected.update_utility(numbers(features), 0.5, measure, numbers(grads))
        params, state, replaced = fcbp.select_and_reset(
            state,
            params,
            hyper,
            units=units,
            initializer=oracle.pattern_initializer,
            transfer_bias=True,
            capacity=capacity,
        )
        chosen = expected.select(1.0, 0, 0.5, capacity=capacity)
        expected.reset(chosen, 0.5, transfer_bias=True)
        assert replaced["h"].nonzero().flatten().tolist() == sorted(chosen["h"])
        for name, leaf in params.items():
            np.testing.assert_allclose(leaf.numpy(), expected.params[name], rtol=1e-9, atol=1e-12, err_msg=name)
