"""Decides which nodes a program stores, in which order it computes them, and where they lie.

- What depends on nothing that a step changes is *hoisted*: computed once, before the time loop.
- What is computed more than once otherwise is stored (:mod:`fcbp.lanes.storage`).
- What is only read where a mask holds is skipped while no lane has the mask (:mod:`fcbp.lanes.masks`).
- A choice of few rows is written over its other rows, for the rows of which a lane has the mask.
- Reductions share a loop with the node before or behind them (:mod:`fcbp.lanes.fusion`).
- A node takes the memory of an argument that nobody reads after it (:mod:`fcbp.lanes.buffers`).
"""

from __future__ import annotations

from fcbp.lanes.buffers import assign_buffers, carry_leaves
from fcbp.lanes.fusion import with_epilogues, with_prologues
from fcbp.lanes.ir import Gather, Leaf, Node, Scatter, base
from fcbp.lanes.lower import Lowered
from fcbp.lanes.masks import guards_of, keep_checks_valid, predicates_of, rank_limits, row_updates
from fcbp.lanes.plan import Plan
from fcbp.lanes.reads import dependencies, inline, users_of
from fcbp.lanes.storage import stored_nodes

__all__ = ["make_plan"]


def make_plan(lowered: Lowered) -> Plan:
    """Return the plan of a step's program."""
    updates = row_updates(dependencies(lowered.results))
    while True:
        plan = _planned(lowered, updates)
        # A choice that cannot be written over its other elements is better computed in one loop with them.
        elsewhere = {node for node in updates if plan.overwrites.get(node) is not base(node.args[2])}
        if not elsewhere:
            return plan
        updates -= elsewhere


def _planned(lowered: Lowered, updates: set[Node]) -> Plan:
    """Return the plan in which the choices in ``updates`` are loops of their own."""
    leaves, results = carry_leaves(lowered), lowered.results
    moving = [i for i, leaf in enumerate(leaves) if results[i] is not leaf]
    needed = dependencies(results)
    users = users_of(needed)
    constant = _constant(needed, {leaf for i, leaf in enumerate(leaves) if i not in moving})
    outputs = {results[i] for i in moving} | set(results[len(leaves) :])

    predicates = predicates_of(needed, constant, outputs, users)
    guards = guards_of(predicates)
    checked = {n for n in needed if isinstance(n, (Gather, Scatter)) or n in lowered.checks}
    keep_checks_valid(checked, guards)
    updated = (updates | {base(node.args[2]) for node in updates}) - constant
    required = set(guards.values()) | (checked & guards.keys()) | updated
    stored = stored_nodes(needed, constant, outputs, required, users)
    limits = rank_limits(needed, predicates, users)

    order = _ordered(stored, guards, limits)
    hoisted = [n for n in order if n in constant]
    masks = set(guards.values())
    order, epilogues = with_epilogues([n for n in order if n not in constant], stored, guards, masks | outputs)
    order, prologues = with_prologues(order, stored, guards, masks | epilogues.keys() | set(epilogues.values()))
    order = [*hoisted, *order]
    buffers, overwrites = assign_buffers(order, set(hoisted), guards, moving, lowered)
    return Plan(
        moving=moving,
        needed=needed,
        order=order,
        hoisted=set(hoisted),
        predicates=predicates,
        guards=guards,
        rank_limits=limits,
        buffers=buffers,
        overwrites=overwrites,
        # In one loop with another node, a node must not be written over elements that the loop still reads.
        prologues={
            total: part
            for total, part in prologues.items()
            if buffers[total] not in {buffers[a] for a in inline(part, stored)} | {buffers[part]}
        },
        epilogues={
            total: result
            for total, result in epilogues.items()
            if buffers[result] not in {buffers[a] for a in inline(total, stored)}
        },
    )


def _constant(needed: list[Node], fixed: set[Node]) -> set[Node]:
    """Return the nodes that no step changes; ``fixed`` are the leaves of the carry among them."""
    constant: set[Node] = set()
    for node in needed:
        if isinstance(node, Leaf):
            if node in fixed or node.role == "constant":
                constant.add(node)
        elif all(a in constant for a in node.args):
            constant.add(node)
    return constant


def _ordered(stored: set[Node], guards: dict[Node, Node], limits: dict[Node, Node]) -> list[Node]:
    """Return the stored nodes, each behind the nodes that it reads and behind its mask."""
    by_number = sorted(stored, key=lambda n: n.number)
    reading = {n: sorted(inline(n, stored), key=lambda n: n.number) for n in by_number}
    for rank, number in limits.items():
        reading[rank] = [*reading[rank], *([number] if number in stored else inline(number, stored))]
    done: dict[Node, None] = {}
    waiting = [(node, False) for node in reversed(by_number)]
    while waiting:
        node, ready = waiting.pop()
        if node in done or isinstance(node, Leaf):
            continue
        if ready:
            done[node] = None
            continue
        before = [*reading[node], *([guards[node]] if node in guards else [])]
        waiting += [(node, True), *((a, False) for a in reversed(before))]
    return list(done)
