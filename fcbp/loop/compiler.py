"""The C++ compiler that torch starts: asked first, and stopped where it does not end."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator

from torch import Tensor

from fcbp.lanes.build import check_compiler, compile_seconds, run_for

__all__ = ["check_compiler_for", "limited_compiler"]


def check_compiler_for(leaves: list[Tensor]) -> None:
    """Ask the C++ compiler for a trifle, before a step is traced: one that hangs would hang the compiled scan.

    Raises:
        BuildError: the compiler fails, or does not end.
    """
    if all(leaf.device.type == "cpu" for leaf in leaves):
        # Importing torch's takes a second, which who has the program at hand need not wait for.
        torchs = sys.modules.get("torch._inductor.cpp_builder")
        check_compiler(torchs.get_cpp_compiler() if torchs else os.environ.get("CXX", "g++"))


@contextlib.contextmanager
def limited_compiler() -> Iterator[None]:
    """Give a C++ compiler that torch starts the time that a program may compile; torch itself waits for ever.

    The error of a compilation that takes longer is a ``BuildError`` inside torch's own. A torch that starts its
    compiler in another way waits as it always did.
    """
    from torch._inductor import cpp_builder, exc

    original = getattr(cpp_builder, "_run_compile_cmd", None)

    def run(cmd_line: str, cwd: str) -> None:
        command = shlex.split(cmd_line)
        status, out, errors = run_for(command, compile_seconds(), folder=cwd)
        if status:
            raise exc.CppCompileError(command, out + errors)

    if original is not None:
        cpp_builder._run_compile_cmd = run
    try:
        yield
    finally:
        if original is not None:
            cpp_builder._run_compile_cmd = original
