"""Copies of panels of a matrix, in the order in which the micro-kernel reads them."""

from numba import types

from fastfc.kernels.ops.matrix import element
from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.simd.transpose import transpose_block
from fastfc.kernels.simd.vector import load, load_first, store, width

# Bytes that are read in their order, from panel to panel, before the next columns; and at least so many columns.
RUN_BYTES, COLUMNS_AT_ONCE = 1 << 14, 16


@helper
def copy_pairs(k, source, source_row, target, target_row):
    """Copy two registers from each of k rows."""
    step = width(source) * itemsize(source)
    for _ in range(k // 2):
        v0, v1 = load(source), load(at(source, step))
        v2, v3 = load(at(source, source_row)), load(at(source, source_row + step))
        store(target, v0)
        store(at(target, step), v1)
        store(at(target, target_row), v2)
        store(at(target, target_row + step), v3)
        source, target = at(source, 2 * source_row), at(target, 2 * target_row)
    if k % 2:
        v0, v1 = load(source), load(at(source, step))
        store(target, v0)
        store(at(target, step), v1)


@on_demand_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[types.int64] * 4, types.CPointer(dtype), types.int64)
)
def pack(source, count, k, across, along, target, target_width):
    """target[p, i] = source[i * across + p * along] for i < count, p < k; rows of target_width elements.

    A micro-panel of A (i are its rows) or of B (i are its columns). Elements from `count` on are arbitrary up to a
    whole register, but for those that are zero: they meet lanes that are never stored.
    """
    size, lanes = itemsize(source), width(source)
    target_row = target_width * size
    if across == size and count == 2 * lanes:
        copy_pairs(k, source, along, target, target_row)
        return OK
    for first in range(0, count, lanes):
        n_left = min(lanes, count - first)
        src, there = at(source, first * across), at(target, first * size)
        if across == size:
            if n_left == lanes:
                for p in range(k):
                    store(at(there, p * target_row), load(at(src, p * along)))
            else:
                for p in range(k):
                    store(at(there, p * target_row), load_first(at(src, p * along), n_left, 0.0))
        elif along == size:
            for p in range(0, k, lanes):
                deep = min(lanes, k - p)
                transpose_block(at(src, p * size), across, n_left, deep, at(there, p * target_row), target_row)
        else:
            for p in range(k):
                for i in range(n_left):
                    write(at(there, p * target_row + i * size), read(at(src, i * across + p * along)))
    return OK


@helper
def pack_micro_panels(x, count, k, rows, target, target_width):
    """x[:count, :k] in micro-panels of `rows` rows, one after the other: see `pack`.

    Where rows are neighbours in memory, a few columns of x at a time go to all panels: they are read in their order.
    """
    size = itemsize(x.data)
    step = max(COLUMNS_AT_ONCE, RUN_BYTES // (count * size)) if x.row == size else k
    for p in range(0, k, step):
        for i in range(0, count, rows):
            panel = at(target, (i // rows * k + p) * target_width * size)
            pack(element(x, i, p), min(rows, count - i), min(step, k - p), x.row, x.column, panel, target_width)
