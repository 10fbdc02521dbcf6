"""From experiments to programs: a learner on a stream as pure functions of one member."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, nn

from fcbp import initializers, learner, metrics, optim, random, streams
from fcbp.addresses import is_address, load, name_of
from fcbp.cbp import unit_activations
from fcbp.checks import arguments
from fcbp.experiment import parts, trial
from fcbp.experiment.border import Borders, bordered, cutting, head_of, in_parts
from fcbp.experiment.checks import check_examples, check_fit, check_network
from fcbp.experiment.initial import module_params, stock_params
from fcbp.experiment.measurements import ASKED, OF_GRADIENTS, VARIABLES, Metric, Seen, measure, metrics_of, per_step
from fcbp.experiment.parts import Part
from fcbp.experiment.settings import Experiment, loss_of
from fcbp.kinds import Device
from fcbp.methods import Method
from fcbp.program import Program
from fcbp.streams import Spec
from fcbp.units import UnitGroup, find_units, forward_with_features

__all__ = ["Assembled", "assemble", "build_program"]


class Assembled(NamedTuple):
    """The pieces of a learner on a stream, for experiments of one :meth:`Experiment.program_key`."""

    stream: streams.Stream
    learner: learner.Learner
    hyper: Callable[[Mapping[str, Any]], learner.LearnerHyperparams]
    """``hyper(numbers)``: the learner's hyperparameters from one tensor, or one float, for each of ``numbers``."""
    numbers: tuple[str, ...]
    """The numbers that members may have different, vmapped: step size, those of the optimiser and of the method."""
    number_of: Callable[[Experiment, str], float]
    """``number_of(run, name)``: a member's value of one of ``numbers``."""
    per_step: Callable[[dict[str, Any]], dict[str, Tensor]]
    """``per_step(info)``: the resets and changes in a step's ``info``, scalars by variable; counts are int32."""
    probe: Callable[..., dict[str, Tensor]]
    """``probe(learner_state, hyper, batches, held_out=())``: scalars by variable, from the batches of several steps."""
    measurements: Mapping[str, tuple[str, str]]
    """Long name and unit of every variable: ``loss``, those of ``per_step``, the online metrics, those of ``probe``."""
    group_sizes: tuple[int, ...]
    """Units of each group."""
    online: Mapping[str, Metric]
    """Functions of the online predictions by variable."""
    borders: Borders | None = None
    """The events between tasks."""


@arguments(at_once=True)
def build_program(runs: Sequence[Experiment], device: Device = None) -> Program:
    """Build the program that all of ``runs`` share.

    Args:
        runs: experiments of one :meth:`Experiment.program_key`; their largest replacement rate says how many units
            a step can replace.
        device: where the parameters are drawn; by default the CPU.

    Raises:
        ValueError: there are no runs, they are of different programs, or a setting is wrong.
    """
    built = assemble(runs, device)

    def init(key: Tensor, settings: Mapping[str, Tensor]) -> learner.LearnerState:
        return built.learner.init(random.split(key)[1])

    def step(
        state: learner.LearnerState, settings: Mapping[str, Tensor], batch: tuple[Tensor, ...]
    ) -> tuple[learner.LearnerState, dict[str, Tensor]]:
        state, info = built.learner.step(state, batch, built.hyper(settings))
        online = {name: metric(info["output"], batch[1]) for name, metric in built.online.items()}
        return state, {"loss": info["loss"], **built.per_step(info), **_as_means(online)}

    def probe(
        state: learner.LearnerState, settings: Mapping[str, Tensor], coming: tuple[Tensor, ...], held_out: Any
    ) -> dict[str, Tensor]:
        return built.probe(state, built.hyper(settings), coming, held_out)

    def failed(state: learner.LearnerState) -> Tensor:
        magnitudes = [leaf.abs().mean() for leaf in state.params.values()]
        return ~torch.stack(magnitudes).isfinite().all()

    first = runs[0]
    # The step size is the optimiser's, of the parameters' precision; rates are sums of many small ones.
    numbers = {
        name: torch.tensor(built.number_of(first, name), dtype=torch.float32 if name == "step_size" else torch.float64)
        for name in built.numbers
    }
    program = Program(
        init,
        step,
        probe,
        numbers,
        built.stream._replace(init=lambda key: built.stream.init(random.split(key)[0])),
        failed,
        ("loss",),
        built.measurements,
    )
    return program if built.borders is None else bordered(program, built.borders)


@arguments(at_once=True)
def assemble(runs: Sequence[Experiment], device: Device = None) -> Assembled:
    """Assemble the learner, the stream and the measurements of experiments that share a program.

    See :func:`build_program`.

    Raises:
        ValueError: there is no experiment, they do not share a program, or a part does not suit the others.
    """
    first = _of_one_program(runs)
    stream_part, network_part, schedule_part, optimizer_part, method_part = first.parts()
    stream, example = _stream(first, stream_part)
    spec = stream.spec
    assert spec is not None
    loss = _loss(first, spec)
    model = _network(first, network_part, spec)
    output = check_network(first, model, example[0], spec)
    online, held_out = metrics_of(first.metrics)
    check_fit(first, spec, loss, {**online, **held_out}, output, example[1], stream)
    if stream.border.cut_unseen:
        loss, online = cutting(loss), {name: cutting(metric) for name, metric in online.items()}
        held_out = {name: metric and cutting(metric) for name, metric in held_out.items()}
    units, none_found = _units(first, model, example[0])
    if none_found is not None and parts.kind(first.method).capacity:
        raise none_found  # a method that replaces units would have nothing to do
    model = model.to(device)
    method = _method(runs, max((group.size for group in units), default=0))
    stream = _telling_tasks(first, stream_part) if method.reads_new_task else stream
    make = functools.partial(
        learner.make_learner,
        model,
        units,
        loss=loss,
        draw=_draw(first, network_part, spec, model),
        redraw=_redraw(first, network_part, spec, model) if method.renews else None,
        with_output=bool(online),
        schedule=_schedule(first, schedule_part),
    )
    optimizer = _optimizer(first, optimizer_part)
    built = make(optimizer=optimizer, method=method)
    tried = make(
        optimizer=optimizer if optimizer_part.is_named else _tried(optimizer, optimizer_part.name),
        method=method if method_part.is_named else trial.tried_method(method_part.name, method),
    )
    built, tried = (_telling(made, first.metrics, loss, model) for made in (built, tried))
    names, hyper = _hyper(first, schedule_part, optimizer_part, method_part)
    # What is measured is a network in use: batch norm goes by its running averages.
    evaluate = forward_with_features(copy.deepcopy(model).eval(), units)
    probe = _probe(first, evaluate, units, loss, held_out)
    head = head_of(model) if stream.border.zero_head else ()
    borders = Borders(stream, built, evaluate, head) if stream.border else None
    assembled = Assembled(
        stream,
        built,
        hyper,
        names,
        lambda run, name: float(run.numbers()[name]),
        per_step,
        probe,
        {},
        tuple(group.size for group in units),
        online,
        borders,
    )
    try:
        return assembled._replace(measurements=_measured(assembled, tried, first, device))
    except ValueError as error:
        # A method that needs no units runs without; of another the reasons why there are none help most.
        raise (error if none_found is None else none_found) from None


def _of_one_program(runs: Sequence[Experiment]) -> Experiment:
    if not runs:
        raise ValueError("runs is empty; expected at least one experiment")
    if len({run.program_key() for run in runs}) > 1:
        raise ValueError("runs have different program keys; expected experiments that share one program")
    return runs[0]


def _telling_tasks(run: Experiment, part: Part) -> streams.Stream:
    """Make the stream's batches say when a new task begins, where it has a setting for that."""
    signal = parts.stream_kind(run.stream).task_signal
    return _stream(run, part, **({} if signal is None else {signal: True}))[0]


def _stream(run: Experiment, part: Part, **more: Any) -> tuple[streams.Stream, tuple[Tensor, ...]]:
    """Return the stream, with its spec, and a first batch of it."""
    built = _built(part, {**run.options(part), **more})
    return check_examples(name_of(run.stream), built)


def _network(run: Experiment, part: Part, spec: Spec) -> nn.Module:
    # Made from the global generator, as torch's modules are, but not moving it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _built(part, run.options(part), spec)
    if not isinstance(model, nn.Module):
        raise ValueError(f"network is {part.name!r}, which gives {type(model).__name__}; expected an nn.Module")
    return model


def _built(part: Part, options: Mapping[str, Any], *arguments: Any) -> Any:
    """Build the object of a part. A part with a name reports by itself a setting that it refuses."""
    options = {name: load(value) if is_address(value) else value for name, value in options.items()}
    if part.is_named:
        return part.build(*arguments, **options)
    return trial.build(part.role, part.name, part.build, *arguments, **options)


def _loss(run: Experiment, spec: Spec) -> learner.Loss:
    default = "cross_entropy" if spec.kind == "classification" else "mse"
    return loss_of(default if run.loss_function is None else run.loss_function)


def _nonlinearity(run: Experiment) -> str:
    """Return the activation of the network's hidden units; ReLU where nothing tells."""
    declared = parts.network_kind(run.network).activation
    part = parts.network(run.network)
    name = run.setting(part, declared) if declared is not None and declared in part.options else declared
    return name if name in parts.ACTIVATIONS else "relu"


def _optimizer(run: Experiment, part: Part) -> Callable[..., optim.Optimizer]:
    own = {name: run.setting(part, name) for name in part.numbers if run.setting(part, name) is not None}
    options = run.options(part)

    def optimizer(**numbers: Any) -> optim.Optimizer:
        made: optim.Optimizer = part.build(**options, **{**own, **numbers})
        return made

    made = _built(part, {**options, **own})
    if not isinstance(made, optim.Optimizer):
        raise ValueError(
            f"optimizer is {part.name!r}, which makes {type(made).__name__}; expected an fcbp.optim.Optimizer"
        )
    return optimizer


def _tried(optimizer: Callable[..., optim.Optimizer], name: str) -> Callable[..., optim.Optimizer]:
    return lambda **numbers: trial.tried_optimizer(name, optimizer(**numbers))


def _units(run: Experiment, model: nn.Module, inputs: Tensor) -> tuple[tuple[UnitGroup, ...], ValueError | None]:
    """Return the groups of the network; or none, and the error that says why."""
    try:
        return find_units(model, inputs), None
    except ValueError as error:
        of = "" if parts.network(run.network).is_named else f"network is {name_of(run.network)!r}: "
        return (), ValueError(f"{of}{error}")


def _draw(run: Experiment, part: Part, spec: Spec, model: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
    if run.initial == "module":
        return module_params(lambda: _network_again(run, part, spec), model)
    nonlinearity = _nonlinearity(run)

    def draw_params(key: Tensor) -> dict[str, Tensor]:
        params = learner.draw_params(model, key, initializer=run.initializer, nonlinearity=nonlinearity)
        weights = (name for name, p in params.items() if p.ndim > 1 and run.init_scale != 1)
        return params | {name: run.init_scale * params[name] for name in weights}

    return draw_params


def _redraw(run: Experiment, part: Part, spec: Spec, model: nn.Module) -> Callable[[Tensor], dict[str, Tensor]] | None:
    """Return the rule of the initial parameters in operations that compile; ``None`` where it is so already, or cannot
    be."""
    return stock_params(lambda: _network_again(run, part, spec), model) if run.initial == "module" else None


def _network_again(run: Experiment, part: Part, spec: Spec) -> nn.Module:
    network: nn.Module = part.build(spec, **run.options(part))
    return network


def _schedule(run: Experiment, part: Part) -> Callable[..., Any] | None:
    if run.schedule is None:
        return None
    options = run.options(part)
    return lambda step, **numbers: part.build(**options, **numbers)(step)


def _hyper(
    run: Experiment, schedule: Part, optimizer: Part, method: Part
) -> tuple[tuple[str, ...], Callable[[Mapping[str, Any]], learner.LearnerHyperparams]]:
    """Return the names of the numbers that members may have different, and the learner's hyperparameters from them."""
    numbers = run.numbers()
    moving = {n: full for n, full in run.number_names(optimizer).items() if full in numbers and numbers[full] != 0}
    of_method = {name: full for name, full in run.number_names(method).items() if full in numbers}
    of_schedule = {name: full for name, full in run.number_names(schedule).items() if full in numbers}
    clip = ("clip",) if run.clip is not None else ()
    make = parts.kind(run.method).hyperparams

    def hyper(numbers: Mapping[str, Any]) -> learner.LearnerHyperparams:
        return learner.LearnerHyperparams(
            numbers["step_size"],
            make(**{name: numbers[full] for name, full in of_method.items()}),
            {name: numbers[full] for name, full in moving.items()},
            {name: numbers[full] for name, full in of_schedule.items()} or (),
            numbers["clip"] if clip else (),
        )

    return ("step_size", *clip, *of_schedule.values(), *moving.values(), *of_method.values()), hyper


def _probe(
    run: Experiment,
    forward: Callable[..., Any],
    units: Sequence[UnitGroup],
    loss_function: learner.Loss,
    on_held_out: Mapping[str, Metric | None],
) -> Callable[..., dict[str, Tensor]]:
    activation = _nonlinearity(run)

    def probe(
        state: learner.LearnerState,
        hyper: learner.LearnerHyperparams,
        batch: tuple[Tensor, ...],
        held_out: tuple[Tensor, ...] = (),
    ) -> dict[str, Tensor]:
        both: Any = tuple(batch[:2])
        inputs, targets = optree.tree_map(lambda part: part.flatten(0, 1), both)

        def loss(params: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            output, features, _ = forward(params, state.buffers, inputs)
            return _value(loss_function(output, targets)), features

        if set(OF_GRADIENTS).intersection(run.metrics):
            gradient, features = torch.func.grad(loss, has_aux=True)(state.params)
        else:
            gradient, (_, features) = None, loss(state.params)
        layers = [_by_unit(group, features[group.name]) for group in units]
        found = measure(run.metrics, Seen(state, hyper, layers, gradient, activation))
        if on_held_out:
            inputs, targets = held_out
            output = in_parts(forward, state, inputs)
            found |= _as_means(
                {
                    name: _value(loss_function(output, targets)) if metric is None else metric(output, targets)
                    for name, metric in on_held_out.items()
                }
            )
        return found

    return probe


def _by_unit(group: UnitGroup, h: Tensor) -> Tensor:
    """Return a group's activations ``(samples, units)``; of feature maps each position is a sample."""
    if h.ndim == 2 and h.shape[-1] == group.size:
        return h
    return unit_activations(group, h).movedim(-2, -1).flatten(0, -2)


def _value(given: Any) -> Tensor:
    value: Tensor = given[0] if isinstance(given, tuple) else given
    return value


def _as_means(measured: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return measurements in floating point, so that the results hold their means."""
    return {name: value if value.is_floating_point() else value.to(torch.float32) for name, value in measured.items()}


def _measured(
    built: Assembled, tried: learner.Learner, run: Experiment, device: torch.device | str | None
) -> dict[str, tuple[str, str]]:
    """Return the long name and the unit of each variable. A step of the method shows which ones it has."""
    problem = built.stream.init(random.key(0, device=device))
    problem, batches = built.stream.sample(problem, 2)
    hyper = built.hyper({name: built.number_of(run, name) for name in built.numbers})
    state, info = tried.step(tried.init(random.key(1, device=device)), tuple(part[0] for part in batches), hyper)
    held_out = () if built.stream.held_out is None else built.stream.held_out(problem)
    names = ("loss", *per_step(info), *built.online, *built.probe(state, hyper, batches, held_out))
    return {name: VARIABLES.get(name, (name.replace("_", " "), "1")) for name in names}


def _telling(made: learner.Learner, asked: Sequence[Any], loss: learner.Loss, model: nn.Module) -> learner.Learner:
    """Add those of :data:`ASKED` that are asked for to the ``info`` of a learner's steps."""
    if not set(ASKED).intersection(asked):
        return made
    forward = forward_with_features(model, ())

    def telling(
        state: learner.LearnerState, batch: tuple[Tensor, ...], hyper: learner.LearnerHyperparams
    ) -> tuple[learner.LearnerState, dict[str, Any]]:
        new, info = made.step(state, batch, hyper)
        if "update_magnitude" in asked:
            info = {**info, "update_magnitude": metrics.update_magnitude(state.params, new.params)}
        if "plasticity" in asked:
            output, *_ = forward(new.params, state.buffers, batch[0])
            info = {**info, "plasticity": metrics.plasticity(info["loss"], _value(loss(output, batch[1])))}
        return new, info

    return made._replace(step=telling)


def _method(runs: Sequence[Experiment], units: int) -> Method:
    """Build the method for the most units that any of the experiments replaces in a group of ``units``."""
    first, part, kind = runs[0], parts.method(runs[0].method), parts.kind(runs[0].method)
    options = first.options(part)
    if kind.initializer:
        options["initializer"] = _scaled(initializers.get(first.initializer, _nonlinearity(first)), first.init_scale)
    rate = first.number_names(part).get("replacement_rate")
    if kind.capacity and rate is not None:
        options["capacity"] = math.floor(max(run.numbers()[rate] for run in runs) * units) + 1
    built = _built(part, options)
    if not isinstance(built, Method):
        raise ValueError(f"method is {part.name!r}, which makes {type(built).__name__}; expected a fcbp.methods.Method")
    return built


def _scaled(draw: initializers.Initializer, scale: float) -> initializers.Initializer:
    return draw if scale == 1 else lambda *args: scale * draw(*args)
