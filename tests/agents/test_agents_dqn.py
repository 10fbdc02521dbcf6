"""Deep Q-learning as a program, and its memory."""

import agent_runs
import optree
import pytest
import torch
from agent_runs import same

import fcbp
from fcbp import agents
from fcbp.agents.networks import ActionValues
from fcbp.agents.replay import Transitions, push, sample, start_memory

TINY = {"hidden": (8,), "copies": 2, "horizon": 4, "memory": 32, "minibatch": 8, "time_limit": 5}


def settings(program, **numbers):
    return agent_runs.settings(program, **{"learn_from": 8.0, **numbers})


def run(program, seed=0, steps=4, **numbers):
    return agent_runs.run(program, seed, steps, **{"learn_from": 8.0, **numbers})


def transitions(start, number):
    values = torch.arange(start, start + number, dtype=torch.float32)
    rows = values[:, None].expand(number, 3)
    return Transitions(rows, values.long(), values, rows + 1, values > 4)


def test_a_memory_holds_the_last_steps_in_a_ring():
    memory, held = start_memory(transitions(0, 3), 7), []
    for i in range(5):
        memory = push(memory, transitions(3 * i, 3))
        held = [*held, *range(3 * i, 3 * i + 3)][-7:]
        assert int(memory.size) == len(held)
        there = (
            sorted(memory.held.rewards[: len(held)].tolist()) if len(held) < 7 else sorted(memory.held.rewards.tolist())
        )
        assert there == held
    assert int(memory.next) == 15 % 7


def test_what_is_sampled_is_held_and_its_parts_belong_together():
    memory = push(start_memory(transitions(0, 3), 7), transitions(2, 3))
    found = sample(memory, fcbp.random.key(0), 200)
    assert set(found.rewards.tolist()) == {2.0, 3.0, 4.0}
    assert torch.equal(found.observations[:, 0], found.rewards)
    assert torch.equal(found.next_observations[:, 0], found.rewards + 1)
    assert torch.equal(found.actions, found.rewards.long())


def test_a_memory_keeps_the_promises_side_by_side():
    memories = [push(start_memory(transitions(0, 3), 7), transitions(i, 3)) for i in (0, 5)]
    both = optree.tree_map(lambda *x: torch.stack(x), *memories)
    before = optree.tree_map(torch.clone, both)
    more = optree.tree_map(lambda *x: torch.stack(x), transitions(9, 3), transitions(20, 3))
    pushed = torch.vmap(push)(both, more)
    assert same(before, both)
    drawn = torch.vmap(lambda m, k: sample(m, k, 5))(pushed, fcbp.random.key(torch.tensor([1, 2])))
    for i, start in enumerate((9, 20)):
        alone = push(memories[i], transitions(start, 3))
        assert same(alone, optree.tree_map(lambda x, i=i: x[i], pushed))
        assert same(sample(alone, fcbp.random.key(i + 1), 5), optree.tree_map(lambda x, i=i: x[i], drawn))


def test_a_memory_too_small_for_a_push_is_an_error():
    with pytest.raises(ValueError, match="capacity is 2; expected at least 3"):
        start_memory(transitions(0, 3), 2)


@pytest.mark.parametrize("options", [{}, {"double": True, "updates": 2}, {"method": "cbp"}], ids=str)
def test_a_population_is_each_agent_by_itself(options):
    program = agents.dqn(**{**TINY, **options})
    alone = [run(program, seed, step_size=size)[0] for seed, size in ((0, 0.01), (1, 0.001))]
    both = optree.tree_map(lambda *x: torch.stack(x), *(settings(program, step_size=size) for size in (0.01, 0.001)))
    state = torch.vmap(program.init)(fcbp.random.key(torch.tensor([0, 1])), both)
    for _ in range(4):
        before = optree.tree_map(torch.clone, state)
        new, _ = torch.vmap(program.step)(state, both)
        assert same(before, state)
        state = new
    for i, expected in enumerate(alone):
        for a, b in zip(optree.tree_leaves(state), optree.tree_leaves(expected), strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a[i], b, rtol=1e-4, atol=1e-5)
    assert same(run(program, 0, step_size=0.01)[0], alone[0])


def test_nothing_is_learned_before_there_is_enough_to_learn_from():
    program = agents.dqn(**TINY)
    start = program.init(fcbp.random.key(0), settings(program))
    state, _ = run(program, steps=2, learn_from=17.0)
    assert same(start.learner, state.learner)
    state, _ = run(program, steps=3, learn_from=17.0)
    assert not same(start.learner.params, state.learner.params)


def test_the_target_network_follows_at_its_period():
    program = agents.dqn(**TINY)
    numbers = {"target_period": 3.0, "learn_from": 0.0, "step_size": 0.01}
    equal = [same(s.target, s.learner.params) for s in (run(program, steps=n, **numbers)[0] for n in range(1, 8))]
    assert equal == [True, False, False, True, False, False, True]


def test_an_update_is_that_of_the_formula():
    program = agents.dqn(**TINY)
    numbers = {"target_period": 100.0, "learn_from": 0.0, "step_size": 0.01, "discount": 0.9, "reward_scale": 0.5}
    state, _ = run(program, steps=3, **numbers)
    mine = settings(program, **numbers)
    new, told = program.step(state, mine)
    sample_key = fcbp.random.split(state.key, 5)[4]
    steps = sample(new.memory, sample_key, 8)
    network = ActionValues(4, 2, hidden=(8,))

    def values(params, x):
        return torch.func.functional_call(network, params, (x,))

    later = values(state.target, steps.next_observations).amax(-1)
    wanted = 0.5 * steps.rewards + 0.9 * torch.where(steps.terminated, 0.0, later)
    chosen = values(state.learner.params, steps.observations)[torch.arange(8), steps.actions]
    assert told["value_loss"].item() == pytest.approx((chosen - wanted).square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_actions_are_the_best_but_for_the_chance_of_exploring(chance):
    program = agents.dqn(**{**TINY, "horizon": 100, "memory": 200})
    state, _ = run(program, steps=1, explore_first=chance, explore_last=chance, learn_from=1e9)
    held = state.memory.held
    network = ActionValues(4, 2, hidden=(8,))
    best = torch.func.functional_call(network, state.learner.params, (held.observations,)).argmax(-1)
    share = (best == held.actions).double().mean().item()
    assert share == 1.0 if chance == 0 else 0.35 < share < 0.65


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"memory": 7}, "memory is 7; expected at least 8"),
        ({"minibatch": 0}, "minibatch is 0"),
        ({"environment": "pendulum"}, "actions to choose from"),
        ({"environment": "mountaincar"}, "did you mean"),
        ({"time_limit": 0}, "time_limit is 0"),
        ({"method": "head-reset"}, "acts where a level ends"),
        ({"updates": 0}, "updates is 0"),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_a_wrong_option_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        agents.dqn(**{**TINY, **options})


def test_a_fresh_agent_forgets_its_memory_and_explores_again():
    options = {**TINY, "change": "offset", "task_length": 4}
    program = agents.dqn(**options, method="fresh")
    before, _ = run(program)
    after, _ = run(program, steps=5)
    assert int(before.memory.size) == 32
    assert int(after.memory.size) == 8 == int(after.memory.next)
    assert int(after.learner.renewal[1]) == 1
    agent, numbers = program.step.__self__, settings(program, explore_steps=32.0)
    assert float(agent._exploring(before, numbers)) == float(numbers["explore_first"])
    assert float(agent._exploring(before._replace(round=before.round - 1), numbers)) < 1
    plain, _ = run(agents.dqn(**options))
    assert same(plain.learner.params, before.learner.params)
