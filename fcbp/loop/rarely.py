"""The part of a step that is left out at most steps: what two traces of it, for no units and for some, do not share.

A step is traced for no unit that is due. That trace computes everything that does not depend on who is replaced, and
writes the new carry over the old. Where units are due, the rest of another trace, which is ready for them, is run after
it and writes the carry anew: it begins with values that the first has in common with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import fx

from fcbp.loop import layout
from fcbp.loop.tracing import Traced, results_of

__all__ = ["Rest", "rest_of"]

Place = Literal["carry", "given", "saved"]
"""The origin of an argument of the rest: the carry, the examples, or values that the first trace computed."""


class Rest(NamedTuple):
    """The work that remains where units are due."""

    module: fx.GraphModule
    """``(*carry, *given, *saved) -> (*y)``, which writes over the carry."""
    carry: list[int]
    """Leaves of the carry that it reads or writes, as the first trace leaves them."""
    given: list[int]
    """Arguments of the step, by position, that it reads: constants and examples."""
    saved: list[fx.Node]
    """Values of the first trace that it reads."""
    written: list[int]
    """Leaves of the carry that it writes."""
    ys: list[int]
    """Results of the step, counted after the carry's, that it gives."""


def rest_of(first: Traced, other: Traced, number: int, constants: Sequence[int]) -> Rest | None:
    """Return the rest of ``other`` after ``first``; ``None`` where there is none.

    Args:
        first: the step for no unit that is due.
        other: the same step for some.
        number: leaves of the carry.
        constants: positions of the leaves that neither changes.
    """
    numbers = _Numbers()
    ours, theirs = numbers.of(first.module), numbers.of(other.module)
    # But for the number of units that are due.
    old, new = results_of(first.graph)[:-1], results_of(other.graph)[:-1]
    changed = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if ours[a] != theirs[b]]
    if not changed:
        return None
    growing = _Growing(first, other, number, constants, ours, theirs)
    results = [growing.copied(new[i]) for i in changed]
    written = [i for i in changed if i < number]
    for i in written:
        growing.carry_leaf(i)
    return growing.finished(changed, results, number)


class _Numbers:
    """Numbers of values: the same where they are the same operations on the same arguments, whatever graph has them."""

    def __init__(self) -> None:
        self._known: dict[Any, int] = {}

    def of(self, module: fx.GraphModule) -> dict[fx.Node, int]:
        """Return the numbers of a graph's nodes."""
        found: dict[fx.Node, int] = {}
        inputs = 0
        for node in module.graph.nodes:
            if node.op == "output":
                continue
            if node.op == "placeholder":
                key: Any = ("input", inputs)
                inputs += 1
            elif node.op == "get_attr":
                value = getattr(module, node.target)
                key = ("constant", str(value.dtype), tuple(value.shape), str(value.tolist()))
            elif layout.STORES in node.meta:
                found[node] = found[node.meta[layout.STORES]]
                continue
            else:
                numbered = fx.map_arg((node.args, node.kwargs), lambda n: _Value(found[n]))
                key = (str(node.target), repr(numbered))
            found[node] = self._known.setdefault(key, len(self._known))
        return found


class _Value(NamedTuple):
    number: int


class _Growing:
    """The graph of the rest, as it grows from its results to where the first trace has the same values."""

    def __init__(
        self,
        first: Traced,
        other: Traced,
        number: int,
        constants: Sequence[int],
        ours: dict[fx.Node, int],
        theirs: dict[fx.Node, int],
    ) -> None:
        self.graph, self.other, self.theirs = fx.Graph(), other, theirs
        self.inputs = {node: i for i, node in enumerate(other.graph.find_nodes(op="placeholder"))}
        self.old = {i for i in range(number) if i not in constants}
        results = results_of(first.graph)
        self.of_carry = {ours[results[i]]: i for i in reversed(range(number)) if i not in constants}
        self.at_hand = {ours[node]: node for node in _worth_keeping(first.graph)}
        self.kinds: dict[Place, dict[Any, fx.Node]] = {"carry": {}, "given": {}, "saved": {}}
        self.done: dict[fx.Node, fx.Node] = {}

    def carry_leaf(self, i: int) -> fx.Node:
        return self._argument("carry", i)

    def _argument(self, kind: Place, value: Any) -> fx.Node:
        known = self.kinds[kind]
        if value not in known:
            first = next(iter(self.graph.nodes), None)
            with self.graph.inserting_before(first):
                known[value] = self.graph.placeholder(f"{kind}_{len(known)}")
        return known[value]

    def copied(self, node: fx.Node) -> fx.Node:
        """Return the value in the rest of a node of the other trace."""
        for one in _inwards(node, self._source):
            self.done[one] = self._source(one) or self.graph.node_copy(one, self.done.__getitem__)
        return self.done[node]

    def _source(self, node: fx.Node) -> fx.Node | None:
        """Return the argument that a value is; ``None`` where it is computed."""
        if node in self.done:
            return self.done[node]
        value = self.theirs[node]
        if value in self.of_carry:
            return self._argument("carry", self.of_carry[value])
        if node in self.inputs and self.inputs[node] not in self.old:
            return self._argument("given", self.inputs[node])
        if value in self.at_hand:
            return self._argument("saved", self.at_hand[value])
        return None

    def finished(self, changed: list[int], results: list[fx.Node], number: int) -> Rest:
        """Return the rest, whose arguments are in order."""
        arguments = [node for kind in self.kinds.values() for node in kind.values()]
        graph = fx.Graph()
        new = {node: graph.placeholder(node.name) for node in arguments}
        for node in self.graph.nodes:
            if node not in new:
                new[node] = graph.node_copy(node, new.__getitem__)
        contiguous: dict[str, Any] = {"memory_format": torch.contiguous_format}
        clone = torch.ops.aten.clone.default
        leaves = self.kinds["carry"]
        written = [i for i in changed if i < number]
        values = {i: new[result] for i, result in zip(changed, results, strict=True)}
        targets = {new[leaves[i]]: i for i in written}
        # A leaf that becomes what another was is copied before that is written.
        values |= {i: graph.call_function(clone, (values[i],)) for i in written if _base(values[i]) in targets}
        ys = [graph.call_function(clone, (values[i],), contiguous) for i in changed if i >= number]
        for i in written:
            graph.call_function(torch.ops.aten.copy_.default, (new[leaves[i]], values[i]))
        graph.output(tuple(ys))
        return Rest(
            fx.GraphModule(self.other.module, graph),
            list(leaves),
            list(self.kinds["given"]),
            list(self.kinds["saved"]),
            written,
            [i - number for i in changed if i >= number],
        )


def _inwards(node: fx.Node, source: Callable[[fx.Node], fx.Node | None]) -> list[fx.Node]:
    """Return a node and all that it is made of, each after its parts; a value with a source has none."""
    order: dict[fx.Node, None] = {}
    stack = [(node, False)]
    while stack:
        one, entered = stack.pop()
        if one in order:
            continue
        if entered or source(one) is not None:
            order[one] = None
        else:
            stack.append((one, True))
            stack += [(operand, False) for operand in one.all_input_nodes]
    return list(order)


def _worth_keeping(graph: fx.Graph) -> list[fx.Node]:
    """Values that are made of arguments, but for views of them."""
    made: dict[fx.Node, None] = dict.fromkeys(graph.find_nodes(op="placeholder"))
    for node in graph.nodes:
        if node.op == "call_function" and any(operand in made for operand in node.all_input_nodes):
            made[node] = None
    return [node for node in made if node.op == "placeholder" or not layout.is_view(node.target)]


def _base(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and layout.is_view(node.target):
        node = node.args[0]  # type: ignore[assignment]
    return node
