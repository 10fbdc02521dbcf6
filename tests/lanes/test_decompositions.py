"""Steps whose operations an older torch does not decompose: its table without them stands for it."""

import pytest
import torch
from torch import _decomp
from torch.nn import functional as F

from fcbp import lanes, loop
from fcbp.lanes.decompositions import OWN

pytestmark = pytest.mark.compiled

POOLS = {
    "square": {"kernel_size": 2},
    "overlapping": {"kernel_size": 3, "stride": 1},
    "padded": {"kernel_size": 3, "stride": 2, "padding": 1},
    "ceiled": {"kernel_size": (2, 3), "stride": (2, 2), "ceil_mode": True},
    "ceiled and padded": {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True},
    "dilated": {"kernel_size": (3, 2), "stride": 1, "dilation": (2, 1)},
}


@pytest.mark.parametrize("torchs", ["as it is", "an older one's"])
def test_max_pooling_is_eagers(torchs, monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    older = {op: f for op, f in _decomp.decomposition_table.items() if op not in OWN}
    if torchs == "an older one's":
        monkeypatch.setattr(_decomp, "decomposition_table", older)

    def of_one(image):
        found = []
        for options in POOLS.values():
            pooled, places = F.max_pool2d(image, **options, return_indices=True)
            weights = torch.linspace(0.5, 1.5, pooled.numel()).reshape(pooled.shape)
            grad = torch.func.grad(lambda x, o=options, w=weights: (F.max_pool2d(x, **o) * w).sum())(image)
            found += [pooled, places, grad]
        return found

    images = torch.randn(3, 2, 2, 7, 6)
    images[0, 0, 0, 2, 3] = torch.nan
    images[1, 1, 1, 4, 4] = -torch.inf
    found = loop.scan(torch.vmap(lambda image, _: (image, of_one(image))), images, None, 1, backend="lanes")[1]
    for name, one, expected in zip(
        [n for n in POOLS for _ in range(3)], found, torch.vmap(of_one)(images), strict=True
    ):
        torch.testing.assert_close(one[0], expected, equal_nan=True, msg=lambda m, name=name: f"{name}: {m}")
