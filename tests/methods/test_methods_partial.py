"""Continuous partial resets, and continuous CBP in both forms, against loops over the equations; and ccbp-pytorch."""

import math

import ccbp_pytorch
import pytest
import torch
from learners import NETWORKS
from oracle import elements, pattern
from reset_oracle import gradient_magnitude, leaf, masks, network, relative, replace, replace_partly, run, write
from torch import nn

import fcbp
from fcbp import methods
from fcbp.methods.cpr import TRANSFORMS as OURS

TRANSFORMS = {
    "sigmoid": lambda d: min(1.0, 2 / (1 + math.exp(d))),
    "exp": lambda d: min(1.0, math.exp(-d)),
    "softplus": lambda d: min(1.0, math.log(1 + math.exp(-d)) / math.log(2)),
    "linear": lambda d: min(max(1 - d, 0.0), 1.0),
}


class CPR:
    def __init__(self, transform, hyper):
        self.transform, self.hyper = TRANSFORMS[transform], hyper
        self.utility, self.step = {}, 0

    def __call__(self, world, features, grads):
        self.step += 1
        event, fraction = self.step % self.hyper.period == 0, {}
        for group in world.units:
            u = self.utility.setdefault(group.name, [1.0] * group.size)
            new = relative([gradient_magnitude(group, grads, i) for i in range(group.size)])
            r = fraction[group.name] = [0.0] * group.size
            for i in range(group.size):
                u[i] = self.hyper.decay_rate * u[i] + (1 - self.hyper.decay_rate) * new[i]
                if event:
                    r[i] = self.hyper.rate * self.transform(self.hyper.sharpness * (u[i] - self.hyper.threshold))
                    u[i] = 1.0
        replace_partly(world, fraction)
        return {"replaced": {}, "reset_fraction": fraction}, {"utility": self.utility}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "hyper",
    [
        methods.CPRHyperparams(rate=0.3, sharpness=4.0, decay_rate=0.8, period=3),
        methods.CPRHyperparams(rate=1.0, sharpness=16.0, threshold=0.5, decay_rate=0.0, period=1),
    ],
)
def test_every_step_of_cpr_is_the_equations(transform, hyper):
    count, _ = run(lambda draw: methods.cpr(transform, initializer=draw), hyper, CPR(transform, hyper))
    assert count > 5


def test_a_transform_may_be_a_function():
    hyper = methods.CPRHyperparams(rate=0.3, sharpness=4.0, decay_rate=0.8, period=3)
    run(lambda draw: methods.cpr(OURS["exp"], initializer=draw), hyper, CPR("exp", hyper))


def test_a_unit_at_the_threshold_is_reset_by_the_whole_rate_and_half_of_it_by_ccbp():
    for name, transform in OURS.items():
        d = torch.tensor([-9.0, 0.0, 30.0])
        torch.testing.assert_close(transform(d), torch.tensor([1.0, 1.0, 0.0]), atol=1e-6, rtol=0, msg=name)


class CCBP:
    def __init__(self, hyper, continuous=True, capacity=None):
        self.hyper, self.continuous, self.capacity = hyper, continuous, capacity
        self.utility, self.age, self.owed, self.step = {}, {}, {}, 0

    def __call__(self, world, features, grads):
        hyper = self.hyper
        self.step += 1
        event = self.step % hyper.period == 0
        fraction, chosen = {}, {}
        for group in world.units:
            name = group.name
            u = self.utility.setdefault(name, [1.0] * group.size)
            age = self.age.setdefault(name, [0.0] * group.size)
            new = [
                gradient_magnitude(group, grads, i) + sum(abs(g) for g in elements(group.bias, i, grads))
                for i in range(group.size)
            ]
            for i, value in enumerate(relative(new)):
                u[i] = hyper.decay_rate * u[i] + (1 - hyper.decay_rate) * value
            fraction[name], chosen[name] = [0.0] * group.size, []
            if self.continuous and event:
                for i in range(group.size):
                    maturity = min(age[i] / hyper.maturity_threshold, 1) if hyper.maturity_threshold else 1
                    fraction[name][i] = hyper.replacement_rate * maturity / (1 + math.exp(hyper.sharpness * (u[i] - 1)))
            elif event:
                mature = [i for i in range(group.size) if age[i] >= hyper.maturity_threshold]
                owed = self.owed.get(name, 0.0) + hyper.replacement_rate * len(mature)
                number = min(math.floor(owed), group.size if self.capacity is None else self.capacity)
                chosen[name] = sorted(mature, key=lambda i, u=u: (u[i], i))[:number]
                self.owed[name] = owed - len(chosen[name])
                for i in chosen[name]:
                    fraction[name][i] = 1.0
            for i, r in enumerate(fraction[name]):
                age[i] = (1 - r) * age[i] + 1
                u[i] = (1 - r) * u[i] + r
        if self.continuous:
            replace_partly(world, fraction)
        else:
            replace(world, chosen, max(g.size for g in world.units) if self.capacity is None else self.capacity)
        for group in world.units:
            for i, r in enumerate(fraction[group.name]):
                for s in group.bias:
                    initial = leaf(world.initial, s.path)[i]
                    write(world.params, (s,), i, lambda b, r=r, initial=initial: (1 - r) * b + r * initial)
        info = {"reset_fraction": fraction} if self.continuous else {"replaced": masks(world, chosen)}
        return info, {"utility": self.utility, "age": self.age}


@pytest.mark.parametrize(
    "hyper",
    [
        methods.CCBPHyperparams(replacement_rate=0.3, sharpness=4.0, decay_rate=0.8, period=3),
        methods.CCBPHyperparams(replacement_rate=1.0, decay_rate=0.0, period=2, maturity_threshold=7),
    ],
)
def test_every_step_of_continuous_ccbp_is_the_equations(hyper):
    count, _ = run(lambda draw: methods.ccbp(initializer=draw), hyper, CCBP(hyper))
    assert count > 5


@pytest.mark.parametrize(
    ("hyper", "capacity"),
    [
        (methods.CCBPHyperparams(replacement_rate=0.07, decay_rate=0.8, period=1, maturity_threshold=4), None),
        (methods.CCBPHyperparams(replacement_rate=0.5, decay_rate=0.0, period=3, maturity_threshold=2), 1),
    ],
)
def test_every_step_of_discrete_ccbp_is_the_equations(hyper, capacity):
    oracle = CCBP(hyper, continuous=False, capacity=capacity)
    count, state = run(lambda draw: methods.ccbp(continuous=False, initializer=draw, capacity=capacity), hyper, oracle)
    assert count > 10
    for name, owed in oracle.owed.items():
        assert float(state.owed[name]) == pytest.approx(owed, abs=1e-12)


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5])
def test_the_discrete_count_is_the_rate_times_the_eligible(rate):
    """ccbp-pytorch carries the fraction and rounds it up by chance too: at 0.001 it replaces 25 times as many."""
    model, units = NETWORKS["mlp"]()
    units = units[:1]
    params = {n: p.detach() for n, p in model.named_parameters()}
    hyper = methods.CCBPHyperparams(replacement_rate=rate, period=1)
    method = methods.ccbp(continuous=False)
    state, total = method.init(units, params, fcbp.random.key(0)), 0
    steps = 200
    for _ in range(steps):
        *_, state, info = method.update(state, params, (), {}, units=units, grads=params, hyper=hyper)
        total += int(info["replaced"]["0"].sum())
    assert total in (math.floor(rate * 6 * steps + 1e-9), math.floor(rate * 6 * steps - 1e-9))


# --- ccbp-pytorch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("maturity", [0, 9])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_continuous_ccbp_is_that_of_ccbp_pytorch(maturity, optimizer):
    """On a chain of linear layers, where it finds what reads a unit; the head is told apart by its name."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for name, module in zip(
        ("a", "relu", "b", "relu2", "head"),
        (nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
        strict=True,
    ):
        model.add_module(name, module)
    model = model.double()
    units = fcbp.find_units(model, torch.zeros(1, 4, dtype=torch.float64))
    ours = fcbp.make_learner(
        model,
        units,
        optimizer={"sgd": fcbp.optim.sgd(0.9), "adam": fcbp.optim.adam()}[optimizer],
        method=methods.ccbp(initializer=rows),
        draw=lambda key: {n: p.detach().clone() for n, p in model.named_parameters()},
    )
    state = ours.init(fcbp.random.key(0))
    base = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    }[optimizer](model.parameters())
    theirs = ccbp_pytorch.CCBP(
        base,
        model=model,
        replacement_rate=0.2,
        reset_interval=4,
        maturity_steps=maturity,
        utility_ema_decay=0.8,
        steepness=4.0,
        init_fn=lambda w: w.copy_(rows(None, tuple(w.shape), w[0].numel(), 0, w.dtype, None)),
    )
    for own in theirs.neuron_states.values():  # it keeps float32, and mixes no dtypes
        own.update(utility=own["utility"].double(), age=own["age"].double())
    hyper = methods.CCBPHyperparams(0.2, 4.0, 0.8, 4, maturity)
    moved = 0.0
    for t in range(50):
        x = fcbp.random.normal(fcbp.random.fold_in(fcbp.random.key(5), t), (8, 4), torch.float64)
        y = torch.stack([x[:, 0] * x[:, 1], x.sum(1).sin()], 1)
        theirs.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        theirs.step()
        state, info = ours.step(state, (x, y), fcbp.LearnerHyperparams(0.02, hyper))
        moved += sum(float(r.sum()) for r in info["reset_fraction"].values())
        for name, p in model.named_parameters():
            torch.testing.assert_close(state.params[name], p.detach(), rtol=1e-7, atol=1e-9, msg=f"step {t}: {name}")
        for group, own in zip(units, theirs.neuron_states.values(), strict=True):
            torch.testing.assert_close(state.method.utility[group.name], own["utility"], rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(state.method.age[group.name], own["age"], rtol=1e-7, atol=1e-9)
    assert moved > 1


def rows(key, shape, fan_in, fan_out, dtype, device):
    return torch.from_numpy(pattern(shape[0], tuple(shape[1:]), fan_in)).to(dtype)


# --- bad input --------------------------------------------------------------------------------------------


def update(method, hyper, **missing):
    model, units = NETWORKS["mlp"]()
    params = {n: p.detach() for n, p in model.named_parameters()}
    given = {"units": units, "grads": params, **missing}
    state = method.init(given["units"], params, fcbp.random.key(0))
    return method.update(state, params, (), {}, hyper=hyper, **given)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: methods.cpr("sigmod"), "transform is 'sigmod'; expected one of .*; did you mean 'sigmoid'?"),
        (lambda: methods.cpr(initializer="kaiming"), "initializer is 'kaiming'"),
        (lambda: methods.ccbp(capacity=-2), "capacity is -2; expected a number of units"),
        (lambda: methods.ccbp(initializer="he"), "initializer is 'he'; expected one of"),
    ],
)
def test_unknown_options_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "hyperparams", "field", "value", "expected"),
    [
        (methods.cpr, methods.CPRHyperparams, "rate", 1.5, "a number in"),
        (methods.cpr, methods.CPRHyperparams, "sharpness", -1.0, "a number, 0 or more"),
        (methods.cpr, methods.CPRHyperparams, "threshold", math.nan, "a number"),
        (methods.cpr, methods.CPRHyperparams, "decay_rate", -0.1, "a number in"),
        (methods.cpr, methods.CPRHyperparams, "period", 0, "a whole number of steps, 1 or more"),
        (methods.ccbp, methods.CCBPHyperparams, "replacement_rate", -0.1, "a number in"),
        (methods.ccbp, methods.CCBPHyperparams, "period", 0, "a whole number of steps, 1 or more"),
        (methods.ccbp, methods.CCBPHyperparams, "maturity_threshold", -1, "a number, 0 or more"),
    ],
)
def test_numbers_out_of_range_are_named(build, hyperparams, field, value, expected):
    with pytest.raises(ValueError, match=f"{field} is {value}; expected {expected}"):
        update(build(), hyperparams(**{field: value}))


@pytest.mark.parametrize(("name", "build"), [("cpr", methods.cpr), ("ccbp", methods.ccbp)])
def test_what_is_missing_is_named(name, build):
    hyper = methods.METHODS[name].hyperparams()
    with pytest.raises(ValueError, match=f"grads is None; {name} needs a pytree like params"):
        update(build(), hyper, grads=None)
    with pytest.raises(ValueError, match=rf"units is \(\); {name} needs the groups"):
        update(build(), hyper, units=())


@pytest.mark.parametrize("build", [methods.cpr, methods.ccbp])
def test_a_unit_without_a_finite_utility_is_left_alone(build):
    """A gradient that is NaN makes no weight NaN."""
    model, units = network()
    params = {n: p.detach() for n, p in model.named_parameters()}
    grads = {n: torch.ones_like(p) for n, p in params.items()}
    grads["0.weight"][1] = torch.nan
    method, buffers = build(), dict(model.named_buffers())
    state = method.init(units, params, fcbp.random.key(0))
    field = "rate" if build is methods.cpr else "replacement_rate"
    hyper = methods.METHODS[build.__name__].hyperparams(**{field: 1.0, "period": 1})
    new, _, _, _, info = method.update(state, params, (), buffers, units=units, grads=grads, hyper=hyper)
    assert all(p.isfinite().all() for p in new.values())
    assert (info["reset_fraction"][units[0].name] == 0).all()
    assert (info["reset_fraction"][units[1].name] > 0).all()
