"""Parameters and states of Continual Backpropagation per weight whose reset weights are known."""

import optree
import torch

from fcbp import optim, random, weights

KEY = random.key(5)


def normal(seed, *shape, dtype=torch.float64):
    return random.normal(random.key(seed), shape, dtype)


def state_with(params, utility, age=1000, step=1000, owed=0.0, **options):
    """A state as after ``step`` steps; utilities and ages by name, flat."""
    state = weights.init_state(params, KEY, **options)

    def fill(value, name, like):
        value = value[name] if isinstance(value, dict) else value
        return torch.as_tensor(value).to(like.dtype).expand(like.shape).clone()

    return state._replace(
        born={n: step - fill(age, n, like) for n, like in state.born.items()},
        utility={n: fill(utility, n, like) for n, like in state.utility.items()},
        owed={n: torch.full_like(like, owed) for n, like in state.owed.items()},
        step=torch.tensor(step, dtype=torch.int32),
    )


def same_bits(x, y):
    x, y = x.reshape(-1).contiguous(), y.reshape(-1).contiguous()
    return torch.equal(x.view(torch.uint8), y.view(torch.uint8))


def bits_equal(a, b):
    return all(
        x.shape == y.shape and x.dtype == y.dtype and same_bits(x, y)
        for x, y in zip(optree.tree_leaves(a), optree.tree_leaves(b), strict=True)
    )


def two_by_three(dtype=torch.float32):
    return {"w": normal(1, 2, 3, dtype=dtype), "b": normal(2, 2, dtype=dtype)}


def step(inputs, utility="gradient", **options):
    state, params, grads, hyper = inputs
    state = weights.update_utility(state, params, grads, hyper, utility=utility)
    params, state, replaced = weights.select_and_reset(state, params, hyper, **options)
    return params, state, replaced, weights.reset_moments(optim.SGDState(grads), replaced)
