"""The C++ of types and numbers.

A program has five types of elements. ``F``, ``D``, ``I``, ``Q`` and ``M`` hold a number of each lane, of float32,
float64, int32, int64 and bool; ``float``, ``double``, ``int``, ``int64`` and ``bool`` hold one that all members share.
"""

from __future__ import annotations

import math

import torch

from fcbp.lanes.ir import SHORT, Node

__all__ = ["LETTER", "SHORT_TYPE", "array_type", "element_bytes", "literal", "to_vector", "type_of"]

SHORT_TYPE = {dtype: str(dtype).removeprefix("torch.") for dtype in SHORT}
"""The types of integers that are short in the caller's arrays alone; programs compute them as int32."""
LETTER = {
    torch.float32: "F",
    torch.float64: "D",
    torch.int32: "I",
    torch.int64: "Q",
    torch.bool: "M",
    **dict.fromkeys(SHORT, "I"),
}
"""The type that holds a number of each lane."""
_SCALAR_TYPE = {"F": "float", "D": "double", "I": "int", "Q": "int64", "M": "bool"}
_BYTES = {"F": 4, "D": 8, "I": 4, "Q": 8, "M": 4}


def type_of(node: Node) -> str:
    """Return the type of a node's element in a program."""
    letter = LETTER[node.dtype]
    return _SCALAR_TYPE[letter] if node.uniform else letter


def array_type(node: Node) -> str:
    """Return the type of a node's element in the caller's arrays."""
    return SHORT_TYPE.get(node.dtype, _SCALAR_TYPE[LETTER[node.dtype]])


def element_bytes(node: Node) -> int:
    """Return the memory of an element of one lane."""
    return _BYTES[LETTER[node.dtype]]


def to_vector(text: str, dtype: torch.dtype) -> str:
    """Return a number, or another vector, as a vector of a dtype."""
    return f"to_{LETTER[dtype]}({text})"


def literal(value: float, dtype: torch.dtype) -> str:
    """Return a number, to the bit."""
    if dtype == torch.bool:
        return "true" if value else "false"
    if not dtype.is_floating_point:
        return f"(int64){value % (1 << 64):#x}ull" if dtype == torch.int64 else f"(int){value % (1 << 32):#x}u"
    suffix = "f" if dtype == torch.float32 else ""
    if math.isnan(value):
        return f"limits<{_SCALAR_TYPE[LETTER[dtype]]}>::quiet_NaN()"
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}limits<{_SCALAR_TYPE[LETTER[dtype]]}>::infinity()"
    if dtype == torch.float32:
        value = torch.tensor(value, dtype=torch.float32).item()
        if math.isinf(value):
            return literal(value, dtype)
    return f"({value.hex()}{suffix})"
