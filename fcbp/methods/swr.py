"""Selective weight reinitialisation (SWR): now and then, draw the least useful weights anew."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.cbp_weights import cbp_weights
from fcbp.methods.checks import check_numbers
from fcbp.names import check_option
from fcbp.weights import Hyperparams
from fcbp.weights.core import Utility

__all__ = ["SWRHyperparams", "swr"]

Pruning = Literal["proportional", "threshold"]
"""The choice of the weights that an event resets: a fraction of them, or those of a utility below a threshold."""


class SWRHyperparams(NamedTuple):
    """The numbers of SWR; each a float or a 0-d tensor, which may be vmapped."""

    factor: float | Tensor = 0.4
    """The fraction of a tensor's weights that an event resets, in [0, 1]; pruning by threshold, what its mean utility
    is multiplied by to be the threshold, at least 0 (the published sweep is from 1e-6 to 0.1). 0 resets nothing."""
    period: float | Tensor = 2400
    """Steps from one event to the next, a whole number, at least 1."""
    decay_rate: float | Tensor = 0.0
    """Decay of the running mean of the utility, in [0, 1); 0 takes that of the step alone."""


@arguments
def swr(utility: Utility = "gradient", *, pruning: Pruning = "proportional", initializer: str = "initial") -> Method:
    """Reset the weights of lowest utility every ``period`` steps, per tensor, biases and norms included.

    Hernandez-Garcia, Dohare, Luo and Sutton, "Reinitializing weights vs units for maintaining plasticity in neural
    networks" (CoLLAs 2025, arXiv 2508.00212); code ``JFernando4/collas_2025_swr_paper`` (5c8ef03). The utility is
    ``abs(g * w)``, or ``abs(w)``; proportional pruning resets ``factor * n`` of the n weights, rounded at random, and
    threshold pruning those of at most ``factor`` times the mean utility. A reset weight is drawn from its tensor's
    initial distribution or takes its mean. It is :func:`fcbp.methods.cbp_weights` without maturity.

    Departures from the code: it leaves the optimiser's moments, and here those of reset weights become 0; with a
    ``decay_rate`` the running mean is bias-corrected, and a reset clears the mean of the reset weights, not of the
    whole tensor; a factor of 0 resets nothing under either pruning. See :mod:`fcbp.weights`.

    Args:
        utility: ``"gradient"``, ``"magnitude"`` or ``"random"``.
        pruning: ``"proportional"`` or ``"threshold"``.
        initializer: ``"initial"``, the initial distribution; ``"initial_mean"``, its mean; or another of
            :func:`fcbp.weights.select_and_reset`'s that needs no two axes.

    Raises:
        ValueError: an option is unknown or a number out of its range.

    Example:
        >>> import torch, fcbp
        >>> w = {"w": torch.tensor([3.0, 0.1, 2.0, 4.0])}
        >>> method, hyper = swr(), SWRHyperparams(factor=0.5, period=1)
        >>> state = method.init((), w, fcbp.random.key(0))
        >>> *_, info = method.update(state, w, (), {}, grads={"w": torch.ones(4)}, hyper=hyper)
        >>> info["reset_weights"]["w"]
        tensor([False,  True,  True, False])
    """
    check_option("pruning", pruning, Pruning)
    by_threshold = pruning == "threshold"
    inner = cbp_weights(
        utility,
        managed="all",
        selection="below" if by_threshold else "lowest",
        initializer=initializer,
        rounding="stochastic",
        rate_counts="all",
    )

    def update(
        state: Any, params: Any, opt_state: Any, buffers: Any, *, hyper: SWRHyperparams, **given: Any
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        check_numbers(
            hyper,
            SWRHyperparams,
            factor="a number, 0 or more" if by_threshold else "a number in [0, 1]",
            period="a whole number of steps, 1 or more",
            decay_rate="a number in [0, 1)",
        )
        factor = hyper.factor
        if by_threshold:
            # 0 times the mean would be a threshold for utilities of 0; what is no number is none.
            off = torch.full((), torch.nan, device=state.step.device)
            factor = torch.where(factor > 0, factor, off) if isinstance(factor, Tensor) else factor or off
        numbers = Hyperparams(
            reset_rate=0.0 if by_threshold else factor,
            maturity_threshold=0,
            decay_rate=hyper.decay_rate,
            period=hyper.period,
            mean_fraction=factor if by_threshold else 0.0,
        )
        return inner.update(state, params, opt_state, buffers, hyper=numbers, **given)

    return inner._replace(update=update)
