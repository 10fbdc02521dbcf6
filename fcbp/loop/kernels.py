"""Kernels that pass over matrices once, row by row: their C++, and the operator that calls them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Kernel", "load", "run", "write"]

ROWS = 6
"""Rows that are passed over at once: a column's sum is loaded and stored once for all, and memory serves several
streams faster than one, until they are too many."""

_loaded: dict[str, Callable[..., None]] = {}


@dataclass(frozen=True)
class Kernel:
    """A loop over the entries of float32 matrices of one shape, in the words of C++.

    Expressions name matrices ``given0``, ``given1``, ..., and vectors and scalars ``small0``, ``small1``, ...
    """

    given: int
    """Number of matrices read."""
    in_place: int
    """The number of them, from the first, that are written as well."""
    small: tuple[str, ...]
    """The axis that the entries of the vectors count: ``rows``, ``columns``, or nothing for a scalar."""
    operations: tuple[tuple[str, str], ...]
    """Names and the expressions that they stand for, in order."""
    written: tuple[str, ...]
    """Names of the values that are written, the first of them over the matrices."""
    sums: tuple[tuple[str, str], ...]
    """Axes that are left, and the expressions that are summed over the other."""


def load(kernel: Kernel) -> str:
    """Compile ``kernel``; the result is its name for :func:`run`, the same in every process."""
    from torch._inductor.codecache import CppCodeCache

    source = _source(kernel)
    name = hashlib.sha256(source.encode()).hexdigest()[:16]
    if name not in _loaded:
        _loaded[name] = CppCodeCache.load(source, extra_flags=("-ftree-loop-vectorize",)).one_pass
    return name


def run(
    name: str, given: Sequence[Tensor], small: Sequence[Tensor], in_place: int, fresh: int, sums: Sequence[int]
) -> list[Tensor]:
    """Return the results of a kernel: the first ``in_place`` matrices given, ``fresh`` ones, and sums of these
    lengths."""
    new = list(given[:in_place])
    new += [torch.empty_like(given[0], memory_format=torch.contiguous_format) for _ in range(fresh)]
    new += [given[0].new_empty(length) for length in sums]
    torch.ops.fcbp.one_pass(name, new, [x.contiguous() for x in (*given[in_place:], *small)], *given[0].shape)
    return new


def write(leaf: Tensor, axis: int, index: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    """``leaf`` with the entries of ``index`` along ``axis`` written over with ``value`` where ``mask``."""
    torch.ops.fcbp.write(leaf, axis, index, mask.reshape(-1), value)
    return leaf


@functools.cache
def _pointers(count: int) -> Callable[..., ctypes.Array[ctypes.c_void_p]]:
    return ctypes.c_void_p * count


def _one_pass(name: str, written: list[Tensor], read: list[Tensor], rows: int, columns: int) -> None:
    _loaded[name](
        _pointers(len(written))(*(x.data_ptr() for x in written)),
        _pointers(len(read))(*(x.data_ptr() for x in read)),
        ctypes.c_long(rows),
        ctypes.c_long(columns),
        ctypes.c_int(torch.get_num_threads()),
    )


def _write(leaf: Tensor, axis: int, index: Tensor, mask: Tensor, value: Tensor) -> None:
    due = [(unit, i) for i, (unit, is_due) in enumerate(zip(index.tolist(), mask.tolist(), strict=True)) if is_due]
    if due:
        value = value.expand(*leaf.shape[:axis], len(index), *leaf.shape[axis + 1 :])
        for unit, i in due:
            leaf.select(axis, unit).copy_(value.select(axis, i))


_library = torch.library.Library("fcbp", "FRAGMENT")
_library.define("one_pass(str name, Tensor(a!)[] written, Tensor[] read, int rows, int columns) -> ()")
_library.impl("one_pass", _one_pass, "CPU")
_library.impl("one_pass", lambda *_: None, "Meta")
_library.define("write(Tensor(a!) leaf, int axis, Tensor index, Tensor mask, Tensor value) -> ()")
_library.impl("write", _write, "CPU")
_library.impl("write", lambda *_: None, "Meta")


def _source(kernel: Kernel) -> str:
    return f"""
#include <omp.h>
#include <cmath>
#include <vector>

static void some_rows(
    float* const* written, const float* const* read, float* sums, long first, long end, long columns)
{{
    long row = first;
    for (; row + {ROWS} <= end; row += {ROWS}) {{{_rows(kernel, ROWS)}
    }}
    for (; row < end; ++row) {{{_rows(kernel, 1)}
    }}
}}

extern "C" void one_pass(
    float* const* written, const float* const* read, long rows, long columns, int threads)
{{
    const long number = {sum(axis == "columns" for axis, _ in kernel.sums)};
    std::vector<float> sums(threads * number * columns);
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {{
        const long part = omp_get_thread_num(), parts = omp_get_num_threads();
        some_rows(written, read, sums.data() + part * number * columns, rows * part / parts,
            rows * (part + 1) / parts, columns);
    }}
    float* const totals[] = {{{", ".join([*_column_totals(kernel), "nullptr"])}}};
    for (long sum = 0; sum < number; ++sum)
        for (long column = 0; column < columns; ++column) {{
            float total = 0;
            for (int part = 0; part < threads; ++part)
                total += sums[(part * number + sum) * columns + column];
            totals[sum][column] = total;
        }}
}}
"""


def _column_totals(kernel: Kernel) -> list[str]:
    return [f"written[{len(kernel.written) + i}]" for i, (axis, _) in enumerate(kernel.sums) if axis == "columns"]


def _rows(kernel: Kernel, together: int) -> str:
    """Return the loop over the columns of ``together`` rows, and what comes before and after it."""
    others = kernel.given - kernel.in_place
    before, inside, after, reductions = [], [], [], []
    for i, axis in enumerate(kernel.small):
        source = f"read[{others + i}]"
        if axis == "columns":
            before.append(f"const float* __restrict vector{i} = {source};")
            inside.append(f"const float small{i} = vector{i}[column];")
        elif axis == "":
            before.append(f"const float small{i} = {source}[0];")
    numbered = list(enumerate(kernel.sums))
    columns = [i for i, (axis, _) in numbered if axis == "columns"]
    for place, i in enumerate(columns):
        before.append(f"float* __restrict sum{i} = sums + {place} * columns;")
    for k in range(together):
        # In braces, as many as rows: one row's names are the other's, too.
        row = f"row + {k}"
        opened = []
        for i, axis in enumerate(kernel.small):
            if axis == "rows":
                before.append(f"const float entry{i}_{k} = read[{others + i}][{row}];")
                opened.append(f"const float small{i} = entry{i}_{k};")
        for i in range(kernel.given):
            source = f"written[{i}]" if i < kernel.in_place else f"read[{i - kernel.in_place}]"
            pointer = "float*" if i < kernel.in_place else "const float*"
            before.append(f"{pointer} __restrict matrix{i}_{k} = {source} + ({row}) * columns;")
            opened.append(f"const float given{i} = matrix{i}_{k}[column];")
        opened += [f"const float {name} = {expression};" for name, expression in kernel.operations]
        for i, name in enumerate(kernel.written):
            target = f"matrix{i}_{k}"
            if i >= kernel.in_place:
                target = f"result{i}_{k}"
                before.append(f"float* __restrict {target} = written[{i}] + ({row}) * columns;")
            opened.append(f"{target}[column] = {name};")
        for i, (axis, expression) in numbered:
            if axis == "rows":
                before.append(f"float total{i}_{k} = 0;")
                reductions.append(f"total{i}_{k}")
                opened.append(f"total{i}_{k} += {expression};")
                after.append(f"written[{len(kernel.written) + i}][{row}] = total{i}_{k};")
            else:
                opened.append(f"part{i} += {expression};")
        inside += ["{", *opened, "}"]
    inside = [*(f"float part{i} = 0;" for i in columns), *inside, *(f"sum{i}[column] += part{i};" for i in columns)]
    simd = "#pragma omp simd" + (f" reduction(+:{', '.join(reductions)})" if reductions else "")
    lines = [*before, simd, "for (long column = 0; column < columns; ++column) {", *inside, "}", *after]
    return "".join(f"\n        {line}" for line in lines)
