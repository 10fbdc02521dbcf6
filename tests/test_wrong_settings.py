"""Every setting of an experiment, with every kind of wrong value, through every door: Python, a file, the command."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from wrong_settings import TEXTS, WRONG, reading

import fcbp
import fcbp.cli
from fcbp import experiment
from fcbp.cli.flags import flags_of
from fcbp.cli.subject import read
from fcbp.sweeps import run as sweeping

ELSEWHERE = {("schedule", "a function"), ("noise", "a function")}
"""A function of the user's that gives ``None``: the error is about what it gives."""
NOT_IN_A_FILE = {"seed"}
"""The command's own ``--seeds`` takes its place."""


class Reached(Exception):
    """A sweep would begin."""


@pytest.fixture(autouse=True)
def no_sweep_begins(monkeypatch, tmp_path):
    def begin(*_: Any, **__: Any) -> None:
        raise Reached

    monkeypatch.setattr(sweeping, "Execution", begin)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fitting(default: Any, value: Any) -> bool:
    """Whether a value is of the kind of a setting's default, so that a door may take it."""
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float)) and value == value
    return isinstance(value, type(default)) or (isinstance(default, str) and isinstance(value, Path))


@pytest.mark.slow
def test_every_setting_is_named_in_python():
    counts: Counter[str] = Counter()
    bad = []
    defaults = experiment.setting_names()
    for name, others in reading().items():
        for kind, value in WRONG.items():
            try:
                experiment.check([fcbp.Experiment(**{**others, name: value})])
                found = "accepted" if fitting(defaults[name], tuple(value) if value == [] else value) else "unfitting"
            except ValueError as error:
                found = "named" if name in str(error) else f"unnamed: {error}"
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            counts[found.partition(":")[0]] += 1
            if found not in ("accepted", "named") and (name, kind) not in ELSEWHERE:
                bad.append(f"{name} = {kind}: {found[:200]}")
    print(dict(counts))
    assert not bad, "\n".join(bad)


def told(run: Any, name: str) -> str:
    """What came of a door: the message names the setting, or a sweep would begin."""
    try:
        run()
    except Reached:
        return "accepted"
    except ValueError as error:
        return "named" if name in str(error) else f"unnamed: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.slow
def test_every_setting_is_named_in_a_file(tmp_path):
    counts: Counter[str] = Counter()
    bad = []
    for name, others in reading().items():
        for kind, text in TEXTS.items():
            if name in NOT_IN_A_FILE:
                continue
            file = tmp_path / "a.yaml"
            lines = {**{key: "null" if value is None else value for key, value in others.items()}, name: text}
            file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()), encoding="utf-8")

            def run(file: Path = file) -> None:
                base, swept = read(os.fspath(file))
                assert isinstance(base, fcbp.Experiment)
                experiment.check([base.replace(seed=0)], tuple(swept))
                raise Reached

            found = told(run, name)
            counts[found.partition(":")[0]] += 1
            if found not in ("accepted", "named"):
                bad.append(f"{name}: {kind}: {found[:200]}")
    print(dict(counts))
    assert not bad, "\n".join(bad)


COMMANDS: dict[str, tuple[list[str], str]] = {
    "--seeds 0": (["run", "bit-flipping", "--seeds", "0"], "--seeds is 0"),
    "--seeds, very many": (["run", "bit-flipping", "--seeds", "1000000000"], "--seeds is 1000000000"),
    "--seeds, a word": (["run", "bit-flipping", "--seeds", "ten"], "--seeds"),
    "--seed": (["run", "bit-flipping", "--seed", "3"], "--seed"),
    "--steps 0": (["run", "bit-flipping", "--steps", "0"], "steps is 0"),
    "--steps, a fraction": (["run", "bit-flipping", "--steps", "1.5"], "--steps"),
    "--stepz": (["run", "bit-flipping", "--stepz", "1"], "--stepz"),
    "--bin": (["run", "bit-flipping", "--bin", "many"], "--bin is 'many'"),
    "--bin 0": (["run", "bit-flipping", "--bin", "0"], "bin is 0"),
    "bins": (["run", "bit-flipping", "--steps", "1000000000000", "--bin", "1"], "bin is 1"),
    "--out, a URL": (["run", "bit-flipping", "--out", "s3://bucket/run"], "--out is 's3:"),
    "--out, nothing": (["run", "bit-flipping", "--out", ""], "--out is ''"),
    "--out=, nothing": (["run", "bit-flipping", "--out="], "--out is ''"),
    "--resume": (["run", "bit-flipping", "--resume"], "--resume is given without --out"),
    "--device meta": (["run", "bit-flipping", "--device", "meta"], "device is 'meta'"),
    "--device mps": (["run", "bit-flipping", "--device", "mps"], "device is 'mps'"),
    "--device cuda:99": (["run", "bit-flipping", "--device", "cuda:99"], "device is 'cuda:99'"),
    "--device, nothing": (["run", "bit-flipping", "--device", ""], "device is ''"),
    "--device 3": (["run", "bit-flipping", "--device", "3"], "device is '3'"),
    "--devices, very many": (["run", "bit-flipping", "--devices", "1000000000"], "devices is 1000000000"),
    "--devices xpu": (["run", "bit-flipping", "--devices", "xpu", "cpu"], "devices is 'xpu'"),
    "--backend": (["run", "bit-flipping", "--backend", "dask"], "backend is 'dask'"),
    "--address": (["run", "bit-flipping", "--address", "auto"], "address is 'auto'"),
    "--members-at-once": (["run", "bit-flipping", "--members-at-once", "0"], "members_at_once is 0"),
    "--checkpoint-every": (["run", "bit-flipping", "--checkpoint-every", "nan"], "checkpoint_every is nan"),
    "--compile": (["run", "bit-flipping", "--compile", "yes"], "--compile"),
    "experiment": (["run", "bit-fliping"], "'bit-flipping'"),
    "a file that is not there": (["run", "none.yaml"], "none.yaml"),
    "a folder": (["run", "."], "is a directory"),
    "plot": (["plot", "nowhere"], "run is 'nowhere'"),
    "plot, a URL": (["plot", "https://a.b/run"], "which is a URL"),
    "resume": (["resume", "nowhere"], "run is 'nowhere'"),
    "compare": (["compare", "nowhere", "nowhere"], "run is 'nowhere'"),
    "export": (["export", "nowhere"], "expected --csv"),
    "export, a URL": (["export", "nowhere", "--tensorboard", "s3://b"], "--tensorboard is 's3:"),
    "ls, a URL": (["ls", "--runs", "s3://bucket"], "--runs is 's3:"),
    "--runs, nothing": (["ls", "--runs", ""], "--runs is ''"),
    "ls, nothing": (["ls", ""], "ls is ''"),
    "plot, nothing": (["plot", ""], "plot is ''"),
    "report, nothing": (["report", "nowhere", "--out", ""], "--out is ''"),
    "--csv, nothing": (["export", "nowhere", "--csv", ""], "--csv is ''"),
    "--root, nothing": (["data", "ls", "--root", ""], "--root is ''"),
    "no command": ([""], "command is ''"),
    "data ls": (["data", "ls", "--root", "s3://bucket"], "root is 's3:"),
    "data fetch": (["data", "fetch", "mnits"], "'mnist'"),
    "data check": (["data", "check", "--names", "mnits"], "'mnist'"),
    "data": (["data", "remove"], "remove"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_commands_own_flags_are_named(name):
    words, message = COMMANDS[name]
    error, exit_of_parser = io.StringIO(), None
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(error):
        try:
            status = fcbp.cli.main(words)
        except SystemExit as ended:
            status = exit_of_parser = ended.code
    told = error.getvalue()
    assert status == 2, told
    assert message in told, told
    assert "Traceback" not in told, told
    if exit_of_parser is None:
        assert len(told.strip().splitlines()) == 1, told
    assert not (Path("runs").exists() and any(Path("runs").iterdir()))


def ended(words: list[str]) -> tuple[int | str, str]:
    """The exit status of a command and its errors; ``"accepted"`` where a sweep would begin."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        try:
            return fcbp.cli.main(words), error.getvalue()
        except Reached:
            return "accepted", error.getvalue()
        except SystemExit as of_parser:
            return f"parser {of_parser.code}", error.getvalue()


def amiss(words: list[str], name: str, value: str) -> str:
    """What is wrong with how a command takes a wrong value; empty where it is refused in one line that names it."""
    status, lines = ended(words)
    last = lines.strip().splitlines()[-1:] or [""]
    if status == "accepted":
        return "" if name in ACCEPTED else "accepted"
    if status != 2 or len(lines.strip().splitlines()) != 1:
        return f"{status} in {len(lines.splitlines())} lines: {last[0][:200]}"
    words = {name, f"--{name.replace('_', '-')}"}
    return "" if value in last[0] and any(word in last[0] for word in words) else f"unnamed: {last[0][:200]}"


ACCEPTED = {"root"}
"""Settings for which any text is right: a folder that is made where it is missing."""
IN_FILES = {"a string": "nonsense", "a mapping": "'a'", "NaN": "nan", "a nested list": "(1,"}
"""Some of ``TEXTS``, and how a message shows them."""


@pytest.mark.slow
def test_every_setting_is_named_where_the_command_runs_a_file(tmp_path):
    bad = []
    for name, others in reading().items():
        for kind, shown in IN_FILES.items():
            if name in NOT_IN_A_FILE:
                continue
            file = tmp_path / "a.yaml"
            lines = {**{key: "null" if value is None else value for key, value in others.items()}, name: TEXTS[kind]}
            file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()), encoding="utf-8")
            if found := amiss(["run", str(file)], name, shown):
                bad.append(f"{name}, {kind}: {found}")
    assert not bad, "\n".join(bad)


@pytest.mark.slow
def test_every_setting_is_named_where_a_flag_gives_it():
    bad = []
    others = reading()
    for flag in flags_of(fcbp.Experiment()):
        if flag.kind is bool:
            continue  # the parser takes True and False alone
        value = {int: "-7", float: "nan"}.get(flag.kind, "nonsense")
        chosen = {key: one or "cross_entropy" for key, one in others[flag.name].items() if key != flag.name}
        words = [word for key, one in chosen.items() for word in (f"--{key.replace('_', '-')}", str(one))]
        if found := amiss(["run", "bit-flipping", *words, flag.dashed, value], flag.name, value):
            bad.append(f"{flag.dashed} {value}: {found}")
    assert not bad, "\n".join(bad)
