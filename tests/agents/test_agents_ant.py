"""The published ant, and the one whose ground becomes slippery, as named experiments."""

import numpy as np
import pytest
import torch
from interruption import raise_after

import fcbp
from fcbp import agents
from fcbp.agents.continual import ant, slippery_ant
from fcbp.cli import main

pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

SMALL = "--hidden 8 --horizon 16 --minibatch 16 --epochs 1 --time-limit 12 --task-length 2 --step-size 0.01"


@pytest.mark.slow
def test_the_settings_are_the_published_ones():
    for make in (ant, slippery_ant):
        program = make(method="cbp")
        numbers = {name: float(value) for name, value in program.numbers.items()}
        published = {"step_size": 1e-4, "discount": 0.99, "trace_decay": 0.95, "clip_range": 0.2, "entropy_weight": 0.0}
        for name, value in published.items():
            assert numbers[name] == pytest.approx(value)
        assert not program.step.__self__.bootstrap_truncated
        state = program.init(fcbp.random.key(0), program.numbers)
        assert state.copies.score.shape == (1,)
        assert state.learner.params["policy.4.weight"].shape == (8, 256)
        assert state.learner.params["log_std"].tolist() == [0.0] * 8
    assert (ant().task_length, slippery_ant().task_length) == (None, 977)
    assert 976 * 2048 < 2e6 <= 977 * 2048


def test_frictions_are_log_uniform_and_of_each_member_its_own():
    world = slippery_ant(hidden=(8,)).step.__self__.world
    keys = fcbp.random.split(fcbp.random.key(0), 2000)

    def friction(key, level):
        return world.change.physics(world.environment.physics, key, level).friction

    for level in (0, 3):
        drawn = torch.vmap(friction, (0, None))(keys, torch.tensor(level))
        assert 0.02 <= float(drawn.min()) < 0.021
        assert 1.95 < float(drawn.max()) < 2
        assert float(drawn.log10().mean()) == pytest.approx(np.log10(0.2), abs=0.05)


@pytest.mark.slow
def test_the_command_goes_on_after_a_kill_to_the_same_bits(tmp_path, monkeypatch):
    words = "run slippery-ant --method cbp --replacement-rate 0.1 --maturity-threshold 1 --seeds 2 --steps 6"
    words = f"{words} --bin 2 --compile False --checkpoint-every 0 {SMALL}".split()
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        raise_after(patch, 5, KeyboardInterrupt)
        assert main([*words, "--out", str(tmp_path / "cut")]) == 130
    assert fcbp.sweeps.state(tmp_path / "cut") == "interrupted"
    assert main(["resume", str(tmp_path / "cut")]) == 0
    whole, resumed = fcbp.open(tmp_path / "whole"), fcbp.open(tmp_path / "cut")
    for name in ("episode_return", "episode_length", "units_replaced", "weight_magnitude"):
        np.testing.assert_array_equal(whole[name].values, resumed[name].values)
    assert np.isfinite(whole["episode_return"].values).all()


def test_without_the_extra_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    import sys

    from fcbp.envs import mujoco

    monkeypatch.setitem(sys.modules, "mujoco", None)
    mujoco._simulator.cache_clear()
    assert main(["run", "ant", "--seeds", "1", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "mujoco is not installed" in told
    assert "pip install 'fcbp[rl]'" in told
    assert len(told.splitlines()) == 1


def test_an_option_that_is_held_is_not_taken():
    with pytest.raises(TypeError, match="change_options"):
        slippery_ant(change_options={"number": "gravity"})
    with pytest.raises(ValueError, match="held has 'frictions'; expected options of make"):
        agents.continual.with_defaults(agents.ppo, {}, {"frictions": 1})
