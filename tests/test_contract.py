"""The four promises, and what goes with them, for every row of ``contract.py``.

Pure: no argument is modified, no global random state is read or written. vmap = loop. Independent: a member's numbers
do not depend on which, how many or in which order other members run. compile = eager, without a graph break and
without a second compilation.
"""

import functools

import contract
import optree
import pytest
import torch
from contract import MEMBERS, ROWS, UNITS, stack, unstack
from hypothesis import given, settings
from hypothesis import strategies as st

import fcbp

BY_NAME = {row.name: row for row in ROWS}
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def leaves(tree):
    return optree.tree_leaves(tree)


def assert_same(a, b, exact, what=""):
    """Equal structure and dtypes; numbers equal to the bit, or to float32 rounding. Masks and counts are always."""
    assert optree.tree_structure(a) == optree.tree_structure(b), what
    for path, x, y in zip(optree.tree_paths(a), leaves(a), leaves(b), strict=True):
        where = f"{what} {path}"
        assert x.dtype == y.dtype, where
        assert x.shape == y.shape, where
        if exact or not x.is_floating_point():
            assert torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)), where
            assert x.isnan().equal(y.isnan()), where
        else:
            torch.testing.assert_close(
                x, y, rtol=2e-6, atol=1e-6, equal_nan=True, msg=lambda m, where=where: f"{where}: {m}"
            )


@functools.cache
def alone(name, i):
    """The outputs of one member that runs alone."""
    row = BY_NAME[name]
    return row.function(row.member(i))


def loop(row, indices):
    return stack([alone(row.name, i) for i in indices])


# --- pure -------------------------------------------------------------------------------------------------


@rows
def test_no_argument_is_modified_and_the_outputs_are_repeated(row):
    inputs = row.member(2)
    values = [leaf.clone() for leaf in leaves(inputs)]
    versions = [leaf._version for leaf in leaves(inputs)]
    structure = optree.tree_structure(inputs)
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    first = row.function(inputs)
    assert torch.get_rng_state().equal(generator)
    assert optree.tree_structure(inputs) == structure
    assert [leaf._version for leaf in leaves(inputs)] == versions
    assert all(a.equal(b) for a, b in zip(leaves(inputs), values, strict=True))
    torch.manual_seed(2)  # another global state, the same numbers
    assert_same(row.function(inputs), first, exact=True)


@rows
def test_outputs_are_tensors_without_a_graph(row):
    inputs = row.member(2)
    tracked = optree.tree_map(lambda x: x.requires_grad_() if x.is_floating_point() else x, inputs)
    own = {id(leaf) for leaf in leaves(tracked)}
    for leaf in leaves(row.function(tracked)):
        assert isinstance(leaf, torch.Tensor)
        assert leaf.grad_fn is None
        assert not leaf.requires_grad or id(leaf) in own  # a leaf that is passed on is the caller's


@rows
def test_structures_shapes_and_dtypes_are_kept(row):
    for i in range(3):
        inputs = row.member(i)
        for before, after in row.keeps(inputs, row.function(inputs)):
            assert optree.tree_structure(before) == optree.tree_structure(after)
            for a, b in zip(leaves(before), leaves(after), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["select_and_reset transfer", "methods.cbp", "optim.adam", "optim.sgd momentum"])
def test_dtypes_other_than_float32_are_kept(name, dtype):
    row = BY_NAME[name]
    cast = optree.tree_map(lambda x: x.to(dtype) if x.dtype == torch.float32 else x, row.member(2))
    if name.startswith("select"):  # states are float32 at least
        state = optree.tree_map(lambda x: x.to(torch.promote_types(dtype, torch.float32)), row.member(2)[0].utility)
        cast = (row.member(2)[0]._replace(utility=state, mean_activation=state), *cast[1:])
    for before, after in row.keeps(cast, row.function(cast)):
        for a, b in zip(leaves(before), leaves(after), strict=True):
            assert a.dtype == b.dtype


@rows
def test_two_runs_share_no_storage_of_their_own(row):
    """What a function makes is made anew: two states never hold one tensor, but for what they were given."""
    first, second = row.member(3), row.member(3)
    given = {leaf.untyped_storage().data_ptr() for leaf in leaves((first, second))}
    made = [leaves(row.function(inputs)) for inputs in (first, second)]
    pointers = [{leaf.untyped_storage().data_ptr() for leaf in part} - given for part in made]
    assert not pointers[0] & pointers[1]


def test_within_a_state_no_two_tensors_share_storage():
    state = fcbp.init_state(UNITS, contract.params(0), contract.key(0))
    pointers = [leaf.untyped_storage().data_ptr() for leaf in leaves((state, contract.key(0), contract.params(0)))]
    assert len(set(pointers)) == len(pointers)


@rows
def test_another_key_gives_another_draw(row):
    """Every row's numbers are its member's: no two members agree by accident, nor by a constant."""
    different = [
        any(not a.equal(b) for a, b in zip(leaves(alone(row.name, 0)), leaves(alone(row.name, i)), strict=True))
        for i in (2, 3)
    ]
    assert all(different)


# --- vmap = loop ------------------------------------------------------------------------------------------


@rows
def test_vmap_is_the_loop(row):
    together = torch.vmap(row.function)(row.members(*range(MEMBERS)))
    assert_same(together, loop(row, range(MEMBERS)), row.exact)


@rows
def test_nested_vmap_is_the_loop(row):
    inputs = optree.tree_map(lambda leaf: leaf.unflatten(0, (2, 3)), row.members(*range(6)))
    nested = torch.vmap(torch.vmap(row.function))(inputs)
    assert_same(optree.tree_map(lambda leaf: leaf.flatten(0, 1), nested), loop(row, range(6)), row.exact)


def step(params, state, hyper, features, grads, **options):
    """A whole step of the core."""
    optimizer = fcbp.optim.sgd(0.9)
    params, opt_state = optimizer.update(grads, optimizer.init(params), params, step_size=0.01)
    state = fcbp.update_utility(state, params, features, hyper, units=UNITS)
    params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=UNITS, transfer_bias=True, **options)
    return params, state, fcbp.reset_moments(opt_state, replaced, units=UNITS), replaced


@pytest.mark.parametrize("options", [{}, {"capacity": 1}, {"rounding": "stochastic", "capacity": 2}])
def test_seeds_by_rates_equal_the_loop_over_both(options):
    """A sweep: seeds in the outer vmap, rates in the inner; the loop takes plain numbers and its own capacity."""
    rates = [0.0, 0.07, 0.3, 1.0]
    seeds = range(3)

    def run(params, state, features, grads, rate):
        return step(params, state, fcbp.Hyperparams(rate, 2, 0.9), features, grads, **options)

    inner = torch.vmap(run, in_dims=(None, None, None, None, 0))
    inputs = [
        stack([make(i) for i in seeds]) for make in (contract.params, contract.state, contract.features, contract.grads)
    ]
    together = torch.vmap(inner, in_dims=(0, 0, 0, 0, None))(*inputs, torch.tensor(rates, dtype=torch.float64))
    total = 0
    for i in seeds:
        own = (contract.params(i), contract.state(i), contract.features(i), contract.grads(i))
        for j, rate in enumerate(rates):
            one = run(*own, rate)
            assert_same(unstack(unstack(together, i), j), one, exact=False, what=f"seed {i}, rate {rate}")
            total += sum(mask.sum() for mask in one[-1].values())
    assert total > 10


# --- independent members ----------------------------------------------------------------------------------


@settings(max_examples=5)
@given(members=st.lists(st.integers(0, MEMBERS - 1), min_size=1, max_size=5))
@rows
def test_a_member_does_not_depend_on_its_company(row, members):
    """Any members, in any order, with or without repetition."""
    together = torch.vmap(row.function)(row.members(*members))
    assert_same(together, loop(row, members), row.exact)


@rows
def test_a_member_that_breaks_harms_no_other(row):
    """One member's numbers turn to NaN; those of the others stay as they were, to the bit."""

    def spoil(leaf):
        if leaf.is_floating_point():
            return torch.cat([leaf[:2], torch.full_like(leaf[2:3], torch.nan), leaf[3:]])
        return leaf

    inputs = row.members(0, 1, 2, 3)
    healthy = torch.vmap(row.function)(inputs)
    spoiled = torch.vmap(row.function)(optree.tree_map(spoil, inputs))
    for i in (0, 1, 3):
        assert_same(unstack(spoiled, i), unstack(healthy, i), exact=True)


# --- compile = eager --------------------------------------------------------------------------------------


def every_row(inputs):
    return {name: torch.vmap(BY_NAME[name].function)(inputs[name]) for name in inputs}


# Three programs, side by side where tests run in parallel.
PROGRAMS = {
    "generated": [row for row in ROWS if row.compiled and row.generated],
    "methods": [row for row in ROWS if row.compiled and not row.generated and row.name.startswith("methods")],
    "core": [row for row in ROWS if row.compiled and not row.generated and not row.name.startswith("methods")],
}


@pytest.mark.compiled
@pytest.mark.parametrize("program", PROGRAMS)
def test_compiled_members_equal_eager_ones_from_one_program(program):
    chosen = PROGRAMS[program]
    compiled = torch.compile(every_row, fullgraph=True, backend="inductor" if program == "generated" else "aot_eager")
    for attempt, members in enumerate([(0, 1, 2, 3), (5, 4, 3, 2)]):
        inputs = {row.name: row.members(*members) for row in chosen}
        with torch.compiler.set_stance("fail_on_recompile" if attempt else "default"):
            outputs = compiled(inputs)
        for row in chosen:
            assert_same(outputs[row.name], loop(row, members), False, row.name)


@pytest.mark.compiled
def test_a_single_member_compiles_as_well():
    """Without vmap; the row with the most kinds of operations is enough here."""
    row = BY_NAME["select_and_reset capacity 1"]
    compiled = torch.compile(row.function, fullgraph=True, backend="aot_eager")
    for attempt, i in enumerate((0, 3)):
        with torch.compiler.set_stance("fail_on_recompile" if attempt else "default"):
            assert_same(compiled(row.member(i)), alone(row.name, i), False)


# --- the table is whole -----------------------------------------------------------------------------------


def public_functions():
    """The public functions of the core: what has a promise to test."""
    core = ["init_state", "update_utility", "select_and_reset", "reset_moments", "reset_buffers"]
    tested_in_test_random = {"key", "check_key", "bits_at"}
    return {
        *core,
        *(f"update_utility {name}" for name in (*fcbp.utility.MEASURES, "random")),
        *(f"optim.{name}" for name in (*fcbp.optim.OPTIMIZERS, *fcbp.optim.SCHEDULES, "clip_by_global_norm")),
        *(f"initializers.{name}" for name in fcbp.initializers.INITIALIZERS),
        *(f"random.{name}" for name in fcbp.random.__all__ if name not in tested_in_test_random),
        *(f"methods.{name}" for name in (*fcbp.methods.METHODS, "chain")),
    }


VARIANTS = {
    "select_and_reset": {"defaults", "transfer", "stochastic", "capacity 1", "capacity 2"},
    "update_utility": {"of an own measure"},
    "optim.sgd": {"", "momentum"},
    "methods.l2-init": {"", "plain"},
    "methods.shrink-perturb": {"", "new_task"},
    "methods.upgd": {"", "local"},
    "methods.swr": {"", "threshold"},
    "methods.redo": {"", "capacity"},
    "methods.cpr": {"", "softplus"},
    "methods.ccbp": {"", "discrete"},
}
"""Subjects of several rows; all others have one."""


def without_a_row(rows):
    """What the rows do not show, and what they show that is not expected."""
    shown = {(row.subject, row.variant) for row in rows}
    return {(name, v) for name in public_functions() for v in VARIANTS.get(name, {""})} ^ shown


def test_every_public_function_of_the_core_has_its_rows():
    """A function that is added and not entered here has no promise tested."""
    assert without_a_row(ROWS) == set()
    assert VARIANTS.keys() <= public_functions()
    assert len(BY_NAME) == len(ROWS)


@rows
def test_a_row_that_is_lost_is_missed(row):
    assert without_a_row([other for other in ROWS if other is not row]) == {(row.subject, row.variant)}
