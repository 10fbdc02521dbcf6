"""Step-size schedules against torch's and optax's definitions, and the bound on the gradients' norm; both in a learner.

That they are pure, that vmap is the loop and that they compile ``test_contract.py`` shows.
"""

import math

import numpy as np
import optree
import pytest
import torch
from learners import batch_at, mlp, tree_equal

import fcbp
from fcbp import optim
from fcbp.learner import LearnerHyperparams, make_learner

KEY = fcbp.random.key(3)
STEPS = 40


def along(schedule, steps=STEPS):
    return [float(schedule(step)) for step in range(steps)]


def torchs(make):
    """The factors of a scheduler of torch's."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = make(optimizer)
    factors = []
    for _ in range(STEPS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


T = torch.optim.lr_scheduler
TORCHS = {
    "constant": (optim.constant(1.0), lambda o: T.ConstantLR(o, 1.0)),
    "linear": (optim.linear(0.9, 0.2, 25), lambda o: T.LinearLR(o, 0.9, 0.2, 25)),
    "linear upwards": (optim.linear(0.1, 1.0, 7), lambda o: T.LinearLR(o, 0.1, 1.0, 7)),
    "cosine": (optim.cosine(1.0, 0.1, STEPS), lambda o: T.CosineAnnealingLR(o, STEPS, 0.1)),
    "piecewise": (optim.piecewise((4, 20), (1.0, 0.1, 0.01)), lambda o: T.MultiStepLR(o, [4, 20], 0.1)),
    "warmup": (optim.warmup(1.0, 10, 0.25), lambda o: T.LinearLR(o, 0.25, 1.0, 10)),
    "warmup and cosine": (
        optim.warmup(optim.cosine(1.0, 0.0, STEPS - 8), 8, 0.125),
        lambda o: T.SequentialLR(o, [T.LinearLR(o, 0.125, 1.0, 8), T.CosineAnnealingLR(o, STEPS - 8)], [8]),
    ),
    "warmup and linear": (
        optim.warmup(optim.linear(1.0, 0.5, 16), 8, 0.125),
        lambda o: T.SequentialLR(o, [T.LinearLR(o, 0.125, 1.0, 8), T.LinearLR(o, 1.0, 0.5, 16)], [8]),
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
@pytest.mark.parametrize("name", TORCHS)
def test_schedules_are_torchs(name):
    ours, theirs = TORCHS[name]
    np.testing.assert_allclose(along(ours), torchs(theirs), rtol=1e-5, atol=1e-6)


def optax_polynomial(start, end, steps):
    """optax 0.2, ``polynomial_schedule`` of power 1, which ``linear_schedule`` is."""
    return lambda count: (start - end) * (1 - min(max(count, 0), steps) / steps) + end


def optax_cosine(start, steps, alpha):
    """optax 0.2, ``cosine_decay_schedule`` of exponent 1."""
    return lambda count: start * ((1 - alpha) * 0.5 * (1 + math.cos(math.pi * min(count, steps) / steps)) + alpha)


def optax_join(schedules, boundaries):
    """optax 0.2, ``join_schedules``."""

    def schedule(count):
        output = schedules[0](count)
        for boundary, later in zip(boundaries, schedules[1:], strict=True):
            output = output if count < boundary else later(count - boundary)
        return output

    return schedule


def optax_piecewise(start, boundaries_and_scales):
    """optax 0.2, ``piecewise_constant_schedule``."""

    def schedule(count):
        value = start
        for threshold, scale in sorted(boundaries_and_scales.items()):
            indicator = max(0.0, np.sign(threshold - count))
            value = value * indicator + (1 - indicator) * scale * value
        return value

    return schedule


OPTAXS = {
    "constant": (optim.constant(0.3), lambda count: 0.3),
    "linear": (optim.linear(2.0, 0.5, 30), optax_polynomial(2.0, 0.5, 30)),
    "cosine": (optim.cosine(2.0, 0.2, 30), optax_cosine(2.0, 30, 0.1)),
    "warmup-cosine": (
        optim.warmup_cosine(7, 0.1, 2.0, 0.2, 20),
        optax_join([optax_polynomial(0.1, 2.0, 7), optax_cosine(2.0, 20, 0.1)], [7]),
    ),
    "warmup-linear": (
        optim.warmup_linear(7, 0.1, 2.0, 0.2, 20),
        optax_join([optax_polynomial(0.1, 2.0, 7), optax_polynomial(2.0, 0.2, 20)], [7]),
    ),
    "warmup twice": (
        optim.warmup(optim.warmup(0.5, 5, 2.0), 10),
        optax_join(
            [optax_polynomial(0.0, 2.0, 10), optax_polynomial(2.0, 0.5, 5), lambda count: 0.5],
            [10, 15],
        ),
    ),
    "piecewise": (optim.piecewise((3, 17), (2.0, 1.0, 0.1)), optax_piecewise(2.0, {3: 0.5, 17: 0.1})),
}


@pytest.mark.parametrize("name", OPTAXS)
def test_schedules_are_optaxs(name):
    ours, theirs = OPTAXS[name]
    np.testing.assert_allclose(along(ours), [theirs(step) for step in range(STEPS)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_every_schedule_can_be_made_by_its_name_alone(name):
    schedule = optim.SCHEDULES[name]()
    assert 0 <= float(schedule(0)) <= 1
    for step in (5, torch.tensor(5), torch.tensor(5, dtype=torch.int32)):
        value = schedule(step)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value.equal(schedule(5))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_both_ends_are_exact_and_the_last_stays(name):
    schedule = optim.SCHEDULES[name](0.3, 0.1, 1_000)
    assert schedule(0).equal(torch.tensor(0.3))
    for step in (1_000, 1_001, 2**31 - 1, 2**40):
        assert schedule(step).equal(torch.tensor(0.1))


def test_a_warmup_of_no_steps_is_what_follows():
    for steps in (0, torch.tensor(0)):
        after = optim.linear(1.0, 0.5, 10)
        assert along(optim.warmup(after, steps)) == along(after)


def test_a_float64_number_gives_a_float64_step_size():
    value = optim.linear(torch.tensor(1.0, dtype=torch.float64), 0.0, 4)(1)
    assert value.dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.constant(-1), "value is -1; expected a number, 0 or more"),
        (lambda: optim.constant("big"), "value is 'big'; expected a number"),
        (lambda: optim.constant(True), "value is True; expected a number"),
        (lambda: optim.linear(start=math.nan), "start is nan"),
        (lambda: optim.linear(end=-0.5), r"end is -0\.5"),
        (lambda: optim.linear(decay_steps=0), "decay_steps is 0; expected a number, 1 or more"),
        (lambda: optim.cosine(decay_steps=None), "decay_steps is None"),
        (lambda: optim.cosine(torch.ones(3)), r"start is a tensor \(3,\) of torch\.float32; expected .*vmap it"),
        (lambda: optim.warmup("cosine"), "after is 'cosine'; expected a number"),
        (lambda: optim.warmup(warmup_steps=-1), "warmup_steps is -1"),
        (lambda: optim.piecewise((1, 2), (1.0, 0.5)), "values has 2 entries for 2 boundaries; expected one more"),
        (
            lambda: optim.piecewise((2, 2), (1.0, 0.5, 0.1)),
            r"boundaries is \(2, 2\); expected steps in ascending",
        ),
        (lambda: optim.piecewise((2,), (1.0, -0.5)), r"values\[1\] is -0\.5"),
        (lambda: optim.piecewise(3, (1.0, 0.5)), "boundaries is 3; expected a sequence of numbers"),
    ],
)
def test_bad_numbers_of_schedules_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- the bound on the norm --------------------------------------------------------------------------------


def some_grads(scale=1.0, dtype=torch.float32):
    shapes = {"a": (3, 4), "b": [(5,), ()]}
    keys = iter(range(9))
    draw = lambda shape: (scale * fcbp.random.normal(fcbp.random.key(next(keys)), shape)).to(dtype)  # noqa: E731
    return {"a": draw(shapes["a"]), "b": [draw(shape) for shape in shapes["b"]]}


def norm_of(tree):
    return math.sqrt(sum(float(leaf.double().square().sum()) for leaf in optree.tree_leaves(tree)))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e30, 1e37])
def test_the_norm_is_the_square_root_of_the_sum_of_squares(scale):
    grads = some_grads(scale)
    assert float(optim.global_norm(grads)) == pytest.approx(norm_of(grads), rel=1e-5)
    clipped = optim.clip_by_global_norm(grads, 0.5)
    expected = min(1.0, 0.5 / norm_of(grads))
    for a, b in zip(optree.tree_leaves(clipped), optree.tree_leaves(grads), strict=True):
        torch.testing.assert_close(a.double(), b.double() * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bound", [0.1, 1.0, 3.0, 100.0])
def test_clipping_is_torchs(bound):
    grads = some_grads()
    leaves = [torch.zeros_like(leaf, requires_grad=True) for leaf in optree.tree_leaves(grads)]
    for leaf, grad in zip(leaves, optree.tree_leaves(grads), strict=True):
        leaf.grad = grad.clone()
    total = torch.nn.utils.clip_grad_norm_(leaves, bound)
    torch.testing.assert_close(optim.global_norm(grads), total)
    for ours, theirs in zip(optree.tree_leaves(optim.clip_by_global_norm(grads, bound)), leaves, strict=True):
        torch.testing.assert_close(ours, theirs.grad, rtol=2e-5, atol=0)  # torch divides by the norm plus 1e-6


def test_up_to_the_bound_gradients_are_the_same_to_the_bit():
    grads = {"w": torch.tensor([3.0, 4.0])}
    for bound in (5.0, 6.0, math.inf, torch.tensor(5.0, dtype=torch.float64)):
        tree_equal(optim.clip_by_global_norm(grads, bound), grads)
    assert optim.global_norm(optim.clip_by_global_norm(grads, 4.999)) < 5


@pytest.mark.parametrize("bound", [0.0, 1.0, math.inf])
def test_zero_and_no_gradients_stay(bound):
    for grads in ({"w": torch.zeros(3)}, {"w": torch.zeros(0)}, {}, {"w": torch.zeros(0), "b": torch.zeros(())}):
        tree_equal(optim.clip_by_global_norm(grads, bound), grads)
        assert optim.global_norm(grads) == 0


def test_a_bound_of_zero_leaves_nothing():
    assert not any(leaf.any() for leaf in optree.tree_leaves(optim.clip_by_global_norm(some_grads(), 0.0)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("bound", [0.0, 1.0, math.inf])
def test_where_an_entry_is_not_finite_every_entry_is_nan(bad, bound):
    grads = some_grads()
    grads["a"][1, 2] = bad
    clipped = optim.clip_by_global_norm(grads, bound)
    assert all(bool(leaf.isnan().all()) for leaf in optree.tree_leaves(clipped))
    together = torch.vmap(lambda g: optim.clip_by_global_norm(g, bound))(
        optree.tree_map(lambda a, b: torch.stack([a, b]), grads, some_grads())
    )
    tree_equal(optree.tree_map(lambda leaf: leaf[1], together), optim.clip_by_global_norm(some_grads(), bound))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept_and_half_precision_does_not_overflow(dtype):
    grads = some_grads(1e4, dtype)
    clipped = optim.clip_by_global_norm(grads, 2.0)
    assert all(leaf.dtype == dtype for leaf in optree.tree_leaves(clipped))
    assert norm_of(clipped) == pytest.approx(2.0, rel=1e-2)


def test_the_bound_may_be_vmapped():
    grads, bounds = some_grads(), torch.tensor([0.1, 1.0, 100.0], dtype=torch.float64)
    together = torch.vmap(lambda bound: optim.clip_by_global_norm(grads, bound))(bounds)
    for i, bound in enumerate(bounds.tolist()):
        for a, b in zip(
            optree.tree_leaves(together), optree.tree_leaves(optim.clip_by_global_norm(grads, bound)), strict=True
        ):
            torch.testing.assert_close(a[i], b)


@pytest.mark.parametrize(
    ("grads", "bound", "message"),
    [
        ({"w": torch.ones(2)}, -1.0, r"max_norm is -1\.0; expected a number, 0 or more"),
        ({"w": torch.ones(2)}, math.nan, "max_norm is nan"),
        ({"w": torch.ones(2)}, None, "max_norm is None"),
        ({"w": torch.ones(2)}, torch.ones(2), r"max_norm is a tensor \(2,\)"),
        ({"w": torch.ones(2).long()}, 1.0, r"grads holds torch\.int64 at w; expected floating-point tensors"),
        ({"w": 1.0}, 1.0, "grads holds float at w"),
    ],
)
def test_bad_bounds_and_gradients_are_named(grads, bound, message):
    with pytest.raises(ValueError, match=message):
        optim.clip_by_global_norm(grads, bound)


# --- in a learner -----------------------------------------------------------------------------------------


def trained(steps=12, hyper=LearnerHyperparams(0.1), batch=batch_at, **parts):  # noqa: B008
    learner = make_learner(*mlp(), **parts)
    state = learner.init(KEY)
    for t in range(steps):
        state, _ = learner.step(state, batch(t), hyper if isinstance(hyper, LearnerHyperparams) else hyper(t))
    return state


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_schedule_multiplies_the_step_size_by_the_learners_own_count(optimizer):
    schedule = optim.warmup(optim.cosine(decay_steps=6), 4, 0.25)
    found = trained(schedule=schedule, optimizer=optimizer)
    by_hand = trained(hyper=lambda t: LearnerHyperparams(0.1 * schedule(t)), optimizer=optimizer)
    tree_equal(found[:4], by_hand[:4])
    assert found.step.equal(torch.tensor(12, dtype=torch.int32))


def test_without_a_schedule_the_state_is_as_it_was():
    plain = trained(method="cbp", hyper=LearnerHyperparams(0.1, fcbp.Hyperparams()))
    assert plain.step == ()
    scheduled = trained(method="cbp", schedule="constant", hyper=LearnerHyperparams(0.1, fcbp.Hyperparams()))
    assert len(optree.tree_leaves(scheduled)) == len(optree.tree_leaves(plain)) + 1


def test_a_method_is_given_the_step_size_of_the_step():
    hyper = fcbp.methods.WeightDecayHyperparams(0.5)
    found = trained(method="weight-decay", hyper=LearnerHyperparams(0.1, hyper), schedule=optim.linear(1.0, 0.0, 5))
    by_hand = trained(
        method="weight-decay", hyper=lambda t: LearnerHyperparams(0.1 * optim.linear(1.0, 0.0, 5)(t), hyper)
    )
    tree_equal(found[:4], by_hand[:4])


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_named_schedule_takes_its_numbers_from_the_hypers(name):
    numbers = {
        "constant": {"value": 0.5},
        "linear": {"decay_steps": 7, "end": 0.2},
        "cosine": {"decay_steps": 7, "end": 0.2},
        "piecewise": {"boundaries": (2, 4), "values": (1.0, 0.1, 0.5)},
        "warmup": {"warmup_steps": 6},
        "warmup-linear": {"warmup_steps": 3, "decay_steps": 5},
        "warmup-cosine": {"warmup_steps": 3, "decay_steps": 5},
    }[name]
    found = trained(schedule=name, hyper=LearnerHyperparams(0.1, schedule=numbers))
    tree_equal(found, trained(schedule=optim.SCHEDULES[name](**numbers)))


def test_numbers_of_schedules_and_bounds_may_be_vmapped():
    def own(step, rate=1.0):
        return 1 / (1 + rate * step)

    learner = make_learner(*mlp(), schedule=own, clip=1.0)

    def run(rate, bound):
        state = learner.init(KEY)
        for t in range(5):
            state, _ = learner.step(state, batch_at(t), LearnerHyperparams(0.1, schedule={"rate": rate}, clip=bound))
        return state.params

    rates, bounds = torch.tensor([0.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 0.01])
    together = torch.vmap(run)(rates, bounds)
    for i, (rate, bound) in enumerate(zip(rates.tolist(), bounds.tolist(), strict=True)):
        for name, leaf in run(rate, bound).items():
            torch.testing.assert_close(together[name][i], leaf, rtol=1e-5, atol=1e-6)
    assert len(set(together["4.weight"][:, 0, 0].tolist())) == 3


@pytest.mark.parametrize("given", ["learner", "hyper"])
def test_gradients_are_bounded_before_the_optimiser_and_after_the_method(given):
    """A penalty far larger than the loss: what moves the parameters has the bound's norm, over the step size."""
    hyper = LearnerHyperparams(0.1, fcbp.methods.L2Hyperparams(1e3), clip=0.5 if given == "hyper" else ())
    parts = {"method": "l2", **({"clip": 0.5} if given == "learner" else {})}
    learner = make_learner(*mlp(), **parts)
    state = learner.init(KEY)
    new, _ = learner.step(state, batch_at(0), hyper)
    moved = {name: (state.params[name] - p) / 0.1 for name, p in new.params.items()}
    assert norm_of(moved) == pytest.approx(0.5, rel=1e-4)


def test_the_bound_in_the_hypers_goes_before_the_learners():
    loose = trained(clip=0.01, hyper=LearnerHyperparams(0.1, clip=math.inf))
    tree_equal(loose, trained())
    assert not loose.params["0.weight"].equal(trained(clip=0.01).params["0.weight"])


def test_measures_read_the_gradients_as_they_were():
    seen = []
    method = fcbp.methods.backprop()

    def update(*args, grads, **given):
        seen.append(grads)
        return method.update(*args)

    for clip in (None, 1e-3):
        trained(1, method=method._replace(update=update), clip=clip)
    tree_equal(*seen)


@pytest.mark.parametrize(
    ("parts", "hyper", "message"),
    [
        ({"schedule": "cosin"}, {}, "schedule is 'cosin'.*did you mean 'cosine'"),
        ({"schedule": 0.5}, {}, r"schedule is 0\.5; expected one of constant, "),
        ({"schedule": torch.nn.Linear(1, 1)}, {}, "schedule is a model, Linear"),
        ({"schedule": torch.optim.lr_scheduler.StepLR}, {}, "schedule is the class StepLR"),
        (
            {"schedule": optim.cosine},
            {},
            "schedule is <function cosine.*which makes schedules; expected its name",
        ),
        ({"schedule": lambda step: None}, {}, r"schedule\(step\) is None; expected a number"),
        ({"schedule": lambda step: torch.ones(2)}, {}, r"schedule\(step\) is a tensor \(2,\)"),
        (
            {"schedule": "linear"},
            {"schedule": {"decay": 3}},
            "hyper.schedule has 'decay'; expected start, end, decay_",
        ),
        ({"schedule": "linear"}, {"schedule": 3}, r"hyper\.schedule is 3; expected numbers by name"),
        ({"schedule": "linear"}, {"step_size": -1.0}, r"step_size is -1\.0"),
        ({}, {"schedule": {"end": 3}}, "hyper.schedule has 'end'; expected none: the learner has none to set"),
        ({"optimizer": optim.adam()}, {"optimizer": {"eps": 3}}, "hyper.optimizer has 'eps'; expected none"),
        (
            {"optimizer": "adam"},
            {"optimizer": {"beta": 3}},
            "hyper.optimizer has 'beta'; expected betas, eps, ",
        ),
        ({"clip": -1.0}, {}, r"clip is -1\.0; expected a number, 0 or more"),
        ({"clip": "1"}, {}, "clip is '1'"),
        ({}, {"clip": -1.0}, r"max_norm is -1\.0"),
    ],
)
def test_bad_schedules_and_bounds_are_named(parts, hyper, message):
    with pytest.raises(ValueError, match=message):
        trained(1, hyper=LearnerHyperparams(**hyper), **parts)


@pytest.mark.compiled
@pytest.mark.parametrize("backend", ["lanes", "scan"])
def test_a_scheduled_and_bounded_learner_runs_in_every_backend(backend):
    learner = make_learner(*mlp(), optimizer="adam", method="cbp", schedule="warmup-cosine", clip=0.5)
    inputs, targets = (torch.stack(part) for part in zip(*(batch_at(t) for t in range(8)), strict=True))

    def step(carry, batch):
        state, size = carry
        numbers = {"warmup_steps": 2, "decay_steps": 5}
        state, info = learner.step(state, batch, LearnerHyperparams(size, fcbp.Hyperparams(0.1, 2), schedule=numbers))
        return (state, size), info["loss"]

    members = torch.vmap(step, in_dims=(0, None))
    start = torch.vmap(learner.init)(fcbp.random.key(torch.arange(2))), torch.tensor([0.01, 0.1])
    found, expected = (fcbp.loop.scan(members, start, (inputs, targets), backend=name) for name in (backend, "eager"))
    for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
