"""db (+)= column sums of g"""

import numpy as np
from numba import prange, types
from numba.extending import overload

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.gemm import CHUNK, product
from fastfc.kernels.ops.matrix import Matrix, copy_matrix, matrix, zeros
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, check
from fastfc.kernels.runtime.threads import launch, single, size, thread_range
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, one, pointer, release
from fastfc.kernels.simd.vector import load, load_first, splat, store_first, sum_of_lanes, width


@helper
def sums_in_registers(g, n, o, row, out, accumulate):
    """out[j] (+)= Σ g[i, j], a few registers of columns at a time from the first row to the last."""
    size, lanes = itemsize(g), width(g)
    for j in range(0, o, 4 * lanes):
        sums, here, some = at(out, j * size), at(g, j * size), o - j
        s0 = s1 = s2 = s3 = splat(g, 0.0)
        if accumulate:
            s0, s1 = load_first(sums, some, 0.0), load_first(at(sums, lanes * size), some - lanes, 0.0)
            s2 = load_first(at(sums, 2 * lanes * size), some - 2 * lanes, 0.0)
            s3 = load_first(at(sums, 3 * lanes * size), some - 3 * lanes, 0.0)
        if some >= 4 * lanes:
            for _ in range(n):
                s0, s1 = s0 + load(here), s1 + load(at(here, lanes * size))
                s2, s3 = s2 + load(at(here, 2 * lanes * size)), s3 + load(at(here, 3 * lanes * size))
                here = at(here, row)
        elif some <= lanes:
            for _ in range(n):
                s0 = s0 + load_first(here, some, 0.0)
                here = at(here, row)
        elif some <= 2 * lanes:
            for _ in range(n):
                s0, s1 = s0 + load(here), s1 + load_first(at(here, lanes * size), some - lanes, 0.0)
                here = at(here, row)
        else:
            for _ in range(n):
                s0, s1 = s0 + load(here), s1 + load_first(at(here, lanes * size), some - lanes, 0.0)
                s2 = s2 + load_first(at(here, 2 * lanes * size), some - 2 * lanes, 0.0)
                s3 = s3 + load_first(at(here, 3 * lanes * size), some - 3 * lanes, 0.0)
                here = at(here, row)
        store_first(sums, s0, some)
        store_first(at(sums, lanes * size), s1, some - lanes)
        store_first(at(sums, 2 * lanes * size), s2, some - 2 * lanes)
        store_first(at(sums, 3 * lanes * size), s3, some - 3 * lanes)


@helper
def sums_by_rows(g, n, o, row, out, accumulate):
    """out[j] (+)= Σ g[i, j], eight rows at a time from the first column to the last: memory is read in order."""
    size, lanes = itemsize(g), width(g)
    for i in range(0, n, 8):
        begin = i > 0 or accumulate
        r0 = at(g, i * row)
        if n - i >= 8:
            r2, r4, r6 = at(r0, 2 * row), at(r0, 4 * row), at(r0, 6 * row)
            for j in range(0, o, lanes):
                some, x = o - j, j * size
                total = load_first(at(out, x), some, 0.0) if begin else splat(g, 0.0)
                total = total + load_first(at(r0, x), some, 0.0) + load_first(at(r0, x + row), some, 0.0)
                total = total + load_first(at(r2, x), some, 0.0) + load_first(at(r2, x + row), some, 0.0)
                total = total + load_first(at(r4, x), some, 0.0) + load_first(at(r4, x + row), some, 0.0)
                total = total + load_first(at(r6, x), some, 0.0) + load_first(at(r6, x + row), some, 0.0)
                store_first(at(out, x), total, some)
        else:
            for j in range(0, o, lanes):
                some, x = o - j, j * size
                total = load_first(at(out, x), some, 0.0) if begin else splat(g, 0.0)
                for r in range(n - i):
                    total = total + load_first(at(r0, x + r * row), some, 0.0)
                store_first(at(out, x), total, some)


@helper
def vector_sum(n, x):
    """Σ x[p]: element p is added to lane p, modulo four registers; then the lanes are added."""
    size, lanes = itemsize(x), width(x)
    step = lanes * size
    s0 = s1 = s2 = s3 = splat(x, 0.0)
    for p in range(0, n, 4 * lanes):
        here, some = at(x, p * size), n - p
        if some >= 4 * lanes:
            s0, s1 = s0 + load(here), s1 + load(at(here, step))
            s2, s3 = s2 + load(at(here, 2 * step)), s3 + load(at(here, 3 * step))
        else:
            s0, s1 = s0 + load_first(here, some, 0.0), s1 + load_first(at(here, step), some - lanes, 0.0)
            s2 = s2 + load_first(at(here, 2 * step), some - 2 * lanes, 0.0)
            s3 = s3 + load_first(at(here, 3 * step), some - 3 * lanes, 0.0)
    return sum_of_lanes((s0 + s1) + (s2 + s3))


@helper
def sum_of_one_column(g, out, accumulate):
    n, row, x, size = g.shape[0], g.strides[0], pointer(g), g.itemsize
    wanted = 0 if row == size else n * size
    copy, memory = allocate(x, wanted)
    if wanted and is_null(memory):
        return NO_MEMORY
    if wanted:
        copy_matrix(1, n, Matrix(x, 0, row), Matrix(copy, 0, size))
        x = copy
    total = vector_sum(n, x)
    out[0] = out[0] + total if accumulate else total
    release(memory)
    return OK


@helper
def column_sums(g, out, accumulate):
    """out (+)= the column sums of at most CHUNK rows."""
    n, o = g.shape
    if o == 1:
        return sum_of_one_column(g, out, accumulate)
    size, lanes = out.itemsize, width(pointer(out))
    if n > 0 and g.strides[1] == size and out.strides[0] == size:
        if o <= 4 * lanes:
            sums_in_registers(pointer(g), n, o, g.strides[0], pointer(out), accumulate)
        else:
            sums_by_rows(pointer(g), n, o, g.strides[0], pointer(out), accumulate)
        return OK
    # any strides: a row of ones times g; 1 x + s rounds as s + x does
    sums = Matrix(pointer(out), 0, out.strides[0])
    ones = Matrix(one(sums.data), 0, 0)
    return product(sums, ones, matrix(g), sums if accumulate else zeros(sums), 1, o, n, NONE, sums)


@helper
def copy_vector(source, target):
    """target[:] = source, for which Numba compiles its formatting of strings as well, into the message of an error."""
    for j in range(len(target)):
        target[j] = source[j]


@helper
def add_chunk(total, rest, chunk):
    """total + rest += chunk; what rounding takes from the total is added to the rest (Neumaier 1974)."""
    for j in range(len(total)):
        old, new = total[j], chunk[j]
        total[j] = old + new
        known = total[j] - old
        rest[j] += (old - (total[j] - known)) + (new - known)


@helper
def add_rest(total, rest, out):
    """out = total + rest; where the total is not finite, the rest is NaN."""
    for j in range(len(total)):
        out[j] = total[j] + rest[j] if np.isfinite(total[j]) else total[j]


@helper
def sum_in_chunks(grad_output, out, accumulate):
    """out (+)= the column sums, by chunks of CHUNK rows, in order."""
    n, o = grad_output.shape
    if o == 0:  # of which there may be more rows than a loop could pass
        return OK
    # the sum grows beside out, which stays as it is if memory runs out on the way
    total, partial = (np.empty(o, out.dtype), np.empty(o, out.dtype)) if n > CHUNK else (out, out)
    rest = np.zeros(o, out.dtype) if n > CHUNK else out
    if accumulate and n > CHUNK:
        copy_vector(out, total)
    found = OK
    for r in range(0, max(n, 1), CHUNK):
        found += column_sums(grad_output[r : r + CHUNK], partial if r else total, accumulate and not r)
        if r:
            add_chunk(total, rest, partial)
    if found != OK:
        return NO_MEMORY
    if n > CHUNK:
        add_rest(total, rest, out)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(
        types.Array(dtype, 1, "A", aligned=False),
        types.Array(dtype, 2, "A", readonly=True, aligned=False),
        *[types.int64] * 2,
    ),
    parallel=True,
)
def column_sums_threads(out, grad_output, accumulate, n_threads):
    """The same on several threads, that have some columns each or, of a long batch, some chunks."""
    (n, o), failed = grad_output.shape, 0
    chunks = max(1, (n + CHUNK - 1) // CHUNK)
    if chunks < n_threads:
        for p in prange(n_threads):
            columns = thread_range(p, n_threads, o)
            failed += _dense_bias_grad(grad_output[:, columns], out[columns], accumulate, 1)
        return NO_MEMORY if failed else OK
    partials = np.empty((chunks, o), out.dtype)
    for p in prange(n_threads):
        for q in range(chunks * p // n_threads, chunks * (p + 1) // n_threads):
            rows = slice(q * CHUNK, min(n, (q + 1) * CHUNK))
            failed += first_or_not(grad_output[rows], out, partials[q], accumulate and q == 0)
    if failed:
        return NO_MEMORY
    add_in_order(partials, out)
    return OK


@helper
def first_or_not(grad_output, start, out, begin):
    """out = the column sums, or start and the column sums."""
    if begin:
        copy_vector(start, out)
    return _dense_bias_grad(grad_output, out, begin, 1)


@helper
def add_in_order(partials, out):
    rest = np.zeros(out.size, out.dtype)
    for q in range(1, len(partials)):
        add_chunk(partials[0], rest, partials[q])
    add_rest(partials[0], rest, out)


@kernel("grad_output[n, o] -> out[o]", types.int64, types.int64)
def _dense_bias_grad(grad_output, out, accumulate, n_threads):
    if out.size != grad_output.shape[1]:
        return BAD_SHAPE
    if overlaps(out, grad_output):
        return OVERLAP
    if n_threads > 1:
        return column_sums_threads(out, grad_output, accumulate, n_threads)
    return sum_in_chunks(grad_output, out, accumulate)


def run(grad_output, out, accumulate, n_threads):
    # reading an element takes as long as two multiplications (asv: threads.LaunchBiasGrad)
    name = _dense_bias_grad.name
    if (type(n_threads) is int and n_threads == 1) or single(n_threads, name, 2 * size(grad_output)):
        _dense_bias_grad.call(grad_output, out, accumulate, 1)
        return
    with launch(n_threads, 2 * size(grad_output), out) as n_threads:
        _dense_bias_grad.call(grad_output, out, accumulate, n_threads)


def dense_bias_grad(grad_output, out, n_threads=1):
    """out[j] = Σᵢ grad_output[i, j]

    Parameters
    ----------
    grad_output : (n, o) float32 or float64, any strides
    out : (o,), same dtype, any stride, overwritten and never read; must not overlap grad_output
    n_threads : int, at most this many threads; the bits are the same for any number

    The rows are added in order; of more than gemm.CHUNK rows, each CHUNK for itself, and the sums in order, without
    loss. A single column is summed in lanes, see vector_sum.
    """
    run(grad_output, out, 0, n_threads)


def dense_add_bias_grad(grad_output, out, n_threads=1):
    """out[j] += Σᵢ grad_output[i, j]; see dense_bias_grad."""
    run(grad_output, out, 1, n_threads)


@overload(dense_bias_grad)
def nopython_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 0, 1))


@overload(dense_add_bias_grad)
def nopython_add_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 1, 1))
