"""Continual Backpropagation: keep re-initialising a few mature units of low utility.

Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood and Sutton, "Loss of plasticity in deep continual learning",
Nature 632 (2024), Algorithm 1; bias transfer and the mean-corrected measures from "Continual Backprop", arXiv
2108.06325. Three pure functions over pytrees, called after each optimiser step:

    >>> import torch, fcbp
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    >>> params = dict(model.named_parameters())
    >>> units = fcbp.find_units(model, torch.zeros(1, 20))
    >>> hyper = fcbp.Hyperparams(replacement_rate=1e-3)
    >>> state = fcbp.init_state(units, params, fcbp.random.key(0))
    >>> features = {"0": torch.rand(8, 5)}
    >>> state = fcbp.update_utility(state, params, features, hyper, units=units)
    >>> params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
    >>> replaced["0"]
    tensor([False, False, False, False, False])

What is remembered is in ``state.py``, utilities in ``running.py``, selection and reset in ``replacement.py``, and what
else belongs to a unit in ``moments.py``.
"""

from fcbp.cbp.moments import reset_buffers, reset_moments
from fcbp.cbp.replacement import pay, rank_lowest, replacements_due, select_and_reset
from fcbp.cbp.running import bias_correction, running_mean_weights, unit_activations, update_utility
from fcbp.cbp.state import CBPState, Hyperparams, check_hyperparams, init_state

__all__ = [
    "CBPState",
    "Hyperparams",
    "bias_correction",
    "check_hyperparams",
    "init_state",
    "pay",
    "rank_lowest",
    "replacements_due",
    "reset_buffers",
    "reset_moments",
    "running_mean_weights",
    "select_and_reset",
    "unit_activations",
    "update_utility",
]
