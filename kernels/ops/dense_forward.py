"""y = f(x W + b)"""

from typing import Any

from numba import types
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activation_rules import NUMBERS, Activation
from fastfc.kernels.ops.activations import fused, literal, load_for
from fastfc.kernels.ops.gemm import Product, forward_product
from fastfc.kernels.ops.matrix import Matrix, matrix
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.status import BAD_SHAPE, OK, OVERLAP, check
from fastfc.kernels.runtime.threads import AUTO, is_tiny, product_work, resolve, shape
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import pointer


@helper
def status(x, weight, bias, out):
    n, o = out.shape
    if x.shape[0] != n or x.shape[1] != weight.shape[0] or weight.shape[1] != o or bias.size != o:
        return BAD_SHAPE
    return OVERLAP if overlaps(out, x) or overlaps(out, weight) or overlaps(out, bias) else OK


@kernel("x[n, i], weight[i, o], bias[o] -> out[n, o]", *NUMBERS, types.int64)
def _dense_forward(x, weight, bias, out, code, a, b, n_threads):
    found = status(x, weight, bias, out)
    if found == OK:
        row = Matrix(pointer(bias), 0, bias.strides[0])
        (n, o), i = out.shape, x.shape[1]
        x = Product(matrix(out), matrix(x), matrix(weight), row, n, o, i)
        found = forward_product(x, Activation(code, a, b), n_threads)
    return found


def dense_forward(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike,
    out: NDArray[Any],
    activation: str = "identity",
    n_threads: int | str = AUTO,
) -> None:
    """out = f(x weight + bias)

    Parameters
    ----------
    x : (n, i) float32 or float64, any strides
    weight : (i, o), same dtype, any strides
    bias : (o,), same dtype, any stride
    out : (n, o), same dtype, any strides, overwritten and never read; must not overlap the others
    activation : "identity", "relu", "sigmoid" or "tanh", applied while the sums are in registers or L1
    n_threads : int, at most this many threads, or "auto", as many as pay; the bits are the same for any number

    Each element is one chain of fused multiply-adds from the bias on, in the order of i; long sums of a layer with
    few outputs are dot products, see gemm.dot.

    Examples
    --------
    >>> import numpy as np
    >>> from fastfc.kernels import dense_forward
    >>> y = np.empty((1, 2))
    >>> dense_forward(np.array([[1.0, 2.0]]), np.array([[0.5, -1.0], [1.5, 0.0]]), np.array([0.5, 0.25]), y)
    >>> y.tolist()
    [[4.0, -0.75]]
    """
    numbers = fused(activation)
    if is_tiny(n_threads, x, weight, -1):
        _dense_forward.call(x, weight, bias, out, *numbers, 1)
        return
    n_threads = resolve(n_threads, "dense_forward", product_work(*shape(out), shape(x)[1]))
    _dense_forward.call(x, weight, bias, out, *numbers, n_threads)


@overload(dense_forward, prefer_literal=True)
def nopython_forward(x, weight, bias, out, activation="identity"):
    code, a, b = literal(activation, fused)
    load = load_for(code)

    def run(x, weight, bias, out, activation="identity"):
        load(out)
        check(_dense_forward(x, weight, bias, out, code, a, b, 1))

    return run
