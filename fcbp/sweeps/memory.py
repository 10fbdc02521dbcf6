"""The number of members that fit into a device's memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fcbp.sweeps.advance import PIECE_BYTES, Carry, size_of
from fcbp.sweeps.population import Population

__all__ = ["available", "members_that_fit"]

Member = tuple[int, Mapping[str, float]]
COPIES = 8
"""States that live at once on the CPU: the old and the new one, gradients, activations and what lies between."""
USED = 0.8
"""The part of the free memory that a sweep takes."""
TRIAL = 4


def members_that_fit(side_by_side: Population, members: Sequence[Member], device: str, workers: int = 1) -> int:
    """Return the most members side by side.

    On CUDA a few members are run, and what more of them take is measured. On the CPU, where memory is seldom short,
    it is reckoned from the size of their states.

    Args:
        side_by_side: the program.
        members: seed and numbers of each.
        device: the device that they will run on.
        workers: processes that share the memory.
    """
    if torch.device(device).type == "cuda":
        few, more = (_peak(side_by_side, members, count, device) for count in (TRIAL, 2 * TRIAL))
        per_member = max(1, (more - few) // TRIAL)
        fixed = max(0, few - TRIAL * per_member)
    else:
        carry = _start(side_by_side, members[:1])
        per_member = COPIES * (size_of(carry.members) + size_of(carry.settings)) + size_of(carry.problem)
        fixed = 2 * PIECE_BYTES
    return max(1, int((USED * available(device) / workers - fixed) // per_member))


def _start(side_by_side: Population, members: Sequence[Member]) -> Carry:
    seeds, numbers = zip(*members, strict=True)
    return side_by_side.start(seeds, numbers, len(members), len(members))


def _peak(side_by_side: Population, members: Sequence[Member], count: int, device: str) -> int:
    """Measure the most bytes that some members take."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    carry = _start(side_by_side, [*members, *[members[-1]] * count][:count])
    carry, _ = side_by_side.advance(carry, side_by_side.piece(carry))
    side_by_side.probe(carry)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def available(device: str) -> int:
    """Return the bytes that are free on a device, or in the machine and in this process's control group."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserved
    limits = [_meminfo()]
    group = Path("/sys/fs/cgroup")
    for most, now in (
        (group / "memory.max", group / "memory.current"),
        (group / "memory/memory.limit_in_bytes", group / "memory/memory.usage_in_bytes"),
    ):
        if most.is_file() and now.is_file() and most.read_text(encoding="utf-8").strip() != "max":
            limits.append(int(most.read_text(encoding="utf-8")) - int(now.read_text(encoding="utf-8")))
    return max(0, min(limits))


def _meminfo() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
