"""``fetch``: download a data set: goes on where it was interrupted, checks the sum, and puts whole files in place."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fcbp.checks import arguments
from fcbp.data.catalogue import CATALOGUE, Published, default_root
from fcbp.data.places import checksum
from fcbp.names import lookup
from fcbp.paths import expanded

__all__ = ["fetch"]

AT_ONCE = 1 << 18
"""Bytes read at once."""
TIMEOUT = 30.0
"""Seconds that a server may be silent."""
ATTEMPTS = 3
"""Times that a connection is opened anew where it breaks; each goes on where the last one ended."""
SHOW_EVERY = 5.0
"""Seconds between two lines where there is no bar."""


class _Broken(Exception):
    """A download that ended too early, or that the server refused; the message says why."""


@arguments
def fetch(name: str, root: str | os.PathLike[str] | None = None, *, progress: bool = True) -> Path:
    """Download those of a data set's files that are missing.

    A file is written beside its place as ``.part`` and moved there when it is whole and its sum is the published one. A
    download that was interrupted goes on where it ended. Of two processes one waits for the other.

    Args:
        name: one of :func:`fcbp.data.names`.
        root: the folder of data; by default ``FCBP_DATA``, or ``~/.cache/fcbp/data``. Its layout is torchvision's.
        progress: show a bar (with tqdm) or lines.

    Returns:
        The folder of data.

    Raises:
        ValueError: the name is unknown, there is nothing to download, or the sum of a file, of one that is there or of
            a download, is another than the published one.
        OSError: no server gives the file, the folder cannot be written, or the disk is full.
    """
    entry = lookup("name", name, CATALOGUE)
    folder = expanded("root", root) if root is not None else default_root()
    if not entry.files:
        raise ValueError(f"{name} cannot be downloaded: {entry.hint}")
    for file in entry.files:
        _fetch_file(file, folder, progress, entry.hint)
    return folder


def _fetch_file(file: Published, folder: Path, progress: bool, hint: str) -> None:
    from filelock import FileLock, Timeout

    path = folder / file.path
    if file.instead and all((folder / other).is_file() for other in file.instead):
        return
    with _of_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that downloads {path}", file=sys.stderr)
            lock.acquire()
    try:
        if path.is_file():
            _check_sum(path, file, f"; remove it, and fetch again: {file.urls[0]}")
        else:
            _download(file, path, progress, hint)
    finally:
        lock.release()


def _download(file: Published, path: Path, progress: bool, hint: str) -> None:
    part = path.with_name(f"{path.name}.part")
    reasons = []
    for url in file.urls:
        # A part of another file, or of an older one, has a wrong sum at last: once more, from the beginning.
        for resumed in (part.exists(), False):
            try:
                _into(url, part, progress)
                _check_sum(part, file, f" of {url}; the download is not kept")
            except _Broken as error:
                reasons.append(f"{url}: {error}")
                break
            except ValueError as error:
                part.unlink(missing_ok=True)
                if resumed:
                    continue
                reasons.append(str(error))
                break
            with _of_disk(path):
                part.replace(path)
            return
    advice = f"; {hint}" if hint else ""
    reason = f"{path.name} cannot be downloaded: {'; '.join(reasons)}{advice}"
    if any(" is md5:" in text or " is sha256:" in text for text in reasons):
        raise ValueError(reason)
    raise ConnectionError(errno.ECONNABORTED, reason, str(path))


def _check_sum(path: Path, file: Published, then: str) -> None:
    kind, _, expected = file.sum.partition(":")
    found = checksum(path, kind)
    if found != expected:
        raise ValueError(f"the sum of {path} is {kind}:{found}; expected {file.sum}{then}")


def _into(url: str, part: Path, progress: bool) -> None:
    """Append to ``part`` the rest of a file.

    Raises:
        _Broken: the server refuses, or every connection breaks.
        OSError: the part cannot be written.
    """
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(attempt)
        before = part.stat().st_size if part.exists() else 0
        try:
            if _go_on(url, part, before, progress):
                return
            reason = f"it ended after {part.stat().st_size:,} bytes"
        except _Broken:
            raise
        except _network_errors() as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES):
                raise
            reason = str(getattr(error, "reason", "") or error or type(error).__name__)
    raise _Broken(reason)


def _network_errors() -> tuple[type[Exception], ...]:
    from http.client import HTTPException

    return OSError, HTTPException


def _go_on(url: str, part: Path, start: int, progress: bool) -> bool:
    """Tell whether the file is whole after this connection."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    asked = {"User-Agent": "fcbp", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        answer = urlopen(Request(url, headers=asked), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416 and start:  # nothing is left to send
            return True
        reason = f"the server says {error.code} {error.reason}"
        # What is wrong with a server may pass; a refusal stays.
        raise ConnectionAbortedError(reason) if error.code >= 500 else _Broken(reason) from None
    with answer:
        goes_on = start and getattr(answer, "status", 200) == 206
        start = start if goes_on else 0
        left = answer.headers.get("Content-Length")
        total = start + int(left) if left else None
        with _of_disk(part), part.open("ab" if goes_on else "wb") as file, _shown(part, start, total, progress) as tell:
            while block := _read(answer):
                file.write(block)
                tell(len(block))
            file.flush()
            os.fsync(file.fileno())
            return total is None or file.tell() >= total


def _read(answer: Any) -> bytes:
    """Read a block; an error here is the connection's, not the disk's."""
    try:
        block: bytes = answer.read(AT_ONCE)
        return block
    except OSError as error:
        raise ConnectionAbortedError(str(error)) from error


@contextlib.contextmanager
def _of_disk(path: Path) -> Iterator[None]:
    """Add the file's name to errors of the disk."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        advice = {errno.ENOSPC: "; make room and fetch again: it goes on where it ended"}.get(error.errno or 0, "")
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"the download cannot be written: {reason}{advice}", str(path)) from error


@contextlib.contextmanager
def _shown(part: Path, done: int, total: int | None, progress: bool) -> Iterator[Callable[[int], None]]:
    """Provide a function that takes the number of bytes received."""
    name = part.name.removesuffix(".part")
    if not progress:
        yield lambda _: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield _lines(name, done, total)
        return
    with tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        yield lambda number: bar.update(number) and None


def _lines(name: str, done: int, total: int | None) -> Callable[[int], None]:
    shown = time.monotonic()

    def tell(number: int) -> None:
        nonlocal done, shown
        done += number
        if time.monotonic() - shown > SHOW_EVERY:
            shown = time.monotonic()
            of = f" of {total / 1e6:,.0f}" if total else ""
            print(f"{name}: {done / 1e6:,.0f}{of} MB", file=sys.stderr)

    return tell
