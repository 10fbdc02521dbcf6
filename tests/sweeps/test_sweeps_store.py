"""Results on the disk: complete, described, small, and readable while they are being written."""

import json
import os
import re
import subprocess

import numpy as np
import pytest
import torch
import xarray

import fcbp
from fcbp.experiment import ExperimentMaker, assemble
from fcbp.sweeps import execution, folder, store
from fcbp.sweeps.chunk import Measured
from fcbp.sweeps.execution import Execution
from fcbp.sweeps.plan import Plan
from fcbp.sweeps.store import Results

EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=30, bin=10)
MEASURED = assemble([EXPERIMENT]).measurements
MEMBERS = {"seed": [3, 4], "activation": ["relu", "tanh"], "replacement_rate": [0.1, 0.2]}


def sweep(out, members=MEMBERS, experiment=EXPERIMENT, **options):
    return fcbp.sweep(experiment, members, out=out, progress=False, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, sweep(out)


def results_of(members, steps, bin, path=None):
    plan = Plan(ExperimentMaker(EXPERIMENT.replace(steps=steps)), members, steps, bin, False)
    return Results(plan, MEASURED, path)


# --- what is there --------------------------------------------------------------------------------------


def test_open_gives_what_the_sweep_gave(finished):
    out, results = finished
    for run in (out, str(out)):
        assert fcbp.open(run).identical(results)


def test_open_has_the_order_of_the_sweep(finished):
    out, results = finished
    opened = fcbp.open(out)
    for part in ("sizes", "data_vars", "coords"):
        assert list(getattr(opened, part)) == list(getattr(results, part)), part


def test_names_units_and_attributes(finished):
    out, results = finished
    assert dict(results.sizes) == {"seed": 2, "activation": 2, "replacement_rate": 2, "step": 3}
    assert results["activation"].values.tolist() == ["relu", "tanh"]
    for name in (*results.data_vars, "step"):
        assert results[name].attrs["long_name"]
        assert results[name].attrs["units"]
    assert results["replacement_rate"].attrs == {"long_name": "replacement rate"}
    assert results["loss"].dtype == np.float32
    attributes = results.attrs
    assert json.loads(attributes["experiment"])["maturity_threshold"] == 5
    assert (attributes["steps"], attributes["bin"], attributes["seeds"]) == (30, 10, "3-4")
    assert (attributes["fcbp"], attributes["torch"]) == (fcbp.__version__, torch.__version__)
    assert attributes["device"].startswith("cpu")
    assert attributes["state"] == "finished"
    assert re.match(r"\d{4}-\d\d-\d\dT", attributes["began"])
    config = json.loads((out / "config.json").read_text())
    assert config["experiment"] == json.loads(attributes["experiment"])
    assert config["sizes"] == dict(results.sizes)
    made_by = {maker for program in config["programs"] for maker in program["made_by"]}
    assert attributes["made_by"].split("; ") == sorted(made_by)
    written, derived = ("experiment", "programs"), ("made_by", "same_bits")  # as JSON: attributes are no trees
    assert {name: config[name] for name in attributes if name not in derived} == {
        name: json.loads(value) if name in written else value
        for name, value in attributes.items()
        if name not in derived
    }


def test_the_git_revision_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder._revision() == {}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "script.py").write_text("1")
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert folder._revision() == {"git": head}
    (tmp_path / "script.py").write_text("2")
    assert folder._revision() == {"git": f"{head} with changes"}


def test_the_tidy_table(finished):
    _, results = finished
    table = results.to_dataframe().reset_index()
    assert len(table) == 2 * 2 * 2 * 3
    assert set(table.columns) == {"seed", "activation", "replacement_rate", "step", *results.data_vars}
    row = table[(table.seed == 4) & (table.activation == "tanh") & (table.replacement_rate == 0.2) & (table.step == 20)]
    chosen = results["loss"].sel(seed=4, activation="tanh", replacement_rate=0.2, step=20)
    assert row["loss"].item() == chosen.item()


def test_the_store_opens_without_fcbp(finished):
    out, results = finished
    raw = xarray.open_zarr(out / store.STORE, consolidated=False)
    assert raw.drop_attrs(deep=False).identical(results.drop_attrs(deep=False))
    assert raw.attrs["seeds"] == "3-4"


BACKPROP = fcbp.Experiment(method="bp", steps=10, bin=5)


@pytest.mark.parametrize(
    ("experiment", "members"),
    [
        (EXPERIMENT, fcbp.grid()),
        (EXPERIMENT, fcbp.grid(hidden=[(5,), (4, 3)], seed=0)),
        (EXPERIMENT, fcbp.paired(seed=[3, 0], replacement_rate=[0.1, 0.2])),
        (BACKPROP, fcbp.designs.listed([{"method": "bp"}, {"method": "cbp", "replacement_rate": 0.2}], seed=[0, 1])),
        (BACKPROP, fcbp.designs.listed([{"method": "bp"}, {"method": "cbp", "measure": "weight"}], seed=[0, 1])),
    ],
)
def test_every_design_comes_back(experiment, members, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ExperimentMaker, "surprises", lambda *args: [])
        results = sweep(tmp_path, members, experiment)
    assert fcbp.open(tmp_path).identical(results)
    opened = folder.Folder(tmp_path)
    plan = folder.read_plan(opened)
    folder.check_same(opened, plan)
    opened.release()
    assert plan.maker.base == experiment
    assert plan.members == members


def test_what_only_some_members_set_is_not_a_number_elsewhere():
    assert np.isnan(store._coordinate([0.1, None])[1])
    assert store._coordinate(["weight", None]) == ["weight", ""]
    assert store._coordinate([(5,), (4, 3)]) == ["(5,)", "(4, 3)"]
    assert store._coordinate([True, False]) == [True, False]


# --- while it is written --------------------------------------------------------------------------------


def test_open_while_the_sweep_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "FLUSH_EVERY", 0)
    handle = Execution._handle
    seen = []

    def look(self, event):
        handle(self, event)
        if isinstance(event, Measured):
            seen.append(fcbp.open(tmp_path))

    monkeypatch.setattr(Execution, "_handle", look)
    results = sweep(tmp_path, {"seed": [3, 4], "replacement_rate": [0.1, 0.2]})
    assert len(seen) == 3
    for bins, data in enumerate(seen, start=1):
        assert data.attrs["state"] == "running"
        assert dict(data.sizes) == dict(results.sizes)
        for name in results:
            there, rest = data[name].isel(step=slice(bins)), data[name].isel(step=slice(bins, None))
            np.testing.assert_array_equal(there, results[name].isel(step=slice(bins)))
            assert rest.isnull().all()


def test_writes_are_seconds_apart(tmp_path, monkeypatch):
    now = [0.0]
    flushed = []
    monkeypatch.setattr(store.time, "monotonic", lambda: now[0])
    results = results_of(fcbp.grid(seed=[0, 1]), 100, 1)
    monkeypatch.setattr(results, "flush", lambda: (flushed.append(now[0]), setattr(results, "_flushed", now[0])))
    for bin in range(100):
        now[0] += 0.3
        results.put([0, 1], bin, {"loss": np.zeros(2, np.float32)})
    assert len(flushed) == 5
    assert np.diff([0, *flushed]).min() >= store.FLUSH_EVERY


def test_no_run(tmp_path):
    for call in (fcbp.open, fcbp.sweeps.state, fcbp.resume):
        with pytest.raises(ValueError, match=r"run is .*, which holds no \S+; expected the directory of a sweep"):
            call(tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- size -----------------------------------------------------------------------------------------------


def test_a_million_steps_of_500_members_stay_under_50_mb(tmp_path):
    """With values as hard to compress as any: random bits behind the point."""
    results = results_of(fcbp.grid(seed=range(500)), 1_000_000, 1000, tmp_path / store.STORE)
    results.create({})
    draws = np.random.default_rng(0)
    for values in results.values.values():
        values[:] = draws.normal(1.0, 0.1, values.shape)
    results._dirty = {(name, block): None for name in results.values for block in range(2)}
    results.flush(sync=True)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    count = sum(values.size for values in results.values.values())
    assert count == 500 * 1000 * len(MEASURED) >= 500 * 1000 * 16
    assert size < 4.01 * count < 50e6
    again = results_of(fcbp.grid(seed=range(500)), 1_000_000, 1000, tmp_path / store.STORE)
    assert again.load(dict.fromkeys(range(500), 1000), {}) == set()
    for name, values in results.values.items():
        np.testing.assert_array_equal(again.values[name], values)


def test_values_that_repeat_take_no_place(tmp_path):
    results = results_of(fcbp.grid(seed=range(500)), 100_000, 1000, tmp_path / store.STORE)
    results.create({})
    for bin in range(100):
        results.put(range(500), bin, {"units_replaced": np.full(500, bin % 3, np.float32)})
    results.flush()
    written = list((tmp_path / store.STORE / "units_replaced").glob("0*"))
    assert sum(path.stat().st_size for path in written) < 0.05 * 4 * 500 * 100


# --- what shows how it comes on ----------------------------------------------------------------


def test_members_that_broke_are_counted():
    results = results_of(fcbp.grid(seed=[0, 1, 2]), 20, 10)
    assert results.failed().tolist() == [False] * 3
    results.put([0, 1], 0, {"loss": np.array([0.5, np.nan], np.float32), "units_replaced": np.array([2, np.nan])})
    assert results.failed().tolist() == [False, True, False]
    from fcbp.sweeps.progress import summary

    assert summary(results) == "1 NaN, 2 units replaced"


@pytest.mark.parametrize(
    ("seeds", "text"), [([0], "0"), (range(30), "0-29"), ([7, 3, 4, 5, 9], "3-5, 7, 9"), ([2, 1], "1-2")]
)
def test_seeds_in_few_words(seeds, text):
    assert execution._ranges(seeds) == text


def test_the_directory_is_small(finished):
    out, _ = finished
    assert sum(entry.stat().st_size for entry in out.rglob("*") if not os.path.isdir(entry)) < 40_000
