"""Two problems on scikit-learn's digits, which need no download: permuted pixels and random labels.

A learner learns from all 1,797 images; the measurement is the online accuracy, before each update.
"""

from __future__ import annotations

import functools
from typing import Any

from fcbp import data, streams
from fcbp.bench.suite import Problem, Suite
from fcbp.experiment import Experiment, StreamKind

__all__ = ["DIGITS", "permuted_inputs", "random_labels"]

Setting = dict[str, Any]


@functools.lru_cache(maxsize=1)
def _digits() -> data.Dataset:
    return data.load("digits").pooled()


def _permuted_inputs(
    *, batch_size: int = 16, task_length: int | None = None, task_signal: bool = False
) -> streams.Stream:
    """Return digits whose pixels have a new order in every task."""
    return streams.permuted_inputs(_digits(), batch_size=batch_size, task_length=task_length, task_signal=task_signal)


def _random_labels(
    *,
    batch_size: int = 16,
    subset: int = 240,
    epochs: int | None = 100,
    task_length: int | None = None,
    task_signal: bool = False,
) -> streams.Stream:
    """Return digits whose labels are drawn anew in every task."""
    lengths = {"epochs": epochs} if task_length is None else {"task_length": task_length}
    return streams.random_labels(_digits(), batch_size=batch_size, subset=subset, task_signal=task_signal, **lengths)


permuted_inputs = StreamKind(_permuted_inputs, task_signal="task_signal")
"""A pass over all images, 112 batches of 16, is a task."""
random_labels = StreamKind(_random_labels, task_signal="task_signal")
"""100 passes over 240 images, 1,500 batches of 16, are a task."""


STEP_SIZES = (1e-2, 3e-3, 1e-3)


def _settings() -> tuple[Setting, ...]:
    """Return six settings of each method: three step sizes by two main numbers; of a method without one, six step
    sizes."""
    rows: list[Setting] = [
        {"method": method, "step_size": size} for method in ("fresh", "bp") for size in (3e-2, *STEP_SIZES, 3e-4, 1e-4)
    ]
    grids: dict[str, tuple[str, tuple[float, float], Setting]] = {
        "cbp": ("replacement_rate", (1e-3, 1e-4), {}),
        "redo": ("threshold", (0.1, 0.025), {"decay_rate": 0.99}),
        "l2-init": ("strength", (1e-2, 1e-3), {}),
        "shrink-perturb": ("noise_std", (1e-2, 1e-3), {"shrink": 0.99, "period": 100}),
        "upgd": ("noise_std", (1e-2, 1e-3), {}),
        "swr": ("factor", (0.1, 1e-2), {"period": 1000, "pruning": "threshold"}),
    }
    for method, (name, values, others) in grids.items():
        rows += [
            {"method": method, "step_size": size, name: value, **others} for size in STEP_SIZES for value in values
        ]
    return tuple(rows)


SHORT: dict[str, Any] = {"steps": 24, "task_length": 8, "hidden": (10,)}
COMMON: dict[str, Any] = {
    "network": "mlp",
    "hidden": (100, 100),
    "initial": "module",
    "optimizer": "adam",
    "batch_size": 16,
    "bin": "task",
    "metrics": ("accuracy", "dormant_units", "weight_magnitude"),
}

DIGITS = Suite(
    "digits",
    "Permuted pixels and random labels on scikit-learn's 1,797 digits, 64-100-100-10 network, Adam, batch 16",
    (
        Problem(
            "permuted-digits",
            Experiment(stream="fcbp.bench.digits:permuted_inputs", steps=120 * 112, **COMMON),
            _settings(),
            SHORT,
        ),
        Problem(
            "random-label-digits",
            Experiment(stream="fcbp.bench.digits:random_labels", steps=12 * 1500, **COMMON),
            _settings(),
            SHORT,
        ),
    ),
)
"""Both problems with every method whose comparison fits a few minutes."""
