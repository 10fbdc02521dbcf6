"""Exponentials, logarithms and functions of angles: near the truth, and the same for a number and for a vector."""

import dataclasses

import mpmath
import optree
import pytest
import torch

from fcbp import lanes
from fcbp.lanes.emit import emit

pytestmark = pytest.mark.compiled

# Functions, and how many units in the last place each may be off: in float32, and in float64.
UNITS = {
    "exp": (1.2, 1.2),
    "exp2": (1.2, 1.2),
    "expm1": (1.5, 1.5),
    "log": (1.2, 1.2),
    "log2": (1.5, 1.5),
    "log10": (2, 2),
    "log1p": (1.5, 1.5),
    "sin": (1.5, 1.2),
    "cos": (1.5, 1.2),
    "tan": (0.6, 2.5),
    "asin": (0.6, 1.2),
    "acos": (0.6, 1.5),
    "atan": (0.6, 2),
    "sinh": (0.6, 3),
    "cosh": (0.6, 1.5),
    "tanh": (3, 3),
    "erf": (1.5, 1.5),
    "erfc": (0.6, 5),
    "pow": (0.6, 1.5),
    "atan2": (0.6, 2),
    "hypot": (0.6, 1.2),
}
SPECIAL = [0.0, torch.nan, torch.inf, 1e-45, 1e-40, 3e38, 1.0, 2.0, 3.0, 0.5, 88.7228, 88.73, 103.9, 87.5, 17.0, 9.01]
SPECIAL += [1e10, 1.17549435e-38, 1000.0, 709.78, 708.5, 745.1, 1e-310, 5e-324, 1e300, 1.7e308, 20.0, 16.0]


def arguments():
    """Numbers of all sizes, special ones first: float64 ``(2, n)``."""
    special = torch.tensor(SPECIAL, dtype=torch.float64)
    special = torch.cat([special, -special])
    pairs = torch.cartesian_prod(special, special).T
    generator = torch.Generator().manual_seed(0)

    def uniform(low, high, n=600):
        return torch.rand(2, n, generator=generator, dtype=torch.float64) * (high - low) + low

    around = torch.arange(1, 60, dtype=torch.float64).expand(2, -1) * (torch.pi / 2)
    sizes = 10.0 ** uniform(-40, 38)
    return torch.cat([pairs, uniform(-1, 1), uniform(-12, 12), uniform(0.9, 1.1), uniform(-100, 100), around, sizes], 1)


def step(carry, _):
    """All functions of both numbers, in float32 and in float64."""

    def all_of(x, y):
        one = {name: getattr(torch, name)(x) for name in list(UNITS)[:-3]}
        return one | {"pow": x**y, "atan2": torch.atan2(x, y), "hypot": torch.hypot(x, y)}

    return carry, tuple(all_of(x[0], x[1]) for x in carry)


@pytest.fixture(scope="module")
def found():
    """What vectors give, and what a thread's numbers do, on the same arguments: each by dtype and function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "OPTIMIZE", "-O0")
        x = arguments()
        carry = (x.float()[None], x[None])
        leaves, spec = optree.tree_flatten(carry)
        draft = lanes.draft(torch.vmap(step), leaves, spec, (), lambda *_: None)
        source, plan = emit(draft.traced.lowered, "threads")
        vectors = draft.compile()(leaves, (), 1)[1]
        numbers = dataclasses.replace(draft, source=source, plan=plan).compile()(leaves, (), 1)[1]
    return x, vectors, numbers


def test_a_number_has_the_bits_of_a_vector(found):
    _, vectors, numbers = found
    for one, other in zip(optree.tree_leaves(vectors), optree.tree_leaves(numbers), strict=True):
        whole = torch.int32 if one.dtype == torch.float32 else torch.int64
        assert torch.equal(one.nan_to_num(7).view(whole), other.nan_to_num(7).view(whole))
        assert torch.equal(one.isnan(), other.isnan())


@pytest.mark.parametrize("name", UNITS)
def test_float32_is_near_the_truth(name, found):
    x, (single, _), _ = found
    truth = getattr(torch, name)(*x.float().double()[: 2 if name in ("pow", "atan2", "hypot") else 1])
    result, expected = single[name][0, 0], truth.float()
    for property in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(property(result), property(expected))
    assert torch.equal(result.signbit() & ~result.isnan(), expected.signbit() & ~expected.isnan())
    finite = expected.isfinite()
    unit = torch.nextafter(expected.abs(), torch.tensor(torch.inf)).double() - expected.abs().double()
    off = ((result.double() - truth).abs() / unit)[finite]
    assert off.max() <= UNITS[name][0]


EXACT = {
    **{name: getattr(mpmath, name) for name in UNITS if hasattr(mpmath, name)},
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log2": lambda x: mpmath.log(x) / mpmath.log(2),
    "log10": lambda x: mpmath.log(x) / mpmath.log(10),
    "pow": lambda x, y: x**y,
}


@pytest.mark.parametrize("name", UNITS)
def test_float64_is_near_the_truth(name, found):
    x, (_, double), _ = found
    given = x[: 2 if name in ("pow", "atan2", "hypot") else 1]
    result, eager = double[name][0, 0], getattr(torch, name)(*given)
    for property in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(property(result), property(eager))
    # Eager's sign is not of every number below the least normal one.
    normal = ((given.abs() > 1e-307) | (given == 0)).all(0) & ~eager.isnan()
    assert torch.equal(result[normal].signbit(), eager[normal].signbit())
    worst = 0.0
    with mpmath.workprec(1200):
        for i in [*range(len(SPECIAL)), *range(4 * len(SPECIAL) ** 2, x.shape[1], 8)]:
            if eager[i].isfinite() and eager[i]:
                truth = EXACT[name](*(mpmath.mpf(float(one)) for one in given[:, i]))
                size = max(int(mpmath.floor(mpmath.log(abs(truth), 2))), -1022)
                worst = max(worst, float(abs(float(result[i]) - truth) * mpmath.mpf(2) ** (52 - size)))
    assert worst <= UNITS[name][1]
