"""Units that are weighted by other activations before a weight reads them: what bias transfer does there."""

import dataclasses

import pytest
import torch
from permutation import randomised
from test_units_transfer import replace_constant_unit
from torch import nn

import fcbp


class Weighted(nn.Module):
    """Five units ``h`` of an input of six places, which ``function`` lets meet other activations before ``b`` reads."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.gate, self.score = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(3, 5), nn.Linear(3, 1)
        self.q, self.k, self.function = nn.Linear(3, 4), nn.Linear(3, 4), function
        self.mix = nn.Linear(6, 6)
        self.register_buffer("graph", torch.arange(36.0).reshape(6, 6))

    def forward(self, x):
        return self.b(self.function(self, x, torch.relu(self.a(x))))


def scores(m, x):
    return m.q(x) @ m.k(x).transpose(-1, -2)


AVERAGED = {
    "softmax attention": lambda m, x, h: scores(m, x).softmax(-1) @ h,
    "attention in one operation": lambda m, x, h: nn.functional.scaled_dot_product_attention(m.q(x), m.k(x), h),
    "pooling by learned weights": lambda m, x, h: (m.score(x).softmax(1) * h).sum(1),
    "pooling by a product": lambda m, x, h: torch.einsum("bt,bti->bi", m.score(x)[..., 0].softmax(1), h),
    "the weights' mean": lambda m, x, h: (h * m.score(x).softmax(1)).mean(1),
    "a row of the weights": lambda m, x, h: (scores(m, x).softmax(-1)[:, 2, :, None] * h).sum(1),
    "one sum by a buffer": lambda m, x, h: torch.einsum("t,bti->bi", m.graph[1], h),
    "a gate of each unit's own": lambda m, x, h: h * m.gate(x).sigmoid(),
}  # fmt: skip

MIXED = {
    "a graph's adjacency": lambda m, x, h: (x @ x.transpose(-1, -2)) @ h,
    "linear attention": lambda m, x, h: m.q(x) @ (m.k(x).transpose(-1, -2) @ h),
    "a softmax over the other axis": lambda m, x, h: scores(m, x).softmax(-2) @ h,
    "a softmax cut off": lambda m, x, h: scores(m, x).softmax(-1)[..., :4] @ h[:, :4],
    "a softmax, weighted again": lambda m, x, h: (m.score(x).softmax(1) * x[..., :1] * h).sum(1),
    "a softmax, squared": lambda m, x, h: scores(m, x).softmax(-1).square() @ h,
    "one gate for all units": lambda m, x, h: h * m.score(x).sigmoid(),
    "a gate of the input": lambda m, x, h: h * x[..., :1],
    "a mask of the input": lambda m, x, h: torch.where(x[..., :1] > 0, h, 0.0),
    "pooling by weights of any sum": lambda m, x, h: (m.score(x).sigmoid() * h).sum(1),
    "a graph in a buffer": lambda m, x, h: m.graph @ h,
    "a graph among the constants": lambda m, x, h: torch.arange(36.0, dtype=x.dtype).reshape(6, 6).sin() @ h,
    "a graph along the last axis": lambda m, x, h: (h.transpose(1, 2) @ m.graph).transpose(1, 2),
    "a sum with an input": lambda m, x, h: h + x[..., :1],
    "a layer over the places": lambda m, x, h: m.mix(h.transpose(1, 2)).transpose(1, 2),
    "an einsum over the places": lambda m, x, h: torch.einsum("pq,bqi->bpi", m.mix.weight, h),
}  # fmt: skip


def weighted(function):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = randomised(Weighted(function))
    inputs = torch.randn((2, 6, 3), generator=torch.Generator().manual_seed(1))
    found = fcbp.units.explain(net, inputs, attention_heads=True)
    (group,) = (g for g in found.units if g.size == 5)
    return net, inputs, group, found.notes[group.name]


def moved(*args, **options):
    """By how much the replacement of a constant unit moves the output."""
    before, after, _ = replace_constant_unit(*args, **options)
    return (after - before).abs().max()


@pytest.mark.parametrize("name", AVERAGED)
def test_a_constant_unit_that_others_average_is_taken_over(name):
    net, inputs, group, notes = weighted(AVERAGED[name])
    assert group.outgoing_bias == (("b.bias",),)
    assert not any("bias transfer" in note for note in notes)
    assert moved(net, inputs, group, transfer_bias=True) < 1e-9
    assert moved(net, inputs, group, transfer_bias=False) > 1e-3, "the unit was of account"


@pytest.mark.parametrize("name", MIXED)
def test_no_bias_takes_over_a_unit_that_something_else_weights(name):
    net, inputs, group, notes = weighted(MIXED[name])
    assert group.outgoing_bias == (None,)
    assert any("weighted by" in n or "other activations" in n for n in notes if "bias transfer leaves b.bias" in n), (
        notes
    )
    wrong = dataclasses.replace(group, outgoing_bias=(("b.bias",),))
    assert moved(net, inputs, wrong, transfer_bias=True) > 1e-3, "it would move the output indeed"
