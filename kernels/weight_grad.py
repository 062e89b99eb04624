"""dW (+)= xᵀ g"""

from numba import types
from numba.extending import overload

from fastfc.kernels.activations import IDENTITY
from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.gemm import matrix, product, transposed, zeros


@kernel("x[n, i], grad_output[n, o] -> out[i, o]", types.int64)
def _dense_weight_grad(x, grad_output, out, accumulate):
    i, o = out.shape
    if x.shape[0] != grad_output.shape[0] or x.shape[1] != i or grad_output.shape[1] != o:
        return BAD_SHAPE
    if overlaps(out, x) or overlaps(out, grad_output):
        return OVERLAP
    start = matrix(out) if accumulate else zeros(matrix(out))
    product(matrix(out), transposed(matrix(x)), matrix(grad_output), start, i, o, x.shape[0], IDENTITY)
    return OK


def dense_weight_grad(x, grad_output, out):
    """out = xᵀ grad_output

    Parameters
    ----------
    x : (n, i) float32 or float64, any strides
    grad_output : (n, o), same dtype, any strides
    out : (i, o), same dtype, any strides, overwritten and never read; must not overlap the others
    """
    _dense_weight_grad(x, grad_output, out, 0)


def dense_add_weight_grad(x, grad_output, out):
    """out += xᵀ grad_output; see dense_weight_grad."""
    _dense_weight_grad(x, grad_output, out, 1)


@overload(dense_weight_grad)
def nopython_weight_grad(x, grad_output, out):
    return lambda x, grad_output, out: check(_dense_weight_grad(x, grad_output, out, 0))


@overload(dense_add_weight_grad)
def nopython_add_weight_grad(x, grad_output, out):
    return lambda x, grad_output, out: check(_dense_weight_grad(x, grad_output, out, 1))
