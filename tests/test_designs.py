"""Designs: which members a sweep has, and what stands along its dimensions."""

import numpy as np
import pytest

import fcbp
from fcbp import designs
from fcbp.designs import linear, listed, log


def test_listed_settings_are_crossed_with_the_seeds():
    members = listed([{"method": "bp"}, {"method": "cbp", "replacement_rate": np.float64(0.5)}], seed=range(3))
    assert dict(members.axes) == {"setting": (0, 1), "seed": (0, 1, 2)}
    assert list(members)[2:4] == [{"method": "bp", "seed": 2}, {"method": "cbp", "replacement_rate": 0.5, "seed": 0}]
    assert members.coordinates() == {
        "setting": ("setting", (0, 1)),
        "seed": ("seed", (0, 1, 2)),
        "method": ("setting", ("bp", "cbp")),
        "replacement_rate": ("setting", (None, 0.5)),
    }


def test_coordinates_of_members_side_by_side_and_of_a_grid():
    members = fcbp.paired(seed=[3, 4], step_size=[0.1, 0.2])
    assert members.coordinates() == {
        "member": ("member", (0, 1)), "seed": ("member", (3, 4)), "step_size": ("member", (0.1, 0.2)),
    }  # fmt: skip
    assert fcbp.grid(seed=[1], step_size=0.1).coordinates() == {
        "seed": ("seed", (1,)),
        "step_size": ("step_size", (0.1,)),
    }


@pytest.mark.parametrize("design", [designs.random, designs.sobol])
def test_drawn_settings(design):
    ranges = {
        "step_size": log(1e-3, 1e-1), "momentum": linear(0.0, 0.9), "maturity_threshold": log(10, 1000, whole=True),
        "activation": ["relu", "tanh"], "optimizer": "sgd",
    }  # fmt: skip
    members = design(64, seed=range(2), **ranges)
    assert dict(members.axes)["seed"] == (0, 1)
    # Every setting with every seed.
    drawn = [{k: v for k, v in row.items() if k != "seed"} for row in members]
    assert drawn[::2] == drawn[1::2]
    assert list(design(64, seed=range(2), **ranges)) == list(members)
    assert list(design(64, seed=range(2), key=1, **ranges)) != list(members)
    sizes = np.array([row["step_size"] for row in drawn[::2]])
    assert ((sizes >= 1e-3) & (sizes <= 1e-1)).all()
    assert 16 <= (sizes < 1e-2).sum() <= 48  # half of them below the middle of the logarithms
    assert all(0 <= row["momentum"] <= 0.9 for row in drawn)
    assert all(type(row["maturity_threshold"]) is int for row in drawn)
    assert {row["activation"] for row in drawn} == {"relu", "tanh"}
    assert {row["optimizer"] for row in drawn} == {"sgd"}


def test_a_sobol_design_is_even():
    sizes = np.sort([row["step_size"] for row in designs.sobol(32, step_size=linear(0, 1), momentum=linear(0, 1))])
    # One in every interval of a 32nd.
    assert np.floor(sizes * 32).astype(int).tolist() == list(range(32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: listed([]), "settings is empty"),
        (lambda: listed([{"seed": 1}, {"seed": 1}]), "settings are {'seed': 1} 2 times"),
        (lambda: listed([{"seed": 1}], seed=[1, 2]), "seed is crossed and in settings"),
        (lambda: listed([{"method": "bp"}], seed=[1, 1]), "expected different values"),
        (lambda: designs.random(0, step_size=log(1e-3, 1)), "number is 0"),
        (lambda: designs.random(4, step_size=0.1), "nothing varies"),
        (lambda: designs.random(9, activation=["relu", "tanh"]), "times; expected different settings"),
        (lambda: log(0, 1), "positive numbers for a logarithmic one"),
        (lambda: linear(1, 1), "low below high"),
        (lambda: linear(0, float("inf")), "two finite numbers"),
        (lambda: fcbp.sweep("bit-flipping", listed([{"method": "bp"}]), steps=0), "steps is 0"),
        (lambda: fcbp.sweep("bit-flipping", designs.Members({}, ())), "members is empty"),
    ],
)
def test_bad_designs(make, message):
    with pytest.raises(ValueError, match=message):
        make()
