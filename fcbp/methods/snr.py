"""SNR: self-normalised resets, for units that are silent longer than by their own habit.

Farias and Jozefiak, "Self-normalized resets for plasticity in continual learning", ICLR 2025 (arXiv 2410.20098),
Algorithm 1: a rectifier that has been silent for s steps is reset when the probability that a gap between two of its
firings is s or longer is at most ``rejection``, by the law of that unit's own gaps. Its incoming weights are drawn
anew, its outgoing weights, bias and moments become 0. Code: ajozefiak/SelfNormalizedResets, ``src/algorithms/snr.py``.

The law is a histogram a unit, and from it, as the code does, a threshold every ``period`` steps, after which it is
cleared: the shortest gap that at most a share ``rejection`` of the unit's gaps reached. A unit that is reset counts as
one whose gap ended there; if by that no gap was rare enough the threshold grows by ``growth``. A step on which a unit
fires for no example and at no position of the batch is a silent one.

What differs from the published code:

- it counts examples and lets no threshold fall below 100, which is the size of its batches, whatever yours is. Here
  gaps are counted in steps, the floor is ``minimum_threshold`` steps, and batches may change their size.
- it resets at the quantile itself: a unit that fires every third step without fail is reset at every gap. By the
  paper, a gap is too long when *as long or longer ones* are rare; so is it here.
- a unit without a gap in a period has its threshold set to the floor; here it keeps it, for nothing was learnt.
- its histogram has a bin for every length. Here bins have the edges given, by default every length up to 12, then
  each a quarter longer, up to 29 000: a threshold is at most a quarter too long. ``edges=range(1, n)`` is exact.
- its thresholds begin at a constant of the experiment, here at ``initial_threshold``; it states no defaults, so those
  of :class:`SNRHyperparams` but for the form are this library's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from fcbp import initializers, random, show
from fcbp.cbp.state import check_capacity
from fcbp.checks import arguments
from fcbp.methods.base import Method
from fcbp.methods.checks import check_numbers, need_features, need_units
from fcbp.methods.reset import fires, lowest, masks, reset_units, state_dtype, tick
from fcbp.optim import cast_like
from fcbp.units import UnitGroup

__all__ = ["EDGES", "SNRHyperparams", "SNRState", "snr"]

EDGES: tuple[int, ...] = (*range(1, 13), *(round(12 * 1.25**i) for i in range(1, 36)))
"""The shortest gaps of the bins of a histogram, in steps."""


class SNRHyperparams(NamedTuple):
    """The numbers of self-normalised resets; each a float or a 0-d tensor, which may be vmapped."""

    rejection: float | Tensor = 0.02
    """Share of a unit's gaps that may be as long as the one it is reset for (eta), in [0, 1]; 0 resets no unit."""
    period: float | Tensor = 10_000
    """Steps between two settings of the thresholds, at least 1."""
    initial_threshold: float | Tensor = 1000
    """Steps of silence at which a unit is reset whose gaps are not known yet, at least 1."""
    minimum_threshold: float | Tensor = 1
    """Steps of silence that no unit is reset before, at least 1."""
    growth: float | Tensor = 2.0
    """Factor of a threshold that too many gaps reached, at least 1."""
    fires_above: float | Tensor = 0.0
    """Activation above which a unit counts as firing; 0 is for rectifiers."""


RANGES = {
    "rejection": "a number in [0, 1]",
    "period": "a whole number of steps, 1 or more",
    "initial_threshold": "a whole number of steps, 1 or more",
    "minimum_threshold": "a whole number of steps, 1 or more",
    "growth": "a number, 1 or more",
    "fires_above": "a number",
}


@show.by_fields
class SNRState(NamedTuple):
    """The memory of self-normalised resets; the dicts are by group name."""

    silence: dict[str, Int32[Tensor, "units"]]
    """Steps since the unit fired last."""
    reached: dict[str, Int32[Tensor, "units edges"]]
    """The number of gaps in this period as long as each edge or longer."""
    threshold: dict[str, Int32[Tensor, "units"]]
    """Steps of silence at which the unit is reset; 0 where its gaps are not known yet."""
    since: Int32[Tensor, ""]
    """Steps since the thresholds were set last."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


@arguments
def snr(
    *,
    edges: Sequence[int] = EDGES,
    initializer: str | initializers.Initializer = "kaiming_uniform",
    capacity: int | None = None,
) -> Method:
    """Make the method of self-normalised resets; its ``hyper`` is :class:`SNRHyperparams`.

    Args:
        edges: the shortest gap of each bin of the histograms, in steps, ascending from 1; the last is the longest
            threshold.
        initializer: how incoming weights are drawn; see :func:`fcbp.select_and_reset`.
        capacity: the most units reset per group and step, those silent longest; the others wait. Rows are drawn for
            ``capacity`` units at every step, so a small one is cheaper. By default all.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    given = edges
    edges = tuple(edges)
    if len(edges) < 2 or edges[0] != 1 or any(b <= a for a, b in itertools.pairwise(edges)):
        raise ValueError(f"edges is {given!r}; expected two or more whole numbers, ascending from 1")
    draw = initializers.get(initializer)
    check_capacity(capacity)

    def init(units: Iterable[UnitGroup], params: Any, key: Int64[Tensor, ""]) -> SNRState:
        random.check_key(key)
        silence, reached, threshold = {}, {}, {}
        for group in need_units(units, params, "snr"):
            _, device = state_dtype(group, params)
            silence[group.name] = torch.zeros(group.size, dtype=torch.int32, device=device)
            threshold[group.name] = torch.zeros(group.size, dtype=torch.int32, device=device)
            reached[group.name] = torch.zeros(group.size, len(edges), dtype=torch.int32, device=device)
        since = torch.zeros((), dtype=torch.int32, device=key.device)
        return SNRState(silence, reached, threshold, since, key.clone())

    @torch.no_grad()
    def update(
        state: SNRState,
        params: Any,
        opt_state: Any,
        buffers: Any,
        *,
        units: Iterable[UnitGroup],
        hyper: SNRHyperparams,
        features: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> tuple[Any, Any, Any, SNRState, dict[str, Any]]:
        units = tuple(units)
        check_numbers(hyper, SNRHyperparams, **RANGES)
        features = need_features(features, units, "snr")
        event, since, key, draws = tick(state, hyper.period)
        silence, reached, threshold, chosen = {}, {}, {}, {}
        for group in units:
            name, gap = group.name, state.silence[group.name]
            fired = fires(group, features, hyper.fires_above)
            silent = (gap + 1).masked_fill(fired, 0)
            limit = _limit(state.threshold[name], hyper)
            due = (silent >= limit) & (hyper.rejection > 0)
            chosen[name] = lowest(due, -silent, capacity)
            reset = chosen[name].mask
            ended, gap = (fired & (gap > 0)) | reset, torch.where(reset, silent, gap)
            bins = torch.tensor(edges, dtype=torch.int32, device=gap.device)
            counts = state.reached[name] + (ended.unsqueeze(-1) & (gap.unsqueeze(-1) >= bins))
            silence[name] = silent.masked_fill(reset, 0)
            learnt = _threshold(counts, limit, state.threshold[name], edges, hyper)
            threshold[name] = torch.where(event, learnt, state.threshold[name])
            reached[name] = counts.masked_fill(event, 0)
        params, opt_state, buffers = reset_units(params, opt_state, buffers, chosen, draws, units=units, draw=draw)
        state = SNRState(silence, reached, threshold, since, key)
        return params, opt_state, buffers, state, {"replaced": masks(chosen)}

    return Method(init, update)


def _limit(threshold: Int32[Tensor, "units"], hyper: SNRHyperparams) -> Int32[Tensor, "units"]:
    """Return the steps of silence at which a unit is reset."""
    first, least = (_whole(threshold, value) for value in (hyper.initial_threshold, hyper.minimum_threshold))
    return torch.where(threshold > 0, threshold, first).clamp(min=least)


def _whole(like: Int32[Tensor, "units"], value: float | Tensor) -> int | Tensor:
    return value.to(like.dtype) if isinstance(value, Tensor) else min(int(value), torch.iinfo(like.dtype).max)


def _threshold(
    reached: Int32[Tensor, "units edges"],
    limit: Int32[Tensor, "units"],
    old: Int32[Tensor, "units"],
    edges: tuple[int, ...],
    hyper: SNRHyperparams,
) -> Int32[Tensor, "units"]:
    """Return the first edge that at most a share ``rejection`` of the gaps reached; more than the limit where there is
    none up to it, and as before where there are no gaps."""
    gaps = reached[:, :1].to(torch.float32)
    common = reached.to(torch.float32) > cast_like(hyper.rejection, gaps) * gaps
    following = torch.tensor((*edges[1:], edges[-1]), dtype=torch.int32, device=reached.device)
    rare = torch.where(common, following, 1).amax(-1)
    grown = (limit.to(torch.float32) * cast_like(hyper.growth, gaps)).clamp(max=edges[-1]).to(torch.int32)
    return torch.where(reached[:, 0] > 0, torch.where(rare > limit, grown, rare), old)
