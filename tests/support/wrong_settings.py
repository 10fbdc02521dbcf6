"""Every setting of an experiment with every kind of wrong value, and how each door takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fcbp import experiment
from fcbp.experiment import parts

WRONG: dict[str, Any] = {
    "None": None,
    "a string": "nonsense",
    "an empty string": "",
    "a dict": {"a": 1},
    "a list": ["a", None],
    "an empty list": [],
    "NaN": float("nan"),
    "-1": -1,
    "infinity": float("inf"),
    "400 digits": 10**400,
    "a huge size": 10**12,
    "0.5": 0.5,
    "a whole float": 3.0,
    "huge sizes": (10**12, 10**12),
    "an object": object(),
    "a model": nn.Linear(2, 2),
    "a tensor": torch.zeros(2, 3),
    "a path": Path("nowhere"),
    "a function": lambda *_: None,
    "true": True,
    "bytes": b"nonsense",
    "a complex number": 1j,
}
"""Values of Python's, wrong for most settings."""

TEXTS: dict[str, str] = {
    "null": "null",
    "a string": "nonsense",
    "an empty string": '""',
    "a mapping": "{a: 1}",
    "a list": "[a, null]",
    "an empty list": "[]",
    "a nested list": "[[1], [2, [3]]]",
    "NaN": ".nan",
    "-1": "-1",
    "infinity": ".inf",
    "400 digits": "9" * 400,
    "a huge size": str(10**12),
    "0.5": "0.5",
    "huge sizes": f"[{10**12}, {10**12}]",
    "yes": "yes",
    "a date": "2024-01-01",
    "binary": "!!binary aGVsbG8=",
}
"""The same in YAML."""


def reading() -> dict[str, dict[str, Any]]:
    """By setting what else an experiment sets so that something reads it."""
    found: dict[str, dict[str, Any]] = {}
    for name in experiment.setting_names():
        readers = [part for part in parts.every() if name in part.defaults]
        chosen = {} if not readers or name in experiment.Experiment().to_dict() else {readers[0].role: readers[0].name}
        if "stream" in chosen:
            chosen["loss_function"] = None
        if chosen.get("network") == "vision-transformer" or chosen.get("network") == "resnet18":
            chosen |= {"stream": "permuted-labels", "loss_function": None}
        found[name] = chosen
    return found
