"""Initializers: their distributions, torch's own for comparison, and what may stand in for them."""

import functools
import inspect
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp import initializers
from fcbp.units import Slice, UnitGroup

KEY = fcbp.random.key(7)
FAN_IN, FAN_OUT = 50, 2000

# Standard deviation at default gain, by the formulas of the papers.
STD = {
    "kaiming": math.sqrt(2 / FAN_IN),
    "xavier": math.sqrt(2 / (FAN_IN + FAN_OUT)),
    "lecun": math.sqrt(1 / FAN_IN),
    "default": math.sqrt(1 / (3 * FAN_IN)),
}
# What torch fills a (FAN_OUT, FAN_IN) weight with.
TORCH = {
    "kaiming_uniform": functools.partial(torch.nn.init.kaiming_uniform_, nonlinearity="relu"),
    "kaiming_normal": functools.partial(torch.nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier_uniform": torch.nn.init.xavier_uniform_,
    "xavier_normal": torch.nn.init.xavier_normal_,
    "lecun_uniform": functools.partial(torch.nn.init.kaiming_uniform_, nonlinearity="linear"),
    "lecun_normal": functools.partial(torch.nn.init.kaiming_normal_, nonlinearity="linear"),
    "default_uniform": functools.partial(torch.nn.init.kaiming_uniform_, a=math.sqrt(5)),  # that of nn.Linear
}


def draw(name, dtype=torch.float32, **options):
    function = initializers.INITIALIZERS[name]
    return function(KEY, (FAN_OUT, FAN_IN), FAN_IN, FAN_OUT, dtype, None, **options)


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_mean_and_standard_deviation(name):
    rows = draw(name, torch.float64)
    std = STD[name.split("_")[0]]
    n = rows.numel()
    assert abs(rows.mean()) < 4 * std / math.sqrt(n)
    # Of the estimated variance: var(x^2) is 2 for a standard normal, 4/5 for a uniform of variance 1.
    spread = math.sqrt(2 if name.endswith("normal") else 0.8)
    assert abs((rows**2).mean() / std**2 - 1) < 4 * spread / math.sqrt(n)


@pytest.mark.parametrize("name", [name for name in initializers.INITIALIZERS if name.endswith("uniform")])
def test_uniform_draws_fill_their_bounds(name):
    bound = math.sqrt(3) * STD[name.split("_")[0]]
    rows = draw(name, torch.float64)
    assert rows.abs().max() <= bound
    assert rows.max() > 0.999 * bound
    assert rows.min() < -0.999 * bound
    counts = torch.histc(rows, 20, -bound, bound)
    assert (counts - FAN_IN * FAN_OUT / 20).abs().max() < 5 * math.sqrt(FAN_IN * FAN_OUT / 20)


@pytest.mark.parametrize("name", [name for name in initializers.INITIALIZERS if name.endswith("normal")])
def test_normal_draws_are_normal(name):
    rows = draw(name, torch.float64) / STD[name.split("_")[0]]
    within = [(rows.abs() < k).double().mean().item() for k in (1, 2, 3)]
    assert within == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.006)


@pytest.mark.parametrize("name", TORCH)
def test_the_distribution_is_that_of_torch(name):
    theirs = TORCH[name](torch.empty(FAN_OUT, FAN_IN), generator=torch.Generator().manual_seed(0)).flatten()
    ours = draw(name).flatten()
    quantiles = torch.linspace(0.01, 0.99, 25)
    gap = (torch.quantile(ours, quantiles) - torch.quantile(theirs, quantiles)).abs().max()
    assert gap < 0.03 * theirs.std()
    if name.endswith("uniform"):
        assert ours.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=1e-3)


def test_default_uniform_is_what_a_linear_layer_starts_from():
    bound = torch.nn.Linear(FAN_IN, FAN_OUT).weight.abs().max().item()
    assert draw("default_uniform").abs().max().item() == pytest.approx(bound, rel=1e-3)


@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_those_of_torch(nonlinearity):
    assert initializers.gain(nonlinearity) == pytest.approx(torch.nn.init.calculate_gain(nonlinearity), rel=1e-15)


@pytest.mark.parametrize("nonlinearity", ["elu", "gelu", "silu", "swish"])
def test_gains_that_torch_lacks_are_those_of_relu(nonlinearity):
    assert initializers.gain(nonlinearity) == math.sqrt(2)


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_the_gain_multiplies_and_follows_the_nonlinearity(name):
    function = initializers.INITIALIZERS[name]
    default = inspect.signature(function).parameters["gain"].default
    torch.testing.assert_close(draw(name, gain=3 * default), 3 * draw(name))
    by_name = initializers.get(name, "tanh")(KEY, (FAN_OUT, FAN_IN), FAN_IN, FAN_OUT)
    expected = draw(name, gain=5 / 3) if name.split("_")[0] in ("kaiming", "xavier") else draw(name)
    assert by_name.equal(expected)


@given(st.sampled_from(sorted(initializers.INITIALIZERS)), st.integers(1, 5), st.integers(0, 5), st.integers(1, 4))
def test_fewer_units_are_the_first_of_more(name, few, more, width):
    function = initializers.INITIALIZERS[name]
    for shape in ((), (width,), (2, width)):
        assert function(KEY, (few + more, *shape), 4, 4)[:few].equal(function(KEY, (few, *shape), 4, 4))


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_is_kept_and_half_precision_is_centred(name, dtype):
    rows = draw(name, dtype)
    assert rows.dtype == dtype
    std = STD[name.split("_")[0]]
    assert abs(rows.double().mean()) < 4 * std / math.sqrt(rows.numel())
    assert rows.double().std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("name", initializers.INITIALIZERS)
def test_vmap_over_keys_is_the_loop(name):
    function = initializers.INITIALIZERS[name]
    keys = fcbp.random.split(KEY, 4)
    together = torch.vmap(lambda k: function(k, (3, 5), 5, 7))(keys)
    assert together.equal(torch.stack([function(k, (3, 5), 5, 7) for k in keys]))


def test_every_initializer_is_documented_named_and_picklable():
    assert set(initializers.INITIALIZERS) < set(initializers.__all__)
    arguments = ["key", "shape", "fan_in", "fan_out", "dtype", "device", "gain"]
    for name, function in initializers.INITIALIZERS.items():
        assert getattr(initializers, name) is function
        assert function.__name__ == name
        assert "standard deviation" in function.__doc__
        assert list(inspect.signature(function).parameters) == arguments
        assert pickle.loads(pickle.dumps(function)) is function


def test_a_function_stands_in_for_a_name_and_gets_the_six_arguments():
    units = (
        UnitGroup(
            "h",
            4,
            incoming=(Slice(("w1",), 0), Slice(("kernel",), 1)),
            bias=(),
            outgoing=(Slice(("w2",), 1),),
            outgoing_bias=(None,),
        ),
    )
    params = {"w1": torch.zeros(4, 6, 3, 3), "kernel": torch.zeros(5, 4, dtype=torch.float64), "w2": torch.ones(2, 4)}
    calls = []

    def ones(key, shape, fan_in, fan_out, dtype, device):
        calls.append((key, shape, fan_in, fan_out, dtype, device))
        return torch.arange(1, shape[0] + 1, dtype=dtype).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)

    hyper = fcbp.Hyperparams(1.0, 0, 0.9)
    state = fcbp.init_state(units, params, KEY)
    state = fcbp.update_utility(state, params, {"h": torch.ones(1, 4)}, hyper, units=units)
    new, _, replaced = fcbp.select_and_reset(state, params, hyper, units=units, initializer=ones)
    assert replaced["h"].all()
    (key1, *conv), (key2, *kernel) = calls
    assert key1.dtype == key2.dtype == torch.int64
    assert key1 != key2
    assert conv == [(4, 6, 3, 3), 54, 36, torch.float32, torch.device("cpu")]
    assert kernel == [(4, 5), 5, 4, torch.float64, torch.device("cpu")]
    assert new["w1"].equal(torch.arange(1.0, 5).reshape(4, 1, 1, 1).expand(4, 6, 3, 3))
    assert new["kernel"].equal(torch.arange(1.0, 5, dtype=torch.float64).expand(5, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: initializers.get("kaiming_unifrom"),
            r"initializer is 'kaiming_unifrom'; expected one of default_normal, .*; did you mean 'kaiming_uniform'",
        ),
        (lambda: initializers.get("zeros"), r"initializer is 'zeros'; expected one of default_normal, "),
        (lambda: initializers.gain("relu6"), r"nonlinearity is 'relu6'; expected one of .*; did you mean .*'relu'"),
        (lambda: initializers.get("xavier_normal", "Tanh"), r"nonlinearity is 'Tanh'; .*; did you mean .*'tanh'"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(call, message):
    with pytest.raises(ValueError, match=message):
        call()
