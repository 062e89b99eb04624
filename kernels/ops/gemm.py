"""The one blocked product under the dense kernels: C = f(start + A B), any strides.

    A (m, k)   B (k, n)   C (m, n)   start (m, n): a matrix, or a row or column repeated, or zero repeated

Every element of C is one chain of fused multiply-adds, which begins with `start` and runs in the order of
the k summands. Blocks only interrupt a chain, they never split it: its value so far waits in C. So the
bits of an element do not depend on m, n, strides, blocks or the number of threads. Layers of very few
columns with long sums take another way, `dot_products`: many short chains side by side, added in a fixed
order. The layer's sizes alone decide which.

Tiles of C are summed in registers (`simd.microkernel.multiply_tile`). Around them stand the loops of Goto and van de
Geijn, "Anatomy of high-performance matrix multiplication" (2008), as in BLIS: blocks of B and A are
packed into micro-panels when that pays, and read in place when it does not. `gemm_plan` decides.
"""

from collections import namedtuple

import numpy as np
from numba import types

from fastfc.kernels.ops.activation_rules import (
    DERIVATIVE,
    IDENTITY,
    NONE,
    RELU,
    activation_type,
)
from fastfc.kernels.ops.epilogue import epilogue, matrix_epilogue
from fastfc.kernels.ops.gemm_plan import blocking, plan
from fastfc.kernels.ops.level1 import (
    ROWS_AT_ONCE,
    dot_products,
    few_summands,
    row_times_rows,
    rows_times_transposed,
)
from fastfc.kernels.ops.matrix import (
    Matrix,
    ceil_div,
    columns_from,
    copy_matrix,
    element,
    matrix_type,
    rows_from,
    transposed,
)
from fastfc.kernels.ops.narrow import is_narrow, narrow_rows
from fastfc.kernels.ops.packing import pack_micro_panels
from fastfc.kernels.runtime.native import compiled_kernel, on_demand_kernel
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.runtime.status import NO_MEMORY, OK
from fastfc.kernels.runtime.threads import thread_range
from fastfc.kernels.simd.compiler import helper, inlined_helper
from fastfc.kernels.simd.few_summands import AT_ONCE, FEW
from fastfc.kernels.simd.isa import LINE, host_isa
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, read, release, zero
from fastfc.kernels.simd.microkernel import multiply_tile
from fastfc.kernels.simd.squares import MANY_ROWS
from fastfc.kernels.simd.vector import infinity, width

# So few columns and so long sums are faster as dot products. Twice as many columns where B is Wᵀ, whose columns are
# rows in memory.
NARROW, LONG = 4, 64

# The sums of one row that fill more registers than these, but not a tile's eight, are faster in L1 than in a tile.
# That may need masks: with less than 64 bytes, to load a part of a register takes as long as two whole ones.
WIDE = 8 if host_isa().vector_bytes == 64 else 4

# So few rows of few summands are always faster than in tiles.
ROWS_OF_FEW = 64

# Rows of a batch that are summed in one chain.
CHUNK = 4096

# C (m, n) = f(start + A B), A (m, k), B (k, n).
Product = namedtuple("Product", ["c", "a", "b", "start", "m", "n", "k"])
# Columns j to j_end and summands p to p + kc of B, tiles t to t_end of A's rows; where the packed micro-panels are.
Block = namedtuple("Block", ["j", "j_end", "p", "kc", "t", "t_end", "a_panels", "b_panels"])


def product_type(dtype):
    return types.NamedTuple([*[matrix_type(dtype)] * 4, *[types.int64] * 3], Product)


def tile(dtype=np.float32):
    """(MR, NR): rows and columns of the register tile on this machine."""
    isa = host_isa()
    return isa.rows, isa.vectors * isa.vector_bytes // np.dtype(dtype).itemsize


@inlined_helper
def first_row(how, u):
    """Where tile u begins."""
    return u * how.short + min(u, how.tall)


@helper
def pack_a_block(x, how, block):
    """Tiles t to t_end of A's rows, each as a micro-panel: for each of kc summands the elements of its rows."""
    size = itemsize(x.a.data)
    for t, t_end in ((block.t, max(block.t, min(block.t_end, how.tall))), (max(block.t, how.tall), block.t_end)):
        # tiles of equal height; the first `tall` of them have one row more
        if t < t_end:
            i = first_row(how, t)
            panels = at(block.a_panels, (t - block.t) * how.a_width * block.kc * size)
            source = Matrix(element(x.a, i, block.p), x.a.row, x.a.column)
            rows = how.short + (t < how.tall)
            pack_micro_panels(source, (t_end - t) * rows, block.kc, rows, panels, how.a_width)


@helper
def pack_b_block(x, how, block):
    """Columns j to j_end of B, as micro-panels of NR columns: for each of kc summands a row of NR elements."""
    j = max(block.j, how.first_packed)
    source = Matrix(element(x.b, block.p, j), x.b.column, x.b.row)
    pack_micro_panels(source, block.j_end - j, block.kc, how.nr, block.b_panels, how.nr)


@inlined_helper
def what_comes_next(x, how, block, b_tile, u, q):
    """The lines that tile u of A's rows asks for: a pointer that takes b_tile's steps, and a second line's distance.

    They are of the columns to the right, if these are read in place or packed next. The tiles of a column share the
    work: the first asks for the first line of each row, and so on, so memory has the time of several tiles for it. A
    single tile asks for two lines.
    """
    size = itemsize(x.b.data)
    row_bytes, line = how.nr * size, (u - block.t) * LINE
    if q < how.first_packed and line <= row_bytes:  # rows that begin within a line end in one more
        return at(b_tile.data, row_bytes + line), LINE * (block.t_end - block.t == 1)
    if how.nc == how.nr and q + how.nr < x.n and x.b.row == size and x.b.column == block.kc * size and line < row_bytes:
        return at(element(x.b, block.p, q + how.nr), line), 0
    return b_tile.data, 0


@inlined_helper
def macro_kernel(x, how, block, activation, z):
    """C11 := f(C11 + A1 B1), tile by tile; from `start` instead of C11 where the sums begin.

    c.column and z.column are an element. f, if it is no ReLU, is applied to a tile or, if whole rows of C are
    complete and one piece of memory, to those. Other blocks of summands follow unless p + kc is k.
    """
    size, last = itemsize(x.c.data), block.p + block.kc >= x.k
    bound = -infinity(x.c.data)
    if last and activation.code == RELU:
        bound = read(zero(x.c.data))
    whole_rows = how.along_rows and x.n <= how.nc and x.c.row == x.n * size and z.row == x.c.row
    across, down = ceil_div(block.j_end - block.j, how.nr), block.t_end - block.t
    outer, inner = (down, across) if how.along_rows else (across, down)
    for v in range(outer):
        for w in range(inner):
            u, q = (block.t + v, block.j + w * how.nr) if how.along_rows else (block.t + w, block.j + v * how.nr)
            i, i_end, columns = first_row(how, u), first_row(how, u + 1), min(how.nr, block.j_end - q)
            a_tile = Matrix(element(x.a, i, block.p), x.a.row, x.a.column)
            if how.pack_a:
                panel_bytes = how.a_width * block.kc * size
                a_tile = Matrix(at(block.a_panels, (u - block.t) * panel_bytes), size, how.a_width * size)
            b_tile = Matrix(element(x.b, block.p, q), x.b.row, size)
            if q >= how.first_packed:
                first = max(block.j, how.first_packed)
                b_tile = Matrix(at(block.b_panels, (q - first) * block.kc * size), how.nr * size, size)
            c_tile = Matrix(element(x.c, i, q), x.c.row, size)
            start_tile = c_tile
            if block.p == 0:
                start_tile = Matrix(element(x.start, i, q), x.start.row, x.start.column)
            ahead, gap = what_comes_next(x, how, block, b_tile, u, q)
            multiply_tile(i_end - i, block.kc, a_tile, b_tile, start_tile, c_tile, columns, bound, ahead, gap)
            if last and not whole_rows:
                for r in range(i_end - i):
                    epilogue(activation, columns, element(c_tile, r, 0), element(z, i + r, q))
        if last and whole_rows:
            i, i_end = first_row(how, block.t + v), first_row(how, block.t + v + 1)
            epilogue(activation, (i_end - i) * x.n, element(x.c, i, 0), element(z, i, 0))


@inlined_helper
def blocked(x, activation, z):
    """C = f(start + A B) in blocks.

    c.column is an element, and start.column too, or 0; so is z.column, if a derivative reads z. The packed
    micro-panels are memory of this function, from a line's boundary on.
    """
    size = itemsize(x.c.data)
    how = plan(x.m, x.n, x.k, x.a, x.b, x.c.row, blocking(x.c.data))
    b_bytes = 0
    if how.first_packed < x.n:
        b_columns = ceil_div(min(x.n - how.first_packed, how.nc), how.nr) * how.nr
        b_bytes = ceil_div(b_columns * how.kc * size, 64) * 64
    a_bytes = min(how.tiles, how.mc) * how.a_width * how.kc * size if how.pack_a else 0
    b_panels, memory = allocate(x.c.data, b_bytes + a_bytes)
    if b_bytes + a_bytes > 0 and is_null(memory):
        return NO_MEMORY
    a_panels = at(b_panels, b_bytes)
    for p in range(0, max(x.k, 1), max(how.kc, 1)):
        # KC summands (loop 4 of the five)
        kc = min(how.kc, x.k - p)
        for j in range(0, x.n, how.nc):
            # NC columns of B and C (loop 5); the block of B goes to L3
            j_end = min(x.n, j + how.nc)
            if j_end > how.first_packed:
                pack_b_block(x, how, Block(j, j_end, p, kc, 0, 0, a_panels, b_panels))
            for t in range(0, how.tiles, how.mc):
                # MC rows of A and C (loop 3); the block of A goes to L2, where a single one stays
                block = Block(j, j_end, p, kc, t, min(how.tiles, t + how.mc), a_panels, b_panels)
                if how.pack_a and (j == 0 or how.tiles > how.mc):
                    pack_a_block(x, how, block)
                # loops 2 and 1: tiles
                macro_kernel(x, how, block, activation, z)
    release(memory)
    return OK


@helper
def from_summand(x, p, start):
    """What is left of a product when the first p summands have been added to `start`."""
    a, b = Matrix(element(x.a, 0, p), x.a.row, x.a.column), Matrix(element(x.b, p, 0), x.b.row, x.b.column)
    return Product(x.c, a, b, start, x.m, x.n, x.k - p)


@inlined_helper
def is_few(x, size, lanes):
    """Whether `few_summands` is faster than tiles."""
    if x.k < 1 or x.k > FEW or x.n < lanes:
        return False
    # of many rows, tiles are faster with AVX-512, and where columns are too few to go on without a test of the loop
    suits_many = x.n >= AT_ONCE * lanes and (x.k <= 2 or lanes * size < 64)
    return x.k == 1 or (x.b.column != size and (x.m <= ROWS_OF_FEW or suits_many))


@inlined_helper
def of_shape(x, activation, z):
    """The product in the way that suits its shape, for a C whose columns are neighbours; see `blocked`."""
    size, lanes = itemsize(x.c.data), width(x.c.data)
    if is_few(x, size, lanes) and activation.code == IDENTITY:
        return few_summands(x.c, x.a, x.b, x.start, x.m, x.n, x.k)
    is_transposed = x.a.column == size and x.b.row == size and x.b.column != size
    if is_transposed and x.m <= MANY_ROWS and x.k >= lanes:
        found = rows_times_transposed(x.c, x.a, x.b, x.start, x.m, x.n, x.k)
        if found != OK or activation.code == IDENTITY:
            return found
        x = from_summand(x, x.k, x.c)  # nothing is left but the activation
    elif (
        x.m == 1
        and x.b.column == size
        and x.n > WIDE * lanes
        and x.n != 8 * lanes
        and x.k * x.n * size > blocking(x.c.data).l1_bytes
    ):
        # C is more than the sums of a tile, and B comes from beyond L1
        p = x.k - x.k % ROWS_AT_ONCE
        row_times_rows(x.c, x.a, x.b, x.start, x.n, p)
        x = from_summand(x, p, x.c)
    return blocked(x, activation, z)


@inlined_helper
def as_transpose(c, a, b, m, n, k):
    """Whether Cᵀ = Bᵀ Aᵀ is computed: if rows of C are neighbours, or Bᵀ has few, or if fewer lanes are empty so."""
    size, lanes = itemsize(c.data), width(c.data)
    rows_unit_stride = c.column != size and (c.row == size or m == 1)
    fuller = a.row == size and b.column == size and 5 * m * ceil_div(n, lanes) > 6 * n * ceil_div(m, lanes)
    # few rows of Bᵀ times Aᵀ, which `rows_times_transposed` does not pack
    few_rows = a.column == size and b.row == size and n <= MANY_ROWS < m and k >= LONG
    # unless copying C is more than its few summands
    return few_rows or rows_unit_stride or (fuller and (c.row == size or k > lanes))


@inlined_helper
def in_unit_stride(x, activation, z):
    """The product with copies of C and `start` where their columns aren't neighbours."""
    c, start, size = x.c, x.start, itemsize(x.c.data)
    if x.n == 1:
        c = Matrix(c.data, c.row, size)
        if start.column != 0:
            start = Matrix(start.data, start.row, size)
    unit_stride, fits = c.column == size, start.column == size or start.column == 0
    matrix_bytes = ceil_div(x.m * x.n * size, 64) * 64
    nbytes = 0 if unit_stride and fits else 2 * matrix_bytes
    copies, memory = allocate(c.data, nbytes)
    if nbytes > 0 and is_null(memory):
        return NO_MEMORY
    result = c if unit_stride else Matrix(copies, x.n * size, size)
    if not fits:
        copy = Matrix(at(copies, matrix_bytes), x.n * size, size)
        copy_matrix(x.m, x.n, start, copy)
        start = copy
    product = Product(result, x.a, x.b, start, x.m, x.n, x.k)
    status = of_shape(product, activation, z if activation.code >= DERIVATIVE else result)
    if not unit_stride and status == OK:
        copy_matrix(x.m, x.n, result, c)
    release(memory)
    return status


@compiled_kernel(
    lambda dtype: types.int64(*[matrix_type(dtype)] * 4, *[types.int64] * 3, activation_type, matrix_type(dtype))
)
def product(c, a, b, start, m, n, k, activation, y):
    """C = f(start + A B), for matrices C (m, n), A (m, k), B (k, n).

    start (m, n) may be C itself, to accumulate; a stride of 0 repeats a row, a column or one number.
    With DERIVATIVE added to the activation's code, C = (start + A B) f′, f′ in terms of Y (m, n); else Y is not read.
    Returns OK or NO_MEMORY.
    """
    size = itemsize(c.data)
    if n == 1:
        c = Matrix(c.data, c.row, size)
    if is_narrow(c, a, start, y, m, n, k, activation):
        done = narrow_rows(c, a, b, start, (m, n, k), activation, y)
        c, a, y, m = rows_from(c, done), rows_from(a, done), rows_from(y, done), m - done
    if m == 0 or n == 0:
        return OK
    x = Product(c, a, b, start, m, n, k)
    swapped = as_transpose(c, a, b, m, n, k)
    if swapped:
        x = Product(transposed(c), transposed(b), transposed(a), transposed(start), n, m, k)
    later = activation.code >= DERIVATIVE and (swapped or c.column != size or y.column != size)
    status = in_unit_stride(x, NONE if later else activation, y)
    if later and status == OK:
        matrix_epilogue(activation, m, n, c, y)
    return status


@helper
def product_range(x, activation, y, small_n, index, n_threads):
    """`serial_product` of one range of the rows or columns of C."""
    if x.m >= x.n or small_n:
        first, last = thread_range(index, n_threads, x.m)
        c, a, start = rows_from(x.c, first), rows_from(x.a, first), rows_from(x.start, first)
        return serial_product(
            Product(c, a, x.b, start, last - first, x.n, x.k), activation, rows_from(y, first), small_n
        )
    first, last = thread_range(index, n_threads, x.n)
    c, b, start = columns_from(x.c, first), columns_from(x.b, first), columns_from(x.start, first)
    return serial_product(
        Product(c, x.a, b, start, x.m, last - first, x.k), activation, columns_from(y, first), small_n
    )


@inlined_helper
def serial_product(x, activation, y, small_n):
    if small_n:
        return dot_products(x.c, x.a, x.b, x.start, (x.m, x.n, x.k), activation, y)
    return product(x.c, x.a, x.b, x.start, x.m, x.n, x.k, activation, y)


@on_demand_kernel(
    lambda dtype: types.int64(product_type(dtype), activation_type, matrix_type(dtype), types.boolean, types.int64)
)
def threaded_product(x, activation, y, small_n, n_threads):
    """`product` or, if small_n, `dot_products`, on several threads."""
    return parallel(product_range, (x, activation, y, small_n), n_threads)


@inlined_helper
def parallel_product(x, activation, y, small_n, n_threads):
    """The same on several threads if there are to be several."""
    if n_threads > 1:
        return threaded_product(x, activation, y, small_n, n_threads)
    return serial_product(x, activation, y, small_n)


@inlined_helper
def forward_product(x, activation, n_threads):
    """`product` for B = W. A layer's width decides how a sum is made, so n must be the whole width."""
    return parallel_product(x, activation, x.c, x.n <= NARROW and x.k >= LONG, n_threads)


@inlined_helper
def input_product(x, activation, y, n_threads):
    """The same for B = Wᵀ, with the derivative of the activation before it, if any."""
    return parallel_product(x, activation, y, x.n <= 2 * NARROW and x.k >= LONG, n_threads)
