"""dW (+)= xᵀ g"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from fastfc.kernels.activations import IDENTITY
from fastfc.kernels.edge import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.gemm import (
    CHUNK,
    Matrix,
    add_matrix,
    copy_matrix,
    dot_products,
    element,
    matrix,
    product,
    transposed,
    zeros,
)
from fastfc.kernels.simd import allocate, at, is_null, release
from fastfc.kernels.threads import launch, multiplications, part

# Elements of a gradient that is small enough to be kept once for each chunk of the batch.
SMALL = 1 << 14


@njit(inline="always")
def status(x, grad_output, out):
    i, o = out.shape
    if x.shape[0] != grad_output.shape[0] or x.shape[1] != i or grad_output.shape[1] != o:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, grad_output) else OK


@njit
def sums(c, a, b, start, i, o, n):
    """C = start + A B over at most CHUNK rows of the batch; a single element as a dot product."""
    if i * o == 1:
        return dot_products(c, a, b, start, i, o, n, IDENTITY)
    return product(c, a, b, start, i, o, n, IDENTITY)


@kernel("x[n, i], grad_output[n, o] -> out[i, o]", types.int64)
def _dense_weight_grad(x, grad_output, out, accumulate):
    found = status(x, grad_output, out)
    if found != OK:
        return found
    n, (i, o), size = x.shape[0], out.shape, out.itemsize
    a, b, c = transposed(matrix(x)), matrix(grad_output), matrix(out)
    start = c if accumulate else zeros(c)
    if n <= CHUNK or i * o == 0:
        return sums(c, a, b, start, i, o, n)
    # the sum grows beside out, which stays as it is if memory runs out on the way
    copies, memory = allocate(c.data, 2 * i * o * size)
    if is_null(memory):
        return NO_MEMORY
    total, chunk = Matrix(copies, o * size, size), Matrix(at(copies, i * o * size), o * size, size)
    found = sums(total, a, b, start, i, o, CHUNK)
    for r in range(CHUNK, n, CHUNK):
        a_r, b_r = Matrix(element(a, 0, r), a.row, a.column), Matrix(element(b, r, 0), b.row, b.column)
        found += sums(chunk, a_r, b_r, zeros(c), i, o, min(n - r, CHUNK))
        add_matrix(i, o, chunk, total)
    if found == OK:
        copy_matrix(i, o, total, c)
    release(memory)
    return NO_MEMORY if found else OK


@kernel("x[n, i], grad_output[n, o] -> out[i, o]", types.int64, types.int64, parallel=True)
def _dense_weight_grad_threads(x, grad_output, out, accumulate, parts):
    found = status(x, grad_output, out)
    if found != OK:
        return found
    n, (i, o), failed = x.shape[0], out.shape, 0
    if i * o > SMALL or n <= CHUNK:
        for p in prange(parts):
            if i >= o:
                rows = part(p, parts, i)
                failed += _dense_weight_grad(x[:, rows], grad_output, out[rows], accumulate)
            else:
                columns = part(p, parts, o)
                failed += _dense_weight_grad(x, grad_output[:, columns], out[:, columns], accumulate)
        return NO_MEMORY if failed else OK
    chunks = (n + CHUNK - 1) // CHUNK
    partials = np.empty((chunks, i, o), out.dtype)
    if accumulate:
        partials[0] = out
    for p in prange(parts):
        for q in range(chunks * p // parts, chunks * (p + 1) // parts):
            rows = slice(q * CHUNK, min(n, (q + 1) * CHUNK))
            failed += _dense_weight_grad(x[rows], grad_output[rows], partials[q], accumulate if q == 0 else 0)
    if failed:
        return NO_MEMORY
    out[:] = partials[0]
    for q in range(1, chunks):
        add_matrix(i, o, matrix(partials[q]), matrix(out))
    return OK


def run(x, grad_output, out, accumulate, n_threads):
    if n_threads == 1:
        _dense_weight_grad.call(x, grad_output, out, accumulate)
        return
    with launch(n_threads, multiplications(x, grad_output, out)) as parts:
        if parts == 1:
            _dense_weight_grad.call(x, grad_output, out, accumulate)
        else:
            _dense_weight_grad_threads.call(x, grad_output, out, accumulate, parts)


def dense_weight_grad(x, grad_output, out, n_threads=1):
    """out = xᵀ grad_output

    Parameters
    ----------
    x : (n, i) float32 or float64, any strides
    grad_output : (n, o), same dtype, any strides
    out : (i, o), same dtype, any strides, overwritten and never read; must not overlap the others
    n_threads : int, at most this many threads; the bits are the same for any number

    Each element is one chain of fused multiply-adds in the order of n; of a batch of more than gemm.CHUNK rows,
    one chain for each CHUNK rows, added in order. The only element of a (1, 1) gradient is a dot product instead.
    """
    run(x, grad_output, out, 0, n_threads)


def dense_add_weight_grad(x, grad_output, out, n_threads=1):
    """out += xᵀ grad_output; see dense_weight_grad."""
    run(x, grad_output, out, 1, n_threads)


@overload(dense_weight_grad)
def nopython_weight_grad(x, grad_output, out):
    return lambda x, grad_output, out: check(_dense_weight_grad(x, grad_output, out, 0))


@overload(dense_add_weight_grad)
def nopython_add_weight_grad(x, grad_output, out):
    return lambda x, grad_output, out: check(_dense_weight_grad(x, grad_output, out, 1))
