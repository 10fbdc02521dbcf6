"""``find_units``: the unit groups of a module, from a trace of its forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fcbp.checks import arguments
from fcbp.kinds import PyTree
from fcbp.tree import Path
from fcbp.units.checks import check_units
from fcbp.units.group import UnitGroup
from fcbp.units.search import Excluded, Search
from fcbp.units.trace import trace

__all__ = ["Found", "Options", "Patterns", "find", "find_units"]

Patterns = str | Iterable[str] | None


@dataclass(frozen=True)
class Options:
    """The options of a call of :func:`find_units`, which documents them."""

    include: Patterns
    exclude: Patterns
    attention_heads: bool
    residual: bool
    groups: Sequence[UnitGroup]
    outputs: Patterns
    method: str


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        units: the groups.
        excluded: the units that were left out.
        notes: remarks by group name.
    """

    units: tuple[UnitGroup, ...]
    excluded: tuple[Excluded, ...]
    notes: dict[str, tuple[str, ...]]


@arguments
def find_units(
    model: nn.Module,
    *example_inputs: PyTree,
    include: Patterns = None,
    exclude: Patterns = None,
    attention_heads: bool = True,
    residual: bool = False,
    groups: Sequence[UnitGroup] = (),
    outputs: Patterns = None,
    method: str = "forward",
    **example_kwargs: PyTree,
) -> tuple[UnitGroup, ...]:
    """Find the unit groups of a module; any module whose forward can be traced will do.

    The forward is traced on fake tensors: nothing is computed or allocated, and neither the module nor its inputs are
    touched. A group is a set of units that could be exchanged for one another, together with all their weights,
    without changing the network's output, and whose producers and consumers are all parameters. Axes that meet in a
    sum or product are one group. :func:`explain` shows the units that are left out, and the reasons.

    A group's name is the path of the module that makes its units first, ``:0``, ``:1``, ... added where one module
    makes several groups (the heads of attention, the groups of a group norm or grouped convolution). Its
    ``activation`` is the first module whose input holds the group's units, after activation, norm and pooling, as its
    weight reads them, or, where functions are handed the weights (``F.linear(h, self.w)``, ``h @ self.w.T``), the first
    such weight; ``activation_axis`` counts from the end (-1 before ``Linear``, -2, -3, -4 before convolutions of
    1, 2, 3 dimensions), so that inputs with and without a batch axis both fit. An axis of one entry is never a group.

    Args:
        model: any module; its training flags are kept as they are.
        *example_inputs: positional arguments of its forward; values do not matter, shapes and dtypes do.
        include: name patterns (as in ``fnmatch``); only groups that match one are kept.
        exclude: name patterns; groups that match one are left out.
        attention_heads: whether the value channels of each attention head are a group.
        residual: whether residual streams (sums of a branch and the tensor that it was computed from) are groups. Off
            by default: the published algorithm resets within blocks only.
        groups: groups written by hand, put in place of found groups that they overlap or share a name with.
        outputs: patterns for the outputs that count, by their keys, fields and positions (``"logits"``, ``"0"``,
            ``"cache.*.1"``); units in others, such as a cache, are not left out for that. All count by default.
        method: the method that is traced, for modules whose forward has another name.
        **example_kwargs: keyword arguments of the forward.

    Returns:
        Groups in the order in which the forward makes their units.

    Raises:
        ValueError: the forward depends on tensor values, or fails on the example inputs; the model is lazily
            initialised, compiled by ``torch.jit`` or not to be copied; a pattern, a hand-made group or ``method`` does
            not fit; no group is left.

    Example:
        >>> import torch, fcbp
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
        >>> (group,) = fcbp.find_units(model, torch.zeros(1, 3))
        >>> group.name, group.size, group.activation
        ('0', 5, '2')
        >>> group.incoming, group.outgoing
        ((Slice(path=('0.weight',), axis=0),), (Slice(path=('2.weight',), axis=1),))
    """
    options = Options(include, exclude, attention_heads, residual, groups, outputs, method)
    found = find(model, example_inputs, example_kwargs, options, "find_units")
    if not found.units:
        left_out = "".join(f"\n  {x.name} ({x.size} units): {x.reason}" for x in found.excluded)
        raise ValueError(
            "find_units: no group of units is left in the model; expected at least one layer between weights. Left out:"
            f"{left_out or ' nothing, the forward uses no parameter'}"
        )
    return found.units


def find(
    model: nn.Module, example_inputs: Sequence[Any], example_kwargs: Mapping[str, Any], options: Options, caller: str
) -> Found:
    """Find groups for ``find_units`` and ``explain``; an empty result is not an error here.

    Args:
        model: the module.
        example_inputs: its forward's positional arguments.
        example_kwargs: its forward's keyword arguments.
        options: the caller's options.
        caller: the function that error messages name.
    """
    outputs = None if options.outputs is None else _patterns(options.outputs)
    ledger = trace(model, example_inputs, example_kwargs, caller, options.method, outputs)
    search = Search(model, ledger, options.attention_heads, options.residual)
    candidates = search.candidates()
    reasons = [(c, search.reason(c)) for c in candidates]
    excluded = [(c.name, c.size, reason) for c, reason in reasons if reason is not None]
    units: list[UnitGroup] = []
    for c in (c for c, reason in reasons if reason is None):
        group = search.group(c)
        if isinstance(group, UnitGroup):
            units.append(group)
        else:
            excluded.append(group)
    units = _unique(units)
    notes = {g.name: search.notes(g) for g in units}
    units, left_out = _select(units, options.include, options.exclude, caller)
    units = _with_groups(units, options.groups, excluded)
    check_units(units, dict(model.named_parameters()), dict(model.named_buffers()))
    return Found(tuple(units), _merged([*excluded, *left_out]), notes)


# --- names and choices ----------------------------------------------------------------------------------


def _unique(units: list[UnitGroup]) -> list[UnitGroup]:
    """Make names distinct: ``:0``, ``:1``, ... are added where several groups have one name."""
    counts = Counter(g.name for g in units)
    seen: Counter[str] = Counter()
    out = []
    for g in units:
        out.append(replace(g, name=f"{g.name}:{seen[g.name]}") if counts[g.name] > 1 else g)
        seen[g.name] += 1
    return out


def _patterns(patterns: Patterns) -> tuple[str, ...]:
    """Return patterns as a tuple."""
    if patterns is None:
        return ()
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _select(
    units: list[UnitGroup], include: Patterns, exclude: Patterns, caller: str
) -> tuple[list[UnitGroup], list[tuple[str, int, str]]]:
    """Select groups by patterns; return them, and the rows of those that are left out."""
    for keyword, patterns in (("include", _patterns(include)), ("exclude", _patterns(exclude))):
        for p in patterns:
            if not any(fnmatchcase(g.name, p) for g in units):
                names = ", ".join(g.name for g in units) or "none"
                raise ValueError(f"{caller}: {keyword}={p!r} matches no group; expected a pattern for one of: {names}")
    kept: list[UnitGroup] = []
    left_out: list[tuple[str, int, str]] = []
    for g in units:
        banned = [p for p in _patterns(exclude) if fnmatchcase(g.name, p)]
        if banned:
            left_out.append((g.name, g.size, f"exclude={banned[0]!r}"))
        elif include is not None and not any(fnmatchcase(g.name, p) for p in _patterns(include)):
            left_out.append((g.name, g.size, f"include={include!r} does not match"))
        else:
            kept.append(g)
    return kept, left_out


def _with_groups(
    units: list[UnitGroup], groups: Sequence[UnitGroup], left_out: list[tuple[str, int, str]]
) -> list[UnitGroup]:
    """Put hand-made groups after the found groups that they do not replace."""

    def owned(g: UnitGroup) -> set[tuple[Path, int, int, bool]]:
        return {
            (s.path, s.axis, entry, s in g.outgoing)
            for s in g.parameter_slices()
            for unit in s.entries(g.size)
            for entry in unit
        }

    taken = [(g.name, owned(g)) for g in groups]
    kept = []
    for g in units:
        by = [name for name, entries in taken if name == g.name or entries & owned(g)]
        if by:
            left_out.append((g.name, g.size, f"replaced by the group {by[0]!r} written by hand"))
        else:
            kept.append(g)
    return [*kept, *groups]


def _merged(rows: list[tuple[str, int, str]]) -> tuple[Excluded, ...]:
    """Make one row for each module and reason."""
    sizes: dict[tuple[str, str], int] = {}
    for name, size, reason in rows:
        sizes[name, reason] = sizes.get((name, reason), 0) + size
    return tuple(Excluded(name, size, reason) for (name, reason), size in sizes.items())
