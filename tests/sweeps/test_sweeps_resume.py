"""Sweeps that are killed, interrupted or find files damaged: they go on to the same bits, or say what is wrong."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from interruption import Killed, kill_after

import fcbp
from fcbp.sweeps import advance, checkpoint, files, folder, store
from fcbp.sweeps.chunk import Advanced, Saved
from fcbp.sweeps.execution import Execution, Interrupted

MEASURED = ("inactive_units", "weight_magnitude", "effective_rank", "stable_rank")
EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=40, bin=10, metrics=MEASURED)
MEMBERS = {"seed": [0, 1], "replacement_rate": [0.0, 0.1]}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(advance, "PIECE", 5)


def sweep(out, experiment=EXPERIMENT, members=MEMBERS, **options):
    options = {"checkpoint_every": 0, "progress": False, "members_at_once": 2, **options}
    return fcbp.sweep(experiment, members, out=out, **options)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advance, "PIECE", 5)
        out = tmp_path_factory.mktemp("undisturbed")
        sweep(out)
        return out


def blocks(out):
    """The bytes of every block of results."""
    paths = sorted((out / store.STORE).rglob("[0-9]*"))
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


def same(out, undisturbed):
    found, expected = blocks(out), blocks(undisturbed)
    assert found.keys() == expected.keys()
    assert found == expected
    assert fcbp.sweeps.state(out) == "finished"
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "experiment.yaml", "plan.json", store.STORE]


def half_done(out, events, **options):
    """A directory of a sweep that was killed; of each number of events one is run, and the others are its copies."""
    if not options and events in killed:
        shutil.copytree(killed[events], out, dirs_exist_ok=True)
        return
    with pytest.MonkeyPatch.context() as patch:
        kill_after(patch, events)
        with pytest.raises(Killed):
            sweep(out, **options)
    if not options:
        killed[events] = Path(tempfile.mkdtemp(dir=out.parent))
        shutil.copytree(out, killed[events], dirs_exist_ok=True)


killed: dict[int, Path] = {}
"""Copies of directories by the number of events after which the sweep was killed."""


# --- kills ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_killed_at_20_random_moments_gives_the_same_bits(tmp_path):
    """SIGKILL by the clock, and inside the writing of a checkpoint: before, after and in the middle of it."""
    script = Path(__file__).parents[1] / "support" / "sweep_killer.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, script, tmp_path, "1"], capture_output=True, text=True, check=False, env=environment
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["by_clock"] + sum(report["writing"].values()) == 20
    assert report["by_clock"] >= 4
    assert min(report["writing"].values()) >= 1
    for number in range(1, report["runs"] + 1):
        same(tmp_path / f"killed-{number}", tmp_path / "undisturbed")
    assert fcbp.open(tmp_path / "undisturbed")["units_replaced"].sum() > 0


@pytest.mark.parametrize("events", [1, 2, 5, 12, 21])
def test_resume_and_sweep_with_resume_go_on(tmp_path, undisturbed, events):
    half_done(tmp_path, events)
    assert fcbp.sweeps.state(tmp_path) == "killed"
    results = fcbp.resume(tmp_path, progress=False) if events % 2 else sweep(tmp_path, resume=True)
    same(tmp_path, undisturbed)
    assert results.identical(fcbp.open(tmp_path))


def test_with_out_and_without_are_the_same_and_resume_begins_where_there_is_nothing(tmp_path, undisturbed):
    sweep(tmp_path, resume=True)
    same(tmp_path, undisturbed)
    in_memory = sweep(None)
    on_disk = fcbp.open(undisturbed)
    for name in on_disk:
        np.testing.assert_array_equal(in_memory[name], on_disk[name])
    differ = dict.fromkeys(("began", "seconds", "programs"))
    assert {**in_memory.attrs, **differ} == {**on_disk.attrs, **differ}


def test_the_time_of_each_program_goes_on(tmp_path):
    """As it was when the last checkpoint was written, and not from 0."""
    members = {"seed": [0, 1], "activation": ["relu", "tanh"]}
    half_done(tmp_path, 21, members=members)
    config = json.loads((tmp_path / "config.json").read_text())
    assert [program["settings"] for program in config["programs"]] == [{"activation": "relu"}, {"activation": "tanh"}]
    assert [program["members"] for program in config["programs"]] == [2, 2]
    before = [program["seconds"] for program in config["programs"]]
    assert before[0] > 0
    config["programs"][0]["seconds"] = 1000.0
    (tmp_path / "config.json").write_text(json.dumps(config))
    after = json.loads(fcbp.resume(tmp_path, progress=False).attrs["programs"])
    assert after[0]["seconds"] >= 1000
    assert 0 < after[1]["seconds"] < 1000


def test_a_run_without_the_time_of_its_programs_goes_on(tmp_path, undisturbed):
    half_done(tmp_path, 12)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["programs"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


def test_a_finished_run_is_only_read(undisturbed, monkeypatch):
    monkeypatch.setattr(Execution, "_handle", lambda *args: pytest.fail("work was done"))
    before = blocks(undisturbed)
    for results in (fcbp.resume(undisturbed, progress=False), sweep(undisturbed, resume=True)):
        assert np.isfinite(results["loss"]).all()
    assert blocks(undisturbed) == before


@pytest.mark.parametrize("stage", ["create", "_write_plan", "_write_config"])
def test_killed_before_it_began(tmp_path, undisturbed, stage, monkeypatch):
    def die(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(store.Results if stage == "create" else Execution, stage, die)
        with pytest.raises(Killed):
            sweep(tmp_path)
    with pytest.raises(ValueError, match=r"holds no config.json"):
        fcbp.resume(tmp_path)
    sweep(tmp_path)
    same(tmp_path, undisturbed)


@pytest.mark.compiled
def test_a_compiled_sweep_goes_on_to_the_same_bits(tmp_path):
    options = {"compile": True, "members_at_once": None}
    sweep(tmp_path / "whole", **options)
    half_done(tmp_path / "killed", 7, **options)
    fcbp.resume(tmp_path / "killed", progress=False)
    same(tmp_path / "killed", tmp_path / "whole")


def test_a_member_that_is_nan_stays_nan(tmp_path):
    members = {"seed": [0, 1], "step_size": [0.01, 1e6]}
    sweep(tmp_path / "whole", members=members)
    half_done(tmp_path / "killed", 12, members=members)
    results = fcbp.resume(tmp_path / "killed", progress=False)
    same(tmp_path / "killed", tmp_path / "whole")
    assert results.attrs["members_with_nan"] == 2
    assert results["loss"].sel(step_size=1e6, step=40).isnull().all()
    assert results["loss"].sel(step_size=0.01).notnull().all()


# --- interruptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, undisturbed, number, monkeypatch, capsys):
    handle = Execution._handle
    seen = []

    def interrupted(self, event):
        handle(self, event)
        seen.append(type(event))
        if len(seen) == 9:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Execution, "_handle", interrupted)
        with pytest.raises(Interrupted, match=rf"stopped at \d+%; to go on: fcbp resume {tmp_path}") as stop:
            sweep(tmp_path, progress=True, checkpoint_every=1e9)
    assert isinstance(stop.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before
    assert Saved in seen
    assert "stopping when the steps under way are done" in capsys.readouterr().err
    assert fcbp.sweeps.state(tmp_path) == "interrupted"
    so_far = fcbp.open(tmp_path)
    assert so_far.attrs["state"] == "interrupted"
    assert so_far["loss"].notnull().any()
    assert so_far["loss"].isnull().any()
    fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


def test_ctrl_c_twice_does_not_wait(tmp_path, undisturbed, monkeypatch):
    def twice(self, event):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Execution, "_handle", twice)
        with pytest.raises(KeyboardInterrupt) as stop:
            sweep(tmp_path)
    assert not isinstance(stop.value, Interrupted)
    assert fcbp.sweeps.state(tmp_path) == "interrupted"
    sweep(tmp_path, resume=True)
    same(tmp_path, undisturbed)


def test_without_out_ctrl_c_is_pythons_own(monkeypatch):
    handle, handler = Execution._handle, signal.getsignal(signal.SIGINT)
    seen = []

    def look(self, event):
        handle(self, event)
        seen.append(signal.getsignal(signal.SIGINT))

    monkeypatch.setattr(Execution, "_handle", look)
    sweep(None)
    assert {*seen} == {handler}


def test_a_sweep_in_a_thread_takes_no_signals(tmp_path, undisturbed):
    thread = threading.Thread(target=sweep, args=(tmp_path,))
    thread.start()
    thread.join()
    same(tmp_path, undisturbed)


# --- who may write --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_second_process_is_told(tmp_path, undisturbed, monkeypatch):
    sweep_in_vain = "import sys, fcbp; fcbp.resume(sys.argv[1])"
    found = []
    handle = Execution._handle

    def look(self, event):
        handle(self, event)
        if not found:
            found.append(fcbp.sweeps.state(tmp_path))
            found.append(
                subprocess.run([sys.executable, "-c", sweep_in_vain, tmp_path], capture_output=True, text=True)
            )
            for again in (lambda: fcbp.resume(tmp_path), lambda: sweep(tmp_path, resume=True)):
                with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on "):
                    again()

    monkeypatch.setattr(Execution, "_handle", look)
    sweep(tmp_path)
    state, process = found
    assert state == "running"
    assert process.returncode == 1
    assert f"in use by process {os.getpid()} on " in process.stderr
    same(tmp_path, undisturbed)


def test_a_lock_whose_process_is_gone_is_none(tmp_path, undisturbed):
    half_done(tmp_path, 8)
    (tmp_path / "lock").write_text("process 1 on elsewhere")
    assert fcbp.sweeps.state(tmp_path) == "killed"
    fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


def test_another_sweep_or_something_else_is_refused_and_kept(tmp_path, undisturbed):
    before = blocks(undisturbed)
    with pytest.raises(ValueError, match="holds a run; expected a new or an empty directory, or resume=True"):
        sweep(undisturbed)
    for change, message in {
        "steps": ({"steps": 50}, "steps is 40 there and 50 here"),
        "bin": ({"bin": 20}, "bin is 10 there and 20 here"),
        "experiment": ({"experiment": EXPERIMENT.replace(step_size=0.1)}, "step_size is 0.01 there and 0.1 here"),
        "part": ({"experiment": EXPERIMENT.replace(decay_rate=0.9)}, "decay_rate is None there and 0.9 here"),
        "axes": ({"members": {"seed": [0, 2]}}, r"axis seed is \[0, 1\] there and \[0, 2\] here"),
        "order": ({"members": {"seed": [1, 0], "replacement_rate": [0.0, 0.1]}}, "axis seed"),
    }.values():
        with pytest.raises(ValueError, match=f"another experiment: {message}"):
            sweep(undisturbed, resume=True, **change)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis\.tex and no run"):
        sweep(tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume is True and out is None"):
        sweep(None, resume=True)
    with pytest.raises(ValueError, match=r"holds no config.json"):
        fcbp.resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]
    assert blocks(undisturbed) == before


# --- disks ----------------------------------------------------------------------------------------------


def test_a_file_instead_of_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=r"writing failed: (Not a directory|File exists)"):
            sweep(out)


def read_only(path):
    """Make a directory read-only also for root, by mounting it; whether that worked."""
    path.mkdir()
    if os.getuid():
        path.chmod(0o500)
        return True
    return mounted(path, "ro")


def mounted(path, options):
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def unmount(path):
    subprocess.run(["umount", "-l", path], capture_output=True, check=False)


def test_a_read_only_directory(tmp_path, monkeypatch):
    out = tmp_path / "out"
    if not read_only(out):
        pytest.skip("nothing can be mounted here")
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    try:
        for path in (out, out / "run"):
            with pytest.raises(OSError, match=r"writing failed: (Read-only file system|Permission denied)"):
                sweep(path)
    finally:
        unmount(out)


def test_a_disk_that_fills_up(tmp_path):
    """A small file system: the error is clear, what was written stays, and with more room the sweep goes on."""
    out = tmp_path / "out"
    if not mounted(out, "size=112k"):
        pytest.skip("nothing can be mounted here")
    try:
        run = out / "run"
        with pytest.raises(OSError, match="No space left on device; make room and resume") as full:
            sweep(run, members={"seed": list(range(40)), "replacement_rate": [0.0, 0.1]}, members_at_once=40)
        assert full.value.errno == errno.ENOSPC
        before = fcbp.open(run)
        assert before["loss"].isnull().any()
        subprocess.run(["mount", "-o", "remount,size=8m", out], check=True)
        fcbp.resume(run, progress=False)
        whole = tmp_path / "whole"
        sweep(whole, members={"seed": list(range(40)), "replacement_rate": [0.0, 0.1]}, members_at_once=40)
        same(run, whole)
    finally:
        unmount(out)


@pytest.mark.parametrize("what", ["checkpoint", "results", "plan"])
def test_no_space_wherever_it_is_missed(tmp_path, undisturbed, what, monkeypatch):
    """As above, where nothing can be mounted: writing fails part of the way through a file."""
    count = 0

    def full(*args, **kwargs):
        nonlocal count
        count += 1
        if count > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    module, name = {
        "checkpoint": (checkpoint.OnDisk, "write"),
        "results": (store.Results, "_write_block"),
        "plan": (os, "fsync"),
    }[what]
    real = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, full)
        with pytest.raises(OSError, match="No space left on device"):
            sweep(tmp_path)
    if (tmp_path / "config.json").exists():
        assert not list(tmp_path.rglob("*.part"))
        fcbp.resume(tmp_path, progress=False)
    else:
        sweep(tmp_path)
    same(tmp_path, undisturbed)


def test_a_file_size_limit(tmp_path):
    """What the kernel itself cuts short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / "file"
    files.write(path, b"old")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="File too large; raise the limit and resume"):
            files.write(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# --- damage ---------------------------------------------------------------------------------------------


def saved_files(out):
    return sorted((out / folder.CHECKPOINTS).iterdir())


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "another file"])
@pytest.mark.parametrize("which", ["newest", "both"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, undisturbed, damage, which):
    half_done(tmp_path, 12)
    older, newest = saved_files(tmp_path)
    data = newest.read_bytes()
    damaged = {"cut": data[:-100], "empty": b"", "changed": data[:-9] + b"?" + data[-8:], "another file": b"PNG"}[
        damage
    ]
    for path in [newest] if which == "newest" else [older, newest]:
        path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=r"000000\.\d+ is of no use: its? (is no checkpoint|checksum)"):
        fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


def test_a_checkpoint_of_another_version(tmp_path, undisturbed, monkeypatch):
    half_done(tmp_path, 12)
    for path in saved_files(tmp_path):
        path.write_bytes(path.read_bytes().replace(b"fcbp checkpoint 1", b"fcbp checkpoint 9", 1))
    with pytest.raises(ValueError, match="checkpoint has format 9; expected 1: use the version that wrote it"):
        fcbp.resume(tmp_path, progress=False)
    for path in saved_files(tmp_path):
        path.write_bytes(path.read_bytes().replace(b"fcbp checkpoint 9", b"fcbp checkpoint 1", 1))
    fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


def test_another_version_of_torch_is_said(tmp_path, undisturbed):
    half_done(tmp_path, 12)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "torch": "1.0"}))
    with pytest.warns(UserWarning, match=r"began with torch 1.0 and goes on with 2"):
        fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


def test_a_checkpoint_of_another_experiment(tmp_path):
    half_done(tmp_path / "one", 12)
    half_done(tmp_path / "other", 12, experiment=EXPERIMENT.replace(step_size=0.1))
    half_done(tmp_path / "larger", 12, experiment=EXPERIMENT.replace(hidden=(6,)))
    for mine, theirs in zip(saved_files(tmp_path / "one"), saved_files(tmp_path / "other"), strict=True):
        mine.write_bytes(theirs.read_bytes())
    with pytest.raises(ValueError, match="the checkpoint is of another sweep"):
        fcbp.resume(tmp_path / "one", progress=False)
    one = folder.Folder(tmp_path / "one")
    digest = folder.digest(folder.read_plan(one))
    one.release()
    for mine, theirs in zip(saved_files(tmp_path / "one"), saved_files(tmp_path / "larger"), strict=True):
        about, tensors = checkpoint.unpack(theirs.read_bytes())
        about["sweep"] = digest
        mine.write_bytes(checkpoint.pack(about, tensors))
    with pytest.raises(ValueError, match=r"the checkpoint holds tensors .* expected"):
        fcbp.resume(tmp_path / "one", progress=False)


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
@pytest.mark.parametrize("when", ["finished", "killed"])
def test_a_damaged_block_of_results_is_computed_again(tmp_path, undisturbed, damage, when):
    if when == "finished":
        shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    else:
        half_done(tmp_path, 30)
    block = tmp_path / store.STORE / "loss" / "0.0.0"
    data = block.read_bytes()
    if damage == "gone":
        block.unlink()
    else:
        block.write_bytes(data[:-20] if damage == "cut" else data[:20] + bytes([data[20] ^ 1]) + data[21:])
        with pytest.raises(ValueError, match=r"is damaged .*fcbp.resume\(.* computes what is lost again"):
            fcbp.open(tmp_path)
    with pytest.warns(UserWarning, match=r"part of .* is damaged; [24] members are computed again"):
        fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


@pytest.mark.parametrize("name", ["config.json", "plan.json"])
def test_a_damaged_configuration_is_named(tmp_path, name):
    half_done(tmp_path, 12)
    (tmp_path / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        fcbp.resume(tmp_path, progress=False)


def test_leftovers_of_writes_that_were_cut_are_removed(tmp_path, undisturbed):
    half_done(tmp_path, 12)
    (tmp_path / store.STORE / "loss" / "0.0.partial").write_bytes(b"half")
    (tmp_path / folder.CHECKPOINTS / "000000.000099.part").write_bytes(b"half")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fcbp.resume(tmp_path, progress=False)
    same(tmp_path, undisturbed)


# --- checkpoints ----------------------------------------------------------------------------------------


def test_a_checkpoint_gives_back_what_it_was_given():
    tensors = [
        torch.arange(6.0).reshape(2, 3).T,
        torch.tensor(True),
        torch.tensor(1, dtype=torch.int64).expand(4),
        torch.empty(0),
        torch.tensor([torch.nan, -0.0, torch.inf]),
    ]
    about, found = checkpoint.unpack(checkpoint.pack({"step": 3}, tensors))
    assert about == {"step": 3}
    for mine, given in zip(found, tensors, strict=True):
        assert (mine.stride(), mine.dtype, mine.shape) == (given.stride(), given.dtype, given.shape)
        assert mine.numpy().tobytes() == given.numpy().tobytes()


def test_two_checkpoints_are_kept_and_a_failing_write_harms_neither(tmp_path, monkeypatch):
    kept = checkpoint.OnDisk(files.Directory(tmp_path), "checkpoints")
    owner = checkpoint.Owner("sweep", (0, 1), 10)

    def names():
        return [path.name for path in (tmp_path / "checkpoints").iterdir()]

    for step in range(1, 6):
        kept.write(7, checkpoint.pack(owner.about(step), []))
        assert len(names()) == min(step, 2)
    kept.write(70, checkpoint.pack(owner.about(9), []))
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="Input/output error"):
        kept.write(7, checkpoint.pack(owner.about(6), []))
    assert checkpoint.restore(kept.read(7, owner), owner)[0] == 5
    assert len(names()) == 3
    kept.drop(7)
    assert kept.read(7, owner) is None
    assert checkpoint.restore(kept.read(70, owner), owner)[0] == 9


def test_checkpoints_come_when_they_are_due(tmp_path, monkeypatch):
    now = [0.0]
    seen = []
    handle = Execution._handle

    def advance(self, event):
        handle(self, event)
        seen.append(type(event))
        now[0] += isinstance(event, Advanced)

    monkeypatch.setattr("fcbp.sweeps.chunk.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Execution, "_handle", advance)
    sweep(tmp_path, checkpoint_every=3, members_at_once=None)
    assert [seen[:i].count(Advanced) for i, kind in enumerate(seen) if kind is Saved] == [3, 6]
