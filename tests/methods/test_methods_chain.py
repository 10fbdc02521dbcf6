"""Chains of methods, and the record by which sweeps know a method."""

import inspect
import itertools
import pickle

import pytest
import torch
from contract import METHOD_ROWS
from learners import NETWORKS, batch_at, tree_equal

import fcbp
from fcbp import initializers, methods
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.methods import METHODS, Kind, Method, chain, chain_kinds
from fcbp.methods.base import keep_gradients, parameters_of

KEY = fcbp.random.key(2)


def run(method, hyper, steps=6):
    model, units = NETWORKS["mlp"]()
    learner = make_learner(model, units, optimizer="adam", method=method)
    state = learner.init(KEY)
    for t in range(steps):
        batch = (*batch_at(t), torch.tensor(t == 3))
        state, info = learner.step(state, batch, LearnerHyperparams(0.01, hyper))
    return state, info


# --- who reads the task signal ----------------------------------------------------------------------------


@pytest.mark.parametrize("row", METHOD_ROWS, ids=lambda row: row.name)
def test_a_method_declares_whether_it_reads_the_task_signal(row):
    method = row.build()
    assert method.reads_new_task == row.signalled
    assert chain(methods.l2(), method).reads_new_task == row.signalled
    assert chain(method, methods.l2()).reads_new_task == row.signalled


def test_a_wrapper_that_forwards_all_keywords_keeps_the_declaration():
    inner = methods.head_reset()
    wrapped = inner._replace(update=lambda *args, **given: inner.update(*args, **given))
    assert wrapped.reads_new_task
    tree_equal(run(wrapped, methods.NoHyperparams()), run(inner, methods.NoHyperparams()))


def test_a_method_does_not_read_the_signal_for_naming_it():
    plain = methods.backprop()
    naming = plain._replace(update=lambda *args, new_task=None, **given: plain.update(*args, **given))
    assert not naming.reads_new_task


# --- what a chain tells -----------------------------------------------------------------------------------


def test_a_chain_tells_the_fraction_that_was_reset():
    partial = methods.cpr()
    hyper = methods.CPRHyperparams(rate=0.5, period=1)
    _, alone = run(partial, hyper, steps=1)
    _, first = run(chain(partial, methods.l2()), (hyper, methods.L2Hyperparams(0.0)), steps=1)
    _, last = run(chain(methods.l2(), partial), (methods.L2Hyperparams(0.0), hyper), steps=1)
    assert all(fraction.any() for fraction in alone["reset_fraction"].values())
    tree_equal(first["reset_fraction"], alone["reset_fraction"])
    tree_equal(last["reset_fraction"], alone["reset_fraction"])


def telling(**info):
    """A method that does nothing and tells ``info``."""

    def update(state, params, opt_state, buffers):
        return params, opt_state, buffers, state, {"replaced": {}, **info}

    return Method(lambda units, params, key: (), update, lambda state, grads, params: (grads, state))


def test_fractions_of_two_methods_are_those_of_one_after_the_other():
    a, b = torch.tensor([0.0, 0.5, 1.0, 0.25]), torch.tensor([0.5, 0.5, 0.5, 0.0])
    both = chain(telling(reset_fraction={"x": a, "y": a}), telling(reset_fraction={"y": b, "z": b}))
    *_, info = both.update(((), ()), {}, (), {}, hyper=((), ()))
    tree_equal(info["reset_fraction"], {"x": a, "y": torch.tensor([0.5, 0.75, 1.0, 0.25]), "z": b})


def test_masks_are_joined_and_the_entries_of_one_method_are_kept():
    a, b = torch.tensor([True, False, False]), torch.tensor([False, False, True])
    both = chain(
        telling(replaced={"x": a}, reset_weights={"w": a}, mine=a, common=a),
        telling(replaced={"x": b, "y": b}, reset_weights={"w": b}, yours=b, common=b),
    )
    *_, info = both.update(((), ()), {}, (), {}, hyper=((), ()))
    expected = {"replaced": {"x": a | b, "y": b}, "reset_weights": {"w": a | b}}
    tree_equal({name: info[name] for name in sorted(info)}, {"common": b, "mine": a, **expected, "yours": b})


def test_a_part_is_given_the_keywords_that_it_takes():
    """As a learner does."""
    few = telling()
    state, _ = run(chain(few, methods.l2()), ((), methods.L2Hyperparams(0.1)))
    tree_equal(state.params, run(methods.l2(), methods.L2Hyperparams(0.1))[0].params)
    tree_equal(run(chain(few, few), ((), ()))[0].params, run(methods.backprop(), ())[0].params)


@pytest.mark.parametrize("wrong", ["cbp", METHODS["cbp"], methods.cbp, 3])
def test_a_chain_is_of_methods(wrong):
    with pytest.raises(ValueError, match=r"methods holds .*; expected methods such as fcbp\.methods\.cbp\(\)"):
        chain(methods.l2(), wrong)


# --- the record of a method -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_the_table_declares_the_keywords_that_a_builder_takes(name):
    kind = METHODS[name]
    parameters = inspect.signature(kind.build).parameters
    assert kind.capacity == ("capacity" in parameters)
    # A method that resets to the parameters' own initial distribution does not draw as the network is drawn.
    default = parameters["initializer"].default if "initializer" in parameters else None
    assert kind.initializer == (default in initializers.INITIALIZERS)
    assert set(kind.grid) <= set(kind.hyperparams()._fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Kind("mine", methods.l2, methods.L2Hyperparams, {}, capacity=True),
            "capacity is True, but build",
        ),
        (
            lambda: Kind("mine", methods.l2, methods.L2Hyperparams, {}, initializer=True),
            "initializer is True, but build",
        ),
        (lambda: Kind("mine", methods.l2()), r"build is Method\(.*; expected a function that makes a Method"),
        (lambda: Kind("mine", methods.l2, lambda: (1, 2)), r"hyperparams makes \(1, 2\); expected a NamedTuple class"),
        (lambda: Kind("mine", methods.l2, dict), r"hyperparams makes \{\}; expected a NamedTuple class.*chain_kinds"),
        (
            lambda: Kind("mine", methods.l2, methods.L2Hyperparams, {"rate": (1.0,)}),
            "grid has 'rate'; expected numbers of",
        ),
    ],
)
def test_a_record_that_cannot_be_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_builder_that_takes_any_keyword_takes_the_declared_ones():
    assert Kind("mine", lambda **options: methods.cbp(**options), fcbp.Hyperparams, capacity=True).capacity


# --- a chain as such a record -----------------------------------------------------------------------------


def test_a_chain_by_names_is_the_chain_of_the_methods():
    kind = chain_kinds("cbp", "l2", "shrink-perturb")
    assert kind.hyperparams()._fields == (
        *fcbp.Hyperparams._fields,
        *methods.L2Hyperparams._fields,
        *methods.ShrinkPerturbHyperparams._fields,
    )
    numbers = {"replacement_rate": 0.3, "maturity_threshold": 2, "strength": 0.1, "noise_std": 0.01, "period": 2}
    hyper = (
        fcbp.Hyperparams(0.3, 2),
        methods.L2Hyperparams(0.1),
        methods.ShrinkPerturbHyperparams(noise_std=0.01, period=2),
    )
    found = run(kind.build(measure="weight"), kind.hyperparams(**numbers))
    expected = run(chain(methods.cbp("weight"), methods.l2(), methods.shrink_perturb()), hyper)
    tree_equal(found, expected)
    tree_equal(run(kind, kind.hyperparams(**numbers)), run(kind.build(), kind.hyperparams(**numbers)))


def test_names_that_two_parts_share_are_the_parts():
    kind = chain_kinds("l2", "weight-decay", "l2")
    assert kind.hyperparams()._asdict() == {
        "l2_1_strength": methods.L2Hyperparams().strength,
        "weight_decay_strength": 0.01,
        "l2_2_strength": methods.L2Hyperparams().strength,
    }
    assert kind.grid.keys() == kind.hyperparams()._asdict().keys()
    hyper = kind.hyperparams(0.1, 0.2, 0.3)
    by_hand = methods.L2Hyperparams(0.1), methods.WeightDecayHyperparams(0.2), methods.L2Hyperparams(0.3)
    expected = run(chain(methods.l2(), methods.weight_decay(), methods.l2()), by_hand)
    tree_equal(run(kind.build(), hyper), expected)


@pytest.mark.parametrize("names", list(itertools.product(METHODS, repeat=2)), ids="+".join)
def test_any_two_methods_make_a_chain(names):
    kind = chain_kinds(*names)
    numbers = kind.hyperparams()._asdict()
    parameters = inspect.signature(kind.build).parameters
    assert len(numbers) == sum(len(METHODS[name].hyperparams()._fields) for name in names)
    assert sorted(numbers.values()) == sorted(
        v for name in names for v in METHODS[name].hyperparams()._asdict().values()
    )
    assert not numbers.keys() & parameters.keys()
    for keyword in ("capacity", "initializer"):
        declared = any(getattr(METHODS[name], keyword) for name in names)
        assert getattr(kind, keyword) == declared
        # A part that does not declare the keyword has it as an option of its own, under its own name where both are.
        assert not declared or keyword in parameters
    assert isinstance(kind.build(), Method)
    assert kind.build().reads_new_task == any(METHODS[name].build().reads_new_task for name in names)
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert chain_kinds(*names) is kind


def recording(into, **kind):
    def build(*, capacity=None, initializer="kaiming_uniform", own=1):
        into.append((capacity, initializer, own))
        return methods.backprop()

    return Kind("records what it is given", build, **kind)


def test_declared_keywords_go_to_the_parts_that_declare_them():
    seen = []
    with_rate = recording(seen, hyperparams=fcbp.Hyperparams, capacity=True, initializer=True)
    without = recording(seen, capacity=True, initializer=True)
    own = recording(seen)
    kind = chain_kinds(with_rate, without, own)
    assert set(inspect.signature(kind.build).parameters) == {
        "build_1_own",
        "build_2_own",
        "build_3_own",
        "build_3_capacity",
        "build_3_initializer",
        "capacity",
        "initializer",
    }
    kind.build(capacity=3, initializer="lecun_normal", build_2_own=2, build_3_capacity=5)
    assert seen == [(3, "lecun_normal", 1), (None, "lecun_normal", 2), (5, "kaiming_uniform", 1)]
    with pytest.raises(ValueError, match=r"own is given; expected keywords of build_1_own, "):
        kind.build(own=2)


def test_numbers_of_a_chain_may_be_vmapped():
    kind = chain_kinds("l2", "cbp")
    model, units = NETWORKS["mlp"]()
    learner = make_learner(model, units, method=kind)
    strengths = torch.tensor([0.0, 0.1, 1.0])

    def step(strength):
        hyper = LearnerHyperparams(0.1, kind.hyperparams(strength=strength, replacement_rate=strength / 2))
        return learner.step(learner.init(KEY), batch_at(0), hyper)[0].params["0.weight"]

    together = torch.vmap(step)(strengths)
    torch.testing.assert_close(together, torch.stack([step(strength) for strength in strengths]))
    assert len(set(together[:, 0, 0].tolist())) == 3


def test_a_chain_of_an_own_method_is_named_by_its_builder():
    def my_pull(*, towards=0.0):
        return methods.l2()

    mine = Kind("mine", my_pull, methods.L2Hyperparams)
    kind = chain_kinds(mine, "l2", Kind("another", lambda: methods.l2(), methods.L2Hyperparams))
    assert kind.hyperparams()._fields == ("my_pull_strength", "l2_strength", "lambda_strength")
    assert kind.summary == "mine, then l2, then another"
    assert list(parameters_of(kind.build)) == ["towards"]
    assert keep_gradients is methods.cbp().adjust


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (chain_kinds, r"kinds is \(\); expected at least one"),
        (lambda: chain_kinds("cpb", "l2"), "kinds is 'cpb'.*did you mean .*'cbp'"),
        (lambda: chain_kinds("cbp", methods.l2()), r"kinds holds Method.*; expected names such as 'cbp', or Kinds"),
        (
            lambda: run(chain_kinds("l2", "cbp"), methods.L2Hyperparams()),
            "hyper is L2Hyperparams.*; expected the numbers",
        ),
        (
            lambda: chain_kinds("l2", "weight-decay", Kind("c", lambda l2_strength=1.0: methods.l2())),
            "kinds have two settings called 'l2_strength'; expected names that differ",
        ),
    ],
)
def test_bad_chains_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
