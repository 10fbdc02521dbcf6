"""The learner: one step against ``torch.optim`` and autograd, draws, and the promises."""

import copy

import pytest
import torch
import torch.utils._pytree as pytree
from learners import HYPER, NETWORKS, batch_at, batch_norm, group, mlp, tree_equal

import fcbp
from fcbp import methods
from fcbp.learner import LearnerHyperparams, LearnerState, draw_params, make_learner

KEY = fcbp.random.key(5)


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


# --- parts by name, and what a step gives on request ------------------------------------------------------


@pytest.mark.parametrize("name", fcbp.optim.OPTIMIZERS)
@pytest.mark.parametrize("loss", fcbp.losses.LOSSES)
def test_parts_by_name_are_the_parts(name, loss):
    model, units = mlp()
    parts = {"optimizer": fcbp.optim.OPTIMIZERS[name](), "method": methods.METHODS["cbp"].build()}
    by_name = make_learner(model, units, loss=loss, optimizer=name, method="cbp")
    by_hand = make_learner(model, units, loss=fcbp.losses.LOSSES[loss], **parts)
    states = [by_name.init(KEY), by_hand.init(KEY)]
    for t in range(4):
        states = [learner.step(s, batch_at(t), HYPER)[0] for learner, s in zip((by_name, by_hand), states, strict=True)]
    tree_equal(*states)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_can_be_named(name):
    kind = methods.METHODS[name]
    hyper = LearnerHyperparams(0.01, kind.hyperparams())
    batch = (*batch_at(0), torch.tensor(True))
    states = [
        learner.step(learner.init(KEY), batch, hyper)
        for learner in (make_learner(*mlp(), method=given) for given in (name, kind, kind.build()))
    ]
    tree_equal(states[0], states[1])
    tree_equal(states[0], states[2])


def test_the_numbers_of_a_named_optimizer_are_hypers():
    model, units = mlp()
    learner = make_learner(model, units, optimizer="adamw")
    decayed = make_learner(model, units, optimizer=fcbp.optim.adamw(weight_decay=0.5))
    found = learner.step(learner.init(KEY), batch_at(0), HYPER._replace(optimizer={"weight_decay": 0.5}))
    tree_equal(found, decayed.step(decayed.init(KEY), batch_at(0), HYPER))


def class_indices(t, columns=2):
    return batch_at(t)[0], (batch_at(t)[1][:, 0] > 0).long() % columns


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "vmapped"])
def test_class_indices_are_torchs_training_loop(optimizer, transformed):
    model, units = mlp()
    learner = make_learner(model, units, loss="cross_entropy", optimizer=optimizer)
    state = learner.init(KEY)
    reference = copy.deepcopy(model)
    reference.load_state_dict(state.params)
    theirs = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer](reference.parameters(), lr=0.02)
    step = torch.vmap(learner.step, in_dims=(0, None, None)) if transformed else learner.step
    state = pytree.tree_map(lambda leaf: leaf[None], state) if transformed else state
    for t in range(20):
        inputs, targets = class_indices(t)
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(reference(inputs), targets).backward()
        theirs.step()
        state, _ = step(state, (inputs, targets), HYPER)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(state.params[name].reshape(value.shape), value, rtol=1e-3, atol=1e-5)


def both_ways(learner, state, batch):
    """A step where nothing is transformed, and one in ``vmap``."""
    plain = learner.step(state, batch, HYPER)
    many = torch.vmap(lambda s: learner.step(s, batch, HYPER))(pytree.tree_map(lambda leaf: leaf[None], state))
    return plain, pytree.tree_map(lambda leaf: leaf[0], many)


def test_the_output_is_the_online_prediction_from_the_one_forward_pass():
    model, units = mlp()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    learner = make_learner(model, units, method="cbp", with_output=True)
    state = learner.init(KEY)
    with_output = learner.step(state, batch_at(0), HYPER)
    assert len(passes) == 1
    expected = torch.func.functional_call(model, state.params, (batch_at(0)[0],))
    plain, vmapped = both_ways(learner, state, batch_at(0))
    tree_equal(plain, with_output)
    for _, info in (plain, vmapped):
        torch.testing.assert_close(info["output"], expected.detach())
        assert not info["output"].requires_grad
    without = make_learner(model, units, method="cbp").step(state, batch_at(0), HYPER)
    assert "output" not in without[1]
    tree_equal(with_output[0], without[0])


def test_a_loss_may_give_more_than_its_value():
    model, units = mlp()

    def loss(output, targets):
        wrong = output - targets
        return wrong.square().mean(), {"worst": wrong.abs().amax(), "each": (wrong, targets > 0)}

    learner = make_learner(model, units, loss=loss, optimizer="adam", method="cbp", with_output=True)
    state = learner.init(KEY)
    plain, vmapped = both_ways(learner, state, batch_at(0))
    for new, info in (plain, vmapped):
        wrong = info["output"] - batch_at(0)[1]
        tree_equal(info["aux"], {"worst": wrong.abs().amax(), "each": (wrong, batch_at(0)[1] > 0)})
        assert not any(leaf.requires_grad for leaf in pytree.tree_leaves((new, info)))
    alone = make_learner(model, units, optimizer="adam", method="cbp").step(state, batch_at(0), HYPER)
    tree_equal(plain[0], alone[0])
    assert "aux" not in alone[1]


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


FLOATS, INDICES = torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64)
MISFITS = [
    ("mse", 2, INDICES, r"\(8,\) of torch\.int64; expected floating-point targets; class indices go with loss='cross_"),
    ("mse", 1, INDICES, r"class indices go with"),
    ("mse", 2, INDICES.int(), r"class indices go with"),
    ("mse", 2, FLOATS.long(), r"class indices go with"),
    ("mse", 2, FLOATS > 0, r"torch\.bool; expected floating-point targets$"),
    (
        "mse",
        2,
        FLOATS[:, 0],
        r"\(8, 2\) of torch\.float32 and targets \(8,\) of torch\.float32; expected targets of",
    ),
    ("mse", 1, FLOATS[:, 0], r"expected targets of the output's shape"),
    ("mse", 2, FLOATS[:, :1], r"expected targets of the output's shape"),
    ("mse", 2, FLOATS[:1], r"expected targets of the output's shape"),
    ("mse", 2, FLOATS[0, 0], r"expected targets of the output's shape"),
    ("cross_entropy", 1, INDICES, r"\(8, 1\) of.*expected an output \(batch, classes\) of 2 classes or more"),
    ("cross_entropy", 1, FLOATS[:, :1], r"2 classes or more"),
    ("cross_entropy", 2, INDICES[:, None], r"targets \(8, 1\) of torch\.int64; expected class indices of shape \(8,\)"),
    ("cross_entropy", 2, FLOATS.long(), r"expected class indices of shape \(8,\)"),
    ("cross_entropy", 2, INDICES[:1], r"expected class indices of shape \(8,\)"),
    (
        "cross_entropy",
        2,
        FLOATS[:, 0],
        r"class indices \(8,\), torch\.int64, or probabilities of the output's",
    ),
    ("cross_entropy", 2, INDICES > 0, r"targets \(8,\) of torch\.bool; expected class indices \(8,\), torch\.int64"),
]


@pytest.mark.parametrize("transformed", [False, True], ids=["plain", "vmapped"])
@pytest.mark.parametrize(("loss", "columns", "targets", "message"), MISFITS)
def test_a_loss_that_does_not_suit_is_an_error(loss, columns, targets, message, transformed):
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, columns))
    learner = make_learner(model, (group("0", "0", "2", 6),), loss=loss)
    state, batch = learner.init(KEY), (batch_at(0)[0], targets)
    step = torch.vmap(learner.step, in_dims=(0, None, None)) if transformed else learner.step
    state = pytree.tree_map(lambda leaf: leaf[None], state) if transformed else state
    with pytest.raises(ValueError, match=rf"^loss is '{loss}' with an output .*{message}"):
        step(state, batch, HYPER)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_class_indices_may_be_of_any_integer_dtype_and_targets_be_probabilities(dtype):
    output, indices = torch.arange(24.0).reshape(8, 3).sin(), torch.tensor([0, 2, 1, 0, 0, 1, 2, 2])
    expected = torch.nn.functional.cross_entropy(output, indices)
    assert fcbp.losses.cross_entropy(output, indices.to(dtype)).equal(expected)
    one_hot = torch.nn.functional.one_hot(indices).float()
    torch.testing.assert_close(fcbp.losses.cross_entropy(output, one_hot), expected)
    images = output.reshape(2, 3, 4)
    labels = indices.reshape(2, 4)
    assert fcbp.losses.cross_entropy(images, labels).equal(torch.nn.functional.cross_entropy(images, labels))


WRONG_PARTS = [
    ({"loss": torch.nn.Linear(2, 2)}, "loss is a model, Linear; expected one of cross_entropy, mse, or a function"),
    ({"loss": torch.nn.Sequential()}, "loss is a model, Sequential; expected"),
    ({"loss": torch.nn.MSELoss}, r"loss is the class MSELoss; expected .*MSELoss\(\) makes one"),
    ({"loss": lambda output: output.sum()}, r"loss is <function .*which does not take \(output, targets\)"),
    ({"loss": None}, "loss is None; expected one of"),
    ({"loss": 3}, "loss is 3; expected one of"),
    ({"loss": "crossentropy"}, "loss is 'crossentropy'.*did you mean 'cross_entropy'"),
    ({"optimizer": "adm"}, "optimizer is 'adm'.*did you mean .*'adam'"),
    ({"optimizer": torch.optim.Adam}, "optimizer is the class Adam; expected one of adam, adamw, sgd"),
    ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer is SGD"),
    ({"optimizer": torch.nn.ReLU()}, "optimizer is a model, ReLU; expected"),
    ({"optimizer": lambda step: step}, "optimizer is <function .*cannot be called without numbers"),
    ({"optimizer": lambda: 3}, "optimizer is <function .*which makes 3; expected"),
    ({"optimizer": 3}, "optimizer is 3; expected"),
    ({"method": "cpb"}, "method is 'cpb'.*did you mean .*'cbp'"),
    ({"method": methods.cbp}, r"method is <function cbp.*expected one of .*call it first"),
    ({"method": torch.nn.Linear(2, 2)}, r"method is a model, Linear; expected one of .*, or a method such as[^;]*$"),
    ({"method": 3}, "method is 3; expected"),
    ({"draw": torch.nn.Linear(2, 2)}, "draw is Linear"),
    ({"draw": 3}, "draw is 3; expected a function key -> params"),
]


@pytest.mark.parametrize(("parts", "message"), WRONG_PARTS)
def test_a_part_of_another_kind_is_named(parts, message):
    with pytest.raises(ValueError, match=message):
        make_learner(*mlp(), **parts)


@pytest.mark.parametrize("loss", [torch.nn.MSELoss(), torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))])
def test_a_loss_without_parameters_may_be_a_module(loss):
    learner = make_learner(*mlp(), loss=loss)
    _, info = learner.step(learner.init(KEY), batch_at(0), HYPER)
    assert info["loss"].isfinite()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda y, t: (y - t).square(), r"loss gives a tensor \(8, 2\) of torch\.float32; expected a 0-d"),
        (lambda y, t: (y > t).sum(), r"loss gives a tensor \(\) of torch\.int64; expected a 0-d floating-point"),
        (lambda y, t: 3.0, r"loss gives 3\.0; expected"),
        (lambda y, t: (y.sum(), {"best": 3.0}), r"loss gives 3\.0 in its aux; expected a pytree of tensors"),
        (lambda y, t: (y.sum(), None), r"loss gives None in its aux"),
    ],
)
def test_a_loss_that_gives_no_scalar_is_an_error(loss, message):
    learner = make_learner(*mlp(), loss=loss)
    with pytest.raises(ValueError, match=message):
        learner.step(learner.init(KEY), batch_at(0), HYPER)


def test_bad_input():
    model, units = mlp()
    with pytest.raises(ValueError, match=r"loss is 'mes'.*'mse'"):
        make_learner(model, units, loss="mes")
    with pytest.raises(ValueError, match="model is 3; expected a module"):
        make_learner(3, units)
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
