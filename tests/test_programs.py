"""Sweeps of programs that are no learner on a stream: a map, a bandit with an agent, a training step by hand."""

import os

import matplotlib.pyplot as plt
import numpy as np
import own_problem
import own_programs
import pytest
import torch
from interruption import Killed, kill_after

import fcbp
from fcbp.sweeps import advance, files
from fcbp.sweeps.execution import Execution

PROGRAMS = {
    "logistic": (own_problem.logistic, {"seed": [0, 1], "growth": [2.0, 3.9]}),
    "bandit": (own_programs.bandit, {"seed": [0, 1], "arms": [3, 5], "exploration": [0.1, 0.5]}),
    "training": (own_programs.training, {"seed": [0, 1], "replacement_rate": [0.0, 0.1]}),
}
DEFAULTS = {"steps": 24, "bin": 8, "progress": False, "compile": False}


def sweep(program, members, **options):
    return fcbp.sweep(program, members, **{**DEFAULTS, **options})


def same(found, expected):
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def killed(program, members, out, events):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advance, "PIECE", 8)
        kill_after(patch, events)
        with pytest.raises(Killed):
            sweep(program, members, out=out, checkpoint_every=0, members_at_once=2)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_swept_resumed_to_the_same_bits_and_plotted(name, tmp_path):
    program, members = PROGRAMS[name]
    whole = sweep(program, members, members_at_once=2)
    assert set(whole.sizes) == {*members, "step"}
    assert all(np.isfinite(whole[variable]).all() for variable in whole.data_vars)
    killed(program, members, tmp_path / "run", events=4)
    same(fcbp.resume(tmp_path / "run", progress=False), whole)
    with fcbp.open(tmp_path / "run") as opened:
        same(opened, whole)
        for variable in opened.data_vars:
            axes = fcbp.plots.learning_curves(opened, variable)
            assert axes.lines
            plt.close("all")


def test_a_members_results_are_those_that_it_has_alone():
    program, members = PROGRAMS["bandit"]
    together = sweep(program, members)
    alone = sweep(program, {"seed": [1], "arms": [5], "exploration": [0.5]})
    for name in alone:
        np.testing.assert_array_equal(alone[name][0, 0, 0], together[name][1, 1, 1])


def test_bools_and_integers_are_summed_floats_averaged_and_a_probe_is_asked_at_the_end():
    found = sweep(own_programs.growing, {"seed": [3], "factor": [2.0]}, steps=6, bin=4)
    x = fcbp.random.uniform(fcbp.random.key(3))
    sizes = torch.stack([x * 2**i for i in range(6)])
    np.testing.assert_allclose(found["size"].squeeze(), [sizes[:4].mean(), sizes[4:].mean()], rtol=1e-6)
    np.testing.assert_array_equal(found["large"].squeeze(), [(sizes[:4] > 1).sum(), (sizes[4:] > 1).sum()])
    digits = sizes.log2().int()
    np.testing.assert_array_equal(found["digits"].squeeze(), [digits[:4].sum(), digits[4:].sum()])


def test_a_member_that_breaks_is_nan_to_the_end_and_the_others_go_on():
    found = sweep(own_programs.growing, {"seed": [0], "factor": [1.0, 1e20]})
    assert np.isfinite(found["size"].sel(factor=1.0)).all()
    assert np.isnan(found["size"].sel(factor=1e20)).all()
    assert found.attrs["members_with_nan"] == 1


def test_a_number_without_a_default_is_set_by_every_member():
    for members in ({"seed": [0]}, {"seed": [0], "step_size": [0.1]}):
        with pytest.raises(ValueError, match=r"replacement_rate has no value; expected one for every member"):
            sweep(own_programs.training, members)
    with pytest.raises(ValueError, match=r"shift has no value"):
        sweep(own_programs.reading, {"seed": [0]})


def test_large_constants_are_in_no_file_of_a_run(tmp_path, monkeypatch):
    write, sizes = files.Directory.write, []

    def told(folder, name, data, sync=True):
        sizes.append((folder.path.name, len(data)))
        write(folder, name, data, sync)

    monkeypatch.setattr(advance, "PIECE", 8)
    monkeypatch.setattr(files.Directory, "write", told)
    out = tmp_path / "run"
    sweep(own_programs.reading, {"seed": [0, 1], "shift": [1, 2]}, out=out, checkpoint_every=0)
    assert "checkpoints" in {folder for folder, _ in sizes}
    largest = max([size for _, size in sizes] + [file.stat().st_size for file in out.rglob("*") if file.is_file()])
    assert largest < 100_000 < own_programs.CONSTANTS.nbytes


def test_a_makers_arguments_are_options_and_all_others_numbers():
    found = sweep(own_programs.bandit, {"seed": [0, 1], "greedy": [False, True], "rate": [0.1, 0.5]})
    assert found["reward"].dims == ("seed", "greedy", "rate", "step")
    assert not (found["explored"].sel(greedy=True) > 0).any()
    assert (found["explored"].sel(greedy=False) > 0).any()
    with pytest.raises(ValueError, match=r"armz.*did you mean.*arms"):
        sweep(own_programs.bandit, {"seed": [0], "armz": [3]})


# --- wrong programs -------------------------------------------------------------------------------------


def init(key, settings):
    return {"x": fcbp.random.uniform(key), "key": key}


def step(carry, settings):
    return carry, {"x": carry["x"] * settings["a"]}


@pytest.mark.parametrize(
    "read",
    [
        lambda settings: settings["a"],
        lambda settings: settings.get("a"),
        lambda settings: dict(settings)["a"],
        lambda settings: {**settings}["a"],
        lambda settings: sum(settings[name] for name in settings),
        lambda settings: sum(settings.values()),
        lambda settings: next(value for _, value in settings.items()),
    ],
)
def test_settings_are_read_in_any_way(read):
    program = fcbp.Program(
        init, lambda carry, settings: (carry, {"x": carry["x"] * read(settings)}), numbers={"a": 2.0}
    )
    assert np.isfinite(sweep(program, {"seed": [0], "a": [1.0, 2.0]})["x"]).all()


def changes(carry, settings):
    carry["x"] += settings["a"]
    return carry, {"x": carry["x"]}


def changes_settings(carry, settings):
    settings["a"] += 1
    return carry, {"x": carry["x"]}


calls = []


def counts(carry, settings):
    calls.append(1)
    return carry, {"x": settings["a"] * len(calls)}


def measuring(value):
    return lambda carry, settings: (carry, {"x": value(carry["x"] * settings["a"])})


WRONG = {
    "init is of one argument": ({"init": lambda key: key}, "init.*fails"),
    "init raises": ({"init": lambda key, settings: {}["x"]}, "init.*fails: KeyError"),
    "init gives a number": ({"init": lambda key, settings: {"x": 1.0}}, r"init.*'x'.*1\.0; expected a tensor"),
    "init gives nothing": ({"init": lambda key, settings: ()}, "init.*has no tensors"),
    "init draws": ({"init": lambda k, s: {"x": torch.rand(()), "key": k}}, "init.*global generator of torch"),
    "step raises": ({"step": lambda carry, settings: {}["x"]}, "step.*fails: KeyError"),
    "step gives a carry": ({"step": lambda carry, settings: carry}, r"step.*expected \(carry, measured\)"),
    "step loses a leaf": ({"step": lambda c, s: ({"x": c["x"] * s["a"]}, {})}, "step.*carry's structure"),
    "step changes a shape": ({"step": lambda c, s: ({**c, "x": c["x"][None] * s["a"]}, {})}, "step.*carry"),
    "step changes a dtype": ({"step": lambda c, s: ({**c, "x": (c["x"] * s["a"]).double()}, {})}, "step.*carry"),
    "step changes its carry": ({"step": changes}, "step.*in place"),
    "step changes its settings": ({"step": changes_settings}, "step.*in place"),
    "step is not pure": ({"step": counts}, "step.*other results"),
    "step draws": ({"step": measuring(lambda x: x * torch.rand(()))}, "step.*global generator of torch"),
    "step draws by numpy": ({"step": measuring(lambda x: x * np.random.rand())}, "step.*generator of numpy"),  # noqa: NPY002
    "step measures a float": ({"step": measuring(lambda x: 1.0)}, "step.*'x'.*0-d tensor|a.*no function"),
    "step measures a vector": ({"step": measuring(lambda x: x[None])}, r"step.*'x' as \(1,\).*0-d tensor"),
    "step measures complex": ({"step": measuring(lambda x: x + 1j)}, "step.*'x'.*complex.*0-d tensor"),
    "step measures no dict": ({"step": lambda c, s: (c, s["a"])}, "step.*measures Tensor"),
    "step branches": ({"step": measuring(lambda x: x if x > 0 else -x)}, "vmap of step.*fails"),
    "step reads an unknown number": ({"step": lambda c, s: (c, {"x": s["b"]})}, "step.*'b'.*none of the program's"),
    "step reads no number": ({"step": lambda c, s: (c, {"x": c["x"]})}, "numbers.*'a'.*no function"),
    "a dimension is measured": ({"step": lambda c, s: (c, {"step": c["x"] * s["a"]})}, "'step'.*dimension"),
    "a swept name is measured": ({"step": lambda c, s: (c, {"a": c["x"] * s["a"]})}, "'a'.*dimension"),
    "probe raises": ({"probe": lambda carry, settings: {}["x"]}, "probe.*fails: KeyError"),
    "probe measures what step does": ({"probe": lambda c, s: {"x": c["x"]}}, "step and probe.*'x'"),
    "probe measures a vector": ({"probe": lambda c, s: {"y": c["x"][None]}}, "probe.*'y'.*0-d"),
    "failed gives a number": ({"failed": lambda c: c["x"]}, "failed.*0-d bool"),
    "finite is not measured": ({"finite": ("y",)}, "finite.*'y'.*does not measure"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_is_named_before_any_work(name, monkeypatch):
    monkeypatch.setattr(Execution, "run", lambda *_: pytest.fail("the sweep began"))
    more, message = WRONG[name]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        sweep(
            fcbp.Program(**{"init": init, "step": step, "numbers": {"a": 1.0}, **more}), {"seed": [0], "a": [1.0, 2.0]}
        )


@pytest.mark.parametrize(
    "numbers", [{"step": 1.0}, {"seed": 1.0}, {"a b": 1.0}, {"a": "b"}, {"a": torch.ones(2)}, "a", 3]
)
def test_wrong_numbers_are_named(numbers):
    with pytest.raises(ValueError, match="numbers"):
        fcbp.Program(init, step, numbers=numbers)


@pytest.mark.compiled
def test_lanes_give_what_the_eager_program_gives():
    program, members = PROGRAMS["training"]
    lanes = sweep(program, members, compile=True)
    eager = sweep(program, members)
    for name in eager:
        np.testing.assert_allclose(lanes[name], eager[name], rtol=1e-4, atol=1e-5)
    assert "lanes" in str(lanes.attrs["programs"])


DIFFERS = """
import os, fcbp

SIZE = 2 if os.environ.get("FCBP_TEST_PARENT") == str(os.getpid()) else 3


def init(key, settings):
    return fcbp.random.uniform(key, (SIZE,))


def step(carry, settings):
    return carry * 0.5, {"mean": carry.mean()}


program = fcbp.Program(init, step)
"""


@pytest.mark.slow
def test_a_module_that_imports_differently_in_a_worker_is_named(tmp_path, monkeypatch):
    (tmp_path / "differs.py").write_text(DIFFERS)
    monkeypatch.setenv("FCBP_TEST_PARENT", str(os.getpid()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"another in a worker process: carry \[\(\(3,\).*differs.py:program"):
        fcbp.sweep("differs.py:program", {"seed": range(4)}, steps=20, devices=2, progress=False)
