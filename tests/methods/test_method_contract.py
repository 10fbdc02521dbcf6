"""What every method promises in a learner, for every row of ``contract.METHOD_ROWS``.

With strength zero it is plain backpropagation bit for bit. Dtypes and structures are kept, whatever the dtype and the
size of the batch. A dead layer breaks nothing, and a member whose gradient is NaN harms no other. That it is pure,
that vmap is the loop, and that a second call does not compile again, ``test_contract.py`` shows for the same rows.
"""

import functools

import pytest
import torch
import torch.utils._pytree as pytree
from contract import METHOD_ROWS
from learners import NETWORKS, batch_at, tree_equal

import fcbp
from fcbp import optim
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.methods import METHODS

rows = pytest.mark.parametrize("row", METHOD_ROWS, ids=lambda row: row.name)
STEPS = 9
"""Four tasks; every period and every maturity of the rows is shorter."""
OPTIMIZERS = {"sgd": optim.sgd(), "momentum": optim.sgd(0.9), "adam": optim.adam()}


def learner_of(row, network="mlp", optimizer="sgd", dtype=torch.float32):
    model, units = NETWORKS[network]()
    return make_learner(
        model.to(dtype), units, optimizer=OPTIMIZERS[optimizer], method=None if row is None else row.build()
    )


def batch(t, dtype=torch.float32, size=8, new_task=None):
    """A batch of the stream; a new task begins at steps 2, 5, 8, ... where ``new_task`` does not say."""
    signal = t % 3 == 2 if new_task is None else new_task
    return *(x[:size].to(dtype) for x in batch_at(t)), torch.tensor(signal)


def leaves(tree):
    return pytree.tree_leaves(tree)


def kinds(tree):
    flat, spec = pytree.tree_flatten(tree)
    return spec, [(leaf.shape, leaf.dtype) for leaf in flat]


def all_finite(tree):
    return all(bool(leaf.isfinite().all()) for leaf in leaves(tree) if leaf.is_floating_point())


@functools.cache
def plain_run(network, optimizer):
    """States of plain backpropagation, and losses."""
    learner = learner_of(None, network, optimizer)
    state, run = learner.init(fcbp.random.key(0)), []
    for t in range(STEPS):
        state, info = learner.step(state, batch(t), LearnerHyperparams(0.02))
        run.append((state, info["loss"]))
    return run


@rows
@pytest.mark.parametrize(("network", "optimizer"), [("mlp", "sgd"), ("batch norm", "adam"), ("batch norm", "momentum")])
@pytest.mark.parametrize("kind", ["number", "tensor"])
def test_strength_zero_is_backprop_bit_for_bit(row, network, optimizer, kind):
    zero = row.zero if kind == "number" else pytree.tree_map(lambda x: torch.tensor(x, dtype=torch.float64), row.zero)
    learner = learner_of(row, network, optimizer)
    state = learner.init(fcbp.random.key(0))
    for t, (plain, loss) in enumerate(plain_run(network, optimizer)):
        signal = False if row.signalled else None
        state, info = learner.step(state, batch(t, new_task=signal), LearnerHyperparams(0.02, zero))
        tree_equal(state[:3], plain[:3])
        assert torch.equal(info["loss"], loss)
        assert not any(mask.any() for mask in leaves((info["replaced"], info.get("reset_weights"))) if mask is not None)


@rows
def test_at_its_own_strength_it_is_not_backprop(row):
    if row.name == "bp":
        return
    learner = learner_of(row)
    state = learner.init(fcbp.random.key(0))
    for t in range(STEPS):
        state, _ = learner.step(state, batch(t), LearnerHyperparams(0.02, row.hyper(2)))
    plain, _ = plain_run("mlp", "sgd")[-1]
    assert any(not a.equal(b) for a, b in zip(leaves(state.params), leaves(plain.params), strict=True))


@rows
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_and_structures_are_kept(row, dtype):
    learner = learner_of(row, "batch norm", "adam", dtype)
    state = learner.init(fcbp.random.key(0))
    before = kinds(state)
    for hyper in (row.hyper(2), pytree.tree_map(float, row.hyper(2))):
        for t in range(4):
            state, _ = learner.step(state, batch(t, dtype), LearnerHyperparams(0.02, hyper))
            assert kinds(state) == before
            assert all(p.dtype == dtype for p in state.params.values())
            assert all(isinstance(leaf, torch.Tensor) and not leaf.requires_grad for leaf in leaves(state))


@rows
def test_the_batch_size_may_change(row):
    learner = learner_of(row)
    state = learner.init(fcbp.random.key(0))
    before = kinds(state)
    for t, size in enumerate((8, 3, 1, 8, 2)):
        state, info = learner.step(state, batch(t, size=size), LearnerHyperparams(0.02, row.hyper(2)))
        assert kinds(state) == before
    assert all_finite((state, info))


@rows
def test_a_dead_layer_breaks_nothing(row):
    """The first layer of rectifiers never fires: their activations, gradients and utilities are 0."""
    learner = learner_of(row)
    state = learner.init(fcbp.random.key(0))
    dead = {**state.params, "0.bias": torch.full_like(state.params["0.bias"], -100.0)}
    state = state._replace(params=dead)
    for t in range(12):
        state, info = learner.step(state, batch(t), LearnerHyperparams(0.02, row.hyper(2)))
        assert all_finite((state, info))


@rows
def test_a_member_with_a_nan_gradient_harms_no_other(row):
    learner = learner_of(row)
    hyper = pytree.tree_map(lambda *x: torch.stack(x), *(row.hyper(i) for i in (0, 2, 4)))
    step = torch.vmap(lambda s, b, h: learner.step(s, b, LearnerHyperparams(0.02, h)))

    def run(broken):
        state, losses = torch.vmap(learner.init)(fcbp.random.key(torch.arange(3))), []
        for t in range(6):
            inputs, targets, signal = (x.expand(3, *x.shape).clone() for x in batch(t))
            if broken and t == 2:
                targets[1] = torch.nan
            state, info = step(state, (inputs, targets, signal), hyper)
            losses.append(info["loss"])
        return state, info, torch.stack(losses, 1)

    healthy, broken = run(False), run(True)
    assert broken[2].isnan().any(1).tolist() == [False, True, False]
    for i in (0, 2):
        tree_equal(*(pytree.tree_map(lambda leaf: leaf[i], one) for one in (broken, healthy)))  # noqa: B023


def test_every_method_has_a_row_whose_zero_is_of_its_hyperparams():
    """A method that is added and not entered in the table has no promise tested."""
    assert {row.method for row in METHOD_ROWS} == {*METHODS, "chain"}
    assert len({row.name for row in METHOD_ROWS}) == len(METHOD_ROWS)
    for row in METHOD_ROWS:
        if row.method != "chain":
            assert isinstance(row.zero, type(METHODS[row.method].hyperparams()))
            assert isinstance(row.hyper(0), type(METHODS[row.method].hyperparams()))


@pytest.mark.parametrize("name", METHODS)
def test_the_table_of_methods_builds_each_with_its_grid(name):
    """Any point of the grid, in a learner, from the table alone."""
    kind = METHODS[name]
    model, units = NETWORKS["mlp"]()
    learner = make_learner(model, units, method=kind.build())
    numbers = [kind.hyperparams(**{n: values[i] for n, values in kind.grid.items()}) for i in (0, -1)]
    for hyper in numbers:
        _, info = learner.step(learner.init(fcbp.random.key(0)), batch(2), LearnerHyperparams(0.01, hyper))
        assert info["loss"].isfinite()
    assert kind.summary
