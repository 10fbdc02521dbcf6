"""Attention written out gives what ``torch.nn``'s gives."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn

from fcbp import find_units
from fcbp.units.expose import expose

OPTIONS = list(itertools.product([False, True], [False, True], [False, True], ["none", "bool", "float"], [False, True]))


@pytest.mark.parametrize(("batch_first", "other_sizes", "extras", "masks", "unbatched"), OPTIONS)
def test_multihead_attention(batch_first, other_sizes, extras, masks, unbatched):
    torch.manual_seed(0)
    sizes = {"kdim": 6, "vdim": 5} if other_sizes else {}
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first, add_bias_kv=extras, add_zero_attn=extras, **sizes)
    query = torch.randn(3, 4, 8)
    key, value = (torch.randn(3, 5, 6), torch.randn(3, 5, 5)) if other_sizes else (query, query)
    keys = key.shape[1]
    masked = {}
    if masks == "bool":
        masked = {"attn_mask": torch.rand(4, keys) > 0.7, "key_padding_mask": torch.rand(3, keys) > 0.7}
        masked = {name: mask.index_fill(1, torch.tensor([0]), False) for name, mask in masked.items()}
    elif masks == "float":
        masked = {"attn_mask": torch.randn(6, 4, keys), "key_padding_mask": torch.randn(3, keys)}
    if unbatched:
        query, key, value = query[0], key[0], value[0]
        masked = {n: m[:2] if m.ndim == 3 else m[0] if n == "key_padding_mask" else m for n, m in masked.items()}
    elif not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    if not other_sizes:
        key = value = query
    written = copy.deepcopy(attention)
    expose(written)
    for need_weights in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of masks of different kinds
            expected, weights = attention(query, key, value, need_weights=need_weights, **masked)
        output, own = written(query, key, value, need_weights=need_weights, **masked)
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
        assert (own is None) == (weights is None)
        if weights is not None:
            torch.testing.assert_close(own, weights, rtol=1e-4, atol=1e-5)


def test_projections_are_called_as_modules_also_in_inference():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    written, called = copy.deepcopy(model), []
    expose(written)
    for name, module in written.named_modules():
        module.register_forward_pre_hook(lambda m, i, name=name: called.append(name))
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(written(x), model(x), rtol=1e-4, atol=1e-5)
    assert {"layers.0.self_attn.out_proj", "layers.1.linear2"} <= set(called)


def test_masks_are_not_read_for_their_values():
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, dropout=0.0)
    written = copy.deepcopy(model)
    expose(written)
    x, y = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    masks = {"src_mask": torch.randn(5, 5), "tgt_mask": nn.Transformer.generate_square_subsequent_mask(4)}
    torch.testing.assert_close(written(x, y, **masks), model(x, y, **masks), rtol=1e-4, atol=1e-5)
    names = [g.name for g in find_units(model, x, y, **masks)]
    assert names == [
        "encoder.layers.0.self_attn:0", "encoder.layers.0.self_attn:1", "encoder.layers.0.linear1",
        "decoder.layers.0.self_attn:0", "decoder.layers.0.self_attn:1",
        "decoder.layers.0.multihead_attn:0", "decoder.layers.0.multihead_attn:1", "decoder.layers.0.linear1",
    ]  # fmt: skip


def test_a_subclass_with_its_own_forward_is_left_alone():
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return x + 1

    attention = Own(8, 2)
    expose(attention)
    assert torch.equal(attention(torch.zeros(1)), torch.ones(1))
