"""The two functions that per-weight CBP calls in every step."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, tree
from fcbp.cbp import bias_correction, most_due, pay, replacements_due
from fcbp.cbp.state import RateCounts, Rounding, check_counting, check_state
from fcbp.checks import arguments
from fcbp.concrete import is_concrete
from fcbp.kinds import PyTree, Tensors
from fcbp.names import check_option
from fcbp.weights.draws import check_initializer, draw
from fcbp.weights.few import Few, few_lowest
from fcbp.weights.leaves import flat, leaves_of
from fcbp.weights.lowest import count_finite, finite_or_inf, lowest, quantiles, settled
from fcbp.weights.moments import scales
from fcbp.weights.state import Hyperparams, WeightsState, check_hyperparams

__all__ = ["select_and_reset", "update_utility"]

Params = Tensors

Utility = Literal["gradient", "magnitude", "random"]
"""Measures of a weight's use."""
Selection = Literal["lowest", "below", "random"]
"""The choice of the mature weights that are reset."""


@arguments
@torch.no_grad()
def update_utility(
    state: WeightsState,
    params: Params,
    grads: Params,
    hyper: Hyperparams,
    *,
    utility: Utility = "gradient",
    moments: PyTree = None,
) -> WeightsState:
    """Age every weight by one step and move the running mean of its utility.

    Args:
        state: the state before this step.
        params: parameters **after** the optimiser's step.
        grads: gradients, a pytree like ``params``; ``()`` is enough where the utility is not ``"gradient"``.
        hyper: see :class:`Hyperparams`.
        utility: ``"gradient"``, ``abs(g * w)``; ``"magnitude"``, ``abs(w)``; or ``"random"``, for which a fresh uniform
            draw replaces the running mean (``selection="random"`` chooses by the same law and costs less).
        moments: scale the utility by the optimiser's moments, an :class:`fcbp.optim.AdamState` (or anything with
            pytrees ``mean`` and ``mean_square``): by ``(abs(mean) + 1e-8) / (sqrt(mean_square) + 1e-8)``; or an
            :class:`fcbp.optim.SGDState` with momentum: by ``abs(momentum)``.

    Returns:
        The state after the step; ``params`` are not changed.

    Raises:
        ValueError: the utility is unknown; ``params``, ``grads`` or ``moments`` lack a managed tensor or have it in
            another shape; a hyperparameter is out of range.
    """
    check_state(state, WeightsState)
    check_hyperparams(hyper)
    check_option("utility", utility, Utility)
    weights = flat("params", params, state.born)
    gradients = flat("grads", grads, state.born) if utility == "gradient" else {}
    scale = scales(moments, state.born)
    util, outliers, key, step = dict(state.utility), dict(state.outliers), state.key, state.step + 1
    if utility == "random":
        key, draws = random.split(key).unbind()
    for i, name in enumerate(sorted(util)):
        old = util[name]
        if utility == "random":
            y = random.uniform(random.fold_in(draws, i), old.shape, old.dtype)
        else:
            w = weights[name].to(old.dtype)
            y = (w * gradients[name].to(old.dtype) if utility == "gradient" else w).abs()
        if scale is not None:
            y = y * scale[name].to(old.dtype)
        if outliers:
            y = settled(y)
            low, median, high = quantiles(finite_or_inf(y), (0.25, 0.5, 0.75))
            outliers[name] = outliers[name] + (y > median + 1.5 * (high - low)).to(torch.int32)
        decay = hyper.decay_rate
        if utility == "random":
            util[name] = y * bias_correction(step - state.born[name], decay, y)
        elif not isinstance(decay, Tensor) and decay == 0:
            util[name] = y
        else:
            util[name] = torch.lerp(old, y, (1 - decay).to(old.dtype) if isinstance(decay, Tensor) else 1 - decay)
    return state._replace(utility=util, outliers=outliers, step=step, key=key)


@arguments
@torch.no_grad()
def select_and_reset(
    state: WeightsState,
    params: Params,
    hyper: Hyperparams,
    *,
    selection: Selection = "lowest",
    initializer: str | initializers.Initializer = "initial",
    rounding: Rounding = "accumulate",
    rate_counts: RateCounts = "eligible",
    capacity: int | None = None,
) -> tuple[Params, WeightsState, Params]:
    """Reset the due number of mature weights of each managed tensor, on every ``period``-th step.

    A weight is eligible when it is mature, not protected, and its utility is finite. A reset weight is drawn anew; its
    age, utility and count of outliers become 0. Steps between events cost as much as events: where ``period`` is
    long and the loop is Python's, call this on every so many steps instead, with a period of 1.

    Args:
        state: the state after :func:`update_utility`.
        params: parameters after the optimiser's step.
        hyper: see :class:`Hyperparams`.
        selection: ``"lowest"``, the ``reset_rate`` of lowest utility, ties to the lower index; ``"random"``, as many
            uniformly among the eligible; or ``"below"``, all eligible weights of at most ``mean_fraction`` times
            their mean utility, all of them where that mean is 0.
        initializer: ``"initial"``, the tensor's own initial distribution (interpolated between its initial values, or
            1025 quantiles of them); ``"initial_mean"``, the mean of that; a name of
            :data:`fcbp.initializers.INITIALIZERS`, which take the tensor for ``(out, in, *kernel)``;
            ``"uniform"``, ``"normal"``, ``"constant"``, the functions of :mod:`fcbp.weights`;
            ``"orthogonal"``, the entries at the reset weights' places of a random orthogonal matrix of the tensor's
            shape (costly: all of it is drawn); or a function ``(key, shape, fan_in, fan_out, dtype, device) ->
            Tensor`` of shape ``(capacity,)``, whose first values go to the reset weights in order of their index.
        rounding: ``"accumulate"`` carries fractions to later events; ``"stochastic"`` rounds each at random.
        rate_counts: the rate multiplies the ``"eligible"`` weights, or ``"all"`` once any is eligible.
        capacity: the most weights reset per tensor and event; more are deferred. By default the most that can fall
            due: for a plain number as rate ``floor(rate * size) + 1``; for a tensor, and for ``"below"``, the size.
            As many values are drawn whether needed or not: for a large tensor and a swept rate, give one.

    Returns:
        ``params`` and state after the reset, and what was reset: boolean masks in a pytree like ``params``.

    Raises:
        ValueError: a hyperparameter or ``capacity`` is out of range; an option is unknown; ``params`` lacks a managed
            tensor or has it in another shape; the initialiser needs two axes and a managed tensor has fewer.
    """
    check_state(state, WeightsState)
    check_hyperparams(hyper)
    check_option("selection", selection, Selection)
    check_counting(rounding, rate_counts, capacity, "weights")
    weights = flat("params", params, state.born)
    shapes = {tree.show(path): (path, leaf.shape) for path, leaf in leaves_of(params)}
    check_initializer(initializer, {name: shapes[name][1] for name in state.born})
    key, draws, rounds, lots = random.split(state.key, 4).unbind()
    event = _is_event(state.step, hyper.period)
    known = is_concrete(*state.born.values(), *state.utility.values(), state.step, *weights.values(), *hyper)
    if known and not event:
        none = {
            path: torch.zeros((), dtype=torch.bool, device=leaf.device).expand(leaf.shape)
            for path, leaf in leaves_of(params)
        }
        return params, state._replace(key=key), tree.replace(params, none)

    options = _Options(selection, rounding, rate_counts, known)
    masks: dict[tree.Path, Tensor] = {
        path: torch.zeros_like(leaf, dtype=torch.bool)
        for path, leaf in leaves_of(params)
        if tree.show(path) not in state.born
    }
    new: dict[tree.Path, Tensor] = {}
    for i, name in enumerate(sorted(state.born)):
        path, shape = shapes[name]
        limit = most_due(state.born[name].shape[0], 1.0 if selection == "below" else hyper.reset_rate, capacity)
        if limit == 0 and not state.protected and (selection == "below" or capacity is None):
            masks[path] = torch.zeros(shape, dtype=torch.bool, device=state.born[name].device)
            continue
        chosen = _select(state, name, hyper, options, limit, event, lots, (rounds, i))
        masks[path] = chosen.gone.reshape(shape)
        if limit:
            # Of the named draws the first do not depend on how many are drawn.
            wanted = int(chosen.number) if chosen.known and not callable(initializer) else limit
            drawn = draw(initializer, random.fold_in(draws, i), state.initial[name], wanted, shape, weights[name])
            new[path] = _put(weights[name], drawn, chosen, initializer == "orthogonal").reshape(shape)
        state = _reset(state, name, chosen)
    return tree.replace(params, new), state._replace(key=key), tree.replace(params, masks)


# --- due and select ---------------------------------------------------------------------------------------


class _Options(NamedTuple):
    """The options by which weights are chosen."""

    selection: Selection
    rounding: Rounding
    rate_counts: RateCounts
    known: bool
    """Whether the numbers can be read now."""


class _Selection(NamedTuple):
    """The weights of a tensor that are reset in this step."""

    gone: Bool[Tensor, "weights"]
    places: Int64[Tensor, "capacity"] | None
    """Where few of many are: their places, of which those past ``number`` repeat the first."""
    number: Int[Tensor, ""]
    """The number of weights that are reset."""
    owed: Float[Tensor, ""]
    """Resets carried over."""
    protected: Bool[Tensor, "weights"] | None
    """The weights that are protected from now on; ``None`` where none ever is."""
    known: bool = False
    """Whether ``number`` can be read now."""


def _select(
    state: WeightsState,
    name: str,
    hyper: Hyperparams,
    options: _Options,
    limit: int,
    event: Bool[Tensor, ""],
    lots: Int64[Tensor, ""],
    rounds: tuple[Int64[Tensor, ""], int],
) -> _Selection:
    """Choose the weights of a tensor that are reset now, and count them."""
    n = state.born[name].shape[0]
    few = _few(state, name, hyper, limit) if options.known and options.selection == "lowest" else None
    if few is not None:
        number, owed = _due(state, name, hyper, options, few.number_eligible, limit, event, rounds)
        return _Selection(*few.lowest(int(number), n), number, owed, None, known=True)
    x, protected = _scores(state, name, hyper, event)
    eligible = count_finite(x)
    if options.selection == "below":
        x = torch.where(x <= _bound(x, eligible, hyper.mean_fraction), x, torch.full_like(x[0], torch.inf))
        number, owed = torch.where(event, count_finite(x).clamp(max=limit), 0), state.owed[name]
        if limit >= n:  # all of them, which need not be looked for
            return _Selection(event & (x < torch.inf), None, number, owed, protected)
    else:
        number, owed = _due(state, name, hyper, options, eligible, limit, event, rounds)
    if options.selection == "random":
        x = torch.where(x < torch.inf, _lots(random.fold_in(lots, rounds[1]), n), 2**31 - 1)
    return _Selection(*lowest(x, number, limit), number, owed, protected)


def _few(state: WeightsState, name: str, hyper: Hyperparams, limit: int) -> Few | None:
    """Find a few weights with all the lowest among them, where that is known to be quicker."""
    if state.protected or state.outliers:
        return None
    n = state.born[name].shape[0]
    return few_lowest(
        state.utility[name],
        state.born[name],
        int(state.step - _safe_age(hyper.maturity_threshold)),
        lambda u, b: _debiased(u, b, state.step, hyper),
        min(limit, int(state.owed[name] + float(hyper.reset_rate) * n) + 1),
    )


def _scores(
    state: WeightsState, name: str, hyper: Hyperparams, event: Bool[Tensor, ""]
) -> tuple[Float[Tensor, "weights"], Bool[Tensor, "weights"] | None]:
    """Return the bias-corrected utility of the eligible, infinity for the others; and who is protected from now on."""
    mature = _mature(state.born[name], state.step, state.outliers.get(name), hyper.maturity_threshold)
    x = _debiased(state.utility[name], state.born[name], state.step, hyper)
    inf = torch.full_like(x[0], torch.inf)
    x = torch.where(mature & (x <= torch.finfo(x.dtype).max), x, inf)
    if not state.protected:
        return x, None
    x = settled(x)
    protected = _protect(state.protected[name], x, hyper, event)
    return torch.where(protected, inf, x), protected


def _due(
    state: WeightsState,
    name: str,
    hyper: Hyperparams,
    options: _Options,
    eligible: Int[Tensor, ""],
    limit: int,
    event: Bool[Tensor, ""],
    rounds: tuple[Int64[Tensor, ""], int],
) -> tuple[Int[Tensor, ""], Float[Tensor, ""]]:
    """Return the number of weights reset now, and the number owed afterwards; between events none is reset or
    counted."""
    n = state.born[name].shape[0]
    counted = eligible if options.rate_counts == "eligible" else n * (eligible > 0)
    counted = torch.where(event, counted, 0)
    due = replacements_due(state.owed[name], counted, hyper.reset_rate, options.rounding, *rounds)
    number, left = pay(due, eligible, limit, hyper.reset_rate)
    return torch.where(event, number, 0), torch.where(event, left, due)


# --- reset ------------------------------------------------------------------------------------------------


def _reset(state: WeightsState, name: str, chosen: _Selection) -> WeightsState:
    """Return the state of a tensor's weights after the reset."""
    born, util = state.born[name], state.utility[name]
    outliers, protected = state.outliers, state.protected
    if outliers:
        outliers = {**outliers, name: _put(outliers[name], torch.zeros_like(born[:1]), chosen)}
    if chosen.protected is not None:
        protected = {**protected, name: chosen.protected}
    return state._replace(
        born={**state.born, name: _put(born, state.step.expand(1), chosen)},
        utility={**state.utility, name: _put(util, torch.zeros_like(util[:1]), chosen)},
        outliers=outliers,
        protected=protected,
        owed={**state.owed, name: chosen.owed},
    )


# --- parts ----------------------------------------------------------------------------------------------


def _is_event(step: Int[Tensor, ""], period: float | Tensor) -> Bool[Tensor, ""]:
    return torch.remainder(step, period) == 0


def _mature(
    born: Int32[Tensor, "weights"],
    step: Int32[Tensor, ""],
    outliers: Int32[Tensor, "weights"] | None,
    threshold: float | Tensor,
) -> Bool[Tensor, "weights"]:
    if outliers is not None:
        return outliers > threshold
    return born < step - _safe_age(threshold)


def _safe_age(threshold: float | Tensor) -> int | Int32[Tensor, ""]:
    """Return the age up to which a weight is safe, in integers: a float32 does not know one step of many millions from
    the next."""
    if isinstance(threshold, Tensor):
        return torch.where(threshold < 2**30, torch.floor(threshold), 2**30).to(torch.int32)
    return math.floor(min(threshold, 2**30))


def _debiased(
    utility: Float[Tensor, "weights"], born: Int32[Tensor, "weights"], step: Int32[Tensor, ""], hyper: Hyperparams
) -> Float[Tensor, "weights"]:
    """Return the bias-corrected mean; left as it is where plain numbers say that the correction of what is mature is
    1."""
    decay, threshold = hyper.decay_rate, hyper.maturity_threshold
    if isinstance(decay, Tensor):
        exponent = (step - born).to(utility.dtype) * torch.log(decay.to(torch.float64)).to(utility.dtype)
    else:
        # A weight of that many outlier steps is as old at least.
        youngest = 1 if isinstance(threshold, Tensor) else int(_safe_age(threshold)) + 1
        if decay**youngest < torch.finfo(utility.dtype).eps / 8:
            return utility
        exponent = (step - born).to(utility.dtype).mul_(math.log(decay))
    # As in fcbp.cbp; in place where it may be, for the tensors are large.
    return utility / exponent.expm1_().neg_()


def _lots(key: Int64[Tensor, ""], n: int) -> Int32[Tensor, "n"]:
    """Draw 30 random bits for each of ``n``, two to a word; all are less than the mark of the ineligible."""
    words = random.bits(key, ((n + 1) // 2,))
    halves = torch.stack([words, words >> 32], -1).flatten()[:n]
    return (halves & 0x3FFFFFFF).to(torch.int32)


def _bound(x: Float[Tensor, "weights"], number: Int[Tensor, ""], fraction: float | Tensor) -> Float[Tensor, ""]:
    """``fraction`` times the mean of what is finite; -1 where that is no number."""
    total = torch.where(x < torch.inf, x, torch.zeros_like(x[0])).sum(dtype=torch.float64)
    fraction = fraction.to(torch.float64) if isinstance(fraction, Tensor) else fraction
    bound = total / number.clamp(min=1) * fraction
    return torch.where(bound >= 0, bound.clamp(max=torch.finfo(x.dtype).max), -1).to(x.dtype)


def _protect(
    protected: Bool[Tensor, "weights"], x: Float[Tensor, "weights"], hyper: Hyperparams, event: Bool[Tensor, ""]
) -> Bool[Tensor, "weights"]:
    """Find the protected weights: they enter above one quantile of the mature, and leave below the other."""
    enter, leave = quantiles(x, (1 - hyper.protect_fraction, 1 - hyper.release_fraction))
    now = (x < torch.inf) & ((x > enter) | (protected & (x >= leave)))
    return torch.where(event, now, protected)


def _put(
    weights: Float[Tensor, "weights"],
    values: Float[Tensor, "..."],
    chosen: _Selection,
    by_place: bool = False,
) -> Float[Tensor, "weights"]:
    """``weights`` with ``values`` where they are gone: those of the same place, or one after the other."""
    count = values.shape[0]
    if chosen.places is not None:
        places, number = chosen.places, chosen.number
        if by_place:
            values = values[places]
        elif count > 1:
            values = torch.where(torch.arange(count, device=values.device) < number, values, values[0])
            values = values[: places.shape[0]]
        # Where nothing is due, all places are one, which is written as it is.
        return weights.scatter(0, places, torch.where(number > 0, values, weights[places]))
    if not by_place and count > 1:
        slot = chosen.gone.cumsum(0, dtype=torch.int32) - 1
        values = values[slot.clamp(0, count - 1).to(torch.int64)]
    return torch.where(chosen.gone, values, weights)
