"""Run a module's forward on fake tensors and mark, operation by operation, which axes index which units.

``trace`` copies the module with fake parameters (shapes and dtypes without storage), so nothing is computed or
allocated and the caller's module is not touched, and watches the ATen operations that the copy's forward comes down
to. ``rules`` says what each operation does to the marks of its tensors.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from fcbp.units import layers, movement, products, rules  # noqa: F401  (importing registers rules)
from fcbp.units.expose import expose
from fcbp.units.ledger import Ids, Ledger
from fcbp.units.marks import Marks, axes_of, varying
from fcbp.units.reads import Reads

__all__ = ["trace"]

_BY_HAND = (
    "Write the group by hand instead: UnitGroup(name, size, incoming=(Slice((weight name,), 0),), bias=..., "
    "outgoing=(Slice((weight name,), 1),), outgoing_bias=..., activation=module that reads it)."
)


class Tracer(TorchDispatchMode):
    """Watches operations; ``marks(tensor)`` is what is known of a tensor so far."""

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger
        self.modules: list[tuple[str, Marks | None]] = []
        self.aliases: dict[int, list[weakref.ref[Tensor]]] = {}
        self.lost: dict[int, tuple[weakref.ref[Tensor], Ids, str]] = {}
        self.bits = 0

    def marks(self, x: Tensor) -> Marks:
        known = getattr(x, "_fcbp_marks", None)
        if known is None:
            known = Marks(tuple(x.shape), fixed=varying(x.shape, "a constant in the forward"))
        return known

    def mark(self, x: Tensor, marks: Marks) -> None:
        x._fcbp_marks = marks  # type: ignore[attr-defined]

    def next_bit(self) -> int:
        """A bit for one more tensor."""
        self.bits += 1
        return 1 << self.bits

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
            if marks is None:
                continue
            self.mark(x, marks)
            if old is not None and any(x is y for y in inputs) and not _same(old, marks):
                self._written(x, func)
        for x in results:
            self.aliases.setdefault(x.untyped_storage()._cdata, []).append(weakref.ref(x))
        return out

    def _written(self, x: Tensor, func: Any) -> None:
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
            self.mark(y, Marks(old.shape, fixed=varying(old.shape, why), data=old.data or mine.data))


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
        and (a.data or not b.data)
    )


def trace(model: nn.Module, example_inputs: Sequence[Any], kwargs: Mapping[str, Any], caller: str) -> Ledger:
    """What the forward of ``model`` on inputs like the examples does to the entries of its parameters.

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
        tracer.mark(y, Marks(tuple(x.shape), fixed=varying(x.shape, "the network's input"), data=True))
        return y

    args, options = pytree.tree_map(fake_input, (tuple(example_inputs), dict(kwargs)))
    replica = copy.deepcopy(model, memo)
    expose(replica)
    _watch_modules(replica, tracer)
    parameters = {name: memo[id(p)] for name, p in model.named_parameters()}
    reads = Reads(parameters, replica.buffers(), lambda name, x: ledger.reads.append((name, tracer.marks(x))))
    try:
        with _plain_kernels(), torch.enable_grad(), fake, tracer, reads:
            output = replica(*args, **options)
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        operation = getattr(error, "func", error)
        raise ValueError(
            f"{caller}: the forward depends on the values of tensors: {operation} at {_line(error)}. A trace sees "
            f"shapes only; expected a forward without if, while, item() or a mask index that reads a tensor. {_BY_HAND}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{caller}: the forward failed on the example inputs at {_line(error)}: {type(error).__name__}: {error}. "
            f"Expected inputs as the model's forward takes them. {_BY_HAND}"
        ) from error
    for x in _tensors(output):
        marks = tracer.marks(x)
        ledger.forbid(marks.label_entries(), "they are the network's output")
        rules.flow_out(tracer, marks, "the network's output")
    return ledger


def _fake_leaf(tracer: Tracer, fake: FakeTensorMode, name: str, leaf: Tensor, is_buffer: bool) -> Tensor:
    y = fake.from_tensor(leaf)
    labels = []
    for axis, size in enumerate(leaf.shape):
        if size > 1:
            shape = [size if a == axis else 1 for a in range(leaf.ndim)]
            labels.append(tracer.ledger.slot(name, axis, size, is_buffer).reshape(shape))
    tracer.mark(y, Marks(tuple(leaf.shape), tuple(labels), origin=frozenset({name})))
    return y


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the vendors' fused kernels: an LSTM comes down to its products and gates."""
    kernels = [
        (torch._C._get_mkldnn_enabled(), torch._C._set_mkldnn_enabled),
        (torch._C._get_cudnn_enabled(), torch._C._set_cudnn_enabled),
    ]
    try:
        for _, switch in kernels:
            switch(False)
        yield
    finally:
        for enabled, switch in kernels:
            switch(enabled)


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


def _line(error: BaseException) -> str:
    """File, line and code of the model's own frame that an error was raised from."""
    torch_files, here = os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(here)]
    own = [f for f in frames if not f.filename.startswith(torch_files)]
    # A model that is torch's own has no line but that of the layer.
    own = own or [f for f in frames if f.filename.startswith(os.path.join(torch_files, "nn", "modules"))] or frames
    last = own[-1]
    return f"{last.filename}:{last.lineno} ({(last.line or '').strip()})"


def _tensors(output: Any) -> Iterator[Tensor]:
    """Every tensor in a forward's output, also inside dataclasses and plain objects."""
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) or hasattr(leaf, "__dict__"):
            yield from _tensors(list(vars(leaf).values()))
