"""Slowly-changing regression, or bit-flipping: the simplest problem that shows loss of plasticity."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    """The bound that a target unit's weighted sum of the bits (without its bias) must exceed."""
    output_weight: Float[Tensor, "target_units"]
    """The target's second layer, -1 or 1."""
    output_bias: Float[Tensor, ""]
    """-1 or 1."""


class BitFlippingWindow(NamedTuple):
    """Batches to come of :func:`bit_flipping`; its numbers stay as they are."""

    key: Int64[Tensor, ""]
    """The key of the fast bits."""
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
        beta: the fraction of the weights that must agree for a unit to fire.
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
    problem = _Problem(input_bits, flipping_bits, flip_period, target_units, beta, redraw_all, batch_size, task_signal)
    spec = Spec((input_bits,), 1)
    length = flip_period // batch_size if flip_period % batch_size == 0 else None
    return Stream(problem.init, problem.sample, problem.window, problem.at, problem.skip, spec, task_length=length)


@dataclass(frozen=True)
class _Problem:
    """The functions of the stream, by its settings."""

    input_bits: int
    flipping_bits: int
    flip_period: int
    target_units: int
    beta: float
    redraw_all: bool
    batch_size: int
    task_signal: bool

    @property
    def random_bits(self) -> int:
        """Bits that are drawn anew for every example."""
        return self.input_bits - self.flipping_bits

    @property
    def words_per_example(self) -> int:
        """Random words of 64 bits that an example takes."""
        return -(-self.random_bits // 64)

    def init(self, key: Int64[Tensor, ""]) -> BitFlippingState:
        run, start, weight, bias, out_weight, out_bias = random.split(key, 6).unbind()
        hidden_weight = _signs(weight, self.target_units, self.input_bits)
        hidden_bias = _signs(bias, self.target_units)
        s = (self.input_bits - hidden_weight.sum(-1) + hidden_bias) / 2
        return BitFlippingState(
            key=run,
            step=torch.zeros_like(key),
            flipping=(random.bits(start, (self.flipping_bits,)) & 1).to(torch.float32),
            hidden_weight=hidden_weight,
            threshold=self.beta * (self.input_bits + 1) - s - hidden_bias,
            output_weight=_signs(out_weight, self.target_units),
            output_bias=_signs(out_bias),
        )

    def sample(self, state: BitFlippingState, length: int) -> tuple[BitFlippingState, tuple[Tensor, ...]]:
        ahead = self.window(state, length)
        batches = self.at(ahead, torch.arange(length, device=state.key.device))
        return self._after(state, length, ahead.flipping), batches

    def skip(self, state: BitFlippingState, length: int) -> BitFlippingState:
        check_length(length)
        return self._after(state, length, self._slow_bits(state, self._periods(state, length)))

    def window(self, state: BitFlippingState, length: int) -> BitFlippingWindow:
        check_length(length)
        periods = self._periods(state, length)
        slow = self._slow_bits(state, periods)
        target: tuple[Tensor, ...]
        if 0 < self.random_bits <= TABLED and length * self.batch_size > 1 << self.random_bits:
            # Sums of whole numbers, exact in any order: those of the slow bits and of the fast ones apart.
            of_slow = slow @ state.hidden_weight[:, : self.flipping_bits].T
            patterns = self._unpack(torch.arange(1 << self.random_bits, device=slow.device).unsqueeze(-1))
            of_fast = patterns @ state.hidden_weight[:, self.flipping_bits :].T
            fired = of_slow.unsqueeze(1) + of_fast > state.threshold
            target = (fired.to(torch.float32) @ state.output_weight + state.output_bias,)
        else:
            target = (state.hidden_weight, state.threshold, state.output_weight, state.output_bias)
        key = random.fold_in(state.key, 1)
        return BitFlippingWindow(key, state.step, periods * self.flip_period, slow, target)

    def at(self, window: BitFlippingWindow, index: Int64[Tensor, "*lengths"]) -> tuple[Tensor, ...]:
        device = window.key.device
        steps = window.step + index.unsqueeze(-1) * self.batch_size + torch.arange(self.batch_size, device=device)
        word_of = torch.arange(self.words_per_example, device=device)
        words = random.bits_at(window.key, steps.unsqueeze(-1) * self.words_per_example + word_of)
        fast = self._unpack(words)[..., : self.random_bits]
        if len(window.starts) == 2:
            second = steps >= window.starts[1]
            period = second.to(torch.int64)
            slow = torch.where(second.unsqueeze(-1), window.flipping[1], window.flipping[0])
        else:
            period = (steps - window.starts[0]) // self.flip_period
            slow = window.flipping[period]
        inputs = torch.cat([slow, fast], -1)
        target = _target(window.target, inputs, period, words)
        batches: tuple[Tensor, ...] = (inputs, target.unsqueeze(-1))
        if self.task_signal:
            begins = (steps.unsqueeze(-1) == window.starts).any(-1) & (steps > 0)
            batches = (*batches, begins.any(-1))
        return batches

    def _slow_bits(
        self, state: BitFlippingState, periods: Int64[Tensor, "periods"]
    ) -> Float[Tensor, "periods flipping"]:
        """Return the flipping bits of consecutive periods, the first of which is the state's or the next."""
        key = random.fold_in(state.key, 0)
        slots = torch.arange(self.flipping_bits, device=periods.device)
        # The state holds the bits of the example drawn last.
        held = (state.step - 1).clamp(min=0) // self.flip_period
        later = (periods > held).unsqueeze(-1)
        if self.redraw_all:
            draws = random.bits_at(key, periods.unsqueeze(-1) * self.flipping_bits + slots)
            return torch.where(later, (draws & 1).to(torch.float32), state.flipping)
        # torch's remainder takes the sign of the divisor: 0 to flipping_bits - 1.
        which = random.bits_at(key, periods) % max(self.flipping_bits, 1)
        flips = later & (which.unsqueeze(-1) == slots)
        return (state.flipping + flips.to(torch.float32).cumsum(0)).remainder(2)

    def _periods(self, state: BitFlippingState, length: int) -> Int64[Tensor, "periods"]:
        """Return all the periods in which ``length`` batches may lie, wherever in a period the first one lies."""
        number = (length * self.batch_size - 1) // self.flip_period + 2
        return state.step // self.flip_period + torch.arange(number, device=state.key.device)

    def _after(self, state: BitFlippingState, length: int, slow: Float[Tensor, "periods flipping"]) -> BitFlippingState:
        step = state.step + length * self.batch_size
        last = (step - 1) // self.flip_period - state.step // self.flip_period
        return state._replace(step=step, flipping=slow[last.unsqueeze(0)].squeeze(0))

    def _unpack(self, words: Int64[Tensor, "n words"]) -> Float[Tensor, "n bits"]:
        bits = words.unsqueeze(-1) >> torch.arange(min(self.random_bits, 64), device=words.device)
        return (bits & 1).flatten(-2).to(torch.float32)


def _signs(key: Int64[Tensor, ""], *shape: int) -> Tensor:
    return ((random.bits(key, shape) & 1) * 2 - 1).to(torch.float32)


def _target(
    target: tuple[Tensor, ...], inputs: Tensor, period: Int64[Tensor, "..."], words: Int64[Tensor, "... words"]
) -> Float[Tensor, "..."]:
    """Return the targets of examples, out of a window's table or network."""
    if len(target) == 1:
        (table,) = target
        patterns = table.shape[1]
        return table.flatten()[period * patterns + (words[..., 0] & (patterns - 1))]
    hidden_weight, threshold, output_weight, output_bias = target
    fired = inputs @ hidden_weight.T > threshold
    return fired.to(torch.float32) @ output_weight + output_bias


def check_length(length: int) -> None:
    if not _is_whole(length) or length < 1:
        raise ValueError(f"length is {length!r}; expected a number of batches, 1 or more")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
