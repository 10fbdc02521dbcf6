"""The from-scratch arm: a new learner for every task."""

from __future__ import annotations

from fcbp.methods.backprop import backprop
from fcbp.methods.base import Method

__all__ = ["fresh"]


def fresh() -> Method:
    """Begin anew with every task: the learner without a past, against which loss of plasticity is measured.

    Before the first batch of a task the learner draws its parameters by the rule of the first ones, and makes the
    optimiser's state, the buffers and the methods' states again; then it learns by plain backpropagation. Each member
    and each task has a key of its own. The first task is that of :func:`backprop`, bit for bit. The "retrained" network
    of Dohare et al. (Nature 2024, Fig. 2) and the "scratch" baseline of the literature; :func:`full_reset` differs: it
    resets after the first step of a task, and draws from the values that the tensors had at first.

    The learner does it, so that :attr:`Method.update` by itself changes nothing. In a :func:`chain` the states of the
    other methods begin anew as well.

    Raises:
        ValueError: in a learner's step, batches do not say when a new task begins.

    Example:
        >>> import torch, fcbp
        >>> model = fcbp.nets.mlp(3, (4,), 1)
        >>> units = fcbp.find_units(model, torch.ones(1, 3))
        >>> learner = fcbp.make_learner(model, units, method=fresh())
        >>> state = learner.init(fcbp.random.key(0))
        >>> batch = torch.ones(2, 3), torch.ones(2, 1)
        >>> hyper = fcbp.LearnerHyperparams(step_size=0.0, method=fcbp.methods.NoHyperparams())
        >>> same, _ = learner.step(state, (*batch, torch.tensor(False)), hyper)
        >>> anew, _ = learner.step(state, (*batch, torch.tensor(True)), hyper)
        >>> torch.equal(state.params["0.weight"], same.params["0.weight"])
        True
        >>> torch.equal(state.params["0.weight"], anew.params["0.weight"])
        False
    """
    return backprop()._replace(reads_new_task=True, renews=True)
