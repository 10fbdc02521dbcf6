"""From experiments to what runs them: pure functions for one member."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fcbp import initializers, learner, metrics, optim, random, streams
from fcbp.experiment import parts
from fcbp.experiment.measurements import OF_GRADIENTS, VARIABLES, Seen, measure, per_step, variables_of
from fcbp.experiment.settings import Experiment, set_names, unread
from fcbp.methods import Method
from fcbp.units import find_units, forward_with_features

__all__ = ["Program", "build_program", "check"]

REHEARSED = 32
"""Of so many values of a number each is tried before a sweep starts."""


class Program(NamedTuple):
    """What experiments of one :meth:`Experiment.program_key` run, as pure functions for one member."""

    stream: streams.Stream
    learner: learner.Learner
    hyper: Callable[[Mapping[str, Any]], learner.LearnerHyperparams]
    """``hyper(numbers)``: the learner's hyperparameters from one tensor, or one float, for each of ``numbers``."""
    numbers: tuple[str, ...]
    """What members may have different, vmapped: the step size and the numbers of the optimiser and the method."""
    number_of: Callable[[Experiment, str], float]
    """``number_of(run, name)``: a member's value of one of ``numbers``."""
    per_step: Callable[[dict[str, Any]], dict[str, Tensor]]
    """``per_step(info)``: what a step's ``info`` says was reset and changed, scalars by variable; counts are int32."""
    probe: Callable[[learner.LearnerState, learner.LearnerHyperparams, tuple[Tensor, ...]], dict[str, Tensor]]
    """``probe(learner_state, hyper, (inputs, targets))``: scalars by variable, from the batches of several steps."""
    measurements: Mapping[str, tuple[str, str]]
    """Long name and unit of every variable: ``loss``, those of ``per_step`` and those of ``probe``."""
    group_sizes: tuple[int, ...]
    """Units of each group."""


def build_program(runs: Sequence[Experiment], device: torch.device | str | None = None) -> Program:
    """The program that all of ``runs`` share.

    Args:
        runs: experiments of one :meth:`Experiment.program_key`; their largest replacement rate says how many units
            a step can replace.
        device: where the parameters are drawn; by default the CPU.

    Raises:
        ValueError: there are no runs, they are of different programs, or a setting is wrong.
    """
    if not runs:
        raise ValueError("runs is empty; expected at least one experiment")
    first = runs[0]
    if len({run.program_key() for run in runs}) > 1:
        raise ValueError("runs have different program keys; expected experiments that share one program")
    stream_part, network_part, optimizer_part, method_part = first.parts()
    stream = stream_part.build(**first.options(stream_part))
    _, (inputs, targets, *_) = stream.sample(stream.init(torch.tensor(0)), 1)
    model = network_part.build(
        inputs.shape[-1], first.hidden, targets.shape[-1], activation=first.activation, **first.options(network_part)
    )
    units = find_units(model, inputs[0])
    model = model.to(device)
    method = _method(runs, max(group.size for group in units))
    if parts.takes(stream_part.build, "task_signal") and _reads_new_task(method):
        stream = stream_part.build(**{**first.options(stream_part), "task_signal": True})

    own = {name: value for name, value in first.numbers().items() if name in optimizer_part.numbers}
    options = first.options(optimizer_part)

    def optimizer(**numbers: Any) -> optim.Optimizer:
        return optimizer_part.build(**options, **{**own, **numbers})

    def draw_params(key: Tensor) -> dict[str, Tensor]:
        params = learner.draw_params(model, key, initializer=first.initializer, nonlinearity=first.activation)
        weights = (name for name, p in params.items() if p.ndim > 1 and first.init_scale != 1)
        return params | {name: first.init_scale * params[name] for name in weights}

    built = learner.make_learner(
        model,
        units,
        loss=first.loss_function,
        optimizer=optimizer,
        method=method,
        draw=draw_params,
    )
    if "update_magnitude" in first.metrics:
        built = built._replace(step=_telling_change(built.step))
    moving = tuple(name for name, value in own.items() if value != 0)
    of_method = tuple(name for name in method_part.numbers if name in first.numbers())
    make = parts.kind(first.method).hyperparams

    def hyper(numbers: Mapping[str, Any]) -> learner.LearnerHyperparams:
        return learner.LearnerHyperparams(
            numbers["step_size"],
            make(**{name: numbers[name] for name in of_method}),
            {name: numbers[name] for name in moving},
        )

    forward = forward_with_features(model, units)

    def probe(
        state: learner.LearnerState, hyper: learner.LearnerHyperparams, batch: tuple[Tensor, ...]
    ) -> dict[str, Tensor]:
        inputs, targets = (part.flatten(0, 1) for part in batch[:2])

        def loss(params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            output, features, _ = forward(params, state.buffers, inputs)
            return learner.LOSSES[first.loss_function](output, targets), features

        if set(OF_GRADIENTS).intersection(first.metrics):
            gradient, features = torch.func.grad(loss, has_aux=True)(state.params)
        else:
            gradient, (_, features) = None, loss(state.params)
        return measure(first.metrics, Seen(state, hyper, list(features.values()), gradient, first.activation))

    program = Program(
        stream,
        built,
        hyper,
        ("step_size", *moving, *of_method),
        lambda run, name: float(getattr(run, name)),
        per_step,
        probe,
        {},
        tuple(group.size for group in units),
    )
    # Which measurements a method has is seen in a step of it.
    state, info = _rehearse(program, first, device)
    _, batches = stream.sample(stream.init(random.key(0, device=device)), 2)
    rehearsed = hyper({name: program.number_of(first, name) for name in program.numbers})
    names = ("loss", *per_step(info), *probe(state, rehearsed, batches))
    return program._replace(measurements={name: VARIABLES[name] for name in names})


def _telling_change(step: Callable[..., Any]) -> Callable[..., Any]:
    """A learner's step whose ``info`` has the mean absolute change of its parameters."""

    def telling(
        state: learner.LearnerState, batch: tuple[Tensor, ...], hyper: learner.LearnerHyperparams
    ) -> tuple[learner.LearnerState, dict[str, Any]]:
        new, info = step(state, batch, hyper)
        return new, {**info, "update_magnitude": metrics.update_magnitude(state.params, new.params)}

    return telling


def check(runs: Sequence[Experiment], swept: Sequence[str] = ()) -> None:
    """Check experiments before any work: each setting, that each is read, and the numbers by a step of each program.

    Args:
        runs: the members of a sweep.
        swept: what sets the members apart.

    Raises:
        ValueError: a setting is unknown, out of range, or read by none of the members; lengths of run are swept; what
            ``metrics`` names none of the members has.
    """
    for run in runs:
        run.check()
    for name in ("steps", "bin", "metrics"):
        if len({getattr(run, name) for run in runs}) > 1:
            raise ValueError(f"{name} is swept; expected one value for all members")
    for name in unread(runs, sorted({*swept, *set_names(runs)})):
        methods = ", ".join(sorted({parts.method_name(run.method) for run in runs}))
        readers = ", ".join(sorted(part.name for part in parts.every() if name in part.defaults))
        raise ValueError(f"{name} is set, which nothing reads with method {methods}; expected one of {readers}")
    groups: dict[Any, list[Experiment]] = {}
    for run in runs:
        groups.setdefault(run.program_key(), []).append(run)
    measured: set[str] = set()
    for group in groups.values():
        program = build_program(group)
        measured |= set(program.measurements)
        for run in _telling(group, program.numbers):
            _rehearse(program, run)
    for name in runs[0].metrics if runs[0].metrics != Experiment().metrics else ():
        if not measured & variables_of(name):
            methods = ", ".join(sorted({parts.method_name(run.method) for run in runs}))
            kinds = ", ".join(sorted({run.activation for run in runs}))
            raise ValueError(f"metrics has {name!r}, which there is none of with method {methods} and {kinds} units")


def _telling(runs: Sequence[Experiment], names: Sequence[str]) -> list[Experiment]:
    """Experiments that hold between them the values of each number, of very many some and the extremes."""
    chosen: dict[tuple[float, ...], Experiment] = {}
    for name in names:
        holder = {float(getattr(run, name)): run for run in runs}
        values = sorted(holder)
        for i in np.unique(np.linspace(0, len(values) - 1, min(len(values), REHEARSED)).astype(int)):
            run = holder[values[i]]
            chosen[tuple(float(getattr(run, n)) for n in names)] = run
    return list(chosen.values())


def _rehearse(
    program: Program, run: Experiment, device: torch.device | str | None = None
) -> tuple[learner.LearnerState, dict[str, Any]]:
    """One step of one learner, its numbers plain floats: whatever is wrong with a setting is said here."""
    problem = program.stream.init(random.key(0, device=device))
    _, batches = program.stream.sample(problem, 1)
    state = program.learner.init(random.key(1, device=device))
    numbers = {name: program.number_of(run, name) for name in program.numbers}
    return program.learner.step(state, tuple(piece[0] for piece in batches), program.hyper(numbers))


def _method(runs: Sequence[Experiment], units: int) -> Method:
    """The method, built for the most units that any of the experiments replaces in a group of ``units``."""
    first, part = runs[0], parts.method(runs[0].method)
    options = first.options(part)
    if parts.shares_initializer(part.build):
        options["initializer"] = _scaled(initializers.get(first.initializer, first.activation), first.init_scale)
    if parts.takes(part.build, "capacity") and "replacement_rate" in part.numbers:
        options["capacity"] = math.floor(max(run.replacement_rate for run in runs) * units) + 1
    return part.build(**options)


def _scaled(draw: initializers.Initializer, scale: float) -> initializers.Initializer:
    return draw if scale == 1 else lambda *args: scale * draw(*args)


def _reads_new_task(method: Method) -> bool:
    return any(parts.takes(function, "new_task") for function in (method.update, method.adjust))
