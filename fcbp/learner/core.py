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
from typing import Any, NamedTuple, cast

import optree
import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from fcbp import losses, random, show
from fcbp.cbp import Hyperparams
from fcbp.checks import arguments
from fcbp.concrete import is_plain
from fcbp.learner import parts
from fcbp.learner.draws import Params, draw_params
from fcbp.losses import Loss
from fcbp.methods import Kind, Method
from fcbp.methods.base import given_what_it_takes
from fcbp.methods.checks import need_signal
from fcbp.optim import Optimizer
from fcbp.units import UnitGroup, check_units, forward_with_features

__all__ = ["Learner", "LearnerHyperparams", "LearnerState", "make_learner"]


RENEWAL = 2
"""Number of the draw of a member's later beginnings, after the two keys of the first."""


class LearnerHyperparams(NamedTuple):
    """The numbers of a learner; floats or 0-d tensors, which may be vmapped."""

    step_size: float | Tensor = 0.01
    """Step size of the optimiser."""
    method: Any = Hyperparams()
    """The method's numbers; :class:`fcbp.Hyperparams` for CBP."""
    optimizer: Any = ()
    """The optimiser's keywords in each step, by name, where the learner's optimiser is a name or a function that makes
    one."""
    schedule: Any = ()
    """The schedule's numbers by name, where the learner has one."""
    clip: float | Tensor | tuple[()] = ()
    """The bound on the gradients' global norm; ``()`` leaves it to the learner's ``clip``."""


@show.by_fields
class LearnerState(NamedTuple):
    """The state that a learner carries from step to step."""

    params: Params
    """Parameters by name."""
    buffers: Params
    """Buffers by name."""
    opt_state: Any
    """The optimiser's state."""
    method: Any
    """The method's state."""
    step: Any = ()
    """Steps so far, int32; ``()`` in a learner without a schedule."""
    renewal: Any = ()
    """The key and the number of new beginnings, in a learner that begins anew with every task; else ``()``."""


@show.by_fields
class Learner(NamedTuple):
    """Pure functions for one learner; ``vmap`` them for a population."""

    init: Callable[[Tensor], LearnerState]
    """``init(key) -> state``"""
    step: Callable[..., tuple[LearnerState, dict[str, Any]]]
    """``step(state, (inputs, targets), hyper) -> (state, info)``: ``info["loss"]`` is the loss before the step,
    ``info["replaced"]`` the mask ``(units,)`` of each group; on request ``info["output"]`` is the model's output before
    the step, and where the loss gives more than its value, ``info["aux"]`` is what it gives. A third entry of the
    batch, a 0-d bool tensor, says whether a new task begins with it."""
    renew: Callable[[LearnerState, Tensor], LearnerState]
    """``renew(state, new_task) -> state``: where the method begins anew with every task (:func:`fcbp.methods.fresh`)
    and ``new_task`` is true, a learner that has not learned yet; else the state. A step does it by itself; call it
    where a learner acts before its first step of a task, and tell that step of no new one."""


@arguments
def make_learner(
    model: nn.Module,
    units: Iterable[UnitGroup],
    *,
    loss: str | Loss = "mse",
    optimizer: str | Optimizer | Callable[..., Optimizer] | None = None,
    method: str | Kind | Method | None = None,
    draw: Callable[[Int64[Tensor, ""]], Params] | None = None,
    with_output: bool = False,
    schedule: str | Callable[..., Any] | None = None,
    clip: float | Tensor | None = None,
    redraw: Callable[[Int64[Tensor, ""]], Params] | None = None,
) -> Learner:
    """Make a learner from its parts.

    Args:
        model: any module; it is copied.
        units: the groups that the method manages.
        loss: a name of :data:`fcbp.losses.LOSSES`, or a function ``(output, targets) -> scalar``. It may give
            ``(scalar, aux)``, ``aux`` being a pytree of tensors, which is then ``info["aux"]``.
        optimizer: a name of :data:`fcbp.optim.OPTIMIZERS`, or an optimiser; by default plain :func:`fcbp.optim.sgd`. A
            function that makes one, such as :func:`fcbp.optim.adamw`, is called in every step with ``hyper.optimizer``,
            so that its numbers can be vmapped, and so is a name's; the state has the shape of the one that it makes of
            its defaults.
        method: a name of :data:`fcbp.methods.METHODS`, or a method; by default plain backpropagation.
        draw: ``key -> params``; by default :func:`draw_params`'s kaiming-uniform weights.
        with_output: give the model's output in the forward pass before the step as ``info["output"]``: the online
            prediction, without a second forward pass.
        schedule: a name of :data:`fcbp.optim.SCHEDULES`, which is made in every step of ``hyper.schedule``; or a
            function ``schedule(step, **hyper.schedule)``, such as ``fcbp.optim.cosine(decay_steps=1000)``. It gives the
            factor by which ``hyper.step_size`` is multiplied, for the optimiser and the method; ``step`` is 0 at first.
        clip: the bound on the global norm of the gradients that the optimiser is given
            (:func:`fcbp.optim.clip_by_global_norm`), the method's share included; ``hyper.clip`` takes its place.
            Utilities and other measures read the gradients as they were.
        redraw: ``key -> params`` for a method that begins anew with every task (:func:`fcbp.methods.fresh`); by default
            ``draw``. It is called in every step, so that it must be pure, and should be cheap.

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
    make_optimizer = parts.optimizer_of("sgd" if optimizer is None else optimizer)
    method = parts.method_of("bp" if method is None else method)
    scheduled, clipped = parts.schedule_of(schedule), parts.clip_of(clip)
    _check_draws(draw=draw, redraw=redraw)
    model = copy.deepcopy(model)
    _check_fit(model, units)
    objective = _objective(forward_with_features(model, units), loss_function, with_output)
    update, adjust = given_what_it_takes(method.update), given_what_it_takes(method.adjust)
    begin = _beginning(model, units, make_optimizer({}), method, counts=schedule is not None)

    def init(key: Int64[Tensor, ""]) -> LearnerState:
        renewal = (random.fold_in(key, RENEWAL), torch.zeros_like(key))
        return begin(key, draw)._replace(renewal=renewal) if method.renews else begin(key, draw)

    def renew(state: LearnerState, new_task: Bool[Tensor, ""]) -> LearnerState:
        return _renewed(state, new_task, begin, draw if redraw is None else redraw) if method.renews else state

    def step(
        state: LearnerState, batch: tuple[Tensor, ...], hyper: LearnerHyperparams
    ) -> tuple[LearnerState, dict[str, Any]]:
        inputs, targets, *signal = batch
        if method.renews:
            state = renew(state, need_signal(signal[0] if signal else None, "a method that begins anew (fresh)"))
        grads, (value, (features, buffers, told)) = _gradient(objective, state.params, state.buffers, inputs, targets)
        step_size, count = scheduled(hyper.step_size, state.step, hyper.schedule)
        given = {
            "units": units,
            "features": features,
            "hyper": hyper.method,
            "step_size": step_size,
            "new_task": signal[0] if signal else None,
        }
        adjusted, method_state = adjust(state.method, grads, state.params, **given)
        params, opt_state = make_optimizer(hyper.optimizer).update(
            clipped(adjusted, hyper.clip), state.opt_state, state.params, step_size=step_size
        )
        params, opt_state, buffers, method_state, info = update(
            method_state, params, opt_state, buffers, grads=grads, previous=state.params, **given
        )
        new = LearnerState(params, buffers, opt_state, method_state, count, state.renewal)
        return new, {"loss": value, **told, **info}

    described = {"model": model, "units": _named(units), "loss": loss_function, "optimizer": make_optimizer({})}
    described |= {"method": method, "schedule": schedule, "clip": clip}
    step.parts = {k: v for k, v in described.items() if v is not None}  # type: ignore[attr-defined]
    return Learner(init, step, renew)


Draw = Callable[[Int64[Tensor, ""]], Params]


def _check_draws(**draws: Any) -> None:
    for name, function in draws.items():
        if function is not None and (isinstance(function, nn.Module) or not callable(function)):
            raise ValueError(f"{name} is {function!r}; expected a function key -> params, or None")


def _check_fit(model: nn.Module, units: tuple[UnitGroup, ...]) -> None:
    try:
        check_units(units, dict(model.named_parameters()), dict(model.named_buffers()))
    except ValueError as error:
        raise ValueError(f"model is a {type(model).__name__}, which units do not fit: {error}") from None


def _named(units: tuple[UnitGroup, ...]) -> str:
    return ", ".join(f"{group.name} ({group.size})" for group in units) or "none"


def _beginning(
    model: nn.Module, units: tuple[UnitGroup, ...], optimizer: Optimizer, method: Method, *, counts: bool
) -> Callable[[Int64[Tensor, ""], Draw | None], LearnerState]:
    """``(key, draw) -> state``: a learner that has not learned yet; ``counts`` says whether it counts its steps."""
    initial_buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}

    def begin(key: Int64[Tensor, ""], draw: Draw | None) -> LearnerState:
        draw_key, method_key = random.split(key).unbind()
        params = draw_params(model, draw_key) if draw is None else draw(draw_key)
        buffers = {name: buffer.clone() for name, buffer in initial_buffers.items()}
        count = torch.zeros((), dtype=torch.int32, device=key.device) if counts else ()
        return LearnerState(params, buffers, optimizer.init(params), method.init(units, params, method_key), count)

    return begin


def _renewed(
    state: LearnerState, new_task: Bool[Tensor, ""], begin: Callable[..., LearnerState], draw: Draw | None
) -> LearnerState:
    """Return a learner that has not learned yet where a new task begins; elsewhere the state."""
    key, tasks = state.renewal
    tasks = tasks + new_task.to(tasks.dtype)
    new: Any = begin(random.fold_in(key, tasks), draw)._replace(renewal=())
    old: Any = state._replace(renewal=())
    chosen: Any = optree.tree_map(lambda a, b: torch.where(new_task, a, b), new, old, none_is_leaf=True)
    return cast(LearnerState, chosen._replace(renewal=(key, tasks)))


def _objective(forward: Callable[..., Any], loss: Loss, with_output: bool) -> Callable[..., Any]:
    """``(params, buffers, inputs, targets) -> (loss, (features, buffers, entries of info))``."""

    def objective(
        params: Params, buffers: Params, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, tuple[dict[str, Tensor], Params, dict[str, Any]]]:
        output, features, buffers = forward(params, buffers, inputs)
        value, told = _value(loss(output, targets))
        return value, (features, buffers, {"output": output, **told} if with_output else told)

    return objective


def _value(given: Any) -> tuple[Tensor, dict[str, Any]]:
    """Return a loss's value, and what it gives beside it, as the entry ``"aux"``."""
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
    """Tell whether someone differentiates a step by its weights or its examples, on the tape that must not end
    there."""
    leaves: list[Any] = optree.tree_leaves(tree)
    return any(isinstance(x, Tensor) and x.requires_grad for x in leaves)
