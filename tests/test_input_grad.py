import numpy as np
import pytest
from arrays import DTYPES, assert_product_close, by_shape, integers, nan, normal

from fastfc.kernels import dense_input_grad
from fastfc.kernels.ops.gemm import tile

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
