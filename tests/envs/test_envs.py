"""Environments equal Gymnasium's step for step, keep the library's promises, and refuse what cannot be."""

from __future__ import annotations

import math

import numpy as np
import optree
import pytest
import torch

import fcbp
from fcbp import envs, loop, random

NAMES = ["acrobot", "cartpole", "continuous-mountain-car", "mountain-car", "pendulum"]
STEPS = 10_000


# --- Gymnasium's episodes ---------------------------------------------------------------------------------

IDS = {
    "acrobot": "Acrobot-v1",
    "cartpole": "CartPole-v1",
    "continuous-mountain-car": "MountainCarContinuous-v0",
    "mountain-car": "MountainCar-v0",
    "pendulum": "Pendulum-v1",
}
# Gymnasium keeps the state of this one in float32.
TOLERANCE = dict.fromkeys(NAMES, 1e-12) | {"continuous-mountain-car": 1.2e-7}


def chosen(name, state, episode, draws):
    """An action; the kind of the episode says how, so that together they come to every ending."""
    kind = episode % 4
    if name == "cartpole":
        x, x_dot, theta, theta_dot = state
        lean = [None, 0.0, 0.08, -0.08][kind]
        if lean is None:
            return int(draws.integers(2))
        centre = 0.1 * x + 0.2 * x_dot if kind == 1 else 0.0
        return int(theta - lean + 0.3 * theta_dot + centre > 0)
    if name == "pendulum":
        return np.array([draws.uniform(-3, 3) if kind % 2 else 2.5 * np.sign(state[1])])
    speed = state[2] if name == "acrobot" else state[1]
    if name == "continuous-mountain-car":
        return np.array([draws.uniform(-1.5, 1.5) if kind == 0 else 1.2 * np.sign(speed)])
    if kind == 0:
        return int(draws.integers(3))
    return int(1 - np.sign(speed)) if name == "acrobot" else int(1 + np.sign(speed))


@pytest.fixture(scope="module", params=NAMES)
def episodes(request):
    """10,000 steps of Gymnasium: the states before and after, what was done and what came of it."""
    gymnasium = pytest.importorskip("gymnasium")
    name = request.param
    environment = gymnasium.make(IDS[name], disable_env_checker=True)
    draws = np.random.default_rng(0)
    rows = {key: [] for key in ("before", "steps", "action", "after", "observation", "reward", "terminated", "limit")}
    episode, steps = -1, None
    for _ in range(STEPS):
        if steps is None:
            environment.reset(seed=len(rows["steps"]))
            episode, steps = episode + 1, 0
        state = np.array(environment.unwrapped.state, dtype=np.float64)
        action = chosen(name, state, episode, draws)
        observation, reward, terminated, truncated, _ = environment.step(action)
        after = np.array(environment.unwrapped.state, dtype=np.float64)
        for key, value in zip(
            rows, (state, steps, action, after, observation, reward, terminated, truncated), strict=True
        ):
            rows[key].append(value)
        steps = None if terminated or truncated else steps + 1
    return name, {key: torch.as_tensor(np.array(values)) for key, values in rows.items()}


def state_from(environment, numbers, steps):
    """The states with these numbers in each row."""
    kind = type(environment.reset(random.key(0), environment.physics))
    return kind(*numbers.unbind(-1), steps.to(torch.int32))


def numbers_of(state):
    return torch.stack(state[:-1], -1)


def vmapped(environment):
    return torch.vmap(environment.step, in_dims=(0, 0, None))


def test_each_step_is_that_of_gymnasium(episodes):
    name, rows = episodes
    environment = envs.get(name, dtype=torch.float64)
    before = state_from(environment, rows["before"], rows["steps"])
    state, observation, reward, terminated, truncated = vmapped(environment)(
        before, rows["action"], environment.physics
    )
    near = {"rtol": TOLERANCE[name], "atol": TOLERANCE[name]}
    torch.testing.assert_close(numbers_of(state), rows["after"], **near)
    torch.testing.assert_close(reward, rows["reward"].to(torch.float64), **near)
    torch.testing.assert_close(observation.to(torch.float32), rows["observation"])
    assert torch.equal(terminated, rows["terminated"])
    assert torch.equal(truncated, rows["limit"])


def test_gymnasium_came_to_every_ending(episodes):
    name, rows = episodes
    ends = rows["terminated"]
    assert bool(rows["limit"].any())
    assert bool(ends.any()) == (name != "pendulum")
    after = rows["after"]
    if name == "cartpole":
        for column, bound in ((0, 2.4), (2, 12 * math.pi / 180)):
            assert bool((after[ends, column] > bound).any())
            assert bool((after[ends, column] < -bound).any())
    if "mountain" in name:
        assert bool((after[:, 0] == after[:, 0].min()).sum() > 1)  # it hit the wall
    if name == "acrobot":
        turned = (after[:, :2] - rows["before"][:, :2]).abs() > math.pi
        assert bool(turned.any())


@pytest.mark.parametrize(("dtype", "length", "near"), [(torch.float64, 100, 1e-6), (torch.float32, 20, 2e-3)])
def test_a_run_of_its_own_stays_with_gymnasium(episodes, dtype, length, near):
    name, rows = episodes
    near = max(near, 1e-5 if name == "continuous-mountain-car" else 0.0)
    environment = envs.get(name, dtype=dtype)
    starts = (rows["steps"] == 0).nonzero()[:, 0]
    starts = starts[starts + length < STEPS]
    action = rows["action"].to(dtype) if rows["action"].is_floating_point() else rows["action"]
    state = state_from(environment, rows["before"][starts].to(dtype), rows["steps"][starts])
    going = torch.ones_like(starts, dtype=torch.bool)
    for i in range(length):
        state, observation, *_ = vmapped(environment)(state, action[starts + i], environment.physics)
        assert observation.dtype == dtype
        seen = rows["observation"][starts + i].to(torch.float64)
        torch.testing.assert_close(observation.to(torch.float64)[going], seen[going], rtol=near, atol=near)
        going &= ~(rows["terminated"] | rows["limit"])[starts + i]
        if not bool(going.any()):
            break
    assert i > 5


def test_rewards_are_those_of_gymnasium_when_the_car_arrives():
    car = envs.get("continuous-mountain-car", dtype=torch.float64)
    state = envs.MountainCarState(*torch.tensor([0.449, 0.05], dtype=torch.float64), torch.tensor(3, dtype=torch.int32))
    _, _, reward, terminated, _ = car.step(state, torch.tensor([2.0], dtype=torch.float64), car.physics)
    assert bool(terminated)
    assert float(reward) == pytest.approx(100 - 0.1 * 2.0**2)


# --- starts -----------------------------------------------------------------------------------------------

STARTS = {
    "acrobot": [(-0.1, 0.1)] * 4,
    "cartpole": [(-0.05, 0.05)] * 4,
    "continuous-mountain-car": [(-0.6, -0.4), (0, 0)],
    "mountain-car": [(-0.6, -0.4), (0, 0)],
    "pendulum": [(-math.pi, math.pi), (-1, 1)],
}


@pytest.mark.parametrize("name", NAMES)
def test_starts_are_uniform_in_the_bounds_of_gymnasium(name):
    environment = envs.get(name)
    count = 20_000
    keys = random.split(random.key(3), count)
    state = torch.vmap(environment.reset, in_dims=(0, None))(keys, environment.physics)
    assert int(state.steps.abs().sum()) == 0
    assert len(STARTS[name]) == len(state) - 1
    for numbers, (low, high) in zip(state[:-1], STARTS[name], strict=True):
        assert float(numbers.min()) >= low - 1e-6
        assert float(numbers.max()) <= high + 1e-6
        width = high - low
        assert float(numbers.mean()) == pytest.approx((low + high) / 2, abs=5 * width / math.sqrt(12 * count) + 1e-7)
        assert float(numbers.std()) == pytest.approx(width / math.sqrt(12), rel=0.03)
    if name not in ("mountain-car", "continuous-mountain-car"):
        assert float(torch.corrcoef(numbers_of(state)[:, :2].T)[0, 1]) == pytest.approx(0, abs=0.04)


# --- the promises -----------------------------------------------------------------------------------------

MEMBERS = 5


def action_for(environment, key):
    if isinstance(environment.actions, envs.Discrete):
        return random.randint(key, (), 0, environment.actions.n)
    low, high = map(torch.tensor, environment.actions)
    return random.uniform(key, (environment.actions.size,)) * (high - low) + low


def physics_for(environment, key):
    """Physics that differ from member to member."""
    scale = random.uniform(key, (len(environment.physics),), torch.float32, 0.8, 1.2)
    return type(environment.physics)(*(scale * torch.tensor(tuple(environment.physics))).unbind())


def member(environment, i):
    """A key, a state some way into an episode, an action and physics."""
    keys = random.split(random.fold_in(random.key(5), i), 3)
    physics = physics_for(environment, keys[0])
    state = environment.reset(keys[1], physics)
    for step in range(i % 3):
        state = environment.step(state, action_for(environment, random.fold_in(keys[2], step)), physics)[0]
    return keys[2], state, action_for(environment, keys[2]), physics


def taken(environment):
    """One step that resets where an episode ends: a function of a member's inputs."""

    def function(key, state, action, physics):
        return envs.step_and_reset(environment, key, state, action, physics)

    return function


def stacked(trees):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def at_a_limit(name):
    """An environment whose third step is its last, so that some members begin anew and others do not."""
    return envs.get(name, time_limit=3)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_leaves_its_inputs_as_they_are(name):
    environment = at_a_limit(name)
    inputs = member(environment, 2)
    before = optree.tree_map(torch.clone, inputs)
    taken(environment)(*inputs)
    assert all(map(torch.equal, optree.tree_leaves(inputs), optree.tree_leaves(before)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_state_keeps_its_structure_shapes_and_dtypes(name, dtype):
    environment = envs.get(name, dtype=dtype)
    key, state, action, _ = member(environment, 1)
    for physics in (environment.physics, physics_for(environment, key)):
        after, transition = taken(environment)(key, state, action, physics)
        assert optree.tree_structure(after) == optree.tree_structure(state)
        for old, new in zip(optree.tree_leaves(state), optree.tree_leaves(after), strict=True):
            assert (old.shape, old.dtype) == (new.shape, new.dtype)
        assert transition.observation.shape == transition.final_observation.shape == (environment.observation_size,)
        assert transition.observation.dtype == transition.reward.dtype == dtype
        assert transition.terminated.dtype == transition.truncated.dtype == torch.bool


@pytest.mark.parametrize("name", NAMES)
def test_members_are_the_same_side_by_side_as_alone(name):
    environment = at_a_limit(name)
    members = [member(environment, i) for i in range(MEMBERS)]
    alone = stacked([taken(environment)(*inputs) for inputs in members])
    together = torch.vmap(taken(environment))(*stacked(members))
    assert 0 < int(together[1].truncated.sum()) < MEMBERS
    for one, other in zip(optree.tree_leaves(alone), optree.tree_leaves(together), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_bits(name):
    environment = at_a_limit(name)
    inputs = member(environment, 2)
    first, second = (optree.tree_leaves(taken(environment)(*inputs)) for _ in range(2))
    assert all(map(torch.equal, first, second))
    other = taken(environment)(random.key(99), *inputs[1:])[0]
    assert not torch.equal(numbers_of(other), numbers_of(taken(environment)(*inputs)[0]))


def rollout(environment):
    def step(carry, _):
        key, state, physics = carry
        now, later = random.split(key).unbind()
        action = action_for(environment, random.fold_in(now, 1))
        state, transition = envs.step_and_reset(environment, now, state, action, physics)
        return (later, state, physics), transition

    return step


def starts_of(environment):
    members = [member(environment, i) for i in range(16)]
    return stacked([(key, state, physics) for key, state, _, physics in members])


def check_equal_runs(step, carry, backend):
    expected = loop.scan(step, carry, length=20, backend="eager")
    found = loop.scan(step, carry, length=20, backend=backend)
    for one, other in zip(optree.tree_leaves(expected), optree.tree_leaves(found), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


@pytest.mark.compiled
@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_lanes_is_the_eager_run(name):
    environment = envs.get(name, time_limit=7)
    check_equal_runs(torch.vmap(rollout(environment)), starts_of(environment), "lanes")


@pytest.mark.compiled
def test_a_compiled_scan_is_the_eager_run():
    environment = envs.get("cartpole", time_limit=7)
    check_equal_runs(torch.vmap(rollout(environment)), starts_of(environment), "scan")


@pytest.mark.parametrize("name", NAMES)
def test_every_environment_runs_in_lanes(name):
    environment = envs.get(name)
    assert loop.explain(torch.vmap(rollout(environment)), starts_of(environment)).backend == "lanes"


# --- physics ----------------------------------------------------------------------------------------------

EVERY_NUMBER = [(name, number) for name in NAMES for number in envs.get(name).physics._fields]


def far(environment, **numbers):
    """Where some environment is after steps from a start in motion."""
    physics = environment.physics._replace(**numbers)
    state = environment.reset(random.key(1), physics)
    for step in range(6):
        action = torch.tensor(environment.actions.size - 1)
        if isinstance(environment.actions, envs.Continuous):
            action = torch.tensor([5.0 - step], dtype=torch.float32)
        state = environment.step(state, action, physics)[0]
    return numbers_of(state)


@pytest.mark.parametrize(("name", "number"), EVERY_NUMBER)
def test_every_number_of_the_physics_moves_the_environment(name, number):
    environment = envs.get(name, dtype=torch.float64)
    default = getattr(environment.physics, number)
    changed = far(environment, **{number: 1.5 * default or 0.3})
    assert float((changed - far(environment)).abs().max()) > 1e-6
    as_tensor = far(environment, **{number: torch.tensor(1.5 * default or 0.3, dtype=torch.float64)})
    torch.testing.assert_close(as_tensor, changed)


@pytest.mark.parametrize(("name", "number"), EVERY_NUMBER)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", None, True, torch.ones(2), torch.tensor(1)])
def test_physics_that_are_no_finite_numbers_are_refused(name, number, value):
    environment = envs.get(name)
    physics = environment.physics._replace(**{number: value})
    state = environment.reset(random.key(0), environment.physics)
    for use in (
        lambda: envs.check_physics(environment, physics),
        lambda: environment.reset(random.key(0), physics),
        lambda: environment.step(state, action_for(environment, random.key(0)), physics),
    ):
        with pytest.raises(ValueError, match=rf"physics\.{number} is .*; expected a"):
            use()


@pytest.mark.parametrize(("name", "number"), EVERY_NUMBER)
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_physics_out_of_their_range_are_refused(name, number, kind):
    environment = envs.get(name)
    bad = {"positive": [0.0, -1.0], "not negative": [-1.0], "not zero": [0.0], "finite": []}[environment.ranges[number]]
    for value in bad:
        with pytest.raises(ValueError, match=rf"physics\.{number} is {value}; expected a number"):
            envs.check_physics(environment, environment.physics._replace(**{number: kind(value)}))


def test_masses_lengths_and_time_steps_are_positive():
    for name in NAMES:
        environment = envs.get(name)
        for number, kind in environment.ranges.items():
            if any(word in number for word in ("mass", "length", "center", "inertia", "time_step")):
                assert kind == "positive", (name, number)


def test_each_member_has_physics_of_its_own():
    cartpole = envs.get("cartpole")
    state = cartpole.reset(random.key(0), cartpole.physics)

    def pushed(force):
        return cartpole.step(state, torch.tensor(1), cartpole.physics._replace(force=force))[0].velocity

    velocities = torch.vmap(pushed)(torch.tensor([-10.0, 0.0, 10.0]))
    assert float(velocities[0]) < float(velocities[1]) < float(velocities[2])


@pytest.mark.parametrize("physics", [None, (9.8,), {}, envs.PendulumPhysics()])
def test_physics_of_another_kind_are_refused(physics):
    cartpole = envs.get("cartpole")
    with pytest.raises(ValueError, match=r"physics is .*; expected CartPolePhysics"):
        cartpole.reset(random.key(0), physics)


# --- arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, 2.5, True, "100", math.nan])
@pytest.mark.parametrize("name", NAMES)
def test_a_time_limit_that_is_no_number_of_steps_is_refused(name, limit):
    with pytest.raises(ValueError, match=r"time_limit is .*; expected a whole number of steps, 1 or more, or None"):
        envs.get(name, time_limit=limit)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, "float32", None])
@pytest.mark.parametrize("name", NAMES)
def test_a_dtype_that_is_none_of_two_is_refused(name, dtype):
    with pytest.raises(ValueError, match=r"dtype is .*; expected torch.float32 or torch.float64"):
        envs.get(name, dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_limit_nothing_is_truncated(name):
    environment = envs.get(name, time_limit=None)
    _, state, action, physics = member(environment, 0)
    state = state._replace(steps=state.steps + 10**6)
    assert not bool(environment.step(state, action, physics)[4])


BAD_ACTIONS = [
    ("cartpole", torch.tensor(2)),
    ("cartpole", torch.tensor(-1)),
    ("cartpole", torch.tensor(1.0)),
    ("cartpole", torch.tensor([1])),
    ("cartpole", torch.tensor(True)),
    ("cartpole", 1),
    ("cartpole", None),
    ("acrobot", torch.tensor(3)),
    ("mountain-car", torch.tensor(3)),
    ("pendulum", torch.tensor(0.5)),
    ("pendulum", torch.tensor([0.5, 0.5])),
    ("pendulum", torch.tensor([1])),
    ("pendulum", 0.5),
    ("continuous-mountain-car", torch.tensor([[0.5]])),
]


@pytest.mark.parametrize(("name", "action"), BAD_ACTIONS)
def test_an_action_out_of_the_space_is_refused(name, action):
    environment = envs.get(name)
    state = environment.reset(random.key(0), environment.physics)
    with pytest.raises(ValueError, match=r"action is .*; expected a"):
        environment.step(state, action, environment.physics)


def test_an_unknown_environment_is_refused_with_a_near_name():
    with pytest.raises(ValueError, match=r"environment is 'cart-pole'; expected one of .*did you mean 'cartpole'"):
        envs.get("cart-pole")
    with pytest.raises(ValueError, match="expected a name with options"):
        envs.get(envs.get("cartpole"), time_limit=3)


def test_a_state_that_is_not_finite_stays_with_its_member():
    cartpole = envs.get("cartpole")
    keys = random.split(random.key(0), 3)
    states = torch.vmap(cartpole.reset, in_dims=(0, None))(keys, cartpole.physics)
    broken = states._replace(velocity=states.velocity * torch.tensor([1.0, math.nan, 1.0]))
    action = torch.ones(3, dtype=torch.int64)
    for _ in range(3):
        broken, observation, *_ = vmapped(cartpole)(broken, action, cartpole.physics)
        states, expected, *_ = vmapped(cartpole)(states, action, cartpole.physics)
    assert torch.equal(observation[[0, 2]], expected[[0, 2]])
    assert bool(observation[1].isnan().any())


def test_an_environment_of_ones_own_is_built_from_its_movement():
    from typing import NamedTuple

    class Physics(NamedTuple):
        speed: float = 1.0

    class State(NamedTuple):
        place: torch.Tensor
        steps: torch.Tensor

    def move(state, action, physics):
        place = state.place + (2 * action - 1) * physics.speed
        return state._replace(place=place), -place.abs(), place.abs() > 3

    walk = envs.build(
        "walk",
        draw=lambda key, physics: State(random.uniform(key), torch.zeros((), dtype=torch.int32)),
        move=move,
        observe=lambda state, physics: state.place[None],
        physics=Physics(),
        ranges={"speed": "finite"},
        drive="speed",
        observation_size=1,
        actions=envs.Discrete(2),
        time_limit=10,
    )
    state = walk.reset(random.key(0), Physics())
    assert walk.step(state, torch.tensor(1), Physics(2.0))[1].item() == pytest.approx(state.place.item() + 2)
    assert envs.get(walk) is walk
    flipped = envs.changes.sign(walk, period=10).physics(walk.physics, random.key(0), torch.tensor(1))
    assert float(flipped.speed) == -1
    assert fcbp.envs is envs
