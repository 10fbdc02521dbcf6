"""The four streams of Elsayed and Mahmood (UPGD, ICLR 2024; ``mohmdelsayed/upgd``, b75e90a)."""

from __future__ import annotations

from typing import Any

from fcbp.experiment.named.record import Problem
from fcbp.experiment.settings import Experiment

__all__ = ["PROBLEMS"]

_SOURCE = "Elsayed and Mahmood (ICLR 2024); code mohmdelsayed/upgd b75e90a"
_COMPOSED = "their permutations are applied on top of one another, ours are independent: the distribution is the same"
_FIRST = (
    "a bin is a task; theirs ends one step after each change, so that the first has one step and the last is lost "
    "(bin=1, and of the results .isel(step=slice(1, None)).coarsen(step=task_length, boundary='trim').mean())"
)
_ASKED = "plasticity costs a second forward pass and is measured where it is asked for (metrics=('plasticity',))"


def _stream(**settings: Any) -> Experiment:
    fixed = {
        "initial": "module",
        "normalise": "symmetric",
        "method": "upgd",
        "step_size": 0.01,
        "steps": 1_000_000,
        "bin": "task",
        "metrics": ("accuracy", "dead_units", "weight_magnitude"),
    }
    return Experiment(**{**fixed, **settings})


def _mlp(**settings: Any) -> Experiment:
    return _stream(network="mlp", hidden=(300, 150), **settings)


def _shrinks(step_size: float, decay: float, sigma: float) -> dict[str, float]:
    """Return the settings of their shrink and perturb at every step, whose decay and noise are times the step size."""
    return {"shrink": 1 - step_size * decay, "noise_std": step_size * sigma, "period": 1}


_LABELS = "400 tasks of 2,500 steps, batch 1; at its end the labels are permuted and a new pass begins"

PROBLEMS: dict[str, Problem] = {
    "input-permuted-mnist": Problem(
        _mlp(
            stream="permuted-inputs",
            dataset="mnist",
            task_length=5_000,
            noise_std=0.1,
            weight_decay=0.01,
            decay_rate=0.9999,
        ),
        _SOURCE,
        "200 tasks of 5,000 steps, batch 1; at its end the pixels come in another order and a new pass begins",
        (
            _COMPOSED,
            _FIRST,
            _ASKED,
            "UPGD protects what is useful from the gradient too; the other form has numbers of its own "
            "(protection=0.0, step_size=0.001, decay_rate=0.9)",
        ),
        {
            "bp": {"step_size": 1e-3, "weight_decay": 1e-3},
            "shrink-perturb": {"step_size": 1e-3, **_shrinks(1e-3, 0.01, 0.05)},
        },
    ),
    "label-permuted-emnist": Problem(
        _mlp(stream="permuted-labels", dataset="emnist-balanced", flatten=True, task_length=2_500),
        _SOURCE,
        _LABELS,
        (
            _COMPOSED,
            _FIRST,
            _ASKED,
            "UPGD has its usual numbers here: those chosen for EMNIST are not in the table of settings",
        ),
    ),
    "label-permuted-cifar10": Problem(
        _stream(
            stream="permuted-labels",
            dataset="cifar10",
            network="lenet",
            task_length=2_500,
            noise_std=0.001,
            weight_decay=0.0,
            decay_rate=0.999,
        ),
        _SOURCE,
        _LABELS,
        (_COMPOSED, _FIRST, _ASKED),
        {"bp": {"weight_decay": 1e-3}, "shrink-perturb": _shrinks(0.01, 0.001, 0.005)},
    ),
    "label-permuted-mini-imagenet": Problem(
        _mlp(stream="permuted-labels", dataset="mini-imagenet", flatten=True, normalise="unit", task_length=2_500),
        _SOURCE,
        f"{_LABELS}; inputs are 2,048 features of a ResNet-50",
        (_COMPOSED, _FIRST, _ASKED, "UPGD has its usual numbers here"),
    ),
}
