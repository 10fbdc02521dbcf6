"""Questions about a graph of nodes: on which others a node depends, which read it, and at which elements.

A graph of n nodes may have 2^n paths, where values are read twice. So every walk visits a node, or a node at a place,
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from fcbp.lanes.functions import Function
from fcbp.lanes.indices import Index, linear, substitute, variable
from fcbp.lanes.ir import Leaf, Map, Node, Position, Scalar, View, is_map

__all__ = [
    "Users",
    "dependencies",
    "inline",
    "readers",
    "readers_through_casts",
    "reads",
    "reads_at",
    "users_of",
]

Users = dict[Node, list[tuple[Node, int]]]
"""By a node: the nodes that have it as an argument, and the number of the argument."""


def dependencies(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes and all on which they depend, in order."""
    found: dict[int, Node] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node.number not in found:
            found[node.number] = node
            waiting += node.args
    return [found[number] for number in sorted(found)]


def users_of(nodes: Sequence[Node]) -> Users:
    """Return the users of each node, among these nodes."""
    users: Users = {node: [] for node in nodes}
    for node in nodes:
        for i, a in enumerate(node.args):
            users[a].append((node, i))
    return users


def readers(node: Node, users: Users) -> Iterator[Node]:
    """Yield the nodes that read a node, directly or through a view; a view has one argument, so no path is walked
    twice."""
    for user, _ in users[node]:
        if isinstance(user, View):
            yield from readers(user, users)
        else:
            yield user


def readers_through_casts(node: Node, users: Users) -> Iterator[tuple[Node, int]]:
    """Yield the nodes that read a node's numbers, directly or through views and casts, and as which argument."""
    for user, i in users[node]:
        if isinstance(user, View) or is_map(user, Function.CAST, Function.SAME):
            yield from readers_through_casts(user, users)
        else:
            yield user, i


def inline(node: Node, stored: set[Node]) -> Iterator[Node]:
    """Yield the leaves and the stored nodes that the loop of ``node`` reads; the nodes between are computed in the
    loop."""
    waiting, seen = list(node.args), set()
    while waiting:
        a = waiting.pop()
        if a in seen:
            continue
        seen.add(a)
        if a in stored or isinstance(a, Leaf):
            yield a
        else:
            waiting += a.args


def reads(
    node: Node, place: Sequence[Index], sizes: Sequence[int], is_read: Callable[[Node], bool]
) -> Iterator[tuple[Node, tuple[Index, ...]]]:
    """Yield the elements from which the element of a node at a place is computed, through views and maps.

    Args:
        node: the node.
        place: an index for each of its axes, of positions in a loop.
        sizes: of the loop.
        is_read: whether a view or a map is read as it is, in place of computed.

    Yields:
        Each node that is read and its place, once.
    """
    waiting, seen = [(node, tuple(place))], set()
    while waiting:
        read, at = found = waiting.pop()
        if found in seen:
            continue
        seen.add(found)
        if is_read(read) or not isinstance(read, (View, Map)):
            yield found
        elif isinstance(read, View):
            waiting.append((read.args[0], tuple(substitute(i, at, sizes) for i in read.indices)))
        else:
            waiting += [(a, at) for a in read.args]


def reads_at(
    node: Node, shape: tuple[int, ...], argument: Node, stored: set[Node], order: Sequence[int] | None = None
) -> bool:
    """Tell whether ``node``, at a position of a loop over ``shape``, reads ``argument`` at that position alone.

    Args:
        order: the loop's axes in the order in which the argument lies in memory; by default their own.
    """
    here = [variable(a, shape) for a in range(len(shape))]
    order = range(len(shape)) if order is None else order
    same = linear([here[a] for a in order], [shape[a] for a in order])

    def is_allowed(read: Node, place: Sequence[Index]) -> bool:
        if read is argument:
            return linear(place, read.shape) == same
        if read in stored or isinstance(read, (Leaf, Scalar, Position)):
            return True
        return argument not in inline(read, stored)

    is_read = {argument, *stored}.__contains__
    return all(is_allowed(*found) for a in node.args for found in reads(a, here, shape, is_read))
