"""Embedding: y[r, c d : (c + 1) d] = table[x[r, c]], rows of a table of width d by the whole numbers in x.

Backward adds the rows of dL/dy to those of the table's gradient, in the order of the samples. Indices have no
gradient.
"""

import numpy as np
from numba import types

from fastfc.kernels.ops.matrix import element, matrix_type
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import BAD_INDEX, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, read
from fastfc.kernels.simd.vector import load, load_first, splat, store, store_first, width


@helper
def move(count, source, source_step, target, target_step, add):
    """target (+)= source, for `count` elements so many bytes apart."""
    size, lanes = itemsize(source), width(source)
    contiguous = source_step == size and target_step == size
    whole, step = (count - count % lanes, lanes) if contiguous else (0, 1)
    for j in range(0, whole, lanes):
        src, value = at(target, j * size), load(at(source, j * size))
        store(src, load(src) + value if add else value)
    for j in range(whole, count, step):
        src, n_left = at(target, j * target_step), min(step, count - j)
        value = load_first(at(source, j * source_step), n_left, 0.0)
        store_first(src, load_first(src, n_left, 0.0) + value if add else value, n_left)


@helper
def are_rows(x, n, columns, rows):
    """Whether all of x are whole numbers from 0 to rows − 1."""
    good = 0
    for r in range(n):
        for c in range(columns):
            index = read(element(x, r, c))
            good += index >= 0 and index < rows and index == np.floor(index)
    return good == n * columns


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 4), optional=True
)
def embedding_forward(table, x, y, n, columns, wide, rows):
    """y = the table's rows by x; BAD_INDEX, and y is as it was, if it has no such row."""
    if not are_rows(x, n, columns, rows):
        return BAD_INDEX
    size = itemsize(table)
    for r in range(n):
        for c in range(columns):
            row = at(table, np.int64(read(element(x, r, c))) * wide * size)
            move(wide, row, size, element(y, r, c * wide), y.column, False)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 5), optional=True
)
def embedding_backward(table_grad, x, grad_y, n, columns, wide, rows, add):
    """The table's gradient, added to what is there or to zero."""
    if not are_rows(x, n, columns, rows):  # x is the user's array, and nothing may be written beyond the table
        return BAD_INDEX
    size = itemsize(table_grad)
    if not add:
        lanes, zeros = width(table_grad), splat(table_grad, 0.0)
        for j in range(0, rows * wide, lanes):
            store_first(at(table_grad, j * size), zeros, rows * wide - j)
    for r in range(n):
        for c in range(columns):
            row = at(table_grad, np.int64(read(element(x, r, c))) * wide * size)
            move(wide, element(grad_y, r, c * wide), grad_y.column, row, size, True)
    return OK
