"""The places of a group's numbers: ``Slice`` and ``UnitGroup``, and reading and writing through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int32, Shaped
from torch import Tensor

from fcbp import rare, tree
from fcbp.tree import Path

__all__ = ["Slice", "UnitGroup"]


def _brief(self: Any) -> str:
    """Return the repr of a dataclass without fields that have their default."""
    shown = (f for f in fields(self) if f.default is MISSING or getattr(self, f.name) != f.default)
    return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"


@dataclass(frozen=True)
class Slice:
    """The places of a group's units along one axis of one leaf.

    Unit ``u`` owns the entries ``start + u * stride + k * block_stride`` for ``k < block`` along ``axis``.

    Attributes:
        path: the leaf: ``("0.weight",)`` in ``dict(model.named_parameters())``, ``(0, "kernel")`` in a
            list of dicts.
        axis: the axis of the leaf that counts units; may be negative.
        start: the first entry of unit 0.
        stride: the distance between two units' first entries.
        block: entries that a unit owns: more than 1 where a conv map is flattened into a linear layer
            (``stride=positions, block=positions``), or where gates lie side by side.
        block_stride: the distance between a unit's entries.
        listed: each unit's entries, where they lie in no such order (a permutation of the units lies between); start,
            strides and block have no meaning then.
        partial: whether the axis has entries that no group owns (they read an input, say). :func:`check_units` alone
            reads it; it takes no part in comparisons.

    Example:
        >>> Slice(("0.weight",), axis=0) == Slice(("0.weight",), 0, start=0, stride=1)
        True
    """

    path: Path
    axis: int
    start: int = 0
    stride: int = 1
    block: int = 1
    block_stride: int = 1
    partial: bool = field(default=False, compare=False)
    listed: tuple[tuple[int, ...], ...] = ()

    @property
    def is_run(self) -> bool:
        """Whether unit ``u`` owns just entry ``start + u``."""
        return self.block == 1 and self.stride == 1 and not self.listed

    @property
    def is_run_of_blocks(self) -> bool:
        """Whether unit ``u`` owns the ``block`` entries from ``start + u * block`` on."""
        return self.stride == self.block and self.block_stride == 1 and not self.listed

    @property
    def count(self) -> int:
        """Number of entries that a unit owns."""
        return len(self.listed[0]) if self.listed else self.block

    __repr__ = _brief

    def entries(self, size: int) -> list[list[int]]:
        """List the entries along the axis, a list for each of ``size`` units."""
        if self.listed:
            return [list(unit) for unit in self.listed]
        return [[self.start + u * self.stride + k * self.block_stride for k in range(self.block)] for u in range(size)]

    def bounds(self, size: int) -> tuple[int, int]:
        """Return the lowest and the highest of the entries of ``size`` units.

        Example:
            >>> Slice(("0.weight",), axis=0, start=6, stride=-2, block=2).bounds(4)
            (0, 7)
        """
        if self.listed:
            return min(map(min, self.listed)), max(map(max, self.listed))
        steps = (size - 1) * self.stride, (self.block - 1) * self.block_stride
        return self.start + sum(min(step, 0) for step in steps), self.start + sum(max(step, 0) for step in steps)


@dataclass(frozen=True)
class UnitGroup:
    """The units of one layer, which can be exchanged for one another, and every place of their numbers.

    Static and hashable: close over it, print it, write it by hand, edit it with ``dataclasses.replace``.

    Attributes:
        name: the group's key in ``features``, ``replaced`` and the state.
        size: number of units.
        incoming: weights that make the unit; those of a replaced unit are drawn anew.
        bias: their biases; set to 0.
        outgoing: weights that read the unit; set to 0.
        outgoing_bias: for each outgoing slice the leaf that bias transfer adds to, or ``None``.
        norm_scale: scales of norms over the units; set to 1.
        norm_shift: shifts of norms over the units; set to 0.
        running_mean: buffers of running means; set to 0.
        running_var: buffers of running variances; set to 1.
        activation: the module whose input is the group's activation; or the parameter that reads it, where functions
            are handed parameters.
        activation_axis: the unit axis of that input.
        slope: slopes of the units' own PReLUs, one for each unit; set to 0.25, the start of ``nn.PReLU``.
        direction: weights that read the unit through a norm of each unit's own, times a gain (a weight norm along the
            consumers' input axis); left as they are, because at 0 they have no direction. ``outgoing`` has the gain.

    Example:
        >>> UnitGroup(
        ...     "0", 5,
        ...     incoming=(Slice(("0.weight",), 0),), bias=(Slice(("0.bias",), 0),),
        ...     outgoing=(Slice(("2.weight",), 1),), outgoing_bias=(("2.bias",),), activation="2",
        ... ).size
        5
    """

    name: str
    size: int
    incoming: tuple[Slice, ...]
    bias: tuple[Slice, ...]
    outgoing: tuple[Slice, ...]
    outgoing_bias: tuple[Path | None, ...]
    norm_scale: tuple[Slice, ...] = ()
    norm_shift: tuple[Slice, ...] = ()
    running_mean: tuple[Slice, ...] = ()
    running_var: tuple[Slice, ...] = ()
    activation: str = ""
    activation_axis: int = -1
    slope: tuple[Slice, ...] = ()
    direction: tuple[Slice, ...] = ()

    __repr__ = _brief

    def parameter_slices(self) -> tuple[Slice, ...]:
        """List the slices of all parameters that belong to the units."""
        return self.making_slices() + self.outgoing + self.direction

    def making_slices(self) -> tuple[Slice, ...]:
        """List the slices of all parameters that make the units."""
        return self.incoming + self.bias + self.norm_scale + self.norm_shift + self.slope

    def buffer_slices(self) -> tuple[Slice, ...]:
        """List the slices of all buffers that belong to the units."""
        return self.running_mean + self.running_var


FRESH = {"bias": 0.0, "norm_shift": 0.0, "norm_scale": 1.0, "slope": 0.25}
"""The values of a new unit's parameters by the group's field; incoming weights are drawn, outgoing ones are 0."""


def _owners(s: Slice, size: int, length: int, outside: int) -> tuple[list[int], list[int]]:
    """Return for each entry of an axis its unit (or ``outside``), and its number among the unit's entries."""
    unit_of, k_of = [outside] * length, [0] * length
    for u, unit in enumerate(s.entries(size)):
        for k, entry in enumerate(unit):
            unit_of[entry], k_of[entry] = u, k
    return unit_of, k_of


def take(leaf: Shaped[Tensor, "..."], s: Slice, size: int) -> Shaped[Tensor, "*rest units block"]:
    """Take the entries of ``leaf`` that each unit owns: they come last, the other axes before them, in order."""
    x = leaf.movedim(s.axis, -1)
    run = slice(s.start, s.start + size * s.block)
    if s.is_run_of_blocks:
        return torch.unflatten(x[..., run], -1, (size, s.block))
    if s.stride == 1 and s.block_stride == size and not s.listed:
        return torch.unflatten(x[..., run], -1, (s.block, size)).transpose(-1, -2)
    index = torch.tensor(s.entries(size), device=leaf.device)
    return torch.unflatten(x.index_select(-1, index.flatten()), -1, (size, s.count))


def spread(values: Shaped[Tensor, "units"], s: Slice, leaf: Tensor, fill: float) -> Shaped[Tensor, "..."]:
    """Lay one value a unit along the slice's axis, broadcasting against ``leaf``, with ``fill`` at other entries."""
    axis = s.axis % leaf.ndim
    size, length = values.shape[0], leaf.shape[axis]
    if s.is_run_of_blocks and length == size * s.block:
        if s.block > 1:
            values = values.unsqueeze(1).expand(-1, s.block).reshape(length)
    else:
        unit_of, _ = _owners(s, size, length, outside=size)
        outside = torch.full((1,), fill, dtype=values.dtype, device=values.device)
        values = torch.cat([values, outside])[torch.tensor(unit_of, device=values.device)]
    return values.reshape((length,) + (1,) * (leaf.ndim - axis - 1))


def put(leaf: Tensor, s: Slice, mask: Bool[Tensor, "units"], value: float | Tensor) -> Tensor:
    """Set the masked units' entries of ``leaf`` to ``value``: a number, or a tensor that broadcasts to ``leaf``."""
    where = spread(mask, s, leaf, False)
    if isinstance(value, Tensor):
        return torch.where(where, value, leaf)
    return leaf.masked_fill(where, value)


def put_rows(
    leaf: Tensor,
    s: Slice,
    slot: Shaped[Tensor, "units"] | None,
    mask: Bool[Tensor, "units"],
    rows: Shaped[Tensor, "slots ..."],
) -> Tensor:
    """Set the entries of ``leaf`` of each masked unit ``u`` to ``rows[slot[u]]``, or without slots to ``rows[u]``.

    Args:
        leaf: the leaf.
        s: the places of the units on it.
        slot: the row of each unit, ``None`` where each unit has a row of its own.
        mask: the units whose entries are set.
        rows: values, of the shape that :func:`row_shape` gives.
    """
    axis = s.axis % leaf.ndim
    if rows.shape[0] == 1 and s.count == 1:
        return put(leaf, s, mask, rows.movedim(0, axis))
    size, length = mask.shape[0], leaf.shape[axis]
    by_unit = rows if slot is None else rows[slot.clamp(0, rows.shape[0] - 1)]
    if not (s.is_run and length == size):
        unit_of, k_of = _owners(s, size, length, outside=0)
        by_unit = by_unit.reshape(size, s.count, *leaf.movedim(axis, 0).shape[1:])
        by_unit = by_unit[torch.tensor(unit_of, device=leaf.device), torch.tensor(k_of, device=leaf.device)]
    return put(leaf, s, mask, by_unit.movedim(0, axis))


def put_at(
    leaf: Tensor,
    s: Slice,
    index: Int32[Tensor, "slots"],
    mask: Bool[Tensor, "slots"],
    value: float | Shaped[Tensor, "slots ..."],
) -> Tensor:
    """Set the entries of ``leaf`` of unit ``index[k]`` to ``value``, or to ``value[k]``, where ``mask[k]``.

    It touches the entries of these units alone, where :func:`put` and :func:`put_rows` pass over the whole leaf.

    Args:
        leaf: the leaf.
        s: the places of the units on it.
        index: distinct units.
        mask: the ones of these whose entries are set.
        value: a number, or values of the shape that :func:`row_shape` gives.
    """
    axis = s.axis % leaf.ndim
    if s.listed:
        entries = torch.tensor(s.listed, device=leaf.device)[index.to(torch.int64)].flatten()
    elif s.block > 1:
        first = s.start + index.to(torch.int64) * s.stride
        entries = (first.unsqueeze(1) + torch.arange(s.block, device=leaf.device) * s.block_stride).flatten()
    else:
        entries = s.start + index.to(torch.int64) * s.stride
    if s.count > 1:
        mask = mask.unsqueeze(1).expand(-1, s.count).flatten()
    old = leaf.index_select(axis, entries)
    if isinstance(value, Tensor):
        value = value.reshape(old.movedim(axis, 0).shape).movedim(0, axis)
    new = torch.where(mask.reshape(-1, *(1,) * (leaf.ndim - axis - 1)), value, old)
    if rare.is_bounded():  # the compiler writes these entries over the old ones, where it would copy the leaf
        written: Tensor = torch.ops.aten.index_put(leaf, (*(None,) * axis, entries), new)
        return written
    return leaf.index_copy(axis, entries, new)


def row_shape(leaf: Tensor, s: Slice, count: int) -> tuple[int, ...]:
    """Return the shape of ``count`` units' entries: units, then the block where a unit owns several, then the rest."""
    rest = leaf.movedim(s.axis, 0).shape[1:]
    return (count, *((s.count,) if s.count > 1 else ()), *rest)


def fans(leaf: Tensor, s: Slice) -> tuple[int, int]:
    """Return ``fan_in`` and ``fan_out``, as in ``torch.nn.init``, of a weight whose slice's axis counts outputs."""
    axis = s.axis % leaf.ndim
    # Kernels are (outputs, inputs, *positions) or the like, or (*positions, inputs, outputs).
    positions = leaf.shape[2:] if axis < 2 else leaf.shape[:-2]
    return leaf.numel() // max(leaf.shape[axis], 1), leaf.shape[axis] * positions.numel()


def update(
    params: Any, units: Iterable[UnitGroup], write: Callable[[UnitGroup, Slice, Tensor], Tensor], roles: str
) -> Any:
    """Put ``write(group, slice, leaf)`` in place of every leaf that the groups have in some roles.

    Args:
        params: the parameters, a pytree.
        units: the groups.
        write: returns the new leaf.
        roles: fields of :class:`UnitGroup`, with spaces between them, such as ``"incoming bias"``.

    Returns:
        The new parameters.
    """
    new: dict[Path, Tensor] = {}
    for group in units:
        for role in roles.split():
            for s in getattr(group, role):
                leaf = new[s.path] if s.path in new else tree.get(params, s.path)
                new[s.path] = write(group, s, leaf)
    return tree.replace(params, new)


def flattened(group: UnitGroup, entries: int) -> Slice:
    """Return the places of units of several entries each along an activation's axis that holds their entries alone."""
    s = next(s for s in group.outgoing if group.size * s.count == entries)
    low, _ = s.bounds(group.size)
    listed = tuple(tuple(entry - low for entry in unit) for unit in s.listed)
    return replace(s, path=(), axis=group.activation_axis, start=s.start - low, listed=listed)
