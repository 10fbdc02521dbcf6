"""A peer: Continual Backpropagation on one hidden layer in JAX, with ``jit``, ``vmap`` and ``lax.scan``.

Written for one member, as ``fcbp``'s step is, and as fast as we could make it: float32 and int32 throughout, one row
drawn a step, the unit found by ``argmin`` and written by masks, buffers donated to the next call. ``jax`` is needed
for the comparison only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RANDOM = ("threefry2x32", "rbg", "unsafe_rbg")
"""JAX's generators; the later ones are the cheaper and give up guarantees under ``vmap``."""


class State(NamedTuple):
    """One member's."""

    w1: jax.Array
    b1: jax.Array
    w2: jax.Array
    b2: jax.Array
    age: jax.Array
    utility: jax.Array
    mean_activation: jax.Array
    owed: jax.Array
    key: jax.Array


class Hyper(NamedTuple):
    """One member's numbers."""

    step_size: jax.Array
    replacement_rate: jax.Array
    maturity_threshold: jax.Array
    decay_rate: jax.Array


def init(key: jax.Array, inputs: int, hidden: int, outputs: int) -> State:
    """A member's start."""
    first, second, key = jax.random.split(key, 3)
    bound = math.sqrt(6.0 / inputs)
    last = math.sqrt(3.0 / hidden)
    return State(
        w1=jax.random.uniform(first, (hidden, inputs), minval=-bound, maxval=bound),
        b1=jnp.zeros(hidden),
        w2=jax.random.uniform(second, (outputs, hidden), minval=-last, maxval=last),
        b2=jnp.zeros(outputs),
        age=jnp.zeros(hidden, jnp.int32),
        utility=jnp.zeros(hidden),
        mean_activation=jnp.zeros(hidden),
        owed=jnp.zeros(()),
        key=key,
    )


def objective(weights: tuple[jax.Array, ...], x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    w1, b1, w2, b2 = weights
    h = jax.nn.relu(x @ w1.T + b1)
    return jnp.mean((h @ w2.T + b2 - y) ** 2), h


def step(hyper: Hyper, state: State, batch: tuple[jax.Array, jax.Array]) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """SGD and CBP with the adaptable contribution on one batch; returns the loss and the number replaced."""
    weights = (state.w1, state.b1, state.w2, state.b2)
    (loss, h), grads = jax.value_and_grad(objective, has_aux=True)(weights, *batch)
    w1, b1, w2, b2 = (w - hyper.step_size * g for w, g in zip(weights, grads, strict=True))

    decay = hyper.decay_rate
    age = state.age + 1
    correction = -jnp.expm1(age * jnp.log(decay))
    mean = decay * state.mean_activation + (1 - decay) * h.mean(0)
    outgoing, incoming = jnp.abs(w2).mean(0), jnp.abs(w1).mean(1)
    contribution = jnp.abs(h - mean / correction).mean(0) * outgoing / incoming
    utility = decay * state.utility + (1 - decay) * contribution

    eligible = age > hyper.maturity_threshold
    owed = state.owed + hyper.replacement_rate * eligible.sum()
    due = owed >= 1
    lowest = jnp.argmin(jnp.where(eligible, utility / correction, jnp.inf))
    replaced = due & (jnp.arange(age.shape[0]) == lowest)

    key, draw = jax.random.split(state.key)
    bound = math.sqrt(6.0 / w1.shape[1])
    row = jax.random.uniform(draw, (w1.shape[1],), minval=-bound, maxval=bound)
    state = State(
        w1=jnp.where(replaced[:, None], row, w1),
        b1=jnp.where(replaced, 0, b1),
        w2=jnp.where(replaced, 0, w2),
        b2=b2,
        age=jnp.where(replaced, 0, age),
        utility=jnp.where(replaced, 0, utility),
        mean_activation=jnp.where(replaced, 0, mean),
        owed=owed - due,
        key=key,
    )
    return state, (loss, due.astype(jnp.int32))


def runner(xs: tuple[np.ndarray, np.ndarray], rates: np.ndarray, *, generator: str, unroll: int) -> Callable[[], Any]:
    """A function that runs all members over ``xs`` (``(length, members, batch, ...)``) and waits for the result."""
    members, inputs = xs[0].shape[1], xs[0].shape[-1]
    keys = jax.random.split(jax.random.key(0, impl=generator), members)
    state = jax.vmap(lambda key: init(key, inputs, 5, xs[1].shape[-1]))(keys)
    ones = np.ones(members, np.float32)
    hyper = Hyper(*(jnp.asarray(v, jnp.float32) for v in (0.01 * ones, rates, 100 * ones, 0.99 * ones)))
    batches = jax.tree.map(jnp.asarray, xs)
    many = jax.vmap(step)

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state: State, hyper: Hyper, batches: Any) -> Any:
        return jax.lax.scan(functools.partial(many, hyper), state, batches, unroll=unroll)

    def run() -> Any:
        nonlocal state
        state, out = jax.block_until_ready(scan(state, hyper, batches))
        return out

    return run
