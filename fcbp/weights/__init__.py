"""Continual Backpropagation per weight: keep re-initialising a few mature weights of low utility.

Where :mod:`fcbp.cbp` replaces hidden units, this replaces single entries of parameter tensors, each tensor for itself.
It needs no unit groups, only ``params`` and ``grads``. The utility of a weight is the running mean of
``abs(gradient * weight)``; a counter says how mature it is; a small share of the mature weights of lowest utility is
re-initialised. **Only tensors of two or more axes are managed by default**: biases and the scales of norms are left
alone unless :func:`init_state` is told otherwise.

    >>> import torch, fcbp
    >>> params = {"0.weight": torch.tensor([[3.0, 0.1], [2.0, 4.0]]), "0.bias": torch.zeros(2)}
    >>> grads = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}
    >>> hyper = Hyperparams(reset_rate=0.25, maturity_threshold=0)
    >>> state = init_state(params, fcbp.random.key(0))
    >>> state = update_utility(state, params, grads, hyper)
    >>> params, state, replaced = select_and_reset(state, params, hyper)
    >>> replaced["0.weight"]
    tensor([[False,  True], [False, False]])

**Selective weight reinitialisation** (Hernandez-Garcia, Dohare, Luo and Sutton, 2025; code
``JFernando4/collas_2025_swr_paper``, 5c8ef03) is the same three calls without maturity and without memory:
``Hyperparams(reset_rate=0.4, maturity_threshold=0, decay_rate=0.0, period=2400)`` with
``init_state(managed="all")`` and ``select_and_reset(rounding="stochastic", rate_counts="all")`` is its proportional
pruning,
``Hyperparams(mean_fraction=1e-3, maturity_threshold=0, decay_rate=0.0, period=2048)`` with ``managed="all"`` and
``selection="below"`` its threshold pruning; ``utility`` is ``"gradient"``, ``"magnitude"`` or ``"random"``, and
``initializer`` ``"initial"`` (its resampling) or ``"initial_mean"``.
What differs from its code: with a ``decay_rate`` the running mean is bias-corrected and a reset clears the reset
weights' mean, not the whole tensor's; the Bernoulli draw comes from the state's key; no table of initial distributions
is written by hand, for each tensor's is read off its initial values.

The per-weight code that this variant is named after (``balovess/continual-bp``, 0b7d3cc) documents the lowest utility
and draws among the eligible at random (``selection="random"`` here); lets tensors of equal shape share counters;
protects the top decile for good (``release_fraction=1``; here protection ends by default); rounds counts down and so
never resets in small tensors; scales by a momentum buffer that Adam has not; leaves the optimiser's state alone
(:func:`reset_moments`); counts as mature 50 outlier steps (``maturity_threshold=49``). Its settings are
``Hyperparams(0.01, 49, 0.05)``, ``init_state(maturity="outliers", protect=True)``, ``selection="random"``,
``rate_counts="all"`` and ``initializer="uniform"``.
"""

from fcbp.weights.core import select_and_reset, update_utility
from fcbp.weights.draws import constant, normal, uniform
from fcbp.weights.moments import reset_moments
from fcbp.weights.state import Hyperparams, WeightsState, check_hyperparams, init_state

__all__ = [
    "Hyperparams",
    "WeightsState",
    "check_hyperparams",
    "constant",
    "init_state",
    "normal",
    "reset_moments",
    "select_and_reset",
    "uniform",
    "update_utility",
]
