"""Slowly-changing regression, or bit-flipping: the simplest problem that shows loss of plasticity."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fcbp import random
from fcbp.checks import arguments, check_elements
from fcbp.streams.base import Spec, Stream

__all__ = ["BitFlippingState", "BitFlippingWindow", "bit_flipping"]

TABLED = 10
"""Fast bits up to which the targets of all their patterns may be kept instead of computed for every example."""


class BitFlippingState(NamedTuple):
    """State of :func:`bit_flipping`."""

    key: Int64[Tensor, ""]
    """Fixed for the whole run; draws are a function of it and the step."""
    step: Int64[Tensor, ""]
    """Examples drawn so far."""
    flipping: Float[Tensor, "flipping_bits"]
    """The slow bits of the last example, 0 or 1."""
    hidden_weight: Float[Tensor, "target_units input_bits"]
    """The target's first layer, -1 or 1."""
    threshold: Float[Tensor, "target_units"]
    """What a target unit's weighted sum of the bits (without its bias) must exceed."""
    output_weight: Float[Tensor, "target_units"]
    """The target's second layer, -1 or 1."""
    output_bias: Float[Tensor, ""]
    """-1 or 1."""


class BitFlippingWindow(NamedTuple):
    """Batches to come of :func:`bit_flipping`; its numbers stay as they are."""

    key: Int64[Tensor, ""]
    """Of the fast bits."""
    step: Int64[Tensor, ""]
    """Examples before the first."""
    starts: Int64[Tensor, "periods"]
    """The first example of each period."""
    flipping: Float[Tensor, "periods flipping_bits"]
    """The slow bits of each period."""
    target: tuple[Tensor, ...]
    """The targets ``(periods, patterns)`` of every pattern of fast bits, where there are few; or the target network."""


@arguments
def bit_flipping(
    *,
    input_bits: int = 20,
    flipping_bits: int = 15,
    flip_period: int = 10_000,
    target_units: int = 100,
    beta: float = 0.7,
    redraw_all: bool = False,
    batch_size: int = 1,
    task_signal: bool = False,
) -> Stream:
    """The slowly-changing regression problem of Dohare et al. (Nature 2024, Methods; arXiv 2108.06325).

    An example has ``input_bits`` bits. The first ``flipping_bits`` stay as they are for ``flip_period`` examples,
    after which one of them, drawn at random, flips; the others are drawn anew for every example. The target is the
    output of a fixed random network: ``target_units`` linear-threshold units and a linear output, weights and biases -1
    or 1. A unit fires where its input sum exceeds ``beta * (input_bits + 1) - S``.

    ``S`` is computed as in the original code, ``(input_bits - sum(w) + b) / 2``, whose sign of ``b`` differs from the
    count of negative weights that the paper describes; the published curves are the code's.

    Args:
        input_bits: m of the paper.
        flipping_bits: f of the paper.
        flip_period: T of the paper, in examples.
        target_units: linear-threshold units of the target.
        beta: what fraction of the weights must agree for a unit to fire.
        redraw_all: at the end of a period draw all flipping bits anew, as the original's default configuration does,
            where the paper's text flips one.
        batch_size: examples per batch; a batch lies within one period where ``flip_period`` is a multiple of it.
        task_signal: give a third entry ``(length,)``, bool: whether a new period begins in the batch. The first
            period begins without a signal.

    Returns:
        A stream of inputs ``(length, batch_size, input_bits)`` and targets ``(length, batch_size, 1)``, float32.

    Raises:
        ValueError: a size is no positive whole number, there are more flipping bits than bits, or ``beta`` is not
            finite.

    Example:
        >>> import fcbp
        >>> stream = bit_flipping()
        >>> state, (inputs, targets) = stream.sample(stream.init(fcbp.random.key(0)), 1000)
        >>> inputs.shape, targets.shape
        (torch.Size([1000, 1, 20]), torch.Size([1000, 1, 1]))
    """
    sizes = {
        "input_bits": input_bits,
        "flip_period": flip_period,
        "target_units": target_units,
        "batch_size": batch_size,
    }
    for name, size in sizes.items():
        if not _is_whole(size) or size < 1:
            raise ValueError(f"{name} is {size!r}; expected a whole number, 1 or more")
    check_elements("batch_size", batch_size, batch_size, input_bits)
    largest = max("input_bits", "target_units", key=sizes.__getitem__)
    check_elements(largest, sizes[largest], input_bits, target_units)
    if not _is_whole(flipping_bits) or not 0 <= flipping_bits <= input_bits:
        raise ValueError(f"flipping_bits is {flipping_bits!r}; expected 0 to input_bits = {input_bits}")
    if not math.isfinite(beta):
        raise ValueError(f"beta is {beta!r}; expected a finite number")
    random_bits = input_bits - flipping_bits
    words_per_example = -(-random_bits // 64)

    def signs(key: Int64[Tensor, ""], *shape: int) -> Tensor:
        return ((random.bits(key, shape) & 1) * 2 - 1).to(torch.float32)

    def init(key: Int64[Tensor, ""]) -> BitFlippingState:
        run, start, weight, bias, out_weight, out_bias = random.split(key, 6).unbind()
        hidden_weight = signs(weight, target_units, input_bits)
        hidden_bias = signs(bias, target_units)
        s = (input_bits - hidden_weight.sum(-1) + hidden_bias) / 2
        return BitFlippingState(
            key=run,
            step=torch.zeros_like(key),
            flipping=(random.bits(start, (flipping_bits,)) & 1).to(torch.float32),
            hidden_weight=hidden_weight,
            threshold=beta * (input_bits + 1) - s - hidden_bias,
            output_weight=signs(out_weight, target_units),
            output_bias=signs(out_bias),
        )

    def slow_bits(state: BitFlippingState, periods: Int64[Tensor, "periods"]) -> Float[Tensor, "periods flipping"]:
        """The flipping bits of consecutive periods, the first of which is the state's or the next."""
        key = random.fold_in(state.key, 0)
        slots = torch.arange(flipping_bits, device=periods.device)
        later = (periods > _period_of_last(state, flip_period)).unsqueeze(-1)
        if redraw_all:
            draws = random.bits_at(key, periods.unsqueeze(-1) * flipping_bits + slots)
            return torch.where(later, (draws & 1).to(torch.float32), state.flipping)
        # torch's remainder takes the sign of the divisor: 0 to flipping_bits - 1.
        which = random.bits_at(key, periods) % max(flipping_bits, 1)
        flips = later & (which.unsqueeze(-1) == slots)
        return (state.flipping + flips.to(torch.float32).cumsum(0)).remainder(2)

    def periods_of(state: BitFlippingState, length: int) -> Int64[Tensor, "periods"]:
        """All that ``length`` batches may lie in: so many wherever in a period the first one lies."""
        number = (length * batch_size - 1) // flip_period + 2
        return state.step // flip_period + torch.arange(number, device=state.key.device)

    def window(state: BitFlippingState, length: int) -> BitFlippingWindow:
        check_length(length)
        periods = periods_of(state, length)
        slow = slow_bits(state, periods)
        target: tuple[Tensor, ...]
        if 0 < random_bits <= TABLED and length * batch_size > 1 << random_bits:
            # Sums of whole numbers, exact in any order: those of the slow bits and of the fast ones apart.
            of_slow = slow @ state.hidden_weight[:, :flipping_bits].T
            patterns = unpack(torch.arange(1 << random_bits, device=slow.device).unsqueeze(-1))
            of_fast = patterns @ state.hidden_weight[:, flipping_bits:].T
            fired = of_slow.unsqueeze(1) + of_fast > state.threshold
            target = (fired.to(torch.float32) @ state.output_weight + state.output_bias,)
        else:
            target = (state.hidden_weight, state.threshold, state.output_weight, state.output_bias)
        key = random.fold_in(state.key, 1)
        return BitFlippingWindow(key, state.step, periods * flip_period, slow, target)

    def at(window: BitFlippingWindow, index: Int64[Tensor, "*lengths"]) -> tuple[Tensor, ...]:
        device = window.key.device
        steps = window.step + index.unsqueeze(-1) * batch_size + torch.arange(batch_size, device=device)
        word_of = torch.arange(words_per_example, device=device)
        words = random.bits_at(window.key, steps.unsqueeze(-1) * words_per_example + word_of)
        fast = unpack(words)[..., :random_bits]
        if len(window.starts) == 2:
            second = steps >= window.starts[1]
            period = second.to(torch.int64)
            slow = torch.where(second.unsqueeze(-1), window.flipping[1], window.flipping[0])
        else:
            period = (steps - window.starts[0]) // flip_period
            slow = window.flipping[period]
        inputs = torch.cat([slow, fast], -1)
        if len(window.target) == 1:
            (targets,) = window.target
            patterns = targets.shape[1]
            target = targets.flatten()[period * patterns + (words[..., 0] & (patterns - 1))]
        else:
            hidden_weight, threshold, output_weight, output_bias = window.target
            fired = inputs @ hidden_weight.T > threshold
            target = fired.to(torch.float32) @ output_weight + output_bias
        batches: tuple[Tensor, ...] = (inputs, target.unsqueeze(-1))
        if task_signal:
            begins = (steps.unsqueeze(-1) == window.starts).any(-1) & (steps > 0)
            batches = (*batches, begins.any(-1))
        return batches

    def after(state: BitFlippingState, length: int, slow: Float[Tensor, "periods flipping"]) -> BitFlippingState:
        step = state.step + length * batch_size
        last = (step - 1) // flip_period - state.step // flip_period
        return state._replace(step=step, flipping=slow[last])

    def skip(state: BitFlippingState, length: int) -> BitFlippingState:
        check_length(length)
        return after(state, length, slow_bits(state, periods_of(state, length)))

    def sample(state: BitFlippingState, length: int) -> tuple[BitFlippingState, tuple[Tensor, ...]]:
        ahead = window(state, length)
        batches = at(ahead, torch.arange(length, device=state.key.device))
        return after(state, length, ahead.flipping), batches

    def unpack(words: Int64[Tensor, "n words"]) -> Float[Tensor, "n bits"]:
        bits = words.unsqueeze(-1) >> torch.arange(min(random_bits, 64), device=words.device)
        return (bits & 1).flatten(-2).to(torch.float32)

    spec = Spec((input_bits,), 1)
    whole_tasks = flip_period % batch_size == 0
    return Stream(init, sample, window, at, skip, spec, task_length=flip_period // batch_size if whole_tasks else None)


def check_length(length: int) -> None:
    if not _is_whole(length) or length < 1:
        raise ValueError(f"length is {length!r}; expected a number of batches, 1 or more")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _period_of_last(state: BitFlippingState, flip_period: int) -> Int64[Tensor, ""]:
    """The period of the example drawn last, whose slow bits the state holds."""
    return (state.step - 1).clamp(min=0) // flip_period
