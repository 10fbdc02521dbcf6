"""Which units are due, and their replacement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float, Int, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, tree
from fcbp.cbp.running import bias_correction
from fcbp.cbp.state import (
    CBPState,
    Hyperparams,
    Params,
    Replaced,
    check_by_group,
    check_counting,
    check_groups,
    check_hyperparams,
    check_params,
    check_state,
)
from fcbp.checks import arguments
from fcbp.concrete import is_concrete
from fcbp.units import UnitGroup
from fcbp.units.group import FRESH, Slice, fans, put, put_at, put_rows, row_shape, take, update

__all__ = ["rank_lowest", "replacements_due", "select_and_reset"]

LARGE_LEAF = 1 << 18
"""Elements of a leaf from which on a reset writes the replaced units' rows alone, not every element under a mask."""


@arguments
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
    units = check_groups(units)
    check_state(state, CBPState)
    check_params(params)
    check_hyperparams(hyper)
    check_by_group("state.age", state.age, units)
    if not isinstance(transfer_bias, bool):
        raise ValueError(f"transfer_bias is {transfer_bias!r}; expected True or False")
    draw_rows = initializers.get(initializer)
    check_counting(rounding, rate_counts, capacity, "units")
    key, draws, rounds = random.split(state.key, 3).unbind()

    # 5: the number due.
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
    # Most steps replace nobody. Where that can be seen the rest is left out, which would change no bit.
    if is_concrete(*owed.values()) and all(float(due) < 1 for due in owed.values()):
        nobody = {group.name: torch.zeros_like(eligible[group.name]) for group in units}
        return params, state._replace(owed=owed, key=key), nobody

    # 5 and 6: how many are replaced now, and who.
    limits: dict[str, int] = {}
    ranks: dict[str, Tensor] = {}
    lowest: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    replaced: Replaced = {}
    for group in units:
        name = group.name
        limits[name] = _capacity(group, hyper.replacement_rate, capacity)
        number, owed[name] = pay(owed[name], number_eligible[name], limits[name], hyper.replacement_rate)
        ranks[name], lowest[name] = rank_lowest(torch.where(eligible[name], debiased[name], torch.inf), limits[name])
        numbers[name] = number
        replaced[name] = ranks[name] < number

    # 7: resets, once all groups are selected; each for all groups before the next.
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


# --- parts ----------------------------------------------------------------------------------------------


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


def pay(
    owed: Float[Tensor, ""], number_eligible: Int[Tensor, ""], limit: int, rate: float | Tensor
) -> tuple[Int32[Tensor, ""], Float[Tensor, ""]]:
    """How many are replaced now, at most ``limit``, and what is owed afterwards.

    At rate 0 nobody is replaced. Whole replacements that nobody eligible is left for are forgiven, so that a debt is
    never larger than the eligible.
    """
    whole = torch.floor(owed)
    payable = torch.minimum(whole, number_eligible)
    number = torch.clamp(payable, max=limit)
    if isinstance(rate, Tensor):
        number = torch.where(rate > 0, number, 0)
    elif rate == 0:
        number = torch.zeros_like(number)
    return number.to(torch.int32), owed - (whole - payable + number)


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
