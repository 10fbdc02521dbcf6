"""``ContinualBackprop`` in Lightning's trainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fcbp.kinds import PyTree
from fcbp.stateful.adapter import ContinualBackprop

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment, unused-ignore]
    except ImportError as error:
        raise ImportError("fcbp.stateful.LightningCallback needs Lightning; expected: pip install lightning") from error

__all__ = ["LightningCallback"]


class LightningCallback(Callback):
    """Continual Backpropagation after every optimiser step of a Lightning trainer.

    Gradient accumulation, mixed precision, clipping and data-parallel strategies need nothing. What is replaced is
    logged as ``cbp/replaced``, the number so far. The state is saved in the trainer's checkpoints.

    Args:
        *example_inputs: inputs of the forward; by default the module's ``example_input_array``.
        model: the part of the Lightning module that is managed, ``lambda module: module.net``; by default all of it.
        log_every: steps from one log to the next; 0 logs nothing.
        **options: of :class:`ContinualBackprop`.

    Raises:
        ValueError: there are no example inputs; see :class:`ContinualBackprop` for what else.
    """

    def __init__(
        self,
        *example_inputs: PyTree,
        model: Callable[[LightningModule], nn.Module] = lambda module: module,
        log_every: int = 50,
        **options: object,
    ):
        self.example_inputs = example_inputs
        self.options: dict[str, Any] = options
        self.model, self.log_every = model, log_every
        self.cbp: ContinualBackprop | None = None
        self._saved: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the units; the model is on its device and its optimisers are made.

        Raises:
            ValueError: neither the callback nor the module has example inputs.
        """
        inputs = self.example_inputs
        if not inputs and "units" not in self.options and "example_kwargs" not in self.options:
            given = pl_module.example_input_array
            if given is None:
                raise ValueError("example_inputs is (); expected some, or the module's example_input_array")
            inputs = given if isinstance(given, tuple) else (given,)
        self.cbp = ContinualBackprop(self.model(pl_module), tuple(trainer.optimizers), *inputs, **self.options)
        if self._saved:
            self.cbp.load_state_dict(self._saved)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: PyTree, batch: PyTree, batch_idx: int
    ) -> None:
        """Take a step where an optimiser has, or where the scaler skipped its."""
        if self.cbp is None or not self.cbp.is_due:
            return
        self.cbp.step()
        if self.log_every and self.cbp.steps % self.log_every == 0:
            pl_module.log("cbp/replaced", float(sum(count.sum() for count in self.cbp.replaced.values())))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the hooks off."""
        if self.cbp is not None:
            self.cbp.remove()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of :class:`ContinualBackprop`."""
        return self._saved if self.cbp is None else self.cbp.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's state, when the units are found if they are not yet."""
        self._saved = state_dict
        if self.cbp is not None and state_dict:
            self.cbp.load_state_dict(state_dict)
