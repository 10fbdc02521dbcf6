"""Runs of Continual Backpropagation per weight follow an oracle in NumPy."""

import math

import pytest
import torch
from weights_cases import KEY, normal

import fcbp
from fcbp import optim, weights
from fcbp.weights import Hyperparams
from fcbp.weights import lowest as search


def lower_quantile(values, fraction):
    """The order statistic, without interpolation."""
    finite = sorted(v for v in values if math.isfinite(v))
    return finite[math.floor((len(finite) - 1) * fraction + 1e-9)] if finite else math.inf


class Oracle:
    """One tensor's weights, flat, visited one by one in float64; changed in place."""

    def __init__(self, values, outliers=False, protect=False):
        n = len(values)
        self.w = list(values)
        self.age, self.utility, self.count = [0] * n, [0.0] * n, [0] * n
        self.protected, self.owed, self.step = [False] * n, 0.0, 0
        self.by_outliers, self.protect = outliers, protect

    def update(self, g, decay, utility, scale=None, drawn=None):
        self.step += 1
        y = []
        for i, w in enumerate(self.w):
            value = abs(w) if utility == "magnitude" else abs(g[i] * w)
            y.append(value if scale is None else value * scale[i])
        if self.by_outliers:
            q1, q2, q3 = (lower_quantile(y, f) for f in (0.25, 0.5, 0.75))
            for i, value in enumerate(y):
                self.count[i] += value > q2 + 1.5 * (q3 - q1)
        for i, value in enumerate(y):
            self.age[i] += 1
            self.utility[i] = decay * self.utility[i] + (1 - decay) * value
            if drawn is not None:
                self.utility[i] = drawn[i]

    def select(self, hyper, selection, rounding, rate_counts, capacity, due=None, chosen=None):
        """The places to reset, in order; ``due`` is what chance made of the number, ``chosen`` whom it took."""
        rate, maturity, decay, period, fraction, enter, leave = hyper
        n = len(self.w)
        if self.step % period:
            return []
        u = [x / (1 - decay**a) if a else 0.0 for x, a in zip(self.utility, self.age, strict=True)]
        counts = self.count if self.by_outliers else self.age
        mature = [i for i in range(n) if counts[i] > maturity and math.isfinite(u[i])]
        if self.protect:
            values = [u[i] for i in mature]
            high, low = lower_quantile(values, 1 - enter), lower_quantile(values, 1 - leave)
            self.protected = [i in mature and (u[i] > high or (self.protected[i] and u[i] >= low)) for i in range(n)]
        eligible = [i for i in mature if not self.protected[i]]
        ranked = sorted(eligible, key=lambda i: (u[i], i))
        limit = n if capacity is None else capacity
        if selection == "below":
            mean = sum(u[i] for i in eligible) / max(len(eligible), 1)
            return sorted([i for i in ranked if u[i] <= fraction * mean][:limit])
        expected = rate * (len(eligible) if rate_counts == "eligible" else n * bool(eligible))
        if rounding == "accumulate":
            self.owed += expected
        else:
            assert round(due) in (math.floor(expected), math.floor(expected) + 1)
            self.owed += round(due)
        self.owed -= max(math.floor(self.owed) - len(eligible), 0)
        number = min(math.floor(self.owed), limit) if rate else 0
        self.owed -= number
        if selection == "random":
            assert set(chosen) <= set(eligible)
            assert len(chosen) == number
            return chosen
        return sorted(ranked[:number])

    def reset(self, chosen):
        for slot, i in enumerate(chosen):
            self.w[i] = math.sin(1.0 + slot)
            self.age[i] = self.count[i] = 0
            self.utility[i] = 0.0


def pattern(key, shape, fan_in, fan_out, dtype, device):
    """An initialiser without chance, all of whose values differ."""
    return torch.sin(1.0 + torch.arange(shape[0], dtype=torch.float64)).to(dtype)


RUNS = {
    "defaults": {"rate": 0.02},
    "magnitude": {"rate": 0.05, "utility": "magnitude", "maturity": 4.5},
    "random utility": {"rate": 0.05, "utility": "random"},
    "random selection": {"rate": 0.05, "selection": "random"},
    "below": {"fraction": 0.4, "selection": "below"},
    "below, few at a time": {"fraction": 0.9, "selection": "below", "capacity": 2, "period": 2},
    "every 7 steps": {"rate": 0.3, "period": 7},
    "all at once": {"rate": 1.0, "maturity": 6},
    "all count": {"rate": 0.06, "rate_counts": "all"},
    "capacity": {"rate": 0.4, "capacity": 3},
    "capacity 1": {"rate": 0.2, "capacity": 1, "rate_counts": "all"},
    "stochastic": {"rate": 0.033, "rounding": "stochastic"},
    "no memory": {"rate": 0.1, "decay": 0.0},
    "outliers": {"rate": 0.2, "maturity": 1, "outliers": True},
    "protected": {"rate": 0.2, "protect": True, "selection": "random", "enter": 0.3, "leave": 0.5},
    "protected for good": {"rate": 0.3, "protect": True, "enter": 0.2, "leave": 1.0},
    "adam": {"rate": 0.05, "moments": "adam"},
    "momentum": {"rate": 0.05, "moments": "sgd", "utility": "magnitude"},
    "swr proportional": {"rate": 0.1, "maturity": 0, "decay": 0.0, "period": 4, "rounding": "stochastic",
                         "rate_counts": "all", "managed": "all"},
    "swr threshold": {"fraction": 0.05, "maturity": 0, "decay": 0.0, "period": 3, "selection": "below",
                      "managed": "all", "utility": "magnitude"},
    "seed": {"rate": 0.05, "maturity": 1, "decay": 0.05, "selection": "random", "rate_counts": "all",
             "outliers": True, "protect": True, "leave": 1.0},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("sorted_up_to", [4096, 8], ids=["sorted", "searched"])
@pytest.mark.parametrize("name", RUNS)
def test_fifty_steps_follow_the_oracle(name, sorted_up_to, monkeypatch):
    """A network trains on its own; every list of reset weights, counter and number is the oracle's."""
    monkeypatch.setattr(search, "_SORTED", sorted_up_to)
    run = dict(RUNS[name])
    hyper = Hyperparams(
        run.get("rate", 0.0), run.get("maturity", 3), run.get("decay", 0.9), run.get("period", 1),
        run.get("fraction", 0.0), run.get("enter", 0.1), run.get("leave", 0.5),
    )  # fmt: skip
    utility, selection = run.get("utility", "gradient"), run.get("selection", "lowest")
    rounding, counts = run.get("rounding", "accumulate"), run.get("rate_counts", "eligible")
    capacity = run.get("capacity")
    params = {"0": {"weight": normal(1, 6, 4), "bias": normal(2, 6)}, "1": [normal(3, 2, 6), normal(4, 2)]}
    optimizer = optim.adam() if run.get("moments") == "adam" else optim.sgd(0.9)
    opt_state = optimizer.init(params)
    state = weights.init_state(
        params, KEY, managed=run.get("managed", "matrices"), protect=run.get("protect", False),
        maturity="outliers" if run.get("outliers") else "steps",
    )  # fmt: skip
    paths = {"0/weight": ("0", "weight"), "0/bias": ("0", "bias"), "1/0": ("1", 0), "1/1": ("1", 1)}
    paths = {n: path for n, path in paths.items() if run.get("managed") == "all" or n in ("0/weight", "1/0")}
    assert set(state.born) == set(paths)
    oracles = {
        n: Oracle(fcbp.tree.get(params, path).flatten().tolist(), bool(run.get("outliers")), bool(run.get("protect")))
        for n, path in paths.items()
    }

    def loss(params, x, y):
        hidden = torch.tanh(x @ params["0"]["weight"].T + params["0"]["bias"])
        return ((hidden @ params["1"][0].T + params["1"][1] - y) ** 2).mean()

    total = 0
    for t in range(50):
        grads = torch.func.grad(loss)(params, normal(100 + t, 8, 4), normal(200 + t, 8, 2))
        params, opt_state = optimizer.update(grads, opt_state, params, step_size=0.02)
        moments = opt_state if "moments" in run else None
        for n, path in paths.items():
            own = oracles[n]
            own.w = fcbp.tree.get(params, path).flatten().tolist()
            scale = None
            if run.get("moments") == "adam":
                m, v = (fcbp.tree.get(tree, path).flatten().tolist() for tree in (moments.mean, moments.mean_square))
                scale = [(abs(a) + 1e-8) / (math.sqrt(b) + 1e-8) for a, b in zip(m, v, strict=True)]
            elif run.get("moments") == "sgd":
                scale = [abs(b) for b in fcbp.tree.get(moments.momentum, path).flatten().tolist()]
            own.update(fcbp.tree.get(grads, path).flatten().tolist(), hyper.decay_rate, utility, scale)
        state = weights.update_utility(state, params, grads, hyper, utility=utility, moments=moments)
        if utility == "random":
            for n, own in oracles.items():
                own.utility = state.utility[n].tolist()
        before = {n: v.item() for n, v in state.owed.items()}
        params, state, replaced = weights.select_and_reset(
            state, params, hyper, selection=selection, initializer=pattern, rounding=rounding,
            rate_counts=counts, capacity=capacity,
        )  # fmt: skip
        opt_state = weights.reset_moments(opt_state, replaced)
        for n, path in paths.items():
            own, mask = oracles[n], fcbp.tree.get(replaced, path)
            gone = mask.flatten().nonzero().flatten().tolist()
            due = state.owed[n].item() - before[n] + len(gone)
            chosen = own.select(hyper, selection, rounding, counts, capacity, due, gone)
            assert gone == chosen, (t, n)
            own.reset(chosen)
            assert (state.step - state.born[n]).tolist() == own.age
            assert state.utility[n].tolist() == pytest.approx(own.utility, rel=1e-9)
            assert state.owed[n].item() == pytest.approx(own.owed, abs=1e-9)
            assert fcbp.tree.get(params, path).flatten().tolist() == pytest.approx(own.w, abs=1e-12)
            if run.get("outliers"):
                assert state.outliers[n].tolist() == own.count
            if run.get("protect"):
                assert state.protected[n].tolist() == own.protected
            for tree in opt_state:
                assert not fcbp.tree.get(tree, path)[mask].any()
            total += len(gone)
        for path in {("0", "bias"), ("1", 1)} - set(paths.values()):
            assert not fcbp.tree.get(replaced, path).any()
    assert state.step == 50
    assert total >= 10
