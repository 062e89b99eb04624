import numpy as np
import pytest
from arrays import BLOCKING, DTYPES, LAYOUTS, WRITABLE, assert_product_close, by_shape, chain, integers, nan, normal

from fastfc import reference
from fastfc.kernels import activation_forward, dense_forward
from fastfc.kernels.ops.gemm import tile

dtypes = pytest.mark.parametrize("dtype", DTYPES)
activations = pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "tanh"])


@pytest.mark.parametrize(("dtype", "shape"), by_shape())
def test_bias_and_relu_are_exact_on_small_integers(dtype, shape):
    n, i, o = shape
    x, weight, bias = integers((n, i), dtype), integers((i, o), dtype, 1), integers(o, dtype, 2)
    for activation, f in (("identity", lambda z: z), ("relu", lambda z: np.maximum(z, 0))):
        out = nan((n, o), dtype)
        dense_forward(x, weight, bias, out, activation)
        np.testing.assert_array_equal(out, f(x @ weight + bias))


@pytest.mark.parametrize(("dtype", "shape"), by_shape())
def test_rounding_error(dtype, shape):
    n, i, o = shape
    x, weight, bias = normal((n, i), dtype), normal((i, o), dtype, 1), normal(o, dtype, 2)
    out = nan((n, o), dtype)
    dense_forward(x, weight, bias, out)
    assert_product_close(out, x, weight, bias)


@dtypes
@activations
@pytest.mark.parametrize("shape", [(3, 4, 5), (29, 7, 67), (5, BLOCKING.packed_kc + 1, 9)])
@pytest.mark.parametrize("layout", ["C", "F", "sliced"])
def test_fused_activation_has_the_bits_of_a_separate_one(dtype, activation, shape, layout):
    n, i, o = shape
    x, weight, bias = normal((n, i), dtype), normal((i, o), dtype, 1), normal(o, dtype, 2)
    z, y, fused = nan((n, o), dtype), nan((n, o), dtype), WRITABLE[layout](nan((n, o), dtype))
    dense_forward(x, weight, bias, z)
    activation_forward(z, y, activation)
    dense_forward(x, weight, bias, fused, activation)
    np.testing.assert_array_equal(fused, y)


@dtypes
@activations
def test_against_the_reference(dtype, activation):
    x, weight, bias = normal((23, 5), dtype), normal((5, 41), dtype, 1), normal(41, dtype, 2)
    out, expected = nan((23, 41), dtype), nan((23, 41), float)
    dense_forward(x, weight, bias, out, activation=activation)
    reference.dense_forward(*(a.astype(float) for a in (x, weight, bias)), expected, activation)
    np.testing.assert_allclose(
        out, expected, rtol=1e-14 if dtype == np.float64 else 5e-6, atol=20 * np.finfo(dtype).eps
    )


@dtypes
def test_chain_begins_with_the_bias(dtype):
    x, weight, bias = normal((3, 8), dtype), normal((8, 4), dtype, 1), normal(4, dtype, 2)
    out = nan((3, 4), dtype)
    dense_forward(x, weight, bias, out)
    np.testing.assert_array_equal(out, chain(x, weight, bias))


@dtypes
@activations
def test_a_row_has_the_same_bits_in_any_batch_and_position(dtype, activation):
    rows, columns = tile(dtype)
    n = 4 * rows + 3
    x, weight, bias = (
        normal((n, 37), dtype),
        normal((37, columns + 7), dtype, 1),
        normal(columns + 7, dtype, 2),
    )
    whole = nan((n, columns + 7), dtype)
    dense_forward(x, weight, bias, whole, activation)
    for first, last in [(i, i + 1) for i in range(n)] + [(0, size) for size in range(n)] + [(3, n), (n - 5, n)]:
        part = nan((last - first, columns + 7), dtype)
        dense_forward(x[first:last], weight, bias, part, activation)
        np.testing.assert_array_equal(part, whole[first:last])


@dtypes
@pytest.mark.parametrize("layout", [*LAYOUTS, "broadcast"])
@pytest.mark.parametrize("out_layout", WRITABLE)
def test_any_layout_of_the_bias(dtype, layout, out_layout):
    bias = np.full(35, 3, dtype) if layout == "broadcast" else integers(35, dtype)
    given = np.broadcast_to(dtype(3), 35) if layout == "broadcast" else LAYOUTS[layout](bias)
    x, weight = integers((6, 4), dtype, 1), integers((4, 35), dtype, 2)
    out = WRITABLE[out_layout](nan((6, 35), dtype))
    dense_forward(x, weight, given, out)
    np.testing.assert_array_equal(out, x @ weight + bias)


@dtypes
def test_samples_as_columns(dtype):
    """y = W x + b for column samples: the same call on transposed views."""
    weight, x, bias = integers((19, 5), dtype), integers((5, 33), dtype, 1), integers(19, dtype, 2)
    out = nan((19, 33), dtype)
    dense_forward(x.T, weight.T, bias, out.T)
    np.testing.assert_array_equal(out, weight @ x + bias[:, None])


@dtypes
def test_no_activation_swallows_nan(dtype):
    x = np.array([[np.nan], [np.inf], [-np.inf]], dtype)
    expected = {
        "identity": [np.nan, np.inf, -np.inf],
        "relu": [np.nan, np.inf, 0],
        "sigmoid": [np.nan, 1, 0],
        "tanh": [np.nan, 1, -1],
    }
    for activation, column in expected.items():
        out = np.empty((3, 1), dtype)
        dense_forward(x, np.ones((1, 1), dtype), np.zeros(1, dtype), out, activation)
        np.testing.assert_array_equal(out[:, 0], column)


@pytest.mark.parametrize("name", ["softmax", "Relu", None, 3, ["relu"]])
def test_unknown_activation_leaves_the_output(name):
    out = np.full((1, 1), 7.0)
    with pytest.raises(ValueError, match="softmax works along rows" if name == "softmax" else "unknown activation"):
        dense_forward(np.ones((1, 1)), np.ones((1, 1)), np.ones(1), out, name)
    assert out == 7


@dtypes
def test_dot_products_of_rows_from_beyond_l2_have_the_bits_of_a_few(dtype):
    """Rows behind are asked for, also behind the last."""
    for k in (64, 517):
        rows = BLOCKING.l2_bytes // (k * np.dtype(dtype).itemsize) + 7
        x, weight, bias = normal((rows, k), dtype), normal((k, 1), dtype, 1), normal(1, dtype, 2)
        out, few = nan((rows, 1), dtype), nan((5, 1), dtype)
        dense_forward(x, weight, bias, out)
        for first in (0, 8, rows - 5):
            dense_forward(x[first : first + 5], weight, bias, few)
            np.testing.assert_array_equal(out[first : first + 5], few)
