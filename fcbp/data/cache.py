"""Data sets as plain arrays on the disk, written once and mapped into memory by every process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fcbp.data.layouts import Chunk, Layout

__all__ = ["Arrays", "checked", "folder_for", "in_memory", "mapped"]

VERSION = 1
"""Version of the files written; another version writes anew."""
SPLITS = ("train", "test")
ABOUT = "about.json"

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Inputs and targets by split."""


def folder_for(root: Path) -> Path:
    """Return the folder for the arrays of data in ``root``: ``FCBP_CACHE``, or ``.fcbp`` in ``root``."""
    chosen = os.environ.get("FCBP_CACHE")
    return Path(chosen).expanduser() if chosen else root / ".fcbp"


def checked(layout: Layout) -> Iterator[Chunk]:
    """Yield a layout's examples, checked; an error names the file.

    Raises:
        ValueError: inputs are no numbers or of different shapes, numbers of inputs and targets differ, targets name no
            class, or numbers are not finite.
    """
    first: Chunk | None = None
    for chunk in layout.chunks():
        inputs, targets = chunk.inputs, np.asarray(chunk.targets).astype(np.int64)
        if np.issubdtype(inputs.dtype, np.floating):
            if not np.isfinite(inputs).all():
                raise ValueError(f"{chunk.where} has numbers that are NaN or infinite")
            inputs = inputs.astype(np.float32)
        elif inputs.dtype != np.uint8:
            raise ValueError(f"{chunk.where} has inputs of type {inputs.dtype}; expected uint8 or floating numbers")
        if inputs.ndim < 2 or 0 in inputs.shape[1:]:
            raise ValueError(f"{chunk.where} has inputs of shape {inputs.shape}; expected (examples, *shape)")
        if len(inputs) != len(targets):
            raise ValueError(f"{chunk.where} has {len(inputs):,} inputs and {len(targets):,} targets")
        if first is not None and (inputs.shape[1:], inputs.dtype) != (first.inputs.shape[1:], first.inputs.dtype):
            raise ValueError(
                f"{chunk.where} has inputs {inputs.shape[1:]} of {inputs.dtype}; {first.where} has "
                f"{first.inputs.shape[1:]} of {first.inputs.dtype}"
            )
        highest = len(layout.classes) - 1 if layout.classes else np.iinfo(np.int64).max
        if len(targets) and not 0 <= targets.min() <= targets.max() <= highest:
            expected = f"0 to {highest}" if layout.classes else "0 or more"
            where = chunk.where_targets or chunk.where
            raise ValueError(f"{where} has targets {targets.min()} to {targets.max()}; expected {expected}")
        chunk = chunk._replace(inputs=inputs, targets=targets)
        first = first or chunk
        yield chunk


def in_memory(layout: Layout, name: str) -> Arrays:
    """Return all examples of a small data set.

    Raises:
        ValueError: see :func:`checked`; or there is nothing to learn from.
    """
    chunks = list(checked(layout))
    _need_training(name, layout, sum(len(chunk.targets) for chunk in chunks if chunk.split == "train"))
    return {
        split: (
            np.concatenate([chunks[0].inputs[:0], *(chunk.inputs for chunk in chunks if chunk.split == split)]),
            np.concatenate([chunks[0].targets[:0], *(chunk.targets for chunk in chunks if chunk.split == split)]),
        )
        for split in SPLITS
    }


def mapped(layout: Layout, name: str, cache: Path) -> Arrays:
    """Return all examples, from a file that is mapped into memory; it is written if it is not there yet.

    Where several processes find none, one writes it and the others wait. The file is there whole or not at all.

    Args:
        layout: the source of the examples.
        name: of the data set.
        cache: the folder for what is written.

    Raises:
        ValueError: the files are wrong, see :func:`checked`.
        OSError: the cache cannot be written, or the disk is full.
    """
    path = cache / f"{name}-{_fingerprint(layout)}"
    if not path.is_dir():
        with _told(path), _alone(cache, name):
            if not path.is_dir():
                _write(layout, name, path)
    return {split: (_map(path / f"{split}-inputs.npy"), _map(path / f"{split}-targets.npy")) for split in SPLITS}


def _fingerprint(layout: Layout) -> str:
    """Return a text that differs where a file has changed."""
    stats = [(str(path.resolve()), path.stat()) for path in layout.files]
    described = [VERSION, [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _alone(cache: Path, name: str) -> Iterator[None]:
    """Keep other processes from writing the same."""
    from filelock import FileLock

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        for left in cache.glob(f"{name}-*.part"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Add to errors of the disk what a person can do about them."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "set FCBP_CACHE to a folder that can be written"
        else:
            advice = "make room, or set FCBP_CACHE to a folder on another disk"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"the data cannot be written as arrays: {reason}; {advice}", str(path)) from error


def _write(layout: Layout, name: str, path: Path) -> None:
    part = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            writers: dict[tuple[str, str], _Growing] = {}
            for chunk in _read(layout):
                for kind, values in (("inputs", chunk.inputs), ("targets", chunk.targets)):
                    for split in SPLITS:
                        if (split, kind) not in writers:
                            file = part / f"{split}-{kind}.npy"
                            writers[split, kind] = stack.enter_context(_Growing(file, values[:0]))
                    writers[chunk.split, kind].append(values)
            _need_training(name, layout, writers["train", "inputs"].length if writers else 0)
        about = {"name": name, "version": VERSION, "files": [str(file) for file in layout.files]}
        (part / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            shutil.rmtree(part)  # locks do not hold on every disk: another process was first
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _read(layout: Layout) -> Iterator[Chunk]:
    """Check examples as :func:`checked` does; an error of reading is none of writing."""
    chunks = checked(layout)
    while True:
        try:
            chunk = next(chunks, None)
        except OSError as error:
            raise ValueError(f"{error.filename or layout.files[0]} cannot be read: {error.strerror or error}") from None
        if chunk is None:
            return
        yield chunk


class _Growing:
    """A ``.npy`` file that examples are appended to; a header of the same length says at last how many there are."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self.length, self._like = 0, like
        self._file: Any = path.open("wb")
        self._file.write(self._header())

    def __enter__(self) -> _Growing:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._file.write(self._header())
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def append(self, values: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(values, self._like.dtype).data)
        self.length += len(values)

    def _header(self) -> bytes:
        # NumPy leaves room for a longer first axis; the length of the header stays as it is.
        described = np.lib.format.header_data_from_array_1_0(self._like)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {**described, "shape": (self.length, *self._like.shape[1:])})
        return header.getvalue()


def _map(path: Path) -> np.ndarray:
    """Return a private mapping: its pages are every process's until one writes to them."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
        return array
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove the folder {path.parent} to have it made anew") from None


def _need_training(name: str, layout: Layout, examples: int) -> None:
    if not examples:
        raise ValueError(f"{name}: {layout.files[0]} has no example to learn from")
