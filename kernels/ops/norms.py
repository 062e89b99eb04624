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

machine_epsilon = by_dtype(float32=2.0**-23, float64=2.0**-52)
# rows of numbers that batch norm keeps: mean, variance, 1 / √(variance + ε); and what backward works with
MEAN, VARIANCE, INVERSE, FIRST_SUM, SECOND_SUM, SCALE, COLUMN_ROWS = range(7)


@helper
def get(x, some):
    """The first lanes of a vector in memory, all of them at full speed."""
    return load(x) if some >= width(x) else load_first(x, some, 0.0)


@helper
def put(x, value, some):
    if some >= width(x):
        store(x, value)
    else:
        store_first(x, value, some)


@helper
def squares(count, x, mean):
    """Σ (x − mean)², in the lanes of four registers."""
    size, lanes = itemsize(x), width(x)
    step = lanes * size
    s0 = s1 = s2 = s3 = splat(x, 0.0)
    for j in range(0, count, 4 * lanes):
        here, some = at(x, j * size), count - j
        if some >= 4 * lanes:
            d0, d1 = load(here) - mean, load(at(here, step)) - mean
            d2, d3 = load(at(here, 2 * step)) - mean, load(at(here, 3 * step)) - mean
        else:
            d0 = load_first(here, some, mean) - mean
            d1 = load_first(at(here, step), some - lanes, mean) - mean
            d2 = load_first(at(here, 2 * step), some - 2 * lanes, mean) - mean
            d3 = load_first(at(here, 3 * step), some - 3 * lanes, mean) - mean
        s0, s1, s2, s3 = fma(d0, d0, s0), fma(d1, d1, s1), fma(d2, d2, s2), fma(d3, d3, s3)
    return sum_of_lanes((s0 + s1) + (s2 + s3))


@helper
def normalise_row(count, x, y, params, weight, bias, centered, eps, stats):
    size, lanes = itemsize(x), width(x)
    w, b = at(params, weight * size), at(params, bias * size)
    mean = vector_sum(count, x) / count if centered else 0.0
    write(stats, mean)
    mean = read(stats)  # rounded to the dtype
    factor = 1.0 / np.sqrt(squares(count, x, mean) / count + eps)
    write(at(stats, size), factor)
    for j in range(0, count, lanes):
        some, here = count - j, j * size
        value = (get(at(x, here), some) - mean) * factor
        if weight >= 0:
            value = value * get(at(w, here), some)
        if bias >= 0:
            value = value + get(at(b, here), some)
        put(at(y, here), value, some)


@helper
def as_neighbours(x, r, o, buffer):
    """Row r with its elements as neighbours in memory: where it is, or copied to the buffer."""
    here = element(x, r, 0)
    if x.column == itemsize(buffer):
        return here
    copy_matrix(1, o, Matrix(here, 0, x.column), Matrix(buffer, 0, itemsize(buffer)))
    return buffer


@helper
def epsilon(eps, like):
    """eps, for which a negative number says the machine epsilon of the dtype."""
    return eps if eps >= 0.0 else np.float64(lane(machine_epsilon(splat(like, 0.0)), 0))


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 5, types.float64),
    optional=True,
)
def normalise_rows(params, x, y, stats, n, o, weight, bias, centered, eps):
    """Layer norm, or rms norm if not centered; weight and bias are places in params, -1 for none."""
    size = itemsize(params)
    eps = epsilon(eps, params)
    wanted = 0 if x.column == size and y.column == size else o * size
    buffer, memory = allocate(params, wanted)
    if wanted and is_null(memory):
        return NO_MEMORY
    for r in range(n):
        source = as_neighbours(x, r, o, buffer)
        target = element(y, r, 0) if y.column == size else buffer
        normalise_row(o, source, target, params, weight, bias, centered, eps, element(stats, r, 0))
        if y.column != size:
            copy_matrix(1, o, Matrix(buffer, 0, size), Matrix(element(y, r, 0), 0, y.column))
    release(memory)
    return OK


@helper
def normalise_row_backward(count, x, g, out, params, grads, weight, bias, centered, stats, wanted, add):
    """The parameters' gradients of one row are added; and out (+)= dL/dx, if wanted."""
    size, lanes = itemsize(x), width(x)
    mean, factor = read(stats), read(at(stats, size))
    w, weight_grad, bias_grad = at(params, weight * size), at(grads, weight * size), at(grads, bias * size)
    sums, products = splat(x, 0.0), splat(x, 0.0)
    for j in range(0, count, lanes):
        some, here = count - j, j * size
        grad, normal = get(at(g, here), some), (get(at(x, here), some) - mean) * factor
        if bias >= 0:
            put(at(bias_grad, here), get(at(bias_grad, here), some) + grad, some)
        if weight >= 0:
            put(at(weight_grad, here), fma(grad, normal, get(at(weight_grad, here), some)), some)
            grad = grad * get(at(w, here), some)
        sums, products = sums + grad, fma(grad, normal, products)
    if not wanted:
        return
    first = sum_of_lanes(sums) / count if centered else 0.0
    second = sum_of_lanes(products) / count
    for j in range(0, count, lanes):
        some, here = count - j, j * size
        grad, normal = get(at(g, here), some), (get(at(x, here), some) - mean) * factor
        if weight >= 0:
            grad = grad * get(at(w, here), some)
        value = (grad - first - normal * second) * factor
        put(at(out, here), get(at(out, here), some) + value if add else value, some)


@helper
def clear(x, count):
    """x = 0, for neighbours in memory."""
    for j in range(0, count, width(x)):
        put(at(x, j * itemsize(x)), splat(x, 0.0), count - j)


@compiled_kernel(
    lambda dtype: types.int64(
        *[types.CPointer(dtype)] * 2,
        *[matrix_type(dtype)] * 4,
        *[types.int64] * 8,
    ),
    optional=True,
)
def normalise_rows_backward(
    params, grads, x, grad_y, grad_x, stats, n, o, weight, bias, centered, add_parameters, wanted, add
):
    size = itemsize(params)
    if weight >= 0 and not add_parameters:
        clear(at(grads, weight * size), o)
    if bias >= 0 and not add_parameters:
        clear(at(grads, bias * size), o)
    contiguous = x.column == size and grad_y.column == size and (grad_x.column == size or not wanted)
    copies = 0 if contiguous else 3 * o * size
    buffer, memory = allocate(params, copies)
    if copies and is_null(memory):
        return NO_MEMORY
    for r in range(n):
        source = as_neighbours(x, r, o, buffer)
        grad = as_neighbours(grad_y, r, o, at(buffer, o * size))
        target = as_neighbours(grad_x, r, o, at(buffer, 2 * o * size)) if wanted else source
        normalise_row_backward(
            o, source, grad, target, params, grads, weight, bias, centered, element(stats, r, 0), wanted, add
        )
        if wanted and grad_x.column != size:
            copy_matrix(1, o, Matrix(target, 0, size), Matrix(element(grad_x, r, 0), 0, grad_x.column))
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
            some, p, m, q = min(step, o - j), element(x, r, j), at(mean, j * size), at(squared, j * size)
            start = get(element(x, 0, j), some)
            x0, x1 = get(p, some) - start, get(at(p, x.row), some) - start
            x2, x3 = get(at(p, 2 * x.row), some) - start, get(at(p, 3 * x.row), some) - start
            x4, x5 = get(at(p, 4 * x.row), some) - start, get(at(p, 5 * x.row), some) - start
            x6, x7 = get(at(p, 6 * x.row), some) - start, get(at(p, 7 * x.row), some) - start
            middle = (((x0 + x1) + (x2 + x3)) + ((x4 + x5) + (x6 + x7))) * 0.125
            x0, x1, x2, x3 = x0 - middle, x1 - middle, x2 - middle, x3 - middle
            x4, x5, x6, x7 = x4 - middle, x5 - middle, x6 - middle, x7 - middle
            low = fma(x0, x0, x1 * x1) + fma(x2, x2, x3 * x3)
            high = fma(x4, x4, x5 * x5) + fma(x6, x6, x7 * x7)
            new, total = merge(get(m, some), get(q, some), middle, low + high, r, 8)
            put(m, new, some)
            put(q, total, some)
    for r in range(eights, n):
        for j in range(0, o, step):
            some, m, q = min(step, o - j), at(mean, j * size), at(squared, j * size)
            value = get(element(x, r, j), some) - get(element(x, 0, j), some)
            new, total = merge(get(m, some), get(q, some), value, splat(value, 0.0), r, 1)
            put(m, new, some)
            put(q, total, some)
    for j in range(0, o, step):
        some, m, q = min(step, o - j), at(mean, j * size), at(squared, j * size)
        put(m, get(m, some) + get(element(x, 0, j), some), some)
        put(q, get(q, some) * (1.0 / n), some)


@helper
def inverse_roots(variance, out, o, eps):
    """out = 1 / √(variance + ε)"""
    for j in range(0, o, width(out)):
        some, here = o - j, j * itemsize(out)
        root = square_root(get(at(variance, here), some) + eps)
        put(at(out, here), splat(out, 1.0) / root, some)


@compiled_kernel(
    lambda dtype: types.int64(
        *[types.CPointer(dtype)] * 3,
        *[matrix_type(dtype)] * 2,
        *[types.int64] * 5,
    ),
    optional=True,
)
def normalise_columns(params, mean, factor, x, y, n, o, weight, bias, divide):
    """y = (x − mean) factor, or (x − mean) / factor, then weight and bias, places in params, -1 for none."""
    size = itemsize(params)
    step = width(params) if x.column == size and y.column == size else 1
    w, b = at(params, weight * size), at(params, bias * size)
    for r in range(n):
        for j in range(0, o, step):
            some, here = min(step, o - j), j * size
            value, scale = get(element(x, r, j), some) - get(at(mean, here), some), get(at(factor, here), some)
            value = value / scale if divide else value * scale
            if weight >= 0:
                value = value * get(at(w, here), some)
            if bias >= 0:
                value = value + get(at(b, here), some)
            put(element(y, r, j), value, some)
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
            some, here = o - j, j * size
            value = get(at(old, here), some) * (1.0 - momentum)
            put(at(old, here), fma(get(at(new, here), some), momentum * unbiased, value), some)
    return OK


# It is called when a step is done: so late, nothing may be missing.
load_running = requires(update_running)


@compiled_kernel(
    lambda dtype: types.int64(
        *[types.CPointer(dtype)] * 2, *[matrix_type(dtype)] * 2, *[types.int64] * 6, types.float64
    ),
    optional=True,
)
def normalise_batch(params, saved, x, y, n, o, weight, bias, running, training, eps):
    """Batch norm, by the batch's statistics in training, by the running ones, a place in params, in prediction.

    Without running ones, -1, by the batch's in prediction too.
    """
    mean, inverse = saved_row(saved, MEAN, o), saved_row(saved, INVERSE, o)
    if training:
        load_running(params)
    if training or running < 0:
        if n < 2:
            return ONE_SAMPLE if n else OK
        column_moments(saved, x, n, o)
        inverse_roots(saved_row(saved, VARIANCE, o), inverse, o, eps)
    else:
        mean = at(params, running * itemsize(params))
        inverse_roots(at(mean, o * itemsize(params)), inverse, o, eps)
    return normalise_columns(params, mean, inverse, x, y, n, o, weight, bias, False)


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 3), optional=True
)
def divide_columns(scale, grad_y, grad_x, n, o, add):
    """grad_x (+)= grad_y / scale"""
    size = itemsize(scale)
    step = width(scale) if grad_y.column == size and grad_x.column == size else 1
    for r in range(n):
        for j in range(0, o, step):
            some, here = min(step, o - j), element(grad_x, r, j)
            value = get(element(grad_y, r, j), some) / get(at(scale, j * size), some)
            put(here, get(here, some) + value if add else value, some)
    return OK


@helper
def add_to_sums(first, second, grad, product, some):
    put(first, get(first, some) + grad, some)
    put(second, get(second, some) + product, some)


@compiled_kernel(
    lambda dtype: types.int64(
        *[types.CPointer(dtype)] * 3,
        *[matrix_type(dtype)] * 3,
        *[types.int64] * 8,
    ),
    optional=True,
)
def batch_norm_backward(
    params, grads, saved, x, grad_y, grad_x, n, o, weight, bias, running, add_parameters, wanted, add
):
    """Gradients of weight and bias; and grad_x (+)= dL/dx, if wanted.

    running is the place in params of the statistics that the forward has taken, -1 if they were those of the batch.
    """
    size = itemsize(params)
    step = width(params) if x.column == size and grad_y.column == size else 1
    mean, factor, scale = saved_row(saved, MEAN, o), saved_row(saved, INVERSE, o), saved_row(saved, SCALE, o)
    first, second = saved_row(saved, FIRST_SUM, o), saved_row(saved, SECOND_SUM, o)
    if running >= 0:
        mean = at(params, running * size)
    if n == 0:  # and no memory to keep anything in
        if weight >= 0 and not add_parameters:
            clear(at(grads, weight * size), o)
        if bias >= 0 and not add_parameters:
            clear(at(grads, bias * size), o)
        return OK
    clear(first, 2 * o)
    fours = n - n % 4
    for r in range(0, fours, 4):
        for j in range(0, o, step):
            some, p, q, m = (
                min(step, o - j),
                element(x, r, j),
                element(grad_y, r, j),
                get(at(mean, j * size), min(step, o - j)),
            )
            g0, g1 = get(q, some), get(at(q, grad_y.row), some)
            g2, g3 = get(at(q, 2 * grad_y.row), some), get(at(q, 3 * grad_y.row), some)
            low = fma(g0, get(p, some) - m, g1 * (get(at(p, x.row), some) - m))
            high = fma(g2, get(at(p, 2 * x.row), some) - m, g3 * (get(at(p, 3 * x.row), some) - m))
            add_to_sums(at(first, j * size), at(second, j * size), (g0 + g1) + (g2 + g3), low + high, some)
    for r in range(fours, n):
        for j in range(0, o, step):
            some, g = min(step, o - j), get(element(grad_y, r, j), min(step, o - j))
            product = g * (get(element(x, r, j), some) - get(at(mean, j * size), some))
            add_to_sums(at(first, j * size), at(second, j * size), g, product, some)
    for j in range(0, o, width(params)):
        some, here = o - j, j * size
        f, total, product = get(at(factor, here), some), get(at(first, here), some), get(at(second, here), some)
        slope = f
        if bias >= 0:
            target = at(grads, bias * size + here)
            put(target, get(target, some) + total if add_parameters else total, some)
        if weight >= 0:
            target = at(grads, weight * size + here)
            put(target, fma(product, f, get(target, some)) if add_parameters else product * f, some)
            slope = f * get(at(params, weight * size + here), some)
        put(at(scale, here), slope, some)
        share = 0.0 if running >= 0 else 1.0 / n  # stored statistics do not depend on x
        put(at(first, here), total * share, some)
        put(at(second, here), product * f * f * share, some)
    if not wanted:
        return OK
    step = step if grad_x.column == size else 1
    for r in range(n):
        for j in range(0, o, step):
            some, here, to = min(step, o - j), j * size, element(grad_x, r, j)
            normal = get(element(x, r, j), some) - get(at(mean, here), some)
            value = get(element(grad_y, r, j), some) - get(at(first, here), some)
            value = fma(splat(params, 0.0) - normal, get(at(second, here), some), value) * get(at(scale, here), some)
            put(to, get(to, some) + value if add else value, some)
    return OK
