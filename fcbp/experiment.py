"""Experiments as data: a stream, a network, an optimiser, a method and their settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fcbp import initializers, learner, methods, metrics, nets, optim, streams, utility
from fcbp.cbp import Hyperparams
from fcbp.names import lookup, unknown
from fcbp.units import find_units, forward_with_features

__all__ = ["EXPERIMENTS", "Experiment", "Program"]

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {"sgd": optim.sgd, "adam": optim.adam, "adamw": optim.adamw}
METHODS = ("cbp", "backprop")
BOUNDS = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}
ACTIVATIONS = tuple(initializers.GAINS)

# What may be vmapped; the other settings change the program.
NUMBERS = ("step_size", "replacement_rate", "maturity_threshold", "decay_rate")


class Program(NamedTuple):
    """What an experiment runs, as pure functions for one member."""

    stream: streams.Stream
    learner: learner.Learner
    probe: Any
    """``probe(learner_state, (inputs, targets)) -> dict`` of scalar measurements."""
    group_sizes: tuple[int, ...]


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Experiment:
    """One learner on one stream. Any field can be swept; ``NUMBERS`` side by side in one compiled program.

    The defaults are those of the slowly-changing regression problem of Dohare et al. (Nature 2024).
    """

    seed: int = _setting(
        0, "draws the target, the examples, the initial weights and every reset; settings with one seed share them"
    )
    stream: str = _setting("bit-flipping", "the problem")
    flip_period: int = _setting(10_000, "examples between two flips")
    redraw_all: bool = _setting(
        False, "redraw all flipping bits at once, as the original's default configuration, where the paper flips one"
    )
    hidden: tuple[int, ...] = _setting((5,), "units of each hidden layer")
    activation: str = _setting("relu", "activation of the hidden units")
    loss_function: str = _setting("mse", "what the learner minimises: mse or cross_entropy")
    optimizer: str = _setting("sgd", "sgd, adam or adamw")
    momentum: float = _setting(0.0, "momentum of sgd")
    weight_decay: float = _setting(0.0, "weight decay of the optimiser")
    step_size: float = _setting(0.01, "step size of the optimiser")
    method: str = _setting("cbp", "cbp or backprop")
    replacement_rate: float = _setting(
        1e-4, "fraction of the eligible units replaced per step; 0 is plain backpropagation"
    )
    maturity_threshold: float = _setting(100, "steps a new unit is safe for")
    decay_rate: float = _setting(0.99, "decay of the running means of utility and activation")
    measure: str = _setting("adaptable_contribution", "utility measure")
    initializer: str = _setting("kaiming_uniform", "how weights are drawn, at the start and after a replacement")
    transfer_bias: bool = _setting(False, "add what a replaced unit contributed on average to the next layer's biases")
    rounding: str = _setting("accumulate", "how fractional replacements are rounded: accumulate or stochastic")
    rate_counts: str = _setting("eligible", "what the rate multiplies: eligible or all")

    def check(self) -> None:
        """Check every setting.

        Raises:
            ValueError: a setting is unknown or out of range; the message names it, its value and what was expected.
        """
        for name, names in {
            "stream": STREAMS,
            "activation": ACTIVATIONS,
            "loss_function": learner.LOSSES,
            "optimizer": OPTIMIZERS,
            "method": METHODS,
            "measure": (*utility.MEASURES, "random"),
            "initializer": initializers.INITIALIZERS,
            "rounding": ("accumulate", "stochastic"),
            "rate_counts": ("eligible", "all"),
        }.items():
            if getattr(self, name) not in names:
                raise unknown(name, getattr(self, name), names)
        limits = {
            "step_size": (0, math.inf),
            "replacement_rate": (0, 1),
            "maturity_threshold": (0, math.inf),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not _is_number(value) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}; expected a number in [{low}, {high}]")
        if not _is_number(self.decay_rate) or not 0 <= self.decay_rate < 1:
            raise ValueError(f"decay_rate is {self.decay_rate!r}; expected a number in [0, 1)")
        for name in ("seed", "flip_period"):
            value = getattr(self, name)
            low = int(name == "flip_period")
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 1 << 63:
                raise ValueError(f"{name} is {value!r}; expected a whole number, {low} or more and below 2^63")
        for name in ("redraw_all", "transfer_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected True or False")
        hidden = self.hidden
        if not isinstance(hidden, tuple) or not hidden or not all(isinstance(n, int) and n > 0 for n in hidden):
            raise ValueError(
                f"hidden is {hidden!r}; expected a tuple with a positive number of units for each layer, such as (5,)"
            )

    def program(self, capacity: int | None = None, device: torch.device | str | None = None) -> Program:
        """The experiment's functions; the settings in ``NUMBERS`` and the seed come later, as arguments.

        Args:
            capacity: the most units that any member replaces per group and step.
            device: where the parameters are drawn; by default the CPU.
        """
        stream = STREAMS[self.stream](self)
        _, (inputs, _) = stream.sample(stream.init(torch.tensor(0)), 1)
        model = nets.mlp(inputs.shape[-1], self.hidden, 1, activation=self.activation)
        units = find_units(model, inputs[0])
        model = model.to(device)
        draw = initializers.get(self.initializer, self.activation)
        decay = {"weight_decay": self.weight_decay}
        momentum = {"momentum": self.momentum} if self.optimizer == "sgd" else {}
        cbp = methods.cbp(
            self.measure,
            initializer=draw,
            transfer_bias=self.transfer_bias,
            rounding=self.rounding,
            rate_counts=self.rate_counts,
            capacity=capacity,
        )
        built = learner.make_learner(
            model,
            units,
            loss=self.loss_function,
            optimizer=OPTIMIZERS[self.optimizer](**momentum, **decay),
            method=cbp if self.method == "cbp" else methods.backprop(),
            draw=lambda key: learner.draw_params(
                model, key, initializer=self.initializer, nonlinearity=self.activation
            ),
        )
        forward = forward_with_features(model, units)
        bounds = BOUNDS.get(self.activation)

        def probe(state: learner.LearnerState, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            inputs = batch[0].flatten(0, 1)
            _, features, _ = forward(state.params, state.buffers, inputs)
            layers = list(features.values())
            inactive = [metrics.dead_units(h) for h in layers]
            if bounds is not None:
                inactive = [d | metrics.saturated_units(h, *bounds) for d, h in zip(inactive, layers, strict=True)]
            return {
                "inactive_units": torch.cat(inactive).to(torch.float32).mean(),
                "weight_magnitude": metrics.weight_magnitude(state.params),
                "effective_rank": torch.stack([metrics.effective_rank(h) for h in layers]).mean(),
                "stable_rank": torch.stack([metrics.stable_rank(h) for h in layers]).mean(),
            }

        return Program(stream, built, probe, tuple(group.size for group in units))

    def describe(self) -> str:
        """The problem in a sentence."""
        document = str(getattr(streams, self.stream.replace("-", "_")).__doc__)
        return document.splitlines()[0].rstrip(".")

    def to_dict(self) -> dict[str, Any]:
        """The settings, as plain data."""
        return dataclasses.asdict(self)


def hyperparams(numbers: dict[str, Tensor]) -> learner.LearnerHyperparams:
    """The learner's hyperparameters from one tensor for each of ``NUMBERS``."""
    method = Hyperparams(numbers["replacement_rate"], numbers["maturity_threshold"], numbers["decay_rate"])
    return learner.LearnerHyperparams(numbers["step_size"], method)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


STREAMS = {
    "bit-flipping": lambda e: streams.bit_flipping(flip_period=e.flip_period, redraw_all=e.redraw_all),
}

EXPERIMENTS: dict[str, Experiment] = {"bit-flipping": Experiment()}
"""Named experiments; ``fcbp list`` prints them."""


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is none.
    """
    return lookup("experiment", name, EXPERIMENTS)
