"""The table of streams that the promises are tested over; ``test_stream_contract.py`` holds the promises.

To add a stream, add its line to ``STREAM_ROWS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import fcbp
from fcbp import data, streams
from fcbp.streams import Spec, Stream


@dataclass(frozen=True)
class StreamRow:
    """A stream with its options.

    Attributes:
        subject: the function of :mod:`fcbp.streams` that makes it.
        variant: what tells this row from another of the subject.
        build: makes it; called for each test, so that nothing is shared. Small: a test draws some hundred batches.
        batch: examples of a batch.
        signalled: whether batches have a third entry that says where a task begins.
    """

    subject: str
    variant: str
    build: Callable[[], Stream]
    batch: int
    signalled: bool = False

    @property
    def name(self) -> str:
        """What a failing test is called."""
        return f"{self.subject} {self.variant}".strip()


SMALL = {"input_bits": 6, "flipping_bits": 4, "target_units": 9}
TASK = 6
"""Batches of a task of the streams below."""


def numbers(key: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    """Numbers in [0, 1), a row of ``size`` for every entry of ``index``."""
    words = fcbp.random.bits_at(key, index.unsqueeze(-1) * size + torch.arange(size, device=index.device))
    return (words >> 40).remainder(1 << 24).to(torch.float32) / (1 << 24)


def drifting_classes(lazily: bool) -> Stream:
    """Points in a square, in three classes by their angle around a centre that each task moves; batches of 4."""

    def batches(key: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        examples = index.unsqueeze(-1) * 4 + torch.arange(4, device=index.device)
        return labelled(key, index // TASK, numbers(fcbp.random.fold_in(key, 0), examples, 2))

    def labelled(key: torch.Tensor, task: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = points - numbers(fcbp.random.fold_in(key, 1), task, 2).unsqueeze(-2)
        return points, torch.stack([x[..., 0], x[..., 1], -x.sum(-1)], -1).argmax(-1)

    def init(key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return key.clone(), torch.zeros_like(key)

    def sample(state: Any, length: int) -> Any:
        key, step = state
        return (key, step + length), batches(key, step + torch.arange(length, device=key.device))

    def held_out(state: Any) -> tuple[torch.Tensor, torch.Tensor]:
        key, step = state
        points = numbers(fcbp.random.fold_in(key, 2), torch.arange(7, device=key.device), 2)
        return labelled(key, (step - 1).clamp(min=0) // TASK, points)

    functions: dict[str, Any] = {}
    if lazily:
        functions = {
            "window": lambda state, length: state,
            "at": lambda window, index: batches(window[0], window[1] + index),
            "skip": lambda state, length: (state[0], state[1] + length),
        }
    spec = Spec((2,), 3, "classification")
    return streams.from_sampler(init, sample, spec=spec, held_out=held_out, task_length=TASK, **functions)


def walk() -> Stream:
    """A regression whose state is the last example: nothing of it can be made without what came before."""

    def init(key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return key.clone(), torch.zeros_like(key), torch.zeros((1, 3), device=key.device)

    def sample(state: Any, length: int) -> Any:
        key, step, last = state
        xs = []
        for i in range(length):
            last = last + numbers(key, step + i, 3).unsqueeze(0) - 0.5
            xs.append(last)
        inputs = torch.stack(xs)
        return (key, step + length, last), (inputs, inputs[..., :2].sin())

    return streams.from_sampler(init, sample, spec=Spec((3,), 2))


def images(size: int) -> data.Split:
    """Made-up images of 4x4 pixels, in four classes."""
    index = torch.arange(size)
    return data.Split(
        (index.reshape(-1, 1, 1, 1) * 37 + torch.arange(16).reshape(4, 4) * 11).to(torch.uint8), index % 4
    )


IMAGES = data.Dataset("made", images(24), images(8))

STREAM_ROWS: list[StreamRow] = [
    StreamRow("bit_flipping", "", lambda: streams.bit_flipping(**SMALL, flip_period=7), 1),
    StreamRow(
        "bit_flipping",
        "signalled batches",
        lambda: streams.bit_flipping(**SMALL, flip_period=6, batch_size=3, task_signal=True),
        3,
        signalled=True,
    ),
    StreamRow(
        "bit_flipping",
        "all bits drawn anew",
        lambda: streams.bit_flipping(**SMALL, flip_period=5, redraw_all=True, batch_size=2),
        2,
    ),
    StreamRow("from_sampler", "classes", lambda: drifting_classes(lazily=False), 4),
    StreamRow("from_sampler", "classes in a loop", lambda: drifting_classes(lazily=True), 4),
    StreamRow("from_sampler", "a walk", walk, 1),
    StreamRow("permuted_inputs", "", lambda: streams.permuted_inputs(IMAGES, batch_size=3), 3),
    StreamRow(
        "permuted_labels", "", lambda: streams.permuted_labels(IMAGES, flatten=True, batch_size=2, task_length=TASK), 2
    ),
    StreamRow(
        "random_labels", "", lambda: streams.random_labels(IMAGES, flatten=True, batch_size=4, subset=16, epochs=2), 4
    ),
    StreamRow("class_pairs", "", lambda: streams.class_pairs(IMAGES, flatten=True, batch_size=3, epochs=2), 3),
    StreamRow(
        "growing_classes",
        "",
        lambda: streams.growing_classes(IMAGES, flatten=True, batch_size=4, increment=2, epochs=2),
        4,
    ),
    StreamRow(
        "growing_data", "", lambda: streams.growing_data(IMAGES, flatten=True, batch_size=3, increment=8, epochs=2), 3
    ),
    StreamRow(
        "hard_and_easy",
        "",
        lambda: streams.hard_and_easy(IMAGES, flatten=True, batch_size=2, hard=3, easy=1, task_length=TASK),
        2,
    ),
]
