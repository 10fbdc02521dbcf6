"""On a device nothing is read back: tensors without values take every path that a device takes, and cannot be read."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

import fcbp
from fcbp.stateful import ContinualBackprop

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


@functools.cache
def units_of_network() -> tuple[fcbp.UnitGroup, ...]:
    return fcbp.find_units(network(), torch.zeros(1, 1, 6, 6))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 2)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["cbp", "redo", "ccbp", "l2", "upgd"])
def test_no_step_reads_a_number_from_the_device(name, method):
    model = network().to("meta")
    optimizer = OPTIMIZERS[name](model.parameters())
    cbp = ContinualBackprop(model, optimizer, method=method, units=units_of_network())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.zeros(3, 1, 6, 6, device="meta")).square().mean().backward()
        optimizer.step()
        replaced = cbp.step()
    assert all(mask.is_meta for mask in replaced.values())
    assert cbp.steps == 3


def test_a_read_would_be_seen():
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.zeros(3, device="meta").any())


@pytest.mark.parametrize("optimizer", ["adamw", "nadam", "sgd"])
def test_the_path_of_a_device_gives_what_the_processors_gives(optimizer, monkeypatch):
    """All weights under masks, as on a device, against the new rows alone."""
    found = []
    for path in ("processor", "device"):
        if path == "device":
            monkeypatch.setattr("fcbp.stateful.moments.is_read", lambda x: False)
        torch.manual_seed(0)
        model = network()
        one = OPTIMIZERS[optimizer](model.parameters())
        cbp = ContinualBackprop(
            model, one, torch.zeros(1, 1, 6, 6), replacement_rate=0.05, maturity_threshold=3, seed=1
        )
        for i in range(30):
            x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(i))
            one.zero_grad()
            model(x).square().mean().backward()
            one.step()
            cbp.step()
        assert sum(int(n.sum()) for n in cbp.replaced.values()) > 5
        found.append(model)
    for p, q in zip(*(model.parameters() for model in found), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
