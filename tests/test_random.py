"""The generator's published vectors, its statistics, and that a draw depends on its key alone.

The statistical tests look at fixed draws, so they always give the same verdict; the thresholds are such that a
good generator would fail about one test in ten thousand, had the keys not been fixed.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp import random

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
KEY = random.key(2024)


# --- the generator --------------------------------------------------------------------------------------


def reference_mix(z, first, second, shifts):
    z = ((z ^ (z >> shifts[0])) * first) & MASK
    z = ((z ^ (z >> shifts[1])) * second) & MASK
    return z ^ (z >> shifts[2])


def reference_words(state, n):
    """Vigna's splitmix64.c, on Python's integers."""
    words = []
    for _ in range(n):
        state = (state + GAMMA) & MASK
        words.append(reference_mix(state, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, (30, 27, 31)))
    return words


def reference_child(state):
    """MurmurHash3's fmix64, on Python's integers."""
    return reference_mix(state & MASK, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, (33, 33, 33))


def raw(state):
    return torch.tensor(state - (1 << 64) if state >> 63 else state)


def unsigned(x):
    return [value & MASK for value in x.flatten().tolist()]


# The first is Rosetta Code's ("Pseudo-random numbers/Splitmix64"), the second that of splitmix64.c.
PUBLISHED = {
    1234567: [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ],
    0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC],
}


@pytest.mark.parametrize("seed", PUBLISHED)
def test_published_vectors(seed):
    expected = PUBLISHED[seed]
    assert unsigned(random.bits(raw(seed), (len(expected),))) == expected
    assert reference_words(seed, len(expected)) == expected


def test_a_key_is_the_first_word_of_its_seed():
    assert unsigned(random.key(0)) == [0xE220A8397B1DCDAF]


@given(st.integers(0, MASK), st.integers(0, 7))
def test_words_and_children_follow_the_reference(state, n):
    assert unsigned(random.bits(raw(state), (n,))) == reference_words(state, n)
    children = [reference_child(state + (i + 1) * GAMMA) for i in range(n)]
    assert unsigned(random.split(raw(state), n)) == children


@given(st.integers(0, MASK), st.integers(-(1 << 63), (1 << 63) - 1))
def test_fold_in_follows_the_reference(state, data):
    child = reference_child((state ^ 0xD1B54A32D192ED03) + data * GAMMA)
    assert unsigned(random.fold_in(raw(state), data)) == [child]
    assert unsigned(random.fold_in(raw(state), torch.tensor(data))) == [child]


@given(st.integers(0, MASK), st.lists(st.integers(0, 1 << 40), max_size=5))
def test_bits_at_gives_the_words_at_those_positions(state, index):
    words = [reference_words((state + i * GAMMA) & MASK, 1)[0] for i in index]
    assert unsigned(random.bits_at(raw(state), torch.tensor(index, dtype=torch.int64))) == words


def test_seeds_are_taken_modulo_two_to_the_64():
    assert random.key(-1) == random.key(MASK) == random.key(MASK + (1 << 64))
    assert random.key(-1) != random.key(1)


# --- statistics -----------------------------------------------------------------------------------------


def chi_square_deviation(counts, expected):
    """A chi-square statistic as a standard normal deviate (Wilson and Hilferty, 1931)."""
    counts, expected = counts.double(), torch.as_tensor(expected, dtype=torch.float64)
    dof = counts.numel() - 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return ((statistic / dof) ** (1 / 3) - (1 - 2 / (9 * dof))) / math.sqrt(2 / (9 * dof))


def assert_even(values, bins):
    counts = torch.bincount(values.flatten(), minlength=bins)
    assert counts.numel() == bins
    # Two-sided: counts too even to be random fail as well.
    assert abs(chi_square_deviation(counts, values.numel() / bins)) < 4


def test_the_chi_square_test_can_fail():
    values = torch.arange(256).repeat(400)
    with pytest.raises(AssertionError):
        assert_even(values, 256)
    values = torch.cat([random.randint(KEY, (100_000,), 0, 256), torch.zeros(300, dtype=torch.int64)])
    with pytest.raises(AssertionError):
        assert_even(values, 256)


# Words that differ in their position, or in their key, made in each of the ways that make keys.
FIRST_WORDS = {
    "one key": lambda n: random.bits(KEY, (n,)),
    "split keys": lambda n: torch.vmap(random.bits)(random.split(KEY, n)),
    "folded keys": lambda n: torch.vmap(random.bits)(random.fold_in(KEY, torch.arange(n))),
    "consecutive seeds": lambda n: torch.vmap(random.bits)(random.key(torch.arange(n))),
    "a chain of splits": lambda n: chain(n),
    "the keys themselves": lambda n: random.split(KEY, n),
}


WIDTH = 100


def chain(n):
    """Words of keys that are each split from the last, for ``WIDTH`` chains side by side."""
    keys, words = random.split(KEY, WIDTH), []
    for _ in range(n // WIDTH):
        pairs = torch.vmap(random.split)(keys)
        keys = pairs[:, 0]
        words.append(torch.vmap(random.bits)(pairs[:, 1]))
    return torch.stack(words).flatten()


@pytest.mark.parametrize("source", FIRST_WORDS)
def test_every_byte_of_the_words_is_uniform(source):
    words = FIRST_WORDS[source](100_000)
    for shift in range(0, 64, 8):
        assert_even((words >> shift) & 255, 256)


@pytest.mark.parametrize("source", FIRST_WORDS)
def test_words_are_serially_uncorrelated(source):
    words = FIRST_WORDS[source](100_000)
    for shift in (40, 20, 0):  # highest, middle and lowest 24 bits
        x = ((words >> shift) & 0xFFFFFF).double()
        x = (x - x.mean()) / x.std()
        for lag in (*range(1, 9), WIDTH):
            assert abs((x[:-lag] * x[lag:]).mean()) * math.sqrt(x.numel()) < 4


def test_the_serial_test_sees_a_weak_generator():
    # A congruential generator's low bits: the classical failure.
    x = (torch.arange(100_000) * 5 + 3 & 0xFF).double()
    x = (x - x.mean()) / x.std()
    assert abs((x[:-1] * x[1:]).mean()) * math.sqrt(x.numel()) > 4


def test_each_bit_of_a_key_changes_half_the_bits_of_the_draw():
    keys = random.split(KEY, 1000)
    for function in (random.bits, lambda k: random.split(k)[1], lambda k: random.fold_in(k, 3)):
        draw = torch.vmap(function)
        for bit in (0, 1, 31, 32, 62, 63):
            changed = draw(keys) ^ draw(keys ^ raw(1 << bit))
            number = sum(bin(word).count("1") for word in unsigned(changed))
            assert abs(number - 32_000) < 4 * math.sqrt(64_000 / 4)


def test_keys_from_different_ways_are_distinct():
    keys = torch.cat(
        [
            random.split(KEY, 1000),
            random.fold_in(KEY, torch.arange(1000)),
            random.fold_in(random.fold_in(KEY, 1), torch.arange(1000)),
            random.bits(KEY, (1000,)),
            random.key(torch.arange(1000)),
            KEY.reshape(1),
        ]
    )
    assert keys.unique().numel() == keys.numel()


def test_uniform_bins():
    for dtype, bins in ((torch.float64, 1000), (torch.float32, 1000), (torch.float16, 256), (torch.bfloat16, 256)):
        draw = random.uniform(KEY, (100_000,), dtype)
        assert draw.min() >= 0
        assert draw.max() < 1
        assert_even((draw.double() * bins).long(), bins)
    draw = random.uniform(KEY, (100_000,), minval=-3, maxval=5)
    assert_even(((draw + 3) * 125).long(), 1000)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_uniform_never_reaches_maxval_by_rounding(dtype):
    for low, high in ((1.0, 2.0), (100.0, 101.0), (torch.tensor(7.0), torch.tensor(8.0)), (3.0, 3.0)):
        draw = random.uniform(KEY, (100_000,), dtype, low, high)
        assert draw.dtype == dtype
        assert draw.min() >= low
        assert (draw < high).all() or low == high


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-5, 5), (0, 1000), (100, 107)])
def test_randint_is_uniform(low, high):
    draw = random.randint(KEY, (100_000,), low, high)
    assert draw.dtype == torch.int64
    assert low <= draw.min()
    assert draw.max() < high
    assert_even(draw - low, high - low)


def test_randint_reaches_the_ends_of_a_wide_range():
    draw = random.randint(KEY, (1000,), -(1 << 62), (1 << 62) - 1)
    assert draw.min() < -(1 << 61)
    assert draw.max() > 1 << 61


def test_normal_has_the_moments_of_the_normal_distribution():
    x = random.normal(KEY, (1_000_000,), torch.float64)
    n = math.sqrt(x.numel())
    assert abs(x.mean()) < 4 / n
    assert abs((x**2).mean() - 1) < 4 * math.sqrt(2) / n
    assert abs((x**3).mean()) < 4 * math.sqrt(15) / n
    assert abs((x**4).mean() - 3) < 4 * math.sqrt(96) / n
    assert x.abs().max() > 4.5
    assert abs((x[:-1] * x[1:]).mean()) < 4 / n


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normal_follows_the_normal_distribution(dtype):
    # Kolmogorov and Smirnov: P(sqrt(n) D > 2.2) is about 1e-4.
    n = 200_000
    x = random.normal(KEY, (n,), dtype).double().sort().values
    distribution = (1 + torch.erf(x / math.sqrt(2))) / 2
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = max((steps[1:] - distribution).max(), (distribution - steps[:-1]).max())
    assert math.sqrt(n) * distance < 2.2


def test_normal_values_of_one_word_follow_box_and_muller():
    words = reference_words(KEY.item() & MASK, 100)
    expected = [
        math.sqrt(-2 * math.log(((w >> 32) + 0.5) * 2**-32)) * math.cos(2 * math.pi * (w & 0xFFFFFFFF) * 2**-32)
        for w in words
    ]
    torch.testing.assert_close(random.normal(KEY, (100,), torch.float64), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("p", [0.0, 1e-3, 0.3, 1.0])
def test_bernoulli_is_true_with_probability_p(p):
    n = 1_000_000
    draw = random.bernoulli(KEY, p, (n,))
    assert draw.dtype == torch.bool
    assert abs(draw.sum() - n * p) <= 4 * math.sqrt(n * p * (1 - p))


def key_of_word(word):
    """The key whose first word this is: every step of the mixing can be undone."""

    def unshift(z, shift):
        x = z
        for _ in range(64 // shift):
            x = z ^ (x >> shift)
        return x

    z = unshift(word, 31) * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    z = unshift(z, 27) * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    return raw((unshift(z, 30) - GAMMA) & MASK)


def test_bernoulli_resolves_small_probabilities():
    # Of this word, 24 bits are all 0: a draw of float32's precision would be 0, and so below any p.
    key = key_of_word(1 << 34)
    assert unsigned(random.bits(key)) == [1 << 34]
    assert random.uniform(key) == 0
    assert not random.bernoulli(key, 2.0**-31)
    assert random.bernoulli(key, 2.0**-29)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_normal_is_finite_at_the_extreme_words(dtype):
    extremes = torch.stack([random.normal(key_of_word(word), (), dtype) for word in (0, MASK, 0xFFFFFFFF)])
    assert extremes.isfinite().all()
    assert extremes.abs().max() < 6.8


def test_bernoulli_takes_a_probability_for_each_draw():
    p = torch.tensor([0.0, 0.5, 1.0]).repeat(1000, 1)
    draw = random.bernoulli(KEY, p)
    assert draw.shape == p.shape
    assert not draw[:, 0].any()
    assert draw[:, 2].all()
    assert 400 < draw[:, 1].sum() < 600


@pytest.mark.parametrize("n", [2, 3, 4])
def test_permutation_is_uniform(n):
    draws = torch.vmap(lambda k: random.permutation(k, n))(random.split(KEY, 20_000))
    code = (draws * n ** torch.arange(n)).sum(1)
    codes = [sum(entry * n**i for i, entry in enumerate(p)) for p in itertools.permutations(range(n))]
    counts = torch.stack([(code == c).sum() for c in codes])
    assert counts.sum() == 20_000
    assert abs(chi_square_deviation(counts, 20_000 / math.factorial(n))) < 4


def test_permutation_holds_every_number_once():
    for n in (0, 1, 1000):
        assert random.permutation(KEY, n).sort().values.equal(torch.arange(n))


# --- a draw depends on its key alone ----------------------------------------------------------------------

# Every function of a key, by name: what is drawn from one key.
DRAWS = {
    "split": lambda k: random.split(k, 5),
    "fold_in": lambda k: random.fold_in(k, 3),
    "fold_in_tensor": lambda k: random.fold_in(k, torch.arange(4)),
    "bits": lambda k: random.bits(k, (3, 5)),
    "bits_at": lambda k: random.bits_at(k, torch.tensor([0, 7, 3])),
    # Single positions: a compiler that knows them multiplies them out by itself, and must wrap as tensors do.
    "split_last": lambda k: random.split(k, 3)[2],
    "fold_in_last": lambda k: random.fold_in(k, torch.arange(5))[4],
    "bits_at_last": lambda k: random.bits_at(k, torch.arange(5) + 2)[4],
    "uniform": lambda k: random.uniform(k, (3, 5)),
    "uniform_float64": lambda k: random.uniform(k, (15,), torch.float64),
    "uniform_bfloat16": lambda k: random.uniform(k, (15,), torch.bfloat16),
    "uniform_range": lambda k: random.uniform(k, (15,), minval=-2.0, maxval=3.0),
    "normal": lambda k: random.normal(k, (3, 5)),
    "normal_float16": lambda k: random.normal(k, (15,), torch.float16),
    "randint": lambda k: random.randint(k, (15,), -3, 11),
    "bernoulli": lambda k: random.bernoulli(k, 0.3, (15,)),
    "permutation": lambda k: random.permutation(k, 15),
}


@pytest.mark.parametrize("name", DRAWS)
def test_vmap_over_keys_is_the_loop_to_the_bit(name):
    keys = random.split(KEY, 6)
    loop = torch.stack([DRAWS[name](k) for k in keys])
    assert torch.vmap(DRAWS[name])(keys).equal(loop)
    nested = torch.vmap(torch.vmap(DRAWS[name]))(keys.reshape(2, 3))
    assert nested.flatten(0, 1).equal(loop)


def test_parameters_may_be_vmapped_with_the_keys():
    keys = random.split(KEY, 3)
    low = torch.tensor([0.0, 1.0, -5.0], dtype=torch.float64)
    uniform = torch.vmap(lambda k, a: random.uniform(k, (4,), minval=a, maxval=a + 1))(keys, low)
    assert uniform.dtype == torch.float32
    assert uniform.equal(
        torch.stack([random.uniform(k, (4,), minval=a, maxval=a + 1) for k, a in zip(keys, low, strict=True)])
    )
    high = torch.tensor([1, 10, 100])
    randint = torch.vmap(lambda k, b: random.randint(k, (4,), 0, b))(keys, high)
    assert randint.equal(torch.stack([random.randint(k, (4,), 0, b) for k, b in zip(keys, high, strict=True)]))
    p = torch.tensor([0.0, 0.5, 1.0])
    bernoulli = torch.vmap(lambda k, q: random.bernoulli(k, q, (4,)))(keys, p)
    assert bernoulli.equal(torch.stack([random.bernoulli(k, q, (4,)) for k, q in zip(keys, p, strict=True)]))


def all_draws(k):
    return {name: draw(k) for name, draw in DRAWS.items()}


@pytest.mark.compiled
def test_compiled_draws_are_the_eager_ones_to_the_bit():
    compiled = torch.compile(all_draws, fullgraph=True)
    for seed in range(3):
        eager, fast = all_draws(random.key(seed)), compiled(random.key(seed))
        for name, draw in eager.items():
            assert fast[name].dtype == draw.dtype, name
            assert fast[name].equal(draw), name


@given(st.integers(0, 20), st.integers(0, 20))
def test_shorter_draws_begin_longer_ones(n, more):
    for draw in (random.bits, random.uniform, random.normal, lambda k, s: random.randint(k, s, 0, 9)):
        assert draw(KEY, (n + more,))[:n].equal(draw(KEY, (n,)))
        assert draw(KEY, (n + more, 3))[:n].equal(draw(KEY, (n, 3)))
    assert random.split(KEY, n + more)[:n].equal(random.split(KEY, n))


def test_no_global_state_is_read_or_written():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = all_draws(KEY)
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    second = all_draws(KEY)
    assert all(first[name].equal(second[name]) for name in DRAWS)


def test_the_key_is_not_modified():
    key = random.key(5)
    version, value = key._version, key.clone()
    all_draws(key)
    assert key._version == version
    assert key.equal(value)


def test_seed_tensors_give_one_key_each():
    seeds = torch.tensor([[0, 1], [2, -3]], dtype=torch.int32)
    keys = random.key(seeds)
    assert keys.tolist() == [[random.key(int(seed)).item() for seed in row] for row in seeds]


# --- bad input --------------------------------------------------------------------------------------------

BAD_INPUT = [
    (lambda: random.key(0.5), r"seed is 0\.5; expected an integer"),
    (lambda: random.key("0"), r"seed is '0'; expected an integer"),
    (lambda: random.key(True), r"seed is True; expected an integer"),
    (lambda: random.key(torch.tensor(0.0)), r"seed is a tensor of dtype torch\.float32; expected an integer"),
    (lambda: random.uniform(0, (3,)), r"key is 0; expected a 0-d int64 tensor, such as fcbp\.random\.key\(0\)"),
    (lambda: random.uniform(random.split(KEY, 3), (3,)), r"key is tensor\(\[.*\]\); expected a 0-d int64 tensor"),
    (lambda: random.split(torch.tensor(0.0)), r"key is tensor\(0\.\); expected"),
    (lambda: random.split(KEY, -1), r"num is -1; expected a whole number, 0 or more"),
    (lambda: random.fold_in(KEY, 0.5), r"data is 0\.5; expected an integer"),
    (lambda: random.fold_in(KEY, torch.tensor([0.5])), r"data is tensor\(\[0\.5.*; expected an integer"),
    (lambda: random.bits(KEY, 3), r"shape is 3; expected a sequence of sizes"),
    (lambda: random.bits(KEY, (2, -1)), r"shape is \(2, -1\); expected a sequence of sizes"),
    (lambda: random.uniform(KEY, (2,), torch.int32), r"dtype is torch\.int32; expected one of torch\.float64"),
    (lambda: random.normal(KEY, (2,), torch.int64), r"dtype is torch\.int64; expected one of torch\.float64"),
    (lambda: random.uniform(KEY, (2,), minval=1, maxval=0), r"minval, maxval are 1, 0; expected .* ascending"),
    (lambda: random.uniform(KEY, (2,), maxval=math.nan), r"minval, maxval are 0\.0, nan; expected finite"),
    (lambda: random.randint(KEY, (2,), 3, 3), r"maxval is 3; expected more than minval, 3"),
    (lambda: random.randint(KEY, (2,), 0, 1.5), r"maxval is 1\.5; expected an integer"),
    (lambda: random.randint(KEY, (2,), -(1 << 63), 1 << 62), r"expected more than minval, .* by less than 2\^63"),
    (lambda: random.bernoulli(KEY, 1.5), r"p is 1\.5; expected a probability"),
    (lambda: random.bernoulli(KEY, math.nan), r"p is nan; expected a probability"),
    (lambda: random.permutation(KEY, -2), r"n is -2; expected a whole number, 0 or more"),
]


@pytest.mark.parametrize(("call", "message"), BAD_INPUT)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_module_is_whole():
    assert all(hasattr(fcbp.random, name) for name in fcbp.random.__all__)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_on_a_gpu_are_those_on_the_cpu():
    there = random.key(2024, device="cuda")
    assert there.cpu().equal(KEY)
    for name in ("split", "fold_in", "bits", "uniform", "uniform_bfloat16", "randint", "bernoulli", "permutation"):
        assert DRAWS[name](there).cpu().equal(DRAWS[name](KEY)), name
    torch.testing.assert_close(random.normal(there, (10_000,)).cpu(), random.normal(KEY, (10_000,)), rtol=1e-6, atol=0)
