"""Checkpoints: the whole state of a chunk as one checksummed block of bytes, of which the last two are kept."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fcbp.sweeps.files import PART, Directory

__all__ = ["DamagedError", "InMemory", "OnDisk", "Owner", "pack", "restore", "unpack"]

MAGIC = b"fcbp checkpoint"
FORMAT = 1
"""Version of checkpoints, raised where their meaning changes."""
KEPT = 2


class DamagedError(ValueError):
    """Bytes that are no whole checkpoint of the chunk that they are read for."""


class Owner(NamedTuple):
    """The chunk whose state a checkpoint is."""

    sweep: str
    """The digest of the plan."""
    members: tuple[int, ...]
    steps: int
    """Steps of the whole run; a checkpoint lies between its first and its last."""

    def about(self, step: int) -> dict[str, Any]:
        """Return the line about a state after ``step`` steps, as :func:`pack` takes it."""
        return {"sweep": self.sweep, "members": list(self.members), "step": step}

    def check(self, about: Mapping[str, Any]) -> int:
        """Return the step of a checkpoint of this chunk.

        Raises:
            DamagedError: it is of other members, or of no step of the run.
            ValueError: it is of another sweep.
        """
        if about.get("sweep") != self.sweep:
            raise ValueError("the checkpoint is of another sweep; expected one of this experiment and these members")
        if about.get("members") != list(self.members):
            raise DamagedError("it is of other members")
        step = about.get("step")
        if not isinstance(step, int) or not 0 < step < self.steps:
            raise DamagedError(f"its step is {step!r}; expected one between 0 and {self.steps}")
        return step


def pack(about: Mapping[str, Any], tensors: Sequence[Tensor]) -> bytes:
    """Pack tensors into bytes: a line with the format, a line about the state, the SHA-256 of the rest, and the
    tensors.

    The tensors keep their strides, for an operation may sum in another order where they differ.
    """
    buffer = io.BytesIO()
    torch.save([tensor.detach().cpu() for tensor in tensors], buffer)
    body = json.dumps(dict(about)).encode() + b"\n" + buffer.getvalue()
    return b"%s %d %s\n%s" % (MAGIC, FORMAT, hashlib.sha256(body).hexdigest().encode(), body)


def unpack(data: bytes) -> tuple[dict[str, Any], list[Tensor]]:
    """Undo :func:`pack`.

    Raises:
        DamagedError: the bytes are cut or changed.
        ValueError: another version of the library wrote them.
    """
    first, _, body = data.partition(b"\n")
    words = first.split()
    if not first.startswith(MAGIC) or len(words) != 4:
        raise DamagedError("it is no checkpoint")
    if words[2] != b"%d" % FORMAT:
        raise ValueError(f"checkpoint has format {words[2].decode()}; expected {FORMAT}: use the version that wrote it")
    if hashlib.sha256(body).hexdigest().encode() != words[3]:
        raise DamagedError("its checksum does not match")
    about, _, tensors = body.partition(b"\n")
    return json.loads(about), torch.load(io.BytesIO(tensors), weights_only=True)


def restore(data: bytes, owner: Owner) -> tuple[int, list[Tensor]]:
    """Return the step and the tensors of a chunk's checkpoint.

    Raises:
        DamagedError: the bytes are cut or changed, or of another chunk.
        ValueError: they are of another sweep, or another version of the library wrote them.
    """
    about, tensors = unpack(data)
    return owner.check(about), tensors


class InMemory:
    """The last checkpoint of every chunk, for a sweep without a run directory."""

    def __init__(self) -> None:
        self._latest: dict[int, bytes] = {}

    def write(self, chunk: int, data: bytes) -> None:
        self._latest[chunk] = data

    def read(self, chunk: int, owner: Owner) -> bytes | None:
        return self._latest.get(chunk)

    def drop(self, chunk: int) -> None:
        self._latest.pop(chunk, None)


class OnDisk:
    """The last two checkpoints of every chunk, as files ``CHUNK.NUMBER`` of a folder.

    Args:
        run: the run directory.
        name: the folder's name; the folder is made with the first checkpoint.
    """

    def __init__(self, run: Directory, name: str) -> None:
        self._run, self._name = run, name

    def write(self, chunk: int, data: bytes) -> None:
        """Keep a checkpoint; the last but one goes when it is safe on the disk."""
        folder = self._folder(create=True)
        assert folder is not None
        before = _files(folder, chunk)
        number = int(before[-1].partition(".")[2]) + 1 if before else 0
        folder.write(f"{chunk:06d}.{number:06d}", data)
        for old in before[: len(before) - KEPT + 1]:
            folder.remove(old)

    def read(self, chunk: int, owner: Owner) -> bytes | None:
        """Return the newest checkpoint that is whole and of this chunk; ``None`` where there is none.

        Raises:
            ValueError: it is of another sweep, or another version of the library wrote it.
        """
        folder = self._folder()
        for name in reversed(_files(folder, chunk) if folder else []):
            assert folder is not None
            data = folder.read(name)
            try:
                restore(data or b"", owner)
                return data
            except DamagedError as error:
                message = f"{folder.path / name} is of no use: {error}; going on from the one before"
                warnings.warn(message, UserWarning, stacklevel=2)
                folder.remove(name)
        return None

    def drop(self, chunk: int) -> None:
        folder = self._folder()
        for name in _files(folder, chunk) if folder else []:
            assert folder is not None
            folder.remove(name)

    def clear(self) -> None:
        """Remove all checkpoints, and the folder where nothing else lies in it."""
        folder = self._folder()
        if folder is None:
            return
        for name in folder.names():
            if FILE.fullmatch(name.removesuffix(PART)) and folder.kind(name) == "file":
                folder.remove(name)
        self._run.remove_directory(self._name)

    def _folder(self, create: bool = False) -> Directory | None:
        return self._run.child(self._name, create)


FILE = re.compile(r"\d{6,}\.\d{6,}")


def _files(folder: Directory, chunk: int) -> list[str]:
    """List the names of a chunk's checkpoints, the oldest first."""
    ours = [name for name in folder.names() if FILE.fullmatch(name) and int(name.partition(".")[0]) == chunk]
    return sorted(ours, key=lambda name: int(name.partition(".")[2]))
