"""What ``fcbp.stateful`` says where it is called wrongly: the argument, what it is, and what to do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import fcbp
from fcbp.stateful import ContinualBackprop

X = torch.randn(8, 4)


def parts(**keywords: Any) -> tuple[nn.Module, torch.optim.Optimizer, ContinualBackprop]:
    torch.manual_seed(0)
    model = fcbp.nets.mlp(4, (6, 5), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, ContinualBackprop(model, optimizer, X, **keywords)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor = X) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_step_before_the_optimisers():
    model, _, cbp = parts()
    with pytest.raises(ValueError, match=r"no optimizer\.step\(\) came before"):
        cbp.step()
    model(X).square().mean().backward()
    with pytest.raises(ValueError, match=r"expected loss\.backward\(\), optimizer\.step\(\), cbp\.step\(\)"):
        cbp.step()


def test_step_twice():
    model, optimizer, cbp = parts()
    learn(model, optimizer)
    cbp.step()
    with pytest.raises(ValueError, match=r"none since the last cbp\.step\(\)"):
        cbp.step()
    learn(model, optimizer)
    cbp.step()
    assert cbp.steps == 2


@pytest.mark.parametrize("how", ["none", "eval", "another model"])
def test_step_without_a_training_forward(how):
    model, optimizer, cbp = parts()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    if how == "eval":
        model.eval()
        model(X)
    if how == "another model":
        fcbp.nets.mlp(4, (6, 5), 2)(X)
    optimizer.step()
    with pytest.raises(ValueError, match=r"no training forward read 0, 2 .* train\(\) mode"):
        cbp.step()


def test_step_after_another_optimisers():
    model, _, cbp = parts()
    learn(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="with the optimiser that ContinualBackprop was given"):
        cbp.step()


def test_an_optimiser_of_another_models_parameters():
    model, other = fcbp.nets.mlp(4, (6, 5), 2), fcbp.nets.mlp(4, (6, 5), 2)
    with pytest.raises(ValueError, match=r"optimizer has no parameter of the model; expected .*model\.parameters\(\)"):
        ContinualBackprop(model, torch.optim.SGD(other.parameters(), lr=0.1), X)


def test_an_optimiser_of_some_of_the_parameters():
    model = fcbp.nets.mlp(4, (6, 5), 2)
    with pytest.raises(ValueError, match=r"optimizer lacks 2\.weight, 2\.bias.*in a tuple.*requires_grad_\(False\)"):
        ContinualBackprop(model, torch.optim.SGD([*model[0].parameters(), *model[4].parameters()], lr=0.1), X)


@pytest.mark.parametrize("optimizer", ["sgd", (), None])
def test_what_is_no_optimiser(optimizer):
    with pytest.raises(ValueError, match=r"optimizer is .*; expected a torch\.optim\.Optimizer, or several"):
        ContinualBackprop(fcbp.nets.mlp(4, (6, 5), 2), optimizer, X)


def test_a_model_that_was_moved_or_cast():
    model, optimizer, cbp = parts()
    learn(model, optimizer)
    cbp.step()
    model.to(torch.float64)
    learn(model, optimizer, X.double())
    with pytest.raises(ValueError, match=r"0\.weight was moved from cpu, torch\.float32 to cpu, torch\.float64"):
        cbp.step()


def test_a_layer_that_was_replaced():
    model, optimizer, cbp = parts()
    model[2] = nn.Linear(6, 5)
    learn(model, optimizer)
    with pytest.raises(ValueError, match=r"the module 2 was replaced.*remove\(\) and make a new one with an optimiser"):
        cbp.step()


def test_a_first_layer_that_was_replaced_or_a_parameter():
    model, optimizer, cbp = parts()
    first = model[0]
    model[0] = nn.Linear(4, 6)
    learn(model, optimizer)
    with pytest.raises(ValueError, match="the module 0 was replaced"):
        cbp.step()
    model[0] = first
    first.weight = nn.Parameter(torch.zeros(6, 4))
    learn(model, optimizer)
    with pytest.raises(ValueError, match=r"the parameter 0\.weight was replaced"):
        cbp.step()


def test_a_layer_that_was_frozen_later():
    model, optimizer, cbp = parts()
    model[2].requires_grad_(False)
    learn(model, optimizer)
    with pytest.raises(ValueError, match=r"2\.weight was frozen.*make a new one after freezing"):
        cbp.step()


def test_inputs_of_another_shape_than_the_examples():
    class Any2d(nn.Module):
        """Reads images of any channels' order: what is read has the units elsewhere."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
            self.pool = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.pool(self.a(x)))

    model = Any2d()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (group,) = fcbp.find_units(model, X)
    wrong = dataclasses.replace(group, activation="pool", activation_axis=-2)
    cbp = ContinualBackprop(model, optimizer, units=[wrong])
    learn(model, optimizer, torch.randn(3, 9, 4))
    with pytest.raises(ValueError, match=r"shape \(3, 9, 6\); expected 6 entries on its unit axis -2"):
        cbp.step()


def test_batches_of_another_size_or_rank_are_fine():
    model, optimizer, cbp = parts()
    for shape in ((1, 4), (50, 4), (3, 7, 4), (2, 3, 5, 4)):
        learn(model, optimizer, torch.randn(shape))
        cbp.step()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"method": "cpb"}, "method is 'cpb'; .*did you mean .*'cbp'"),
        ({"replacment_rate": 0.1}, "option is 'replacment_rate'; .*did you mean 'replacement_rate'"),
        ({"replacement_rate": 2.0}, "replacement_rate is 2.0; expected a number in"),
        ({"maturity_threshold": -1}, "maturity_threshold is -1; expected"),
        ({"decay_rate": 1.0}, "decay_rate is 1.0; expected"),
        ({"measure": "contributoin"}, "measure is 'contributoin'; .*did you mean 'contribution'"),
        ({"rounding": "up"}, "rounding is 'up'; expected"),
        ({"method": "l2", "strength": -1.0}, "strength is -1.0; expected"),
        ({"method": "redo", "period": 0}, "period is 0; expected"),
        ({"method": fcbp.methods.cbp()}, "hyper is None; expected the numbers of the method"),
        ({"method": fcbp.methods.cbp(), "hyper": fcbp.Hyperparams(), "capacity": 1}, "capacity is given beside"),
        ({"hyper": fcbp.Hyperparams(), "decay_rate": 0.9}, "hyper and decay_rate are both given"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": torch.zeros(2, dtype=torch.int64)}, r"seed is a tensor \(2,\) of torch.int64; expected a whole"),
        ({"seed": torch.tensor(0.5)}, r"seed is a tensor \(\) of torch.float32; expected a whole number, or a key"),
        ({"seed": torch.tensor(0, dtype=torch.int32)}, r"seed is a tensor \(\) of torch.int32"),
    ],
)  # fmt: skip
def test_options_that_are_unknown_or_out_of_range_are_refused_before_any_step(keywords, message):
    with pytest.raises(ValueError, match=message):
        parts(**keywords)


def test_neither_examples_nor_units():
    model = fcbp.nets.mlp(4, (6, 5), 2)
    with pytest.raises(ValueError, match=r"example_inputs is \(\); expected what the model's forward takes, or units="):
        ContinualBackprop(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_methods_of_the_step_size_want_one():
    model = fcbp.nets.mlp(4, (6, 5), 2)
    groups = [
        {"params": model[0].parameters(), "lr": 0.1},
        {"params": [*model[2].parameters(), *model[4].parameters()]},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.2)
    cbp = ContinualBackprop(model, optimizer, X, method="weight-decay")
    learn(model, optimizer)
    with pytest.raises(ValueError, match=r"step sizes 0\.1, 0\.2; weight-decay expects the same"):
        cbp.step()


def test_a_method_of_new_tasks_wants_to_be_told():
    model, optimizer, cbp = parts(method="head-reset")
    learn(model, optimizer)
    with pytest.raises(ValueError, match="new_task is None"):
        cbp.step()


def test_a_state_of_another_network_method_or_version():
    _, _, cbp = parts()
    model = fcbp.nets.mlp(4, (7, 5), 2)
    other = ContinualBackprop(model, torch.optim.SGD(model.parameters(), lr=0.1), X)
    with pytest.raises(ValueError, match=r"state has units \{'0': 7, '2': 5\}.*expected \{'0': 6, '2': 5\}.*network"):
        cbp.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"state has method 'redo'; expected 'cbp'"):
        cbp.load_state_dict(parts(method="redo")[2].state_dict())
    with pytest.raises(ValueError, match="state has format 0; expected 1"):
        cbp.load_state_dict({**cbp.state_dict(), "format": 0})
    with pytest.raises(
        ValueError, match=r"state has no 'format'; expected what ContinualBackprop\.state_dict\(\) gave"
    ):
        cbp.load_state_dict({})
    deeper = cbp.state_dict()
    deeper["state"]["age/0"] = deeper["state"]["age/0"][:3]
    with pytest.raises(ValueError, match=r"shape \(3,\) for 'age/0'; expected \(6,\)"):
        cbp.load_state_dict(deeper)


def test_data_parallel_and_sharded_models():
    model = fcbp.nets.mlp(4, (6, 5), 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="expected a DistributedDataParallel"):
        ContinualBackprop(nn.DataParallel(model), optimizer, X)
