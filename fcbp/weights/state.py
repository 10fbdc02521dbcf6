"""The numbers of per-weight CBP, and its memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from fcbp import random, show, tree
from fcbp.cbp.state import check_number, check_params, count_dtype
from fcbp.checks import arguments
from fcbp.kinds import Tensors
from fcbp.names import check_option
from fcbp.weights.draws import quantile_table
from fcbp.weights.leaves import leaves_of

__all__ = ["Hyperparams", "WeightsState", "check_hyperparams", "check_management", "init_state"]

Managed = Literal["matrices", "all"]
"""The parameters that are managed: those of two or more axes, or all."""
Maturity = Literal["steps", "outliers"]
"""The count that makes a weight mature: steps since it was made, or steps on which it was far more useful than most."""


class Hyperparams(NamedTuple):
    """The numbers of per-weight CBP; each a float or a 0-d tensor, which may be vmapped."""

    reset_rate: float | Tensor = 1e-4
    """Fraction of a tensor's eligible weights reset per event, in [0, 1]."""
    maturity_threshold: float | Tensor = 100
    """Steps (or outlier steps) that a weight is safe for, at least 0."""
    decay_rate: float | Tensor = 0.99
    """Decay of the running mean of the utility, in [0, 1)."""
    period: float | Tensor = 1
    """Steps from one reset event to the next, a whole number, at least 1."""
    mean_fraction: float | Tensor = 0.0
    """For ``selection="below"``: reset what is at most this times the eligible weights' mean utility; at least 0."""
    protect_fraction: float | Tensor = 0.1
    """With ``protect``: a mature weight in this top fraction of its tensor becomes protected, in [0, 1]."""
    release_fraction: float | Tensor = 0.5
    """With ``protect``: and stays so while it is in this one, in [0, 1]; 1 releases none."""


@show.by_fields
class WeightsState(NamedTuple):
    """The memory of per-weight CBP; the dicts are by the name of the managed tensors (``"0.weight"``,
    ``"layers/0/kernel"``), their tensors flat."""

    born: dict[str, Int32[Tensor, "weights"]]
    """The step after which the weight was made: its age is ``step - born``."""
    utility: dict[str, Float[Tensor, "weights"]]
    """Running mean of the instantaneous utility, not yet bias-corrected."""
    outliers: dict[str, Int32[Tensor, "weights"]]
    """Steps on which the weight was an outlier; empty where maturity counts all steps."""
    protected: dict[str, Bool[Tensor, "weights"]]
    """Weights that are not reset for now; empty without protection."""
    initial: dict[str, Float[Tensor, "quantiles"]]
    """The tensor's initial values in order, or evenly spaced quantiles of many."""
    owed: dict[str, Float[Tensor, ""]]
    """Resets carried over: the fraction not yet due, and what ``capacity`` deferred."""
    step: Int32[Tensor, ""]
    """Steps so far."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


@arguments
def check_hyperparams(hyper: Hyperparams) -> None:
    """Check plain numbers (a tensor may be vmapped or on a device; its values are not read).

    Raises:
        ValueError: a number is NaN or out of its range.
    """

    def check(name: str, good: Callable[[float], bool], expected: str) -> None:
        check_number(hyper, Hyperparams, name, good, expected)

    for name in ("reset_rate", "protect_fraction", "release_fraction"):
        check(name, lambda x: 0 <= x <= 1, "a number in [0, 1]")
    check("maturity_threshold", lambda x: x >= 0, "a number of steps, 0 or more")
    check("decay_rate", lambda x: 0 <= x < 1, "a number in [0, 1)")
    check("period", lambda x: 1 <= x < math.inf and x == int(x), "a whole number of steps, 1 or more")
    check("mean_fraction", lambda x: 0 <= x < math.inf, "a finite number, 0 or more")
    protect, release = hyper.protect_fraction, hyper.release_fraction
    if not isinstance(protect, Tensor) and not isinstance(release, Tensor) and release < protect:
        raise ValueError(f"release_fraction is {release}; expected at least protect_fraction, {protect}")


def check_management(managed: Managed | Callable[[tree.Path, Tensor], bool], maturity: Maturity) -> None:
    """Check the options of :func:`init_state`.

    Raises:
        ValueError: one is unknown.
    """
    check_option("maturity", maturity, Maturity)
    if not callable(managed):
        check_option("managed", managed, Managed)


@arguments
def init_state(
    params: Tensors,
    key: Int64[Tensor, ""],
    *,
    managed: Managed | Callable[[tree.Path, Tensor], bool] = "matrices",
    maturity: Maturity = "steps",
    protect: bool = False,
) -> WeightsState:
    """Make the state before the first step from the initial parameters, whose distribution it keeps.

    Args:
        params: any pytree of tensors, as initialised.
        key: a key of :mod:`fcbp.random`; the state draws from it alone.
        managed: ``"matrices"``, the floating-point tensors of two or more axes; ``"all"``, biases and norms too;
            or a function of a path and its tensor that says whether to manage it. The other functions read from the
            state what is managed.
        maturity: what ``maturity_threshold`` counts: ``"steps"`` since the weight was made, or ``"outliers"``, the
            steps on which its instantaneous utility exceeds its tensor's median by 1.5 interquartile ranges.
        protect: keep the most useful weights from being reset, until they fall from the ranks of
            ``release_fraction``. Matters where the selection is not by lowest utility, and to what is counted.

    Raises:
        ValueError: an option is unknown; ``managed`` chooses a tensor that is empty or not of floating point, or
            two of one name; ``key`` is no key.
    """
    random.check_key(key)
    check_params(params)
    check_management(managed, maturity)
    chosen: dict[str, Tensor] = {}
    for path, leaf in leaves_of(params):
        name = tree.show(path)
        if callable(managed):
            if not managed(path, leaf):
                continue
            if not leaf.is_floating_point() or not leaf.numel():
                what = f"{leaf.dtype} of shape {tuple(leaf.shape)}"
                raise ValueError(f"managed chooses {name!r}, {what}; expected floating-point tensors, not empty")
        elif not leaf.is_floating_point() or not leaf.numel() or (managed == "matrices" and leaf.ndim < 2):
            continue
        if name in chosen:
            raise ValueError(f"params holds two tensors by the name of {name!r}; expected names that differ")
        chosen[name] = leaf.detach()

    def zeros(leaf: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        dtype = torch.promote_types(leaf.dtype, torch.float32) if dtype is None else dtype
        return torch.zeros(leaf.numel(), dtype=dtype, device=leaf.device)

    counts = chosen if maturity == "outliers" else {}
    return WeightsState(
        born={name: zeros(leaf, torch.int32) for name, leaf in chosen.items()},
        utility={name: zeros(leaf) for name, leaf in chosen.items()},
        outliers={name: zeros(leaf, torch.int32) for name, leaf in counts.items()},
        protected={name: zeros(leaf, torch.bool) for name, leaf in (chosen if protect else {}).items()},
        initial={name: quantile_table(leaf.flatten()) for name, leaf in chosen.items()},
        owed={
            name: torch.zeros((), dtype=count_dtype(leaf.device), device=leaf.device) for name, leaf in chosen.items()
        },
        step=torch.zeros((), dtype=torch.int32, device=key.device),
        key=key.clone(),
    )
