"""The table of C++ functions that programs call on elements, and what the passes know of them.

A function's value is its name in C++. ``scalars.hpp``, ``vectors.hpp``, ``threads.hpp``,
``generic.hpp`` and ``elementary.hpp`` define it.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["CHEAP", "COMPARISONS", "NEUTRAL", "REDUCTION_START", "Function"]


class Function(str, Enum):
    """A function of one, two or three elements; as text it is its value."""

    # Python 3.10 has no StrEnum.
    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)

    __hash__ = str.__hash__  # an enumeration's own is slow, and sets of functions are looked up for every node

    # Arithmetic
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    QUOTIENT = "quotient"
    NEG = "neg"
    ABS = "v_abs"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    FLOORED_QUOTIENT = "floored_quotient"
    TRUNCATED_QUOTIENT = "truncated_quotient"
    FLOORED_REMAINDER = "floored_remainder"
    TRUNCATED_REMAINDER = "truncated_remainder"
    FLOAT_REMAINDER = "float_remainder"
    FMOD = "v_fmod"

    # Bits, and logic
    AND = "bit_and"
    OR = "bit_or"
    XOR = "bit_xor"
    NOT = "bit_not"
    SHIFT_LEFT = "shift_left"
    SHIFT_RIGHT = "shift_right"
    SHIFT_RIGHT_LOGICAL = "shift_right_logical"

    # Comparisons and choices
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    EQ = "eq"
    NE = "ne"
    CHOOSE = "choose"
    """``choose(mask, x, y)`` is ``x`` where the mask holds, else ``y``."""

    # Copies and conversions
    SAME = "same"
    CAST = "to"
    """Conversion to the node's dtype; in C++ ``to_F``, ``to_I`` and so on."""

    # Functions of real numbers
    EXP = "v_exp"
    EXP2 = "v_exp2"
    EXPM1 = "v_expm1"
    LOG = "v_log"
    LOG2 = "v_log2"
    LOG10 = "v_log10"
    LOG1P = "v_log1p"
    SIN = "v_sin"
    COS = "v_cos"
    TAN = "v_tan"
    ASIN = "v_asin"
    ACOS = "v_acos"
    ATAN = "v_atan"
    ATAN2 = "v_atan2"
    SINH = "v_sinh"
    COSH = "v_cosh"
    TANH = "v_tanh"
    ERF = "v_erf"
    ERFC = "v_erfc"
    SQRT = "v_sqrt"
    POW = "v_pow"
    HYPOT = "v_hypot"
    FLOOR = "v_floor"
    CEIL = "v_ceil"
    TRUNC = "v_trunc"
    ROUND = "v_round"

    # Reductions that are loops of their own, and no functions in C++
    ARGMIN = "argmin"
    ARGMAX = "argmax"


COMPARISONS = frozenset({Function.LT, Function.LE, Function.GT, Function.GE, Function.EQ, Function.NE})
CHEAP = COMPARISONS | {
    Function.CAST,
    Function.SAME,
    Function.NEG,
    Function.ABS,
    Function.AND,
    Function.OR,
    Function.XOR,
    Function.NOT,
}
"""Functions that neither round nor take long: to compute them again gives the same bits, and costs less than memory."""
NEUTRAL = {Function.MUL: 1, Function.QUOTIENT: 1, Function.XOR: 0, Function.OR: 0}
"""The second argument that leaves the first as it is, to the bit."""
REDUCTION_START = {Function.ADD: 0, Function.MUL: 1, Function.OR: 0, Function.AND: 1}
"""The number with which a reduction begins. A maximum or a minimum begins with the dtype's own limit."""
