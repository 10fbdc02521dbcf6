"""Checkpoints: the whole state of a chunk as one checksummed block of bytes, and where the last two are kept."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcbp.sweeps import files

__all__ = ["InMemory", "OnDisk", "pack", "unpack"]

MAGIC = b"fcbp checkpoint"
FORMAT = 1
"""Raised where the meaning of a checkpoint changes."""
KEPT = 2


class DamagedError(ValueError):
    """Bytes that are no whole checkpoint."""


def pack(about: Mapping[str, Any], tensors: Sequence[Tensor]) -> bytes:
    """A line that says what it is, a line about the state, the SHA-256 of what follows, and the tensors.

    The tensors keep their strides, for an operation may sum in another order where they differ.
    """
    buffer = io.BytesIO()
    torch.save([tensor.detach().cpu() for tensor in tensors], buffer)
    body = json.dumps(dict(about)).encode() + b"\n" + buffer.getvalue()
    return b"%s %d %s\n%s" % (MAGIC, FORMAT, hashlib.sha256(body).hexdigest().encode(), body)


def unpack(data: bytes) -> tuple[dict[str, Any], list[Tensor]]:
    """What :func:`pack` was given.

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


class InMemory:
    """The last checkpoint of every chunk, for a sweep without a run directory."""

    def __init__(self) -> None:
        self._latest: dict[int, bytes] = {}

    def write(self, chunk: int, data: bytes) -> None:
        self._latest[chunk] = data

    def read(self, chunk: int) -> bytes | None:
        return self._latest.get(chunk)

    def drop(self, chunk: int) -> None:
        self._latest.pop(chunk, None)


class OnDisk:
    """The last two checkpoints of every chunk, as files ``CHUNK.NUMBER`` of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, chunk: int, data: bytes) -> None:
        """Keep a checkpoint; the last but one goes when it is safe on the disk."""
        self.folder.mkdir(exist_ok=True)
        before = self._files(chunk)
        number = int(before[-1].suffix[1:]) + 1 if before else 0
        files.write(self.folder / f"{chunk:06d}.{number:06d}", data)
        for old in before[: len(before) - KEPT + 1]:
            old.unlink()

    def read(self, chunk: int) -> bytes | None:
        """The newest checkpoint that is whole; ``None`` where there is none.

        Raises:
            ValueError: another version of the library wrote it.
        """
        for path in reversed(self._files(chunk)):
            data = path.read_bytes()
            try:
                unpack(data)
                return data
            except DamagedError as error:
                warnings.warn(f"{path} is of no use: {error}; going on from the one before", UserWarning, stacklevel=2)
                path.unlink()
        return None

    def drop(self, chunk: int) -> None:
        for path in self._files(chunk):
            path.unlink()

    def _files(self, chunk: int) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"{chunk:06d}.*") if path.suffix[1:].isdigit())
