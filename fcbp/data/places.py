"""Places of the bytes of a data set: a file, a compressed file, or an archive as it was downloaded."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Place", "checksum", "find", "members"]

AT_ONCE = 1 << 20
"""Bytes read at once for a sum."""
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


class Place(NamedTuple):
    """Bytes in a file, or in a member of an archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """Return all of them.

        Raises:
            ValueError: the archive is damaged, or has no such member.
            OSError: the file cannot be read.
        """
        if not self.member:
            return self.path.read_bytes()
        try:
            if zipfile.is_zipfile(self.path):
                with zipfile.ZipFile(self.path) as zipped:
                    return zipped.read(self.member)
            with tarfile.open(self.path) as tar:
                # Member by member: to look one up by name, tarfile would first read the whole archive.
                file = next((tar.extractfile(member) for member in tar if member.name == self.member), None)
                if file is None:
                    raise KeyError(self.member)
                return file.read()
        except KeyError:
            raise ValueError(f"{self.path} has no member {self.member}") from None
        except DAMAGED as error:
            raise ValueError(f"{self.path} is damaged or cut off: {error}") from None


def find(root: Path, *places: str | tuple[str, str]) -> Place | None:
    """Return the first of ``places`` under ``root`` that is there.

    Args:
        root: a folder.
        places: paths of files, or pairs of an archive's path and a member's name.
    """
    for place in places:
        path, member = (place, "") if isinstance(place, str) else place
        if (root / path).is_file():
            return Place(root / path, member)
    return None


def members(archive: Path) -> Sequence[str]:
    """List the names of an archive's files.

    Raises:
        ValueError: it is damaged or no archive.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                return zipped.namelist()
        with tarfile.open(archive) as tar:
            return tar.getnames()
    except DAMAGED as error:
        raise ValueError(f"{archive} is damaged or cut off: {error}") from None


def checksum(path: Path, algorithm: str) -> str:
    """Compute the checksum of a file's bytes, in hexadecimal digits.

    Args:
        path: a file.
        algorithm: ``"md5"`` or ``"sha256"``.
    """
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(AT_ONCE):
            digest.update(block)
    return digest.hexdigest()
