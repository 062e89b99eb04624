"""dW (+)= xᵀ g"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

from fastfc.kernels.activations import IDENTITY
from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.gemm import matrix, product, transposed, zeros
from fastfc.kernels.threads import launch, part


@njit(inline="always")
def status(x, grad_output, out):
    i, o = out.shape
    if x.shape[0] != grad_output.shape[0] or x.shape[1] != i or grad_output.shape[1] != o:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, grad_output) else OK


@kernel("x[n, i], grad_output[n, o] -> out[i, o]", types.int64)
def _dense_weight_grad(x, grad_output, out, accumulate):
    found = status(x, grad_output, out)
    if found == OK:
        (i, o), c = out.shape, matrix(out)
        start = c if accumulate else zeros(c)
        found = product(c, transposed(matrix(x)), matrix(grad_output), start, i, o, x.shape[0], IDENTITY)
    return found


@kernel("x[n, i], grad_output[n, o] -> out[i, o]", types.int64, types.int64, parallel=True)
def _dense_weight_grad_threads(x, grad_output, out, accumulate, parts):
    found = status(x, grad_output, out)
    if found == OK:
        i, o = out.shape
        for p in prange(parts):
            if i >= o:
                rows = part(p, parts, i)
                _dense_weight_grad(x[:, rows], grad_output, out[rows], accumulate)
            else:
                columns = part(p, parts, o)
                _dense_weight_grad(x, grad_output[:, columns], out[:, columns], accumulate)
    return found


def run(x, grad_output, out, accumulate, n_threads):
    if n_threads == 1:
        _dense_weight_grad(x, grad_output, out, accumulate)
        return
    with launch(n_threads, np.size(x) * np.shape(out)[-1]) as parts:
        if parts == 1:
            _dense_weight_grad(x, grad_output, out, accumulate)
        else:
            _dense_weight_grad_threads(x, grad_output, out, accumulate, parts)


def dense_weight_grad(x, grad_output, out, n_threads=1):
    """out = xᵀ grad_output

    Parameters
    ----------
    x : (n, i) float32 or float64, any strides
    grad_output : (n, o), same dtype, any strides
    out : (i, o), same dtype, any strides, overwritten and never read; must not overlap the others
    n_threads : int, at most this many threads; the bits are the same for any number
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
