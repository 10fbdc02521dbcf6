"""Per-weight CBP against loops over NumPy arrays, step by step, and scenarios whose answer is known."""

import functools
import math

import numpy as np
import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fcbp
from fcbp import optim, random, weights
from fcbp.weights import Hyperparams
from fcbp.weights import few as shortcut
from fcbp.weights import lowest as search

KEY = random.key(5)


def normal(seed, *shape, dtype=torch.float64):
    return random.normal(random.key(seed), shape, dtype)


def state_with(params, utility, age=1000, step=1000, owed=0.0, **options):
    """A state as after ``step`` steps; utilities and ages by name, flat."""
    state = weights.init_state(params, KEY, **options)

    def fill(value, name, like):
        value = value[name] if isinstance(value, dict) else value
        return torch.as_tensor(value).to(like.dtype).expand(like.shape).clone()

    return state._replace(
        born={n: step - fill(age, n, like) for n, like in state.born.items()},
        utility={n: fill(utility, n, like) for n, like in state.utility.items()},
        owed={n: torch.full_like(like, owed) for n, like in state.owed.items()},
        step=torch.tensor(step, dtype=torch.int32),
    )


def same_bits(x, y):
    x, y = x.reshape(-1).contiguous(), y.reshape(-1).contiguous()
    return torch.equal(x.view(torch.uint8), y.view(torch.uint8))


def bits_equal(a, b):
    return all(
        x.shape == y.shape and x.dtype == y.dtype and same_bits(x, y)
        for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True)
    )


# --- whole runs against the oracle ------------------------------------------------------------------------


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


# --- the search -------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, 1e-45, 3e38, math.inf, 0.5]), st.floats(0, 2, width=32))


@settings(max_examples=60)
@given(
    st.lists(NUMBERS, min_size=1, max_size=40), st.integers(1, 30), st.integers(0, 400), st.integers(0, 60),
    st.sampled_from([torch.float32, torch.float64]), st.sampled_from([0, 1, 64, 4096]),
)  # fmt: skip
def test_the_lowest_are_found_whichever_way_they_are_searched(values, repeats, number, capacity, dtype, up_to):
    x = torch.tensor(values * repeats, dtype=dtype)
    finite = int(x.isfinite().sum())
    number, capacity = min(number, capacity, finite), min(capacity, len(x))
    wanted = torch.zeros(len(x), dtype=torch.bool)
    wanted[np.argsort(x.numpy(), kind="stable")[:number]] = True
    old, search._SORTED = search._SORTED, up_to
    try:
        mask, places = search.lowest(x, torch.tensor(float(number)), capacity)
        ranks = [torch.tensor(k, dtype=torch.int32) for k in {1, (len(x) + 1) // 2, len(x)}]
        found = search.kth_lowest(x, ranks)
    finally:
        search._SORTED = old
    assert mask.equal(wanted)
    if places is not None and number:
        assert places[:number].equal(wanted.nonzero().flatten())
        assert (places[number:] == places[0]).all()
    for k, value in zip(ranks, found, strict=True):
        assert value == x.sort().values[k - 1]


@pytest.mark.parametrize(
    ("rate", "maturity", "decay", "options"),
    [
        (1e-3, 3, 0.5, {}),
        (0.02, 0, 0.1, {}),
        (0.05, 2, 0.0, {"rounding": "stochastic", "rate_counts": "all"}),
        (torch.tensor(2e-3), torch.tensor(4.0), torch.tensor(0.5), {}),
        (0.01, 1, 0.5, {"initializer": "orthogonal"}),
        (0.01, 1, 0.5, {"initializer": "kaiming_normal", "capacity": 3}),
    ],
)
def test_the_short_cut_for_known_values_changes_no_bit(rate, maturity, decay, options, monkeypatch):
    monkeypatch.setattr(shortcut, "_SAMPLED", 128)
    taken = []

    def few(*arguments):
        taken.append(found := shortcut.few_lowest(*arguments))
        return found

    def run(function):
        monkeypatch.setattr(weights.core, "few_lowest", function)
        params = {"w": normal(1, 120, 50, dtype=torch.float32), "b": normal(2, 8)}
        hyper = Hyperparams(rate, maturity, decay, period=2)
        state = weights.init_state(params, KEY)
        for t in range(12):
            # One digit: many utilities are equal.
            grads = {name: normal(t + 3, *p.shape, dtype=p.dtype).round(decimals=1) for name, p in params.items()}
            state = weights.update_utility(state, params, grads, hyper)
            params, state, replaced = weights.select_and_reset(state, params, hyper, **options)
        return params, state, replaced

    quick, plain = run(few), run(lambda *_: None)
    assert any(found is not None and len(found.places) < 3000 for found in taken)
    bits_equal(quick, plain)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e37])
def test_the_short_cut_is_not_taken_where_a_utility_is_no_common_number(bad, monkeypatch):
    monkeypatch.setattr(shortcut, "_SAMPLED", 128)
    utility = random.uniform(KEY, (4000,))
    born = torch.zeros(4000, dtype=torch.int32)
    assert shortcut.few_lowest(utility, born, 1, lambda u, b: u, 5) is not None
    utility[17] = bad
    assert shortcut.few_lowest(utility, born, 1, lambda u, b: u, 5) is None


def test_between_events_nothing_is_computed():
    params = {"w": normal(1, 3, 4), "b": normal(2, 3)}
    hyper = Hyperparams(0.5, 0, 0.9, period=3)
    state = weights.update_utility(weights.init_state(params, KEY), params, params, hyper)
    new, after, replaced = weights.select_and_reset(state, params, hyper)
    assert new is params
    assert after.born is state.born
    assert not after.key.equal(state.key)
    assert all(mask.shape == params[name].shape and not mask.any() for name, mask in replaced.items())


def test_many_weights_need_no_sort():
    """The paths that large tensors take, as they are, against a full sort."""
    x = random.uniform(KEY, (70_000,)) ** 9
    x[::3] = x[0]  # ties
    x[::7] = torch.inf
    order = x.sort(stable=True).indices
    for number, capacity in ((900, 1000), (0, 1000), (1, 1), (20_000, 70_000), (33_333, 40_000), (60_000, 70_000)):
        mask, places = search.lowest(x, torch.tensor(number), capacity)
        assert mask.nonzero().flatten().equal(order[:number].sort().values)
        assert (places is not None) == (1 < 64 * capacity <= 70_000)


def test_quantiles_are_numpys_lower_ones():
    for n in (1, 2, 5, 100, 5000):
        x = random.uniform(KEY, (n,))
        fractions = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
        found = search.quantiles(torch.cat([x, torch.full((3,), torch.inf)]), fractions)
        assert [f.item() for f in found] == [np.quantile(x.numpy(), f, method="lower") for f in fractions]
    assert search.quantiles(torch.full((4,), torch.inf), (0.5,))[0] == torch.inf


# --- known answers ----------------------------------------------------------------------------------------


def two_by_three(dtype=torch.float32):
    return {"w": normal(1, 2, 3, dtype=dtype), "b": normal(2, 2, dtype=dtype)}


def test_the_useless_weight_is_the_one_reset():
    params = two_by_three()
    grads = {"w": torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]]), "b": torch.zeros(2)}
    hyper = Hyperparams(0.1, 5, 0.9)
    state = weights.init_state(params, KEY)
    for _ in range(1, 20):
        state = weights.update_utility(state, params, grads, hyper)
        new, state, replaced = weights.select_and_reset(state, params, hyper)
        if replaced["w"].any():
            break
    assert state.step == 7  # eligible from step 6 on, 0.6 a step
    assert replaced["w"].tolist() == [[False] * 3, [False, True, False]]
    assert not replaced["b"].any()
    assert new["b"] is params["b"]
    assert (new["w"] != params["w"]).equal(replaced["w"])
    assert params["w"].min() <= new["w"][1, 1] <= params["w"].max()
    assert state.born["w"].tolist() == [0, 0, 0, 0, 7, 0]
    assert state.utility["w"][4] == 0


@pytest.mark.parametrize("rate", [0, 0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("options", [{}, {"rounding": "stochastic"}, {"selection": "random", "rate_counts": "all"}])
def test_rate_zero_leaves_the_parameters_bit_identical(rate, options):
    params = {"w": normal(1, 100, 70, dtype=torch.float32), "b": torch.tensor([-0.0, math.nan])}
    params["w"][0, 0], params["w"][1, 1] = -0.0, math.nan
    state = state_with(params, torch.arange(7000.0))
    for _ in range(2):
        new, state, replaced = weights.select_and_reset(state, params, Hyperparams(rate, 0), **options)
        assert not any(mask.any() for mask in replaced.values())
        assert bits_equal(new, params)


@pytest.mark.parametrize("n", [6, 7000])
def test_ties_go_to_the_lower_index(n):
    params = {"w": torch.zeros(n, 1)}
    utility = torch.ones(n)
    utility[[2, 4, 5]] = 0.5
    for options, count in (({}, 2), ({"capacity": 2}, 2), ({"capacity": 1}, 1)):
        state = state_with(params, utility, owed=2.0)
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(torch.tensor(1e-9)), **options)
        assert replaced["w"].flatten().nonzero().flatten().tolist() == [2, 4][:count]


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
@pytest.mark.parametrize("selection", ["lowest", "random", "below"])
@pytest.mark.parametrize("n", [6, 7000])
def test_a_utility_that_is_no_number_is_never_chosen(bad, selection, n):
    params = {"w": torch.ones(n, 1)}
    utility = torch.arange(1.0, n + 1)
    utility[[0, 3]] = bad
    state = state_with(params, utility)
    hyper = Hyperparams(1.0, mean_fraction=10.0)
    _, after, replaced = weights.select_and_reset(state, params, hyper, selection=selection, initializer="constant")
    assert replaced["w"].flatten().logical_not().nonzero().flatten().tolist() == [0, 3]
    assert after.owed["w"] == 0


def test_a_tensor_without_a_finite_utility_is_left_alone():
    params = two_by_three()
    state = state_with(params, math.nan)
    for options in ({}, {"rate_counts": "all"}, {"selection": "below"}, {"selection": "random"}):
        hyper = Hyperparams(1.0, mean_fraction=1.0)
        new, after, replaced = weights.select_and_reset(state, params, hyper, **options)
        assert not replaced["w"].any()
        assert after.owed["w"] == 0
        assert bits_equal(new, params)


@pytest.mark.parametrize("fraction", [0.0, 0.5, torch.tensor(0.5)])
def test_below_the_mean_of_a_dead_tensor_is_all_of_it(fraction):
    params = two_by_three()
    state = state_with(params, 0.0)
    hyper = Hyperparams(mean_fraction=fraction)
    new, _, replaced = weights.select_and_reset(state, params, hyper, selection="below", initializer="constant")
    assert replaced["w"].all()
    assert not new["w"].any()
    _, _, replaced = weights.select_and_reset(
        state, params, hyper._replace(mean_fraction=torch.tensor(math.nan)), selection="below"
    )
    assert not replaced["w"].any()


def test_dead_weights_are_not_protected_and_go_at_the_rate():
    params = {"w": torch.zeros(10, 10)}
    state = state_with(params, 0.0, protect=True)
    _, state, replaced = weights.select_and_reset(state, params, Hyperparams(0.07), initializer="normal")
    assert not state.protected["w"].any()
    assert replaced["w"].flatten().nonzero().flatten().tolist() == list(range(7))


def test_the_period_is_kept_and_what_lies_between_is_untouched():
    params = {"w": normal(1, 4, 5)}
    hyper = Hyperparams(0.1, 0, 0.5, period=4)
    state = weights.init_state(params, KEY)
    counts = []
    for _ in range(13):
        state = weights.update_utility(state, params, params, hyper)
        new, state, replaced = weights.select_and_reset(state, params, hyper)
        assert replaced["w"].any() or bits_equal(new, params)
        counts.append(int(replaced["w"].sum()))
    assert counts == [0, 0, 0, 2] * 3 + [0]


def test_maturity_is_exact_after_many_steps():
    """float32 has no odd numbers past 2^24."""
    step = 2**25 + 1
    params = {"w": torch.zeros(1, 3)}
    state = state_with(params, 1.0, age=torch.tensor([100, 101, 102]), step=step)
    for threshold in (100, 100.0, 100.9, torch.tensor(100), torch.tensor(100.5)):
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(1.0, threshold))
        assert replaced["w"].tolist() == [[False, True, True]]
    for threshold in (math.inf, torch.tensor(math.inf), torch.tensor(math.nan), 2**31):
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(1.0, threshold))
        assert not replaced["w"].any()


def test_young_weights_are_ranked_by_their_corrected_mean():
    """0.1 after one step of decay 0.9 is a mean of 1; 0.9 after many is 0.9."""
    params = {"w": torch.zeros(1, 2)}
    state = state_with(params, torch.tensor([0.1, 0.9]), age=torch.tensor([1, 1000]), owed=1.0)
    for decay in (0.9, torch.tensor(0.9)):
        _, _, replaced = weights.select_and_reset(state, params, Hyperparams(1e-9, 0, decay))
        assert replaced["w"].tolist() == [[False, True]]


def test_protection_is_entered_left_and_respected():
    params = {"w": torch.zeros(10, 10)}
    utility = torch.arange(100.0)
    state = state_with(params, utility, protect=True)
    hyper = Hyperparams(1.0, protect_fraction=0.1, release_fraction=0.5)
    _, after, replaced = weights.select_and_reset(state, params, hyper)
    assert after.protected["w"].nonzero().flatten().tolist() == list(range(90, 100))
    assert int(replaced["w"].sum()) == 90
    # Weight 95 falls to the 60th rank and stays protected, then to the 20th and is released.
    still = state._replace(protected=after.protected, utility={"w": utility.clone()})
    still.utility["w"][95] = 60.5
    _, after, _ = weights.select_and_reset(still, params, hyper._replace(reset_rate=0.0))
    assert after.protected["w"][95]
    still.utility["w"][95] = 20.5
    _, after, _ = weights.select_and_reset(still, params, hyper._replace(reset_rate=0.0))
    assert not after.protected["w"][95]
    _, after, _ = weights.select_and_reset(still, params, hyper._replace(reset_rate=0.0, release_fraction=1.0))
    assert after.protected["w"][95]


def test_random_selection_is_uniform_among_the_eligible():
    params = {"w": torch.zeros(10, 10)}
    state = state_with(params, 1.0, age=torch.where(torch.arange(100) < 20, 1, 1000))
    states = [state._replace(key=random.fold_in(KEY, i)) for i in range(400)]
    many = optree.tree_map(lambda *leaves: torch.stack(leaves), *states)
    select = functools.partial(weights.select_and_reset, selection="random", initializer="constant")
    _, _, replaced = torch.vmap(lambda s: select(s, params, Hyperparams(0.25)))(many)
    counts = replaced["w"].flatten(1).sum(0)
    assert (replaced["w"].sum((1, 2)) == 20).all()
    assert not counts[:20].any()
    # Binomial of 400 and 1/4: mean 100, standard deviation 8.7.
    assert (counts[20:] - 100).abs().max() < 4 * 8.7
    assert 6 < counts[20:].float().std() < 11


# --- how many are reset -----------------------------------------------------------------------------------


def drive(steps, n, rates, maturity, **options):
    """Resets and sums of eligible counts, of many rates at once."""
    params = {"w": torch.zeros(n, 1)}

    def step(state, rate):
        state = state._replace(step=state.step + 1)
        state = state._replace(utility={"w": (1 + torch.sin(state.step + torch.arange(n).float()))})
        hyper = Hyperparams(rate, maturity, 0.0)
        eligible = (state.step - state.born["w"] > maturity).sum()
        _, state, replaced = weights.select_and_reset(state, params, hyper, initializer="constant", **options)
        return state, torch.stack([replaced["w"].sum(), eligible])

    state = torch.vmap(lambda key: weights.init_state(params, key))(random.split(KEY, len(rates)))
    counts = torch.zeros(2, len(rates), dtype=torch.int64)
    for _ in range(steps):
        state, new = torch.vmap(step, out_dims=(0, 1))(state, rates)
        counts += new
    return *counts, state


@pytest.mark.slow
@settings(max_examples=10)
@given(
    st.lists(st.floats(1e-6, 1.0), min_size=6, max_size=6), st.integers(1, 70), st.integers(0, 9), st.booleans(),
    st.sampled_from(["lowest", "random"]),
)  # fmt: skip
def test_the_count_law_holds_for_any_rate_size_and_threshold(rates, n, maturity, single, selection):
    rates = torch.tensor(rates, dtype=torch.float32 if single else torch.float64)
    replaced, eligible, state = drive(30, n, rates, maturity, selection=selection)
    torch.testing.assert_close(replaced + state.owed["w"], rates.double() * eligible, rtol=1e-12, atol=1e-9)
    assert (state.owed["w"] < 1).all()
    assert (state.owed["w"] >= 0).all()


def test_what_the_capacity_defers_is_owed():
    params = {"w": torch.zeros(6, 1)}
    state = state_with(params, torch.arange(1.0, 7))
    gone, owed = [], []
    for _ in range(4):
        _, state, replaced = weights.select_and_reset(state, params, Hyperparams(1.0, 0), capacity=2)
        gone.append(replaced["w"].flatten().nonzero().flatten().tolist())
        owed.append(state.owed["w"].item())
    assert (gone, owed) == ([[0, 1], [2, 3], [4, 5], []], [4, 2, 0, 0])


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("rounding", ["accumulate", "stochastic"])
@pytest.mark.parametrize("selection", ["lowest", "random"])
def test_a_debt_is_bounded_by_the_eligible_and_not_paid_at_rate_zero(selection, rounding, as_tensor):
    params = {"w": torch.zeros(6, 1)}
    state = state_with(params, torch.arange(1.0, 7), owed=1183.0)
    counts = []
    for rate in (0.5, 0.5, 0.0, 0.0, 0.5):
        hyper = Hyperparams(torch.tensor(rate) if as_tensor else rate, 0)
        _, state, replaced = weights.select_and_reset(
            state, params, hyper, selection=selection, rounding=rounding, capacity=1
        )
        counts.append(replaced["w"].sum().item())
        assert 3 <= state.owed["w"] <= 5
    assert counts == [1, 1, 0, 0, 1]


def test_stochastic_rounding_resets_the_rate_times_the_eligible_on_average():
    rates = torch.tensor([0.003, 0.03, 0.3, 0.77, 1.0], dtype=torch.float64).repeat(200)
    replaced, eligible, state = drive(20, 5, rates, 2, rounding="stochastic")
    assert (state.owed["w"] == 0).all()
    gap = (replaced - rates * eligible).reshape(200, 5)
    assert (gap.mean(0).abs() * math.sqrt(200) <= 4 * gap.std(0)).all()
    assert (gap.std(0)[:4] > 0.1).all()


@pytest.mark.parametrize("n", [30, 7000])
@pytest.mark.parametrize("selection", ["lowest", "random"])
def test_the_capacity_changes_nothing_but_the_cost(n, selection):
    """A plain rate searches few of many, a tensor all: the same weights, the same values, to the bit."""
    params = {"w": normal(1, n // 10, 10, dtype=torch.float32)}
    state = state_with(params, random.uniform(KEY, (n,)))
    results = [
        weights.select_and_reset(state, params, Hyperparams(rate, 100, 0.9), selection=selection, capacity=capacity)
        for rate in (0.004, torch.tensor(0.004, dtype=torch.float64))
        for capacity in (None, n // 70 + 1, n)
    ]
    for other in results[1:]:
        assert bits_equal(results[0], other)


# --- how a weight is drawn --------------------------------------------------------------------------------


def draw_all(initializer, params, **options):
    state = weights.init_state(params, KEY, **options)._replace(step=torch.tensor(1000, dtype=torch.int32))
    new, _, replaced = weights.select_and_reset(state, params, Hyperparams(1.0), initializer=initializer)
    assert all(mask.all() for name, mask in replaced.items() if name in state.born)
    return new


@pytest.mark.parametrize("n", [50, 1000, 5000, 90_000])
@pytest.mark.parametrize("shape", ["uniform", "normal", "two lumps"])
def test_initial_is_the_tensors_own_distribution(n, shape):
    w = random.uniform(random.key(1), (n,)) if shape == "uniform" else random.normal(random.key(1), (n,))
    w = torch.where(torch.arange(n) % 3 == 0, w.abs() + 5, -w.abs() - 5) if shape == "two lumps" else w
    new = draw_all("initial", {"w": w.reshape(-1, 10)})["w"].flatten()
    assert w.min() <= new.min()
    assert new.max() <= w.max()
    assert not new.equal(w)
    together = torch.cat([w, new]).sort().values
    gap = (torch.searchsorted(w.sort().values, together) - torch.searchsorted(new.sort().values, together)).abs().max()
    assert gap / n < 2 * math.sqrt(2 / n)  # Kolmogorov and Smirnov: far in the tail


@pytest.mark.parametrize("initializer", ["initial", "initial_mean"])
def test_a_constant_tensor_gets_its_constant_back(initializer):
    params = {"scale": torch.ones(7), "shift": torch.zeros(7), "odd": torch.full((3,), 0.1), "one": torch.tensor(0.3)}
    state = weights.init_state(params, KEY, managed="all")._replace(step=torch.tensor(1000, dtype=torch.int32))
    trained = {n: p + 5 for n, p in params.items()}
    new, _, _ = weights.select_and_reset(state, trained, Hyperparams(1.0), initializer=initializer)
    assert bits_equal(new, params)


def test_named_initialisers_have_their_scale():
    params = {"w": torch.ones(40, 30, 2, 2)}
    fan_in, fan_out = 120, 160
    for name, std in (
        ("kaiming_uniform", math.sqrt(2 / fan_in)),
        ("xavier_normal", math.sqrt(2 / (fan_in + fan_out))),
        ("uniform", 0.05 / math.sqrt(3)),
        ("normal", 0.1),
        (functools.partial(weights.normal, std=2.0), 2.0),
        (functools.partial(weights.uniform, width=3.0), math.sqrt(3)),
    ):
        new = draw_all(name, params)["w"]
        assert new.std().item() == pytest.approx(std, rel=0.05)
        assert new.mean().abs() < 4 * std / math.sqrt(4800)
    assert (draw_all(functools.partial(weights.constant, value=2.5), params)["w"] == 2.5).all()
    assert not draw_all("constant", params)["w"].any()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 1), (1, 5), (3, 2, 2)])
def test_orthogonal_draws_entries_of_an_orthogonal_matrix(shape):
    params = {"w": torch.zeros(shape)}
    full = draw_all("orthogonal", params)["w"].flatten(1)
    gram = full.T @ full if full.shape[0] >= full.shape[1] else full @ full.T
    torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-6)
    state = weights.init_state(params, KEY)._replace(step=torch.tensor(1000, dtype=torch.int32))
    some, _, replaced = weights.select_and_reset(state, params, Hyperparams(0.4), initializer="orthogonal")
    assert 0 < replaced["w"].sum() < full.numel()
    assert some["w"].flatten(1).equal(torch.where(replaced["w"].flatten(1), full, 0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    "initializer", ["initial", "initial_mean", "orthogonal", "kaiming_normal", "uniform", "normal", "constant"]
)
def test_dtypes_are_kept(initializer, dtype):
    params = two_by_three(dtype)
    state = weights.init_state(params, KEY)
    state = weights.update_utility(state, params, params, Hyperparams())
    new, after, _ = weights.select_and_reset(state, params, Hyperparams(1.0, 0), initializer=initializer)
    assert new["w"].dtype == dtype
    assert after.utility["w"].dtype == torch.promote_types(dtype, torch.float32)
    for a, b in zip(optree.tree_leaves(state), optree.tree_leaves(after), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


# --- what is managed, and the optimiser's state -----------------------------------------------------------


def test_what_is_managed():
    params = {
        "w": torch.ones(2, 2),
        "b": torch.ones(2),
        "n": torch.ones(2, 2, dtype=torch.int32),
        "e": torch.ones(0, 3),
    }
    assert set(weights.init_state(params, KEY).born) == {"w"}
    assert set(weights.init_state(params, KEY, managed="all").born) == {"w", "b"}
    assert set(weights.init_state(params, KEY, managed=lambda path, leaf: path == ("b",)).born) == {"b"}
    none = weights.init_state(params, KEY, managed=lambda path, leaf: False)
    hyper = Hyperparams(1.0, 0)
    new, _, replaced = weights.select_and_reset(weights.update_utility(none, params, (), hyper), params, hyper)
    assert bits_equal(new, params)
    assert not any(mask.any() for mask in replaced.values())


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"inner": (s, [torch.tensor(1.0)])}, lambda s: [s, None, 3]])
def test_moments_and_counts_are_reset_wherever_they_lie(wrap):
    params = two_by_three()
    ones = optree.tree_map(torch.ones_like, params)
    state = optim.AdamState(ones, ones, optree.tree_map(lambda p: torch.ones_like(p, dtype=torch.int32), params))
    replaced = {"w": torch.tensor([[True, False, False], [False, True, True]]), "b": torch.zeros(2, dtype=torch.bool)}
    reset = weights.reset_moments(wrap(state), replaced)
    inner = reset if isinstance(reset, optim.AdamState) else reset["inner"][0] if isinstance(reset, dict) else reset[0]
    for field, old in zip(inner, state, strict=True):
        assert field["w"].bool().equal(~replaced["w"])
        assert field["b"].all()
        assert all(field[n].dtype == old[n].dtype for n in old)
        assert old["w"].all()
    whole = {"mean": params, "step": {n: torch.tensor(5.0) for n in params}}
    assert weights.reset_moments(whole, replaced)["step"]["w"] == 5
    assert weights.reset_moments(optim.SGDState(()), replaced) == optim.SGDState(())


def test_a_single_tensor_is_a_pytree():
    params = normal(1, 4, 3)
    hyper = Hyperparams(0.25, 0)
    state = weights.update_utility(weights.init_state(params, KEY), params, params, hyper)
    new, _, replaced = weights.select_and_reset(state, params, hyper)
    assert int(replaced.sum()) == 3
    assert (new != params).equal(replaced)
    adam = optim.adam()
    _, opt_state = adam.update(params, adam.init(params), params, step_size=0.1)
    assert weights.reset_moments(opt_state, replaced).step.equal((~replaced).to(torch.int32))


# --- the promises -----------------------------------------------------------------------------------------

MANAGED = {"outliers": {"maturity": "outliers"}, "protected": {"protect": True, "managed": "all"}, "plain": {}}
SHAPES = {"w": (3, 5), "big": (70, 90), "b": (5,)}


def member(i, kind):
    """A learner some steps on: one of many."""
    key = random.fold_in(KEY, i)
    params = {n: random.normal(random.fold_in(key, k), s) for k, (n, s) in enumerate(SHAPES.items())}
    grads = {n: random.normal(random.fold_in(key, 10 + k), s) for k, (n, s) in enumerate(SHAPES.items())}
    state = weights.init_state(params, key, **MANAGED[kind])
    state = state._replace(
        step=torch.tensor(11 + i % 2, dtype=torch.int32),
        born={n: random.randint(random.fold_in(key, 20), b.shape, 0, 10).int() for n, b in state.born.items()},
        utility={n: random.uniform(random.fold_in(key, 21), u.shape) for n, u in state.utility.items()},
        outliers={n: random.randint(random.fold_in(key, 22), o.shape, 0, 4).int() for n, o in state.outliers.items()},
        protected={n: random.bernoulli(random.fold_in(key, 23), 0.3, p.shape) for n, p in state.protected.items()},
        owed={n: o + 0.3 for n, o in state.owed.items()},
    )
    rate = [0.3, 0.0, 1.0, 1e-3, 0.5, 0.15][i % 6]
    hyper = Hyperparams(
        torch.tensor(rate, dtype=torch.float64), torch.tensor(i % 3), torch.tensor(0.9 + 0.01 * i),
        torch.tensor(1 + i % 3), torch.tensor(0.3 * i), torch.tensor(0.1), torch.tensor(0.5),
    )  # fmt: skip
    return state, params, grads, hyper


def step(inputs, utility="gradient", **options):
    state, params, grads, hyper = inputs
    state = weights.update_utility(state, params, grads, hyper, utility=utility)
    params, state, replaced = weights.select_and_reset(state, params, hyper, **options)
    return params, state, replaced, weights.reset_moments(optim.SGDState(grads), replaced)


CASES = {
    "lowest": ("plain", {}),
    "few": ("plain", {"capacity": 20, "utility": "magnitude"}),
    "one": ("outliers", {"capacity": 1, "rounding": "stochastic"}),
    "below": ("protected", {"selection": "below", "initializer": "normal"}),
    "random": ("protected", {"selection": "random", "utility": "random", "rate_counts": "all"}),
    "orthogonal": ("plain", {"initializer": "orthogonal", "capacity": 50}),
}
cases = pytest.mark.parametrize("name", CASES)


def stacked(name, indices):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *(member(i, CASES[name][0]) for i in indices))


@functools.cache
def alone(name, i):
    kind, options = CASES[name]
    return step(member(i, kind), **options)


def assert_members(together, name, indices, exact=True):
    for k, i in enumerate(indices):
        wanted = optree.tree_leaves(alone(name, i))
        for ours, theirs in zip(optree.tree_leaves(together), wanted, strict=True):
            if exact or not ours.is_floating_point():
                assert bits_equal(ours[k], theirs)
            else:
                torch.testing.assert_close(ours[k], theirs, rtol=3e-6, atol=1e-6)


@cases
def test_no_argument_is_modified_and_the_outputs_are_repeated(name):
    kind, options = CASES[name]
    inputs = member(2, kind)
    before, seed = optree.tree_map(torch.clone, inputs), torch.random.get_rng_state()
    outputs = step(inputs, **options)
    assert bits_equal(inputs, before)
    assert torch.random.get_rng_state().equal(seed)
    assert bits_equal(outputs, step(inputs, **options))
    assert bits_equal(outputs, alone(name, 2))
    assert any(mask.any() for mask in outputs[2].values())
    for a, b in zip(optree.tree_leaves(outputs[:2]), optree.tree_leaves((inputs[1], inputs[0])), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert optree.tree_structure(outputs[2]) == optree.tree_structure(inputs[1])


@cases
def test_vmap_is_the_loop_in_any_company(name):
    function = functools.partial(step, **CASES[name][1])
    # The QR decomposition of many matrices rounds otherwise than that of one; the masks are the same.
    exact = name != "orthogonal"
    assert_members(torch.vmap(function)(stacked(name, range(6))), name, range(6), exact)
    assert_members(torch.vmap(function)(stacked(name, (4, 0, 4))), name, (4, 0, 4), exact)


def test_nested_vmap_over_hyperparameters_alone():
    state, params, grads, _ = member(0, "plain")
    rates = torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)
    decays = torch.tensor([0.0, 0.9], dtype=torch.float64)

    def run(rate, decay):
        return step((state, params, grads, Hyperparams(rate, 1, decay)))

    together = torch.vmap(torch.vmap(run, (None, 0)), (0, None))(rates, decays)
    for i, rate in enumerate(rates.tolist()):
        for j, decay in enumerate(decays.tolist()):
            one = run(rate, decay)
            for ours, theirs in zip(optree.tree_leaves(together), optree.tree_leaves(one), strict=True):
                torch.testing.assert_close(ours[i, j], theirs, rtol=1e-5, atol=1e-6)
            assert torch.equal(together[2]["big"][i, j], one[2]["big"])


@cases
def test_a_member_that_breaks_harms_no_other(name):
    function = functools.partial(step, **CASES[name][1])
    inputs = stacked(name, range(4))
    healthy = torch.vmap(function)(inputs)
    broken = {n: torch.cat([g[:2], torch.full_like(g[2:3], math.nan), g[3:]]) for n, g in inputs[2].items()}
    spoiled = torch.vmap(function)((*inputs[:2], broken, inputs[3]))
    for ours, theirs in zip(optree.tree_leaves(spoiled), optree.tree_leaves(healthy), strict=True):
        assert bits_equal(ours[[0, 1, 3]], theirs[[0, 1, 3]])
    if CASES[name][1].get("utility", "gradient") == "gradient":
        assert not any(mask[2].any() for n, mask in spoiled[2].items())


@pytest.mark.compiled
def test_compiled_members_equal_eager_ones():
    names = ["lowest", "random"]

    def every(inputs):
        return {n: torch.vmap(functools.partial(step, **CASES[n][1]))(inputs[n]) for n in names}

    compiled = torch.compile(every, fullgraph=True, backend="aot_eager")
    for attempt, members in enumerate([(0, 1, 2), (5, 4, 3)]):
        with torch.compiler.set_stance("fail_on_recompile" if attempt else "default"):
            together = compiled({n: stacked(n, members) for n in names})
        for n in names:
            assert_members(together[n], n, members, exact=False)


@pytest.mark.compiled
def test_generated_code_equals_eager_whichever_way_is_searched():
    """One program: a tensor that is sorted, one searched by histogram and one by blocks."""
    shapes = {"w": (3, 5), "big": (70, 90), "wide": (100, 100)}

    def learner(i):
        params = {n: normal(10 * i + k, *shape, dtype=torch.float32) for k, (n, shape) in enumerate(shapes.items())}
        state = state_with(params, {n: p.flatten().abs() for n, p in params.items()}, owed=100.0 * i)
        return state, params, {n: p.flip(0) for n, p in params.items()}

    def run(inputs, rate):
        return step((*inputs, Hyperparams(rate, 2, 0.9)), capacity=150)

    compiled = torch.compile(run, fullgraph=True)
    for i in (0, 1):
        inputs, rate = learner(i), torch.tensor(0.005, dtype=torch.float64)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            outputs, wanted = compiled(inputs, rate), run(inputs, rate)
        for ours, theirs in zip(*map(optree.tree_leaves, (outputs, wanted)), strict=True):
            if ours.is_floating_point():
                torch.testing.assert_close(ours, theirs, rtol=3e-6, atol=1e-6)
            else:
                assert ours.equal(theirs)
        assert {n: int(m.sum()) for n, m in wanted[2].items()} == [
            {"w": 0, "big": 31, "wide": 50},
            {"w": 15, "big": 131, "wide": 150},
        ][i]


# --- bad input --------------------------------------------------------------------------------------------


def call(hyper=None, init=None, update=None, params=None, grads=None, **options):
    good = two_by_three()
    state = weights.init_state(good, KEY, **(init or {}))
    params = good if params is None else params
    hyper = Hyperparams(**(hyper or {}))
    state = weights.update_utility(state, params, good if grads is None else grads, hyper, **(update or {}))
    return weights.select_and_reset(state, params, hyper, **options)


NAN = math.nan
BAD_CALLS = [
    ({"hyper": {"reset_rate": -0.1}}, r"reset_rate is -0\.1; expected a number in \[0, 1\]"),
    ({"hyper": {"reset_rate": 1.5}}, r"reset_rate is 1\.5; expected a number in \[0, 1\]"),
    ({"hyper": {"reset_rate": NAN}}, r"reset_rate is nan; expected"),
    ({"hyper": {"maturity_threshold": -1}}, r"maturity_threshold is -1; expected a number of steps, 0 or more"),
    ({"hyper": {"maturity_threshold": NAN}}, r"maturity_threshold is nan; expected"),
    ({"hyper": {"decay_rate": 1.0}}, r"decay_rate is 1\.0; expected a number in \[0, 1\)"),
    ({"hyper": {"period": 0}}, r"period is 0; expected a whole number of steps, 1 or more"),
    ({"hyper": {"period": 2.5}}, r"period is 2\.5; expected a whole number of steps, 1 or more"),
    ({"hyper": {"period": math.inf}}, r"period is inf; expected a whole number of steps, 1 or more"),
    ({"hyper": {"mean_fraction": -1.0}}, r"mean_fraction is -1\.0; expected a finite number, 0 or more"),
    ({"hyper": {"protect_fraction": 2.0}}, r"protect_fraction is 2\.0; expected a number in \[0, 1\]"),
    ({"hyper": {"release_fraction": 0.05}}, r"release_fraction is 0\.05; expected at least protect_fraction, 0\.1"),
    ({"init": {"managed": "matrixes"}}, r"managed is 'matrixes'; expected one of all, matrices; did you mean"),
    ({"init": {"maturity": "outlier"}}, r"maturity is 'outlier'; expected one of .*; did you mean 'outliers'"),
    ({"update": {"utility": "gradients"}}, r"utility is 'gradients'; expected one of .*; did you mean 'gradient'"),
    ({"update": {"moments": optim.SGDState(())}}, r"moments\.momentum has no 'w', which the state manages"),
    ({"update": {"moments": 3}}, r"moments is int; expected an AdamState, or an SGDState with momentum"),
    ({"grads": ()}, r"grads has no 'w', which the state manages; it holds \[\]"),
    ({"grads": {"w": torch.ones(3)}}, r"grads has 'w' of shape \(3,\); expected 6 weights, as at first"),
    ({"params": {"v": torch.ones(2, 3)}}, r"params has no 'w', which the state manages; it holds \['v'\]"),
    ({"selection": "low"}, r"selection is 'low'; expected one of below, lowest, random; did you mean"),
    ({"initializer": "kaiming"}, r"initializer is 'kaiming'; expected one of .*; did you mean 'kaiming_"),
    ({"init": {"managed": "all"}, "initializer": "orthogonal"},
     r"initializer is 'orthogonal', and 'b' has shape \(2,\); expected two axes or more"),
    ({"init": {"managed": "all"}, "initializer": "lecun_normal"}, r"initializer is 'lecun_normal', and 'b' has shape"),
    ({"rounding": "accumlate"}, r"rounding is 'accumlate'; expected one of accumulate, .*did you mean 'accumulate'"),
    ({"rate_counts": "eligable"}, r"rate_counts is 'eligable'; expected one of all, eligible"),
    ({"capacity": -1}, r"capacity is -1; expected a number of weights, 0 or more, or None"),
    ({"capacity": True}, r"capacity is True; expected a number of weights, 0 or more, or None"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def test_bad_choices_of_tensors_keys_and_moments_are_named():
    params = {"w": torch.ones(2, 2), "n": torch.ones(2, dtype=torch.int32), "e": torch.ones(0)}
    for name, what in (("n", r"torch\.int32 of shape \(2,\)"), ("e", r"torch\.float32 of shape \(0,\)")):
        with pytest.raises(ValueError, match=f"managed chooses '{name}', {what}; expected floating-point"):
            weights.init_state(params, KEY, managed=lambda path, leaf, name=name: path == (name,))
    with pytest.raises(ValueError, match=r"params holds two tensors by the name of 'a/b'"):
        weights.init_state({"a/b": torch.ones(1, 1), "a": {"b": torch.ones(1, 1)}}, KEY)
    with pytest.raises(ValueError, match=r"key is 0; expected a 0-d int64 tensor"):
        weights.init_state(params, 0)
    replaced = {"w": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(
        ValueError, match=r"opt_state has nothing by the name of w, and m of shape \(2, 2\) by no param"
    ):
        weights.reset_moments({"m": torch.ones(2, 2)}, replaced)


def test_a_capacity_of_zero_resets_nothing_and_owes_all():
    params = two_by_three()
    state = state_with(params, 1.0)
    new, after, replaced = weights.select_and_reset(state, params, Hyperparams(0.5), capacity=0)
    assert not replaced["w"].any()
    assert bits_equal(new, params)
    assert after.owed["w"] == 3
