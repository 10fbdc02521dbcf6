"""A learner: model, loss, optimiser and method as one pair of pure functions, ``init`` and ``step``.

batch -> forward with features -> gradients -> optimiser -> utility -> selection -> reset

>>> import torch, fcbp
>>> model = fcbp.nets.mlp(20, (5,), 1)
>>> learner = make_learner(model, fcbp.find_units(model, torch.zeros(1, 20)), method=fcbp.methods.cbp())
>>> hyper = LearnerHyperparams(step_size=0.01, method=fcbp.Hyperparams(replacement_rate=1e-3))
>>> state = learner.init(fcbp.random.key(0))
>>> state, info = learner.step(state, (torch.ones(1, 20), torch.ones(1, 1)), hyper)
>>> sorted(info)
['loss', 'replaced']
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from fcbp import initializers, random
from fcbp.cbp import Hyperparams
from fcbp.concrete import is_plain
from fcbp.methods import Method, backprop
from fcbp.names import lookup
from fcbp.optim import Optimizer, sgd
from fcbp.units import UnitGroup, check_units, forward_with_features

__all__ = ["LOSSES", "Learner", "LearnerHyperparams", "LearnerState", "draw_params", "make_learner"]

Loss = Callable[[Tensor, Tensor], Float[Tensor, ""]]
Params = dict[str, Tensor]

LOSSES: dict[str, Loss] = {
    "mse": nn.functional.mse_loss,
    "cross_entropy": nn.functional.cross_entropy,
}


class LearnerHyperparams(NamedTuple):
    """The numbers of a learner; floats or 0-d tensors, which may be vmapped."""

    step_size: float | Tensor = 0.01
    """Step size of the optimiser."""
    method: Any = Hyperparams()
    """The method's own; :class:`fcbp.Hyperparams` for CBP."""
    optimizer: Any = ()
    """Where the learner's optimiser is a function that makes one: the keywords that it is called with in each step."""


class LearnerState(NamedTuple):
    """All that a learner carries from step to step."""

    params: Params
    """Parameters by name."""
    buffers: Params
    """Buffers by name."""
    opt_state: Any
    """The optimiser's state."""
    method: Any
    """The method's state."""


class Learner(NamedTuple):
    """A pair of pure functions for one learner; ``vmap`` them for a population."""

    init: Callable[[Tensor], LearnerState]
    """``init(key) -> state``"""
    step: Callable[..., tuple[LearnerState, dict[str, Any]]]
    """``step(state, (inputs, targets), hyper) -> (state, info)``: ``info["loss"]`` is the loss before the step,
    ``info["replaced"]`` the mask ``(units,)`` of each group. A third entry of the batch, a 0-d bool tensor, says
    whether a new task begins with it."""


def make_learner(
    model: nn.Module,
    units: Iterable[UnitGroup],
    *,
    loss: str | Loss = "mse",
    optimizer: Optimizer | Callable[..., Optimizer] | None = None,
    method: Method | None = None,
    draw: Callable[[Int64[Tensor, ""]], Params] | None = None,
) -> Learner:
    """A learner from its parts.

    Args:
        model: any module; it is copied.
        units: the groups that the method manages.
        loss: a name of :data:`LOSSES`, or a function ``(output, targets) -> scalar``.
        optimizer: by default plain :func:`fcbp.optim.sgd`. A function that makes one, such as
            :func:`fcbp.optim.adamw`, is called in every step with ``hyper.optimizer``, so that its numbers can be
            vmapped; the state has the shape of the one that it makes of its defaults.
        method: by default plain backpropagation.
        draw: ``key -> params``; by default :func:`draw_params`'s kaiming-uniform weights.

    Raises:
        ValueError: the loss is unknown, or a group does not fit the model.
    """
    units = tuple(units)
    make_optimizer = _constant(sgd() if optimizer is None else optimizer)
    method = backprop() if method is None else method
    loss_function = loss if callable(loss) else lookup("loss", loss, LOSSES)
    model = copy.deepcopy(model)
    check_units(units, dict(model.named_parameters()), dict(model.named_buffers()))
    forward = forward_with_features(model, units)
    update, adjust = _taking_what_it_reads(method.update), _taking_what_it_reads(method.adjust)
    initial_buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def init(key: Int64[Tensor, ""]) -> LearnerState:
        draw_key, method_key = random.split(key).unbind()
        params = draw_params(model, draw_key) if draw is None else draw(draw_key)
        buffers = {name: buffer.clone() for name, buffer in initial_buffers.items()}
        return LearnerState(params, buffers, make_optimizer().init(params), method.init(units, params, method_key))

    def objective(
        params: Params, buffers: Params, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, tuple[dict[str, Tensor], Params]]:
        output, features, buffers = forward(params, buffers, inputs)
        return loss_function(output, targets), (features, buffers)

    def step(
        state: LearnerState, batch: tuple[Tensor, ...], hyper: LearnerHyperparams
    ) -> tuple[LearnerState, dict[str, Any]]:
        inputs, targets, *signal = batch
        grads, (value, (features, buffers)) = _gradient(objective, state.params, state.buffers, inputs, targets)
        given = {
            "units": units,
            "features": features,
            "hyper": hyper.method,
            "step_size": hyper.step_size,
            "new_task": signal[0] if signal else None,
        }
        adjusted, method_state = adjust(state.method, grads, state.params, **given)
        optimizer = make_optimizer(**dict(hyper.optimizer))
        params, opt_state = optimizer.update(adjusted, state.opt_state, state.params, step_size=hyper.step_size)
        params, opt_state, buffers, method_state, info = update(
            method_state, params, opt_state, buffers, grads=grads, previous=state.params, **given
        )
        return LearnerState(params, buffers, opt_state, method_state), {"loss": value, **info}

    return Learner(init, step)


def _gradient(objective: Callable[..., Any], params: Params, *rest: Any) -> tuple[Params, tuple[Tensor, Any]]:
    """``torch.func.grad_and_value`` of an objective that returns dicts of tensors beside its value.

    Where nothing is transformed torch's tape gives the same, without the levels that cost a small network more than all
    its arithmetic.
    """
    if not is_plain() or torch.is_inference_mode_enabled() or _is_on_tape((params, rest)):
        return torch.func.grad_and_value(objective, has_aux=True)(params, *rest)
    with torch.enable_grad():
        own = {name: p.detach().requires_grad_() for name, p in params.items()}
        value, others = objective(own, *rest)
        if not value.requires_grad:
            grads = tuple(torch.zeros_like(p) for p in params.values())
        else:
            grads = torch.autograd.grad(value, list(own.values()), materialize_grads=True)
    detached = tuple({name: x.detach() for name, x in other.items()} for other in others)
    return dict(zip(own, grads, strict=True)), (value.detach(), detached)


def _is_on_tape(tree: Any) -> bool:
    """Whether someone differentiates a step by its weights or its examples, on the tape that must not end there."""
    leaves: list[Any] = optree.tree_leaves(tree)
    return any(isinstance(x, Tensor) and x.requires_grad for x in leaves)


def _constant(optimizer: Optimizer | Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """A function that makes the optimiser; one that is made already has its numbers."""
    return (lambda: optimizer) if isinstance(optimizer, Optimizer) else optimizer


def _taking_what_it_reads(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, given of the keywords of a method's protocol those that it takes."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return function

    def given(*args: Any, **keywords: Any) -> Any:
        return function(*args, **{name: value for name, value in keywords.items() if name in parameters})

    return given


def draw_params(
    model: nn.Module,
    key: Int64[Tensor, ""],
    *,
    initializer: str | initializers.Initializer = "kaiming_uniform",
    nonlinearity: str = "relu",
) -> Params:
    """Initial parameters for ``model``, as the published CBP code draws them.

    Weights of linear and convolutional layers are drawn by ``initializer``, with the gain of ``nonlinearity`` and in
    the last of them with gain 1; their biases are 0. Other parameters (norms, embeddings) keep the model's values.

    Args:
        model: read, not changed.
        key: a key of :mod:`fcbp.random`; under ``vmap`` every member draws its own.
        initializer: a name or a function; see :mod:`fcbp.initializers`.
        nonlinearity: a name of :func:`fcbp.initializers.gain`.
    """
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    }
    for i, (name, layer) in enumerate(layers.items()):
        last = i == len(layers) - 1
        draw = initializers.get(initializer, "linear" if last else nonlinearity)
        weight = layer.weight
        fan_in = weight[0].numel()
        fan_out = weight.shape[0] * weight[0, 0].numel()
        prefix = f"{name}." if name else ""
        # A tied or parametrised weight goes by another name, which keeps the model's value.
        if f"{prefix}weight" in params:
            params[f"{prefix}weight"] = draw(
                random.fold_in(key, i), tuple(weight.shape), fan_in, fan_out, weight.dtype, weight.device
            )
        if f"{prefix}bias" in params:
            params[f"{prefix}bias"] = torch.zeros_like(params[f"{prefix}bias"])
    return params
