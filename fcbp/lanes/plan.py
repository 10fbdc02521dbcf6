"""What a program stores, in which order it computes it, and where it lies.

Chains of elementwise operations are computed where they are read; a value is stored where that would compute it more
than once, and where its kind needs a loop of its own. What depends on nothing that moves is computed once, before the
time loop. What is only read where a mask holds is skipped while no lane of the block has the mask: most steps replace
nothing. A value takes over the memory of one that nobody reads after it. A sum over what was just written is taken in
the loop that writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fcbp.lanes.ir import Index, Node, base, linear, substitute, variable
from fcbp.lanes.lower import Lowered

__all__ = ["Plan", "make_plan"]

# Maps that neither round nor take long: computing them again gives the same bits and costs less than memory does.
_CHEAP = {"to", "same", "neg", "v_abs", "lt", "le", "gt", "ge", "eq", "ne", "bit_and", "bit_or", "bit_xor", "bit_not"}


@dataclass
class Plan:
    """See the module."""

    moving: list[int]
    """The carry's leaves that a step changes."""
    order: list[Node]
    """The stored nodes, hoisted ones first."""
    hoisted: set[Node]
    guards: dict[Node, Node]
    """By a stored node or a choice: the stored mask without which it need not be computed."""
    buffers: dict[Node, str] = field(default_factory=dict)
    """By a leaf or a stored node: the name of the array that holds it."""
    takes_over: dict[Node, Node] = field(default_factory=dict)
    """Nodes that are written over an argument's array."""
    summed: dict[Node, Node] = field(default_factory=dict)
    """By a reduction: the node before it that it reads once and whole, computed in its loop."""

    def is_stored(self, node: Node) -> bool:
        return node in self.buffers


def make_plan(lowered: Lowered) -> Plan:
    """Decide on everything but the text."""
    leaves = [lowered.leaves["carry", i] for i in range(sum(role == "carry" for role, _ in lowered.leaves))]
    results = lowered.results
    moving = [i for i, leaf in enumerate(leaves) if results[i] is not leaf]
    needed = _needed(results)
    constant = _constant(needed, {leaf for i, leaf in enumerate(leaves) if i not in moving})
    outputs = {results[i] for i in moving} | set(results[len(leaves) :])
    guards = _guards(needed, constant, outputs)
    careful = {n for n in needed if n.kind in ("gather", "scatter") or n in lowered.checks}
    _keep_valid(careful, guards)
    stored = _stored(needed, constant, outputs, set(guards.values()) | (careful & guards.keys()))
    order = _ordered(stored, guards)
    hoisted = [n for n in order if n in constant]
    masks = set(guards.values())
    order, summed = _summed_at_once([n for n in order if n not in constant], stored, guards, masks)
    plan = Plan(moving, [*hoisted, *order], set(hoisted), guards)
    _place(plan, lowered, leaves, outputs)
    for total, part in summed.items():
        # Written too early, a sum would be in the way of what its part still reads.
        if plan.buffers[total] not in {plan.buffers[a] for a in _inline(part, stored)} | {plan.buffers[part]}:
            plan.summed[total] = part
    return plan


def _needed(results: list[Node]) -> list[Node]:
    """What the results are made of, in order."""
    found: dict[int, Node] = {}
    waiting = list(results)
    while waiting:
        node = waiting.pop()
        if node.number not in found:
            found[node.number] = node
            waiting += node.args
    return [found[number] for number in sorted(found)]


def _constant(needed: list[Node], fixed: set[Node]) -> set[Node]:
    """Nodes that no step changes."""
    constant: set[Node] = set()
    for node in needed:
        if node.kind == "leaf":
            if node in fixed or node.data[0] == "constant":
                constant.add(node)
        elif all(a in constant for a in node.args):
            constant.add(node)
    return constant


def _users(needed: list[Node]) -> dict[Node, list[tuple[Node, int]]]:
    users: dict[Node, list[tuple[Node, int]]] = {node: [] for node in needed}
    for node in needed:
        for i, a in enumerate(node.args):
            users[a].append((node, i))
    return users


def _guards(needed: list[Node], constant: set[Node], outputs: set[Node]) -> dict[Node, Node]:
    """Nodes read only under a mask of fewer elements than what it saves."""
    users = _users(needed)
    held: dict[Node, set[Node]] = {}
    for node in reversed(needed):
        if node in outputs or node in constant or node.uniform or node.kind in ("leaf", "scalar", "position"):
            continue
        common: set[Node] | None = None
        for user, i in users[node]:
            masks = set(held.get(user, ()))
            if user.kind == "map" and user.data == "choose" and i == 1:
                masks |= {mask for mask in _implied(base(user.args[0])) if not mask.uniform and mask not in constant}
            common = masks if common is None else common & masks
        if common:
            held[node] = common
    guards: dict[Node, Node] = {}
    for node, masks in held.items():
        # Of masks that are worked out in every step, the one that says most.
        if free := masks - held.keys():
            guards[node] = max(free, key=lambda mask: mask.number)
    saved: dict[Node, int] = {}
    for node, mask in guards.items():
        work = node.size * node.shape[-1] if node.kind == "rank" else node.size
        saved[mask] = saved.get(mask, 0) + work * (node.kind in ("map", "reduce", "gather", "rank"))
    return {node: mask for node, mask in guards.items() if saved[mask] >= 4 * mask.size}


def _keep_valid(careful: set[Node], guards: dict[Node, Node]) -> None:
    """Have nothing skipped that a node which must not see what an earlier step left would read without its mask."""
    for node in careful:
        allowed = _implied(guards[node]) if node in guards else set()
        for a in _needed(list(node.args)):
            if a in guards and guards[a] not in allowed:
                del guards[a]


def _implied(mask: Node) -> set[Node]:
    """The masks that hold in a lane wherever this one does, itself among them."""
    if mask.kind != "map":
        return set()
    found = {mask}
    if mask.data == "choose" and mask.args[2].kind == "scalar" and not mask.args[2].data:
        parts = mask.args[:2]
    else:
        parts = mask.args if mask.data == "bit_and" else ()
    return found.union(*map(_implied, map(base, parts)))


def _stored(needed: list[Node], constant: set[Node], outputs: set[Node], apart: set[Node]) -> set[Node]:
    """Nodes with an array of their own; ``apart`` must have one."""
    users = _users(needed)
    stored: set[Node] = set()
    evaluations: dict[Node, int] = {}
    for node in reversed(needed):
        times_read = 0
        for user, _ in users[node]:
            if user in stored:
                times_read += (
                    user.args[0].size if user.kind in ("reduce", "rank", "scan") else max(user.size, node.size)
                )
            else:
                times_read += evaluations[user]
        evaluations[node] = times_read
        if node.kind in ("leaf", "scalar", "position", "view") and node not in outputs:
            continue
        if node.kind in ("map", "gather") and node not in outputs | apart:
            addressed = any(user.kind in ("gather", "rank") and i == 0 for user, i in users[node])
            if node.uniform and not addressed and not any(a.kind == "leaf" for a in _needed([node])):
                continue  # of positions and numbers alone: the compiler's to fold
            leaves_loop = node in constant and any(user not in constant for user in _readers(node, users))
            often = times_read > node.size and not (node.kind == "map" and node.data in _CHEAP and _is_shallow(node))
            if not (leaves_loop or addressed or often):
                continue
        if node.kind not in ("leaf", "scalar", "position", "view"):
            stored.add(node)
    return stored


def _readers(node: Node, users: dict[Node, list[tuple[Node, int]]]) -> Iterator[Node]:
    """Who reads a node, be it through views."""
    for user, _ in users[node]:
        if user.kind == "view":
            yield from _readers(user, users)
        else:
            yield user


def _is_shallow(node: Node) -> bool:
    return all(base(a).kind != "map" for a in node.args)


def _inline(node: Node, stored: set[Node]) -> Iterator[Node]:
    """The leaves and stored nodes that computing ``node`` reads."""
    waiting, seen = list(node.args), set()
    while waiting:
        a = waiting.pop()
        if a in seen:
            continue
        seen.add(a)
        if a in stored or a.kind == "leaf":
            yield a
        else:
            waiting += a.args


def _ordered(stored: set[Node], guards: dict[Node, Node]) -> list[Node]:
    done: dict[Node, None] = {}
    by_number = sorted(stored, key=lambda n: n.number)
    reading = {n: sorted(_inline(n, stored), key=lambda n: n.number) for n in by_number}

    def visit(root: Node) -> None:
        waiting = [(root, False)]
        while waiting:
            node, ready = waiting.pop()
            if node in done or node.kind == "leaf":
                continue
            if ready:
                done[node] = None
                continue
            waiting.append((node, True))
            before = [*reading[node], *([guards[node]] if node in guards else [])]
            waiting += [(a, False) for a in reversed(before)]

    for node in by_number:
        visit(node)
    return list(done)


def _summed_at_once(
    order: list[Node], stored: set[Node], guards: dict[Node, Node], masks: set[Node]
) -> tuple[list[Node], dict[Node, Node]]:
    """The order with reductions right behind what they read, and for each of these reductions what that is."""
    order = list(order)
    summed: dict[Node, Node] = {}
    for total in [n for n in order if n.kind == "reduce" and n.data[0] not in ("argmin", "argmax")]:
        reading = [a for a in _inline(total, stored) if a in stored]
        places = [order.index(a) for a in reading if a in order]
        if total in guards or not places:
            continue
        part = order[max(places)]
        plain = part.kind == "map" and part.data != "choose" and part not in guards and part not in masks
        if plain and part not in summed.values() and part.uniform == total.uniform and _reads_once(total, part, stored):
            order.remove(total)
            order.insert(max(places) + 1, total)
            summed[total] = part
    return order, summed


# --- memory ---------------------------------------------------------------------------------------------------


def _reads_in_place(node: Node, argument: Node, stored: set[Node]) -> bool:
    """Whether ``node`` reads ``argument`` at the very places that it writes, and in no other way."""
    if node.kind in ("scatter", "assemble"):
        whole = node.args[0] is argument and (node.kind == "scatter" or argument.shape == node.shape)
        return whole and all(argument not in (a, *_inline(a, stored)) for a in node.args[1:])
    if node.kind != "map":
        return False
    return _reads_at(node, node.shape, argument, stored)


def _reads_once(total: Node, argument: Node, stored: set[Node]) -> bool:
    """Whether a reduction goes over ``argument``'s elements as they lie, each once."""
    (x,) = total.args
    return x.size == argument.size and _reads_at(total, x.shape, argument, stored)


def _reads_at(node: Node, shape: tuple[int, ...], argument: Node, stored: set[Node]) -> bool:
    """Whether ``node``, at a position of a loop over ``shape``, reads ``argument`` at that position alone."""
    here = [variable(a, shape) for a in range(len(shape))]
    same = linear(here, shape)

    def check(n: Node, index: list[Index]) -> bool:
        if n is argument:
            return linear(index, n.shape) == same
        if n in stored or n.kind in ("leaf", "scalar", "position"):
            return True
        if n.kind == "view":
            return check(n.args[0], [substitute(i, index, shape) for i in n.data])
        if n.kind == "map":
            return all(check(a, index) for a in n.args)
        return argument not in _inline(n, stored)

    return all(check(a, here) for a in node.args)


def _place(plan: Plan, lowered: Lowered, leaves: list[Node], outputs: set[Node]) -> None:
    stored = set(plan.order)
    last: dict[Node, int] = {}
    reading = [list(_inline(node, stored)) for node in plan.order]
    for position, found in enumerate(reading):
        for a in found:
            last[a] = position
    end = len(plan.order)
    ys = lowered.results[len(leaves) :]
    for node in outputs:
        for a in (node, *(() if node in stored else _inline(node, stored))):
            last[a] = end
    for (role, i), leaf in lowered.leaves.items():
        plan.buffers[leaf] = f"{role}{i}"
    fixed = {leaf for i, leaf in enumerate(leaves) if i not in plan.moving}
    occupant = {plan.buffers[leaf]: leaf for leaf in leaves}
    target = {lowered.results[i]: f"carry{i}" for i in plan.moving if lowered.results[i] not in ys}
    for position, node in enumerate(plan.order):
        if node in plan.hoisted:
            plan.buffers[node] = f"b{node.number}"
            continue
        free = [
            a
            for a in reading[position]
            if last[a] == position
            and a not in fixed
            and a not in plan.hoisted
            and not a.uniform
            and not node.uniform
            and (a.kind != "leaf" or a.data[0] == "carry")
            and (a.size, a.dtype) == (node.size, node.dtype)
            and _reads_in_place(node, a, stored)
        ]
        # A carried value is best written where the next step looks for it.
        wanted = target.get(node)
        free.sort(key=lambda a: (plan.buffers[a] != wanted, not plan.buffers[a].startswith("carry"), a.number))
        if free:
            plan.takes_over[node] = free[0]
            plan.buffers[node] = plan.buffers[free[0]]
        elif wanted and last.get(occupant[wanted], -1) < position and not node.uniform and node not in plan.guards:
            plan.buffers[node] = wanted
        else:
            plan.buffers[node] = f"b{node.number}"
        occupant[plan.buffers[node]] = node
