"""Make the modules of ``torch.nn`` that hand weights to fused functions call the modules that hold them instead.

``nn.MultiheadAttention`` passes the weight of its ``out_proj`` to a function, and in inference mode the transformer
layers pass all their weights to one kernel. No module's input is then the activation of the units in between. On a
copy of a model, ``expose`` replaces these functions by the same computation, written out.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = ["Unfused", "WrittenOut", "expose", "plain_kernels"]

_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Switch the vendors' fused kernels off within the context: an LSTM is then run as products and gates."""
    kernels = [
        (torch._C._get_mkldnn_enabled(), torch._C._set_mkldnn_enabled),
        (torch._C._get_cudnn_enabled(), torch._C._set_cudnn_enabled),
    ]
    try:
        for _, switch in kernels:
            switch(False)
        yield
    finally:
        for enabled, switch in kernels:
            switch(enabled)


class Unfused(TorchFunctionMode):
    """A mode in which recurrent layers of a batch of members (``torch.vmap``) run step by step.

    torch has no batching rule for the fused layers. Where a gradient is taken, torch runs them step by step itself.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _RECURRENT or torch.compiler.is_compiling():
            return func(*args, **(kwargs or {}))
        leaves, spec = pytree.tree_flatten((args, kwargs or {}))
        places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.is_floating_point()]
        if not any(torch._C._functorch.is_batchedtensor(leaves[i]) for i in places):
            return func(*args, **(kwargs or {}))

        def run(*tensors: Tensor) -> Any:
            own = list(leaves)
            for i, x in zip(places, tensors, strict=True):
                own[i] = x
            args, kwargs = pytree.tree_unflatten(own, spec)
            return func(*args, **kwargs)

        with plain_kernels():
            return torch.func.vjp(run, *(leaves[i] for i in places))[0]


class WrittenOut(TorchFunctionMode):
    """A mode in which circular padding puts parts beside each other; torch writes them into an empty tensor."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.pad:
            return _pad(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Pad as ``F.pad`` does."""
    if mode != "circular" or min(pad, default=0) < 0:
        return F.pad(input, pad, mode, value)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        size = input.shape[-1 - axis]
        parts = (input.narrow(-1 - axis, size - before, before), input, input.narrow(-1 - axis, 0, after))
        input = torch.cat([x for x in parts if x.shape[-1 - axis]], -1 - axis)
    return input


def expose(model: nn.Module) -> None:
    """Rewrite attention in ``model``, in place, so that every projection's input is a module's input.

    Outputs are those of the model as it was, to rounding. Only ever called on a copy.

    Example:
        >>> attention = nn.MultiheadAttention(8, 2)
        >>> x = torch.ones(3, 1, 8)
        >>> before = attention(x, x, x)[0]
        >>> expose(attention)
        >>> torch.allclose(attention(x, x, x)[0], before, atol=1e-6)
        True
    """
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward:
            module.forward = functools.partial(_attend, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.TransformerEncoderLayer):
            # The fast path asks for this flag first.
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.enable_nested_tensor = False
            module.forward = functools.partial(_without_causal_test, module.forward, "is_causal")  # type: ignore[method-assign]
        elif isinstance(module, nn.TransformerDecoder):
            module.forward = functools.partial(_without_causal_test, module.forward, "tgt_is_causal")  # type: ignore[method-assign]


def _without_causal_test(forward: Callable[..., Tensor], causal: str, *args: Any, **kwargs: Any) -> Tensor:
    """Call ``forward`` without a test of whether the mask is causal; the mask is applied in either case."""
    if kwargs.get(causal) is None:
        kwargs[causal] = False
    return forward(*args, **kwargs)


def _attend(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Do the work of ``nn.MultiheadAttention.forward`` (torch 2.13), with the output projection called as a module."""
    batched = query.ndim == 3
    if not batched:
        query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    elif not module.batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    heads, batch, length = module.num_heads, query.shape[0], query.shape[1]
    q, k, v = _project(module, query, key, value)
    extra = 0
    if module.bias_k is not None and module.bias_v is not None:
        k = torch.cat([k, module.bias_k.expand(batch, 1, -1)], 1)
        v = torch.cat([v, module.bias_v.expand(batch, 1, -1)], 1)
        extra += 1
    if module.add_zero_attn:
        k = torch.cat([k, torch.zeros_like(k[:, :1])], 1)
        v = torch.cat([v, torch.zeros_like(v[:, :1])], 1)
        extra += 1
    mask = _mask(key_padding_mask, attn_mask, is_causal, extra, batch, heads, length, q.dtype)
    q, k, v = (torch.unflatten(x, -1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    dropout = module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        weights = (scores if mask is None else scores + mask).softmax(-1)
        weights = F.dropout(weights, dropout)
        mixed = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
    output = module.out_proj(mixed.transpose(1, 2).flatten(-2))
    if not batched:
        return output[0], None if weights is None else weights[0]
    return output if module.batch_first else output.transpose(0, 1), weights


def _project(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """Project the inputs to queries, keys and values."""
    inputs = (query, key, value)
    biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
    if module.in_proj_weight is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    elif query is key and key is value:
        return list(F.linear(query, module.in_proj_weight, module.in_proj_bias).chunk(3, -1))
    else:
        weights = list(module.in_proj_weight.chunk(3))
    return [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]


def _mask(
    padding: Tensor | None,
    attention: Tensor | None,
    is_causal: bool,
    extra: int,
    batch: int,
    heads: int,
    length: int,
    dtype: torch.dtype,
) -> Tensor | None:
    """Join both masks to one that is added to the scores, (batch or 1, heads or 1, length or 1, keys)."""

    def added(mask: Tensor) -> Tensor:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)
        return F.pad(mask, (0, extra)) if extra else mask

    if is_causal and attention is None:
        raise ValueError("is_causal=True; expected attn_mask with it, as nn.MultiheadAttention does")
    parts = []
    if attention is not None:
        shape = (batch, heads, length, -1) if attention.ndim == 3 else (1, 1, length, -1)
        parts.append(added(attention).view(shape))
    if padding is not None:
        parts.append(added(padding)[:, None, None, :])
    return sum(parts[1:], parts[0]) if parts else None
