"""The five problems of Kumar et al. (L2 Init, arXiv 2308.11958, appendix A.1.3, tables 3 and 4)."""

from __future__ import annotations

from typing import Any

from fcbp.experiment.named.record import Problem
from fcbp.experiment.settings import Experiment

__all__ = ["PROBLEMS"]

_SOURCE = "Kumar et al. (arXiv 2308.11958); code skumar9876/L2_Init 3f86d26"
_WRAPS = "a pass has all whole batches; the code leaves out the last one (pass_length={}, task_length={})"


def _adam(**settings: Any) -> Experiment:
    fixed = {
        "initial": "module",
        "optimizer": "adam",
        "batch_size": 16,
        "measure": "contribution",
        "bin": "task",
        "metrics": ("accuracy", "dormant_units", "srank", "weight_magnitude"),
    }
    return Experiment(**{**fixed, **settings})


def _best(base: float, l2_init: float, strength: float, period: int, threshold: float, shrink: float) -> dict[str, Any]:
    return {
        "bp": {"step_size": base},
        "l2-init": {"step_size": l2_init, "strength": strength},
        "redo": {"period": period, "threshold": threshold},
        "shrink-perturb": {"shrink": 1 - shrink, "noise_std": 1e-2, "period": 1},
    }


_LABELS_OF_CIFAR = _best(1e-3, 1e-3, 1e-2, 30_000, 0.1, 1e-4)
_LABELS = "50 tasks of 400 passes over 1,200 images (30,000 steps), batch 16; at its end other labels for the images"
_SHUFFLED = "labels are shuffled among the images, as in the code; the paper draws them (labels='uniform')"

PROBLEMS: dict[str, Problem] = {
    "permuted-mnist-l2init": Problem(
        _adam(
            stream="permuted-inputs",
            dataset="mnist",
            normalise="symmetric",
            subset=10_000,
            first_task_permuted=False,
            network="mlp",
            hidden=(100, 100),
            step_size=1e-3,
            replacement_rate=1e-3,
            steps=500 * 625,
        ),
        _SOURCE,
        "500 tasks of one pass over 10,000 images (625 steps), batch 16; at its end another order of the pixels; the "
        "first task's are in place",
        (_WRAPS.format(624, 625),),
        _best(1e-4, 1e-3, 1e-2, 625, 0.0, 1e-3),
    ),
    "random-label-mnist": Problem(
        _adam(
            stream="random-labels",
            dataset="mnist",
            normalise="symmetric",
            subset=1_200,
            epochs=400,
            network="mlp",
            hidden=(100, 100),
            step_size=1e-3,
            replacement_rate=1e-4,
            steps=50 * 30_000,
        ),
        _SOURCE,
        _LABELS,
        (_SHUFFLED, _WRAPS.format(74, 30_000)),
        _best(1e-4, 1e-4, 1e-2, 30_000, 0.1, 1e-4),
    ),
    "random-label-cifar10": Problem(
        _adam(
            stream="random-labels",
            dataset="cifar10",
            normalise="published",
            subset=1_200,
            epochs=400,
            network="cnn16",
            step_size=1e-3,
            replacement_rate=1e-4,
            steps=50 * 30_000,
        ),
        _SOURCE,
        _LABELS,
        (_SHUFFLED, _WRAPS.format(74, 30_000), "SNR (arXiv 2410.20098) has 128 images (subset=128)"),
        {**_LABELS_OF_CIFAR, "redo": {**_LABELS_OF_CIFAR["redo"], "step_size": 1e-4}},
    ),
    "five-plus-one-cifar100": Problem(
        _adam(
            stream="hard-and-easy",
            dataset="cifar100",
            normalise="published",
            batch_size=32,
            task_length=780,
            network="cnn16",
            step_size=1e-3,
            replacement_rate=1e-4,
            steps=30 * 780,
        ),
        _SOURCE,
        "30 tasks of 780 steps, batch 32: 5 classes (2,500 images) and 1 class (500) in turn, no class twice, a "
        "head of 100 classes; the tasks of 5 count",
        ("780 steps of 32, as in the paper; the code has 625 of 16 (task_length=625, batch_size=16)",),
        _best(1e-4, 1e-3, 1e-2, 1_560, 0.0, 1e-4),
    ),
    "continual-imagenet-l2init": Problem(
        _adam(
            stream="class-pairs",
            dataset="imagenet32",
            per_class=600,
            batch_size=100,
            epochs=10,
            network="cnn16",
            step_size=1e-3,
            replacement_rate=1e-4,
            steps=500 * 120,
        ),
        _SOURCE,
        "500 tasks of two classes, 10 passes over 600 images of each (120 steps), batch 100; no head reset",
        ("pixels are from 0 to 1; theirs are what their files hold", "a pass has 12 batches; the code's 11"),
        _best(1e-4, 1e-3, 1e-3, 120, 0.0, 1e-4),
    ),
}
