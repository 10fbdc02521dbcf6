"""The problems: pure functions of a key, against NumPy oracles of what the papers describe."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp import streams
from fcbp.streams import bit_flipping


def draw(stream, seed=0, length=100):
    return stream.sample(stream.init(fcbp.random.key(seed)), length)


def bits_of(stream, seed=0, length=100):
    _, (inputs, _) = draw(stream, seed, length)
    return inputs.flatten(0, 1)


def target_of_the_issue(state, inputs, m, beta):
    """A unit fires where its input sum, bias included, exceeds beta (m + 1) - S with S = (m - sum w + b) / 2.

    The bias is read back from the threshold that the state holds.
    """
    w = state.hidden_weight.double().numpy()
    threshold = state.threshold.double().numpy()
    # threshold = beta (m + 1) - (m - sum w + b) / 2 - b
    b = np.round((beta * (m + 1) - (m - w.sum(1)) / 2 - threshold) / 1.5)
    assert set(np.unique(b)) <= {-1.0, 1.0}
    s = (m - w.sum(1) + b) / 2
    fires = inputs.double().numpy() @ w.T + b > beta * (m + 1) - s
    return fires @ state.output_weight.double().numpy() + float(state.output_bias)


def same(a, b):
    assert type(a) is type(b)
    for x, y in zip(torch.utils._pytree.tree_leaves(a), torch.utils._pytree.tree_leaves(b), strict=True):
        assert torch.equal(x, y)


SMALL = {"input_bits": 6, "flipping_bits": 4, "flip_period": 7, "target_units": 9}


@given(
    pieces=st.lists(st.integers(1, 40), min_size=2, max_size=5),
    redraw_all=st.booleans(),
    batch_size=st.integers(1, 3),
    flip_period=st.sampled_from([1, 2, 7, 10, 1000]),
    seed=st.integers(0, 2**62),
)
def test_pieces_are_the_whole(pieces, redraw_all, batch_size, flip_period, seed):
    stream = bit_flipping(
        **{**SMALL, "flip_period": flip_period}, redraw_all=redraw_all, batch_size=batch_size, beta=0.6
    )
    state = start = stream.init(fcbp.random.key(seed))
    whole_state, whole = stream.sample(start, sum(pieces))
    parts = []
    for piece in pieces:
        state, part = stream.sample(state, piece)
        assert part[0].shape == (piece, batch_size, 6)
        assert part[1].shape == (piece, batch_size, 1)
        parts.append(part)
    same(state, whole_state)
    same(tuple(torch.cat(column) for column in zip(*parts, strict=True)), whole)


@given(
    before=st.integers(1, 30),
    length=st.integers(1, 60),
    options=st.fixed_dictionaries(
        {
            "redraw_all": st.booleans(),
            "batch_size": st.integers(1, 3),
            "flip_period": st.sampled_from([1, 7, 10, 1000]),
            "flipping_bits": st.sampled_from([0, 4, 6]),
            "task_signal": st.booleans(),
        }
    ),
    seed=st.integers(0, 2**62),
)
def test_windows_hold_what_sample_gives(before, length, options, seed):
    stream = bit_flipping(**{**SMALL, **options}, beta=0.6)
    state, _ = stream.sample(stream.init(fcbp.random.key(seed)), before)
    after, batches = stream.sample(state, length)
    same(stream.skip(state, length), after)
    window = stream.window(state, length + 5)  # one that reaches further
    for i in {0, length // 2, length - 1}:
        same(stream.at(window, torch.tensor(i)), tuple(part[i] for part in batches))


@pytest.mark.parametrize("redraw_all", [False, True])
def test_members_are_the_loop(redraw_all):
    stream = bit_flipping(**SMALL, redraw_all=redraw_all)
    keys = fcbp.random.key(torch.arange(6))
    states = torch.vmap(stream.init)(keys)
    many, data = torch.vmap(lambda s: stream.sample(s, 50))(states)
    many, more = torch.vmap(lambda s: stream.sample(s, 9))(many)
    for i, key in enumerate(keys):
        one, alone = stream.sample(stream.init(key), 50)
        one, alone_more = stream.sample(one, 9)
        for batched, single in ((many, one), (data, alone), (more, alone_more)):
            same(torch.utils._pytree.tree_map(lambda leaf: leaf[i], batched), single)  # noqa: B023
    # Members are different problems.
    assert len({tuple(x.flatten().tolist()) for x in data[0]}) == 6
    assert len({tuple(x.flatten().tolist()) for x in states.hidden_weight}) == 6


@pytest.mark.parametrize("seed", range(3))
def test_slow_bits_stay_for_a_period_and_then_one_of_them_flips(seed):
    period, periods = 50, 60
    slow = bits_of(bit_flipping(flip_period=period), seed, period * periods)[:, :15].reshape(periods, period, 15)
    assert (slow == slow[:, :1]).all()
    flips = slow[1:, 0] != slow[:-1, 0]
    assert (flips.sum(1) == 1).all()
    # Every bit's turn comes, and each equally often: 59 flips among 15 bits.
    counts = flips.sum(0)
    assert ((counts - 59 / 15) ** 2 / (59 / 15)).sum() < 36.1  # chi-square, 14 degrees of freedom, p = 0.001
    assert set(np.unique(slow)) == {0.0, 1.0}


def test_redraw_all_draws_every_slow_bit_anew():
    period, periods = 5, 400
    slow = bits_of(bit_flipping(flip_period=period, redraw_all=True), 1, period * periods)[:, :15]
    slow = slow.reshape(periods, period, 15)
    assert (slow == slow[:, :1]).all()
    changed = (slow[1:, 0] != slow[:-1, 0]).float()
    assert abs(changed.mean() - 0.5) < 4 * 0.5 / (399 * 15) ** 0.5
    assert (changed.mean(0) > 0.35).all()
    assert (changed.mean(0) < 0.65).all()


@pytest.mark.parametrize(("batch_size", "flip_period"), [(1, 7), (3, 6), (3, 7), (4, 1)])
def test_a_task_signal_is_true_where_a_period_begins_but_not_the_first(batch_size, flip_period):
    options = {**SMALL, "flip_period": flip_period, "batch_size": batch_size}
    stream = bit_flipping(**options, task_signal=True)
    state, (inputs, targets, signal) = draw(stream, length=40)
    same((inputs, targets), draw(bit_flipping(**options), length=40)[1])
    begins = [
        any(i > 0 and i % flip_period == 0 for i in range(t * batch_size, (t + 1) * batch_size)) for t in range(40)
    ]
    assert signal.tolist() == begins
    assert signal.dtype == torch.bool
    _, (*_, later) = stream.sample(state, 9)
    _, (*_, whole) = draw(stream, length=49)
    assert whole.tolist() == begins + later.tolist()


def test_fast_bits_are_fair_and_fresh():
    n = 20_000
    fast = bits_of(bit_flipping(), 3, n)[:, 15:]
    bound = 4 / n**0.5
    signs = fast * 2 - 1
    assert (signs.mean(0).abs() < bound).all()
    for lag in (1, 2, 7):
        assert ((signs[lag:] * signs[:-lag]).mean(0).abs() < bound).all()
    assert (((signs.T @ signs) / n - torch.eye(5)).abs() < bound).all()
    patterns = (fast @ (2.0 ** torch.arange(5))).long().bincount(minlength=32)
    assert ((patterns - n / 32) ** 2 / (n / 32)).sum() < 61.1  # chi-square, 31 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"redraw_all": True, "flip_period": 30},
        {"flip_period": 13, "batch_size": 3},
        {"input_bits": 7, "flipping_bits": 7, "flip_period": 11},
        {"input_bits": 5, "flipping_bits": 0},
        {"input_bits": 31, "flipping_bits": 4, "target_units": 7, "beta": 0.55},
        {"input_bits": 150, "flipping_bits": 3, "flip_period": 17},
    ],
)
@pytest.mark.parametrize("length", [1, 40, 300])
def test_targets_are_those_of_the_network_described(options, length):
    stream = bit_flipping(**options)
    m = options.get("input_bits", 20)
    start = stream.init(fcbp.random.key(5))
    _, (inputs, targets) = stream.sample(start, length)
    expected = target_of_the_issue(start, inputs, m, options.get("beta", 0.7))
    assert inputs.dtype == targets.dtype == torch.float32
    np.testing.assert_array_equal(targets.squeeze(-1).numpy(), expected)


def test_the_table_of_few_fast_bits_is_the_direct_computation():
    # More examples than the fast bits have values are looked up, fewer are computed.
    stream = bit_flipping(flip_period=20, input_bits=20, flipping_bits=15)
    state = stream.init(fcbp.random.key(9))
    _, (inputs, targets) = stream.sample(state, 320)
    direct = []
    for _ in range(10):
        state, (piece, target) = stream.sample(state, 32)
        direct.append((piece, target))
    assert torch.equal(inputs, torch.cat([d[0] for d in direct]))
    assert torch.equal(targets, torch.cat([d[1] for d in direct]))


def test_the_target_network_is_of_signs_and_every_unit_can_matter():
    state = bit_flipping().init(fcbp.random.key(0))
    for leaf in (state.hidden_weight, state.output_weight, state.output_bias):
        assert set(leaf.flatten().tolist()) <= {-1.0, 1.0}
    assert state.hidden_weight.shape == (100, 20)
    assert abs(state.hidden_weight.mean()) < 4 / 2000**0.5
    _, (_, targets) = draw(bit_flipping(flip_period=10), 0, 5000)
    assert targets.std() > 1


def test_wide_inputs_have_distinct_bits():
    fast = bits_of(bit_flipping(input_bits=200, flipping_bits=0, target_units=1), 2, 2000)
    signs = fast * 2 - 1
    assert ((signs.T @ signs) / 2000 - torch.eye(200)).abs().max() < 6 / 2000**0.5


def test_batches_are_consecutive_examples():
    one = bits_of(bit_flipping(flip_period=8), 4, 24)
    four = bits_of(bit_flipping(flip_period=8, batch_size=4), 4, 6)
    assert torch.equal(one, four)


def test_sampling_changes_nothing_and_reads_no_global_state():
    stream = bit_flipping(**SMALL)
    state = stream.init(fcbp.random.key(0))
    before = [leaf.clone() for leaf in state]
    torch.manual_seed(0)
    first = stream.sample(state, 20)
    rng = torch.get_rng_state()
    torch.manual_seed(1)
    same(stream.sample(state, 20), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), rng)
    same(list(state), before)


def test_a_later_start_is_the_same_run():
    """A million steps need no stored data: the state holds the position."""
    stream = bit_flipping(flip_period=1000)
    state = stream.init(fcbp.random.key(0))
    for _ in range(7):
        state, (inputs, _) = stream.sample(state, 700)
    assert int(state.step) == 4900
    assert torch.equal(inputs.flatten(0, 1), bits_of(stream, 0, 4900)[-700:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_bits": 0}, "input_bits is 0"),
        ({"input_bits": 2.5}, "input_bits is 2.5"),
        ({"flip_period": 0}, "flip_period is 0"),
        ({"flip_period": True}, "flip_period is True"),
        ({"target_units": -1}, "target_units is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"flipping_bits": 21}, "flipping_bits is 21; expected 0 to input_bits = 20"),
        ({"flipping_bits": -1}, "flipping_bits is -1"),
        ({"beta": float("nan")}, "beta is nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        bit_flipping(**options)


@pytest.mark.parametrize("length", [0, -1, 1.5])
def test_bad_lengths(length):
    with pytest.raises(ValueError, match=f"length is {length}"):
        draw(bit_flipping(), length=length)


def test_every_stream_is_exported():
    assert set(streams.__all__) >= {"Stream", "bit_flipping"}
