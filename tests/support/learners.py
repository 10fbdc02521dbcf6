"""Small networks, their units, batches and settings of a learner."""

import functools

import torch
import torch.utils._pytree as pytree

import fcbp
from fcbp.learner import LearnerHyperparams
from fcbp.units import Slice, UnitGroup

HYPER = LearnerHyperparams(
    step_size=0.02, method=fcbp.Hyperparams(replacement_rate=0.05, maturity_threshold=5, decay_rate=0.9)
)


def group(name, layer, consumer, size, norm=None):
    extra = {}
    if norm:
        extra = {
            "norm_scale": (Slice((f"{norm}.weight",), 0),),
            "norm_shift": (Slice((f"{norm}.bias",), 0),),
            "running_mean": (Slice((f"{norm}.running_mean",), 0),),
            "running_var": (Slice((f"{norm}.running_var",), 0),),
        }
    return UnitGroup(
        name=name,
        size=size,
        incoming=(Slice((f"{layer}.weight",), 0),),
        bias=() if norm else (Slice((f"{layer}.bias",), 0),),
        outgoing=(Slice((f"{consumer}.weight",), 1),),
        outgoing_bias=((f"{consumer}.bias",),),
        activation=consumer,
        **extra,
    )


def mlp():
    nn = torch.nn
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    return model, (group("0", "0", "2", 6), group("2", "2", "4", 5))


def batch_norm():
    nn = torch.nn
    # A bias before a batch norm has no gradient but noise, which Adam would follow.
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    return model, (group("0", "0", "3", 6, norm="1"),)


NETWORKS = {"mlp": mlp, "batch norm": batch_norm}


@functools.cache
def batch_at(t):
    inputs = fcbp.random.normal(fcbp.random.fold_in(fcbp.random.key(11), t), (8, 4))
    return inputs, torch.stack([inputs[:, 0] * inputs[:, 1], inputs.sum(1).sin()], 1)


def tree_equal(actual, expected):
    a, a_spec = pytree.tree_flatten(actual)
    b, b_spec = pytree.tree_flatten(expected)
    assert a_spec == b_spec
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
