"""dW (+)= xᵀ g"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.gemm import CHUNK, Product, parallel_product
from fastfc.kernels.ops.matrix import (
    Matrix,
    add_matrix,
    columns_from,
    copy_matrix,
    matrix,
    rows_from,
    transposed,
    zeros,
)
from fastfc.kernels.ops.narrow import MOST_CHUNKS, chunk_gradients, few_sums
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, check
from fastfc.kernels.runtime.threads import AUTO, is_tiny, product_work, resolve, shape
from fastfc.kernels.simd.compiler import helper, inlined_helper
from fastfc.kernels.simd.memory import allocate, at, is_null, pointer, release
from fastfc.kernels.simd.vector import width

# Elements of a gradient that is small enough to be kept once for each chunk of the batch.
SMALL = 1 << 14


@helper
def status(x, grad_output, out):
    i, o = out.shape
    if x.shape[0] != grad_output.shape[0] or x.shape[1] != i or grad_output.shape[1] != o:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, grad_output) else OK


@helper
def sums(c, a, b, start, i, o, n, n_threads):
    """C = start + A B over at most CHUNK rows of the batch; a single element as a dot product."""
    return parallel_product(Product(c, a, b, start, i, o, n), NONE, c, i * o == 1, n_threads)


@helper
def chunk_sums(partials, x, grad_output, accumulate, index, n_threads):
    """One range of the sums over each CHUNK rows of the batch; the first is added to what is there, if wanted."""
    (chunks, i, o), n, failed = partials.shape, x.shape[0], 0
    q, last = chunks * index // n_threads, chunks * (index + 1) // n_threads
    few = few_sums(i, o, width(pointer(partials)))
    while q < last:
        a, b, c, n_left = matrix(x[q * CHUNK :]), matrix(grad_output[q * CHUNK :]), matrix(partials[q]), n - q * CHUNK
        begins, done = accumulate and q == 0, 0
        if few and not begins:
            done = chunk_gradients(a, b, c.data, (i, o, n_left), CHUNK, last - q)
        if done == 0:
            failed += sums(c, transposed(a), b, c if begins else zeros(c), i, o, min(n_left, CHUNK), 1)
            done = 1
        q += done
    return NO_MEMORY if failed else OK


@helper
def sums_of_chunks(x, grad_output, out, accumulate, n_threads):
    """The same with chunks on several threads, for which the layer is too small."""
    (i, o), chunks = out.shape, (x.shape[0] + CHUNK - 1) // CHUNK
    partials = np.empty((chunks, i, o), out.dtype)
    if accumulate:
        copy_matrix(i, o, matrix(out), matrix(partials[0]))
    if parallel(chunk_sums, (partials, x, grad_output, accumulate), n_threads) != OK:
        return NO_MEMORY
    copy_matrix(i, o, matrix(partials[0]), matrix(out))
    for q in range(1, chunks):
        add_matrix(i, o, matrix(partials[q]), matrix(out))
    return OK


@on_demand_kernel(
    lambda dtype: types.int64(
        *[types.Array(dtype, 2, "A", readonly=True, aligned=False)] * 2,
        types.Array(dtype, 2, "A", aligned=False),
        types.int64,
        types.int64,
    )
)
def sums_of_long_batch(x, grad_output, out, accumulate, n_threads):
    """out (+)= xᵀ grad_output over more than CHUNK rows."""
    n, (i, o), size = x.shape[0], out.shape, out.itemsize
    a, b, c = transposed(matrix(x)), matrix(grad_output), matrix(out)
    start = c if accumulate else zeros(c)
    if n_threads > 1 and i * o <= SMALL:
        return sums_of_chunks(x, grad_output, out, accumulate, n_threads)
    # the sum grows beside out, which stays as it is if memory runs out on the way
    few, matrix_bytes, r = few_sums(i, o, width(c.data)), i * o * size, CHUNK
    copies, memory = allocate(c.data, (1 + (MOST_CHUNKS if few else 1)) * matrix_bytes)
    if is_null(memory):
        return NO_MEMORY
    total, chunk = Matrix(copies, o * size, size), Matrix(at(copies, matrix_bytes), o * size, size)
    found = sums(total, a, b, start, i, o, CHUNK, n_threads)
    while r < n:
        a_r, b_r, done = columns_from(a, r), rows_from(b, r), 0
        if few:
            done = chunk_gradients(transposed(a_r), b_r, chunk.data, (i, o, n - r), CHUNK, MOST_CHUNKS)
        if done == 0:
            found += sums(chunk, a_r, b_r, zeros(c), i, o, min(n - r, CHUNK), n_threads)
            done = 1
        for q in range(done):
            add_matrix(i, o, Matrix(at(chunk.data, q * matrix_bytes), chunk.row, size), total)
        r += done * CHUNK
    if found == OK:
        copy_matrix(i, o, total, c)
    release(memory)
    return NO_MEMORY if found else OK


@inlined_helper
def weight_grad(x, grad_output, out, accumulate, n_threads):
    """out (+)= xᵀ grad_output, for arrays that are known to fit."""
    n, (i, o), c = x.shape[0], out.shape, matrix(out)
    if n > CHUNK and i * o > 0:
        return sums_of_long_batch(x, grad_output, out, accumulate, n_threads)
    start = c if accumulate else zeros(c)
    return sums(c, transposed(matrix(x)), matrix(grad_output), start, i, o, n, n_threads)


@kernel("x[n, i], grad_output[n, o] -> out[i, o]", types.int64, types.int64)
def _dense_weight_grad(x, grad_output, out, accumulate, n_threads):
    found = status(x, grad_output, out)
    return found if found != OK else weight_grad(x, grad_output, out, accumulate, n_threads)


def run(x, grad_output, out, accumulate, n_threads):
    if is_tiny(n_threads, x, grad_output, -1):
        _dense_weight_grad.call(x, grad_output, out, accumulate, 1)
        return
    n_threads = resolve(n_threads, _dense_weight_grad.name, product_work(*shape(x), shape(grad_output)[1]))
    _dense_weight_grad.call(x, grad_output, out, accumulate, n_threads)


def dense_weight_grad(x: ArrayLike, grad_output: ArrayLike, out: NDArray[Any], n_threads: int | str = AUTO) -> None:
    """out = xᵀ grad_output

    Parameters
    ----------
    x : (n, i) float32 or float64, any strides
    grad_output : (n, o), same dtype, any strides
    out : (i, o), same dtype, any strides, overwritten and never read; must not overlap the others
    n_threads : int, at most this many threads, or "auto", as many as pay; the bits are the same for any number

    Each element is one chain of fused multiply-adds in the order of n; of a batch of more than gemm.CHUNK rows,
    one chain for each CHUNK rows, added in order. The only element of a (1, 1) gradient is a dot product instead.
    """
    run(x, grad_output, out, 0, n_threads)


def dense_add_weight_grad(x: ArrayLike, grad_output: ArrayLike, out: NDArray[Any], n_threads: int | str = AUTO) -> None:
    """out += xᵀ grad_output; see dense_weight_grad."""
    run(x, grad_output, out, 1, n_threads)


@overload(dense_weight_grad)
def nopython_weight_grad(x, grad_output, out):
    return lambda x, grad_output, out: check(_dense_weight_grad(x, grad_output, out, 0, 1))


@overload(dense_add_weight_grad)
def nopython_add_weight_grad(x, grad_output, out):
    return lambda x, grad_output, out: check(_dense_weight_grad(x, grad_output, out, 1, 1))
