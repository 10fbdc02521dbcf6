"""Comparisons of data sets."""

import numpy as np
import torch

from fcbp import data


def same(dataset, expected):
    for split in ("train", "test"):
        inputs, targets = getattr(dataset, split)
        assert inputs.dtype == torch.uint8
        assert targets.dtype == torch.int64
        np.testing.assert_array_equal(inputs.numpy(), expected[split][0])
        np.testing.assert_array_equal(targets.numpy(), expected[split][1])


def split(n=4, shape=(1, 2, 2), dtype=torch.uint8, targets=None):
    return data.Split(torch.zeros(n, *shape, dtype=dtype), torch.arange(n) if targets is None else targets)
