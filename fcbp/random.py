"""Random numbers as pure functions of a key: SplitMix64 in counter mode.

A key is a 0-d ``int64`` tensor, and every function here maps a key to a draw: the same key gives
the same numbers, on any device, inside and outside ``torch.compile``, alone or under ``vmap``.
Nothing reads or advances a global state. Use a key once; make new ones with :func:`split`.

The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014; the finaliser is Stafford's variant 13, as in Java's ``SplittableRandom``
and Vigna's ``splitmix64.c``): the ``i``-th word of a key is ``mix(key + (i + 1) * gamma)``. It was
chosen because one word costs twelve elementwise operations, where Threefry takes ninety, and eager users
pay for each. As in JAX, draws of one key with different shapes share their leading words.

    >>> import fcbp
    >>> left, right = fcbp.random.split(fcbp.random.key(0))
    >>> fcbp.random.uniform(left, (2,))
    tensor([...])
    >>> torch.vmap(lambda k: fcbp.random.normal(k, (3,)))(fcbp.random.split(right, 10)).shape
    torch.Size([10, 3])
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from fcbp.checks import arguments
from fcbp.kinds import Device, Seed

__all__ = [
    "bernoulli",
    "bits",
    "bits_at",
    "check_key",
    "fold_in",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "uniform",
]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_STAFFORD_1 = _signed(0xBF58476D1CE4E5B9)
_STAFFORD_2 = _signed(0x94D049BB133111EB)
_MURMUR_1 = _signed(0xFF51AFD7ED558CCD)
_MURMUR_2 = _signed(0xC4CEB9FE1A85EC53)
_FOLD = _signed(0xD1B54A32D192ED03)


def _shift_right(x: Tensor, count: int) -> Tensor:
    """Shift logically to the right: torch's ``>>`` repeats the sign bit."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def _mix(x: Tensor, first: int, second: int, shifts: tuple[int, int, int]) -> Tensor:
    x = (x ^ _shift_right(x, shifts[0])) * first
    x = (x ^ _shift_right(x, shifts[1])) * second
    return x ^ _shift_right(x, shifts[2])


def _word(state: Tensor) -> Tensor:
    return _mix(state, _STAFFORD_1, _STAFFORD_2, (30, 27, 31))


def _child(state: Tensor) -> Tensor:
    # Another mixing function than that of the words, so that children are not among the draws.
    # SplittableRandom derives its gammas by the same (MurmurHash3's) finaliser.
    return _mix(state, _MURMUR_1, _MURMUR_2, (33, 33, 33))


def _counters(n: int, device: torch.device) -> Int64[Tensor, "n"]:
    return _times_gamma(torch.arange(1, n + 1, dtype=torch.int64, device=device))


def _times_gamma(index: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    # torch's compiler takes sums and products of positions for memory addresses and works them out with integers that
    # do not wrap: beyond 64 bits it fails, or writes where it must not. An exclusive or makes plain numbers of them.
    return (index ^ 0) * _GAMMA


@arguments
def check_key(key: Int64[Tensor, ""]) -> None:
    """Check that ``key`` is one key.

    Raises:
        ValueError: it is no 0-d ``int64`` tensor.
    """
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.ndim:
        raise ValueError(
            f"key is {key!r}; expected a 0-d int64 tensor, such as fcbp.random.key(0) (torch.vmap takes many keys)"
        )


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, (int, torch.SymInt)) or value < 0:
        raise ValueError(f"{name} is {value!r}; expected a whole number, 0 or more")


def _check_shape(shape: Sequence[int]) -> None:
    if not isinstance(shape, Sequence) or any(n < 0 for n in shape):
        raise ValueError(f"shape is {shape!r}; expected a sequence of sizes, such as (3, 4)")


def _is_integer(value: object) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    return isinstance(value, (Integral, torch.SymInt)) and not isinstance(value, bool)


@arguments
def key(seed: Seed | Tensor, device: Device = None) -> Int64[Tensor, "..."]:
    """Return a key from a seed.

    Args:
        seed: an integer, or an integer tensor of seeds (each gives one key, elementwise).
        device: where the key, and so every draw from it, lives; by default the seed's.

    Raises:
        ValueError: ``seed`` is no integer.
    """
    if not _is_integer(seed):
        kind = f"a tensor of dtype {seed.dtype}" if isinstance(seed, Tensor) else repr(seed)
        raise ValueError(f"seed is {kind}; expected an integer or an integer tensor")
    if isinstance(seed, Tensor):
        state = seed.to(device=device, dtype=torch.int64)
    else:
        state = torch.tensor(_signed(int(seed) % (1 << 64)), dtype=torch.int64, device=device)
    return _word(state + _GAMMA)


@arguments
def split(key: Int64[Tensor, ""], num: int = 2) -> Int64[Tensor, "num"]:
    """Make ``num`` keys from one, independent of one another and of the draws of ``key``."""
    check_key(key)
    _check_count("num", num)
    return _child(key + _counters(num, key.device))


@arguments
def fold_in(key: Int64[Tensor, ""], data: int | Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Return a key from a key and an integer, such as a step or a member's number.

    An integer tensor ``data`` of any shape gives that many keys.

    Raises:
        ValueError: ``data`` is no integer.
    """
    check_key(key)
    if not _is_integer(data):
        raise ValueError(f"data is {data!r}; expected an integer or an integer tensor")
    if isinstance(data, Tensor):
        offset: int | Tensor = _times_gamma(data.to(torch.int64))
    else:
        offset = _signed(data * _GAMMA % (1 << 64))
    return _child((key ^ _FOLD) + offset)


@arguments
def bits(key: Int64[Tensor, ""], shape: Sequence[int] = ()) -> Int64[Tensor, "*shape"]:
    """Draw uniform 64-bit words, as ``int64``.

    With ``key`` as the raw state, ``bits(key, (n,))`` are the first ``n`` outputs of SplitMix64.
    """
    check_key(key)
    _check_shape(shape)
    return _word(key + _counters(math.prod(shape), key.device)).reshape(tuple(shape))


@arguments
def bits_at(key: Int64[Tensor, ""], index: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Return the words of ``key`` at these positions: ``bits_at(key, arange(n))`` equals ``bits(key, (n,))``."""
    check_key(key)
    return _word(key + _times_gamma(index + 1))


# The bits of each significand.
_DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def _digits(dtype: torch.dtype) -> int:
    if dtype not in _DIGITS:
        raise ValueError(f"dtype is {dtype}; expected one of {', '.join(map(str, _DIGITS))}")
    return _DIGITS[dtype]


@arguments
def uniform(
    key: Int64[Tensor, ""],
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    minval: float | Tensor = 0.0,
    maxval: float | Tensor = 1.0,
) -> Float[Tensor, "*shape"]:
    """Draw uniformly from ``[minval, maxval)``; the unit interval's draws are multiples of the dtype's precision.

    Args:
        key: a key.
        shape: of the result.
        dtype: a floating dtype.
        minval: least value, a number or a tensor that broadcasts to ``shape``.
        maxval: bound that no value reaches, likewise.

    Raises:
        ValueError: ``dtype`` is no floating dtype, or the bounds are numbers that do not ascend or are not finite.
    """
    digits = _digits(dtype)
    plain = not isinstance(minval, Tensor) and not isinstance(maxval, Tensor)
    if plain and not -math.inf < minval <= maxval < math.inf:
        raise ValueError(f"minval, maxval are {minval}, {maxval}; expected finite numbers in ascending order")
    # The highest bits, as many as the significand holds: every value is exact in dtype.
    unit = _shift_right(bits(key, shape), 64 - digits).to(dtype) * 2.0**-digits
    if plain and (minval, maxval) == (0, 1):
        return unit
    low = minval.to(dtype) if isinstance(minval, Tensor) else minval
    high = maxval.to(dtype) if isinstance(maxval, Tensor) else maxval
    draw = low + (high - low) * unit
    return torch.where(draw < high, draw, low)  # what rounding took up to maxval


@arguments
def normal(
    key: Int64[Tensor, ""], shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """Draw from the standard normal distribution, by Box and Muller (1958), one word a value.

    Computed in float64 and rounded to ``dtype``: the logarithms of different devices and compilers differ in
    the last place, which the rounding removes (for float32 in all but about one draw in 10^8).
    """
    _digits(dtype)
    words = bits(key, shape)
    # 32 bits each for radius and angle; the half keeps the radius finite.
    radius = (_shift_right(words, 32).to(torch.float64) + 0.5) * 2.0**-32
    angle = (words & 0xFFFFFFFF).to(torch.float64) * (2.0**-32 * 2 * math.pi)
    return (torch.sqrt(-2 * torch.log(radius)) * torch.cos(angle)).to(dtype)


@arguments
def randint(
    key: Int64[Tensor, ""], shape: Sequence[int], minval: int | Tensor, maxval: int | Tensor
) -> Int64[Tensor, "*shape"]:
    """Draw integers uniformly from ``[minval, maxval)``; a range of ``r`` is biased by ``r / 2^63`` at most.

    Args:
        key: a key.
        shape: of the result.
        minval: least value, an integer or an integer tensor that broadcasts to ``shape``.
        maxval: bound that no value reaches, likewise.

    Raises:
        ValueError: a bound is no integer, or the range is empty or of 2^63 values or more.
    """
    for name, value in (("minval", minval), ("maxval", maxval)):
        if not _is_integer(value):
            raise ValueError(f"{name} is {value!r}; expected an integer or an integer tensor")
    if not isinstance(minval, Tensor) and not isinstance(maxval, Tensor) and not 0 < maxval - minval < 1 << 63:
        raise ValueError(f"maxval is {maxval}; expected more than minval, {minval}, by less than 2^63")
    return minval + _shift_right(bits(key, shape), 1) % (maxval - minval)


@arguments
def bernoulli(
    key: Int64[Tensor, ""], p: float | Tensor = 0.5, shape: Sequence[int] | None = None
) -> Bool[Tensor, "*shape"]:
    """Draw ``True`` with probability ``p``, to within 2^-53; ``shape`` is by default that of ``p``.

    Raises:
        ValueError: ``p`` is a number below 0 or above 1.
    """
    if not isinstance(p, Tensor) and not 0 <= p <= 1:
        raise ValueError(f"p is {p}; expected a probability")
    if shape is None:
        shape = p.shape if isinstance(p, Tensor) else ()
    return uniform(key, shape, torch.float64) < p


@arguments
def permutation(key: Int64[Tensor, ""], n: int) -> Int64[Tensor, "n"]:
    """Return a uniform permutation of ``0 .. n-1``."""
    _check_count("n", n)
    return torch.argsort(bits(key, (n,)), stable=True)
