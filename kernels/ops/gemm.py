"""The one blocked product under the dense kernels: C = f(start + A B), any strides.

    A (m, k)   B (k, n)   C (m, n)   start (m, n): a matrix, or a row or column repeated, or zero repeated

Every element of C is one chain of fused multiply-adds, which begins with `start` and runs in the order of
the k summands. Blocks only interrupt a chain, they never split it: its value so far waits in C. So the
bits of an element do not depend on m, n, strides, blocks or the number of threads. Layers of very few
columns with long sums take another way, `dot_products`: many short chains side by side, added in a fixed
order. The layer's sizes alone decide which.

Tiles of C are summed in registers (`simd.multiply_tile`). Around them stand the loops of Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication" (2008), as in BLIS: blocks of B and A are
copied into panels when the copy pays, and read in place when it does not.
"""

import numpy as np
from numba import prange, types

from fastfc.kernels.ops.activation_rules import DERIVATIVE, NONE, NUMBERS, RELU, Activation, activation_type
from fastfc.kernels.ops.epilogue import epilogue, matrix_epilogue
from fastfc.kernels.ops.level1 import dot_products, row_times_transposed
from fastfc.kernels.ops.matrix import (
    Matrix,
    aliases_sets,
    ceil_div,
    copy_matrix,
    element,
    matrix,
    matrix_type,
    transposed,
)
from fastfc.kernels.ops.packing import PACK_ROWS, pack
from fastfc.kernels.runtime.native import compiled_kernel
from fastfc.kernels.runtime.status import NO_MEMORY, OK
from fastfc.kernels.runtime.threads import thread_range
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.isa import host_isa, l2_bytes
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, read, release, view, zero
from fastfc.kernels.simd.microkernel import multiply_tile, tile_columns, tile_rows
from fastfc.kernels.simd.vector import infinity, width

# Summands per block, deep enough that the tile's sums go to memory and back rarely. A panel of B of this depth
# is 96 KiB: it is read from L2, as fast as the multipliers take it (one row of the tile in 14 cycles).
DEPTH = 768
# Columns per block: a block of B, some MiB, stays in L3.
BLOCK_COLUMNS = 2048
# Half of L2 holds the panels of A that one panel of B meets. A B of this size is not copied at all.
HALF_L2 = l2_bytes() // 2
# Nor is one that fewer tiles use.
IN_PLACE_TILES = 16
# Up to this size B's block is gone through along rows of C, which C prefers; then down its columns. Blocks are made
# as small if sums are so short that it is C that takes the time.
ROWWISE_BYTES, SHORT = l2_bytes() // 4, 128

# So few rows use each element of B so rarely that a panel has to stay in L1. A B that is not copied and meets one
# tile only has to be read in its order in memory, STREAM_DEPTH whole rows at a time, a quarter if they are crowded.
FEW_ROWS, PANEL_DEPTH, STREAM_DEPTH = 4, 64, 64

# So few columns and so long sums are faster as dot products. Twice as many columns where B is Wᵀ, whose columns are
# rows in memory.
NARROW, LONG = 4, 64

# Rows of a batch that are summed in one chain.
CHUNK = 4096


def tile(dtype=np.float32):
    """(rows, columns) of the register tile on this machine."""
    isa = host_isa()
    return isa.rows, isa.vectors * isa.vector_bytes // np.dtype(dtype).itemsize


@helper
def first_row(u, short, tall):
    """Where tile u begins, of which the first `tall` have one row more than the others, which have `short` rows."""
    return u * short + min(u, tall)


@helper
def blocked(c, a, b, start, m, n, k, activation, z):
    """The product, for a C whose columns are neighbours."""
    size = itemsize(c.data)
    # with one or two summands all time goes to writing C, which must not be crowded
    tiles = ceil_div(m, 2 if k <= 2 and aliases_sets(c.row) else tile_rows(c.data))
    # of nearly equal height: 32 rows are 11 + 11 + 10, not 14 + 14 + 4
    short, tall, rows = m // tiles, m % tiles, ceil_div(m, tiles)
    columns = tile_columns(c.data, rows)
    panel_width = ceil_div(rows, width(c.data)) * width(c.data)
    block_tiles = max(1, HALF_L2 // (panel_width * min(k, DEPTH) * size + 1))

    pack_b = k > 0 and (b.column != size or (k * n * size > HALF_L2 and tiles > IN_PLACE_TILES))
    pack_a = pack_b and m * k * size > HALF_L2 and n > IN_PLACE_TILES * columns
    depth, wide = DEPTH, BLOCK_COLUMNS
    if k <= SHORT:
        wide = min(wide, max(1, ROWWISE_BYTES // (max(k, 1) * size) // columns) * columns)
    if m <= FEW_ROWS and pack_b:
        depth, wide = PANEL_DEPTH, columns
    elif tiles == 1 and n > columns and k * n * size > HALF_L2:
        depth, wide = STREAM_DEPTH // 4 if aliases_sets(b.row) else STREAM_DEPTH, n
    b_bytes = ceil_div(min(n, wide), columns) * columns * min(k, depth) * size if pack_b else 0
    a_bytes = min(tiles, block_tiles) * panel_width * min(k, depth) * size if pack_a else 0
    b_panels, memory = allocate(b.data, b_bytes + a_bytes)
    if pack_b and is_null(memory):
        return NO_MEMORY
    a_panels = at(b_panels, b_bytes)

    unbounded = -infinity(c.data)
    floor = read(zero(c.data)) if activation.code == RELU else unbounded
    for j in range(0, n, wide):
        j_end = min(n, j + wide)
        across = ceil_div(j_end - j, columns)
        for p in range(0, max(k, 1), depth):
            deep = min(depth, k - p)
            last = p + depth >= k
            bound = floor if last else unbounded
            a_panel_bytes = panel_width * deep * size
            if pack_b:
                # rows of B in place are read a few at a time from left to right, rows of Bᵀ whole
                some_rows = PACK_ROWS if b.column == size else deep
                for r in range(0, deep, some_rows):
                    for q in range(j, j_end, columns):
                        panel = at(b_panels, ((q - j) * deep + r * columns) * size)
                        rows_here, columns_here = min(some_rows, deep - r), min(columns, j_end - q)
                        pack(element(b, p + r, q), columns_here, rows_here, b.column, b.row, panel, columns)
            for t in range(0, tiles, block_tiles):
                t_end = min(tiles, t + block_tiles)
                if pack_a:
                    for u in range(t, t_end):
                        i, i_end = first_row(u, short, tall), first_row(u + 1, short, tall)
                        panel = at(a_panels, (u - t) * a_panel_bytes)
                        pack(element(a, i, p), i_end - i, deep, a.row, a.column, panel, panel_width)
                # along rows of C while all of B's block stays in L1 and L2, else down its columns
                along_rows = across * columns * deep * size <= ROWWISE_BYTES
                # then whole rows of C are done at once, and may be one piece of memory
                solid = along_rows and n <= wide and c.row == n * size and z.row == c.row
                outer, inner = (t_end - t, across) if along_rows else (across, t_end - t)
                for x in range(outer):
                    for y in range(inner):
                        u, q = (t + x, j + y * columns) if along_rows else (t + y, j + x * columns)
                        i, i_end = first_row(u, short, tall), first_row(u + 1, short, tall)
                        some = min(columns, j_end - q)
                        a_tile = Matrix(element(a, i, p), a.row, a.column)
                        if pack_a:
                            a_tile = Matrix(at(a_panels, (u - t) * a_panel_bytes), size, panel_width * size)
                        b_tile = Matrix(element(b, p, q), b.row, size)
                        if pack_b:
                            b_tile = Matrix(at(b_panels, (q - j) * deep * size), columns * size, size)
                        c_tile = Matrix(element(c, i, q), c.row, size)
                        begin = c_tile
                        if p == 0:
                            begin = Matrix(element(start, i, q), start.row, start.column)
                        multiply_tile(i_end - i, deep, a_tile, b_tile, begin, c_tile, some, bound)
                        if last and not solid:
                            for r in range(i_end - i):
                                epilogue(activation, some, element(c_tile, r, 0), element(z, i + r, q))
                    if last and solid:
                        i, i_end = first_row(t + x, short, tall), first_row(t + x + 1, short, tall)
                        epilogue(activation, (i_end - i) * n, element(c, i, 0), element(z, i, 0))
    release(memory)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(*[matrix_type(dtype)] * 4, *[types.int64] * 3, activation_type, matrix_type(dtype))
)
def product(c, a, b, start, m, n, k, activation, y):
    """C = f(start + A B), for matrices C (m, n), A (m, k), B (k, n).

    start (m, n) may be C itself, to accumulate; a stride of 0 repeats a row, a column or one number.
    With DERIVATIVE added to the activation's code, C = (start + A B) f′, f′ in terms of Y (m, n); else Y is not read.
    Returns OK or NO_MEMORY.
    """
    size, derivative = itemsize(c.data), activation
    if m == 0 or n == 0:
        return OK
    if n == 1:
        c = Matrix(c.data, c.row, size)
    # a C whose rows are neighbours is computed as its transpose, Cᵀ = Bᵀ Aᵀ
    rows_unit_stride = c.column != size and (c.row == size or m == 1)
    # so is one that leaves fewer lanes empty that way, unless copying C is more than its few summands
    lanes = width(c.data)
    fuller = a.row == size and b.column == size and 5 * m * ceil_div(n, lanes) > 6 * n * ceil_div(m, lanes)
    fuller = fuller and (c.row == size or k > lanes)
    swapped = rows_unit_stride or fuller
    later = activation.code >= DERIVATIVE and (swapped or c.column != size or y.column != size)
    if later:
        activation = NONE
    values, rows, columns = c, m, n
    if swapped:
        m, n = n, m
        c, a, b, start = transposed(c), transposed(b), transposed(a), transposed(start)
    if n == 1:
        c = Matrix(c.data, c.row, size)
    if n == 1 and start.column != 0:
        start = Matrix(start.data, start.row, size)
    unit_stride = c.column == size
    fits = start.column == size or start.column == 0
    matrix_bytes = ceil_div(m * n * size, 64) * 64
    wanted = 0 if unit_stride and fits else 2 * matrix_bytes
    copies, memory = allocate(c.data, wanted)
    if wanted and is_null(memory):
        return NO_MEMORY
    result = c if unit_stride else Matrix(copies, n * size, size)
    if not fits:
        begin = Matrix(at(copies, matrix_bytes), n * size, size)
        copy_matrix(m, n, start, begin)
        start = begin
    if m == 1 and b.row == size and b.column != size:
        # one row times a Bᵀ: most of k without a copy, the rest as any product that goes on from there
        deep = k - k % lanes
        row_times_transposed(result, a, b, start, n, deep)
        start, k = result, k - deep
        a, b = Matrix(element(a, 0, deep), a.row, a.column), Matrix(element(b, deep, 0), b.row, b.column)
    status = blocked(result, a, b, start, m, n, k, activation, y if activation.code >= DERIVATIVE else result)
    if not unit_stride and status == OK:
        copy_matrix(m, n, result, c)
    if later and status == OK:
        matrix_epilogue(derivative, rows, columns, values, y)
    release(memory)
    return status


@compiled_kernel(
    lambda dtype: types.int64(*[types.Array(dtype, 2, "A", aligned=False)] * 5, *NUMBERS, *[types.int64] * 2),
    parallel=True,
)
def product_threads(c, a, b, start, y, code, number, other, small_n, n_threads):
    """`product` or, if narrow, `dot_products`, with the rows or columns of C on several threads."""
    (m, n), failed, activation = c.shape, 0, Activation(code, number, other)
    for p in prange(n_threads):
        if m >= n or small_n:
            rows = thread_range(p, n_threads, m)
            failed += serial_product(c[rows], a[rows], b, start[rows], y[rows], activation, small_n)
        else:
            columns = thread_range(p, n_threads, n)
            failed += serial_product(
                c[:, columns], a, b[:, columns], start[:, columns], y[:, columns], activation, small_n
            )
    return NO_MEMORY if failed else OK


@helper
def serial_product(c, a, b, start, y, activation, small_n):
    (m, n), k = c.shape, a.shape[1]
    if small_n:
        return dot_products(matrix(c), matrix(a), matrix(b), matrix(start), m, n, k, activation, matrix(y))
    return product(matrix(c), matrix(a), matrix(b), matrix(start), m, n, k, activation, matrix(y))


@helper
def parallel_product(c, a, b, start, m, n, k, activation, y, small_n, n_threads):
    """`product` or, if narrow, `dot_products`, in several parts at once where there are to be several."""
    if n_threads > 1:
        return product_threads(
            view(c, m, n),
            view(a, m, k),
            view(b, k, n),
            view(start, m, n),
            view(y, m, n),
            activation.code,
            activation.a,
            activation.b,
            small_n,
            n_threads,
        )
    if small_n:
        return dot_products(c, a, b, start, m, n, k, activation, y)
    return product(c, a, b, start, m, n, k, activation, y)


@helper
def forward_product(c, a, b, start, m, n, k, activation, n_threads):
    """`product` for B = W. A layer's width decides how a sum is made, so n must be the whole width."""
    return parallel_product(c, a, b, start, m, n, k, activation, c, n <= NARROW and k >= LONG, n_threads)


@helper
def input_product(c, a, b, start, m, n, k, activation, y, n_threads):
    """The same for B = Wᵀ, with the derivative of the activation before it, if any."""
    return parallel_product(c, a, b, start, m, n, k, activation, y, n <= 2 * NARROW and k >= LONG, n_threads)
