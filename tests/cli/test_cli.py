"""The ``fcbp`` command, from its arguments to the files that it leaves."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray

import fcbp
from fcbp import analysis, cli, sweeps
from fcbp.sweeps.execution import Execution

QUICK = ["--steps", "60", "--maturity-threshold", "20"]


def command(*arguments, capsys=None):
    """Exit status, output and errors of the command in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    return status, shown.out, shown.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run directory, made by the installed command in its own process, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "a run"
    script = Path(sys.executable).with_name("fcbp")
    process = subprocess.run(
        [script, "run", "bit-flipping", *QUICK, "--seeds", "2", "--replacement-rate", "0", "0.05",
         "--activation", "relu", "tanh", "--out", out],
        capture_output=True, text=True, timeout=300, check=False, cwd=out.parent,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return out, process


@pytest.mark.slow
def test_run_prints_a_table_and_the_paths(finished):
    _, process = finished
    lines = process.stdout.splitlines()
    columns = (
        "activation|replacement_rate|loss, first fifth|loss, last fifth|95% interval|units replaced|inactive units|NaN"
    )
    assert re.split(r"\s{2,}", lines[0]) == columns.split("|")
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[2:6]]
    assert [row[:2] for row in rows] == [["relu", "0"], ["relu", "0.05"], ["tanh", "0"], ["tanh", "0.05"]]
    assert sum(row[-1] == "best" for row in rows) == 1
    assert rows[0][5] == "0.0"
    assert float(rows[1][5]) > 0
    assert re.fullmatch(r"\d\.\d{3} to \d\.\d{3}", rows[0][4])
    assert re.fullmatch(r"\d\.\d{3} ± \d\.\d{3}", rows[0][3])
    assert "8 members x 60 steps" in process.stdout
    assert "0 members with NaN" in process.stdout
    paths = re.findall(r"^(?:data|picture)\s+(.*)$", process.stdout, re.MULTILINE)
    assert [Path(path).name for path in paths] == [
        "results.zarr", "learning_curves.png", "sensitivity.png", "replaced.png", "units.png",
    ]  # fmt: skip
    assert all(Path(path).exists() for path in paths)


def test_run_tells_the_time_of_each_program(finished):
    out, process = finished
    table = process.stdout.split("\n\n")[1].splitlines()
    assert table[0].split() == ["activation", "members", "seconds", "µs", "per", "member", "and", "step"]
    rows = [line.split() for line in table[2:]]
    assert [row[:2] for row in rows] == [["relu", "4"], ["tanh", "4"]]
    programs = json.loads(fcbp.open(out).attrs["programs"])
    assert [row[2] for row in rows] == [f"{program['seconds']:.1f}" for program in programs]
    assert [float(row[3].replace(",", "")) for row in rows] == pytest.approx(
        [1e6 * program["seconds"] / (4 * 60) for program in programs], abs=1e-3
    )


def test_run_says_that_it_does_not_compile_and_no_more(finished):
    _, process = finished
    assert "running eagerly, compiling" in process.stderr
    assert "steps/s" in process.stderr
    assert "Warning" not in process.stderr
    assert "Traceback" not in process.stderr


def test_the_table_is_of_the_results(finished):
    out, process = finished
    data = fcbp.open(out)
    assert analysis.table(data) in process.stdout
    row = process.stdout.splitlines()[3]
    chosen = data.sel(activation="relu", replacement_rate=0.05)
    end = chosen["loss"].isel(step=slice(-round(0.2 * data.sizes["step"]), None)).mean("step").values
    assert f"{end.mean():.3f} ± {end.std(ddof=1) / 2**0.5:.3f}" in row
    assert f" {float(chosen['units_replaced'].sum('step').mean()):.1f} " in row


def test_the_run_directory(finished):
    out, _ = finished
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json", "experiment.yaml", "learning_curves.png", "plan.json", "replaced.png", "results.zarr",
        "sensitivity.png", "units.png",
    ]  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config["experiment"]["maturity_threshold"] == 20
    assert config["experiment"]["hidden"] == [5]
    assert config["steps"] == 60
    assert config["sizes"] == {"activation": 2, "replacement_rate": 2, "seed": 2, "step": 60}
    assert config["fcbp"] == fcbp.__version__
    experiment, swept = fcbp.experiment.load(out / "experiment.yaml")
    assert experiment == fcbp.Experiment(maturity_threshold=20, steps=60)
    assert swept == {"seed": (0, 1), "activation": ("relu", "tanh"), "replacement_rate": (0.0, 0.05)}


@pytest.mark.slow
def test_the_store_opens_with_xarray_and_holds_what_a_sweep_gives(finished):
    out, _ = finished
    stored = xarray.open_zarr(out / "results.zarr", consolidated=False)
    assert stored["activation"].values.tolist() == ["relu", "tanh"]
    members = fcbp.grid(seed=range(2), activation=["relu", "tanh"], replacement_rate=[0.0, 0.05])
    experiment = fcbp.experiment.Experiment(maturity_threshold=20)
    direct = fcbp.sweep(experiment, members, steps=60, progress=False)
    assert set(stored.data_vars) == set(direct.data_vars)
    for name in direct.data_vars:
        # The command has its own number of threads: equal to rounding.
        np.testing.assert_allclose(stored[name].transpose(*direct[name].dims), direct[name], rtol=1e-4, atol=1e-5)
        assert stored[name].attrs == direct[name].attrs
    assert json.loads(stored.attrs["experiment"]) == json.loads(direct.attrs["experiment"])


def test_plot_draws_the_pictures_again(finished, capsys):
    out, _ = finished
    pictures = [out / f"{name}.png" for name in ("learning_curves", "sensitivity", "replaced", "units")]
    for picture in pictures:
        picture.unlink()
    status, shown, _ = command("plot", out, capsys=capsys)
    assert status == 0
    assert shown.splitlines() == [f"picture   {picture}" for picture in pictures]
    assert all(picture.stat().st_size > 10_000 for picture in pictures)


@pytest.mark.parametrize("name", ["ls", "list"])
def test_the_list_has_settings_and_state(finished, capsys, name):
    out, _ = finished
    status, shown, _ = command(name, "--runs", out.parent, capsys=capsys)
    assert status == 0
    assert "bit-flipping: The slowly-changing regression problem" in shown
    (row,) = [line for line in shown.splitlines() if str(out) in line]
    for text in ("finished", "2 seed x 2 activation x 2 replacement_rate", " 60 ", "maturity threshold 20"):
        assert text in row
    status, shown, _ = command(name, "--runs", out / "none", capsys=capsys)
    assert status == 0
    assert "no runs in" in shown


def test_a_damaged_run_is_listed_as_such(capsys, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    status, shown, _ = command("ls", "--runs", tmp_path, capsys=capsys)
    assert status == 0
    assert "damaged" in shown


def test_an_out_that_holds_something_is_refused_and_kept(finished, capsys, monkeypatch):
    out, _ = finished
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, _, errors = command("run", "bit-flipping", "--out", out, capsys=capsys)
    assert status == 2
    assert re.search(rf"out is {str(out)!r}, which holds a run; expected a new or an empty directory", errors)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    status, _, errors = command("run", "bit-flipping", "--out", out / "config.json", capsys=capsys)
    assert status == 2
    assert "config.json" in errors


@pytest.mark.slow
def test_run_goes_on_with_a_run_that_is_there(finished, capsys, monkeypatch):
    """The same command line with --resume gives the results of a finished run; another experiment's is refused."""
    out, process = finished
    monkeypatch.setattr(Execution, "_handle", lambda *args: pytest.fail("work was done"))
    arguments = [
        "run", "bit-flipping", *QUICK, "--seeds", "2", "--activation", "relu", "tanh", "--out", out, "--resume",
    ]  # fmt: skip
    before = {path: path.read_bytes() for path in out.rglob("*") if path.suffix != ".png" and path.is_file()}
    status, shown, _ = command(*arguments, "--replacement-rate", "0", "0.05", capsys=capsys)
    assert status == 0
    assert shown.split("\n\n")[0] == process.stdout.split("\n\n")[0]
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    for other, message in {
        ("--replacement-rate", "0", "0.1"): r"axis replacement_rate is \[0.0, 0.05\] there and \[0.0, 0.1\] here",
        ("--replacement-rate", "0", "0.05", "--decay-rate", "0.9"): "decay_rate is None there and 0.9 here",
        ("--replacement-rate", "0", "0.05", "--steps", "70"): "steps is 60 there and 70 here",
        ("--replacement-rate", "0", "0.05", "--seeds", "3"): "axis seed is",
    }.items():
        status, _, errors = command(*arguments, *other, capsys=capsys)
        assert status == 2
        assert re.search(f"which holds a run of another experiment: {message}", errors)
        assert "Traceback" not in errors
    for path, data in before.items():
        if path.name != "config.json":
            assert path.read_bytes() == data
    assert sweeps.state(out) == "finished"


def test_a_run_compared_with_itself(finished, capsys):
    out, _ = finished
    status, shown, _ = command("compare", out, out, capsys=capsys)
    assert status == 0
    rows = shown.splitlines()[3:]
    assert len(rows) == 4  # the best, and the three other settings
    assert all("+0.000 " in row and "higher" not in row and "lower" not in row for row in rows)
    status, _, errors = command("compare", out, out, "--variable", "los", capsys=capsys)
    assert (status, "variable is 'los'" in errors) == (2, True)


def test_export_to_tensorboard(finished, capsys, tmp_path):
    reader = pytest.importorskip("tensorboardX.proto.event_pb2")

    out, _ = finished
    status, shown, _ = command("export", out, "--tensorboard", tmp_path, capsys=capsys)
    assert status == 0
    assert "8 members in" in shown
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert "seed=1,activation=relu,replacement_rate=0.05" in folders
    (file,) = (tmp_path / "seed=1,activation=relu,replacement_rate=0.05").iterdir()
    written, data = [], file.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        event = reader.Event.FromString(data[12 : 12 + length])
        written += [(event.step, v.simple_value) for v in event.summary.value if v.tag == "loss"]
        data = data[16 + length :]
    expected = fcbp.open(out)["loss"].sel(seed=1, activation="relu", replacement_rate=0.05)
    assert [step for step, _ in written] == expected["step"].values.tolist()
    np.testing.assert_allclose([value for _, value in written], expected)


def test_a_missing_tensorboard_is_named(finished, capsys, tmp_path, monkeypatch):
    out, _ = finished
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    status, _, errors = command("export", out, "--tensorboard", tmp_path, capsys=capsys)
    assert status == 2
    assert "pip install 'fcbp[tensorboard]'" in errors


# --- several methods ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A run of several methods from a file."""
    out = tmp_path_factory.mktemp("methods") / "run"
    file = out.with_name("mine.yaml")
    file.write_text("flip_period: 20\nsteps: 90\nbin: 30\nsweep:\n  seed: [3, 4]\n  method: [bp, l2]\n")
    arguments = ["run", str(file), "--method", "bp", "cbp", "l2", "--maturity-threshold", "10", "--out", str(out)]
    assert cli.main([*arguments, "--strength", "0.1", "0.2"]) == 0
    return out


@pytest.mark.slow
def test_methods_are_compared_each_at_its_best(compared, capsys):
    out = compared
    # Of a finished run, `resume` gives the results.
    status, shown, errors = command("resume", out, capsys=capsys)
    assert status == 0, errors
    data = fcbp.open(out)
    # What the line does not say is the file's, and of the small grid; methods read what they have.
    assert data["method"].values.tolist() == ["bp", "cbp", "cbp", "cbp", "l2", "l2"]
    assert data["seed"].values.tolist() == [3, 4]
    np.testing.assert_array_equal(data["replacement_rate"], [np.nan, 1e-5, 1e-4, 1e-3, np.nan, np.nan])
    np.testing.assert_array_equal(data["strength"], [np.nan] * 4 + [0.1, 0.2])
    assert json.loads(data.attrs["experiment"])["flip_period"] == 20
    ranking = shown.split("\n\n")[1].splitlines()
    assert {line.split()[1] for line in ranking[2:]} == {"bp", "cbp", "l2"}
    names = [Path(path).name for path in re.findall(r"^picture\s+(.*)$", shown, re.MULTILINE)]
    assert names[:2] == ["learning_curves.png", "methods.png"]


@pytest.mark.slow
def test_the_file_of_a_run_of_methods_makes_the_same_members(compared, swept, capsys, tmp_path):
    command("run", compared / "experiment.yaml", "--out", tmp_path / "run", capsys=capsys)
    plan = json.loads((compared / "plan.json").read_text())
    assert [dict(row) for row in swept["members"]] == plan["settings"]
    assert list(swept["members"].axes) == list(plan["axes"])
    assert json.loads(json.dumps(swept["experiment"].to_dict())) == plan["experiment"]


def test_a_run_that_was_interrupted_has_its_file(capsys, tmp_path, monkeypatch):
    def stop(*args):
        raise sweeps.Interrupted("stopped at 10%; to go on: fcbp resume")

    monkeypatch.setattr(Execution, "run", stop)
    status, _, errors = command("run", "bit-flipping", "--no-grid", "--out", tmp_path / "run", capsys=capsys)
    assert (status, "to go on: fcbp resume" in errors) == (130, True)
    text = (tmp_path / "run" / "experiment.yaml").read_text()
    assert text.startswith("# run with --no-grid\n")
    assert fcbp.experiment.from_yaml(text) == (fcbp.Experiment(), {"seed": tuple(range(10))})


# --- without a sweep ------------------------------------------------------------------------------------


@pytest.fixture
def swept(monkeypatch):
    """What the command asks of ``sweep``, which is not run."""
    asked = {}

    def fake(experiment, members, **options):
        asked.update(experiment=experiment, members=members, **options)
        raise InterruptedError("enough")

    monkeypatch.setattr(sweeps, "sweep", fake)
    return asked


def test_flags_reach_the_sweep(swept, capsys, tmp_path):
    command(
        "run", "bit-flipping", "--seeds", "3", "--steps", "500", "--bin", "50", "--step-size", "0.1", "0.01",
        "--replacement-rate", "0.2", "--hidden", "7", "4", "--optimizer", "adam", "--redraw-all", "True",
        "--measure", "weight", "random", "--compile", "False", "--out", tmp_path / "run", capsys=capsys,
    )  # fmt: skip
    axes = dict(swept["members"].axes)
    assert axes == {"seed": (0, 1, 2), "step_size": (0.1, 0.01), "measure": ("weight", "random")}
    experiment = swept["experiment"]
    assert (experiment.replacement_rate, experiment.hidden, experiment.optimizer) == (0.2, (7, 4), "adam")
    assert experiment.redraw_all is True
    assert (experiment.steps, experiment.bin, swept["compile"]) == (500, 50, False)
    assert not (tmp_path / "run").exists()


def test_the_defaults_show_loss_of_plasticity_and_its_cure(swept, capsys, tmp_path):
    command("run", "bit-flipping", "--out", tmp_path / "run", capsys=capsys)
    assert dict(swept["members"].axes) == {"seed": tuple(range(10)), "replacement_rate": (0.0, 1e-4, 1e-3)}
    assert swept["experiment"].steps == 1_000_000
    assert swept["compile"] is None
    assert swept["experiment"] == fcbp.Experiment()


def test_backprop_alone_is_not_swept_over_rates(swept, capsys, tmp_path):
    command("run", "bit-flipping", "--method", "backprop", "--out", tmp_path / "run", capsys=capsys)
    assert dict(swept["members"].axes) == {"seed": tuple(range(10))}


LISTED = [
    (["--method", "bp", "cbp"], [("bp", None), ("cbp", 1e-5), ("cbp", 1e-4), ("cbp", 1e-3)]),
    (["--method", "bp", "cbp", "--replacement-rate", "0.1", "0.2"], [("bp", None), ("cbp", 0.1), ("cbp", 0.2)]),
    (["--method", "bp", "cbp", "--no-grid"], [("bp", None), ("cbp", None)]),
]


@pytest.mark.parametrize(("arguments", "rows"), LISTED)
def test_several_methods_are_listed_each_with_what_it_reads(arguments, rows, swept, capsys, tmp_path):
    command("run", "bit-flipping", *arguments, "--seeds", "2", "--out", tmp_path / "run", capsys=capsys)
    members = swept["members"]
    assert dict(members.axes) == {"setting": tuple(range(len(rows))), "seed": (0, 1)}
    assert [(row["method"], row.get("replacement_rate")) for row in members][::2] == rows


def test_what_all_methods_read_is_crossed_with_them(swept, capsys, tmp_path):
    arguments = ["--method", "upgd", "l2", "--no-grid", "--step-size", "0.1", "0.2", "--weight-decay", "0.3"]
    command("run", "bit-flipping", *arguments, "--activation", "tanh", "--out", tmp_path / "run", capsys=capsys)
    members = swept["members"]
    assert {name: len(axis) for name, axis in members.axes.items()} == {"setting": 2, "step_size": 2, "seed": 10}
    assert swept["experiment"].activation == "tanh"
    # UPGD has a weight decay of its own; the other methods' is the optimiser's.
    assert {(row["method"], row["weight_decay"]) for row in members} == {("upgd", 0.3), ("l2", 0.3)}


def test_a_file_with_its_sweep_and_the_command_line_over_it(swept, capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("step_size: 0.5\nsteps: 70\nsweep: {replacement_rate: [0.1, 0.2], seed: [5, 6]}")
    command("run", file, capsys=capsys)
    assert dict(swept["members"].axes) == {"seed": (5, 6), "replacement_rate": (0.1, 0.2)}
    assert (swept["experiment"].step_size, swept["experiment"].steps) == (0.5, 70)
    assert str(swept["out"]).startswith("runs/mine-")
    command("run", file, "--step-size", "0.1", "--seeds", "1", "--replacement-rate", "0.3", capsys=capsys)
    assert dict(swept["members"].axes) == {"seed": (0,)}
    assert (swept["experiment"].step_size, swept["experiment"].replacement_rate) == (0.1, 0.3)


def test_places_reach_the_sweep(swept, capsys, tmp_path):
    given = [
        (["--devices", "2"], 2),
        (["--devices", "all"], "all"),
        (["--devices", "cuda:0", "cuda:1"], ["cuda:0", "cuda:1"]),
    ]
    for arguments, devices in given:
        command("run", "bit-flipping", *arguments, "--out", tmp_path / "run", capsys=capsys)
        assert swept["devices"] == devices
    arguments = ["--backend", "ray", "--address", "auto", "--members-at-once", "7", "--checkpoint-every", "5"]
    command("run", "bit-flipping", *arguments, "--out", tmp_path / "run", capsys=capsys)
    names = ("backend", "address", "members_at_once", "checkpoint_every", "devices", "resume")
    assert [swept[name] for name in names] == ["ray", "auto", 7, 5.0, None, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "bit-fliping"], "did you mean 'bit-flipping'"),
        (["run", "bit-flipping", "--activation", "rleu"], "activation is 'rleu'.*did you mean 'relu'"),
        (["run", "bit-flipping", "--activation", "relu", "rleu"], "activation is 'rleu'"),
        (["run", "bit-flipping", "--replacement-rate", "2"], r"replacement_rate is 2.0; expected a number in \[0, 1\]"),
        (["run", "bit-flipping", "--replacement-rate", "nan"], "replacement_rate is nan"),
        (["run", "bit-flipping", "--replacement-rate", "0.1", "0.1"], "expected different values"),
        (["run", "bit-flipping", "--seeds", "0"], "--seeds is 0"),
        (["run", "bit-flipping", "--steps", "0"], "steps is 0"),
        (["run", "bit-flipping", "--bin", "0"], "bin is 0"),
        (["run", "bit-flipping", "--steps", "10", "--bin", "11"], "bin is 11; expected at most steps, 10"),
        (["run", "bit-flipping", "--steps", "10", "11"], "--steps has 2 values; expected one for all members"),
        (["run", "bit-flipping", "--momentum", "0.5", "--optimizer", "adam"], "momentum is set, which nothing reads"),
        (["run", "bit-flipping", "--method", "bp", "cbp", "cbp"], "times; expected different settings"),
        (["run", "bit-flipping", "--method", "bp", "cpb"], "method is 'cpb'.*did you mean .*'cbp'"),
        (["run", "bit-flipping", "--resume"], "--resume is given without --out; expected the directory of the run"),
        (["run", "none.yaml"], "none.yaml"),
        (["export", "nowhere"], "--tensorboard and a folder"),
        (["resume", "nowhere"], "run is 'nowhere', which holds no config.json"),
        (["compare", "nowhere", "nowhere"], "run is 'nowhere', which holds no results.zarr"),
        (["run", "bit-flipping", "--hidden"], r"hidden is \(\)"),
        (["run", "bit-flipping", "--activation"], "--activation has no value"),
        (["run", "bit-flipping", "--stepp-size", "0.1"], "--step-size"),
        (["run", "bit-flipping", "--steps", "many"], "many"),
        (["plot", "nowhere"], "run is 'nowhere', which holds no results.zarr"),
        (["rnu"], "command is 'rnu'; .*did you mean 'run'"),
        (["data", "fetsh"], "data command is 'fetsh'; .*did you mean 'fetch'"),
        (["plot"], "run directory"),
        (["completion", "fish"], "'bash', 'zsh'"),
        (["ls", "nowhere"], "runs is 'nowhere', which is no folder"),
        (["show", "nowhere"], "run is 'nowhere', which holds no results.zarr"),
        (["report", "nowhere"], "run is 'nowhere', which holds no results.zarr"),
    ],
)
def test_wrong_arguments_are_named_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    status, _, errors = command(*arguments, capsys=capsys)
    assert status == 2
    assert re.search(message, errors)
    assert re.fullmatch(r"fcbp: .+\n", errors)  # one line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_cannot_be_written_fails_before_the_sweep(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Execution, "__init__", lambda *args: pytest.fail("work was done"))
    (tmp_path / "file").write_text("")
    status, _, errors = command("run", "bit-flipping", "--out", tmp_path / "file" / "run", capsys=capsys)
    assert status == 2
    assert str(tmp_path / "file") in errors


def test_a_run_in_use_is_named_with_who_uses_it(finished, capsys):
    out, _ = finished
    held = sweeps.folder.Folder(out)
    try:
        status, _, errors = command("resume", out, capsys=capsys)
    finally:
        held.release()
    assert status == 2
    assert re.fullmatch(rf"fcbp: {out}: in use by process \d+ on .*; wait for it or stop it\n", errors)


def test_interrupting_says_what_became_of_the_run(capsys, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps, "sweep", interrupt)
    status, _, errors = command("run", "bit-flipping", "--out", tmp_path / "run", capsys=capsys)
    assert status == 130
    assert "interrupted" in errors
    assert not (tmp_path / "run").exists()


def test_notes_come_before_the_work(capsys, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Execution, "run", stop)
    arguments = ("--steps", "90", "--replacement-rate", "0.1", "--out", tmp_path / "run")
    status, _, errors = command("run", "bit-flipping", *arguments, capsys=capsys)
    assert status == 130
    assert "note: no unit will be replaced: steps is 90 and maturity_threshold 100" in errors


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    status, _, errors = command("list", capsys=capsys)
    assert status == 2
    assert "pip install 'fcbp[cli]'" in errors


def test_help_is_readable(capsys):
    status, shown, _ = command("run", "--help", capsys=capsys)
    assert status == 0
    for flag in ("--seeds", "--replacement-rate", "--step-size", "--steps", "--activation", "--optimizer", "--out"):
        assert flag in shown
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    for text in (
        "several values after a flag sweep it", "one of: bit-flipping", "number of seeds, from 0 on",
        # Of a stream's docstring, a method's, and the strings below the fields of its numbers.
        "T of the paper, in examples (bit-flipping: 10000)", "decay of Adam's mean (adam, adamw: 0.9)",
        "Fraction of the eligible units replaced per step (rho), in [0, 1]",
    ):  # fmt: skip
        assert text in words
    status, shown, _ = command("--help", capsys=capsys)
    assert status == 0
    assert {"run", "resume", "ls", "list", "plot", "compare", "export"} <= set(re.findall(r"\w+", shown))


# --- the table ------------------------------------------------------------------------------------------


def made_up(**axes):
    shape = (*map(len, axes.values()), 10)
    loss = np.full(shape, 0.5, np.float32)
    data = {name: ((*axes, "step"), loss.copy()) for name in fcbp.experiment.VARIABLES}
    return xarray.Dataset(data, {**axes, "step": np.arange(1, 11)})


def test_failed_members_are_counted_and_left_out():
    data = made_up(seed=[0, 1, 2], step_size=[0.1, 1.0])
    data["loss"][1, 0, 5:] = np.nan
    data["loss"][0, 0] = 0.25
    data["loss"][:, 1, 3:] = np.nan
    first, second = [re.split(r"\s{2,}", line.strip()) for line in analysis.table(data).splitlines()[2:]]
    assert first[0] == "0.1"
    assert first[2] == "0.375 ± 0.125"
    assert first[-2:] == ["1", "best"]
    assert second[2] == "nan"
    assert second[-1] == "3"


def test_one_setting_of_one_seed():
    table = analysis.table(made_up(seed=[0]))
    header, _, row = table.splitlines()
    assert "best" not in table
    assert "±" not in table
    assert header.strip().startswith("loss, first fifth")
    assert row.split()[:2] == ["0.500", "0.500"]


def test_a_run_of_methods_that_measure_different_things_is_taken_up(tmp_path, monkeypatch):
    handle = Execution._handle

    def interrupt(self, event):
        handle(self, event)
        if self.done:
            monkeypatch.setattr(Execution, "_handle", handle)
            raise KeyboardInterrupt

    monkeypatch.setattr(Execution, "_handle", interrupt)
    members = fcbp.designs.listed([{"method": "bp"}, {"method": "cbp", "replacement_rate": 0.1}], seed=[1, 2])
    experiment = fcbp.Experiment(steps=40, bin=20, maturity_threshold=5)
    with pytest.raises(KeyboardInterrupt):
        fcbp.sweep(experiment, members, out=tmp_path / "run", progress=False)
    resumed = fcbp.resume(tmp_path / "run", progress=False)
    whole = fcbp.sweep(experiment, members, progress=False)
    for name in whole.data_vars:
        np.testing.assert_array_equal(resumed[name], whole[name])
    assert resumed["age_quantile_0"].isnull().all(["seed", "step"]).values.tolist() == [True, False]
