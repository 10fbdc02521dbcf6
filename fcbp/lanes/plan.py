"""What a program stores, in which order it computes it, and where it lies.

Chains of elementwise operations are computed where they are read; a value is stored where that would compute it more
than once, and where its kind needs a loop of its own. What depends on nothing that moves is computed once, before the
time loop. What is only read where a mask holds is skipped while no lane of the block has the mask: most steps replace
nothing. A choice of few rows is written over what it leaves as it is, row by row, for the rows that a lane has the mask
of; of a rank that is compared with one number, as many places are found. A value takes over the memory of one that
nobody reads after it. A sum over what was just written is taken in the loop that writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from fcbp.lanes.ir import Index, Node, axes_of, base, is_reshape, linear, substitute, variable
from fcbp.lanes.lower import Lowered

__all__ = ["Plan", "axes_read", "inline", "make_plan", "tile_axes"]

ROW = 4
"""Elements that a mask's element stands for at the least, where a branch on it pays."""
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
    finished: dict[Node, Node] = field(default_factory=dict)
    """By a reduction: the node behind it that alone reads it, element by element, and is computed in its loop."""
    limits: dict[Node, Node] = field(default_factory=dict)
    """By a rank: the number below which its places matter."""

    needed: list[Node] = field(default_factory=list)
    """All that the results are made of, in order."""
    held: dict[Node, set[Node]] = field(default_factory=dict)
    """By a node that is read only where masks hold: these masks."""

    def is_stored(self, node: Node) -> bool:
        return node in self.buffers

    def has_array(self, node: Node) -> bool:
        """Whether a leaf or a stored node needs memory: not a sum that only what is made of it is kept of."""
        return node not in self.finished or self.takes_over.get(self.finished[node]) is node

    def is_seldom(self, node: Node) -> bool:
        """Whether most steps leave out a stored node: read under a mask, or a choice written over what it leaves."""
        written_over = self.takes_over.get(node) is not None and node.kind == "map" and node.data == "choose"
        return node in self.guards or (written_over and self.takes_over[node] is base(node.args[2]))


def make_plan(lowered: Lowered) -> Plan:
    """Decide on everything but the text."""
    seldom = _seldom(_needed(lowered.results))
    while True:
        plan = _planned(lowered, seldom)
        # Where what a choice leaves as it is cannot be written over, it is better made with the choice, in one loop.
        apart = {node for node in seldom if plan.takes_over.get(node) is not base(node.args[2])}
        if not apart:
            return plan
        seldom -= apart


def _planned(lowered: Lowered, seldom: set[Node]) -> Plan:
    """The plan in which the choices of ``seldom`` are loops of their own."""
    leaves = [lowered.leaves["carry", i] for i in range(sum(role == "carry" for role, _ in lowered.leaves))]
    results = lowered.results
    moving = [i for i, leaf in enumerate(leaves) if results[i] is not leaf]
    needed = _needed(results)
    constant = _constant(needed, {leaf for i, leaf in enumerate(leaves) if i not in moving})
    outputs = {results[i] for i in moving} | set(results[len(leaves) :])
    held = _held(needed, constant, outputs)
    guards = _guards(held)
    careful = {n for n in needed if n.kind in ("gather", "scatter") or n in lowered.checks}
    _keep_valid(careful, guards)
    rare = (seldom | {base(node.args[2]) for node in seldom}) - constant
    stored = _stored(needed, constant, outputs, set(guards.values()) | (careful & guards.keys()) | rare)
    limits = _limits(needed, held)
    order = _ordered(stored, guards, limits)
    hoisted = [n for n in order if n in constant]
    masks = set(guards.values())
    order, finished = _finished_at_once([n for n in order if n not in constant], stored, guards, masks | outputs)
    order, summed = _summed_at_once(order, stored, guards, masks | finished.keys() | set(finished.values()))
    plan = Plan(moving, [*hoisted, *order], set(hoisted), guards)
    _place(plan, lowered, leaves, outputs)
    # Written too early, a result would be in the way of what is still read in its loop.
    for total, part in summed.items():
        if plan.buffers[total] not in {plan.buffers[a] for a in inline(part, stored)} | {plan.buffers[part]}:
            plan.summed[total] = part
    for total, result in finished.items():
        if plan.buffers[result] not in {plan.buffers[a] for a in inline(total, stored)}:
            plan.finished[total] = result
    plan.limits, plan.needed, plan.held = limits, needed, held
    return plan


def _seldom(needed: list[Node]) -> set[Node]:
    """Choices of rows, of which most steps choose none."""
    found = set()
    for node in needed:
        if node.kind == "map" and node.data == "choose" and not node.uniform and is_reshape(node.args[2]):
            mask = base(node.args[0])
            if mask.kind == "map" and not mask.uniform and ROW * mask.size <= node.size:
                found.add(node)
    return found


def _limits(needed: list[Node], held: dict[Node, set[Node]]) -> dict[Node, Node]:
    """Ranks of a single row that are compared with one number, and else read where they are less, with that number."""
    users = _users(needed)
    limits: dict[Node, Node] = {}
    for rank in (n for n in needed if n.kind == "rank" and not n.uniform and n.size == n.shape[-1]):
        readers = list(_beyond_names(rank, users))
        less = {user for user, i in readers if user.kind == "map" and user.data == "lt" and i == 0}
        numbers = {base(user.args[1]) for user in less}
        below = [user for user, _ in readers if user not in less]
        known = all(less & set().union(*map(_implied, held.get(user, ()))) for user in below)
        if len(numbers) == 1 and known and next(iter(numbers)).size == 1 and next(iter(numbers)).dtype == torch.int32:
            limits[rank] = numbers.pop()
    return limits


def _beyond_names(node: Node, users: dict[Node, list[tuple[Node, int]]]) -> Iterator[tuple[Node, int]]:
    """Who reads a node's numbers, be it through views or in another dtype, and as which argument."""
    for user, i in users[node]:
        if user.kind == "view" or (user.kind == "map" and user.data in ("to", "same")):
            yield from _beyond_names(user, users)
        else:
            yield user, i


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


def _held(needed: list[Node], constant: set[Node], outputs: set[Node]) -> dict[Node, set[Node]]:
    """Nodes read only where masks hold, and these masks."""
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
    return held


def _guards(held: dict[Node, set[Node]]) -> dict[Node, Node]:
    """Nodes read only under a mask of fewer elements than what it saves."""
    guards: dict[Node, Node] = {}
    for node, masks in held.items():
        # Of masks that are worked out in every step, the one that says most.
        if free := masks - held.keys():
            guards[node] = max(free, key=lambda mask: mask.number)
    saved: dict[Node, int] = {}
    for node, mask in guards.items():
        work = node.size * node.shape[-1] if node.kind == "rank" else node.size
        saved[mask] = saved.get(mask, 0) + work * (node.kind in ("map", "reduce", "gather", "rank"))
    return {node: mask for node, mask in guards.items() if saved[mask] >= ROW * mask.size}


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
    loop_of: dict[Node, Node] = {}
    for node in reversed(needed):
        times_read = 0
        shared: dict[Node, int] = {}
        for user, _ in users[node]:
            if user in stored:
                read = user.args[0].size if user.kind in ("reduce", "rank", "scan") else max(user.size, node.size)
            else:
                read = evaluations[user]
            # Of whole numbers, which no rounding tells apart, one element that several read in one loop is made once.
            loop = loop_of.get(user) if not node.dtype.is_floating_point and user.kind == "map" else None
            if loop is None:
                times_read += read
            else:
                shared[loop] = max(shared.get(loop, 0), read)
        times_read += sum(shared.values())
        loops = {loop_of.get(user) if user.kind == "map" else None for user, _ in users[node]}
        if node.kind == "map" and len(loops) == 1 and (only := loops.pop()) is not None:
            loop_of[node] = only
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
            if node.kind == "map":
                loop_of[node] = node
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


def inline(node: Node, stored: set[Node]) -> Iterator[Node]:
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


def _ordered(stored: set[Node], guards: dict[Node, Node], limits: dict[Node, Node]) -> list[Node]:
    done: dict[Node, None] = {}
    by_number = sorted(stored, key=lambda n: n.number)
    reading = {n: sorted(inline(n, stored), key=lambda n: n.number) for n in by_number}
    for rank, number in limits.items():
        reading[rank] = [*reading[rank], *([number] if number in stored else inline(number, stored))]

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


def _finished_at_once(
    order: list[Node], stored: set[Node], guards: dict[Node, Node], apart: set[Node]
) -> tuple[list[Node], dict[Node, Node]]:
    """The order with sums of products right before what alone reads them, and for each of these sums what that is.

    A gradient summed over a batch is then never stored: the weights are updated where it is summed.
    """
    order = list(order)
    readers: dict[Node, list[Node]] = {}
    for node in order:
        for a in inline(node, stored):
            readers.setdefault(a, []).append(node)
    finished: dict[Node, Node] = {}
    for total in [n for n in order if n.kind == "reduce" and n.data[0] == "add" and n not in apart | guards.keys()]:
        reading = readers.get(total, [])
        if len(reading) != 1 or reading[0] in finished.values():
            continue
        (result,) = reading
        plain = result.kind == "map" and result.data != "choose" and result not in guards
        alike = (result.shape, result.uniform) == (total.shape, total.uniform)
        if plain and alike and result not in guards.values() and _reads_at(result, result.shape, total, stored):
            order.remove(total)
            order.insert(order.index(result), total)
            finished[total] = result
    return order, finished


def _summed_at_once(
    order: list[Node], stored: set[Node], guards: dict[Node, Node], apart: set[Node]
) -> tuple[list[Node], dict[Node, Node]]:
    """The order with reductions right behind what they read, and for each of these reductions what that is."""
    order = list(order)
    summed: dict[Node, Node] = {}
    for total in [n for n in order if n.kind == "reduce" and n.data[0] not in ("argmin", "argmax")]:
        reading = [a for a in inline(total, stored) if a in stored]
        places = [order.index(a) for a in reading if a in order]
        if total in guards or total in apart or not places:
            continue
        part = order[max(places)]
        plain = part.kind == "map" and part.data != "choose" and part not in guards and part not in apart
        if plain and part not in summed.values() and part.uniform == total.uniform and _reads_once(total, part, stored):
            order.remove(total)
            order.insert(max(places) + 1, total)
            summed[total] = part
    return order, summed


# --- products ---------------------------------------------------------------------------------------------------


def axes_read(plan: Plan, node: Node, index: Sequence[Index], sizes: Sequence[int]) -> set[int]:
    """The axes of loops of these sizes on which the element at an index depends."""
    reads = _reads(node, index, sizes, lambda n: n.kind == "map" and plan.is_stored(n))
    return {axis for read, place in reads if read.kind != "scalar" for i in place for axis in axes_of(i)}


def _reads(
    node: Node, index: Sequence[Index], sizes: Sequence[int], is_read: Callable[[Node], bool]
) -> Iterator[tuple[Node, tuple[Index, ...]]]:
    """What the element at an index is made of: each node that is read through views and maps, with each place, once.

    A chain of maps that use a value twice has a number of paths that doubles with its length, hence the set.
    """
    waiting, seen = [(node, tuple(index))], set()
    while waiting:
        read, place = found = waiting.pop()
        if found in seen:
            continue
        seen.add(found)
        if is_read(read) or read.kind not in ("view", "map"):
            yield found
        elif read.kind == "view":
            waiting.append((read.args[0], tuple(substitute(i, place, sizes) for i in read.data)))
        else:
            waiting += [(a, place) for a in read.args]


def tile_axes(plan: Plan, node: Node) -> tuple[int, int] | None:
    """Of a sum of products: two axes on each of which one factor does not depend, so that an element that is loaded
    serves several sums; ``None`` where there are none."""
    (x,), (_, axes) = node.args, node.data
    kept = len(x.shape) - axes
    if node in plan.summed or x.kind != "map" or x.data != "mul" or plan.is_stored(x):
        return None
    here = [variable(a, x.shape) for a in range(len(x.shape))]
    read = (axes_read(plan, factor, here, x.shape) for factor in x.args)
    rows, columns = (max({*range(kept)} - a, key=lambda a: (x.shape[a] > 1, a), default=None) for a in read)
    if rows is None or columns is None or rows == columns or min(x.shape[rows], x.shape[columns]) == 1:
        return None
    return rows, columns


# --- memory ---------------------------------------------------------------------------------------------------


def _reads_in_place(node: Node, argument: Node, stored: set[Node]) -> bool:
    """Whether ``node`` reads ``argument`` at the very places that it writes, and in no other way."""
    if node.kind in ("scatter", "assemble"):
        whole = node.args[0] is argument and (node.kind == "scatter" or argument.shape == node.shape)
        return whole and all(argument not in (a, *inline(a, stored)) for a in node.args[1:])
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

    def is_allowed(read: Node, place: Sequence[Index]) -> bool:
        if read is argument:
            return linear(place, read.shape) == same
        if read in stored or read.kind in ("leaf", "scalar", "position"):
            return True
        return argument not in inline(read, stored)

    is_read = {argument, *stored}.__contains__
    return all(is_allowed(*found) for a in node.args for found in _reads(a, here, shape, is_read))


def _place(plan: Plan, lowered: Lowered, leaves: list[Node], outputs: set[Node]) -> None:
    stored = set(plan.order)
    last: dict[Node, int] = {}
    reading = [list(inline(node, stored)) for node in plan.order]
    for position, found in enumerate(reading):
        for a in found:
            last[a] = position
    end = len(plan.order)
    ys = lowered.results[len(leaves) :]
    for node in outputs:
        for a in (node, *(() if node in stored else inline(node, stored))):
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
