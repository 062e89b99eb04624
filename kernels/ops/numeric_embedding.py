"""Embeddings of numbers: each feature becomes several functions of it, and these a few sums with weights.

For feature j with the value z, and functions u₁, …, u_K of it,

    y_m = c_jm + Σₖ uₖ V_jkm                    e_k = Σₘ g_m V_jkm, with g = dL/dy_j
    dL/dV_jkm = Σ uₖ g_m, dL/dc_jm = Σ g_m      over the samples, in their order, CHUNK of them at a time

    cosines    uₖ = cos(2π w_jk z + b_jk)                 dL/dw_jk = −2π Σ e_k z sin(…), dL/db_jk = −Σ e_k sin(…)
    waves      uₖ = cos(2π w_jk z) for the first half of the K, then sin(…) of the same
    pieces     uₖ = (z − edge_k) / (edge_k+1 − edge_k), not below 0 but in the first piece, not above 1 but in the last;
               0 for a piece of no width

and dL/dz is the sum of their derivatives times e_k. Without V and c the functions are the output. Y. Gorishniy, I.
Rubachev, A. Babenko, "On embeddings for numerical features in tabular deep learning", NeurIPS 2022.

A feature is computed for CHUNK samples at a time, with vectors along the samples. Numbers of a chunk are *rows*, of
CHUNK numbers each; behind the last sample are zeros.
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.matrix import element, matrix_type
from fastfc.kernels.ops.norms import ACCUMULATE, IGNORE, clear
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import NO_MEMORY, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, read, release, write
from fastfc.kernels.simd.trigonometric import sin_and_cos_of_turns
from fastfc.kernels.simd.vector import (
    fma,
    infinity,
    load,
    splat,
    store,
    sum_of_lanes,
    where_less,
    where_less_equal,
    width,
)

COSINES, WAVES, PIECES = range(3)
CHUNK = 256
TURN = 2.0 * np.pi
# Pointers to the vectors of values and of gradients; where in them w (or the edges) and V begin, V's place is negative
# for none; how many features, functions of each, and numbers that become of each; which functions; whether all features
# share V and c.
Embedding = namedtuple("Embedding", ["params", "grads", "first", "weight", "features", "k", "d", "kind", "shared"])


def embedding_type(dtype):
    return types.NamedTuple([*[types.CPointer(dtype)] * 2, *[types.int64] * 7], Embedding)


@helper
def chunk_row(rows, i):
    return at(rows, i * CHUNK * itemsize(rows))


@helper
def coefficient(base, i):
    return at(base, i * itemsize(base))


@helper
def n_frequencies(e):
    return e.k // 2 if e.kind == WAVES else e.k


@helper
def places(e, j, base):
    """Pointers to w (or the edges), b, V and c of feature j in a vector, and so many numbers apart."""
    k = n_frequencies(e)
    per_feature = k + 1 if e.kind == PIECES else k
    owner = 0 if e.shared else j
    n_weights = (1 if e.shared else e.features) * e.k * e.d
    w = coefficient(base, e.first + j * per_feature)
    b = coefficient(base, e.first + e.features * k + j * k)
    v = coefficient(base, e.weight + owner * e.k * e.d)
    c = coefficient(base, e.weight + n_weights + owner * e.d)
    return w, b, v, c


@helper
def gather(x, first, count, column, row):
    """A column of x from sample `first` on, with zeros behind it up to a whole vector."""
    last_vector = (count - 1) // width(row) * width(row)
    store(coefficient(row, last_vector), splat(row, 0.0))
    for i in range(count):
        write(coefficient(row, i), read(element(x, first + i, column)))


@helper
def scatter(row, first, count, column, y, add):
    """A column of y from a row."""
    for i in range(count):
        dst, value = element(y, first + i, column), read(coefficient(row, i))
        write(dst, read(dst) + value if add else value)


@helper
def functions(e, j, count, z, u, slopes):
    """The rows uₖ, and for cosines those of −sin."""
    w, b, _, _ = places(e, j, e.params)
    if e.kind == PIECES:
        pieces(e, w, count, z, u)
        return
    size, k = itemsize(z), n_frequencies(e)
    for i in range(k):
        frequency = splat(z, read(coefficient(w, i)))
        phase = splat(z, read(coefficient(b, i)) * (1.0 / TURN) if e.kind == COSINES else 0.0)
        cosines, others = chunk_row(u, i), chunk_row(slopes, i) if e.kind == COSINES else chunk_row(u, k + i)
        for p in range(0, count * size, width(z) * size):
            sine, cosine = sin_and_cos_of_turns(fma(frequency, load(at(z, p)), phase))
            store(at(cosines, p), cosine)
            store(at(others, p), splat(z, 0.0) - sine if e.kind == COSINES else sine)


@helper
def piece(e, edges, i):
    """Edge and slope of a piece, and the bounds of its function."""
    low, high, last = read(coefficient(edges, i)), read(coefficient(edges, i + 1)), read(coefficient(edges, e.k))
    is_empty = not high > low
    slope = 0.0 if is_empty else 1.0 / (high - low)
    least = -infinity(edges) if i == 0 and not is_empty else 0.0 * low
    most = infinity(edges) if high == last and not is_empty else 0.0 * low + 1.0
    return low, slope, least, most


@helper
def pieces(e, edges, count, z, u):
    size = itemsize(z)
    for i in range(e.k):
        low, slope, least, most = piece(e, edges, i)
        lower, upper, factor = splat(z, least), splat(z, most), splat(z, slope)
        for p in range(0, count * size, width(z) * size):
            value = (load(at(z, p)) - low) * factor
            value = where_less(value, lower, lower, value)
            store(at(chunk_row(u, i), p), where_less(upper, value, upper, value))


@helper
def combine(coefficients, p_step, q_step, n_p, n_q, rows, out, count):
    """out_p += Σ_q coefficients[p p_step + q q_step] rows_q, four p at a time."""
    size = itemsize(rows)
    for p in range(0, n_p - n_p % 4, 4):
        c0 = coefficient(coefficients, p * p_step)
        c1, c2, c3 = coefficient(c0, p_step), coefficient(c0, 2 * p_step), coefficient(c0, 3 * p_step)
        for i in range(0, count * size, width(rows) * size):
            o0, o1 = at(chunk_row(out, p), i), at(chunk_row(out, p + 1), i)
            o2, o3 = at(chunk_row(out, p + 2), i), at(chunk_row(out, p + 3), i)
            s0, s1, s2, s3 = load(o0), load(o1), load(o2), load(o3)
            for q in range(n_q):
                r, k = load(at(chunk_row(rows, q), i)), q * q_step * size
                s0 = fma(splat(rows, read(at(c0, k))), r, s0)
                s1 = fma(splat(rows, read(at(c1, k))), r, s1)
                s2 = fma(splat(rows, read(at(c2, k))), r, s2)
                s3 = fma(splat(rows, read(at(c3, k))), r, s3)
            store(o0, s0)
            store(o1, s1)
            store(o2, s2)
            store(o3, s3)
    for p in range(n_p - n_p % 4, n_p):
        c = coefficient(coefficients, p * p_step)
        for i in range(0, count * size, width(rows) * size):
            dst = at(chunk_row(out, p), i)
            total = load(dst)
            for q in range(n_q):
                total = fma(splat(rows, read(at(c, q * q_step * size))), load(at(chunk_row(rows, q), i)), total)
            store(dst, total)


@helper
def fill(row, count, value):
    for i in range(0, count * itemsize(row), width(row) * itemsize(row)):
        store(at(row, i), splat(row, value))


@compiled_kernel(
    lambda dtype: types.int64(embedding_type(dtype), *[matrix_type(dtype)] * 2, types.int64), optional=True
)
def numeric_embedding_forward(e, x, y, n):
    """y, for matrices of any strides."""
    has_weight = e.weight >= 0
    u_rows = 2 * e.k if e.kind == COSINES else e.k
    rows, memory = allocate(e.params, (1 + u_rows + e.d) * CHUNK * itemsize(e.params))
    if is_null(memory):
        return NO_MEMORY
    z, u, slopes = rows, chunk_row(rows, 1), chunk_row(rows, 1 + e.k)
    out = chunk_row(rows, 1 + u_rows) if has_weight else u
    for first in range(0, n, CHUNK):
        count = min(CHUNK, n - first)
        for j in range(e.features):
            _, _, v, c = places(e, j, e.params)
            gather(x, first, count, j, z)
            functions(e, j, count, z, u, slopes)
            if has_weight:
                for m in range(e.d):
                    fill(chunk_row(out, m), count, read(coefficient(c, m)))
                combine(v, 1, e.d, e.d, e.k, u, out, count)
            for m in range(e.d):
                scatter(chunk_row(out, m), first, count, j * e.d + m, y, False)
    release(memory)
    return OK


@helper
def sum_of_products(a, b, count):
    """Σ a b along two rows."""
    size, total = itemsize(a), splat(a, 0.0)
    for i in range(0, count * size, width(a) * size):
        total = fma(load(at(a, i)), load(at(b, i)), total)
    return sum_of_lanes(total)


@helper
def add_weight_gradients(e, j, count, u, g):
    """dL/dV += Σ u g and dL/dc += Σ g, four functions at a time."""
    size = itemsize(u)
    _, _, v, c = places(e, j, e.grads)
    for m in range(e.d):
        grad, fours = chunk_row(g, m), e.k - e.k % 4
        for k in range(0, fours, 4):
            u0, u1, u2, u3 = chunk_row(u, k), chunk_row(u, k + 1), chunk_row(u, k + 2), chunk_row(u, k + 3)
            s0 = s1 = s2 = s3 = splat(u, 0.0)
            for i in range(0, count * size, width(u) * size):
                r = load(at(grad, i))
                s0, s1 = fma(load(at(u0, i)), r, s0), fma(load(at(u1, i)), r, s1)
                s2, s3 = fma(load(at(u2, i)), r, s2), fma(load(at(u3, i)), r, s3)
            add_number(coefficient(v, k * e.d + m), sum_of_lanes(s0))
            add_number(coefficient(v, (k + 1) * e.d + m), sum_of_lanes(s1))
            add_number(coefficient(v, (k + 2) * e.d + m), sum_of_lanes(s2))
            add_number(coefficient(v, (k + 3) * e.d + m), sum_of_lanes(s3))
        for k in range(fours, e.k):
            add_number(coefficient(v, k * e.d + m), sum_of_products(chunk_row(u, k), grad, count))
        total = splat(u, 0.0)
        for i in range(0, count * size, width(u) * size):
            total = total + load(at(grad, i))
        add_number(coefficient(c, m), sum_of_lanes(total))


@helper
def add_number(dst, value):
    write(dst, read(dst) + value)


@helper
def add_frequency_gradients(e, j, count, z, u, slopes, back, grad_z):
    """dL/dw and dL/db, added; and dL/dz in its row; `back` are the rows e_k."""
    size, k = itemsize(z), n_frequencies(e)
    w, _, _, _ = places(e, j, e.params)
    w_grad, b_grad, _, _ = places(e, j, e.grads)
    for i in range(k):
        frequency, by_w, by_b = splat(z, read(coefficient(w, i)) * TURN), splat(z, 0.0), splat(z, 0.0)
        for p in range(0, count * size, width(z) * size):
            if e.kind == COSINES:
                by_phase = load(at(chunk_row(back, i), p)) * load(at(chunk_row(slopes, i), p))
            else:
                cosine, sine = load(at(chunk_row(u, i), p)), load(at(chunk_row(u, k + i), p))
                by_phase = load(at(chunk_row(back, k + i), p)) * cosine - load(at(chunk_row(back, i), p)) * sine
            by_b = by_b + by_phase
            by_w = fma(by_phase, load(at(z, p)), by_w)
            store(at(grad_z, p), fma(by_phase, frequency, load(at(grad_z, p))))
        add_number(coefficient(w_grad, i), sum_of_lanes(by_w * TURN))
        if e.kind == COSINES:
            add_number(coefficient(b_grad, i), sum_of_lanes(by_b))


@helper
def add_piece_gradients(e, j, count, u, back, grad_z):
    """dL/dz in its row: pieces whose function is at a bound give nothing."""
    size = itemsize(u)
    edges, _, _, _ = places(e, j, e.params)
    for i in range(e.k):
        _, slope, least, most = piece(e, edges, i)
        lower, upper, nothing = splat(u, least), splat(u, most), splat(u, 0.0)
        for p in range(0, count * size, width(u) * size):
            value = load(at(chunk_row(u, i), p))
            grad = load(at(chunk_row(back, i), p)) * splat(u, slope)
            grad = where_less_equal(value, lower, nothing, where_less_equal(upper, value, nothing, grad))
            store(at(grad_z, p), load(at(grad_z, p)) + grad)


@helper
def clear_gradients(e):
    """The gradients of what is trained."""
    if e.kind != PIECES:
        both = 2 if e.kind == COSINES else 1
        clear(coefficient(e.grads, e.first), both * e.features * n_frequencies(e))
    if e.weight >= 0:
        clear(coefficient(e.grads, e.weight), (1 if e.shared else e.features) * (e.k + 1) * e.d)


@compiled_kernel(
    lambda dtype: types.int64(embedding_type(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 3), optional=True
)
def numeric_embedding_backward(e, x, grad_y, grad_x, n, into, add):
    """The gradients of the parameters, added to what is there or not, and dL/dx, for matrices of any strides."""
    has_weight = e.weight >= 0
    if not add:
        clear_gradients(e)
    rows, memory = allocate(e.params, (2 + 3 * e.k + e.d) * CHUNK * itemsize(e.params))
    if is_null(memory):
        return NO_MEMORY
    z, grad_z, u, slopes = rows, chunk_row(rows, 1), chunk_row(rows, 2), chunk_row(rows, 2 + e.k)
    g = chunk_row(rows, 2 + 3 * e.k)
    back = chunk_row(rows, 2 + 2 * e.k) if has_weight else g
    for first in range(0, n, CHUNK):
        count = min(CHUNK, n - first)
        for j in range(e.features):
            gather(x, first, count, j, z)
            functions(e, j, count, z, u, slopes)
            for m in range(e.d):
                gather(grad_y, first, count, j * e.d + m, chunk_row(g, m))
            if has_weight:
                add_weight_gradients(e, j, count, u, g)
                for k in range(e.k):
                    fill(chunk_row(back, k), count, 0.0)
                _, _, v, _ = places(e, j, e.params)
                combine(v, e.d, 1, e.k, e.d, g, back, count)
            fill(grad_z, count, 0.0)
            if e.kind == PIECES:
                add_piece_gradients(e, j, count, u, back, grad_z)
            else:
                add_frequency_gradients(e, j, count, z, u, slopes, back, grad_z)
            if into != IGNORE:
                scatter(grad_z, first, count, j, grad_x, into == ACCUMULATE)
    release(memory)
    return OK


@helper
def bracket(knots, count, value):
    """The last i with knots[i] <= value, at most count − 2, or 0."""
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if read(coefficient(knots, middle)) <= value:
            low = middle
        else:
            high = middle
    return low


@helper
def line(table, j, features, count, value):
    """Where the polygon of a feature is for a value, and its slope there; it is constant beyond its ends."""
    knots = coefficient(table, j * count)
    values = coefficient(table, (features + j) * count)
    first, last = read(knots), read(coefficient(knots, count - 1))
    i = bracket(knots, count, value)
    low, high = read(coefficient(knots, i)), read(coefficient(knots, i + 1))
    start, end = read(coefficient(values, i)), read(coefficient(values, i + 1))
    flat = 0.0 * start
    if value <= first:
        return read(values), flat
    if value >= last:
        return read(coefficient(values, count - 1)), flat
    slope = (end - start) / (high - low)
    return start + (value - low) * slope, slope


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 2, *[types.int64] * 3), optional=True
)
def interpolate_forward(table, x, y, n, features, count):
    """y = the polygon of each feature through (knots, values), of which `table` has first all knots."""
    for r in range(n):
        for j in range(features):
            value, _ = line(table, j, features, count, read(element(x, r, j)))
            write(element(y, r, j), value)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[matrix_type(dtype)] * 3, *[types.int64] * 4), optional=True
)
def interpolate_backward(table, x, grad_y, grad_x, n, features, count, into):
    """dL/dx = dL/dy times the slope."""
    for r in range(n):
        for j in range(features):
            _, slope = line(table, j, features, count, read(element(x, r, j)))
            dst, value = element(grad_x, r, j), read(element(grad_y, r, j)) * slope
            write(dst, read(dst) + value if into == ACCUMULATE else value)
    return OK
