"""Programs of agents, run step by step."""

import optree
import torch

import fcbp


def settings(program, **numbers):
    given = {**{name: float(value) for name, value in program.numbers.items()}, **numbers}
    return {name: torch.tensor(value, dtype=program.dtypes[name]) for name, value in given.items()}


def run(program, seed=0, steps=3, **numbers):
    mine = settings(program, **numbers)
    state = program.init(fcbp.random.key(seed), mine)
    told = []
    for _ in range(steps):
        state, measured = program.step(state, mine)
        told.append(measured)
    return state, told


def same(a, b):
    return all(map(torch.equal, optree.tree_leaves(a), optree.tree_leaves(b)))
