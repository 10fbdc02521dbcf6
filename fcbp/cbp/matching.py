"""The leaves of an optimiser's state, matched with the parameters and the axes that they belong to."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fcbp import tree
from fcbp.kinds import PyTree
from fcbp.tree import Path
from fcbp.units import UnitGroup
from fcbp.units.group import Slice

__all__ = ["Moment", "Owners", "axes_of", "match", "misfit", "place_in", "shape_of", "tensors_of"]

Shape = tuple[int, ...]
Slices = Sequence[tuple[UnitGroup, Slice]]
Owners = dict[Path, list[tuple[UnitGroup, Slice]]]
"""The slices of each parameter that belong to units, by the parameter's path."""

_ROW, _COLUMN = {"row", "rows", "r", "vr"}, {"col", "cols", "column", "columns", "c", "vc"}


class Moment(NamedTuple):
    """A tensor of an optimiser's state that lies under a parameter's name."""

    path: Path
    """Its place in the state."""
    parameter: Path
    """The parameter's path in ``params``."""
    leaf: Tensor
    side: int | None
    """0 for a row and 1 for a column of a factored moment, as far as its name or its place in a pair says so."""


def children(node: Any) -> list[tuple[str | int, Any]]:
    """Return the children of a container with their entries: keys, field names or positions."""
    if isinstance(node, Mapping):
        return list(node.items())
    if isinstance(node, (tuple, list)):
        names = getattr(node, "_fields", range(len(node)))
        return list(zip(names, node, strict=True))
    return []


def tensors_of(node: PyTree, path: Path = (), argument: str = "opt_state") -> Iterator[tuple[Path, Tensor]]:
    """Yield every tensor below ``node`` with its path.

    Raises:
        ValueError: something in it is no part of a pytree of tensors.
    """
    if isinstance(node, Tensor):
        yield path, node
        return
    if not isinstance(node, (Mapping, tuple, list)):
        _check_plain(node, path, argument)
    for entry, child in children(node):
        yield from tensors_of(child, (*path, entry), argument)


def _check_plain(node: Any, path: Path, argument: str) -> None:
    where = f"{argument}, at {tree.show(path)}," if path else argument
    kind = type(node).__name__
    if isinstance(node, torch.optim.Optimizer):
        raise ValueError(
            f"{where} is a torch.optim.{kind}; expected its state as a pytree by the parameters' names: "
            "{name: optimizer.state[p] for name, p in model.named_parameters()}"
        )
    if isinstance(node, torch.nn.Module) or callable(node):
        raise ValueError(f"{where} is {kind}, no pytree of tensors; expected what an optimiser's init(params) returned")
    if any(isinstance(value, Tensor) for value in getattr(node, "__dict__", {}).values()):
        raise ValueError(f"{where} is {kind}, in which tensors cannot be replaced; expected dicts, tuples and lists")
    if not path and not isinstance(node, (Mapping, tuple, list)):
        raise ValueError(f"{where} is {node!r}; expected what an optimiser's init(params) returned, such as ()")


def place_in(node: PyTree, path: Path) -> Path | None:
    """``path`` by the entries of :func:`children`; ``None`` where it leads nowhere."""
    place: Path = ()
    for entry in path:
        names = getattr(node, "_fields", ())
        try:
            node = tree.child(node, entry)
        except KeyError:
            return None
        place += (names[entry] if names and isinstance(entry, int) else entry,)
    return place


def match(state: PyTree, parameters: Sequence[Path]) -> tuple[list[Moment], list[tuple[Path, Tensor]]]:
    """Return the tensors under the parameters' names, and the tensors that lie beside no parameter.

    A subtree shaped like ``params``, or like a part of it, may lie anywhere in the state; in a parameter's place may
    stand a tensor, a container of tensors, or nothing.

    Raises:
        ValueError: ``state`` is no pytree of tensors, or a parameter's path occurs inside of such a subtree again.
    """
    moments: list[Moment] = []
    strangers: list[tuple[Path, Tensor]] = []

    def walk(node: Any, path: Path, known: frozenset[Path]) -> None:
        claimed: dict[Path, None] = {}
        for parameter in parameters:
            place = _place(node, parameter)
            if place is None or (path + place) in claimed:
                continue
            if parameter in known and len(parameter) > 1:
                raise ValueError(
                    f"opt_state holds {tree.show(parameter)} twice in one subtree, the second time at "
                    f"{tree.show(path + place)}; expected params=, which says what the other is"
                )
            claimed[path + place] = None
            below = list(tensors_of(tree.get(node, place), path + place))
            paths = [p for p, _ in below]
            moments.extend(Moment(p, parameter, leaf, _side(p, len(path), place, paths)) for p, leaf in below)
        found = known | {parameter for parameter in parameters if _place(node, parameter) is not None}
        for entry, child in children(node):
            here = (*path, entry)
            if here in claimed:
                continue
            if isinstance(child, Tensor):
                if not claimed:
                    strangers.append((here, child))
            elif any(other[: len(here)] == here for other in claimed):
                pass  # on the way to a parameter, whose other entries are other parameters
            else:
                walk(child, here, found)

    # First of all the whole is looked through for what is no pytree.
    everything = list(tensors_of(state))
    if isinstance(state, Tensor) and () not in parameters:
        return [], everything
    walk(state, (), frozenset())
    return moments, strangers


def _place(node: Any, parameter: Path) -> Path | None:
    """Return the place of the parameter's own state below ``node``, by the entries of :func:`children`; ``None``:
    nowhere."""
    place = place_in(node, parameter)
    if place is None:
        return None
    node = tree.get(node, place)
    if isinstance(node, Tensor) or any(isinstance(entry, str) for entry in parameter):
        return place
    # A position alone may be anything's: there has to stand a record of named tensors.
    named = isinstance(node, Mapping) or hasattr(node, "_fields")
    record = named and all(isinstance(entry, str) for entry, _ in children(node))
    return place if record and any(isinstance(child, Tensor) and child.ndim for _, child in children(node)) else None


def shape_of(path: Path, slices: Slices, moments: Sequence[Moment], params: Any | None) -> Shape:
    """Return a parameter's shape: from ``params``, or else as its moments have it.

    Raises:
        ValueError: the units do not fit it, or the moments leave it open.
    """
    own = [m for m in moments if m.parameter == path and m.leaf.ndim]
    if params is not None:
        leaf = tree.get(params, path) if place_in(params, path) is not None else None
        if not isinstance(leaf, Tensor):
            raise ValueError(f"params has no tensor {tree.show(path)}, which the groups name; expected every parameter")
        return tuple(leaf.shape)
    if not own:
        return ()
    ndim = max(m.leaf.ndim for m in own)
    shape = tuple(max(lengths) for lengths in zip(*(m.leaf.shape for m in own if m.leaf.ndim == ndim), strict=True))
    least = max(s.axis + 1 if s.axis >= 0 else -s.axis for _, s in slices)
    if ndim == 1 and shape != (1,):
        lengths = {m.leaf.shape[0] for m in own if m.leaf.numel() > 1}
        weights = any(s in group.incoming + group.outgoing for group, s in slices)
        if least > 1 or len(lengths) > 1 or (weights and any(m.side is not None for m in own)):
            shape = _of_row_and_column(path, slices, own)
    wrong = misfit(shape, slices)
    if wrong and math.prod(shape) == 1:
        return ()  # a number of the whole tensor
    if wrong:
        shown = ", ".join(f"{tree.show(m.path)} of shape {tuple(m.leaf.shape)}" for m in own)
        raise ValueError(
            f"opt_state has {shown} under the name of {tree.show(path)}; expected {wrong}: moments from before a layer "
            "changed its size are made anew by the optimiser's init"
        )
    return shape


def _of_row_and_column(path: Path, slices: Slices, own: Sequence[Moment]) -> Shape:
    """Return the shape of a matrix of which a row and a column are known, and nothing else."""
    vectors = [m for m in own if m.leaf.numel() > 1]
    known = [{m.leaf.shape[0] for m in vectors if m.side == side} for side in (0, 1)]
    lengths = [*dict.fromkeys(m.leaf.shape[0] for m in vectors)]
    choices = [(a, b) for a in lengths for b in lengths if len(lengths) == 1 or a != b]
    if len(lengths) == 1 and not misfit(lengths, slices) and not any(_said(m.path) is not None for m in vectors):
        choices = []  # two moments of a vector look the same
    choices = [c for c in choices if all(not k or k == {n} for k, n in zip(known, c, strict=True))]
    choices = [c for c in choices if not misfit(c, slices)]
    if len(choices) != 1:
        shown = ", ".join(f"{tree.show(m.path)} of shape {tuple(m.leaf.shape)}" for m in own)
        raise ValueError(
            f"opt_state has {shown} under the name of {tree.show(path)}, and which is a row and which a column of it "
            "cannot be told; expected names with 'row' and 'col' in them, or params=, which says the shapes"
        )
    return choices[0]


def misfit(shape: Sequence[int], slices: Slices) -> str:
    """Say how the units' slices do not fit a parameter of that shape; empty where they fit."""
    owned: dict[int, set[int]] = {}
    for group, s in slices:
        if not -len(shape) <= s.axis < len(shape):
            return f"{max(s.axis + 1, -s.axis)} axes"
        owned.setdefault(s.axis % len(shape), set()).update(e for unit in s.entries(group.size) for e in unit)
    for group, s in slices:
        axis = s.axis % len(shape)
        entries, length = owned[axis], shape[axis]
        if max(entries) >= length or (s.start == 0 and not s.partial and len(entries) != length):
            return f"{len(entries)} entries on axis {axis} for the {group.size} units of group {group.name!r}"
    return ""


def _side(path: Path, start: int, place: Path, beside: Sequence[Path]) -> int | None:
    """Tell whether a factored moment is a row (0) or a column (1), by the words in its path, or by its place in a
    pair."""
    own = path[:start] + path[start + len(place) :]
    if (said := _said(own)) is not None:
        return said
    if own and isinstance(path[-1], int) and len(path) > start + len(place):
        pair = [p for p in beside if p[:-1] == path[:-1]]
        return pair.index(path) if len(pair) == 2 else None
    return None


def _said(entries: Path) -> int | None:
    words = {word for entry in entries if isinstance(entry, str) for word in re.split(r"[^a-z]+", entry.lower())}
    return int(bool(words & _COLUMN)) if bool(words & _ROW) != bool(words & _COLUMN) else None


def axes_of(moment: Moment, shape: Shape) -> dict[int, int]:
    """Return the moment's own axis for each axis of the parameter that the moment has.

    All of them for a tensor of the parameter's ``shape``; fewer for a factored moment, a mean over other axes (which
    may have kept them, of size 1); none for a number of the whole tensor.

    Raises:
        ValueError: the moment is of another shape, or it cannot be told which axes it has.
    """
    own = tuple(moment.leaf.shape)
    if own == shape:
        return {axis: axis for axis in range(len(shape))}
    if moment.leaf.numel() == 1:
        return {}
    if len(own) == len(shape) and all(a in (1, b) for a, b in zip(own, shape, strict=True)):
        return {axis: axis for axis in range(len(shape)) if own[axis] == shape[axis]}
    choices = [c for c in itertools.combinations(range(len(shape)), len(own)) if tuple(shape[a] for a in c) == own]
    where = f"opt_state has {tree.show(moment.path)} of shape {own} under the name of {tree.show(moment.parameter)}"
    if not choices or len(own) == len(shape):
        raise ValueError(
            f"{where}; expected {shape}, as replaced, or a row or a column of it: moments from before a parameter "
            "changed its shape are made anew by the optimiser's init"
        )
    if len(choices) > 1 and moment.side is None:
        raise ValueError(
            f"{where}, {shape}, and may be a row or a column of it; expected a name with 'row' or 'col' in it, or a "
            "pair (row, column)"
        )
    chosen = choices[-1 if moment.side else 0]
    return {axis: own_axis for own_axis, axis in enumerate(chosen)}
