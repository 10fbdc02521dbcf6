"""The replacement of units: due, select, transfer, reset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int32, Int64
from torch import Tensor

from fcbp import initializers, random, rare, tree
from fcbp.cbp.due import Due, corrected_utility, due, most_due, pay
from fcbp.cbp.running import bias_correction
from fcbp.cbp.state import (
    CBPState,
    Hyperparams,
    Params,
    RateCounts,
    Replaced,
    Rounding,
    check_by_group,
    check_counting,
    check_groups,
    check_hyperparams,
    check_params,
    check_state,
)
from fcbp.checks import arguments
from fcbp.units import UnitGroup
from fcbp.units.group import FRESH, Slice, fans, put, put_at, put_rows, row_shape, take, update

__all__ = ["rank_lowest", "select_and_reset"]

LARGE_LEAF = 1 << 18
"""Elements of a leaf from which on a reset writes the replaced units' rows alone, not every element under a mask."""

NO_PLACES = torch.empty(0, dtype=torch.int32)
"""The places of a selection of no unit."""


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
    rounding: Rounding = "accumulate",
    rate_counts: RateCounts = "eligible",
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
        capacity: the most units replaced per group and step; more are deferred. By default the most that can fall due:
            for a plain number as rate ``floor(rate * size) + 1``, for a tensor the group's size. Rows are drawn, and
            units are ranked, only where some unit is replaced: of any member, under ``torch.vmap`` and in the compiled
            scan.

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
    claims = due(state, units, hyper, rounding, rate_counts, rounds)
    # Most steps replace nobody. Where that can be seen the rest is left out, which changes no bit.
    least = 1 if initializers.draws_in_order(draw_rows) else max([1, *(group.size for group in units)])
    chosen = {group.name: select(state, group, hyper, claims[group.name], capacity, least) for group in units}
    active = [group for group in units if chosen[group.name].rows]
    if transfer_bias:
        params = _transfer_biases(params, active, state, hyper, chosen)
    params = _reset(params, active, chosen, draw_rows, _keys_of(units, active, hyper, capacity, draws))
    paid = {name: selection.owed for name, selection in chosen.items()}
    replaced = {name: selection.replaced for name, selection in chosen.items()}
    return params, _forget(state, active, replaced)._replace(owed={**state.owed, **paid}, key=key), replaced


# --- select ---------------------------------------------------------------------------------------------


class Selection(NamedTuple):
    """The units of a group that are replaced in this step."""

    replaced: Bool[Tensor, "units"]
    number: Int32[Tensor, ""]
    """The number of units that are replaced."""
    rows: int
    """The most units that can be replaced; 0 where it is known that none is."""
    rank: Int[Tensor, "units"]
    """Each unit's place in ascending order of utility: right for the replaced."""
    lowest: Int32[Tensor, "rows"]
    """The units in the first places; the first ``number`` are replaced."""
    owed: Float[Tensor, ""]
    """Replacements carried over to the next step."""


def select(
    state: CBPState, group: UnitGroup, hyper: Hyperparams, claim: Due, capacity: int | None, least: int = 1
) -> Selection:
    """Take steps 5 and 6 for a group: the number of its units that are replaced now, and their choice.

    Args:
        state: as for :func:`select_and_reset`.
        group: the group.
        hyper: its hyperparameters.
        claim: what is due.
        capacity: as for :func:`select_and_reset`.
        least: the fewest rows that are drawn where any is.
    """
    owed = rare.largest(claim.owed)
    if owed is not None and owed < 1:
        return _nobody(claim, claim.number_eligible, claim.owed)
    limit = most_due(group.size, hyper.replacement_rate, capacity)
    number, left = pay(claim.owed, claim.number_eligible, limit, hyper.replacement_rate)
    rows = rare.rows(number, limit, least)
    if not rows:
        return _nobody(claim, number, left)
    score = torch.where(claim.eligible, corrected_utility(state, group.name, hyper), torch.inf)
    rank, lowest = rank_lowest(score, rows)
    return Selection(rank < number, number, rows, rank, lowest, left)


def _nobody(claim: Due, number: Int32[Tensor, ""], owed: Float[Tensor, ""]) -> Selection:
    """Return the selection of no unit."""
    return Selection(torch.zeros_like(claim.eligible), number, 0, NO_PLACES, NO_PLACES, owed)


def rank_lowest(score: Float[Tensor, "units"], capacity: int) -> tuple[Int[Tensor, "units"], Int32[Tensor, "capacity"]]:
    """Return each unit's place in ascending order, ties to the lower index; and the units in the first ``capacity``
    places.

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


# --- transfer -------------------------------------------------------------------------------------------


def _transfer_biases(
    params: Params, units: list[UnitGroup], state: CBPState, hyper: Hyperparams, chosen: dict[str, Selection]
) -> Params:
    """Take the first part of step 7: each consumer's bias gains what the replaced units contributed on average."""
    new: dict[tree.Path, Tensor] = {}
    for group in units:
        mean = state.mean_activation[group.name]
        mean = mean / bias_correction(state.age[group.name], hyper.decay_rate, mean)
        gone = chosen[group.name].replaced
        for s, path in zip(group.outgoing, group.outgoing_bias, strict=True):
            if path is None:
                continue
            bias = new[path] if path in new else tree.get(params, path)
            weight = take(tree.get(params, s.path), s, group.size)
            # Masked after the product, so that a NaN in a unit that stays is kept out.
            lost = torch.where(gone.unsqueeze(-1), weight * mean.to(bias.dtype).unsqueeze(-1), 0)
            new[path] = torch.where(gone.any(), bias + lost.sum(tuple(range(bias.ndim, lost.ndim))), bias)
    return tree.replace(params, new)


# --- reset ----------------------------------------------------------------------------------------------


def _reset(
    params: Params,
    units: list[UnitGroup],
    chosen: dict[str, Selection],
    draw_rows: initializers.Initializer,
    keys: dict[tuple[str, Slice], Int64[Tensor, ""]],
) -> Params:
    """Take step 7: outgoing weights to 0 in all groups, then incoming ones drawn in all, then what else a unit has."""

    def to(value: float) -> Callable[[UnitGroup, Slice, Tensor], Tensor]:
        return lambda group, s, leaf: _write(group, s, leaf, chosen[group.name], value)

    def redraw(group: UnitGroup, s: Slice, leaf: Tensor) -> Tensor:
        shape = row_shape(leaf, s, chosen[group.name].rows)
        rows = draw_rows(keys[group.name, s], shape, *fans(leaf, s), leaf.dtype, leaf.device)
        return _write(group, s, leaf, chosen[group.name], rows)

    params = update(params, units, to(0.0), "outgoing")
    params = update(params, units, redraw, "incoming")
    for role, value in FRESH.items():
        params = update(params, units, to(value), role)
    return params


def _write(group: UnitGroup, s: Slice, leaf: Tensor, chosen: Selection, value: float | Tensor) -> Tensor:
    """Return a leaf in which the replaced units' entries are ``value``: one number, or a row for each."""
    if (leaf.numel() >= LARGE_LEAF or rare.is_bounded()) and 8 * chosen.rows <= group.size:
        among = torch.arange(chosen.rows, dtype=torch.int32, device=leaf.device) < chosen.number
        return put_at(leaf, s, chosen.lowest, among, value)
    if isinstance(value, Tensor):
        return put_rows(leaf, s, chosen.rank, chosen.replaced, value)
    return put(leaf, s, chosen.replaced, value)


def _keys_of(
    units: Iterable[UnitGroup],
    active: Iterable[UnitGroup],
    hyper: Hyperparams,
    capacity: int | None,
    draws: Int64[Tensor, ""],
) -> dict[tuple[str, Slice], Int64[Tensor, ""]]:
    """Return the key of each slice's draws: whoever is replaced, the same. Those of groups that are left out are not
    made."""
    drawn = [(g.name, s) for g in units if most_due(g.size, hyper.replacement_rate, capacity) for s in g.incoming]
    names = {group.name for group in active}
    return {(name, s): random.fold_in(draws, i) for i, (name, s) in enumerate(drawn) if name in names}


def _forget(state: CBPState, units: list[UnitGroup], replaced: Replaced) -> CBPState:
    """Take the last part of step 7: the replaced units' ages and running means become 0."""

    def fresh(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**numbers, **{g.name: numbers[g.name].masked_fill(replaced[g.name], 0) for g in units}}

    return state._replace(
        age=fresh(state.age), utility=fresh(state.utility), mean_activation=fresh(state.mean_activation)
    )
