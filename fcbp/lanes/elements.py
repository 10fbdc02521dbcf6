"""Expressions of single elements, in the loops of a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fcbp.lanes.cpp import LETTER, SHORT_TYPE, literal, to_vector, type_of
from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, at, code, linear, plus, substitute, times, variable
from fcbp.lanes.ir import Gather, Map, Node, Place, Position, Scalar, Scatter, View, base
from fcbp.lanes.plan import Plan
from fcbp.lanes.ranges import is_inside
from fcbp.lanes.writer import Writer

__all__ = ["Elements"]


@dataclass(frozen=True)
class Elements:
    """The elements of nodes in loops of some sizes."""

    writer: Writer
    plan: Plan
    checks: dict[Node, int]
    """By a node whose arguments the program looks at: the number of the check."""
    registers: int
    """Vectors that the machine's registers hold."""
    sizes: tuple[int, ...] = ()
    """The sizes of the loops."""
    prologue: Node | None = None
    """A stored node whose elements are computed in these loops."""
    tiled: bool = False
    """Whether an element that is loaded serves several sums."""

    def over(self, sizes: tuple[int, ...], prologue: Node | None = None, tiled: bool = False) -> Elements:
        """Return the elements in other loops."""
        return Elements(self.writer, self.plan, self.checks, self.registers, sizes, prologue, tiled)

    @property
    def here(self) -> tuple[Index, ...]:
        """The position in the loops."""
        return tuple([variable(a, self.sizes) for a in range(len(self.sizes))])

    def stored(self, node: Node, index: Sequence[Index]) -> str:
        """Return the place of an element in its array."""
        return f"{self.plan.buffers[node]}[{code(linear(index, node.shape))}]"

    def value(self, node: Node, index: tuple[Index, ...], uniform: bool) -> str:
        """Return the element at an index; as a vector unless ``uniform``."""
        text = self.element(node, index)
        return text if uniform or not node.uniform else to_vector(text, node.dtype)

    def element(self, node: Node, index: tuple[Index, ...]) -> str:
        """Return the element at an index; in open scopes an element is computed once, and then has a name."""
        match node:
            case View(args=(of,), indices=indices):
                return self.element(of, tuple([substitute(i, index, self.sizes) for i in indices]))
            case Scalar(value=value):
                return literal(value, node.dtype)
            case Position(index=position):
                return f"(int64)({code(substitute(position, index, self.sizes))})"
        named = self.writer.name_of(node, index)
        if named is not None:
            return named
        if node is self.prologue:
            text = self.writer.name(self.compute(node, index))
            self.writer.line(f"{self.stored(node, index)} = {text};")
        elif self.plan.is_stored(node):
            text = _widened(node, self.stored(node, index))
            text = self.writer.name(f"held({text})" if self.tiled and not node.uniform else text)
        else:
            text = self.writer.name(self.compute(node, index))
        self.writer.remember(node, index, text)
        return text

    def compute(self, node: Node, index: tuple[Index, ...]) -> str:
        """Return the expression that computes the element of a map or a gather at an index."""
        match node:
            case Gather():
                return self._gathered(node, index)
            case Map(function=function):
                args = [self.value(a, index, node.uniform) for a in node.args]
                if node in self.checks:
                    divisor = args[1]
                    self.note_failure(node, f"to_M(eq({divisor}, sub({divisor}, {divisor})))")
                return _cast(node, args[0]) if function is Function.CAST else f"{function}({', '.join(args)})"
        raise AssertionError(f"{type(node).__name__} has a loop of its own")

    def note_failure(self, node: Node, mask: str) -> None:
        """Note the lanes for which eager raises an error."""
        name = f"wrong{self.checks[node]}"
        self.writer.line(f"{name} = bit_or({name}, {mask});")

    def _gathered(self, node: Gather, index: tuple[Index, ...]) -> str:
        table = node.args[0]
        address, varies = self.address(node, node.places, table.shape, index)
        buffer = self.plan.buffers[base(table)]
        if not varies:
            return _widened(table, f"{buffer}[{address}]")
        if table.uniform:
            return f"gather_shared<{LETTER[node.dtype]}>({buffer}, {address})"
        return f"gather({buffer}, {address})"

    def address(
        self, node: Gather | Scatter, places: Sequence[Place], shape: tuple[int, ...], index: tuple[Index, ...]
    ) -> tuple[str, bool]:
        """Return the place in memory of an element at computed indices.

        An index that lies outside of the array is noted, and another one is taken in its place.

        Args:
            node: the node, whose arguments hold the indices.
            places: the index along each axis of the array.
            shape: of the array.
            index: the position at which the indices are read.

        Returns:
            The expression, and whether it differs between lanes.
        """
        args, fixed, computed = node.args, at(0), []
        varies = any(isinstance(p, int) and not args[p].uniform for p in places)
        for axis, (place, size) in enumerate(zip(places, shape, strict=True)):
            stride = math.prod(shape[axis + 1 :])
            if not isinstance(place, int):
                fixed = plus(fixed, times(substitute(place, index, self.sizes), stride))
                continue
            shared = args[place].uniform
            i = self.writer.name(f"{'(int64)' if shared else ''}{self.element(args[place], index)}")
            number = i if not varies else f"to_I((int){i})" if shared else f"to_I({i})"
            if not is_inside(args[place], size):
                self.note_failure(node, f"outside({i}, {size})")
                number = f"inside({number}, {size})"
            computed.append(f"{number} * {stride}")
        text = " + ".join(computed)
        if fixed != at(0) or not computed:
            text += f"{' + ' if computed else ''}{f'to_I((int)({code(fixed)}))' if varies else f'({code(fixed)})'}"
        return text, varies


def _widened(node: Node, text: str) -> str:
    """Return an element that was read, as the type that the program computes it in."""
    return f"(int){text}" if node.uniform and node.dtype in SHORT_TYPE else text


def _cast(node: Map, text: str) -> str:
    """Return a value in a node's dtype."""
    if not node.uniform:
        text = to_vector(text, node.dtype)
    elif node.dtype == torch.bool:
        text = f"({text} != 0)"
    else:
        text = f"({type_of(node)}){text}" if node.dtype.is_floating_point else f"to_{type_of(node)}({text})"
    return f"as_{SHORT_TYPE[node.dtype]}({text})" if node.dtype in SHORT_TYPE else text
