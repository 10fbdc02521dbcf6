"""Optimisers as pairs of pure functions: ``init(params)`` and ``update(grads, opt_state, params, step_size)``.

Numbers match ``torch.optim`` to rounding. Step counts are kept per element, so that a replaced unit's bias
correction starts afresh (:func:`fcbp.reset_moments`). Updates are not differentiated through. Any number may be a tensor: build the optimiser inside the
vmapped function to sweep it.

    >>> import torch
    >>> adam = adamw(weight_decay=0.01)
    >>> params = {"w": torch.ones(3)}
    >>> state = adam.init(params)
    >>> params, state = adam.update({"w": torch.ones(3)}, state, params, step_size=0.1)
    >>> params["w"]
    tensor([0.8990, 0.8990, 0.8990])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

__all__ = ["AdamState", "Optimizer", "SGDState", "adam", "adamw", "sgd"]

Number = float | Tensor
Params = Any  # a pytree of tensors


class Optimizer(NamedTuple):
    """A pair of pure functions."""

    init: Callable[[Params], Any]
    """``init(params) -> opt_state``"""
    update: Callable[..., tuple[Params, Any]]
    """``update(grads, opt_state, params, step_size=...) -> (params, opt_state)``"""


class SGDState(NamedTuple):
    """State of :func:`sgd`."""

    momentum: Params
    """Momentum buffers shaped like the parameters; ``()`` without momentum."""


class AdamState(NamedTuple):
    """State of :func:`adam` and :func:`adamw`; each field is shaped like the parameters."""

    mean: Params
    """Running mean of the gradient, not bias-corrected."""
    mean_square: Params
    """Running mean of the squared gradient, not bias-corrected."""
    step: Params
    """Updates that each element has seen since it was made, int32."""


def sgd(momentum: Number = 0.0, *, nesterov: bool = False, weight_decay: Number = 0.0) -> Optimizer:
    """Stochastic gradient descent, as ``torch.optim.SGD``.

    Args:
        momentum: 0 (a plain number) keeps no buffers.
        nesterov: look ahead along the momentum.
        weight_decay: times the parameters, added to the gradient.

    Raises:
        ValueError: a number is negative, or Nesterov is asked for without momentum.
    """
    _check("momentum", momentum)
    _check("weight_decay", weight_decay)
    has_momentum = isinstance(momentum, Tensor) or momentum > 0
    if nesterov and not has_momentum:
        raise ValueError("nesterov is True and momentum 0; expected a positive momentum")

    def init(params: Params) -> SGDState:
        return SGDState(optree.tree_map(torch.zeros_like, params) if has_momentum else ())

    @torch.no_grad()
    def update(grads: Params, opt_state: SGDState, params: Params, step_size: Number) -> tuple[Params, SGDState]:
        grads = _add_decay(grads, params, weight_decay)
        if has_momentum:
            buffers = optree.tree_map(lambda g, b: momentum * b + g, grads, opt_state.momentum)
            opt_state = SGDState(buffers)
            grads = optree.tree_map(lambda g, b: g + momentum * b, grads, buffers) if nesterov else buffers
        return optree.tree_map(lambda p, g: p - step_size * g, params, grads), opt_state

    return Optimizer(init, update)


def adam(betas: tuple[Number, Number] = (0.9, 0.999), *, eps: Number = 1e-8, weight_decay: Number = 0.0) -> Optimizer:
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980), as ``torch.optim.Adam``; ``weight_decay`` joins the gradient.

    Raises:
        ValueError: a number is negative, or a beta is not in [0, 1).
    """
    _check("weight_decay", weight_decay)
    moments = _adam(betas, eps)

    @torch.no_grad()
    def update(grads: Params, opt_state: AdamState, params: Params, step_size: Number) -> tuple[Params, AdamState]:
        return moments.update(_add_decay(grads, params, weight_decay), opt_state, params, step_size)

    return Optimizer(moments.init, update)


def adamw(betas: tuple[Number, Number] = (0.9, 0.999), *, eps: Number = 1e-8, weight_decay: Number = 0.01) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv 1711.05101), as ``torch.optim.AdamW``.

    Raises:
        ValueError: a number is negative, or a beta is not in [0, 1).
    """
    _check("weight_decay", weight_decay)
    moments = _adam(betas, eps)

    @torch.no_grad()
    def update(grads: Params, opt_state: AdamState, params: Params, step_size: Number) -> tuple[Params, AdamState]:
        decayed = optree.tree_map(lambda p: p * (1 - step_size * weight_decay), params)
        return moments.update(grads, opt_state, decayed, step_size)

    return Optimizer(moments.init, update)


def _adam(betas: tuple[Number, Number], eps: Number) -> Optimizer:
    for i, beta in enumerate(betas):
        if not isinstance(beta, Tensor) and not 0 <= beta < 1:
            raise ValueError(f"betas[{i}] is {beta}; expected a number in [0, 1)")
    _check("eps", eps)
    beta1, beta2 = betas

    def init(params: Params) -> AdamState:
        return AdamState(
            optree.tree_map(torch.zeros_like, params),
            optree.tree_map(torch.zeros_like, params),
            optree.tree_map(lambda p: torch.zeros_like(p, dtype=torch.int32), params),
        )

    @torch.no_grad()
    def update(grads: Params, opt_state: AdamState, params: Params, step_size: Number) -> tuple[Params, AdamState]:
        mean = optree.tree_map(lambda g, m: beta1 * m + (1 - beta1) * g, grads, opt_state.mean)
        square = optree.tree_map(lambda g, v: beta2 * v + (1 - beta2) * g * g, grads, opt_state.mean_square)
        step = optree.tree_map(lambda t: t + 1, opt_state.step)

        def move(p: Tensor, m: Tensor, v: Tensor, t: Tensor) -> Tensor:
            root = torch.sqrt(v / _debias(beta2, t, v)) + eps
            return p - step_size * (m / _debias(beta1, t, m)) / root

        return optree.tree_map(move, params, mean, square, step), AdamState(mean, square, step)

    return Optimizer(init, update)


def _debias(beta: Number, step: Tensor, like: Tensor) -> Tensor:
    """``1 - beta ** step``."""
    if isinstance(beta, Tensor):
        log_beta: Number = torch.log(beta.to(torch.float64)).to(like.dtype)
    else:
        log_beta = math.log(beta) if beta else -math.inf
    return -torch.expm1(step.to(like.dtype) * log_beta)


def _add_decay(grads: Params, params: Params, weight_decay: Number) -> Params:
    if not isinstance(weight_decay, Tensor) and weight_decay == 0:
        return grads
    return optree.tree_map(lambda g, p: g + weight_decay * p, grads, params)


def _check(name: str, value: Number) -> None:
    if not isinstance(value, Tensor) and not value >= 0:
        raise ValueError(f"{name} is {value}; expected a number, 0 or more")
