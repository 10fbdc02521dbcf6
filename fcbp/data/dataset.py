"""A data set: examples to learn from and to test with, their classes, and where they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

__all__ = ["Dataset", "Normalisation", "Split"]


class Split(NamedTuple):
    """Examples and their classes."""

    inputs: Shaped[Tensor, "examples *shape"]
    """uint8 pixels ``(examples, channels, height, width)``; or float32 numbers, such as features ``(examples, n)``."""
    targets: Int64[Tensor, "examples"]
    """Numbers of classes, from 0."""

    def none(self) -> Split:
        """Return a split of no examples, with the same shape."""
        return Split(self.inputs[:0], self.targets[:0])


class Normalisation(NamedTuple):
    """The numbers that make inputs of pixels: ``(pixel / scale - mean) / sd``."""

    mean: tuple[float, ...] = (0.0,)
    """One for each channel, or one for all."""
    sd: tuple[float, ...] = (1.0,)
    """One for each channel, or one for all."""
    scale: float = 255.0
    """The largest value of a pixel; 1 of features."""


UNCHANGED = Normalisation()
"""Pixels from 0 to 1."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to learn from and to test with.

    Args:
        name: of the data set.
        train: examples to learn from.
        test: examples to test with; ``train.none()`` where there are none.
        classes: names of the classes; a target is a place in it.
        normalisation: mean and standard deviation as published, and the largest value of a pixel.
        source: the origin of the data.
        licence: their licence.

    Raises:
        ValueError: inputs are neither uint8 nor float32, targets are not int64 or name no class, numbers of inputs and
            targets differ, test inputs are of another shape or dtype than those of training, or the normalisation does
            not fit the channels.

    Example:
        >>> import torch
        >>> train = Split(torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 0, 0, 1, 1, 1]))
        >>> Dataset("blank", train, train.none())
        Dataset(blank: 6 + 0 examples of (1, 4, 4), uint8, 2 classes)
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...] = ()
    normalisation: Normalisation = UNCHANGED
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        _check_split(self.name, "train", self.train)
        if self.test is None:
            object.__setattr__(self, "test", Split(*(part[:0] for part in self.train)))
        _check_split(self.name, "test", self.test)
        of_test, of_train = ((split.inputs.shape[1:], split.inputs.dtype) for split in (self.test, self.train))
        if of_test != of_train:
            raise ValueError(
                f"{self.name}: test inputs are {tuple(of_test[0])} of {of_test[1]}; expected those of training, "
                f"{tuple(of_train[0])} of {of_train[1]}"
            )
        highest = max((int(split.targets.max()) for split in (self.train, self.test) if len(split.targets)), default=-1)
        if not self.classes:
            object.__setattr__(self, "classes", tuple(str(i) for i in range(highest + 1)))
        if highest >= len(self.classes):
            raise ValueError(f"{self.name}: a target is {highest}; expected 0 to {len(self.classes) - 1}")
        self._check_normalisation()

    def _check_normalisation(self) -> None:
        normalisation = Normalisation(*self.normalisation)
        channels = self.shape[0]
        for name, values in (("mean", normalisation.mean), ("sd", normalisation.sd)):
            if len(values) not in (1, channels) or not all(math.isfinite(value) for value in values):
                raise ValueError(f"{self.name}: {name} is {values}; expected 1 or {channels} numbers")
        if min(normalisation.sd) <= 0 or not 0 < normalisation.scale < math.inf:
            raise ValueError(f"{self.name}: {normalisation}; expected sd and scale above 0")
        object.__setattr__(self, "normalisation", normalisation)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    def pooled(self) -> Dataset:
        """Return the same examples, all of them to learn from: those of training, then those of the test.

        Small data sets are learned from whole where a problem measures online accuracy alone.

        Example:
            >>> import fcbp
            >>> fcbp.data.load("digits").pooled()
            Dataset(digits: 1,797 + 0 examples of (1, 8, 8), uint8, 10 classes)
        """
        both = Split(*(torch.cat(parts) for parts in zip(self.train, self.test, strict=True)))
        return replace(self, train=both, test=both.none())

    def __repr__(self) -> str:
        numbers = f"{len(self.train.targets):,} + {len(self.test.targets):,} examples of {self.shape}"
        dtype = str(self.train.inputs.dtype).removeprefix("torch.")
        return f"Dataset({self.name}: {numbers}, {dtype}, {len(self.classes):,} classes)"


def _check_split(name: str, split: str, examples: Split) -> None:
    inputs, targets = examples
    for kind, part in (("inputs", inputs), ("targets", targets)):
        if not isinstance(part, Tensor):
            raise ValueError(f"{name}: {split} {kind} are {type(part).__name__}; expected a tensor")
    if inputs.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"{name}: {split} inputs are {inputs.dtype}; expected torch.uint8 or torch.float32")
    if inputs.ndim < 2 or 0 in inputs.shape[1:]:
        raise ValueError(f"{name}: {split} inputs are of shape {tuple(inputs.shape)}; expected (examples, *shape)")
    if targets.dtype != torch.int64 or targets.shape != inputs.shape[:1]:
        raise ValueError(
            f"{name}: {split} targets are {tuple(targets.shape)} {targets.dtype}; expected ({len(inputs)},) torch.int64"
        )
    if len(targets) and int(targets.min()) < 0:
        raise ValueError(f"{name}: a {split} target is {int(targets.min())}; expected 0 or more")
    if split == "train" and not len(targets):
        raise ValueError(f"{name}: there is no example to learn from")
