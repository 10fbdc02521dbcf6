"""From source to a function: compile it, keep it, load it.

Programs are kept in ``$FCBP_CACHE_DIR``, else under the user's cache directory. Only the user may read or write that
directory; a file there that others can write is not loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Arguments",
    "BuildError",
    "Launch",
    "build",
    "cache_folder",
    "check_compiler",
    "compile_seconds",
    "is_built",
    "keep",
    "lanes",
    "launcher",
    "library_of",
    "made_by",
    "run_for",
]

# Nothing here changes a number: infinities and NaN are as eager has them, and only sums of products are contracted,
# where the source says so.
FLAGS = [
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-w",
]
MACHINE = "-march=native"
"""The instructions that the compiler may use."""
COMPILERS = ("g++", "clang++")
INSTRUCTIONS = {
    "__AVX512F__": "AVX-512",
    "__AVX2__": "AVX2",
    "__AVX__": "AVX",
    "__x86_64__": "x86-64",
    "__aarch64__": "AArch64",
}
"""Names of instruction sets by the macros of compilers, the widest first."""
BUILD_FOLDER = "building"
"""The folder, within the cache's, in which compilers work."""


class Arguments(NamedTuple):
    """The sizes and the tensors on which a program runs."""

    members: int
    steps: int
    carry: Sequence[Tensor]
    """Written to."""
    constants: Sequence[Tensor]
    examples: Sequence[Tensor]
    strides: Sequence[int]
    """For each of ``examples``: the stride from step to step, and the one from member to member."""
    ys: Sequence[Tensor]
    """Written to."""


Launch = Callable[[Arguments], Any]
"""Runs a program. The result is 0, or which check failed, counted from 1: an integer, or a tensor that will hold it."""

THREADED_FROM = 1 << 20
"""The least number of elements, in all blocks and steps, for which a second thread saves more than its start costs."""


NO_MEMORY = -1
"""The result of a program that has no memory for a block, in place of the number of a failed check."""


class BuildError(Exception):
    """There is no compiler, the compiler failed, or its result cannot be kept or trusted."""


COMPILE_SECONDS = 300.0
"""The longest that a program may take to compile, and that another process is waited for that compiles; or as many
seconds as ``$FCBP_COMPILE_SECONDS`` says."""
ANSWER_SECONDS = 30.0
"""The longest that a compiler may take to say its version and its macros."""


def build(source: str, optimize: str = "-O3") -> Callable[..., None]:
    """Return the function ``run`` of a C++ source.

    Raises:
        BuildError: as :class:`BuildError` says.
    """
    flags = [optimize, MACHINE, *FLAGS]
    library = library_of("lanes", source, *flags)
    keep(library, lambda: _compile(_compiler()[0], flags, source, library))
    try:
        return ctypes.CDLL(str(library)).run
    except (OSError, AttributeError) as error:
        library.unlink(missing_ok=True)  # broken: made anew the next time
        raise BuildError(f"cannot load {library}: {error}") from error


def is_built(source: str, optimize: str = "-O3") -> bool:
    """Tell whether a source is compiled, now or by an earlier process.

    Raises:
        BuildError: there is no compiler, or no directory to keep programs in.
    """
    return library_of("lanes", source, optimize, MACHINE, *FLAGS).exists()


def library_of(kind: str, *parts: str) -> Path:
    """Return the file of a compiled program of a kind: by its parts, the compiler and the processor.

    Raises:
        BuildError: there is no compiler, or no directory to keep programs in.
    """
    told = chr(0).join((*parts, _compiler()[1], _processor()))
    return _folder(kind) / f"{hashlib.sha256(told.encode()).hexdigest()[:40]}.so"


def keep(library: Path, make: Callable[[], None]) -> None:
    """Have ``make`` write a library where it is missing: one process does, and the others wait.

    Raises:
        BuildError: it cannot be written, or others can write it.
    """
    folder = library.parent
    try:
        with _locked(folder / "lock"):
            _clear(folder)
            if not library.exists():
                make()
        _check_owner(library)
    except OSError as error:
        raise BuildError(f"cannot write to {folder}: {error}; set FCBP_CACHE_DIR to a directory that can be") from error


def launcher(source: str, optimize: str, work: int, width: int) -> Launch:
    """Return a function that runs a source's function ``run`` on the machine's cores.

    Args:
        work: elements that a step of a block computes.
        width: members of a block.

    Raises:
        BuildError: as :func:`build`.
    """
    function = build(source, optimize)

    def launch(arguments: Arguments) -> int:
        shared = (ctypes.c_int64 * 2)()  # the block to take next, and the check that failed
        pointers_and_sizes = (
            (ctypes.c_int64 * 2)(arguments.members, arguments.steps),
            shared,
            _pointers(arguments.carry),
            _pointers(arguments.constants),
            _pointers(arguments.examples),
            (ctypes.c_int64 * max(len(arguments.strides), 1))(*arguments.strides),
            _pointers(arguments.ys),
        )
        blocks = -(-arguments.members // width)
        threads = min(torch.get_num_threads(), blocks)
        if threads == 1 or blocks * arguments.steps * work < THREADED_FROM:
            function(*pointers_and_sizes)
        else:
            # Every call takes blocks from one counter until none is left; Python's lock is not held meanwhile. This
            # thread calls as well: if it slept, the system might wake another on its core.
            calls = [_pool(threads - 1).submit(function, *pointers_and_sizes) for _ in range(threads - 1)]
            function(*pointers_and_sizes)
            for call in calls:
                call.result()
        if shared[1] == NO_MEMORY:
            raise MemoryError("no memory for a block of members")
        return shared[1]

    return launch


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fcbp-lanes")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has no threads but its own


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * max(len(tensors), 1))(*(tensor.data_ptr() for tensor in tensors))


def _compile(compiler: str, flags: list[str], source: str, library: Path) -> None:
    """Compile to another file and rename it, so that no process loads half a library."""
    seconds = compile_seconds()
    with _build_folder(library.parent) as build_folder:
        code, made = build_folder / "lanes.cpp", build_folder / "lanes.so"
        code.write_text(source, encoding="utf-8")
        command = [compiler, *flags, str(code), "-o", str(made), "-lm"]
        # The temporary folder is for what a compiler that is killed would leave.
        status, _, errors = run_for(command, seconds, {**os.environ, "TMPDIR": str(build_folder)})
        if status or not made.exists():
            first = next((line for line in errors.splitlines() if "error" in line), errors[:200])
            raise BuildError(f"{compiler} failed with status {status}: {first.strip()}")
        made.chmod(0o700)
        os.replace(made, library)


def run_for(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> tuple[int, str, str]:
    """Run a compiler for so long at most: its status, and what it wrote.

    Args:
        command: the program and its arguments.
        seconds: that it may take.
        environment: of the process; by default this one's.
        folder: in which the process works; by default this one's.

    Raises:
        BuildError: it did not end; it and all that it started are killed.
    """
    # Into files: a process that the compiler started would hold a pipe open as long as it lives.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            cwd=folder,
            text=True,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BuildError(
                f"{command[0]} has not ended after {seconds:g} seconds and was stopped; FCBP_COMPILE_SECONDS sets how "
                "long a program may compile"
            ) from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        return process.returncode, out.read(), err.read()


def compile_seconds() -> float:
    """Return the seconds that a program may compile: ``FCBP_COMPILE_SECONDS``, or the default.

    Raises:
        BuildError: the variable is no number above 0.
    """
    given = os.environ.get("FCBP_COMPILE_SECONDS")
    try:
        seconds = float(given) if given else COMPILE_SECONDS
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise BuildError(f"FCBP_COMPILE_SECONDS is {given!r}; expected a number of seconds above 0")
    return seconds


@functools.cache
def lanes() -> int:
    """Return the members in a vector, as the source has it: by the instructions that the compiler may use."""
    macros = _macros()
    return 16 if "__AVX512F__" in macros else 8 if "__AVX__" in macros else 4


def made_by() -> str:
    """Return the instructions and the compiler's family of this machine's programs, such as ``"AVX-512, g++"``.

    Raises:
        BuildError: there is no compiler, or it fails.
    """
    macros = _macros()
    known = (name for macro, name in INSTRUCTIONS.items() if macro in macros)
    return f"{next(known, platform.machine())}, {'clang++' if '__clang__' in macros else 'g++'}"


def _macros() -> str:
    """Return the macros that the compiler defines by itself."""
    return _output_of(_compiler()[0], MACHINE, "-dM", "-E", "-x", "c++", os.devnull)


@functools.cache
def _compiler() -> tuple[str, str]:
    """Return a C++ compiler and its version."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path, _output_of(path, "--version")
    raise BuildError(f"no C++ compiler is installed; looked for {' and '.join(COMPILERS)}")


def check_compiler(compiler: str) -> None:
    """Check that a C++ compiler makes an object file of an empty source, which takes a moment.

    Raises:
        BuildError: it fails, or does not end.
    """
    _output_of(compiler, "-x", "c++", "-c", os.devnull, "-o", os.devnull)


def _output_of(*command: str) -> str:
    """Return a compiler's output. The command runs once, so that a compiler that hangs is waited for once.

    Raises:
        BuildError: it fails, or does not end.
    """
    answer = _run_once(*command)
    if isinstance(answer, BuildError):
        raise answer
    return answer


@functools.cache
def _run_once(*command: str) -> str | BuildError:
    try:
        status, out, errors = run_for(command, ANSWER_SECONDS)
    except (BuildError, OSError) as error:
        return BuildError(f"{error}")
    return BuildError(f"{command[0]} failed with status {status}: {errors.strip()[:200]}") if status else out


@functools.cache
def _processor() -> str:
    """Return the processor, for which ``-march=native`` compiles."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kinds = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
        return "\n".join(sorted(kinds))
    return f"{platform.machine()} {platform.processor()} {platform.node()}"


def cache_folder(kind: str = "lanes") -> Path:
    """Return the folder of compiled programs of a kind, which need not be there.

    Raises:
        RuntimeError: no home directory is known.
    """
    general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("FCBP_CACHE_DIR") or Path(general) / "fcbp") / kind


def _folder(kind: str = "lanes") -> Path:
    """Return the cache directory, created where it is missing."""
    try:
        folder = cache_folder(kind)
        for missing in reversed([folder, *folder.parents]):
            if not missing.exists():
                missing.mkdir(mode=0o700, exist_ok=True)  # `parents=True` makes them by the umask alone
        _check_owner(folder)
    except (OSError, RuntimeError) as error:
        raise BuildError(f"no cache directory: {error}; set FCBP_CACHE_DIR to one that can be written") from error
    return folder


@contextlib.contextmanager
def _build_folder(folder: Path) -> Iterator[Path]:
    """Provide the folder to compile in, under the lock. It is always the same, so that a killed process leaves one at
    most."""
    path = folder / BUILD_FOLDER
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove the files of killed processes, under the lock."""
    for path in folder.iterdir():
        if path.name == BUILD_FOLDER or path.name.startswith("tmp"):
            shutil.rmtree(path, ignore_errors=True)  # which follows no link


def _check_owner(path: Path) -> None:
    """Refuse a file or a directory that others can write."""
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise BuildError(f"{path} can be written by others; expected it to be this user's alone")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock: of several processes one compiles, and the others wait."""
    import fcntl

    seconds = compile_seconds()
    end = time.monotonic() + seconds
    with path.open("a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise BuildError(
                        f"another process has compiled for {seconds:g} seconds, with {path} locked"
                    ) from None
                time.sleep(0.02)
        yield
