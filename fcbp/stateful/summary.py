"""The state of the units of every group: utilities, ages, replacements, dormant units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fcbp.cbp import CBPState, bias_correction
from fcbp.kinds import PyTree
from fcbp.metrics import dormant_units
from fcbp.metrics import summarize as spread_of
from fcbp.stateful.readings import moments
from fcbp.units import UnitGroup

__all__ = ["Dormancy", "GroupSummary", "Spread", "Summary", "summarize"]

EVERY = 100
"""Steps from one look at dormancy to the next: each passes over all activations."""


class Spread(NamedTuple):
    """The spread of some numbers over the units of a group."""

    minimum: float
    median: float
    mean: float
    maximum: float


class GroupSummary(NamedTuple):
    """The state of the units of a group."""

    size: int
    """Units."""
    replaced: int
    """Replacements so far."""
    mature: int | None
    """Units that may be replaced; ``None`` where the method knows no maturity."""
    dormant: int | None
    """Units whose mean absolute activation was at most 0.025 of their layer's when last looked at, every 100 steps."""
    age: Spread | None
    """Steps since the units were made; ``None`` where the method keeps no ages."""
    utility: Spread | None
    """Utilities, bias-corrected for ``cbp``; ``None`` where the method keeps none."""


class Summary(NamedTuple):
    """The state of a model's units; prints as a table."""

    method: str
    """The method's name."""
    steps: int
    """Steps so far."""
    groups: dict[str, GroupSummary]
    """By group name."""
    left_out: dict[str, str]
    """The reason, by name, for each group that was found and is left out."""

    def __str__(self) -> str:
        rows = [("group", "units", "replaced", "mature", "dormant", "age", "utility")]
        for name, group in self.groups.items():
            numbers = [_shown(x) for x in (group.size, group.replaced, group.mature, group.dormant)]
            rows.append((name, *numbers, _shown(group.age), _shown(group.utility)))  # type: ignore[arg-type]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        title = f"{self.method}, {self.steps} steps (age and utility: least, median, greatest)"
        return "\n".join([title, *lines, *(f"left out: {name}, {why}" for name, why in self.left_out.items())])


def _shown(x: Any) -> str:
    if x is None:
        return "-"
    return f"{x.minimum:.3g} {x.median:.3g} {x.maximum:.3g}" if isinstance(x, Spread) else str(x)


class Dormancy:
    """The units that were dormant at the last look.

    Args:
        units: the groups whose activations are read.
    """

    def __init__(self, units: Iterable[UnitGroup]):
        self.units = tuple(units)
        self.found: dict[str, Tensor] = {}

    def see(self, step: int, features: Mapping[str, Tensor]) -> None:
        """Look at a step's activations, now and then."""
        if step % EVERY:
            return
        for group in self.units:
            magnitude = moments([features[group.name]], group.activation_axis)[1]
            if magnitude.numel() != group.size:
                magnitude = magnitude.reshape(group.size, -1).mean(-1)
            self.found[group.name] = dormant_units(magnitude.unsqueeze(0))


def summarize(
    method: str,
    steps: int,
    units: Iterable[UnitGroup],
    state: PyTree,
    hyper: PyTree,
    replaced: Mapping[str, Tensor],
    dormancy: Dormancy,
    left_out: Mapping[str, str],
) -> Summary:
    """Return the summary of a method's state."""
    groups = {}
    for group in units:
        name = group.name
        ages = _field(state, "age", name)
        dormant = dormancy.found.get(name)
        groups[name] = GroupSummary(
            group.size,
            int(replaced[name].sum()),
            None
            if ages is None or not hasattr(hyper, "maturity_threshold")
            else int((ages > hyper.maturity_threshold).sum()),
            None if dormant is None else int(dormant.sum()),
            _spread(ages),
            _spread(_utility(state, hyper, name)),
        )
    return Summary(method, steps, groups, dict(left_out))


def _field(state: Any, field: str, name: str) -> Tensor | None:
    by_group = getattr(state, field, None)
    value = by_group.get(name) if isinstance(by_group, Mapping) else None
    return value if isinstance(value, Tensor) and value.ndim else None


def _utility(state: Any, hyper: Any, name: str) -> Tensor | None:
    utility = _field(state, "utility", name)
    if utility is None or not isinstance(state, CBPState):
        return utility if utility is not None else _field(state, "magnitude", name)
    age = state.age[name]
    corrected = utility / bias_correction(age.clamp(min=1), hyper.decay_rate, utility)
    return torch.where(age > 0, corrected, 0)


def _spread(values: Tensor | None) -> Spread | None:
    return None if values is None else Spread(*(float(x) for x in spread_of(values)))
