"""Shrink and perturb: multiply the parameters by a little less than 1, and add noise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import optree
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, show
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_signal
from fcbp.names import check_option
from fcbp.optim import cast_like
from fcbp.units import UnitGroup
from fcbp.weights.state import Managed

__all__ = ["ShrinkPerturbHyperparams", "ShrinkPerturbState", "shrink_perturb"]

Event = Literal["period", "new_task"]
"""The time at which the parameters are shrunk and perturbed."""


class ShrinkPerturbHyperparams(NamedTuple):
    """The numbers of shrink and perturb; each a float or a 0-d tensor, which may be vmapped."""

    shrink: float | Tensor = 0.6
    """Factor of the parameters at an event (lambda), in [0, 1]; 1 leaves them as they are."""
    noise_std: float | Tensor = 0.01
    """Standard deviation of the noise added after (sigma), at least 0; with an initialiser as noise, its factor."""
    period: float | Tensor = 10_000
    """Steps from one event to the next, a whole number, at least 1; 1 is every step. A new task is an event by
    itself with ``event="new_task"``, which does not read this."""


@show.by_fields
class ShrinkPerturbState(NamedTuple):
    """The memory of shrink and perturb."""

    since: Int32[Tensor, ""]
    """Steps since the last event."""
    key: Int64[Tensor, ""]
    """The key of the next noise."""


@arguments
def shrink_perturb(
    event: Event = "period", *, noise: str | initializers.Initializer = "normal", managed: Managed = "all"
) -> Method:
    """Shrink and perturb at an event: ``w = shrink * w + noise_std * xi``, ``xi`` a fresh standard normal for every
    parameter.

    Ash and Adams, "On warm-starting neural network training" (NeurIPS 2020, arXiv 1910.08475), section 5:
    ``theta = lambda * theta + p``, ``p ~ N(0, sigma ** 2)``, once whenever new data arrives; 0.6 and 0.01 are theirs.
    The noise is not scaled by the size of a layer or of its weights. The optimiser's moments stay: nothing is made new.

    What others call so, and how to have it here:

    - shibhansh/loss-of-plasticity (63c35f3) shrinks by L2 regularisation and adds noise at every step:
      ``chain(l2(), shrink_perturb())`` with ``(L2Hyperparams(decay), ShrinkPerturbHyperparams(1, std, 1))``. Nearly the
      same without the chain: ``ShrinkPerturbHyperparams(1 - step_size * decay, std, 1)``.
    - mohmdelsayed/upgd (b75e90a) decays the weights beside the step, ``chain(weight_decay(), shrink_perturb())``, and
      multiplies its noise by the step size: ``noise_std = step_size * sigma``.
    - LucMc/continual-learning (6fc2af3): ``0.8 * w + 0.01 * he_uniform``, matrices only, and by an oversight at every
      second step: ``noise="kaiming_uniform"``, ``managed="matrices"``, ``ShrinkPerturbHyperparams(0.8, 0.01, 2)``.
    - JFernando4/collas_2025_swr_paper (5c8ef03) is given the noise's variance, 1e-8 to 1e-4: ``noise_std`` is its root.
    - RLE-Foundation/Plasticine (aa00b4b) adds 1e-6 times a stored copy of the initial parameters, the same each time.

    Args:
        event: ``"period"``, every ``period`` steps; or ``"new_task"``, after the first step on a new task.
        noise: ``"normal"``; or a name of :data:`fcbp.initializers.INITIALIZERS` or such a function, of which a draw
            is added to each matrix, taken for ``(out, in, *kernel)``, and none to what has fewer axes.
        managed: ``"all"``, or ``"matrices"``, the tensors of two or more axes.

    Raises:
        ValueError: an option is unknown, a number is out of its range, or ``event`` is ``"new_task"`` and batches do
            not say when one begins.

    Example:
        >>> import torch, fcbp
        >>> method, w = shrink_perturb(), {"w": torch.tensor([2.0, -1.0])}
        >>> state = method.init((), w, fcbp.random.key(0))
        >>> method.update(state, w, (), {}, hyper=ShrinkPerturbHyperparams(0.5, 0.0, period=1))[0]["w"]
        tensor([ 1.0000, -0.5000])
    """
    check_option("event", event, Event)
    check_option("managed", managed, Managed)
    draw = None if noise == "normal" else initializers.get(noise)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> ShrinkPerturbState:
        random.check_key(key)
        return ShrinkPerturbState(torch.zeros((), dtype=torch.int32, device=key.device), key.clone())

    def change(w: Tensor, key: Int64[Tensor, ""], hyper: ShrinkPerturbHyperparams) -> Tensor:
        small = cast_like(hyper.shrink, w) * w
        xi = _noise(key, w, draw)
        return small if xi is None else small + cast_like(hyper.noise_std, w) * xi

    @torch.no_grad()
    def update(
        state: ShrinkPerturbState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        hyper: ShrinkPerturbHyperparams,
        new_task: Bool[Tensor, ""] | None = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, ShrinkPerturbState, dict[str, Any]]:
        check_numbers(
            hyper,
            ShrinkPerturbHyperparams,
            shrink="a number in [0, 1]",
            noise_std="a number, 0 or more",
            period="a whole number of steps, 1 or more",
        )
        since = state.since + 1
        due = since >= hyper.period if event == "period" else need_signal(new_task, "shrink-perturb at new tasks")
        key, draws = random.split(state.key).unbind()
        leaves, spec = optree.tree_flatten(params)
        new = [
            w if managed == "matrices" and w.ndim < 2 else torch.where(due, change(w, own, hyper), w)
            for w, own in zip(leaves, random.split(draws, len(leaves)).unbind(), strict=True)
        ]
        state = ShrinkPerturbState(since.masked_fill(due, 0), key)
        return optree.tree_unflatten(spec, new), opt_state, buffers, state, {"replaced": {}}

    return Method(init, update, reads_new_task=event == "new_task")


def _noise(
    key: Int64[Tensor, ""], w: Float[Tensor, "*shape"], draw: initializers.Initializer | None
) -> Float[Tensor, "*shape"] | None:
    if draw is None:
        return random.normal(key, w.shape, torch.promote_types(w.dtype, torch.float32)).to(w.dtype)
    if w.ndim < 2:
        return None
    return draw(key, tuple(w.shape), w[0].numel(), w.shape[0] * w[0, 0].numel(), w.dtype, w.device)
