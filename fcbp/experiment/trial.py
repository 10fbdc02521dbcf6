"""Parts of a user's own, each tried alone, so that an error names the part and the place where it is found."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import optree
import torch
from torch import Tensor, nn

from fcbp import random, streams
from fcbp.kinds import PyTree
from fcbp.methods import Method
from fcbp.optim import Optimizer
from fcbp.rehearsal import call, call_pure

T = TypeVar("T")

__all__ = ["build", "check_forward", "check_vmap", "tried_method", "tried_optimizer", "try_stream"]


def build(role: str, name: str, function: Callable[..., T], *arguments: object, **options: object) -> T:
    """Call a part's function.

    Raises:
        ValueError: it fails; the message names the part and the options.
    """
    with_options = f" with {options}" if options else ""
    return call(f"{role} is {name!r}, which{with_options}", function, *arguments, **options)


def try_stream(name: str, stream: streams.Stream) -> PyTree:
    """Draw two batches of a stream whose functions must be pure and can be vmapped.

    Raises:
        ValueError: they are not, or a state changes its structure, its shapes or its dtypes.
    """
    about = f"stream is {name!r}, whose"
    state = call_pure(f"{about} init", stream.init, random.key(0))
    for leaf in optree.tree_leaves(state):
        if not isinstance(leaf, Tensor):
            raise ValueError(
                f"{about} init gives {leaf!r}; expected a state of tensors, such as torch.tensor({leaf!r})"
            )
    given = call_pure(f"{about} sample", stream.sample, state, 2)
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(f"{about} sample gives {type(given).__name__}; expected (state, (inputs, targets))")
    if _described(given[0]) != _described(state):
        raise ValueError(
            f"{about} sample gives a state of {_told(given[0])} for one of {_told(state)}; expected the same "
            "structure, shapes and dtypes"
        )
    if not isinstance(given[1], (tuple, list)) or not all(isinstance(part, Tensor) for part in given[1]):
        return given[1]
    keys = random.key(torch.tensor([0, 1]))
    states: PyTree = call(f"{about} init, vmapped,", torch.vmap(stream.init), keys)

    def sample(state: Any) -> Any:
        return stream.sample(state, 2)

    call(f"{about} sample, vmapped,", torch.vmap(sample), states)
    if stream.held_out is not None:
        call_pure(f"{about} held_out", stream.held_out, state)
        call(f"{about} held_out, vmapped,", torch.vmap(stream.held_out, out_dims=0), states)
    return given[1]


def check_forward(name: str, model: nn.Module, inputs: Tensor) -> None:
    """Check that a network in training is a pure function of its parameters, its buffers and its inputs.

    Raises:
        ValueError: it is not.
    """
    held = {n: t.detach() for n, t in (*model.named_parameters(), *model.named_buffers())}

    def forward(inputs: Tensor) -> Any:
        # A layer's running averages may move: they are buffers, of which a step takes new copies.
        with torch.no_grad():
            return torch.func.functional_call(model, {n: t.clone() for n, t in held.items()}, (inputs,))

    call_pure(f"network is {name!r}, whose forward pass", forward, inputs)


def check_vmap(about: str, function: Callable[..., Any], *arguments: Tensor) -> None:
    """Check that a function can be vmapped.

    Raises:
        ValueError: it cannot.
    """
    call(f"{about}, which, vmapped,", torch.vmap(function), *(torch.stack([part, part]) for part in arguments))


def tried_optimizer(name: str, optimizer: Optimizer) -> Optimizer:
    """Return the optimiser, whose functions are checked when they are called outside of transformations."""
    about = f"optimizer is {name!r}, whose"

    @functools.wraps(optimizer.update)
    def update(*arguments: Any, **keywords: Any) -> Any:
        given = call_pure(f"{about} update", optimizer.update, *arguments, **keywords)
        if not isinstance(given, tuple) or len(given) != 2:
            raise ValueError(f"{about} update gives {type(given).__name__}; expected (params, opt_state)")
        for what, old, new in zip(("params", "opt_state"), (arguments[2], arguments[1]), given, strict=True):
            if _described(old) != _described(new):
                raise ValueError(f"{about} update gives {what} of {_told(new)} for {_told(old)}; expected the same")
        return given

    return Optimizer(functools.partial(call_pure, f"{about} init", optimizer.init), update)


def tried_method(name: str, method: Method) -> Method:
    """Return the method, whose functions are checked when they are called outside of transformations."""

    def tried(what: str, length: int | None = None) -> Callable[..., Any]:
        about, function = f"method is {name!r}, whose {what}", getattr(method, what)

        @functools.wraps(function)
        def checked(*arguments: Any, **keywords: Any) -> Any:
            # Groups of units are static and no pytrees of tensors.
            given = call_pure(about, function, *arguments, **keywords)
            if length is not None and (not isinstance(given, tuple) or len(given) != length):
                raise ValueError(f"{about} gives {type(given).__name__}; expected a tuple of {length}")
            return given

        return checked

    return method._replace(init=tried("init"), update=tried("update", 5), adjust=tried("adjust", 2))


def _described(tree: Any) -> Any:
    leaves, spec = optree.tree_flatten(tree)
    return spec, [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves]


def _told(tree: Any) -> str:
    return str(optree.tree_map(lambda x: f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x), tree))
