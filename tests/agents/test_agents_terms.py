"""Each term of proximal policy optimisation beside an independent version of it in NumPy."""

import math

import numpy as np
import pytest
import torch

import fcbp
from fcbp.agents import advantages, normalisation, objective, policies


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def as_tensor(x):
    return torch.tensor(x, dtype=torch.float32 if x.dtype.kind == "f" else None)


def gae(rewards, values, next_values, terminated, truncated, discount, trace_decay, bootstrap):
    found = np.zeros_like(rewards)
    for copy in range(rewards.shape[1]):
        later = 0.0
        for t in reversed(range(len(rewards))):
            ended = terminated[t, copy] or (truncated[t, copy] and not bootstrap)
            after = 0.0 if ended else next_values[t, copy]
            difference = rewards[t, copy] + discount * after - values[t, copy]
            if terminated[t, copy] or truncated[t, copy]:
                later = 0.0
            later = difference + discount * trace_decay * later
            found[t, copy] = later
    return found


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_are_those_of_a_plain_loop_with_endings_of_both_kinds(bootstrap):
    rewards, values, next_values = (numbers(i, 12, 3) for i in range(3))
    draws = np.random.default_rng(3).uniform(size=(2, 12, 3))
    terminated, truncated = draws[0] < 0.2, (draws[1] < 0.2) & (draws[0] >= 0.2)
    assert terminated.any()
    assert truncated.any()
    found = advantages.advantages(
        *map(as_tensor, (rewards, values, next_values)),
        torch.tensor(terminated),
        torch.tensor(truncated),
        0.9,
        0.8,
        bootstrap_truncated=bootstrap,
    )
    expected = gae(rewards, values, next_values, terminated, truncated, 0.9, 0.8, bootstrap)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_taking_a_truncation_for_an_ending_gives_other_advantages():
    one, no, yes = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.bool), torch.ones(1, 1, dtype=torch.bool)
    given = (one, one, 5 * one, no, yes, 0.9, 0.95)
    assert advantages.advantages(*given).item() == pytest.approx(1 + 0.9 * 5 - 1)
    assert advantages.advantages(*given, bootstrap_truncated=False).item() == 0


def test_the_clipped_objective_is_that_of_the_formula():
    log_ratio, gained = numbers(0, 50) * 0.3, numbers(1, 50)
    ratio = np.exp(log_ratio)
    expected = -np.mean([min(r * a, min(max(r, 0.8), 1.2) * a) for r, a in zip(ratio, gained, strict=True)])
    found = objective.clipped_objective(as_tensor(log_ratio), as_tensor(gained), 0.2)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("clipped", [True, False])
def test_the_error_of_the_values_is_that_of_the_formula(clipped):
    values, returns, before = (numbers(i, 30) for i in range(3))
    plain = (values - returns) ** 2
    near = (before + np.clip(values - before, -0.2, 0.2) - returns) ** 2
    expected = np.maximum(plain, near).mean() if clipped else plain.mean()
    found = objective.value_error(as_tensor(values), as_tensor(returns), as_tensor(before) if clipped else None)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_categorical_policy_has_the_probabilities_of_its_logits():
    policy, logits = policies.categorical(4), numbers(0, 4)
    chances = np.exp(logits) / np.exp(logits).sum()
    for action in range(4):
        found = policy.log_density(as_tensor(logits), (), torch.tensor(action))
        assert found.item() == pytest.approx(math.log(chances[action]), rel=1e-5)
    entropy = policy.entropy(as_tensor(logits), (), torch.tensor(0))
    assert entropy.item() == pytest.approx(-(chances * np.log(chances)).sum(), rel=1e-5)
    draws = torch.vmap(lambda u: policy.draw(as_tensor(logits), (), u))((torch.arange(10_000) + 0.5) / 10_000)
    np.testing.assert_allclose(torch.bincount(draws, minlength=4) / 10_000, chances, atol=2e-4)


def normal_density(x, mean, log_std):
    return (-0.5 * ((x - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum()


def test_a_gaussian_policy_has_the_normal_density_and_entropy():
    policy, mean, log_std = policies.gaussian(3), numbers(0, 3), numbers(1, 3) * 0.3
    draw = policy.draw(as_tensor(mean), as_tensor(log_std), as_tensor(numbers(2, 3)))
    np.testing.assert_allclose(draw, mean + np.exp(log_std) * numbers(2, 3), rtol=1e-5)
    found = policy.log_density(as_tensor(mean), as_tensor(log_std), draw)
    assert found.item() == pytest.approx(normal_density(draw.numpy(), mean, log_std), rel=1e-4)
    entropy = policy.entropy(as_tensor(mean), as_tensor(log_std), draw)
    assert entropy.item() == pytest.approx((log_std + 0.5 * np.log(2 * np.pi * np.e)).sum(), rel=1e-5)


def test_a_squashed_policy_has_a_density_that_integrates_to_one_and_stays_in_its_bounds():
    policy = policies.squashed(1, (-2.0,), (2.0,))
    draws = torch.linspace(-8, 8, 20_001)[:, None]
    actions = torch.vmap(policy.action)(draws)
    density = torch.vmap(lambda d: policy.log_density(torch.tensor([0.3]), torch.tensor([-0.2]), d))(draws).exp()
    assert actions.abs().max() <= 2
    assert np.trapezoid(density.double(), actions[:, 0].double()) == pytest.approx(1, abs=1e-3)
    far = policy.log_density(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([30.0]))
    assert torch.isfinite(far)


def test_statistics_are_those_of_all_samples_together():
    parts = [numbers(i, 4 + i, 3) * (i + 1) + i for i in range(3)]
    found = normalisation.start_statistics(torch.zeros(3))
    for part in parts:
        found = normalisation.update_statistics(found, as_tensor(part))
    together = np.concatenate(parts)
    np.testing.assert_allclose(found.mean, together.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.variance, together.var(0), rtol=1e-4)
    scaled = normalisation.normalised(as_tensor(together), found)
    np.testing.assert_allclose(scaled, (together - together.mean(0)) / together.std(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalize", ["minibatch", "plain"])
def test_the_objective_is_the_weighted_sum_of_its_terms(normalize):
    policy, logits, values = policies.categorical(2), numbers(0, 6, 2), numbers(1, 6)
    batch = objective.Batch(torch.tensor([0, 1, 1, 0, 1, 0]), *(as_tensor(numbers(2 + i, 6)) for i in range(4)))
    settings = {"clip_range": 0.2, "value_weight": 0.7, "entropy_weight": 0.3}
    loss = objective.make_objective(policy, normalize_advantages=normalize)
    found, told = loss((as_tensor(logits), as_tensor(values)), (batch, settings))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    taken = np.log(chances[np.arange(6), batch.draws.numpy()])
    gained = numbers(3, 6)
    if normalize == "minibatch":
        gained = (gained - gained.mean()) / (gained.std(ddof=1) + 1e-8)
    ratio = np.exp(taken - numbers(2, 6))
    of_policy = -np.minimum(ratio * gained, np.clip(ratio, 0.8, 1.2) * gained).mean()
    of_values = ((values - numbers(4, 6)) ** 2).mean()
    entropy = -(chances * np.log(chances)).sum(-1).mean()
    assert told["policy_loss"].item() == pytest.approx(of_policy, rel=1e-4)
    assert told["entropy"].item() == pytest.approx(entropy, rel=1e-4)
    assert found.item() == pytest.approx(of_policy + 0.7 * of_values - 0.3 * entropy, rel=1e-4)


def test_the_counts_of_ended_episodes_are_of_those_that_ended():
    cartpole = fcbp.envs.get("cartpole", time_limit=3)
    policy = policies.get(None, cartpole.actions)
    change = fcbp.envs.changes.none(cartpole)

    def choose(observations, noise, chooser):
        return (noise > 0.5).long(), ()

    rollout = fcbp.agents.rollout.make_rollout(cartpole, change, choose, policy.action)
    keys = fcbp.random.split(fcbp.random.key(0), 2)
    copies = fcbp.agents.rollout.start_copies(cartpole, keys, cartpole.physics)
    situation = fcbp.agents.rollout.Situation(cartpole.physics, keys[0], torch.tensor(0), ())
    copies, done = rollout(copies, torch.rand(8, 2), keys[1], situation, length=8)
    found = fcbp.agents.rollout.ended_episodes(done)
    assert {name: float(x) for name, x in found.items()} == {
        "episode_return": 12.0,
        "episode_length": 12.0,
        "episodes": 4.0,
    }
    assert copies.length.tolist() == [2, 2]
