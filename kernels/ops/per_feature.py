"""Layers with one parameter a for each feature, n samples of o columns, with g = dL/dy.

    scale        y = a x                   dL/da = Σ g x                         dL/dx = g a
    affine       y = a x + b               dL/da = Σ g x                         dL/dx = g a
    p_relu       y = x if x > 0 else a x   dL/da = Σ g x of those x <= 0         dL/dx = g if x > 0 else g a
    parametric   y = x + a (f(x) − x)      dL/da = Σ g (f(x) − x)                dL/dx = g + a (g f′(x) − g)

where dL/db = Σ g; and with two bounds for each feature, which are not trained: clamp, y = min(max(x, low), high).

Σ is over the samples, in their order. A p_relu may have one a for all features; Σ is then over these too. f and f′ are
computed for a row at a time, which is then still in L1.
"""

from collections import namedtuple

from numba import types

from fastfc.kernels.ops.activation_rules import activation_type
from fastfc.kernels.ops.activations import apply, apply_derivative
from fastfc.kernels.ops.dense_bias_grad import vector_sum
from fastfc.kernels.ops.matrix import Matrix, copy_matrix, element, matrix_type
from fastfc.kernels.ops.norms import ACCUMULATE, IGNORE, add_to, clear, contiguous_row, get, put
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import NO_MEMORY, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, read, release, write
from fastfc.kernels.simd.vector import fma, splat, store_first, where_less, width

OF_SCALE, OF_P_RELU, OF_PARAMETRIC, OF_AFFINE = range(4)
# Pointers to a and b, of which only affine has b, and to their gradients; how many a there are (one, or one for each
# column), which layer it is, f, whether f′ is in terms of x, not of f(x), n samples of o columns, and what forward
# multiplies y by.
PerFeature = namedtuple(
    "PerFeature", ["params", "bias", "grads", "bias_grads", "count", "kind", "f", "of_input", "n", "o", "after"]
)
# rows of o numbers that the kernels work with
A, A_GRAD, B_GRAD, X, GRAD, Y, F, F_GRAD, ROWS = range(9)


def per_feature_type(dtype):
    return types.NamedTuple(
        [*[types.CPointer(dtype)] * 4, *[types.int64] * 2, activation_type, *[types.int64] * 3, types.float64],
        PerFeature,
    )


@helper
def work_row(part, rows, which):
    return at(rows, which * part.o * itemsize(rows))


@helper
def fill_parameters(part, rows):
    """The row of a, and zeros for the gradients of a and b."""
    size, lanes, a = itemsize(rows), width(rows), work_row(part, rows, A)
    for j in range(0, part.o, lanes):
        value = get(at(part.params, j * size), part.o - j) if part.count > 1 else splat(rows, read(part.params))
        store_first(at(a, j * size), value, part.o - j)
    clear(work_row(part, rows, A_GRAD), part.o)
    clear(work_row(part, rows, B_GRAD), part.o)


@helper
def forward_row(part, rows, x, y):
    size, lanes, a, f, kind = itemsize(x), width(x), work_row(part, rows, A), work_row(part, rows, F), part.kind
    if kind == OF_PARAMETRIC:
        apply(x, f, part.o, part.f)
    for j in range(0, part.o, lanes):
        count = part.o - j
        value, factor = get(at(x, j * size), count), get(at(a, j * size), count)
        if kind == OF_SCALE:
            result = factor * value
        elif kind == OF_P_RELU:
            result = where_less(splat(x, 0.0), value, value, factor * value)
        elif kind == OF_AFFINE:
            result = fma(factor, value, get(at(part.bias, j * size), count))
        else:
            result = fma(factor, get(at(f, j * size), count) - value, value)
        put(at(y, j * size), result * part.after, count)


@compiled_kernel(lambda dtype: types.int64(per_feature_type(dtype), *[matrix_type(dtype)] * 2), optional=True)
def per_feature_forward(part, x, y):
    """y, for matrices of any strides."""
    o, size = part.o, itemsize(part.params)
    rows, memory = allocate(part.params, ROWS * o * size)
    if is_null(memory):
        return NO_MEMORY
    fill_parameters(part, rows)
    for r in range(part.n):
        src = contiguous_row(x, r, o, work_row(part, rows, X))
        dst = element(y, r, 0) if y.column == size else work_row(part, rows, Y)
        forward_row(part, rows, src, dst)
        if y.column != size:
            copy_matrix(1, o, Matrix(dst, 0, size), Matrix(element(y, r, 0), 0, y.column))
    release(memory)
    return OK


@helper
def backward_row(part, rows, x, g, out, into):
    """What one row adds to the gradients of a and b; and dL/dx goes into out, as `into` says."""
    size, lanes, kind = itemsize(x), width(x), part.kind
    a, a_grad, f, f_grad = (
        work_row(part, rows, A),
        work_row(part, rows, A_GRAD),
        work_row(part, rows, F),
        work_row(part, rows, F_GRAD),
    )
    if kind == OF_PARAMETRIC:
        apply(x, f, part.o, part.f)
        if into != IGNORE:
            apply_derivative(x if part.of_input else f, g, f_grad, part.o, part.f)
    for j in range(0, part.o, lanes):
        count = part.o - j
        value, grad = get(at(x, j * size), count), get(at(g, j * size), count)
        factor, total = get(at(a, j * size), count), get(at(a_grad, j * size), count)
        if kind == OF_AFFINE:
            b_grad = at(work_row(part, rows, B_GRAD), j * size)
            put(b_grad, get(b_grad, count) + grad, count)
        if kind in (OF_SCALE, OF_AFFINE):
            total, grad = fma(grad, value, total), grad * factor
        elif kind == OF_P_RELU:
            below = where_less(splat(x, 0.0), value, splat(x, 0.0), grad)
            total, grad = fma(below, value, total), where_less(splat(x, 0.0), value, grad, grad * factor)
        else:
            total = fma(grad, get(at(f, j * size), count) - value, total)
            if into != IGNORE:
                grad = fma(factor, get(at(f_grad, j * size), count) - grad, grad)
        put(at(a_grad, j * size), total, count)
        if into != IGNORE:
            add_to(at(out, j * size), grad, count, into == ACCUMULATE)


@helper
def write_gradient(part, rows, add):
    """The gradients of a and b, from the sums of their columns."""
    size, total, of_b = itemsize(rows), work_row(part, rows, A_GRAD), work_row(part, rows, B_GRAD)
    for j in range(0, part.o if part.kind == OF_AFFINE else 0, width(rows)):
        add_to(at(part.bias_grads, j * size), get(at(of_b, j * size), part.o - j), part.o - j, add)
    if part.count == 1:
        value = vector_sum(part.o, total)
        write(part.grads, read(part.grads) + value if add else value)
        return
    for j in range(0, part.o, width(rows)):
        add_to(at(part.grads, j * size), get(at(total, j * size), part.o - j), part.o - j, add)


@compiled_kernel(
    lambda dtype: types.int64(per_feature_type(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 2), optional=True
)
def per_feature_backward(part, x, grad_y, grad_x, into, add):
    """The gradients of a and b, added to what is there or not, and dL/dx, for matrices of any strides."""
    o, size = part.o, itemsize(part.params)
    rows, memory = allocate(part.params, ROWS * o * size)
    if is_null(memory):
        return NO_MEMORY
    fill_parameters(part, rows)
    for r in range(part.n):
        src = contiguous_row(x, r, o, work_row(part, rows, X))
        grad = contiguous_row(grad_y, r, o, work_row(part, rows, GRAD))
        dst = src if into == IGNORE else contiguous_row(grad_x, r, o, work_row(part, rows, Y))
        backward_row(part, rows, src, grad, dst, into)
        if into != IGNORE and grad_x.column != size:
            copy_matrix(1, o, Matrix(dst, 0, size), Matrix(element(grad_x, r, 0), 0, grad_x.column))
    write_gradient(part, rows, add)
    release(memory)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 2), optional=True
)
def clamp_forward(bounds, x, y, n, o):
    """y = min(max(x, low), high), where `bounds` has first all o low ones; NaN stays."""
    size = itemsize(bounds)
    for r in range(n):
        for j in range(o):
            value, low, high = read(element(x, r, j)), read(at(bounds, j * size)), read(at(bounds, (o + j) * size))
            value = low if value < low else value
            write(element(y, r, j), high if value > high else value)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 3), optional=True
)
def clamp_backward(bounds, x, grad_y, grad_x, n, o, into):
    """dL/dx = dL/dy where low <= x <= high, else 0."""
    size = itemsize(bounds)
    for r in range(n):
        for j in range(o):
            value, low, high = read(element(x, r, j)), read(at(bounds, j * size)), read(at(bounds, (o + j) * size))
            dst, slope = element(grad_x, r, j), 1 if (value >= low) & (value <= high) else 0
            g = read(element(grad_y, r, j)) * slope
            write(dst, read(dst) + g if into == ACCUMULATE else g)
    return OK
