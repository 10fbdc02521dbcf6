"""The same sweep in worker processes and on Ray, with workers that die, stop, fail or cannot start."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import held_chunks
import numpy as np
import pytest
import torch

import fcbp
from fcbp.experiment import ExperimentMaker
from fcbp.sweeps import chunk, cluster, places, workers
from fcbp.sweeps.chunk import Advanced
from fcbp.sweeps.execution import Execution, Interrupted
from fcbp.sweeps.plan import Plan, divide

pytestmark = pytest.mark.slow  # it starts processes

EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=200, bin=10)
MEMBERS = {"seed": range(7), "replacement_rate": [0.0, 0.1]}


def sweep(members=MEMBERS, experiment=EXPERIMENT, **options):
    options = {"progress": False, "checkpoint_every": 0, "members_at_once": 7, **options}
    return fcbp.sweep(experiment, members, **options)


@pytest.fixture(scope="module")
def in_chunks():
    return sweep(members_at_once=7)


def same(found, expected):
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.fixture
def events(monkeypatch):
    """What the sweep is told."""
    seen = []
    handle = Execution._handle

    def look(self, event):
        seen.append(event)
        handle(self, event)

    monkeypatch.setattr(Execution, "_handle", look)
    return seen


def half_way(monkeypatch, act):
    """Do something once, when both chunks are at work."""
    handle = Execution._handle
    reached, done = set(), []

    def acting(self, event):
        handle(self, event)
        if isinstance(event, Advanced) and event.step >= held_chunks.HALF_WAY - 20:
            reached.add(event.chunk)
            if reached == {0, 1} and not done:
                done.append(act())

    monkeypatch.setattr(Execution, "_handle", acting)
    return done


@pytest.fixture
def gate(monkeypatch, tmp_path):
    """Chunks in other processes wait half-way until they are told to stop or this file is there."""
    path = tmp_path / "gate"
    monkeypatch.setenv(held_chunks.GATE, str(path))
    monkeypatch.setattr(workers, "COMMAND", held_chunks.COMMAND)
    tests = str(Path(held_chunks.__file__).parent)

    def work(task, mailbox):  # a closure, which travels to Ray's workers whole
        import sys

        sys.path.insert(0, tests)
        import held_chunks

        held_chunks.work(task, mailbox)

    monkeypatch.setattr(cluster, "work", work)
    return path


@pytest.fixture
def started(monkeypatch):
    """The worker processes in the order in which they started."""
    processes = []
    start = subprocess.Popen

    def recorded(command, **options):
        process = start(command, **options)
        if workers.COMMAND in command:
            processes.append(process)
        return process

    monkeypatch.setattr(workers.subprocess, "Popen", recorded)
    return processes


@pytest.fixture
def runs(monkeypatch):
    """By chunk the process that runs it."""
    found = {}
    tell = workers._tell

    def recorded(worker, message):
        if message is not None:
            found[message.chunk.id] = worker.process
        tell(worker, message)

    monkeypatch.setattr(workers, "_tell", recorded)
    return found


def steps_of(events, chunk):
    return [event.step for event in events if isinstance(event, Advanced) and event.chunk == chunk]


# --- the same results -----------------------------------------------------------------------------------


def test_whole_and_in_chunks(in_chunks):
    whole = sweep(members_at_once=None)
    for name in whole:
        np.testing.assert_allclose(in_chunks[name], whole[name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(in_chunks["units_replaced"], whole["units_replaced"])


def test_two_workers_one_of_them_killed(in_chunks, events, started, runs, gate, monkeypatch, tmp_path, capsys):
    def kill():
        runs[0].kill()
        gate.touch()

    half_way(monkeypatch, kill)
    found = sweep(devices=2, out=tmp_path / "run", progress=True)
    same(found, in_chunks)
    same(fcbp.open(tmp_path / "run"), in_chunks)
    assert len(started) == 3
    assert all(process.poll() is not None for process in started)
    assert {event.chunk for event in events} == {0, 1}
    steps = steps_of(events, 0)
    assert steps.count(10) == 1, "it went on and did not begin anew"
    assert len(steps) <= 21
    shown = capsys.readouterr().err
    assert "14 members: 100%" in shown
    assert "member-steps/s" in shown
    assert "0 NaN" in shown
    assert "units replaced" in shown


def test_the_time_of_each_program_is_that_of_its_process():
    """However long the others took."""
    members = {"seed": [0, 1], "activation": ["relu", "tanh"]}
    for options in ({}, {"devices": 2}):
        results = sweep(members, **options)
        seconds = [program["seconds"] for program in json.loads(results.attrs["programs"])]
        assert len(seconds) == 2
        assert min(seconds) > 0
        assert max(seconds) <= results.attrs["seconds"] + 0.1


def test_ctrl_c_with_workers(in_chunks, started, gate, monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "SECONDS_TO_END", 300)
    with monkeypatch.context() as patch:
        half_way(patch, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted, match="to go on"):
            sweep(devices=2, out=tmp_path / "run", checkpoint_every=1e9)
    assert all(process.poll() == 0 for process in started)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2, "each chunk saved its state"
    same(fcbp.resume(tmp_path / "run", progress=False), in_chunks)


# --- what goes wrong in workers -------------------------------------------------------------------------


class Python:
    """A stand-in for the interpreter that does as it is told."""

    def __init__(self, monkeypatch, tmp_path, script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(workers.sys, "executable", str(path))


def test_a_worker_without_the_package(monkeypatch, tmp_path, capfd):
    Python(monkeypatch, tmp_path, f"exec {sys.executable} -S -c 'import fcbp_is_not_here'")
    with pytest.raises(RuntimeError, match=r"ended with status 1 before it began.*must be able to import fcbp"):
        sweep(devices=2)
    assert "No module named" in capfd.readouterr().err


def test_workers_that_are_killed_as_they_start_are_replaced(in_chunks, started, monkeypatch, tmp_path):
    """Some of them, before they have imported anything."""
    count = tmp_path / "count"
    Python(
        monkeypatch,
        tmp_path,
        f'echo >> {count}; [ $(wc -l < {count}) -gt 3 ] || kill -9 $$; exec {sys.executable} "$@"',
    )
    same(sweep(devices=2), in_chunks)
    assert len(started) > 2


def test_a_worker_that_never_starts_is_told_after_some_attempts(started, monkeypatch, tmp_path):
    Python(monkeypatch, tmp_path, "kill -9 $$")
    with pytest.raises(RuntimeError, match="by signal SIGKILL before it began, and so did 3 before it"):
        sweep(devices=2)
    assert len(started) <= 2 * (places.RETRIES + 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_while_workers_start_stops_the_sweep(in_chunks, started, number, monkeypatch, tmp_path, capfd):
    """As Ctrl-C in a terminal: it reaches every process, those that still import as well."""
    monkeypatch.setattr(workers, "COMMAND", "import time, sys; time.sleep(600)")
    start = subprocess.Popen

    def at_once(command, **options):
        process = start(command, **options)
        if workers.COMMAND in command:
            os.kill(process.pid, number)
            if len(started) == 2:
                os.kill(os.getpid(), number)
        return process

    with monkeypatch.context() as patch:
        patch.setattr(workers.subprocess, "Popen", at_once)
        with pytest.raises(Interrupted, match="to go on"):
            sweep(devices=2, out=tmp_path / "run")
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2, "they were no longer needed"
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.undo()
    same(fcbp.resume(tmp_path / "run", progress=False), in_chunks)


def test_a_worker_that_dies_again_and_again(monkeypatch, tmp_path):
    """It says that it is ready, and dies with what it is given."""
    code = (
        "import sys; from multiprocessing.connection import Connection; c = Connection(int(sys.argv[3])); "
        "c.send(None); c.recv_bytes(); import os; os.kill(os.getpid(), 9)"
    )
    Python(monkeypatch, tmp_path, f"exec {sys.executable} -c '{code}' \"$@\"")
    with pytest.raises(RuntimeError, match="by signal SIGKILL, and so did 3 before it with the same 7 members"):
        sweep(devices=2)


def test_what_fails_in_a_worker_is_raised_here(monkeypatch, tmp_path):
    code = (
        "import sys, fcbp.sweeps.workers as w; "
        'w.run_chunk = lambda *_: (_ for _ in ()).throw(ValueError("no such thing")); w.serve(int(sys.argv[3]))'
    )
    Python(monkeypatch, tmp_path, f"exec {sys.executable} -c '{code}' \"$@\"")
    with pytest.raises(ValueError, match="no such thing"):
        sweep(devices=2, out=tmp_path / "run")
    assert fcbp.sweeps.state(tmp_path / "run") == "failed"


def test_an_error_that_cannot_travel():
    class Local(Exception):
        pass

    assert str(workers._portable(Local("why"))) == "Local: why"
    error = ValueError("why")
    assert workers._portable(error) is error


# --- Ray ------------------------------------------------------------------------------------------------


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="pip install 'fcbp[ray]'")


def parents(pid):
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_a_ray_worker():
    """SIGKILL for one of the processes in which a Ray started by this process runs a chunk."""
    for entry in Path("/proc").iterdir():
        try:
            is_worker = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::work")
            if is_worker and os.getpid() in parents(int(entry.name)):
                os.kill(int(entry.name), signal.SIGKILL)
                return True
        except (OSError, ValueError):  # it has just ended
            continue
    return False


@pytest.mark.filterwarnings("ignore")
def test_ray_with_a_worker_killed(ray, in_chunks, events, gate, monkeypatch, tmp_path, capsys):
    def kill():
        killed = kill_a_ray_worker()
        gate.touch()
        return killed

    killed = half_way(monkeypatch, kill)
    found = sweep(backend="ray", devices=2, out=tmp_path / "run", progress=True)
    assert killed == [True]
    assert not ray.is_initialized()
    assert [steps_of(events, chunk).count(10) for chunk in (0, 1)] == [1, 1], "it went on and did not begin anew"
    same(found, in_chunks)
    same(fcbp.open(tmp_path / "run"), in_chunks)
    assert "14 members: 100%" in capsys.readouterr().err


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name == "fcbp":
            raise ModuleNotFoundError("No module named 'fcbp'", name="fcbp")
sys.meta_path.insert(0, Hidden())
"""


@pytest.mark.filterwarnings("ignore")
def test_a_ray_worker_without_the_package_and_ctrl_c(ray, in_chunks, gate, monkeypatch, tmp_path):
    """On a Ray that runs already, which stays."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    options = {"num_cpus": 2, "include_dashboard": False, "logging_level": "error", "log_to_driver": False}
    ray.init(**options, runtime_env={"env_vars": {"PYTHONPATH": str(tmp_path)}})
    try:
        with pytest.raises(ImportError, match=r"a Ray worker cannot import fcbp.*install it on every node"):
            sweep(backend="ray", devices=2, out=tmp_path / "run")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    ray.init(**options)
    try:
        assert cluster.room(places.choose(None, None, "ray", None)) == 2, "of it all that there is"
        with monkeypatch.context() as patch:
            half_way(patch, lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(Interrupted, match="to go on"):
                sweep(backend="ray", devices=2, out=tmp_path / "run", resume=True)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    same(fcbp.resume(tmp_path / "run", progress=False), in_chunks)


def test_a_ray_worker_builds_a_program_once(ray, monkeypatch):
    built = []
    build = chunk.population_of
    monkeypatch.setattr(chunk, "population_of", lambda *args: (built.append(args), build(*args))[1])
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    told = []
    mailbox = SimpleNamespace(
        saved=SimpleNamespace(remote=lambda number: None),
        post=SimpleNamespace(remote=lambda events: told.extend(events)),
    )
    runs = Plan(ExperimentMaker(EXPERIMENT), fcbp.grid(**MEMBERS), 20, 10, False)
    for digest, number in {"one": 1, "another": 2}.items():
        for part in divide(runs, [7]):
            cluster.work(chunk.Task(runs, part, None, digest, "cpu", 1, 60.0), mailbox)
        assert len(built) == number
    assert [event.chunk for event in told if isinstance(event, chunk.Finished)] == [0, 1] * 2


@pytest.mark.parametrize("address", ["127.0.0.1:9", "auto", "no-such-host.invalid:6379", "ray://127.0.0.1:9"])
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_ray_address(ray, address, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Nor is what another test or user of this machine has started.
    monkeypatch.setattr(ray._private.services, "find_gcs_addresses", functools.cache(set), raising=False)
    monkeypatch.setattr(ray._private.services, "find_bootstrap_address", lambda folder: None, raising=False)
    message = f"address is '{address}', where no Ray cluster answers .*ray start --head"
    with pytest.raises(ConnectionError, match=message):
        sweep(backend="ray", address=address, out=tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was begun"
    with pytest.raises(ConnectionError, match=message):
        sweep(backend="ray", address=address, out=tmp_path, devices=2)
    assert fcbp.sweeps.state(tmp_path) == "failed"


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'fcbp\[ray\]'"):
        sweep(backend="ray")


# --- arguments ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "rya"}, "backend is 'rya'; expected one of ray; did you mean 'ray'"),
        ({"address": "auto"}, "address is 'auto' without a backend"),
        ({"device": "cpu", "devices": 2}, "device is 'cpu' and devices 2; expected one of them"),
        ({"devices": 0}, "devices is 0; expected a whole number, 1 or more"),
        ({"devices": True}, "devices is True"),
        ({"devices": 10**9}, "devices is 1000000000; expected a whole number, 1 or more and at most 1,024"),
        ({"devices": 10**400}, "devices is 1000"),
        ({"devices": ["cpu"] * 2000}, "devices has 2,000 names; expected at most 1,024"),
        ({"devices": 10**9, "backend": "ray"}, "devices is 1000000000; expected .* at most 65,536"),
        ({"devices": []}, r"devices is \[\]; expected at least one"),
        ({"device": "gpu"}, "device is 'gpu'; expected 'cpu', or a GPU that this machine has, such as 'cuda:0'"),
        ({"devices": ["cuda:99"]}, "devices is 'cuda:99'; expected 'cpu', or a GPU that this machine has"),
        ({"checkpoint_every": -1}, "checkpoint_every is -1; expected a number, 0 or more"),
        ({"checkpoint_every": float("nan")}, "checkpoint_every is nan"),
    ],
)
def test_bad_arguments(arguments, message, monkeypatch, tmp_path):
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=message):
        sweep(out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_places(monkeypatch):
    monkeypatch.setattr(places, "cores", lambda: 8)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert places.choose(None, None, None, None).devices == ("cpu",)
    assert places.choose(None, "all", None, None) == places.Places(("cpu",) * 8, None, None, 1)
    assert places.choose(None, 3, None, None) == places.Places(("cpu",) * 3, None, None, 2)
    assert places.choose(None, 16, None, None).threads == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert places.choose(None, "all", None, None).devices == ("cuda:0", "cuda:1")
    assert places.choose(None, ["cuda:1"], None, None).devices == ("cuda:1",)
    assert places.choose(torch.device("cuda"), None, None, None).devices == ("cuda",)
    assert places.choose(None, "cuda:1", "ray", "auto") == places.Places(("cuda:1",), "ray", "auto", 1)
    assert places.choose("cuda", None, "ray", "auto") == places.Places(("cuda",), "ray", "auto", 1, elastic=True)
    own = places.choose(None, None, "ray", None)
    assert own == places.Places(("cpu",) * 8, "ray", None, 1, elastic=True)
    assert places.choose(None, 2, "ray", None) == places.Places(("cpu",) * 2, "ray", None, 4)


def test_a_ray_of_ones_own_is_asked_for_as_such(ray, monkeypatch):
    """Ray by itself would join one that runs on this machine, of whomever."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    own = places.choose(None, None, "ray", None)
    assert cluster.room(own) == places.cores()
    asked = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with cluster._connected(own):
        assert (asked["address"], asked["num_cpus"]) == ("local", places.cores())
    asked.clear()
    with cluster._connected(places.choose(None, None, "ray", "somewhere")):
        assert (asked["address"], "num_cpus" in asked) == ("somewhere", False)
