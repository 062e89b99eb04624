"""Products of k members whose columns stand side by side, n samples, with W of each or one that all share.

    y_m = x_m W_m + b_m    x (n, k i)   y (n, k o)   W (k, i, o) or, shared, (i, o)   b (k, o) or none

With g = dL/dy, dL/dW_m = x_mᵀ g_m, dL/db_m = the column sums of g_m and dL/dx_m = g_m W_mᵀ.

A matrix (n, k i) of contiguous rows is one of n k rows, (n k, i): members that share W are one product. Its x and y,
and their gradients, have no gaps, and there is no b. Members with a W each have matrices of any strides.
"""

from collections import namedtuple

from numba import types

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.dense_bias_grad import _dense_bias_grad
from fastfc.kernels.ops.dense_weight_grad import _dense_weight_grad
from fastfc.kernels.ops.gemm import Product, forward_product, input_product
from fastfc.kernels.ops.matrix import Matrix, columns_from, contiguous_matrix, matrix_type, transposed, zeros
from fastfc.kernels.ops.norms import ACCUMULATE, IGNORE
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import at, itemsize, vector, view

# Pointers to weights and biases, and to their gradients; how many members there are, whether they share W, whether
# there are biases, n samples, the columns of a member, and the threads of each product.
MemberProduct = namedtuple(
    "MemberProduct",
    ["weight", "bias", "weight_grad", "bias_grad", "members", "shared", "has_bias", "n", "i", "o", "n_threads"],
)


def member_product_type(dtype):
    return types.NamedTuple([*[types.CPointer(dtype)] * 4, *[types.int64] * 7], MemberProduct)


@helper
def rows_and_products(p):
    """Rows of each product, and how many products there are."""
    return (p.n * p.members, 1) if p.shared else (p.n, p.members)


@helper
def part_of(p, x, m, columns):
    """The matrix of product m in x, whose members have so many columns."""
    return contiguous_matrix(x.data, columns) if p.shared else columns_from(x, m * columns)


@helper
def weight_of(p, weights, m):
    return contiguous_matrix(at(weights, m * p.i * p.o * itemsize(weights)), p.o)


@compiled_kernel(lambda dtype: types.int64(member_product_type(dtype), *[matrix_type(dtype)] * 2), optional=True)
def member_product_forward(p, x, y):
    """y_m = x_m W_m + b_m. Returns a status."""
    n, products = rows_and_products(p)
    size, status = itemsize(p.weight), OK
    for m in range(products):
        a, c = part_of(p, x, m, p.i), part_of(p, y, m, p.o)
        bias = Matrix(at(p.bias, m * p.o * size), 0, size) if p.has_bias else zeros(c)
        product = Product(c, a, weight_of(p, p.weight, m), bias, n, p.o, p.i)
        status = max(status, forward_product(product, NONE, p.n_threads))
    return status


@compiled_kernel(
    lambda dtype: types.int64(member_product_type(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 2), optional=True
)
def member_product_backward(p, x, grad_y, grad_x, into, add):
    """The gradients of weights and biases, added to what is there or not, and dL/dx, as `into` says."""
    n, products = rows_and_products(p)
    size, status = itemsize(p.weight), OK
    for m in range(products):
        a, g = view(part_of(p, x, m, p.i), n, p.i), part_of(p, grad_y, m, p.o)
        weight_grad = view(weight_of(p, p.weight_grad, m), p.i, p.o)
        status = max(status, _dense_weight_grad(a, view(g, n, p.o), weight_grad, add, p.n_threads))
        if p.has_bias:
            bias_grad = vector(at(p.bias_grad, m * p.o * size), p.o)
            status = max(status, _dense_bias_grad(view(g, n, p.o), bias_grad, add, 1))
        if into != IGNORE:
            c = part_of(p, grad_x, m, p.i)
            start = c if into == ACCUMULATE else zeros(c)
            product = Product(c, g, transposed(weight_of(p, p.weight, m)), start, n, p.i, p.o)
            status = max(status, input_product(product, NONE, c, p.n_threads))
    return status
