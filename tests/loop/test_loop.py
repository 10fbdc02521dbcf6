"""``scan``: the semantics of ``jax.lax.scan``, eager and compiled, and the same learner in both."""

import copy
import os
import re
import subprocess
import sys
import warnings
from typing import NamedTuple

import pytest
import torch
import torch.utils._pytree as pytree
from compilers import hanging
from golden import LOSSES, TOLERANCE, Golden, hidden_groups, linspace_initializer, network
from hypothesis import given
from hypothesis import strategies as st

import fcbp
from fcbp import lanes, loop
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.loop import objects
from fcbp.units import Slice, UnitGroup

MODES = [
    "eager",
    pytest.param("scan", marks=pytest.mark.compiled),
    pytest.param("lanes", marks=pytest.mark.compiled),
]


@pytest.fixture(autouse=True)
def _quick_to_compile(monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O1")


def reference(step, carry, xs, length):
    """What ``jax.lax.scan``'s documentation says that it computes."""
    ys = []
    for i in range(length):
        carry, y = step(carry, pytree.tree_map_only(torch.Tensor, lambda x: x[i], xs))  # noqa: B023
        ys.append(y)
    stacked = pytree.tree_map(lambda *leaves: torch.stack([torch.as_tensor(leaf) for leaf in leaves]), *ys)
    return carry, stacked


def compilations():
    return len(objects._loaded)


def assert_trees_close(actual, expected, **tolerance):
    actual_leaves, actual_spec = pytree.tree_flatten(actual)
    expected_leaves, expected_spec = pytree.tree_flatten(expected)
    assert actual_spec == expected_spec
    for a, e in zip(actual_leaves, expected_leaves, strict=True):
        torch.testing.assert_close(a, e, **tolerance)


def tensors(*trees):
    return [leaf for leaf in pytree.tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


def snapshot(*trees):
    return [(leaf.clone(), leaf._version) for leaf in tensors(*trees)]


def assert_untouched(before, *trees):
    for (value, version), now in zip(before, tensors(*trees), strict=True):
        assert now._version == version
        assert not hasattr(now, "_dynamo_dynamic_indices")
        torch.testing.assert_close(now, value, rtol=0, atol=0, equal_nan=True)


# --- semantics ------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    left: torch.Tensor
    right: dict


def everything(carry, x):
    """Leaves of all kinds: swapped, passed through, moved as integers, as booleans, in float64."""
    a, b = carry["swapped"]
    count = carry["pair"].left
    new = {
        "swapped": (b, a + x["add"].right["v"]),
        "constant": carry["constant"],
        "pair": Pair(count + x["add"].left, {"flag": ~carry["pair"].right["flag"]}),
        "double": carry["double"] * 0.5 + count,
        "small": (carry["small"] + 1) % 7,
    }
    y = {
        "input": x["matrix"],
        "view of a carry": (a[1:], carry["constant"].T),
        "carry itself": [b, carry["small"], count],
        "number": 2.5,
        "drawn once": torch.ones(2),
        "reversed": x["matrix"].flip(0),
    }
    return new, y


def everything_arguments(length=5):
    carry = {
        "swapped": (torch.zeros(3), torch.ones(3)),
        "constant": torch.arange(6.0).reshape(2, 3),
        "pair": Pair(torch.tensor(3), {"flag": torch.tensor([True, False])}),
        "double": torch.full((2,), 1e-12, dtype=torch.float64),
        "small": torch.tensor([1, 6], dtype=torch.int32),
    }
    steps = torch.arange(length)
    xs = {
        "add": Pair(steps, {"v": steps[:, None] * torch.tensor([1.0, 10.0, 100.0])}),
        "matrix": torch.arange(4.0 * length).reshape(length, 2, 2),
    }
    return carry, xs


def noncontiguous():
    xs = torch.arange(30.0).reshape(5, 3, 2).transpose(1, 2)
    return (torch.ones(3, 2).T, xs[0]), (xs, torch.arange(2.0).expand(5, 2), torch.arange(15.0).reshape(3, 5).T)


CASES = {
    "everything": (everything, *everything_arguments(), None),
    "xs None": (lambda c, x: ((c[0] * 2 + 1, c[1]), c[0] - c[1]), (torch.zeros(3), torch.ones(3)), None, 6),
    "xs and length": (lambda c, x: (c + x, c * x), torch.tensor(1.0), torch.arange(5.0), 5),
    "xs with None inside": (lambda c, x: (c + x["a"], c), torch.zeros(2), {"a": torch.ones(4, 2), "b": None}, None),
    "not contiguous": (
        lambda c, x: ((c[0] * 0.9 + x[0], c[1] - x[1].unsqueeze(-1)), (c[0], x[0].T, x[2])),
        *noncontiguous(),
        None,
    ),
    "new carry is the input": (lambda c, x: (x, c), torch.zeros(3), torch.arange(12.0).reshape(4, 3), None),
    "new carry is a constant": (lambda c, x: (torch.ones(3), c + x), torch.zeros(3), torch.ones(4, 3), None),
    "empty tensors": (
        lambda c, x: ((c[0] + 1, c[1] + x.sum()), x),
        (torch.zeros(0), torch.zeros(2)),
        torch.ones(3, 0),
        None,
    ),
    "y nothing": (lambda c, x: ((c[1], c[0] + x), ()), (torch.zeros(3), torch.ones(3)), torch.ones(4, 3), None),
}


@pytest.mark.parametrize("backend", MODES)
@pytest.mark.parametrize("case", CASES)
def test_scan_is_the_loop(case, backend):
    step, carry, xs, length = CASES[case]
    if (case, backend) == ("empty tensors", "lanes"):
        pytest.skip("lanes leave them to the compiled scan")
    before = snapshot(carry, xs)
    count = compilations()
    result = loop.scan(
        lambda c, x: step(c, x), carry, xs, length, backend=backend
    )  # a step that no test compiled before
    assert 0 < compilations() - count <= 3 if backend == "scan" else compilations() == count
    number = length or pytree.tree_leaves(xs)[0].shape[0]
    assert_trees_close(result, reference(step, carry, xs, number), rtol=1e-6, atol=1e-6)
    assert_untouched(before, carry, xs)


LITTLE = {
    "y None": (lambda c, x: (c + x, None), torch.zeros(3), torch.ones(4, 3), None),
    "y with None inside": (lambda c, x: (c + x, {"a": None, "b": c}), torch.zeros(3), torch.ones(4, 3), None),
    "one leaf and no y": (lambda c, x: (c + x, {}), torch.zeros(3), torch.ones(4, 3), None),
    "nothing moves": (lambda c, x: (c, c + x), torch.zeros(3), torch.ones(4, 3), None),
    "empty carry": (lambda c, x: ((), x + 1), (), torch.ones(4, 3), None),
}


def without_none(step, carry, xs, length):
    """The reference of a ``y`` that may hold ``None``, which stays ``None`` as in JAX."""

    def marked(c, x):
        c, y = step(c, x)
        return c, pytree.tree_map(lambda leaf: torch.zeros(0) if leaf is None else leaf, y)

    carry, ys = reference(marked, carry, xs, length)
    return carry, pytree.tree_map(lambda leaf: None if leaf.ndim == 2 and not leaf.shape[1] else leaf, ys)


@pytest.mark.parametrize("backend", MODES)
@pytest.mark.parametrize("case", LITTLE)
def test_scan_is_the_loop_where_little_is_carried(case, backend):
    step, carry, xs, length = LITTLE[case]
    before = snapshot(carry, xs)
    result = loop.scan(step, carry, xs, length, backend=backend)
    assert_trees_close(result, without_none(step, carry, xs, 4))
    assert_untouched(before, carry, xs)


@pytest.mark.parametrize("backend", MODES)
def test_one_tensor_twice(backend):
    zeros = torch.zeros(3)
    carry, xs = (zeros, zeros), torch.ones(4, 3)

    def step(carry, x):
        return (carry[0] + x, carry[1] * 2 + 1), carry

    result = loop.scan(step, carry, xs, backend=backend)
    assert_trees_close(result, reference(step, carry, xs, 4))
    assert (zeros == 0).all()


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("backend", MODES)
def test_every_length(length, backend):
    carry, xs = everything_arguments(length)
    final, ys = loop.scan(everything, carry, xs, backend=backend)
    if length:
        assert_trees_close((final, ys), reference(everything, carry, xs, length), rtol=1e-6, atol=1e-6)
    else:
        assert_trees_close(final, carry, rtol=0, atol=0)
        example = reference(everything, carry, everything_arguments(1)[1], 1)[1]
        expected = pytree.tree_map(lambda leaf: leaf.new_zeros((0, *leaf.shape[1:])), example)
        assert_trees_close(ys, expected)


@given(pieces=st.lists(st.integers(0, 6), min_size=1, max_size=4))
def test_pieces_are_the_whole(pieces):
    carry, xs = everything_arguments(sum(pieces))
    whole = loop.scan(everything, carry, xs, compile=False)
    parts, start = [], 0
    for piece in pieces:
        x = pytree.tree_map(lambda leaf: leaf[start : start + piece], xs)  # noqa: B023
        carry, y = loop.scan(everything, carry, x, compile=False)
        parts.append(y)
        start += piece
    joined = pytree.tree_map(lambda *leaves: torch.cat(leaves), *parts)
    assert_trees_close((carry, joined), whole, rtol=0, atol=0)


def doubles(carry, x):
    return {"a": carry["a"] * 2, "b": None}, {"before": carry["a"], "none": None, "number": 2.5}


def adds(carry, x):
    return {"a": carry["a"] + x["a"], "b": None}, carry["a"]


MEMBERS_CASES = {
    "nothing to read": (doubles, (0, 0), None),
    "an empty tree to read": (doubles, 0, {"a": None}),
    "nothing to read, shared": (doubles, (0, None), ()),
    "None beside a tensor": (adds, (0, 0), {"a": torch.arange(12.0).reshape(3, 4), "b": None}),
    "shared beside None": (adds, (0, None), {"a": torch.arange(3.0), "b": None}),
}


@pytest.mark.parametrize("backend", MODES)
@pytest.mark.parametrize("case", MEMBERS_CASES)
def test_every_backend_takes_the_same_of_a_vmapped_step(case, backend):
    function, in_dims, xs = MEMBERS_CASES[case]
    step = torch.vmap(lambda c, x: function(c, x), in_dims=in_dims)
    carry = {"a": torch.ones(4), "b": None}
    new, ys = loop.scan(step, carry, xs, 3, backend=backend)
    assert new["b"] is None
    if function is doubles:
        assert new["a"].tolist() == [8.0] * 4
        assert (ys["before"].shape, ys["none"]) == ((3, 4), None)
        assert ys["number"].tolist() == [[2.5] * 4] * 3
    else:
        added = xs["a"].reshape(3, -1).expand(3, 4)
        assert new["a"].equal(1 + added.sum(0))
        assert ys[1].equal(1 + added[0])
    if not pytree.tree_leaves(xs, is_leaf=lambda x: x is None) or xs is None:
        assert loop.scan(step, carry, xs, 0, backend=backend)[1]["before"].shape == (0, 4)
    assert loop.explain(step, carry, xs).backend == "lanes"


@pytest.mark.parametrize("backend", [None, "eager", "scan", "lanes"])
@pytest.mark.parametrize(
    ("carry", "xs", "message"),
    [
        (torch.zeros(0, 3), torch.ones(4, 0, 3), r"carry has shape \(0, 3\), a population of 0 members; expected 1 or"),
        ({"a": torch.ones(2), "b": torch.zeros(0)}, None, r"carry\['b'\] has shape \(0,\), a population of 0 members"),
        (torch.ones(2), torch.ones(4, 0), r"xs has shape \(4, 0\), a population of 0 members; expected 1 or more on"),
    ],
)
def test_an_empty_population_is_named_by_every_backend(carry, xs, message, backend):
    step = torch.vmap(lambda c, x: (c, c))
    with pytest.raises(ValueError, match=message):
        loop.scan(step, carry, xs, 4, backend=backend)
    with pytest.raises(ValueError, match=message):
        loop.explain(step, carry, xs)


def test_explain_of_no_steps():
    step = torch.vmap(lambda c, x: (c + x, c))
    assert str(loop.explain(step, torch.ones(3), torch.ones(0, 3))) == "eager: there are no steps"
    assert loop.explain(step, torch.ones(3), torch.ones(1, 3)).backend == "lanes"


@pytest.mark.parametrize("fault", ["hangs", "fails"])
def test_a_compiler_that_does_not_work_is_named_before_the_first_step(fault, tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n" + ("sleep 1000\n" if fault == "hangs" else "echo no licence >&2; exit 7\n"))
    compiler.chmod(0o700)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: str(compiler))
    monkeypatch.setattr(lanes.build, "ANSWER_SECONDS", 0.3)
    ran = []

    def step(carry, x):
        assert warned
        ran.append(1)
        return carry + x, ()

    with pytest.warns(RuntimeWarning) as warned:
        assert loop.scan(step, torch.tensor(0.0), torch.ones(3), backend="scan")[0] == 3
    (warning,) = warned
    said = "has not ended after 0.3 seconds" if fault == "hangs" else "failed with status 7: no licence"
    assert said in str(warning.message)
    assert "times as long" in str(warning.message)
    assert len(ran) == 3


def test_y_does_not_share_memory_with_what_came_in():
    carry, xs = everything_arguments()
    _, ys = loop.scan(everything, carry, xs, compile=False)
    ys["input"].fill_(-1)
    ys["view of a carry"][1].fill_(-1)
    assert (xs["matrix"] >= 0).all()
    assert (carry["constant"] >= 0).all()


# --- bad input ------------------------------------------------------------------------------------------


def add(carry, x):
    return carry + x, carry


@pytest.mark.parametrize("backend", [None, "eager", "scan"])
@pytest.mark.parametrize(
    ("carry", "xs", "length", "message"),
    [
        (torch.zeros(2), None, None, "length is None"),
        (torch.zeros(2), {}, None, "length is None"),
        (torch.zeros(2), None, -1, "length is -1"),
        (torch.zeros(2), None, 2.5, r"length is 2\.5; expected a whole number"),
        (torch.zeros(2), None, "3", r"length is '3'; expected a whole number"),
        (torch.zeros(2), torch.ones(3, 2), 4, "xs has 3 steps; expected 4"),
        (torch.zeros(2), {"a": torch.ones(3, 2), "b": torch.ones(4)}, None, r"xs\['b'\] has 4 steps; expected 3"),
        (torch.zeros(2), torch.tensor(1.0), None, "leading axis"),
        (torch.zeros(2), [1.0, 2.0], None, r"xs\[0\] is 1.0"),
        (1.0, torch.ones(3), None, "carry is 1.0; expected a tensor"),
        ({"a": torch.zeros(2), "b": 1.0}, torch.ones(3), None, r"carry\['b'\] is 1.0"),
    ],
)
def test_bad_arguments(carry, xs, length, message, backend):
    with pytest.raises(ValueError, match=message):
        loop.scan(add, carry, xs, length, backend=backend)


@pytest.mark.parametrize("backend", [None, "eager", "scan", "lanes"])
def test_a_step_that_is_no_function(backend):
    with pytest.raises(ValueError, match="step is None; expected a function"):
        loop.scan(None, torch.zeros(2), None, 3, backend=backend)
    with pytest.raises(ValueError, match="step is 3; expected a function"):
        loop.explain(3, torch.zeros(2))


@pytest.mark.parametrize("backend", [None, "eager", "scan"])
@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda c, x: ((c["a"],), x), "another structure"),
        (lambda c, x: ({"a": c["a"], "b": x}, x), "another structure"),
        (lambda c, x: ({"a": torch.ones(3)}, x), r"carry\['a'\] as \(3,\) torch.float32; expected \(2,\)"),
        (lambda c, x: ({"a": c["a"].double()}, x), r"carry\['a'\] as \(2,\) torch.float64"),
        (lambda c, x: ({"a": c["a"] + x}, x), r"carry\['a'\] as \(2, 2\)"),
        (lambda c, x: ({"a": 1.0}, x), r"carry\['a'\] as 1.0"),
    ],
)
def test_a_carry_that_changes(step, message, backend):
    with pytest.raises(ValueError, match=message):
        loop.scan(step, {"a": torch.zeros(2)}, torch.ones(3, 2, 1), backend=backend)


# --- the compiled program -------------------------------------------------------------------------------


def until_positive(carry, x):
    if carry.item() > 0:
        return carry - x, carry
    return carry + x, carry


HANGS = """
import warnings

import torch

from fcbp import loop


def step(carry, x):
    return carry * 0.3 + x.cos(), carry.sum()


torch._inductor.config.cpp.cxx = (COMPILER,)
given = (torch.ones(5), torch.ones(3, 5))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    carry, ys = loop.scan(step, *given, backend="scan")
expected = loop.scan(step, *given, backend="eager")
assert torch.equal(carry, expected[0])
assert torch.equal(ys, expected[1])
print(*(warning.message for warning in caught))
"""


@pytest.mark.compiled
def test_a_compiler_that_hangs_on_torchs_program_is_stopped(tmp_path):
    """It answers when it is asked for a trifle, and never ends on a shared library.

    In a process of its own, for torch remembers its compilers.
    """
    code = HANGS.replace("COMPILER", repr(hanging(tmp_path, "*-shared*")))
    settings = {"FCBP_COMPILE_SECONDS": "0.5", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert re.search(r"runs eagerly, because compiling failed: .*has not ended after 0\.5 sec", process.stdout)


@pytest.mark.compiled
def test_a_step_that_cannot_be_compiled_runs_eagerly_with_one_warning():
    xs = torch.arange(6.0)
    with pytest.warns(RuntimeWarning, match=r"runs eagerly, because compiling failed: .*data-dependent") as record:
        result = loop.scan(until_positive, torch.tensor(0.0), xs)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert_trees_close(result, reference(until_positive, torch.tensor(0.0), xs, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_trees_close(loop.scan(until_positive, torch.tensor(0.0), xs), result)


@pytest.mark.compiled
def test_what_the_step_raises_is_raised():
    def broken(carry, x):
        raise KeyError("mine")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(KeyError, match="mine"):
            loop.scan(broken, torch.tensor(0.0), torch.ones(3))


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_is_no_reason_to_run_eagerly(error, monkeypatch):
    def short(*_):
        raise error

    monkeypatch.setattr(loop.scanning, "build", lambda *_: short)
    with pytest.raises(type(error)):
        loop.scan(lambda carry, x: (carry + x, ()), torch.tensor(0.0), torch.ones(3), backend="scan")


@pytest.mark.compiled
def test_the_number_of_programs_in_a_process_is_not_limited():
    def make(constant):
        return lambda carry, x: (carry + constant * x, carry)

    steps = [make(2.0), make(3.0)]
    with torch._dynamo.config.patch(recompile_limit=1):
        for step, factor in zip(steps, (2.0, 3.0), strict=True):
            total, _ = loop.scan(step, torch.tensor(0.0), torch.ones(3), backend="scan")
            assert total == 3 * factor


@pytest.mark.compiled
def test_shapes_and_lengths():
    def step(carry, x):
        return carry * 0.5 + x, carry.sum()

    def run(width, length, dtype=torch.float32):
        before = compilations()
        carry, xs = torch.ones(width, dtype=dtype), torch.arange(length * width).reshape(length, width).to(dtype)
        assert_trees_close(loop.scan(step, carry, xs, backend="scan"), reference(step, carry, xs, length))
        return compilations() - before

    assert run(4, 10) == 1
    assert run(4, 10) == 0
    # Every length is the same program: also 1, also one that equals another size.
    assert [run(4, length) for length in (3, 4, 1, 2, 1000, 11)] == [0] * 6
    assert run(5, 10) == 1
    assert run(4, 10, torch.float64) == 1
    assert [run(5, 3), run(4, 7), run(4, 7, torch.float64)] == [0, 0, 0]


# --- a learner ------------------------------------------------------------------------------------------

MEMBERS = 5
UNITS = (
    UnitGroup(
        name="0",
        size=7,
        incoming=(Slice(("0.weight",), 0),),
        bias=(Slice(("0.bias",), 0),),
        outgoing=(Slice(("2.weight",), 1),),
        outgoing_bias=(("2.bias",),),
        activation="2",
    ),
)


def population():
    """A vmapped step of members with different seeds, rates and step sizes, and its first carry."""
    learner = make_learner(
        torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 2)),
        UNITS,
        optimizer=fcbp.optim.adam(),
        method=fcbp.methods.cbp("adaptable_contribution", transfer_bias=True),
    )
    keys = fcbp.random.key(torch.arange(MEMBERS))
    hyper = LearnerHyperparams(
        step_size=torch.linspace(0.001, 0.01, MEMBERS),
        method=fcbp.Hyperparams(
            replacement_rate=torch.tensor([0.0, 1e-3, 1e-2, 0.1, 1.0], dtype=torch.float64),
            maturity_threshold=torch.tensor([10.0, 10.0, 20.0, 5.0, 30.0]),
            decay_rate=torch.full((MEMBERS,), 0.9),
        ),
    )

    def member_step(carry, batch):
        state, hyper = carry
        state, info = learner.step(state, batch, hyper)
        return (state, hyper), info

    return torch.vmap(member_step, in_dims=(0, None)), (torch.vmap(learner.init)(keys), hyper)


def batches(steps, seed=7):
    inputs = fcbp.random.normal(fcbp.random.key(seed), (steps, 4, 6))
    return inputs, torch.stack([inputs[..., :3].prod(-1), inputs.sum(-1).sin()], -1)


@pytest.mark.compiled
def test_a_vmapped_learner_compiled_is_the_eager_one():
    step, carry = population()
    xs = batches(250)
    before = snapshot(carry, xs)
    (eager, hyper), eager_info = loop.scan(step, carry, xs, compile=False)
    count = compilations()
    (compiled, compiled_hyper), info = loop.scan(step, carry, xs, backend="scan")
    # One for nobody that is due, one for at most 1 unit of a group, and one for 5 to 16, of which the group has 7.
    assert compilations() - count == 3
    assert_untouched(before, carry, xs)
    assert_trees_close(compiled_hyper, hyper, rtol=0, atol=0)
    assert torch.equal(info["replaced"]["0"], eager_info["replaced"]["0"])
    assert (info["replaced"]["0"].sum((0, 2)) > torch.tensor([-1, 0, 10, 50, 30])).all()
    assert_trees_close(info["loss"], eager_info["loss"], rtol=1e-4, atol=1e-5)
    assert_trees_close(compiled.params, eager.params, rtol=1e-4, atol=1e-5)
    assert_trees_close(compiled.opt_state, eager.opt_state, rtol=1e-3, atol=1e-5)
    assert_trees_close(compiled.method, eager.method, rtol=1e-4, atol=1e-5)
    assert torch.equal(compiled.method.key, eager.method.key)

    # In pieces, by the same program, to the same bits.
    count = compilations()
    pieces, losses = carry, []
    for start, end in ((0, 100), (100, 102), (102, 250)):
        pieces, piece_info = loop.scan(step, pieces, (xs[0][start:end], xs[1][start:end]), backend="scan")
        losses.append(piece_info["loss"])
    assert compilations() == count
    assert_trees_close(torch.cat(losses), info["loss"], rtol=0, atol=0)
    assert_trees_close(pieces[0], compiled, rtol=0, atol=0)


@pytest.mark.compiled
@pytest.mark.parametrize("case", ["ffn_sgd_contribution", "deep_adaptable_contribution_multi"])
@pytest.mark.parametrize("backend", ["scan", "lanes"])
def test_the_compiled_learner_follows_the_original(case, backend):
    golden = Golden(case)
    config = golden.config
    units = hidden_groups(golden)
    learner = make_learner(
        network(golden),
        units,
        loss=LOSSES[config["loss"]],
        optimizer=fcbp.optim.sgd(momentum=config["momentum"]),
        method=fcbp.methods.cbp(
            config["util_type"],
            initializer=linspace_initializer(fcbp.initializers.gain(config["hidden_activation"])),
        ),
        draw=lambda key: copy.copy(golden.under("init/")),
    )
    hyper = LearnerHyperparams(
        config["step_size"],
        fcbp.Hyperparams(config["replacement_rate"], config["maturity_threshold"], config["decay_rate"]),
    )
    targets = golden.tensor("targets")
    if config["loss"] == "nll":
        targets = targets.long()

    def step(state, batch):
        return learner.step(state, batch, hyper)

    count = compilations()
    state, info = loop.scan(
        step, learner.init(fcbp.random.key(0)), (golden.tensor("inputs").float(), targets), backend=backend
    )
    assert 0 < compilations() - count <= 3 if backend == "scan" else compilations() == count
    events = [(t + 1, g, unit) for g, u in enumerate(units) for t, unit in info["replaced"][u.name].nonzero().tolist()]
    assert sorted(events) == golden.events()
    assert len(events) > 5
    torch.testing.assert_close(info["loss"], golden.tensor("loss"), **TOLERANCE)
    for name, expected in golden.under(f"snap/{config['n_steps']}/param/").items():
        torch.testing.assert_close(state.params[name], expected, **TOLERANCE)
