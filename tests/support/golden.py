"""Reads the trajectories of the original implementation (github.com/shibhansh/loss-of-plasticity, 63c35f3).

``tests/golden/README.md`` tells what the fields are.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from fcbp.units import Slice, UnitGroup

FOLDER = Path(__file__).parents[1] / "golden"
LINEAR_CASES = sorted(path.stem for path in FOLDER.glob("*.npz") if not path.stem.startswith("conv"))


class Golden:
    """One recorded run."""

    def __init__(self, case: str):
        with np.load(FOLDER / f"{case}.npz", allow_pickle=False) as file:
            self.arrays = dict(file)
        self.metadata = json.loads(str(self.arrays["metadata"]))
        self.config = self.metadata["config"]
        self.groups = self.metadata["groups"]

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def under(self, prefix: str) -> dict[str, torch.Tensor]:
        """The arrays whose names begin with ``prefix``, by the rest of the name."""
        return {name[len(prefix) :]: torch.from_numpy(a) for name, a in self.arrays.items() if name.startswith(prefix)}

    def events(self) -> list[tuple[int, int, int]]:
        """(step, group, unit) of every replacement, sorted."""
        names = ("event_step", "event_group", "event_unit")
        return sorted(zip(*(self.arrays[name].tolist() for name in names), strict=True))


def linspace_initializer(gain=None):
    """The recorded runs' re-initialisation: every row from -bound to bound in equal steps.

    The bound is kaiming's with ``gain``, and torch's default without.
    """

    def initializer(key, shape, fan_in, fan_out, dtype, device):
        bound = gain * (3 / fan_in) ** 0.5 if gain else (1 / fan_in) ** 0.5
        row = torch.linspace(-bound, bound, fan_in, dtype=torch.float64).to(dtype)
        return row.reshape(1, *shape[1:]).expand(shape)

    return initializer


TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
LOSSES = {"mse": torch.nn.functional.mse_loss, "nll": torch.nn.functional.cross_entropy}
ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}


def hidden_groups(golden):
    return tuple(
        UnitGroup(
            name=f"group{g['index']}",
            size=g["n_units"],
            incoming=(Slice((f"{g['incoming']}.weight",), 0),),
            bias=(Slice((f"{g['incoming']}.bias",), 0),),
            outgoing=(Slice((f"{g['outgoing']}.weight",), 1),),
            outgoing_bias=((f"{g['outgoing']}.bias",),),
            activation=g["outgoing"],
        )
        for g in golden.groups
    )


def network(golden):
    layers = torch.nn.Sequential()
    activation = ACTIVATIONS[golden.config["hidden_activation"]]
    shapes = {name: value.shape for name, value in golden.under("init/").items()}
    for name, shape in shapes.items():
        if name.endswith("weight"):
            layers.append(torch.nn.Linear(shape[1], shape[0]))
            layers.append(activation())
    model = torch.nn.Module()
    model.layers = layers[:-1]
    model.forward = model.layers.forward
    return model
