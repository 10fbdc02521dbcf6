"""L2 Init: regularisation towards the parameters that training began with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import optree
import torch
from jaxtyping import Int64
from torch import Tensor

from fcbp import show
from fcbp.checks import arguments
from fcbp.methods.backprop import backprop
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers
from fcbp.names import check_option
from fcbp.optim import cast_like
from fcbp.units import UnitGroup

__all__ = ["L2InitHyperparams", "L2InitState", "l2_init"]

Norm = Literal["squared", "plain"]
"""The penalty on the distance from the initial parameters: its square, or itself."""


class L2InitHyperparams(NamedTuple):
    """The number of L2 Init; a float or a 0-d tensor, which may be vmapped."""

    strength: float | Tensor = 1e-3
    """The penalty is ``strength * sum((w - w0) ** 2)``; at least 0."""


@show.by_fields
class L2InitState(NamedTuple):
    """The memory of L2 Init."""

    initial: Any
    """The parameters that training began with, a pytree like ``params``."""


@arguments
def l2_init(norm: Norm = "squared") -> Method:
    """Regularise every parameter towards its initial value: ``g + 2 * strength * (w - w0)``.

    Kumar, Marklund and Van Roy, "Maintaining plasticity in continual learning via regenerative regularization" (arXiv
    2308.11958), whose loss is ``L + strength * norm(w - w0)_2 ** 2``, strengths 1e-2 to 1e-5. (Mind the factor 2 when
    comparing with :func:`fcbp.methods.l2`, whose penalty is halved as weight decay's is.)

    RLE-Foundation/Plasticine (aa00b4b) adds 0.01 times the norm itself, not its square, which pulls the parameters with
    the same force however far they are.

    Args:
        norm: ``"squared"``, or ``"plain"`` for the norm itself, of all parameters together: the gradient is
            ``g + strength * (w - w0) / norm(w - w0)``, and ``g`` where nothing has moved.

    Raises:
        ValueError: ``norm`` is unknown; ``strength`` is no number, 0 or more.

    Example:
        >>> import torch, fcbp
        >>> state = L2InitState({"w": torch.tensor([1.0, 1.0])})
        >>> w, hyper = {"w": torch.tensor([2.0, -1.0])}, L2InitHyperparams(0.5)
        >>> fcbp.methods.l2_init().adjust(state, {"w": torch.zeros(2)}, w, hyper=hyper)[0]["w"]
        tensor([ 1., -2.])
    """
    check_option("norm", norm, Norm)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> L2InitState:
        return L2InitState(optree.tree_map(lambda w: w.detach().clone(), params))

    @torch.no_grad()
    def adjust(
        state: L2InitState, grads: Any, params: Any, *, hyper: L2InitHyperparams, **_: Any
    ) -> tuple[Any, L2InitState]:
        check_numbers(hyper, L2InitHyperparams, strength="a number, 0 or more")
        away = optree.tree_map(torch.sub, params, state.initial)
        factor: float | Tensor = 2 * hyper.strength
        if norm == "plain":
            squares = [d.to(torch.float32).square().sum() for d in optree.tree_leaves(away)]
            length = torch.stack(squares).sum().sqrt()
            factor = hyper.strength / torch.where(length > 0, length, 1.0)
        return optree.tree_map(lambda g, d: g + cast_like(factor, d) * d, grads, away), state

    return backprop()._replace(init=init, adjust=adjust)
