import itertools

import numpy as np
import pytest
from arrays import DTYPES, assert_product_close, by_shape, integers, nan, normal

from fastfc.kernels import dense_forward, dense_input_grad
from fastfc.kernels.ops.gemm import tile
from fastfc.kernels.ops.level1 import ALIGNED_FROM
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.squares import ALIASING, LAG, MANY_ROWS, NARROW_BYTES, across

dtypes = pytest.mark.parametrize("dtype", DTYPES)


@pytest.mark.parametrize(("dtype", "shape"), by_shape())
def test_exact_on_small_integers(dtype, shape):
    n, o, i = shape
    g, weight, out = integers((n, o), dtype), integers((i, o), dtype, 1), nan((n, i), dtype)
    dense_input_grad(g, weight, out)
    np.testing.assert_array_equal(out, g @ weight.T)


@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
def test_rounding_error_with_weight_as_it_lies(dtype, order):
    """Weights by rows are read across, weights by columns along: both ways of packing."""
    g, weight = normal((50, 67), dtype), np.array(normal((71, 67), dtype, 1), order=order)
    out = nan((50, 71), dtype)
    dense_input_grad(g, weight, out)
    assert_product_close(out, g, weight.T)


@dtypes
def test_a_row_has_the_same_bits_in_any_batch_and_position(dtype):
    rows, columns = tile(dtype)
    n = 3 * rows + 2
    g, weight, whole = (
        normal((n, 37), dtype),
        normal((columns + 7, 37), dtype, 1),
        nan((n, columns + 7), dtype),
    )
    dense_input_grad(g, weight, whole)
    for first, last in [(i, i + 1) for i in range(n)] + [(0, size) for size in range(n)] + [(2, n), (n - 5, n)]:
        part = nan((last - first, columns + 7), dtype)
        dense_input_grad(g[first:last], weight, part)
        np.testing.assert_array_equal(part, whole[first:last])


def sums_of_few_rows(dtype):
    """Lengths of sums around a register, that lag, that begin at a line's boundary; numbers of columns around bands."""
    size, lanes = np.dtype(dtype).itemsize, tile(dtype)[1] // host_isa().vectors
    lengths = [
        lanes - 1,
        lanes,
        lanes + 1,
        3 * lanes,
        5 * lanes + 3,
        ALIGNED_FROM // size,
        ALIGNED_FROM // size + lanes - 1,
    ]
    lengths += [ALIASING // size, LAG // size, 2 * ALIASING // size]
    few, columns = NARROW_BYTES // size, {lanes + 1}
    for n in {across(host_isa(), rows) for rows in (1, MANY_ROWS)}:
        columns |= {n * lanes - 1, n * lanes, 2 * n * lanes + 1, (n + 1) * lanes}
        columns |= {n // 2 * lanes + few, n // 2 * lanes + few + 1, n * lanes + few, n * lanes + few + 1}
    return lengths, sorted(columns)


@dtypes
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
def test_few_rows_have_the_bits_of_many(dtype, activation):
    """Few rows times Wᵀ transpose squares in registers, from wherever W begins; more rows pack panels."""
    lengths, columns = sums_of_few_rows(dtype)
    for case, (k, n) in enumerate(itertools.product(lengths, columns)):
        x, memory, bias = normal((20, k), dtype), normal(n * k + 16, dtype, 1), normal(n, dtype, 2)
        weight = memory[case % 16 :][: n * k].reshape(n, k)
        many, same = nan((20, n), dtype), nan((20, n), dtype)
        dense_forward(x, weight.T, bias, many, activation)
        if activation == "identity":
            dense_input_grad(x, weight, same)
        for m in range(1, MANY_ROWS + 2):
            few = nan((m, n), dtype)
            dense_forward(x[3 : 3 + m], weight.T, bias, few, activation)
            np.testing.assert_array_equal(few, many[3 : 3 + m])
            if activation == "identity":
                dense_input_grad(x[3 : 3 + m], weight, few)
                np.testing.assert_array_equal(few, same[3 : 3 + m])
