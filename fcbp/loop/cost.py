"""The time of a step in lanes and in the compiled scan, from its operations and the sizes of the caches.

Each is a sum over the step's operations: sums of products that fill the registers, at the rate of the processor's
multiply-adds; other elements; and what is read and written, at the rate of the cache that holds it. The rates are of
one core of a processor of 2023 (Zen 4, 3.7 GHz); a faster one is faster in both, so that their ratio says which to
choose.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fcbp.lanes import Lanes
from fcbp.lanes.ir import Leaf, Node, Position, Rank, Reduce, Scalar, View
from fcbp.lanes.plan import Plan, tile_axes
from fcbp.lanes.reads import inline
from fcbp.loop.caches import Caches, caches

__all__ = ["Caches", "caches", "lanes_seconds", "scan_seconds"]

VECTOR = 16
"""Numbers of a vector for which the rates hold."""
MULTIPLY_ADD = 0.33e-9
"""Seconds of a vector's multiply-add where sums of products fill the registers."""
ELEMENT = 0.15e-9
"""Seconds of a vector's other elements."""
LIBRARY = 0.03e-9
"""Seconds of a multiply-add in a library's product of matrices of a learner's size; a vector does ``VECTOR``."""
SCAN_ELEMENT = 0.02e-9
"""Seconds of one element of the compiled scan, of which each operation is a part of some loop."""
OPERATION = 1.5e-6
"""Seconds that the compiled scan takes for each stored result, whatever its size: most are loops of their own."""
STEP = 20e-6
"""Seconds that a step of the compiled scan takes, whatever it is."""
FROM_OWN, FROM_SHARED, FROM_MEMORY = 200e9, 90e9, 45e9
"""Bytes a second from a core's own cache, from the one that the cores share, and from memory."""
OVERLAP = 0.7
"""The share of the shorter of computing and loading that the longer hides."""


class _Work(NamedTuple):
    """The work of one member's step."""

    products: int
    """Multiply-adds of sums of products that fill the registers."""
    elements: int
    """Other elements that are computed."""
    loaded: int
    """Bytes that are read and written."""
    results: int
    """Results that are stored."""


def lanes_seconds(draft: Lanes, members: int) -> float:
    """A step of so many members in lanes, on one core."""
    work = _work(draft.plan, often=True)
    rate = draft.width / VECTOR
    computing = (work.products * MULTIPLY_ADD + work.elements * ELEMENT) * rate
    loading = work.loaded * draft.width / _rate(draft.block_bytes)
    blocks = -(-members // draft.width)
    return blocks * _together(computing, loading)


def scan_seconds(draft: Lanes, members: int) -> float:
    """A step of so many members in the compiled scan, on one core."""
    work = _work(draft.plan, often=False)
    computing = work.products * LIBRARY + work.elements * SCAN_ELEMENT
    loading = work.loaded / _rate(draft.block_bytes // draft.width * members)
    return STEP + work.results * OPERATION + members * _together(computing, loading)


def _together(computing: float, loading: float) -> float:
    return max(computing, loading) + (1 - OVERLAP) * min(computing, loading)


def _rate(size: int) -> float:
    """Bytes a second from where so many lie."""
    own, shared = caches()
    return FROM_OWN if size <= own else FROM_SHARED if size <= shared // 2 else FROM_MEMORY


def _work(plan: Plan, often: bool) -> _Work:
    """The work of a step.

    Args:
        often: leave out what is computed in few steps, as lanes do.
    """
    products = elements = loaded = results = 0
    stored = set(plan.order)
    summed = {node.args[0] for node in plan.needed if isinstance(node, Reduce)}
    for node in plan.needed:
        if node.uniform or node in plan.hoisted or (often and node in plan.predicates):
            continue
        if isinstance(node, Reduce):
            size = node.args[0].size
            products, elements = (products + size, elements) if tile_axes(plan, node) else (products, elements + size)
        elif isinstance(node, Rank):
            elements += node.size * (node.shape[-1] if often else math.ceil(math.log2(node.shape[-1] + 1)))
        elif not isinstance(node, (Leaf, Scalar, Position, View)) and node not in summed:
            elements += node.size
        if node in stored:
            results += 1
            loaded += 0 if often and plan.is_skipped_mostly(node) else _bytes(plan, node, stored)
    return _Work(products, elements, loaded, results)


def _bytes(plan: Plan, node: Node, stored: set[Node]) -> int:
    """What the loop that makes a node reads and writes, but for what another loop does on the way."""
    passed = {total for total, result in plan.epilogues.items() if result is node}
    passed |= {part for total, part in plan.prologues.items() if total is node}
    read = sum(a.size * a.dtype.itemsize for a in inline(node, stored) if a not in passed and not a.uniform)
    return read + (0 if node in plan.epilogues else node.size * node.dtype.itemsize)
