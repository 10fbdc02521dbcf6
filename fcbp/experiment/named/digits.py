"""The problems over the digits that come with the library: they need no download."""

from __future__ import annotations

from fcbp.experiment.named.record import Problem
from fcbp.experiment.settings import Experiment

__all__ = ["PROBLEMS"]

_DIGITS = {
    "network": "mlp",
    "hidden": (100, 100),
    "initial": "module",
    "optimizer": "adam",
    "step_size": 1e-3,
    "measure": "contribution",
    "batch_size": 16,
    "bin": "task",
}
_SOURCE = "scikit-learn's digits; after Kumar et al. (arXiv 2308.11958)"
_MEASURED = ("accuracy", "dormant_units", "effective_rank", "weight_magnitude")

PROBLEMS: dict[str, Problem] = {
    "permuted-digits": Problem(
        Experiment(
            stream="permuted-inputs", steps=300 * 89, metrics=("accuracy", "test_accuracy", *_MEASURED[1:]), **_DIGITS
        ),
        _SOURCE,
        "300 tasks of one pass over the 1,437 training images (89 steps), pixels in another order in each",
        ("the 360 other images are the test of each task",),
    ),
    "random-label-digits": Problem(
        Experiment(stream="random-labels", subset=240, epochs=100, steps=30 * 1500, metrics=_MEASURED, **_DIGITS),
        _SOURCE,
        "30 tasks of 100 passes over 240 images (1,500 steps), labels shuffled among them in each",
    ),
}
