"""Run a module's forward on fake tensors and mark, operation by operation, which axes index which units.

``trace`` copies the module with fake parameters (shapes and dtypes without storage), so nothing is computed or
allocated and the caller's module is not touched, and watches the ATen operations that the copy's forward comes down
to. ``rules`` says what each operation does to the marks of its tensors.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fcbp.units import rules
from fcbp.units.calls import flow_out
from fcbp.units.copies import copied
from fcbp.units.entries import Ids
from fcbp.units.expose import WrittenOut, expose, plain_kernels
from fcbp.units.ledger import Ledger
from fcbp.units.marks import Marks, axes_of, varying
from fcbp.units.reads import Reads

__all__ = ["trace"]

_BY_HAND = (
    "Write the group by hand instead: UnitGroup(name, size, incoming=(Slice((weight name,), 0),), bias=..., "
    "outgoing=(Slice((weight name,), 1),), outgoing_bias=..., activation=module that reads it)."
)


_LARGEST = 1 << 20  # numbers of a constant that are kept


class Tracer(TorchDispatchMode):
    """Watches operations; ``marks(tensor)`` is what is known of a tensor so far."""

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger
        self.modules: list[tuple[str, Marks | None]] = []
        self.aliases: dict[int, list[weakref.ref[Tensor]]] = {}
        self.lost: dict[int, tuple[weakref.ref[Tensor], Ids, str]] = {}

    def marks(self, x: Tensor) -> Marks:
        known = getattr(x, "_fcbp_marks", None)
        if known is None:
            known = Marks(tuple(x.shape), fixed=varying(x.shape, "a constant in the forward"))
        return known

    def mark(self, x: Tensor, marks: Marks) -> None:
        x._fcbp_marks = marks  # type: ignore[attr-defined]

    def value(self, x: Tensor) -> Tensor | None:
        """The numbers that a tensor holds, where they are the same in every forward and small enough to be kept."""
        if isinstance(x, FakeTensor):
            known: Tensor | None = getattr(x, "_fcbp_value", None)
            return x.constant if known is None else known
        return x if getattr(x, "_fcbp_marks", None) is None else None

    def numbers(self, x: Tensor) -> Ids | None:
        """:meth:`value` as an array."""
        known = self.value(x)
        if known is None or known.numel() > _LARGEST or known.dtype == torch.bool:
            return None
        with _disable_current_modes():
            return np.array(known.detach().cpu().numpy())

    def _keep_numbers(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], results: list[Tensor]) -> None:
        """Keep the numbers of whole numbers computed from such: indices that are the same in every forward."""
        if func._schema.is_mutable:
            for x in inputs:
                vars(x).pop("_fcbp_value", None)
            return
        if torch.Tag.nondeterministic_seeded in func.tags or any(x.numel() > _LARGEST for x in (*inputs, *results)):
            return
        if any(x.dtype.is_floating_point or x.dtype.is_complex or x.device.type == "meta" for x in results):
            return
        values = {id(y): self.value(y) for y in inputs}
        if any(v is None for v in values.values()) or any(self.marks(y).is_activation for y in inputs):
            return
        args, kwargs = pytree.tree_map(lambda y: values[id(y)] if isinstance(y, Tensor) else y, (args, kwargs))
        with contextlib.suppress(Exception), _disable_current_modes():
            for x, known in zip(results, pytree.tree_leaves(func(*args, **kwargs)), strict=True):
                x._fcbp_value = known  # type: ignore[attr-defined]

    def where(self, func: Any) -> str:
        """The operation and the innermost module that runs it, for messages."""
        name = f"{func.namespace}.{func._schema.name.split('::')[-1]}"
        inside = self.modules[-1][0] if self.modules else ""
        return f"{name} in {inside!r}" if inside else name

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        out = func(*args, **kwargs)
        results = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor)]
        if not results:
            return out
        for x in inputs:
            if id(x) in self.lost:
                self.ledger.forbid(*self.lost[id(x)][1:])
        for x, marks in zip(results, rules.apply(self, func, args, kwargs, inputs, results), strict=True):
            old = getattr(x, "_fcbp_marks", None)
            self.mark(x, marks)
            if old is not None and any(x is y for y in inputs) and not _same(old, marks):
                self._note_written(x, func)
        self._keep_numbers(func, args, kwargs, inputs, results)
        for x in results:
            self.aliases.setdefault(x.untyped_storage()._cdata, []).append(weakref.ref(x))
        return out

    def _note_written(self, x: Tensor, func: Any) -> None:
        """``x`` changed in place: tensors that share its memory did too, in ways that are not followed."""
        why = f"written in place into a part of another tensor by {self.where(func)}, which is read later"
        mine, places = self.marks(x), None
        for y in {id(y): y for y in (r() for r in self.aliases.get(x.untyped_storage()._cdata, []))}.values():
            if y is None or y is x:
                continue
            places = _places(x) if places is None else places
            if not np.isin(_places(y), places).any():
                continue
            old = self.marks(y)
            # Only a later use matters: a view's base is often not read again.
            self.lost[id(y)] = (weakref.ref(y), np.concatenate([old.label_entries(), mine.label_entries()]), why)
            self.mark(
                y,
                Marks(old.shape, fixed=varying(old.shape, why), is_activation=old.is_activation or mine.is_activation),
            )


def _places(x: Tensor) -> Ids:
    """Where in its storage a tensor's elements lie."""
    places = np.full((1,) * x.ndim, x.storage_offset(), dtype=np.int64)
    for axis, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
        places = places + (np.arange(size) * stride).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return places.ravel()


def _same(a: Marks, b: Marks) -> bool:
    """Whether two tensors vary along the same axes and carry entries in the same places."""
    return (
        sorted(map(axes_of, a.labels)) == sorted(map(axes_of, b.labels))
        and {axes_of(f.values) for f in b.fixed} <= {axes_of(f.values) for f in a.fixed}
        and (a.is_activation or not b.is_activation)
    )


def trace(
    model: nn.Module,
    example_inputs: Sequence[Any],
    kwargs: Mapping[str, Any],
    caller: str,
    method: str = "forward",
    outputs: Sequence[str] | None = None,
) -> Ledger:
    """What the forward of ``model`` on inputs like the examples does to the entries of its parameters.

    ``method`` is the forward's name; ``outputs`` are patterns for the outputs that count, all for ``None``.

    Raises:
        ValueError: the model is lazily initialised or its forward cannot be traced.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"{caller}: model is {type(model).__name__}; expected a torch.nn.Module")
    leaves: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    lazy = [name for name, leaf in leaves.items() if is_lazy(leaf)]
    if lazy:
        raise ValueError(
            f"{caller}: {', '.join(lazy)} of the model are lazily initialised and have no shape yet; expected a model "
            "that has seen an input: call model(*example_inputs) once first"
        )
    ledger = Ledger()
    tracer = Tracer(ledger)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}
    for name, leaf in leaves.items():
        memo[id(leaf)] = _fake_leaf(tracer, fake, name, leaf, name not in dict(model.named_parameters()))

    def fake_input(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        y = fake.from_tensor(x)
        tracer.mark(y, Marks(tuple(x.shape), fixed=varying(x.shape, "the network's input"), is_activation=True))
        return y

    args, options = pytree.tree_map(fake_input, (tuple(example_inputs), dict(kwargs)))
    replica = copied(model, memo, caller, method)
    expose(replica)
    _watch_modules(replica, tracer)
    parameters = {name: memo[id(p)] for name, p in model.named_parameters()}
    reads = Reads(parameters, replica.buffers(), lambda name, x: ledger.readings.append((name, tracer.marks(x))))
    try:
        with plain_kernels(), torch.enable_grad(), fake, tracer, WrittenOut(), reads:
            output = replica(*args, **options)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        operation = getattr(error, "func", error)
        if _is_within(error, "distributions"):
            raise ValueError(
                f"{caller}: a distribution checks the values of its arguments: {operation} at {_line(error)}. A trace "
                "sees shapes only, and neither vmap nor a compiler takes such a check; expected the distribution with "
                "validate_args=False"
            ) from error
        raise ValueError(
            f"{caller}: the forward depends on the values of tensors: {operation} at {_line(error)}. A trace sees "
            f"shapes only; expected a forward without if, while, item() or a mask index that reads a tensor. {_BY_HAND}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{caller}: the forward failed on the example inputs at {_line(error)}: "
            f"{type(error).__name__}: {error}. "
            f"Expected inputs as the model's forward takes them (example_inputs, example_kwargs). {_BY_HAND}"
        ) from error
    _leave_out_outputs(tracer, output, outputs, caller)
    return ledger


def _leave_out_outputs(tracer: Tracer, output: Any, outputs: Sequence[str] | None, caller: str) -> None:
    """Units among the outputs that count are left out."""
    found = list(_tensors(output))
    for pattern in outputs or ():
        if not any(_is_meant(path, [pattern]) for path, _ in found):
            names = ", ".join(dict.fromkeys(path for path, _ in found)) or "one tensor, without a name"
            raise ValueError(f"{caller}: outputs={pattern!r} matches no output; expected a pattern for one of: {names}")
    for path, x in found:
        if outputs is None or _is_meant(path, outputs):
            marks = tracer.marks(x)
            which = f"the network's output {path!r}" if path and len(found) > 1 else "the network's output"
            tracer.ledger.forbid(marks.label_entries(), f"they are {which}")
            flow_out(tracer.ledger, marks, which)


def _is_meant(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern stands for an output, or for what holds it."""
    keys = path.split(".")
    return any(fnmatchcase(".".join(keys[:n]), p) for p in patterns for n in range(1, len(keys) + 1))


def _fake_leaf(tracer: Tracer, fake: FakeTensorMode, name: str, leaf: Tensor, is_buffer: bool) -> Tensor:
    y = fake.from_tensor(leaf)
    labels = []
    for axis, size in enumerate(leaf.shape):
        if size > 1:
            shape = [size if a == axis else 1 for a in range(leaf.ndim)]
            labels.append(tracer.ledger.slot(name, axis, size, is_buffer).reshape(shape))
    tracer.mark(y, Marks(tuple(leaf.shape), tuple(labels), origin=frozenset({name})))
    return y


def _watch_modules(model: nn.Module, tracer: Tracer) -> None:
    """Keep ``tracer.modules`` the modules being run, outermost first, each with the marks of its first input."""

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            first = args[0] if args and isinstance(args[0], Tensor) else None
            tracer.modules.append((path, None if first is None else tracer.marks(first)))

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        tracer.modules.pop()

    for path, module in model.named_modules():
        module.register_forward_pre_hook(enter(path), prepend=False)
        module.register_forward_hook(leave, prepend=True)


def _is_within(error: BaseException, part: str) -> bool:
    """Whether an error was raised from a package of torch's."""
    folder = os.path.join(os.path.dirname(torch.__file__), part) + os.sep
    return any(frame.filename.startswith(folder) for frame in traceback.extract_tb(error.__traceback__))


def _line(error: BaseException) -> str:
    """File, line and code of the model's own frame that an error was raised from."""
    torch_files, here = os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(here)]
    own = [f for f in frames if not f.filename.startswith(torch_files)]
    # A model that is torch's own has no line but that of the layer.
    own = own or [f for f in frames if f.filename.startswith(os.path.join(torch_files, "nn", "modules"))] or frames
    last = own[-1]
    return f"{last.filename}:{last.lineno} ({(last.line or '').strip()})"


def _tensors(output: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in a forward's output, also inside dataclasses and plain objects, and the keys that lead to it."""
    for keys, leaf in pytree.tree_flatten_with_path(output)[0]:
        name = ".".join([*([path] if path else []), *(_key(key) for key in keys)])
        if isinstance(leaf, Tensor):
            yield name, leaf
        elif dataclasses.is_dataclass(leaf) or hasattr(leaf, "__dict__"):
            yield from _tensors(dict(vars(leaf)), name)


def _key(key: Any) -> str:
    return str(next(getattr(key, field) for field in ("key", "idx", "name") if hasattr(key, field)))
