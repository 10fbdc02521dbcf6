"""The sizes of the machine's caches."""

from __future__ import annotations

import functools
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["Caches", "caches"]


class Caches(NamedTuple):
    """Sizes in bytes."""

    own: int
    """A core's own cache."""
    shared: int
    """The cores' common one."""


@functools.cache
def caches() -> Caches:
    """Return the machine's caches; 1 and 32 MiB where the system does not tell."""
    sizes = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        with suppress(OSError, ValueError):
            if (index / "type").read_text(encoding="utf-8").strip() != "Instruction":
                size = (index / "size").read_text(encoding="utf-8").strip()
                level = int((index / "level").read_text(encoding="utf-8"))
                sizes[level] = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
    return Caches(sizes.get(2, 1 << 20), sizes.get(3, max(32 << 20, sizes.get(2, 0))))
