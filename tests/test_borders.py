"""What is looked at where a value comes in: devices, sizes of designs, paths, and the encoding of files."""

from __future__ import annotations

import ast
import itertools
import sys
from pathlib import Path

import pytest
import torch

import fcbp
from fcbp import addresses, designs
from fcbp.checks import check_device
from fcbp.paths import expanded

SOURCES = sorted(Path(fcbp.__file__).parent.rglob("*.py"))
NOWHERE = ["meta", "mps:7", "xpu:7", "cuda:99", "", "nonsense", "cpu:3", torch.device("meta"), 3, None, 1.5]


@pytest.mark.parametrize("device", NOWHERE, ids=str)
def test_a_device_that_is_not_here_is_refused(device):
    with pytest.raises(ValueError, match=r"where is .*; expected 'cpu', or a GPU that this machine has"):
        check_device("where", device)
    if device is not None:
        with pytest.raises(ValueError, match="device is "):
            fcbp.sweep("bit-flipping", {"seed": [0]}, steps=4, device=device, progress=False)
        with pytest.raises(ValueError, match="device is "):
            fcbp.experiment.build_program([fcbp.Experiment()], device=device)
        with pytest.raises(ValueError, match="device is "):
            fcbp.random.key(0, device=device)


def test_another_machines_devices_are_not_looked_for_here():
    check_device("device", "cuda:3", elsewhere=True)
    with pytest.raises(ValueError, match="device is 'meta'"):
        check_device("device", "meta", elsewhere=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fcbp.grid(seed=range(10**9)), "seed is .*; expected at most 1,000,000 values"),
        (lambda: fcbp.grid(seed=range(10**30)), "seed is .*; expected at most 1,000,000 values"),
        (lambda: fcbp.grid(seed=itertools.count()), "seed is .*; expected at most 1,000,000 values"),
        (lambda: fcbp.grid(seed=range(10**4), step_size=range(10**4)), "seed and step_size are .* 100,000,000 members"),
        (lambda: fcbp.paired(seed=range(10**9)), "seed is .*; expected at most"),
        (lambda: designs.listed([{"method": "bp"}, {"method": "cbp"}], seed=range(10**6)), "2,000,000 members"),
        (lambda: designs.random(10**12, step_size=designs.log(0.1, 1.0)), "number is 1000000000000"),
        (lambda: designs.sobol(10**12, step_size=designs.log(0.1, 1.0)), "number is 1000000000000"),
        (lambda: designs.random(10**6, seed=range(9), step_size=designs.log(0.1, 1.0)), "9,000,000 members"),
        (lambda: fcbp.grid(seed="nonsense"), "seed is 'nonsense'"),
        (lambda: fcbp.grid(seed=[0, None]), "seed is None"),
        (lambda: fcbp.grid(step_size=float("nan")), "step_size is nan"),
        (lambda: fcbp.grid(step_size=[{"a": 1}]), "step_size is {'a': 1}"),
        (
            lambda: fcbp.sweep("bit-flipping", {"seed": [0]}, steps=10**12, bin=1),
            "bin is 1 and steps",
        ),
    ],
)
def test_a_population_that_no_machine_lists_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_home_directory_in_an_address_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "of_mine.py").write_text("def units():\n    return 3\n", encoding="utf-8")
    found = addresses.load("~/of_mine.py:units")
    assert found() == 3
    assert found is addresses.load("of_mine.py:units"), "the file is imported once"
    assert addresses.source_of("~/of_mine.py:units").file == str(tmp_path / "of_mine.py")
    addresses.check_allowed("~/of_mine.py:units")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside of the current directory"):
        addresses.check_allowed("~/of_mine.py:units")
    with pytest.raises(ValueError, match="which is not there"):
        addresses.load("~/not_there.py:units")


def test_paths_are_expanded_and_urls_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("out", "~/x") == tmp_path / "x"
    for url in ("s3://bucket/run", "https://a.b/c", "gs:/bucket", "", 3, None, "a\0b"):
        with pytest.raises(ValueError, match=r"^out is "):
            expanded("out", url)
    file = tmp_path / "a.yaml"
    file.write_text("step_size: 0.1\n", encoding="utf-8")
    assert fcbp.experiment.load("~/a.yaml")[0] == fcbp.Experiment(step_size=0.1)
    for call in (fcbp.data.load, fcbp.data.about):
        with pytest.raises(ValueError, match="root is "):
            call("mnist", root="s3://bucket")


def without_encoding(source: str) -> list[int]:
    """The lines of a source that open a file as text in whatever encoding the machine has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in ("read_text", "write_text"):
            found.append(node.lineno)
        if isinstance(function, ast.Name) and function.id == "open":
            found += [] if _is_binary(node.args[1:]) else [node.lineno]
        if isinstance(function, ast.Attribute) and function.attr == "open":
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
            found += [] if owner in NO_FILES or _is_binary(node.args) else [node.lineno]
    return found


NO_FILES = {"os", "tarfile", "gzip", "zipfile", "sweeps", "store", "fcbp", "xarray", "zarr", "webbrowser"}


def _is_binary(arguments: list[ast.expr]) -> bool:
    return "b" in "".join(
        str(part.value) for one in arguments for part in ast.walk(one) if isinstance(part, ast.Constant)
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_text_is_read_and_written_as_utf_8(path):
    assert without_encoding(path.read_text(encoding="utf-8")) == []


def test_a_text_file_without_an_encoding_is_seen():
    assert without_encoding("open('a')\nPath('a').read_text()\np.write_text('b')\np.open('a')\n") == [1, 2, 3, 4]
    assert without_encoding("open('a', 'rb')\np.open('wb')\np.read_text(encoding='utf-8')\n") == []


def test_within_a_context_an_object_is_searched_for_once_and_outside_of_it_anew(monkeypatch):
    searched = []
    search = addresses._searched
    monkeypatch.setattr(addresses, "_searched", lambda value: searched.append(value) or search(value))
    lost = object()
    with addresses.looked_up_once():
        assert addresses.address_of(lost) is None
        with addresses.looked_up_once():
            assert addresses.address_of(lost) is None
    assert searched == [lost]
    monkeypatch.setattr(designs, "found", lost, raising=False)
    assert addresses.address_of(lost) == "fcbp.designs:found"


def test_a_module_that_is_gone_is_imported_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "again.py").write_text("made = object()\n", encoding="utf-8")
    first = addresses.load("again.py:made")
    assert addresses.load("again.py:made") is first
    gone = [name for name in sys.modules if name.endswith("_again")]
    for name in gone:
        del sys.modules[name]
    assert gone
    assert addresses.load("again.py:made") is not first
