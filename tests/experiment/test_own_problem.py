"""A problem of a user's own, from Python and the command line, killed, in chunks, over workers and on Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import own_problem
import pytest

import fcbp

SUPPORT = Path(own_problem.__file__).parent
MEMBERS = {"seed": range(4), "batch_size": [1, 32], "step_size": [0.001, 0.01]}
OPTIONS = {"steps": 20, "progress": False, "compile": False}
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT), str(Path(__file__).parent)]),
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "agg",
}
pytestmark = pytest.mark.filterwarnings("ignore:no unit will be replaced:UserWarning")


def sweep(**options):
    return fcbp.sweep(own_problem.experiment, MEMBERS, **{**OPTIONS, **options})


def same(found, expected):
    for name in expected:
        in_order = found[name].transpose(*expected[name].dims)
        np.testing.assert_array_equal(in_order, expected[name], err_msg=name)


@pytest.fixture(scope="module")
def in_sevens():
    return sweep(members_at_once=7)


@pytest.mark.slow
def test_accuracy_by_task_in_the_dataset_and_in_the_picture(in_sevens):
    assert in_sevens["accuracy"].dims == ("seed", "batch_size", "step_size", "task")
    assert in_sevens["margin"].dims == in_sevens["test_accuracy"].dims == in_sevens["accuracy"].dims
    assert list(in_sevens["task"].values) == [0, 1]
    assert list(in_sevens["step"].values) == [10, 20]
    assert ((in_sevens["accuracy"] >= 0) & (in_sevens["accuracy"] <= 1)).all()
    large = in_sevens.sel(batch_size=32, step_size=0.01)["accuracy"].mean()
    assert large > 0.12  # better than chance
    axes = fcbp.plots.learning_curves(in_sevens, "accuracy")
    assert "task" in axes.get_xlabel()
    assert "accuracy" in axes.get_ylabel()
    plt.close("all")


@pytest.mark.slow
def test_whole_and_in_sevens(in_sevens):
    whole = sweep()
    for name in whole:
        np.testing.assert_allclose(in_sevens[name], whole[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_from_the_command_line_with_the_users_own_flags(in_sevens, tmp_path):
    flags = (
        "--seeds 4 --batch-size 1 32 --step-size 0.001 0.01 --width 8 --replacement-rate 0.0001 --steps 20 "
        "--members-at-once 7 --compile False"
    )
    command = [sys.executable, "-m", "fcbp.cli", "run", f"{SUPPORT}/own_problem.py:experiment", *flags.split()]
    done = subprocess.run([*command, "--out", "run"], env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with fcbp.open(tmp_path / "run") as found:
        by_name = {"seed": range(4), "batch_size": [1, 32], "step_size": [0.001, 0.01]}
        assert all(list(found[name].values) == list(values) for name, values in by_name.items())
        same(found, in_sevens)
    assert list((tmp_path / "run").rglob("*.png"))


KILLED = """
import sys, torch
torch.set_num_threads(1)
import fcbp, own_problem, test_own_problem as t
fcbp.sweep(own_problem.experiment, t.MEMBERS, out=sys.argv[1], members_at_once=7, checkpoint_every=0, **t.OPTIONS)
"""


@pytest.mark.slow
def test_killed_and_resumed_to_the_same_bits(in_sevens, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "run"], env=ENVIRONMENT)
    while process.poll() is None and not list((tmp_path / "run").glob("checkpoints/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = fcbp.resume(tmp_path / "run", progress=False)
    same(resumed, in_sevens)


@pytest.mark.slow
def test_over_two_workers(in_sevens):
    same(sweep(members_at_once=7, devices=2), in_sevens)


@pytest.mark.slow
def test_on_local_ray(in_sevens):
    pytest.importorskip("ray")
    same(sweep(members_at_once=7, backend="ray", devices=2), in_sevens)


USER = """
import fcbp, sklearn.datasets, torch

X, Y = (torch.as_tensor(a) for a in sklearn.datasets.load_digits(return_X_y=True))
X = X.float() / 16


def init(key):
    return key


def sample(key, length):
    key, now = fcbp.random.split(key)
    rows = fcbp.random.randint(now, (length, 32), 0, len(Y))
    return key, (X[rows], Y[rows])


digits = fcbp.streams.from_sampler(init, sample, spec=fcbp.streams.Spec((64,), 10, "classification"))


def network(spec):
    return torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))


experiment = fcbp.Experiment(stream=digits, network=network, metrics=("accuracy",), steps=20, bin=10)
results = fcbp.sweep(experiment, fcbp.grid(seed=range(2), step_size=[0.01, 0.1]), progress=False, compile=False)
"""


@pytest.mark.slow
def test_a_stream_from_arrays_a_network_and_a_sweep_are_under_25_lines():
    assert len([line for line in USER.splitlines() if line.strip()]) < 25
    names = {}
    exec(compile(USER, "user", "exec"), names)
    assert names["results"]["accuracy"].dims == ("seed", "step_size", "step")


@pytest.mark.compiled
def test_compiled_as_eager():
    members = {"seed": [0, 1], "batch_size": [1]}
    compiled, eager = (
        fcbp.sweep(own_problem.experiment, members, steps=20, progress=False, compile=how) for how in (True, False)
    )
    for name in ("loss", "accuracy", "test_accuracy"):
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-3, atol=1e-4)
