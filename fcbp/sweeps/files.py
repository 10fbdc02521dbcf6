"""Files that are whole or not there, reached by no link, and the lock of a run directory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "Directory",
    "Lock",
    "explained",
    "fresh",
    "is_locked",
    "read_json",
    "read_sealed",
    "write",
    "write_sealed",
]

NO_LINK = sum(getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
"""Flags of every opened name; a pipe that nobody writes to does not hold us up. (Windows has none of these.)"""
PART = ".part"
"""The ending of a file that is being written."""
ATTEMPTS = 5
"""Attempts at a lock, which another process holds for a moment while it looks whether it is held."""
PAUSE = 0.02
"""Seconds between two attempts."""


@contextlib.contextmanager
def fresh(path: Path) -> Iterator[Path]:
    """Make a directory that nobody else has: ``path``, or where there is one ``path-2``, ``path-3`` and so on.

    The directory goes again where nothing was written to it.
    """
    parent = next((folder for folder in path.parents if folder.exists()), path.parent)
    number, mine = 1, path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                mine.mkdir()
                break
            except FileExistsError:
                number += 1
                mine = path.with_name(f"{path.name}-{number}")
    except OSError as error:
        raise explained(error, path) from error
    try:
        yield mine
    finally:
        with contextlib.suppress(OSError):  # it holds something
            for folder in (mine, *mine.parents):
                if folder == parent:
                    break
                folder.rmdir()


class Directory:
    """A directory held open. Names in it are looked up from the handle, and none is followed to another place.

    A link in the place of a file or of a directory is an error, and so is whatever else is neither. The path of the
    directory itself may be a link, for a person named it.

    Args:
        path: its path.
        create: whether it is made where there is none, with those above it.

    Raises:
        OSError: there is none, or it cannot be made.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        self.path = path
        if create:
            path.mkdir(parents=True, exist_ok=True)
        self._descriptor = _opened(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        descriptor, self._descriptor = getattr(self, "_descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)

    def names(self) -> list[str]:
        """List the names in the directory, sorted."""
        return sorted(os.listdir(self._descriptor))

    def child(self, name: str, create: bool = False) -> Directory | None:
        """Return a directory in it; ``None`` where there is none.

        Raises:
            ValueError: something else has its name.
        """
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_plain(name), dir_fd=self._descriptor)
        elif self.kind(name) is None:
            return None
        self._check(name, stat.S_ISDIR, "directory")
        child = Directory.__new__(Directory)
        child.path = self.path / name
        child._descriptor = self._open(name, os.O_RDONLY | os.O_DIRECTORY)
        return child

    def kind(self, name: str) -> str | None:
        """``"file"``, ``"directory"``, ``"other"`` (a link, a pipe), or ``None`` where there is nothing."""
        try:
            mode = os.stat(_plain(name), dir_fd=self._descriptor, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None
        return "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; ``None`` where there is none.

        Raises:
            ValueError: something else has its name.
        """
        if self.kind(name) is None:
            return None
        self._check(name, stat.S_ISREG, "file")
        with contextlib.suppress(FileNotFoundError), os.fdopen(self._open(name, os.O_RDONLY), "rb") as file:
            return file.read()
        return None

    def write(self, name: str, data: bytes, sync: bool = True) -> None:
        """Write a file so that after a crash at any moment there is the old one or the new one, whole.

        Args:
            name: its name.
            data: its bytes.
            sync: whether to wait until the disk has them.

        Raises:
            OSError: the disk is full or cannot be written; the old file is as it was.
            ValueError: something else has its name.
        """
        self._check(name, stat.S_ISREG, "file")
        part = f"{name}{PART}"
        self.remove(part)
        try:
            with os.fdopen(self._open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            self.rename(part, name)
            if sync:
                self.sync()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.remove(part)
            raise explained(error, self.path / name) from error

    def rename(self, old: str, new: str) -> None:
        os.replace(_plain(old), _plain(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        """Remove a file where there is one.

        Raises:
            ValueError: something else has its name.
        """
        self._check(name, stat.S_ISREG, "file")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def remove_directory(self, name: str) -> bool:
        """Remove an empty directory, and tell whether it is gone."""
        try:
            os.rmdir(_plain(name), dir_fd=self._descriptor)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def sync(self, name: str | None = None) -> None:
        """Wait until the disk has a file, or the names in the directory."""
        descriptor = self._descriptor if name is None else self._open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            if name is not None:
                os.close(descriptor)

    def _open(self, name: str, flags: int) -> int:
        return _opened(_plain(name), flags | NO_LINK, self._descriptor)

    def _check(self, name: str, is_kind: Any, expected: str) -> None:
        """Check that an existing name is of a kind; a file has no other name elsewhere."""
        try:
            found = os.stat(_plain(name), dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not is_kind(found.st_mode):
            kind = "a link" if stat.S_ISLNK(found.st_mode) else f"no {expected}"
            raise ValueError(f"{self.path / name} is {kind}; expected a {expected} of the run, or nothing")


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"name is {name!r}; expected the name of a file, without a directory")
    return name


def _opened(path: Path | str, flags: int, directory: int | None = None) -> int:
    """Return a descriptor other than those of the standard streams, which may be closed and are written to all the
    same."""
    descriptor = os.open(path, flags, 0o666, dir_fd=directory)
    if descriptor > 2:
        return descriptor
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def write(path: Path, data: bytes) -> None:
    """:meth:`Directory.write` in the directory of a path."""
    Directory(path.parent).write(path.name, data)


def read_json(directory: Directory, name: str) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises:
        ValueError: there is none.
    """
    path = directory.path / name
    data = directory.read(name)
    if data is None:
        raise ValueError(f"{path} is not there; expected the directory of a sweep")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no object")
    return value


def write_sealed(directory: Directory, name: str, value: Mapping[str, Any], indent: int | None = None) -> None:
    """Write a JSON file that holds its own SHA-256."""
    plain = json.loads(json.dumps(dict(value), default=str))  # tuples as lists, as they come back from a file
    text = json.dumps({**plain, "sha256": _digest(plain)}, indent=indent)
    directory.write(name, f"{text}\n".encode())


def read_sealed(directory: Directory, name: str) -> dict[str, Any]:
    """Return the object that :func:`write_sealed` was given.

    Raises:
        ValueError: there is no such file, or it was changed.
    """
    value = read_json(directory, name)
    if value.pop("sha256", None) != _digest(value):
        raise ValueError(f"{directory.path / name} is damaged or was changed: its checksum does not match")
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def explained(error: OSError, path: Path) -> OSError:
    """Add to an error what a person can do about it."""
    advice = {errno.ENOSPC: "; make room and resume", errno.EFBIG: "; raise the limit and resume"}
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return OSError(error.errno or errno.EIO, f"writing failed: {reason}{advice.get(error.errno or 0, '')}", str(path))


class Lock:
    """A run directory is one process's: held from the construction to :meth:`release`, or to the process's end.

    Args:
        directory: the run directory.
        name: the lock's file.

    Raises:
        BlockingIOError: another process holds it.
        ValueError: something else has its name.
    """

    def __init__(self, directory: Directory, name: str) -> None:
        self.directory, self.name = directory, name
        for attempt in range(ATTEMPTS):
            self._descriptor = self._open()
            if not _lock(self._descriptor):
                owner = os.read(self._descriptor, 200).decode(errors="replace") or "another process"
                os.close(self._descriptor)
                if attempt == ATTEMPTS - 1:
                    message = f"in use by {owner}; wait for it or stop it"
                    raise BlockingIOError(errno.EAGAIN, message, str(directory.path))
                time.sleep(PAUSE)
            elif self._is_there():
                break
            else:  # its holder removed the file between our opening and our locking it
                os.close(self._descriptor)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {platform.node()}".encode())

    def _open(self) -> int:
        self.directory._check(self.name, stat.S_ISREG, "file")
        descriptor = self.directory._open(self.name, os.O_RDWR | os.O_CREAT)
        if os.fstat(descriptor).st_nlink > 1:  # it would be overwritten under its other name as well
            os.close(descriptor)
            path = self.directory.path / self.name
            raise ValueError(f"{path} has another name elsewhere; expected a file of the run, or nothing")
        return descriptor

    def _is_there(self) -> bool:
        """Tell whether the file that is locked is the one with the lock's name."""
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self.name, dir_fd=self.directory._descriptor, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(self._descriptor))
        return False

    def release(self) -> None:
        if self._is_there():
            self.directory.remove(self.name)
        os.close(self._descriptor)


def is_locked(directory: Directory, name: str) -> bool:
    """Tell whether a living process holds the lock."""
    if directory.kind(name) != "file":
        return False
    try:
        descriptor = directory._open(name, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, shared: bool = False) -> bool:
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
