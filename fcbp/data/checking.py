"""``check``: the data that are there, compared with the files that their authors publish."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from fcbp.checks import arguments
from fcbp.data import cache
from fcbp.data.catalogue import CATALOGUE, default_root
from fcbp.data.loading import layout_of
from fcbp.data.places import checksum
from fcbp.names import lookup
from fcbp.paths import expanded

__all__ = ["FileState", "about", "check"]

State = Literal["good", "missing", "other", "damaged"]


class FileState(NamedTuple):
    """The state of a file of a data set, or of the data set itself."""

    name: str
    """The data set's name."""
    path: str
    """Path of the file; empty for the data set itself."""
    state: State
    """``"good"``: it can be read, and a file is the published one; ``"missing"``; ``"other"``: a file's sum is another
    than the published one; ``"damaged"``: it cannot be read."""
    detail: str
    """The finding, or the next command."""


@arguments
def about(name: str, root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return a data set in a line: its name, whether its files are there, its source and its licence; files are not
    read.

    Args:
        name: one of :func:`fcbp.data.names`.
        root: the folder of data; by default ``FCBP_DATA``, or ``~/.cache/fcbp/data``.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> about("digits")["there"], about("digits")["licence"]
        ('yes', 'CC BY 4.0')
    """
    entry = lookup("name", name, CATALOGUE)
    folder = expanded("root", root) if root is not None else default_root()
    try:
        layout_of(name, folder)
        there = "yes"
    except FileNotFoundError:
        there = "no"
    except (ValueError, OSError):
        there = "damaged"
    return {"name": name, "there": there, "licence": entry.licence, "source": entry.source}


@arguments
def check(name: str | None = None, root: str | os.PathLike[str] | None = None) -> list[FileState]:
    """Look at the files of data sets: their sums where they are as downloaded, and whether all examples can be read.

    Nothing is written.

    Args:
        name: one of :func:`fcbp.data.names`; by default all of them.
        root: the folder of data; by default ``FCBP_DATA``, or ``~/.cache/fcbp/data``.

    Returns:
        One line for each downloaded file, and one for each data set.

    Raises:
        ValueError: the name is unknown.

    Example:
        >>> [(line.name, line.state, line.detail) for line in check("digits")]
        [('digits', 'good', '1,437 + 360 examples of (1, 8, 8)')]
    """
    folder = expanded("root", root) if root is not None else default_root()
    chosen: Iterable[str] = CATALOGUE
    if name is not None:
        lookup("name", name, CATALOGUE)
        chosen = [name]
    return [line for each in chosen for line in _lines(each, folder)]


def _lines(name: str, root: Path) -> Iterator[FileState]:
    for file in CATALOGUE[name].files:
        path = root / file.path
        if path.is_file():
            kind = file.sum.partition(":")[0]
            found = f"{kind}:{checksum(path, kind)}"
            same = found == file.sum
            yield FileState(name, str(path), "good" if same else "other", found if same else f"{found}, not {file.sum}")
    try:
        numbers = {"train": 0, "test": 0}
        shape: tuple[int, ...] = ()
        for chunk in cache.checked(layout_of(name, root)):
            numbers[chunk.split] += len(chunk.targets)
            shape = chunk.inputs.shape[1:]
        state: State = "good" if numbers["train"] else "damaged"
        yield FileState(name, "", state, f"{numbers['train']:,} + {numbers['test']:,} examples of {shape}")
    except FileNotFoundError as error:
        yield FileState(name, "", "missing", str(error))
    except (ValueError, OSError) as error:
        yield FileState(name, "", "damaged", str(error))
