import itertools

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, WRITABLE, integers, nan, normal
from hypothesis import given
from hypothesis import strategies as st

from fastfc.kernels import dense_add_bias_grad, dense_bias_grad
from fastfc.kernels.ops.dense_bias_grad import SHORT_ROW, SPAN_BYTES
from fastfc.kernels.ops.gemm import CHUNK
from fastfc.kernels.simd.caches import host_caches
from fastfc.kernels.simd.isa import host_isa

dtypes = pytest.mark.parametrize("dtype", DTYPES)


def shapes(dtype):
    """(n, o) around one register and the four that are summed together, and the empty ones."""
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    widths = [0, 1, 3, lanes - 1, lanes, lanes + 1, 4 * lanes - 1, 4 * lanes, 4 * lanes + 1, 9 * lanes + 2]
    return [(n, o) for n in (0, 1, 2, 7) for o in widths] + [
        (1000, 5),
        (3, 1031),
        (CHUNK, 3),
        (CHUNK + 1, 7),
        (2 * CHUNK + 1, 5),
    ]


@pytest.mark.parametrize(("dtype", "shape"), [(dtype, shape) for dtype in DTYPES for shape in shapes(dtype)])
def test_exact_on_small_integers(dtype, shape):
    g, before = integers(shape, dtype), integers(shape[1], dtype, 1)
    out, added = nan(shape[1], dtype), before.copy()
    dense_bias_grad(g, out)
    dense_add_bias_grad(g, added)
    np.testing.assert_array_equal(out, g.sum(axis=0))
    np.testing.assert_array_equal(added, before + g.sum(axis=0))


@dtypes
def test_rounding_error(dtype):
    g = normal((501, 83), dtype)
    out = nan(83, dtype)
    dense_bias_grad(g, out)
    wide = g.astype(np.longdouble)
    assert np.all(np.abs(out - wide.sum(axis=0)) <= 501 * np.finfo(dtype).eps * np.abs(wide).sum(axis=0))


@dtypes
@pytest.mark.parametrize("out_layout", WRITABLE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_added_in_order_for_any_layout(dtype, layout, out_layout):
    g, before = normal((13, 70), dtype), normal(70, dtype, 1)
    total = np.zeros(70, dtype)
    for row in g:
        total += row
    out = WRITABLE[out_layout](nan(70, dtype))
    dense_bias_grad(LAYOUTS[layout](g), out)
    np.testing.assert_array_equal(out, total)
    for row in g:
        before += row
    out[...] = normal(70, dtype, 1)
    dense_add_bias_grad(LAYOUTS[layout](g), out)
    np.testing.assert_array_equal(out, before)


def strided(dtype):
    """(name, n, o, view): views of (n, o) whose rows are neighbours, or whose columns lie a little apart."""
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    rows, columns = [1, 2, lanes - 1, lanes, lanes + 1, 3 * lanes + 5], [2, 3, lanes, lanes + 1, 3 * lanes + 1, 131]
    beyond_l2 = host_caches().l2.core_bytes // np.dtype(dtype).itemsize // 1000
    for n, o in [*itertools.product(rows, columns), (0, 5), (CHUNK + lanes + 1, 3), (1000, beyond_l2)]:
        yield "rows are neighbours", n, o, np.full((o, n), np.nan, dtype).T
        yield "rows are neighbours, with gaps", n, o, np.full((2 * o, n + 3), np.nan, dtype)[::2, :n].T
        yield "columns from last to first", n, o, np.full((o, n), np.nan, dtype)[::-1].T
        for apart in (2, 3, lanes, lanes + 1, -1, -2):
            width = abs(apart) * o
            yield f"every {apart}th column", n, o, np.full((n, width), np.nan, dtype)[:, ::apart]
        yield "rows from last to first", n, o, np.full((n, 2 * o), np.nan, dtype)[::-1, ::2]
    # more columns than are summed at once
    yield "every 3rd column", 9, SPAN_BYTES // 4, np.full((9, 3 * SPAN_BYTES // 4), np.nan, dtype)[:, ::3]
    # rows that are read ahead in three ways, and with gaps
    for n, o, gap in itertools.product((7, 8, 19), (8 * lanes + 3, SHORT_ROW // 4 + 1, SHORT_ROW + 1), (0, 1, lanes)):
        yield "columns are neighbours", n, o, np.full((n, o + gap), np.nan, dtype)[:, :o]


@dtypes
def test_rows_are_added_in_order_for_any_strides(dtype):
    """With NaN in all gaps, and into outputs with gaps; two threads have the same bits."""
    for name, n, o, g in strided(dtype):
        g[:] = normal((n, o), dtype)
        total, before = np.zeros(o, dtype), normal(o, dtype, 1)
        added = before.copy()
        if n <= CHUNK:
            for row in g:
                total, added = total + row, added + row
        else:
            dense_bias_grad(np.ascontiguousarray(g), total)
            dense_add_bias_grad(np.ascontiguousarray(g), added)
        for out in (nan(o, dtype), nan(3 * o, dtype)[::3], nan(o, dtype)[::-1]):
            for n_threads in (1, 2):
                dense_bias_grad(g, out, n_threads)
                np.testing.assert_array_equal(out, total, f"{name}, {n} x {o}")
            out[...] = before
            dense_add_bias_grad(g, out)
            np.testing.assert_array_equal(out, added, f"{name}, {n} x {o}")


@dtypes
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_column_is_summed_in_lanes_for_any_layout(dtype, layout):
    """Element p in lane p of four registers, these two by two, then halves of a register on halves."""
    width = host_isa().vector_bytes // np.dtype(dtype).itemsize
    for n in 0, 1, width, 4 * width - 1, 4 * width, 4 * width + 1, 1000:
        g, before, out = normal((n, 1), dtype), normal(1, dtype, 1), nan(1, dtype)
        total = np.zeros(4 * width, dtype)
        for row in np.append(g, np.zeros(-n % (4 * width), dtype)).reshape(-1, 4 * width):
            total += row
        total = (total[:width] + total[width : 2 * width]) + (total[2 * width : 3 * width] + total[3 * width :])
        while len(total) > 1:
            half = len(total) // 2
            total = total[:half] + total[half:]
        dense_bias_grad(LAYOUTS[layout](g), out)
        np.testing.assert_array_equal(out, total)
        out[:] = before
        dense_add_bias_grad(LAYOUTS[layout](g), out)
        np.testing.assert_array_equal(out, before + total)


@dtypes
def test_nan_and_inf_stay_in_their_column(dtype):
    g = np.ones((4, 5), dtype)
    g[1, 0], g[2, 1], g[3, 2], g[:2, 3] = np.nan, np.inf, -np.inf, (np.inf, -np.inf)
    out = np.empty(5, dtype)
    dense_bias_grad(g, out)
    np.testing.assert_array_equal(out, [np.nan, np.inf, -np.inf, np.nan, 4])


@dtypes
@given(
    n=st.integers(0, 30),
    o=st.integers(0, 150),
    row=st.sampled_from([1, -1, 2]),
    column=st.sampled_from([1, -1, 3]),
)
def test_any_shape_and_strides(dtype, n, o, row, column):
    g = integers((2 * n, 3 * o), dtype)[::row, ::column][:n, :o]
    out = nan(2 * o, dtype)[::2]
    dense_bias_grad(g, out)
    np.testing.assert_array_equal(out, g.sum(axis=0))


@dtypes
@pytest.mark.parametrize("o", [1, 7, 300])
def test_a_long_batch_has_the_bits_of_its_chunks_added_in_order(dtype, o):
    g = normal((2 * CHUNK + 100, o), dtype)
    out, total, rest, part = nan(o, dtype), np.zeros(o, dtype), np.zeros(o, dtype), nan(o, dtype)
    dense_bias_grad(g, out)
    for r in range(0, len(g), CHUNK):
        dense_bias_grad(g[r : r + CHUNK], part)
        larger, smaller = np.where(abs(total) > abs(part), (total, part), (part, total))
        total = total + part
        rest += (larger - total) + smaller  # what rounding has taken
    np.testing.assert_array_equal(out, total + rest)


@dtypes
def test_what_is_not_finite_survives_the_sum_of_chunks(dtype):
    for value, huge in ((np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan), (np.finfo(dtype).max, np.inf)):
        g, out = np.ones((3 * CHUNK, 2), dtype), nan(2, dtype)
        g[[0, CHUNK + 5, 2 * CHUNK + 7], 1] = value
        dense_bias_grad(g, out)
        np.testing.assert_array_equal(out, np.array([3 * CHUNK, huge], dtype))
        dense_bias_grad(g, out, n_threads=2)
        np.testing.assert_array_equal(out, np.array([3 * CHUNK, huge], dtype))
