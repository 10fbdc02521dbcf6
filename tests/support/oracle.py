"""Continual Backpropagation as the design states it, in Python loops over NumPy arrays: slow, plain, and independent.

Nothing of the library's is used but the dataclasses that say where a group's numbers lie; every entry of every unit is
visited by index. Everything is float64.
"""

from __future__ import annotations

import math

import numpy as np


def leaf(tree, path):
    for entry in path:
        tree = getattr(tree, entry) if isinstance(tree, tuple) and isinstance(entry, str) else tree[entry]
    return tree


def entries(s, unit):
    """What a unit owns along the slice's axis, by the definition of ``Slice``."""
    return [s.start + unit * s.stride + k * s.block_stride for k in range(s.block)]


def at(array, axis, entry):
    """The index of one entry along one axis."""
    index = [slice(None)] * array.ndim
    index[axis] = entry
    return tuple(index)


def elements(slices, unit, tree):
    """Every element of a unit's slices, in a flat list."""
    found = []
    for s in slices:
        array = leaf(tree, s.path)
        for entry in entries(s, unit):
            found += np.ravel(array[at(array, s.axis, entry)]).tolist()
    return found


def activations(group, h):
    """``h[unit][position]`` is the list of that unit's activations over all samples."""
    h = np.moveaxis(np.asarray(h, dtype=np.float64), group.activation_axis, -1)
    h = h.reshape(-1, h.shape[-1])
    if h.shape[1] == group.size:
        return [[h[:, u].tolist()] for u in range(group.size)]
    s = next(s for s in group.outgoing if s.block * group.size == h.shape[1])
    return [[h[:, u * s.stride + k * s.block_stride].tolist() for k in range(s.block)] for u in range(group.size)]


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def divide(a, b):
    return a / b if b else math.copysign(math.inf, a) if a else math.nan


def instantaneous(measure, group, unit, params, h, f_hat, grads=None):
    """The utility of one unit at one step; ``h`` is what :func:`activations` gives for the unit."""
    w_in = mean(abs(w) for w in elements(group.incoming, unit, params))
    w_out = mean(abs(w) for w in elements(group.outgoing, unit, params))
    if measure == "weight":
        return w_out
    if measure == "adaptation":
        return divide(1, w_in)
    if measure in ("weight_gradient", "incoming_gradient"):
        g = elements(group.incoming, unit, grads)
        w = elements(group.incoming, unit, params)
        return mean(abs(a * b) if measure == "weight_gradient" else abs(a) for a, b in zip(g, w, strict=True))
    if measure == "removal":
        g, w = elements(group.outgoing, unit, grads), elements(group.outgoing, unit, params)
        return abs(sum(a * b for a, b in zip(g, w, strict=True)))
    deviations = [mean(abs(a - f_hat) for a in position) for position in h]
    if measure == "feature_by_input":
        return divide(mean(deviations), w_in)
    magnitudes = [mean(map(abs, position)) for position in h] if measure == "contribution" else deviations
    y = mean(m * outgoing_at(group, unit, params, p, len(h)) for p, m in enumerate(magnitudes))
    return divide(y, w_in) if measure == "adaptable_contribution" else y


def outgoing_at(group, unit, params, position, positions):
    """Mean absolute outgoing weight that reads one position: of a flattened map, that position's columns."""
    weights = []
    for s in group.outgoing:
        array = leaf(params, s.path)
        own = entries(s, unit)
        for entry in [own[position]] if positions > 1 and s.block == positions else own:
            weights += np.ravel(array[at(array, s.axis, entry)]).tolist()
    return mean(map(abs, weights))


def pattern(count, shape, fan_in):
    """Rows that all differ: what :func:`pattern_initializer` draws."""
    n = count * math.prod(shape)
    return (np.sin(1.0 + np.arange(n)) / math.sqrt(fan_in)).reshape(count, *shape)


class Oracle:
    """Parameters and state, changed in place."""

    def __init__(self, units, params):
        self.units, self.params = units, params
        self.age = {g.name: [0] * g.size for g in units}
        self.utility = {g.name: [0.0] * g.size for g in units}
        self.mean = {g.name: [0.0] * g.size for g in units}
        self.owed = {g.name: 0.0 for g in units}

    def update_utility(self, features, decay, measure, grads=None):
        for group in self.units:
            h = activations(group, features[group.name])
            age, utility, f = self.age[group.name], self.utility[group.name], self.mean[group.name]
            for u in range(group.size):
                age[u] += 1
                f[u] = decay * f[u] + (1 - decay) * mean(a for position in h[u] for a in position)
                f_hat = f[u] / (1 - decay ** age[u])
                y = instantaneous(measure, group, u, self.params, h[u], f_hat, grads)
                utility[u] = decay * utility[u] + (1 - decay) * y

    def select(self, rate, maturity, decay, rounding="accumulate", rate_counts="eligible", capacity=None, due=None):
        """Units to replace, by group, lowest first; ``due`` holds the numbers where rounding is at random."""
        chosen = {}
        for group in self.units:
            name = group.name
            ages = self.age[name]
            u_hat = [u / (1 - decay**a) if a else math.nan for u, a in zip(self.utility[name], ages, strict=True)]
            eligible = [u for u in range(group.size) if ages[u] > maturity and math.isfinite(u_hat[u])]
            counted = len(eligible) if rate_counts == "eligible" else group.size * bool(eligible)
            if rounding == "accumulate":
                self.owed[name] += rate * counted
                whole = math.floor(self.owed[name])
            else:
                fresh = due(name, rate * counted)
                assert fresh in (math.floor(rate * counted), math.floor(rate * counted) + 1)
                self.owed[name] += fresh
                whole = round(self.owed[name])
            forgiven = max(whole - len(eligible), 0)
            number = min(whole, len(eligible), group.size if capacity is None else capacity) if rate else 0
            self.owed[name] -= forgiven + number
            chosen[name] = sorted(eligible, key=lambda u: (u_hat[u], u))[:number]
        return chosen

    def reset(self, chosen, decay, transfer_bias=False):
        """Transfer, zero, draw anew, in the order of the design: each for all groups before the next."""
        if transfer_bias:
            gains = []
            for group in self.units:
                for u in chosen[group.name]:
                    f_hat = self.mean[group.name][u] / (1 - decay ** self.age[group.name][u])
                    for s, path in zip(group.outgoing, group.outgoing_bias, strict=True):
                        if path is not None:
                            weight = leaf(self.params, s.path)
                            for entry in entries(s, u):
                                column = weight[at(weight, s.axis, entry)]
                                gains.append((path, f_hat * column.reshape(column.shape[0], -1).sum(1)))
            for path, gain in gains:
                leaf(self.params, path)[...] += gain
        self.write(chosen, "outgoing", 0.0)
        for group in self.units:
            for s in group.incoming:
                weight = leaf(self.params, s.path)
                shape = np.moveaxis(weight, s.axis, 0).shape[1:]
                fan_in = weight.size // weight.shape[s.axis]
                rows = pattern(group.size, (s.block, *shape), fan_in)
                for row, u in enumerate(chosen[group.name]):
                    for k, entry in enumerate(entries(s, u)):
                        weight[at(weight, s.axis, entry)] = rows[row, k]
        self.write(chosen, "bias", 0.0)
        self.write(chosen, "norm_shift", 0.0)
        self.write(chosen, "norm_scale", 1.0)
        self.write(chosen, "slope", 0.25)
        for name, units in chosen.items():
            for u in units:
                self.age[name][u] = 0
                self.utility[name][u] = self.mean[name][u] = 0.0

    def write(self, chosen, role, value, tree=None):
        """Every chosen unit's entries in that role, in ``tree`` or the parameters."""
        for group in self.units:
            for s in getattr(group, role):
                array = leaf(self.params if tree is None else tree, s.path)
                for u in chosen[group.name]:
                    for entry in entries(s, u):
                        array[at(array, s.axis, entry)] = value


def pattern_initializer(key, shape, fan_in, fan_out, dtype, device):
    """An initializer without chance whose rows all differ, so that a row in the wrong place is seen."""
    import torch

    return torch.from_numpy(pattern(shape[0], tuple(shape[1:]), fan_in)).to(dtype)
