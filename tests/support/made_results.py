"""Results in the shape of a sweep's, made up."""

import numpy as np
import xarray

from fcbp import experiment

MEASURED = ("loss", "units_replaced", "weights_reset", *experiment.Experiment().metrics)
VARIABLES = {name: experiment.VARIABLES[name] for metric in MEASURED for name in experiment.variables_of(metric)}


def results(bins=10, steps=1000, **axes):
    """Made-up results in the shape of a sweep's: each value is a known function of its place."""
    axes = {name: list(values) for name, values in axes.items()}
    shape = (*map(len, axes.values()), bins)
    base = sum(np.indices(shape)[i] * 10.0**-i for i in range(len(shape))) + 1
    data = {
        name: ((*axes, "step"), base * (i + 1), {"long_name": long_name, "units": units})
        for i, (name, (long_name, units)) in enumerate(VARIABLES.items())
    }
    ends = np.linspace(steps / bins, steps, bins).astype(int)
    coords = {**axes, "step": ("step", ends, {"long_name": "examples seen", "units": "examples"})}
    return xarray.Dataset(data, coords)


def methods(*rows, seeds=3):
    """A run of listed settings (method, rate, loss)."""
    names, rates, losses = zip(*rows, strict=True)
    spread = np.linspace(-0.1, 0.1, seeds)[:, None]
    loss = np.array(losses, np.float32)[:, None, None] + spread + np.zeros(10, np.float32)
    coords = {
        "setting": range(len(rows)), "method": ("setting", list(names)), "replacement_rate": ("setting", list(rates)),
        "seed": range(seeds), "step": range(1, 11),
    }  # fmt: skip
    return xarray.Dataset({"loss": (("setting", "seed", "step"), loss)}, coords)
