"""Optimisers against ``torch.optim``, and what a reset of their state means."""

import collections
import functools
from typing import NamedTuple

import optree
import pytest
import torch

import fcbp
from fcbp import optim
from fcbp.units import Slice, UnitGroup

STEPS = 100


class Layer(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor


def parameters(dtype=torch.float32):
    """A nested pytree, with a 0-d leaf."""

    def draw(seed, *shape):
        return fcbp.random.normal(fcbp.random.key(seed), shape, dtype)

    return {"body": [Layer(draw(1, 4, 3), draw(2, 4)), {"kernel": draw(3, 4, 2)}], "scale": draw(4)}


@functools.cache
def target(seed, t, shape):
    return fcbp.random.normal(fcbp.random.fold_in(fcbp.random.key(seed), t), shape)


def gradients(params, t):
    """Gradients of a moving quadratic, of very different sizes, so that curvature and history matter."""
    leaves, structure = optree.tree_flatten(params)
    scales = [10.0**-i for i in range(len(leaves))]
    targets = [target(i, t, p.shape) for i, p in enumerate(leaves)]
    return optree.tree_unflatten(
        structure, [s * (p - y.to(p.dtype)) for s, p, y in zip(scales, leaves, targets, strict=True)]
    )


CASES = {
    "sgd": (optim.sgd(), torch.optim.SGD, {}),
    "sgd momentum": (optim.sgd(0.9), torch.optim.SGD, {"momentum": 0.9}),
    "sgd nesterov": (optim.sgd(0.8, nesterov=True), torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "sgd decay": (optim.sgd(weight_decay=0.1), torch.optim.SGD, {"weight_decay": 0.1}),
    "sgd all": (
        optim.sgd(0.9, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (optim.adam(), torch.optim.Adam, {}),
    "adam all": (
        optim.adam((0.8, 0.95), eps=1e-3, weight_decay=0.1),
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adam no memory": (optim.adam((0.0, 0.0)), torch.optim.Adam, {"betas": (0.0, 0.0)}),
    "adamw": (optim.adamw(), torch.optim.AdamW, {}),
    "adamw all": (
        optim.adamw((0.8, 0.95), eps=1e-3, weight_decay=0.2),
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    ),
}
ROUNDING = {torch.float64: 1e-13, torch.float32: 3e-6}


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_equal_those_of_torch(case, dtype):
    optimizer, reference, options = CASES[case]
    params = parameters(dtype)
    start = optree.tree_map(torch.clone, params)
    theirs = [leaf.clone().requires_grad_() for leaf in optree.tree_leaves(params)]
    stateful = reference(theirs, lr=0.01, **options)
    state = optimizer.init(params)
    for t in range(STEPS):
        for leaf, grad in zip(theirs, optree.tree_leaves(gradients(params, t)), strict=True):
            leaf.grad = grad
        params, state = optimizer.update(gradients(params, t), state, params, step_size=0.01)
        stateful.step()
    for ours, expected, first in zip(optree.tree_leaves(params), theirs, optree.tree_leaves(start), strict=True):
        torch.testing.assert_close(ours, expected.detach(), rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
        assert (ours - first).abs().max() > 1e-4  # something was optimised
    assert optree.tree_structure(params) == optree.tree_structure(start)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_stays_near_torch(dtype):
    for case in ("sgd momentum", "adam"):
        optimizer, reference, options = CASES[case]
        params = {"w": torch.ones(5, dtype=dtype)}
        theirs = params["w"].clone().requires_grad_()
        stateful = reference([theirs], lr=0.01, **options)
        state = optimizer.init(params)
        for _ in range(10):
            grad = 0.1 * params["w"]
            params, state = optimizer.update({"w": grad}, state, params, step_size=0.01)
            theirs.grad = grad
            stateful.step()
        assert params["w"].dtype == dtype
        torch.testing.assert_close(params["w"], theirs.detach(), rtol=2e-2, atol=0)


STATEFUL = {
    "momentum": optim.sgd(0.9),
    "nesterov": optim.sgd(0.9, nesterov=True),
    "adam": optim.adam(),
    "adamw": optim.adamw(),
}
UNITS = (UnitGroup("h", 3, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),)),)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_reset_unit_is_optimised_as_if_new(name):
    optimizer = STATEFUL[name]
    params = {"w1": torch.ones(3, 4), "b1": torch.ones(3), "w2": torch.ones(2, 3), "b2": torch.ones(2)}
    step_size = 0.01

    def grads(t):
        return optree.tree_map(lambda p: fcbp.random.normal(fcbp.random.key(t), p.shape), params)

    state = optimizer.init(params)
    for t in range(20):
        params, state = optimizer.update(grads(t), state, params, step_size=step_size)
    replaced = {"h": torch.tensor([False, True, False])}
    reset = fcbp.reset_moments(state, replaced, units=UNITS)
    fresh, kept = optimizer.init(params), state
    after, before, new = params, params, params
    for t in range(20, 30):
        after, reset = optimizer.update(grads(t), reset, after, step_size=step_size)
        before, kept = optimizer.update(grads(t), kept, before, step_size=step_size)
        new, fresh = optimizer.update(grads(t), fresh, new, step_size=step_size)
    mask = {
        "w1": replaced["h"].unsqueeze(1).expand(3, 4),
        "b1": replaced["h"],
        "w2": replaced["h"].expand(2, 3),
        "b2": torch.tensor([False, False]),
    }
    for leaf, of_unit in mask.items():
        # The unit's elements as under a new optimiser, all others as if nothing had happened, to the bit.
        assert after[leaf].equal(torch.where(of_unit, new[leaf], before[leaf]))
        if of_unit.any():
            assert not new[leaf][of_unit].equal(before[leaf][of_unit])


def test_adam_counts_the_steps_of_each_element():
    adam = optim.adam()
    params = {"w1": torch.ones(3, 4), "b1": torch.ones(3), "w2": torch.ones(2, 3), "b2": torch.ones(2)}
    state = adam.init(params)
    for _ in range(5):
        params, state = adam.update(params, state, params, step_size=0.01)
    state = fcbp.reset_moments(state, {"h": torch.tensor([True, False, False])}, units=UNITS)
    params, state = adam.update(params, state, params, step_size=0.01)
    assert state.step["w1"].tolist() == [[1] * 4, [6] * 4, [6] * 4]
    assert state.step["b1"].tolist() == [1, 6, 6]
    assert state.step["w2"].tolist() == [[1, 6, 6]] * 2
    assert state.step["b2"].tolist() == [6, 6]
    assert all(count.dtype == torch.int32 for count in state.step.values())


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_every_number_may_be_vmapped(name):
    def run(number, step_size):
        optimizer = {
            "sgd": lambda: optim.sgd(weight_decay=number),
            "momentum": lambda: optim.sgd(number),
            "nesterov": lambda: optim.sgd(number, nesterov=True, weight_decay=number),
            "adam": lambda: optim.adam((number, number), eps=number, weight_decay=number),
            "adamw": lambda: optim.adamw((number, 0.9), weight_decay=number),
        }[name]()
        params = parameters()
        state = optimizer.init(params)
        for t in range(3):
            params, state = optimizer.update(gradients(params, t), state, params, step_size=step_size)
        return params, state

    for dtype in (torch.float32, torch.float64):
        numbers = torch.tensor([0.1, 0.5, 0.9], dtype=dtype)
        step_sizes = torch.tensor([0.1, 0.01, 1.0], dtype=dtype)
        together = torch.vmap(run)(numbers, step_sizes)
        dtypes = {leaf.dtype for leaf in optree.tree_leaves(together)}
        assert dtypes <= {torch.float32, torch.int32}  # a float64 number promotes nothing
        for i, (number, step_size) in enumerate(zip(numbers.tolist(), step_sizes.tolist(), strict=True)):
            alone = run(number, step_size)
            for a, b in zip(optree.tree_leaves(together), optree.tree_leaves(alone), strict=True):
                torch.testing.assert_close(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_parameters_that_require_gradients_leave_no_graph(case):
    optimizer, _, _ = CASES[case]
    model = torch.nn.Linear(3, 2)
    params = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in params.items()}
    state = optimizer.init(params)
    grads = {name: p * 2 for name, p in params.items()}  # themselves part of a graph
    new, state = optimizer.update(grads, state, params, step_size=0.1)
    for leaf in optree.tree_leaves((new, state)):
        assert not leaf.requires_grad
        assert leaf.grad_fn is None
    assert all(p.requires_grad and p.equal(before[name]) for name, p in params.items())


@pytest.mark.parametrize("case", CASES)
def test_step_size_zero_changes_nothing(case):
    optimizer, _, _ = CASES[case]
    params = parameters()
    new, _ = optimizer.update(gradients(params, 0), optimizer.init(params), params, step_size=0.0)
    for a, b in zip(optree.tree_leaves(new), optree.tree_leaves(params), strict=True):
        assert a.equal(b)


def test_states_hold_only_what_is_needed_and_share_nothing():
    params = parameters()
    assert optim.sgd().init(params) == optim.SGDState(())
    for make in (optim.sgd(0.9), optim.adam()):
        first, second = optree.tree_leaves(make.init(params)), optree.tree_leaves(make.init(params))
        pointers = [leaf.data_ptr() for leaf in first + second + optree.tree_leaves(params)]
        assert len(set(pointers)) == len(pointers)
        assert all(not leaf.any() for leaf in first)


BAD_INPUT = [
    (lambda: optim.sgd(-0.1), r"momentum is -0\.1; expected a number, 0 or more"),
    (lambda: optim.sgd(weight_decay=-1), r"weight_decay is -1; expected a number, 0 or more"),
    (lambda: optim.sgd(float("nan")), r"momentum is nan; expected a number, 0 or more"),
    (lambda: optim.sgd(nesterov=True), r"nesterov is True and momentum 0; expected a positive momentum"),
    (lambda: optim.adam((0.9, 1.0)), r"betas\[1\] is 1\.0; expected a number in \[0, 1\)"),
    (lambda: optim.adamw((-0.1, 0.9)), r"betas\[0\] is -0\.1; expected a number in \[0, 1\)"),
    (lambda: optim.adam((0.9,)), r"betas is \(0\.9,\); expected two numbers"),
    (lambda: optim.adam(eps=-1e-8), r"eps is -1e-08; expected a number, 0 or more"),
    (lambda: optim.adamw(weight_decay=-0.1), r"weight_decay is -0\.1; expected a number"),
]


@pytest.mark.parametrize(("call", "message"), BAD_INPUT)
def test_bad_numbers_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("case", CASES)
def test_bad_parameters_and_step_sizes_are_named(case):
    optimizer, _, _ = CASES[case]
    with pytest.raises(ValueError, match=r"params holds torch\.int64 at layers/0; expected floating-point tensors"):
        optimizer.init({"layers": [torch.zeros(3, dtype=torch.int64)]})
    with pytest.raises(ValueError, match=r"params holds float at w; expected floating-point tensors"):
        optimizer.init({"w": 1.0})
    params = parameters()
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"step_size is {bad}; expected a number, 0 or more"):
            optimizer.update(params, optimizer.init(params), params, step_size=bad)


FORMS = {
    "a shape that broadcasts": (
        lambda g: {**g, "b": torch.ones(1)},
        r"\(1,\) of torch\.float32 at b; expected \(3,\)",
    ),
    "a wider shape": (lambda g: {**g, "b": torch.ones(2, 3)}, r"holds \(2, 3\) of torch\.float32 at b"),
    "a number that grew": (
        lambda g: {**g, "c": torch.ones(1)},
        r"\(1,\) of torch\.float32 at c; expected \(\) of",
    ),
    "another dtype": (lambda g: {**g, "w": g["w"].double()}, r"\(2, 3\) of torch\.float64 at w; expected \(2, 3\) of"),
    "a dtype of fewer bits": (lambda g: {**g, "w": g["w"].half()}, r"of torch\.float16 at w"),
    "whole numbers": (lambda g: {**g, "w": g["w"].long()}, r"of torch\.int64 at w"),
    "a plain number": (lambda g: {**g, "w": 1.0}, r"holds float at w"),
    "one too few": (lambda g: {"w": g["w"], "c": g["c"]}, "has not the structure of params: b missing"),
    "one too many": (lambda g: {**g, "d": g["b"]}, "has not the structure of params: d too many"),
    "another name": (lambda g: {"w": g["w"], "c": g["c"], "bias": g["b"]}, "b missing; bias too many"),
    "a list": (lambda g: list(g.values()), "has not the structure of params: "),
    "nothing": (lambda g: {**g, "b": None}, "has not the structure of params: |holds NoneType at b"),
    "deeper": (
        lambda g: {**g, "b": {"b": g["b"]}},
        "holds dict at b|has not the structure of params: b missing; b/b",
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_states_of_another_form_than_the_parameters_are_named(case, form):
    optimizer, _, _ = CASES[case]
    change, message = FORMS[form]
    params = {"w": torch.ones(2, 3), "b": torch.ones(3), "c": torch.tensor(1.0)}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match=f"grads .*({message})"):
        optimizer.update(change(params), state, params, step_size=0.1)
    stacked = optree.tree_map(lambda p: p.expand(2, *p.shape), params)
    if form not in ("a plain number", "nothing"):
        with pytest.raises(ValueError, match=f"grads .*({message})"):
            torch.vmap(lambda p: optimizer.update(change(p), state, p, step_size=0.1))(stacked)
    for field in state._fields:
        of_state = getattr(state, field)
        if optree.tree_leaves(of_state):
            with pytest.raises(ValueError, match=rf"opt_state\.{field} "):
                optimizer.update(params, state._replace(**{field: change(of_state)}), params, step_size=0.1)


@pytest.mark.parametrize("case", CASES)
def test_an_error_comes_before_any_work(case):
    """A wrong leaf at the end, and a state that would be wrong too: the gradients are told of, nothing is moved."""
    optimizer, _, _ = CASES[case]
    params = {"a": torch.ones(3), "z": torch.ones(3)}
    before = optree.tree_map(torch.clone, params)
    with pytest.raises(ValueError, match=r"grads holds \(4,\) of torch\.float32 at z; expected \(3,\)"):
        optimizer.update({"a": torch.ones(3), "z": torch.ones(4)}, optimizer.init({"a": torch.ones(4)}), params, 0.1)
    assert all(params[name].equal(before[name]) for name in params)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_shapes_and_dtypes_are_kept_whatever_the_numbers_are(case, dtype):
    optimizer, _, _ = CASES[case]
    params = optree.tree_map(lambda p: p.to(dtype), parameters())
    state = optimizer.init(params)
    for step_size in (0.1, torch.tensor(0.1, dtype=torch.float64), torch.tensor(1)):
        new, after = optimizer.update(params, state, params, step_size=step_size)
        for one, other in ((new, params), (after, state)):
            for a, b in zip(optree.tree_leaves(one), optree.tree_leaves(other), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype)


@pytest.mark.parametrize("make", [optim.sgd, optim.adam, optim.adamw])
def test_a_number_that_is_no_number_is_named(make):
    params = {"w": torch.tensor(1.0)}
    for bad, words in (
        (torch.ones(1), r"a tensor \(1,\) of torch\.float32"),
        (torch.ones(2, 3), r"a tensor \(2, 3\)"),
        ("big", "'big'"),
        (None, "None"),
        (True, "True"),
        ([0.1], r"\[0\.1\]"),
    ):
        with pytest.raises(ValueError, match=f"weight_decay is {words}"):
            make(weight_decay=bad)
        with pytest.raises(ValueError, match=f"step_size is {words}"):
            make().update(params, make().init(params), params, step_size=bad)


def test_an_ordered_mapping_fits_one_that_is_not():
    """Only the names count, as for ``optree``."""
    params = {"w": torch.ones(2), "b": torch.ones(3)}
    grads = collections.OrderedDict(b=torch.ones(3), w=torch.ones(2))
    new, _ = optim.sgd().update(grads, optim.sgd().init(params), params, step_size=0.5)
    assert new["w"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("case", CASES)
def test_a_state_of_another_optimiser_is_named(case):
    optimizer, _, _ = CASES[case]
    params = {"w": torch.ones(2)}
    other, name = (optim.adam(), "AdamState") if case.startswith("sgd") else (optim.sgd(0.9), "SGDState")
    for state, words in ((other.init(params), name), ((), r"\(\)"), (None, "None")):
        with pytest.raises(ValueError, match=rf"opt_state is {words}; expected (SGD|Adam)State, as init makes it"):
            optimizer.update(params, state, params, step_size=0.1)
