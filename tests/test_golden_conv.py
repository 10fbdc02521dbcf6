"""Parity with the original implementation's convolutional network, the groups found by ``find_units``."""

import math

import numpy as np
import torch
from golden import TOLERANCE, Golden, linspace_initializer

import fcbp
from fcbp import Slice, UnitGroup, optim
from fcbp.nets import ConvNet


def uniform(n, salt):
    """The recorded run's numbers in [0, 1): murmur3's finalizer over a counter."""
    x = np.arange(n, dtype=np.uint32) + np.uint32(salt * 0x9E3779B9 % 2**32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return (x >> np.uint32(8)) / 2.0**24


def initial_params(golden):
    params = {}
    for k, entry in enumerate(golden.metadata["param_order"]):
        name, shape = entry["name"], entry["shape"]
        u = uniform(math.prod(shape), golden.config["salt"] + k)
        values = 0.5 * u if name.endswith("bias") else math.sqrt(6 / math.prod(shape[1:])) * 0.75 * (2 * u - 1)
        params[name] = torch.from_numpy(values.astype(np.float32).reshape(shape))
    return params


def examples(golden):
    """Images and labels, ``(steps, batch, ...)``."""
    pool, salt, batch, steps = (golden.config[name] for name in ("pool", "salt", "batch_size", "n_steps"))
    shades = 2 * uniform(pool * 3, salt + 3000) - 1
    images = 0.5 * (2 * uniform(pool * 3072, salt + 1000) - 1).reshape(pool, 3, 32, 32) + shades.reshape(pool, 3, 1, 1)
    labels = np.floor(uniform(pool, salt + 2000) * golden.config["num_classes"]).astype(np.int64)
    chosen = np.arange(steps * batch).reshape(steps, batch) % pool
    return torch.from_numpy(images.astype(np.float32)[chosen]), torch.from_numpy(labels[chosen])


def recorded_groups(golden):
    groups = []
    for i, g in enumerate(golden.groups):
        columns = g["outgoing_columns_per_unit"]
        groups.append(
            UnitGroup(
                g["incoming"],
                g["n_units"],
                incoming=(Slice((f"{g['incoming']}.weight",), 0),),
                bias=(Slice((f"{g['incoming']}.bias",), 0),),
                outgoing=(Slice((f"{g['outgoing']}.weight",), 1, stride=columns, block=columns),),
                outgoing_bias=((f"{g['outgoing']}.bias",),),
                activation=g["outgoing"],
                activation_axis=-3 if i < 2 else -1,
            )
        )
    return tuple(groups)


def test_the_conv_net_follows_the_original():
    golden = Golden("conv_contribution")
    config = golden.config
    model = ConvNet(config["num_classes"], activation=lambda: torch.nn.LeakyReLU(config["leaky_slope"]))
    inputs, targets = examples(golden)
    units = fcbp.find_units(model, inputs[0])
    assert units == recorded_groups(golden)
    params = initial_params(golden)
    for name, total in golden.metadata["init_sums"].items():
        torch.testing.assert_close(params[name].double().sum().item(), total, rtol=1e-9, atol=1e-9)
    assert targets[:12].tolist() == golden.arrays["labels_first_steps"].tolist()
    forward = fcbp.forward_with_features(model, units)
    optimizer = optim.sgd(momentum=config["momentum"])
    hyper = fcbp.Hyperparams(config["replacement_rate"], config["maturity_threshold"], config["decay_rate"])
    initializer = linspace_initializer()

    def objective(params, x, y):
        output, features, _ = forward(params, {}, x)
        return torch.nn.functional.cross_entropy(output, y), features

    opt_state = optimizer.init(params)
    state = fcbp.init_state(units, params, fcbp.random.key(0))
    snapshots = golden.arrays["snap_steps"].tolist()
    losses, events, checked = [], [], 0
    for t in range(1, config["n_steps"] + 1):
        grads, (loss, features) = torch.func.grad_and_value(objective, has_aux=True)(
            params, inputs[t - 1], targets[t - 1]
        )
        losses.append(loss)
        params, opt_state = optimizer.update(grads, opt_state, params, step_size=config["step_size"])
        state = before = fcbp.update_utility(state, params, features, hyper, units=units, measure=config["util_type"])
        params, state, replaced = fcbp.select_and_reset(
            state, params, hyper, units=units, initializer=initializer, rate_counts="all"
        )
        # The original leaves the momentum of replaced units as it is: no reset_moments.
        for g, group in enumerate(units):
            events += [(t, g, unit) for unit in replaced[group.name].nonzero().flatten().tolist()]
        if t in snapshots:
            checked += check_snapshot(golden, t, params, opt_state, state, before, hyper, units)

    assert events == golden.events()
    assert len(events) == 183
    torch.testing.assert_close(torch.stack(losses), golden.tensor("loss"), **TOLERANCE)
    assert checked == sum(name.startswith("snap/") for name in golden.arrays)


def check_snapshot(golden, t, params, opt_state, state, before, hyper, units):
    """Compare every array of the snapshot; how many they were."""
    views = {
        "param": lambda name: params[name],
        "param_sample": lambda name: sample(params[name]),
        "param_row_abs_sum": lambda name: params[name].double().abs().flatten(1).sum(1),
        "param_col_abs_sum": lambda name: params[name].double().abs().transpose(0, 1).flatten(1).sum(1),
        "opt": lambda name: opt_state.momentum[name.removesuffix("/momentum_buffer")],
        "opt_sample": lambda name: sample(opt_state.momentum[name.removesuffix("/momentum_buffer")]),
    }
    for i, group in enumerate(units):
        # The original's corrected utility is that of before the reset, also of the replaced units.
        corrected = before.utility[group.name] / (1 - hyper.decay_rate ** before.age[group.name].double())
        fields = {
            "util": state.utility[group.name],
            "bias_corrected_util": corrected.float(),
            "ages": state.age[group.name].float(),
            "mean_feature_act": state.mean_activation[group.name],
            "accumulated_num_features_to_replace": state.owed[group.name],
        }
        views[f"group{i}"] = fields.__getitem__
    recorded = golden.under(f"snap/{t}/")
    for name, expected in recorded.items():
        view, _, rest = name.partition("/")
        message = f"step {t}, {name}: {{}}".format
        torch.testing.assert_close(views[view](rest), expected, **TOLERANCE, msg=message)
    return len(recorded)


def sample(leaf):
    return leaf.flatten()[:: max(1, leaf.numel() // 1024)]
