"""Copies of panels of a matrix, in the order in which the micro-kernel reads them."""

from numba import types

from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.memory import at, itemsize, read, write
from fastfc.kernels.simd.transpose import transpose_block
from fastfc.kernels.simd.vector import load, load_first, store, width

# Rows of B that are copied from left to right at a time.
PACK_ROWS = 16


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[types.int64] * 4, types.CPointer(dtype), types.int64)
)
def pack(source, count, k, across, along, target, target_width):
    """target[p, i] = source[i * across + p * along] for i < count, p < k; rows of target_width elements.

    This copies panels of A (i are its rows) and of B (i are its columns). Elements from `count` on are
    arbitrary up to a whole register: they meet lanes that are never stored.
    """
    size, lanes = itemsize(source), width(source)
    target_row = target_width * size
    for first in range(0, count, lanes):
        some = min(lanes, count - first)
        here, there = at(source, first * across), at(target, first * size)
        if across == size:
            if some == lanes:
                for p in range(k):
                    store(at(there, p * target_row), load(at(here, p * along)))
            else:
                for p in range(k):
                    store(at(there, p * target_row), load_first(at(here, p * along), some, 0.0))
        elif along == size:
            for p in range(0, k, lanes):
                deep = min(lanes, k - p)
                transpose_block(at(here, p * size), across, some, deep, at(there, p * target_row), target_row)
        else:
            for p in range(k):
                for i in range(some):
                    write(at(there, p * target_row + i * size), read(at(here, i * across + p * along)))
    return OK
