"""Files that are whole or not there, and the lock of a run directory."""

from __future__ import annotations

import errno
import json
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["Lock", "explained", "is_locked", "read_json", "sync", "write", "write_json"]


def write(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any moment there is the old one or the new one, whole.

    Raises:
        OSError: the disk is full or cannot be written; the old file is as it was.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise explained(error, path) from error
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    write(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def explained(error: OSError, path: Path) -> OSError:
    """The error, with what a person can do about it."""
    advice = {errno.ENOSPC: "; make room and resume", errno.EFBIG: "; raise the limit and resume"}
    reason = f"{os.strerror(error.errno or 0)}{advice.get(error.errno or 0, '')}"
    return OSError(error.errno, f"writing failed: {reason}", str(path))


class Lock:
    """A run directory is one process's: held from the construction to :meth:`release`, or to the process's end.

    Raises:
        BlockingIOError: another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            if not _lock(self._descriptor):
                owner = os.read(self._descriptor, 200).decode(errors="replace") or "another process"
                os.close(self._descriptor)
                raise BlockingIOError(errno.EAGAIN, f"in use by {owner}; wait for it or stop it", str(path.parent))
            # Its holder may have removed the file between our opening and our locking it.
            if path.exists() and os.stat(path).st_ino == os.fstat(self._descriptor).st_ino:
                break
            os.close(self._descriptor)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: nothing keeps two processes apart
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
