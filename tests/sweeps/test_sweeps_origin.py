"""What a sweep's results say they were made by, and where its numbers are the same."""

import json

import pytest
import torch
from interruption import raise_after

import fcbp
from fcbp import lanes
from fcbp.sweeps import plan

EXPERIMENT = fcbp.Experiment(maturity_threshold=5, replacement_rate=0.1, steps=20, bin=10)
MEMBERS = {"seed": [0, 1]}


def of_the_first_program(results):
    return json.loads(results.attrs["programs"])[0]["made_by"]


@pytest.mark.compiled
def test_steps_in_lanes_are_the_same_everywhere_and_name_processor_and_compiler(monkeypatch):
    monkeypatch.setattr(lanes, "OPTIMIZE", "-O0")
    monkeypatch.setattr(plan, "COMPILE_FROM", {"lanes": 1, "scan": 1 << 40})
    results = fcbp.sweep(EXPERIMENT, MEMBERS, progress=False)
    assert of_the_first_program(results) == [f"lanes, {lanes.build.made_by()}"] == [results.attrs["made_by"]]
    assert results.attrs["same_bits"] == "of all steps, on every processor"


def test_eager_steps_are_the_same_beside_the_same_library_alone():
    results = fcbp.sweep(EXPERIMENT, MEMBERS, compile=False, progress=False)
    (made_by,) = of_the_first_program(results)
    assert made_by.startswith("eager, ")
    assert made_by.endswith(f"torch {torch.__version__}")
    assert results.attrs["same_bits"] == "with this kind of processor and this version of torch"


class Enough(BaseException):
    """Stands for a kill."""


def test_a_run_that_goes_on_elsewhere_names_both(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        raise_after(patch, 5, Enough)
        with pytest.raises(Enough):
            fcbp.sweep(EXPERIMENT, MEMBERS, compile=False, out=tmp_path, checkpoint_every=0, progress=False)
    config = json.loads((tmp_path / "config.json").read_text())
    (here,) = config["programs"][0]["made_by"]
    config["programs"][0]["made_by"] = ["eager, elsewhere"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    results = fcbp.resume(tmp_path, progress=False)
    assert of_the_first_program(results) == ["eager, elsewhere", here]
    assert results.attrs["made_by"] == "; ".join(sorted(["eager, elsewhere", here]))
    assert fcbp.open(tmp_path).attrs["made_by"] == results.attrs["made_by"]


def test_a_run_of_before_says_that_nobody_knows():
    assert fcbp.sweeps.store.progress_attributes({"programs": [{"backend": "lanes"}]})["made_by"] == "unknown"
