"""A program as one CUDA kernel: a thread has one member, and the time loop runs inside it.

The source differs from that of the CPU in its first lines alone (``threads.hpp``), so that tests on a CPU hold for it
as well. Torch's own run-time compiler builds it; no CUDA toolkit is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fcbp.lanes.build import Arguments, BuildError, Launch

__all__ = ["launcher"]

WARP = 32
"""Threads that run together. Each block has so many, so that few members are spread over all processors."""
OPTIONS = ["--fmad=false"]
"""As on a CPU, only sums of products are contracted, where the source says so."""


def launcher(source: str) -> Launch:
    """Return a function that runs a source's function ``run`` on the current device.

    Raises:
        BuildError: this torch has no compiler for kernels, or the compiler fails.
    """
    compile = getattr(torch.cuda, "_compile_kernel", None)
    if compile is None:
        raise BuildError(f"torch {torch.__version__} cannot compile CUDA kernels; 2.9 and later can")
    try:
        kernel = compile(source, "run", nvcc_options=OPTIONS)
    except Exception as error:  # of many kinds: no device, no library, a message of the compiler
        raise BuildError(f"the CUDA kernel cannot be compiled: {' '.join(str(error).split())[:300]}") from error

    def launch(arguments: Arguments) -> Tensor:
        device = arguments.carry[0].device

        def numbers(values: Sequence[int]) -> Tensor:
            return torch.tensor([*values] or [0], dtype=torch.int64, device=device)

        def pointers(tensors: Sequence[Tensor]) -> Tensor:
            return numbers([tensor.data_ptr() for tensor in tensors])

        shared = numbers([0, 0])
        pointers_and_sizes = [
            numbers([arguments.members, arguments.steps]),
            shared,
            pointers(arguments.carry),
            pointers(arguments.constants),
            pointers(arguments.examples),
            numbers(arguments.strides),
            pointers(arguments.ys),
        ]
        kernel(grid=(-(-arguments.members // WARP), 1, 1), block=(WARP, 1, 1), args=pointers_and_sizes)
        return shared[1]

    return launch
