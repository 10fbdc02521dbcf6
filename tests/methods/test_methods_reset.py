"""Methods that reset single weights or whole tensors, against loops: who is reset, and what becomes of whom."""

import itertools
import math

import contract
import numpy as np
import pytest
import torch
from contract import UNITS

import fcbp
from fcbp import methods, optim
from fcbp.methods import NoHyperparams, SWRHyperparams

STEPS = 50
STEP_SIZE = 0.05
NEW_TASKS = (4, 5, 30)


def run(method, hyper, signal=True):
    """Steps of a method with an optimiser that has momentum; yields what it was given and what came of it."""
    optimizer = optim.sgd(0.9)
    params = {name: leaf.double() for name, leaf in contract.params(0).items()}
    buffers = contract.buffers(0)
    state, opt_state = method.init(UNITS, params, fcbp.random.key(3)), optimizer.init(params)
    for t in range(STEPS):
        grads = {name: leaf.double() for name, leaf in contract.grads(t).items()}
        stepped, momentum = optimizer.update(grads, opt_state, params, step_size=STEP_SIZE)
        given = {"new_task": torch.tensor(t in NEW_TASKS)} if signal else {}
        params, opt_state, new_buffers, state, info = method.update(
            state, stepped, momentum, buffers, units=UNITS, grads=grads, features={}, hyper=hyper, **given
        )
        yield t, grads, (stepped, momentum.momentum, buffers), (params, opt_state.momentum, new_buffers), info
        buffers = new_buffers


def entries(array):
    return itertools.product(*map(range, array.shape))


def check_reset(initial, before, after, reset):
    """What is reset has a value between the least and the greatest initial one, and no momentum; the rest stays."""
    for name, mask in reset.items():
        low, high = float(initial[name].min()), float(initial[name].max())
        (old, _), (new, momentum) = ([part[name].numpy() for part in parts[:2]] for parts in (before, after))
        mask = mask.numpy()
        assert ((low <= new[mask]) & (new[mask] <= high)).all(), name
        assert (momentum[mask] == 0).all(), name
        assert low == high or (new[mask] != old[mask]).all(), name
        assert (new[~mask] == old[~mask]).all(), name
        assert (momentum[~mask] == before[1][name].numpy()[~mask]).all(), name


class Tensors:
    """Running means, ages and what is owed, per tensor, in plain loops."""

    def __init__(self, shapes, decay):
        self.u = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.age = {name: np.zeros(shape, int) for name, shape in shapes.items()}
        self.owed = dict.fromkeys(shapes, 0.0)
        self.decay = decay

    def observe(self, name, values):
        for i in entries(values):
            self.age[name][i] += 1
            self.u[name][i] = self.decay * self.u[name][i] + (1 - self.decay) * values[i]

    def corrected(self, name, i):
        return self.u[name][i] / (1 - self.decay ** self.age[name][i])

    def lowest(self, name, number, maturity=0):
        mature = [i for i in entries(self.u[name]) if self.age[name][i] > maturity]
        return set(sorted(mature, key=lambda i: (self.corrected(name, i), i))[:number])

    def forget(self, name, which):
        for i in which:
            self.u[name][i] = self.age[name][i] = 0


def reset_set(mask):
    return {tuple(i) for i in np.argwhere(mask.numpy()).tolist()}


# --- selective weight reinitialisation --------------------------------------------------------------------


@pytest.mark.parametrize("utility", ["gradient", "magnitude"])
@pytest.mark.parametrize(
    ("pruning", "factor", "period", "decay"),
    [
        ("proportional", 0.13, 1, 0.0),
        ("proportional", 0.4, 7, 0.9),
        ("threshold", 0.2, 1, 0.0),
        ("threshold", 0.5, 5, 0.8),
    ],
)
def test_swr(utility, pruning, factor, period, decay):
    initial = contract.params(0)
    oracle = Tensors({name: leaf.shape for name, leaf in initial.items()}, decay)
    hyper = SWRHyperparams(factor, period, decay)
    total, expected_total = 0, 0.0
    method = methods.swr(utility, pruning=pruning)
    for t, grads, before, after, info in run(method, hyper, signal=False):
        reset = info["reset_weights"]
        for name, w in before[0].items():
            oracle.observe(name, (w * grads[name] if utility == "gradient" else w).abs().numpy())
            chosen = reset_set(reset[name])
            n = w.numel()
            if (t + 1) % period:
                assert not chosen
            elif pruning == "proportional":
                assert math.floor(factor * n) <= len(chosen) <= math.ceil(factor * n)
                assert chosen == oracle.lowest(name, len(chosen))
                expected_total += factor * n
                total += len(chosen)
            else:
                values = {i: oracle.corrected(name, i) for i in entries(w)}
                bound = factor * sum(values.values()) / n
                assert chosen == {i for i, value in values.items() if value <= bound}
                total += len(chosen)
            oracle.forget(name, chosen)
        check_reset(initial, before, after, reset)
        assert info["replaced"] == {}
    assert total > 30
    if pruning == "proportional":  # rounded up as often as its fraction says
        events = STEPS // period * len(initial)
        assert abs(total - expected_total) < 4 * 0.5 * events**0.5


def test_swr_takes_the_mean_of_the_initial_distribution_if_asked():
    initial = contract.params(0)
    *_, (_, _, _, after, info) = run(methods.swr(initializer="initial_mean"), SWRHyperparams(1.0, 50), signal=False)
    for name, w in after[0].items():
        assert info["reset_weights"][name].all()
        torch.testing.assert_close(w, initial[name].double().mean().expand(w.shape))


@pytest.mark.parametrize("factor", [0.0, torch.tensor(0.0)])
def test_a_threshold_of_0_resets_not_even_what_is_of_no_use(factor):
    """The published code resets weights of utility 0, such as those of a dead unit, whatever the factor."""
    w, grads = {"w": torch.ones(4)}, {"w": torch.zeros(4)}
    method = methods.swr(pruning="threshold")
    for number, count in ((factor, 0), (1e-30, 4)):
        state = method.init((), w, fcbp.random.key(0))
        *_, info = method.update(state, w, (), {}, grads=grads, hyper=SWRHyperparams(number, 1))
        assert info["reset_weights"]["w"].sum() == count


# --- CBP per weight ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "maturity", "period"), [(0.02, 3, 1), (0.3, 10, 4), (0.5, 0, 9)])
def test_cbp_weights(rate, maturity, period):
    initial = {name: leaf for name, leaf in contract.params(0).items() if leaf.ndim == 2}
    oracle = Tensors({name: leaf.shape for name, leaf in initial.items()}, 0.9)
    hyper = fcbp.weights.Hyperparams(rate, maturity, 0.9, period)
    total = 0
    for t, grads, before, after, info in run(methods.cbp_weights(), hyper, signal=False):
        reset = info["reset_weights"]
        for name in initial:
            oracle.observe(name, (before[0][name] * grads[name]).abs().numpy())
            number = 0
            if (t + 1) % period == 0:
                oracle.owed[name] += rate * int((oracle.age[name] > maturity).sum())
                number = math.floor(oracle.owed[name])
                oracle.owed[name] -= number
            chosen = oracle.lowest(name, number, maturity)
            assert reset_set(reset[name]) == chosen
            oracle.forget(name, chosen)
            total += len(chosen)
        assert not any(reset[name].any() for name in reset if name not in initial)
        check_reset(initial, before, after, reset={name: reset[name] for name in initial})
    assert total > 30


def test_cbp_weights_is_its_functions_with_their_options():
    options = {"selection": "random", "initializer": "uniform", "rounding": "stochastic", "rate_counts": "all"}
    method = methods.cbp_weights(
        "magnitude", managed="all", maturity="outliers", protect=True, scale_by_moments=True, **options, capacity=2
    )
    hyper = fcbp.weights.Hyperparams(0.2, 0, 0.5)
    optimizer = optim.adam()
    params, grads = contract.params(0), contract.grads(0)
    state = expected = method.init((), params, fcbp.random.key(1))
    assert state.outliers
    assert state.protected
    opt_state, count = optimizer.init(params), 0
    for _ in range(8):
        params, opt_state = optimizer.update(grads, opt_state, params, step_size=0.1)
        expected = fcbp.weights.update_utility(expected, params, grads, hyper, utility="magnitude", moments=opt_state)
        e_params, expected, masks = fcbp.weights.select_and_reset(expected, params, hyper, **options, capacity=2)
        e_opt = fcbp.weights.reset_moments(opt_state, masks)
        params, opt_state, _, state, info = method.update(state, params, opt_state, {}, grads=grads, hyper=hyper)
        for a, b in zip(
            torch.utils._pytree.tree_leaves((params, opt_state, state, info["reset_weights"])),
            torch.utils._pytree.tree_leaves((e_params, e_opt, expected, masks)),
            strict=True,
        ):
            assert torch.equal(a, b)
        count += sum(int(mask.sum()) for mask in masks.values())
    assert count > 10


# --- a task signal ----------------------------------------------------------------------------------------

HEAD = {"2.weight", "2.bias"}


@pytest.mark.parametrize("head", [None, ["2.weight", ("2.bias",)]])
def test_head_reset(head):
    initial = contract.params(0)
    for t, _, before, after, info in run(methods.head_reset(head), NoHyperparams()):
        reset = info["reset_weights"]
        for name, mask in reset.items():
            assert mask.shape == before[0][name].shape
            assert mask.all() if name in HEAD and t in NEW_TASKS else not mask.any()
        check_reset(initial, before, after, reset)
        assert info["replaced"] == {}
        assert after[2] is before[2]


def test_full_reset():
    initial = contract.params(0)
    for t, _, before, after, info in run(methods.full_reset(), NoHyperparams()):
        event = t in NEW_TASKS
        reset = info["reset_weights"]
        assert all(bool(mask.all()) == bool(mask.any()) == event for mask in reset.values())
        assert all(mask.shape == (group.size,) for mask, group in zip(info["replaced"].values(), UNITS, strict=True))
        assert all(bool(mask.all()) == bool(mask.any()) == event for mask in info["replaced"].values())
        check_reset(initial, before, after, reset)
        for name, buffer in after[2].items():
            fresh = {"running_mean": 0.0, "running_var": 1.0}.get(name.rpartition(".")[2])
            assert torch.equal(
                buffer, torch.full_like(buffer, fresh) if event and fresh is not None else before[2][name]
            )


def test_a_full_reset_draws_from_each_tensors_own_initial_distribution():
    key = fcbp.random.key(0)
    initial = {
        "wide": fcbp.initializers.kaiming_uniform(key, (60, 50), 50, 60),
        "narrow": 0.01 * fcbp.random.normal(fcbp.random.fold_in(key, 1), (40, 50)),
        "bias": torch.zeros(30),
        "scale": torch.ones(30),
    }
    method = methods.full_reset()
    state = method.init((), initial, key)
    draws = []
    for _ in range(2):
        moved = {name: leaf + 5 for name, leaf in initial.items()}
        new, _, _, state, _ = method.update(state, moved, (), {}, units=(), new_task=torch.tensor(True))
        for name, n in (("wide", 3000), ("narrow", 2000)):
            assert abs(new[name].mean() / initial[name].std()) < 6 / n**0.5
            assert abs(new[name].std() / initial[name].std() - 1) < 6 / n**0.5
        assert torch.equal(new["bias"], initial["bias"])
        assert torch.equal(new["scale"], initial["scale"])
        draws.append(new["wide"].flatten())
    assert abs(torch.corrcoef(torch.stack([*draws, initial["wide"].flatten()])) - torch.eye(3)).max() < 4.5 / 3000**0.5


def test_the_head_of_several_consumers_is_all_of_them_and_of_a_chain_the_last():
    nn = torch.nn

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.policy, self.value = nn.Linear(3, 4), nn.Linear(4, 2, bias=False), nn.Linear(4, 1)

        def forward(self, x):
            h = self.body(x).relu()
            return torch.cat([self.policy(h), self.value(h)], -1)

    for model, head in (
        (TwoHeads(), {"policy.weight", "value.weight", "value.bias"}),
        (fcbp.nets.mlp(3, (4, 5), 2), {"4.weight", "4.bias"}),
    ):
        units = fcbp.find_units(model, torch.ones(2, 3))
        assert set(methods.head_reset().init(units, dict(model.named_parameters()), fcbp.random.key(0)).initial) == head


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "hyper", "message"),
    [
        (methods.swr(), SWRHyperparams(1.5), r"factor is 1\.5; expected a number in \[0, 1\]"),
        (methods.swr(pruning="threshold"), SWRHyperparams(-1), "factor is -1; expected a number, 0 or more"),
        (methods.swr(), SWRHyperparams(period=0), "period is 0; expected a whole number of steps, 1 or more"),
        (methods.swr(), SWRHyperparams(decay_rate=1), r"decay_rate is 1; expected a number in \[0, 1\)"),
        (methods.swr(initializer="kaiming_uniform"), SWRHyperparams(), "expected two axes or more"),
        (methods.swr(), NoHyperparams(), r"hyper is NoHyperparams\(\); expected SWRHyperparams"),
        (methods.cbp_weights(), fcbp.weights.Hyperparams(2.0), r"reset_rate is 2\.0; expected"),
        (methods.head_reset(), NoHyperparams(), "new_task is None; head-reset needs to know .*task_signal=True"),
        (methods.full_reset(), NoHyperparams(), "new_task is None; full-reset needs to know .*task_signal=True"),
    ],
)
def test_numbers_out_of_range_options_and_signals_that_are_missing(method, hyper, message):
    with pytest.raises(ValueError, match=message):
        next(run(method, hyper, signal=False))


def test_options_of_the_builders():
    with pytest.raises(ValueError, match="pruning is 'treshold'; expected one of proportional, threshold"):
        methods.swr(pruning="treshold")
    with pytest.raises(ValueError, match=r"utility is 'gradients'; expected one of.*'gradient'"):
        methods.swr("gradients")
    with pytest.raises(ValueError, match=r"selection is 'low'; .*'lowest'"):
        methods.cbp_weights(selection="low")
    params = contract.params(0)
    with pytest.raises(ValueError, match=r"head names '4\.weight'; expected some of 0\.bias, "):
        methods.head_reset(["4.weight"]).init(UNITS, params, fcbp.random.key(0))
    with pytest.raises(ValueError, match="units has 0 groups, of which none says where the head is; head-reset needs"):
        methods.head_reset().init((), params, fcbp.random.key(0))
    scaled, hyper = methods.cbp_weights(scale_by_moments=True), fcbp.weights.Hyperparams()
    with pytest.raises(ValueError, match="moments is tuple; expected an AdamState, or an SGDState with momentum"):
        scaled.update(scaled.init((), params, fcbp.random.key(0)), params, (), {}, grads=params, hyper=hyper)


def test_moments_from_before_a_head_grew_are_named():
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 4))
    units = fcbp.find_units(net, torch.randn(2, 3))
    params = {name: p.detach() for name, p in net.named_parameters()}
    old = fcbp.optim.sgd(momentum=0.9).init({**params, "2.weight": params["2.weight"][:2]})
    kind = fcbp.methods.METHODS["cbp"]
    built, features = kind.build(), {g.name: torch.randn(2, g.size) for g in units}
    state = built.init(units, params, fcbp.random.key(0))
    with pytest.raises(ValueError, match=r"2\.weight.* of shape \(2, 5\)"):
        built.update(
            state, params, old, {}, units=units, grads=params, features=features, hyper=kind.hyperparams(),
            previous=params, step_size=0.1,
        )  # fmt: skip
