"""A residual network with batch norm learns with CBP, its members side by side and compiled, as each does alone."""

import optree
import pytest
import torch

import fcbp
from fcbp import loop, methods, optim, random
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.nets import ResNet

STEPS, BATCH, CLASSES = 20, 2, 5


@pytest.mark.compiled
def test_a_resnet_learns_compiled_and_vmapped_as_in_the_loop_over_members():
    members = 3
    model = ResNet((1,), CLASSES, width=4)
    assert model.training
    units = fcbp.find_units(model, torch.zeros(2, 3, 32, 32))
    learner = make_learner(model, units, loss="cross_entropy", optimizer=optim.sgd(0.9), method=methods.cbp(capacity=1))
    hyper = LearnerHyperparams(
        torch.linspace(0.001, 0.03, members),
        fcbp.Hyperparams(
            torch.tensor([0.0, *[0.05] * (members - 2), 0.1], dtype=torch.float64),
            torch.full((members,), 3.0),
            torch.full((members,), 0.9),
        ),
    )
    states = torch.vmap(learner.init)(random.split(random.key(0), members))
    images = random.normal(random.key(1), (STEPS, members, BATCH, 3, 32, 32))
    labels = random.randint(random.key(2), (STEPS, members, BATCH), 0, CLASSES)

    def step(carry, batch):
        state, hyper = carry
        state, info = learner.step(state, batch, hyper)
        return (state, hyper), info

    together = torch.vmap(step)
    _, info = loop.scan(together, (states, hyper), (images, labels), backend="scan")
    alone = [optree.tree_map(lambda leaf: leaf[i], (states, hyper)) for i in range(members)]  # noqa: B023
    number = torch.zeros(members)
    # In pieces: after each, the compiled program starts from the loop's states again, so that a difference is a
    # step's own and not what a few steps of momentum made of one rounding.
    for start in range(0, STEPS, 2):
        piece = slice(start, start + 2)
        carry = optree.tree_map(lambda *leaves: torch.stack(leaves), *alone)
        (after, _), _ = loop.scan(together, carry, (images[piece], labels[piece]), backend="scan")
        for i in range(members):
            alone[i], expected = loop.scan(step, alone[i], (images[piece, i], labels[piece, i]), compile=False)
            torch.testing.assert_close(info["loss"][piece, i], expected["loss"], rtol=1e-4, atol=1e-5)
            for name, mask in expected["replaced"].items():
                assert torch.equal(info["replaced"][name][piece, i], mask), name
                number[i] += mask.sum()
            state = alone[i][0]
            for ours, theirs in ((after.params, state.params), (after.buffers, state.buffers)):
                for name, leaf in theirs.items():
                    message = f"member {i}, steps from {start}, {name}: {{}}".format
                    torch.testing.assert_close(ours[name][i], leaf, rtol=1e-4, atol=1e-5, msg=message)
    assert number[0] == 0
    assert (number[1:] > 2).all()
    assert after.buffers["bn1.num_batches_tracked"].tolist() == [STEPS] * members
