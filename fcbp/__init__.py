"""Functional Continual Backpropagation for PyTorch.

Pure functions over parameter and state pytrees, composed with ``torch.func``: :func:`init_state`,
:func:`update_utility`, :func:`select_and_reset`.
"""

from fcbp import (
    agents,
    analysis,
    data,
    designs,
    envs,
    experiment,
    initializers,
    learner,
    loop,
    losses,
    methods,
    metrics,
    nets,
    optim,
    plots,
    random,
    stateful,
    streams,
    tree,
    tuning,
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
from fcbp.designs import grid, paired
from fcbp.experiment import Experiment
from fcbp.learner import LearnerHyperparams, make_learner
from fcbp.program import Program
from fcbp.sweeps import open, resume, sweep
from fcbp.units import Slice, UnitGroup, find_units, forward_with_features
from fcbp.version import __version__

__all__ = [
    "CBPState",
    "Experiment",
    "Hyperparams",
    "LearnerHyperparams",
    "Program",
    "Slice",
    "UnitGroup",
    "__version__",
    "agents",
    "analysis",
    "data",
    "designs",
    "envs",
    "experiment",
    "find_units",
    "forward_with_features",
    "grid",
    "init_state",
    "initializers",
    "learner",
    "loop",
    "losses",
    "make_learner",
    "methods",
    "metrics",
    "nets",
    "open",
    "optim",
    "paired",
    "plots",
    "random",
    "reset_buffers",
    "reset_moments",
    "resume",
    "select_and_reset",
    "stateful",
    "streams",
    "sweep",
    "tree",
    "tuning",
    "units",
    "update_utility",
    "utility",
    "weights",
]
