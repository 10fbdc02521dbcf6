"""What others put into a run directory, and what accidents leave in it: nothing outside of it is read, written or
removed, and no number changes without a word."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fcbp
from fcbp import plots
from fcbp.sweeps import advance, blocks, checkpoint, files, folder, store
from fcbp.sweeps.execution import Execution

pytestmark = pytest.mark.slow  # it starts processes

EXPERIMENT = fcbp.Experiment(
    maturity_threshold=5, replacement_rate=0.1, steps=40, bin=10, metrics=("inactive_units", "effective_rank", "age")
)
MEMBERS = {"seed": [0, 1], "replacement_rate": [0.05, 0.1], "activation": ["relu", "tanh"]}


class Enough(BaseException):
    """Stands for a kill: nobody catches it to tidy up."""


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(advance, "PIECE", 5)


def sweep(out, **options):
    options = {"checkpoint_every": 0, "progress": False, "members_at_once": 2, "notes": "steps: 40\n", **options}
    return fcbp.sweep(EXPERIMENT, MEMBERS, out=out, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run with its pictures, one that was killed, and the names of all that was written."""
    base = tmp_path_factory.mktemp("made")
    written = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advance, "PIECE", 5)
        write = files.Directory.write

        def recorded(self, name, *arguments, **options):
            written.add((self.path / name).relative_to(base))
            write(self, name, *arguments, **options)

        patch.setattr(files.Directory, "write", recorded)
        results = sweep(base / "finished")
        draw(results, base / "finished")
        handle, count = Execution._handle, 0

        def dying(self, event):
            nonlocal count
            handle(self, event)
            count += 1
            if count == 30:
                raise Enough

        patch.setattr(Execution, "_handle", dying)
        patch.setattr(Execution, "_write_config", lambda self, state: None if count == 30 else config(self, state))
        with pytest.raises(Enough):
            sweep(base / "killed")
    names = {str(path.relative_to(path.parts[0])).replace(f"{store.STORE}.part", store.STORE) for path in written}
    return base, results, names


config = Execution._write_config


def draw(results, out):
    import matplotlib

    matplotlib.use("Agg")
    return plots.save(results, out)


def copy(base, which, out):
    shutil.copytree(base / which, out)
    return out


def tree(path):
    """All that lies somewhere, with its bytes and the time it was changed."""
    return {
        str(entry): (stat.S_IFMT(entry.lstat().st_mode), entry.read_bytes() if entry.is_file() else b"")
        for entry in [path, *sorted(path.rglob("*"))]
    }


def same(found, expected):
    assert found.drop_attrs(deep=False).identical(expected.drop_attrs(deep=False))


def accepted(call):
    """What a call gives, or ``None`` where it refuses with an error that a person can read."""
    try:
        return call()
    except (ValueError, OSError) as error:
        return error.args and None


def resumed(out):
    return fcbp.resume(out, progress=False)


# --- what lies in the place of a file -------------------------------------------------------------------


def put_in_place(path, kind, outside):
    """Something else in the place of a file or a folder of a run."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "a link to a file":
        path.symlink_to(outside / "file")
    elif kind == "a link to a folder":
        path.symlink_to(outside / "folder")
    elif kind == "a link to nothing":
        path.symlink_to(outside / "nothing")
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
        (path / "000000.000001").write_bytes(b"not ours")
    elif kind == "another name of a file":
        os.link(outside / "file", path)


KINDS = [
    "a link to a file",
    "a link to a folder",
    "a link to nothing",
    "a pipe",
    "a folder",
    "another name of a file",
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_no_name_of_a_run_leads_out_of_it(made, kind, tmp_path):
    base, results, written = made
    folders = {str(Path(name).parent) for name in written} - {"."}
    parts = {f"{name}.part" for name in (*written, store.STORE)}
    alike = (f"{store.STORE}/", f"{folder.CHECKPOINTS}/")
    few = {name for name in written | parts | folders if not name.startswith(alike)}
    few |= {name for name in written if name.startswith(f"{store.STORE}/loss/")}
    names = sorted({*few, f"{store.STORE}/loss", f"{folder.CHECKPOINTS}/000001.000000", folder.LOCK})
    assert {"config.json", "plan.json", "experiment.yaml", "learning_curves.png", "replaced.png", "units.png"} <= {
        *names
    }
    outside = tmp_path / "outside"
    for inner in ("folder", "folder/loss", "folder/checkpoints"):
        (outside / inner).mkdir(parents=True)
        for name in ("000000.000001", ".zarray", "0.0.0.0", "x.part", "x.partial", "units.png"):
            (outside / inner / name).write_bytes(b"theirs")
    (outside / "file").write_bytes(b"theirs")
    before = tree(outside)
    for number, name in enumerate(names):
        out = copy(base, "killed" if number % 3 else "finished", tmp_path / f"run-{number}")
        put_in_place(out / name, kind, outside)
        calls = (fcbp.open, fcbp.sweeps.state, resumed)
        if ".png" in name:
            calls = (lambda out, name=name: files.write(out / name.removesuffix(".part"), b"a picture"),)
        for call in calls:
            found = accepted(lambda call=call, out=out: call(out))
            if call is resumed and found is not None:
                same(found, results)
        assert tree(outside) == before, f"{kind} in the place of {name}"
        shutil.rmtree(out)


def test_links_are_said(made, tmp_path):
    base, _, _ = made
    for name in (
        "config.json",
        "plan.json",
        "checkpoints",
        "results.zarr",
        "lock",
        "results.zarr/loss",
        "config.json.part",
    ):
        out = copy(base, "killed", tmp_path / name.replace("/", "-"))
        put_in_place(out / name, "a link to nothing", tmp_path)
        with pytest.raises(ValueError, match=f"{name} is a link; expected a (file|directory) of the run, or nothing"):
            fcbp.resume(out, progress=False)


def test_a_run_directory_may_be_a_link(made, tmp_path):
    base, results, _ = made
    copy(base, "killed", tmp_path / "elsewhere")
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    same(resumed(tmp_path / "run"), results)
    assert (tmp_path / "run").is_symlink()
    same(fcbp.open(tmp_path / "elsewhere"), results)


def test_what_is_no_runs_stays(made, tmp_path):
    base, results, _ = made
    out = copy(base, "killed", tmp_path / "run")
    theirs = ["notes.txt", "checkpoints/notes.txt", "results.zarr/notes.txt", "results.zarr/loss/notes.txt", "a/0.0"]
    (out / "a").mkdir()
    for name in theirs:
        (out / name).write_text("theirs")
    same(resumed(out), results)
    same(fcbp.open(out), results)
    assert [(out / name).read_text() for name in theirs] == ["theirs"] * len(theirs)


# --- what belongs to another ----------------------------------------------------------------------------


def checkpoints(out):
    return sorted((out / folder.CHECKPOINTS).iterdir())


@pytest.fixture
def two_under_way(made, tmp_path):
    """A run of which two chunks have checkpoints."""
    out = tmp_path / "run"
    saved = {}
    handle = Execution._handle
    with pytest.MonkeyPatch.context() as patch:

        def keeping(self, event):
            handle(self, event)
            for path in (out / folder.CHECKPOINTS).glob("*"):
                saved[path] = path.read_bytes()
            if {path.name[:6] for path in saved} == {"000000", "000001"}:
                raise Enough

        patch.setattr(Execution, "_handle", keeping)
        patch.setattr(Execution, "_write_config", lambda self, state: None if len(saved) > 1 else config(self, state))
        with pytest.raises(Enough):
            sweep(out)
    (new,) = (path for path in saved if path.name.startswith("000001"))
    return out, max(path for path in saved if path.name.startswith("000000")), new, saved


def test_a_checkpoint_of_other_members_is_not_used(two_under_way, made):
    out, first, second, saved = two_under_way
    for path in checkpoints(out):
        path.unlink()
    second.write_bytes(saved[first])
    with pytest.warns(UserWarning, match="000001.000000 is of no use: it is of other members"):
        results = fcbp.resume(out, progress=False)
    same(results, made[1])


@pytest.mark.parametrize("step", [0, 40, 41, -5, 1.5, None, "10"])
def test_a_checkpoint_of_a_step_that_is_none_is_not_used(two_under_way, made, step):
    out, _, second, _ = two_under_way
    about, tensors = checkpoint.unpack(second.read_bytes())
    second.write_bytes(checkpoint.pack({**about, "step": step}, tensors))
    with pytest.warns(UserWarning, match=f"is of no use: its step is {step!r}; expected one between 0 and 40"):
        same(fcbp.resume(out, progress=False), made[1])


def test_what_a_checkpoint_is_of_is_checked_wherever_it_is_read():
    owner = checkpoint.Owner("sweep", (0, 1), 10)
    assert owner.check(owner.about(3)) == 3
    with pytest.raises(checkpoint.DamagedError, match="other members"):
        owner._replace(members=(0, 2)).check(owner.about(3))
    with pytest.raises(ValueError, match="another sweep"):
        owner._replace(sweep="other").check(owner.about(3))
    for step in (0, 10, -1):
        with pytest.raises(checkpoint.DamagedError, match="step"):
            owner.check(owner.about(step))


def swap(first, second):
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)


@pytest.mark.parametrize("names", [("loss/0.0.0.0", "effective_rank/0.0.0.0"), ("seed/0", "replacement_rate/0")])
def test_blocks_in_the_place_of_one_another_are_found_out(made, names, tmp_path):
    base, results, _ = made
    out = copy(base, "finished", tmp_path / "run")
    swap(*(out / store.STORE / name for name in names))
    with pytest.raises(ValueError, match=f"({'|'.join(names)}) is (changed|not as it was written)"):
        fcbp.open(out)
    with pytest.warns(UserWarning, match="damaged"):
        same(fcbp.resume(out, progress=False), results)
    same(fcbp.open(out), results)


def test_a_block_of_another_sweep_is_found_out(made, tmp_path):
    base, results, _ = made
    out = copy(base, "finished", tmp_path / "run")
    fcbp.sweep(EXPERIMENT.replace(step_size=0.1), MEMBERS, out=tmp_path / "other", progress=False, members_at_once=2)
    shutil.copy(tmp_path / "other" / store.STORE / "loss" / "0.0.0.0", out / store.STORE / "loss")
    with pytest.raises(ValueError, match=r"loss/0\.0\.0\.0 is changed"):
        fcbp.open(out)
    with pytest.warns(UserWarning, match="8 members are computed again"):
        same(fcbp.resume(out, progress=False), results)


# --- what is damaged or missing -------------------------------------------------------------------------


def damaged(data, damage):
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return {"empty": b"", "cut": data[:-1], "flipped": flipped, "longer": data + b"?"}[damage]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "flipped", "longer"])
def test_every_file_of_a_store_is_checked_and_mended(made, damage, tmp_path):
    base, results, _ = made
    paths = sorted(path for path in (base / "finished" / store.STORE).rglob("*") if path.is_file())
    metadata = [path for path in paths if path.name.startswith(".")]
    blocks_of = [
        path for path in paths if path.parent.name in ("loss", "seed", "replacement_rate", "activation", "step")
    ]
    assert len(metadata) > 20
    for path in {*blocks_of, *metadata[:: 1 if damage == "gone" else 5]}:
        out = copy(base, "finished", tmp_path / "run")
        ours = out / path.relative_to(base / "finished")
        if damage == "gone":
            ours.unlink()
        else:
            ours.write_bytes(damaged(path.read_bytes(), damage))
        name = ours.relative_to(out / store.STORE)
        with pytest.raises(
            ValueError, match=rf"is damaged \({name} is .*; fcbp.resume\(.*\) computes what is lost again"
        ):
            fcbp.open(out)
        same(fcbp.resume(out, progress=False), results)
        same(fcbp.open(out), results)
        assert ours.read_bytes() == path.read_bytes()
        shutil.rmtree(out)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("which", ["finished", "killed"])
@pytest.mark.parametrize("lost", ["", "loss", "seed", "activation"])
def test_a_store_that_is_gone_is_made_again(made, which, lost, tmp_path):
    base, results, _ = made
    out = copy(base, which, tmp_path / "run")
    shutil.rmtree(out / store.STORE / lost)
    with pytest.raises(ValueError, match=r"fcbp.resume\(.*\) computes what is lost again"):
        fcbp.open(out)
    same(fcbp.resume(out, progress=False), results)
    same(fcbp.open(out), results)


def test_a_coordinate_that_is_mended_is_said(made, tmp_path):
    base, _, _ = made
    out = copy(base, "finished", tmp_path / "run")
    (out / store.STORE / "seed" / "0").unlink()
    with pytest.warns(UserWarning, match=r"results\.zarr was damaged and is mended: seed/0"):
        fcbp.resume(out, progress=False)


@pytest.mark.parametrize("name", ["plan.json", "config.json"])
def test_what_a_person_changed_in_a_plan_or_a_configuration_is_not_believed(made, name, tmp_path):
    base, results, _ = made
    out = copy(base, "finished", tmp_path / "run")
    text = (out / name).read_text()
    for old, new in {
        '"steps": 40': '"steps": 60',
        '"relu"': '"rely"',
        '"torch": "2': '"torch": "3',
        '"seed"': '"sead"',
    }.items():
        assert old in text or name == "config.json"
        if old not in text:
            continue
        (out / name).write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=rf"{name} is damaged or was changed: its checksum does not match"):
            fcbp.open(out)
    if name == "plan.json":
        with pytest.raises(ValueError, match=r"plan\.json is damaged or was changed"):
            fcbp.resume(out, progress=False)
    else:  # all but how far the run has come is in the plan
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folder, "circumstances", lambda device: {})
            same(fcbp.resume(out, progress=False), results)
        assert (out / name).read_text().count("sead") == 0
        assert fcbp.open(out).attrs["steps"] == 40


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{}", '{"state": "running"}', "[" * 100_000])
def test_a_configuration_that_is_none_is_named(made, text, tmp_path):
    base, _, _ = made
    out = copy(base, "killed", tmp_path / "run")
    for name in ("config.json", "plan.json"):
        before = (out / name).read_bytes()
        (out / name).write_text(text)
        for call in (fcbp.open, lambda out: fcbp.resume(out, progress=False)):
            with pytest.raises(ValueError, match=f"{name} is damaged"):
                call(out)
        (out / name).write_bytes(before)


def test_a_codec_that_runs_code_is_refused(made):
    """Pickle is one, and may stand in the metadata of a stranger's store."""
    base, _, _ = made
    top = base / "finished" / store.STORE
    found = {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}
    described = json.loads(found["seed/.zarray"])
    for place in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "msgpack2"}}, {"filters": [{}]}):
        with pytest.raises(ValueError, match=r"seed/\.zarray names the codec"):
            blocks.dataset({**found, "seed/.zarray": json.dumps({**described, **place}).encode()})


# --- kills while a run is made --------------------------------------------------------------------------


def dying(real, number, calls):
    """A function that is killed before the ``number``-th call of it and its like."""

    def call(*arguments, **options):
        calls.append(real)
        if len(calls) == number:
            raise Enough
        return real(*arguments, **options)

    return call


def killed_at(out, number):
    """Whether a sweep is killed at that change of its directory, before its first step."""
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        for name in ("replace", "mkdir", "unlink"):
            patch.setattr(os, name, dying(getattr(os, name), number, calls))
        patch.setattr(Execution, "run", lambda self: None)
        try:
            sweep(out)
        except Enough:
            return True
    return False


def test_a_run_that_is_killed_as_it_is_made_is_none_or_whole(made, tmp_path):
    """`open` and `resume` agree whether there is one, and where there is none the same call begins anew."""
    _, results, _ = made
    opened = []
    for number in range(1, 300):
        out = tmp_path / f"run-{number}"
        if not killed_at(out, number):
            break
        opened.append(accepted(lambda out=out: fcbp.open(out)))
        if opened[-1] is None:
            with pytest.raises(ValueError, match="holds no"):
                fcbp.resume(out, progress=False)
            if number % 20 == 1:
                same(sweep(out), results)
    assert opened.count(None) > 30
    whole = fcbp.open(out)
    assert {*whole} == {*results}
    assert whole["replacement_rate"].values.tolist() == [0.05, 0.1]
    assert all(
        found is None or found.drop_attrs(deep=False).identical(whole.drop_attrs(deep=False)) for found in opened
    )
    assert (out / "experiment.yaml").read_text() == "steps: 40\n"


# --- where results go -----------------------------------------------------------------------------------


def test_a_home_directory_is_expanded_once(made, tmp_path, monkeypatch):
    _, results, _ = made
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    same(sweep("~/runs/one"), results)
    same(sweep(Path("~/runs/one"), resume=True), results)
    for run in ("~/runs/one", Path("~/runs/one"), tmp_path / "home" / "runs" / "one"):
        same(fcbp.open(run), results)
        assert fcbp.sweeps.state(run) == "finished"
        same(fcbp.resume(run, progress=False), results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize(
    "out",
    ["s3://bucket/run", "gs://bucket", "https://host/run", "file:///tmp/run", Path("s3://bucket/run"), "memory://x",
     "", "a\0b", b"run", 3, 1.5, True, ["run"], {"run": 1}, object(), "~nobody-has-this-name/run"],
)  # fmt: skip
def test_what_is_no_path_here_is_refused(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, call in {"out": sweep, "run": fcbp.open}.items():
        with pytest.raises(ValueError, match=rf"^{name} is .*expected a path on this machine"):
            call(out)
    for call in (fcbp.resume, fcbp.sweeps.state):
        with pytest.raises(ValueError, match=r"^run is .*expected a path on this machine"):
            call(out)
    assert list(tmp_path.iterdir()) == []


def test_an_error_without_a_number_is_not_success():
    assert str(files.explained(OSError("why"), Path("x")).strerror) == "writing failed: why"


def test_runs_of_the_same_second_have_directories_of_their_own(tmp_path):
    path = tmp_path / "runs" / "name-20260101-000000"
    with files.fresh(path) as first, files.fresh(path) as second, files.fresh(path) as third:
        assert [run.name[len(path.name) :] for run in (first, second, third)] == ["", "-2", "-3"]
        (second / "config.json").write_text("{}")
    assert sorted(run.name for run in (tmp_path / "runs").iterdir()) == [second.name]
    with files.fresh(tmp_path / "other" / "deep" / "run"):
        pass
    assert not (tmp_path / "other").exists(), "nothing was written"


def test_a_run_moves_with_its_process(made, tmp_path, monkeypatch):
    """A relative path and a change of the working directory while it runs."""
    _, results, _ = made
    monkeypatch.chdir(tmp_path)
    handle = Execution._handle

    def moving(self, event):
        os.chdir("/")
        handle(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(Execution, "_handle", moving)
        same(sweep("run"), results)
    same(fcbp.open(tmp_path / "run"), results)
    np.testing.assert_array_equal(sorted(os.listdir(tmp_path)), ["run"])


# --- what others named ----------------------------------------------------------------------------------


def listed(runs, capsys):
    from fcbp import cli

    assert cli.main(["ls", "--runs", str(runs)]) == 0
    return capsys.readouterr().out


def test_the_good_runs_are_listed_beside_broken_ones_and_nothing_reaches_the_terminal(made, tmp_path, capsys):
    base, _, _ = made
    copy(base, "finished", tmp_path / "good")
    config = json.loads((base / "finished" / "config.json").read_text())
    broken = [b"", b"{", b"[]", b"null", b"[" * 10_000, b"\xff\xfe", b'{"sizes": 3}', b"9" * 5000]
    changes = (
        {"sizes": []},
        {"seconds": "x"},
        {"seconds": float("inf")},
        {"state": "\x1b[31mred"},
        {"steps": {}},
    )
    broken += [json.dumps({**config, **changed}).encode() for changed in changes]
    for number, data in enumerate(broken):
        (tmp_path / f"broken-{number}").mkdir()
        (tmp_path / f"broken-{number}" / "config.json").write_bytes(data)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "config.json")
    (tmp_path / "folder" / "config.json").mkdir(parents=True)
    copy(base, "finished", tmp_path / "\x1b]0;title\x07\u202e\n")
    shown = listed(tmp_path, capsys)
    assert all(c.isprintable() or c == "\n" for c in shown)
    rows = [line for line in shown.splitlines() if str(tmp_path) in line and "runs in" not in line]
    assert len(rows) == len(broken) + 4
    assert sum("finished" in row for row in rows) == 2
    assert sum("damaged" in row for row in rows) == len(broken) + 2


def test_control_characters_of_settings_and_states_are_escaped(tmp_path, capsys):
    held = folder.Folder(tmp_path / "run")
    settings = {"activation": "\x1b[2J\r", "method": "\x9b31m"}
    held.write(
        {"state": "finished", "seconds": 1.0, "sizes": {"\x07seed": 2}, "experiment": settings, "steps": 1,
         "members_with_nan": 0}
    )  # fmt: skip
    held.release()
    shown = listed(tmp_path, capsys)
    assert "finished" in shown
    assert r"\x1b[2J" in shown
    assert all(c.isprintable() or c == "\n" for c in shown)


NINE = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f"), ("f", "g")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{y}: &{y} [{','.join(['*' + x] * 9)}]\n" for x, y in NINE),
            "repeat",
        ),
        ("a: &a {x: 1}\n" + "".join(f"{y}: &{y} {{<<: [{','.join(['*' + x] * 9)}]}}\n" for x, y in NINE), "repeat"),
        ("[" * 5000, "nested"),
        ("{a: " * 5000, "nested"),
        ("- " * 3000 + "a", "nested"),
        ("hidden: &a [*a]", "within what it repeats"),
    ],
)
def test_a_yaml_text_that_grows_or_goes_deep_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        fcbp.experiment.from_yaml(text)


def test_aliases_of_a_few_values_are_read():
    text = "step_size: &a 0.1\nsweep: {decay_rate: &b [*a, 0.2], init_scale: *b}"
    assert fcbp.experiment.from_yaml(text)[1] == {"decay_rate": (0.1, 0.2), "init_scale": (0.1, 0.2)}


def test_a_closed_stderr_and_a_plain_locale_lose_no_run(made, tmp_path):
    """Also where descriptor 2 is free: no file of the run gets it, for whatever writes to stderr would write there."""
    script = (
        "import os, sys, fcbp\n"
        "out = sys.argv[1]\n"
        "fcbp.sweep(fcbp.Experiment(steps=40, bin=10, method='bp'), {'seed': [0, 1]}, out=out, checkpoint_every=0)\n"
        "print(fcbp.sweeps.state(out))\n"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    for number, redirect in enumerate(("2>&-", "2>/dev/full", "<&- 2>&-")):
        command = f'"{sys.executable}" -c "$1" "$2" {redirect}'
        run = subprocess.run(
            ["sh", "-c", command, "sh", script, str(tmp_path / f"run-{number}")],
            stdout=subprocess.PIPE, text=True, check=False, env=environment,
        )  # fmt: skip
        assert (run.returncode, run.stdout) == (0, "finished\n"), redirect
