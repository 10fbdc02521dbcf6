"""One replacement for all processes of a data-parallel run: activations averaged over ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fcbp.stateful.readings import laid
from fcbp.units import UnitGroup

__all__ = ["Ranks", "data_parallel"]


def data_parallel(model: nn.Module, group: object) -> tuple[nn.Module, Any]:
    """Return the module inside of a compiled or data-parallel one, and the processes that train it; ``None`` for one
    alone.

    Raises:
        ValueError: the model's parameters are sharded, or ``group`` is no process group.
    """
    if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
        raise ValueError(f"process_group is {group!r}; expected a process group of torch.distributed, or None")
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            group = model.process_group if group is None else group
            model = model.module
        elif isinstance(model, nn.DataParallel):
            raise ValueError(
                "model is a DataParallel, whose forwards run on copies; expected a DistributedDataParallel"
            )
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            break
    if any(kind.__name__ in ("FSDPModule", "FullyShardedDataParallel") for kind in type(model).__mro__):
        raise _sharded("model")
    for name, p in model.named_parameters():
        if type(p.data).__name__ == "DTensor" or hasattr(p, "_local_tensor"):
            raise _sharded(name)
    if group is None and dist.is_available() and dist.is_initialized():
        group = dist.group.WORLD
    return model, None if group is None or dist.get_world_size(group) == 1 else group


def _sharded(name: str) -> ValueError:
    return ValueError(
        f"{name} is sharded (FSDP, DTensor): a unit's weights lie on several processes, where they cannot be reset as "
        "one. Expected whole parameters: wrap the model in DistributedDataParallel"
    )


class Ranks:
    """The processes that train one model.

    Args:
        group: their process group; ``None`` for a process alone.
    """

    def __init__(self, group: dist.ProcessGroup | None):
        self.group = group

    def __bool__(self) -> bool:
        return self.group is not None

    def agree(self, what: str, value: object) -> None:
        """Check that all ranks have the same ``value``.

        Raises:
            ValueError: they have not.
        """
        if self.group is None:
            return
        own = hashlib.sha256(repr(value).encode()).hexdigest()
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, own, group=self.group)
        if len(set(found)) > 1:
            ranks = [i for i, other in enumerate(found) if other != found[0]]
            raise ValueError(
                f"ranks disagree: {what} of rank 0 is not that of rank {', '.join(map(str, ranks))}; expected the same "
                "on every rank"
            )

    def average(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return features of two samples each, averaged over ranks sample by sample."""
        if self.group is None or not features:
            return dict(features)
        flat = torch.cat([h.flatten() for h in features.values()])
        dist.all_reduce(flat, group=self.group)
        flat = flat / dist.get_world_size(self.group)
        parts = flat.split([h.numel() for h in features.values()])
        return {name: part.reshape(h.shape) for (name, h), part in zip(features.items(), parts, strict=True)}

    def gather(self, features: Mapping[str, Tensor], units: tuple[UnitGroup, ...]) -> dict[str, Tensor]:
        """Return features of all ranks' samples."""
        if self.group is None:
            return dict(features)
        return {group.name: self._gather(features[group.name], group.activation_axis) for group in units}

    def _gather(self, h: Tensor, axis: int) -> Tensor:
        world = dist.get_world_size(self.group)
        rows = h.movedim(axis, -1).reshape(-1, h.shape[axis]).contiguous()
        counts = [torch.zeros(1, dtype=torch.int64, device=h.device) for _ in range(world)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=h.device), group=self.group)
        sizes = [int(count) for count in counts]
        padded = torch.cat([rows, rows.new_zeros(max(sizes) - len(rows), rows.shape[1])])
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded, group=self.group)
        return laid(torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)]), axis)
