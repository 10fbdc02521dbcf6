"""``python -m tests.gpu``: what it says without a GPU, and that its dry way finds what is wrong."""

import importlib
import subprocess
import sys
from pathlib import Path

import optree
import pytest
import torch

from fcbp import lanes, loop

TESTS = Path(__file__).parent.parent


@pytest.fixture
def part(monkeypatch):
    """``part(name)`` is a module of the command."""
    for folder in ("benchmarks", "gpu"):
        monkeypatch.syspath_prepend(str(TESTS / folder))
    return lambda name: importlib.import_module(f"gpu_{name}")


def step(carry, x):
    w, key = carry
    h = torch.tanh(w.T @ x)
    return (w - 0.1 * torch.outer(x, h), key * 3 + 1), (h.exp().sum(), torch.where(key % 3 > 1, h[0], -1.0))


def inputs(members=41):
    return (torch.randn(members, 4, 3), torch.arange(members)), torch.randn(6, members, 4)


@pytest.mark.compiled
def test_a_kernel_as_cpp_has_the_bits_of_lanes(part, monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    carry, xs = inputs()
    with part("dry").kernels_on_host():
        found = loop.scan(torch.vmap(step), carry, xs, backend="lanes")
    expected = loop.scan(torch.vmap(step), carry, xs, backend="lanes")
    assert all(map(torch.equal, optree.tree_leaves(found), optree.tree_leaves(expected)))


def test_a_kernel_with_an_error_is_not_taken(part):
    with pytest.raises(RuntimeError, match="no_such_function"):
        part("dry").compile_on_host("KERNEL void run() { no_such_function(); }", "run")
    if part("dry").passes_nvcc("__global__ void run() {}") is not None:
        with pytest.raises(RuntimeError, match="no_such_function"):
            part("dry").passes_nvcc("__global__ void run() { no_such_function(); }")


def test_what_fails_is_told_and_does_not_end_the_report(part, monkeypatch):
    checks = part("checks")
    assert checks.run("random bits", "cpu", dry=True)[0]
    monkeypatch.setattr(checks.fcbp.random, "uniform", lambda key, shape: torch.rand(shape, device=key.device))
    monkeypatch.setitem(checks.CHECKS, "random bits", lambda device: checks.random_bits(device))
    passed, text = checks.run("random bits", "cpu", dry=True)
    assert not passed
    assert "Error" in text


@pytest.mark.compiled
def test_a_row_is_measured(part):
    rows = part("rows")
    clock = rows.Device("cpu")
    with part("dry").kernels_on_host():
        row = rows.measure("20-5-1, batch 1", 8, clock, (1e12, 1e12), steps=2)
    assert row["failed"] == {}
    assert set(row["seconds a step"]) == {"eager", "kernel"}
    assert row["members per second"] == 8 / min(row["seconds a step"].values())
    assert row["bound by"] == "launches"
    assert f"{row['members per second']:,.0f}/s" in rows.line(row)


def test_a_row_too_large_for_the_memory_is_left_out(part):
    rows = part("rows")
    row = rows.measure("784-300-150-10, batch 32", 1 << 22, rows.Device("cpu"), (1, 1))
    assert "needs about" in rows.line(row)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "no GPU is at hand; --dry"),
        (["--dry", "--only", "random bits"], 0, "0 of 1 checks failed"),
        (["--dry", "--seconds", "1", "--only", "random bits"], 0, "no time was left"),
    ],
)
def test_the_command(words, status, said, tmp_path):
    if not words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "tests.gpu", "--json", str(tmp_path / "gpu.json"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == status, done.stderr
    assert said in done.stdout
