"""The supervised problems of Dohare et al. (Nature 632, 2024; ``shibhansh/loss-of-plasticity``, 63c35f3)."""

from __future__ import annotations

from fcbp.experiment.named.record import Problem
from fcbp.experiment.settings import Experiment

__all__ = ["PROBLEMS"]

_SOURCE = "Dohare et al. (Nature 632, 2024); code shibhansh/loss-of-plasticity 63c35f3"

PROBLEMS: dict[str, Problem] = {
    "permuted-mnist": Problem(
        Experiment(
            stream="permuted-inputs",
            dataset="mnist",
            network="mlp",
            hidden=(2000, 2000, 2000),
            step_size=0.003,
            replacement_rate=1e-5,
            steps=800 * 60_000,
            bin="task",
            metrics=("accuracy", "dormant_units", "effective_rank", "weight_magnitude"),
        ),
        _SOURCE,
        "800 tasks of one pass over the 60,000 images, batch 1; at its end another order of the pixels and of the "
        "images; no head reset",
        (
            "their orders are applied on top of one another, ours are independent: the distribution is the same",
            "units and ranks are measured on the next 200 examples; theirs on the first 2,000 of the next task",
            "a task longer than a pass (task_length=1000000) draws a new order for each pass; theirs goes over one "
            "order again (reshuffle=False)",
        ),
        {
            "bp": {"step_size": 0.003},
            "l2": {"step_size": 0.003, "strength": 1e-4},
        },
    ),
    "continual-imagenet": Problem(
        Experiment(
            stream="class-pairs",
            dataset="imagenet32",
            network="conv-net",
            initial="module",
            initializer="default_uniform",
            per_class=600,
            batch_size=100,
            epochs=250,
            zero_head=True,
            momentum=0.9,
            step_size=0.01,
            replacement_rate=3e-4,
            steps=5_000 * 3_000,
            bin="task",
            metrics=("accuracy", "test_accuracy", "dormant_units", "weight_magnitude"),
        ),
        _SOURCE,
        "5,000 tasks (2,000 for backpropagation) of two classes, 250 passes over 600 images of each (3,000 steps), "
        "another order in each pass; before each task, the first too, the head's weights and biases become 0 and "
        "their moments stay; the test is on 100 images of each class after the last pass",
        ("pixels are from 0 to 1; theirs are what their files hold, perhaps normalised (normalise='published')",),
        {
            "bp": {"step_size": 0.01, "steps": 2_000 * 3_000},
            "l2": {"step_size": 0.03, "strength": 3e-6},
            "shrink-perturb": {"weight_decay": 1e-5, "shrink": 1.0, "noise_std": 1e-5, "period": 1},
        },
    ),
    "incremental-cifar100": Problem(
        Experiment(
            stream="growing-classes",
            dataset="cifar100",
            network="resnet18",
            initial="module",
            initializer="kaiming_normal",
            increment=5,
            validation=50,
            batch_size=90,
            epochs=200,
            normalise="published",
            flip=True,
            crop=4,
            rotation=(0.0, 15.0),
            cut_unseen=True,
            early_stopping=True,
            milestones=(60, 120, 160),
            momentum=0.9,
            weight_decay=5e-4,
            step_size=0.1,
            measure="contribution",
            replacement_rate=1e-5,
            maturity_threshold=1000,
            rate_counts="all",
            steps=5_000 * 210,
            bin=5_000,
            metrics=("accuracy", "test_accuracy", "dormant_units", "stable_rank"),
        ),
        _SOURCE,
        "20 tasks of 200 passes over 450 images of each class so far, 5 classes more in each (25 steps a pass for each "
        "5 classes); flip, reflect-padded crop, rotation; the step size is 0.1 at first and falls to its fifth after "
        "60, 120 and 160 passes; logits of classes to come are cut off; after each pass the first 50 images of each "
        "class validate, and the best weights are put back at the task's end, after the test",
        (
            "test images are as they are; the code changes them as the others (augment_test=True)",
            "the test is at the end of each bin of 5,000 steps; theirs after each pass, and the best of a task counts",
            "published rates of CBP are of all units, without running means (rate_counts='all' is the default here)",
        ),
        {"bp": {}, "shrink-perturb": {"shrink": 1.0, "noise_std": 1e-5, "period": 1}},
    ),
}
