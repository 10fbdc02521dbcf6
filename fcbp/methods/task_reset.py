"""Resets on a task signal: of the head, or of the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fcbp import random, show, tree
from fcbp.cbp import reset_buffers
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import need_signal
from fcbp.units import UnitGroup
from fcbp.weights import reset_moments
from fcbp.weights.draws import draw, quantile_table

__all__ = ["TaskResetState", "full_reset", "head_reset"]


@show.by_fields
class TaskResetState(NamedTuple):
    """The memory of the resets."""

    initial: dict[str, Float[Tensor, "quantiles"]]
    """By the name of the tensors that are reset, their initial values in order, or evenly spaced quantiles of many."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


def full_reset() -> Method:
    """Begin anew with every task: after its first step, draw every parameter from its tensor's initial distribution.

    The "net reset" that learning without loss of plasticity is measured against (Dohare et al., Nature 2024); their
    code makes a new network and optimiser. Here a tensor's values are drawn from its initial ones (interpolated
    between them, or 1025 quantiles of them), so that what was constant, a bias of 0 or a norm's scale of 1, is again.
    The optimiser's moments and per-element step counts become 0, running means of the units' norms 0, variances 1.

    Raises:
        ValueError: batches do not say when a new task begins.

    Example:
        >>> import torch, fcbp
        >>> w = {"w": torch.tensor([5.0, 5.0])}
        >>> state = full_reset().init((), w, fcbp.random.key(0))
        >>> moved, signal = {"w": torch.tensor([7.0, 1.0])}, torch.tensor(True)
        >>> full_reset().update(state, moved, (), {}, units=(), new_task=signal)[0]["w"]
        tensor([5., 5.])
    """

    def all_of_them(units: tuple[UnitGroup, ...], params: Any) -> list[tree.Path]:
        return [tuple(path) for path in optree.tree_paths(params)]

    return _task_reset(all_of_them, "full-reset", whole=True)


@arguments
def head_reset(head: Sequence[str | tree.Path] | None = None) -> Method:
    """Return a new head with every task: after its first step, draw the last layer from its initial distribution.

    The "head reset" of Dohare et al. (Nature 2024), for streams whose tasks share what the hidden layers have learned.
    Moments and per-element step counts of what is reset become 0.

    Args:
        head: names or paths of the head's tensors, such as ``("4.weight", "4.bias")``. By default the weights that
            read units and make none, and their biases.

    Raises:
        ValueError: ``head`` names no tensor, or no units say which tensors it is; batches do not say when a new task
            begins.

    Example:
        >>> import torch, fcbp
        >>> w = {"0.weight": torch.ones(2, 2), "2.weight": torch.ones(1, 2)}
        >>> method, moved = head_reset(["2.weight"]), {name: p + 1 for name, p in w.items()}
        >>> state = method.init((), w, fcbp.random.key(0))
        >>> method.update(state, moved, (), {}, units=(), new_task=torch.tensor(True))[0]["2.weight"]
        tensor([[1., 1.]])
    """

    def of_the_head(units: tuple[UnitGroup, ...], params: Any) -> list[tree.Path]:
        if head is not None:
            return [(path,) if isinstance(path, str) else tuple(path) for path in head]
        made = {s.path for group in units for s in group.making_slices()}
        reading = [
            path
            for group in units
            for s, bias in zip(group.outgoing, group.outgoing_bias, strict=True)
            if s.path not in made
            for path in (s.path, bias)
            if path is not None
        ]
        if not reading:
            raise ValueError(
                f"units has {len(units)} groups, of which none says where the head is; head-reset needs one that is "
                'read by the last layer, or head=("4.weight", "4.bias")'
            )
        return list(dict.fromkeys(reading))

    return _task_reset(of_the_head, "head-reset", whole=False)


def _task_reset(chosen: Any, method: str, whole: bool) -> Method:
    """Reset the tensors at the paths ``chosen(units, params)``; the ``whole`` network's buffers and units too."""

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> TaskResetState:
        random.check_key(key)
        initial = {}
        for path in chosen(tuple(units), params):
            try:
                leaf = tree.get(params, path)
            except KeyError:
                names = ", ".join(tree.show(tuple(p)) for p in optree.tree_paths(params))
                raise ValueError(f"head names {tree.show(path)!r}; expected some of {names}") from None
            initial[tree.show(path)] = quantile_table(leaf.detach().flatten())
        return TaskResetState(initial, key.clone())

    @torch.no_grad()
    def update(
        state: TaskResetState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        units: Iterable[UnitGroup],
        new_task: Bool[Tensor, ""] | None = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, TaskResetState, dict[str, Any]]:
        new_task = need_signal(new_task, method)
        units = tuple(units)
        key, draws = random.split(state.key).unbind()
        paths = [tuple(path) for path in optree.tree_paths(params)]
        leaves = dict(zip(paths, optree.tree_leaves(params), strict=True))
        masks, new = {}, {}
        for i, (path, leaf) in enumerate(leaves.items()):
            initial = state.initial.get(tree.show(path))
            masks[path] = torch.zeros_like(leaf, dtype=torch.bool) if initial is None else new_task.expand(leaf.shape)
            if initial is not None:
                fresh = draw("initial", random.fold_in(draws, i), initial, leaf.numel(), leaf.shape, leaf)
                new[path] = torch.where(new_task, fresh.reshape(leaf.shape), leaf)
        reset = tree.replace(params, masks)
        replaced = {group.name: new_task.expand(group.size) for group in units} if whole else {}
        if whole:
            buffers = reset_buffers(buffers, replaced, units=units)
        opt_state = reset_moments(opt_state, reset)
        state = state._replace(key=key)
        return tree.replace(params, new), opt_state, buffers, state, {"replaced": replaced, "reset_weights": reset}

    return Method(init, update, reads_new_task=True)
