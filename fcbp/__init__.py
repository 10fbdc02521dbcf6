"""Functional Continual Backpropagation for PyTorch.

Pure functions over parameter and state pytrees, composed with ``torch.func``: :func:`init_state`,
:func:`update_utility`, :func:`select_and_reset`.
"""

from fcbp import (
    experiment,
    initializers,
    learner,
    loop,
    methods,
    metrics,
    nets,
    optim,
    plots,
    random,
    streams,
    tree,
    units,
    utility,
    weights,
)
from fcbp.cbp import (
    CBPState,
    Hyperparams,
    init_state,
    reset_buffers,
    reset_moments,
    select_and_reset,
    update_utility,
)
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.sweeps import grid, paired, sweep
from fcbp.units import Slice, UnitGroup, find_units, forward_with_features

__all__ = [
    "CBPState",
    "Hyperparams",
    "LearnerHyperparams",
    "Slice",
    "UnitGroup",
    "experiment",
    "find_units",
    "forward_with_features",
    "grid",
    "init_state",
    "initializers",
    "learner",
    "loop",
    "make_learner",
    "methods",
    "metrics",
    "nets",
    "optim",
    "paired",
    "plots",
    "random",
    "reset_buffers",
    "reset_moments",
    "select_and_reset",
    "streams",
    "sweep",
    "tree",
    "units",
    "update_utility",
    "utility",
    "weights",
]

__version__ = "0.1.0"
