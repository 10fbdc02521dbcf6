"""The jobs that the cases time: a learner's pure step, its carry and its examples at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, nn

import fcbp
from fcbp import loop, methods, nets, optim, random, streams
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.units import UnitGroup, find_units

MAIN = (20, 5, 1)
"""The network of the slowly-changing regression problem."""
SMALL = (784, 100, 100, 100, 10)
LARGE = (784, 2000, 2000, 2000, 10)
"""The network of the online permuted-MNIST problem."""


class Job(NamedTuple):
    """What :func:`fcbp.loop.scan` is given."""

    step: Callable[[Any, Any], tuple[Any, Any]]
    carry: Any
    xs: Any
    length: int

    def run(self, *, compile: bool = True, backend: str | None = None) -> tuple[Any, Any]:
        return loop.scan(self.step, self.carry, self.xs, compile=compile, backend=backend)


def mlp(sizes: Sequence[int]) -> tuple[nn.Module, tuple[UnitGroup, ...]]:
    """A ReLU network and its hidden groups."""
    model = nets.mlp(sizes[0], sizes[1:-1], sizes[-1])
    return model, find_units(model, torch.zeros(1, sizes[0]))


def convnet() -> tuple[nn.Module, tuple[UnitGroup, ...]]:
    """The network of the continual ImageNet problem and its hidden groups."""
    model = nets.ConvNet(classes=2)
    return model, find_units(model, torch.zeros(1, 3, 32, 32))


def hyperparams(members: int | None) -> LearnerHyperparams:
    """Numbers a member, as a sweep has them: tensors in the carry; rates from 1e-5 to 1e-2 where there are many."""
    rates = torch.logspace(-5, -2, members or 1, dtype=torch.float64)
    columns = (
        torch.full_like(rates, 0.01, dtype=torch.float32),
        fcbp.Hyperparams(rates, torch.full_like(rates, 100), torch.full_like(rates, 0.99)),
    )
    numbers = LearnerHyperparams(*columns)
    return numbers if members else optree.tree_map(lambda column: column[0], numbers)


def cbp() -> methods.Method:
    """The published settings; at these rates at most one unit of a group falls due at a step."""
    return methods.cbp("adaptable_contribution", capacity=1)


def job(
    model: nn.Module,
    units: tuple[UnitGroup, ...],
    xs: tuple[Tensor, Tensor],
    *,
    members: int | None = None,
    method: methods.Method | None = None,
    loss: str = "mse",
    momentum: float = 0.0,
) -> Job:
    """Train ``members`` learners side by side, or one that knows of no others.

    Args:
        xs: inputs and targets, ``(length, [members,] batch, ...)``.
    """
    learner = make_learner(model, units, loss=loss, optimizer=optim.sgd(momentum), method=method or cbp())

    def step(carry: Any, batch: Any) -> Any:
        state, hyper = carry
        state, info = learner.step(state, batch, hyper)
        replaced = [mask.sum(dtype=torch.int32) for mask in info["replaced"].values()]
        return (state, hyper), (info["loss"], *replaced)

    if members is None:
        carry = (learner.init(random.key(0)), hyperparams(None))
        return Job(step, carry, xs, len(xs[0]))
    states = torch.vmap(learner.init)(random.split(random.key(0), members))
    return Job(torch.vmap(step), (states, hyperparams(members)), xs, len(xs[0]))


def bit_flipping(length: int, members: int) -> tuple[Tensor, Tensor]:
    """Examples of the main job, a stream of its own for every member: ``(length, members, 1, 20 or 1)``."""
    stream = streams.bit_flipping()
    states = torch.vmap(stream.init)(random.split(random.key(1), members))
    return torch.vmap(lambda state: stream.sample(state, length)[1], out_dims=1)(states)


def main_job(members: int | None, length: int, method: methods.Method | None = None) -> Job:
    """The slowly-changing regression problem, 20-5-1, batch 1."""
    inputs, targets = bit_flipping(length, members or 1)
    xs = (inputs, targets) if members else (inputs[:, 0], targets[:, 0])
    return job(*mlp(MAIN), xs, members=members, method=method)


def digits(sizes: Sequence[int], length: int, members: int | None = None) -> tuple[Tensor, Tensor]:
    """Examples for a classifier of pictures, batch 1: ``(length, [members,] 1, inputs)`` and labels."""
    shape = (length, members, 1) if members else (length, 1)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(*shape, sizes[0], generator=generator)
    return inputs, torch.randint(sizes[-1], shape, generator=generator)
