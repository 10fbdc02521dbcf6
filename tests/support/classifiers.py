"""Members that learn three classes with CBP, small enough for any program of theirs to be compiled in a test."""

import torch

import fcbp


def classifiers(members, activation="relu"):
    """``(step, state)``: a member's step on ``(inputs (batch, 6), classes (batch,))``, and the state of all."""
    model = fcbp.nets.mlp(6, (9, 7), 3, activation=activation)
    units = fcbp.find_units(model, torch.zeros(1, 6))
    learner = fcbp.make_learner(model, units, loss="cross_entropy", method=fcbp.methods.cbp())
    hyper = fcbp.LearnerHyperparams(0.05, method=fcbp.Hyperparams(0.05, 2.0, 0.9))

    def step(state, example):
        state, info = learner.step(state, example, hyper)
        return state, info["loss"]

    return step, torch.vmap(learner.init)(torch.stack([fcbp.random.key(i) for i in range(members)]))
