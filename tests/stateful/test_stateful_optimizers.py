"""torch's optimisers after a reset: moments cleared, first steps those of a count of the weights' own."""

from __future__ import annotations

import functools
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fcbp
from fcbp.methods import Method
from fcbp.stateful import ContinualBackprop

OLD, NEW = 150, 50
# What is reset when: unit 2 of the first hidden layer, and ten steps later unit 1 of the second.
RESETS = {OLD: ("0", 2), OLD + 10: ("2", 1)}


def resetting(units: tuple[fcbp.UnitGroup, ...]) -> Method:
    """A method that replaces what it is told to, and changes no weight: only moments and counts are under test."""

    def init(units: Any, params: Any, key: Tensor) -> dict[str, Tensor]:
        return {"step": torch.zeros((), dtype=torch.int64)}

    def update(state: Any, params: Any, opt_state: Any, buffers: Any, *, units: Any, **_: Any) -> Any:
        masks = {g.name: torch.zeros(g.size, dtype=torch.bool) for g in units}
        if int(state["step"]) in RESETS:
            name, unit = RESETS[int(state["step"])]
            masks[name][unit] = True
        return params, opt_state, buffers, {"step": state["step"] + 1}, {"replaced": masks}

    return Method(init, update)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()


def new_entries(model: nn.Module) -> dict[int, dict[str, Tensor]]:
    """By the step of their last reset, masks of the entries that are reset."""
    masks = {step: {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()} for step in
             RESETS}  # fmt: skip
    first, second = masks.values()
    for name in ("0.weight", "0.bias"):
        first[name][2] = True
    first["2.weight"][:, 2] = True
    for name in ("2.weight", "2.bias"):
        second[name][1] = True
    second["4.weight"][:, 1] = True
    first["2.weight"] &= ~second["2.weight"]
    return masks


OPTIMIZERS: dict[str, Any] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.1),
    "adam, amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adam, maximise": lambda p: torch.optim.Adam(p, lr=1e-3, maximize=True),
    "adam, short means": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.5, 0.9)),
    "adam, no first moment": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.0, 0.99)),
    "adam, large eps": lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-2),
    "adam, tensor step size": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)),
    "adam, foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    "adam, fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "adamw, foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "nadam with decay": lambda p: torch.optim.NAdam(p, lr=1e-3, weight_decay=0.1),
    "nadam, decoupled decay": lambda p: torch.optim.NAdam(p, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True),
    "nadam, foreach": lambda p: torch.optim.NAdam(p, lr=1e-3, foreach=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "radam, short means": lambda p: torch.optim.RAdam(p, lr=1e-3, betas=(0.5, 0.9)),
    "radam, foreach": lambda p: torch.optim.RAdam(p, lr=1e-3, foreach=True, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "sgd, nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd, dampened": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, dampening=0.5),
    "sgd, fused": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
    "sgd, foreach": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "rmsprop, all of it": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True, weight_decay=0.1),
    "rmsprop, foreach": lambda p: torch.optim.RMSprop(p, lr=1e-3, foreach=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adagrad, started": lambda p: torch.optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.1),
    "adagrad, slowing": lambda p: torch.optim.Adagrad(p, lr=1e-2, lr_decay=1e-2, weight_decay=0.1),
    "adagrad, fused": lambda p: torch.optim.Adagrad(p, lr=1e-2, fused=True),
    "adadelta": lambda p: torch.optim.Adadelta(p),
}


@functools.cache
def drawn(step: int, shapes: tuple[torch.Size, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(step)
    return tuple(
        (0.5 + torch.randn(shape, generator=generator, dtype=torch.float64)) * 10.0 ** -(i % 3)
        for i, shape in enumerate(shapes)
    )


def gradients(model: nn.Module, step: int) -> dict[str, Tensor]:
    """Gradients that do not depend on the weights: their mean is not 0, and they differ in scale."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    return {name: g.clone() for name, g in zip(names, drawn(step, tuple(p.shape for p in parameters)), strict=True)}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {path: p.detach().clone() for path, p in model.named_parameters()}


def moves(name: str, steps: int = NEW) -> tuple[list[dict[str, Tensor]], dict[int, dict[str, Tensor]]]:
    """What each step from the first reset on moved the weights by, and the weights at each reset."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    units = fcbp.find_units(model, torch.zeros(1, 3).double())
    cbp = ContinualBackprop(model, optimizer, method=resetting(units), hyper=(), units=units)
    found, at_reset = [], {}
    for step in range(OLD + 10 + steps + 1):
        before = weights(model)
        for path, g in gradients(model, step).items():
            model.get_parameter(path).grad = g
        optimizer.step()
        if step > OLD:
            found.append({path: p.detach() - before[path] for path, p in model.named_parameters()})
        cbp.step()
        if step in RESETS:
            at_reset[step] = weights(model)
    return found, at_reset


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_first_updates_of_reset_weights_are_those_of_an_optimiser_that_begins_with_them(name):
    model = network()
    found, at_reset = moves(name)
    for began, mask in new_entries(model).items():
        for path, p in at_reset[began].items():
            if mask[path].any():
                check(name, model, path, mask[path], p[mask[path]], began, found)


def check(name: str, model: nn.Module, path: str, mask: Tensor, start: Tensor, began: int, found: Any) -> None:
    own = nn.Parameter(start)
    fresh = OPTIMIZERS[name]([own])
    for step in range(began + 1, began + 1 + NEW):
        before = own.detach().clone()
        own.grad = gradients(model, step)[path][mask]
        fresh.step()
        expected, moved = own.detach() - before, found[step - OLD - 1][path][mask]
        error = (moved - expected).abs().max() / expected.abs().max()
        assert error < 0.01, (path, step - began, float(error))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "sgd"])
def test_without_cleared_moments_or_a_count_of_their_own_they_would_not_be(name):
    """The comparison can fail: of an optimiser that nobody tells, the same updates are far off."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    path, mask = "0.weight", new_entries(model)[OLD]["0.weight"]
    for step in range(OLD + 1):
        for p, g in gradients(model, step).items():
            model.get_parameter(p).grad = g
        optimizer.step()
    own = nn.Parameter(model.get_parameter(path).detach()[mask].clone())
    fresh = OPTIMIZERS[name]([own])
    worst = 0.0
    for step in range(OLD + 1, OLD + 6):
        before, whole = own.detach().clone(), model.get_parameter(path).detach().clone()
        own.grad = gradients(model, step)[path][mask]
        for p, g in gradients(model, step).items():
            model.get_parameter(p).grad = g
        fresh.step()
        optimizer.step()
        expected, moved = own.detach() - before, (model.get_parameter(path).detach() - whole)[mask]
        worst = max(worst, float((moved - expected).abs().max() / expected.abs().max()))
    assert worst > 0.05


@pytest.mark.slow
def test_weights_that_are_not_reset_are_left_alone_to_the_bit():
    for name in OPTIMIZERS:
        model, plain = network(), network()
        masks, (found, _), optimizer = new_entries(model), moves(name, 5), OPTIMIZERS[name](plain.parameters())
        for step in range(OLD + 5):
            before = {path: p.detach().clone() for path, p in plain.named_parameters()}
            for path, g in gradients(plain, step).items():
                plain.get_parameter(path).grad = g
            optimizer.step()
            for path, p in plain.named_parameters():
                others = ~(masks[OLD][path] | masks[OLD + 10][path])
                if step > OLD:
                    assert torch.equal((p.detach() - before[path])[others], found[step - OLD - 1][path][others]), name


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam"])
def test_torch_counts_on_from_moments_of_the_same_size_when_a_weight_is_old_enough(name, monkeypatch):
    monkeypatch.setattr("fcbp.stateful.rules.HORIZON", 40)
    mask = new_entries(network())[OLD]["0.weight"]

    def jump() -> float:
        sizes = torch.stack([m["0.weight"][mask].abs().mean() for m in moves(name, 60)[0]])
        return float(sizes[40:46].mean() / sizes[34:40].mean())

    assert jump() < 1.3
    for kind in ("Adam", "NAdam"):
        rule = fcbp.stateful.rules.RULES[kind]
        monkeypatch.setitem(fcbp.stateful.rules.RULES, kind, lambda group, rule=rule: replace(rule(group), scales={}))
    assert jump() > 1.7


@pytest.mark.slow
def test_the_functional_optimiser_counts_per_element_and_gives_the_same():
    """The whole of it against :mod:`fcbp.optim`: Adam with replacements of the method's own choice."""
    for make, own in (
        (lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01), fcbp.optim.adam(weight_decay=0.01)),
        (lambda p: torch.optim.AdamW(p, lr=0.01), fcbp.optim.adamw()),
        (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), fcbp.optim.sgd(0.9)),
    ):
        torch.manual_seed(0)
        model = fcbp.nets.mlp(4, (12, 8), 2).double()
        units, x = fcbp.find_units(model, torch.zeros(1, 4).double()), torch.randn(120, 6, 4).double()
        numbers = {"replacement_rate": 0.01, "maturity_threshold": 5}
        learner = fcbp.make_learner(model, units, optimizer=own, method=fcbp.methods.cbp())
        params = {name: p.detach().clone() for name, p in model.named_parameters()}
        state = fcbp.learner.LearnerState(
            params, {}, own.init(params), fcbp.init_state(units, params, fcbp.random.key(0))
        )
        optimizer = make(model.parameters())
        cbp = ContinualBackprop(model, optimizer, torch.zeros(1, 4).double(), **numbers)
        hyper = fcbp.LearnerHyperparams(0.01, fcbp.Hyperparams(**numbers))
        for batch in x:
            target = batch[:, :2].sin()
            state, info = learner.step(state, (batch, target), hyper)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(batch), target).backward()
            optimizer.step()
            replaced = cbp.step()
            assert all(torch.equal(replaced[name], mask) for name, mask in info["replaced"].items())
        assert sum(int(n.sum()) for n in cbp.replaced.values()) > 8
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), state.params[name], rtol=1e-5, atol=1e-7)


def test_adafactor_counts_a_new_row_and_a_new_column_from_their_own_first_step():
    model = network()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    units = fcbp.find_units(model, torch.zeros(1, 3).double())
    cbp = ContinualBackprop(model, optimizer, method=resetting(units), hyper=(), units=units)
    rows, columns = torch.zeros(4).double(), torch.zeros(5).double()  # the means of "2.weight", by counts of their own
    row_ages, column_ages, vector, ages = (torch.zeros(n).double() for n in (4, 5, 4, 4))
    for step in range(OLD + 10 + NEW):
        p = model.get_parameter("2.weight")
        before = p.detach().clone()
        grads = gradients(model, step)
        for path, g in grads.items():
            model.get_parameter(path).grad = g
        optimizer.step()
        row_ages, column_ages, ages = row_ages + 1, column_ages + 1, ages + 1
        square = grads["2.weight"].square()
        rows = rows + row_ages**-0.8 * (square.mean(1) - rows)
        columns = columns + column_ages**-0.8 * (square.mean(0) - columns)
        vector = vector + ages**-0.8 * (grads["2.bias"].square() - vector)
        update = grads["2.weight"] * (rows[:, None] * columns / rows.mean()).rsqrt()
        size = max(1e-3, float(before.norm()) / 20**0.5) * min(1e-3, (step + 1) ** -0.5)
        expected = -size * update / max(1.0, float(update.norm()) / 20**0.5)
        torch.testing.assert_close(p.detach() - before, expected, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(optimizer.state[model.get_parameter("2.bias")]["variance"], vector)
        cbp.step()
        if step == OLD:
            columns[2], column_ages[2] = 0, 0
        if step == OLD + 10:
            rows[1], row_ages[1], vector[1], ages[1] = 0, 0, 0, 0


def test_muon_forgets_the_momentum_of_what_is_reset():
    model = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False), nn.ReLU(),
                          nn.Linear(4, 2, bias=False)).double()  # fmt: skip
    optimizer = torch.optim.Muon(model.parameters(), lr=1e-3)
    units = fcbp.find_units(model, torch.zeros(1, 3).double())
    cbp = ContinualBackprop(model, optimizer, method=resetting(units), hyper=(), units=units)
    for step in range(OLD + 11):
        for path, g in gradients(model, step).items():
            model.get_parameter(path).grad = g
        optimizer.step()
        before = {path: optimizer.state[p]["momentum_buffer"].clone() for path, p in model.named_parameters()}
        cbp.step()
        if step == OLD:
            before["0.weight"][2], before["2.weight"][:, 2] = 0, 0
        if step == OLD + 10:
            before["2.weight"][1], before["4.weight"][:, 1] = 0, 0
        for path, p in model.named_parameters():
            assert torch.equal(optimizer.state[p]["momentum_buffer"], before[path])


def test_groups_of_parameters_and_several_optimisers_each_keep_their_own_numbers():
    found = {}
    for kind in ("one", "groups", "several"):
        model = network()
        units = fcbp.find_units(model, torch.zeros(1, 3).double())
        first, rest = list(model[0].parameters()), [*model[2].parameters(), *model[4].parameters()]
        slow, fast = {"lr": 1e-3, "betas": (0.9, 0.99)}, {"lr": 1e-2, "betas": (0.5, 0.999)}
        if kind == "groups":
            optimizers = [torch.optim.Adam([{"params": first, **slow}, {"params": rest, **fast}])]
        else:
            optimizers = [torch.optim.Adam(first, **slow), torch.optim.Adam(rest, **fast)]
        given = optimizers[0] if len(optimizers) == 1 else tuple(optimizers)
        cbp = ContinualBackprop(model, given, method=resetting(units), hyper=(), units=units)
        for step in range(OLD + 30):
            for path, g in gradients(model, step).items():
                model.get_parameter(path).grad = g
            for optimizer in optimizers:
                optimizer.step()
            cbp.step()
        found[kind] = {path: p.detach().clone() for path, p in model.named_parameters()}
    for path, p in found["groups"].items():
        assert torch.equal(p, found["several"][path])


def test_state_that_is_no_moment_is_left_alone_and_told():
    class Mastered(torch.optim.SGD):
        """Keeps a copy of the weights, as optimisers of low precision do."""

        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["master"] = p.detach().clone()
            super().step(closure)

    Mastered.__module__ = "elsewhere"
    model = network()
    optimizer = Mastered(model.parameters(), lr=0.1, momentum=0.9)
    units = fcbp.find_units(model, torch.zeros(1, 3).double())
    cbp = ContinualBackprop(model, optimizer, method=resetting(units), hyper=(), units=units)
    told = []
    for step in range(OLD + 1):
        for path, g in gradients(model, step).items():
            model.get_parameter(path).grad = g
        optimizer.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cbp.step()
        told += [str(w.message) for w in caught]
    assert len(told) == 1
    assert "'master'" in told[0]
    state = optimizer.state[model.get_parameter("0.weight")]
    assert torch.equal(state["momentum_buffer"][2], torch.zeros(3).double())
    assert state["master"][2].abs().min() > 0
