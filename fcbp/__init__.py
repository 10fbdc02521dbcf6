"""Functional Continual Backpropagation for PyTorch: pure functions over parameter and state pytrees."""

from fcbp import initializers, optim, random, tree, utility
from fcbp.cbp import (
    CBPState,
    Hyperparams,
    init_state,
    reset_buffers,
    reset_moments,
    select_and_reset,
    update_utility,
)
from fcbp.units import Slice, UnitGroup, forward_with_features

__version__ = "0.1.0"
