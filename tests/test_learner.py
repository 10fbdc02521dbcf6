"""The learner: one step against ``torch.optim`` and autograd, draws, and the promises."""

import copy

import pytest
import torch
import torch.utils._pytree as pytree

import fcbp
from fcbp import methods
from fcbp.learner import LearnerHyperparams, LearnerState, draw_params, make_learner
from fcbp.units import Slice, UnitGroup

KEY = fcbp.random.key(5)
HYPER = LearnerHyperparams(
    step_size=0.02, method=fcbp.Hyperparams(replacement_rate=0.05, maturity_threshold=5, decay_rate=0.9)
)


def group(name, layer, consumer, size, norm=None):
    extra = {}
    if norm:
        extra = {
            "norm_scale": (Slice((f"{norm}.weight",), 0),),
            "norm_shift": (Slice((f"{norm}.bias",), 0),),
            "running_mean": (Slice((f"{norm}.running_mean",), 0),),
            "running_var": (Slice((f"{norm}.running_var",), 0),),
        }
    return UnitGroup(
        name=name,
        size=size,
        incoming=(Slice((f"{layer}.weight",), 0),),
        bias=() if norm else (Slice((f"{layer}.bias",), 0),),
        outgoing=(Slice((f"{consumer}.weight",), 1),),
        outgoing_bias=((f"{consumer}.bias",),),
        activation=consumer,
        **extra,
    )


def mlp():
    nn = torch.nn
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    return model, (group("0", "0", "2", 6), group("2", "2", "4", 5))


def batch_norm():
    nn = torch.nn
    # A bias before a batch norm has no gradient but noise, which Adam would follow.
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    return model, (group("0", "0", "3", 6, norm="1"),)


NETWORKS = {"mlp": mlp, "batch norm": batch_norm}


def batch_at(t):
    inputs = fcbp.random.normal(fcbp.random.fold_in(fcbp.random.key(11), t), (8, 4))
    return inputs, torch.stack([inputs[:, 0] * inputs[:, 1], inputs.sum(1).sin()], 1)


def tree_equal(actual, expected):
    a, a_spec = pytree.tree_flatten(actual)
    b, b_spec = pytree.tree_flatten(expected)
    assert a_spec == b_spec
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (fcbp.optim.sgd(), lambda p: torch.optim.SGD(p, lr=0.02)),
        (
            fcbp.optim.sgd(0.9, nesterov=True, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
        ),
        (fcbp.optim.adam(), lambda p: torch.optim.Adam(p, lr=0.02)),
    ],
    ids=["sgd", "nesterov", "adam"],
)
def test_without_cbp_it_is_torchs_training_loop(name, ours, theirs):
    model, units = NETWORKS[name]()
    learner = make_learner(model, units, optimizer=ours)
    state = learner.init(fcbp.random.key(0))
    reference = copy.deepcopy(model)
    reference.load_state_dict({**state.params, **state.buffers})
    optimizer = theirs(reference.parameters())
    for t in range(50):
        inputs, targets = batch_at(t)
        loss = torch.nn.functional.mse_loss(reference(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state, info = learner.step(state, (inputs, targets), HYPER)
        torch.testing.assert_close(info["loss"], loss.detach(), rtol=1e-4, atol=1e-6)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close({**state.params, **state.buffers}[key], value, rtol=1e-3, atol=1e-5)
    if name == "batch norm":
        assert state.buffers["1.num_batches_tracked"] == 50


def test_the_loss_is_that_before_the_step():
    model, units = mlp()
    learner = make_learner(model, units)
    state = learner.init(fcbp.random.key(0))
    inputs, targets = batch_at(0)
    output = torch.func.functional_call(model, state.params, (inputs,))
    _, info = learner.step(state, (inputs, targets), HYPER)
    torch.testing.assert_close(info["loss"], torch.nn.functional.mse_loss(output, targets).detach())


@pytest.mark.parametrize("loss", ["cross_entropy", torch.nn.functional.cross_entropy])
def test_cross_entropy_and_a_function(loss):
    model, units = mlp()
    learner = make_learner(model, units, loss=loss, method=methods.cbp())
    state = learner.init(fcbp.random.key(0))
    inputs, targets = batch_at(0)
    _, info = learner.step(state, (inputs, (targets[:, 0] > 0).long()), HYPER)
    output = torch.func.functional_call(model, state.params, (inputs,))
    expected = torch.nn.functional.cross_entropy(output, (targets[:, 0] > 0).long()).detach()
    torch.testing.assert_close(info["loss"], expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_members_are_the_loop_and_independent(name):
    model, units = NETWORKS[name]()
    learner = make_learner(model, units, optimizer=fcbp.optim.adam(), method=methods.cbp(transfer_bias=True))
    rates = torch.tensor([0.0, 0.01, 0.1, 0.5], dtype=torch.float64)
    keys = fcbp.random.key(torch.tensor([3, 1, 4, 1]))

    def hyper(rate):
        return LearnerHyperparams(0.01, fcbp.Hyperparams(rate, 5.0, 0.9))

    step = torch.vmap(lambda s, r, b: learner.step(s, b, hyper(r)), in_dims=(0, 0, None))
    many = torch.vmap(learner.init)(keys)
    ones = [learner.init(key) for key in keys]
    replaced = torch.zeros(4)
    for t in range(40):
        many, info = step(many, rates, batch_at(t))
        for i, rate in enumerate(rates):
            ones[i], alone = learner.step(ones[i], batch_at(t), hyper(rate))
            for name_, mask in alone["replaced"].items():
                assert torch.equal(info["replaced"][name_][i], mask)
                replaced[i] += mask.sum()
            torch.testing.assert_close(info["loss"][i], alone["loss"], rtol=1e-4, atol=1e-6)
    for i, one in enumerate(ones):
        mine = pytree.tree_map(lambda leaf: leaf[i], many)  # noqa: B023
        for x, y in zip(pytree.tree_leaves(mine), pytree.tree_leaves(one), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)
    assert replaced[0] == 0
    assert (replaced.diff() > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_pure(name):
    model, units = NETWORKS[name]()
    learner = make_learner(model, units, optimizer=fcbp.optim.adam(), method=methods.cbp())
    before_model = {key: value.clone() for key, value in model.state_dict().items()}
    state = learner.init(fcbp.random.key(0))
    for t in range(10):
        state, _ = learner.step(state, batch_at(t), HYPER)
    kept = pytree.tree_map(torch.clone, state)
    versions = [leaf._version for leaf in pytree.tree_leaves(state)]
    random_state = torch.get_rng_state()
    first = learner.step(state, batch_at(10), HYPER)
    tree_equal(learner.step(state, batch_at(10), HYPER), first)
    tree_equal(state, kept)
    assert [leaf._version for leaf in pytree.tree_leaves(state)] == versions
    assert torch.equal(torch.get_rng_state(), random_state)
    tree_equal(dict(model.state_dict()), before_model)


@pytest.mark.parametrize("name", NETWORKS)
def test_outside_of_transforms_the_gradient_is_the_same_to_the_bit(name):
    model, units = NETWORKS[name]()
    model.register_parameter("unread", torch.nn.Parameter(torch.ones(3)))
    learner = make_learner(model, units, optimizer=fcbp.optim.adam(), method=methods.cbp())
    state = learner.init(KEY)
    calls = []
    whole = torch.func.grad_and_value

    def counted(*args, **options):
        calls.append(args)
        return whole(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.func, "grad_and_value", counted)
        with torch.no_grad():
            found = learner.step(state, batch_at(0), HYPER)
        assert not calls
        marked = state._replace(params={name: p.clone().requires_grad_() for name, p in state.params.items()})
        expected = learner.step(marked, batch_at(0), HYPER)
        assert len(calls) == 1
    assert not any(leaf.requires_grad for leaf in pytree.tree_leaves(found))
    assert not any(p.requires_grad or p.grad is not None for p in state.params.values())
    tree_equal(found, pytree.tree_map(torch.Tensor.detach, expected))


def test_a_loss_can_be_differentiated_by_the_examples():
    learner = make_learner(*mlp())
    state = learner.init(KEY)
    inputs, targets = batch_at(0)

    def loss(inputs):
        return learner.step(state, (inputs, targets), HYPER)[1]["loss"]

    marked = inputs.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(marked), marked)
    torch.testing.assert_close(found, torch.func.grad(loss)(inputs))
    assert found.any()


def test_a_loss_that_looks_at_no_parameter():
    learner = make_learner(*mlp(), loss=lambda output, targets: targets.square().mean())
    state = learner.init(KEY)
    tree_equal(learner.step(state, batch_at(0), HYPER)[0].params, state.params)


def test_a_loss_that_closes_over_what_is_vmapped():
    model, units = mlp()

    def loss_of(weight):
        learner = make_learner(model, units, loss=lambda output, targets: weight * (output - targets).square().mean())
        return learner.step(learner.init(KEY), batch_at(0), HYPER)[0].params["4.weight"]

    weights = torch.tensor([1.0, 0.5])
    torch.testing.assert_close(torch.vmap(loss_of)(weights), torch.stack([loss_of(w) for w in weights]))


def test_two_states_share_no_memory():
    model, units = batch_norm()
    learner = make_learner(model, units, optimizer=fcbp.optim.adam(), method=methods.cbp())
    states = [learner.init(fcbp.random.key(0)) for _ in range(2)]
    pointers = [{leaf.data_ptr() for leaf in pytree.tree_leaves(state)} for state in states]
    assert not pointers[0] & pointers[1]
    assert not pointers[0] & {tensor.data_ptr() for tensor in model.state_dict().values()}
    assert len(pointers[0]) == len(pytree.tree_leaves(states[0]))


def test_a_learner_does_not_follow_later_changes_of_the_model():
    model, units = batch_norm()
    learner = make_learner(model, units)
    before = learner.init(fcbp.random.key(0))
    with torch.no_grad():
        model[1].weight.fill_(7.0)
        model[1].running_mean.fill_(7.0)
    tree_equal(learner.init(fcbp.random.key(0)), before)


def test_states_are_tensors_only():
    model, units = batch_norm()
    learner = make_learner(model, units, method=methods.cbp())
    state = learner.init(fcbp.random.key(0))
    assert isinstance(state, LearnerState)
    assert all(isinstance(leaf, torch.Tensor) and not leaf.requires_grad for leaf in pytree.tree_leaves(state))


# --- draws ----------------------------------------------------------------------------------------------


def test_draws_are_kaiming_uniform_with_gain_1_in_the_last_layer():
    nn = torch.nn
    model = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 100), nn.ReLU(), nn.Linear(100, 50))
    params = draw_params(model, fcbp.random.key(0))
    assert params.keys() == dict(model.named_parameters()).keys()
    for name, gain in (("0", 2**0.5), ("2", 2**0.5), ("4", 1.0)):
        weight = params[f"{name}.weight"]
        bound = gain * (3 / weight.shape[1]) ** 0.5
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.99 * bound
        assert abs(weight.std() / (bound / 3**0.5) - 1) < 0.05
        assert (params[f"{name}.bias"] == 0).all()
    tanh = draw_params(model, fcbp.random.key(0), nonlinearity="tanh")
    torch.testing.assert_close(tanh["0.weight"], params["0.weight"] * (5 / 3) / 2**0.5)
    torch.testing.assert_close(tanh["4.weight"], params["4.weight"])


def test_draws_differ_by_seed_and_layer_and_vmap_is_the_loop():
    nn = torch.nn
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    keys = fcbp.random.key(torch.arange(4))
    many = torch.vmap(lambda key: draw_params(model, key))(keys)
    seen = set()
    for i, key in enumerate(keys):
        one = draw_params(model, key)
        tree_equal({name: value[i] for name, value in many.items()}, one)
        # The first two layers have one gain: equal keys would give them equal weights.
        seen |= {tuple(one[name].flatten().tolist()) for name in ("0.weight", "2.weight")}
    assert len(seen) == 8


def test_a_convolution_counts_its_kernel_and_other_parameters_keep_their_values():
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4, bias=False)
    )
    with torch.no_grad():
        model[1].weight.fill_(3.0)
    params = draw_params(model, fcbp.random.key(0), initializer="kaiming_normal")
    assert abs(params["0.weight"].std() / (2 / 72) ** 0.5 - 1) < 0.05
    assert (params["1.weight"] == 3).all()
    assert "4.bias" not in params
    params["1.weight"].fill_(0)
    assert (model[1].weight == 3).all()


def test_tied_and_parametrised_weights_get_no_second_name():
    nn = torch.nn
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    normed = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 1))
    for model in (tied, normed):
        params = draw_params(model, fcbp.random.key(0))
        assert params.keys() == dict(model.named_parameters()).keys()
        torch.func.functional_call(model, params, (torch.ones(2, 4),))


# --- bad input ------------------------------------------------------------------------------------------


def test_bad_input():
    model, units = mlp()
    with pytest.raises(ValueError, match=r"loss is 'mes'.*'mse'"):
        make_learner(model, units, loss="mes")
    with pytest.raises(ValueError, match="sizes disagree"):
        make_learner(model, (group("0", "0", "2", 7),))
    with pytest.raises(ValueError, match=r"names no leaf"):
        make_learner(model, (group("0", "9", "2", 6),))
    learner = make_learner(model, units, method=methods.cbp())
    with pytest.raises(ValueError, match="key"):
        learner.init(torch.tensor([0, 1]))
    state = learner.init(fcbp.random.key(0))
    with pytest.raises(ValueError, match=r"replacement_rate is 1\.5"):
        learner.step(state, batch_at(0), LearnerHyperparams(method=fcbp.Hyperparams(1.5)))
    with pytest.raises(ValueError, match="step_size is -1"):
        learner.step(state, batch_at(0), LearnerHyperparams(step_size=-1.0))
