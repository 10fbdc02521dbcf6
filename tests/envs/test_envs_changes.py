"""Each rule of change really changes what is observed, or how the environment moves; one that would not is refused."""

import itertools
import math

import pytest
import torch

from fcbp import envs, loop, random
from fcbp.envs import changes

NAMES = ["acrobot", "cartpole", "continuous-mountain-car", "mountain-car", "pendulum"]
KEY = random.key(4)
PERIOD = 10


def rule(name, environment):
    """A rule of this name that suits the environment."""
    options = {}
    if name == "physics":
        options = {"number": "gravity", "low": 0.001, "high": 10.0}
    return changes.get(name, environment, period=PERIOD, **options)


def at(level):
    return torch.tensor(level)


def seen(environment, change, level, steps=8):
    """What is observed at a level in some steps from a fixed start by fixed actions."""
    physics = change.physics(environment.physics, KEY, at(level))
    state = environment.reset(random.key(1), environment.physics)
    observations = [change.observation(environment.observe(state, physics), KEY, at(level))]
    action = torch.tensor(environment.actions.size - 1)
    if isinstance(environment.actions, envs.Continuous):
        action = torch.tensor(environment.actions.high)
    for _ in range(steps):
        state, observation, *_ = environment.step(state, action, physics)
        observations.append(change.observation(observation, KEY, at(level)))
    return torch.stack(observations)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", sorted(set(changes.CHANGES) - {"none"}))
def test_each_level_of_a_rule_is_seen(kind, name):
    environment = envs.get(name)
    change = rule(kind, environment)
    levels = [seen(environment, change, level) for level in range(4)]
    for one, other in itertools.pairwise(levels):
        assert float((one - other).abs().max()) > 1e-4
        # Both come from one start: what differs but an offset comes of the movement.
        moved = (one - one[0]) - (other - other[0])
        assert (float(moved.abs().max()) > 1e-4) == (kind != "offset")


@pytest.mark.parametrize("name", NAMES)
def test_the_rule_of_no_change_changes_nothing(name):
    environment = envs.get(name)
    for period in (None, PERIOD):
        change = changes.get("none", environment, period=period)
        assert torch.equal(seen(environment, change, 0), seen(environment, change, 3))
    assert int(changes.none(environment).level(torch.tensor(10**9))) == 0
    assert int(changes.none(environment, period=PERIOD).level(torch.tensor(25))) == 2


@pytest.mark.parametrize("kind", sorted(set(changes.CHANGES) - {"none"}))
def test_levels_change_with_the_period(kind):
    change = rule(kind, envs.get("cartpole"))
    assert [int(change.level(torch.tensor(step))) for step in (0, 9, 10, 19, 20)] == [0, 0, 1, 1, 2]


def test_offsets_are_the_published_ones():
    change = changes.offset(envs.get("cartpole"), period=PERIOD)
    keys = random.split(KEY, 4000)
    zero = torch.zeros(4)

    def offset(key, level):
        return change.observation(zero, key, level)

    of_level = torch.vmap(offset, in_dims=(0, None))
    assert torch.equal(of_level(keys, at(0)), torch.zeros(4000, 4))
    first, second = of_level(keys, at(1)), of_level(keys, at(2))
    for offsets in (first, second):
        assert offsets.mean(0).abs().max() < 5 * 2 / math.sqrt(4000)
        torch.testing.assert_close(offsets.std(0), torch.full((4,), 2.0), rtol=0.06, atol=0)
    assert abs(float(torch.corrcoef(torch.stack([first[:, 0], second[:, 0]]))[0, 1])) < 0.08
    assert abs(float(torch.corrcoef(first.T)[0, 1])) < 0.08
    # Constant in a level: added to whatever is observed.
    torch.testing.assert_close(change.observation(torch.ones(4), KEY, at(1)) - offset(KEY, at(1)), torch.ones(4))


@pytest.mark.parametrize(("scale", "middle"), [("log", 0.2), ("linear", 1.01)])
def test_physics_are_drawn_in_their_range(scale, middle):
    pendulum = envs.get("pendulum")
    change = changes.physics(pendulum, period=PERIOD, number="friction", low=0.02, high=2.0, scale=scale)
    levels = torch.arange(8000)
    drawn = torch.vmap(lambda level: change.physics(pendulum.physics, KEY, level).friction)(levels)
    assert 0.02 <= float(drawn.min()) < 0.05
    assert 1.9 < float(drawn.max()) <= 2.0
    assert float(drawn.median()) == pytest.approx(middle, rel=0.08)
    assert len(set(drawn.tolist())) > 7900


def test_signs_alternate_and_keep_the_size():
    cartpole = envs.get("cartpole")
    change = changes.sign(cartpole, period=PERIOD)
    mine = cartpole.physics._replace(force=torch.tensor(7.0))
    forces = [float(change.physics(mine, KEY, at(level)).force) for level in range(5)]
    assert forces == [7.0, -7.0, 7.0, -7.0, 7.0]
    assert change.physics(mine, KEY, at(1))._replace(force=0.0) == mine._replace(force=0.0)


@pytest.mark.parametrize("kind", sorted(changes.CHANGES))
def test_a_rule_is_a_pure_function_of_key_and_level(kind):
    environment = envs.get("pendulum")
    change = rule(kind, environment)
    observation = torch.tensor([0.1, 0.2, 0.3])
    kept = observation.clone()

    def both(key, level):
        physics = change.physics(environment.physics, key, level)
        numbers = torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in physics])
        return torch.cat([numbers, change.observation(observation, key, level)])

    keys, levels = random.split(KEY, 6), torch.arange(6)
    alone = torch.stack([both(key, level) for key, level in zip(keys, levels, strict=True)])
    assert torch.equal(torch.vmap(both)(keys, levels), alone)
    assert torch.equal(both(keys[0], levels[3]), both(keys[0], levels[3]))
    assert torch.equal(observation, kept)
    drawn = kind in ("offset", "physics")
    assert torch.equal(both(keys[0], levels[3]), both(keys[1], levels[3])) != drawn


def test_a_changing_environment_runs_in_lanes():
    cartpole = envs.get("cartpole")
    offset, gravity = changes.offset(cartpole, period=5), rule("physics", cartpole)

    def step(carry, _):
        key, state, count = carry
        level = offset.level(count)
        physics = gravity.physics(cartpole.physics, key, level)
        action = (offset.observation(cartpole.observe(state, physics), key, level)[2] > 0).to(torch.int64)
        now = random.fold_in(random.fold_in(key, 1), count)
        state, transition = envs.step_and_reset(cartpole, now, state, action, physics)
        return (key, state, count + 1), transition.reward

    keys = random.split(KEY, 8)
    states = torch.vmap(cartpole.reset, in_dims=(0, None))(keys, cartpole.physics)
    assert loop.explain(torch.vmap(step), (keys, states, torch.zeros_like(keys))).backend == "lanes"


# --- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [0, -5, 1.5, True, "10"])
@pytest.mark.parametrize("kind", sorted(changes.CHANGES))
def test_a_period_that_is_no_number_of_steps_is_refused(kind, period):
    options = {"number": "gravity", "low": 1.0, "high": 2.0} if kind == "physics" else {}
    with pytest.raises(ValueError, match=r"period is .*; expected a whole number of steps, 1 or more"):
        changes.get(kind, envs.get("cartpole"), period=period, **options)


@pytest.mark.parametrize("std", [0, 0.0, -1.0, math.nan, math.inf, "2", True, None])
def test_offsets_that_are_none_are_refused(std):
    with pytest.raises(ValueError, match=r"std is .*; expected a number above 0"):
        changes.offset(envs.get("cartpole"), period=PERIOD, std=std)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": "gravitation"}, r"number is 'gravitation'; expected one of .*; did you mean 'gravity'"),
        ({"number": None}, r"number is None; expected one of cart_mass"),
        ({"low": 2.0, "high": 2.0}, r"high is 2.0; expected more than low, 2.0 \(a range of one value changes nothing"),
        ({"low": 3.0, "high": 2.0}, r"high is 2.0; expected more than low, 3.0"),
        ({"low": math.nan}, r"low is nan; expected a finite number"),
        ({"high": math.inf}, r"high is inf; expected a finite number"),
        ({"low": "1"}, r"low is '1'; expected a finite number"),
        ({"low": -1.0}, r"low is -1.0; expected a number above 0, or scale='linear'"),
        ({"low": 0.0}, r"low is 0.0; expected a number above 0, or scale='linear'"),
        ({"number": "pole_mass", "low": -1.0}, r"low is -1.0, and physics.pole_mass is -1.0; expected a number above"),
        ({"scale": "logarithmic"}, r"scale is 'logarithmic'; expected one of linear, log"),
    ],
)
def test_a_range_that_cannot_be_drawn_from_is_refused(options, message):
    options = {"number": "gravity", "low": 1.0, "high": 2.0, **options}
    with pytest.raises(ValueError, match=message):
        changes.physics(envs.get("cartpole"), period=PERIOD, **options)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("pole_mass", r"number is 'pole_mass', which cannot be negative; expected one such as 'force'"),
        ("friction", r"number is 'friction', which cannot be negative"),
        ("forces", r"number is 'forces'; expected one of .*did you mean 'force'"),
    ],
)
def test_a_sign_that_cannot_flip_is_refused(number, message):
    with pytest.raises(ValueError, match=message):
        changes.sign(envs.get("cartpole"), period=PERIOD, number=number)


def test_a_rule_of_ones_own_is_given_as_it_is():
    cartpole = envs.get("cartpole")
    mine = changes.Change(
        "mirror", PERIOD, observation=lambda observation, key, level: observation * (1 - 2 * (level % 2))
    )
    assert changes.get(mine, cartpole) is mine
    with pytest.raises(ValueError, match="expected a name with options"):
        changes.get(mine, cartpole, period=3)
    with pytest.raises(ValueError, match=r"change is 'ofset'; expected one of .*did you mean 'offset'"):
        changes.get("ofset", cartpole, period=3)
