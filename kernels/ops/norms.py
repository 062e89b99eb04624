"""Normalisation along rows and down columns, n samples of o columns, with weight γ and bias β.

    layer norm   y = (x − μ) r γ + β    μ, σ² of a row         r = 1 / √(σ² + ε)
    rms norm     y = x r γ                                     r = 1 / √(mean of x² + ε)
    batch norm   y = (x − μ) r γ + β    μ, σ² of a column; in prediction the running ones
    standardise  y = (x − μ) / s        stored μ and s

With x̂ = (x − μ) r and g = dL/dy, and means along what was normalised,

    dL/dx = r (γ g − mean(γ g) − x̂ mean(γ g x̂))    dL/dγ = Σ g x̂    dL/dβ = Σ g

(rms norm without the first mean). Variances are means of (x − μ)², never differences of large numbers. Forward
keeps the statistics for backward: of rows μ and r of each sample, of columns the rows of `columns_kept` numbers.
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.dense_bias_grad import vector_sum
from fastfc.kernels.ops.matrix import Matrix, copy_matrix, element, matrix_type
from fastfc.kernels.runtime.native import compiled_kernel, requires
from fastfc.kernels.runtime.status import NO_MEMORY, OK, ONE_SAMPLE
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, read, release, write
from fastfc.kernels.simd.vector import (
    by_dtype,
    fma,
    lane,
    load,
    load_first,
    splat,
    square_root,
    store,
    store_first,
    sum_of_lanes,
    width,
)

# γ and β of n samples of o columns: pointers to the vectors of values and of gradients, and where both are in them, -1
# for none; `add` tells to add to their gradients. Vectors are contiguous.
Affine = namedtuple("Affine", ["params", "grads", "weight", "bias", "n", "o", "add"])
# what backward does with dL/dx: nothing, write it, or add it to what is there
IGNORE, OVERWRITE, ACCUMULATE = range(3)

machine_epsilon = by_dtype(float32=2.0**-23, float64=2.0**-52)
# rows of numbers that batch norm keeps: mean, variance, 1 / √(variance + ε); and what backward works with
MEAN, VARIANCE, INVERSE, FIRST_SUM, SECOND_SUM, SCALE, COLUMN_ROWS = range(7)


def affine_type(dtype):
    return types.NamedTuple([*[types.CPointer(dtype)] * 2, *[types.int64] * 5], Affine)


@helper
def get(x, count):
    """The first lanes of a vector in memory, all of them at full speed."""
    return load(x) if count >= width(x) else load_first(x, count, 0.0)


@helper
def put(x, value, count):
    if count >= width(x):
        store(x, value)
    else:
        store_first(x, value, count)


@helper
def add_to(x, value, count, add):
    """x = value, or x += value."""
    put(x, get(x, count) + value if add else value, count)


@helper
def scaled(affine, value, j, count):
    """value γ, from column j on."""
    if affine.weight < 0:
        return value
    return value * get(at(affine.params, (affine.weight + j) * itemsize(affine.params)), count)


@helper
def shifted(affine, value, j, count):
    """value + β, from column j on."""
    if affine.bias < 0:
        return value
    return value + get(at(affine.params, (affine.bias + j) * itemsize(affine.params)), count)


@helper
def squares(count, x, mean):
    """Σ (x − mean)², in the lanes of four registers."""
    size, lanes = itemsize(x), width(x)
    step = lanes * size
    s0 = s1 = s2 = s3 = splat(x, 0.0)
    for j in range(0, count, 4 * lanes):
        src, lanes_left = at(x, j * size), count - j
        if lanes_left >= 4 * lanes:
            d0, d1 = load(src) - mean, load(at(src, step)) - mean
            d2, d3 = load(at(src, 2 * step)) - mean, load(at(src, 3 * step)) - mean
        else:
            d0 = load_first(src, lanes_left, mean) - mean
            d1 = load_first(at(src, step), lanes_left - lanes, mean) - mean
            d2 = load_first(at(src, 2 * step), lanes_left - 2 * lanes, mean) - mean
            d3 = load_first(at(src, 3 * step), lanes_left - 3 * lanes, mean) - mean
        s0, s1, s2, s3 = fma(d0, d0, s0), fma(d1, d1, s1), fma(d2, d2, s2), fma(d3, d3, s3)
    return sum_of_lanes((s0 + s1) + (s2 + s3))


@helper
def normalise_row(affine, x, y, stats, centered, eps):
    """One row, contiguous; stats receives μ and r."""
    o, size, lanes = affine.o, itemsize(x), width(x)
    mean = vector_sum(o, x) / o if centered else 0.0
    write(stats, mean)
    mean = read(stats)  # rounded to the dtype
    factor = 1.0 / np.sqrt(squares(o, x, mean) / o + eps)
    write(at(stats, size), factor)
    for j in range(0, o, lanes):
        normal = (get(at(x, j * size), o - j) - mean) * factor
        put(at(y, j * size), shifted(affine, scaled(affine, normal, j, o - j), j, o - j), o - j)


@helper
def contiguous_row(x, r, o, buffer):
    """Row r with unit stride: where it is, or copied to the buffer."""
    src = element(x, r, 0)
    if x.column == itemsize(buffer):
        return src
    copy_matrix(1, o, Matrix(src, 0, x.column), Matrix(buffer, 0, itemsize(buffer)))
    return buffer


@helper
def epsilon(eps, like):
    """eps, for which a negative number says the machine epsilon of the dtype."""
    return eps if eps >= 0.0 else np.float64(lane(machine_epsilon(splat(like, 0.0)), 0))


@compiled_kernel(
    lambda dtype: types.int64(affine_type(dtype), *[matrix_type(dtype)] * 3, types.int64, types.float64),
    optional=True,
)
def normalise_rows(affine, x, y, stats, centered, eps):
    """Layer norm, or rms norm if not centered, for x and y of any strides."""
    o, size = affine.o, itemsize(affine.params)
    eps = epsilon(eps, affine.params)
    nbytes = 0 if x.column == size and y.column == size else o * size
    buffer, memory = allocate(affine.params, nbytes)
    if nbytes and is_null(memory):
        return NO_MEMORY
    for r in range(affine.n):
        src = contiguous_row(x, r, o, buffer)
        dst = element(y, r, 0) if y.column == size else buffer
        normalise_row(affine, src, dst, element(stats, r, 0), centered, eps)
        if y.column != size:
            copy_matrix(1, o, Matrix(buffer, 0, size), Matrix(element(y, r, 0), 0, y.column))
    release(memory)
    return OK


@helper
def normalise_row_backward(affine, x, g, out, stats, centered, into):
    """The gradients of γ and β of one row are added; and dL/dx goes into out, as `into` says."""
    o, size, lanes = affine.o, itemsize(x), width(x)
    mean, factor = read(stats), read(at(stats, size))
    sums, products = splat(x, 0.0), splat(x, 0.0)
    # Σ g γ and Σ g γ x̂, while γ's and β's gradients are added up
    for j in range(0, o, lanes):
        count = o - j
        grad, normal = get(at(g, j * size), count), (get(at(x, j * size), count) - mean) * factor
        if affine.bias >= 0:
            bias_grad = at(affine.grads, (affine.bias + j) * size)
            put(bias_grad, get(bias_grad, count) + grad, count)
        if affine.weight >= 0:
            weight_grad = at(affine.grads, (affine.weight + j) * size)
            put(weight_grad, fma(grad, normal, get(weight_grad, count)), count)
        grad = scaled(affine, grad, j, count)
        sums, products = sums + grad, fma(grad, normal, products)
    if into == IGNORE:
        return
    first = sum_of_lanes(sums) / o if centered else 0.0
    second = sum_of_lanes(products) / o
    # dL/dx = r (g γ − mean(g γ) − x̂ mean(g γ x̂))
    for j in range(0, o, lanes):
        count = o - j
        normal = (get(at(x, j * size), count) - mean) * factor
        grad = scaled(affine, get(at(g, j * size), count), j, count)
        add_to(at(out, j * size), (grad - first - normal * second) * factor, count, into == ACCUMULATE)


@helper
def clear(x, count):
    """x = 0, contiguous."""
    for j in range(0, count, width(x)):
        put(at(x, j * itemsize(x)), splat(x, 0.0), count - j)


@helper
def clear_gradients(affine):
    """Gradients of γ and β that are to be overwritten become 0."""
    size = itemsize(affine.grads)
    if affine.weight >= 0 and not affine.add:
        clear(at(affine.grads, affine.weight * size), affine.o)
    if affine.bias >= 0 and not affine.add:
        clear(at(affine.grads, affine.bias * size), affine.o)


@compiled_kernel(
    lambda dtype: types.int64(affine_type(dtype), *[matrix_type(dtype)] * 4, *[types.int64] * 2), optional=True
)
def normalise_rows_backward(affine, x, grad_y, grad_x, stats, centered, into):
    """Gradients of γ, β and x, for matrices of any strides; stats is what forward left there."""
    o, size = affine.o, itemsize(affine.params)
    clear_gradients(affine)
    unit_stride = x.column == size and grad_y.column == size and (grad_x.column == size or into == IGNORE)
    nbytes = 0 if unit_stride else 3 * o * size
    buffer, memory = allocate(affine.params, nbytes)
    if nbytes and is_null(memory):
        return NO_MEMORY
    for r in range(affine.n):
        src = contiguous_row(x, r, o, buffer)
        grad = contiguous_row(grad_y, r, o, at(buffer, o * size))
        dst = src if into == IGNORE else contiguous_row(grad_x, r, o, at(buffer, 2 * o * size))
        normalise_row_backward(affine, src, grad, dst, element(stats, r, 0), centered, into)
        if into != IGNORE and grad_x.column != size:
            copy_matrix(1, o, Matrix(dst, 0, size), Matrix(element(grad_x, r, 0), 0, grad_x.column))
    release(memory)
    return OK


@helper
def saved_row(saved, which, o):
    """One of the rows of numbers that batch norm keeps."""
    return at(saved, which * o * itemsize(saved))


@helper
def merge(mean, squared, block_mean, block_squared, before, count):
    """Mean and sum of squared deviations of `before` rows and a block of `count` more (Chan 1979)."""
    delta = block_mean - mean
    mean = fma(delta, count / (before + count), mean)
    return mean, squared + fma(delta * delta, before * count / (before + count), block_squared)


@helper
def column_moments(saved, x, n, o):
    """Mean and variance of each column, which is read once, eight rows at a time.

    From the first row on, so that a mean that is large against the spread costs no digits.
    """
    size = itemsize(saved)
    step = width(saved) if x.column == size else 1
    mean, squared = saved_row(saved, MEAN, o), saved_row(saved, VARIANCE, o)
    clear(mean, 2 * o)
    eights = n - n % 8
    for r in range(0, eights, 8):
        for j in range(0, o, step):
            lanes_left, p, m, q = min(step, o - j), element(x, r, j), at(mean, j * size), at(squared, j * size)
            start = get(element(x, 0, j), lanes_left)
            x0, x1 = get(p, lanes_left) - start, get(at(p, x.row), lanes_left) - start
            x2, x3 = get(at(p, 2 * x.row), lanes_left) - start, get(at(p, 3 * x.row), lanes_left) - start
            x4, x5 = get(at(p, 4 * x.row), lanes_left) - start, get(at(p, 5 * x.row), lanes_left) - start
            x6, x7 = get(at(p, 6 * x.row), lanes_left) - start, get(at(p, 7 * x.row), lanes_left) - start
            middle = (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))) * 0.125
            x0, x1, x2, x3 = x0 - middle, x1 - middle, x2 - middle, x3 - middle
            x4, x5, x6, x7 = x4 - middle, x5 - middle, x6 - middle, x7 - middle
            low = fma(x0, x0, x1 * x1) + fma(x2, x2, x3 * x3)
            high = fma(x4, x4, x5 * x5) + fma(x6, x6, x7 * x7)
            new, total = merge(get(m, lanes_left), get(q, lanes_left), middle, low + high, r, 8)
            put(m, new, lanes_left)
            put(q, total, lanes_left)
    for r in range(eights, n):
        for j in range(0, o, step):
            lanes_left, m, q = min(step, o - j), at(mean, j * size), at(squared, j * size)
            value = get(element(x, r, j), lanes_left) - get(element(x, 0, j), lanes_left)
            new, total = merge(get(m, lanes_left), get(q, lanes_left), value, splat(value, 0.0), r, 1)
            put(m, new, lanes_left)
            put(q, total, lanes_left)
    for j in range(0, o, step):
        lanes_left, m, q = min(step, o - j), at(mean, j * size), at(squared, j * size)
        put(m, get(m, lanes_left) + get(element(x, 0, j), lanes_left), lanes_left)
        put(q, get(q, lanes_left) * (1.0 / n), lanes_left)


@helper
def inverse_roots(variance, out, o, eps):
    """out = 1 / √(variance + ε)"""
    for j in range(0, o, width(out)):
        lanes_left, offset = o - j, j * itemsize(out)
        root = square_root(get(at(variance, offset), lanes_left) + eps)
        put(at(out, offset), splat(out, 1.0) / root, lanes_left)


@compiled_kernel(
    lambda dtype: types.int64(affine_type(dtype), *[types.CPointer(dtype)] * 2, *[matrix_type(dtype)] * 2, types.int64),
    optional=True,
)
def normalise_columns(affine, mean, factor, x, y, divide):
    """y = (x − mean) factor γ + β, or (x − mean) / factor γ + β; mean and factor are contiguous."""
    size = itemsize(mean)
    lanes = width(mean) if x.column == size and y.column == size else 1
    for r in range(affine.n):
        for j in range(0, affine.o, lanes):
            count = min(lanes, affine.o - j)
            centered, f = (
                get(element(x, r, j), count) - get(at(mean, j * size), count),
                get(at(factor, j * size), count),
            )
            value = centered / f if divide else centered * f
            put(element(y, r, j), shifted(affine, scaled(affine, value, j, count), j, count), count)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(*[types.CPointer(dtype)] * 2, *[types.int64] * 3, types.float64), optional=True
)
def update_running(params, saved, running, n, o, momentum):
    """running = (1 − momentum) running + momentum · (mean, unbiased variance) of the batch."""
    size = itemsize(params)
    for which in range(2):
        unbiased = n / (n - 1.0) if which else 1.0
        new, old = saved_row(saved, MEAN + which, o), at(params, (running + which * o) * size)
        for j in range(0, o, width(params)):
            lanes_left, offset = o - j, j * size
            value = get(at(old, offset), lanes_left) * (1.0 - momentum)
            put(at(old, offset), fma(get(at(new, offset), lanes_left), momentum * unbiased, value), lanes_left)
    return OK


# It is called when a step is done: so late, nothing may be missing.
require_running = requires(update_running)


@compiled_kernel(
    lambda dtype: types.int64(
        affine_type(dtype), types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 2, types.float64
    ),
    optional=True,
)
def normalise_batch(affine, saved, x, y, running, training, eps):
    """Batch norm, by the batch's statistics in training, by the running ones in prediction.

    running is where those are in params, -1 for none: then by the batch's in prediction too.
    """
    n, o, size = affine.n, affine.o, itemsize(affine.params)
    mean, inverse = saved_row(saved, MEAN, o), saved_row(saved, INVERSE, o)
    if training:
        require_running(affine.params)
    if training or running < 0:
        if n < 2:
            return ONE_SAMPLE if n else OK
        column_moments(saved, x, n, o)
        inverse_roots(saved_row(saved, VARIANCE, o), inverse, o, eps)
    else:
        mean = at(affine.params, running * size)
        inverse_roots(at(mean, o * size), inverse, o, eps)
    return normalise_columns(affine, mean, inverse, x, y, False)


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 3), optional=True
)
def divide_columns(scale, grad_y, grad_x, n, o, add):
    """grad_x (+)= grad_y / scale"""
    size = itemsize(scale)
    step = width(scale) if grad_y.column == size and grad_x.column == size else 1
    for r in range(n):
        for j in range(0, o, step):
            lanes_left, src = min(step, o - j), element(grad_x, r, j)
            value = get(element(grad_y, r, j), lanes_left) / get(at(scale, j * size), lanes_left)
            put(src, get(src, lanes_left) + value if add else value, lanes_left)
    return OK


@helper
def add_to_sums(first, second, grad, product, count):
    put(first, get(first, count) + grad, count)
    put(second, get(second, count) + product, count)


@helper
def sum_gradients(saved, mean, x, grad_y, n, o):
    """FIRST_SUM = Σ g and SECOND_SUM = Σ g (x − μ) of each column, four rows at a time."""
    size = itemsize(saved)
    lanes = width(saved) if x.column == size and grad_y.column == size else 1
    first, second = saved_row(saved, FIRST_SUM, o), saved_row(saved, SECOND_SUM, o)
    clear(first, 2 * o)
    fours = n - n % 4
    for r in range(0, fours, 4):
        for j in range(0, o, lanes):
            count, p, q = min(lanes, o - j), element(x, r, j), element(grad_y, r, j)
            m = get(at(mean, j * size), count)
            g0, g1 = get(q, count), get(at(q, grad_y.row), count)
            g2, g3 = get(at(q, 2 * grad_y.row), count), get(at(q, 3 * grad_y.row), count)
            low = fma(g0, get(p, count) - m, g1 * (get(at(p, x.row), count) - m))
            high = fma(g2, get(at(p, 2 * x.row), count) - m, g3 * (get(at(p, 3 * x.row), count) - m))
            add_to_sums(at(first, j * size), at(second, j * size), (g0 + g1) + (g2 + g3), low + high, count)
    for r in range(fours, n):
        for j in range(0, o, lanes):
            count = min(lanes, o - j)
            g = get(element(grad_y, r, j), count)
            product = g * (get(element(x, r, j), count) - get(at(mean, j * size), count))
            add_to_sums(at(first, j * size), at(second, j * size), g, product, count)


@helper
def finish_sums(affine, saved, share):
    """Gradients of γ and β from the sums; which become what each row needs, with SCALE = r γ.

    FIRST_SUM = share Σ g and SECOND_SUM = share r² Σ g (x − μ)
    """
    o, size = affine.o, itemsize(saved)
    inverse, scale = saved_row(saved, INVERSE, o), saved_row(saved, SCALE, o)
    first, second = saved_row(saved, FIRST_SUM, o), saved_row(saved, SECOND_SUM, o)
    for j in range(0, o, width(saved)):
        count, p = o - j, j * size
        f, total, product = get(at(inverse, p), count), get(at(first, p), count), get(at(second, p), count)
        if affine.bias >= 0:
            add_to(at(affine.grads, affine.bias * size + p), total, count, affine.add)
        if affine.weight >= 0:
            weight_grad = at(affine.grads, affine.weight * size + p)
            put(weight_grad, fma(product, f, get(weight_grad, count)) if affine.add else product * f, count)
        put(at(scale, p), scaled(affine, f, j, count), count)
        put(at(first, p), total * share, count)
        put(at(second, p), product * f * f * share, count)


@compiled_kernel(
    lambda dtype: types.int64(affine_type(dtype), types.CPointer(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 2),
    optional=True,
)
def batch_norm_backward(affine, saved, x, grad_y, grad_x, running, into):
    """Gradients of γ, β and x, for matrices of any strides; saved is what forward left there.

    running is where in params the statistics are that forward has taken, -1 if they were those of the batch.
    """
    n, o, size = affine.n, affine.o, itemsize(affine.params)
    if n == 0:  # and no memory to keep anything in
        clear_gradients(affine)
        return OK
    mean = at(affine.params, running * size) if running >= 0 else saved_row(saved, MEAN, o)
    sum_gradients(saved, mean, x, grad_y, n, o)
    finish_sums(affine, saved, 0.0 if running >= 0 else 1.0 / n)  # stored statistics do not depend on x
    if into == IGNORE:
        return OK
    # dL/dx = r γ (g − mean(g) − (x − μ) r² mean(g (x − μ)))
    first, second, scale = saved_row(saved, FIRST_SUM, o), saved_row(saved, SECOND_SUM, o), saved_row(saved, SCALE, o)
    unit_stride = x.column == size and grad_y.column == size and grad_x.column == size
    lanes = width(saved) if unit_stride else 1
    for r in range(n):
        for j in range(0, o, lanes):
            count, p = min(lanes, o - j), j * size
            centered = get(element(x, r, j), count) - get(at(mean, p), count)
            value = get(element(grad_y, r, j), count) - get(at(first, p), count)
            value = fma(splat(saved, 0.0) - centered, get(at(second, p), count), value) * get(at(scale, p), count)
            add_to(element(grad_x, r, j), value, count, into == ACCUMULATE)
    return OK
