"""db (+)= column sums of g"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.simd import at, itemsize, load, load_first, pointer, splat, store, store_first, width


@njit
def column_sums(g, n, o, row, out, accumulate):
    """out[j] (+)= Σ g[i, j] over rows i in order, for neighbouring columns."""
    size, lanes = itemsize(g), width(g)
    for j in range(0, o, 4 * lanes):
        at_j = at(out, j * size)
        if o - j >= 4 * lanes:
            s0 = s1 = s2 = s3 = splat(g, 0.0)
            if accumulate:
                s0, s1 = load(at_j), load(at(at_j, lanes * size))
                s2, s3 = load(at(at_j, 2 * lanes * size)), load(at(at_j, 3 * lanes * size))
            here = at(g, j * size)
            for _ in range(n):
                s0 = s0 + load(here)
                s1 = s1 + load(at(here, lanes * size))
                s2 = s2 + load(at(here, 2 * lanes * size))
                s3 = s3 + load(at(here, 3 * lanes * size))
                here = at(here, row)
            store(at_j, s0)
            store(at(at_j, lanes * size), s1)
            store(at(at_j, 2 * lanes * size), s2)
            store(at(at_j, 3 * lanes * size), s3)
        else:
            for q in range(j, o, lanes):
                some = o - q
                total = splat(g, 0.0)
                if accumulate:
                    total = load_first(at(out, q * size), some, 0.0)
                for i in range(n):
                    total = total + load_first(at(g, i * row + q * size), some, 0.0)
                store_first(at(out, q * size), total, some)


@kernel("grad_output[n, o] -> out[o]", types.int64)
def _dense_bias_grad(grad_output, out, accumulate):
    n, o = grad_output.shape
    if out.size != o:
        return BAD_SHAPE
    if overlaps(out, grad_output):
        return OVERLAP
    size = out.itemsize
    if (o == 1 or grad_output.strides[1] == size) and (o == 1 or out.strides[0] == size):
        column_sums(pointer(grad_output), n, o, grad_output.strides[0], pointer(out), accumulate)
        return OK
    sums = np.zeros(o, out.dtype)
    if accumulate:
        sums[:] = out
    for i in range(n):
        for j in range(o):
            sums[j] += grad_output[i, j]
    out[:] = sums
    return OK


def dense_bias_grad(grad_output, out):
    """out[j] = Σᵢ grad_output[i, j]

    Parameters
    ----------
    grad_output : (n, o) float32 or float64, any strides
    out : (o,), same dtype, any stride, overwritten and never read; must not overlap grad_output
    """
    _dense_bias_grad(grad_output, out, 0)


def dense_add_bias_grad(grad_output, out):
    """out[j] += Σᵢ grad_output[i, j]; see dense_bias_grad."""
    _dense_bias_grad(grad_output, out, 1)


@overload(dense_bias_grad)
def nopython_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 0))


@overload(dense_add_bias_grad)
def nopython_add_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 1))
