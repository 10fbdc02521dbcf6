"""The text of a program as it is written: lines, scopes, loops, and the elements that have a name in open scopes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fcbp.lanes.indices import Index
from fcbp.lanes.ir import Node

__all__ = ["PARTIAL", "Element", "Writer"]

PARTIAL = "large.at->partial"
"""The array of sums that are not yet whole."""

Element = tuple[Node, tuple[Index, ...]]
"""A node, and an index for each of its axes."""


class Writer:
    """Writes C++ line by line."""

    def __init__(self, has_heap: bool = False) -> None:
        self.lines: list[str] = []
        self.has_heap = has_heap
        """Whether there is memory beyond the stack."""
        self.partial_sums = 0
        """The most sums of a kernel that are kept in memory before they are whole."""
        self._depth = 1
        self._names = 0
        self._named: list[dict[Element, str]] = [{}]

    def keep_partial_sums(self, count: int) -> None:
        """Ask for memory of so many sums of float32."""
        self.partial_sums = max(self.partial_sums, count)

    def line(self, text: str) -> None:
        """Write a line."""
        self.lines.append("  " * self._depth + text)

    @contextmanager
    def scope(self, head: str) -> Iterator[None]:
        """Open a scope, such as a loop or a branch; ``head`` stands before its brace."""
        self.line(head + " {")
        self._depth += 1
        self._named.append({})
        yield
        self._named.pop()
        self._depth -= 1
        self.line("}")

    @contextmanager
    def loops(self, sizes: Sequence[int], axes: Sequence[int] | None = None, unroll: bool = True) -> Iterator[None]:
        """Loops, the outermost first; an axis of one element needs none.

        Args:
            sizes: of the loops.
            axes: whose positions they count; by default 0, 1 and so on.
            unroll: whether the compiler may unroll them.
        """
        depth = 0
        rolled = "" if unroll else "ROLLED "
        for axis, size in zip(range(len(sizes)) if axes is None else axes, sizes, strict=True):
            if size > 1:
                self.line(f"{rolled}for (int64 i{axis} = 0; i{axis} < {size}; i{axis}++) {{")
                self._depth += 1
                depth += 1
        self._named.append({})
        yield
        self._named.pop()
        for _ in range(depth):
            self._depth -= 1
            self.line("}")

    @contextmanager
    def kernel(self) -> Iterator[None]:
        """Open a part of the program that uses no name from outside."""
        outside, self._named = self._named, [{}]
        yield
        self._named = outside

    def name(self, expression: str) -> str:
        """Give the value of an expression a new name."""
        self._names += 1
        self.line(f"const auto t{self._names} = {expression};")
        return f"t{self._names}"

    def remember(self, node: Node, index: tuple[Index, ...], text: str) -> None:
        """Note the name of an element until the scope ends."""
        self._named[-1][node, index] = text

    def name_of(self, node: Node, index: tuple[Index, ...]) -> str | None:
        """Return the name of an element, where it has one."""
        for named in self._named:
            if (node, index) in named:
                return named[node, index]
        return None
