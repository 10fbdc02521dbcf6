"""The settings that tell the members of a sweep apart, as plain data and in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fcbp.checks import arguments
from fcbp.designs import plain
from fcbp.names import unknown

if TYPE_CHECKING:
    import xarray

__all__ = [
    "BINS",
    "ROWS",
    "Setting",
    "apart",
    "bins_of",
    "chosen_variable",
    "describe",
    "identity",
    "is_unset",
    "main_variable",
    "others",
    "settings",
    "show",
]

Setting = dict[str, Any]
ROWS = ("member", "setting")
"""Dimensions along which settings are listed, each a coordinate of its own."""


BINS = ("step", "task")
"""Dimensions of the bins of a run, of which results have one."""


@arguments
def bins_of(results: xarray.Dataset | xarray.DataArray) -> str:
    """Return the dimension of the bins: ``"step"``, or ``"task"`` where each bin is a task."""
    return next((name for name in BINS if name in results.dims), "step")


@arguments
def main_variable(results: xarray.Dataset) -> str:
    """Return the variable that settings are judged by where none is named: ``"loss"``, or the first that was
    measured."""
    return "loss" if "loss" in results.data_vars else str(next(iter(results.data_vars)))


@arguments
def chosen_variable(results: xarray.Dataset) -> str:
    """Return the variable that methods are compared by where none is named: the accuracy, or else the main one."""
    return "accuracy" if "accuracy" in results.data_vars else main_variable(results)


@arguments
def settings(results: xarray.Dataset | xarray.DataArray, over: str = "seed") -> Iterator[tuple[Setting, Setting]]:
    """List every setting: its place (for ``isel``), and the values that set it apart from the others.

    Args:
        results: a sweep's.
        over: the dimension that settings are averaged over.

    Raises:
        ValueError: ``results`` has no such dimension.
    """
    _check_over(results, over)
    return _settings(results, over)


def _settings(results: xarray.Dataset | xarray.DataArray, over: str) -> Iterator[tuple[Setting, Setting]]:
    dims = [str(dim) for dim in results.dims if dim not in (over, *BINS)]
    names = apart(results, over)
    for index in itertools.product(*(range(results.sizes[dim]) for dim in dims)):
        at = dict(zip(dims, index, strict=True))
        yield at, identity(results.isel(at), names)


@arguments
def apart(results: xarray.Dataset | xarray.DataArray, over: str = "seed") -> list[str]:
    """Return the names that differ between settings: the method first, the dimensions, and the names that set listed
    settings apart.

    A setting that only one method has, and always with one value, is left out: the method says as much.

    Raises:
        ValueError: ``results`` has no dimension ``over``.
    """
    _check_over(results, over)
    names = [str(dim) for dim in results.dims if dim not in (over, *BINS, *ROWS) and results.sizes[dim] > 1]
    for dim in ROWS:
        if results.sizes.get(dim, 1) > 1:
            listed = {str(n): v.values.astype(str) for n, v in results.coords.items() if v.dims == (dim,) and n != dim}
            methods = listed.get("method", np.zeros(results.sizes[dim], str))
            names += ["method"] * (len(np.unique(methods)) > 1)
            for name, values in listed.items():
                if any(len(np.unique(values[methods == method])) > 1 for method in np.unique(methods)):
                    names.append(name)
            names = names or [dim]
    return sorted(names, key=lambda name: name != "method")


def _check_over(results: xarray.Dataset | xarray.DataArray, over: str) -> None:
    if over not in ("seed", *BINS, *results.dims):
        raise unknown("over", over, map(str, results.dims))


@arguments
def identity(chosen: xarray.Dataset | xarray.DataArray, names: Sequence[str]) -> Setting:
    """Return the values that set a setting apart, as plain numbers and words, without values that it does not set."""
    found = {name: plain(chosen[name].values[()]) for name in names if name in chosen.coords}
    return {name: value for name, value in found.items() if not is_unset(value)}


@arguments
def is_unset(value: object) -> bool:
    """Tell whether a coordinate's value stands for a setting that a member does not set."""
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and np.isnan(value))


@arguments
def describe(setting: Setting) -> str:
    """Say in words what sets a setting apart."""
    words = {name: f"{name.replace('_', ' ')} {show(value)}" for name, value in setting.items() if name != "method"}
    return ", ".join([*([str(setting["method"])] if "method" in setting else []), *words.values()])


@arguments
def others(setting: Setting) -> Setting:
    """Return a setting without its method."""
    return {name: value for name, value in setting.items() if name != "method"}


@arguments
def show(value: object) -> str:
    """Return a setting's value, short."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        return str(value)
    return f"{value:g}"
