"""The operations that lanes know, each as a function of one member's values: ``test_lanes.py`` tests them over it.

``v.x`` and ``v.y`` are float matrices ``(n, m)``, ``v.row`` ``(m,)``, ``v.w`` ``(m, k)``; ``v.odd`` has NaN, infinities
and both zeros in it; ``v.i`` and ``v.j`` are int32, ``v.q`` int64, ``v.d`` float64, ``v.mask`` bool, all ``(n, m)``;
``v.rows`` and ``v.columns`` hold indices below n and m.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Operation = Callable[[Any], Any]


def gradient(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.func.grad(lambda x: (f(x) * torch.linspace(0.5, 1.5, f(x).numel()).reshape(f(x).shape)).sum())(x)


FLOAT_UNARY = (
    *(
        torch.exp,
        torch.log,
        torch.sin,
        torch.cos,
        torch.tan,
        torch.tanh,
        torch.sinh,
        torch.cosh,
        torch.asin,
        torch.acos,
    ),
    *(torch.atan, torch.expm1, torch.log1p, torch.log2, torch.log10, torch.exp2, torch.erf, torch.erfc, torch.sqrt),
    *(torch.rsqrt, torch.reciprocal, torch.abs, torch.neg, torch.sign, torch.sigmoid, torch.relu, torch.floor),
    *(torch.ceil, torch.trunc, torch.round, torch.isnan, torch.isinf, torch.isfinite, torch.frac, torch.square),
    *(torch.isposinf, torch.isneginf, torch.deg2rad, torch.logit, torch.nan_to_num, torch.positive),
)

POINTWISE: dict[str, Operation] = {
    **{f.__name__: lambda v, f=f: f(v.odd) for f in FLOAT_UNARY},
    "add": lambda v: v.x + v.row,
    "add alpha": lambda v: torch.add(v.x, v.y, alpha=0.5),
    "add int and float": lambda v: v.i + v.x,
    "a number beside each of many integers": lambda v: torch.vmap(lambda i: ((1 + i) * 3 - i // 2, 2 - i))(v.i[:, 0]),
    "add float64": lambda v: v.d + v.x,
    "add scalar": lambda v: v.x + 1.5,
    "add int overflow": lambda v: v.i + 2_000_000_000,
    "sub": lambda v: v.x - v.odd,
    "rsub": lambda v: 1 - v.x,
    "mul": lambda v: v.odd * v.y,
    "mul int": lambda v: v.i * v.j,
    "mul bool": lambda v: v.mask * v.x,
    "mul int64": lambda v: v.q * 6364136223846793005 + 1442695040888963407,
    "div": lambda v: v.x / v.odd,
    "div int": lambda v: v.i / v.j,
    "div floor": lambda v: torch.div(v.x, v.y, rounding_mode="floor"),
    "div trunc": lambda v: torch.div(v.x, v.y, rounding_mode="trunc"),
    "div floor int": lambda v: v.i // (v.j.abs() + 1),
    "div trunc int": lambda v: torch.div(v.q, -7, rounding_mode="trunc"),
    "remainder": lambda v: v.x % v.y,
    "remainder int": lambda v: v.q % 7,
    "remainder negative": lambda v: v.i % -5,
    "fmod": lambda v: torch.fmod(v.x, v.y),
    "pow": lambda v: v.odd.abs() ** v.y,
    "pow 2": lambda v: v.odd**2,
    "pow 3": lambda v: v.x**3,
    "pow 0.5": lambda v: v.odd**0.5,
    "pow -1": lambda v: v.x**-1,
    "pow of scalar": lambda v: 0.9**v.x,
    "pow of int": lambda v: 0.9 ** v.i.abs(),
    "atan2": lambda v: torch.atan2(v.x, v.y),
    "hypot": lambda v: torch.hypot(v.x, v.y),
    "minimum": lambda v: torch.minimum(v.odd, v.y),
    "maximum": lambda v: torch.maximum(v.y, v.odd),
    "fmin": lambda v: torch.fmin(v.odd, v.y),
    "clamp": lambda v: v.odd.clamp(-0.5, 0.5),
    "clamp tensor": lambda v: v.x.clamp(v.y, v.y + 1),
    "clamp int": lambda v: v.i.clamp(max=3),
    "lerp": lambda v: torch.lerp(v.x, v.y, 0.3),
    "addcmul": lambda v: torch.addcmul(v.x, v.y, v.y, value=0.5),
    "addcdiv": lambda v: torch.addcdiv(v.x, v.y, v.d.float() + 3),
    "where": lambda v: torch.where(v.mask, v.odd, v.y),
    "where scalar": lambda v: torch.where(v.mask, v.x, 0.0),
    "where float64": lambda v: torch.where(v.mask, v.d, v.x),
    "where int64": lambda v: torch.where(v.x > 0, v.q, v.i),
    "masked_fill": lambda v: v.x.masked_fill(v.mask, -torch.inf),
    "comparisons": lambda v: (v.odd < v.y, v.odd <= 0, v.odd > v.y, v.odd >= v.x, v.odd == v.odd, v.odd != v.y),
    "comparisons int": lambda v: (v.i < v.q, v.i == 3, v.q >= v.j, v.i > 2.5, v.d < v.x),
    "comparisons of whole numbers with limits": lambda v: (
        v.i > v.d * 9,
        v.i > v.d[0, 0] * 9,
        torch.where(v.mask, v.q.int(), -(2**31)) > v.odd.double() * 2**31,
        torch.where(v.mask, v.q.int(), 2**31 - 1) > v.odd.double() * 2**31,
    ),
    "ranks below a number": lambda v: (
        torch.sort(v.x, stable=True).indices < v.i[:, :1],
        v.x.argmin(-1, keepdim=True) < v.i[:1, :1],
    ),
    "logical": lambda v: (v.mask & (v.x > 0), v.mask | (v.x > 0), v.mask ^ (v.x > 0), ~v.mask, v.x.logical_not()),
    "logical words": lambda v: (
        torch.logical_and(v.x, v.i),
        torch.logical_or(v.x, v.mask),
        torch.logical_xor(v.i, v.mask),
    ),
    "bits": lambda v: (v.i & v.j, v.i | 5, v.q ^ v.i, ~v.q, v.q << 3, v.q >> 5, v.i << 2, v.i >> 1),
    "bits logical shift": lambda v: ((v.q >> 33) & ((1 << 31) - 1), (v.q >> 40) & 1023),
    "bits one by one": lambda v: ((v.q.unsqueeze(-1) >> torch.arange(5)) & 1).float(),
    "conversions": lambda v: (v.x.long(), v.x.int(), v.i.float(), v.q.float(), v.q.int(), v.d.float(), v.q.double()),
    "conversions of bool": lambda v: (
        v.mask.float(),
        v.mask.int(),
        v.mask.long(),
        v.mask.double(),
        v.x.bool(),
        v.q.bool(),
    ),
    "conversion of few bits": lambda v: (((v.q >> 40) & 0xFFFFFF).float() * 2**-24, (v.q & 7).double()),
    **{
        f"short integers {dtype}": lambda v, dtype=dtype: _of_short_integers(v.q.to(dtype), v.i.to(dtype))
        for dtype in (torch.uint8, torch.int8, torch.int16)
    },
    "float64": lambda v: (v.d.exp(), v.d.abs().log(), v.d.cos(), v.d.floor(), v.d.sqrt(), -v.d, v.d**3, v.d.expm1()),
    "nan arithmetic": lambda v: (v.odd * 0, v.odd - v.odd, v.odd / v.odd),
}

ACTIVATIONS: dict[str, Operation] = {
    name: lambda v, f=f: (f(v.odd), gradient(f, v.x))
    for name, f in {
        "relu": F.relu,
        "leaky_relu": F.leaky_relu,
        "elu": F.elu,
        "selu": F.selu,
        "celu": F.celu,
        "gelu": F.gelu,
        "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "mish": F.mish,
        "softplus": F.softplus,
        "softsign": F.softsign,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "logsigmoid": F.logsigmoid,
        "hardtanh": F.hardtanh,
        "hardsigmoid": F.hardsigmoid,
        "hardswish": F.hardswish,
        "relu6": F.relu6,
    }.items()
}

NETWORKS: dict[str, Operation] = {
    "linear": lambda v: F.linear(v.x, v.w.T, v.w[0]),
    "linear backward": lambda v: torch.func.grad(lambda w: F.linear(v.x, w.T).square().sum())(v.w),
    "mm": lambda v: v.x @ v.w,
    "mv": lambda v: v.x @ v.row,
    "vm": lambda v: (v.row @ v.x.T, (v.row @ v.w).unsqueeze_(0)),
    "dot": lambda v: v.row @ v.row,
    "bmm": lambda v: torch.bmm(v.x[None].expand(2, -1, -1), v.w[None].expand(2, -1, -1)),
    "einsum": lambda v: torch.einsum("nm,nm,m->n", v.x, v.y, v.row),
    "outer": lambda v: torch.outer(v.row, v.row),
    "softmax": lambda v: (v.x.softmax(-1), v.x.log_softmax(0), v.odd.softmax(-1)),
    "softmax backward": lambda v: (gradient(lambda x: x.softmax(-1), v.x), gradient(lambda x: x.log_softmax(0), v.x)),
    "logsumexp": lambda v: v.x.logsumexp(1),
    "cross_entropy": lambda v: F.cross_entropy(v.x, v.columns),
    "cross_entropy backward": lambda v: torch.func.grad(lambda x: F.cross_entropy(x, v.columns))(v.x),
    "nll_loss": lambda v: F.nll_loss(v.x, v.columns),
    "mse_loss": lambda v: (F.mse_loss(v.x, v.y), torch.func.grad(lambda x: F.mse_loss(x, v.y))(v.x)),
    "l1_loss": lambda v: (F.l1_loss(v.x, v.y), torch.func.grad(lambda x: F.l1_loss(x, v.y))(v.x)),
    "huber_loss": lambda v: (F.huber_loss(v.x, v.y), torch.func.grad(lambda x: F.huber_loss(x, v.y))(v.x)),
    "smooth_l1_loss": lambda v: torch.func.grad(lambda x: F.smooth_l1_loss(x, v.y))(v.x),
    "binary_cross_entropy_with_logits": lambda v: torch.func.grad(
        lambda x: F.binary_cross_entropy_with_logits(x, v.y.sigmoid())
    )(v.x),
    "layer_norm": lambda v: F.layer_norm(v.x, v.row.shape, v.row, v.row),
    "layer_norm backward": lambda v: gradient(lambda x: F.layer_norm(x, v.row.shape, v.row, v.row), v.x),
    "batch_norm": lambda v: F.batch_norm(
        torch.cat([v.x, v.y]), v.row.clone(), v.row.abs(), v.row, v.row, training=True
    ),
    "batch_norm evaluated": lambda v: F.batch_norm(v.x, v.row, v.row.abs(), v.row, v.row),
    "batch_norm backward": lambda v: gradient(
        lambda x: F.batch_norm(x, None, None, v.row, training=True), torch.cat([v.x, v.y])
    ),
    "embedding": lambda v: F.embedding(v.rows, v.x),
    "embedding backward": lambda v: gradient(lambda x: F.embedding(v.rows, x), v.x),
    "conv2d": lambda v: F.conv2d(v.image, v.kernel, v.kernel[:, 0, 0, 0], padding=1),
    "conv2d strided": lambda v: F.conv2d(v.image, v.kernel, stride=2),
    "conv2d grouped": lambda v: F.conv2d(v.image, v.kernel[:, :1], groups=2, padding=1),
    "conv2d backward": lambda v: torch.func.grad(
        lambda a: F.conv2d(a[0], a[1], a[1][:, 0, 0, 0], stride=2, padding=1).square().sum()
    )((v.image, v.kernel)),
    "conv1d": lambda v: F.conv1d(v.image[:1, :, 0], v.kernel[:, :, 0], dilation=2),
    "max_pool2d": lambda v: (F.max_pool2d(v.image, 2), gradient(lambda x: F.max_pool2d(x, 2), v.image)),
    "avg_pool2d": lambda v: (F.avg_pool2d(v.image, 2), gradient(lambda x: F.avg_pool2d(x, 2), v.image)),
}

SHAPES: dict[str, Operation] = {
    "views": lambda v: (v.x.T, v.x.flatten(), v.x.unsqueeze(1), v.x.movedim(0, -1), v.x[:, None].expand(-1, 2, -1)),
    "reshape of transposed": lambda v: v.x.T.reshape(v.x.shape) + v.x.T.flatten().reshape(-1, v.x.shape[0]).sum(),
    "slices": lambda v: (v.x[0], v.x[:, -1], v.x[:, ::2], v.x[-1:], v.x.flip(0, 1), v.x.diagonal()),
    "split": lambda v: (*v.x.split(1, 1), *v.x.unbind(0), *v.x.chunk(2, 1)),
    "cat": lambda v: (torch.cat([v.x, v.y]), torch.cat([v.x.T, v.y.T], 1), torch.stack([v.x, v.i.float()], 1)),
    "pad": lambda v: (F.pad(v.x, (1, 2)), F.pad(v.x, (0, 1, 2, 0), value=-1.0), F.pad(v.x, (1, -1))),
    "repeat": lambda v: (v.x.repeat(2, 3), v.row.repeat_interleave(2), v.x.tile(1, 2)),
    "roll": lambda v: (v.x.roll(1, 0), v.x.roll(-1, 1)),
    "in place": lambda v: _in_place(v.x, v.row),
    "made": lambda v: (
        torch.arange(4) * v.x[0, 0],
        torch.zeros_like(v.x),
        torch.ones(3),
        torch.eye(2),
        torch.full((2,), 7),
    ),
    "linspace": lambda v: (torch.linspace(-1, 1, 5) * v.x[0, 0], torch.arange(0.5, 2, 0.5)),
    "tril": lambda v: (v.x.tril(), v.x.triu(1)),
    "one_hot": lambda v: F.one_hot(v.columns, v.x.shape[1]),
    "unfold": lambda v: v.row.unfold(0, 2, 1),
    "meshgrid": lambda v: torch.meshgrid(v.row, v.row, indexing="ij"),
}

REDUCTIONS: dict[str, Operation] = {
    "sum": lambda v: (v.x.sum(), v.x.sum(0), v.x.sum(1, keepdim=True), v.x.sum((0, 1)), v.mask.sum(), v.i.sum(-1)),
    "sum dtype": lambda v: (v.mask.sum(dtype=torch.int32), v.x.sum(dtype=torch.float64)),
    "mean": lambda v: (v.x.mean(), v.x.mean(0), v.x.mean((0, 1), keepdim=True), v.d.mean()),
    "prod": lambda v: (v.x.prod(), v.x.prod(1), v.i.prod(0)),
    "amax": lambda v: (v.x.amax(), v.odd.amax(0), v.x.amax((0, 1)), v.i.amax(1), v.q.amax()),
    "amin": lambda v: (v.x.amin(), v.odd.amin(0), v.x.amin(1, keepdim=True), v.q.amin(0)),
    "max": lambda v: (v.x.max(), *v.x.max(1), *v.odd.max(0), torch.max(v.x, v.y), v.i.max()),
    "min": lambda v: (v.x.min(), *v.x.min(0)),
    "argmax": lambda v: (v.x.argmax(), v.odd.argmax(0), v.x.argmax(1, keepdim=True)),
    "argmin": lambda v: (v.x.argmin(), v.odd.argmin(1), v.i.argmin(0)),
    "any": lambda v: (v.mask.any(), v.mask.any(0), (v.x > 0).any(1, keepdim=True), v.i.any()),
    "all": lambda v: (v.mask.all(), (v.x > -3).all(0)),
    "var": lambda v: (v.x.var(correction=0), v.x.std(0, correction=0), v.x.var(1, correction=0, keepdim=True)),
    "norm": lambda v: (v.x.norm(), torch.linalg.vector_norm(v.x, dim=1), v.x.norm(1), v.x.norm(torch.inf)),
    "cumsum": lambda v: (v.x.cumsum(0), v.i.cumsum(1), v.mask.cumsum(0), v.x.cumprod(1)),
    "count_nonzero": lambda v: v.i.count_nonzero(),
    "median by sort": lambda v: v.x.sort(0).values[0],
    "std_mean": lambda v: torch.var_mean(v.x, 0, correction=0),
    "normalize": lambda v: F.normalize(v.x, dim=1),
}

PLACES: dict[str, Operation] = {
    "gather": lambda v: (v.x.gather(1, v.columns[:, None]), v.x.gather(0, v.rows[None, :1].expand(1, 1))),
    "index_select": lambda v: (v.x.index_select(0, v.rows), v.x.index_select(1, v.columns)),
    "index": lambda v: (v.x[v.rows], v.x[:, v.columns], v.x[v.rows, v.columns], v.x[v.rows[:, None], v.columns]),
    "index negative": lambda v: (v.x[-1 - v.rows], v.row[v.columns - v.row.shape[0]]),
    "index int32 table": lambda v: torch.arange(10, dtype=torch.float32)[v.rows],
    "take_along_dim": lambda v: torch.take_along_dim(v.x, v.x.argsort(1), 1),
    "index_put": lambda v: v.x.index_put((v.rows,), v.row),
    "index_put accumulate": lambda v: v.x.index_put((v.rows, v.columns), v.row[0], accumulate=True),
    "index_add": lambda v: v.x.index_add(0, v.rows, v.x),
    "index_copy": lambda v: v.x.index_copy(0, v.rows[:1], v.y[:1]),
    "index_fill": lambda v: v.x.index_fill(1, v.columns, 2.0),
    "scatter": lambda v: v.x.scatter(1, v.columns[:, None], v.y[:, :1]),
    "scatter value": lambda v: v.x.scatter(1, v.columns[:, None], 5.0),
    "scatter_add": lambda v: v.x.scatter_add(1, v.columns[:, None], v.y[:, :1]),
    "masked assignment": lambda v: torch.where(v.x > 0, v.x, v.x.sum()),
    "sort": lambda v: (*v.x.sort(), *v.i.sort(dim=0, stable=True), *v.odd.sort(dim=1, descending=True, stable=True)),
    "argsort": lambda v: (v.q.argsort(stable=True), v.mask.int().argsort(dim=0, stable=True)),
    "topk": lambda v: (*v.x.topk(1), *v.x.topk(2, 0, largest=False)),
    "kthvalue by sort": lambda v: v.d.sort(1).values[:, -1],
    "searching": lambda v: (v.row[:, None] > v.row[None]).sum(1),
}


def _of_short_integers(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Results that wrap around, and results that are no short integers."""
    n = x.shape[0]
    wrapped = (x + y, x - y, x * y, -x, ~x, x + 100, x & y, x ^ 5, x >> 1, x << 3, x // 7, x % 9, x.clamp(2, 50))
    chosen = (torch.where(x > y, x, y), x.amax(), x.amin(0), *x.sort(0), x.argmax(1), x.flip(0), x[:1])
    added = x.scatter_add(0, torch.zeros_like(x, dtype=torch.int64), y).index_add(0, torch.arange(n), x)
    return *wrapped, *chosen, added, x.sum(), x.cumsum(0), x == y, x < 3, x.float() / 3, x.long() * 300, x.bool()


def _in_place(x: Tensor, row: Tensor) -> Tensor:
    x = x.clone()
    x[0] = row
    x[:, 1:] += 1
    x[-1].mul_(2)
    x.add_(row)
    return x


GROUPS = {
    "pointwise": POINTWISE,
    "activations": {f"activation {name}": f for name, f in ACTIVATIONS.items()},
    "networks": NETWORKS,
    "shapes": SHAPES,
    "reductions": REDUCTIONS,
    "places": PLACES,
}
