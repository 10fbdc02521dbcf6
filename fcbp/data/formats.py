"""The formats of files: IDX, pickles of arrays, NumPy's. Each reads bytes and names the file where they are wrong."""

from __future__ import annotations

import contextlib
import gzip
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["idx", "npy", "npz", "npz_names", "pickled", "unzipped"]

GZIP = b"\x1f\x8b"
OF_ZIP = b"PK"
BYTE = 0x08
"""IDX's number for unsigned bytes, the only numbers that the data sets have."""


def unzipped(data: bytes, where: str) -> bytes:
    """Decompress ``data`` where gzip compressed it.

    Raises:
        ValueError: it is damaged or ends too early.
    """
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except EOFError:
        raise ValueError(f"{where} is cut off: its compressed data end too early") from None
    except (OSError, zlib.error) as error:
        raise ValueError(f"{where} is damaged: {error}") from None


def idx(data: bytes, where: str, dimensions: int) -> np.ndarray:
    """Read the array of unsigned bytes in an IDX file, the format of MNIST.

    Args:
        data: the file's bytes; they may be compressed by gzip.
        where: the file's name, for errors.
        dimensions: axes that the array should have: 3 of images, 1 of classes.

    Raises:
        ValueError: it is no such file, or is longer or shorter than it says.

    Example:
        >>> idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]), "labels", 1)
        array([7, 8, 9], dtype=uint8)
    """
    data = unzipped(data, where)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{where} is no IDX file: it begins with {_beginning(data)}; expected 00 00 08")
    if data[2] != BYTE:
        raise ValueError(f"{where} has numbers of type 0x{data[2]:02x}; expected 0x08, unsigned bytes")
    if data[3] != dimensions:
        kinds = {1: "classes", 3: "images"}
        found, expected = (f"{n} axes ({kinds[n]})" if n in kinds else f"{n} axes" for n in (data[3], dimensions))
        raise ValueError(f"{where} has an array of {found}; expected {expected}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise ValueError(f"{where} is cut off: {len(data)} bytes; expected {start} or more")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    size = start + int(np.prod(shape, dtype=np.int64))
    if len(data) != size:
        what = "is cut off" if len(data) < size else "is too long"
        raise ValueError(f"{where} {what}: {len(data):,} bytes; expected {size:,} for an array {shape}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _beginning(data: bytes) -> str:
    if data.lstrip()[:1] == b"<":
        return f"{data.lstrip()[:20]!r}, as a page of the web does"
    return data[:4].hex(" ") or "nothing"


_ARRAY = np.zeros(1)
PERMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ARRAY.__reduce__()[0] for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _ARRAY.__reduce_ex__(5)[0] for core in ("core", "_core")},
    # How Python 3 writes bytes in the old protocols.
    ("_codecs", "encode"): lambda text, encoding: text.encode({"latin1": "latin1"}[encoding]),
    ("__builtin__", "bytes"): bytes,
    ("builtins", "bytes"): bytes,
    ("builtins", "bytearray"): bytearray,
}
"""All that a pickle may ask for beside lists, dicts, texts and numbers: the parts of arrays."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PERMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data need")
        return PERMITTED[module, name]


def pickled(data: bytes, where: str) -> dict[str, Any]:
    """Read the dict of arrays and lists in a pickle, which can ask for nothing else; keys are texts.

    Args:
        data: the file's bytes; also as Python 2 wrote them.
        where: the file's name, for errors.

    Raises:
        ValueError: it is no pickle, is cut off, holds anything but such a dict, or asks for any other function or
            class.

    Example:
        >>> pickled(pickle.dumps({b"labels": [1, 2]}), "test_batch")
        {'labels': [1, 2]}
    """
    try:
        value = _Restricted(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # damaged pickles raise errors of every kind
        raise ValueError(
            f"{where} cannot be read as a pickle of arrays: {str(error) or type(error).__name__}"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds a {type(value).__name__}; expected a dict of arrays")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): part for key, part in value.items()}


def npz(data: bytes | Path, where: str, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file by name.

    Args:
        data: the file's bytes; or its path, from which only the named arrays are read.
        where: the file's name, for errors.
        names: those that are read, of which some may not be there; by default all.

    Raises:
        ValueError: it is none, is damaged, or has objects in place of numbers.
    """
    with _opened(data, where) as file:
        return {name: file[name] for name in file.files if names is None or name in names}


def npz_names(path: Path) -> list[str]:
    """Read the names of the arrays in an ``.npz`` file.

    Raises:
        ValueError: it is none, or is damaged.
    """
    with _opened(path, str(path)) as file:
        return list(file.files)


@contextlib.contextmanager
def _opened(data: bytes | Path, where: str) -> Iterator[np.lib.npyio.NpzFile]:
    with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
        beginning = file.read(20)
        if not beginning.startswith(OF_ZIP):
            raise ValueError(
                f"{where} is no .npz file: it begins with {_beginning(beginning)}; expected {OF_ZIP.hex(' ')}"
            )
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                yield arrays
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from None


def npy(data: bytes, where: str) -> np.ndarray:
    """Read the array of an ``.npy`` file.

    Raises:
        ValueError: it is none, is damaged, or has objects in place of numbers.
    """
    if not data.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError(f"{where} is no .npy file: it begins with {_beginning(data)}")
    try:
        array: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
        return array
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{where} cannot be read: {error}") from None
