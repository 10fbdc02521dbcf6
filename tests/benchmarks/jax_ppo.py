"""A peer: PPO on CartPole in JAX, in the manner of purejaxrl: ``jit`` of ``vmap`` over agents, all in ``lax.scan``.

Networks, sizes and numbers are those of :mod:`cleanrl_style`. ``jax`` is needed for the comparison only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from cleanrl_style import COPIES, EPOCHS, HORIZON, MINIBATCH

Params = dict[str, Any]


def _network(key: jax.Array, outputs: int) -> list[tuple[jax.Array, jax.Array]]:
    sizes = (4, 64, 64, outputs)
    keys = jax.random.split(key, 3)
    return [
        (jax.random.normal(k, (a, b)) / math.sqrt(a), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def _forward(layers: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def _env_step(key: jax.Array, state: jax.Array, steps: jax.Array, action: jax.Array) -> tuple[jax.Array, ...]:
    x, v, angle, w = state
    push, sin, cos = (2 * action - 1) * 10.0, jnp.sin(angle), jnp.cos(angle)
    pushed = (push + 0.05 * w**2 * sin) / 1.1
    turned = (9.8 * sin - cos * pushed) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    moved = jnp.stack(
        [x + 0.02 * v, v + 0.02 * (pushed - 0.05 * turned * cos / 1.1), angle + 0.02 * w, w + 0.02 * turned]
    )
    done = (jnp.abs(moved[0]) > 2.4) | (jnp.abs(moved[2]) > 12 * 2 * math.pi / 360) | (steps + 1 >= 500)
    start = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
    return jnp.where(done, start, moved), jnp.where(done, 0, steps + 1), done


def _init(key: jax.Array) -> tuple[Any, ...]:
    key, one, two, three = jax.random.split(key, 4)
    params = {"actor": _network(one, 2), "critic": _network(two, 1)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    states = jax.random.uniform(three, (COPIES, 4), minval=-0.05, maxval=0.05)
    return params, zeros, zeros, jnp.zeros(()), states, jnp.zeros(COPIES, jnp.int32), key


def _loss(
    params: Params, seen: jax.Array, action: jax.Array, before: jax.Array, gain: jax.Array, wanted: jax.Array
) -> jax.Array:
    logs = jax.nn.log_softmax(_forward(params["actor"], seen))
    ratio = jnp.exp(jnp.take_along_axis(logs, action[:, None], 1)[:, 0] - before)
    gain = (gain - gain.mean()) / (gain.std() + 1e-8)
    policy = jnp.maximum(-gain * ratio, -gain * jnp.clip(ratio, 0.8, 1.2)).mean()
    entropy = -(jnp.exp(logs) * logs).sum(-1).mean()
    value = _forward(params["critic"], seen)[:, 0]
    return policy - 0.01 * entropy + 0.25 * ((value - wanted) ** 2).mean()


def _update(carry: tuple[Any, ...], batch: tuple[jax.Array, ...]) -> tuple[tuple[Any, ...], None]:
    params, first, second, count = carry
    grads = jax.grad(_loss)(params, *batch)
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 0.5 / (norm + 1e-6)), grads)
    count = count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, grads)
    one, two = 1 - 0.9**count, 1 - 0.999**count
    params = jax.tree.map(lambda p, m, v: p - 2.5e-4 * (m / one) / (jnp.sqrt(v / two) + 1e-5), params, first, second)
    return (params, first, second, count), None


def _iteration(state: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], jax.Array]:
    params, first, second, count, envs, steps, key = state

    def act(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], tuple[jax.Array, ...]]:
        envs, steps = carry
        choice, reset = jax.random.split(key)
        logs = jax.nn.log_softmax(_forward(params["actor"], envs))
        value = _forward(params["critic"], envs)[:, 0]
        action = jax.random.categorical(choice, logs)
        moved, steps, done = jax.vmap(_env_step)(jax.random.split(reset, COPIES), envs, steps, action)
        return (moved, steps), (envs, action, jnp.take_along_axis(logs, action[:, None], 1)[:, 0], value, done)

    key, acting, shuffling = jax.random.split(key, 3)
    (envs, steps), (seen, action, density, value, done) = jax.lax.scan(
        act, (envs, steps), jax.random.split(acting, HORIZON)
    )

    def back(
        carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        following, last = carry
        value, done = x
        going = 1.0 - done
        last = 1.0 + 0.99 * following * going - value + 0.99 * 0.95 * going * last
        return (value, last), last

    following = _forward(params["critic"], envs)[:, 0]
    _, gained = jax.lax.scan(back, (following, jnp.zeros(COPIES)), (value, done), reverse=True)
    flat = [x.reshape(HORIZON * COPIES, *x.shape[2:]) for x in (seen, action, density, gained, gained + value)]
    orders = jax.vmap(lambda k: jax.random.permutation(k, HORIZON * COPIES))(jax.random.split(shuffling, EPOCHS))
    batches = [x[orders.reshape(-1, MINIBATCH)] for x in flat]
    (params, first, second, count), _ = jax.lax.scan(_update, (params, first, second, count), tuple(batches))
    return (params, first, second, count, envs, steps, key), done.mean()


def runner(agents: int, iterations: int) -> Callable[[], Any]:
    """A call of it is so many iterations of so many agents, and waits for them."""
    step = jax.jit(jax.vmap(lambda state: jax.lax.scan(_iteration, state, None, iterations)))
    state = jax.vmap(_init)(jax.random.split(jax.random.key(0), agents))
    return lambda: jax.block_until_ready(step(state))
