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
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from fcbp import initializers, losses, random
from fcbp.cbp import Hyperparams
from fcbp.concrete import is_plain
from fcbp.losses import LOSSES, Loss
from fcbp.methods import METHODS, Kind, Method
from fcbp.methods.base import given_what_it_takes
from fcbp.names import lookup
from fcbp.optim import OPTIMIZERS, Optimizer
from fcbp.units import UnitGroup, check_units, forward_with_features

__all__ = ["LOSSES", "Learner", "LearnerHyperparams", "LearnerState", "draw_params", "make_learner"]

Params = dict[str, Tensor]


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
    ``info["replaced"]`` the mask ``(units,)`` of each group; on request ``info["output"]`` is the model's output before
    the step, and where the loss gives more than its value, ``info["aux"]`` is what it gives. A third entry of the
    batch, a 0-d bool tensor, says whether a new task begins with it."""


def make_learner(
    model: nn.Module,
    units: Iterable[UnitGroup],
    *,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer | Callable[..., Optimizer] | None = None,
    method: str | Kind | Method | None = None,
    draw: Callable[[Int64[Tensor, ""]], Params] | None = None,
    with_output: bool = False,
) -> Learner:
    """Make a learner from its parts.

    Args:
        model: any module; it is copied.
        units: the groups that the method manages.
        loss: a name of :data:`LOSSES`, or a function ``(output, targets) -> scalar``. It may give ``(scalar, aux)``,
            ``aux`` being a pytree of tensors, which is then ``info["aux"]``.
        optimizer: a name of :data:`fcbp.optim.OPTIMIZERS`, or an optimiser; by default plain :func:`fcbp.optim.sgd`. A
            function that makes one, such as :func:`fcbp.optim.adamw`, is called in every step with ``hyper.optimizer``,
            so that its numbers can be vmapped, and so is a name's; the state has the shape of the one that it makes of
            its defaults.
        method: a name of :data:`fcbp.methods.METHODS`, or a method; by default plain backpropagation.
        draw: ``key -> params``; by default :func:`draw_params`'s kaiming-uniform weights.
        with_output: give the model's output in the forward pass before the step as ``info["output"]``: the online
            prediction, without a second forward pass.

    Raises:
        ValueError: an argument is unknown or of another kind than described, or a group does not fit the model. In a
            step: the loss does not suit the output and the targets, or gives no scalar.

    Example:
        >>> import torch, fcbp
        >>> model = fcbp.nets.mlp(20, (5,), 3)
        >>> units = fcbp.find_units(model, torch.zeros(1, 20))
        >>> learner = make_learner(model, units, loss="cross_entropy", optimizer="adam", method="cbp", with_output=True)
        >>> batch = torch.ones(4, 20), torch.tensor([0, 1, 2, 0])
        >>> state, info = learner.step(learner.init(fcbp.random.key(0)), batch, LearnerHyperparams())
        >>> info["output"].shape
        torch.Size([4, 3])
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {model!r}; expected a module such as fcbp.nets.mlp(20, (5,), 1)")
    units = tuple(units)
    loss_function = losses.get(loss)
    make_optimizer = _optimizer("sgd" if optimizer is None else optimizer)
    method = _method("bp" if method is None else method)
    if draw is not None and (isinstance(draw, nn.Module) or not callable(draw)):
        raise ValueError(f"draw is {draw!r}; expected a function key -> params, or None")
    model = copy.deepcopy(model)
    check_units(units, dict(model.named_parameters()), dict(model.named_buffers()))
    forward = forward_with_features(model, units)
    update, adjust = given_what_it_takes(method.update), given_what_it_takes(method.adjust)
    initial_buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def init(key: Int64[Tensor, ""]) -> LearnerState:
        draw_key, method_key = random.split(key).unbind()
        params = draw_params(model, draw_key) if draw is None else draw(draw_key)
        buffers = {name: buffer.clone() for name, buffer in initial_buffers.items()}
        return LearnerState(params, buffers, make_optimizer().init(params), method.init(units, params, method_key))

    def objective(
        params: Params, buffers: Params, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, tuple[dict[str, Tensor], Params, dict[str, Any]]]:
        output, features, buffers = forward(params, buffers, inputs)
        value, told = _value(loss_function(output, targets))
        return value, (features, buffers, {"output": output, **told} if with_output else told)

    def step(
        state: LearnerState, batch: tuple[Tensor, ...], hyper: LearnerHyperparams
    ) -> tuple[LearnerState, dict[str, Any]]:
        inputs, targets, *signal = batch
        grads, (value, (features, buffers, told)) = _gradient(objective, state.params, state.buffers, inputs, targets)
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
        return LearnerState(params, buffers, opt_state, method_state), {"loss": value, **told, **info}

    return Learner(init, step)


def _value(given: Any) -> tuple[Tensor, dict[str, Any]]:
    """A loss's value, and what it gives beside it, as the entry ``"aux"``."""
    value, *aux = given if isinstance(given, tuple) and len(given) == 2 else (given,)
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        words = f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(given)
        raise ValueError(f"loss gives {words}; expected a 0-d floating-point tensor, or (value, aux)")
    leaves: list[Any] = optree.tree_leaves(aux, none_is_leaf=True)  # type: ignore[arg-type]
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise ValueError(f"loss gives {leaf!r} in its aux; expected a pytree of tensors")
    return value, {"aux": aux[0]} if aux else {}


def _gradient(objective: Callable[..., Any], params: Params, *rest: Any) -> tuple[Params, tuple[Tensor, Any]]:
    """``torch.func.grad_and_value`` of an objective that returns pytrees of tensors beside its value.

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
    features, buffers, told = others
    detached = (*({name: x.detach() for name, x in other.items()} for other in (features, buffers)), _detached(told))
    return dict(zip(own, grads, strict=True)), (value.detach(), detached)


def _detached(tree: Any) -> Any:
    return optree.tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree) if tree else tree


def _is_on_tape(tree: Any) -> bool:
    """Whether someone differentiates a step by its weights or its examples, on the tape that must not end there."""
    leaves: list[Any] = optree.tree_leaves(tree)
    return any(isinstance(x, Tensor) and x.requires_grad for x in leaves)


def _optimizer(given: str | Optimizer | Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """A function that makes the optimiser; one that is made already has its numbers."""
    if isinstance(given, Optimizer):
        return lambda: given
    if isinstance(given, str):
        return lookup("optimizer", given, OPTIMIZERS)
    expected = (
        f"expected one of {', '.join(sorted(OPTIMIZERS))}, an optimiser such as fcbp.optim.adam(), or a function that "
        "makes one"
    )
    if isinstance(given, (nn.Module, type, torch.optim.Optimizer)) or not callable(given):
        raise ValueError(f"optimizer is {_named(given)}; {expected}")
    try:
        made = given()
    except TypeError as error:
        raise ValueError(f"optimizer is {_named(given)}, which cannot be called without numbers; {expected}") from error
    if not isinstance(made, Optimizer):
        raise ValueError(f"optimizer is {_named(given)}, which makes {_named(made)}; {expected}")
    return given


def _method(given: str | Kind | Method) -> Method:
    if isinstance(given, str):
        given = lookup("method", given, METHODS)
    method = given.build() if isinstance(given, Kind) else given
    if not isinstance(method, Method):
        hint = "; call it first" if callable(given) and not isinstance(given, nn.Module) else ""
        raise ValueError(
            f"method is {_named(given)}; expected one of {', '.join(sorted(METHODS))}, or a method such as "
            f"fcbp.methods.cbp(){hint}"
        )
    return method


def _named(value: Any) -> str:
    """A wrong argument in a message."""
    if isinstance(value, nn.Module):
        return f"a model, {type(value).__name__}"
    return f"the class {value.__name__}" if isinstance(value, type) else repr(value)


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
