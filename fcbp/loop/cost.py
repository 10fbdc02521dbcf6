"""The time of a step in lanes and in the compiled scan, from its operations and the sizes of the caches.

Each is a sum over the step's operations: sums of products that fill the registers, at the rate of the processor's
multiply-adds; other elements; and what is read and written, at the rate of the cache that holds it. The rates are of
one core of a processor of 2023 (Zen 4, 3.7 GHz); a faster one is faster in both, so that their ratio says which to
choose.
"""

from __future__ import annotations

import functools
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fcbp.lanes import Lanes
from fcbp.lanes.ir import Leaf, Node, Position, Rank, Reduce, Scalar, View
from fcbp.lanes.plan import Plan, tile_axes
from fcbp.lanes.reads import inline
from fcbp.loop.caches import Caches, caches

__all__ = ["Caches", "caches", "halving_pays", "lanes_seconds", "scan_seconds", "splits_vectors"]

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
SCAN_LOADED = 1.3
"""Bytes that the compiled scan moves for each that is read or written: it loads new arrays before it writes them."""
STEP = 20e-6
"""Seconds that a step of the compiled scan takes, whatever it is."""
FROM_OWN, FROM_SHARED, FROM_MEMORY = 200e9, 90e9, 45e9
"""Bytes a second from a core's own cache, from the one that the cores share, and from memory."""
OVERLAP = 0.7
"""The share of the shorter of computing and loading that the longer hides."""

CLEARLY = 0.85
"""Halves are taken up to this share of the time of full blocks, where these compute for longer than they load."""


@functools.cache
def splits_vectors() -> bool:
    """Tell whether the processor computes a vector of 16 numbers in two turns: Zen 4 does, Intel's do not."""
    with suppress(OSError):
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
        words = dict(re.findall(r"^([^\t\n]+)\t*: (.*)$", about, re.MULTILINE))
        return (words.get("vendor_id"), words.get("cpu family")) == ("AuthenticAMD", "25")
    return False


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
    """Estimate the seconds of a step of so many members in lanes, on one core."""
    return -(-members // draft.width) * _together(*_block_seconds(draft))


def _block_seconds(draft: Lanes) -> tuple[float, float]:
    """Estimate the seconds of a block's step: computing, and loading."""
    work = _work(draft.plan, often=True)
    computing = (work.products * MULTIPLY_ADD + work.elements * ELEMENT) * draft.width / VECTOR
    return computing, work.loaded * draft.width / _rate(draft.block_bytes)


def halving_pays(draft: Lanes, members: int) -> bool:
    """Tell whether so many members are faster with half as many to a block."""
    half = draft.halved
    if half is None:
        return False
    if not splits_vectors():
        return members <= half.width
    computing, loading = _block_seconds(draft)
    own, shared = caches()
    waits = draft.block_bytes > (own if loading > computing else shared // 2)
    return lanes_seconds(half, members) <= (1 if waits else CLEARLY) * lanes_seconds(draft, members)


def scan_seconds(draft: Lanes, members: int) -> float:
    """Estimate the seconds of a step of so many members in the compiled scan, on one core."""
    work = _work(draft.plan, often=False)
    computing = work.products * LIBRARY + work.elements * SCAN_ELEMENT
    loading = SCAN_LOADED * work.loaded / _rate(draft.block_bytes // draft.width * members)
    return STEP + work.results * OPERATION + members * _together(computing, loading)


def _together(computing: float, loading: float) -> float:
    return max(computing, loading) + (1 - OVERLAP) * min(computing, loading)


def _rate(size: int) -> float:
    """Return the bytes a second at which so many bytes load."""
    own, shared = caches()
    return FROM_OWN if size <= own else FROM_SHARED if size <= shared // 2 else FROM_MEMORY


@functools.lru_cache(maxsize=64)  # a scan in pieces asks at each piece
def _work(plan: Plan, often: bool) -> _Work:
    """Count the work of a step.

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
            loaded += 0 if often and plan.is_skipped_mostly(node) else _bytes(plan, node, stored, often)
    return _Work(products, elements, loaded, results)


def _bytes(plan: Plan, node: Node, stored: set[Node], often: bool) -> int:
    """Return the reads and writes of the loop that makes a node, without those that another loop does on the way.

    Args:
        often: leave out what a sum computes itself before it adds it up, as lanes do.
    """
    passed = {total for total, result in plan.epilogues.items() if result is node}
    passed |= {part for total, part in plan.prologues.items() if total is node and often}
    read = sum(a.size * a.dtype.itemsize for a in inline(node, stored) if a not in passed and not a.uniform)
    return read + (0 if node in plan.epilogues else node.size * node.dtype.itemsize)
