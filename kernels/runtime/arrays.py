"""Arrays by address: a table of integers that describes many arrays, for calls that take those of many networks.

A row of such a table holds `N_FIELDS` numbers for each array: its address, shape and strides. A vector has the second
size 1, and no second stride. Whoever writes the table keeps the arrays alive.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from fastfc.kernels.runtime.overlap import keep_alive
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.llvm import I8, I64
from fastfc.kernels.simd.memory import array_at

N_FIELDS = 5


def describe(array: NDArray[Any]) -> tuple[int, ...]:
    """The numbers in a table that stand for a vector or a matrix."""
    rows, columns = array.shape if array.ndim == 2 else (array.size, 1)
    row, column = array.strides if array.ndim == 2 else (array.strides[0], 0)
    return array.ctypes.data, rows, columns, row, column


def array_intrinsic(ndim):
    """An intrinsic (like, address, shape, strides): the array at an address, of the dtype of the array `like`."""

    @intrinsic
    def make(typingctx, like, address, shape, strides):
        kind = types.Array(like.dtype, ndim, "A", aligned=False)

        def codegen(context, builder, signature, args):
            data = builder.inttoptr(args[1], I8.as_pointer())
            sizes, steps = (cgutils.unpack_tuple(builder, part, 2)[:ndim] for part in args[2:])
            return array_at(context, builder, kind, data, sizes, steps)[0]

        return kind(like, address, shape, strides), codegen

    return make


matrix_intrinsic, vector_intrinsic = array_intrinsic(2), array_intrinsic(1)


@helper
def matrix_of(like, table, k, i):
    """Matrix number i of row k, of the dtype of the array `like`."""
    c = i * N_FIELDS
    shape, strides = (table[k, c + 1], table[k, c + 2]), (table[k, c + 3], table[k, c + 4])
    return matrix_intrinsic(like, table[k, c], shape, strides)


@helper
def vector_of(like, table, k, i):
    """Vector number i of row k, of the dtype of the array `like`."""
    c = i * N_FIELDS
    shape, strides = (table[k, c + 1], table[k, c + 2]), (table[k, c + 3], table[k, c + 4])
    return vector_intrinsic(like, table[k, c], shape, strides)


@intrinsic
def take_next(typingctx, counter):
    """The value of counter[0], which is one more afterwards, whatever other threads do at the same time."""

    def codegen(context, builder, signature, args):
        data = context.make_array(counter)(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(I64, 1), "monotonic")

    return types.int64(counter), codegen


@helper
def deal(body, arguments, n_threads):
    """body(*arguments, taken, index, n_threads) on each thread, where take_next(taken) tells the next member."""
    taken = np.zeros(1, np.int64)
    arguments = (*arguments, taken)
    status = parallel(body, arguments, n_threads) if n_threads > 1 else body(*arguments, 0, 1)
    keep_alive(taken)
    return status
