"""The protocol of methods: what each does with parameters, optimiser state and buffers."""

import pytest
import torch
from learners import HYPER, NETWORKS, batch_at, tree_equal

import fcbp
from fcbp import methods
from fcbp.learner import LearnerHyperparams, make_learner


def situation(name):
    """What a method is given after an optimiser step."""
    model, units = NETWORKS[name]()
    learner = make_learner(model, units, optimizer=fcbp.optim.adam(), method=methods.backprop())
    state = learner.init(fcbp.random.key(1))
    for t in range(3):
        state, _ = learner.step(state, batch_at(t), HYPER)
    forward = fcbp.forward_with_features(model, units)
    _, features, _ = forward(state.params, state.buffers, batch_at(3)[0])
    grads = {n: torch.ones_like(p) for n, p in state.params.items()}
    return units, state, features, grads


@pytest.mark.parametrize("name", NETWORKS)
def test_backprop_returns_what_it_is_given(name):
    units, state, features, grads = situation(name)
    method = methods.backprop()
    own = method.init(units, state.params, fcbp.random.key(0))
    result = method.update(
        own, state.params, state.opt_state, state.buffers, units=units, grads=grads, features=features, hyper=None
    )
    params, opt_state, buffers, own, info = result
    assert params is state.params
    assert opt_state is state.opt_state
    assert buffers is state.buffers
    assert own == ()
    assert info == {"replaced": {}}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"transfer_bias": True, "initializer": "xavier_normal", "rate_counts": "all"},
        {"rounding": "stochastic", "capacity": 1},
    ],
)
@pytest.mark.parametrize("measure", ["contribution", "weight_gradient", "random"])
def test_cbp_is_its_functions_in_their_order(name, options, measure):
    units, state, features, grads = situation(name)
    hyper = fcbp.Hyperparams(replacement_rate=0.6, maturity_threshold=2, decay_rate=0.9)
    method = methods.cbp(measure, **options)
    own = expected = method.init(units, state.params, fcbp.random.key(3))
    tree_equal(own, fcbp.init_state(units, state.params, fcbp.random.key(3)))
    params, opt_state, buffers = state.params, state.opt_state, state.buffers
    e_params, e_opt, e_buffers = params, opt_state, buffers
    count = 0
    for _ in range(6):
        params, opt_state, buffers, own, info = method.update(
            own, params, opt_state, buffers, units=units, grads=grads, features=features, hyper=hyper
        )
        expected = fcbp.update_utility(expected, e_params, features, hyper, units=units, measure=measure, grads=grads)
        e_params, expected, replaced = fcbp.select_and_reset(expected, e_params, hyper, units=units, **options)
        e_opt = fcbp.reset_moments(e_opt, replaced, units=units)
        e_buffers = fcbp.reset_buffers(e_buffers, replaced, units=units)
        tree_equal((params, opt_state, buffers, own), (e_params, e_opt, e_buffers, expected))
        tree_equal(info, {"replaced": replaced})
        count += sum(int(mask.sum()) for mask in replaced.values())
    assert count > 2


@pytest.mark.parametrize("optimizer", [fcbp.optim.sgd(), fcbp.optim.sgd(0.9), fcbp.optim.adam()])
@pytest.mark.parametrize("name", NETWORKS)
def test_rate_0_is_backprop_bit_for_bit(name, optimizer):
    model, units = NETWORKS[name]()
    plain = make_learner(model, units, optimizer=optimizer)
    cbp = make_learner(model, units, optimizer=optimizer, method=methods.cbp(transfer_bias=True))
    a = plain.init(fcbp.random.key(0))
    rates = {"a number": 0.0, "a tensor": torch.tensor(0.0, dtype=torch.float64)}
    hypers = {
        kind: LearnerHyperparams(0.01, fcbp.Hyperparams(rate, maturity_threshold=5, decay_rate=0.9))
        for kind, rate in rates.items()
    }
    states = dict.fromkeys(rates, cbp.init(fcbp.random.key(0)))
    start = a.params
    for t in range(60):
        a, a_info = plain.step(a, batch_at(t), LearnerHyperparams(0.01))
        for kind in rates:
            states[kind], info = cbp.step(states[kind], batch_at(t), hypers[kind])
            assert torch.equal(a_info["loss"], info["loss"]), kind
            assert not any(mask.any() for mask in info["replaced"].values()), kind
    for state in states.values():
        tree_equal(a[:3], state[:3])
    assert all((p - start[name]).abs().max() > 1e-3 for name, p in a.params.items())


def test_the_default_method_of_a_learner_is_backprop():
    model, units = NETWORKS["mlp"]()
    a, b = make_learner(model, units), make_learner(model, units, method=methods.backprop())
    key = fcbp.random.key(0)
    tree_equal(a.step(a.init(key), batch_at(0), HYPER), b.step(b.init(key), batch_at(0), HYPER))


def test_a_chain_is_its_methods_one_after_the_other():
    units, state, features, grads = situation("mlp")
    parts = (methods.l2(), methods.cbp_weights(), methods.cbp(), methods.l2(), methods.cbp_weights("magnitude"))
    weights = fcbp.weights.Hyperparams(0.2, 0)
    hyper = (methods.L2Hyperparams(0.5), weights, fcbp.Hyperparams(0.6, 0), methods.L2Hyperparams(2.0), weights)
    chain = methods.chain(*parts)
    own = chain.init(units, state.params, fcbp.random.key(3))
    # Each has a key of its own.
    keys = [*(s.key.item() for s in (own[1], own[2], own[4])), 3]
    assert len(set(keys)) == len(keys)
    given = {"units": units, "features": features, "step_size": 0.1, "new_task": None}

    adjusted, after = chain.adjust(own, grads, state.params, hyper=hyper, **given)
    tree_equal(after, own)
    for name, g in adjusted.items():
        torch.testing.assert_close(g, grads[name] + 2.5 * state.params[name])

    params, opt_state, buffers = state.params, state.opt_state, state.buffers
    result = chain.update(own, params, opt_state, buffers, hyper=hyper, grads=grads, previous=params, **given)
    states, infos = [], []
    for part, s, h in zip(parts, own, hyper, strict=True):
        params, opt_state, buffers, s, info = part.update(s, params, opt_state, buffers, hyper=h, grads=grads, **given)
        states.append(s)
        infos.append(info)
    tree_equal(result[:4], (params, opt_state, buffers, tuple(states)))
    tree_equal(result[4]["replaced"], infos[2]["replaced"])
    assert any(mask.any() for mask in infos[2]["replaced"].values())
    for name, mask in result[4]["reset_weights"].items():
        first, last = (infos[i]["reset_weights"][name] for i in (1, 4))
        assert torch.equal(mask, first | last)
    assert not torch.equal(infos[1]["reset_weights"]["0.weight"], infos[4]["reset_weights"]["0.weight"])


def test_a_chain_needs_methods_and_numbers_for_each():
    with pytest.raises(ValueError, match=r"methods is \(\); expected at least one"):
        methods.chain()
    chain, w = methods.chain(methods.l2(), methods.l2()), {"w": torch.ones(2)}
    own = chain.init((), w, fcbp.random.key(0))
    for hyper in (methods.L2Hyperparams(), (methods.L2Hyperparams(),)):
        with pytest.raises(ValueError, match=r"hyper is .*; expected a tuple of 2, one for each method"):
            chain.adjust(own, w, w, hyper=hyper)


def test_unknown_options_are_named_before_any_work():
    model, units = NETWORKS["mlp"]()

    def begin(options):
        learner = make_learner(model, units, method=methods.cbp(**options))
        learner.step(learner.init(fcbp.random.key(0)), batch_at(0), HYPER)

    for options, message in (
        ({"measure": "contribtion"}, "contribution"),
        ({"initializer": "kaiming"}, "kaiming_uniform"),
        ({"rounding": "stochastik"}, "stochastic"),
        ({"rate_counts": "some"}, "rate_counts is 'some'"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(options)
