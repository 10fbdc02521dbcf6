"""The definition of a group, as a test: exchanging its units everywhere changes nothing."""

from __future__ import annotations

import torch

from fcbp import tree


def randomised(model, seed=0):
    """``model`` with every parameter and buffer drawn at random: no two units are alike, norms are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for leaf in [*model.parameters(), *model.buffers()]:
            if leaf.is_floating_point():
                leaf.copy_(torch.rand(leaf.shape, generator=generator) + 0.1)
        for p in model.parameters():
            p.copy_((p - 0.6) * 1.5)
    return model


def state(model):
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    return params, buffers


def run(model, params, buffers, inputs):
    """The output, in double precision, as one flat tensor."""
    double = {name: leaf.double() if leaf.is_floating_point() else leaf for name, leaf in {**params, **buffers}.items()}
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    with torch.no_grad():
        out = torch.func.functional_call(model, double, tuple(inputs))
    leaves = torch.utils._pytree.tree_leaves(out)
    return torch.cat([x.flatten() for x in leaves if isinstance(x, torch.Tensor)])


def moved(leaf, s, order):
    """``leaf`` with unit ``u``'s entries taken from unit ``order[u]``."""
    entries = torch.tensor(s.entries(len(order)))
    index = torch.arange(leaf.shape[s.axis])
    index[entries.flatten()] = entries[order].flatten()
    return leaf.index_select(s.axis, index)


def permuted(params, buffers, group, order):
    """Parameters and buffers with the units of a group in another order, everywhere."""
    for s in group.parameter_slices():
        params = tree.replace(params, {s.path: moved(tree.get(params, s.path), s, order)})
    for s in group.buffer_slices():
        buffers = tree.replace(buffers, {s.path: moved(tree.get(buffers, s.path), s, order)})
    return params, buffers


def check_group(model, inputs, group, seed=0):
    """Exchanging the group's units changes nothing; leaving out any one place that a slice names changes the output."""
    params, buffers = state(model)
    before = run(model, params, buffers, inputs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        order = torch.randperm(group.size, generator=generator)
        after = run(model, *permuted(params, buffers, group, order), inputs)
        torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9, msg=f"{group.name} is no group")
