"""Self-normalised resets against lists of gaps, and the laws that a unit's own habit gives."""

import bisect

import pytest
import torch
from learners import NETWORKS
from oracle import activations
from reset_oracle import masks, network, replace, run

import fcbp
from fcbp import methods
from fcbp.methods.snr import EDGES


class SNR:
    """Every unit keeps its gaps as they are; a threshold is found by counting them."""

    def __init__(self, hyper, edges, capacity):
        self.hyper, self.edges, self.capacity = hyper, edges, capacity
        self.silence, self.gaps, self.threshold, self.step = {}, {}, {}, 0

    def __call__(self, world, features, grads):
        hyper, chosen = self.hyper, {}
        self.step += 1
        for group in world.units:
            name = group.name
            silence = self.silence.setdefault(name, [0] * group.size)
            gaps = self.gaps.setdefault(name, [[] for _ in range(group.size)])
            threshold = self.threshold.setdefault(name, [0] * group.size)
            limit = [max(t or hyper.initial_threshold, hyper.minimum_threshold) for t in threshold]
            for u, h in enumerate(activations(group, features[name])):
                if any(a > hyper.fires_above for position in h for a in position):
                    if silence[u]:
                        gaps[u].append(silence[u])
                    silence[u] = 0
                else:
                    silence[u] += 1
            due = [u for u in range(group.size) if silence[u] >= limit[u] and hyper.rejection > 0]
            chosen[name] = sorted(due, key=lambda u, s=silence: (-s[u], u))[: self.capacity]
            for u in chosen[name]:
                gaps[u].append(silence[u])
                silence[u] = 0
            if self.step % hyper.period == 0:
                for u in range(group.size):
                    threshold[u] = self.learnt(gaps[u], limit[u], threshold[u])
                    gaps[u] = []
        replace(world, chosen, self.capacity)
        return {"replaced": masks(world, chosen)}, {"silence": self.silence, "threshold": self.threshold}

    def learnt(self, gaps, limit, old):
        if not gaps:
            return old
        for edge in self.edges:
            if sum(gap >= edge for gap in gaps) <= self.hyper.rejection * len(gaps):
                break
        return edge if edge <= limit else min(int(limit * self.hyper.growth), self.edges[-1])


@pytest.mark.parametrize(
    ("hyper", "edges", "capacity"),
    [
        (methods.SNRHyperparams(0.25, period=10, initial_threshold=3), EDGES, None),
        (methods.SNRHyperparams(0.25, 8, 6, minimum_threshold=2, growth=1.5), tuple(range(1, 9)), 1),
        (methods.SNRHyperparams(0.125, 5, 2, fires_above=0.5), (1, 2, 4, 8), 2),
        (methods.SNRHyperparams(0.0, 5, 1), EDGES, None),
    ],
)
def test_every_step_is_the_rule(hyper, edges, capacity):
    oracle = SNR(hyper, edges, capacity)
    count, _ = run(
        lambda draw: methods.snr(edges=edges, initializer=draw, capacity=capacity),
        hyper,
        oracle,
        batch=lambda t: 1 + t % 3,
        idle=0.6,
    )
    assert count > 10 if hyper.rejection else count == 0
    assert any(t for values in oracle.threshold.values() for t in values)


def habit(gap, hyper, steps, edges=EDGES, unit=0, dies_at=None):
    """A unit that is silent ``gap`` steps between firings: the steps on which it was reset, and its threshold."""
    model, units = NETWORKS["mlp"]()
    units = units[:1]
    params = {n: p.detach() for n, p in model.named_parameters()}
    method = methods.snr(edges=edges)
    state, resets = method.init(units, params, fcbp.random.key(0)), []
    for t in range(steps):
        h = torch.ones(4, 6)
        h[:, unit] = float(t % (gap + 1) == 0 and (dies_at is None or t < dies_at))
        *_, state, info = method.update(state, params, (), {}, units=units, features={"0": h}, hyper=hyper)
        if info["replaced"]["0"][unit]:
            resets.append(t)
        assert not info["replaced"]["0"][[u for u in range(6) if u != unit]].any()
    return resets, int(state.threshold["0"][unit])


@pytest.mark.parametrize("gap", [1, 3, 12])
def test_a_regular_unit_is_never_reset_but_for_a_longer_gap(gap):
    """Published code takes the quantile itself for the threshold, and resets such a unit at every gap."""
    hyper = methods.SNRHyperparams(0.02, period=120, initial_threshold=50)
    assert habit(gap, hyper, 500) == ([], EDGES[EDGES.index(gap) + 1])
    # It dies at step 300, having fired last at the multiple of gap + 1 before.
    last = (299 // (gap + 1)) * (gap + 1)
    resets, _ = habit(gap, hyper, 340, dies_at=300)
    assert resets[0] == last + EDGES[EDGES.index(gap) + 1]


def test_a_threshold_that_every_gap_reaches_grows():
    hyper = methods.SNRHyperparams(0.02, period=60, initial_threshold=3)
    resets, threshold = habit(9, hyper, 400)
    assert resets  # at 3, 6 and 12 steps of silence; after that never
    assert max(resets) < 130
    assert threshold == 10


def test_a_dead_unit_is_reset_at_its_threshold_and_one_without_gaps_keeps_it():
    hyper = methods.SNRHyperparams(0.02, period=40, initial_threshold=15)
    resets, _ = habit(0, hyper, 100, dies_at=1)
    assert resets[0] == 15
    assert habit(0, hyper, 100) == ([], 0)  # never silent: nothing is learnt


def test_thresholds_are_in_steps_whatever_the_batch():
    """Published code counts examples, and lets no threshold fall below 100, the size of its batches."""
    model, units = NETWORKS["mlp"]()
    units = units[:1]
    params = {n: p.detach() for n, p in model.named_parameters()}
    for batch in (1, 7, 300):
        method, h = methods.snr(), torch.ones(batch, 6)
        h[:, 2] = 0
        state, when = method.init(units, params, fcbp.random.key(0)), []
        for t in range(1, 12):
            hyper = methods.SNRHyperparams(initial_threshold=2, minimum_threshold=5)
            *_, state, info = method.update(state, params, (), {}, units=units, features={"0": h}, hyper=hyper)
            when += [t] if info["replaced"]["0"][2] else []
        assert when == [5, 10]


def test_a_threshold_is_at_most_a_quarter_too_long():
    for gap in range(1, EDGES[-2]):
        edge = EDGES[bisect.bisect_right(EDGES, gap)]
        assert gap < edge <= max(gap + 1, 1.3 * gap)


@pytest.mark.parametrize(
    ("options", "numbers", "message"),
    [
        ({"edges": (1,)}, {}, r"edges is \(1,\); expected two or more whole numbers, ascending from 1"),
        ({"edges": (0, 1)}, {}, "ascending from 1"),
        ({"edges": (1, 3, 3)}, {}, "ascending from 1"),
        ({"capacity": -1}, {}, "capacity is -1"),
        ({"initializer": "uniform"}, {}, "initializer is 'uniform'; expected one of"),
        ({}, {"rejection": 2.0}, r"rejection is 2.0; expected a number in \[0, 1\]"),
        ({}, {"period": 0}, "period is 0; expected a whole number of steps"),
        ({}, {"initial_threshold": 0}, "initial_threshold is 0; expected a whole number of steps"),
        ({}, {"minimum_threshold": 0.5}, "minimum_threshold is 0.5; expected a whole number of steps"),
        ({}, {"growth": 0.5}, "growth is 0.5; expected a number, 1 or more"),
        ({}, {"fires_above": float("nan")}, "fires_above is nan; expected a number"),
    ],
)
def test_bad_input_is_named(options, numbers, message):
    model, units = network()
    params = {n: p.detach() for n, p in model.named_parameters()}

    def use():
        method = methods.snr(**options)
        state = method.init(units, params, fcbp.random.key(0))
        method.update(state, params, (), {}, units=units, features={}, hyper=methods.SNRHyperparams(**numbers))

    with pytest.raises(ValueError, match=message):
        use()


def test_what_is_missing_is_named():
    model, units = network()
    params = {n: p.detach() for n, p in model.named_parameters()}
    method = methods.snr()
    state = method.init(units, params, fcbp.random.key(0))
    with pytest.raises(ValueError, match="features is None; snr needs every group's activation"):
        method.update(state, params, (), {}, units=units, hyper=methods.SNRHyperparams())
    with pytest.raises(ValueError, match="features has no entry for group"):
        method.update(state, params, (), {}, units=units, features={}, hyper=methods.SNRHyperparams())
    with pytest.raises(ValueError, match=r"units is \(\); snr needs the groups"):
        method.init((), params, fcbp.random.key(0))
