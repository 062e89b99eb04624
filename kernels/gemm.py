"""The one blocked product under the dense kernels: C = f(start + A B), any strides.

    A (m, k)   B (k, n)   C (m, n)   start (m, n): a matrix, or a row or column repeated, or zero repeated

Every element of C is one chain of fused multiply-adds, which begins with `start` and runs in the order of
the k summands. Blocks only interrupt a chain, they never split it: its value so far waits in C. So the
bits of an element do not depend on m, n, strides, blocks or the number of threads.

Tiles of C are summed in registers (`simd.multiply_tile`). Around them stand the loops of Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication" (2008), as in BLIS: blocks of B and A are
copied into panels when the copy pays, and read in place when it does not.
"""

import numpy as np
from numba import njit, types

from fastfc.kernels.activations import RELU, SIGMOID, TANH, sigmoid_row, tanh_row
from fastfc.kernels.edge import keep_alive, native
from fastfc.kernels.simd import (
    aligned,
    at,
    host_isa,
    infinity,
    itemsize,
    load,
    load_first,
    multiply_tile,
    read,
    store,
    tile_columns,
    tile_rows,
    transpose_block,
    width,
    write,
    zero,
)

# Summands per block. A panel of B of this depth and a tile's width stays in L2, and is read from there
# without delay: at 1024 no deeper than that, the tile's sums go to memory and back as rarely as can be.
DEPTH = 1024
# Rows and columns per block: the panels of A stay in L2 next to one of B, those of B in L3.
BLOCK_ROWS, BLOCK_COLUMNS = 448, 2048
# A matrix is read in place up to these bytes (half of an L2 cache), or if few tiles share it.
IN_PLACE_BYTES = 512 * 1024
IN_PLACE_TILES = 16


def tile(dtype=np.float32):
    """(rows, columns) of the register tile on this machine."""
    isa = host_isa()
    return isa.rows, isa.vectors * isa.vector_bytes // np.dtype(dtype).itemsize


@njit
def ceil_div(a, b):
    return (a + b - 1) // b


@njit
def pack(count, k, source, across, along, target, target_width):
    """target[p, i] = source[i * across + p * along] for i < count, p < k; rows of target_width elements."""
    size, lanes = itemsize(source), width(source)
    target_row = target_width * size
    for first in range(0, count, lanes):
        some = min(lanes, count - first)
        here, there = at(source, first * across), at(target, first * size)
        if across == size:
            if some == lanes:
                for p in range(k):
                    store(at(there, p * target_row), load(at(here, p * along)))
            else:
                for p in range(k):
                    store(at(there, p * target_row), load_first(at(here, p * along), some, 0.0))
        elif along == size:
            for p in range(0, k, lanes):
                deep = min(lanes, k - p)
                transpose_block(at(here, p * size), across, some, deep, at(there, p * target_row), target_row)
        else:
            for p in range(k):
                for i in range(some):
                    write(at(there, p * target_row + i * size), read(at(here, i * across + p * along)))


@njit
def copy_matrix(m, n, source, source_row, source_column, target, target_row, target_column):
    for i in range(m):
        for j in range(n):
            value = read(at(source, i * source_row + j * source_column))
            write(at(target, i * target_row + j * target_column), value)


@njit(inline="always")
def blocked(c, a, b, start, m, n, k, c_row, a_row, a_step, b_step, b_column, start_row, start_column, activation):
    """The product, for a C whose columns are neighbours.

    Tiles are of nearly equal height: 32 rows are 10 + 11 + 11, not 14 + 14 + 4.
    """
    size = itemsize(c)
    tiles = ceil_div(m, tile_rows(c))
    rows = ceil_div(m, tiles)
    columns = tile_columns(c, rows)
    block_tiles = BLOCK_ROWS // rows
    panel = ceil_div(rows, width(c)) * width(c)

    pack_b = b_column != size or (k * n * size > IN_PLACE_BYTES and tiles > IN_PLACE_TILES)
    pack_a = pack_b and m * k * size > IN_PLACE_BYTES and n > IN_PLACE_TILES * columns
    b_bytes = ceil_div(min(n, BLOCK_COLUMNS), columns) * columns * min(k, DEPTH) * size if pack_b else 0
    a_bytes = min(tiles, block_tiles) * panel * min(k, DEPTH) * size if pack_a else 0
    memory = np.empty(b_bytes + a_bytes + 64 if pack_b else 0, np.uint8)
    b_panels = aligned(memory, b)
    a_panels = at(b_panels, b_bytes)

    unbounded = -infinity(c)
    floor = read(zero(c)) if activation == RELU else unbounded
    for p in range(0, max(k, 1), DEPTH):
        deep = min(DEPTH, k - p)
        last = p + DEPTH >= k
        for j in range(0, n, BLOCK_COLUMNS):
            block_columns = min(BLOCK_COLUMNS, n - j)
            b_block = at(b, p * b_step + j * b_column)
            if pack_b:
                for q in range(0, block_columns, columns):
                    some = min(columns, block_columns - q)
                    pack(
                        some, deep, at(b_block, q * b_column), b_column, b_step, at(b_panels, q * deep * size), columns
                    )
            for t in range(0, tiles, block_tiles):
                block_end = min(tiles, t + block_tiles)
                if pack_a:
                    for u in range(t, block_end):
                        i, after = u * m // tiles, (u + 1) * m // tiles
                        a_tile = at(a, i * a_row + p * a_step)
                        pack(after - i, deep, a_tile, a_row, a_step, at(a_panels, (u - t) * panel * deep * size), panel)
                for q in range(0, block_columns, columns):
                    some = min(columns, block_columns - q)
                    b_tile, b_tile_step = at(b_block, q * size), b_step
                    if pack_b:
                        b_tile, b_tile_step = at(b_panels, q * deep * size), columns * size
                    for u in range(t, block_end):
                        i, after = u * m // tiles, (u + 1) * m // tiles
                        a_tile, a_tile_row, a_tile_step = at(a, i * a_row + p * a_step), a_row, a_step
                        if pack_a:
                            a_tile = at(a_panels, (u - t) * panel * deep * size)
                            a_tile_row, a_tile_step = size, panel * size
                        c_tile = at(c, i * c_row + (j + q) * size)
                        begin, begin_row, begin_column = c_tile, c_row, size
                        if p == 0:
                            begin = at(start, i * start_row + (j + q) * start_column)
                            begin_row, begin_column = start_row, start_column
                        multiply_tile(
                            after - i,
                            deep,
                            a_tile,
                            a_tile_row,
                            a_tile_step,
                            b_tile,
                            b_tile_step,
                            begin,
                            begin_row,
                            begin_column,
                            c_tile,
                            c_row,
                            some,
                            floor if last else unbounded,
                        )
                        if last and activation == SIGMOID:
                            for r in range(after - i):
                                sigmoid_row(some, at(c_tile, r * c_row), at(c_tile, r * c_row))
                        elif last and activation == TANH:
                            for r in range(after - i):
                                tanh_row(some, at(c_tile, r * c_row), at(c_tile, r * c_row))
    keep_alive(memory)


def product_signature(dtype):
    pointer_type = types.CPointer(dtype)
    return types.void(*[pointer_type] * 4, *[types.int64] * 12)


@native(product_signature)
def product(
    c, a, b, start, m, n, k, c_row, c_column, a_row, a_step, b_step, b_column, start_row, start_column, activation
):
    """C = f(start + A B); strides in bytes, steps are along k.

    start_column is the size of an element or 0; start may be C itself, to accumulate.
    """
    size = itemsize(c)
    if m == 0 or n == 0:
        return
    if n == 1:
        c_column = size
    if c_column != size and (c_row == size or m == 1):
        # C whose rows are neighbours is computed as its transpose, Cᵀ = Bᵀ Aᵀ
        a, b = b, a
        m, n = n, m
        a_row, a_step, b_step, b_column = b_column, b_step, a_step, a_row
        c_row, c_column = c_column, size
        start_row, start_column = start_column, start_row
    if n == 1 and start_column != 0:
        start_column = size
    direct = c_column == size and (start_column == size or start_column == 0)
    matrix = ceil_div(m * n * size, 64) * 64
    memory = np.empty(0 if direct else 2 * matrix + 64, np.uint8)
    result, result_row = c, c_row
    if not direct:
        result, result_row = aligned(memory, c), n * size
        copy_matrix(m, n, start, start_row, start_column, at(result, matrix), result_row, size)
        start, start_row, start_column = at(result, matrix), result_row, size
    blocked(
        result, a, b, start, m, n, k, result_row, a_row, a_step, b_step, b_column, start_row, start_column, activation
    )
    if not direct:
        copy_matrix(m, n, result, result_row, size, c, c_row, c_column)
    keep_alive(memory)
