"""Robots of MuJoCo equal Gymnasium's to the bit, member by member, and go on from a checkpoint with the same bits."""

import math

import numpy as np
import optree
import pytest
import torch
from interruption import raise_after
from robot_program import wandering

import fcbp
from fcbp import envs, random

pytest.importorskip("mujoco")
gymnasium = pytest.importorskip("gymnasium")

IDS = {
    "ant": ("Ant-v5", {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0}),
    "half-cheetah": ("HalfCheetah-v5", {}),
    "hopper": ("Hopper-v5", {}),
    "walker2d": ("Walker2d-v5", {}),
}
NAMES = sorted(IDS)


def started(environment, robot):
    """The state at the start of Gymnasium's episode."""
    data, model = robot.data, robot.model
    state = environment.reset(random.key(0), environment.physics)
    numbers = np.concatenate([data.qpos, data.qvel])
    simulator = state.simulator.clone()
    simulator[1 : 1 + model.nq + model.nv] = torch.from_numpy(numbers)
    return state._replace(simulator=simulator, place=torch.from_numpy(data.qpos[:2].copy()))


@pytest.mark.parametrize(("name", "friction"), [*((name, 1.0) for name in NAMES), ("ant", 0.1)])
def test_a_thousand_steps_are_those_of_gymnasium(name, friction):
    pytest.importorskip("imageio")
    made, options = IDS[name]
    other = gymnasium.make(made, disable_env_checker=True, **options)
    robot = other.unwrapped
    robot.model.geom_friction[:, 0] *= friction
    environment = envs.get(name, dtype=torch.float64)
    physics = environment.physics._replace(friction=friction)
    draws = np.random.default_rng(0)
    state, ends = None, 0
    for step in range(1000):
        if state is None:
            first, _ = other.reset(seed=step)
            state = started(environment, robot)
            assert np.array_equal(environment.observe(state, physics).numpy(), first)
        action = draws.uniform(-1, 1, robot.model.nu)
        observation, reward, terminated, truncated, _ = other.step(action)
        state, seen, got, over, cut = environment.step(state, torch.from_numpy(action), physics)
        np.testing.assert_allclose(seen.numpy(), observation, rtol=1e-12, atol=1e-12)
        assert float(got) == pytest.approx(reward, rel=1e-12, abs=1e-12)
        assert (bool(over), bool(cut)) == (terminated, truncated)
        if terminated or truncated:
            state, ends = None, ends + 1
    assert ends > 0


def test_the_ant_has_the_observations_of_the_published_runs():
    ant = envs.get("ant")
    assert (ant.observation_size, ant.actions.size, ant.time_limit) == (27, 8, 1000)


@pytest.mark.parametrize("name", NAMES)
def test_starts_are_those_of_gymnasium(name):
    environment = envs.get(name, dtype=torch.float64)
    states = torch.vmap(environment.reset, in_dims=(0, None))(random.split(random.key(0), 4000), environment.physics)
    seen = torch.vmap(environment.observe, in_dims=(0, None))(states, environment.physics)
    noise = 0.1 if name in ("ant", "half-cheetah") else 5e-3
    size = envs.get(name).actions.size
    assert seen.shape == (4000, environment.observation_size)
    spread = seen.std(0)
    torch.testing.assert_close(
        spread[:3], torch.full((3,), noise / math.sqrt(3), dtype=torch.float64), rtol=0.05, atol=0
    )
    velocity = noise if noise == 0.1 else noise / math.sqrt(3)
    expected = torch.full((size,), velocity, dtype=torch.float64)
    torch.testing.assert_close(spread[-size:], expected, rtol=0.08, atol=0)


def members(environment, count):
    keys = random.split(random.key(2), count)
    states = torch.vmap(environment.reset, in_dims=(0, None))(keys, environment.physics)
    actions = torch.vmap(lambda key: random.uniform(key, (environment.actions.size,), minval=-1.0, maxval=1.0))(keys)
    return states, actions


@pytest.mark.parametrize("name", NAMES)
def test_members_of_a_friction_each_are_the_same_side_by_side_as_alone(name):
    environment = envs.get(name)
    states, actions = members(environment, 5)
    kept = states.simulator.clone()
    frictions = torch.tensor([0.02, 0.2, 1.0, 2.0, 1.0])

    def run(state, action, friction):
        physics = environment.physics._replace(friction=friction)
        for _ in range(30):
            state, observation, reward, *_ = environment.step(state, action, physics)
        return state, observation, reward

    together = torch.vmap(run)(states, actions, frictions)
    for i in range(5):
        alone = run(optree.tree_map(lambda leaf: leaf[i], states), actions[i], frictions[i])  # noqa: B023
        for one, other in zip(optree.tree_leaves(alone), optree.tree_leaves(together), strict=True):
            assert torch.equal(one, other[i])
    assert torch.equal(states.simulator, kept)


@pytest.mark.parametrize(("number", "value"), [("friction", 0.05), ("gravity", 3.0), ("gain", -1.0)])
def test_every_number_of_the_physics_moves_the_ant(number, value):
    ant = envs.get("ant")
    state = start = ant.reset(random.key(0), ant.physics)
    changed = ant.physics._replace(**{number: value})
    action = torch.full((8,), 0.5)
    for _ in range(60):
        state, seen, *_ = ant.step(state, action, ant.physics)
        start, other, *_ = ant.step(start, action, changed)
    assert float((seen - other).abs().max()) > 1e-3


def test_a_member_that_is_not_finite_ends_as_nan_alone_with_one_line():
    hopper = envs.get("hopper")
    states, actions = members(hopper, 3)
    broken = states.simulator.clone()
    broken[1, 1 + 6 : 1 + 12] = 1e12  # finite, yet beyond what MuJoCo takes
    step = torch.vmap(hopper.step, in_dims=(0, 0, None))
    expected = step(states, actions, hopper.physics)[1]
    with pytest.warns(RuntimeWarning, match=r"^MuJoCo, member 1: mjWARN_BADQVEL; it goes on as NaN$") as told:
        after, seen, reward, *_ = step(states._replace(simulator=broken), actions, hopper.physics)
    assert len(told) == 1
    assert torch.equal(seen[[0, 2]], expected[[0, 2]])
    assert bool(seen[1].isnan().all())
    assert bool(reward[1].isnan())
    assert bool(step(after, actions, hopper.physics)[1][1].isnan().all())  # and no second line


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"friction": 0.0}, r"physics.friction is 0.0; expected a number above 0"),
        ({"friction": math.nan}, r"physics.friction is nan; expected a number above 0"),
        ({"gravity": math.inf}, r"physics.gravity is inf; expected a finite number"),
    ],
)
def test_physics_out_of_their_range_are_refused(numbers, message):
    ant = envs.get("ant")
    with pytest.raises(ValueError, match=message):
        ant.reset(random.key(0), ant.physics._replace(**numbers))
    with pytest.raises(ValueError, match=r"action is .*; expected a floating-point tensor \(8,\)"):
        ant.step(ant.reset(random.key(0), ant.physics), torch.zeros(3), ant.physics)


def test_without_mujoco_the_error_names_the_extra(monkeypatch):
    import sys

    from fcbp.envs import mujoco

    monkeypatch.setitem(sys.modules, "mujoco", None)
    mujoco._simulator.cache_clear()
    with pytest.raises(ImportError, match=r"mujoco is not installed.*pip install 'fcbp\[rl\]'"):
        envs.get("ant")


def test_a_sweep_goes_on_from_a_checkpoint_with_the_same_bits(tmp_path, monkeypatch):
    members = fcbp.grid(seed=range(2), friction=[0.5, 1.0])
    options = {"steps": 60, "bin": 5, "compile": False, "progress": False}
    whole = fcbp.sweep(wandering, members, **options)
    with monkeypatch.context() as patch:
        raise_after(patch, 5, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            fcbp.sweep(wandering, members, out=tmp_path, checkpoint_every=0, **options)
    assert fcbp.sweeps.state(tmp_path) == "interrupted"
    resumed = fcbp.resume(tmp_path, progress=False)
    for variable in ("reward", "ended"):
        assert np.array_equal(whole[variable].values, resumed[variable].values)
    assert np.isfinite(whole["reward"].values).all()
    assert whole["ended"].values.sum() > 0
