"""Doctests of modules that import an optional trainer are collected where the trainer is installed."""

from importlib.util import find_spec

TRAINERS = {
    "fcbp/stateful/lightning.py": ("lightning", "pytorch_lightning"),
    "fcbp/stateful/transformers.py": ("transformers",),
}

collect_ignore = [file for file, packages in TRAINERS.items() if not any(find_spec(name) for name in packages)]
