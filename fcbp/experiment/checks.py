"""Checks of experiments before any work: their settings, and that their parts fit one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fcbp import learner, random, streams
from fcbp.addresses import name_of
from fcbp.experiment import parts
from fcbp.experiment.measurements import ONLINE, TEST, Metric, metric_name
from fcbp.experiment.settings import Experiment, set_names, unread
from fcbp.experiment.trial import check_forward, check_vmap, try_stream
from fcbp.rehearsal import call_pure
from fcbp.streams import Spec

__all__ = ["check_examples", "check_fit", "check_network", "check_settings"]


def check_settings(runs: Sequence[Experiment], swept: Sequence[str] = ()) -> None:
    """Check the settings of experiments one by one, and that each is read.

    Args:
        runs: the members of a sweep.
        swept: the names that set the members apart.

    Raises:
        ValueError: a setting is unknown, out of range, or read by none of the members; lengths of run are swept.
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


def check_examples(name: str, stream: object) -> tuple[streams.Stream, tuple[Tensor, ...]]:
    """Return the stream, with a spec, and a first batch of it.

    Raises:
        ValueError: it is no stream, fails, or gives something else than its spec says.
    """
    if not isinstance(stream, streams.Stream):
        raise ValueError(
            f"stream is {name!r}, which gives {type(stream).__name__}; expected an fcbp.streams.Stream, such as "
            "fcbp.streams.from_sampler makes"
        )
    batches = try_stream(name, stream)
    if not isinstance(batches, (tuple, list)) or not 2 <= len(batches) <= 3:
        raise ValueError(f"stream is {name!r}, whose sample gives {_shapes(batches)}; expected (inputs, targets)")
    for part in batches:
        if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != 2:
            raise ValueError(
                f"stream is {name!r}, whose sample of 2 batches gives {_shapes(batches)}; expected tensors with a "
                "leading axis of 2"
            )
    inputs, targets, *signal = batches
    if inputs.ndim < 2 or targets.ndim < 2:
        raise ValueError(
            f"stream is {name!r}, whose sample gives {_shapes(batches)}; expected two tensors (length, batch, ...)"
        )
    if signal and (signal[0].dtype != torch.bool or signal[0].ndim != 1):
        raise ValueError(
            f"stream is {name!r}, whose third entry is {_shapes(signal[0])}; expected bool (length,): whether a new "
            "task begins"
        )
    if stream.spec is None:
        outputs = targets.shape[-1] if targets.is_floating_point() and targets.ndim > 2 else 1
        if not targets.is_floating_point():
            raise ValueError(
                f"stream is {name!r}, whose targets are of {targets.dtype} and which has no spec; expected "
                "fcbp.streams.Spec(input_shape, classes, 'classification')"
            )
        return stream._replace(spec=Spec(tuple(inputs.shape[2:]), outputs, dtype=inputs.dtype)), _first(batches)
    _check_spec(name, stream.spec, inputs, targets)
    if stream.held_out is not None:
        _check_held_out(name, stream, stream.spec)
    return stream, _first(batches)


def _check_spec(name: str, spec: Spec, inputs: Tensor, targets: Tensor) -> None:
    found, batch = f"inputs {_shapes(inputs)} and targets {_shapes(targets)}", inputs.shape[1]
    if tuple(inputs.shape[2:]) != spec.input_shape or inputs.dtype != spec.dtype:
        raise ValueError(
            f"stream is {name!r}, which gives {found}; its spec promises inputs (length, batch, *{spec.input_shape}) "
            f"of {spec.dtype}"
        )
    if spec.kind == "classification":
        if targets.dtype != torch.int64 or tuple(targets.shape) != (2, batch):
            raise ValueError(
                f"stream is {name!r}, which gives {found}; its spec promises class indices (length, batch), int64"
            )
        if targets.min() < 0 or targets.max() >= spec.outputs:
            raise ValueError(
                f"stream is {name!r}, whose classes go from {int(targets.min())} to {int(targets.max())}; its spec "
                f"promises 0 to {spec.outputs - 1}"
            )
    elif targets.dtype != spec.dtype or tuple(targets.shape) != (2, batch, spec.outputs):
        raise ValueError(
            f"stream is {name!r}, which gives {found}; its spec promises targets (length, batch, {spec.outputs}) of "
            f"{spec.dtype}"
        )


def _check_held_out(name: str, stream: streams.Stream, spec: Spec) -> None:
    assert stream.held_out is not None
    try:
        inputs, targets = stream.held_out(stream.init(random.key(0)))
    except Exception as error:
        raise ValueError(f"stream is {name!r}, whose held_out fails: {type(error).__name__}: {error}") from error
    tail = () if spec.kind == "classification" else (spec.outputs,)
    dtypes = (spec.dtype, torch.int64 if spec.kind == "classification" else spec.dtype)
    if (
        (inputs.dtype, targets.dtype) != dtypes
        or tuple(inputs.shape[1:]) != spec.input_shape
        or tuple(targets.shape) != (len(inputs), *tail)
    ):
        raise ValueError(
            f"stream is {name!r}, whose held_out gives inputs {_shapes(inputs)} and targets {_shapes(targets)}; its "
            f"spec promises (examples, *{spec.input_shape}) of {dtypes[0]} and (examples, *{tail}) of {dtypes[1]}"
        )


def check_network(run: Experiment, model: nn.Module, inputs: Tensor, spec: Spec) -> Tensor:
    """Return the network's output of a batch.

    Raises:
        ValueError: the network does not take it, or gives something else than the stream's spec says.
    """
    name = name_of(run.network)
    try:
        with torch.no_grad():
            output = model.eval()(inputs)
            model.train()
    except Exception as error:
        raise ValueError(
            f"network is {name!r}, which does not take the stream's inputs {_shapes(inputs)}: {type(error).__name__}: "
            f"{error}"
        ) from error
    if not isinstance(output, Tensor) or tuple(output.shape) != (len(inputs), spec.outputs):
        raise ValueError(
            f"network is {name!r}, whose output is {_shapes(output)}; the stream's spec expects {spec.outputs} "
            f"outputs: ({len(inputs)}, {spec.outputs})"
        )
    if not any(True for _ in model.parameters()):
        raise ValueError(f"network is {name!r}, which has no parameters; expected some to learn")
    check_forward(name, model, inputs)
    return output


def check_fit(
    run: Experiment,
    spec: Spec,
    loss: learner.Loss,
    functions: Mapping[str, Metric | None],
    output: Tensor,
    targets: Tensor,
    stream: streams.Stream,
) -> None:
    """Check that the loss and the metrics take the network's outputs and the stream's targets.

    Raises:
        ValueError: one of them fails or gives no scalar; the message names it.
    """
    chosen = "mse" if run.loss_function is None and spec.kind == "regression" else run.loss_function
    name = name_of(chosen or "cross_entropy")
    if name == "cross_entropy" and spec.kind == "regression":
        raise ValueError(
            f"loss_function is 'cross_entropy' on the stream {name_of(run.stream)!r}, whose targets are numbers and "
            f"no classes ({spec.outputs} outputs); expected 'mse', or a stream whose spec is a classification"
        )
    if name == "mse" and spec.kind == "classification":
        raise ValueError(
            f"loss_function is 'mse' on the stream {name_of(run.stream)!r}, whose targets are class indices; "
            "expected 'cross_entropy'"
        )
    value = _called(f"loss_function is {name!r}", loss, output, targets)
    value = value[0] if isinstance(value, tuple) and len(value) == 2 else value
    _check_scalar(f"loss_function is {name!r}", value, floating=True)
    check_vmap(f"loss_function is {name!r}", loss, output, targets)
    addresses = {metric_name(chosen): name_of(chosen) for chosen in run.metrics}
    for variable, function in functions.items():
        if variable.startswith(TEST) and stream.held_out is None:
            raise ValueError(
                f"metrics has {variable!r}, and the stream {name_of(run.stream)!r} has no held-out examples; "
                "expected a stream with held_out"
            )
        if variable.removeprefix(TEST) in ONLINE and spec.kind != "classification":
            raise ValueError(
                f"metrics has {variable!r}, and the stream {name_of(run.stream)!r} is a regression; expected a "
                "classification"
            )
        if function is not None:
            about = f"metrics has {addresses[variable]!r}"
            _check_scalar(about, _called(about, function, output, targets), floating=False)
            check_vmap(about, function, output, targets)


def _called(about: str, function: Any, output: Tensor, targets: Tensor) -> Any:
    on = f"on outputs {_shapes(output)} and targets {_shapes(targets)}"
    return call_pure(f"{about}, which {on}", function, output.clone(), targets.clone())


def _check_scalar(about: str, value: Any, floating: bool) -> None:
    if not isinstance(value, Tensor) or value.ndim or value.is_complex():
        raise ValueError(f"{about}, which gives {_shapes(value)}; expected a 0-d tensor")
    if floating and not value.is_floating_point():
        raise ValueError(f"{about}, which gives {value.dtype}; expected a floating-point number")


def _first(batches: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(part[0] for part in batches)


def _shapes(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {', '.join(map(_shapes, value)) or 'nothing'}"
    return type(value).__name__
