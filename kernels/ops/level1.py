"""Products of few rows or columns: dot products, outer products, and few rows times a matrix in its order."""

from numba import types

from fastfc.kernels.ops.activation_rules import DERIVATIVE, IDENTITY, activation_type
from fastfc.kernels.ops.activations import apply
from fastfc.kernels.ops.epilogue import matrix_epilogue
from fastfc.kernels.ops.gemm_plan import blocking
from fastfc.kernels.ops.matrix import Matrix, ceil_div, columns_from, copy_matrix, element, matrix_type, rows_from
from fastfc.kernels.ops.packing import pack
from fastfc.kernels.runtime.native import named_after, on_demand_kernel
from fastfc.kernels.runtime.status import NO_MEMORY, OK
from fastfc.kernels.simd.compiler import helper
from fastfc.kernels.simd.few_summands import multiply_few
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.memory import allocate, at, is_null, itemsize, offset_in, read, release, stack, write
from fastfc.kernels.simd.squares import ALIASING, LAG, NARROW_BYTES, across, multiply_squares
from fastfc.kernels.simd.vector import fetch, fma, load, load_first, splat, store, store_first, sum_of_lanes, width

# Rows of B that are read side by side for one row.
ROWS_AT_ONCE = 8

# Columns of Bᵀ that are so long are read from the boundary of a register on, lest most loads need two lines.
ALIGNED_FROM = 1 << 10

# Whether there are registers for eight dot products, of which each has two (with 16 of them: 0.9 to 1.1 times as fast).
EIGHT_DOTS = host_isa().registers >= 32

# Rows for dot products with a single column are asked for four rows before they are read, and at least so many bytes: a
# processor foresees the row behind each of four, which is one of them (Zen 5, 4096 x 512 x 1: 125 to 111 us).
AHEAD = 1 << 13

# The copies for so few dot products are on the stack: a small network predicts one sample without allocating.
STACK_BYTES = 1 << 13

# Of a few summands, so much of B stays in L1, and is copied before if its columns are no neighbours.
PANEL_BYTES = 1 << 14


def times_transposed(rows):
    """A kernel: C = start + A B for so many rows, whose columns are neighbours, and a B whose rows are.

    At least one register of summands, and start's columns are neighbours or the same.
    """
    multiply, multiply_some = multiply_squares(rows)
    n_across = across(host_isa(), rows)

    def some(c, a, b, start, n, p, first, last):
        """C = start + A B for summands p + first to p + last, of the register from p on."""
        size, lanes = itemsize(c.data), width(c.data)
        for q in range(0, n, lanes):
            b_q, start_q, c_q = Matrix(element(b, p, q), b.row, b.column), columns_from(start, q), columns_from(c, q)
            multiply_some(first * size, last * size, columns_from(a, p), b_q, start_q, c_q, n - q)

    some = helper(named_after(some, rows))

    def run(c, a, b, start, n, k):
        size, lanes = itemsize(c.data), width(c.data)
        head = 0
        if b.column % (lanes * size) == 0 and k * size >= ALIGNED_FROM:
            head = (lanes - offset_in(b.data, lanes * size) // size) % lanes
        nbytes = (k - head) // lanes * lanes * size
        rest = k - head - nbytes // size
        lag = LAG if b.column % ALIASING == 0 and nbytes > LAG else 0
        j = 0
        while j < n:
            b_j, c_j, start_j, in_band = columns_from(b, j), columns_from(c, j), columns_from(start, j), n - j
            if in_band > n_across * lanes + NARROW_BYTES // size:
                in_band = n_across * lanes
            if head:
                some(c_j, a, b_j, start_j, in_band, 0, 0, head)
                start_j = c_j
            multiply(nbytes, lag, columns_from(a, head), rows_from(b_j, head), start_j, c_j, in_band)
            if rest:
                some(c_j, a, b_j, c_j, in_band, k - lanes, lanes - rest, lanes)
            j += in_band
        return OK

    run.__name__ = f"times_transposed_{rows}"
    signature = lambda dtype: types.int64(*[matrix_type(dtype)] * 4, *[types.int64] * 2)
    return on_demand_kernel(signature)(named_after(run, rows))


one_row, two_rows, three_rows, four_rows = (times_transposed(rows) for rows in range(1, 5))
five_rows, six_rows, seven_rows, eight_rows = (times_transposed(rows) for rows in range(5, 9))


@on_demand_kernel(lambda dtype: types.int64(*[matrix_type(dtype)] * 4, *[types.int64] * 3))
def rows_times_transposed(c, a, b, start, m, n, k):
    """C = start + A B for one to eight rows, see times_transposed: each number of rows is compiled when it is met."""
    if m == 1:
        return one_row(c, a, b, start, n, k)
    if m == 2:
        return two_rows(c, a, b, start, n, k)
    if m == 3:
        return three_rows(c, a, b, start, n, k)
    if m == 4:
        return four_rows(c, a, b, start, n, k)
    if m == 5:
        return five_rows(c, a, b, start, n, k)
    if m == 6:
        return six_rows(c, a, b, start, n, k)
    if m == 7:
        return seven_rows(c, a, b, start, n, k)
    return eight_rows(c, a, b, start, n, k)


@on_demand_kernel(lambda dtype: types.int64(*[matrix_type(dtype)] * 4, *[types.int64] * 2))
def row_times_rows(c, a, b, start, n, k):
    """C = start + A B for one row and a B whose columns are neighbours, in its order; k a multiple of ROWS_AT_ONCE."""
    size, lanes = itemsize(c.data), width(c.data)
    copy_matrix(1, n, start, c)
    whole = n - n % lanes
    for p in range(0, k, ROWS_AT_ONCE):
        a0, a1 = splat(c.data, read(element(a, 0, p))), splat(c.data, read(element(a, 0, p + 1)))
        a2, a3 = splat(c.data, read(element(a, 0, p + 2))), splat(c.data, read(element(a, 0, p + 3)))
        a4, a5 = splat(c.data, read(element(a, 0, p + 4))), splat(c.data, read(element(a, 0, p + 5)))
        a6, a7 = splat(c.data, read(element(a, 0, p + 6))), splat(c.data, read(element(a, 0, p + 7)))
        b0, r = element(b, p, 0), b.row
        b2, b4, b6 = at(b0, 2 * r), at(b0, 4 * r), at(b0, 6 * r)
        for x in range(0, whole * size, lanes * size):
            y = x + r
            s = load(at(c.data, x))
            s = fma(a1, load(at(b0, y)), fma(a0, load(at(b0, x)), s))
            s = fma(a3, load(at(b2, y)), fma(a2, load(at(b2, x)), s))
            s = fma(a5, load(at(b4, y)), fma(a4, load(at(b4, x)), s))
            s = fma(a7, load(at(b6, y)), fma(a6, load(at(b6, x)), s))
            store(at(c.data, x), s)
        if whole < n:
            x, n_left = whole * size, n - whole
            y = x + r
            s = load_first(at(c.data, x), n_left, 0.0)
            s = fma(a1, load_first(at(b0, y), n_left, 0.0), fma(a0, load_first(at(b0, x), n_left, 0.0), s))
            s = fma(a3, load_first(at(b2, y), n_left, 0.0), fma(a2, load_first(at(b2, x), n_left, 0.0), s))
            s = fma(a5, load_first(at(b4, y), n_left, 0.0), fma(a4, load_first(at(b4, x), n_left, 0.0), s))
            s = fma(a7, load_first(at(b6, y), n_left, 0.0), fma(a6, load_first(at(b6, x), n_left, 0.0), s))
            store_first(at(c.data, x), s, n_left)
    return OK


@on_demand_kernel(lambda dtype: types.int64(*[matrix_type(dtype)] * 4, *[types.int64] * 3))
def few_summands(c, a, b, start, m, n, k):
    """C = start + A B for 1 to FEW summands and a C whose columns are neighbours; those of start are, or are one."""
    size, lanes, panel = itemsize(c.data), width(c.data), stack(c.data, PANEL_BYTES)
    at_once = PANEL_BYTES // (k * size) // lanes * lanes
    for j in range(0, n, at_once):
        columns, b_j = min(at_once, n - j), columns_from(b, j)
        if b.column != size:
            pack(b_j.data, columns, k, b.column, b.row, panel, at_once)
            b_j = Matrix(panel, at_once * size, size)
        multiply_few((m, columns, k), a, b_j, columns_from(start, j), columns_from(c, j))
    return OK


@helper
def dot(k, x, y):
    """Σ x[p] y[p]: summand p goes to lane p, modulo two registers; then the lanes are added."""
    size, lanes = itemsize(x), width(x)
    step, rest = lanes * size, k % (2 * lanes)
    s = t = splat(x, 0.0)
    for p in range(0, (k - rest) * size, 2 * step):
        s = fma(load(at(x, p)), load(at(y, p)), s)
        t = fma(load(at(x, p + step)), load(at(y, p + step)), t)
    p, more = (k - rest) * size, rest - lanes
    s = fma(load_first(at(x, p), rest, 0.0), load_first(at(y, p), rest, 0.0), s)
    t = fma(load_first(at(x, p + step), more, 0.0), load_first(at(y, p + step), more, 0.0), t)
    return sum_of_lanes(s + t)


def dots_of_four(far):
    """`dot` for four rows; far ones come from beyond L2, and those some bytes ahead are asked for."""

    def four_dots(k, x, x1, x2, x3, y, ahead):
        """The same for four rows: they share y, and no sum has to wait for itself. Far ones are asked for before."""
        size, lanes = itemsize(x), width(x)
        step, rest = lanes * size, k % (2 * lanes)
        s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = splat(x, 0.0)
        for p in range(0, (k - rest) * size, 2 * step):
            q, u, v = p + step, load(at(y, p)), load(at(y, p + step))
            if far:
                for line in range(p + ahead, p + ahead + 2 * step, 64):
                    fetch(at(x, line))
                    fetch(at(x1, line))
                    fetch(at(x2, line))
                    fetch(at(x3, line))
            s0, t0 = fma(load(at(x, p)), u, s0), fma(load(at(x, q)), v, t0)
            s1, t1 = fma(load(at(x1, p)), u, s1), fma(load(at(x1, q)), v, t1)
            s2, t2 = fma(load(at(x2, p)), u, s2), fma(load(at(x2, q)), v, t2)
            s3, t3 = fma(load(at(x3, p)), u, s3), fma(load(at(x3, q)), v, t3)
        if rest:
            p, more = (k - rest) * size, rest - lanes
            q, u, v = p + step, load_first(at(y, p), rest, 0.0), load_first(at(y, p + step), more, 0.0)
            s0, t0 = fma(load_first(at(x, p), rest, 0.0), u, s0), fma(load_first(at(x, q), more, 0.0), v, t0)
            s1, t1 = fma(load_first(at(x1, p), rest, 0.0), u, s1), fma(load_first(at(x1, q), more, 0.0), v, t1)
            s2, t2 = fma(load_first(at(x2, p), rest, 0.0), u, s2), fma(load_first(at(x2, q), more, 0.0), v, t2)
            s3, t3 = fma(load_first(at(x3, p), rest, 0.0), u, s3), fma(load_first(at(x3, q), more, 0.0), v, t3)
        else:  # as the sum of no products, which makes −0 from underflow +0
            none = splat(x, 0.0)
            s0, s1, s2, s3 = s0 + none, s1 + none, s2 + none, s3 + none
            t0, t1, t2, t3 = t0 + none, t1 + none, t2 + none, t3 + none
        return sum_of_lanes(s0 + t0), sum_of_lanes(s1 + t1), sum_of_lanes(s2 + t2), sum_of_lanes(s3 + t3)

    return helper(named_after(four_dots, far))


four_dots, four_far_dots = dots_of_four(far=False), dots_of_four(far=True)


@helper
def eight_dots(k, x, x1, x2, x3, y, z):
    """The same for four rows and two columns, which share what is loaded."""
    size, lanes = itemsize(x), width(x)
    step, rest = lanes * size, k % (2 * lanes)
    s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = splat(x, 0.0)
    e0 = e1 = e2 = e3 = f0 = f1 = f2 = f3 = splat(x, 0.0)
    for p in range(0, (k - rest) * size, 2 * step):
        q = p + step
        u, v, w, r = load(at(y, p)), load(at(y, q)), load(at(z, p)), load(at(z, q))
        a, b = load(at(x, p)), load(at(x, q))
        s0, t0, e0, f0 = fma(a, u, s0), fma(b, v, t0), fma(a, w, e0), fma(b, r, f0)
        a, b = load(at(x1, p)), load(at(x1, q))
        s1, t1, e1, f1 = fma(a, u, s1), fma(b, v, t1), fma(a, w, e1), fma(b, r, f1)
        a, b = load(at(x2, p)), load(at(x2, q))
        s2, t2, e2, f2 = fma(a, u, s2), fma(b, v, t2), fma(a, w, e2), fma(b, r, f2)
        a, b = load(at(x3, p)), load(at(x3, q))
        s3, t3, e3, f3 = fma(a, u, s3), fma(b, v, t3), fma(a, w, e3), fma(b, r, f3)
    p, more = (k - rest) * size, rest - lanes
    q = p + step
    u, v = load_first(at(y, p), rest, 0.0), load_first(at(y, q), more, 0.0)
    w, r = load_first(at(z, p), rest, 0.0), load_first(at(z, q), more, 0.0)
    a, b = load_first(at(x, p), rest, 0.0), load_first(at(x, q), more, 0.0)
    s0, t0, e0, f0 = fma(a, u, s0), fma(b, v, t0), fma(a, w, e0), fma(b, r, f0)
    a, b = load_first(at(x1, p), rest, 0.0), load_first(at(x1, q), more, 0.0)
    s1, t1, e1, f1 = fma(a, u, s1), fma(b, v, t1), fma(a, w, e1), fma(b, r, f1)
    a, b = load_first(at(x2, p), rest, 0.0), load_first(at(x2, q), more, 0.0)
    s2, t2, e2, f2 = fma(a, u, s2), fma(b, v, t2), fma(a, w, e2), fma(b, r, f2)
    a, b = load_first(at(x3, p), rest, 0.0), load_first(at(x3, q), more, 0.0)
    s3, t3, e3, f3 = fma(a, u, s3), fma(b, v, t3), fma(a, w, e3), fma(b, r, f3)
    first = sum_of_lanes(s0 + t0), sum_of_lanes(s1 + t1), sum_of_lanes(s2 + t2), sum_of_lanes(s3 + t3)
    return first, (sum_of_lanes(e0 + f0), sum_of_lanes(e1 + f1), sum_of_lanes(e2 + f2), sum_of_lanes(e3 + f3))


@helper
def write_column(out, start, n, j, rows, dots):
    """out[r, j] = start[r, j] + a dot product for four rows r, of which some may be the same."""
    (r0, r1, r2, r3), (d0, d1, d2, d3), size = rows, dots, itemsize(out)
    d0, d1 = read(element(start, r0, j)) + d0, read(element(start, r1, j)) + d1
    d2, d3 = read(element(start, r2, j)) + d2, read(element(start, r3, j)) + d3
    # start may be `out`, and is read before
    write(at(out, (r0 * n + j) * size), d0)
    write(at(out, (r1 * n + j) * size), d1)
    write(at(out, (r2 * n + j) * size), d2)
    write(at(out, (r3 * n + j) * size), d3)


@helper
def dots_of_rows(rows, columns, start, sizes, ahead, out):
    """out = start + the dot products of all rows and columns, each a row in memory; sizes are m, n and k.

    Of a single column, the rows so many bytes ahead are asked for.
    """
    m, n, k = sizes
    for r in range(0, m, 4):
        four = r, min(r + 1, m - 1), min(r + 2, m - 1), min(r + 3, m - 1)
        x0, x1 = element(rows, four[0], 0), element(rows, four[1], 0)
        x2, x3 = element(rows, four[2], 0), element(rows, four[3], 0)
        pairs = n - n % 2 if EIGHT_DOTS and r + 1 < m else 0
        for j in range(0, pairs, 2):
            first, second = eight_dots(k, x0, x1, x2, x3, element(columns, j, 0), element(columns, j + 1, 0))
            write_column(out, start, n, j, four, first)
            write_column(out, start, n, j + 1, four, second)
        for j in range(pairs, n):
            y = element(columns, j, 0)
            if r + 1 < m and ahead:
                write_column(out, start, n, j, four, four_far_dots(k, x0, x1, x2, x3, y, ahead))
            elif r + 1 < m:
                write_column(out, start, n, j, four, four_dots(k, x0, x1, x2, x3, y, 0))
            else:
                d = dot(k, x0, y)
                write_column(out, start, n, j, four, (d, d, d, d))


@on_demand_kernel(
    lambda dtype: types.int64(
        *[matrix_type(dtype)] * 4, types.UniTuple(types.int64, 3), activation_type, matrix_type(dtype)
    )
)
def dot_products(c, a, b, start, sizes, activation, y):
    """C = f(start + A B) for few columns, with `dot` for each element; as for `product`, sizes are m, n and k."""
    m, n, k = sizes
    size, lanes = itemsize(c.data), width(c.data)
    copy_row, in_place = ceil_div(k, lanes) * lanes * size, c.row == n * size and (c.column == size or n == 1)
    a_bytes, b_bytes = 0 if a.column == size else lanes * copy_row, 0 if b.row == size else n * copy_row
    c_bytes = 0 if in_place else m * n * size
    wanted = a_bytes + b_bytes + c_bytes
    heap, memory = allocate(c.data, wanted if wanted > STACK_BYTES else 0)
    if wanted > STACK_BYTES and is_null(memory):
        return NO_MEMORY
    a_copy = heap if wanted > STACK_BYTES else stack(c.data, STACK_BYTES)
    b_copy = at(a_copy, a_bytes)
    result = c.data if in_place else at(b_copy, b_bytes)
    far = n == 1 and a_bytes == 0 and m * k * size > blocking(c.data).l2_bytes
    ahead = max(4 * a.row, AHEAD) if far else 0
    columns = Matrix(b_copy, copy_row, size) if b_bytes else Matrix(b.data, b.column, size)
    if b_bytes:
        pack(b.data, k, n, b.row, b.column, b_copy, copy_row // size)
    for i in range(0, m, lanes):
        count = min(lanes, m - i)
        rows = Matrix(a_copy, copy_row, size) if a_bytes else Matrix(element(a, i, 0), a.row, size)
        if a_bytes:
            pack(element(a, i, 0), k, count, a.column, a.row, a_copy, copy_row // size)
        dots_of_rows(rows, columns, rows_from(start, i), (count, n, k), ahead, at(result, i * n * size))
    if activation.code != IDENTITY and activation.code < DERIVATIVE:
        apply(result, result, m * n, activation)
    if not in_place:
        copy_matrix(m, n, Matrix(result, n * size, size), c)
    if activation.code >= DERIVATIVE:
        matrix_epilogue(activation, m, n, c, y)
    release(memory)
    return OK
