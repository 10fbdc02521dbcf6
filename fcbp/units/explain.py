"""``explain``: a table of the groups that ``find_units`` finds, and of the units that it leaves out, with reasons."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fcbp.checks import arguments
from fcbp.kinds import PyTree
from fcbp.tree import show
from fcbp.units.find import Options, Patterns, find
from fcbp.units.group import Slice, UnitGroup
from fcbp.units.search import Excluded

__all__ = ["Explanation", "explain"]

_COLUMNS = ("group", "size", "producers", "consumers", "norms", "read at")
_EXCLUDED = ("left out", "size", "why")


@dataclass(frozen=True, repr=False)
class Explanation:
    """A table of groups, and a table of the units that were left out. It prints in a terminal and shows in a notebook.

    Attributes:
        units: the groups, as ``find_units`` returns them.
        excluded: the units that were left out: ``name``, ``size`` and ``reason``.
        notes: remarks by group name.
    """

    units: tuple[UnitGroup, ...]
    excluded: tuple[Excluded, ...]
    notes: dict[str, tuple[str, ...]]

    def __repr__(self) -> str:
        rows = _folded([_row(g) for g in self.units])
        parts = [_text(_COLUMNS, rows) if rows else "no group of units was found"]
        parts += [f"note on {name}: {note}" for name, note in self._notes()]
        if self.excluded:
            # The blank line keeps the second table from looking like a part of the first.
            parts += ["", _text(_EXCLUDED, _folded([(x.name, str(x.size), x.reason) for x in self.excluded]))]
        return "\n".join(parts)

    def _repr_html_(self) -> str:
        parts = [_html(_COLUMNS, _folded([_row(g) for g in self.units]))]
        notes = [f"<li>{html.escape(f'{name}: {note}')}</li>" for name, note in self._notes()]
        if notes:
            parts.append(f"<ul>{''.join(notes)}</ul>")
        if self.excluded:
            parts.append(_html(_EXCLUDED, _folded([(x.name, str(x.size), x.reason) for x in self.excluded])))
        return "\n".join(parts)

    def _notes(self) -> list[tuple[str, ...]]:
        """List group names and remarks, those of repeated blocks as one."""
        return _folded([(g.name, note) for g in self.units for note in self.notes.get(g.name, ())])


@arguments
def explain(
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
) -> Explanation:
    """Show the groups that :func:`find_units` finds with the same arguments, and the units that it leaves out, and why.

    A slice that is not a whole axis shows where it lies: ``[4:8]``, ``[0:80:16, 16 each]`` for a map of 16 positions
    a channel. Repeated blocks and heads are one row, ``{0..11}`` in place of the numbers in which they differ.
    Where no group is left, the table says why, without an error.

    Args:
        model: any module.
        *example_inputs: positional arguments of ``method``; values do not matter, shapes and dtypes do.
        include: as for :func:`find_units`, as are all arguments below.
        exclude: see there.
        attention_heads: see there.
        residual: see there.
        groups: see there.
        outputs: see there.
        method: see there.
        **example_kwargs: keyword arguments of ``method``.

    Raises:
        ValueError: as :func:`find_units`, but for an empty result.

    Example:
        >>> import torch, fcbp
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
        >>> fcbp.units.explain(model, torch.zeros(1, 3))
        group  size  producers           consumers         norms  read at
        0      5     0.weight ax 0       2.weight ax 1     -      input of 2, axis -1
        <BLANKLINE>
        left out  size  why
        0         3     no parameter makes them: the network's input
        2         2     they are the network's output
    """
    options = Options(include, exclude, attention_heads, residual, groups, outputs, method)
    found = find(model, example_inputs, example_kwargs, options, "explain")
    return Explanation(found.units, found.excluded, found.notes)


def _row(g: UnitGroup) -> tuple[str, ...]:
    """Write the row of a group."""
    paths = [show(s.path) for s in g.norm_scale + g.norm_shift + g.running_mean]
    norms = dict.fromkeys(path.rpartition(".")[0] or path for path in paths)
    slopes = [f"slope {_slice(s, g.size)}" for s in g.slope]
    return (
        g.name,
        str(g.size),
        ", ".join(_slice(s, g.size) for s in g.incoming),
        ", ".join(_slice(s, g.size) for s in g.outgoing),
        ", ".join([*norms, *slopes]) or "-",
        f"input of {g.activation}, axis {g.activation_axis}",
    )


_NUMBER = re.compile(r"\d+")
_COUNTER = re.compile(r"(?<![^.])\d+(?=\.)|(?<=:)\d+$")  # the number of a block in a path, of a head after a name


def _folded(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Write the rows of the same group in repeated blocks and heads as one row."""
    alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for row in rows:
        sizes = row[1:2] if row[1:2] and row[1].isdigit() else ()
        key = (_COUNTER.sub("#", row[0]), *sizes, *(_NUMBER.sub("#", cell) for cell in row[1:]))
        alike.setdefault(key, []).append(row)
    return [tuple(_range(cells) for cells in zip(*same, strict=True)) for same in alike.values()]


def _range(cells: Sequence[str]) -> str:
    """Write texts that differ in numbers alone as one, with ``{first..last}`` for each such number."""
    numbers = zip(*(_NUMBER.findall(cell) for cell in cells), strict=True)
    shown = iter(n[0] if len(set(n)) == 1 else f"{{{n[0]}..{n[-1]}}}" for n in numbers)
    return _NUMBER.sub(lambda _: next(shown), cells[0])


def _slice(s: Slice, size: int) -> str:
    """Write a slice: its leaf, its axis and its place on it."""
    place = f"{show(s.path)} ax {s.axis}"
    if s.is_run and s.start == 0 and not s.partial:
        return place
    if s.listed:
        entries = [entry for unit in s.listed for entry in unit]
        more = ", ..." if len(entries) > 8 else ""
        return f"{place} [{', '.join(map(str, entries[:8]))}{more}{f'; {s.count} each' if s.count > 1 else ''}]"
    end = s.start + (size - 1) * s.stride + (s.block - 1) * s.block_stride + 1
    step = "" if s.stride == 1 else f":{s.stride}"
    each = "" if s.block == 1 else f", {s.block} each" + ("" if s.block_stride == 1 else f" {s.block_stride} apart")
    return f"{place} [{s.start}:{end}{step}{each}]"


def _text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join(lines)


def _html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
