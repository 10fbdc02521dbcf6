"""Results: arrays in memory, the same as Zarr on the disk, and the dataset that people get."""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp.experiment import VARIABLES
from fcbp.sweeps import files
from fcbp.sweeps.plan import Plan

if TYPE_CHECKING:
    import xarray

__all__ = ["CONFIG", "STORE", "Results", "need", "open", "progress_attributes"]

STORE = "results.zarr"
CONFIG = "config.json"
CHANGING = ("state", "seconds", "members_with_nan")
"""What the configuration says of a run's progress."""
FLUSH_EVERY = 5.0
"""Seconds between two writes of what has come in."""
BLOCK = 1 << 18
"""Values of a block, which is what is compressed, checked and written at once."""


class Results:
    """A sweep's values ``(members, bins)`` by variable, float32; NaN is what is not there yet and what broke.

    Args:
        plan: the sweep.
        variables: what is measured.
        path: a Zarr store to keep beside, or ``None``.
    """

    def __init__(self, plan: Plan, variables: Sequence[str], path: Path | None = None) -> None:
        self.plan = plan
        self.path = path
        self.values = {name: np.full((len(plan.members), len(plan.ends)), np.nan, np.float32) for name in variables}
        self.bins_done = np.zeros(len(plan.members), np.int64)
        self._shape = (*map(len, plan.members.axes.values()), len(plan.ends))
        self._bins = max(1, min(len(plan.ends), BLOCK // len(plan.members)))
        self._dirty: dict[tuple[str, int], None] = {}
        self._written: set[Path] = set()
        self._flushed = time.monotonic()

    def put(self, members: Sequence[int], bin: int, values: Mapping[str, np.ndarray]) -> None:
        """Take the values of a bin; they are on the disk some seconds later."""
        for name, value in values.items():
            self.values[name][list(members), bin] = value
        # Also what this program does not measure: every block of a bin that is done is there.
        self._dirty.update(dict.fromkeys((name, bin // self._bins) for name in self.values))
        self.bins_done[list(members)] = bin + 1
        if time.monotonic() - self._flushed >= FLUSH_EVERY:
            self.flush()

    def failed(self) -> np.ndarray:
        """Which members broke ``(members,)``: their last value is NaN."""
        last = self.values["loss"][np.arange(len(self.bins_done)), self.bins_done - 1]
        return (self.bins_done > 0) & np.isnan(last)

    def flush(self, sync: bool = False) -> None:
        """Write what came in; with ``sync`` wait until the disk has it."""
        self._flushed = time.monotonic()
        if self.path is None:
            return
        arrays: dict[str, Any] = {}
        try:
            while self._dirty:
                name, block = next(iter(self._dirty))
                if name not in arrays:
                    arrays[name] = _open_array(self.path / name)
                region = self._region(block)
                arrays[name][..., region] = self.values[name].reshape(self._shape)[..., region]
                del self._dirty[name, block]
                self._written.add(self._file(name, block))
            if sync:
                for path in self._written:
                    files.sync(path)
                self._written.clear()
        except OSError as error:
            raise files.explained(error, self.path) from error

    def create(self, attributes: Mapping[str, Any]) -> None:
        """Write the store: every name, dimension and attribute, and no values."""
        need("zarr")
        assert self.path is not None
        nothing = np.broadcast_to(np.float32(np.nan), self._shape)
        data = self._dataset(dict.fromkeys(self.values, nothing), attributes)
        chunks = (*self._shape[:-1], self._bins)
        stored = {"chunks": chunks, "_FillValue": np.float32(np.nan), **_compression()}
        try:
            # Format 3 has no settled way to store the text of a swept activation.
            data.to_zarr(
                self.path,
                mode="w",
                encoding=dict.fromkeys(self.values, stored),
                consolidated=False,
                zarr_format=2,
                write_empty_chunks=False,
            )
        except OSError as error:
            raise files.explained(error, self.path) from error

    def load(self, bins_done: Mapping[int, int]) -> set[int]:
        """Read the store back.

        Args:
            bins_done: the bins that ought to be there of a member.

        Returns:
            Members of whom something is lost: a block of theirs is damaged or missing.
        """
        assert self.path is not None
        for member, bins in bins_done.items():
            self.bins_done[member] = bins
        for part in self.path.rglob("*.partial"):
            part.unlink()  # of a write that a kill cut short
        lost = np.zeros(len(self.bins_done), bool)
        for name in self.values:
            array = _open_array(self.path / name)
            for block in range(-(-len(self.plan.ends) // self._bins)):
                region = self._region(block)
                present = self._file(name, block).exists()
                try:
                    values = array[..., region] if present else np.nan
                except Exception:
                    present, values = False, np.nan
                self.values[name].reshape(self._shape)[..., region] = values
                if not present:
                    lost |= self.bins_done > region.start
        return set(np.flatnonzero(lost).tolist())

    def forget(self, members: Sequence[int]) -> None:
        """Of members that start anew nothing is there."""
        for name, values in self.values.items():
            values[list(members)] = np.nan
            self._dirty.update(dict.fromkeys((name, bin // self._bins) for bin in range(len(self.plan.ends))))
        self.bins_done[list(members)] = 0

    def dataset(self, attributes: Mapping[str, Any]) -> xarray.Dataset:
        """What has come in so far, under the names of what was swept."""
        return self._dataset({name: value.reshape(self._shape) for name, value in self.values.items()}, attributes)

    def _dataset(self, values: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> xarray.Dataset:
        xarray = need("xarray")
        dims = (*self.plan.members.axes, "step")
        data = {
            name: (dims, array, {"long_name": VARIABLES[name][0], "units": VARIABLES[name][1]})
            for name, array in values.items()
        }
        coords: dict[str, Any] = {
            name: (dim, _coordinate(column), {"long_name": name.replace("_", " ")})
            for name, (dim, column) in self.plan.members.coordinates().items()
        }
        coords["step"] = ("step", list(self.plan.ends), {"long_name": "examples seen", "units": "examples"})
        return xarray.Dataset(data, coords, dict(attributes))

    def _region(self, block: int) -> slice:
        return slice(block * self._bins, min((block + 1) * self._bins, len(self.plan.ends)))

    def _file(self, name: str, block: int) -> Path:
        assert self.path is not None
        return self.path / name / ".".join([*["0"] * (len(self._shape) - 1), str(block)])


def open(run: Path | str) -> xarray.Dataset:
    """The results of a run directory, also while a sweep is writing them: what is not there yet is NaN.

    Args:
        run: the ``out`` of :func:`fcbp.sweep`.

    Returns:
        A dataset in memory, with the swept names and ``step`` as dimensions; its ``to_dataframe()`` is the tidy table.

    Raises:
        ValueError: there is no run, or part of its results is damaged.
    """
    xarray = need("xarray")
    path = Path(run)
    if not (path / STORE / ".zgroup").is_file():
        raise ValueError(f"run is {str(path)!r}, which holds no {STORE}; expected the directory of a sweep")
    try:
        data = xarray.open_zarr(path / STORE, consolidated=False).load()
    except Exception as error:
        raise ValueError(
            f"{path / STORE} is damaged ({error}); fcbp.resume({str(path)!r}) computes what is lost again"
        ) from error
    config = path / CONFIG
    return data.assign_attrs(progress_attributes(files.read_json(config) if config.is_file() else {}))


def progress_attributes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's configuration what changes while it runs, as a dataset's attributes."""
    found = {name: config[name] for name in CHANGING if name in config}
    return {**found, **({"programs": json.dumps(config["programs"])} if "programs" in config else {})}


def need(name: str) -> Any:
    """The module of an extra.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"sweeps need {name}; install it with: pip install 'fcbp[sweep]'") from None


def _open_array(path: Path) -> Any:
    # Written even where all is NaN: a block that is missing is then one that was lost.
    zarr = need("zarr")
    if zarr.__version__ < "3":
        return zarr.open_array(str(path), mode="r+", write_empty_chunks=True)
    # The argument `config` is not heeded for arrays that exist.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return zarr.open_array(str(path), mode="r+")


def _compression() -> dict[str, Any]:
    numcodecs, zarr = need("numcodecs"), need("zarr")
    codec = numcodecs.Zstd(level=3, checksum=True)
    compressor = {"compressor": codec} if zarr.__version__ < "3" else {"compressors": [codec]}
    return {"filters": [numcodecs.Shuffle(4)], **compressor}


def _coordinate(values: Sequence[Any]) -> list[Any]:
    """Values as an array of one kind can hold them; what is not set is NaN among numbers."""
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return [math.nan if value is None else value for value in values]
    return ["" if value is None else value if isinstance(value, str) else str(value) for value in values]
