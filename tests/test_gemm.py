import numpy as np
import pytest
from arrays import (
    BLOCKING,
    DTYPES,
    LAYOUTS,
    PRODUCTS,
    WRITABLE,
    assert_product_close,
    by_shape,
    chain,
    integers,
    multiply_add,
    multiply_add_lines,
    nan,
    normal,
    sliced,
)
from hypothesis import given
from hypothesis import strategies as st
from numba import float32, njit

from fastfc import kernels
from fastfc.kernels.ops import gemm
from fastfc.kernels.ops.gemm import LONG, NARROW, product, tile
from fastfc.kernels.ops.gemm_plan import (
    FEW_ROWS,
    FIXED,
    IN_PLACE_TILES,
    MANY_TILES,
    PANEL_DEPTH,
    SHORT,
    SOME_TILES_OF_L2,
    STREAM_DEPTH,
    TABLES,
    Plan,
    blocking_of,
)
from fastfc.kernels.ops.matrix import matrix
from fastfc.kernels.simd.caches import Cache, Caches
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.memory import at, offset_in

products = pytest.mark.parametrize("multiply", PRODUCTS.values(), ids=PRODUCTS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


@products
@pytest.mark.parametrize(("dtype", "shape"), by_shape())
def test_exact_on_small_integers(multiply, dtype, shape):
    m, k, n = shape
    a, b, c = integers((m, k), dtype), integers((k, n), dtype, 1), nan((m, n), dtype)
    multiply(a, b, c)
    np.testing.assert_array_equal(c, a.astype(int) @ b.astype(int))


@products
@pytest.mark.parametrize(("dtype", "shape"), by_shape())
def test_rounding_error_within_the_bound_of_a_sum(multiply, dtype, shape):
    m, k, n = shape
    a, b, c = normal((m, k), dtype), normal((k, n), dtype, 1), nan((m, n), dtype)
    multiply(a, b, c)
    assert_product_close(c, a, b)


@products
@dtypes
@pytest.mark.parametrize("c_layout", WRITABLE)
@pytest.mark.parametrize("b_layout", LAYOUTS)
@pytest.mark.parametrize("a_layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(multiply, dtype, a_layout, b_layout, c_layout):
    rows, columns = tile(dtype)
    for m, k, n in (rows + 3, 19, columns + 5), (2 * rows + 1, 40, 3), (1, 40, columns + 3), (3, 37, 2):
        a, b, plain = normal((m, k), dtype), normal((k, n), dtype, 1), nan((m, n), dtype)
        multiply(a, b, plain)
        c = WRITABLE[c_layout](nan((m, n), dtype))
        multiply(LAYOUTS[a_layout](a), LAYOUTS[b_layout](b), c)
        np.testing.assert_array_equal(c, plain)


@products
@dtypes
def test_broadcast_inputs(multiply, dtype):
    a = np.broadcast_to(integers((1, 9), dtype), (20, 9))
    b = np.broadcast_to(integers((9, 1), dtype), (9, 40))
    c = nan((20, 40), dtype)
    multiply(a, b, c)
    np.testing.assert_array_equal(c, a @ b)


@products
@dtypes
def test_elements_between_those_of_the_output_stay(multiply, dtype):
    c = sliced(nan((17, 35), dtype))
    multiply(integers((17, 3), dtype), integers((3, 35), dtype), c)
    assert np.count_nonzero(c.base == 777) == c.base.size - c.size


@products
@dtypes
@pytest.mark.parametrize("shape", [(3, 9, 5), (1, 6, 3), (16, 5, 2)])
def test_each_element_is_one_chain_of_multiply_adds(multiply, dtype, shape):
    m, k, n = shape
    a, b, c = normal((m, k), dtype), normal((k, n), dtype, 1), nan((m, n), dtype)
    multiply(a, b, c)
    np.testing.assert_array_equal(c, chain(a, b, 0))


@products
def test_chains_continue_across_blocks_of_summands(multiply):
    k = 2 * BLOCKING.packed_kc + 5
    a, b = normal((FEW_ROWS + 1, k), np.float32), normal((k, 300), np.float32, 1)
    expected = chain(a, b, 0)
    for layout in (np.array, np.asfortranarray):
        for m in range(1, FEW_ROWS + 2):
            c = nan((m, 300), np.float32)
            multiply(a[:m], layout(b), c)
            np.testing.assert_array_equal(c, expected[:m])


def in_lanes(x, y):
    """x y as `gemm.dot` sums it: two registers of lanes, then halves of a register on halves."""
    width = host_isa().vector_bytes // x.itemsize
    x, y = (np.append(v, np.zeros(-len(v) % (2 * width), v.dtype)).reshape(-1, 2 * width) for v in (x, y))
    total = np.zeros(2 * width, x.dtype)
    for u, v in zip(x, y, strict=True):
        total = multiply_add(u, v, total)
    total = total[:width] + total[width:]
    while len(total) > 1:
        half = len(total) // 2
        total = total[:half] + total[half:]
    return total[0]


def few_columns():
    """(kernel, m, k, n): both sides of the bounds, rows one by one and by fours, sums around two registers."""
    width = host_isa().vector_bytes // 4
    shapes = [(m, LONG, 1) for m in (0, 1, 2, 3, 4, 5, width + 1)]
    shapes += [(6, k, 2) for k in (LONG - 1, LONG + 1, LONG + 2 * width - 1, 20 * width)]
    shapes += [(5, LONG + 3, n) for most in (NARROW, 2 * NARROW) for n in (most - 1, most, most + 1)]
    return [(kernel, *shape) for kernel in ("forward", "input_grad") for shape in shapes]


@dtypes
@pytest.mark.parametrize(("kernel", "m", "k", "n"), few_columns())
def test_long_sums_of_few_columns(dtype, kernel, m, k, n):
    multiply = PRODUCTS[kernel]
    a, b, c = integers((m, k), dtype), integers((k, n), dtype, 1), nan((m, n), dtype)
    multiply(a, b, c)
    np.testing.assert_array_equal(c, a @ b)
    a, b = normal((m, k), dtype, 2), normal((k, n), dtype, 3)
    multiply(a, b, c)
    assert_product_close(c, a, b)
    if k >= LONG and n <= (NARROW if kernel == "forward" else 2 * NARROW):
        np.testing.assert_array_equal(c, np.reshape([in_lanes(row, column) for row in a for column in b.T], (m, n)))
    for row in range(m):
        alone = nan((1, n), dtype)
        multiply(a[row : row + 1], b, alone)
        np.testing.assert_array_equal(alone, c[row : row + 1])


@pytest.mark.parametrize("kernel", ["forward", "input_grad"])
@dtypes
@pytest.mark.parametrize("c_layout", WRITABLE)
@pytest.mark.parametrize("b_layout", LAYOUTS)
@pytest.mark.parametrize("a_layout", LAYOUTS)
def test_long_sums_of_few_columns_in_any_layout(kernel, dtype, a_layout, b_layout, c_layout):
    for m, n in (1, 1), (23, 1), (6, 3):
        a, b, plain = normal((m, LONG + 5), dtype), normal((LONG + 5, n), dtype, 1), nan((m, n), dtype)
        PRODUCTS[kernel](a, b, plain)
        c = WRITABLE[c_layout](nan((m, n), dtype))
        PRODUCTS[kernel](LAYOUTS[a_layout](a), LAYOUTS[b_layout](b), c)
        np.testing.assert_array_equal(c, plain)


@dtypes
@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "tanh"])
def test_activations_of_few_columns(dtype, activation):
    x, weight, bias = normal((9, LONG), dtype) / 8, normal((LONG, 3), dtype, 1), normal(3, dtype, 2)
    x[4] = np.nan
    plain, out, expected = (nan((9, 3), dtype) for _ in range(3))
    kernels.dense_forward(x, weight, bias, plain)
    kernels.dense_forward(x, weight, bias, out, activation)
    kernels.activation_forward(plain, expected, activation)
    np.testing.assert_array_equal(out, expected)


def small_caches():
    """The table of a processor whose caches are so small that ordinary shapes have several blocks of everything."""
    caches = Caches(Cache(4096, 4), Cache(16384, 4), Cache(32768, 4), "test")
    return {size: blocking_of(host_isa(), caches, size) for size in TABLES}


@pytest.fixture
def with_small_caches():
    before = {size: table.copy() for size, table in TABLES.items()}
    for size, blocking in small_caches().items():
        TABLES[size][:] = blocking[FIXED:]
    yield
    for size, table in before.items():
        TABLES[size][:] = table


def big_shapes():
    """(m, k, n) that leave the easy paths with small caches, by what they reach."""
    rows, columns = tile(np.float32)
    machine = small_caches()[4]
    kc, half_l2, nc = machine.packed_kc, machine.l2_bytes // 2, machine.nc_bytes // machine.packed_kc // 4
    some_rows, many_rows = rows * SOME_TILES_OF_L2 + 3, rows * IN_PLACE_TILES + 3
    many_columns, block_rows = columns * MANY_TILES + 5, rows * (half_l2 // (kc * rows * 4) + 1)
    return {
        "several blocks of rows": (block_rows + rows + 3, kc, columns + 3),
        "several blocks of columns": (rows + 1, 11, nc + columns + 3),
        "several blocks of summands": (rows + 1, kc + 9, columns + 3),
        "several blocks of columns with short sums": (rows + 1, SHORT, half_l2 // SHORT // 4 + columns + 3),
        "one row": (1, kc + 9, half_l2 // kc),
        "one row, crowded rows of a transposed b": (1, 1024, 70),
        "one row and a large b": (1, 203, 1000 // columns * columns + 3),
        "one summand": (2 * rows + 1, 1, 2 * columns + 3),
        "one tile of rows": (rows, 2 * STREAM_DEPTH + 1, half_l2 // STREAM_DEPTH + 3),
        "one tile of rows, crowded rows of b": (rows, 2 * STREAM_DEPTH + 1, half_l2 // STREAM_DEPTH),
        "few rows": (FEW_ROWS, 2 * PANEL_DEPTH + STREAM_DEPTH + 1, half_l2 // PANEL_DEPTH),
        "more than few rows": (FEW_ROWS + 1, kc + 9, half_l2 // kc),
        "panels of b": (some_rows, 2 * kc + 9, columns * 4 + 1),
        "panels of a and b": (many_rows, kc + 9, many_columns),
        "several panels of a": (2 * block_rows + rows + 1, kc // 2 + 3, many_columns),
        "several blocks of everything": (block_rows + many_rows + 1, 2 * kc + 3, nc + columns + 1),
    }


@products
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("shape", big_shapes().values(), ids=big_shapes())
def test_checksum_of_big_shapes(multiply, layout, shape, with_small_caches):
    """C t = A (B t), exactly: all are small integers."""
    m, k, n = shape
    a, b = integers((m, k), np.float32), integers((k, n), np.float32, 1)
    c = nan((m, n), np.float32)
    multiply(LAYOUTS[layout](a), LAYOUTS[layout](b), c)
    t = integers(n, np.float64, 2)
    np.testing.assert_array_equal(c @ t, a @ (b @ t))
    u = integers(m, np.float64, 3)
    np.testing.assert_array_equal(u @ c, (u @ a) @ b)


@products
@dtypes
@pytest.mark.parametrize("layout", ["C", "F", "sliced"])
@pytest.mark.parametrize("name", ["one row", "panels of b", "panels of a and b", "several blocks of everything"])
def test_bits_do_not_depend_on_the_caches(multiply, dtype, layout, name, request):
    """They are those of rows by themselves, which are read in place, on this machine and with small caches."""
    m, k, n = big_shapes()[name]
    a, b = LAYOUTS[layout](normal((m, k), dtype)), LAYOUTS[layout](normal((k, n), dtype, 1))
    results = [nan((m, n), dtype) for _ in range(2)]
    multiply(a, b, results[0])
    request.getfixturevalue("with_small_caches")
    multiply(a, b, results[1])
    np.testing.assert_array_equal(*results)
    few = nan((min(m, 3), n), dtype)
    multiply(a[-3:], b, few)
    np.testing.assert_array_equal(results[0][-3:], few)


@dtypes
def test_identities(dtype):
    """<g, x W> = <g Wᵀ, x> = <xᵀ g, W>"""
    n, i, o = 37, 19, 43
    x, weight, g = normal((n, i), dtype), normal((i, o), dtype, 1), normal((n, o), dtype, 2)
    y, dx, dw = nan((n, o), dtype), nan((n, i), dtype), nan((i, o), dtype)
    kernels.dense_forward(x, weight, np.zeros(o, dtype), y)
    kernels.dense_input_grad(g, weight, dx)
    kernels.dense_weight_grad(x, g, dw)
    inner = [np.vdot(u.astype(float), v) for u, v in ((g, y), (dx, x), (dw, weight))]
    size = np.abs(g).astype(float).ravel() @ (np.abs(x) @ np.abs(weight)).ravel()
    assert np.ptp(inner) <= 4 * max(n, i, o) * np.finfo(dtype).eps * size


@products
@dtypes
def test_nan_and_inf_propagate_as_in_ieee(multiply, dtype):
    rows, columns = tile(dtype)
    a, b = np.ones((rows + 2, 6), dtype), np.ones((6, columns + 3), dtype)
    a[1, 2], a[4, 1], a[5, :2], b[3, columns] = np.nan, np.inf, (np.inf, -np.inf), np.nan
    a[6, 4], b[4, 2] = np.inf, 0
    c = np.empty((rows + 2, columns + 3), dtype)
    multiply(a, b, c)
    with np.errstate(invalid="ignore"):
        expected = (a[:, :, None] * b).sum(axis=1)
    np.testing.assert_array_equal(c, expected)


@st.composite
def problems(draw):
    """Shapes, and arrays cut out of larger ones with any strides."""
    dtype = draw(st.sampled_from(DTYPES))
    m, k, n = draw(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 80)))

    def matrix(rows, columns, seed):
        row, column = draw(st.sampled_from([1, 2, -1, -3])), draw(st.sampled_from([1, 2, -1, -3]))
        transposed = draw(st.booleans())
        large = integers((columns * abs(column), rows * abs(row)) if transposed else
                         (rows * abs(row), columns * abs(column)), dtype, seed)  # fmt: skip
        return (large.T if transposed else large)[::row, ::column][:rows, :columns]

    return matrix(m, k, 0), matrix(k, n, 1), matrix(m, n, 2)


@products
@given(problem=problems())
def test_any_shape_and_strides(multiply, problem):
    a, b, c = problem
    c[...] = np.nan
    multiply(a, b, c)
    np.testing.assert_array_equal(c, a @ b)


def assembly(kernel, numba_dtype):
    """Assembly of a kernel, compiled here and now: Numba gives none for code out of a cache."""
    signature = kernel.signature(numba_dtype)
    fresh = njit(nogil=True, error_model="numpy")(kernel.function)
    fresh.compile(signature.args)
    return "\n".join(fresh.inspect_asm().values())


@pytest.mark.slow
def test_assembly_has_the_widest_multiply_adds_and_no_double():
    text = assembly(product, float32)
    assert len(multiply_add_lines(text, float32)) >= 2 * host_isa().rows * host_isa().vectors
    for conversion in ("cvtss2sd", "cvtps2pd", "cvtsd2ss", "cvtpd2ps"):
        assert conversion not in text


def test_tile_fits_the_registers():
    """The sums, a vector of B and an element of A; the other vectors of B may be operands in memory."""
    isa = host_isa()
    for rows in range(1, isa.rows + 1):
        assert rows * isa.tile_vectors(rows) + 2 <= isa.registers
    assert gemm.tile(np.float64) == (isa.rows, isa.vectors * isa.vector_bytes // 8)


@njit
def lines_asked_for(a, b, c, how):
    """The addresses that each tile of the first column asks for, for each summand."""
    x = gemm.Product(matrix(c), matrix(a), matrix(b), matrix(c), a.shape[0], b.shape[1], b.shape[0])
    block = gemm.Block(0, x.n, 0, how.kc, 0, how.tiles, x.b.data, x.b.data)
    found = np.empty((how.tiles, how.kc, 2), np.int64)
    for u in range(how.tiles):
        ahead, gap = gemm.what_comes_next(x, how, block, x.b, u, 0)
        row = x.b.row if how.first_packed > 0 else how.nr * b.itemsize
        for p in range(how.kc):
            first = at(ahead, p * row)
            found[u, p] = offset_in(first, 1 << 62), offset_in(first, 1 << 62) + gap
    return found


@pytest.mark.parametrize("transposed", [False, True], ids=["in place", "packed"])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_the_tiles_of_a_column_ask_for_all_of_the_next_one(rows, transposed):
    """Whole lines of it, each by one tile: memory has the time of several tiles for them."""
    isa = host_isa()
    m, k, n = rows * isa.rows, 50, 3 * isa.vectors * isa.vector_bytes // 4
    if transposed and isa.vectors * isa.vector_bytes // 64 > rows:
        return  # one tile asks for a line of two
    a, w = np.zeros((m, k), np.float32), np.zeros((n, k) if transposed else (k, n), np.float32)
    b = w.T if transposed else w
    nr = n // 3
    how = Plan(rows, isa.rows, 0, nr, k, rows, nr if transposed else n, isa.rows, False, 0 if transposed else n, False)
    found = set(np.unique(lines_asked_for(a, b, np.zeros((m, n), np.float32), how) // 64))
    start = b[:, nr:].ctypes.data
    if transposed:
        wanted = set(range(start, start + nr * k * 4, 64))
    else:
        wanted = {start + p * w.strides[0] + offset for p in range(k) for offset in range(0, nr * 4, 64)}
    assert {address // 64 for address in wanted} <= found
