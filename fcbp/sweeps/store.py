"""Results: arrays in memory, the same as Zarr on the disk, and the dataset that users get."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp.checks import arguments
from fcbp.designs import Members, plain
from fcbp.paths import expanded
from fcbp.sweeps import blocks, files
from fcbp.sweeps.blocks import need
from fcbp.sweeps.files import Directory
from fcbp.sweeps.plan import Plan

if TYPE_CHECKING:
    import xarray

__all__ = ["CHANGING", "CONFIG", "PLAN", "STORE", "Results", "need", "open", "progress_attributes"]

STORE = "results.zarr"
CONFIG = "config.json"
PLAN = "plan.json"
CHANGING = ("state", "seconds", "members_with_nan")
"""The configuration's entries on a run's progress."""
SAME_BITS = {
    True: "of all steps, on every processor",
    False: "with this kind of processor and this version of torch",
}
"""The words for where a run gives the same numbers to the bit, by whether lanes made all of them."""
ALONG_THE_RUN = ("task", "step", "examples")
"""Coordinates of the bins."""
FLUSH_EVERY = 5.0
"""Seconds between two writes of new values."""
BLOCK = 1 << 18
"""Values of a block; a block is compressed, checked and written at once."""


class Results:
    """A sweep's values ``(members, bins)`` by variable, float32; NaN is what is not there yet and what broke.

    Args:
        plan: the sweep.
        variables: the measured variables, with long names and units.
        path: a Zarr store to keep beside, or ``None``.
        sweep: the digest of the plan, which blocks are marked with.
        batch_size: examples of a step, where there are examples.
    """

    def __init__(
        self,
        plan: Plan,
        variables: Mapping[str, tuple[str, str]],
        path: Path | None = None,
        sweep: str = "",
        batch_size: int | None = None,
    ) -> None:
        self.plan, self.variables, self.path, self.sweep, self.batch_size = plan, variables, path, sweep, batch_size
        self.values = {name: np.full((len(plan.members), len(plan.ends)), np.nan, np.float32) for name in variables}
        self.bins_done = np.zeros(len(plan.members), np.int64)
        self.derived: dict[str, bytes] = {}
        """The files of the store that follow from the plan and the attributes, by name."""
        self._run = None if path is None else Directory(path.parent)
        self._shape = (*map(len, plan.members.axes.values()), len(plan.ends))
        self._bins = max(1, min(len(plan.ends), BLOCK // len(plan.members)))
        self._dirty: dict[tuple[str, int], None] = {}
        self._written: set[tuple[str, int]] = set()
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
        """Find the members that broke ``(members,)``: their last value is NaN."""
        at = np.arange(len(self.bins_done)), self.bins_done - 1
        # A member that failed is NaN in all that is measured; a single value may be NaN for another reason.
        last = np.all([np.isnan(values[at]) for values in self.values.values()], axis=0)
        failed: np.ndarray = (self.bins_done > 0) & last
        return failed

    def flush(self, sync: bool = False) -> None:
        """Write the new values; with ``sync`` wait until the disk has them."""
        self._flushed = time.monotonic()
        if self.path is None:
            return
        try:
            while self._dirty:
                name, block = next(iter(self._dirty))
                self._write_block(name, block)
                del self._dirty[name, block]
                self._written.add((name, block))
            if sync:
                for name, block in self._written:
                    self._array(name).sync(self._file(block))
                for name in {name for name, _ in self._written}:
                    self._array(name).sync()
                self._written.clear()
        except OSError as error:
            raise files.explained(error, self.path) from error

    def _write_block(self, name: str, block: int) -> None:
        region = self._region(block)
        values = np.full((*self._shape[:-1], self._bins), np.nan, np.float32)  # the last block is as long as the others
        values[..., : region.stop - region.start] = self.values[name].reshape(self._shape)[..., region]
        file = self._file(block)
        self._array(name).write(file, blocks.encode(self.sweep, f"{name}/{file}", values), sync=False)

    def create(self, attributes: Mapping[str, Any]) -> None:
        """Write the store, every name, dimension and attribute, and no values: whole, or not at all."""
        assert self.path is not None
        assert self._run is not None
        self._derive(attributes)
        name = self.path.name
        part = f"{name}{files.PART}"
        try:
            blocks.clear(self._run, part)
            blocks.clear(self._run, name)
            store = self._run.child(part, create=True)
            assert store is not None
            blocks.write(store, self.derived)
            self._run.rename(part, name)
        except OSError as error:
            raise files.explained(error, self.path) from error

    def checksums(self) -> dict[str, Any]:
        """Return the facts by which :func:`open` checks a store."""
        return {
            "variables": list(self.values),
            "files": {key: hashlib.sha256(data).hexdigest() for key, data in self.derived.items()},
        }

    def load(
        self, bins_done: Mapping[int, int], attributes: Mapping[str, Any], known: Mapping[str, str] | None = None
    ) -> set[int]:
        """Read the store back, and make again what of it follows from the plan where it is damaged.

        Args:
            bins_done: the bins that ought to be there of a member.
            attributes: as for :meth:`create`.
            known: checksums of the files that were made then, another version of Zarr perhaps.

        Returns:
            Members of whom something is lost: a block of theirs is damaged or missing.
        """
        self._derive(attributes)
        self._mend(known or {})
        for member, bins in bins_done.items():
            self.bins_done[member] = bins
        lost = np.zeros(len(self.bins_done), bool)
        for name, block in itertools.product(self.values, range(-(-len(self.plan.ends) // self._bins))):
            region, file, array = self._region(block), self._file(block), self._array(name)
            data = array.read(file)
            sound = data is not None and blocks.is_sealed(self.sweep, f"{name}/{file}", data)
            target = self.values[name].reshape(self._shape)[..., region]
            if sound and data:
                shape = (*self._shape[:-1], self._bins)
                target[...] = blocks.decode(data, shape)[..., : region.stop - region.start]
            else:
                target[...] = np.nan
                lost |= self.bins_done > region.start
        return set(np.flatnonzero(lost).tolist())

    def _derive(self, attributes: Mapping[str, Any]) -> None:
        nothing = np.broadcast_to(np.float32(np.nan), self._shape)
        described = blocks.encoding((*self._shape[:-1], self._bins))
        data = self._dataset(dict.fromkeys(self.values, nothing), attributes)
        self.derived = blocks.derived(data, dict.fromkeys(self.values, described))

    def _mend(self, known: Mapping[str, str]) -> None:
        """Write again the derived files that are damaged."""
        assert self.path is not None
        assert self._run is not None
        arrays = list(dict.fromkeys(key.partition("/")[0] for key in self.derived if "/" in key))
        try:
            store = self._run.child(self.path.name, create=True)
            assert store is not None
            for name in arrays:
                blocks.remove_leftovers(store, name)
            there = blocks.read(store, arrays)
            other = {key: data for key, data in self.derived.items() if there.get(key) != data}
            blocks.write(store, other)
        except OSError as error:
            raise files.explained(error, self.path) from error
        damaged = [key for key in other if hashlib.sha256(there.get(key, b"")).hexdigest() != known.get(key)]
        if damaged:
            named = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
            warnings.warn(f"{self.path} was damaged and is mended: {named}", UserWarning, stacklevel=2)

    def forget(self, members: Sequence[int]) -> None:
        """Remove the values of members that start anew."""
        for name, values in self.values.items():
            values[list(members)] = np.nan
            self._dirty.update(dict.fromkeys((name, bin // self._bins) for bin in range(len(self.plan.ends))))
        self.bins_done[list(members)] = 0

    def dataset(self, attributes: Mapping[str, Any]) -> xarray.Dataset:
        """Return the results so far, along the swept settings."""
        return self._dataset({name: value.reshape(self._shape) for name, value in self.values.items()}, attributes)

    def _dataset(self, values: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> xarray.Dataset:
        dimension = self.plan.dimension
        dims = (*self.plan.members.axes, dimension)
        data = {
            name: (dims, array, {"long_name": self.variables[name][0], "units": self.variables[name][1]})
            for name, array in values.items()
        }
        coords: dict[str, Any] = {
            name: (dim, _coordinate(column), {"long_name": name.replace("_", " ")})
            for name, (dim, column) in self.plan.members.coordinates().items()
        }
        results: xarray.Dataset = need("xarray").Dataset(data, {**coords, **self._along_the_run()}, dict(attributes))
        return results

    def _along_the_run(self) -> dict[str, Any]:
        """Return the coordinates of the bins: the last step of each, the examples until then, and its task."""
        dimension, ends = self.plan.dimension, list(self.plan.ends)
        examples = {"long_name": "examples seen", "units": "examples"}
        # With one example a step the steps are the examples.
        of_steps = examples if self.batch_size == 1 else {"long_name": "steps", "units": "steps"}
        coords: dict[str, Any] = {"step": (dimension, ends, of_steps)}
        if dimension == "task":
            coords = {"task": (dimension, list(range(len(ends))), {"long_name": "task"}), **coords}
        if self.batch_size not in (None, 1):
            coords["examples"] = (dimension, [end * self.batch_size for end in ends], examples)
        return coords

    def _region(self, block: int) -> slice:
        return slice(block * self._bins, min((block + 1) * self._bins, len(self.plan.ends)))

    def _file(self, block: int) -> str:
        return ".".join([*["0"] * (len(self._shape) - 1), str(block)])

    def _array(self, name: str) -> Directory:
        """Return the folder of a variable's blocks."""
        assert self._run is not None
        assert self.path is not None
        store = self._run.child(self.path.name)
        array = None if store is None else store.child(name)
        if array is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path / name))
        return array


@arguments
def open(run: Path | str) -> xarray.Dataset:
    """Return the results of a run directory, also while a sweep is writing them: what is not there yet is NaN.

    Nothing that the directory holds is run or imported, and no link in it is followed.

    Args:
        run: the ``out`` of :func:`fcbp.sweep`.

    Returns:
        A dataset in memory, with the swept names and ``step`` as dimensions; its ``to_dataframe()`` is the tidy table.

    Raises:
        ValueError: there is no run, or part of its results is damaged or missing.
    """
    need("xarray")
    directory = run_directory(run, STORE)
    path = directory.path
    # What says how much is there is read before what is there.
    config, plan = (files.read_sealed(directory, name) for name in (CONFIG, PLAN))
    store = directory.child(STORE)
    assert store is not None
    try:
        found = blocks.read(store, _arrays(plan))
        _check(found, plan, everything=config.get("state") == "finished" or any(row["done"] for row in plan["chunks"]))
        data = _in_order(blocks.dataset(found), plan)
    except Exception as error:
        raise ValueError(f"{path / STORE} is damaged ({error}); {_cure(path)}") from error
    return data.assign_attrs(progress_attributes(config))


def _in_order(data: xarray.Dataset, plan: Mapping[str, Any]) -> xarray.Dataset:
    """Return the dataset with its variables, dimensions and coordinates in the order of the sweep; a store has
    another."""
    settings = tuple({name: plain(value) for name, value in row.items()} for row in plan["settings"])
    swept = Members({name: plain(values) for name, values in plan["axes"].items()}, settings).coordinates()
    coords = [name for name in (*swept, *ALONG_THE_RUN) if name in data.coords]
    values = {name: data.variables[name] for name in plan["store"]["variables"]}
    return type(data)(values, {name: data.variables[name] for name in coords}, data.attrs)


def _arrays(plan: Mapping[str, Any]) -> list[str]:
    """List the names of a store's arrays."""
    return list(dict.fromkeys(key.partition("/")[0] for key in plan["store"]["files"] if "/" in key))


def _check(found: dict[str, bytes], plan: Mapping[str, Any], everything: bool) -> None:
    """Check the files of a store.

    Args:
        found: by name; those that are none of the sweep's are taken out.
        plan: the sweep's file.
        everything: whether there is a bin of every block.

    Raises:
        ValueError: one is damaged, missing, or in the place of another.
    """
    derived = plan["store"]["files"]
    for key, checksum in derived.items():
        if key not in found:
            raise ValueError(f"{key} is missing")
        if hashlib.sha256(found[key]).hexdigest() != checksum:
            raise ValueError(f"{key} is not as it was written")
    values = {}
    for name in plan["store"]["variables"]:
        described = json.loads(found[f"{name}/.zarray"])
        counts = [-(-size // chunk) for size, chunk in zip(described["shape"], described["chunks"], strict=True)]
        for position in itertools.product(*map(range, counts)):
            key = f"{name}/{'.'.join(map(str, position))}"
            if key not in found and not everything:
                continue
            if not blocks.is_sealed(plan["digest"], key, found.get(key)):
                raise ValueError(f"{key} is {'changed' if key in found else 'missing'}")
            values[key] = found[key]
    for key in found.keys() - derived.keys() - values.keys():
        del found[key]


def _cure(path: Path) -> str:
    return f"fcbp.resume({str(path)!r}) computes what is lost again"


def run_directory(run: Path | str, holding: str = CONFIG) -> Directory:
    """Return the directory of a run, by the name that a person gave.

    Args:
        run: the name.
        holding: the file that it holds beside the configuration.

    Raises:
        ValueError: there is no run.
    """
    path = expanded("run", run)
    try:
        directory = Directory(path)
        missing = [name for name in (holding, CONFIG) if directory.kind(name) is None]
    except (FileNotFoundError, NotADirectoryError):
        missing = [holding, CONFIG]
    if missing:
        what = "expected the directory of a sweep" if CONFIG in missing else _cure(path)
        raise ValueError(f"run is {str(path)!r}, which holds no {missing[0]}; {what}")
    return directory


def progress_attributes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a run's configuration that change while it runs, as a dataset's attributes."""
    found = {name: config[name] for name in CHANGING if name in config}
    if "programs" not in config:
        return found
    makers = sorted({maker for program in config["programs"] for maker in program.get("made_by", ["unknown"])})
    return {
        **found,
        "programs": json.dumps(config["programs"]),
        "made_by": "; ".join(makers),
        "same_bits": SAME_BITS[all(maker.startswith("lanes, ") for maker in makers)],
    }


def _coordinate(values: Sequence[Any]) -> list[Any]:
    """Turn values into ones that an array of one kind can hold; among numbers, a value that is not set is NaN."""
    if all(value is None or isinstance(value, (int, float)) for value in values):
        return [math.nan if value is None else value for value in values]
    return ["" if value is None else value if isinstance(value, str) else str(value) for value in values]
