"""Programs of lanes, compiled for other processors and by other compilers, and run: by an emulator where need be."""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fcbp.lanes import build


class Machine(NamedTuple):
    """A kind of processor and a compiler."""

    compiler: str
    machine: str = ""
    """The compiler's option that says the processor."""
    needs: str = ""
    """The instructions, as the system names them, without which the programs do not run here."""
    emulator: str = ""


MACHINES = {
    "x86-64": Machine("g++", "-march=x86-64"),
    "AVX2": Machine("g++", "-march=x86-64-v3", "avx2"),
    "AVX-512": Machine("g++", "-march=x86-64-v4", "avx512f"),
    "AVX2, clang++": Machine("clang++", "-march=x86-64-v3", "avx2"),
    "AVX-512, clang++": Machine("clang++", "-march=x86-64-v4", "avx512f"),
    "AArch64": Machine("aarch64-linux-gnu-g++", emulator="qemu-aarch64"),
}

MAIN = r"""
#include <cstdio>
#include <vector>
int main(int, char **names) {
  FILE *in = fopen(names[1], "rb"), *out = fopen(names[2], "wb");
  auto read = [&](void *to, size_t bytes) { if (bytes && fread(to, 1, bytes, in) != bytes) abort(); };
  int64 counts[6], shared[2] = {};
  read(counts, sizeof counts);  // members, steps, carry, constants, examples, ys
  std::vector<std::vector<char>> arrays[4];
  std::vector<void *> pointers[4];
  for (int kind = 0; kind < 4; kind++) {
    arrays[kind].resize(counts[2 + kind]);
    for (auto &array : arrays[kind]) {
      int64 bytes;
      read(&bytes, sizeof bytes);
      array.resize(bytes + 64);
      read(array.data(), bytes);
      pointers[kind].push_back(array.data());
    }
  }
  std::vector<int64> strides(2 * counts[4] + 1);
  read(strides.data(), 16 * counts[4]);
  run(counts, shared, pointers[0].data(), pointers[1].data(), pointers[2].data(), strides.data(), pointers[3].data());
  fwrite(shared, 1, sizeof shared, out);
  for (int kind : {0, 3})
    for (auto &array : arrays[kind]) fwrite(array.data(), 1, array.size() - 64, out);
  fclose(out);
}
"""


def there_is(name):
    """The machine, where its programs can be compiled and run here; else the test is skipped."""
    machine = MACHINES[name]
    for program in filter(None, (machine.compiler, machine.emulator)):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if "x86" in machine.machine and platform.machine() != "x86_64":
        pytest.skip("of x86 processors")
    if machine.needs and machine.needs not in build._processor().split():
        pytest.skip(f"this processor has no {machine.needs}")
    return machine


def launcher_on(name, optimize="-O1"):
    """In the place of ``build.launcher``: programs for a machine."""
    machine = there_is(name)

    def launcher(source, *_):
        folder = Path(tempfile.mkdtemp(prefix="fcbp-elsewhere-"))
        try:
            return _launch(compiled(machine, source + MAIN, folder, optimize), machine, folder)
        except subprocess.CalledProcessError as error:
            raise build.BuildError(error.stderr[:2000]) from None

    return launcher


def compiled(machine, source, folder, optimize):
    """The program's file."""
    flags = [flag for flag in build.FLAGS if flag not in ("-shared", "-fPIC")]
    static = ["-static"] if machine.emulator else []
    (folder / "program.cpp").write_text(source)
    command = [machine.compiler, optimize, *filter(None, [machine.machine]), *flags, *static]
    command += [str(folder / "program.cpp"), "-o", str(folder / "program"), "-lm"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "program"


def _bytes(tensor):
    tensor = tensor.contiguous()
    return tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _launch(program, machine, folder):
    def launch(arguments):
        groups = (arguments.carry, arguments.constants, arguments.examples, arguments.ys)
        counts = torch.tensor([arguments.members, arguments.steps, *map(len, groups)])
        parts = [_bytes(counts)]
        for tensor in (tensor for group in groups for tensor in group):
            # Examples may be strided, and shared: all that their storage holds from the first on.
            whole = tensor if tensor.is_contiguous() else tensor.as_strided((_extent(tensor),), (1,))
            data = _bytes(whole)
            parts += [_bytes(torch.tensor([len(data)])), data]
        parts.append(_bytes(torch.tensor(arguments.strides, dtype=torch.int64)))
        (folder / "in").write_bytes(b"".join(parts))
        emulator = [machine.emulator] if machine.emulator else []
        subprocess.run([*emulator, str(program), str(folder / "in"), str(folder / "out")], check=True)
        data = bytearray((folder / "out").read_bytes())
        shared, at = torch.frombuffer(data, dtype=torch.int64, count=2), 16
        for tensor in (*arguments.carry, *arguments.ys):
            if tensor.numel():
                found = torch.frombuffer(data, dtype=tensor.dtype, count=tensor.numel(), offset=at)
                tensor.copy_(found.reshape(tensor.shape))
            at += tensor.numel() * tensor.element_size()
        return int(shared[1])

    return launch


def _extent(tensor):
    """The elements of the storage that a tensor spans."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
