"""Losses by name: ``loss(output, targets) -> scalar``, with errors where torch would go on in silence.

>>> import torch
>>> cross_entropy(torch.zeros(2, 10), torch.tensor([3, 7]))
tensor(2.3026)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fcbp.checks import arguments
from fcbp.names import lookup

__all__ = ["LOSSES", "Loss", "cross_entropy", "get", "mse"]

Loss = Callable[..., Any] | nn.Module


@arguments
def mse(output: Float[Tensor, "*shape"], targets: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean squared error of a regression.

    Args:
        output: the network's output.
        targets: floating-point numbers of the output's shape; nothing is broadcast.

    Raises:
        ValueError: the targets have another shape than the output, or are no floating-point numbers.

    Example:
        >>> import torch
        >>> mse(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]]))
        tensor(5.)
    """
    if not targets.is_floating_point():
        hint = "; class indices go with loss='cross_entropy'" if _is_integer(targets) else ""
        raise _misfit("mse", output, targets, f"floating-point targets{hint}")
    if output.shape != targets.shape:
        raise _misfit("mse", output, targets, "targets of the output's shape")
    return nn.functional.mse_loss(output, targets)


@arguments
def cross_entropy(output: Float[Tensor, "batch classes ..."], targets: Tensor) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of a classification, the output being unnormalised log-probabilities (logits).

    Args:
        output: ``(batch, classes, ...)``, or ``(classes,)`` for one example.
        targets: class indices, of an integer dtype and the output's shape without its classes: ``(batch,)``; or
            probabilities, floating-point numbers of the output's shape.

    Raises:
        ValueError: the output has fewer than two classes, or the targets are neither of the two.

    Example:
        >>> import torch
        >>> cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor(0.1269)
    """
    axis = min(1, output.ndim - 1)
    if axis < 0 or output.shape[axis] < 2:
        raise _misfit("cross_entropy", output, targets, "an output (batch, classes) of 2 classes or more")
    if _is_integer(targets):
        indices = output.shape[:axis] + output.shape[axis + 1 :]
        if targets.shape != indices:
            raise _misfit("cross_entropy", output, targets, f"class indices of shape {tuple(indices)}")
        return nn.functional.cross_entropy(output, targets.long())
    if not targets.is_floating_point() or targets.shape != output.shape:
        words = f"class indices {tuple(output.shape[:axis] + output.shape[axis + 1 :])}, torch.int64"
        raise _misfit("cross_entropy", output, targets, f"{words}, or probabilities of the output's shape")
    return nn.functional.cross_entropy(output, targets)


LOSSES: dict[str, Loss] = {"mse": mse, "cross_entropy": cross_entropy}
"""The losses by name."""


@arguments
def get(loss: str | Loss) -> Loss:
    """Look a loss up by its name; a function is given back as it is.

    Args:
        loss: a name of :data:`LOSSES`; or a function ``(output, targets) -> scalar``, which a module without
            parameters such as ``nn.HuberLoss()`` is as well.

    Raises:
        ValueError: the name is unknown, or ``loss`` is no function of an output and targets: a model, a class.

    Example:
        >>> get("mse") is mse
        True
    """
    if isinstance(loss, str):
        return lookup("loss", loss, LOSSES)
    expected = f"expected one of {', '.join(sorted(LOSSES))}, or a function (output, targets) -> scalar"
    if isinstance(loss, type):
        raise ValueError(f"loss is the class {loss.__name__}; {expected}; {loss.__name__}() makes one")
    if not callable(loss):
        raise ValueError(f"loss is {loss!r}; {expected}")
    if isinstance(loss, nn.Module):
        if any(True for _ in loss.parameters()) or not _takes_two(loss.forward):
            raise ValueError(f"loss is a model, {type(loss).__name__}; {expected}")
    elif not _takes_two(loss):
        raise ValueError(f"loss is {loss!r}, which does not take (output, targets); {expected}")
    return loss


def _takes_two(function: Callable[..., Any]) -> bool:
    """Tell whether a function can be called with an output and targets, as far as its signature says."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function written in C
        return True
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True


def _is_integer(targets: Tensor) -> bool:
    dtype = targets.dtype
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


def _misfit(loss: str, output: Tensor, targets: Tensor, expected: str) -> ValueError:
    return ValueError(
        f"loss is {loss!r} with an output {tuple(output.shape)} of {output.dtype} and targets {tuple(targets.shape)} "
        f"of {targets.dtype}; expected {expected}"
    )
