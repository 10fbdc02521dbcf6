"""Values for the operations of ``lanes_table.py``, and what these give."""

import types
import warnings

import optree
import torch


def values(members, n, m, k, seed, size=2.0):
    """What ``lanes_table`` takes, for several members; special values lie among numbers of a size."""
    generator = torch.Generator().manual_seed(seed)

    def real(*shape):
        return torch.randn(members, *shape, generator=generator)

    def whole(low, high, *shape):
        return torch.randint(low, high, (members, *shape), generator=generator)

    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, 3e38])
    which = whole(0, 14, n, m)
    return {
        "x": real(n, m),
        "y": real(n, m),
        "row": real(m),
        "w": real(m, k),
        "odd": torch.where(which < len(special), special[which.clamp(max=len(special) - 1)], real(n, m) * size),
        "i": whole(-20, 20, n, m).int(),
        "j": whole(1, 9, n, m).int(),
        "q": whole(-(1 << 62), 1 << 62, n, m),
        "d": real(n, m).double(),
        "mask": whole(0, 2, n, m).bool(),
        "rows": whole(0, n, n),
        "columns": whole(0, m, n),
        "image": real(2, 2, 5, 6),
        "kernel": real(4, 2, 3, 3),
    }


OF_THE_DTYPE = {"nan_to_num"}
"""Operations whose results name the dtype's own limits: of these a wider dtype does not know."""


def truth(operation, given):
    """What an operation gives in float64, in the dtypes of float32's results, and how far eager's float32 is off.

    Special values are taken from there alone: in float32 eager's depend on the processor's vectors, and on where in a
    vector an element lies.
    """

    def leaves(member):
        return [torch.as_tensor(leaf) for leaf in optree.tree_leaves(operation(types.SimpleNamespace(**member)))]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # an older torch takes members in turn
        single = torch.vmap(leaves)(given)
        double = torch.vmap(leaves)({k: v.double() if v.dtype == torch.float32 else v for k, v in given.items()})
    double = [wide.to(leaf.dtype) for leaf, wide in zip(single, double, strict=True)]
    off = [(leaf.double() - wide.double()).abs().nan_to_num(0, 0) for leaf, wide in zip(single, double, strict=True)]
    return single, double, off


def assert_true(name, result, single, double, off):
    """Within the tolerance of the truth, or no farther from it than eager by much: some sums cancel."""
    if name in OF_THE_DTYPE:
        double, off = single, torch.zeros_like(off)
    result, expected = result.double(), double.double()
    wrong = ~torch.isclose(result, expected, rtol=3e-5, atol=3e-6, equal_nan=True)
    wrong &= ~((result - expected).abs() <= 8 * off.amax())
    where = wrong.nonzero()[:3].tolist()
    assert not where, f"{name} at {where}: {result[wrong][:3].tolist()}; expected {expected[wrong][:3].tolist()}"
