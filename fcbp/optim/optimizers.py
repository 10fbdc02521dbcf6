"""Optimisers as pairs of pure functions: ``init(params)`` and ``update(grads, opt_state, params, step_size)``.

Numbers match ``torch.optim`` to rounding. Step counts are kept per element, so that a replaced unit's bias
correction starts afresh (:func:`fcbp.reset_moments`). Updates are not differentiated through. Any number may be a
tensor: build the optimiser inside the vmapped function to sweep it.

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
from jaxtyping import Float
from torch import Tensor

from fcbp import show
from fcbp.checks import arguments
from fcbp.kinds import Fraction
from fcbp.optim.checks import Number, check_floats, check_like, check_number, check_state

__all__ = ["OPTIMIZERS", "AdamState", "Optimizer", "SGDState", "adam", "adamw", "cast_like", "moving_average", "sgd"]

Params = Any  # a pytree of tensors


@show.by_maker
class Optimizer(NamedTuple):
    """A pair of pure functions."""

    init: Callable[[Params], Any]
    """``init(params) -> opt_state``"""
    update: Callable[..., tuple[Params, Any]]
    """``update(grads, opt_state, params, step_size=...) -> (params, opt_state)``; a ``ValueError`` where the
    gradients or the state have another structure, shape or dtype than the parameters."""


@show.by_fields
class SGDState(NamedTuple):
    """State of :func:`sgd`."""

    momentum: Params
    """Momentum buffers shaped like the parameters; ``()`` without momentum."""


@show.by_fields
class AdamState(NamedTuple):
    """State of :func:`adam` and :func:`adamw`; each field is shaped like the parameters."""

    mean: Params
    """Running mean of the gradient, not bias-corrected."""
    mean_square: Params
    """Running mean of the squared gradient, not bias-corrected."""
    step: Params
    """Updates that each element has seen since it was made, int32."""


@arguments
def sgd(momentum: Number = 0.0, *, nesterov: bool = False, weight_decay: Number = 0.0) -> Optimizer:
    """Make stochastic gradient descent, as ``torch.optim.SGD``.

    Args:
        momentum: 0 (a plain number) keeps no buffers.
        nesterov: look ahead along the momentum.
        weight_decay: times the parameters, added to the gradient.

    Raises:
        ValueError: a number is negative, or Nesterov is asked for without momentum.
    """
    check_number("momentum", momentum)
    check_number("weight_decay", weight_decay)
    has_momentum = isinstance(momentum, Tensor) or momentum > 0
    if nesterov and not has_momentum:
        raise ValueError("nesterov is True and momentum 0; expected a positive momentum")

    def init(params: Params) -> SGDState:
        check_floats("params", params)
        return SGDState(optree.tree_map(torch.zeros_like, params) if has_momentum else ())

    def look_ahead(grad: Tensor, buffer: Tensor) -> Tensor:
        return grad + cast_like(momentum, buffer) * buffer

    @torch.no_grad()
    def update(grads: Params, opt_state: SGDState, params: Params, step_size: Number) -> tuple[Params, SGDState]:
        check_number("step_size", step_size)
        check_state(opt_state, SGDState)
        check_like("grads", grads, params)
        if has_momentum:
            check_like("opt_state.momentum", opt_state.momentum, params)
        grads = _add_decay(grads, params, weight_decay)
        if has_momentum:
            buffers = optree.tree_map(lambda g, b: cast_like(momentum, b) * b + g, grads, opt_state.momentum)
            opt_state = SGDState(buffers)
            grads = optree.tree_map(look_ahead, grads, buffers) if nesterov else buffers
        return optree.tree_map(lambda p, g: p - cast_like(step_size, p) * g, params, grads), opt_state

    return Optimizer(init, update)


@arguments
def adam(betas: tuple[Number, Number] = (0.9, 0.999), *, eps: Number = 1e-8, weight_decay: Number = 0.0) -> Optimizer:
    """Make Adam (Kingma and Ba, 2015, arXiv 1412.6980), as ``torch.optim.Adam``; ``weight_decay`` joins the gradient.

    Raises:
        ValueError: a number is negative, or a beta is not in [0, 1).
    """
    check_number("weight_decay", weight_decay)
    return _adam(betas, eps, lambda grads, params, step_size: (_add_decay(grads, params, weight_decay), params))


@arguments
def adamw(betas: tuple[Number, Number] = (0.9, 0.999), *, eps: Number = 1e-8, weight_decay: Number = 0.01) -> Optimizer:
    """Make Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv 1711.05101), as ``torch.optim.AdamW``.

    Raises:
        ValueError: a number is negative, or a beta is not in [0, 1).
    """
    check_number("weight_decay", weight_decay)

    def decayed(grads: Params, params: Params, step_size: Number) -> tuple[Params, Params]:
        return grads, optree.tree_map(lambda p: p * cast_like(1 - step_size * weight_decay, p), params)

    return _adam(betas, eps, decayed)


def adam_of_numbers(
    beta1: Number = 0.9, beta2: Number = 0.999, eps: Number = 1e-8, weight_decay: Number = 0.0
) -> Optimizer:
    """:func:`adam` with a keyword for each number, so that each can be swept."""
    return adam((beta1, beta2), eps=eps, weight_decay=weight_decay)


def _adam(
    betas: tuple[Number, Number], eps: Number, decay: Callable[[Params, Params, Number], tuple[Params, Params]]
) -> Optimizer:
    """Make Adam after a weight decay ``(grads, params, step_size) -> (grads, params)``."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas is {betas}; expected two numbers in [0, 1)")
    for i, beta in enumerate(betas):
        check_number(f"betas[{i}]", beta, below=1)
    check_number("eps", eps)
    beta1, beta2 = betas

    def init(params: Params) -> AdamState:
        check_floats("params", params)
        return AdamState(
            optree.tree_map(torch.zeros_like, params),
            optree.tree_map(torch.zeros_like, params),
            optree.tree_map(lambda p: torch.zeros_like(p, dtype=torch.int32), params),
        )

    @torch.no_grad()
    def update(grads: Params, opt_state: AdamState, params: Params, step_size: Number) -> tuple[Params, AdamState]:
        check_number("step_size", step_size)
        check_state(opt_state, AdamState)
        check_like("grads", grads, params)
        check_like("opt_state.mean", opt_state.mean, params)
        check_like("opt_state.mean_square", opt_state.mean_square, params)
        check_like("opt_state.step", opt_state.step, params, dtype=torch.int32)
        grads, params = decay(grads, params, step_size)
        mean = optree.tree_map(lambda g, m: moving_average(beta1, m, g), grads, opt_state.mean)
        square = optree.tree_map(lambda g, v: moving_average(beta2, v, g * g), grads, opt_state.mean_square)
        step = optree.tree_map(lambda t: t + 1, opt_state.step)

        def move(p: Tensor, m: Tensor, v: Tensor, t: Tensor) -> Tensor:
            root = torch.sqrt(v / _debias(beta2, t, v)) + cast_like(eps, v)
            return p - cast_like(step_size, p) * (m / _debias(beta1, t, m)) / root

        return optree.tree_map(move, params, mean, square, step), AdamState(mean, square, step)

    return Optimizer(init, update)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
"""The functions that make optimisers, by name."""


@arguments
def cast_like(number: Number, leaf: Tensor) -> Number:
    """``number`` in the leaf's dtype: a tensor would else promote a leaf that is 0-d itself.

    Example:
        >>> cast_like(torch.tensor(0.1, dtype=torch.float64), torch.tensor(1.0)).dtype
        torch.float32
        >>> cast_like(0.1, torch.tensor(1.0))
        0.1
    """
    return number.to(leaf.dtype) if isinstance(number, Tensor) else number


@arguments
def moving_average(
    beta: Fraction | Float[Tensor, ""], old: Float[Tensor, "*shape"], new: Float[Tensor, "*shape"]
) -> Tensor:
    """``beta old + (1 - beta) new``; the difference is taken before rounding to the tensors' dtype."""
    return cast_like(beta, old) * old + cast_like(1 - beta, old) * new


def _debias(beta: Number, step: Tensor, like: Tensor) -> Tensor:
    """``1 - beta ** step``, in float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(beta, Tensor):
        log_beta: Number = torch.log(beta.to(torch.float64)).to(dtype)
    else:
        log_beta = math.log(beta) if beta else -math.inf
    return -torch.expm1(step.to(dtype) * log_beta).to(like.dtype)


def _add_decay(grads: Params, params: Params, weight_decay: Number) -> Params:
    if not isinstance(weight_decay, Tensor) and weight_decay == 0:
        return grads
    return optree.tree_map(lambda g, p: g + cast_like(weight_decay, p) * p, grads, params)
