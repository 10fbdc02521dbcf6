"""Files of made-up data in every layout that people have, with the arrays that they hold."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
MNIST_FILES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in KINDS]
EMNIST_FILES = [f"emnist-balanced-{part}-{kind}" for part in ("train", "test") for kind in KINDS]


def idx(array):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def images(rng, n, shape):
    return rng.integers(0, 256, (n, *shape), dtype=np.uint8)


def splits(rng, shape, classes, train=12, test=5):
    """``{split: (images, classes)}``."""
    return {
        split: (images(rng, n, shape), rng.permutation(np.arange(n) % classes).astype(np.uint8))
        for split, n in (("train", train), ("test", test))
    }


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def mnist(root, form="plain", folder="MNIST", seed=0):
    made = splits(np.random.default_rng(seed), (28, 28), 10)
    parts = [idx(part) for split in ("train", "test") for part in made[split]]
    for name, data in zip(MNIST_FILES, parts, strict=True):
        path = root / folder / "raw" / name
        if form == "gz":
            write(path.with_name(f"{name}.gz"), gzip.compress(data))
        else:
            write(path, data)
    return {split: (x[:, None], y) for split, (x, y) in made.items()}


def emnist(root, form="plain", seed=0):
    """Upright images are given; stored are images with rows and columns exchanged."""
    made = splits(np.random.default_rng(seed), (28, 28), 47, 60, 50)
    parts = [idx(part) for x, y in made.values() for part in (x.swapaxes(1, 2), y)]
    folder = root / "EMNIST" / "raw"
    if form == "zip":
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "gzip.zip", "w") as zipped:
            for name, data in zip(EMNIST_FILES, parts, strict=True):
                zipped.writestr(f"gzip/{name}.gz", gzip.compress(data))
    else:
        for name, data in zip(EMNIST_FILES, parts, strict=True):
            gz = form == "gz"
            write(folder / f"{name}{'.gz' if gz else ''}", gzip.compress(data) if gz else data)
    return {split: (x[:, None], y) for split, (x, y) in made.items()}


CIFAR = {
    "cifar10": ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "labels", 10),
    "cifar100": ("cifar-100-python", ["train"], "test", "fine_labels", 100),
}


def cifar_pickles(name, protocol=2, text=True, seed=0):
    """``({file: bytes}, arrays)``."""
    folder, batches, test, key, classes = CIFAR[name]
    rng = np.random.default_rng(seed)
    files, parts = {}, []
    for file in (*batches, test):
        pixels, targets = images(rng, 4, (3072,)), rng.integers(0, classes, 4)
        batch = {"data": pixels, key: targets.tolist(), "batch_label": file}
        if not text:
            batch = {k.encode(): v for k, v in batch.items()}
        files[f"{folder}/{file}"] = pickle.dumps(batch, protocol)
        parts.append((pixels.reshape(-1, 3, 32, 32), targets))
    train = tuple(np.concatenate(column) for column in zip(*parts[:-1], strict=True))
    return files, {"train": train, "test": parts[-1]}


def cifar(root, name="cifar10", form="folder", **options):
    files, made = cifar_pickles(name, **options)
    if form == "tar":
        archive = root / ("cifar-10-python.tar.gz" if name == "cifar10" else "cifar-100-python.tar.gz")
        with tarfile.open(archive, "w:gz") as tar:
            for path, data in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        for path, data in files.items():
            write(root / path, data)
    return made


def imagenet_batches(root, form="npz", classes=3, per_class=14, seed=0):
    """Two official batches; expected is the first six sevenths of each class, in the batches' order."""
    rng = np.random.default_rng(seed)
    n = classes * per_class
    pixels, targets = images(rng, n, (3072,)), rng.permutation(np.arange(n) % classes)
    folder = root / "imagenet32"
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for i, part in enumerate(np.array_split(np.arange(n), 2), 1):
        # Labels count from 1, and are a list in the pickles and an array in the .npz files.
        batch = {"data": pixels[part], "labels": (targets[part] + 1).tolist(), "mean": pixels.mean(0)}
        if form == "pickle":
            contents[f"train_data_batch_{i}"] = pickle.dumps(batch, 2)
        else:
            buffer = io.BytesIO()
            np.savez(buffer, **batch)
            contents[f"train_data_batch_{i}.npz"] = buffer.getvalue()
    if form == "zip":
        with zipfile.ZipFile(folder / "Imagenet32_train_npz.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in contents.items():
                zipped.writestr(name, data)
    else:
        for name, data in contents.items():
            write(folder / name, data)
    rank = np.array([(targets[:i] == target).sum() for i, target in enumerate(targets)])
    train = rank < per_class * 6 // 7
    shaped = pixels.reshape(-1, 3, 32, 32)
    return {"train": (shaped[train], targets[train]), "test": (shaped[~train], targets[~train])}


def class_folder(folder, classes=11, per_class=7, dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": [], "test": []}
    here = per_class * 6 // 7
    for k in range(classes):
        array = images(rng, per_class, (3, 32, 32)).astype(dtype)
        np.save(folder / f"{k}.npy", array)
        parts["train"] += [(array[:here], np.full(here, k))]
        parts["test"] += [(array[here:], np.full(per_class - here, k))]
    return {split: tuple(np.concatenate(c) for c in zip(*rows, strict=True)) for split, rows in parts.items()}
