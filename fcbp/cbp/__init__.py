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

The algorithm, for each group of ``n`` units, after the optimiser's step; ``h`` is the activation in the forward pass
before that step, ``w`` the weights after it, ``rho`` the replacement rate, ``m`` the maturity threshold, ``eta`` the
decay rate. Comments in the code have these numbers:

1. Age and bias correction, a unit each: ``age += 1``; ``beta = 1 - eta ** age``.
2. Mean activation: ``f = eta * f + (1 - eta) * mean_s(h)``, ``s`` over samples and positions; ``f_hat = f / beta``.
3. Instantaneous utility ``y`` by the measure (:mod:`fcbp.utility`); ``contribution`` is ``mean_s |h| * |w_out|``, with
   ``|w_out|`` the mean absolute outgoing weight.
4. Utility: ``u = eta * u + (1 - eta) * y``; ``u_hat = u / beta``.
5. Number due: eligible is a unit with ``age > m`` and a finite ``u_hat``; ``owed += rho * number_eligible``; the
   number is ``r = floor(owed)``, at most the number eligible and the capacity, and 0 at rate 0; ``owed -= r``. The
   whole part of what is owed never exceeds the number eligible.
6. Selection: the ``r`` eligible units of lowest ``u_hat``, ties to the lower index.
7. Reset, once all groups are selected. With bias transfer each consumer's bias first gains ``sum_j f_hat_j * w_out[:,
   j]`` over the replaced units ``j``. Outgoing weights become 0 in all groups; then, in all groups, incoming weights
   are drawn anew, biases and norm shifts become 0, norm scales 1; the units' ``age``, ``u`` and ``f`` become 0.
8. The same masks reset optimiser moments and per-element step counts (:func:`reset_moments`) and running statistics
   (:func:`reset_buffers`).

Where this departs from the paper and its published code:

- ``|w_out|`` and ``|w_in|`` are means over a unit's weights where the paper sums: the ranking is the same.
- The published code sets ``f`` to 0 before its bias correction reads it, and so never transfers bias; here
  ``transfer_bias=True`` does.
- The published code for convolutional networks leaves a replaced unit's momentum; here all moments are reset.
- A debt is bounded and rate 0 replaces nobody (5); the published code has no capacity, and so no debt.

What is remembered is in ``state.py``, steps 1 to 4 in ``running.py``, 5 in ``due.py``, 6 and 7 in ``replacement.py``,
and 8 in ``moments.py``, which finds an optimiser's moments by ``matching.py``.
"""

from fcbp.cbp.due import most_due, pay, replacements_due
from fcbp.cbp.moments import reset_buffers, reset_moments
from fcbp.cbp.replacement import rank_lowest, select_and_reset
from fcbp.cbp.running import bias_correction, running_mean_weights, unit_activations, update_utility
from fcbp.cbp.state import CBPState, Hyperparams, check_hyperparams, init_state

__all__ = [
    "CBPState",
    "Hyperparams",
    "bias_correction",
    "check_hyperparams",
    "init_state",
    "most_due",
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
