"""Sets of examples: shipped with the library, read from the files that people already have, or downloaded.

    >>> import fcbp
    >>> digits = fcbp.data.load("digits")
    >>> digits.train.inputs.shape, digits.train.inputs.dtype, digits.test.targets.shape
    (torch.Size([1437, 1, 8, 8]), torch.uint8, torch.Size([360]))

:func:`load` reads a data set, :func:`names` lists those that have a name, :func:`fetch` downloads one and
:func:`check` says which files are there and whether they are the published ones. Files lie as torchvision leaves them,
so that a folder which it has filled is read as it is. The first :func:`load` of large data writes them as plain arrays
into a folder ``.fcbp`` beside them (or into ``FCBP_CACHE``); later ones, of any number of processes, map that file into
memory and share it.
"""

from fcbp.data.catalogue import default_root, names
from fcbp.data.checking import FileState, about, check
from fcbp.data.dataset import Dataset, Normalisation, Split
from fcbp.data.download import fetch
from fcbp.data.loading import load

__all__ = [
    "Dataset",
    "FileState",
    "Normalisation",
    "Split",
    "about",
    "check",
    "default_root",
    "fetch",
    "load",
    "names",
]
