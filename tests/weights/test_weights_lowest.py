"""The search for the lowest utilities."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_cases import KEY

from fcbp import random
from fcbp.weights import lowest as search

NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, 1e-45, 3e38, math.inf, 0.5]), st.floats(0, 2, width=32))


@settings(max_examples=60)
@given(
    st.lists(NUMBERS, min_size=1, max_size=40), st.integers(1, 30), st.integers(0, 400), st.integers(0, 60),
    st.sampled_from([torch.float32, torch.float64]), st.sampled_from([0, 1, 64, 4096]),
)  # fmt: skip
def test_the_lowest_are_found_whichever_way_they_are_searched(values, repeats, number, capacity, dtype, up_to):
    x = torch.tensor(values * repeats, dtype=dtype)
    finite = int(x.isfinite().sum())
    number, capacity = min(number, capacity, finite), min(capacity, len(x))
    wanted = torch.zeros(len(x), dtype=torch.bool)
    wanted[np.argsort(x.numpy(), kind="stable")[:number]] = True
    old, search._SORTED = search._SORTED, up_to
    try:
        mask, places = search.lowest(x, torch.tensor(float(number)), capacity)
        ranks = [torch.tensor(k, dtype=torch.int32) for k in {1, (len(x) + 1) // 2, len(x)}]
        found = search.kth_lowest(x, ranks)
    finally:
        search._SORTED = old
    assert mask.equal(wanted)
    if places is not None and number:
        assert places[:number].equal(wanted.nonzero().flatten())
        assert (places[number:] == places[0]).all()
    for k, value in zip(ranks, found, strict=True):
        assert value == x.sort().values[k - 1]


def test_many_weights_need_no_sort():
    """The paths that large tensors take, as they are, against a full sort."""
    x = random.uniform(KEY, (70_000,)) ** 9
    x[::3] = x[0]  # ties
    x[::7] = torch.inf
    order = x.sort(stable=True).indices
    for number, capacity in ((900, 1000), (0, 1000), (1, 1), (20_000, 70_000), (33_333, 40_000), (60_000, 70_000)):
        mask, places = search.lowest(x, torch.tensor(number), capacity)
        assert mask.nonzero().flatten().equal(order[:number].sort().values)
        assert (places is not None) == (1 < 64 * capacity <= 70_000)


def test_quantiles_are_numpys_lower_ones():
    for n in (1, 2, 5, 100, 5000):
        x = random.uniform(KEY, (n,))
        fractions = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
        found = search.quantiles(torch.cat([x, torch.full((3,), torch.inf)]), fractions)
        assert [f.item() for f in found] == [np.quantile(x.numpy(), f, method="lower") for f in fractions]
    assert search.quantiles(torch.full((4,), torch.inf), (0.5,))[0] == torch.inf
