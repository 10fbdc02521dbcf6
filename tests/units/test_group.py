"""Where a group's numbers live: reading and writing through slices against loops, and bad groups."""

import dataclasses

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp.units import Slice, UnitGroup, check_units
from fcbp.units import group as groups

# --- reading and writing ----------------------------------------------------------------------------------


@st.composite
def slices(draw):
    """A leaf, a slice of any layout that fits it, and the number of units."""
    size = draw(st.integers(1, 5))
    block = draw(st.integers(1, 4))
    start = draw(st.integers(0, 2))
    layout = draw(st.sampled_from(["blocks", "gates", "spaced", "reversed"]))
    if layout == "blocks":
        stride, block_stride = block, 1
    elif layout == "gates":
        stride, block_stride = 1, size
    elif layout == "reversed":
        stride, block_stride = -block, 1
        start += (size - 1) * block
    else:
        block_stride = draw(st.integers(1, 3))
        stride = block_stride * block + draw(st.integers(0, 2))
    reach = max(start, start + (size - 1) * stride) + (block - 1) * block_stride + 1
    ndim = draw(st.integers(1, 4))
    axis = draw(st.integers(0, ndim - 1))
    shape = [draw(st.integers(1, 3)) for _ in range(ndim)]
    shape[axis] = reach + draw(st.integers(0, 2))
    leaf = torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    s = Slice(("w",), axis - ndim * draw(st.booleans()), start, stride, block, block_stride)
    if draw(st.booleans()):  # the same, entry by entry: the loops below go by the strides
        s = dataclasses.replace(s, listed=tuple(map(tuple, s.entries(size))))
    return leaf, s, size


@given(slices())
def test_take_reads_every_unit_s_entries(case):
    leaf, s, size = case
    taken = groups.take(leaf, s, size)
    array = leaf.numpy()
    for u in range(size):
        for k, entry in enumerate(oracle.entries(s, u)):
            np.testing.assert_array_equal(taken[..., u, k], array[oracle.at(array, s.axis, entry)])
    assert taken.shape == (*np.delete(leaf.shape, s.axis), size, s.block)


@given(slices(), st.data())
def test_put_writes_the_masked_units_entries_alone(case, data):
    leaf, s, size = case
    mask = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    expected = leaf.numpy().copy()
    for u in range(size):
        for entry in oracle.entries(s, u) if mask[u] else []:
            expected[oracle.at(expected, s.axis, entry)] = -1.0
    before = leaf.clone()
    np.testing.assert_array_equal(groups.put(leaf, s, torch.tensor(mask), -1.0), expected)
    np.testing.assert_array_equal(groups.put(leaf, s, torch.tensor(mask), -torch.ones(())), expected)
    assert leaf.equal(before)


@given(slices(), st.data())
def test_put_rows_writes_each_unit_its_own_row(case, data):
    leaf, s, size = case
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    slot = torch.tensor(data.draw(st.permutations(range(size))))
    count = int(data.draw(st.integers(1, size)))
    mask &= slot < count  # slots beyond the rows drawn are never masked
    shape = groups.row_shape(leaf, s, count)
    rows = -torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    blocks = rows.reshape(count, s.block, *np.delete(leaf.shape, s.axis)).numpy()
    expected = leaf.numpy().copy()
    for u in range(size):
        for k, entry in enumerate(oracle.entries(s, u)) if mask[u] else []:
            expected[oracle.at(expected, s.axis, entry)] = blocks[slot[u], k]
    for dtype in (torch.int32, torch.int64):
        np.testing.assert_array_equal(groups.put_rows(leaf, s, slot.to(dtype), mask, rows), expected)
    many = torch.vmap(lambda *args: groups.put_rows(args[0], s, *args[1:]))
    stacked = many(*(torch.stack([x, x]) for x in (leaf, slot, mask, rows)))
    np.testing.assert_array_equal(stacked, np.stack([expected, expected]))


@given(slices(), st.data())
def test_put_at_writes_what_put_rows_writes(case, data):
    leaf, s, size = case
    index = torch.tensor(data.draw(st.permutations(range(size))), dtype=torch.int32)
    index = index[: data.draw(st.integers(1, size))]
    due = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(index), max_size=len(index))))
    mask = torch.zeros(size, dtype=torch.bool).scatter(0, index.long(), due)
    slot = torch.full((size,), size).scatter(0, index.long(), torch.arange(len(index)))
    shape = groups.row_shape(leaf, s, len(index))
    rows = -torch.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    before = leaf.clone()
    expected = groups.put_rows(leaf, s, slot, mask, rows)
    assert torch.equal(groups.put_at(leaf, s, index, due, rows), expected)
    assert torch.equal(groups.put_at(leaf, s, index, due, -1.0), groups.put(leaf, s, mask, -1.0))
    assert leaf.equal(before)
    many = torch.vmap(lambda leaf, *args: groups.put_at(leaf, s, *args))
    twice = many(*(torch.stack([x, x]) for x in (leaf, index, due, rows)))
    assert torch.equal(twice, torch.stack([expected, expected]))


@given(slices(), st.integers(-5, -1))
def test_spread_lays_values_along_the_axis(case, fill):
    leaf, s, size = case
    values = torch.arange(size, dtype=torch.float32)
    length = leaf.shape[s.axis]
    laid = (groups.spread(values, s, leaf, fill) + torch.zeros_like(leaf)).movedim(s.axis, 0).reshape(length, -1)
    assert (laid == laid[:, :1]).all()
    expected = [float(fill)] * length
    for u in range(size):
        for entry in oracle.entries(s, u):
            expected[entry] = float(u)
    assert laid[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("layer", "axis", "weight"),
    [
        (torch.nn.Linear(5, 7), 0, lambda w: w),
        (torch.nn.Conv1d(4, 6, 3), 0, lambda w: w),
        (torch.nn.Conv2d(4, 6, (3, 5)), 0, lambda w: w),
        (torch.nn.Conv2d(4, 6, 3, groups=2), 0, lambda w: w),
        (torch.nn.Linear(5, 7), 1, lambda w: w.T),  # (in, out)
        (torch.nn.Linear(5, 7), -1, lambda w: w.T),
        (torch.nn.Conv2d(4, 6, (3, 5)), 3, lambda w: w.permute(2, 3, 1, 0)),  # (height, width, in, out)
        (torch.nn.Conv1d(4, 6, 3), 2, lambda w: w.permute(2, 1, 0)),
    ],
)
def test_fans_are_those_of_torch(layer, axis, weight):
    expected = torch.nn.init._calculate_fan_in_and_fan_out(layer.weight)
    assert groups.fans(weight(layer.weight), Slice(("w",), axis)) == expected


# --- good and bad groups ----------------------------------------------------------------------------------

PARAMS = {
    "w1": torch.zeros(4, 3),
    "b1": torch.zeros(4),
    "w2": torch.zeros(2, 4),
    "b2": torch.zeros(2),
    "wide": torch.zeros(2, 12),
    "count": torch.zeros(4, dtype=torch.int64),
}
GROUP = UnitGroup("h", 4, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),))
OTHER = dataclasses.replace(GROUP, name="g")


def edit(**changes):
    return (dataclasses.replace(GROUP, **changes),)


def test_a_good_group_passes():
    check_units((GROUP,), PARAMS)
    check_units((), PARAMS)
    assert hash(GROUP) == hash(edit()[0])


@pytest.mark.parametrize(
    "outgoing",
    [
        Slice(("wide",), 1, stride=3, block=3),
        Slice(("wide",), -1, block=3, block_stride=4),
        Slice(("wide",), 1, start=8),
        Slice(("wide",), 1, partial=True),
        Slice(("wide",), 1, start=11, stride=-3),
    ],
)
def test_layouts_that_fit_pass(outgoing):
    check_units(edit(outgoing=(outgoing,)), PARAMS)


def test_two_groups_may_share_a_leaf_and_be_its_makers_and_readers():
    params = {"w": torch.zeros(7, 7), "b": torch.zeros(7)}
    first = UnitGroup("a", 3, (Slice(("w",), 0),), (Slice(("b",), 0),), (Slice(("w",), 1),), (("b",),))
    second = UnitGroup("b", 4, (Slice(("w",), 0, 3),), (Slice(("b",), 0, 3),), (Slice(("w",), 1, 3),), (("b",),))
    check_units((first, second), params)


def test_buffers_are_checked_where_they_are_given():
    units = edit(running_mean=(Slice(("norm.running_mean",), 0),))
    check_units(units, PARAMS)
    check_units(units, PARAMS, {"norm.running_mean": torch.zeros(4)})
    with pytest.raises(ValueError, match=r"group 'h', running_mean: .*names no leaf"):
        check_units(units, PARAMS, {})
    with pytest.raises(ValueError, match=r"group 'h', running_mean: sizes disagree: 4 units, but axis 0"):
        check_units(units, PARAMS, {"norm.running_mean": torch.zeros(5)})


def test_a_consumer_is_found_by_negative_axes_as_well():
    params = {
        "w1": torch.zeros(3, 4),
        "w2": torch.zeros(4, 2),
        "b2": torch.zeros(2),
        "v": torch.zeros(4),
        "c": torch.zeros(()),
    }
    group = UnitGroup("h", 4, (Slice(("w1",), -1),), (), (Slice(("w2",), -2), Slice(("v",), 0)), (("b2",), ("c",)))
    check_units((group,), params)
    with pytest.raises(
        ValueError, match=r"outgoing_bias b2 has shape \(2,\); expected \(\), one entry for each output"
    ):
        check_units((dataclasses.replace(group, outgoing_bias=(("b2",), ("b2",))),), params)


BAD_UNITS = [
    ((3,), r"units holds 3; expected UnitGroup"),
    ((GROUP, GROUP), r"units: 2 groups are called 'h'; expected distinct names"),
    (edit(size=0), r"group 'h' has size 0, 1 incoming and 1 outgoing slices; expected at least one unit and one slice"),
    (edit(incoming=(), outgoing=(), outgoing_bias=()), r"0 incoming and 0 outgoing slices; expected at least one unit"),
    (edit(outgoing_bias=()), r"group 'h' has 0 outgoing_bias for 1 outgoing slices; expected one \(or None\) each"),
    # A missing leaf.
    (edit(incoming=(Slice(("w9",), 0),)), r"group 'h', incoming: .*'w9'.* names no leaf; expected .*such as \('b1',\)"),
    (edit(incoming=(Slice(("w1", "x"), 0),)), r"group 'h', incoming: .* names no leaf"),
    (edit(incoming=(Slice((), 0),)), r"group 'h', incoming: .* names no leaf"),
    (edit(outgoing_bias=(("b9",),)), r"group 'h', outgoing_bias b9 names no leaf; expected a path to a tensor such as"),
    (edit(outgoing_bias=((),)), r"group 'h', outgoing_bias  names no leaf"),
    # An axis out of range.
    (edit(incoming=(Slice(("w1",), 2),)), r"incoming: .* has axis 2; expected one of the 2 axes of a leaf \(4, 3\)"),
    (edit(bias=(Slice(("b1",), -2),)), r"bias: .* has axis -2; expected one of the 1 axes of a leaf \(4,\)"),
    # Sizes that disagree.
    (
        edit(size=5),
        r"incoming: .*sizes disagree: 5 units reach entries 0 to 4; expected entries within 0 to 3 on axis 0",
    ),
    (edit(size=3), r"group 'h', incoming: sizes disagree: 3 units, but axis 0 of w1 \(4, 3\) has 4 entries"),
    (edit(outgoing=(Slice(("wide",), 1),)), r"outgoing: sizes disagree: 4 units, but axis 1 of wide \(2, 12\) has 12"),
    (
        edit(outgoing=(Slice(("wide",), 1, stride=2, block=2),)),
        r"outgoing: sizes disagree: .*has 12 entries; expected eq",
    ),
    (edit(incoming=(Slice(("w1",), 0, start=1),)), r"sizes disagree: 4 units reach entries 1 to 4; expected .*0 to 3"),
    (edit(incoming=(Slice(("w1",), 0, start=-1),)), r"sizes disagree: 4 units reach entries -1 to 2"),
    (edit(outgoing_bias=(("b1",),)), r"outgoing_bias b1 has shape \(4,\); expected \(2,\), one entry for each output"),
    (edit(incoming=(Slice(("w1",), 0, block=0),)), r"incoming: .* has block 0; expected 1 or more entries a unit"),
    (edit(outgoing=(Slice(("wide",), 1, block=3),)), r"outgoing: .*gives one entry to two units; expected disjoint"),
    # Groups that overlap.
    ((GROUP, OTHER), r"units overlap: group 'h' \(incoming\) and group 'g' \(incoming\) own entry 0 of axis 0 of w1"),
    (
        (GROUP, UnitGroup("g", 1, (Slice(("w1",), -2, start=2, partial=True),), (), (), ())),
        r"units overlap: group 'h' \(incoming\) and group 'g' \(incoming\) own entry 2 of axis 0 of w1; expected",
    ),
    (
        edit(outgoing=(Slice(("w2",), 1),) * 2, outgoing_bias=(("b2",),) * 2),
        r"units overlap: group 'h' \(outgoing\) and group 'h' \(outgoing\) own entry 0 of axis 1 of w2",
    ),
    # A parameter of integers.
    (
        edit(bias=(Slice(("count",), 0),)),
        r"bias: .* names a leaf of dtype torch\.int64; expected a floating-point tensor",
    ),
]


@pytest.mark.parametrize(("units", "message"), BAD_UNITS)
def test_bad_groups_are_named(units, message):
    with pytest.raises(ValueError, match=message):
        check_units(units, PARAMS)
    with pytest.raises(ValueError, match=message):
        fcbp.init_state(units, PARAMS, fcbp.random.key(0))
