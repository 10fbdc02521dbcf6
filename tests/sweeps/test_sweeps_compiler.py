"""Sweeps where there is no C++ compiler, or one that fails: what is said, what is kept, and what goes on."""

import json
import re

import numpy as np
import pytest
from interruption import raise_after

import fcbp
from fcbp import lanes
from fcbp.lanes import build
from fcbp.sweeps import advance, plan
from fcbp.sweeps.execution import Execution

EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=20, bin=10)
MEMBERS = {"seed": [0, 1], "replacement_rate": [0.0, 0.1]}
FAILS = "#!/bin/sh\ncase \"$*\" in *--version*) echo 1;; *) echo 'error: no licence' >&2; exit 7;; esac\n"
UNBUILT = {"none": r"no C\+\+ compiler is installed", "one that fails": "failed with status 7"}


class Enough(BaseException):
    """Stands for a kill."""


@pytest.fixture(autouse=True)
def lanes_pay_at_once(monkeypatch):
    monkeypatch.setattr(advance, "PIECE", 5)
    monkeypatch.setattr(plan, "COMPILE_FROM", {"lanes": 1, "scan": 1 << 40})


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """``compiler(which)`` puts another C++ compiler on the path, or none."""

    def put(which):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if which == "one that fails":
            (folder / "g++").write_text(FAILS)
            (folder / "g++").chmod(0o700)
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path / "cache"))
        forget()

    def forget():
        build._compiler.cache_clear()
        build.lanes.cache_clear()

    yield put
    monkeypatch.undo()
    forget()


def sweep(out, **options):
    options = {"checkpoint_every": 0, "progress": False, "members_at_once": 2, **options}
    return fcbp.sweep(EXPERIMENT, MEMBERS, out=out, **options)


def killed_after(events, out, monkeypatch):
    with monkeypatch.context() as patch:
        raise_after(patch, events, Enough)
        with pytest.raises(Enough):
            sweep(out)


def programs(out):
    return json.loads((out / "config.json").read_text())["programs"]


def told(out, **changes):
    """Change what a run tells of its program."""
    config = json.loads((out / "config.json").read_text())
    config["programs"][0].update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        del config["programs"][0][name]
    (out / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("which", UNBUILT)
def test_a_compiler_that_does_not_work_is_named_before_the_first_step(which, compiler, tmp_path, monkeypatch):
    compiler(which)
    steps = advance.Advance.given_examples
    seen = []

    def given_examples(self, carry, length):
        seen.append(len(warned))
        return steps(self, carry, length)

    monkeypatch.setattr(advance.Advance, "given_examples", given_examples)
    with pytest.warns(RuntimeWarning) as warned:
        sweep(tmp_path / "run")
    assert set(seen) == {1}  # a warning, before the first step, and none after it
    message = str(warned[0].message)
    assert "steps run eagerly, 10 to 1,000 times slower, in place of lanes: " in message
    (program,) = programs(tmp_path / "run")
    assert program["backend"] == "eager"
    assert program["unbuilt"] in message
    assert re.search(UNBUILT[which], message)


def test_a_run_in_lanes_does_not_go_on_where_they_cannot_be_built(compiler, tmp_path, monkeypatch):
    compiler("none")
    out = tmp_path / "run"
    with pytest.warns(RuntimeWarning, match="in place of lanes"):
        killed_after(8, out, monkeypatch)
    told(out, backend="lanes", unbuilt=None)
    for again in (lambda: fcbp.resume(out, progress=False), lambda: sweep(out, resume=True)):
        with pytest.raises(
            ValueError, match=r"taken in lanes, which cannot be built here: no C\+\+ comp.*accept_changes=T"
        ):
            again()
        assert programs(out)[0]["backend"] == "lanes"
    with pytest.warns(RuntimeWarning, match="in place of lanes"):
        results = fcbp.resume(out, progress=False, accept_changes=True)
    assert fcbp.sweeps.state(out) == "finished"
    assert programs(out)[0]["backend"] == "eager"
    assert np.isfinite(results["loss"]).all()


def test_a_run_without_a_compiler_goes_on_without_one(compiler, tmp_path, monkeypatch):
    compiler("none")
    with pytest.warns(RuntimeWarning, match="in place of lanes"):
        whole = sweep(tmp_path / "whole")
    with pytest.warns(RuntimeWarning, match="in place of lanes"):
        killed_after(8, tmp_path / "run", monkeypatch)
    with pytest.warns(RuntimeWarning, match="in place of lanes"):
        again = fcbp.resume(tmp_path / "run", progress=False)
    assert whole["loss"].identical(again["loss"])


def test_what_really_ran_is_kept_where_lanes_fail_in_the_middle(tmp_path, monkeypatch):
    """Lanes are stood for by eager steps, which fail to be lanes from the third piece on."""
    pieces = []

    def in_lanes(self, step, ours, batches, length):
        pieces.append(length)
        if len(pieces) > 2:
            self.unbuilt = "out of luck"
            return None
        return advance.loop.scan(step, ours, batches, length, backend="eager")[0]

    kept = []
    write = Execution._write_config

    def recorded(self, state):
        kept.append({**self.config["programs"][0]})
        write(self, state)

    monkeypatch.setattr(advance, "WINDOWS", ())
    monkeypatch.setattr(advance.loop, "prepare", lambda *_: ("lanes", ""))
    monkeypatch.setattr(advance.Advance, "in_lanes", in_lanes)
    monkeypatch.setattr(Execution, "_write_config", recorded)
    with pytest.warns(RuntimeWarning, match="out of luck"):  # from the next chunk on
        sweep(tmp_path / "run")
    ran = [(one.get("backend"), one.get("unbuilt")) for one in kept]
    assert ran[:3] == [(None, None), ("lanes", None), ("lanes", None)]
    assert set(ran[3:]) == {("eager", "out of luck")}
    assert programs(tmp_path / "run")[0]["backend"] == "eager"


@pytest.mark.compiled
def test_a_run_that_began_in_lanes_or_without_them_goes_on_alike_or_not_at_all(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    killed_after(4, tmp_path / "lanes", monkeypatch)
    assert programs(tmp_path / "lanes")[0]["backend"] == "lanes"
    with monkeypatch.context() as patch:
        patch.setattr(advance.loop, "prepare", lambda *_: ("scan", "no compiler today"))
        with pytest.warns(RuntimeWarning, match="no compiler today"):
            killed_after(8, tmp_path / "eager", monkeypatch)
        with pytest.raises(ValueError, match="taken in lanes, which cannot be built here: no compiler today"):
            fcbp.resume(tmp_path / "lanes", progress=False)
    with pytest.raises(ValueError, match="taken eagerly, for no compiler today; here they would be taken in lanes"):
        fcbp.resume(tmp_path / "eager", progress=False)
    fcbp.resume(tmp_path / "lanes", progress=False)
    assert fcbp.sweeps.state(tmp_path / "lanes") == "finished"
