"""Work that most steps can leave out, because no member of the block needs it.

Learners replace few units, and in most steps none. The random numbers, ranks and rows of a replacement are read only
where a mask holds: ``torch.where(mask, x, y)`` reads ``x`` only there. A program looks whether any lane of the block
has the mask, and skips the work if none has.
"""

from __future__ import annotations

import torch

from fcbp.lanes.functions import Function
from fcbp.lanes.ir import (
    Gather,
    Leaf,
    Map,
    Node,
    Position,
    Rank,
    Reduce,
    Scalar,
    base,
    is_choice,
    is_map,
    is_reshape,
)
from fcbp.lanes.reads import Users, dependencies, readers_through_casts

__all__ = ["guards_of", "keep_checks_valid", "predicates_of", "rank_limits", "row_updates"]

ROW = 4
"""The least number of elements for each element of a mask for which a branch pays."""


def row_updates(nodes: list[Node]) -> set[Node]:
    """Return choices whose mask has an element for each row of many elements: most steps choose no row."""
    found: set[Node] = set()
    for node in nodes:
        if is_choice(node) and not node.uniform and is_reshape(node.args[2]):
            mask = base(node.args[0])
            if isinstance(mask, Map) and not mask.uniform and ROW * mask.size <= node.size:
                found.add(node)
    return found


def predicates_of(nodes: list[Node], constant: set[Node], outputs: set[Node], users: Users) -> dict[Node, set[Node]]:
    """Return the nodes that are read only where masks hold, and these masks."""
    predicates: dict[Node, set[Node]] = {}
    for node in reversed(nodes):
        if node in outputs or node in constant or node.uniform or isinstance(node, (Leaf, Scalar, Position)):
            continue
        common: set[Node] | None = None
        for user, i in users[node]:
            masks = set(predicates.get(user, ()))
            if is_choice(user) and i == 1:
                masks |= {mask for mask in _implied(base(user.args[0])) if not mask.uniform and mask not in constant}
            common = masks if common is None else common & masks
        if common:
            predicates[node] = common
    return predicates


def guards_of(predicates: dict[Node, set[Node]]) -> dict[Node, Node]:
    """Return the nodes for which a branch saves more work than the mask has elements, and the mask of each."""
    guards: dict[Node, Node] = {}
    for node, masks in predicates.items():
        # Of the masks that every step computes, the one that implies the most others.
        if free := masks - predicates.keys():
            guards[node] = max(free, key=lambda mask: mask.number)
    saved: dict[Node, int] = {}
    for node, mask in guards.items():
        work = node.size * node.shape[-1] if isinstance(node, Rank) else node.size
        saved[mask] = saved.get(mask, 0) + work * isinstance(node, (Map, Reduce, Gather, Rank))
    return {node: mask for node, mask in guards.items() if saved[mask] >= ROW * mask.size}


def keep_checks_valid(checked: set[Node], guards: dict[Node, Node]) -> None:
    """Remove the guards of nodes that a checked node reads without that mask.

    A node that is skipped keeps the numbers of an earlier step. No check, and no computed index, may see these.
    """
    for node in checked:
        allowed = _implied(guards[node]) if node in guards else set()
        for a in dependencies(node.args):
            if a in guards and guards[a] not in allowed:
                del guards[a]


def _implied(mask: Node) -> set[Node]:
    """Return the masks that hold in a lane wherever this one does; the mask is among them."""
    found: set[Node] = set()
    waiting = [mask]
    while waiting:
        node = waiting.pop()
        if node in found or not isinstance(node, Map):
            continue
        found.add(node)
        if is_choice(node) and isinstance(node.args[2], Scalar) and not node.args[2].value:
            waiting += map(base, node.args[:2])
        elif is_map(node, Function.AND):
            waiting += map(base, node.args)
    return found


def rank_limits(nodes: list[Node], predicates: dict[Node, set[Node]], users: Users) -> dict[Node, Node]:
    """Return the ranks of single rows that are read only where they are less than one number, and that number.

    So many places of the sort are then found, and not all: mostly none or one, in place of all units.
    """
    limits: dict[Node, Node] = {}
    for rank in (n for n in nodes if isinstance(n, Rank) and not n.uniform and n.size == n.shape[-1]):
        found = list(readers_through_casts(rank, users))
        less = {user for user, i in found if is_map(user, Function.LT) and i == 0}
        numbers = {base(user.args[1]) for user in less}
        others = [user for user, _ in found if user not in less]
        known = all(less & set().union(*map(_implied, predicates.get(user, ()))) for user in others)
        if len(numbers) == 1 and known and next(iter(numbers)).size == 1 and next(iter(numbers)).dtype == torch.int32:
            limits[rank] = numbers.pop()
    return limits
