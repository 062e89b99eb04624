"""dx = g Wᵀ"""

from typing import Any

from numba import types
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.gemm import Product, input_product
from fastfc.kernels.ops.matrix import matrix, transposed, zeros
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.status import BAD_SHAPE, OK, OVERLAP, check
from fastfc.kernels.runtime.threads import AUTO, is_tiny, product_work, resolve, shape
from fastfc.kernels.simd.compiler import helper


@helper
def status(grad_output, weight, out):
    n, i = out.shape
    if grad_output.shape[0] != n or weight.shape[0] != i or grad_output.shape[1] != weight.shape[1]:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, grad_output) or overlaps(out, weight) else OK


@kernel("grad_output[n, o], weight[i, o] -> out[n, i]", types.int64)
def _dense_input_grad(grad_output, weight, out, n_threads):
    found = status(grad_output, weight, out)
    if found == OK:
        (n, i), c, w, o = out.shape, matrix(out), transposed(matrix(weight)), weight.shape[1]
        found = input_product(Product(c, matrix(grad_output), w, zeros(c), n, i, o), NONE, c, n_threads)
    return found


def dense_input_grad(grad_output: ArrayLike, weight: ArrayLike, out: NDArray[Any], n_threads: int | str = AUTO) -> None:
    """out = grad_output weightᵀ

    Parameters
    ----------
    grad_output : (n, o) float32 or float64, any strides
    weight : (i, o), same dtype, any strides
    out : (n, i), same dtype, any strides, overwritten and never read; must not overlap the others
    n_threads : int, at most this many threads, or "auto", as many as pay; the bits are the same for any number

    Each element is one chain of fused multiply-adds in the order of o; long sums of a layer with few inputs are dot
    products, see gemm.dot.
    """
    if is_tiny(n_threads, grad_output, weight, 0):
        _dense_input_grad.call(grad_output, weight, out, 1)
        return
    n_threads = resolve(n_threads, "dense_input_grad", product_work(*shape(out), shape(grad_output)[1]))
    _dense_input_grad.call(grad_output, weight, out, n_threads)


@overload(dense_input_grad)
def nopython_input_grad(grad_output, weight, out):
    return lambda grad_output, weight, out: check(_dense_input_grad(grad_output, weight, out, 1))
