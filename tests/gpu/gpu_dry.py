"""Kernels without a GPU: passed through ``nvcc`` where one is installed, and run as C++, thread by thread."""

import contextlib
import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import torch

from fcbp.lanes import build

WORDS = Path(__file__).parent / "cuda_words.hpp"
RUN_ALL = """
extern "C" void run_all(unsigned grid, unsigned block, const int64 *sizes, int64 *shared, void *const *carry,
                        void *const *constants, void *const *xs, const int64 *x_strides, void *const *ys) {
  gridDim = {grid, 1, 1}, blockDim = {block, 1, 1};
  for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
    for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++) run(sizes, shared, carry, constants, xs, x_strides, ys);
}
"""


def compile_on_host(source, name, nvcc_options=None, **_):
    """In the place of ``torch.cuda._compile_kernel``: the kernel as C++."""
    assert name == "run"
    compiler = next(path for path in map(shutil.which, build.COMPILERS) if path)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.cpp").write_text(f'#include "{WORDS}"\n{source}{RUN_ALL}')
        command = [compiler, "-O1", *build.FLAGS, f"{folder}/kernel.cpp", "-o", f"{folder}/kernel.so", "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[:2000])
        function = ctypes.CDLL(f"{folder}/kernel.so").run_all

    def kernel(grid, block, args):
        assert grid[1:] == block[1:] == (1, 1)
        function(grid[0], block[0], *(ctypes.c_void_p(argument.data_ptr()) for argument in args))

    return kernel


@contextlib.contextmanager
def kernels_on_host():
    """Kernels run as C++, and lanes make kernels of steps on the CPU."""
    with (
        mock.patch.object(torch.cuda, "_compile_kernel", compile_on_host, create=True),
        mock.patch("fcbp.lanes.elements_on", return_value="threads"),
        mock.patch("fcbp.loop.choice._programs", {}),
    ):
        yield


def passes_nvcc(source, architecture="sm_80"):
    """Whether CUDA's compiler takes a kernel; ``None`` where it is not installed.

    Raises:
        RuntimeError: it does not, with what it said.
    """
    compiler = shutil.which("nvcc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kernel.cu").write_text(source)
        options = [f"-arch={architecture}", "--fmad=false", "-Xptxas=-O0", "-cubin", "-o", f"{folder}/kernel.cubin"]
        done = subprocess.run([compiler, "-w", *options, f"{folder}/kernel.cu"], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr[:2000])
    return True
