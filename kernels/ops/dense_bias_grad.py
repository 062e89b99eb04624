"""db (+)= column sums of g"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops.activation_rules import NONE
from fastfc.kernels.ops.gemm import CHUNK, product
from fastfc.kernels.ops.gemm_plan import blocking
from fastfc.kernels.ops.matrix import Matrix, ceil_div, copy_matrix, matrix, zeros
from fastfc.kernels.runtime.kernel import kernel
from fastfc.kernels.runtime.native import compiled_kernel, on_demand_kernel
from fastfc.kernels.runtime.overlap import overlaps
from fastfc.kernels.runtime.pool import parallel
from fastfc.kernels.runtime.status import BAD_SHAPE, NO_MEMORY, OK, OVERLAP, check
from fastfc.kernels.runtime.threads import AUTO, ELEMENT_WORK, is_tiny, resolve, shape, thread_range
from fastfc.kernels.simd.compiler import helper, inlined_helper
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, one, pointer, read, release, stack, write, zero
from fastfc.kernels.simd.transpose import add_columns, transpose_block
from fastfc.kernels.simd.vector import fetch, load, load_first, splat, store, store_first, sum_of_lanes, width

# Columns are summed side by side in so many registers, by one thread in its part of a batch.
REGISTERS = 4
# Of long batches, so many registers are shared by several chunks: one chain of additions is slower than memory.
ACCUMULATORS = 8
ACCUMULATORS_BYTES = ACCUMULATORS * 64
# Where rows are neighbours, squares are transposed, in turn from so many registers of columns: with 16 lanes one chain
# of additions is as fast as the squares, not with 8. From beyond L2 they are asked for so many bytes before.
IN_TURN, AHEAD_OF_SQUARES = 1 if host_isa().vector_bytes == 64 else 2, 1 << 8
SUMS_BYTES, SQUARE_BYTES = REGISTERS * 64, 16 * 64
# Of columns that lie a little apart, so many bytes are summed at once.
SPAN_BYTES = 1 << 12
# Short rows are asked for in their order in memory: the eight behind those that are added, so many bytes before or
# more, and the four behind of rows up to twice as long. Of longer ones, parts so many bytes within the rows are, then
# from the beginning of the next eight (Zen 5, AVX2, 4096 x 1024: 74 to 90 GB/s, 8000 x 1000: 42 to 57).
SHORT_ROW, AHEAD, AHEAD_IN_ROW = 1 << 11, 1 << 13, 1 << 10


@helper
def readable(n, o, row, size, nbytes):
    """Of how many rows `nbytes` can be read, more than they have: all but the last, whose end may be that of memory."""
    return max(0, n - ceil_div(nbytes - o * size, row)) if row >= o * size else 0


@helper
def sums_in_registers(g, n, o, row, out, accumulate):
    """out[j] (+)= Σ g[i, j] for a few registers of columns, from the first row to the last."""
    size, lanes = itemsize(g), width(g)
    step, here, some = lanes * size, g, o
    s0 = s1 = s2 = s3 = splat(g, 0.0)
    if accumulate:
        s0, s1 = load_first(out, some, 0.0), load_first(at(out, step), some - lanes, 0.0)
        s2 = load_first(at(out, 2 * step), some - 2 * lanes, 0.0)
        s3 = load_first(at(out, 3 * step), some - 3 * lanes, 0.0)
    # masks take more time than the additions; what whole registers read of other rows is not stored
    whole = readable(n, o, row, size, ceil_div(o, lanes) * step)
    if o <= lanes:
        for _ in range(whole):
            s0 = s0 + load(here)
            here = at(here, row)
    elif o <= 2 * lanes:
        for _ in range(whole):
            s0, s1 = s0 + load(here), s1 + load(at(here, step))
            here = at(here, row)
    else:
        whole = readable(n, o, row, size, 4 * step)
        for _ in range(whole):
            s0, s1 = s0 + load(here), s1 + load(at(here, step))
            s2, s3 = s2 + load(at(here, 2 * step)), s3 + load(at(here, 3 * step))
            here = at(here, row)
    for _ in range(n - whole):
        s0, s1 = s0 + load_first(here, some, 0.0), s1 + load_first(at(here, step), some - lanes, 0.0)
        s2 = s2 + load_first(at(here, 2 * step), some - 2 * lanes, 0.0)
        s3 = s3 + load_first(at(here, 3 * step), some - 3 * lanes, 0.0)
        here = at(here, row)
    store_first(out, s0, some)
    store_first(at(out, step), s1, some - lanes)
    store_first(at(out, 2 * step), s2, some - 2 * lanes)
    store_first(at(out, 3 * step), s3, some - 3 * lanes)


@helper
def chunks_at_once(o, lanes):
    """How many chunks `sums_of_whole_chunks` takes; 0 of rows that are too wide for it."""
    return ACCUMULATORS // (1 if o <= lanes else 2 if o <= 2 * lanes else 4) if o <= 4 * lanes else 0


@helper
def sums_of_whole_chunks(g, o, row, out, out_row):
    """The column sums of several chunks of CHUNK rows, each into a row of `out`, their rows in turn."""
    size, lanes = itemsize(g), width(g)
    step, chunks = lanes * size, chunks_at_once(o, lanes)
    across = ACCUMULATORS // chunks  # registers of a row
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = splat(g, 0.0)
    # register i has the columns from (i % across) on of chunk i // across
    g1, g2 = register_at(g, 1, across, row, step), register_at(g, 2, across, row, step)
    g3, g4 = register_at(g, 3, across, row, step), register_at(g, 4, across, row, step)
    g5, g6 = register_at(g, 5, across, row, step), register_at(g, 6, across, row, step)
    g7 = register_at(g, 7, across, row, step)
    whole = readable(CHUNK, o, row, size, across * step)
    for r in range(0, whole * row, row):
        s0, s1, s2, s3 = s0 + load(at(g, r)), s1 + load(at(g1, r)), s2 + load(at(g2, r)), s3 + load(at(g3, r))
        s4, s5, s6, s7 = s4 + load(at(g4, r)), s5 + load(at(g5, r)), s6 + load(at(g6, r)), s7 + load(at(g7, r))
    sums = stack(g, ACCUMULATORS_BYTES)
    store(sums, s0)
    store(at(sums, step), s1)
    store(at(sums, 2 * step), s2)
    store(at(sums, 3 * step), s3)
    store(at(sums, 4 * step), s4)
    store(at(sums, 5 * step), s5)
    store(at(sums, 6 * step), s6)
    store(at(sums, 7 * step), s7)
    for i in range(ACCUMULATORS):
        s, first, here = load(at(sums, i * step)), i % across * lanes, register_at(g, i, across, row, step)
        for r in range(whole, CHUNK):
            s = s + load_first(at(here, r * row), o - first, 0.0)
        store_first(at(out, i // across * out_row + first * size), s, o - first)


@helper
def register_at(g, i, across, row, step):
    return at(g, i // across * CHUNK * row + i % across * step)


@helper
def four_rows(total, g, row):
    """total + the elements at `g` and in the three rows behind it, in order."""
    g2 = at(g, 2 * row)
    return total + load(g) + load(at(g, row)) + load(g2) + load(at(g2, row))


@helper
def eight_rows(total, g, row):
    return four_rows(four_rows(total, g, row), at(g, 4 * row), row)


@helper
def fetch_bytes(g, nbytes):
    for line in range(0, nbytes, 64):
        fetch(at(g, line))


@helper
def fetch_eight_rows(g, row):
    g2, g4, g6 = at(g, 2 * row), at(g, 4 * row), at(g, 6 * row)
    fetch(g)
    fetch(at(g, row))
    fetch(g2)
    fetch(at(g2, row))
    fetch(g4)
    fetch(at(g4, row))
    fetch(g6)
    fetch(at(g6, row))


@helper
def sums_by_rows(g, n, o, row, out, accumulate):
    """out[j] (+)= Σ g[i, j], 4 or 8 rows at a time from the first column to the last: memory is read in order."""
    size, lanes = itemsize(g), width(g)
    step, whole, has_gaps = lanes * size, o - o % lanes, row - o * size >= lanes * size
    if not accumulate:
        for x in range(0, whole * size, step):
            store(at(out, x), splat(g, 0.0))
        store_first(at(out, whole * size), splat(g, 0.0), o - whole)
    for i in range(0, n, 8):
        src, rows = at(g, i * row), min(8, n - i)
        if rows < 8:
            for x in range(0, whole * size, step):
                total = load(at(out, x))
                for r in range(rows):
                    total = total + load(at(src, x + r * row))
                store(at(out, x), total)
        elif row <= SHORT_ROW and not has_gaps:
            behind = at(src, max(8 * row, AHEAD))
            for x in range(0, whole * size, step):
                fetch_bytes(at(behind, 8 * x), 8 * step)
                store(at(out, x), eight_rows(load(at(out, x)), at(src, x), row))
        elif row <= 2 * SHORT_ROW and not has_gaps:
            for four in (src, at(src, 4 * row)):
                behind = at(four, 4 * row)
                for x in range(0, whole * size, step):
                    fetch_bytes(at(behind, 4 * x), 4 * step)
                    store(at(out, x), four_rows(load(at(out, x)), at(four, x), row))
        else:
            for x in range(0, whole * size, step):
                ahead = x + AHEAD_IN_ROW
                # a part of the columns goes on in the next eight rows
                fetch_eight_rows(at(src, ahead if ahead < o * size else ahead - o * size + 8 * row), row)
                store(at(out, x), eight_rows(load(at(out, x)), at(src, x), row))
        if whole < o:
            x, n_left = whole * size, o - whole
            total = load_first(at(out, x), n_left, 0.0)
            for r in range(rows):
                total = total + load_first(at(src, x + r * row), n_left, 0.0)
            store_first(at(out, x), total, n_left)


@helper
def vector_sum(n, x):
    """Σ x[p]: element p is added to lane p, modulo four registers; then the lanes are added."""
    size, lanes = itemsize(x), width(x)
    step = lanes * size
    s0 = s1 = s2 = s3 = splat(x, 0.0)
    for p in range(0, n, 4 * lanes):
        src, n_left = at(x, p * size), n - p
        if n_left >= 4 * lanes:
            s0, s1 = s0 + load(src), s1 + load(at(src, step))
            s2, s3 = s2 + load(at(src, 2 * step)), s3 + load(at(src, 3 * step))
        else:
            s0, s1 = s0 + load_first(src, n_left, 0.0), s1 + load_first(at(src, step), n_left - lanes, 0.0)
            s2 = s2 + load_first(at(src, 2 * step), n_left - 2 * lanes, 0.0)
            s3 = s3 + load_first(at(src, 3 * step), n_left - 3 * lanes, 0.0)
    return sum_of_lanes((s0 + s1) + (s2 + s3))


@helper
def copy_or_clear(source, source_step, n, target, target_step, wanted):
    """target[:] = source[:] if wanted, else zero; steps are bytes."""
    for j in range(n):
        value = read(at(source, j * source_step)) if wanted else read(zero(source))
        write(at(target, j * target_step), value)


@helper
def sum_of_one_column(g, out, accumulate):
    n, row, x, size = g.shape[0], g.strides[0], pointer(g), g.itemsize
    wanted = 0 if row == size else n * size
    copy, memory = allocate(x, wanted)
    if wanted and is_null(memory):
        return NO_MEMORY
    if wanted:
        copy_matrix(1, n, Matrix(x, 0, row), Matrix(copy, 0, size))
        x = copy
    total = vector_sum(n, x)
    out[0] = out[0] + total if accumulate else total
    release(memory)
    return OK


@compiled_kernel(
    lambda dtype: types.int64(types.CPointer(dtype), *[types.int64] * 3, types.CPointer(dtype), types.int64)
)
def sums_of_neighbours(g, n, o, row, out, accumulate):
    """out[j] (+)= Σ g[i, j] over at most CHUNK rows, whose columns are neighbours, as those of out are."""
    if o <= REGISTERS * width(g):
        sums_in_registers(g, n, o, row, out, accumulate)
    else:
        sums_by_rows(g, n, o, row, out, accumulate)
    return OK


@helper
def are_neighbours(g, out):
    """Whether `sums_of_neighbours` can sum these."""
    n, o = g.shape
    return n > 0 and o > 1 and g.strides[1] == out.itemsize and out.strides[0] == out.itemsize


@on_demand_kernel(
    lambda dtype: types.int64(
        types.CPointer(dtype), *[types.int64] * 3, types.CPointer(dtype), types.int64, types.int64
    )
)
def sums_of_rows(g, n, o, column, out, out_step, accumulate):
    """out[j] (+)= Σ g[i, j] over at most CHUNK rows that are neighbours: squares are transposed in registers.

    From one column of g to the next are `column` bytes, and `out_step` between elements of out.
    """
    size, lanes = itemsize(g), width(g)
    step, whole = lanes * size, (n - n % lanes) * size
    sums, square = stack(g, SUMS_BYTES), stack(g, SQUARE_BYTES)
    far = IN_TURN == 1 and n * o * size > blocking(g).l2_bytes // 2
    for j in range(0, o, IN_TURN * lanes):
        src, some = at(g, j * column), min(IN_TURN * lanes, o - j)
        there = at(out, j * out_step)
        copy_or_clear(there, out_step, some, sums, size, accumulate)
        s0, s1 = load(sums), load(at(sums, step))
        if some > lanes:
            other = at(src, lanes * column)
            for p in range(0, whole, step):
                s0 = add_columns(s0, at(src, p), column, lanes)
                s1 = add_columns(s1, at(other, p), column, some - lanes)
        else:
            for p in range(0, whole, step):
                if far:
                    for r in range(lanes):
                        fetch(at(src, p + AHEAD_OF_SQUARES + r * column))
                s0 = add_columns(s0, at(src, p), column, some)
        store(sums, s0)
        store(at(sums, step), s1)
        if whole < n * size:
            for first in range(0, some, lanes):
                total = load(at(sums, first * size))
                last_rows = at(src, first * column + whole)
                transpose_block(last_rows, column, min(lanes, some - first), n % lanes, square, step)
                for p in range(0, n % lanes * step, step):
                    total = total + load(at(square, p))
                store(at(sums, first * size), total)
        copy_or_clear(sums, size, some, there, out_step, 1)
    return OK


@on_demand_kernel(
    lambda dtype: types.int64(
        types.CPointer(dtype), *[types.int64] * 4, types.CPointer(dtype), types.int64, types.int64
    )
)
def sums_of_every_nth(g, n, o, row, column, out, out_step, accumulate):
    """out[j] (+)= Σ g[i, j] over at most CHUNK rows, of whose columns up to a register is one: all are summed.

    What lies between two columns is in the same cache lines or the next, and so may be read.
    """
    size, step, at_once, sums = itemsize(g), width(g) * itemsize(g), SPAN_BYTES // column, stack(g, SPAN_BYTES)
    for j in range(0, o, at_once):
        some, there = min(at_once, o - j), at(out, j * out_step)
        span = (some - 1) * column // size + 1
        for q in range(0, span * size, step):
            store(at(sums, q), splat(g, 0.0))
        copy_or_clear(there, out_step, some, sums, column, accumulate)
        sums_of_neighbours(at(g, j * column), n, span, row, sums, accumulate)
        copy_or_clear(sums, column, some, there, out_step, 1)
    return OK


@helper
def column_sums(g, out, accumulate):
    """out (+)= the column sums of at most CHUNK rows."""
    n, o = g.shape
    if are_neighbours(g, out):
        return sums_of_neighbours(pointer(g), n, o, g.strides[0], pointer(out), accumulate)
    if o == 1:
        return sum_of_one_column(g, out, accumulate)
    (row, column), size, first, there, out_step = g.strides, g.itemsize, pointer(g), pointer(out), out.strides[0]
    if row == size and n > 1:
        return sums_of_rows(first, n, o, column, there, out_step, accumulate)
    if column < 0:  # from the last column to the first
        first, there = at(first, (o - 1) * column), at(there, (o - 1) * out_step)
        column, out_step = -column, -out_step
    if n > 0 and 0 < column <= width(first) * size and column % size == 0:
        return sums_of_every_nth(first, n, o, row, column, there, out_step, accumulate)
    # any strides: a row of ones times g; 1 x + s rounds as s + x does
    sums = Matrix(pointer(out), 0, out.strides[0])
    ones = Matrix(one(sums.data), 0, 0)
    return product(sums, ones, matrix(g), sums if accumulate else zeros(sums), 1, o, n, NONE, sums)


@helper
def copy_vector(source, target):
    """target[:] = source, for which Numba compiles its formatting of strings as well, into the message of an error."""
    for j in range(len(target)):
        target[j] = source[j]


@helper
def add_chunk(total, rest, chunk):
    """total + rest += chunk; what rounding takes from the total is added to the rest (Neumaier 1974)."""
    for j in range(len(total)):
        old, new = total[j], chunk[j]
        total[j] = old + new
        known = total[j] - old
        rest[j] += (old - (total[j] - known)) + (new - known)


@helper
def add_rest(total, rest, out):
    """out = total + rest; where the total is not finite, the rest is NaN."""
    for j in range(len(total)):
        out[j] = total[j] + rest[j] if np.isfinite(total[j]) else total[j]


@helper
def chunk_sums(grad_output, start, partials, accumulate, first, last):
    """partials[q - first] = the column sums of chunk q, from the first to the last - 1; chunk 0 is added to `start`."""
    (n, o), size, q, found = grad_output.shape, grad_output.itemsize, first, OK
    row, out_row = grad_output.strides[0], partials.strides[0]
    at_once = chunks_at_once(o, width(pointer(grad_output))) if o > 1 and grad_output.strides[1] == size and row else 0
    while q < last:
        begin, chunk, out = accumulate and q == 0, grad_output[q * CHUNK : min(n, (q + 1) * CHUNK)], partials[q - first]
        if at_once and not begin and q + at_once <= last and (q + at_once) * CHUNK <= n:
            sums_of_whole_chunks(pointer(chunk), o, row, pointer(out), out_row)
            q += at_once
        else:
            if begin:
                copy_vector(start, out)
            found += column_sums(chunk, out, begin)
            q += 1
    return NO_MEMORY if found else OK


@helper
def sum_in_chunks(grad_output, out, accumulate):
    """out (+)= the column sums, by chunks of CHUNK rows, in order."""
    n, o = grad_output.shape
    if o == 0:  # of which there may be more rows than a loop could pass
        return OK
    if n <= CHUNK:
        return column_sums(grad_output, out, accumulate)
    # the sum grows beside out, which stays as it is if memory runs out on the way
    total, rest, partials = np.empty(o, out.dtype), np.zeros(o, out.dtype), np.empty((ACCUMULATORS, o), out.dtype)
    chunks = ceil_div(n, CHUNK)
    for first in range(0, chunks, ACCUMULATORS):
        last = min(chunks, first + ACCUMULATORS)
        if chunk_sums(grad_output, out, partials, accumulate, first, last) != OK:
            return NO_MEMORY
        if first == 0:
            copy_vector(partials[0], total)
        for q in range(max(first, 1), last):
            add_chunk(total, rest, partials[q - first])
    add_rest(total, rest, out)
    return OK


@helper
def sums_of_columns(grad_output, out, accumulate, index, n_threads):
    """The column sums of one range of the columns."""
    first, last = thread_range(index, n_threads, out.size)
    return sum_in_chunks(grad_output[:, first:last], out[first:last], accumulate)


@helper
def sums_of_chunks(grad_output, start, partials, accumulate, index, n_threads):
    """The sums of one range of the chunks."""
    chunks = partials.shape[0]
    first, last = chunks * index // n_threads, chunks * (index + 1) // n_threads
    return chunk_sums(grad_output, start, partials[first:last], accumulate, first, last)


@helper
def sum_on_threads(grad_output, out, accumulate, n_threads):
    """As sum_in_chunks, on several threads, that have some columns each or, of a long batch, some chunks."""
    n, o = grad_output.shape
    chunks = max(1, ceil_div(n, CHUNK))
    if chunks < n_threads or o == 0:
        return parallel(sums_of_columns, (grad_output, out, accumulate), n_threads)
    partials, rest = np.empty((chunks, o), out.dtype), np.zeros(o, out.dtype)
    found = parallel(sums_of_chunks, (grad_output, out, partials, accumulate), n_threads)
    if found == OK:
        for q in range(1, chunks):
            add_chunk(partials[0], rest, partials[q])
        add_rest(partials[0], rest, out)
    return found


@on_demand_kernel(
    lambda dtype: types.int64(
        types.Array(dtype, 2, "A", readonly=True, aligned=False),
        types.Array(dtype, 1, "A", aligned=False),
        types.int64,
        types.int64,
    )
)
def sums_of_any(grad_output, out, accumulate, n_threads):
    """out (+)= the column sums of any batch, on any number of threads."""
    if n_threads > 1:
        return sum_on_threads(grad_output, out, accumulate, n_threads)
    return sum_in_chunks(grad_output, out, accumulate)


@inlined_helper
def bias_grad(grad_output, out, accumulate, n_threads):
    """out (+)= the column sums, for arrays that are known to fit."""
    n, o = grad_output.shape
    if n_threads <= 1 and n <= CHUNK and are_neighbours(grad_output, out):
        return sums_of_neighbours(pointer(grad_output), n, o, grad_output.strides[0], pointer(out), accumulate)
    return sums_of_any(grad_output, out, accumulate, n_threads)


@kernel("grad_output[n, o] -> out[o]", types.int64, types.int64)
def _dense_bias_grad(grad_output, out, accumulate, n_threads):
    if out.size != grad_output.shape[1]:
        return BAD_SHAPE
    if overlaps(out, grad_output):
        return OVERLAP
    return bias_grad(grad_output, out, accumulate, n_threads)


ONE = np.empty(1)  # stands for the other factor of a product


def run(grad_output, out, accumulate, n_threads):
    if is_tiny(n_threads, grad_output, ONE, 0):
        _dense_bias_grad.call(grad_output, out, accumulate, 1)
        return
    n_threads = resolve(n_threads, _dense_bias_grad.name, ELEMENT_WORK * math.prod(shape(grad_output)))
    _dense_bias_grad.call(grad_output, out, accumulate, n_threads)


def dense_bias_grad(grad_output: ArrayLike, out: NDArray[Any], n_threads: int | str = AUTO) -> None:
    """out[j] = Σᵢ grad_output[i, j]

    Parameters
    ----------
    grad_output : (n, o) float32 or float64, any strides
    out : (o,), same dtype, any stride, overwritten and never read; must not overlap grad_output
    n_threads : int, at most this many threads, or "auto", as many as pay; the bits are the same for any number

    The rows are added in order; of more than gemm.CHUNK rows, each CHUNK for itself, and the sums in order, without
    loss. A single column is summed in lanes, see vector_sum.
    """
    run(grad_output, out, 0, n_threads)


def dense_add_bias_grad(grad_output: ArrayLike, out: NDArray[Any], n_threads: int | str = AUTO) -> None:
    """out[j] += Σᵢ grad_output[i, j]; see dense_bias_grad."""
    run(grad_output, out, 1, n_threads)


@overload(dense_bias_grad)
def nopython_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 0, 1))


@overload(dense_add_bias_grad)
def nopython_add_bias_grad(grad_output, out):
    return lambda grad_output, out: check(_dense_bias_grad(grad_output, out, 1, 1))
