"""Matrices of any strides, by address: their elements, rows and copies."""

from collections import namedtuple

from numba import types

from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, pointer, read, write, zero
from fastfc.kernels.simd.vector import load_first, store_first, width

# A pointer, and the bytes from row to row and from column to column.
Matrix = namedtuple("Matrix", ["data", "row", "column"])


def matrix_type(dtype):
    return types.NamedTuple([types.CPointer(dtype), types.int64, types.int64], Matrix)


@helper
def matrix(x):
    return Matrix(pointer(x), x.strides[0], x.strides[1])


@helper
def transposed(x):
    return Matrix(x.data, x.column, x.row)


@helper
def element(x, i, j):
    """Pointer to x[i, j]."""
    return at(x.data, i * x.row + j * x.column)


@helper
def rows_from(x, i):
    """x without its first i rows."""
    return Matrix(element(x, i, 0), x.row, x.column)


@helper
def columns_from(x, j):
    """x without its first j columns."""
    return Matrix(element(x, 0, j), x.row, x.column)


@helper
def contiguous_matrix(data, columns):
    """Whole rows, one after another, in memory that the caller owns."""
    return Matrix(data, columns * itemsize(data), itemsize(data))


@helper
def zeros(like):
    """Zero, as a matrix of any size."""
    return Matrix(zero(like.data), 0, 0)


@helper
def ceil_div(a, b):
    return (a + b - 1) // b


@helper
def copy_matrix(m, n, source, target):
    for i in range(m):
        for j in range(n):
            write(element(target, i, j), read(element(source, i, j)))


@helper
def add_matrix(m, n, source, target):
    """target += source"""
    size, lanes = itemsize(source.data), width(source.data)
    step = lanes if source.column == size and target.column == size else 1
    for i in range(m):
        for j in range(0, n, step):
            src, count = element(target, i, j), min(step, n - j)
            store_first(src, load_first(src, count, 0.0) + load_first(element(source, i, j), count, 0.0), count)
