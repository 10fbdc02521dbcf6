"""What tests of methods that reset units share: a network whose numbers are given anew at every step, and the resets
themselves in Python loops over NumPy arrays. Everything is float64."""

from __future__ import annotations

import numpy as np
import torch
from oracle import activations, at, elements, entries, leaf, mean, pattern, pattern_initializer
from torch import nn

import fcbp


def network():
    """A convolution with a norm, flattened into a layer of rectifiers: two groups, one of which owns blocks."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2)
    ).double()
    return model, fcbp.find_units(model, torch.zeros(1, 2, 4, 4, dtype=torch.float64))


class World:
    """Gradients, activations and an optimiser's steps that are drawn, not computed: any may happen."""

    def __init__(self, seed=0):
        model, self.units = network()
        self.random = np.random.default_rng(seed)
        self.params = {n: self.random.normal(size=p.shape) for n, p in model.named_parameters()}
        self.initial = {n: p.copy() for n, p in self.params.items()}
        self.buffers = {n: self.random.uniform(1, 2, b.shape) for n, b in model.named_buffers() if b.ndim}

    def drift(self):
        """The optimiser's step."""
        return {n: 0.1 * self.random.normal(size=p.shape) for n, p in self.params.items()}

    def features(self, batch=3, idle=0.3):
        """Rectified activations; each unit is idle for the whole batch with some probability."""
        flat = {}
        for group in self.units:
            block = max(s.block for s in group.outgoing)
            h = np.maximum(self.random.normal(size=(batch, group.size, block)) + 0.3, 0)
            h = h * self.random.uniform(size=(1, group.size, 1)) * (self.random.uniform(size=(1, group.size, 1)) > idle)
            flat[group.name] = h.reshape(batch, -1)
        return flat

    def grads(self):
        """Gradients whose size differs from unit to unit, from next to nothing on."""
        grads = {n: self.random.normal(size=p.shape) for n, p in self.params.items()}
        for group in self.units:
            for s in group.incoming:
                for u in range(group.size):
                    for e in entries(s, u):
                        grads[s.path[0]][at(grads[s.path[0]], s.axis, e)] *= self.random.uniform() ** 3
        return grads


def tensors(arrays):
    return {n: torch.from_numpy(np.array(a)) for n, a in arrays.items()}


def run(build, hyper, step, steps=50, batch=lambda t: 3, idle=0.3):
    """Run a method and its oracle side by side.

    ``step(world, features, grads)`` changes ``world.params``, ``world.moments`` and ``world.buffers`` in place, and
    gives what ``info`` and parts of the state should hold: ``({group: ...} of info, {field: {group: ...}} of state)``.
    """
    world = World()
    method = build(pattern_initializer)
    params, buffers = tensors(world.params), tensors(world.buffers)
    state = method.init(world.units, params, fcbp.random.key(0))
    count = 0.0
    for t in range(steps):
        move, features, grads = world.drift(), world.features(batch(t), idle), world.grads()
        world.moments = {n: world.random.normal(size=p.shape) for n, p in world.params.items()}
        params = {n: p + torch.from_numpy(move[n]) for n, p in params.items()}
        world.params = {n: p + move[n] for n, p in world.params.items()}
        params, moments, buffers, state, info = method.update(
            state,
            params,
            tensors(world.moments),
            buffers,
            units=world.units,
            grads=tensors(grads),
            features=tensors(features),
            hyper=hyper,
        )
        expected_info, expected_state = step(world, features, grads)
        for ours, theirs in ((params, world.params), (moments, world.moments), (buffers, world.buffers)):
            for n, value in theirs.items():
                torch.testing.assert_close(ours[n], torch.from_numpy(value), rtol=1e-9, atol=1e-9, msg=f"step {t}: {n}")
        compare(info, expected_info, t)
        compare(state._asdict(), expected_state, t)
        count += sum(np.sum(v) for part in expected_info.values() for v in part.values())
    return count, state


def compare(found, expected, t):
    for field, by_group in expected.items():
        assert found[field].keys() == by_group.keys(), field
        for name, values in by_group.items():
            values = torch.as_tensor(np.array(values))
            torch.testing.assert_close(
                found[field][name].to(values.dtype), values, rtol=1e-9, atol=1e-12, msg=f"step {t}: {field} of {name}"
            )


# --- what is observed -------------------------------------------------------------------------------------


def activation_magnitude(group, features, unit):
    return mean(abs(a) for position in activations(group, features[group.name])[unit] for a in position)


def gradient_magnitude(group, grads, unit):
    return mean(abs(g) for g in elements(group.incoming, unit, grads))


def relative(values):
    average = mean(values)
    return [v / average if average else 0.0 for v in values]


# --- resets -----------------------------------------------------------------------------------------------


def write(tree, slices, unit, change):
    for s in slices:
        array = leaf(tree, s.path)
        for entry in entries(s, unit):
            index = at(array, s.axis, entry)
            array[index] = change(array[index])


def fresh_rows(group, s, weight, count):
    shape = np.moveaxis(weight, s.axis, 0).shape[1:]
    return pattern(count, (s.block, *shape), weight.size // weight.shape[s.axis])


def replace(world, chosen, rows=None):
    """Make units new: ``chosen`` holds by group the units, or of each the row drawn for it."""
    for group in world.units:
        for u in chosen[group.name]:
            write(world.params, group.outgoing, u, np.zeros_like)
    for group in world.units:
        for s in group.incoming:
            weight = leaf(world.params, s.path)
            drawn = fresh_rows(group, s, weight, group.size if rows is None else min(rows, group.size))
            for order, u in enumerate(chosen[group.name]):
                for k, entry in enumerate(entries(s, u)):
                    weight[at(weight, s.axis, entry)] = drawn[u if rows is None else order, k]
    for group in world.units:
        for u in chosen[group.name]:
            write(world.params, group.bias + group.norm_shift, u, np.zeros_like)
            write(world.params, group.norm_scale, u, np.ones_like)
            write(world.params, group.slope, u, lambda a: np.full_like(a, 0.25))
            write(world.moments, group.parameter_slices(), u, np.zeros_like)
            write(world.buffers, group.running_mean, u, np.zeros_like)
            write(world.buffers, group.running_var, u, np.ones_like)


def replace_partly(world, fraction):
    """Move units the fraction of the way to new ones."""
    for group in world.units:
        for u, r in enumerate(fraction[group.name]):
            write(world.params, group.outgoing, u, lambda w, r=r: (1 - r) * w)
    for group in world.units:
        for s in group.incoming:
            weight = leaf(world.params, s.path)
            drawn = fresh_rows(group, s, weight, group.size)
            for u, r in enumerate(fraction[group.name]):
                for k, entry in enumerate(entries(s, u)):
                    index = at(weight, s.axis, entry)
                    weight[index] = (1 - r) * weight[index] + r * drawn[u, k]


def masks(world, chosen):
    return {g.name: [u in chosen[g.name] for u in range(g.size)] for g in world.units}
