"""The table of algorithms in lanes: every row equals eager, and is the same to the bit under any split of members.

Many rows are one step, for each program is compiled on its own.
"""

import contract
import optree
import pytest
import torch

from fcbp import lanes, loop

pytestmark = pytest.mark.compiled

PARTS = 6


@pytest.fixture(autouse=True)
def _quick_to_compile(monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")


@pytest.mark.parametrize("part", range(PARTS))
def test_rows(part):
    rows = contract.ROWS[part::PARTS]

    def step(carry, x):
        return carry, {row.name: row.function(inputs) for row, inputs in zip(rows, carry, strict=True)}

    def run(members):
        return loop.scan(torch.vmap(step), [row.members(*members) for row in rows], (), 1, backend="lanes")[1]

    everyone = range(contract.MEMBERS)
    results = run(everyone)
    for row in rows:
        accessors, leaves, _ = optree.tree_flatten_with_accessor(torch.vmap(row.function)(row.members(*everyone)))
        for accessor, result, expected in zip(accessors, optree.tree_leaves(results[row.name]), leaves, strict=True):
            where = f"{row.name}: {accessor.codify('result')}"
            torch.testing.assert_close(
                result[0], expected, rtol=3e-5, atol=3e-6, equal_nan=True, msg=lambda m, w=where: f"{w}: {m}"
            )
    for members in ([5, 2], [0], [1, 3, 4]):
        parts = run(members)
        for a, b in zip(optree.tree_leaves(parts), optree.tree_leaves(results), strict=True):
            assert torch.equal(a.nan_to_num(7.0), b[:, members].nan_to_num(7.0))
