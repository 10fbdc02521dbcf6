"""Sums over the rows of weights, in the loop in which the weights are written."""

import optree
import pytest
import torch

from fcbp import lanes, loop
from fcbp.lanes import fusion

pytestmark = pytest.mark.compiled


def updated(carry, x):
    """New weights, and each input's mean size of weights: a utility's share."""
    weights, mean = carry
    new = weights - 0.1 * x[0, :, None] * x[1, None, : weights.shape[1]]
    return (new, 0.9 * mean + new.abs().mean(0)), new.abs().sum(0)


@pytest.mark.parametrize("rows", [13, 20])
def test_sums_over_rows_are_taken_where_the_rows_are_written(rows, monkeypatch):
    monkeypatch.setattr(fusion, "COLUMNS_FROM", 50)
    step = torch.vmap(lambda carry, x: updated(carry, x))
    carry, xs = (torch.randn(11, rows, 9), torch.zeros(11, 9)), torch.randn(5, 11, 2, rows)
    leaves, spec = optree.tree_flatten(carry)
    drafted = lanes.draft(step, leaves, spec, xs, lambda *_: None)
    (weights,) = drafted.plan.prologues.values()
    assert weights.shape == (rows, 9)
    found = optree.tree_leaves(drafted.compile()(leaves, xs, 5))
    expected = optree.tree_leaves(loop.scan(step, carry, xs, backend="eager"))
    for leaf, other in zip(found, expected, strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-5, atol=1e-5)
    # The weights themselves are not touched by the fusion.
    monkeypatch.setattr(fusion, "COLUMNS_FROM", 1 << 40)
    apart = lanes.draft(step, leaves, spec, xs, lambda *_: None)
    assert not apart.plan.prologues
    assert torch.equal(optree.tree_leaves(apart.compile()(leaves, xs, 5))[0], found[0])
