"""The steps of torch's optimisers as functions of a step count, for weights that were made later than their tensor.

torch counts steps per tensor. A weight that was reset at step T has moments of its own steps k = 1, 2, ..., which torch
corrects by T + k. Each rule here says by how much an optimiser moves a weight, as a function of the count, so that the
difference can be put right. After ``horizon`` steps the moments are scaled to those of an old weight with the same
averages, and torch's own count serves from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["RULES", "Count", "Rule", "rule_of"]

Count = Tensor | float
"""A number of steps: one for all, or one for each weight."""
Group = Mapping[str, Any]
"""An optimiser's group of parameters with its options."""
Rows = Mapping[str, Tensor]
"""An optimiser's state of some weights by name, and ``"grad"``."""

HORIZON = 128
"""Steps that a new weight is corrected for, but by RAdam. Every such step costs; from then on the averages, scaled to
those of an old weight, are of as many gradients."""


@dataclass(frozen=True)
class Rule:
    """The dependence of an optimiser's step on its count."""

    moved: Callable[[Group, Rows, Count], Tensor]
    """``(group, rows, count) -> what the step subtracts from the weights``, apart from any weight decay."""
    horizon: Callable[[Group], int]
    """Steps that a new weight is corrected for."""
    scales: Mapping[str, Callable[[Group, Count], Count]] = field(default_factory=dict)
    """By the name of a moment, its divisor as a function of the count."""
    reads_grad: bool = False
    """Whether ``moved`` reads the gradient."""


def rule_of(optimizer: torch.optim.Optimizer, group: Group) -> Rule | None:
    """Return the rule of an optimiser with these options; ``None`` where its steps depend on no count."""
    for kind in type(optimizer).__mro__:
        if kind.__module__.startswith("torch.optim") and kind.__name__ in RULES:
            return RULES[kind.__name__](group)
    return None


def _usual(group: Group) -> int:
    return HORIZON


def _share(beta: Any, count: Count) -> Count:
    """``1 - beta ** count``: the share of a running mean that is not its start at 0."""
    if not isinstance(count, Tensor):
        share: float = 1 - beta**count
        return share
    log = torch.log(beta) if isinstance(beta, Tensor) else math.log(beta) if beta else -math.inf
    return -torch.expm1(count * log)


def _root(x: Count) -> Count:
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def _as(x: Count, like: Tensor) -> Count:
    return x.to(like.dtype) if isinstance(x, Tensor) else x


def _first(group: Group, count: Count) -> Count:
    return _share(group["betas"][0], count)


def _second(group: Group, count: Count) -> Count:
    return _share(group["betas"][1], count)


_ADAM_SCALES = {"exp_avg": _first, "exp_avg_sq": _second, "max_exp_avg_sq": _second}


def _adam(group: Group, rows: Rows, count: Count) -> Tensor:
    square = rows["max_exp_avg_sq"] if group.get("amsgrad") else rows["exp_avg_sq"]
    root = square.sqrt() / _as(_root(_second(group, count)), square) + group["eps"]
    moved: Tensor = group["lr"] * rows["exp_avg"] / _as(_first(group, count), square) / root
    return moved


def _mu(group: Group, count: Count) -> Count:
    momentum: Count = group["betas"][0] * (1 - 0.5 * 0.96 ** (count * group["momentum_decay"]))
    return momentum


def _nadam(group: Group, rows: Rows, count: Count) -> Tensor:
    if isinstance(count, Tensor) and count.ndim:
        steps = torch.arange(1, HORIZON + 2, device=count.device, dtype=torch.float64)
        products = torch.cumprod(torch.as_tensor(_mu(group, steps)), 0)
        product: Count = products[count.long().clamp(1, HORIZON) - 1]
    else:
        product = rows["mu_product"]
    mu, following = _mu(group, count), _mu(group, count + 1)
    mean, square = rows["exp_avg"], rows["exp_avg_sq"]
    root = square.sqrt() / _as(_root(_second(group, count)), square) + group["eps"]
    own = rows["grad"] * _as((1 - mu) / (1 - product), mean) + mean * _as(following / (1 - product * following), mean)
    moved: Tensor = group["lr"] * own / root
    return moved


def _radam(group: Group, rows: Rows, count: Count) -> Tensor:
    beta = group["betas"][1]
    longest = 2 / (1 - beta) - 1
    count = torch.as_tensor(count, dtype=torch.float64, device=rows["exp_avg"].device)
    length = longest - 2 * count * beta**count / _second(group, count)
    certain = length.clamp(min=5)
    rectified = ((certain - 4) * (certain - 2) * longest / ((longest - 4) * (longest - 2) * certain)).sqrt()
    dtype = rows["exp_avg"].dtype
    factor = (rectified * _root(_second(group, count))).to(dtype) / (rows["exp_avg_sq"].sqrt() + group["eps"])
    mean = rows["exp_avg"] / torch.as_tensor(_first(group, count)).to(dtype)
    moved: Tensor = group["lr"] * mean * torch.where(length > 5, factor, 1)
    return moved


def _adamax(group: Group, rows: Rows, count: Count) -> Tensor:
    moved: Tensor = group["lr"] * rows["exp_avg"] / (_as(_first(group, count), rows["exp_avg"]) * rows["exp_inf"])
    return moved


def _adagrad(group: Group, rows: Rows, count: Count) -> Tensor:
    rate = group["lr"] / (1 + (count - 1) * group["lr_decay"])
    moved: Tensor = _as(rate, rows["grad"]) * rows["grad"] / (rows["sum"].sqrt() + group["eps"])
    return moved


def _undampened(group: Group, count: Count) -> Count:
    """Account for dampening: torch dampens every gradient but a tensor's first."""
    if isinstance(count, Tensor):
        return torch.where(count > 1, 1.0, 1 - group["dampening"])
    return 1.0 if count > 1 else 1 - group["dampening"]


def _sgd(group: Group, rows: Rows, count: Count) -> Tensor:
    moved: Tensor = group["lr"] * rows["momentum_buffer"] / _as(_undampened(group, count), rows["momentum_buffer"])
    return moved


def _sgd_rule(group: Group) -> Rule | None:
    if group["momentum"] == 0 or not 0 < group["dampening"] < 1:
        return None
    return Rule(_sgd, lambda group: 1, {"momentum_buffer": _undampened})


def _radam_horizon(group: Group) -> int:
    """Return the length of RAdam's rectification, which is within 1 % of its end after about six lengths of the running
    mean."""
    return max(HORIZON, math.ceil(6 / (1 - float(group["betas"][1]))))


RULES: dict[str, Callable[[Group], Rule | None]] = {
    "Adam": lambda group: Rule(_adam, _usual, _ADAM_SCALES),
    "NAdam": lambda group: Rule(_nadam, _usual, _ADAM_SCALES, reads_grad=True),
    "RAdam": lambda group: Rule(_radam, _radam_horizon, _ADAM_SCALES),
    "Adamax": lambda group: Rule(_adamax, _usual, {"exp_avg": _first}),
    "Adagrad": lambda group: Rule(_adagrad, _usual, reads_grad=True) if group["lr_decay"] else None,
    "SGD": _sgd_rule,
}
"""By the name of a class of ``torch.optim``. Its other optimisers' steps depend on no count, but for Adafactor's."""
