"""Programs of a user's own that are no learner on a stream: a bandit with an agent, a training step written by hand,
and a map with large constants."""

import torch

import fcbp

ARMS = 4
CONSTANTS = torch.linspace(0, 1, 250_000)


def bandit(arms=ARMS, greedy=False):
    """An agent that estimates the arms of a bandit whose means drift."""

    def init(key, settings):
        keys = fcbp.random.split(key, 2)
        return {"key": keys[0], "means": fcbp.random.normal(keys[1], (arms,)), "estimates": torch.zeros(arms)}

    def step(carry, settings):
        key, explore, arm, noise, drift = fcbp.random.split(carry["key"], 5)
        best = carry["estimates"].argmax()
        chosen = torch.where(
            fcbp.random.uniform(explore) < settings["exploration"] * (not greedy),
            fcbp.random.bits(arm) % arms,
            best,
        )
        picked = torch.arange(arms) == chosen
        reward = (picked * carry["means"]).sum() + fcbp.random.normal(noise)
        estimates = carry["estimates"] + settings["rate"] * picked * (reward - carry["estimates"])
        means = carry["means"] + 0.01 * fcbp.random.normal(drift, (arms,))
        measured = {"reward": reward, "explored": chosen != best, "arm": chosen}
        return {"key": key, "means": means, "estimates": estimates}, measured

    def probe(carry, settings):
        return {"regret": carry["means"].max() - carry["means"][carry["estimates"].argmax()]}

    return fcbp.Program(init, step, probe, numbers={"exploration": 0.1, "rate": 0.1})


model = torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
units = fcbp.find_units(model, torch.zeros(1, 20))
forward = fcbp.forward_with_features(model, units)
sgd = fcbp.optim.sgd(momentum=0.9)


def train_init(key, settings):
    keys = fcbp.random.split(key, 3)
    params = fcbp.learner.draw_params(model, keys[0])
    return params, sgd.init(params), fcbp.init_state(units, params, keys[1]), keys[2]


def train_step(carry, settings):
    params, opt_state, state, key = carry
    key, now = fcbp.random.split(key)
    x = fcbp.random.normal(now, (1, 20))

    def loss_fn(params):
        output, features, _ = forward(params, {}, x)
        return torch.nn.functional.mse_loss(output, x[:, :1].sin()), features

    hyper = fcbp.Hyperparams(settings["replacement_rate"], maturity_threshold=10, decay_rate=0.99)
    grads, (loss, features) = torch.func.grad_and_value(loss_fn, has_aux=True)(params)
    params, opt_state = sgd.update(grads, opt_state, params, step_size=settings["step_size"])
    state = fcbp.update_utility(state, params, features, hyper, units=units)
    params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
    opt_state = fcbp.reset_moments(opt_state, replaced, units=units)
    count = sum(mask.sum() for mask in replaced.values())
    return (params, opt_state, state, key), {"loss": loss, "replaced": count}


training = fcbp.Program(train_init, train_step, numbers={"step_size": 0.01, "replacement_rate": None})


def read_init(key, settings):
    return fcbp.random.bits(key) % len(CONSTANTS)


def read_step(place, settings):
    value = CONSTANTS[place]
    return (place * 7 + settings["shift"].to(torch.int64)) % len(CONSTANTS), {"value": value}


reading = fcbp.Program(read_init, read_step, numbers=["shift"])


def grow_init(key, settings):
    return fcbp.random.uniform(key)


def grow_step(x, settings):
    return x * settings["factor"], {"size": x, "large": x > 1, "digits": x.clamp(max=1e6).log2().to(torch.int32)}


growing = fcbp.Program(grow_init, grow_step, numbers={"factor": 2.0})
