"""A plan as C++: one function that runs blocks of members through all steps.

:mod:`fcbp.lanes.kernels` writes the loops of single nodes, :mod:`fcbp.lanes.elements` the expressions in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fcbp.lanes.build import NO_MEMORY
from fcbp.lanes.cpp import array_type, element_bytes, type_of
from fcbp.lanes.elements import Elements
from fcbp.lanes.ir import Node
from fcbp.lanes.kernels import write_kernel
from fcbp.lanes.lower import Lowered
from fcbp.lanes.plan import Plan
from fcbp.lanes.planner import make_plan
from fcbp.lanes.writer import Writer

__all__ = ["emit", "prelude", "workspace"]

HEAP_FROM = 256
"""The least number of elements of an array that does not lie on the stack."""
PREFETCHED = 4
"""The steps between the request for an example and its use."""
CACHE_LINE = 64
"""Bytes that the processor loads at once."""


def emit(lowered: Lowered, elements: str = "vectors", registers: int = 16) -> tuple[str, Plan]:
    """Return the source of a program, and its plan.

    Args:
        lowered: one member's step.
        elements: ``"vectors"`` of members, or ``"threads"`` of one member each.
        registers: vectors that the machine's registers hold: 16 or 32. No number depends on it.
    """
    plan = make_plan(lowered)
    heap_from = HEAP_FROM if elements == "vectors" else math.inf
    return "\n".join([prelude(elements), *_Program(lowered, plan, heap_from, registers).lines()]) + "\n", plan


def workspace(lowered: Lowered, plan: Plan) -> int:
    """Return the memory of one lane's state and temporaries, in bytes."""
    nodes = [n for n in (*lowered.leaves.values(), *plan.order) if not n.uniform and plan.has_array(n)]
    return sum({plan.buffers[n]: n.size * element_bytes(n) for n in nodes}.values())


@cache
def prelude(elements: str) -> str:
    """Return the definitions with which every program begins."""
    return "\n".join(
        (Path(__file__).parent / f"{name}.hpp").read_text(encoding="utf-8")
        for name in ("scalars", elements, "generic", "elementary")
    )


class _Program:
    """Writes the function ``run``: arrays, the time loop, kernels, and the copies to and from the caller's arrays."""

    def __init__(self, lowered: Lowered, plan: Plan, heap_from: float, registers: int) -> None:
        self.lowered, self.plan, self.heap_from = lowered, plan, heap_from
        self.writer = Writer(math.isfinite(heap_from))
        self.checks = {node: i for i, node in enumerate(lowered.checks)}
        self.elements = Elements(self.writer, plan, self.checks, registers)
        self.on_heap: list[str] = []
        """The declarations of arrays that do not lie on the stack."""

    def lines(self) -> list[str]:
        """Write the function's lines."""
        write = self.writer.line
        with self.writer.scope(
            "KERNEL void run(const int64 *sizes, int64 *shared, void *const *carry, void *const *constants, "
            "void *const *xs, const int64 *x_strides, void *const *ys)"
        ):
            write("const int64 members = sizes[0], steps = sizes[1];")
            body = len(self.writer.lines)
            with self.writer.scope("EACH_BLOCK(first)"):
                self._write_block()
        lines = self.writer.lines
        if self.writer.partial_sums:
            self.on_heap.append(f"  F partial[{self.writer.partial_sums}];")
        if self.on_heap:
            lines[body:body] = ["  Heap<Large> large;", f"  if (!large.at) return NOTE(shared + 1, {NO_MEMORY});"]
            lines[:0] = ["struct Large {", *self.on_heap, "};"]
        return lines

    def _write_block(self) -> None:
        """Write a block of members, from its state in the caller's arrays to the state after all steps."""
        leaves, plan, write = self.lowered.leaves, self.plan, self.writer.line
        carried = [leaf for (role, _), leaf in leaves.items() if role == "carry"]
        write("const int lanes = (int)minimum((int64)LANES, members - first);")
        write("int64 offset[LANES];")
        for (role, i), leaf in leaves.items():
            self._write_leaf(role, i, leaf)
        for node in plan.order:
            in_place = plan.buffers[node].startswith("carry") or node in plan.overwrites
            if not in_place and plan.has_array(node):
                self._write_array(node)
        for check in self.checks.values():
            write(f"M wrong{check} = {{}};")
        self._write_kernels([n for n in plan.order if n in plan.hoisted])
        self._write_first_sums()
        with self.writer.scope("for (int64 t = 0; t < steps; t++)"):
            self._write_step(self.lowered.results[len(carried) :])
        for i in plan.moving:
            leaf = carried[i]
            write(f"store(({array_type(leaf)} *)carry[{i}], carry{i}, first, {leaf.size}, lanes);")
        for check in self.checks.values():
            write(f"if (some_lane(wrong{check})) NOTE(shared + 1, {check + 1});")

    def _write_first_sums(self) -> None:
        """Write those sums of the first step that every later step finds computed ahead."""
        if not self.lowered.ahead:
            return
        with self.writer.scope("if (steps > 0)"):
            for (role, i), leaf in self.lowered.leaves.items():
                if role == "next":
                    self._write_next_example(i, leaf, "0")
            for leaf, first in self.lowered.ahead.items():
                self.plan.buffers[first] = self.plan.buffers[leaf]
                write_kernel(self.elements, first)

    def _write_step(self, ys: Sequence[Node]) -> None:
        """Write one step, from the example to the results."""
        for (role, i), leaf in self.lowered.leaves.items():
            if role == "x":
                self._write_example(i, leaf)
            elif role == "next":
                self._write_next_example(i, leaf, "minimum(t + 1, steps - 1)")
        self._write_kernels([n for n in self.plan.order if n not in self.plan.hoisted])
        for i, y in enumerate(ys):
            pointer = f"({array_type(y)} *)ys[{i}] + t * members * {y.size}"
            self.writer.line(f"store({pointer}, {self.plan.buffers[y]}, first, {y.size}, lanes);")
        self._write_back()

    def _write_array(self, node: Node) -> None:
        """Write the declaration of a node's array."""
        name = self.plan.buffers[node]
        declaration = f"{type_of(node)} {name}[{node.size}];"
        if node.size < self.heap_from:
            self.writer.line(declaration)
        else:
            self.on_heap.append(f"  {declaration}")
            self.writer.line(f"auto &{name} = large.at->{name};")

    def _write_leaf(self, role: str, i: int, leaf: Node) -> None:
        """Write the declaration of an input; a part of the carry is loaded."""
        kind, name, write = array_type(leaf), self.plan.buffers[leaf], self.writer.line
        if role == "constant":
            write(f"const {kind} *const {name} = (const {kind} *)constants[{i}];")
        elif role == "carry":
            self._write_array(leaf)
            write(f"offsets(offset, first, lanes, {leaf.size});")
            write(f"load({name}, (const {kind} *)carry[{i}], offset, {leaf.size});")
        elif leaf.uniform:
            write(f"const {kind} *{name};")
        else:
            self._write_array(leaf)
            write(f"int64 offset_{name}[LANES];")
            write(f"offsets(offset_{name}, first, lanes, x_strides[{2 * i + 1}]);")

    def _write_example(self, i: int, leaf: Node) -> None:
        """Load a step's example, and request a later one: the processor does not foresee its place."""
        kind, name = array_type(leaf), self.plan.buffers[leaf]
        here = f"(const {kind} *)xs[{i}] + t * x_strides[{2 * i}]"
        if leaf.uniform:
            self.writer.line(f"{name} = {here};")
            return
        ahead = f"{here} + {PREFETCHED} * x_strides[{2 * i}]"
        self.writer.line(
            f"if (t + {PREFETCHED} < steps) EACH for (int i = 0; i < {leaf.size}; "
            f"i += {CACHE_LINE // leaf.dtype.itemsize}) PREFETCH({ahead} + offset_{name}[l] + i);"
        )
        self.writer.line(f"load({name}, {here}, offset_{name}, {leaf.size});")

    def _write_next_example(self, i: int, leaf: Node, step: str) -> None:
        """Load the example of the step that comes next."""
        kind, name = array_type(leaf), self.plan.buffers[leaf]
        here = f"(const {kind} *)xs[{i}] + {step} * x_strides[{2 * i}]"
        self.writer.line(f"{name} = {here};" if leaf.uniform else f"load({name}, {here}, offset_{name}, {leaf.size});")

    def _write_back(self) -> None:
        """Copy those parts of the new carry that lie elsewhere to the arrays where the next step reads them."""
        copies = []
        for i in self.plan.moving:
            node = self.lowered.results[i]
            source = self.plan.buffers[node]
            if source == f"carry{i}":
                continue
            if source.startswith("carry"):  # which another result may be about to overwrite
                self.writer.line(f"{type_of(node)} moved{i}[{node.size}];")
                self.writer.line(f"copy_n({source}, {node.size}, moved{i});")
                source = f"moved{i}"
            copies.append(f"copy_n({source}, {node.size}, carry{i});")
        for copy in copies:
            self.writer.line(copy)

    def _write_kernels(self, nodes: Sequence[Node]) -> None:
        """Write the kernels of nodes in order; neighbours under one mask share a branch."""
        plan, write = self.plan, self.writer.line
        fused = {*plan.prologues.values(), *plan.epilogues.values()}
        nodes = [node for node in nodes if node not in fused]
        masks = {*plan.guards.values(), *(mask for node in nodes if (mask := plan.row_mask(node)) is not None)}
        position = 0
        while position < len(nodes):
            node = nodes[position]
            mask = self._branch_mask(node)
            if mask is None:
                write_kernel(self.elements, node)
                if node in masks:
                    write(f"bool some{node.number} = false;")
                    some = f"some{node.number} |= some_lane({plan.buffers[node]}[i]);"
                    write(f"for (int i = 0; i < {node.size}; i++) {some}")
                position += 1
                continue
            with self.writer.scope(f"if (SELDOM(some{mask.number}))"):
                while position < len(nodes) and self._branch_mask(nodes[position]) is mask:
                    write_kernel(self.elements, nodes[position])
                    position += 1

    def _branch_mask(self, node: Node) -> Node | None:
        """Return the mask without which a kernel is skipped."""
        return self.plan.guards.get(node) or self.plan.row_mask(node)
