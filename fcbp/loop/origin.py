"""The origin of a run's numbers: a backend, a processor's instructions, and a compiler or a library."""

from __future__ import annotations

import torch

from fcbp import lanes
from fcbp.loop.scanning import BackendName

__all__ = ["made_by"]


def made_by(backend: BackendName, device: torch.device) -> str:
    """Name the origin of a run's bits, such as ``"lanes, AVX-512, g++"`` or ``"eager, AVX2, torch 2.13.0"``.

    Two runs in lanes have the same bits whatever the rest says; two in another backend may differ in last places where
    the rest differs.
    """
    if backend == "lanes":
        return f"lanes, {lanes.made_by(device)}"
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{backend}, {kind}, torch {torch.__version__}"
