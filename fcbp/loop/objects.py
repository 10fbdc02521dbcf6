"""A graph as a shared object: torch's compiler makes it ahead of time, and later processes load it from the cache.

Nothing of the compiler is imported where the object is at hand: its name comes from the graph, the shapes and strides
of its arguments, torch's version, the C++ compiler and the processor.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from fcbp.lanes.build import BuildError, keep, library_of
from fcbp.loop.compiler import limited_compiler

__all__ = ["PARALLEL_FROM", "Object", "load"]

Object = Callable[[list[Tensor]], list[Tensor]]

PARALLEL_FROM = 1 << 20
"""Elements of the carry from which on threads share an operation: with fewer, their meetings cost more than they save,
and on a busy machine many times more."""

_loaded: dict[str, Object] = {}
"""By file: an object is loaded once, whichever steps it serves."""


def load(module: fx.GraphModule, arguments: Sequence[Tensor], threads: int, announce: Callable[[], None]) -> Object:
    """Return the function of a graph, compiled where no earlier process has done so.

    Args:
        module: the graph; what it writes over its arguments is written over the caller's.
        arguments: of the shapes and strides that every call has.
        threads: that share an operation.
        announce: called before something is compiled.

    Raises:
        BuildError: there is no compiler, or no directory to keep objects in, or the object cannot be loaded.
    """
    library = library_of("scan", *_parts(module, arguments, threads))
    name = str(library)
    if name not in _loaded:
        if not library.exists():
            announce()
        keep(library, lambda: _compile(module, arguments, threads, library))
        try:
            _loaded[name] = torch._C._aoti.AOTIModelContainerRunnerCpu(name, 1).run
        except RuntimeError as error:
            library.unlink(missing_ok=True)  # broken: made anew the next time
            raise BuildError(f"cannot load {library}: {error}") from error
    return _loaded[name]


def _parts(module: fx.GraphModule, arguments: Sequence[Tensor], threads: int) -> list[str]:
    """Return all on which an object depends, but for compiler and processor."""
    constants = [
        f"{node.target} {value.shape} {value.stride()} {value.dtype} {value.tolist()}"
        for node in module.graph.find_nodes(op="get_attr")
        for value in (getattr(module, str(node.target)),)
    ]
    described = [f"{x.shape} {x.stride()} {x.dtype}" for x in arguments]
    return [module.code, *constants, *described, torch.__version__, str(threads)]


def _compile(module: fx.GraphModule, arguments: Sequence[Tensor], threads: int, library: Path) -> None:
    """Compile elsewhere and rename, so that no process loads half an object."""
    import torch._inductor

    for node in module.graph.nodes:
        node.meta.clear()  # of another tracing, whose values the compiler does not take
    with tempfile.TemporaryDirectory(dir=library.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of itself
        options: dict[str, Any] = {"aot_inductor.output_path": folder, "cpp.threads": threads}
        with torch.no_grad(), limited_compiler():
            made = torch._inductor.aot_compile(module, tuple(arguments), options=options)
        assert isinstance(made, str)
        os.chmod(made, 0o700)
        os.replace(made, library)
