"""y = f(x W + b)"""

from numba import types
from numba.extending import overload

from fastfc.kernels.activations import fused_code, literal_code
from fastfc.kernels.edge import BAD_SHAPE, OK, OVERLAP, check, kernel, overlaps
from fastfc.kernels.gemm import Matrix, matrix, product
from fastfc.kernels.simd import pointer


@kernel("x[n, i], weight[i, o], bias[o] -> out[n, o]", types.int64)
def _dense_forward(x, weight, bias, out, activation):
    n, o = out.shape
    if x.shape[0] != n or x.shape[1] != weight.shape[0] or weight.shape[1] != o or bias.size != o:
        return BAD_SHAPE
    if overlaps(out, x) or overlaps(out, weight) or overlaps(out, bias):
        return OVERLAP
    row = Matrix(pointer(bias), 0, bias.strides[0])
    product(matrix(out), matrix(x), matrix(weight), row, n, o, x.shape[1], activation)
    return OK


def dense_forward(x, weight, bias, out, activation="identity"):
    """out = f(x weight + bias)

    Parameters
    ----------
    x : (n, i) float32 or float64, any strides
    weight : (i, o), same dtype, any strides
    bias : (o,), same dtype, any stride
    out : (n, o), same dtype, any strides, overwritten and never read; must not overlap the others
    activation : "identity", "relu", "sigmoid" or "tanh", applied while the sums are in registers or L1

    Each element is one chain of fused multiply-adds from the bias on, in the order of i.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc.kernels import dense_forward
    >>> y = np.empty((1, 2))
    >>> dense_forward(np.array([[1.0, 2.0]]), np.array([[0.5, -1.0], [1.5, 0.0]]), np.array([0.5, 0.25]), y)
    >>> y.tolist()
    [[4.0, -0.75]]
    """
    _dense_forward(x, weight, bias, out, fused_code(activation))


@overload(dense_forward, prefer_literal=True)
def nopython_forward(x, weight, bias, out, activation="identity"):
    code = literal_code(activation, fused_code)

    def run(x, weight, bias, out, activation="identity"):
        check(_dense_forward(x, weight, bias, out, code))

    return run
