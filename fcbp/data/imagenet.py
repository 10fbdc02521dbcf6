"""ImageNet at 32 x 32 pixels: the official batches, or a folder with one array a class."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fcbp.data import formats
from fcbp.data.layouts import Chunk, Layout, Missing, whole_pixels
from fcbp.data.places import Place, members

__all__ = ["class_folder", "imagenet"]

FOLDERS = ("imagenet32", "Imagenet32_train_npz", "Imagenet32_train", "imagenet32/Imagenet32_train_npz", ".")
"""Folders in which the batches may lie."""
ARCHIVE = "Imagenet32_train_npz.zip"
BATCH = re.compile(r"(?:.*/)?train_data_batch_(\d+)(?:\.npz)?")
CLASSES = 1000
PER_CLASS = 700
"""The first images of each class that the continual ImageNet of Dohare et al. (Nature 2024) takes: 600 and 100."""


def of_training(images: int) -> int:
    """Return the number of a class's first images that are to learn from; the others are for tests.

    Example:
        >>> of_training(700), of_training(7)
        (600, 6)
    """
    return images * 6 // 7


def imagenet(root: Path) -> Layout:
    """Read the first 700 images of each class, 600 to learn from and 100 for tests (of n images six sevenths to learn
    from).

    They are read from ``classes/<class>.npy`` in ``root`` or in its folder ``imagenet32``, or from the official batches
    ``train_data_batch_1`` to ``_10`` there: ``.npz`` files, pickles, or the zip file of them as downloaded.

    Raises:
        Missing: there are neither.
        ValueError: the number of a batch is left out.
    """
    for folder in ("imagenet32/classes", "classes", "imagenet32"):
        if any((root / folder).glob("*.npy")):
            return class_folder(root / folder)
    for folder in FOLDERS:
        paths = sorted((root / folder).glob("train_data_batch_*")) if (root / folder).is_dir() else []
        batches = {match[1]: Place(path) for path in paths if (match := BATCH.fullmatch(path.name))}
        if batches:
            return _of_batches(batches)
    for folder in ("imagenet32", "."):
        path = root / folder / ARCHIVE
        if path.is_file():
            batches = {match[1]: Place(path, name) for name in members(path) if (match := BATCH.fullmatch(name))}
            if not batches:
                raise ValueError(f"{path} has no train_data_batch_1")
            return _of_batches(batches)
    raise Missing("neither imagenet32/train_data_batch_1.npz to _10.npz nor imagenet32/classes/0.npy are there")


def _of_batches(batches: dict[str, Place]) -> Layout:
    numbers = sorted(map(int, batches))
    gaps = sorted(set(range(1, numbers[-1] + 1)).difference(numbers))
    if gaps:
        first = next(iter(batches.values()))
        raise ValueError(f"{first.path.parent} has no train_data_batch_{gaps[0]}, but train_data_batch_{numbers[-1]}")
    places = [batches[str(number)] for number in numbers]

    def chunks() -> Iterator[Chunk]:
        totals = np.zeros(CLASSES, np.int64)
        for place in places:
            totals += np.bincount(_batch(place, images=False)[1], minlength=CLASSES)
        totals = np.minimum(totals, PER_CLASS)
        train = np.array([of_training(int(total)) for total in totals])
        seen = np.zeros(CLASSES, np.int64)
        for place in places:
            images, targets = _batch(place, images=True)
            rank = seen[targets] + _rank(targets)
            seen += np.bincount(targets, minlength=CLASSES)
            splits: tuple[tuple[Literal["train", "test"], np.ndarray], ...] = (
                ("train", rank < train[targets]),
                ("test", (rank >= train[targets]) & (rank < totals[targets])),
            )
            for split, of in splits:
                yield Chunk(split, images[of].reshape(-1, 3, 32, 32), targets[of], str(place))

    return Layout(tuple(dict.fromkeys(place.path for place in places)), (), chunks)


def _rank(targets: np.ndarray) -> np.ndarray:
    """Count for each example the ones before it with the same target."""
    order = np.argsort(targets, kind="stable")
    counts = np.bincount(targets, minlength=1)
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(targets), np.int64)
    rank[order] = np.arange(len(targets)) - starts[targets[order]]
    return rank


def _batch(place: Place, *, images: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch's images ``(n, 3072)``, if they are asked for, and its classes, from 0."""
    where, names = str(place), ("data", "labels") if images else ("labels",)
    # Of a .npz file on the disk only what is asked for is read.
    data = place.path if not place.member and zipfile.is_zipfile(place.path) else place.read()
    zipped = isinstance(data, Path) or data.startswith(formats.OF_ZIP)
    parts = formats.npz(data, where, names) if zipped else formats.pickled(data, where)  # type: ignore[arg-type]
    lacking = [name for name in names if name not in parts]
    if lacking:
        raise ValueError(f"{where} has {', '.join(sorted(parts)) or 'nothing'}; expected {' and '.join(lacking)} too")
    targets = np.asarray(parts["labels"])
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"{where}: labels is {targets.dtype} {targets.shape}; expected a list of whole numbers")
    if targets.size and not 1 <= targets.min() <= targets.max() <= CLASSES:
        raise ValueError(f"{where}: labels are {targets.min()} to {targets.max()}; expected 1 to {CLASSES}")
    if not images:
        return np.empty(0, np.uint8), targets.astype(np.int64) - 1
    pixels = np.asarray(parts["data"])
    if pixels.dtype != np.uint8 or pixels.shape != (len(targets), 3072):
        raise ValueError(f"{where}: data is {pixels.dtype} {pixels.shape}; expected uint8 ({len(targets)}, 3072)")
    return pixels, targets.astype(np.int64) - 1


def class_folder(folder: Path) -> Layout:
    """Read a folder of ``<class>.npy``, each an array of one class's images; of n the first six sevenths are to learn
    from.

    Classes are numbered in the order of their names, which are ordered as numbers where they are numbers. Pixels that
    are whole numbers from 0 to 255 are kept as uint8, others as float32.

    Raises:
        Missing: there is no such file.
    """
    paths = sorted(folder.glob("*.npy"), key=_in_order)
    if not paths:
        raise Missing(f"{folder} has no .npy file of a class")

    def chunks() -> Iterator[Chunk]:
        pixels = None
        for target, path in enumerate(paths):
            images = formats.npy(path.read_bytes(), str(path))
            if images.ndim < 2:
                raise ValueError(f"{path} has an array of shape {images.shape}; expected (images, *shape)")
            images = images[:PER_CLASS]
            if pixels is None:
                pixels = images.dtype == np.uint8 or _are_pixels(images)
            images = whole_pixels(images, str(path)) if pixels else images
            here = of_training(len(images))
            parts: Sequence[tuple[Literal["train", "test"], np.ndarray]]
            parts = ("train", images[:here]), ("test", images[here:])
            for split, part in parts:
                yield Chunk(split, part, np.full(len(part), target), str(path))

    return Layout(tuple(paths), tuple(path.stem for path in paths), chunks)


def _in_order(path: Path) -> tuple[int, str]:
    return (int(path.stem), "") if path.stem.isdecimal() else (1 << 62, path.stem)


def _are_pixels(values: np.ndarray) -> bool:
    try:
        whole_pixels(values, "")
    except ValueError:
        return False
    return True
