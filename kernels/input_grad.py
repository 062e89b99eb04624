"""dx = g Wᵀ"""

from numba.extending import overload

from fastfc.kernels.activations import IDENTITY
from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.gemm import matrix, product, transposed, zeros


@kernel("grad_output[n, o], weight[i, o] -> out[n, i]")
def _dense_input_grad(grad_output, weight, out):
    n, i = out.shape
    if grad_output.shape[0] != n or weight.shape[0] != i or grad_output.shape[1] != weight.shape[1]:
        return BAD_SHAPE
    if overlaps(out, grad_output) or overlaps(out, weight):
        return OVERLAP
    c = matrix(out)
    product(c, matrix(grad_output), transposed(matrix(weight)), zeros(c), n, i, weight.shape[1], IDENTITY)
    return OK


def dense_input_grad(grad_output, weight, out):
    """out = grad_output weightᵀ

    Parameters
    ----------
    grad_output : (n, o) float32 or float64, any strides
    weight : (i, o), same dtype, any strides
    out : (n, i), same dtype, any strides, overwritten and never read; must not overlap the others
    """
    _dense_input_grad(grad_output, weight, out)


@overload(dense_input_grad)
def nopython_input_grad(grad_output, weight, out):
    return lambda grad_output, weight, out: check(_dense_input_grad(grad_output, weight, out))
