"""Small networks and states whose replaced units are known."""

import torch

import fcbp
from fcbp.units import Slice, UnitGroup

KEY = fcbp.random.key(3)


def normal(seed, *shape, dtype=torch.float64):
    return fcbp.random.normal(fcbp.random.key(seed), shape, dtype)


def perceptron(hidden=6, inputs=3, outputs=2, dtype=torch.float32):
    """One hidden layer by hand."""
    params = {
        "w1": normal(1, hidden, inputs, dtype=dtype),
        "b1": normal(2, hidden, dtype=dtype),
        "w2": normal(3, outputs, hidden, dtype=dtype),
        "b2": normal(4, outputs, dtype=dtype),
    }
    units = (UnitGroup("h", hidden, (Slice(("w1",), 0),), (Slice(("b1",), 0),), (Slice(("w2",), 1),), (("b2",),)),)
    return params, units


def two_layers():
    """Two hidden layers of 4 units, the weight between them both outgoing and incoming."""
    params = {f"w{i}": normal(i, 4, 4) for i in (1, 2)} | {"w3": normal(3, 2, 4)}
    params |= {f"b{i}": normal(10 + i, n) for i, n in ((1, 4), (2, 4), (3, 2))}
    units = tuple(
        UnitGroup(
            f"h{i}",
            4,
            (Slice((f"w{i}",), 0),),
            (Slice((f"b{i}",), 0),),
            (Slice((f"w{i + 1}",), 1),),
            ((f"b{i + 1}",),),
        )
        for i in (1, 2)
    )
    return params, units


def state_with(units, params, utility, age=1000, mean=0.0, owed=0.0):
    """A state as after many steps, by group or for all groups."""
    state = fcbp.init_state(units, params, KEY)

    def vector(value, group, like):
        value = value[group.name] if isinstance(value, dict) else value
        return torch.as_tensor(value, dtype=like.dtype).expand(group.size).clone()

    return state._replace(
        age={g.name: vector(age, g, state.age[g.name]) for g in units},
        utility={g.name: vector(utility, g, state.utility[g.name]) for g in units},
        mean_activation={g.name: vector(mean, g, state.mean_activation[g.name]) for g in units},
        owed={g.name: torch.full_like(state.owed[g.name], owed) for g in units},
    )
