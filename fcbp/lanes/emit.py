"""A plan as C++: one function that runs blocks of members through all steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from fcbp.lanes.build import NO_MEMORY
from fcbp.lanes.ir import SHORT, Index, Node, at, base, code, linear, plus, substitute, times, variable
from fcbp.lanes.lower import Lowered
from fcbp.lanes.places import is_inside
from fcbp.lanes.plan import Plan, axes_read, make_plan, tile_axes

__all__ = ["emit", "prelude", "workspace"]

_LETTER = {torch.float32: "F", torch.float64: "D", torch.int32: "I", torch.int64: "Q", torch.bool: "M"}
_SHORT = {dtype: str(dtype).removeprefix("torch.") for dtype in SHORT}
"""Integers that are short in the caller's arrays alone."""
_LETTER |= dict.fromkeys(SHORT, "I")
_SCALAR = {"F": "float", "D": "double", "I": "int", "Q": "int64", "M": "bool"}
_BYTES = {"F": 4, "D": 8, "I": 4, "Q": 8, "M": 4}
_SUMS = {"add": "0", "mul": "1", "bit_or": "0", "bit_and": "1"}
CHAINS = 6
"""Sums that run side by side, so that one need not wait for another's last addition."""
TILES = {
    16: ((3, 3), (2, 5), (5, 2), (2, 4), (4, 2)),
    32: ((4, 6), (5, 5), (6, 4), (8, 3), (3, 7), (2, 9), (4, 4), (3, 3)),
}
"""By the machine's vector registers: sums of products side by side in two directions, which with their factors leave
some registers free."""

HEAP_FROM = 256
"""Elements of an array from which on it does not lie on the stack."""


def emit(lowered: Lowered, elements: str = "vectors", registers: int = 16) -> tuple[str, Plan]:
    """The source of a program, and its plan.

    Args:
        elements: ``"vectors"`` of members, or ``"threads"`` of one member each.
        registers: vectors that the machine's registers hold: 16 or 32. No number depends on it.
    """
    plan = make_plan(lowered)
    heap_from = HEAP_FROM if elements == "vectors" else math.inf
    return "\n".join([prelude(elements), *_Emitter(lowered, plan, heap_from, registers).program()]) + "\n", plan


def workspace(lowered: Lowered, plan: Plan) -> int:
    """Bytes of one lane's state and temporaries."""
    nodes = [n for n in (*lowered.leaves.values(), *plan.order) if not n.uniform and plan.has_array(n)]
    return sum({plan.buffers[n]: n.size * _BYTES[_LETTER[n.dtype]] for n in nodes}.values())


@cache
def prelude(elements: str) -> str:
    """What a program starts with."""
    return "\n".join(
        (Path(__file__).parent / f"{name}.hpp").read_text(encoding="utf-8") for name in ("scalars", elements, "generic")
    )


def _vector(node: Node) -> str:
    """The C++ type of an element."""
    letter = _LETTER[node.dtype]
    return _SCALAR[letter] if node.uniform else letter


def _literal(value: float, dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return "true" if value else "false"
    if not dtype.is_floating_point:
        return f"(int64){value % (1 << 64):#x}ull" if dtype == torch.int64 else f"(int){value % (1 << 32):#x}u"
    suffix = "f" if dtype == torch.float32 else ""
    if math.isnan(value):
        return f"limits<{_SCALAR[_LETTER[dtype]]}>::quiet_NaN()"
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}limits<{_SCALAR[_LETTER[dtype]]}>::infinity()"
    if dtype == torch.float32:
        value = torch.tensor(value, dtype=torch.float32).item()
        if math.isinf(value):
            return _literal(value, dtype)
    return f"({value.hex()}{suffix})"


def _segments(size: int, width: int) -> list[tuple[int, int, int]]:
    """An axis in tiles: where they start, how many there are, and how many entries each has."""
    whole, rest = divmod(size, width)
    return [segment for segment in ((0, whole, width), (whole * width, 1, rest)) if segment[1] and segment[2]]


class _Emitter:
    def __init__(self, lowered: Lowered, plan: Plan, heap_from: float, registers: int) -> None:
        self.lowered, self.plan, self.heap_from, self.registers = lowered, plan, heap_from, registers
        self.lines: list[str] = []
        self.on_heap: list[str] = []
        self.depth = 1
        self.names = 0
        self.known: list[dict[tuple[Node, tuple[Index, ...]], str]] = [{}]
        self.sizes: list[int] = []
        self.computing: Node | None = None
        """A stored node whose elements are computed where a reduction reads them."""
        self.tiled = False
        """Whether an element that is loaded serves several sums."""
        self.checks = {node: i for i, node in enumerate(lowered.checks)}

    # --- text ---

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    @contextmanager
    def scope(self, head: str) -> Iterator[None]:
        self.line(head + " {")
        self.depth += 1
        self.known.append({})
        yield
        self.known.pop()
        self.depth -= 1
        self.line("}")

    def name(self, expression: str) -> str:
        self.names += 1
        self.line(f"const auto t{self.names} = {expression};")
        return f"t{self.names}"

    # --- the program ---

    def program(self) -> list[str]:
        leaves, plan = self.lowered.leaves, self.plan
        carried = [leaf for (role, _), leaf in leaves.items() if role == "carry"]
        ys = self.lowered.results[len(carried) :]
        with self.scope(
            "KERNEL void run(const int64 *sizes, int64 *shared, void *const *carry, void *const *constants, "
            "void *const *xs, const int64 *x_strides, void *const *ys)"
        ):
            self.line("const int64 members = sizes[0], steps = sizes[1];")
            heap = len(self.lines)
            with self.scope("EACH_BLOCK(first)"):
                self.line("const int lanes = (int)minimum((int64)LANES, members - first);")
                self.line("int64 offset[LANES];")
                for (role, i), leaf in leaves.items():
                    self.leaf(role, i, leaf)
                for node in plan.order:
                    in_place = plan.buffers[node].startswith("carry") or node in plan.takes_over
                    if not in_place and plan.has_array(node):
                        self.array(node)
                for check in self.checks.values():
                    self.line(f"M wrong{check} = {{}};")
                self.kernels([n for n in plan.order if n in plan.hoisted])
                with self.scope("for (int64 t = 0; t < steps; t++)"):
                    for (role, i), leaf in leaves.items():
                        if role == "x":
                            self.example(i, leaf)
                    self.kernels([n for n in plan.order if n not in plan.hoisted])
                    for i, y in enumerate(ys):
                        pointer = f"({self.external(y)} *)ys[{i}] + t * members * {y.size}"
                        self.line(f"store({pointer}, {plan.buffers[y]}, first, {y.size}, lanes);")
                    self.hand_over()
                for i in plan.moving:
                    leaf = carried[i]
                    self.line(f"store(({self.external(leaf)} *)carry[{i}], carry{i}, first, {leaf.size}, lanes);")
                for check in self.checks.values():
                    found = f"NOTE(shared + 1, {check + 1})"
                    self.line(f"if (some_lane(wrong{check})) {found};")
        if self.on_heap:
            self.lines[heap:heap] = ["  Heap<Large> large;", f"  if (!large.at) return NOTE(shared + 1, {NO_MEMORY});"]
            self.lines[:0] = ["struct Large {", *self.on_heap, "};"]
        return self.lines

    def array(self, node: Node) -> None:
        name = self.plan.buffers[node]
        declaration = f"{_vector(node)} {name}[{node.size}];"
        if node.size < self.heap_from:
            self.line(declaration)
        else:
            self.on_heap.append(f"  {declaration}")
            self.line(f"auto &{name} = large.at->{name};")

    @staticmethod
    def external(node: Node) -> str:
        """The C++ type of an element in the caller's arrays."""
        return _SHORT.get(node.dtype, _SCALAR[_LETTER[node.dtype]])

    def leaf(self, role: str, i: int, leaf: Node) -> None:
        kind, name = self.external(leaf), self.plan.buffers[leaf]
        if role == "constant":
            self.line(f"const {kind} *const {name} = (const {kind} *)constants[{i}];")
        elif role == "carry":
            self.array(leaf)
            self.line(f"offsets(offset, first, lanes, {leaf.size});")
            self.line(f"load({name}, (const {kind} *)carry[{i}], offset, {leaf.size});")
        elif leaf.uniform:
            self.line(f"const {kind} *{name};")
        else:
            self.array(leaf)
            self.line(f"int64 offset_{name}[LANES];")
            self.line(f"offsets(offset_{name}, first, lanes, x_strides[{2 * i + 1}]);")

    def example(self, i: int, leaf: Node) -> None:
        kind, name = self.external(leaf), self.plan.buffers[leaf]
        here = f"(const {kind} *)xs[{i}] + t * x_strides[{2 * i}]"
        if leaf.uniform:
            self.line(f"{name} = {here};")
            return
        # Examples lie a stride apart that the machine does not foresee.
        ahead = f"{here} + 4 * x_strides[{2 * i}]"
        line = 64 // leaf.dtype.itemsize
        self.line(
            f"if (t + 4 < steps) EACH for (int i = 0; i < {leaf.size}; i += {line}) "
            f"PREFETCH({ahead} + offset_{name}[l] + i);"
        )
        self.line(f"load({name}, {here}, offset_{name}, {leaf.size});")

    def hand_over(self) -> None:
        """Results to where the next step looks for them."""
        copies = []
        for i in self.plan.moving:
            node = self.lowered.results[i]
            source = self.plan.buffers[node]
            if source == f"carry{i}":
                continue
            if source.startswith("carry"):  # which another result may be about to overwrite
                self.line(f"{_vector(node)} moved{i}[{node.size}];")
                self.line(f"copy_n({source}, {node.size}, moved{i});")
                source = f"moved{i}"
            copies.append(f"copy_n({source}, {node.size}, carry{i});")
        for copy in copies:
            self.line(copy)

    # --- loops ---

    def kernels(self, nodes: Sequence[Node]) -> None:
        elsewhere = {*self.plan.summed.values(), *self.plan.finished.values()}
        nodes = [node for node in nodes if node not in elsewhere]
        filled = [found[0] for node in nodes if (found := self.fills(node)) is not None]
        masks = {*self.plan.guards.values(), *filled}
        position = 0
        while position < len(nodes):
            node = nodes[position]
            guard = self.guard(node)
            if guard is None:
                self.kernel(node)
                if node in masks:
                    some = f"some{node.number} |= some_lane({self.plan.buffers[node]}[i]);"
                    self.line(f"bool some{node.number} = false;")
                    self.line(f"for (int i = 0; i < {node.size}; i++) {some}")
                position += 1
                continue
            with self.scope(f"if (SELDOM(some{guard.number}))"):
                while position < len(nodes) and self.guard(nodes[position]) is guard:
                    self.kernel(nodes[position])
                    position += 1

    def guard(self, node: Node) -> Node | None:
        """The mask without which the whole kernel may be skipped."""
        filled = self.fills(node)
        return self.plan.guards.get(node) or (filled[0] if filled is not None else None)

    def fills(self, node: Node) -> tuple[Node, Node] | None:
        """For a choice that is written over what it leaves as it is: its mask."""
        if node.kind != "map" or node.data != "choose" or node in self.plan.hoisted:
            return None
        mask = node.args[0].args[0] if node.args[0].kind == "view" else node.args[0]
        rest = node.args[2].args[0] if node.args[2].kind == "view" else node.args[2]
        if self.plan.takes_over.get(node) is rest and mask in self.plan.order and not mask.uniform:
            return (mask, rest) if mask not in self.plan.hoisted else None
        return None

    @contextmanager
    def loops(self, sizes: Sequence[int], names: Sequence[int] | None = None, unroll: bool = True) -> Iterator[None]:
        """Loops over the axes, of which those of one element need none."""
        depth = 0
        rolled = "" if unroll else "ROLLED "
        for axis, size in zip(range(len(sizes)) if names is None else names, sizes, strict=True):
            if size > 1:
                self.line(f"{rolled}for (int64 i{axis} = 0; i{axis} < {size}; i{axis}++) {{")
                self.depth += 1
                depth += 1
        self.known.append({})
        yield
        self.known.pop()
        for _ in range(depth):
            self.depth -= 1
            self.line("}")

    def kernel(self, node: Node) -> None:
        outside, self.known = self.known, [{}]
        self.sizes = list(node.shape)
        self.computing = self.plan.summed.get(node)
        here = [variable(a, self.sizes) for a in range(len(self.sizes))]
        buffer = self.plan.buffers[node]
        if self.fills(node) is not None:
            self.kernel_fill(node, here)
        elif node.kind in ("map", "gather"):
            with self.scope(""), self.loops(self.sizes):
                value = self.compute(node, tuple(here))
                self.line(f"{buffer}[{code(linear(here, node.shape))}] = {value};")
        else:
            with self.scope(""):
                getattr(self, f"kernel_{node.kind}")(node, buffer)
        self.known = outside

    def kernel_fill(self, node: Node, here: list[Index]) -> None:
        """A choice, for the rows of which a lane has the mask."""
        rows = sorted(axes_read(self.plan, node.args[0], here, self.sizes))
        within = [a for a in range(len(self.sizes)) if a not in rows]
        place = f"{self.plan.buffers[node]}[{code(linear(here, node.shape))}]"
        with self.scope(""), self.loops([self.sizes[a] for a in rows], rows):
            if not rows or all(self.sizes[a] == 1 for a in within):
                with self.loops([self.sizes[a] for a in within], within):
                    self.line(f"{place} = {self.compute(node, tuple(here))};")
                return
            mask = self.value(node.args[0], tuple(here), False)
            with self.scope(f"if (SELDOM(some_lane({mask})))"), self.loops([self.sizes[a] for a in within], within):
                self.line(f"{place} = {self.compute(node, tuple(here))};")

    def kernel_reduce(self, node: Node, buffer: str) -> None:
        (x,), (function, axes) = node.args, node.data
        self.sizes = list(x.shape)
        kept = len(self.sizes) - axes
        if function in ("argmin", "argmax"):
            self.kernel_arg(node, buffer)
            return
        tiles = self.tiles(node, kept)
        for parts_of_axes in itertools.product(*(_segments(self.sizes[axis], width) for axis, width in tiles.items())):
            outer = self.sizes[:kept]
            for axis, (_, count, _) in zip(tiles, parts_of_axes, strict=True):
                outer[axis] = count
            own = [variable(a, [*outer, *self.sizes[kept:]]) for a in range(len(self.sizes))]
            order = self.loop_order(x, tiles, outer)
            with self.scope(""), self.loops([outer[a] for a in order], order):
                places = [own]
                for axis, (start, _, width) in zip(tiles, parts_of_axes, strict=True):
                    entries = [plus(times(own[axis], width), at(start + i)) for i in range(width)]
                    places = [[*place[:axis], entry, *place[axis + 1 :]] for place in places for entry in entries]
                vector = _vector(node)
                start_value = self.identity(function, node)
                # Of few sums, each in several parts; not where how many there are depends on the machine's registers.
                inner = self.sizes[-1]
                most = CHAINS // len(places) if len(tiles) < 2 else 1
                parts = max((p for p in range(1, most + 1) if inner % p == 0), default=1)
                for k in range(len(places) * parts):
                    self.line(f"{vector} sum{k} = {start_value};")
                reduced = [*self.sizes[kept:-1], inner // parts]
                names = list(range(kept, len(self.sizes)))
                saved = self.sizes
                # Unrolled further than into these sums, they would not find room in the registers.
                self.tiled = len(tiles) > 1
                with self.loops(reduced, names, unroll=False):
                    for k, place in enumerate(places):
                        for part in range(parts):
                            if inner == parts:
                                last = at(part)
                            else:
                                last = plus(times((0, ((len(saved) - 1, 1),)), parts), at(part))
                            self.accumulate(function, f"sum{k * parts + part}", x, (*place[:-1], last), node)
                self.tiled = False
                for k, place in enumerate(places):
                    total = [f"sum{k * parts + part}" for part in range(parts)]
                    while len(total) > 1:
                        total = [f"{function}({', '.join(total[:2])})", *total[2:]]
                    self.store_total(node, place[:kept], total[0])

    def store_total(self, node: Node, place: Sequence[Index], total: str) -> None:
        """Store a sum, or what is made of it."""
        result = self.plan.finished.get(node, node)
        if result is not node:
            self.known[-1][node, tuple(place)] = total
            total = self.compute(result, tuple(place))
        self.line(f"{self.plan.buffers[result]}[{code(linear(place, result.shape))}] = {total};")

    def tiles(self, node: Node, kept: int) -> dict[int, int]:
        """How many entries of which of the ``kept`` axes are summed side by side."""
        sizes = self.sizes[:kept]
        found = tile_axes(self.plan, node)
        if found is None:
            return {kept - 1: min(sizes[-1], CHAINS)} if kept else {}
        rows, columns = found

        def loads(tile: tuple[int, int]) -> int:
            return -(-sizes[rows] // tile[0]) * -(-sizes[columns] // tile[1]) * sum(tile)

        height, width = min(TILES[self.registers], key=loads)
        return dict(sorted({rows: min(height, sizes[rows]), columns: min(width, sizes[columns])}.items()))

    def loop_order(self, x: Node, tiles: dict[int, int], counts: Sequence[int]) -> list[int]:
        """The axes of the loops over tiles, the outermost first: what is read again for each of them is the smaller."""
        order = list(range(len(counts)))
        if len(tiles) < 2:
            return order
        here = [variable(a, self.sizes) for a in range(len(self.sizes))]
        read = [axes_read(self.plan, factor, here, self.sizes) for factor in x.args]

        def read_again(outer: int) -> int:
            return counts[outer] * sum(math.prod(self.sizes[a] for a in axes) for axes in read if outer not in axes)

        first, second = sorted(tiles, key=read_again)
        return [*(a for a in order if a not in tiles), first, second]

    def identity(self, function: str, node: Node) -> str:
        if function in _SUMS:
            value = f"({self.external(node)}){_SUMS[function]}"
        elif node.dtype.is_floating_point:
            value = _literal(-math.inf if function == "maximum" else math.inf, node.dtype)
        else:
            range_of = torch.iinfo(node.dtype)
            value = _literal(range_of.min if function == "maximum" else range_of.max, node.dtype)
        return value if node.uniform else f"to_{_LETTER[node.dtype]}({value})"

    def accumulate(self, function: str, total: str, x: Node, place: tuple[Index, ...], node: Node) -> None:
        product = x.kind == "map" and x.data == "mul" and not self.plan.is_stored(x)
        if function == "add" and product and x.dtype.is_floating_point:
            left, right = (self.value(a, place, node.uniform) for a in x.args)
            self.line(f"{total} = multiply_add({left}, {right}, {total});")
            return
        self.line(f"{total} = {function}({total}, {self.value(x, place, node.uniform)});")

    def kernel_arg(self, node: Node, buffer: str) -> None:
        (x,), (function, axes) = node.args, node.data
        kept = len(self.sizes) - axes
        here = tuple(variable(a, self.sizes) for a in range(len(self.sizes)))
        better = "lt" if function == "argmin" else "gt"
        mask, integer = ("bool", "int") if node.uniform else ("M", "I")
        with self.loops(self.sizes[:kept]):
            first = (*here[:kept], *(at(0) for _ in range(axes)))
            self.line(f"auto best = {self.value(x, first, node.uniform)};")
            self.line(f"{integer} place = {integer}{{}};")
            with self.loops(self.sizes[kept:], range(kept, len(self.sizes))):
                value = self.value(x, here, node.uniform)
                flat = code(linear(here[kept:], x.shape[kept:]))
                nan = f"bit_and(ne({value}, {value}), eq(best, best))"
                self.line(f"const {mask} won = bit_or({better}({value}, best), {nan});")
                number = f"(int)({flat})"
                self.line(f"place = choose(won, {number if node.uniform else f'to_I({number})'}, place);")
                self.line(f"best = choose(won, {value}, best);")
            result = "(int64)place" if node.uniform else "to_Q(place)"
            self.line(f"{buffer}[{code(linear(here[:kept], node.shape))}] = {result};")

    def kernel_scan(self, node: Node, buffer: str) -> None:
        here = tuple(variable(a, self.sizes) for a in range(len(self.sizes)))
        with self.loops(self.sizes[:-1]):
            self.line(f"{_vector(node)} running = {self.identity(node.data, node)};")
            with self.loops(self.sizes[-1:], [len(self.sizes) - 1]):
                self.line(f"running = {node.data}(running, {self.value(node.args[0], here, node.uniform)});")
                self.line(f"{buffer}[{code(linear(here, node.shape))}] = running;")

    def kernel_rank(self, node: Node, buffer: str) -> None:
        (x,) = node.args
        rows, n = node.size // node.shape[-1], node.shape[-1]
        with self.scope(f"for (int r = 0; r < {rows}; r++)"):
            row = f"{self.plan.buffers[x]} + r * {n}"
            arguments = f"{row}, {buffer} + r * {n}, {n}, {str(node.data).lower()}"
            limit = self.plan.limits.get(node)
            if limit is None:
                self.line(f"rank_row({arguments});")
            else:
                number = self.value(limit, tuple(at(0) for _ in limit.shape), False)
                self.line(f"rank_first({arguments}, {number});")

    def kernel_scatter(self, node: Node, buffer: str) -> None:
        old, source, *_ = node.args
        places, function = node.data
        here = tuple(variable(a, self.sizes) for a in range(len(self.sizes)))
        if node not in self.plan.takes_over:
            with self.loops(self.sizes):
                self.line(f"{buffer}[{code(linear(here, node.shape))}] = {self.value(old, here, node.uniform)};")
        self.sizes = list(source.shape)
        here = tuple(variable(a, self.sizes) for a in range(len(self.sizes)))
        with self.loops(self.sizes):
            address, varies = self.address(node, places, node.shape, here)
            value = self.value(source, here, node.uniform)
            if varies:
                if function == "add":
                    value = f"add(gather({buffer}, {address}), {value})"
                self.line(f"scatter({buffer}, {address}, {value});")
            else:
                value = f"add({buffer}[{address}], {value})" if function == "add" else value
                self.line(f"{buffer}[{address}] = {value};")

    def kernel_assemble(self, node: Node, buffer: str) -> None:
        fill, destinations = node.data
        if fill is not None:
            value = _literal(fill, node.dtype)
            value = value if node.uniform else f"to_{_LETTER[node.dtype]}({value})"
            self.line(f"fill_n({buffer}, {node.size}, {value});")
        for i, (part, destination) in enumerate(zip(node.args, destinations, strict=True)):
            if i == 0 and self.plan.takes_over.get(node) is part:
                continue
            self.sizes = list(part.shape)
            here = tuple(variable(a, self.sizes) for a in range(len(self.sizes)))
            with self.loops(self.sizes):
                value = self.value(part, here, node.uniform)
                self.line(f"{buffer}[{code(linear(destination, node.shape))}] = {value};")

    # --- elements ---

    def value(self, node: Node, index: tuple[Index, ...], uniform: bool) -> str:
        """The element at an index; as a vector unless ``uniform``."""
        text = self.element(node, index)
        return text if uniform or not node.uniform else f"to_{_LETTER[node.dtype]}({text})"

    def element(self, node: Node, index: tuple[Index, ...]) -> str:
        if node.kind == "view":
            return self.element(node.args[0], tuple(substitute(i, index, self.sizes) for i in node.data))
        if node.kind == "scalar":
            return _literal(node.data, node.dtype)
        if node.kind == "position":
            return f"(int64)({code(substitute(node.data, index, self.sizes))})"
        for known in self.known:
            if (node, index) in known:
                return known[node, index]
        if node is self.computing:
            text = self.name(self.compute(node, index))
            self.line(f"{self.plan.buffers[node]}[{code(linear(index, node.shape))}] = {text};")
        elif self.plan.is_stored(node):
            stored = self.shared_whole(node, f"{self.plan.buffers[node]}[{code(linear(index, node.shape))}]")
            text = self.name(f"held({stored})" if self.tiled and not node.uniform else stored)
        else:
            text = self.name(self.compute(node, index))
        self.known[-1][node, index] = text
        return text

    @staticmethod
    def shared_whole(node: Node, text: str) -> str:
        """An element that was read; of short integers that the members share, widened."""
        return f"(int){text}" if node.uniform and node.dtype in _SHORT else text

    def compute(self, node: Node, index: tuple[Index, ...]) -> str:
        if node.kind == "gather":
            table = node.args[0]
            address, varies = self.address(node, node.data, table.shape, index)
            buffer = self.plan.buffers[base(table)]
            if not varies:
                return self.shared_whole(table, f"{buffer}[{address}]")
            if table.uniform:
                return f"gather_shared<{_LETTER[node.dtype]}>({buffer}, {address})"
            return f"gather({buffer}, {address})"
        args = [self.value(a, index, node.uniform) for a in node.args]
        if node in self.checks:
            self.wrong(node, f"to_M(eq({args[1]}, sub({args[1]}, {args[1]})))")
        if node.data == "to":
            if not node.uniform:
                text = f"to_{_LETTER[node.dtype]}({args[0]})"
            else:
                text = f"({args[0]} != 0)" if node.dtype == torch.bool else f"({_vector(node)}){args[0]}"
            return f"as_{_SHORT[node.dtype]}({text})" if node.dtype in _SHORT else text
        return f"{node.data}({', '.join(args)})"

    def wrong(self, node: Node, mask: str) -> None:
        """Note the lanes in which eager raises an error."""
        name = f"wrong{self.checks[node]}"
        self.line(f"{name} = bit_or({name}, {mask});")

    def address(
        self, node: Node, places: Sequence[Index | int], shape: tuple[int, ...], index: tuple[Index, ...]
    ) -> tuple[str, bool]:
        """Where an element lies that indices among the arguments choose, and whether that differs between lanes.

        One that lies outside is noted, and another taken in its stead.
        """
        args, fixed, chosen = node.args, at(0), []
        varies = any(isinstance(p, int) and not args[p].uniform for p in places)
        for place, stride, size in zip(
            places, [math.prod(shape[a + 1 :]) for a in range(len(shape))], shape, strict=True
        ):
            if isinstance(place, int):
                one = args[place].uniform
                i = self.name(f"{'(int64)' if one else ''}{self.element(args[place], index)}")
                number = i if not varies else f"to_I((int){i})" if one else f"to_I({i})"
                if not is_inside(args[place], size):
                    self.wrong(node, f"outside({i}, {size})")
                    number = f"inside({number}, {size})"
                chosen.append(f"{number} * {stride}")
            else:
                fixed = plus(fixed, times(substitute(place, index, self.sizes), stride))
        text = " + ".join(chosen)
        if fixed != at(0) or not chosen:
            text += f"{' + ' if chosen else ''}{f'to_I((int)({code(fixed)}))' if varies else f'({code(fixed)})'}"
        return text, varies
