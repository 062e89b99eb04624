"""db (+)= column sums of g"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.simd import at, itemsize, load, load_first, pointer, splat, store_first, width
from fastfc.kernels.threads import launch, part


@njit
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


@njit
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


@kernel("grad_output[n, o] -> out[o]", types.int64)
def _dense_bias_grad(grad_output, out, accumulate):
    n, o = grad_output.shape
    if out.size != o:
        return BAD_SHAPE
    if overlaps(out, grad_output):
        return OVERLAP
    size = out.itemsize
    if (o == 1 or grad_output.strides[1] == size) and (o == 1 or out.strides[0] == size):
        g, row = pointer(grad_output), grad_output.strides[0]
        if o <= 8 * width(g) or n == 0:
            sums_in_registers(g, n, o, row, pointer(out), accumulate)
        else:
            sums_by_rows(g, n, o, row, pointer(out), accumulate)
        return OK
    sums = np.zeros(o, out.dtype)
    if accumulate:
        sums[:] = out
    for i in range(n):
        for j in range(o):
            sums[j] += grad_output[i, j]
    out[:] = sums
    return OK


@kernel("grad_output[n, o] -> out[o]", types.int64, types.int64, parallel=True)
def _dense_bias_grad_threads(grad_output, out, accumulate, parts):
    if out.size != grad_output.shape[1]:
        return BAD_SHAPE
    if overlaps(out, grad_output):
        return OVERLAP
    for p in prange(parts):
        columns = part(p, parts, out.size)
        _dense_bias_grad(grad_output[:, columns], out[columns], accumulate)
    return OK


def run(grad_output, out, accumulate, n_threads):
    if n_threads == 1:
        _dense_bias_grad(grad_output, out, accumulate)
        return
    with launch(n_threads, np.size(grad_output)) as parts:
        if parts == 1:
            _dense_bias_grad(grad_output, out, accumulate)
        else:
            _dense_bias_grad_threads(grad_output, out, accumulate, parts)


def dense_bias_grad(grad_output, out, n_threads=1):
    """out[j] = Σᵢ grad_output[i, j]

    Parameters
    ----------
    grad_output : (n, o) float32 or float64, any strides
    out : (o,), same dtype, any stride, overwritten and never read; must not overlap grad_output
    n_threads : int, at most this many threads; the bits are the same for any number
    """
    run(grad_output, out, 0, n_threads)


def dense_add_bias_grad(grad_output, out, n_threads=1):
    """out[j] += Σᵢ grad_output[i, j]; see dense_bias_grad."""
    run(grad_output, out, 1, n_threads)


@overload(dense_bias_grad)
def nopython_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 0))


@overload(dense_add_bias_grad)
def nopython_add_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 1))
