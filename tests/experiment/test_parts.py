"""Parts of a user's own: found by object, name and address; wrong ones named before any work; whose code a run runs."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import bad_parts
import numpy as np
import pytest
import torch

import fcbp
from fcbp.sweeps import files
from fcbp.sweeps.execution import Execution

MEMBERS = {"seed": [0, 1]}
RIGHT = {"stream": bad_parts.stream_that_is_right, "network": bad_parts.network_that_is_right}


def sweep(members=MEMBERS, out=None, **parts):
    settings = {**RIGHT, "metrics": (), "steps": 4, "bin": 2, "method": "bp", **parts}
    return fcbp.sweep(fcbp.Experiment(**settings), members, out=out, progress=False, compile=False)


@pytest.fixture
def no_work(monkeypatch):
    """No sweep may begin."""

    def begin(*_):
        raise AssertionError("the sweep began")

    monkeypatch.setattr(Execution, "run", begin)


# --- wrong parts ----------------------------------------------------------------------------------------

ROLES = {
    "stream": "stream",
    "network": "network",
    "loss": "loss_function",
    "optimizer": "optimizer",
    "method": "method",
}
WRONG = [
    (role, name)
    for prefix, role in ROLES.items()
    for name in vars(bad_parts)
    if name.startswith(f"{prefix}_") and "right" not in name
]
METRICS = [name for name in vars(bad_parts) if name.startswith("loss_") and "right" not in name and "whole" not in name]


@pytest.mark.parametrize(("role", "name"), WRONG)
def test_a_wrong_part_is_named_with_its_address_before_any_work(role, name, no_work):
    generator = torch.get_rng_state()
    with pytest.raises(ValueError, match=rf"{role} is .*bad_parts\.py:{name}\b"):
        sweep(**{role: getattr(bad_parts, name)})
    # A part that draws has moved the generator itself.
    assert "draw" in name or torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("name", METRICS)
def test_a_wrong_metric_is_named_with_its_address_before_any_work(name, no_work):
    with pytest.raises(ValueError, match=rf"metrics has .*bad_parts\.py:{name}\b"):
        sweep(metrics=(getattr(bad_parts, name),))


@pytest.mark.parametrize("role", [*ROLES.values(), "metrics"])
@pytest.mark.parametrize(
    ("address", "missing"),
    [
        ("no_such_module:part", "no_such_module"),
        ("bad_parts.deeper:part", "bad_parts.deeper"),
        ("no/such/file.py:part", "no/such/file.py"),
        ("bad_parts:network_that_is_rigth", "network_that_is_right"),
        ("bad_parts:a_number", "int|is 3"),
        ("bad_parts:SPEC.nothing", "nothing"),
    ],
)
def test_what_cannot_be_found_says_whether_module_file_or_name(role, address, missing, no_work):
    with pytest.raises(ValueError, match=missing) as caught:
        sweep(**{role: (address,) if role == "metrics" else address})
    assert role in str(caught.value)
    assert address in str(caught.value)


@pytest.mark.parametrize("text", ["raise RuntimeError('broken')", "import no_such_module", "def f(:", "exit(3)"])
def test_a_file_that_cannot_be_imported(text, tmp_path, no_work):
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(ValueError, match=r"network is .*broken\.py:network'"):
        sweep(network=f"{tmp_path}/broken.py:network")
    assert not any(name.startswith("fcbp_file_") and name.endswith("_broken") for name in sys.modules)


def test_names_that_collide_with_dimensions(no_work):
    with pytest.raises(ValueError, match=r"bad_parts\.py:width', whose name 'width' is a dimension"):
        sweep({"width": [2, 3]}, stream=bad_parts.right_stream_without_options, metrics=(bad_parts.width,))
    with pytest.raises(ValueError, match=r"bad_parts\.py:step', whose name 'step'"):
        sweep(metrics=(bad_parts.step,))
    with pytest.raises(ValueError, match="two of one name"):
        sweep(metrics=(bad_parts.width, Other.width))


class Other:
    @staticmethod
    def width(output, targets):
        return output.mean()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_function": "cross_entropy"}, "cross_entropy.*stream_that_is_right.*numbers"),
        ({"stream": bad_parts.classes_that_are_right, "loss_function": "mse"}, "mse.*classes_that_are_right.*indices"),
        ({"metrics": ("accuracy",)}, "accuracy.*regression"),
        ({"metrics": ("test_loss",)}, "test_loss.*no held-out"),
        ({"bin": "task"}, "task_length"),
    ],
)
def test_parts_that_do_not_fit_one_another(settings, message, no_work):
    with pytest.raises(ValueError, match=message):
        sweep(**settings)


@pytest.mark.parametrize("name", ["a_number", "a_text", "network_that_is_a_model", "SPEC"])
@pytest.mark.parametrize("role", [*ROLES.values(), "metrics"])
def test_objects_of_another_kind(role, name, no_work):
    value = getattr(bad_parts, name)
    with pytest.raises(ValueError, match=role):
        sweep(**{role: (value,) if role == "metrics" else value})


@pytest.mark.parametrize("name", ["maker_that_is_no_program", "maker_that_raises"])
def test_a_wrong_maker_is_named_with_its_address(name, no_work):
    with pytest.raises(ValueError, match=rf"bad_parts\.py:{name}"):
        fcbp.sweep(getattr(bad_parts, name), MEMBERS, steps=3, progress=False)


@pytest.mark.slow
def test_an_object_without_an_address_works_here_and_not_elsewhere(tmp_path):
    def network(spec):
        return bad_parts.network_that_is_right(spec)

    assert np.isfinite(sweep(network=network)["loss"]).all()
    with pytest.raises(ValueError, match=r"network is .*network.*put it into a module"):
        sweep(network=network, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- how parts are found --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stream_by_object_name_and_addresses_gives_the_same_bits(monkeypatch):
    kind = fcbp.experiment.StreamKind(bad_parts.stream_that_is_right)
    monkeypatch.setitem(fcbp.experiment.STREAMS, "right", kind)
    file = Path(bad_parts.__file__)
    ways = [
        bad_parts.stream_that_is_right,
        "right",
        kind,
        "bad_parts:stream_that_is_right",
        f"{file}:stream_that_is_right",
    ]
    first, *others = [sweep(stream=way) for way in ways]
    for other in others:
        np.testing.assert_array_equal(other["loss"], first["loss"])


@pytest.mark.slow
def test_the_modules_own_weights_are_paired_by_seed_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    own = sweep({"seed": [0, 1], "step_size": [0.01, 0.0]}, initial="module")
    assert torch.equal(state, torch.get_rng_state())
    drawn = sweep({"seed": [0, 1], "step_size": [0.01, 0.0]})
    assert not np.array_equal(own["loss"], drawn["loss"])
    np.testing.assert_array_equal(
        own["loss"], sweep({"seed": [0, 1], "step_size": [0.01, 0.0]}, initial="module")["loss"]
    )
    assert not np.array_equal(own["loss"][0], own["loss"][1])


@pytest.mark.parametrize(
    ("short", "full"),
    [("lr", "step_size"), ("learning_rate", "step_size"), ("loss", "loss_function"), ("rho", "replacement_rate")],
)
def test_short_names_find_the_setting(short, full):
    with pytest.raises(ValueError, match=f"'{short}'.*did you mean '{full}'"):
        fcbp.Experiment(**{short: 0.1})


def twice(decay_rate: float = 0.5, width: int = 3):
    return bad_parts.stream_that_is_right()


def test_a_name_of_two_parts_is_written_with_its_part():
    with pytest.raises(ValueError, match=r"stream\.width or network\.width|network\.width or stream\.width"):
        fcbp.Experiment(**RIGHT, width=3)
    experiment = fcbp.Experiment(**RIGHT, **{"network.width": 3})
    assert getattr(experiment, "network.width") == 3
    assert getattr(experiment, "stream.width") == 1
    with pytest.raises(ValueError, match=r"decay_rate"):
        fcbp.Experiment(stream=twice, decay_rate=0.5)
    assert getattr(fcbp.Experiment(stream=twice, **{"method.decay_rate": 0.7}), "method.decay_rate") == 0.7


def test_a_setting_with_its_parts_name_is_swept():
    found = sweep({"seed": [0], "network.width": [2, 6]})
    assert found["loss"].dims == ("seed", "network.width", "step")
    assert not np.array_equal(found["loss"][0, 0], found["loss"][0, 1])


@pytest.mark.slow
def test_a_chain_of_methods_is_an_experiments_method():
    chain = fcbp.methods.chain_kinds(fcbp.methods.METHODS["l2"], fcbp.methods.METHODS["cbp"])
    found = sweep({"seed": [0, 1], "replacement_rate": [0.0, 0.5]}, method=chain, maturity_threshold=0, steps=8)
    assert float(found["units_replaced"].sel(replacement_rate=0.5).sum()) > 0
    assert float(found["units_replaced"].sel(replacement_rate=0.0).sum()) == 0


@pytest.mark.slow
def test_a_function_that_is_a_setting_of_a_part_is_found_again(tmp_path):
    members, settings = {"seed": [0]}, {"method": "cbp", "maturity_threshold": 0, "replacement_rate": 0.3, "steps": 8}
    here = sweep(members, measure=bad_parts.right_measure, **settings)
    kept = sweep(members, measure=bad_parts.right_measure, out=tmp_path / "run", **settings)
    named = sweep(members, measure="bad_parts:right_measure", **settings)
    assert here["units_replaced"].sum() > 0
    for other in (kept, named, fcbp.resume(tmp_path / "run", progress=False)):
        np.testing.assert_array_equal(other["loss"], here["loss"])


# --- whose code a run runs ------------------------------------------------------------------------------

MINE = """
import pathlib
import fcbp, torch
pathlib.Path(__file__).with_suffix(".imported").touch()

def network(spec, width=4):
    return torch.nn.Sequential(torch.nn.Linear(20, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))

experiment = fcbp.Experiment(network=network, metrics=(), steps=6, bin=2)
"""


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A finished run whose network lies in a file beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.warns(UserWarning, match="no unit will be replaced"):
        fcbp.sweep("mine.py:experiment", {"seed": [0, 1]}, out="run", progress=False, compile=False)
    forget()
    (tmp_path / "mine.imported").unlink()
    return tmp_path


def forget():
    for name in [name for name in sys.modules if name.startswith("fcbp_file_")]:
        del sys.modules[name]


def command(*words, folder):
    return subprocess.run(
        [sys.executable, "-m", "fcbp.cli", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(fcbp.__file__).parent.parent), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )


def test_looking_at_a_run_imports_nothing_that_it_names(finished, capsys):
    from fcbp import cli

    with fcbp.open("run") as results:
        assert np.isfinite(results["loss"]).all()
    (finished / "mine.py").write_text("raise SystemExit('this ran')")
    for words in (["ls"], ["plot", "run"], ["compare", "run", "run"], ["export", "run", "--tensorboard", "board"]):
        code = cli.main(words)
        told = capsys.readouterr()
        assert "this ran" not in told.out + told.err
        assert code == 0 or "import" not in told.err, (words, told.err)
    assert not (finished / "mine.imported").exists()
    assert not [name for name in sys.modules if name.startswith("fcbp_file_")]


@pytest.mark.slow
def test_a_file_of_an_experiment_says_first_what_it_imports(finished):
    (finished / "mine.yaml").write_text((finished / "run" / "experiment.yaml").read_text())
    done = command("run", "mine.yaml", "--seeds", "1", folder=finished)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("fcbp: importing mine.py:network")
    assert done.stderr.count("importing") == 1


def test_resume_says_first_what_it_imports(finished, capsys):
    fcbp.resume("run", progress=False)
    assert "importing mine.py:network" in capsys.readouterr().err
    assert (finished / "mine.imported").exists()


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_a_changed_source_is_refused_until_it_is_accepted(finished, again):
    whole = fcbp.open("run").load()
    (finished / "mine.py").write_text(MINE + "\n# another line\n")

    def go_on(**options):
        if again:
            return fcbp.sweep(
                "mine.py:experiment", {"seed": [0, 1]}, out="run", resume=True, progress=False, compile=False, **options
            )
        return fcbp.resume("run", progress=False, **options)

    warned = pytest.warns(UserWarning, match="no unit will be replaced")
    with warned if again else none(), pytest.raises(ValueError, match=r"mine\.py:network.*--accept"):
        go_on()
    with warned if again else none():
        found = go_on(accept_changes=True)
    np.testing.assert_array_equal(found["loss"], whole["loss"])


def none():
    import contextlib

    return contextlib.nullcontext()


def test_parts_in_the_run_directory_or_elsewhere_are_not_imported(finished, monkeypatch):
    elsewhere = finished / "elsewhere"
    elsewhere.mkdir()
    (finished / "mine.py").rename(elsewhere / "mine.py")
    plan = finished / "run" / "plan.json"
    text = plan.read_text()
    assert "mine.py:network" in text
    (finished / "run" / "mine.py").write_text(MINE)
    for address, message in [
        ("run/mine.py:network", "run's own directory"),
        (f"{finished}/run/mine.py:network", "run's own directory"),
        ("run.mine:network", "run's own directory"),
        (f"{elsewhere}/mine.py:network", "outside of the current directory"),
        ("../../elsewhere/mine.py:network", "outside of the current directory"),
    ]:
        changed = json.loads(text.replace("mine.py:network", address))
        del changed["sha256"]
        plan.write_text(json.dumps({**changed, "sha256": files._digest(changed)}))
        monkeypatch.chdir(finished if "own" in message else make(finished / "here" / "there"))
        with pytest.raises(ValueError, match=message):
            fcbp.resume(finished / "run", progress=False)
    assert not list(finished.rglob("*.imported"))


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("where", ["run", "outside"])
def test_a_file_of_an_experiment_names_no_strangers_code(where, finished):
    notes = (finished / "run" / "experiment.yaml").read_text()
    folder = make(finished / "here")
    place = finished / "run" if where == "run" else finished
    (place / "theirs.py").write_text(MINE)
    (place / "experiment.yaml").write_text(notes.replace("mine.py:network", f"{place}/theirs.py:network"))
    done = command("run", str(place / "experiment.yaml"), "--seeds", "1", folder=finished if where == "run" else folder)
    assert done.returncode == 2, done
    assert "theirs.py:network" in done.stderr
    assert not list(finished.rglob("*.imported"))


def test_every_extra_parameter_of_a_part_is_a_setting():
    for build, positional in ((bad_parts.stream_that_is_right, 0), (bad_parts.network_that_is_right, 1)):
        names = list(inspect.signature(build).parameters)[positional:]
        assert all(hasattr(fcbp.Experiment(**RIGHT), name) for name in names)
    assert importlib.import_module("bad_parts") is bad_parts
