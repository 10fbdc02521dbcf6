"""Results as tables and for trackers: every number is there, and a missing package is named."""

import sys
import types

import numpy as np
import pandas
import pytest
import xarray

import fcbp
from fcbp import export
from fcbp.cli import main

ROWS = [{"method": "bp"}, {"method": "l2", "strength": 0.1}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "run"
    base = fcbp.Experiment(method="bp", steps=40, bin=20, metrics=("weight_magnitude",))
    fcbp.sweep(base, fcbp.designs.listed(ROWS, seed=range(3)), out=out, progress=False, compile=False)
    return out


def check(table, results):
    """A row for each member and bin, in order, with the numbers of the results."""
    assert len(table) == results["loss"].size == 2 * 3 * 2
    for _, row in table.iterrows():
        cell = results.isel(setting=int(row["setting"])).sel(seed=row["seed"], step=row["step"])
        for name in results.data_vars:
            np.testing.assert_array_equal(np.asarray(row[name]).astype(cell[name].dtype), cell[name])
        assert row["method"] == str(cell["method"].values)
        strength = float(cell["strength"])
        assert row["strength"] == strength or (pandas.isna(row["strength"]) and np.isnan(strength))
    assert table["step"].tolist() == [20, 40] * 6


def test_a_csv_has_a_row_for_each_member_and_bin(run, tmp_path, capsys):
    assert main(["export", str(run), "--csv", str(tmp_path / "table.csv")]) == 0
    assert "table.csv" in capsys.readouterr().out
    table = pandas.read_csv(tmp_path / "table.csv")
    assert list(table.columns)[:2] == ["setting", "seed"]
    check(table, fcbp.open(run))
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_parquet_file_has_the_same(run, tmp_path):
    pytest.importorskip("pyarrow")
    assert main(["export", str(run), "--parquet", str(tmp_path / "table.parquet")]) == 0
    check(pandas.read_parquet(tmp_path / "table.parquet"), fcbp.open(run))


def test_an_unfinished_runs_bins_that_are_not_there_are_left_out():
    data = fcbp.sweep(
        fcbp.Experiment(method="bp", steps=40, bin=20), fcbp.grid(seed=range(2)), progress=False, compile=False
    )
    half = data.where(data.step < 30).assign_attrs(state="running")
    assert export.frame(half)["step"].tolist() == [20, 20]
    failed = data.where(data.step < 30).assign_attrs(state="finished")
    assert export.frame(failed)["step"].tolist() == [20, 40, 20, 40]


def test_tasks_and_a_single_member_are_tables_too():
    coords = {"task": [0, 1], "step": ("task", [5, 10])}
    data = xarray.Dataset({"accuracy": ("task", [0.5, 0.75])}, coords)
    table = export.frame(data)
    assert list(table.columns) == ["task", "step", "accuracy"]
    assert table["accuracy"].tolist() == [0.5, 0.75]


class Run:
    def __init__(self, **given):
        self.given, self.points, self.finished = given, [], False

    def log(self, values, step):
        self.points.append((step, values))

    def finish(self):
        self.finished = True


def test_each_member_is_a_run_of_weights_and_biases(run, tmp_path, monkeypatch):
    runs = []
    stub = types.SimpleNamespace(init=lambda **given: runs.append(Run(**given)) or runs[-1])
    monkeypatch.setitem(sys.modules, "wandb", stub)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    results = fcbp.open(run)
    assert export.to_wandb(results, "plasticity", folder=tmp_path) == 6
    assert len({one.given["name"] for one in runs}) == 6
    assert sorted({one.given["group"] for one in runs}) == ["bp", "l2"]
    for one in runs:
        assert one.finished
        assert one.given["mode"] == "offline"
        assert one.given["config"]["steps"] == 40
        assert [step for step, _ in one.points] == [20, 40]
        setting = 0 if one.given["config"]["method"] == "bp" else 1
        cell = results.isel(setting=setting).sel(seed=one.given["config"]["seed"])
        np.testing.assert_allclose([values["loss"] for _, values in one.points], cell["loss"])


def test_weights_and_biases_itself_takes_them_offline(run, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert export.to_wandb(fcbp.open(run), "plasticity", folder=tmp_path) == 6
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 6


@pytest.mark.parametrize(
    ("flag", "module", "extra"), [("--parquet", "pyarrow", "parquet"), ("--wandb", "wandb", "wandb")]
)
def test_a_missing_package_is_named(run, tmp_path, capsys, monkeypatch, flag, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["export", str(run), flag, str(tmp_path / "table")]) == 2
    assert f"pip install 'fcbp[{extra}]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(run, tmp_path, capsys):
    for place in (tmp_path, tmp_path / "no" / "table.csv"):
        assert main(["export", str(run), "--csv", str(place)]) == 2
        assert str(place.parent if place != tmp_path else place) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["export", str(run)]) == 2
    assert "export has nothing to write; expected --csv" in capsys.readouterr().err
