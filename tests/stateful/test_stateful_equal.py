"""``fcbp.stateful`` does to a module what the pure functions do to its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import ordinary_networks
import pytest
import small_nets
import torch
from torch import nn

import fcbp
from fcbp.learner import LearnerHyperparams, LearnerState, make_learner

RATE = 2.0**-6  # a power of two: a product with it is exact, and so are fused multiplications and additions


def flattened() -> nn.Module:
    """Convolutions with batch norm, flattened into a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 6), nn.Tanh(),
        nn.Linear(6, 2),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "mlp": (lambda: fcbp.nets.mlp(4, (12, 8), 2), lambda: torch.randn(6, 4)),
    "flattened maps": (flattened, lambda: torch.randn(5, 1, 8, 8)),
    "branches": (small_nets.Inception, lambda: torch.randn(3, 3, 6, 6)),
    "inverted residual": (small_nets.MobileNet, lambda: torch.randn(3, 3, 7, 7)),
    "gru cell": (small_nets.GRU, lambda: torch.randn(3, 4, 4)),
    "lstm": (lambda: small_nets.Recurrent(nn.LSTM), lambda: torch.randn(3, 4, 4)),
    "functions": (small_nets.ParameterGRU, lambda: torch.randn(3, 4, 4)),
    "gated": (small_nets.SwiGLU, lambda: torch.randn(6, 4)),
    "tied language model": (lambda: small_nets.LanguageModel(True), lambda: torch.randint(0, 11, (3, 5))),
    "dense": (ordinary_networks.DenseNet, lambda: torch.randn(3, 3, 5, 5)),
    "mixer": (small_nets.Mixer, lambda: torch.randn(3, 5, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_hundred_steps_of_sgd_are_those_of_the_functional_learner_to_the_bit(name):
    make, draw = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make(), draw()
    y = torch.randn_like(model.eval()(x)).detach()
    model.train()
    numbers = {"replacement_rate": 0.05, "maturity_threshold": 5, "decay_rate": 0.9}

    units = fcbp.find_units(model, x)
    method, hyper = fcbp.methods.cbp(), LearnerHyperparams(RATE, fcbp.Hyperparams(**numbers))
    learner = make_learner(model, units, method=method)
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    state = LearnerState(params, buffers, (), method.init(units, params, fcbp.random.key(3)))
    state = state._replace(opt_state=fcbp.optim.sgd().init(params))

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    cbp = fcbp.stateful.ContinualBackprop(model, optimizer, x, seed=3, **numbers)
    identities = [id(p) for p in model.parameters()]
    total = 0
    for i in range(100):
        batch = (
            x if x.dtype == torch.int64 else x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        )
        state, info = learner.step(state, (batch, y), hyper)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), y).backward()
        optimizer.step()
        replaced = cbp.step()
        for group, mask in info["replaced"].items():
            assert torch.equal(replaced[group], mask)
            total += int(mask.sum())
    assert total > 10
    assert [id(p) for p in model.parameters()] == identities
    for path, p in model.named_parameters():
        assert torch.equal(p, state.params[path]), path
    for path, buffer in model.named_buffers():
        assert torch.equal(buffer, state.buffers[path]), path
    assert total == sum(group.replaced for group in cbp.summary().groups.values())


def test_a_method_that_never_acts_leaves_every_bit():
    torch.manual_seed(0)
    model = fcbp.nets.mlp(4, (12, 8), 2)
    plain = copy.deepcopy(model)
    optimizers = [torch.optim.Adam(m.parameters(), lr=0.01) for m in (model, plain)]
    cbp = fcbp.stateful.ContinualBackprop(model, optimizers[0], torch.zeros(1, 4), replacement_rate=0.0)
    x = torch.randn(20, 6, 4)
    for batch in x:
        for m, optimizer in zip((model, plain), optimizers, strict=True):
            optimizer.zero_grad()
            m(batch).square().mean().backward()
            optimizer.step()
        cbp.step()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q)
