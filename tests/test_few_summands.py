"""Products of up to FEW summands, which are computed row by row, from a B that lies in any way."""

import itertools

import numpy as np
import pytest
from arrays import DTYPES, integers, nan, normal

from fastfc.kernels import dense_add_weight_grad, dense_forward, dense_input_grad, dense_weight_grad
from fastfc.kernels.ops.level1 import PANEL_BYTES
from fastfc.kernels.simd.few_summands import AT_ONCE, FEW
from fastfc.kernels.simd.isa import host_isa

dtypes = pytest.mark.parametrize("dtype", DTYPES)


def sizes(dtype):
    """(m, n, k): all numbers of summands, around a register and the registers at once, few and many rows."""
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    columns = [lanes - 1, lanes, lanes + 1, AT_ONCE * lanes - 1, AT_ONCE * lanes, (2 * AT_ONCE + 1) * lanes + 3]
    return itertools.product([1, 2, 7, 64, 65], columns, range(1, FEW + 2))


def views(matrix):
    """The same matrix with columns that are neighbours, rows that are, and neither."""
    return matrix, np.asfortranarray(matrix), np.repeat(matrix, 2, axis=1)[:, ::2]


@dtypes
def test_exact_on_small_integers(dtype):
    for m, n, k in sizes(dtype):
        a, b, bias = integers((m, k), dtype), integers((k, n), dtype, 1), integers(n, dtype, 2)
        for left, right in itertools.product(views(a), views(b)):
            out = nan((m, n), dtype)
            dense_forward(left, right, bias, out)
            np.testing.assert_array_equal(out, a @ b + bias)
            dense_input_grad(left, right.T, out)
            np.testing.assert_array_equal(out, a @ b)
            dense_weight_grad(left.T, right, out)
            np.testing.assert_array_equal(out, a @ b)
            dense_add_weight_grad(left.T, right, out)
            np.testing.assert_array_equal(out, 2 * (a @ b))


@dtypes
def test_more_columns_than_are_copied_at_once(dtype):
    for k in (1, 3, FEW):
        n = 2 * PANEL_BYTES // np.dtype(dtype).itemsize // k + 5
        a, weight = integers((3, k), dtype), integers((n, k), dtype, 1)
        out = nan((3, n), dtype)
        dense_input_grad(a, weight, out)
        np.testing.assert_array_equal(out, a @ weight.T)


@dtypes
@pytest.mark.parametrize("m", [9, 200])
def test_the_bits_are_those_of_tiles(dtype, m):
    """Tiles compute what has an activation."""
    for _, n, k in sizes(dtype):
        x, weight, bias = normal((m, k), dtype), normal((n, k), dtype, 1).T, normal(n, dtype, 2)
        rows, tiles = nan((m, n), dtype), nan((m, n), dtype)
        dense_forward(x, weight, bias, rows)
        dense_forward(x, weight, bias, tiles, "relu")
        np.testing.assert_array_equal(np.maximum(rows, 0), tiles, f"{n} columns, {k} summands")


@dtypes
def test_nan_stays_in_its_row_and_column(dtype):
    for m, n, k in sizes(dtype):
        g, weight = normal((m, k), dtype), normal((n, k), dtype, 1)
        g[m // 2, k - 1], weight[n - 1, 0] = np.nan, np.inf
        out = nan((m, n), dtype)
        dense_input_grad(g, weight, out)
        assert np.isnan(out[m // 2]).all()
        others = np.delete(out, m // 2, axis=0)
        assert np.isfinite(others[:, : n - 1]).all()
        assert np.isinf(others[:, n - 1]).all()


@dtypes
def test_what_lies_around_the_output_stays(dtype):
    for m, n, k in sizes(dtype):
        memory = np.full((m + 2, n + 40), 777, dtype)
        out = memory[1:-1, 20:-20]
        dense_input_grad(np.ones((m, k), dtype), np.ones((n, k), dtype), out)
        np.testing.assert_array_equal(out, k)
        out[:] = 777
        assert (memory == 777).all()
