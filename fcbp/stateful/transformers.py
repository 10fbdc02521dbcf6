"""``ContinualBackprop`` in Hugging Face's trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcbp.stateful.adapter import ContinualBackprop

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:
    raise ImportError(
        "fcbp.stateful.TransformersCallback needs transformers; expected: pip install 'transformers[torch]'"
    ) from error

__all__ = ["TransformersCallback"]

FILE = "continual_backprop.pt"
"""Name of the file beside the model in every checkpoint."""


class TransformersCallback(TrainerCallback):
    """Continual Backpropagation after every optimiser step of Hugging Face's ``Trainer``.

    Gradient accumulation, mixed precision and data-parallel training need nothing. The state is saved in every
    checkpoint, and taken up where training goes on from one.

    Args:
        example: the keyword arguments of the model's forward, such as a batch of the collator.
        **options: of :class:`ContinualBackprop`.

    Raises:
        ValueError: see :class:`ContinualBackprop`.
    """

    def __init__(self, example: Mapping[str, Any] | None = None, **options: object):
        self.example = example
        self.options: dict[str, Any] = options
        self.cbp: ContinualBackprop | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **_: object,
    ) -> None:
        """Find the units; the model is on its device and the optimiser is made."""
        assert model is not None  # the trainer gives both
        assert optimizer is not None
        device = next(model.parameters()).device
        example = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in (self.example or {}).items()}
        self.cbp = ContinualBackprop(model, optimizer, example_kwargs=example, **self.options)
        saved = Path(str(args.output_dir), f"checkpoint-{state.global_step}", FILE)
        if state.global_step and saved.exists():
            self.cbp.load_state_dict(torch.load(saved, map_location=device, weights_only=True))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Take a step after the optimiser's."""
        if self.cbp is not None and self.cbp.is_due:
            self.cbp.step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Save the state beside the model."""
        if self.cbp is not None and state.is_world_process_zero:
            folder = Path(str(args.output_dir), f"checkpoint-{state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(self.cbp.state_dict(), folder / FILE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Take the hooks off."""
        if self.cbp is not None:
            self.cbp.remove()
