"""Continual Backpropagation per weight as a method: :mod:`fcbp.weights`' functions in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from fcbp import initializers, tree
from fcbp.cbp.state import RateCounts, Rounding, check_counting
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.names import check_option
from fcbp.units import UnitGroup
from fcbp.weights import (
    Hyperparams,
    WeightsState,
    init_state,
    reset_moments,
    select_and_reset,
    update_utility,
)
from fcbp.weights.core import Selection, Utility
from fcbp.weights.draws import check_initializer
from fcbp.weights.state import Managed, Maturity, check_management

__all__ = ["cbp_weights"]


@arguments
def cbp_weights(
    utility: Utility = "gradient",
    *,
    managed: Managed | Callable[[tree.Path, Tensor], bool] = "matrices",
    maturity: Maturity = "steps",
    protect: bool = False,
    scale_by_moments: bool = False,
    selection: Selection = "lowest",
    initializer: str | initializers.Initializer = "initial",
    rounding: Rounding = "accumulate",
    rate_counts: RateCounts = "eligible",
    capacity: int | None = None,
) -> Method:
    """Make the method of per-weight Continual Backpropagation with fixed options; its ``hyper`` is
    :class:`fcbp.weights.Hyperparams`.

    The utility is taken of the weights after the optimiser's step and of the gradients before it. What is reset has its
    optimiser moments reset, and is in ``info["reset_weights"]``. :mod:`fcbp.weights` says where published code differs,
    and which options are its.

    Args:
        utility: of :func:`fcbp.weights.update_utility`.
        managed: of :func:`fcbp.weights.init_state`.
        maturity: of :func:`fcbp.weights.init_state`.
        protect: of :func:`fcbp.weights.init_state`.
        scale_by_moments: scale the utility by the optimiser's moments: ``moments`` of
            :func:`fcbp.weights.update_utility`.
        selection: of :func:`fcbp.weights.select_and_reset`, as are all arguments below.
        initializer: the draw of reset weights.
        rounding: the use of a fraction of a weight.
        rate_counts: the weights that the rate multiplies.
        capacity: the most weights reset per tensor and event.

    Raises:
        ValueError: an option is unknown or a number out of its range; the optimiser has no moments to scale by.

    Example:
        >>> import torch, fcbp
        >>> w = {"w": torch.tensor([[3.0, 0.1], [2.0, 4.0]])}
        >>> method, hyper = cbp_weights(), fcbp.weights.Hyperparams(reset_rate=0.25, maturity_threshold=0)
        >>> state = method.init((), w, fcbp.random.key(0))
        >>> *_, info = method.update(state, w, (), {}, grads={"w": torch.ones(2, 2)}, hyper=hyper)
        >>> info["reset_weights"]["w"]
        tensor([[False,  True], [False, False]])
    """
    check_option("utility", utility, Utility)
    check_management(managed, maturity)
    check_option("selection", selection, Selection)
    check_initializer(initializer, {})
    check_counting(rounding, rate_counts, capacity, "weights")

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> WeightsState:
        return init_state(params, key, managed=managed, maturity=maturity, protect=protect)

    def update(
        state: WeightsState, params: Any, opt_state: Any, buffers: Any, *, grads: Any, hyper: Hyperparams, **_: Any
    ) -> tuple[Any, Any, Any, WeightsState, dict[str, Any]]:
        moments = opt_state if scale_by_moments else None
        try:
            state = update_utility(state, params, grads, hyper, utility=utility, moments=moments)
        except ValueError as error:
            if scale_by_moments and str(error).startswith("moments"):
                raise ValueError(f"scale_by_moments is True, and {error}") from error
            raise
        params, state, masks = select_and_reset(
            state,
            params,
            hyper,
            selection=selection,
            initializer=initializer,
            rounding=rounding,
            rate_counts=rate_counts,
            capacity=capacity,
        )
        opt_state = reset_moments(opt_state, masks)
        return params, opt_state, buffers, state, {"replaced": {}, "reset_weights": masks}

    return Method(init, update)
