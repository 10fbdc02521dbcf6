"""Permuted MNIST of Hernandez-Garcia et al. (SWR, CoLLAs 2025), and warm starts of Ash and Adams (NeurIPS 2020)."""

from __future__ import annotations

from fcbp.experiment.named.record import Problem
from fcbp.experiment.settings import Experiment

__all__ = ["PROBLEMS"]

_BATCHES = sum(min(1_000 * k, 33_333) // 128 for k in range(1, 35))

PROBLEMS: dict[str, Problem] = {
    "permuted-mnist-swr": Problem(
        Experiment(
            stream="permuted-inputs",
            dataset="mnist",
            batch_size=30,
            network="mlp",
            hidden=(100, 100, 100),
            initializer="kaiming_normal",
            step_size=0.05,
            measure="contribution",
            replacement_rate=1e-4,
            maturity_threshold=1,
            steps=1_000 * 2_000,
            bin="task",
            metrics=("accuracy", "dormant_units", "effective_rank", "weight_magnitude"),
        ),
        "Hernandez-Garcia et al. (CoLLAs 2025); code JFernando4/collas_2025_swr_paper 5c8ef03",
        "1,000 tasks of one pass over the 60,000 images (2,000 steps), batch 30; at its end another order of "
        "the pixels",
        (
            "three hidden layers of 100 units; the others are --hidden 10 10 10 and --hidden 1000 1000 1000",
            "a bin is a task; theirs has 10 steps (bin=10)",
        ),
        {
            "bp": {},
            "swr": {"period": 2048, "factor": 1e-5, "pruning": "threshold"},
            "redo": {"period": 16, "threshold": 1e-4},
            "l2": {"strength": 1e-4},
            "shrink-perturb": {"shrink": 1 - 1e-4, "noise_std": 1e-7**0.5, "period": 1},
        },
    ),
    "warm-start-cifar10": Problem(
        Experiment(
            stream="growing-data",
            dataset="cifar10",
            normalise="symmetric",
            subset=33_333,
            test_on="rest",
            increment=1_000,
            epochs=25,
            batch_size=128,
            shrink_before=0.4,
            perturb_before=0.1,
            fresh_moments=True,
            network="resnet18",
            initial="module",
            initializer="kaiming_normal",
            optimizer="adam",
            step_size=1e-3,
            method="bp",
            steps=25 * _BATCHES,
            bin=25,
            metrics=("accuracy", "test_accuracy"),
        ),
        "Ash and Adams (NeurIPS 2020, arXiv 1910.08475); code JordanAsh/warm_start 896176b",
        "34 rounds, each with 1,000 images more of a random two thirds of the training images, batch 128; before each "
        "round, the first too, every parameter becomes 0.4 of itself and 0.1 of a fresh one, and Adam begins anew; the "
        "other third is the test",
        (
            "25 passes a round; theirs goes on until 99 % of the training images are right (epochs=...)",
            "the last images of a pass that fill no batch wait for the next pass; theirs are a smaller batch",
            "two phases are increment's place taken by sizes=(16666, 33333)",
            "the ResNet-18 is that of incremental-cifar100, with biases in its convolutions",
        ),
    ),
}
