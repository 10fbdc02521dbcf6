"""What the command says without a run, and what it shows of one."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import fcbp
from fcbp import analysis, cli
from fcbp.cli import words
from fcbp.cli.page import page
from fcbp.cli.runs import COMMANDS


def command(capsys, *arguments):
    """Exit status and output of the command in this process."""
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code or 0
    return status, capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a finished run, and its results."""
    out = tmp_path_factory.mktemp("runs") / "a <run>"
    members = fcbp.grid(seed=[0, 1], replacement_rate=[0.0, 0.05])
    experiment = fcbp.Experiment(maturity_threshold=20)
    return out, fcbp.sweep(experiment, members, steps=60, bin=10, out=out, progress=False)


# --- without a run --------------------------------------------------------------------------------------


def test_the_command_alone_lists_every_command(capsys):
    status, shown = command(capsys)
    assert status == 0
    listed = dict(re.findall(r"^  ([a-z]+)  +(\S.*)$", shown, re.MULTILINE))
    assert set(listed) - {"fcbp"} == {"run", "data", *COMMANDS} - {"list"}
    assert all(listed.values())


def test_run_alone_lists_every_experiment_by_kind(capsys):
    status, shown = command(capsys, "run")
    assert status == 0
    for name in fcbp.experiment.EXPERIMENTS:
        assert len(re.findall(rf"^  {name} +\S", shown, re.MULTILINE)) == 1
    assert shown.index("regression") < shown.index("bit-flipping") < shown.index("classification")
    assert "digits, mlp 100 100, adam" in shown


@pytest.mark.slow
def test_python_runs_the_package_as_the_command():
    shown = subprocess.run([sys.executable, "-m", "fcbp", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == f"fcbp {fcbp.__version__}\n"


def test_info_tells_versions_devices_caches_and_data(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FCBP_CACHE_DIR", str(tmp_path))
    (tmp_path / "lanes").mkdir()
    (tmp_path / "lanes" / "kept.so").write_bytes(b"12345")
    status, shown = command(capsys, "info", "--json")
    assert status == 0
    found = json.loads(shown)
    assert found["versions"]["fcbp"] == fcbp.__version__
    assert found["caches"]["programs"] == {"path": str(tmp_path / "lanes"), "bytes": 5}
    assert found["devices"][0].startswith("cpu: ")
    assert "digits" in found["data"]["found"]
    status, shown = command(capsys, "info")
    assert (status, shown.splitlines()[0]) == (0, f"fcbp          {fcbp.__version__}")
    assert "compiler" in shown


def test_info_without_a_compiler_or_an_extra_says_so(capsys, monkeypatch):
    import importlib.metadata

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.metadata, "version", missing)
    status, shown = command(capsys, "info")
    assert status == 0
    assert "none; looked for g++ and clang++" in shown
    assert "not installed; pip install 'fcbp[ray]'" in shown


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_commands(shell, capsys):
    status, shown = command(capsys, "completion", shell)
    assert status == 0
    for name in ("run", "resume", "report", "--step-size"):
        assert name.lstrip("-") in shown


def test_data_sets_are_listed_as_json(capsys, tmp_path):
    status, shown = command(capsys, "data", "ls", "--json", "--root", tmp_path)
    assert status == 0
    assert {row["name"] for row in json.loads(shown)["data"]} == set(fcbp.data.names())


# --- of a run -------------------------------------------------------------------------------------------


def test_show_prints_the_table_again(run, capsys):
    out, results = run
    status, shown = command(capsys, "show", out)
    assert status == 0
    assert shown.startswith(analysis.table(results))
    assert not list(out.glob("*.png"))


def test_show_gives_rows_as_json(run, capsys):
    out, results = run
    status, shown = command(capsys, "show", out, "--json")
    assert status == 0
    found = json.loads(shown)
    assert (found["steps"], found["state"], found["variable"]) == (60, "finished", "loss")
    expected = analysis.summary(results)
    assert [row["setting"] for row in found["rows"]] == [row.setting for row in expected]
    assert [row["end"] for row in found["rows"]] == [row.end for row in expected]


def test_compare_gives_differences_as_json(run, capsys):
    out, results = run
    status, shown = command(capsys, "compare", out, out, "--last", "0.5", "--json")
    assert status == 0
    found = json.loads(shown)
    assert (found["variable"], found["last"], found["first"]) == ("loss", 0.5, str(out))
    expected = analysis.compare(results, results, last=0.5)
    assert [row["mean"] for row in found["differences"]] == [row.mean for row in expected]
    assert [row["first"] for row in found["differences"]] == [row.first for row in expected]


def without_times(found):
    """What a run that was finished before tells again, whatever the clock says."""
    found = {name: without_times(value) if isinstance(value, dict) else value for name, value in found.items()}
    return {name: value for name, value in found.items() if name != "seconds"}


@pytest.mark.slow
def test_run_and_resume_give_rows_as_json(capsys, tmp_path):
    out = tmp_path / "two methods"
    words = ["--method", "bp", "fresh", "--seeds", "2", "--steps", "40", "--no-grid", "--out", out]
    status, shown = command(capsys, "run", "bit-flipping", *words, "--json")
    assert status == 0
    found = json.loads(shown)
    assert (found["run"], found["state"], found["steps"]) == (str(out), "finished", 40)
    assert [row["setting"]["method"] for row in found["rows"]] == ["bp", "fresh"]
    assert [row["first"]["method"] for row in found["lost_plasticity"]] == ["fresh"]
    assert all(Path(path).exists() for path in found["pictures"])
    status, shown = command(capsys, "resume", out, "--json")
    assert (status, without_times(json.loads(shown))) == (0, without_times(found))


@pytest.mark.slow
def test_chosen_settings_are_given_as_json(capsys, tmp_path):
    out = tmp_path / "chosen"
    words = ["--step-size", "0.1", "0.01", "--method", "bp", "--tune-seeds", "2", "--report-seeds", "2"]
    status, shown = command(capsys, "run", "bit-flipping", *words, "--steps", "40", "--out", out, "--json")
    assert status == 0
    found = json.loads(shown)
    assert found["choices"][0]["tried"] == 2
    assert (len(found["tune"]["rows"]), len(found["report"]["rows"])) == (2, 1)
    status, shown = command(capsys, "resume", out, "--json")
    assert (status, without_times(json.loads(shown))) == (0, without_times(found))


def test_checks_of_data_sets_are_given_as_json(capsys, tmp_path):
    status, shown = command(capsys, "data", "check", "--names", "cifar10", "--root", tmp_path, "--json")
    assert status == 1
    assert {row["state"] for row in json.loads(shown)} == {"missing"}
    assert {row["name"] for row in json.loads(shown)} == {"cifar10"}


def test_numbers_that_are_not_finite_are_null():
    assert json.loads(words.as_json({"a": [float("nan"), float("inf"), 1.5]})) == {"a": [None, None, 1.5]}


def test_runs_are_listed_with_and_without_the_word_and_as_json(run, capsys, monkeypatch):
    out, _ = run
    monkeypatch.chdir(out.parent.parent)
    status, shown = command(capsys, "ls", out.parent)
    assert status == 0
    assert "a <run>" in shown
    assert "experiments" not in shown
    status, shown = command(capsys, "ls", out.parent, "--json")
    (row,) = json.loads(shown)["runs"]
    assert (row["state"], row["members"], row["steps"]) == ("finished", "2 seed x 2 replacement_rate", "60")
    status, shown = command(capsys, "ls", "--json")
    assert set(json.loads(shown)) == {"experiments", "runs"}


class Page(HTMLParser):
    """The cells, pictures and links of a page, and whether its tags are closed in order."""

    VOID = ("meta", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.tables = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data


def test_the_page_of_a_run_needs_nothing_but_itself(run, capsys):
    out, _ = run
    status, shown = command(capsys, "report", out)
    assert (status, shown) == (0, f"page      {out / 'report.html'}\n")
    text = (out / "report.html").read_text()
    read = Page(text)
    assert not read.open
    assert sum(source.startswith("data:image/png;base64,") for source in read.sources) >= 3
    assert all(source.startswith("data:") for source in read.sources)
    assert "http" not in text
    assert "<h1>a &lt;run&gt;</h1>" in text


def test_the_tables_of_the_page_are_those_of_the_command(run):
    _, results = run
    tables = Page(page(results, "name")).tables
    lines = analysis.table(results).splitlines()
    split = [re.split(r"\s{2,}", line.strip()) for line in (lines[0], *lines[2:])]
    assert [[cell for cell in row if cell] for row in tables[0]] == split
    assert ["replacement_rate", "0, 0.05 (2)"] in tables[1]
    assert ["maturity_threshold", "20"] in tables[2]
    assert ["fcbp", fcbp.__version__] in tables[3]


def test_a_page_can_be_written_elsewhere(run, capsys, tmp_path):
    out, _ = run
    status, _ = command(capsys, "report", out, "--out", tmp_path / "mine.html")
    assert status == 0
    assert (tmp_path / "mine.html").read_text().startswith("<!doctype html>")


def test_a_run_of_several_sweeps_is_shown_whole(run, capsys, tmp_path, monkeypatch):
    out, results = run
    monkeypatch.setattr("fcbp.tuning.is_tuned", lambda path: True)
    monkeypatch.setattr("fcbp.tuning.sweeps_of", lambda path: (out, out))
    _, shown = command(capsys, "show", out)
    assert shown.count(analysis.table(results)) == 2
    _, shown = command(capsys, "show", out, "--json")
    assert [found["state"] for found in json.loads(shown)] == ["finished", "finished"]
    status, _ = command(capsys, "report", out, "--out", tmp_path / "mine.html")
    assert (status, list(tmp_path.iterdir())) == (2, [])
