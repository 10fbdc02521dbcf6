"""Parity with the original implementation, step by step."""

import optree
import pytest
import torch
from golden import LINEAR_CASES, LOSSES, TOLERANCE, Golden, hidden_groups, linspace_initializer, network

import fcbp
from fcbp import optim


def original_adam(betas, eps=1e-8):
    """Adam as the original computes it: the second moment's bias correction is lost, so a step is
    ``lr (1 - beta2^t) m / (sqrt(v) + eps)`` with t per element. The defect lives here and not in the library."""
    _, beta2 = betas
    proper = optim.adam(betas)

    def update(grads, state, params, step_size):
        _, state = proper.update(grads, state, params, step_size=0.0)

        def move(p, m, v, t):
            return p - step_size * (1 - beta2 ** t.double()).float() * m / (v.sqrt() + eps)

        return optree.tree_map(move, params, state.mean, state.mean_square, state.step), state

    return optim.Optimizer(proper.init, update)


@pytest.mark.parametrize("case", LINEAR_CASES)
def test_linear_networks_follow_the_original(case):
    golden = Golden(case)
    config = golden.config
    assert config["accumulate"]
    units = hidden_groups(golden)
    forward = fcbp.forward_with_features(network(golden), units)
    loss_function = LOSSES[config["loss"]]
    if config["opt"] == "adam":
        optimizer = original_adam((config["beta"], config["beta_2"]))
    else:
        optimizer = optim.sgd(momentum=config["momentum"])
    hyper = fcbp.Hyperparams(config["replacement_rate"], config["maturity_threshold"], config["decay_rate"])
    initializer = linspace_initializer(fcbp.initializers.gain(config["hidden_activation"]))

    def objective(params, x, y):
        output, features, _ = forward(params, {}, x)
        return loss_function(output, y), features

    params = golden.under("init/")
    opt_state = optimizer.init(params)
    state = fcbp.init_state(units, params, fcbp.random.key(0))
    inputs, targets = golden.tensor("inputs").float(), golden.tensor("targets")
    if config["loss"] == "nll":
        targets = targets.long()
    snapshots = set(golden.arrays["snap_steps"].tolist())
    losses, events = [], []

    for t in range(1, config["n_steps"] + 1):
        gradient = torch.func.grad_and_value(objective, has_aux=True)
        grads, (loss, features) = gradient(params, inputs[t - 1], targets[t - 1])
        losses.append(loss)
        params, opt_state = optimizer.update(grads, opt_state, params, step_size=config["step_size"])
        state = fcbp.update_utility(state, params, features, hyper, units=units, measure=config["util_type"])
        params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units, initializer=initializer)
        opt_state = fcbp.reset_moments(opt_state, replaced, units=units)
        for g, group in enumerate(units):
            events += [(t, g, unit) for unit in replaced[group.name].nonzero().flatten().tolist()]
        if t in snapshots:
            check_snapshot(golden, t, params, state, opt_state, units)

    assert events == golden.events()
    torch.testing.assert_close(torch.stack(losses), golden.tensor("loss"), **TOLERANCE)
    assert len(snapshots) > 3


def check_snapshot(golden, t, params, state, opt_state, units):
    for name, expected in golden.under(f"snap/{t}/param/").items():
        torch.testing.assert_close(params[name], expected, **TOLERANCE)
    for group in units:
        expected = golden.under(f"snap/{t}/{group.name}/")
        torch.testing.assert_close(state.age[group.name].float(), expected["ages"])
        torch.testing.assert_close(state.utility[group.name], expected["util"], **TOLERANCE)
        torch.testing.assert_close(state.mean_activation[group.name], expected["mean_feature_act"], **TOLERANCE)
        torch.testing.assert_close(
            state.owed[group.name], expected["accumulated_num_features_to_replace"].double(), **TOLERANCE
        )
    moments = golden.under(f"snap/{t}/opt/")
    assert bool(moments) == (golden.config["opt"] == "adam")
    for field, key in (("mean", "exp_avg"), ("mean_square", "exp_avg_sq"), ("step", "step")):
        for name, expected in moments.items():
            if name.endswith(f"/{key}"):
                ours = getattr(opt_state, field)[name.removesuffix(f"/{key}")]
                torch.testing.assert_close(ours.float(), expected.float().expand_as(ours), **TOLERANCE)
