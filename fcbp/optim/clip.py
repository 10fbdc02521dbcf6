"""A bound on the norm of all gradients together."""

from __future__ import annotations

import functools
from typing import Any

import optree
import torch
from jaxtyping import Float
from torch import Tensor

from fcbp.checks import arguments
from fcbp.kinds import PyTree
from fcbp.optim.checks import Number, check_floats, check_number

__all__ = ["clip_by_global_norm", "global_norm"]


@arguments
@torch.no_grad()
def global_norm(grads: PyTree) -> Float[Tensor, ""]:
    """Return the Euclidean norm of all leaves together, in float32 at least.

    Args:
        grads: a pytree of floating-point tensors.

    Returns:
        A 0-d tensor, 0 where there are no entries. Squares do not overflow: entries are divided by the largest first.

    Raises:
        ValueError: a leaf is no floating-point tensor.

    Example:
        >>> import torch
        >>> global_norm({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor(4.0)})
        tensor(5.)
    """
    check_floats("grads", grads)
    largest, relative = _norm(grads)
    return largest * relative


@arguments
@torch.no_grad()
def clip_by_global_norm(grads: PyTree, max_norm: Number) -> PyTree:
    """Scale gradients down, all by one factor, where their global norm is above ``max_norm``.

    Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks" (ICML 2013, arXiv 1211.5063),
    Algorithm 1; as ``optax.clip_by_global_norm``. ``torch.nn.utils.clip_grad_norm_`` divides by the norm plus 1e-6, and
    so gives a norm a little below ``max_norm``.

    Args:
        grads: a pytree of floating-point tensors; under ``vmap`` every member has its own norm.
        max_norm: the bound, 0 or more; a number or a 0-d tensor, which may be vmapped.

    Returns:
        A pytree of the same structure, shapes and dtypes. Gradients of a norm up to ``max_norm``, so also of norm 0,
        are the same to the bit. Where a gradient is NaN or infinite, every entry is NaN.

    Raises:
        ValueError: a leaf is no floating-point tensor, or ``max_norm`` is no number, 0 or more.

    Example:
        >>> import torch
        >>> clip_by_global_norm({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor(4.0)}, 1.0)
        {'w': tensor([0.6000, 0.0000]), 'b': tensor(0.8000)}
    """
    check_number("max_norm", max_norm, infinite=True)
    check_floats("grads", grads)
    if not optree.tree_leaves(grads):
        return grads
    largest, relative = _norm(grads)
    bound = max_norm.to(largest.dtype) if isinstance(max_norm, Tensor) else max_norm
    small = largest * relative <= bound
    divisor, factor = torch.where(largest == 0, 1, largest), bound / relative

    def scale(g: Tensor) -> Tensor:
        return torch.where(small, g, (g.to(largest.dtype) / divisor * factor).to(g.dtype))

    return optree.tree_map(scale, grads)


def _norm(grads: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the largest absolute value, and how many times it the norm is; 0 and 1 where there is nothing but
    zeros."""
    leaves: list[Tensor] = [leaf for leaf in optree.tree_leaves(grads) if leaf.numel()]
    if not leaves:
        return torch.zeros(()), torch.ones(())
    dtype = functools.reduce(torch.promote_types, [leaf.dtype for leaf in leaves], torch.float32)
    largest = functools.reduce(torch.maximum, [leaf.abs().amax().to(dtype) for leaf in leaves])
    none = largest == 0
    divisor = torch.where(none, 1, largest)
    squares = functools.reduce(torch.add, [(leaf.to(dtype) / divisor).square().sum() for leaf in leaves])
    return largest, torch.where(none, 1, squares).sqrt()
