"""``fcbp.loop.source`` shows a step as graph, nodes, plan and C++."""

import pytest
import torch

import fcbp


def descent(w, x):
    error = (w * x).sum() - 1
    return w - 0.1 * error * x, error.square()


def test_all_four_forms_name_what_the_step_computes():
    found = fcbp.loop.source(torch.vmap(descent), torch.zeros(8, 3), torch.zeros(5, 8, 3))
    assert "torch.ops.aten.mul.Tensor" in found.graph
    assert "map mul(n0, n1)" in found.nodes
    assert "carry0 = n10: map sub(n0, n9) (over n0)" in found.plan
    assert found.code.strip().startswith("KERNEL void run(")
    assert all(title in str(found) for title in ("graph", "nodes", "plan", "C++"))


def test_a_second_call_gives_the_same_text():
    arguments = (torch.vmap(descent), torch.zeros(8, 3), torch.zeros(5, 8, 3))
    assert fcbp.loop.source(*arguments) == fcbp.loop.source(*arguments)


def test_a_learner_with_replacement_is_shown():
    model = fcbp.nets.mlp(4, (3,), 1)
    learner = fcbp.make_learner(model, fcbp.find_units(model, torch.zeros(1, 4)), method="cbp")
    hyper = fcbp.LearnerHyperparams()
    state = learner.init(fcbp.random.key(0))

    def step(state, batch):
        state, info = learner.step(state, batch, hyper)
        return state, info["loss"]

    found = fcbp.loop.source(step, state, (torch.zeros(2, 1, 4), torch.zeros(2, 1, 1)))
    assert "only where" in found.plan


def test_a_step_that_cannot_run_in_lanes_is_an_error_that_names_the_operation():
    def step(x, _):
        return torch.linalg.inv(x), ()

    with pytest.raises(ValueError, match=r"step cannot run in lanes: .*inv"):
        fcbp.loop.source(step, torch.eye(2), torch.zeros(3))


def test_no_steps_are_an_error():
    with pytest.raises(ValueError, match="xs has 0 steps"):
        fcbp.loop.source(torch.vmap(descent), torch.zeros(8, 3), torch.zeros(0, 8, 3))
