"""A method of this library beside any ``nn.Module`` and any optimiser of torch, in anyone's loop.

    >>> import torch, fcbp
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> cbp = fcbp.stateful.ContinualBackprop(model, optimizer, torch.zeros(1, 4), replacement_rate=1e-3)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(16, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     replaced = cbp.step()
    >>> cbp.summary().groups["0"].age.median
    3.0

Everything else here is pure; this is the one place that writes into what it is given. ``LightningCallback`` and
``TransformersCallback`` do the same for Lightning's trainer and Hugging Face's.
"""

from typing import TYPE_CHECKING, Any

from fcbp.stateful.adapter import ContinualBackprop
from fcbp.stateful.summary import GroupSummary, Spread, Summary

if TYPE_CHECKING:
    from fcbp.stateful.lightning import LightningCallback
    from fcbp.stateful.transformers import TransformersCallback

__all__ = [
    "ContinualBackprop",
    "GroupSummary",
    "LightningCallback",
    "Spread",
    "Summary",
    "TransformersCallback",
]


def __getattr__(name: str) -> Any:
    # Lightning and transformers take seconds to import, and need not be there.
    if name == "LightningCallback":
        from fcbp.stateful.lightning import LightningCallback

        return LightningCallback
    if name == "TransformersCallback":
        from fcbp.stateful.transformers import TransformersCallback

        return TransformersCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
