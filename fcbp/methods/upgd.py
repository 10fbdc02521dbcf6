"""Utility-based perturbed gradient descent (UPGD): perturb weights of little use, protect weights of much use."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import optree
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from fcbp import random, show, tree
from fcbp.cbp import bias_correction, running_mean_weights
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_step
from fcbp.names import check_option
from fcbp.optim import cast_like
from fcbp.units import UnitGroup, check_units
from fcbp.units.group import Slice, spread, take

__all__ = ["UPGDHyperparams", "UPGDState", "upgd"]

Of = Literal["weights", "features"]
"""The holders of a utility: single weights, or units."""
Scaling = Literal["global", "local"]
"""The divisor of utilities: the maximum of all, or the norm of their own tensor or group."""
Maximum = Literal["debiased", "raw"]
"""The utility whose maximum divides: bias-corrected, or as it is."""


class UPGDHyperparams(NamedTuple):
    """The numbers of UPGD; each a float or a 0-d tensor, which may be vmapped."""

    noise_std: float | Tensor = 0.001
    """Standard deviation of the noise, as of a gradient (sigma), at least 0."""
    weight_decay: float | Tensor = 0.001
    """Share of the parameters that a step takes away, over the step size; at least 0."""
    decay_rate: float | Tensor = 0.999
    """Decay of the running mean of the utility (beta), in [0, 1)."""
    protection: float | Tensor = 1.0
    """1 protects what is useful from the gradient as from the noise; 0 from the noise alone (the "non-protecting"
    UPGD); in [0, 1]."""


@show.by_fields
class UPGDState(NamedTuple):
    """The memory of UPGD."""

    utility: Any
    """Running mean of the utility, not bias-corrected: a pytree like ``params``, or by group name ``(units,)``."""
    step: Int32[Tensor, ""]
    """Steps so far."""
    key: Int64[Tensor, ""]
    """The key of the next noise."""


@arguments
def upgd(of: Of = "weights", *, scaling: Scaling = "global", maximum: Maximum = "debiased") -> Method:
    """Make the method of first-order UPGD, on top of any optimiser.

    Elsayed and Mahmood, "Addressing loss of plasticity and catastrophic forgetting in continual learning" (ICLR 2024),
    Algorithms 1 and 2; code ``mohmdelsayed/upgd`` (b75e90a), whose README has these defaults. With the step size ``a``,
    the gradient g, fresh noise xi and plain :func:`fcbp.optim.sgd`::

        u = beta * u + (1 - beta) * (-g * w),   U = u / (1 - beta ** t),   s = sigmoid(U / max U)
        w = w * (1 - a * weight_decay) - a * (g + xi) * (1 - s)

    and without protection ``w * (1 - a * weight_decay) - a * (g + xi * (1 - s))``. With another optimiser its step
    takes the place of ``a * g``: with Adam this is the paper's adaptive UPGD. The published reinforcement-learning code
    doubles the step size, for 1 - s is about a half: double yours.

    Feature-wise, the utility is that of a unit, which scales what makes it: its incoming weights, bias and norm.
    The published code reads it off gates of ones, as ``-gate * gradient``; that is equal to the sum of ``-g * w`` over
    the unit's outgoing weights, which needs no gates. All other parameters are left to the optimiser and the decay.

    Two departures from the code. It divides the bias-corrected utility by the maximum of the raw one, so that early on
    s is 0 or 1: here both are corrected, ``maximum="raw"`` is the code's. And where all utilities are negative it
    divides by a negative maximum, which protects the least useful: here by its absolute value.

    Args:
        of: what has a utility: ``"weights"``, or ``"features"``, the units.
        scaling: ``"global"``, by the maximum over all; or ``"local"``, where U is divided by its Euclidean norm over
            the last axis of its tensor, or over its group.
        maximum: of the ``"debiased"`` utility or, as in the published code, of the ``"raw"`` one; for global scaling.

    Raises:
        ValueError: an option is unknown; a number is out of its range; features have no units; ``update`` is not given
            ``step_size`` and ``previous``, which a learner gives.

    Example:
        >>> import torch, fcbp
        >>> method, w, g = upgd(), {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([-1.0, -1.0])}
        >>> state, stepped = method.init((), w, fcbp.random.key(0)), {"w": torch.tensor([2.1, 0.1])}
        >>> hyper = UPGDHyperparams(noise_std=0.0, weight_decay=0.0)
        >>> method.update(state, stepped, (), {}, hyper=hyper, grads=g, previous=w, step_size=0.1)[0]["w"]
        tensor([2.0269, 0.0500])
    """
    check_option("of", of, Of)
    check_option("scaling", scaling, Scaling)
    check_option("maximum", maximum, Maximum)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> UPGDState:
        units = tuple(units)
        random.check_key(key)
        check_units(units, params)
        if of == "features":
            _check_outgoing(units)
        zeros: Any = optree.tree_map(lambda w: torch.zeros_like(w, dtype=_fine(w)), params)
        if of == "features":
            zeros = _of_features(units, zeros, zeros)
        return UPGDState(zeros, torch.zeros((), dtype=torch.int32, device=key.device), key.clone())

    @torch.no_grad()
    def update(
        state: UPGDState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        units: Iterable[UnitGroup] = (),
        grads: Any,
        hyper: UPGDHyperparams,
        previous: Any = None,
        step_size: Any = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, UPGDState, dict[str, Any]]:
        check_numbers(
            hyper,
            UPGDHyperparams,
            noise_std="a number, 0 or more",
            weight_decay="a number, 0 or more",
            decay_rate="a number in [0, 1)",
            protection="a number in [0, 1]",
        )
        need_step(previous, step_size, f"upgd of {of}")
        units = tuple(units)
        now: Any = _of_features(units, previous, grads) if of == "features" else optree.tree_map(_use, previous, grads)
        step = state.step + 1

        def average(old: Tensor, new: Tensor) -> Tensor:
            keep, take_in = running_mean_weights(hyper.decay_rate, old)
            return keep * old + take_in * new

        utility = optree.tree_map(average, state.utility, now)
        scaled = _scaled(utility, step, hyper.decay_rate, scaling, maximum)
        useful, useless = _by_weight(units, params, scaled) if of == "features" else (scaled, None)
        key, draws = random.split(state.key).unbind()

        params = _perturbed(params, previous, useful, useless, draws, hyper, step_size)
        return params, opt_state, buffers, UPGDState(utility, step, key), {"replaced": {}}

    return Method(init, update)


def _fine(w: Tensor) -> torch.dtype:
    return torch.promote_types(w.dtype, torch.float32)


def _check_outgoing(units: tuple[UnitGroup, ...]) -> None:
    if not units:
        raise ValueError("units is (); upgd-features needs the groups whose units have a utility: give find_units'")
    for group in units:
        if not group.outgoing:
            raise ValueError(
                f"units: group {group.name!r} has no outgoing slice; upgd-features reads a unit's utility off them"
            )


def _perturbed(
    params: Any,
    previous: Any,
    useful: Any,
    useless: Any | None,
    key: Int64[Tensor, ""],
    hyper: UPGDHyperparams,
    step_size: Any,
) -> Any:
    """Take back the protected part of the optimiser's step; add the decay and the noise.

    Args:
        params: the parameters after the optimiser's step; ``previous``: before it.
        useful: ``s``, a pytree like ``params``.
        useless: the factor of the noise, like ``params``; ``None`` for ``1 - s``.
        key: the noise's own.
    """
    leaves, spec = optree.tree_flatten(params)
    before, protected = optree.tree_leaves(previous), optree.tree_leaves(useful)
    open_to_noise = [1 - s for s in protected] if useless is None else optree.tree_leaves(useless)
    keys = random.split(key, len(leaves)).unbind()
    new = []
    for w, old, s, share, own in zip(leaves, before, protected, open_to_noise, keys, strict=True):
        protection, noise_std, decay = (
            cast_like(x, w) for x in (hyper.protection, hyper.noise_std, hyper.weight_decay)
        )
        xi = random.normal(own, w.shape, _fine(w)).to(w.dtype)
        added = decay * old + noise_std * xi * share.to(w.dtype)
        new.append(w - protection * s.to(w.dtype) * (w - old) - cast_like(step_size, w) * added)
    return optree.tree_unflatten(spec, new)


def _use(w: Tensor, g: Tensor) -> Tensor:
    return -(g.to(_fine(w)) * w.to(_fine(w)))


def _of_features(units: Iterable[UnitGroup], params: Any, grads: Any) -> dict[str, Float[Tensor, "units"]]:
    """Return by group name the sum of ``-g * w`` over each unit's outgoing weights."""

    def one(group: UnitGroup, s: Slice) -> Tensor:
        each = take(_use(tree.get(params, s.path), tree.get(grads, s.path)), s, group.size)
        return each.sum(-1).reshape(-1, group.size).sum(0)

    return {group.name: torch.stack([one(group, s) for s in group.outgoing]).sum(0) for group in units}


def _scaled(utility: Any, step: Tensor, decay_rate: float | Tensor, scaling: Scaling, maximum: Maximum) -> Any:
    """``sigmoid`` of the bias-corrected utility over the maximum of all, or over its own norm."""
    debiased = optree.tree_map(lambda u: u / bias_correction(step, decay_rate, u), utility)
    if scaling == "local":

        def locally(u: Tensor) -> Tensor:
            rows = u.reshape(1) if u.ndim == 0 else u
            return torch.sigmoid(torch.nn.functional.normalize(rows, dim=-1)).reshape(u.shape)

        return optree.tree_map(locally, debiased)
    pool = debiased if maximum == "debiased" else utility
    largest = functools.reduce(torch.maximum, [u.amax() for u in optree.tree_leaves(pool)])
    if maximum == "debiased":
        largest = largest.abs()
    largest = torch.where(largest == 0, torch.finfo(torch.float32).tiny, largest)
    return optree.tree_map(lambda u: torch.sigmoid(u / largest.to(u.dtype)), debiased)


def _by_weight(units: tuple[UnitGroup, ...], params: Any, scaled: dict[str, Float[Tensor, "units"]]) -> tuple[Any, Any]:
    """Return ``s`` and ``1 - s`` unit by unit, laid on the weights that make the unit; 0 elsewhere."""

    def lay(values: Callable[[Tensor], Tensor]) -> Any:
        laid: dict[tree.Path, Tensor] = {}
        for group in units:
            for s in group.making_slices():
                leaf = tree.get(params, s.path)
                own = spread(values(scaled[group.name]), s, leaf, 0.0).expand(leaf.shape)
                laid[s.path] = laid[s.path] + own if s.path in laid else own
        return tree.replace(optree.tree_map(torch.zeros_like, params), laid)

    return lay(lambda s: s), lay(lambda s: 1 - s)
