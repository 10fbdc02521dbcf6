"""Members as lanes: every operation of the table against eager, the program's promises, and its building."""

import ctypes
import dataclasses
import os
import platform
import re
import shutil
import subprocess
import sys
import types
import warnings

import optree
import pytest
import torch
from classifiers import classifiers
from compilers import hanging
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from lanes_table import GROUPS
from lanes_values import assert_true, truth, values

import fcbp
from fcbp import lanes, loop
from fcbp.lanes import build, sums
from fcbp.lanes.emit import emit
from fcbp.lanes.indices import at, bounds, code, divided, plus, substitute, times, variable
from fcbp.loop import choice

pytestmark = pytest.mark.compiled


@pytest.fixture(autouse=True)
def _quick_to_compile(monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")


# --- operations -----------------------------------------------------------------------------------------


def draft_of_kernel(step, carry, xs):
    leaves, spec = optree.tree_flatten(carry)
    draft = lanes.draft(step, leaves, spec, xs, lambda *_: None)
    source, plan = emit(draft.traced.lowered, "threads")
    return dataclasses.replace(draft, source=source, plan=plan, elements="threads")


def in_lanes(step, example):
    return lambda carry: loop.scan(step, carry, (), 2, backend="lanes")[1]


def in_threads(step, example):
    """By the program of a GPU, as C++."""
    program = dataclasses.replace(draft_of_kernel(step, example, ()), elements="vectors").compile()
    return lambda carry: program(optree.tree_leaves(carry), (), 2)[1]


@pytest.mark.parametrize("run", [in_lanes, in_threads])
@pytest.mark.parametrize("group", GROUPS)
# Each example is a program to compile: few of them, each for many numbers, and none to shrink one that fails.
@settings(max_examples=2, deadline=None, phases=[Phase.generate])
@given(
    shape=st.tuples(st.integers(2, 4), st.integers(2, 9), st.integers(1, 7)),
    members=st.integers(1, 19),
    seeds=st.lists(st.integers(0, 10_000), min_size=4, max_size=4),
)
def test_operations_are_eagers(run, group, shape, members, seeds):
    operations = GROUPS[group]

    def step(carry, x):
        member = types.SimpleNamespace(**carry)
        results = {name: optree.tree_leaves(f(member)) for name, f in operations.items()}
        return carry, {name: [torch.as_tensor(leaf) for leaf in leaves] for name, leaves in results.items()}

    given = [values(members, *shape, seed) for seed in seeds]
    program = run(torch.vmap(step), given[0])
    for numbers in given:
        results = program(numbers)
        for name, operation in operations.items():
            for result, *known in zip(results[name], *truth(operation, numbers), strict=True):
                assert torch.equal(result[0].nan_to_num(7), result[1].nan_to_num(7))
                assert_true(name, result[0], *known)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    factors=st.lists(st.integers(-7, 30), min_size=4, max_size=4),
    n=st.integers(1, 13),
)
def test_indices_are_what_python_computes(sizes, factors, n):
    index = plus(at(abs(factors[0]) * 100), *(times(variable(a, sizes), factors[a]) for a in range(len(sizes))))
    quotient, rest = divided(index, n, sizes)
    twice = substitute(quotient, [variable(a, sizes) for a in range(len(sizes))], sizes)
    for position in torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes)).tolist():
        names = {f"i{a}": i for a, i in enumerate(position)}

        def value(index, names=names):
            return eval(code(index).replace("/", "//"), names)

        assert value(quotient) == value(twice) == value(index) // n
        assert value(rest) == value(index) % n
        assert bounds(index, sizes)[0] <= value(index) <= bounds(index, sizes)[1]


# --- members --------------------------------------------------------------------------------------------


def walk(carry, x):
    """A step with every kind of number in it, replacing, drawing and sorting."""
    state, weight, age, key = carry
    key, draw = fcbp.random.split(key).unbind()
    noise = fcbp.random.normal(draw, weight.shape)
    state = 0.9 * state + (weight @ x).tanh()
    old = age > 3
    order = state.argsort(stable=True)
    weight = torch.where(old[:, None], noise, weight * 0.99)
    age = torch.where(old, 0, age + (order.to(torch.int32) > 1).to(torch.int32))
    return (state, weight, age, key), (state.sum(), old)


def walkers(members):
    keys = fcbp.random.key(torch.arange(members))
    draw = torch.vmap(lambda key: fcbp.random.normal(key, (5, 3)))(keys)
    return draw[:, :, 0], draw, torch.zeros(members, 5, dtype=torch.int32), keys


STEPS = 12
EXAMPLES = torch.linspace(-1, 1, STEPS * 23 * 3).sin().reshape(STEPS, 23, 3)


def run(members, xs=EXAMPLES, carry=None):
    carry = walkers(23) if carry is None else carry
    carry = optree.tree_map(lambda leaf: leaf[members], carry)
    return loop.scan(torch.vmap(walk), carry, xs[:, members], backend="lanes")


def assert_same(actual, expected):
    for a, b in zip(optree.tree_leaves(actual), optree.tree_leaves(expected), strict=True):
        assert torch.equal(a, b)


def test_a_member_is_the_same_whoever_is_beside_it():
    everyone = list(range(23))
    carry, ys = run(everyone)
    eager, eager_ys = loop.scan(torch.vmap(walk), walkers(23), EXAMPLES, backend="eager")
    for a, b in zip(optree.tree_leaves((carry, ys)), optree.tree_leaves((eager, eager_ys)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    for members in ([4], everyone[::-1], [22, 0, 7, 7], everyone[5:21]):
        part, part_ys = run(members)
        assert_same(part, optree.tree_map(lambda leaf: leaf[members], carry))  # noqa: B023
        assert_same(part_ys, optree.tree_map(lambda leaf: leaf[:, members], ys))  # noqa: B023


def test_pieces_of_any_length_and_threads_are_the_whole(monkeypatch):
    everyone = list(range(23))
    whole, ys = run(everyone)
    carry, parts = walkers(23), []
    for start, end in ((0, 1), (1, 7), (7, STEPS)):
        carry, y = run(everyone, EXAMPLES[start:end], carry)
        parts.append(y)
    assert_same(carry, whole)
    assert_same(optree.tree_map(lambda *leaves: torch.cat(leaves), *parts), ys)
    monkeypatch.setattr(build, "THREADED_FROM", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_same(run(everyone), (whole, ys))
    finally:
        torch.set_num_threads(threads)


def test_nothing_that_came_in_is_written_to_and_any_layout_is_read():
    carry = walkers(23)
    before = optree.tree_map(torch.clone, carry)
    expected = loop.scan(torch.vmap(walk), carry, EXAMPLES, backend="lanes")
    assert_same(carry, before)
    strided = EXAMPLES.movedim(0, -1).contiguous().movedim(-1, 0)
    assert not strided.is_contiguous()
    state = tuple(leaf.movedim(0, -1).contiguous().movedim(-1, 0) for leaf in carry)
    assert_same(loop.scan(torch.vmap(walk), state, strided, backend="lanes"), expected)
    leading = EXAMPLES.transpose(0, 1).contiguous().transpose(0, 1)
    assert_same(loop.scan(torch.vmap(walk), carry, leading, backend="lanes"), expected)


def test_a_shared_example_and_a_single_member():
    shared = EXAMPLES[:, 3]
    both = loop.scan(torch.vmap(walk, in_dims=(0, None)), walkers(9), shared, backend="lanes")
    single = loop.scan(walk, optree.tree_map(lambda leaf: leaf[3], walkers(9)), shared, backend="lanes")
    assert_same(optree.tree_map(lambda leaf: leaf[3], both[0]), single[0])
    assert_same(optree.tree_map(lambda leaf: leaf[:, 3], both[1]), single[1])


# --- errors that only the numbers decide on ------------------------------------------------------------------

CHECKED = {
    "index": (lambda v, i: v[0, i], [5, -6, 2**32 + 1]),
    "index, of numbers alone": (lambda v, i: torch.zeros(5)[i], [5]),
    "index, both": (lambda v, i: v[i % 3, i], [5]),
    "gather": (lambda v, i: v[0].gather(0, i), [5, -1]),
    "index_select": (lambda v, i: v.index_select(1, i), [5, -1]),
    "gather, in cross_entropy": (lambda v, i: torch.nn.functional.cross_entropy(v[:1].expand(4, -1), i), [5, -1]),
    "index_put": (lambda v, i: v[0].index_put((i,), v[0, 0]), [5, -6]),
    "scatter_add": (lambda v, i: v[0].scatter_add(0, i, v[1, :4]), [5, -1]),
    "floor_divide": (lambda v, i: 7 // i, [0]),
    "remainder": (lambda v, i: 7 % i, [0]),
    "fmod": (lambda v, i: torch.fmod(i.int(), i.int()), [0]),
}


@pytest.mark.parametrize("name", CHECKED)
def test_what_eager_does_not_compute_is_an_error_that_names_its_line(name):
    function, wrong = CHECKED[name]
    step = torch.vmap(lambda v, i: (v, function(v, i)))
    carry = torch.linspace(-1, 1, 9 * 15).reshape(9, 3, 5)
    index = torch.full((3, 9, 4), 2)
    torch.testing.assert_close(*(loop.scan(step, carry, index, backend=backend)[1] for backend in ("lanes", "eager")))
    error = IndexError if wrong != [0] else ZeroDivisionError
    for number in wrong:
        index[1, 8, 2] = number
        with pytest.raises((IndexError, RuntimeError)):
            loop.scan(step, carry, index, backend="eager")
        # A new step has its first numbers wrong while it is traced.
        first = torch.vmap(lambda v, i: (v, function(v, i)))
        with pytest.raises(error, match=r" at .*test_lanes.py:\d+: "):
            loop.scan(first, carry[8:], index[1:, 8:], backend="lanes")
        with pytest.raises(error, match=rf"{name.split(',')[0]}.* at .*test_lanes.py:\d+: .*lambda v, i: "):
            loop.scan(step, carry, index, backend="lanes")


@pytest.mark.parametrize(
    ("index", "sure"),
    [
        (lambda v: v.argmax(), True),
        (lambda v: v.argsort()[-2:], True),
        (lambda v: v.topk(2).indices, True),
        (lambda v: v.long().clamp(0, 4), True),
        (lambda v: (v > 0).long() + (v < 2).int() * 3, True),
        (lambda v: v.long() % 5, True),
        (lambda v: torch.where(v > 0, 4 - torch.arange(5), 2), True),
        (lambda v: v.argmax() + 1, False),
        (lambda v: v.long().clamp(0, 5), False),
        (lambda v: v.long() % 6, False),
        (lambda v: (v > 2).long() - (v > 3).long(), False),
        (lambda v: (v > 2).int() * -(2**31) - 1 + 1, False),
        (lambda v: torch.arange(5).gather(0, v.long().clamp(min=0)) * 2, False),
    ],
)
def test_an_index_that_is_sure_to_lie_inside_is_not_looked_at(index, sure):
    def step(carry, x):
        return carry, carry.gather(0, index(carry).reshape(-1).long())

    leaves, spec = optree.tree_flatten(torch.linspace(1.5, 0.5, 5))
    draft = lanes.draft(step, leaves, spec, torch.zeros(1), lambda *_: None)
    assert ("wrong" not in draft.source) == sure


# --- choosing -------------------------------------------------------------------------------------------


def test_programs_are_kept_by_the_members_step(monkeypatch):
    traced = []
    original = lanes.draft
    monkeypatch.setattr(lanes, "draft", lambda *args: traced.append(1) or original(*args))

    def step(carry, x):
        return carry + x, carry

    for members, length in ((3, 4), (11, 2), (1, 1)):
        loop.scan(torch.vmap(step), torch.zeros(members, 2), torch.ones(length, members, 2), backend="lanes")
    assert len(traced) == 1
    loop.scan(torch.vmap(step), torch.zeros(3, 5), torch.ones(2, 3, 5), backend="lanes")
    assert len(traced) == 2


def test_explain(monkeypatch):
    def wide(carry, x):
        return carry @ carry, ()

    def fits(carry, x):
        return carry + x, ()

    small = loop.explain(torch.vmap(fits), torch.zeros(30, 4), torch.zeros(2, 30, 4))
    assert small.backend == "lanes"
    assert "30 members" in str(small)
    products = loop.explain(torch.vmap(wide), torch.zeros(3, 300, 300))
    assert products.backend == "scan"
    assert re.search("3 members, .* lanes idle; .* as long", products.reason)
    few = loop.explain(torch.vmap(wide), torch.zeros(1, 100, 100))
    assert (few.backend, "lanes idle" in few.reason) == ("scan", True)
    carry, xs = torch.ones(9, 200, 200), torch.ones(2, 9, 1, 1)
    # Who insists has it all the same, as long as it can be.
    monkeypatch.setattr(choice, "UNASKED", 1 << 18)
    large = loop.explain(torch.vmap(fits), carry, xs)
    assert large.backend == "scan"
    assert "KiB; expected at most 256" in large.reason
    assert torch.equal(loop.scan(torch.vmap(fits), carry, xs, backend="lanes")[0], carry + 2)
    with pytest.raises(ValueError, match="KiB; expected at most 1048576"):
        loop.scan(torch.vmap(wide), torch.zeros(2, 8000, 8000), (), 2, backend="lanes")


def unsupported(carry, x):
    carry = carry + x
    return torch.lgamma(carry), ()


def branches(carry, x):
    if carry.sum() > 0:
        carry = carry + x
    return carry, ()


def changes_shape(carry, x):
    return carry[carry > 0], ()


BAD = [
    (unsupported, "lgamma.* at .*test_lanes.py:.*torch.lgamma"),
    (branches, "test_lanes.py:.*if carry.sum.*asks for a tensor's value"),
    (changes_shape, "mask as an index.* at .*test_lanes.py:.*carry > 0"),
]


@pytest.mark.parametrize(("step", "message"), BAD)
def test_what_cannot_be_a_lane_is_named_with_its_line(step, message):
    carry, xs = torch.ones(9, 3), torch.ones(2, 9, 3)
    with pytest.raises(ValueError, match=message):
        loop.scan(torch.vmap(step), carry, xs, backend="lanes")
    choice = loop.explain(torch.vmap(step), carry, xs)
    assert choice.backend == "scan"
    assert re.search(message, choice.reason)


@pytest.mark.parametrize(
    ("step", "carry", "message"),
    [
        (torch.vmap(walk, out_dims=1), torch.zeros(2, 2), "out_dims=1"),
        (torch.vmap(torch.vmap(lambda c, x: (c, x))), torch.zeros(2, 2), "vmap of"),
        (lambda c, x: (c, x), torch.zeros(2, dtype=torch.float16), "float16"),
        (lambda c, x: (c, x), torch.zeros(2, dtype=torch.complex64), "complex64"),
    ],
)
def test_what_lanes_do_not_take(step, carry, message):
    with pytest.raises(ValueError, match=message):
        loop.scan(step, carry, torch.zeros(3, 2, 2), backend="lanes")


def test_an_unknown_backend():
    with pytest.raises(ValueError, match=r"backend.*'lane'"):
        loop.scan(walk, walkers(3), None, 2, backend="lane")


# --- building -------------------------------------------------------------------------------------------

SOURCE = 'extern "C" int run() { return NUMBER; }'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lanes"


def source(number):
    return SOURCE.replace("NUMBER", str(number))


def test_a_library_is_kept_and_found_again(cache, monkeypatch):
    assert build.build(source(3))() == 3
    assert cache.stat().st_mode & 0o777 == 0o700
    (library,) = cache.glob("*.so")
    assert library.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(build, "_compile", None)
    assert build.build(source(3))() == 3


def test_one_message_says_what_is_compiled_and_for_whom(cache, caplog):
    def learner_step(carry, x):
        return carry * 1.25 + x, ()

    carry, xs = torch.ones(5), torch.ones(3, 5)
    for _ in range(2):
        loop.scan(torch.vmap(learner_step), carry, xs)
    (record,) = caplog.records
    assert record.name == "fcbp"
    assert re.search("compiling lanes of .*learner_step for 5 members", record.getMessage())
    # Another step with the same source: it is compiled already.
    loop.scan(torch.vmap(lambda carry, x: (carry * 1.25 + x, ())), carry, xs)
    assert len(caplog.records) == 1


def test_flags_and_processor_are_part_of_the_key(cache, monkeypatch):
    build.build(source(1), "-O0")
    build.build(source(1), "-O1")
    monkeypatch.setattr(build, "_processor", lambda: "another")
    build.build(source(1), "-O0")
    assert len(list(cache.glob("*.so"))) == 3


def test_what_others_may_write_is_not_loaded(cache):
    build.build(source(5))
    (library,) = cache.glob("*.so")
    library.chmod(0o722)
    with pytest.raises(build.BuildError, match="can be written by others"):
        build.build(source(5))
    library.chmod(0o700)
    cache.chmod(0o770)
    with pytest.raises(build.BuildError, match="can be written by others"):
        build.build(source(5))


def test_a_broken_library_is_made_anew(cache, monkeypatch):
    def breaks(compiler, flags, source, library):
        library.write_bytes(b"not a library")
        library.chmod(0o700)

    with monkeypatch.context() as patch:
        patch.setattr(build, "_compile", breaks)
        with pytest.raises(build.BuildError, match="cannot load"):
            build.build(source(6))
    assert build.build(source(6))() == 6


def test_processes_that_build_at_once(cache):
    script = f"from fcbp.lanes import build; print(build.build({source(8)!r})())"
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(3)]
    assert [int(process.communicate()[0]) for process in processes] == [8, 8, 8]
    assert [path.suffix for path in cache.iterdir() if path.suffix != ""] == [".so"]


def small(carry, x):
    return carry * 0.5 + x, carry


def test_small_learners_run_in_lanes_unasked(monkeypatch):
    monkeypatch.setattr(loop.scanning, "build", None)  # of the compiled scan
    step = torch.vmap(lambda c, x: small(c, x))
    carry, xs = torch.ones(9, 3), torch.arange(108.0).reshape(4, 9, 3)
    result, expected = loop.scan(step, carry, xs), loop.scan(step, carry, xs, backend="lanes")
    for leaf, other in zip(optree.tree_leaves(result), optree.tree_leaves(expected), strict=True):
        assert torch.equal(leaf, other)
    assert loop.explain(step, carry, xs).backend == "lanes"
    # One member of much work leaves lanes empty, in which the compiled scan has its vectors.
    alone = torch.vmap(lambda c, x: (c @ c * x, ()))
    assert loop.explain(alone, torch.ones(1, 100, 100), torch.ones(2, 1)).backend == "scan"
    assert loop.explain(alone, torch.ones(8, 40, 40), torch.ones(2, 8)).backend == "lanes"


@pytest.mark.parametrize("fault", ["no compiler", "a failing compiler", "no directory"])
def test_what_cannot_be_built_is_named(fault, cache, monkeypatch):
    if fault == "no compiler":
        monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
        build._compiler.cache_clear()
        build.lanes.cache_clear()
    elif fault == "a failing compiler":
        monkeypatch.setattr(build, "FLAGS", ["--no-such-flag"])
    else:
        cache.parent.write_text("a file")
    carry, xs = torch.ones(9, 3), torch.ones(4, 9, 3)
    step = torch.vmap(lambda c, x: small(c, x))
    try:
        with pytest.raises(ValueError, match=r"no C\+\+ compiler|failed with status|no cache directory"):
            loop.scan(step, carry, xs, backend="lanes")
        assert loop.explain(step, carry, xs).backend == "scan"
        # Unasked the next backend runs, with one warning; without a compiler that is the compiled scan's own.
        monkeypatch.setattr(loop.scanning, "build", lambda *_: lambda *_: "the compiled scan")
        other = torch.vmap(lambda c, x: small(c, x))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert [loop.scan(other, carry, xs) for _ in range(2)] == ["the compiled scan"] * 2
        messages = [str(warning.message) for warning in caught]
        assert len(messages) == int(fault != "no compiler")
        assert all("compiled scan in place of lanes" in message for message in messages)
        assert all(warning.filename == __file__ for warning in caught)
    finally:
        build._compiler.cache_clear()
        build.lanes.cache_clear()


def test_a_compiler_that_hangs_is_stopped_with_all_that_it_started(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("FCBP_COMPILE_SECONDS", "0.5")
    monkeypatch.setattr(build, "_compiler", lambda: (hanging(tmp_path, "*-shared*"), "1"))
    with pytest.raises(build.BuildError, match=r"g\+\+ has not ended after 0\.5 seconds and was stopped; FCBP_COMP"):
        build.build(source(11))
    assert [path.name for path in cache.iterdir()] == ["lock"]
    monkeypatch.setenv("FCBP_COMPILE_SECONDS", "soon")
    with pytest.raises(build.BuildError, match="FCBP_COMPILE_SECONDS is 'soon'; expected a number of seconds above 0"):
        build.build(source(11))


def test_a_compiler_that_does_not_answer_is_asked_once(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "COMPILERS", (hanging(tmp_path, "*--version*"),))
    monkeypatch.setattr(build, "ANSWER_SECONDS", 0.5)
    build._compiler.cache_clear()
    build.lanes.cache_clear()
    try:
        step = torch.vmap(lambda c, x: small(c, x))
        with pytest.raises(ValueError, match=r"has not ended after 0\.5 seconds"):
            loop.scan(step, torch.ones(9, 3), torch.ones(4, 9, 3), backend="lanes")
        monkeypatch.setattr(build, "run_for", None)
        assert "has not ended" in loop.explain(step, torch.ones(9, 3), torch.ones(4, 9, 3)).reason
    finally:
        build._compiler.cache_clear()
        build.lanes.cache_clear()


def test_a_process_that_compiles_for_ever_is_not_waited_for_for_ever(cache, monkeypatch):
    import fcntl

    build.build(source(12))
    monkeypatch.setenv("FCBP_COMPILE_SECONDS", "0.2")
    with (cache / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(build.BuildError, match=r"another process has compiled for 0\.2 seconds"):
            build.build(source(13))
    assert build.build(source(12))() == 12


@pytest.fixture
def machine(monkeypatch, cache):
    """Compile for another x86 machine."""
    if platform.machine() != "x86_64":
        pytest.skip("of x86 processors")

    def choose(name):
        monkeypatch.setattr(build, "MACHINE", f"-march={name}")
        build.lanes.cache_clear()

    yield choose
    build.lanes.cache_clear()


def test_a_machine_without_avx(machine):
    machine("x86-64")
    assert lanes.width("vectors") == 4
    step = torch.vmap(lambda carry, x: walk(carry, x))
    result, ys = loop.scan(step, walkers(23), EXAMPLES, backend="lanes")
    expected, expected_ys = loop.scan(step, walkers(23), EXAMPLES, backend="eager")
    for leaf, other in zip(optree.tree_leaves((result, ys)), optree.tree_leaves((expected, expected_ys)), strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group", ["pointwise", "places", "reductions"])
def test_programs_pass_the_compiler_for_avx512(group, machine):
    machine("skylake-avx512")
    assert lanes.width("vectors") == 16
    operations = GROUPS[group]
    step = torch.vmap(lambda c, _: (c, [f(types.SimpleNamespace(**c)) for f in operations.values()]))
    leaves, spec = optree.tree_flatten(values(2, 2, 3, 2, 0))
    lanes.draft(step, leaves, spec, (), lambda *_: None).compile()


# --- a GPU's kernel, without a GPU ------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch):
    """Kernels that torch compiles are C++; every launch's grid and block are noted."""
    launches = []

    def compile(source, name, nvcc_options):
        assert (name, nvcc_options) == ("run", ["--fmad=false"])
        function = build.build(source, "-O0")

        def kernel(grid, block, args):
            assert all(argument.dtype == torch.int64 for argument in args)
            launches.append((grid, block))
            function(*(ctypes.c_void_p(argument.data_ptr()) for argument in args))

        return kernel

    monkeypatch.setattr(torch.cuda, "_compile_kernel", compile, raising=False)
    return launches


def test_a_kernel_is_launched_for_all_members(kernels):
    step, carry = torch.vmap(walk), walkers(70)
    xs = torch.randn(5, 70, *EXAMPLES.shape[2:])
    program = draft_of_kernel(step, carry, xs).compile()
    result, expected = program(optree.tree_leaves(carry), xs, 5), loop.scan(step, carry, xs, backend="lanes")
    assert kernels == [((3, 1, 1), (32, 1, 1))]
    for leaf, other in zip(optree.tree_leaves(result), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-5, atol=1e-6)


def test_a_kernel_tells_what_it_found(kernels):
    step = torch.vmap(lambda carry, x: (carry, carry.gather(0, x.reshape(1))))
    carry, xs = torch.ones(3, 4), torch.tensor([[0, 1, 3], [2, 9, 0]])
    program = draft_of_kernel(step, carry, xs[:1]).compile()
    assert program([carry], xs[:1], 1)[1].tolist() == [[[1.0], [1.0], [1.0]]]
    with pytest.raises(IndexError, match="out of range"):
        program([carry], xs, 2)


def test_kernels_that_cannot_be_compiled(monkeypatch):
    draft = draft_of_kernel(torch.vmap(small), torch.ones(3, 4), torch.ones(2, 3, 4))
    monkeypatch.setattr(torch.cuda, "_compile_kernel", None, raising=False)
    with pytest.raises(build.BuildError, match="cannot compile CUDA kernels"):
        draft.compile()

    def fails(*_, **__):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(torch.cuda, "_compile_kernel", fails)
    with pytest.raises(build.BuildError, match="no kernel image"):
        draft.compile()


@pytest.mark.parametrize("group", ["pointwise", "shapes", "reductions", "places", None])
def test_kernels_pass_the_cuda_compiler(group, tmp_path):
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not installed")
    if group is None:
        draft = draft_of_kernel(torch.vmap(walk), walkers(2), EXAMPLES[:, :2])
    else:
        operations = GROUPS[group]
        step = torch.vmap(lambda c, _: (c, [f(types.SimpleNamespace(**c)) for f in operations.values()]))
        draft = draft_of_kernel(step, values(2, 2, 3, 2, 0), ())
    (tmp_path / "kernel.cu").write_text(draft.source)
    options = ["-arch=sm_80", "--fmad=false", "-Xptxas=-O0", "-cubin", "-o", str(tmp_path / "kernel.cubin")]
    subprocess.run([compiler, "-w", *options, str(tmp_path / "kernel.cu")], check=True, capture_output=True)
    assert (tmp_path / "kernel.cubin").stat().st_size


def test_names_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("FCBP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build._folder() == tmp_path / "fcbp" / "lanes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build._folder() == tmp_path / ".cache" / "fcbp" / "lanes"
    assert os.stat(build._folder()).st_mode & 0o077 == 0


def test_the_caches_folders_are_ones_own_whatever_the_umask(tmp_path, monkeypatch):
    monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        build._folder()
    finally:
        os.umask(before)
    assert [os.stat(tmp_path / name).st_mode & 0o777 for name in ("a", "a/b", "a/b/lanes")] == [0o700] * 3


def test_what_a_killed_compiler_left_is_removed_with_the_next_program(tmp_path, monkeypatch):
    monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path / "cache"))
    folder = build._folder()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("")
    for name in (build.BUILD_FOLDER, "tmpabcd1234"):
        (folder / name).mkdir()
        (folder / name / "lanes.cpp").write_text("")
    (folder / "tmplink").symlink_to(tmp_path / "theirs")
    build.build('extern "C" void run() {}')
    assert sorted(path.suffix or path.name for path in folder.iterdir()) == [".so", "lock", "tmplink"]
    assert (tmp_path / "theirs" / "file").exists()


DATA = {
    "pixels": lambda: torch.randint(256, (7, 2, 3, 4), dtype=torch.uint8),
    "sound": lambda: torch.randint(-(1 << 15), 1 << 15, (7, 24), dtype=torch.int16),
    "signs": lambda: torch.randint(-1, 2, (7, 24), dtype=torch.int8),
    "masks": lambda: torch.randint(2, (7, 24)).bool(),
    "numbers": lambda: torch.randn(7, 24),
    "every other one": lambda: torch.randn(14, 24)[::2],
}


@pytest.mark.parametrize("kind", DATA)
def test_data_that_a_step_closes_over_lie_once_in_memory(kind):
    data, targets = DATA[kind](), torch.arange(7, dtype=torch.uint8)

    def step(carry, _):
        total, i, order = carry
        example = data.reshape(-1)[i * 24 + order].float() + data[i].float().flatten() + data.float()[i].mean()
        return (total + example, (i + targets[i] + 1) % 7, order.flip(0)), targets[i]

    orders = torch.stack([torch.randperm(24) for _ in range(19)])
    carry = torch.zeros(19, 24), torch.arange(19) % 7, orders
    leaves, spec = optree.tree_flatten(carry)
    drafted = lanes.draft(torch.vmap(step), leaves, spec, (), lambda *_: None)
    assert f"[{data.numel()}]" not in drafted.source  # no array of as many
    assert drafted.block_bytes < 2000 * drafted.width  # 24 numbers each, a few times
    torch.testing.assert_close(loop.scan(torch.vmap(step), carry, None, 6, backend="lanes"), alone(step, carry, 6))


def alone(step, carry, steps):
    """Eager, one member after the other: an older torch cannot vmap an index without axes."""
    members = [
        loop.scan(step, optree.tree_map(lambda leaf, m=m: leaf[m], carry), None, steps, backend="eager")
        for m in range(len(optree.tree_leaves(carry)[0]))
    ]
    new, ys = zip(*members, strict=True)
    stacked = optree.tree_map(lambda *leaves: torch.stack(leaves), *new)
    return stacked, optree.tree_map(lambda *leaves: torch.stack(leaves, 1), *ys)


@pytest.mark.compiled
def test_one_of_many_examples_is_taken_by_a_number_in_the_carry(monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    table = torch.arange(12.0).reshape(4, 3)

    def step(carry, _):
        total, i = carry
        return (total + table[i % 4] + table[-1 - i % 4], i + 1), ()

    carry = torch.zeros(5, 3), torch.arange(5)
    found = loop.scan(torch.vmap(step), carry, None, 6, backend="lanes")[0]
    assert all(map(torch.equal, found, alone(step, carry, 6)[0]))


@pytest.mark.parametrize("shape", [(7, 5, 9), (13, 26, 4), (3, 2, 31)])
def test_no_number_depends_on_the_machines_registers(shape):
    rows, inner, columns = shape

    def step(carry, x):
        w, total = carry
        loss = lambda w: torch.tanh(x @ w).square().sum()  # noqa: E731
        grad, value = torch.func.grad_and_value(loss)(w)
        return (w - 0.1 * grad, total + value), grad.sum(0)

    carry = torch.randn(19, inner, columns), torch.zeros(19)
    xs = torch.randn(4, 19, rows, inner)
    leaves, spec = optree.tree_flatten(carry)
    drafted = lanes.draft(torch.vmap(step), leaves, spec, xs, lambda *_: None)
    results = []
    for registers in (16, 32):
        source, plan = emit(drafted.traced.lowered, "vectors", registers)
        program = dataclasses.replace(drafted, source=source, plan=plan).compile()
        results.append(optree.tree_leaves(program(leaves, xs, 4)))
    assert all(map(torch.equal, *results))


def test_no_number_depends_on_the_pieces_in_which_large_factors_are_read(monkeypatch):
    def step(w, x):
        h = torch.relu(x @ w)
        return w - 0.01 * (x.T @ h), h.sum(0)

    carry, xs = torch.randn(3, 200, 31), torch.randn(3, 3, 43, 200)
    leaves, spec = optree.tree_flatten(carry)
    results = []
    for near, own, text in ((800, 2048, True), (300, 1500, True), (1 << 30, 1 << 30, False)):
        monkeypatch.setattr(sums, "NEAR", near)
        monkeypatch.setattr(sums, "OWN", own)
        drafted = lanes.draft(torch.vmap(step), leaves, spec, xs, lambda *_: None)
        assert ["to = minimum(from" in drafted.source, "< minimum(from" in drafted.source] == [text, text]
        results.append(optree.tree_leaves(drafted.compile()(leaves, xs, 3)))
    assert all(torch.equal(*pair) for other in results[1:] for pair in zip(results[0], other, strict=True))
    found, expected = results[0], optree.tree_leaves(loop.scan(torch.vmap(step), carry, xs, backend="eager"))
    for leaf, other in zip(found, expected, strict=True):
        torch.testing.assert_close(leaf, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("members", [3, 19])
def test_blocks_of_half_as_many_members_give_the_same_bits(members):
    step, state = classifiers(members)
    xs = torch.randn(40, members, 5, 6), torch.randint(3, (40, members, 5))
    leaves, spec = optree.tree_flatten(state)
    full = lanes.draft(torch.vmap(step), leaves, spec, xs, lambda *_: None)
    if full.width < 16:
        assert full.halved is None
        pytest.skip("this processor's vectors are not of 16")
    assert full.halved.width == 8
    results = [optree.tree_leaves(each.compile()(leaves, xs, 40)) for each in (full, full.halved)]
    assert all(map(torch.equal, *results))
