"""What the machine allows: the time to move the bytes, and to do the arithmetic, that a step cannot avoid."""

from __future__ import annotations

import itertools
import statistics
import time

import torch


def seconds_per_byte(rounds: int = 9) -> float:
    """Of a triad ``a = b + s * c`` over arrays far larger than the cache: two reads and a write, fused."""
    n = 1 << 25
    a, b, c = (torch.rand(n) for _ in range(3))
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        torch.add(b, c, alpha=0.5, out=a)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) / (3 * 4 * n)


def mlp_step_bytes(sizes: tuple[int, ...]) -> int:
    """Bytes that a step of batch 1 moves where the weights do not fit the cache.

    The forward pass reads every weight, and so does the backward pass; the update reads and writes every one. The
    gradient, an outer product, need not be stored, and CBP's sums of ``|w|`` and its resets fit into these passes.
    """
    weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
    return 4 * 4 * weights


def seconds_per_multiply_add(rounds: int = 9) -> float:
    """Of a library's product of two matrices that fit a core's cache, on one thread."""
    n = 384
    a, b = torch.rand(n, n), torch.rand(n, n)
    times = []
    for _ in range(rounds + 1):
        start = time.process_time()
        for _ in range(20):
            a @ b
        times.append((time.process_time() - start) / 20)
    return min(times[1:]) / n**3
