"""Zarr (format 2) as names and bytes: blocks that know which they are, and whatever else a store holds.

Zarr itself follows links, writes in place, reads what is missing as a default, and takes a block for any other of its
size. So files are read and written by :mod:`fcbp.sweeps.files`, and Zarr sees only a store in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp.sweeps.files import PART, Directory

if TYPE_CHECKING:
    import xarray

__all__ = ["clear", "dataset", "decode", "derived", "encode", "encoding", "is_sealed", "need", "read", "write"]

TOP = {".zgroup", ".zattrs"}
ARRAY = re.compile(r"\.zarray|\.zattrs|\d+(\.\d+)*")
"""Names of the files of an array: two of metadata, and its blocks."""
SKIPPED = 0x184D2A50
"""Zstandard's mark of a frame that decoders pass over."""
HEADER = struct.pack("<II", SKIPPED, 32)
CODECS = {"shuffle", "zstd", "blosc", "zlib", "lz4", "vlen-utf8"}
"""Codecs that results are written with. A stranger's store may name one that runs code."""


def need(name: str) -> ModuleType:
    """Return the module of an extra.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"sweeps need {name}; install it with: pip install 'fcbp[sweep]'") from None


# --- blocks ---------------------------------------------------------------------------------------------


def encode(sweep: str, key: str, values: np.ndarray) -> bytes:
    """Compress a block of float32 values.

    The SHA-256 of the block, its name and its sweep stands behind it, where decoders pass over it: so a block in the
    place of another is found out.

    Args:
        sweep: the digest of the plan.
        key: the block's name in the store, such as ``"loss/0.0"``.
        values: the whole block, in the order of its memory.
    """
    shuffle, zstd = _codecs()
    frame = bytes(zstd.encode(shuffle.encode(np.ascontiguousarray(values, "<f4"))))
    return frame + HEADER + _seal(sweep, key, frame)


def is_sealed(sweep: str, key: str, data: bytes | None) -> bool:
    """Tell whether bytes are what :func:`encode` made for this place."""
    if data is None or len(data) < 40:
        return False
    frame, trailer = data[:-40], data[-40:]
    return trailer == HEADER + _seal(sweep, key, frame)


def decode(data: bytes, shape: Sequence[int]) -> np.ndarray:
    """Return the values of a block for which :func:`is_sealed` holds."""
    shuffle, zstd = _codecs()
    return np.frombuffer(shuffle.decode(zstd.decode(data[:-40])), "<f4").reshape(shape)


def _seal(sweep: str, key: str, frame: bytes) -> bytes:
    return hashlib.sha256(f"{sweep}/{key}\n".encode() + frame).digest()


def _codecs() -> tuple[Any, Any]:
    numcodecs = need("numcodecs")
    return numcodecs.Shuffle(4), numcodecs.Zstd(level=3, checksum=True)


def encoding(chunks: Sequence[int]) -> dict[str, Any]:
    """Return the description of arrays of such blocks for xarray."""
    shuffle, zstd = _codecs()
    compressor = {"compressor": zstd} if need("zarr").__version__ < "3" else {"compressors": [zstd]}
    return {"chunks": tuple(chunks), "_FillValue": np.float32(np.nan), "filters": [shuffle], **compressor}


# --- stores ---------------------------------------------------------------------------------------------


def derived(data: xarray.Dataset, encodings: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a store with all names, dimensions, coordinates and attributes of a dataset, by name in the
    store.

    Args:
        data: variables that are all NaN give no blocks.
        encodings: by variable, as :func:`encoding` gives them.
    """
    memory: dict[str, Any] = {}
    # Format 3 has no settled way to store the text of a swept activation.
    data.to_zarr(
        _store(memory), mode="w", encoding=dict(encodings), consolidated=False, zarr_format=2, write_empty_chunks=False
    )
    return {key: _bytes(value) for key, value in sorted(memory.items())}


def dataset(files: Mapping[str, bytes]) -> xarray.Dataset:
    """Return the dataset in a store's files.

    Raises:
        ValueError: they name a codec that results are not written with.
    """
    for key, data in files.items():
        if key.endswith(".zarray"):
            described = json.loads(data)
            used = [described.get("compressor"), *(described.get("filters") or [])]
            if strange := {str(codec.get("id")) for codec in used if codec is not None} - CODECS:
                raise ValueError(f"{key} names the codec {', '.join(sorted(strange))}")
    opened = need("xarray").open_zarr(_store(dict(files)), consolidated=False, zarr_format=2)
    results: xarray.Dataset = opened.load()
    return results


def _store(files: dict[str, Any]) -> Any:
    zarr = need("zarr")
    if zarr.__version__ < "3":
        return files
    buffer = need("zarr.core.buffer").default_buffer_prototype().buffer
    for key, data in files.items():
        files[key] = buffer.from_bytes(data)
    return zarr.storage.MemoryStore(files)


def _bytes(value: Any) -> bytes:
    return value.to_bytes() if hasattr(value, "to_bytes") else bytes(value)


def read(store: Directory, arrays: Iterable[str]) -> dict[str, bytes]:
    """Return the files of a store and of some of its arrays, by name in the store."""
    found = {name: data for name in sorted(TOP) if (data := store.read(name)) is not None}
    for name in arrays:
        array = store.child(name)
        for file in array.names() if array else []:
            if array and ARRAY.fullmatch(file) and (data := array.read(file)) is not None:
                found[f"{name}/{file}"] = data
    return found


def write(store: Directory, files: Mapping[str, bytes]) -> None:
    """Write files of a store."""
    for key, data in files.items():
        *folder, name = key.split("/")
        place = store.child(folder[0], create=True) if folder else store
        assert place is not None
        place.write(name, data, sync=False)


def clear(run: Directory, name: str) -> None:
    """Remove a store; other files stay."""
    store = run.child(name)
    if store is None:
        return
    for entry in store.names():
        if store.kind(entry) == "directory":
            remove_leftovers(store, entry)
            array = store.child(entry)
            for file in array.names() if array else []:
                if array and ARRAY.fullmatch(file):
                    array.remove(file)
            store.remove_directory(entry)
        elif entry.removesuffix(PART) in TOP:
            store.remove(entry)
    run.remove_directory(name)


def remove_leftovers(store: Directory, name: str) -> None:
    """Remove the files that a kill left in an array's folder."""
    array = store.child(name)
    for file in array.names() if array else []:
        if array and file.endswith((PART, ".partial")) and array.kind(file) == "file":
            array.remove(file)
