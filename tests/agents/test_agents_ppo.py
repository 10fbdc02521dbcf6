"""Agents as programs: pure, side by side as alone, and of any method."""

import itertools

import optree
import pytest
import torch
from agent_runs import run, same, settings

import fcbp
from fcbp import agents
from fcbp.agents.advantages import advantages
from fcbp.cli import main

TINY = {"hidden": (8,), "copies": 2, "horizon": 8, "epochs": 2, "minibatch": 8, "time_limit": 5}


def stacked(trees):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


VARIANTS = {
    "plain": {},
    "shared": {"shared": True, "activation": "relu"},
    "normalised": {"normalize_observations": True, "normalize_rewards": True, "normalize_advantages": "batch"},
    "scheduled": {"schedule": "linear", "clip_values": True, "bootstrap_truncated": False},
    "levels": {"change": "offset", "task_length": 2, "method": "full-reset"},
    "cbp": {"method": "cbp"},
    "gaussian": {"environment": "pendulum", "policy": "gaussian"},
    "squashed": {"environment": "pendulum", "policy": "squashed"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_population_is_each_agent_by_itself(variant):
    program = agents.ppo(**{**TINY, **VARIANTS[variant]})
    alone = [run(program, seed, step_size=size) for seed, size in ((0, 0.01), (1, 0.001))]
    both = stacked([settings(program, step_size=size) for size in (0.01, 0.001)])
    state = torch.vmap(program.init)(fcbp.random.key(torch.tensor([0, 1])), both)
    for _ in range(3):
        before = optree.tree_map(torch.clone, state)
        new, _ = torch.vmap(program.step)(state, both)
        assert same(before, state)
        state = new
    for i, (expected, _) in enumerate(alone):
        mine = optree.tree_map(lambda leaf, i=i: leaf[i], state)
        for a, b in zip(optree.tree_leaves(mine), optree.tree_leaves(expected), strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    again, _ = run(program, 0, step_size=0.01)
    assert same(again, alone[0][0])
    assert not same(run(program, 2, step_size=0.01)[0].learner.params, again.learner.params)


@pytest.mark.parametrize("method", sorted(fcbp.methods.METHODS))
def test_every_method_serves_an_agent(method):
    program = agents.ppo(**TINY, change="offset", task_length=2, method=method, activation="relu")
    state, told = run(program, steps=2)
    assert all(torch.isfinite(leaf).all() for leaf in optree.tree_leaves(state.learner.params))
    assert torch.isfinite(told[-1]["policy_loss"])


def test_orthogonal_weights_have_the_gains_of_cleanrl_and_serve_a_method_that_draws():
    program = agents.ppo(**{**TINY, "hidden": (8, 16)}, method="cbp", initializer="orthogonal", capacity=4)
    keys = fcbp.random.key(torch.tensor([0, 1, 2]))
    params = torch.vmap(program.init, (0, None))(keys, settings(program)).learner.params
    gains = {"policy.0": 2**0.5, "policy.2": 2**0.5, "policy.4": 0.01, "value.0": 2**0.5, "value.4": 1.0}
    for layer, gain in gains.items():
        values = torch.linalg.svdvals(params[f"{layer}.weight"])
        torch.testing.assert_close(values, torch.full_like(values, gain))
    alone = program.init(keys[1], settings(program)).learner.params
    assert same(alone, {name: p[1] for name, p in params.items()})
    # No direction is favoured: the signs of the first entry are both.
    first = torch.vmap(program.init, (0, None))(fcbp.random.key(torch.arange(64)), settings(program)).learner.params
    assert 10 < int((first["value.2.weight"][:, 0, 0] > 0).sum()) < 54
    _, told = run(program, steps=4, replacement_rate=0.3, maturity_threshold=1.0)
    assert sum(int(one["units_replaced"]) for one in told) > 0


@pytest.mark.parametrize("normalize", [False, True])
def test_the_value_after_a_step_is_that_of_the_observation_at_its_end(monkeypatch, normalize):
    program = agents.ppo(**TINY, normalize_observations=normalize)
    agent, mine = program.step.__self__, settings(program)
    state, _ = program.step(program.init(fcbp.random.key(0), mine), mine)
    rollouts, given, play = [], [], agent.rollout

    def played(*args, **options):
        copies, rollout = play(*args, **options)
        rollouts.append(rollout)
        return copies, rollout

    def estimated(rewards, values, next_values, *rest, **options):
        given.append((values, next_values))
        return advantages(rewards, values, next_values, *rest, **options)

    monkeypatch.setattr(agent, "rollout", played)
    monkeypatch.setitem(type(agent).step.__globals__, "advantages", estimated)
    program.step(state, mine)
    (rollout,), ((values, next_values),) = rollouts, given
    assert rollout.truncated[:-1].any()

    def judged(observations):
        seen = agent._seen(observations, state.of_observations).flatten(0, 1)
        return agent.forward(state.learner.params, {}, seen)[0][1].reshape(observations.shape[:2])

    torch.testing.assert_close(values, judged(rollout.observations))
    goes_on = ~rollout.terminated
    torch.testing.assert_close(next_values[goes_on], judged(rollout.final_observations)[goes_on])


def test_cbp_at_rate_zero_is_plain_ppo_to_the_bit():
    plain, told = run(agents.ppo(**TINY, activation="relu"))
    other, others = run(agents.ppo(**TINY, activation="relu", method="cbp"), replacement_rate=0.0)
    assert same(plain.learner.params, other.learner.params)
    assert same(plain.copies, other.copies)
    assert torch.equal(told[-1]["episode_return"], others[-1]["episode_return"])


def test_cbp_replaces_units_of_actor_and_critic():
    program = agents.ppo(**TINY, activation="relu", method="cbp", capacity=4)
    state, told = run(program, steps=4, replacement_rate=0.3, maturity_threshold=1.0)
    assert sum(int(one["units_replaced"]) for one in told) > 0
    ages = state.learner.method.age
    assert set(ages) == {"policy.0", "value.0"}
    assert all(int(age.min()) < 16 for age in ages.values())


@pytest.mark.slow
def test_a_bin_without_an_ending_has_no_return():
    options = {**TINY, "time_limit": 20}
    results = fcbp.sweep(agents.ppo, fcbp.grid(seed=[0], **{n: [v] for n, v in options.items()}), steps=6, bin=1)
    ended = results["episodes"].squeeze().values
    returns = results["episode_return"].squeeze().values
    lengths = results["episode_length"].squeeze().values
    assert (ended == 0).any()
    assert (ended > 0).any()
    assert ((ended == 0) == (returns != returns)).all()
    assert (returns[ended > 0] == lengths[ended > 0]).all()
    assert results.attrs["members_with_nan"] == 0


def test_the_return_of_a_bin_is_the_mean_of_its_episodes():
    program = agents.ppo(**TINY)
    _, told = run(program, steps=4)
    expected = sum(float(x["episode_return"]) for x in told) / sum(int(x["episodes"]) for x in told)
    results = fcbp.sweep(program, fcbp.grid(seed=[0]), steps=4, bin=4, progress=False)
    assert results["episode_return"].item() == pytest.approx(expected)


@pytest.mark.slow
def test_levels_are_tasks_and_the_observations_change_with_them():
    program = agents.ppo(**TINY, change="offset", task_length=2)
    mine = settings(program)
    state = program.init(fcbp.random.key(0), mine)
    seen = []
    for _ in range(6):
        state, _ = program.step(state, mine)
        seen.append(state.watched[:4].mean(0))
    moved = [(a - b).abs().max() for a, b in itertools.pairwise(seen)]
    assert [bool(x > 0.4) for x in moved] == [False, True, False, True, False]
    results = fcbp.sweep(program, fcbp.grid(seed=[0, 1]), steps=6, bin="task", progress=False)
    assert dict(results["episode_return"].sizes) == {"seed": 2, "task": 3}


def test_a_full_reset_gives_each_level_new_weights_before_its_first_rollout():
    program = agents.ppo(**TINY, change="offset", task_length=2, method="full-reset")
    first, told = run(program, steps=2)
    assert int(told[-1]["weights_reset"]) == sum(p.numel() for p in first.learner.params.values())
    assert all(int(step.max()) == 0 for step in first.learner.opt_state.step.values())
    assert int(told[0]["weights_reset"]) == 0


def test_a_fresh_agent_is_drawn_anew_before_a_level_s_first_rollout():
    options = {**TINY, "change": "offset", "task_length": 2}
    options |= {"normalize_observations": True, "normalize_rewards": True}
    program = agents.ppo(**options, method="fresh")
    before, _ = run(program, steps=2)
    numbers = settings(program)
    seen = []

    def told(state, begins):
        seen.append(renewed(state, begins))
        return seen[-1]

    agent = program.step.__self__
    renewed, agent._renewed = agent._renewed, told
    program.step(before, numbers)
    (anew,) = seen
    _, number = anew.learner.renewal
    expected = agents.ppo(**options).init(fcbp.random.key(0), numbers)
    assert int(number) == 1
    assert not same(anew.learner.params, before.learner.params)
    assert all(int(step.max()) == 0 for step in anew.learner.opt_state.step.values())
    assert same((anew.of_observations, anew.of_returns), (expected.of_observations, expected.of_returns))
    # In the middle of a level, and in all its updates, nothing is drawn.
    state, _ = program.step(before, numbers)
    assert int(state.learner.renewal[1]) == 1
    state, _ = program.step(state, numbers)
    assert int(state.learner.renewal[1]) == 1
    updates = TINY["epochs"] * TINY["copies"] * TINY["horizon"] // TINY["minibatch"]
    assert all(int(step.max()) == 2 * updates for step in state.learner.opt_state.step.values())


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["cartpole", "acrobot", "mountain-car", "pendulum"])
def test_rollouts_can_run_in_lanes(environment, monkeypatch):
    found = []

    def explained(step, carry, xs=None, length=None, **how):
        found.append(fcbp.loop.explain(step, carry, xs))
        return scan(step, carry, xs, length, **how)

    scan = fcbp.loop.scan
    monkeypatch.setattr(fcbp.loop.scanning, "scan", explained)
    program = agents.ppo(**{**TINY, "environment": environment})
    numbers = stacked([settings(program)] * 16)
    state = torch.vmap(program.init)(fcbp.random.key(torch.arange(16)), numbers)
    torch.vmap(program.step)(state, numbers)
    assert "operation" not in found[0].reason, found[0]


def test_a_fresh_agent_is_plain_until_the_second_level():
    options = {**TINY, "change": "offset", "task_length": 3}
    fresh, _ = run(agents.ppo(**options, method="fresh"))
    plain, _ = run(agents.ppo(**options))
    assert same(fresh.learner.params, plain.learner.params)


@pytest.mark.slow
def test_an_agent_that_is_resumed_goes_on_to_the_same_bits(tmp_path):
    members = fcbp.grid(seed=[0, 1], method=["cbp"], **{name: [value] for name, value in TINY.items()})
    whole = fcbp.sweep(agents.ppo, members, steps=6, bin=2, progress=False)

    class Stop(Exception):
        pass

    import fcbp.sweeps.advance as advance

    original, calls = advance.Advance.__call__, []

    def stopping(self, carry, steps):
        calls.append(steps)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, carry, steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advance.Advance, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            fcbp.sweep(agents.ppo, members, steps=6, bin=2, out=tmp_path / "run", checkpoint_every=0, progress=False)
    resumed = fcbp.resume(tmp_path / "run", progress=False)
    for name in whole.data_vars:
        assert (whole[name].values == resumed[name].values).all() or name == "episode_return"


def test_a_member_whose_observation_is_not_finite_alone_ends_as_nan():
    results = fcbp.sweep(agents.ppo(**TINY), fcbp.grid(seed=[0], force=[10.0, 3e38]), steps=3, bin=1, progress=False)
    losses = results["value_loss"].squeeze("seed").values
    assert (losses[0] == losses[0]).all()
    assert (losses[1] != losses[1]).any()
    assert results.attrs["members_with_nan"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"copies": 0}, "copies is 0"),
        ({"horizon": -1}, "horizon is -1"),
        ({"epochs": 0}, "epochs is 0"),
        ({"minibatch": 7}, "minibatch is 7, which does not divide"),
        ({"minibatch": 32}, "minibatch is 32; expected at most"),
        ({"minibatch": 1}, "no standard deviation"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"environment": "cartpol"}, "did you mean 'cartpole'"),
        ({"method": "cpb"}, "or 'cbp'"),
        ({"policy": "catgorical"}, "did you mean 'categorical'"),
        ({"policy": "gaussian"}, "policy is 'gaussian'"),
        ({"change": "ofset", "task_length": 2}, "did you mean 'offset'"),
        ({"change": "offset"}, "task_length is None"),
        ({"task_length": 0}, "task_length is 0"),
        ({"method": "full-reset"}, "acts where a level ends"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"initializer": "lecun_unifrm"}, "did you mean 'lecun_uniform'"),
        ({"schedule": "lineer"}, "did you mean 'linear'"),
        ({"normalize_advantages": "all"}, "normalize_advantages is 'all'"),
        ({"measure": "weight"}, "measure is 'weight'"),
        ({"hidden": (0,)}, "hidden"),
        ({"capacity": -1, "method": "cbp"}, "capacity is -1"),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_a_wrong_option_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        agents.ppo(**{**TINY, **options})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discount", 1.5),
        ("trace_decay", -0.1),
        ("clip_range", 0.0),
        ("value_weight", -1.0),
        ("entropy_weight", float("nan")),
        ("reward_scale", 0.0),
        ("step_size", -1.0),
        ("beta1", 1.0),
        ("clip", -1.0),
        ("pole_mass", -1.0),
        ("replacement_rate", -1.0),
        ("decay_rate", 2.0),
    ],
)
def test_a_wrong_number_is_named_before_any_work(name, value):
    program = agents.ppo(**TINY, method="cbp")
    with pytest.raises(ValueError, match=name.replace("beta1", "beta")):
        fcbp.sweep(program, fcbp.grid(seed=[0], **{name: [value]}), steps=2, progress=False)


@pytest.mark.parametrize("name", sorted(fcbp.experiment.PROGRAMS))
def test_a_named_program_runs_in_python(name):
    small = {"hidden": (8,), "copies": 2, "horizon": 8, "minibatch": 8, "epochs": 1, "task_length": 2}
    results = fcbp.sweep(
        name, fcbp.grid(seed=[0], **{n: [v] for n, v in small.items()}), steps=4, bin="task", progress=False
    )
    assert dict(results["episode_return"].squeeze().sizes) == {"task": 2}


@pytest.mark.slow
def test_the_command_lists_each_method_with_the_numbers_that_it_has(tmp_path, capsys):
    words = "run continual-cartpole --method bp cbp --replacement-rate 0.1 0.2 --seeds 2 --steps 4 --task-length 2"
    sizes = "--hidden 8 --copies 2 --horizon 8 --minibatch 8 --epochs 1 --step-size 0.01"
    assert main([*words.split(), *sizes.split(), "--out", str(tmp_path / "run")]) == 0
    results = fcbp.open(tmp_path / "run")
    assert results["method"].values.tolist() == ["bp", "cbp", "cbp"]
    assert dict(results["episode_return"].sizes) == {"setting": 3, "seed": 2, "task": 2}
    assert "replacement_rate  episode return, first fifth" in capsys.readouterr().out


def test_the_command_takes_the_numbers_of_a_schedule(tmp_path):
    words = "run fcbp.agents.ppo:ppo --seeds 1 --steps 3 --bin 1 --compile False --hidden 8 --copies 2 --horizon 8"
    words = f"{words} --minibatch 8 --epochs 1 --schedule linear --decay-steps 1 6 --out {tmp_path / 'run'}"
    assert main(words.split()) == 0
    losses = fcbp.open(tmp_path / "run")["policy_loss"].squeeze("seed")
    assert losses.sizes["decay_steps"] == 2
    assert (losses.isel(decay_steps=0, step=2) != losses.isel(decay_steps=1, step=2)).all()
