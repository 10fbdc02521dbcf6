"""ReDo and ReGraMa against a loop over the paper's equations, and what they say of bad input."""

import optree
import pytest
import torch
from learners import NETWORKS, batch_at
from reset_oracle import activation_magnitude, gradient_magnitude, masks, network, relative, replace, run

import fcbp
from fcbp import methods
from fcbp.learner import LearnerHyperparams, make_learner


class Threshold:
    """Score, compare, reset: each unit by itself."""

    def __init__(self, magnitude, threshold, period, decay, capacity):
        self.magnitude, self.threshold, self.period = magnitude, threshold, period
        self.decay, self.capacity = decay, capacity
        self.mean, self.age, self.step = {}, {}, 0

    def __call__(self, world, features, grads):
        self.step += 1
        chosen = {}
        for group in world.units:
            mean = self.mean.setdefault(group.name, [0.0] * group.size)
            age = self.age.setdefault(group.name, [0] * group.size)
            for u in range(group.size):
                age[u] += 1
                new = self.magnitude(group, features, grads, u)
                # The plain mean of a young unit's values, then the running mean.
                weight = max(1 / age[u], 1 - self.decay)
                mean[u] = (1 - weight) * mean[u] + weight * new
            scores = relative(mean)
            dormant = [u for u in range(group.size) if scores[u] <= self.threshold]
            dormant = sorted(dormant, key=lambda u: (scores[u], u))[: self.capacity]
            chosen[group.name] = dormant if self.step % self.period == 0 else []
            for u in chosen[group.name]:
                mean[u], age[u] = 0.0, 0
        replace(world, chosen, self.capacity)
        return {"replaced": masks(world, chosen)}, {"magnitude": self.mean, "age": self.age}


KINDS = {
    "redo": (
        methods.redo,
        methods.RedoHyperparams,
        lambda group, features, grads, u: activation_magnitude(group, features, u),
    ),
    "regrama": (
        methods.regrama,
        methods.RegramaHyperparams,
        lambda group, features, grads, u: gradient_magnitude(group, grads, u),
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize(
    ("threshold", "period", "decay", "capacity"),
    [(0.1, 1, 0.0, None), (0.8, 2, 0.8, None), (0.8, 3, 0.0, 2), (0.9, 5, 0.5, 1), (0.0, 1, 0.0, None)],
)
def test_every_step_is_the_equations(kind, threshold, period, decay, capacity):
    build, hyperparams, magnitude = KINDS[kind]
    count, _ = run(
        lambda draw: build(initializer=draw, capacity=capacity),
        hyperparams(threshold, period, decay),
        Threshold(magnitude, threshold, period, decay, capacity),
    )
    if threshold:
        assert count > 10
    if kind == "redo":
        assert count > 0


def test_the_published_score_is_of_the_last_batch_alone():
    """Equation 1: with a decay of 0 what came before does not count, whatever it was."""
    _, units = network()
    params = {n: p.detach() for n, p in network()[0].named_parameters()}
    features = {g.name: torch.ones(2, g.size * max(s.block for s in g.outgoing)).double() for g in units}
    idle = {name: h.clone() for name, h in features.items()}
    idle[units[1].name][:, 2] = 0
    hyper = methods.RedoHyperparams(period=2)
    for first, second, expected in ((features, idle, 1), (idle, features, 0)):
        method = methods.redo()
        state = method.init(units, params, fcbp.random.key(0))
        for h in (first, second):
            *_, state, info = method.update(
                state, params, (), dict(network()[0].named_buffers()), units=units, features=h, hyper=hyper
            )
        assert sum(int(mask.sum()) for mask in info["replaced"].values()) == expected


@kinds
@pytest.mark.parametrize(("threshold", "expected"), [(0.0, 6), (0.025, 6), (-1.0, 0)])
def test_a_layer_whose_mean_is_0_is_reset_and_not_nan(kind, threshold, expected):
    """Where published code divides 0 by 0."""
    build, hyperparams, _ = KINDS[kind]
    model, units = NETWORKS["mlp"]()
    learner = make_learner(model, units, method=build())
    state = learner.init(fcbp.random.key(0))
    dead = {**state.params, "0.bias": torch.full((6,), -100.0)}
    hyper = LearnerHyperparams(0.01, hyperparams(threshold, period=1))
    state, info = learner.step(state._replace(params=dead), batch_at(0), hyper)
    assert int(info["replaced"]["0"].sum()) == expected
    assert all(p.isfinite().all() for p in state.params.values())
    if expected:
        assert (state.params["0.bias"] == 0).all()
        for t in range(1, 5):  # what leaves the new units has a gradient at once, what enters them a step later
            state, info = learner.step(state, batch_at(t), LearnerHyperparams(0.01, hyperparams(threshold, period=4)))
        assert int(info["replaced"]["0"].sum()) < expected


@kinds
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scores_do_not_depend_on_scale(kind, scale):
    """Where published code adds 1e-9 to a layer's mean, a small layer is dormant as a whole."""
    build, hyperparams, _ = KINDS[kind]
    model, units = network()
    params = {n: p.detach() for n, p in model.named_parameters()}
    size = {g.name: g.size * max(s.block for s in g.outgoing) for g in units}
    h = {n: fcbp.random.normal(fcbp.random.key(1), (3, m), torch.float64).abs() for n, m in size.items()}
    found = []
    for factor in (1.0, scale):
        method = build()
        given = {
            "grads": {n: p * factor for n, p in params.items()},
            "features": {n: x * factor for n, x in h.items()},
            "hyper": hyperparams(0.9, 1),
        }
        state = method.init(units, params, fcbp.random.key(0))
        *_, info = method.update(state, params, (), dict(model.named_buffers()), units=units, **given)
        found.append({n: mask.tolist() for n, mask in info["replaced"].items()})
    assert found[0] == found[1]
    assert sum(map(sum, found[0].values())) > 0


BAD = [
    ({}, {"threshold": float("nan")}, {}, "threshold is nan; expected a number"),
    ({}, {"period": 0}, {}, "period is 0; expected a whole number of steps, 1 or more"),
    ({}, {"period": 2.5}, {}, "period is 2.5; expected a whole number of steps"),
    ({}, {"decay_rate": 1.1}, {}, r"decay_rate is 1.1; expected a number in \[0, 1\]"),
    ({"capacity": -1}, {}, {}, "capacity is -1; expected a number of units"),
    ({"capacity": True}, {}, {}, "capacity is True"),
    ({"initializer": "kaiming"}, {}, {}, "initializer is 'kaiming'; expected one of .*kaiming_uniform"),
    ({}, {}, {"units": ()}, r"units is \(\); {} needs the groups whose units it resets"),
]


def update(build, options, hyper, missing):
    """One update of a method that is given all but something."""
    model, units = NETWORKS["mlp"]()
    params = {n: p.detach() for n, p in model.named_parameters()}
    features = {"0": torch.zeros(3, 6), "2": torch.zeros(3, 5)}
    given = {"units": units, "features": features, "grads": params, **missing}
    method = build(**options)
    state = method.init(given["units"], params, fcbp.random.key(0))
    return method.update(state, params, (), {}, hyper=hyper, **given)


@kinds
@pytest.mark.parametrize(("options", "numbers", "missing", "message"), BAD)
def test_bad_input_is_named(kind, options, numbers, missing, message):
    build, hyperparams, _ = KINDS[kind]
    with pytest.raises(ValueError, match=message.replace("{}", kind)):
        update(build, options, hyperparams(**numbers), missing)


@pytest.mark.parametrize(
    ("kind", "missing", "message"),
    [
        ("redo", {"features": None}, "features is None; redo needs every group's activation"),
        ("redo", {"features": {"0": torch.zeros(3, 6)}}, "features has no entry for group '2'"),
        ("redo", {"features": {"0": torch.zeros(3, 7), "2": torch.zeros(3, 5)}}, "expected 6 entries on its unit axis"),
        ("regrama", {"grads": None}, "grads is None; regrama needs a pytree like params"),
        ("regrama", {"hyper": fcbp.Hyperparams()}, "expected RegramaHyperparams"),
    ],
)
def test_what_is_missing_is_named(kind, missing, message):
    build, hyperparams, _ = KINDS[kind]
    missing = dict(missing)
    hyper = missing.pop("hyper", hyperparams())
    with pytest.raises(ValueError, match=message):
        update(build, {}, hyper, missing)


def test_a_group_without_incoming_weights_is_named_where_they_are_read():
    from dataclasses import replace as change

    model, units = NETWORKS["mlp"]()
    params = {n: p.detach() for n, p in model.named_parameters()}
    units = (change(units[0], incoming=(), bias=()), units[1])
    methods.redo().init(units, params, fcbp.random.key(0))
    with pytest.raises(ValueError, match="group '0' has no incoming slice; regrama reads the gradients there"):
        methods.regrama().init(units, params, fcbp.random.key(0))


@pytest.mark.compiled
def test_many_members_in_the_compiled_scan_are_the_eager_ones():
    """All rows are drawn where they are read: in generated code, as in a run of many members, not as eager kernels."""
    model = fcbp.nets.mlp(20, (5,), 1)
    units = fcbp.find_units(model, torch.zeros(1, 20))
    learner = fcbp.make_learner(model, units, method=fcbp.methods.redo())
    members, length = 64, 6
    numbers = fcbp.LearnerHyperparams(0.01, fcbp.methods.RedoHyperparams(threshold=0.5, period=2))
    hyper = optree.tree_map(lambda x: torch.full((members,), float(x), dtype=torch.float64), numbers)

    def step(carry, batch):
        state, hyper = carry
        state, info = learner.step(state, batch, hyper)
        return (state, hyper), info["replaced"]["0"]

    carry = (torch.vmap(learner.init)(fcbp.random.split(fcbp.random.key(0), members)), hyper)
    inputs = fcbp.random.uniform(fcbp.random.key(1), (length, members, 1, 20)).round()
    batches = (inputs, inputs.mean(-1, keepdim=True))
    side_by_side = torch.vmap(step)
    (compiled, _), replaced = fcbp.loop.scan(side_by_side, carry, batches, backend="scan")
    (eager, _), expected = fcbp.loop.scan(side_by_side, carry, batches, backend="eager")
    assert replaced.equal(expected)
    assert replaced.any()
    for name in eager.params:
        torch.testing.assert_close(compiled.params[name], eager.params[name], rtol=1e-4, atol=1e-5)
