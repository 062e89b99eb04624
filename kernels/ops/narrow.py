"""Products of many rows and few columns, such as a layer of 8 inputs and 4 outputs for 300,000 samples.

Memory could give and take them many times faster than tiles of the product are computed, whose columns are few lanes
of a register. See simd/narrow.py.
"""

from numba import types

from fastfc.kernels.ops.activation_rules import DERIVATIVE, IDENTITY, RELU, activation_type
from fastfc.kernels.ops.epilogue import epilogue
from fastfc.kernels.ops.gemm_plan import blocking
from fastfc.kernels.ops.matrix import ceil_div, columns_from, element, matrix_type, rows_from
from fastfc.kernels.runtime.native import on_demand_kernel
from fastfc.kernels.simd.compiler import helper, inlined_helper
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.memory import at, itemsize, offset_in, read, stack, write, zero
from fastfc.kernels.simd.narrow import (
    GROUPS,
    REGISTERS,
    SEVERAL,
    SOURCES,
    STREAM,
    SUMMED,
    chunks_at_once,
    multiply_rows,
    sum_chunks,
)
from fastfc.kernels.simd.vector import infinity, splat, store, width

# From so many rows on, and for so many summands, whose rows of B are kept on the stack, up to REGISTERS each.
MANY, DEEP = 1 << 10, 64
ROW_BYTES = REGISTERS * host_isa().vector_bytes
TABLE_BYTES = (DEEP + 1) * ROW_BYTES
CHUNKS_AT_ONCE = tuple((r, chunks_at_once(r, 1), chunks_at_once(r, 2)) for r in SUMMED)
MOST_CHUNKS = max(max(counts) for _, *counts in CHUNKS_AT_ONCE)
SUMS_BYTES = host_isa().registers * host_isa().vector_bytes
# A weight gradient is up to so many registers wide, of which one or two are summed at once. The last columns, if so few
# are left, are spread over the lanes of the others (Zen 5, AVX2, 10 x 10: 19 to 31 GB/s).
WIDE, LAST = 4 if host_isa().registers == 16 else 2, 4
# Rows of C that wait for their activation.
BLOCK_BYTES = 1 << 13


@inlined_helper
def is_narrow(c, a, start, y, m, n, k, activation):
    """Whether `narrow_rows` can compute some rows of a product, and faster than in tiles."""
    size, lanes = itemsize(c.data), width(c.data)
    if m < MANY or n < 1 or n > REGISTERS * lanes or k < 1 or k > DEEP:
        return False
    if n == 4 * lanes and k > lanes:  # whole tiles
        return False
    fits = a.column == size and start.row == 0 and c.row == n * size and (c.column == size or n == 1)
    return fits and (activation.code < DERIVATIVE or (y.row == c.row and (y.column == size or n == 1)))


@helper
def rows_together(a_row, n, k, size, lanes):
    """How many rows of A and C are side by side in registers."""
    return max(1, min(lanes // n, SOURCES * lanes // k)) if a_row == k * size else 1


@helper
def repeat(n, times, values, column, out, lanes):
    """out = n elements, so often, then zeros up to the end of the last of the registers."""
    size = itemsize(out)
    for j in range(0, n, lanes):
        store(at(out, j * size), splat(out, 0.0))
    for j in range(n):
        value = read(at(values, j * column))
        for r in range(times):
            write(at(out, (r * n + j) * size), value)


@on_demand_kernel(
    lambda dtype: types.int64(
        *[matrix_type(dtype)] * 4, types.UniTuple(types.int64, 3), activation_type, matrix_type(dtype)
    )
)
def narrow_rows(c, a, b, start, sizes, activation, y):
    """C = f(start + A B) for all but the last few rows; how many rows that are. As for `product`, if it is_narrow."""
    m, n, k = sizes
    size, lanes = itemsize(c.data), width(c.data)
    together, vectors = rows_together(a.row, n, k, size, lanes), ceil_div(n, lanes)
    table, row_bytes = stack(c.data, TABLE_BYTES), vectors * lanes * size
    for p in range(k):
        repeat(n, together, element(b, p, 0), b.column, at(table, p * row_bytes), lanes)
    first = at(table, k * row_bytes)
    repeat(n, together, start.data, start.column, first, lanes)
    kind, i = SEVERAL if together > 1 else vectors - 1, 0
    # whole registers must not leave A and C
    behind, per_step = ceil_div(vectors * lanes, n), together * GROUPS[kind]
    if together > 1:
        behind = max(behind, ceil_div(SOURCES * lanes, k))
    bound, a_group, c_group = -infinity(c.data), a.row * together, c.row * together
    if activation.code == RELU:
        bound = read(zero(c.data))
    in_registers = activation.code == IDENTITY or activation.code == RELU
    gap = -offset_in(c.data, lanes * size) % (lanes * size)
    large = m * n * size > 2 * blocking(c.data).nc_bytes
    if large and in_registers and together > 1 and together * n == lanes and gap % (n * size) == 0:
        # the first rows again, up to the boundary of a register
        multiply_rows(kind, (1, k, n), (a.data, a_group), table, first, (c.data, c_group), bound)
        kind, i = STREAM, gap // (n * size)
    steps = max(0, (m - i - behind + together) // per_step)
    at_once = steps if in_registers else max(1, BLOCK_BYTES // (per_step * n * size))
    while steps > 0:
        count, here, there = min(at_once, steps), element(a, i, 0), element(c, i, 0)
        multiply_rows(kind, (count, k, n), (here, a_group), table, first, (there, c_group), bound)
        epilogue(activation, count * per_step * n, there, element(y, i, 0))
        i, steps = i + count * per_step, steps - count
    return i


@helper
def summed_rows(count, vectors):
    """The least of SUMMED that is as many rows, and of how many chunks sums are then under way; 0 of too many."""
    rows, chunks = 0, 0
    for r, one, two in CHUNKS_AT_ONCE:
        at_once = one if vectors == 1 else two
        if rows == 0 and r >= count and at_once > 0:
            rows, chunks = r, at_once
    return rows, chunks


@helper
def sums_shape(rows, columns, lanes):
    """For sums of so many rows and columns: `summed_rows`, and how many registers of columns are summed at once."""
    vectors = 1 + (columns > lanes)
    found, chunks = summed_rows(rows, vectors)
    if chunks == 0:  # one register after the other
        vectors = 1
        found, chunks = summed_rows(rows, vectors)
    return found, chunks, vectors


@helper
def few_sums(i, o, lanes):
    """Whether a weight gradient is so small that `chunk_gradients` may compute it, and no dot product."""
    _, chunks, vectors = sums_shape(min(i, o), max(i, o), lanes)
    return i * o > 1 and chunks > 0 and max(i, o) <= (WIDE if vectors == 2 else 2) * lanes


@helper
def rows_behind(x, columns, read):
    """How many rows must follow for `read` elements of a row to be readable that has so many columns."""
    size = itemsize(x.data)
    return ceil_div(max(0, read - columns) * size, x.row)


@helper
def sum_block(a, b, shape, count, out, place):
    """out[q] = aᵀ b, (rows, columns), for the next chunks q; shape is these, and what `sums_shape` says of them.

    place is the elements from chunk to chunk, row to row and column to column of out.
    """
    (a_columns, b_columns, rows, chunks, vectors), (chunk_step, row_step, column_step) = shape, place
    size, across, sums = itemsize(out), vectors * width(out), stack(out, SUMS_BYTES)
    sum_chunks(rows, vectors, count, (a.data, a.row, count * a.row), (b.data, b.row, count * b.row), sums)
    for q in range(chunks):
        for r in range(a_columns):
            for j in range(b_columns):
                value = read(at(sums, ((q * rows + r) * across + j) * size))
                write(at(out, (q * chunk_step + r * row_step + j * column_step) * size), value)


@on_demand_kernel(
    lambda dtype: types.int64(
        *[matrix_type(dtype)] * 2, types.CPointer(dtype), types.UniTuple(types.int64, 3), *[types.int64] * 2
    )
)
def chunk_gradients(x, g, out, sizes, count, most):
    """out[q] = xᵀ g, (i, o), for the next chunks q of `count` rows, at most so many; how many, 0 if it can't do them.

    If few_sums; sizes are i, o and the number of rows that are left; count is a multiple of 4.
    """
    (i, o, n), size, lanes = sizes, itemsize(out), width(out)
    if x.column != size or g.column != size or x.row < i * size or g.row < o * size:
        return 0
    # the narrower is spread over the lanes of the other
    swapped = o < i
    a, b, a_columns, b_columns, row_step, step = (g, x, o, i, 1, o) if swapped else (x, g, i, o, o, 1)
    rows, chunks, vectors = sums_shape(a_columns, b_columns, lanes)
    across, total, read_of_a, last = vectors * lanes, chunks, rows, 0
    if across < b_columns and 0 < b_columns % across <= LAST and a_columns <= 2 * lanes:
        last = b_columns % across
        last_rows, last_chunks, last_vectors = sums_shape(last, a_columns, lanes)
        total, read_of_a = max(chunks, last_chunks), max(rows, last_vectors * lanes)
    behind = max(rows_behind(a, a_columns, read_of_a), rows_behind(b, b_columns, ceil_div(b_columns, across) * across))
    if total > most or total * count + behind > n:
        return 0
    for first in range(0, b_columns - last, across):
        shape = a_columns, min(across, b_columns - first), rows, chunks, vectors
        for q in range(0, total, chunks):
            a_q, b_q, there = rows_from(a, q * count), rows_from(columns_from(b, first), q * count), q * i * o
            sum_block(a_q, b_q, shape, count, at(out, (there + first * step) * size), (i * o, row_step, step))
    if last:
        first, shape = b_columns - last, (last, a_columns, last_rows, last_chunks, last_vectors)
        for q in range(0, total, last_chunks):
            a_q, b_q, there = rows_from(a, q * count), rows_from(columns_from(b, first), q * count), q * i * o
            sum_block(b_q, a_q, shape, count, at(out, (there + first * step) * size), (i * o, step, row_step))
    return total
