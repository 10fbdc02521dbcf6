"""The place where a sweep runs: this process, worker processes, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from fcbp.checks import check_device
from fcbp.names import check_option

__all__ = ["RETRIES", "Places", "check_whole", "choose", "cores"]

RETRIES = 3
"""Times that a chunk goes on after its process died, and that a process starts anew after it died at its start."""
MOST = {None: 1024, "ray": 65_536}
"""Devices at most, by backend: more processes than a machine can start, more tasks at a time than a cluster runs."""


Cluster = Literal["ray"]
"""Runs members as tasks of a cluster."""


@dataclass(frozen=True)
class Places:
    """The devices of a sweep."""

    devices: tuple[str, ...]
    """One device for each chunk that runs at a time."""
    backend: Cluster | None
    address: str | None
    threads: int
    """Threads of a process on the CPU."""
    elastic: bool = False
    """Whether a cluster that runs already is to be filled, however many of these devices it has."""


def choose(
    device: torch.device | str | None,
    devices: str | int | Sequence[str] | None,
    backend: Cluster | None,
    address: str | None,
) -> Places:
    """Return the places that :func:`fcbp.sweep`'s arguments name.

    Raises:
        ValueError: an argument is unknown or out of range, or two contradict each other.
    """
    if backend is not None:
        check_option("backend", backend, Cluster)
    if address is not None and backend is None:
        raise ValueError(f"address is {address!r} without a backend; expected backend='ray'")
    if device is not None and devices is not None:
        raise ValueError(f"device is {str(device)!r} and devices {devices!r}; expected one of them")
    threads = torch.get_num_threads()
    one = "cpu" if device is None else str(device)
    elastic = backend is not None and devices is None
    if devices is None:
        chosen: tuple[str, ...] = ("cpu",) * cores() if elastic and device is None else (one,)
    elif devices == "all":
        gpus = torch.cuda.device_count()
        chosen = tuple(f"cuda:{i}" for i in range(gpus)) or ("cpu",) * cores()
    elif isinstance(devices, int):
        check_whole("devices", devices, MOST[backend])
        chosen = ("cpu",) * devices
    elif isinstance(devices, str):
        chosen = (devices,)
    else:
        chosen = tuple(map(str, devices))
    if not chosen:
        raise ValueError(f"devices is {devices!r}; expected at least one")
    if len(chosen) > MOST[backend]:
        raise ValueError(f"devices has {len(chosen):,} names; expected at most {MOST[backend]:,}")
    for name in {*chosen}:
        check_device("device" if devices is None else "devices", name, elsewhere=backend is not None)
    if address is not None:
        threads = 1  # the nodes' cores are another machine's
    elif len(chosen) > 1 or backend:
        threads = max(1, cores() // len(chosen))
    return Places(chosen, backend, address, threads, elastic)


def check_whole(name: str, value: object, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        limit = "" if most is None else f" and at most {most:,}"
        raise ValueError(f"{name} is {value!r}; expected a whole number, 1 or more{limit}")


def check_number(name: str, value: Any, low: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= low:
        raise ValueError(f"{name} is {value!r}; expected a number, {low} or more")


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
