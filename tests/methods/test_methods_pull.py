"""Methods that act on every weight at every step, against loops written from their papers' equations."""

import dataclasses
import itertools
import math

import contract
import numpy as np
import pytest
import torch
from contract import UNITS

import fcbp
from fcbp import methods, optim
from fcbp.methods import L2Hyperparams, L2InitHyperparams, ShrinkPerturbHyperparams, UPGDHyperparams

STEPS = 50
STEP_SIZE = 0.05


def double(tree):
    return {name: leaf.double() for name, leaf in tree.items()}


def numpy(tree):
    return {name: leaf.numpy().copy() for name, leaf in tree.items()}


@pytest.fixture
def noise(monkeypatch):
    """The normal draws of a method, in the order in which it makes them."""
    drawn, normal = [], fcbp.random.normal

    def record(*args, **keywords):
        drawn.append(normal(*args, **keywords))
        return drawn[-1]

    monkeypatch.setattr(fcbp.random, "normal", record)
    return drawn


def run(method, hyper, optimizer=None, new_task=None):
    """Steps of a method on gradients that pull to and fro; yields what it was given and what came of it."""
    optimizer = optim.sgd() if optimizer is None else optimizer
    params = double(contract.params(0))
    state, opt_state = method.init(UNITS, params, fcbp.random.key(3)), optimizer.init(params)
    for t in range(STEPS):
        # Gradients and weights mostly agree in sign, then mostly do not, so that utilities have both.
        fresh = double(contract.grads(t))
        grads = {name: 0.5 * g + math.cos(t / 6) * params[name] for name, g in fresh.items()}
        given = {
            "units": UNITS,
            "features": {},
            "hyper": hyper,
            "step_size": STEP_SIZE,
            "new_task": None if new_task is None else torch.tensor(new_task(t)),
        }
        adjusted, state = method.adjust(state, grads, params, **given)
        stepped, opt_state = optimizer.update(adjusted, opt_state, params, step_size=STEP_SIZE)
        new, opt_state, _, state, info = method.update(
            state, stepped, opt_state, {}, grads=grads, previous=params, **given
        )
        yield t, numpy(grads), numpy(params), numpy(new), state, info
        params = new


def entries(array):
    return itertools.product(*map(range, array.shape))


def close(actual, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


# --- pulls ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.3, 1e-4])
def test_l2_descends_the_penalised_loss(strength):
    for _, grads, before, after, state, info in run(methods.l2(), L2Hyperparams(strength)):
        expected = {name: np.empty_like(w) for name, w in before.items()}
        for name, w in before.items():
            for i in entries(w):
                expected[name][i] = w[i] - STEP_SIZE * (grads[name][i] + strength * w[i])
        close(after, expected)
        assert state == ()
        assert info == {"replaced": {}}


@pytest.mark.parametrize("norm", ["squared", "plain"])
def test_l2_init_descends_the_penalty_on_the_distance_from_the_start(norm):
    strength, start = 0.2, None
    for _, grads, before, after, state, _ in run(methods.l2_init(norm), L2InitHyperparams(strength)):
        start = before if start is None else start
        length = math.sqrt(sum((w - start[name])[i] ** 2 for name, w in before.items() for i in entries(w)))
        expected = {name: np.empty_like(w) for name, w in before.items()}
        for name, w in before.items():
            for i in entries(w):
                away = w[i] - start[name][i]
                pull = 2 * strength * away if norm == "squared" else strength * away / length if length else 0.0
                expected[name][i] = w[i] - STEP_SIZE * (grads[name][i] + pull)
        # The norm is taken in float32.
        for name, array in expected.items():
            np.testing.assert_allclose(after[name], array, rtol=1e-9 if norm == "squared" else 1e-6, atol=1e-8)
            assert np.array_equal(state.initial[name].numpy(), start[name])


def test_l2_init_with_no_strength_to_spare_stays_near_the_start_and_l2_near_zero():
    runs = {
        "init": [after for *_, after, _, _ in run(methods.l2_init(), L2InitHyperparams(5.0))],
        "zero": [after for *_, after, _, _ in run(methods.l2(), L2Hyperparams(10.0))],
    }
    start = numpy(contract.params(0))
    for name, w in start.items():
        assert abs(runs["init"][-1][name] - w).mean() < 0.5 * abs(w).mean()
        assert abs(runs["zero"][-1][name]).mean() < 0.5 * abs(w).mean()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_weight_decay_is_sgdw_and_adamw(name):
    optimizer = {"sgd": optim.sgd(), "adam": optim.adam()}[name]
    hyper = methods.WeightDecayHyperparams(0.4)
    torch_params = {n: torch.nn.Parameter(p.double()) for n, p in contract.params(0).items()}
    theirs = torch.optim.AdamW(torch_params.values(), lr=STEP_SIZE, weight_decay=0.4)
    for _, grads, before, after, _, info in run(methods.weight_decay(), hyper, optimizer):
        if name == "adam":
            for n, p in torch_params.items():
                p.grad = torch.from_numpy(grads[n])
            theirs.step()
            expected = {n: p.detach().numpy() for n, p in torch_params.items()}
        else:
            expected = {n: (1 - STEP_SIZE * 0.4) * w - STEP_SIZE * grads[n] for n, w in before.items()}
        close(after, expected)
        assert info == {"replaced": {}}


# --- shrink and perturb -----------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 7])
@pytest.mark.parametrize("managed", ["all", "matrices"])
def test_shrink_and_perturb_every_period(period, managed, noise):
    hyper = ShrinkPerturbHyperparams(0.8, 0.1, period)
    events, seen = 0, 0
    for t, grads, before, after, state, info in run(methods.shrink_perturb(managed=managed), hyper):
        drawn = iter([xi.numpy() for xi in noise[seen:] if xi.dtype == torch.float64])
        event = (t + 1) % period == 0
        expected = {}
        for name in sorted(before):  # the order in which the noise is drawn
            expected[name] = before[name] - STEP_SIZE * grads[name]
            if managed == "all" or before[name].ndim == 2:
                xi = next(drawn)
                for i in entries(xi):
                    if event:
                        expected[name][i] = 0.8 * expected[name][i] + 0.1 * xi[i]
        close(after, expected)
        assert state.since == (0 if event else (t + 1) % period)
        assert info == {"replaced": {}}
        events, seen = events + event, len(noise)
    assert events == STEPS // period


def test_shrink_and_perturb_at_new_tasks():
    method, hyper = methods.shrink_perturb("new_task"), ShrinkPerturbHyperparams(0.5, 0.0, period=3)
    for t, grads, before, after, _, _ in run(method, hyper, new_task=lambda t: t in (4, 20)):
        factor = 0.5 if t in (4, 20) else 1.0
        close(after, {name: factor * (w - STEP_SIZE * grads[name]) for name, w in before.items()})


def test_the_noise_is_fresh_and_standard():
    w = {"a": torch.zeros(40, 50), "b": torch.zeros(40, 50)}
    method, hyper = methods.shrink_perturb(), ShrinkPerturbHyperparams(0.0, 2.0, 1)
    state, draws = method.init((), w, fcbp.random.key(0)), []
    for _ in range(3):
        new, _, _, state, _ = method.update(state, w, (), {}, hyper=hyper)
        draws += [new["a"], new["b"]]
    for x in draws:
        assert abs(x.mean()) < 4 * 2 / 2000**0.5
        assert abs(x.std() / 2 - 1) < 4 / (2 * 2000) ** 0.5
    correlations = torch.corrcoef(torch.stack([x.flatten() for x in draws])) - torch.eye(6)
    assert correlations.abs().max() < 4.5 / 2000**0.5


def test_an_initialiser_as_noise_adds_a_scaled_draw_of_each_matrix():
    w = {"0.weight": torch.ones(30, 20), "0.bias": torch.ones(30), "conv.weight": torch.ones(8, 4, 3, 3)}
    method = methods.shrink_perturb(noise="kaiming_uniform")
    state = method.init((), w, fcbp.random.key(0))
    new, _, _, _, _ = method.update(state, w, (), {}, hyper=ShrinkPerturbHyperparams(0.8, 0.01, 1))
    assert torch.equal(new["0.bias"], w["0.bias"] * 0.8)
    for name, fan_in in (("0.weight", 20), ("conv.weight", 36)):
        xi = (new[name] - 0.8) / 0.01
        bound = (6 / fan_in) ** 0.5
        assert xi.abs().max() <= bound * 1.001
        assert xi.abs().max() > 0.95 * bound


# --- UPGD -------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-min(max(x, -700), 700)))


def scaled_utilities(u, t, beta, scaling, maximum):
    """``s`` for every entry of a dict of arrays of running means."""
    corrected = {name: array / (1 - beta**t) for name, array in u.items()}
    s = {name: np.empty_like(array) for name, array in u.items()}
    largest = abs(max(float(array.max()) for array in corrected.values()))
    if maximum == "raw":
        largest = max(float(array.max()) for array in u.values())
    for name, array in corrected.items():
        for i in entries(array):
            norm = math.sqrt(sum(x**2 for x in array[i[:-1]]))
            s[name][i] = sigmoid(array[i] / (norm if scaling == "local" else largest))
    return s


@pytest.mark.parametrize("protection", [1.0, 0.0])
@pytest.mark.parametrize(("scaling", "maximum"), [("global", "debiased"), ("global", "raw"), ("local", "debiased")])
def test_upgd_of_weights(scaling, maximum, protection, noise):
    beta, sigma, decay = 0.9, 0.3, 0.2
    method = methods.upgd(scaling=scaling, maximum=maximum)
    u, negative, seen = None, 0, 0
    for t, grads, before, after, state, info in run(method, UPGDHyperparams(sigma, decay, beta, protection)):
        drawn = iter([xi.numpy() for xi in noise[seen:] if xi.dtype == torch.float64])
        seen = len(noise)
        u = {name: np.zeros_like(w) for name, w in before.items()} if u is None else u
        for name, w in before.items():
            for i in entries(w):
                u[name][i] = beta * u[name][i] + (1 - beta) * -grads[name][i] * w[i]
        s = scaled_utilities(u, t + 1, beta, scaling, maximum)
        expected = {name: np.empty_like(w) for name, w in before.items()}
        for name in sorted(before):
            w, xi = before[name], next(drawn)
            for i in entries(w):
                useless = 1 - s[name][i]
                if protection:
                    step = (grads[name][i] + sigma * xi[i]) * useless
                else:
                    step = grads[name][i] + sigma * xi[i] * useless
                expected[name][i] = w[i] * (1 - STEP_SIZE * decay) - STEP_SIZE * step
        close(after, expected)
        close(numpy(state.utility), u)
        assert state.step == t + 1
        assert info == {"replaced": {}}
        negative += max(float(array.max()) for array in u.values()) < 0
    assert negative < STEPS / 2


def outgoing_utility(before, grads):
    """``-sum(g * w)`` over what reads each unit of the contract's network."""
    utility = {"layer0": np.zeros(5), "layer1": np.zeros(9)}
    for k, u in enumerate(utility.values()):
        w, g = before[f"{k + 1}.weight"], grads[f"{k + 1}.weight"]
        for o, j in entries(w):
            u[j] -= w[o, j] * g[o, j]
    return utility


@pytest.mark.parametrize("protection", [1.0, 0.0])
@pytest.mark.parametrize("scaling", ["global", "local"])
def test_upgd_of_features(scaling, protection, noise):
    beta, sigma, decay = 0.8, 0.3, 0.2
    u, seen = {"layer0": np.zeros(5), "layer1": np.zeros(9)}, 0
    method = methods.upgd("features", scaling=scaling)
    for t, grads, before, after, state, _ in run(method, UPGDHyperparams(sigma, decay, beta, protection)):
        drawn = iter([xi.numpy() for xi in noise[seen:] if xi.dtype == torch.float64])
        seen = len(noise)
        for name, fresh in outgoing_utility(before, grads).items():
            u[name] = beta * u[name] + (1 - beta) * fresh
        s = scaled_utilities(u, t + 1, beta, scaling, "debiased")
        expected = {name: np.empty_like(w) for name, w in before.items()}
        for name in sorted(before):
            w, g, xi = before[name], grads[name], next(drawn)
            layer = int(name[0])
            for i in entries(w):
                step = g[i]
                if layer < 2:  # the first axis of all that makes a unit counts units
                    useless = 1 - s[f"layer{layer}"][i[0]]
                    step = (g[i] if protection == 0 else g[i] * useless) + sigma * xi[i] * useless
                expected[name][i] = w[i] * (1 - STEP_SIZE * decay) - STEP_SIZE * step
        close(after, expected)
        close(numpy(state.utility), u)


def test_the_utility_of_a_unit_is_that_of_a_gate_after_its_activation():
    """The published code's: minus gate times its gradient, also where a map is flattened and where two layers read."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(1, 3, 3), nn.Linear(27, 2), nn.Linear(27, 4)
            self.flatten = nn.Flatten()

        def forward(self, x, gate=None):
            h = self.conv(x).tanh()
            h = h if gate is None else h * gate[:, None, None]
            h = self.flatten(h)
            return torch.cat([self.a(h), self.b(h)], -1)

    torch.manual_seed(0)
    model, x = Net(), torch.randn(6, 1, 5, 5)
    units = fcbp.find_units(model, x)
    gate = torch.ones(3, requires_grad=True)
    loss = model(x, gate).square().mean()
    names, leaves = zip(*model.named_parameters(), strict=True)
    *grads, gate_grad = torch.autograd.grad(loss, [*leaves, gate])
    params = {name: leaf.detach() for name, leaf in zip(names, leaves, strict=True)}
    method = methods.upgd("features")
    _, _, _, state, _ = method.update(
        method.init(units, params, fcbp.random.key(0)),
        params,
        (),
        {},
        units=units,
        grads=dict(zip(names, grads, strict=True)),
        hyper=UPGDHyperparams(decay_rate=0.0),
        previous=params,
        step_size=0.1,
    )
    (utility,) = state.utility.values()
    torch.testing.assert_close(utility, -gate_grad)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_more_useful_is_protected_more_whatever_the_sign_of_the_maximum(sign):
    w = {"w": torch.tensor([1.0, 2.0, 3.0])}
    grads = {"w": torch.tensor([-sign, -sign, -sign])}
    given = {
        "hyper": UPGDHyperparams(noise_std=0.0, weight_decay=0.0, decay_rate=0.5),
        "grads": grads,
        "previous": w,
        "step_size": 0.1,
    }
    stepped = {"w": w["w"] - 0.1 * grads["w"]}

    def moved(maximum):
        method = methods.upgd(maximum=maximum)
        new, *_ = method.update(method.init((), w, fcbp.random.key(0)), stepped, (), {}, **given)
        return (new["w"] - w["w"]).abs()

    order = moved("debiased").diff() < 0  # utilities are sign * (1, 2, 3)
    assert order.all() if sign > 0 else not order.any()
    assert (moved("raw").diff() < 0).all()  # the published code, whose order turns with the sign


def test_with_adam_it_is_adaptive_upgd():
    """Adam's step, not its gradient, is scaled: ``(1 - s)`` times it."""
    hyper = UPGDHyperparams(noise_std=0.0, weight_decay=0.0, decay_rate=0.9)
    plain = optim.adam()
    params = double(contract.params(0))
    opt_state, u = plain.init(params), None
    for t, grads, before, after, _, _ in run(methods.upgd(), hyper, optim.adam()):
        tensors = {name: torch.from_numpy(w) for name, w in before.items()}
        stepped, opt_state = plain.update(
            {name: torch.from_numpy(g) for name, g in grads.items()}, opt_state, tensors, step_size=STEP_SIZE
        )
        u = {name: np.zeros_like(w) for name, w in before.items()} if u is None else u
        u = {name: 0.9 * u[name] - 0.1 * grads[name] * w for name, w in before.items()}
        s = scaled_utilities(u, t + 1, 0.9, "global", "debiased")
        close(after, {name: w + (stepped[name].numpy() - w) * (1 - s[name]) for name, w in before.items()})


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: methods.l2_init("sqared"), "norm is 'sqared'; expected one of plain, squared; did you mean 'squared'"),
        (lambda: methods.shrink_perturb("task"), "event is 'task'; expected one of new_task, period"),
        (lambda: methods.shrink_perturb(managed="biases"), "managed is 'biases'; expected one of all, matrices"),
        (lambda: methods.shrink_perturb(noise="kaiming"), "noise is 'kaiming'.*'kaiming_uniform'"),
        (lambda: methods.upgd("weight"), "of is 'weight'; expected one of features, weights; did you mean 'weights'"),
        (lambda: methods.upgd(scaling="globl"), "scaling is 'globl'; expected one of global, local"),
        (lambda: methods.upgd(maximum="max"), "maximum is 'max'; expected one of debiased, raw"),
    ],
)
def test_unknown_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("method", "hyper", "message"),
    [
        (methods.l2(), L2Hyperparams(-1.0), "strength is -1.0; expected a number, 0 or more"),
        (methods.l2(), fcbp.Hyperparams(), r"hyper is Hyperparams\(.*; expected L2Hyperparams"),
        (methods.l2_init(), L2InitHyperparams(math.nan), "strength is nan; expected a number, 0 or more"),
        (methods.weight_decay(), methods.WeightDecayHyperparams(math.inf), "strength is inf; expected a number"),
        (methods.shrink_perturb(), ShrinkPerturbHyperparams(1.5), r"shrink is 1\.5; expected a number in \[0, 1\]"),
        (methods.shrink_perturb(), ShrinkPerturbHyperparams(0.5, -1.0), "noise_std is -1.0; expected a number, 0 or"),
        (
            methods.shrink_perturb(),
            ShrinkPerturbHyperparams(period=0),
            "period is 0; expected a whole number of steps, 1",
        ),
        (methods.shrink_perturb(), ShrinkPerturbHyperparams(period=2.5), "period is 2.5; expected a whole number"),
        (methods.shrink_perturb("new_task"), ShrinkPerturbHyperparams(), "new_task is None; .* third entry.*task_sig"),
        (methods.upgd(), UPGDHyperparams(noise_std=-0.1), "noise_std is -0.1; expected a number, 0 or more"),
        (methods.upgd(), UPGDHyperparams(decay_rate=1.0), r"decay_rate is 1.0; expected a number in \[0, 1\)"),
        (methods.upgd(), UPGDHyperparams(protection=2), r"protection is 2; expected a number in \[0, 1\]"),
    ],
)
def test_numbers_out_of_range_and_signals_that_are_missing(method, hyper, message):
    with pytest.raises(ValueError, match=message):
        next(run(method, hyper))


@pytest.mark.parametrize("name", ["weight-decay", "upgd"])
def test_what_a_caller_of_update_must_pass(name):
    kind = methods.METHODS[name]
    method, w = kind.build(), {"w": torch.ones(2, 2)}
    state = method.init((), w, fcbp.random.key(0))
    with pytest.raises(ValueError, match=r"previous is None; .*the parameters before .*: pass previous= to update"):
        method.update(state, w, (), {}, grads=w, hyper=kind.hyperparams(), step_size=0.1)
    with pytest.raises(ValueError, match=r"step_size is None; .*: pass step_size= to update"):
        method.update(state, w, (), {}, grads=w, hyper=kind.hyperparams(), previous=w)


def test_utilities_of_features_need_units():
    with pytest.raises(ValueError, match=r"units is \(\); upgd-features needs the groups"):
        methods.upgd("features").init((), {"w": torch.ones(2, 2)}, fcbp.random.key(0))
    unread = dataclasses.replace(UNITS[0], outgoing=(), outgoing_bias=())
    with pytest.raises(ValueError, match="group 'layer0' has no outgoing slice; upgd-features reads"):
        methods.upgd("features").init((unread,), contract.params(0), fcbp.random.key(0))
