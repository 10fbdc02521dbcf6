"""Continual Backpropagation: keep re-initialising a few mature units of low utility.

Dohare, Hernandez-Garcia, Lan, Rahman, Mahmood and Sutton, "Loss of plasticity in deep continual learning",
Nature 632 (2024), Algorithm 1; bias transfer and the mean-corrected measures from "Continual Backprop", arXiv
2108.06325. Three pure functions over pytrees, called after each optimiser step:

    >>> import torch, fcbp
    >>> model = torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    >>> params = dict(model.named_parameters())
    >>> units = fcbp.find_units(model, torch.zeros(1, 20))
    >>> hyper = fcbp.Hyperparams(replacement_rate=1e-3)
    >>> state = fcbp.init_state(units, params, fcbp.random.key(0))
    >>> features = {"0": torch.rand(8, 5)}
    >>> state = fcbp.update_utility(state, params, features, hyper, units=units)
    >>> params, state, replaced = fcbp.select_and_reset(state, params, hyper, units=units)
    >>> replaced["0"]
    tensor([False, False, False, False, False])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, tree, utility
from fcbp.concrete import is_concrete, is_nothing
from fcbp.names import unknown
from fcbp.units import UnitGroup, check_features, check_units
from fcbp.units.group import FRESH, Slice, fans, put, put_at, put_rows, row_shape, take, update

__all__ = [
    "CBPState",
    "Hyperparams",
    "bias_correction",
    "check_hyperparams",
    "init_state",
    "rank_lowest",
    "replacements_due",
    "reset_buffers",
    "reset_moments",
    "running_mean_weights",
    "select_and_reset",
    "unit_activations",
    "update_utility",
]

LARGE_LEAF = 1 << 18
"""Elements of a leaf from which on a reset writes the replaced units' rows alone, not every element under a mask."""

Params = Any
Replaced = dict[str, Bool[Tensor, "units"]]


class Hyperparams(NamedTuple):
    """The numbers of Continual Backpropagation; each a float or a 0-d tensor, which may be vmapped.

    A float64 tensor keeps small rates exact over long runs; a float32 tensor is taken for what it holds.
    """

    replacement_rate: float | Tensor = 1e-4
    """Fraction of the eligible units replaced per step (rho), in [0, 1]."""
    maturity_threshold: float | Tensor = 100
    """Steps a unit is safe for (m), at least 0."""
    decay_rate: float | Tensor = 0.99
    """Decay of the running means of utility and activation (eta), in [0, 1)."""


class CBPState(NamedTuple):
    """What Continual Backpropagation remembers; the dicts are by group name."""

    age: dict[str, Int32[Tensor, "units"]]
    """Steps since the unit was made."""
    utility: dict[str, Float[Tensor, "units"]]
    """Running mean of the instantaneous utility, not yet bias-corrected."""
    mean_activation: dict[str, Float[Tensor, "units"]]
    """Running mean of the activation, not yet bias-corrected."""
    owed: dict[str, Float[Tensor, ""]]
    """Replacements carried over: the fraction not yet due, and what ``capacity`` deferred."""
    key: Int64[Tensor, ""]
    """The key of the next draws."""


def check_hyperparams(hyper: Hyperparams) -> None:
    """Check what is a plain number (a tensor may be vmapped or on a device; its values are not read).

    Raises:
        ValueError: a number is NaN or out of its range.
    """
    rate, maturity, decay = hyper.replacement_rate, hyper.maturity_threshold, hyper.decay_rate
    if not isinstance(rate, Tensor) and not 0 <= rate <= 1:
        raise ValueError(f"replacement_rate is {rate}; expected a number in [0, 1]")
    if not isinstance(maturity, Tensor) and not maturity >= 0:
        raise ValueError(f"maturity_threshold is {maturity}; expected a number of steps, 0 or more")
    if not isinstance(decay, Tensor) and not 0 <= decay < 1:
        raise ValueError(f"decay_rate is {decay}; expected a number in [0, 1)")


def init_state(units: Iterable[UnitGroup], params: Params, key: Int64[Tensor, ""]) -> CBPState:
    """The state before the first step: every unit of age, utility and mean activation 0.

    Args:
        units: the groups to manage.
        params: any pytree of tensors.
        key: a key of :mod:`fcbp.random`; the state draws from it alone.

    Raises:
        ValueError: a group does not fit ``params`` (see :func:`fcbp.units.check_units`), or ``key`` is no key.
    """
    units = tuple(units)
    check_units(units, params)
    random.check_key(key)
    age, util, mean, owed = {}, {}, {}, {}
    for group in units:
        leaf = tree.get(params, (group.incoming + group.outgoing)[0].path)
        dtype = torch.promote_types(leaf.dtype, torch.float32)
        # Sums of millions of tiny rates need more than float32's 24 bits; Apple's devices have no more.
        owed_dtype = torch.float32 if leaf.device.type == "mps" else torch.float64
        age[group.name] = torch.zeros(group.size, dtype=torch.int32, device=leaf.device)
        util[group.name] = torch.zeros(group.size, dtype=dtype, device=leaf.device)
        mean[group.name] = torch.zeros(group.size, dtype=dtype, device=leaf.device)
        owed[group.name] = torch.zeros((), dtype=owed_dtype, device=leaf.device)
    return CBPState(age, util, mean, owed, key.clone())


@torch.no_grad()
def update_utility(
    state: CBPState,
    params: Params,
    features: Mapping[str, Float[Tensor, "..."]],
    hyper: Hyperparams,
    *,
    units: Iterable[UnitGroup],
    measure: str | utility.Measure = "contribution",
    grads: Params | None = None,
) -> CBPState:
    """Age every unit by one step and move its running means.

    Args:
        state: the state before this step.
        params: parameters **after** the optimiser's step.
        features: by group name, the activation in the forward pass **before** it, its units on
            ``activation_axis``; all other axes (batch, positions) are averaged over.
        hyper: see :class:`Hyperparams`.
        units: the groups of :func:`init_state`.
        measure: a name of :data:`fcbp.utility.MEASURES`, ``"random"``, or a function of an
            :class:`fcbp.utility.Observation`.
        grads: gradients, a pytree like ``params``; needed by measures of gradients.

    Returns:
        The state after the step; ``params`` are not changed.

    Raises:
        ValueError: a feature is missing or its unit axis does not match the group; the measure is unknown or needs
            ``grads``; a hyperparameter is out of range.
    """
    units = tuple(units)
    check_hyperparams(hyper)
    _check_by_group("state.age", state.age, units)
    check_features(units, features)
    instantaneous = utility.get(measure)
    looks_at_grads = grads is not None and (callable(measure) or measure in utility.OF_GRADIENTS)
    age, util, mean, key = dict(state.age), dict(state.utility), dict(state.mean_activation), state.key
    for group in units:
        name = group.name
        age[name] = age[name] + 1
        h = unit_activations(group, features[name]).to(mean[name].dtype)
        keep, take_in = running_mean_weights(hyper.decay_rate, mean[name])
        mean[name] = keep * mean[name] + take_in * h.mean((*range(h.ndim - 2), -1))
        debias = bias_correction(age[name], hyper.decay_rate, mean[name])
        if measure == "random":
            key, draw = random.split(key).unbind()
            util[name] = random.uniform(draw, (group.size,), util[name].dtype) * debias
            continue
        observation = utility.Observation(
            activation=h,
            mean_activation=mean[name] / debias,
            incoming=_weights(group, group.incoming, params),
            outgoing=_weights(group, group.outgoing, params),
            incoming_grads=_weights(group, group.incoming, grads) if looks_at_grads else (),
            outgoing_grads=_weights(group, group.outgoing, grads) if looks_at_grads else (),
        )
        util[name] = keep * util[name] + take_in * instantaneous(observation).to(util[name].dtype)
    return state._replace(age=age, utility=util, mean_activation=mean, key=key)


@torch.no_grad()
def select_and_reset(
    state: CBPState,
    params: Params,
    hyper: Hyperparams,
    *,
    units: Iterable[UnitGroup],
    initializer: str | initializers.Initializer = "kaiming_uniform",
    transfer_bias: bool = False,
    rounding: str = "accumulate",
    rate_counts: str = "eligible",
    capacity: int | None = None,
) -> tuple[Params, CBPState, Replaced]:
    """Replace the due number of mature units of lowest utility.

    A unit is eligible when its age exceeds the maturity threshold and its utility is finite. All groups are selected
    before any is reset; a replaced unit's outgoing weights become 0, its incoming weights are drawn anew, its bias
    becomes 0, its norm scale 1 and shift 0, its PReLU's slope 0.25, and its age and running means 0.

    Args:
        state: the state after :func:`update_utility`.
        params: parameters after the optimiser's step.
        hyper: see :class:`Hyperparams`.
        units: the groups of :func:`init_state`.
        initializer: a name of :data:`fcbp.initializers.INITIALIZERS` or a function
            ``(key, shape, fan_in, fan_out, dtype, device) -> Tensor``; see :func:`fcbp.initializers.get` for a
            nonlinearity's gain.
        transfer_bias: add what a replaced unit contributed on average to its consumers' biases (arXiv 2108.06325).
        rounding: ``"accumulate"`` carries fractions to later steps; ``"stochastic"`` rounds each at random.
        rate_counts: the rate multiplies the ``"eligible"`` units, or ``"all"`` once any is eligible.
        capacity: the most units replaced per group and step; more are deferred. Rows are drawn for ``capacity`` units
            at every step, so a small one is cheaper. By default the most that can fall due: for a plain number as
            rate ``floor(rate * size) + 1``, for a tensor the group's size.

    Returns:
        ``params`` and state after the reset, and by group name the mask ``(units,)`` of what was replaced.

    Raises:
        ValueError: a hyperparameter or ``capacity`` is out of range, or an option is unknown.
    """
    units = tuple(units)
    check_hyperparams(hyper)
    _check_by_group("state.age", state.age, units)
    draw_rows = initializers.get(initializer)
    if rounding not in ("accumulate", "stochastic"):
        raise unknown("rounding", rounding, ("accumulate", "stochastic"))
    if rate_counts not in ("eligible", "all"):
        raise unknown("rate_counts", rate_counts, ("eligible", "all"))
    if capacity is not None and (isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 0):
        raise ValueError(f"capacity is {capacity!r}; expected a number of units, 0 or more, or None")
    key, draws, rounds = random.split(state.key, 3).unbind()

    owed = dict(state.owed)
    debiased: dict[str, Tensor] = {}
    eligible: dict[str, Tensor] = {}
    number_eligible: dict[str, Tensor] = {}
    for i, group in enumerate(units):
        name = group.name
        debiased[name] = state.utility[name] / bias_correction(state.age[name], hyper.decay_rate, state.utility[name])
        eligible[name] = (state.age[name] > hyper.maturity_threshold) & torch.isfinite(debiased[name])
        number_eligible[name] = counted = eligible[name].sum(dtype=torch.int32)
        if rate_counts == "all":
            counted = group.size * (counted > 0)
        owed[name] = replacements_due(owed[name], counted, hyper.replacement_rate, rounding, rounds, i)
    if is_concrete(*owed.values()) and all(float(due) < 1 for due in owed.values()):
        nobody = {group.name: torch.zeros_like(eligible[group.name]) for group in units}
        return params, state._replace(owed=owed, key=key), nobody

    limits: dict[str, int] = {}
    ranks: dict[str, Tensor] = {}
    lowest: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    replaced: Replaced = {}
    for group in units:
        name = group.name
        limits[name] = _capacity(group, hyper.replacement_rate, capacity)
        number = torch.minimum(torch.floor(owed[name]), number_eligible[name].clamp(max=limits[name])).to(torch.int32)
        owed[name] = owed[name] - number
        ranks[name], lowest[name] = rank_lowest(torch.where(eligible[name], debiased[name], torch.inf), limits[name])
        replaced[name] = ranks[name] < number
        numbers[name] = number

    active = [group for group in units if limits[group.name]]
    if transfer_bias:
        params = _transfer_biases(params, active, state, hyper, replaced)

    def write(group: UnitGroup, s: Slice, leaf: Tensor, value: float | Tensor) -> Tensor:
        name = group.name
        if leaf.numel() >= LARGE_LEAF and 8 * limits[name] <= group.size:
            due = torch.arange(limits[name], dtype=torch.int32, device=leaf.device) < numbers[name]
            return put_at(leaf, s, lowest[name], due, value)
        if isinstance(value, Tensor):
            return put_rows(leaf, s, ranks[name], replaced[name], value)
        return put(leaf, s, replaced[name], value)

    def to(value: float) -> Callable[[UnitGroup, Slice, Tensor], Tensor]:
        return lambda group, s, leaf: write(group, s, leaf, value)

    drawn = 0

    def redraw(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        nonlocal drawn
        shape = row_shape(leaf, s, limits[group.name])
        rows = draw_rows(random.fold_in(draws, drawn), shape, *fans(leaf, s), leaf.dtype, leaf.device)
        drawn += 1
        return write(group, s, leaf, rows)

    params = update(params, active, to(0.0), "outgoing")
    params = update(params, active, redraw, "incoming")
    for role, value in FRESH.items():
        params = update(params, active, to(value), role)
    state = CBPState(
        age={**state.age, **{g.name: state.age[g.name].masked_fill(replaced[g.name], 0) for g in active}},
        utility={**state.utility, **{g.name: state.utility[g.name].masked_fill(replaced[g.name], 0) for g in active}},
        mean_activation={
            **state.mean_activation,
            **{g.name: state.mean_activation[g.name].masked_fill(replaced[g.name], 0) for g in active},
        },
        owed=owed,
        key=key,
    )
    return params, state, replaced


@torch.no_grad()
def reset_moments(opt_state: Any, replaced: Replaced, *, units: Iterable[UnitGroup]) -> Any:
    """Zero what an optimiser remembers of the replaced units' weights: moments and per-element step counts.

    Every subtree of ``opt_state`` shaped like ``params`` is reset, wherever it lies; a per-tensor count (a 0-d
    tensor) belongs to other units as well and stays.

    Args:
        opt_state: a pytree; those of :mod:`fcbp.optim`, or any with subtrees shaped like ``params``.
        replaced: the masks that :func:`select_and_reset` returned.
        units: the groups.

    Raises:
        ValueError: ``opt_state`` holds tensors, but no subtree shaped like ``params``; ``replaced`` lacks a group.
    """
    units = tuple(units)
    _check_by_group("replaced", replaced, units)

    def zero(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        return put(leaf, s, replaced[group.name], 0) if leaf.ndim else leaf

    found = False

    def walk(node: Any) -> Any:
        nonlocal found
        if all(_holds(node, s) for group in units for s in group.parameter_slices()):
            found = True
            if is_nothing(replaced):
                return node
            return update(node, units, zero, " ".join(("incoming", "outgoing", *FRESH)))
        if not isinstance(node, (Mapping, tuple, list)):
            return node
        entries = node.keys() if isinstance(node, Mapping) else range(len(node))
        return tree.replace(node, {(entry,): walk(node[entry]) for entry in entries})

    new = walk(opt_state)
    if units and not found and _has_tensors(opt_state):
        raise ValueError(
            f"opt_state has type {type(opt_state).__name__} and no subtree that holds every leaf of the groups; "
            "expected moments shaped like params"
        )
    return new


@torch.no_grad()
def reset_buffers(buffers: Mapping[str, Tensor], replaced: Replaced, *, units: Iterable[UnitGroup]) -> Any:
    """Running means of the replaced units to 0, running variances to 1.

    Args:
        buffers: a pytree of buffers, such as ``dict(model.named_buffers())``.
        replaced: the masks that :func:`select_and_reset` returned.
        units: the groups.

    Raises:
        ValueError: ``buffers`` lacks a running mean or variance that a group names; ``replaced`` lacks a group.
    """
    units = tuple(units)
    _check_by_group("replaced", replaced, units)
    for group in units:
        for s in group.buffer_slices():
            if not _holds(buffers, s):
                raise ValueError(f"buffers has no {tree.show(s.path)}, a running statistic of group {group.name!r}")
    buffers = update(buffers, units, lambda g, s, leaf: put(leaf, s, replaced[g.name], 0.0), "running_mean")
    return update(buffers, units, lambda g, s, leaf: put(leaf, s, replaced[g.name], 1.0), "running_var")


# --- parts ----------------------------------------------------------------------------------------------


def unit_activations(group: UnitGroup, h: Float[Tensor, "..."]) -> Float[Tensor, "*samples units positions"]:
    """A group's activation, its units last but one; behind them a unit's positions: of a flattened feature map its
    channel's, else one."""
    if h.shape[group.activation_axis] == group.size:
        return h.movedim(group.activation_axis, -1).unsqueeze(-1)
    flattened = next(s for s in group.outgoing if group.size * s.block == h.shape[group.activation_axis])
    start = flattened.start - min(min(unit) for unit in flattened.entries(group.size))
    layout = replace(flattened, path=(), axis=group.activation_axis, start=start)
    return take(h, layout, group.size)


def _weights(group: UnitGroup, slices: tuple[Slice, ...], params: Params) -> tuple[Tensor, ...]:
    return tuple(take(tree.get(params, s.path), s, group.size) for s in slices)


def running_mean_weights(decay_rate: float | Tensor, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
    """``eta`` for the old mean and ``1 - eta`` for the new value; the difference is taken before rounding to ``like``'s
    dtype."""
    if isinstance(decay_rate, Tensor):
        return decay_rate.to(like.dtype), (1 - decay_rate).to(like.dtype)
    return decay_rate, 1 - decay_rate


def bias_correction(age: Int[Tensor, "units"], decay_rate: float | Tensor, like: Tensor) -> Float[Tensor, "units"]:
    """``1 - eta ** age``, the share of a running mean that is not its start at 0; without the cancellation that costs a
    young unit's first digits."""
    if isinstance(decay_rate, Tensor):
        log_decay: float | Tensor = torch.log(decay_rate.to(torch.float64)).to(like.dtype)
    else:
        log_decay = math.log(decay_rate) if decay_rate else -math.inf
    return -torch.expm1(age.to(like.dtype) * log_decay)


def _capacity(group: UnitGroup, rate: float | Tensor, capacity: int | None) -> int:
    if capacity is not None:
        return min(capacity, group.size)
    if isinstance(rate, Tensor):
        return group.size
    return min(math.floor(rate * group.size) + 1, group.size) if rate else 0


def replacements_due(
    owed: Float[Tensor, ""],
    counted: Int[Tensor, ""],
    rate: float | Tensor,
    rounding: str,
    key: Int64[Tensor, ""],
    index: int,
) -> Float[Tensor, ""]:
    """The replacements due: what is owed and ``rate`` times the units counted, rounded here if at random."""
    fresh = counted.to(owed.dtype) * (rate.to(owed.dtype) if isinstance(rate, Tensor) else rate)
    if rounding == "accumulate":
        return owed + fresh
    whole = torch.floor(fresh)
    return owed + whole + (random.uniform(random.fold_in(key, index), (), owed.dtype) < fresh - whole)


def rank_lowest(score: Float[Tensor, "units"], capacity: int) -> tuple[Int[Tensor, "units"], Int32[Tensor, "capacity"]]:
    """Each unit's place in ascending order, ties to the lower index; and the units in the first ``capacity`` places.

    Places are right for those units, and at least ``capacity`` for the others.
    """
    n = score.shape[0]
    index = torch.arange(n, dtype=torch.int32, device=score.device)
    if not capacity:
        return torch.full_like(index, n), index[:0]
    if capacity == 1:
        lowest = score.argmin().to(torch.int32)
        return (index != lowest).to(torch.int32) * n, lowest.unsqueeze(0)
    # Not by counting who comes before whom: a compiler may compute a score twice, as a scalar and in a vector, whose
    # transcendental functions differ in the last place, and a unit before itself is a replacement lost.
    order = torch.sort(score, stable=True).indices
    return torch.empty_like(index).scatter(0, order, index), order[:capacity].to(torch.int32)


def _transfer_biases(
    params: Params, units: list[UnitGroup], state: CBPState, hyper: Hyperparams, replaced: Replaced
) -> Params:
    new: dict[tree.Path, Tensor] = {}
    for group in units:
        mean = state.mean_activation[group.name]
        mean = mean / bias_correction(state.age[group.name], hyper.decay_rate, mean)
        gone = replaced[group.name]
        for s, path in zip(group.outgoing, group.outgoing_bias, strict=True):
            if path is None:
                continue
            bias = new[path] if path in new else tree.get(params, path)
            weight = take(tree.get(params, s.path), s, group.size)
            # Masked after the product, so that a NaN in a unit that stays is kept out.
            lost = torch.where(gone.unsqueeze(-1), weight * mean.to(bias.dtype).unsqueeze(-1), 0)
            new[path] = torch.where(gone.any(), bias + lost.sum(tuple(range(bias.ndim, lost.ndim))), bias)
    return tree.replace(params, new)


def _check_by_group(argument: str, values: Mapping[str, Tensor], units: tuple[UnitGroup, ...]) -> None:
    for group in units:
        if group.name not in values or values[group.name].shape != (group.size,):
            found = {name: tuple(value.shape) for name, value in values.items()}
            raise ValueError(f"{argument} holds {found}; expected ({group.size},) for group {group.name!r}")


def _holds(node: Any, s: Slice) -> bool:
    try:
        return isinstance(tree.get(node, s.path), Tensor)
    except KeyError:
        return False


def _has_tensors(node: Any) -> bool:
    if isinstance(node, Mapping):
        return any(map(_has_tensors, node.values()))
    return isinstance(node, Tensor) or (isinstance(node, (tuple, list)) and any(map(_has_tensors, node)))
