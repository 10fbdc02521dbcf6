"""The rules of whole layers: convolutions, norms, pooling, attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from fcbp.units.calls import Call, Table, mark_uneven, unknown
from fcbp.units.elementwise import join
from fcbp.units.entries import Ids, Unevenness
from fcbp.units.ledger import Kind
from fcbp.units.marks import Fixed, Marks, axes_of, shares_of, simplify, squeeze, varying, without
from fcbp.units.meeting import history_along
from fcbp.units.products import biased, note_norm, product

__all__ = ["KEEPING_RULES", "RULES"]

# --- positions ------------------------------------------------------------------------------------------


def over_positions(call: Call, m: Marks, dims: int) -> Marks:
    """Mix the last ``dims`` axes among themselves: one entry along each is left."""
    first = len(m.shape) - dims
    labels: list[Ids] = []
    for label in m.labels:
        own = axes_of(label)
        if all(a < first for a in own):
            labels.append(label)
            continue
        if all(a >= first for a in own):
            call.ledger.pin(label, call.where)
            call.ledger.forbid(label.ravel(), f"{call.where} mixes them with their neighbours")
            continue
        # Several positions belong to a unit (a pixel shuffle): mixed, they are one unit.
        whole = label
        for a in own:
            whole = whole.take([0], a) if a >= first else whole
        call.ledger.tie(label, whole)
        labels.append(whole)
    fixed = [Fixed(without(values, range(first, len(m.shape))), why) for values, why in m.fixed]
    shape = m.shape[:first] + (1,) * dims
    uneven = Unevenness(f"are not the same function of the unit at all places that {call.where} mixes")
    history = history_along(call.ledger, m.history, range(first, len(m.shape)), uneven)
    return replace(
        m,
        shape=shape,
        labels=tuple(labels),
        fixed=simplify(fixed),
        product_of=frozenset(),
        history=history,
        shares=None,
    )


def _spread(call: Call, m: Marks, dims: int, shape: tuple[int, ...]) -> Marks:
    """Give a tensor its last ``dims`` axes back, whose positions differ."""
    first = len(shape) - dims
    fixed = simplify([*m.fixed, *varying(shape, "positions", range(first, len(shape)))])
    return replace(m, shape=shape, fixed=fixed)


_POOLS = (
    "max_pool1d", "max_pool2d", "max_pool3d",
    "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "fractional_max_pool2d", "fractional_max_pool3d",
    "max_unpool2d", "max_unpool3d",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip


def _pool(call: Call) -> Marks:
    dims = int(next(letter for letter in call.name if letter.isdigit()))
    m = over_positions(call, call.first, dims)
    if call.name.startswith("avg_pool"):
        if any(call["padding"]) and call["count_include_pad"]:
            m = mark_uneven(call, m, f"are averaged with the padding's zeros by {call.where}")
        elif call.arguments.get("divisor_override") is not None:
            m = mark_uneven(call, m, f"are summed over windows by {call.where}")
    elif call.name.startswith("max_unpool"):
        m = mark_uneven(call, m, f"lie between zeros of {call.where}")
    return _spread(call, m, dims, call.shape)


def _shuffle(call: Call) -> Marks:
    m, shape = call.first, call.shape
    *batch, c, h, w = m.shape
    n = len(batch)
    lead = list(range(n))
    if call.name == "pixel_shuffle":
        r = call["upscale_factor"]
        m = m.viewed([*batch, c // r**2, r, r, h, w]).permuted([*lead, n, n + 3, n + 1, n + 4, n + 2])
    elif call.name == "pixel_unshuffle":
        r = call["downscale_factor"]
        m = m.viewed([*batch, c, h // r, r, w // r, r]).permuted([*lead, n, n + 2, n + 4, n + 1, n + 3])
    else:
        g = call["groups"]
        m = m.viewed([*batch, g, c // g, h, w]).permuted([*lead, n + 1, n, n + 2, n + 3])
    return m.viewed(shape)


# --- convolutions ---------------------------------------------------------------------------------------


def _convolution(call: Call) -> Marks | list[Marks]:
    x, w = call.marks(call["input"]), call.marks(call["weight"])
    groups, transposed = call["groups"], call["transposed"]
    if call.results[0].is_meta and not call.shape:
        return unknown(call)
    dims = len(w.shape) - 2
    batched = len(x.shape) == dims + 2
    x = over_positions(call, x, dims)
    x = x.viewed(x.shape[:-dims] if batched else (1, x.shape[0]))
    # Kernel positions are not units.
    flat = tuple(y for y in w.labels if all(a < 2 for a in axes_of(y)))
    for label in w.labels:
        if any(a >= 2 for a in axes_of(label)):
            call.ledger.pin(label, f"kernel positions of {call.where}")
    w = over_positions(call, replace(w, labels=flat), dims)
    w = w.viewed(w.shape[:2])
    if transposed:
        w = w.permuted([1, 0]) if groups == 1 else w
    batch, channels = x.shape
    outputs = call.shape[1 if batched else 0]
    uneven = _border(call, [*call.inputs[1].shape[2:]])
    if groups == 1:
        m = product(call, x, w, "bi,oi->bo", {"b": batch, "i": channels, "o": outputs}, uneven)
    elif groups == channels:
        m = _depthwise(call, x, w, outputs, bool(transposed))
    else:
        m = _grouped(call, x, w, outputs, groups, bool(transposed))
    m = biased(call, m, call["bias"], (1, outputs))
    shape = call.shape if batched else (1, *call.shape)
    return _spread(call, m.viewed(m.shape + (1,) * dims), dims, shape).viewed(call.shape)


def _border(call: Call, kernel: list[int]) -> str:
    """Say why some outputs of a convolution read a unit through a part of its kernel; empty where none does."""
    if not call["transposed"]:
        return f"are read beyond the map's border, where there is none, by {call.where}" if any(call["padding"]) else ""
    if any(step > 1 for step in call["stride"]):
        return f"are read through some of the kernel's positions at each output of {call.where}"
    cropped = zip(kernel, call["dilation"], call["padding"], strict=True)
    whole = all(padding >= (size - 1) * step for size, step, padding in cropped) and not any(call["output_padding"])
    return "" if whole else f"are read through a part of the kernel at the border of {call.where}"


def _depthwise(call: Call, x: Marks, w: Marks, outputs: int, transposed: bool) -> Marks:
    """Pass every channel on by itself, as ``outputs / channels`` channels: its kernels belong to the unit."""
    batch, channels = x.shape
    times = outputs // channels
    across = x.move(lambda y: np.repeat(y, times, 1) if y.shape[1] > 1 else y, (batch, outputs))
    if transposed:
        # (channels, times, ...): a unit's kernels are one row.
        for label in w.labels:
            if label.shape[1] > 1:
                call.ledger.pin(label, f"outputs of one channel of {call.where}")
        rows = replace(w, labels=tuple(y for y in w.labels if y.shape[1] == 1), shape=(channels, 1))
        kernels = rows.move(lambda y: np.repeat(y.reshape(1, -1), times, 1) if y.size > 1 else y, (1, outputs))
    else:
        kernels = w.move(lambda y: y.reshape(1, -1), (1, outputs)) if w.shape[1] == 1 else w
    return product(call, across, kernels, "bo,ao->bo", {"b": batch, "a": 1, "o": outputs})


def _grouped(call: Call, x: Marks, w: Marks, outputs: int, groups: int, transposed: bool) -> Marks:
    """Read groups of channels by outputs of their own: outputs of different groups differ, inputs have no slice."""
    batch = x.shape[0]
    why = (
        f"they are read by the grouped {call.where}, whose weight keeps a unit's entries in part of its rows: "
        "no slice of one axis describes them"
    )
    call.ledger.forbid(x.label_entries([1]), why)
    g = np.arange(groups)
    if transposed:
        own, shared = (0, 1)
    else:
        own, shared = (1, 0)
    for label in w.labels:
        if label.shape[own] > 1:
            call.ledger.pin(label, why)
    rows = [y for y in w.labels if y.shape[shared] > 1 and y.shape[own] == 1]
    labels = []
    for label in rows:
        if transposed:
            # One kernel entry serves an output of every group.
            call.ledger.pin(label, why)
            continue
        call.ledger.tell_apart(label.reshape(1, -1), np.repeat(g, outputs // groups)[None], f"groups of {call.where}")
        labels.append(label.reshape(1, -1))
    call.starts_anew = True
    number = call.event("product", w.origin, w.label_entries([shared]), activation=x)
    fixed = [f for f in x.fixed if f.values.shape[1] == 1]
    fixed.append(Fixed(np.repeat(g, outputs // groups)[None], f"groups of {call.where}"))
    if not labels:
        fixed += varying((1, outputs), why, [1])
    return Marks(
        (batch, outputs), tuple(labels), simplify(fixed), True, makers=1 << number,
        statistics=x.statistics, product_of=w.origin if w.history is None else frozenset(),
    )  # fmt: skip


# --- norms ----------------------------------------------------------------------------------------------


def _affine(call: Call, m: Marks, scale: Tensor | None, shift: Tensor | None, shape: tuple[int, ...]) -> Marks:
    """Multiply by a scale and add a shift, both seen in ``shape``."""
    uses: list[tuple[Tensor | None, Kind]] = [(scale, "norm_scale"), (shift, "norm_shift")]
    for leaf, kind in uses:
        if leaf is not None:
            m = join(call, [m, call.marks(leaf).viewed(shape)], m.shape, kind=kind)
    return replace(m, product_of=frozenset())


def _batch_norm(call: Call) -> Marks:
    m = call.first
    note_norm(call, m, [a for a in range(len(m.shape)) if a != 1])
    along = (1, m.shape[1]) + (1,) * (len(m.shape) - 2)
    m = _affine(call, m, call["weight"], call["bias"], along)
    averages: tuple[Kind, Kind] = ("running_mean", "running_var")
    for kind in averages:
        leaf = call.arguments.get(kind)
        if leaf is not None:
            m = join(call, [m, call.marks(leaf).viewed(along)], m.shape, kind=kind)
    return replace(m, product_of=frozenset())


def _layer_norm(call: Call) -> Marks:
    m = call.first
    shape = tuple(call["normalized_shape"])
    note_norm(call, m, range(len(m.shape) - len(shape), len(m.shape)))
    return _affine(call, m, call["weight"], call.arguments.get("bias"), shape)


def _group_norm(call: Call) -> Marks:
    m = call.first
    groups: int = call["group"] if "group" in call.arguments else call["num_groups"]
    batch, channels, *positions = m.shape
    split = m.viewed([batch, groups, channels // groups, *positions])
    note_norm(call, split, range(2, len(split.shape)))
    along = (1, channels) + (1,) * len(positions)
    return _affine(call, m, call["weight"], call["bias"], along)


# --- attention ------------------------------------------------------------------------------------------


def _attention(call: Call) -> Marks | list[Marks]:
    q, k, v = (call.marks(call[n]) for n in ("query", "key", "value"))
    if len(q.shape) != 4:
        return unknown(call)
    bias = call.arguments.get("attn_mask", call.arguments.get("attn_bias"))
    batch, heads, t, d = q.shape
    k, v = (m.move(lambda x: _repeated_heads(x, heads), (batch, heads, *m.shape[2:])) for m in (k, v))
    sizes = {"b": batch, "h": heads, "t": t, "s": k.shape[2], "d": d, "e": v.shape[3]}
    scores = product(call, q, k, "bhtd,bhsd->bhts", sizes)
    if isinstance(bias, Tensor):
        scores = join(call, [scores, call.marks(bias)], scores.shape, kind="other")
    note_norm(call, scores, [3])
    scores = replace(scores, shares=shares_of(scores.shape, 3))
    return product(call, scores, v, "bhts,bhse->bhte", sizes)


def _repeated_heads(x: Ids, heads: int) -> Ids:
    """Repeat keys and values that several query heads share, one copy a head."""
    n = x.shape[1]
    return squeeze(np.repeat(x, heads // n, 1)) if 1 < n < heads else x


KEEPING_RULES: Table = {
    _pool: (*_POOLS,),
    _shuffle: ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"),
}  # fmt: skip
"""Rules of operations through which a unit that has one constant value keeps it."""

RULES: Table = {
    _convolution: ("convolution",),
    _batch_norm: (
        "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
        "_native_batch_norm_legit_functional", "_batch_norm_with_update", "_batch_norm_no_update",
        "miopen_batch_norm",
    ),
    _layer_norm: ("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm"),
    _group_norm: ("native_group_norm", "group_norm"),
    _attention: (
        "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math",
        "scaled_dot_product_attention",
    ),
}  # fmt: skip
"""Rules of all other operations."""
