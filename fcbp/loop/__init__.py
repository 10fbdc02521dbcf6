"""``scan``: run a pure step many times, compiled."""

from fcbp.loop.nested import compiling, nested
from fcbp.loop.program import PARALLEL_FROM, check_carry
from fcbp.loop.scanning import Choice, compiles, explain, is_out_of_memory, prepare, scan, source

__all__ = [
    "PARALLEL_FROM",
    "Choice",
    "check_carry",
    "compiles",
    "compiling",
    "explain",
    "is_out_of_memory",
    "nested",
    "prepare",
    "scan",
    "source",
]
