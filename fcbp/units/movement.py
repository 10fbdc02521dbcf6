"""The rules of operations that move data: views, slices, concatenations, look-ups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fcbp.units.calls import Call, Table, mark_uneven, unknown
from fcbp.units.elementwise import join
from fcbp.units.entries import Ids
from fcbp.units.marks import AtZero, Fixed, Marks, axes_of, simplify, squeeze, varying, without
from fcbp.units.meeting import history_along, tell_apart

__all__ = ["KEEPING_RULES", "RULES"]


def _view(call: Call) -> Marks:
    return call.first.viewed(call.shape)


def _permute(call: Call) -> Marks:
    m = call.first
    n = len(m.shape)
    order = list(range(n))
    if call.name == "permute":
        order = [d % n for d in call["dims"]]
    elif call.name == "transpose":
        i, j = call["dim0"] % n, call["dim1"] % n
        order[i], order[j] = j, i
    else:
        order.reverse()
    return m.permuted(order)


def _expand(call: Call) -> Marks:
    return replace(call.first.aligned(len(call.shape)), shape=call.shape)


def _sliced(call: Call, m: Marks, dim: int, start: int, length: int, step: int = 1) -> Marks:
    """Take ``length`` entries of an axis from ``start`` on."""
    dim %= len(m.shape)
    part = slice(start, start + length * step, step)
    shape = [length if i == dim else n for i, n in enumerate(m.shape)]
    return _taken(call, m, dim, lambda x: x[(slice(None),) * dim + (part,)], shape)


def _taken(call: Call, m: Marks, dim: int, take: Callable[[Ids], Ids], shape: Sequence[int]) -> Marks:
    """Take a part of an axis, whose units differ from the others then."""
    if list(shape) == list(m.shape):
        return m
    call.starts_anew = True
    for label in m.labels:
        if label.shape[dim] > 1:
            part = take(label)
            call.ledger.touch(part, f"{call.where} takes them out of a longer axis")
            if part.size == 1:
                # An axis of one entry has no label, so this unit cannot be followed.
                call.ledger.forbid(part.ravel(), f"{call.where} takes single ones out")
    return m.move(lambda x: take(x) if x.shape[dim] > 1 else x, shape)


def _slice(call: Call) -> Marks:
    m, dim = call.first, call["dim"] % len(call.shape)
    length = m.shape[dim]
    start, end = call["start"] or 0, call["end"]
    start, _, step = slice(start, end, call.arguments.get("step", 1)).indices(length)
    return _sliced(call, m, dim, start, call.shape[dim], step)


def _select(call: Call) -> Marks:
    dim = call["dim"] % len(call.first.shape)
    index = call["index"] % call.first.shape[dim]
    return _sliced(call, call.first, dim, index, 1).viewed(call.shape)


def _unbind(call: Call) -> list[Marks]:
    return [_sliced(call, call.first, call["dim"], i, 1).viewed(x.shape) for i, x in enumerate(call.results)]


def _split(call: Call) -> list[Marks]:
    parts: list[Marks] = []
    start, dim = 0, call["dim"]
    for x in call.results:
        parts.append(_sliced(call, call.first, dim, start, x.shape[dim]))
        start += x.shape[dim]
    return parts


def _repeat(call: Call) -> Marks:
    m = call.first.aligned(len(call.shape))
    times = [n // max(old, 1) for n, old in zip(call.shape, m.shape, strict=True)]
    return m.move(lambda x: np.tile(x, [t if n > 1 else 1 for t, n in zip(times, x.shape, strict=True)]), call.shape)


def _flip(call: Call) -> Marks:
    dims = tuple(d % len(call.shape) for d in call["dims"])
    return call.first.move(lambda x: np.flip(x, dims), call.shape)


def _roll(call: Call) -> Marks | list[Marks]:
    m, dims = call.first, call["dims"]
    if not dims:
        return unknown(call)
    return m.move(lambda x: np.roll(x, call["shifts"], tuple(d % len(m.shape) for d in dims)), call.shape)


def _cat(call: Call) -> Marks:
    ndim, dim = len(call.shape), call["dim"] % len(call.shape)
    parts = [call.marks(x) for x in call["tensors"]]
    if call.name == "stack":
        parts = [m.viewed([*m.shape[:dim], 1, *m.shape[dim:]]) for m in parts]
    parts = [m for m in parts if len(m.shape) == ndim and m.shape[dim] > 0]
    is_activation = any(m.is_activation for m in parts)
    if is_activation:
        for m in parts:
            if not m.is_activation and m.origin:
                call.event("token", m.origin, m.label_entries())
    families: dict[tuple[tuple[int, ...], int], list[Ids | None]] = {}
    for i, m in enumerate(parts):
        seen: dict[tuple[int, ...], int] = {}
        for label in m.labels:
            beside = tuple(a for a in axes_of(label) if a != dim)
            key = (beside, seen.get(beside, 0))
            seen[beside] = key[1] + 1
            families.setdefault(key, [None] * len(parts))[i] = label
    # The parts lie side by side and do not meet: the steps of a sequence keep units of their own.
    labels = [x for x in (squeeze(_joined(x, parts, dim)) for x in families.values()) if x.size > 1]
    others = [f for m in parts for f in m.fixed if f.values.shape[dim] == 1]
    fixed = simplify([*others, *_joined_fixed(parts, dim, call.where)])
    tell_apart(call.ledger, labels, fixed)
    makers = 0
    for m in parts:
        makers |= m.makers
    return Marks(
        call.shape, tuple(labels), fixed, is_activation,
        frozenset().union(*(m.origin for m in parts if not is_activation)),
        makers, statistics=frozenset().union(*(m.statistics for m in parts)),
        at_zero=AtZero(max((m.at_zero.lost_by for m in parts), default="")),
        history=_joined([m.histories for m in parts], parts, dim),
    )  # fmt: skip


def _joined(pieces: list[Ids | None], parts: list[Marks], dim: int) -> Ids:
    """Put arrays side by side, with -1 for parts that have none."""
    full = [max(x.shape[i] for x in pieces if x is not None) for i in range(len(parts[0].shape))]
    out = []
    for x, m in zip(pieces, parts, strict=True):
        shape = [m.shape[dim] if i == dim else n for i, n in enumerate(full)]
        out.append(np.full(shape, -1) if x is None else np.broadcast_to(x, shape))
    return np.concatenate(out, axis=dim)


def _joined_fixed(parts: list[Marks], dim: int, why: str) -> list[Fixed]:
    """Return the positions that differ along the joined axis: those of different parts, and those fixed in a part."""
    values: list[Ids] = []
    reasons: list[str] = []
    for offset, m in enumerate(parts):
        n = m.shape[dim]
        codes = np.zeros((n, 1), dtype=np.int64)
        for f in m.fixed:
            if f.values.shape[dim] > 1:
                codes = np.concatenate([codes, np.moveaxis(f.values, dim, 0).reshape(n, -1)], axis=1)
                reasons.append(f.why)
        rows = np.unique(codes, axis=0, return_inverse=True)[1].ravel()
        values.append(rows + (offset << 32))
    joined = np.concatenate(values)
    shape = [len(joined) if i == dim else 1 for i in range(len(parts[0].shape))]
    return [Fixed(joined.reshape(shape), reasons[0] if reasons else why)]


def _pad(call: Call) -> Marks | list[Marks]:
    m, pad, n = call.first, call["pad"], len(call.shape)
    if any(p < 0 for p in pad):
        return unknown(call)
    width = [(0, 0)] * n
    for i in range(len(pad) // 2):
        width[n - 1 - i] = (pad[2 * i], pad[2 * i + 1])

    def padded(x: Ids, value: int) -> Ids:
        return np.pad(x, [w if s > 1 else (0, 0) for w, s in zip(width, x.shape, strict=True)], constant_values=value)

    labels = tuple(padded(x, -1) for x in m.labels)
    edges = [
        Fixed(np.pad(np.zeros(m.shape[i], dtype=np.int64), w, constant_values=1).reshape(
            [-1 if k == i else 1 for k in range(n)]), call.where)
        for i, w in enumerate(width) if sum(w)
    ]  # fmt: skip
    fixed = simplify([*(Fixed(padded(f.values, -1), f.why) for f in m.fixed), *edges])
    history = None if m.history is None else np.broadcast_to(m.history, [
        s if sum(w) and n > 1 else n for w, s, n in zip(width, m.shape, m.history.shape, strict=True)])  # fmt: skip
    m = replace(
        m, shape=call.shape, labels=labels, fixed=fixed, history=None if history is None else padded(history, 0)
    )
    if any(sum(w) and any(x.shape[i] == 1 for x in labels) for i, w in enumerate(width)):
        m = mark_uneven(call, m, f"lie beside the padding of {call.where}")
    return m


def _along_positions(call: Call) -> Marks | list[Marks]:
    """Follow a movement of positions where no unit axis is moved: units lie on axes in front that keep their size."""
    m, shape = call.first, call.shape
    same = 0
    while same < min(len(m.shape), len(shape)) and m.shape[same] == shape[same]:
        same += 1
    if call.name in ("as_strided", "diagonal") or same == 0:
        return unknown(call)
    for label in m.labels:
        if any(a >= same for a in axes_of(label)):
            return unknown(call)
    labels = tuple(x.reshape(x.shape[:same] + (1,) * (len(shape) - same)) for x in m.labels)
    why = f"are summed or repeated by {call.where}"
    if call.name != "unfold":
        m = mark_uneven(call, m, why)
    history = history_along(call.ledger, m.history, range(same, len(m.shape)), why)
    if history is not None:
        history = history.reshape(history.shape[:same] + (1,) * (len(shape) - same))
    m = replace(m, shares=None, history=history)
    return replace(m, shape=shape, labels=labels, fixed=varying(shape, call.where, _unlabelled(labels, len(shape))))


def _unlabelled(labels: Sequence[Ids], ndim: int) -> list[int]:
    """List the axes that no label depends on."""
    taken = {a for x in labels for a in axes_of(x)}
    return [i for i in range(ndim) if i not in taken]


def _lookup(call: Call) -> Marks | list[Marks]:
    """Pick rows of a table by an index: the table's other axes go on, the picked one ends."""
    if call.name == "embedding":
        table, dim, index = call.marks(call["weight"]), 0, call["indices"]
    elif call.name == "index_select":
        table, dim, index = call.first, call["dim"] % len(call.first.shape), call["index"]
    else:
        given = [(i, x) for i, x in enumerate(call.arguments.get("indices") or []) if x is not None]
        if call.name == "gather" or len(given) != 1 or given[0][1].dtype == torch.bool:
            return unknown(call)
        table, (dim, index) = call.first, given[0]
    known = call.tracer.numbers(index) if table.is_activation else None
    if known is not None and known.ndim and known.size:
        return _picked_by(call, table, dim, known)
    for label in table.labels:
        if label.shape[dim] > 1 and table.is_activation:
            call.ledger.forbid(label.ravel(), f"they are picked by an index that is no constant ({call.where})")
        elif label.shape[dim] > 1:
            call.ledger.pin(label, f"picked by an index in {call.where}")
    by = call.marks(index)
    extra = len(by.shape)
    kept = [x for x in table.labels if x.shape[dim] == 1]
    fixed = [f for f in table.fixed if f.values.shape[dim] == 1]

    def widened(x: Ids) -> Ids:
        return x.reshape(x.shape[:dim] + (1,) * extra + x.shape[dim + 1 :])

    places = range(dim, dim + extra)
    result = replace(
        table, shape=call.shape, labels=tuple(widened(x) for x in kept), product_of=frozenset(),
        fixed=simplify([*(Fixed(widened(f.values), f.why) for f in fixed), *varying(call.shape, call.where, places)]),
        history=_picked(call, table.history, dim, extra),
        is_activation=table.is_activation or by.is_activation, statistics=table.statistics | by.statistics,
    )  # fmt: skip
    if by.is_activation and not table.is_activation and table.origin:
        entries = np.concatenate([x.ravel() for x in kept]) if kept else np.zeros(0, dtype=np.int64)
        number = call.event("lookup", table.origin, entries, activation=by)
        result = replace(result, origin=frozenset(), makers=1 << number)
        call.starts_anew = True
    return result


def _picked_by(call: Call, table: Marks, dim: int, order: Ids) -> Marks:
    """Pick entries of an axis by an index that is the same in every forward."""
    extra = (1,) * (order.ndim - 1)

    def take(x: Ids) -> Ids:
        return x.take(order, dim) if x.shape[dim] > 1 else x.reshape(x.shape[: dim + 1] + extra + x.shape[dim + 1 :])

    picked = np.unique(order % table.shape[dim])
    if len(picked) == order.size == table.shape[dim]:
        return table.move(take, call.shape)
    call.starts_anew = True
    for label in table.labels:
        if label.shape[dim] > 1:
            part = label.take(picked, dim)
            call.ledger.touch(part, f"{call.where} picks them out of a longer axis")
            if order.size == 1:
                call.ledger.forbid(part.ravel(), f"{call.where} takes single ones out")
    return table.move(take, call.shape)


def _scattered(call: Call) -> Marks | list[Marks]:
    """Add values to places of one axis that an index names, or write them there: the other axes go on."""
    base, shape, n = call.first, call.shape, len(call.shape)
    if "put" in call.name:
        given = [(i, x) for i, x in enumerate(call["indices"]) if x is not None]
        source = call["values"]
        if len(given) != 1 or given[0][1].ndim != 1 or given[0][1].dtype == torch.bool:
            return unknown(call)
        dim, index = given[0]
    else:
        dim, index = call["dim"] % max(n, 1), call["index"]
        source = call.arguments.get("source", call.arguments.get("src"))
    if not isinstance(source, Tensor):
        return unknown(call)
    values, by = call.marks(source).aligned(n), call.marks(index)
    beside = [i for i in range(n) if i != dim]
    labels = [*values.labels, *base.labels]
    arrays = [*by.labels, *(f.values for f in by.fixed)] if len(by.shape) == n and index.ndim == n > 1 else []
    own = {a for x in labels for a in axes_of(x)}
    if (
        dim in own
        or any(own & set(axes_of(x)) for x in arrays)
        or any(values.shape[i] not in (1, shape[i]) or (arrays and by.shape[i] != shape[i]) for i in beside)
        or (by.is_activation and not values.is_activation and values.origin)
    ):
        return unknown(call)
    fixed = [Fixed(without(f.values, [dim]), f.why) for f in values.fixed]
    values = replace(values, shape=shape, history=history_along(call.ledger, values.history, [dim]),
                     fixed=simplify([*fixed, *varying(shape, call.where, [dim])]))  # fmt: skip
    values = mark_uneven(call, values, f"are gathered by {call.where}")
    result = join(call, [base, values], shape, kind="shift")
    return replace(
        result, statistics=result.statistics | by.statistics, is_activation=result.is_activation or by.is_activation
    )


def _picked(call: Call, history: Ids | None, dim: int, extra: int) -> Ids | None:
    """Return the history of values that an index with ``extra`` axes picks along an axis."""
    history = history_along(call.ledger, history, [dim])
    return None if history is None else history.reshape(history.shape[:dim] + (1,) * extra + history.shape[dim + 1 :])


def _glu(call: Call) -> Marks:
    halves = [_sliced(call, call.first, call["dim"], k * n, n) for n in [call.shape[call["dim"]]] for k in (0, 1)]
    return join(call, halves, call.shape, kind="scale")


KEEPING_RULES: Table = {
    _view: ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "flatten", "unflatten"),
    _permute: ("t", "transpose", "permute", "numpy_T", "swapaxes", "movedim"),
    _expand: ("expand",),
    _slice: ("slice", "narrow"),
    _select: ("select",),
    _unbind: ("unbind",),
    _split: (
        "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk",
        "tensor_split",
    ),
    _repeat: ("repeat",),
    _flip: ("flip",),
    _roll: ("roll",),
    _cat: ("cat", "concat", "stack"),
    _pad: ("constant_pad_nd",),
    _along_positions: ("unfold", "im2col", "col2im", "as_strided", "diagonal"),
}  # fmt: skip
"""Rules of operations through which a unit that has one constant value keeps it."""

RULES: Table = {
    _lookup: ("embedding", "index_select", "index", "gather"),
    _scattered: (
        "index_add", "index_copy", "index_reduce", "scatter", "scatter_add", "scatter_reduce", "index_put",
        "_index_put_impl",
    ),
    _glu: ("glu",),
}  # fmt: skip
"""Rules of all other operations."""
