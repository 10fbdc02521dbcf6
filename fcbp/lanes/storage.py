"""The nodes that get an array of their own.

Chains of elementwise operations are computed where they are read. A node is stored where it would be computed more than
once otherwise, and where its kind needs a loop of its own.
"""

from __future__ import annotations

from fcbp.lanes.functions import CHEAP
from fcbp.lanes.ir import Gather, Leaf, Map, Node, Position, Rank, Reduce, Scalar, Scan, View, base
from fcbp.lanes.reads import Users, readers

__all__ = ["stored_nodes"]


def stored_nodes(
    nodes: list[Node], constant: set[Node], outputs: set[Node], required: set[Node], users: Users
) -> set[Node]:
    """Return the nodes with an array of their own.

    Args:
        nodes: all nodes on which the results depend, in order.
        constant: those that no step changes.
        outputs: the results.
        required: other nodes that must have an array.
        users: the users of each node.
    """
    stored: set[Node] = set()
    evaluations: dict[Node, int] = {}
    loop_of: dict[Node, Node] = {}
    from_leaves = _from_leaves(nodes)
    for node in reversed(nodes):
        evaluations[node] = times_read = _times_read(node, users, stored, evaluations, loop_of)
        loops = {loop_of.get(user) if isinstance(user, Map) else None for user, _ in users[node]}
        if isinstance(node, Map) and len(loops) == 1 and (only := loops.pop()) is not None:
            loop_of[node] = only
        if isinstance(node, (Leaf, Scalar, Position, View)):
            continue
        if isinstance(node, (Map, Gather)) and node not in outputs | required:
            addressed = any(isinstance(user, (Gather, Rank)) and i == 0 for user, i in users[node])
            if node.uniform and not addressed and node not in from_leaves:
                continue  # of positions and numbers alone: the compiler computes it
            leaves_loop = node in constant and any(user not in constant for user in readers(node, users))
            if not (leaves_loop or addressed or (times_read > node.size and not _is_cheap(node))):
                continue
        stored.add(node)
        if isinstance(node, Map):
            loop_of[node] = node
    return stored


def _times_read(
    node: Node, users: Users, stored: set[Node], evaluations: dict[Node, int], loop_of: dict[Node, Node]
) -> int:
    """Return the number of times that an element of a node would be computed, if it had no array.

    Args:
        node: the node, whose users have all been decided on.
        users: the users of each node.
        stored: the users that have an array.
        evaluations: the number for each user.
        loop_of: the loop, by its stored node, in which alone a map is computed.
    """
    times_read = 0
    shared: dict[Node, int] = {}
    for user, _ in users[node]:
        if user in stored:
            read = user.args[0].size if isinstance(user, (Reduce, Rank, Scan)) else max(user.size, node.size)
        else:
            read = evaluations[user]
        # An integer that several nodes read in one loop is computed once: no rounding tells the results apart.
        loop = loop_of.get(user) if not node.dtype.is_floating_point and isinstance(user, Map) else None
        if loop is None:
            times_read += read
        else:
            shared[loop] = max(shared.get(loop, 0), read)
    return times_read + sum(shared.values())


def _from_leaves(nodes: list[Node]) -> set[Node]:
    """Return the nodes that depend on an input."""
    found: set[Node] = set()
    for node in nodes:
        if isinstance(node, Leaf) or not found.isdisjoint(node.args):
            found.add(node)
    return found


def _is_cheap(node: Node) -> bool:
    """Tell whether to compute an element again costs less than to load it."""
    return isinstance(node, Map) and node.function in CHEAP and not any(isinstance(base(a), Map) for a in node.args)
