"""L2 regularisation: a penalty on the squared size of the parameters, added to the loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from fcbp.methods.backprop import backprop
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers
from fcbp.optim import cast_like

__all__ = ["L2Hyperparams", "l2"]


class L2Hyperparams(NamedTuple):
    """The number of L2 regularisation; a float or a 0-d tensor, which may be vmapped."""

    strength: float | Tensor = 1e-4
    """The penalty is ``strength / 2 * sum(w ** 2)``; at least 0."""


def l2() -> Method:
    """Regularise every parameter towards 0: the optimiser's gradient is ``g + strength * w``.

    As the ``weight_decay`` of ``torch.optim.SGD``, which is the "L2" of Dohare et al. (Nature 2024; strengths 1e-3 to
    1e-5 on online permuted MNIST). An optimiser that scales its gradients, such as Adam, scales the penalty with them;
    :func:`fcbp.methods.weight_decay` does not. Biases and norms are regularised as well, as there.

    Raises:
        ValueError: ``strength`` is no number, 0 or more.

    Example:
        >>> import torch, fcbp
        >>> w = {"w": torch.tensor([2.0, -1.0])}
        >>> g, _ = fcbp.methods.l2().adjust((), {"w": torch.zeros(2)}, w, hyper=L2Hyperparams(0.5))
        >>> g["w"]
        tensor([ 1.0000, -0.5000])
    """

    @torch.no_grad()
    def adjust(state: tuple[()], grads: Any, params: Any, *, hyper: L2Hyperparams, **_: Any) -> tuple[Any, tuple[()]]:
        check_numbers(hyper, L2Hyperparams, strength="a number, 0 or more")
        return optree.tree_map(lambda g, w: g + cast_like(hyper.strength, w) * w, grads, params), state

    return backprop()._replace(adjust=adjust)
