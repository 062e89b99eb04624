import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, WRITABLE, nan, normal
from hypothesis import given
from hypothesis import strategies as st

from fastfc import kernels, reference
from fastfc.kernels.simd import host_isa

dtypes = pytest.mark.parametrize("dtype", DTYPES)
NAMES = ["identity", "relu", "sigmoid", "tanh", "softmax"]
names = pytest.mark.parametrize("name", NAMES)


def errors_in_ulp(got, exact):
    """|got − exact| in units of the last place of exact; where one is not finite both must be the same."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    return np.abs(got[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite]))


def sweep(dtype):
    """Numbers of every magnitude and sign: each 997th bit pattern of float32, as many of float64."""
    if dtype == np.float32:
        return np.arange(0, 2**32, 997, dtype=np.uint32).view(np.float32)
    patterns = np.random.default_rng(0).integers(0, 2**64, 500_000, dtype=np.uint64).view(np.float64)
    return np.concatenate([patterns, *(np.linspace(-scale, scale, 300_001) for scale in (1e-3, 1, 40, 800))])


@pytest.mark.parametrize("function", ["exp", "tanh", "sigmoid"])
@dtypes
def test_within_four_ulp_of_exact(function, dtype):
    x = sweep(dtype)
    x = x[~np.isnan(x)]
    out, wide = np.empty_like(x), x.astype(np.longdouble)
    # beyond ±800 everything is constant, and NumPy slow
    wide = np.clip(wide, -12000, 12000)
    with np.errstate(over="ignore", under="ignore"):
        if function == "sigmoid":
            kernels.activation_forward(x, out, "sigmoid")
            exact = 1 / (1 + np.exp(-wide))
        else:
            getattr(kernels, function)(x, out)
            exact = getattr(np, function)(wide)
        assert np.max(errors_in_ulp(out, exact)) <= 4


@dtypes
def test_special_values(dtype):
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([0.0, -0.0, tiny, -tiny, huge, -huge, np.inf, -np.inf, np.nan], dtype)
    expected = {
        kernels.exp: [1, 1, 1, 1, np.inf, 0, np.inf, 0, np.nan],
        kernels.tanh: [0.0, -0.0, tiny, -tiny, 1, -1, 1, -1, np.nan],
        "sigmoid": [0.5, 0.5, 0.5, 0.5, 1, 0, 1, 0, np.nan],
        "relu": [0, 0, tiny, 0, huge, 0, np.inf, 0, np.nan],
        "identity": x,
        "tanh": [0.0, -0.0, tiny, -tiny, 1, -1, 1, -1, np.nan],
    }
    for function, values in expected.items():
        out = np.empty_like(x)
        if callable(function):
            function(x, out)
        else:
            kernels.activation_forward(x, out, function)
        np.testing.assert_array_equal(out, np.array(values, dtype))
        if "tanh" in str(function):
            np.testing.assert_array_equal(np.signbit(out), np.signbit(x))


@dtypes
def test_exp_at_its_ends(dtype):
    """The last argument whose exponential is finite, and the first whose one is not zero."""
    info = np.finfo(dtype)
    for edge in (np.log(np.longdouble(info.max)), np.log(np.longdouble(info.smallest_subnormal) / 2)):
        x = dtype(edge) + np.arange(-50, 51, dtype=dtype) * np.spacing(np.abs(dtype(edge)))
        out = np.empty_like(x)
        kernels.exp(x, out)
        assert np.all(out[1:] >= out[:-1])
        with np.errstate(over="ignore"):
            assert np.max(errors_in_ulp(out, np.exp(x.astype(np.longdouble)))) <= 4


def widths(dtype):
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    return [0, 1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 257]


@names
@dtypes
@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_forward_and_backward_against_the_reference(name, dtype, rows):
    for o in widths(dtype):
        if name == "softmax" and o == 0:
            continue  # no maximum of nothing in the reference
        z, g = 3 * normal((rows, o), dtype), normal((rows, o), dtype, 1)
        y, dz = nan((rows, o), dtype), nan((rows, o), dtype)
        kernels.activation_forward(z, y, name)
        kernels.activation_backward(y, g, dz, name)
        exact_y, exact_dz = np.empty(z.shape), np.empty(z.shape)
        reference.activation_forward(z.astype(float), exact_y, name)
        reference.activation_backward(y.astype(float), g.astype(float), exact_dz, name)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(y, exact_y, rtol=30 * eps, atol=eps)
        np.testing.assert_allclose(dz, exact_dz, rtol=4 * eps, atol=10 * eps)


@names
@dtypes
@pytest.mark.parametrize("shape", [(6, 35), (19, 19), (1, 20), (20, 1)])
@pytest.mark.parametrize("out_layout", WRITABLE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(name, dtype, shape, layout, out_layout):
    """Square matrices too: rows and columns must not be mistaken for each other."""
    z, g = normal(shape, dtype), normal(shape, dtype, 1)
    y, dz = nan(shape, dtype), nan(shape, dtype)
    kernels.activation_forward(z, y, name)
    kernels.activation_backward(y, g, dz, name)
    out = WRITABLE[out_layout](nan(shape, dtype))
    kernels.activation_forward(LAYOUTS[layout](z), out, name)
    np.testing.assert_array_equal(out, y)
    out = WRITABLE[out_layout](nan(shape, dtype))
    kernels.activation_backward(LAYOUTS[layout](y), LAYOUTS[out_layout](g), out, name)
    np.testing.assert_array_equal(out, dz)


@names
@dtypes
@pytest.mark.parametrize("layout", WRITABLE)
def test_in_place(name, dtype, layout):
    z, g = normal((5, 21), dtype), normal((5, 21), dtype, 1)
    y, dz = nan(z.shape, dtype), nan(z.shape, dtype)
    kernels.activation_forward(z, y, name)
    kernels.activation_backward(y, g, dz, name)
    z, g = WRITABLE[layout](z), WRITABLE[layout](g)
    kernels.activation_forward(z, z, name)
    kernels.activation_backward(y, g, g, name)
    np.testing.assert_array_equal(z, y)
    np.testing.assert_array_equal(g, dz)


@names
@dtypes
def test_vectors(name, dtype):
    z, g = normal(21, dtype), normal(21, dtype, 1)
    y, dz, rows, row_grads = nan(21, dtype), nan(21, dtype), nan((1, 21), dtype), nan((1, 21), dtype)
    kernels.activation_forward(z[None], rows, name)
    kernels.activation_forward(z, y, name)
    kernels.activation_backward(rows, g[None], row_grads, name)
    kernels.activation_backward(y, g, dz, name)
    np.testing.assert_array_equal(y, rows[0])
    np.testing.assert_array_equal(dz, row_grads[0])


@dtypes
def test_derivative_of_relu_at_zero_is_zero(dtype):
    out = nan(5, dtype)
    kernels.activation_backward(
        np.array([0, -0.0, 1, 0, 0], dtype), np.array([7, 7, 7, np.inf, np.nan], dtype), out, "relu"
    )
    np.testing.assert_array_equal(out[:4], [0, 0, 7, 0])


@names
@dtypes
def test_nan_comes_through(name, dtype):
    z = np.zeros((2, 40), dtype)
    z[0, 33] = np.nan
    y, dz = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(z, y, name)
    wrong = slice(None) if name == "softmax" else 33
    assert np.isnan(y[0, wrong]).all()
    assert np.isfinite(y).sum() == 40 if name == "softmax" else 79
    kernels.activation_backward(np.full_like(z, 0.5), z, dz, name)
    assert np.isnan(dz[0, wrong]).all()


@dtypes
def test_softmax_of_large_and_infinite_logits(dtype):
    huge = np.finfo(dtype).max
    z = np.array([[huge, huge, 0], [-huge, 0, -huge], [-np.inf, 0, 0], [1e4, 1e4 - 1, -1e4]], dtype)
    y = nan(z.shape, dtype)
    with np.errstate(over="ignore"):
        kernels.activation_forward(z, y, "softmax")
    e = np.exp(-1)
    expected = [[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [1 / (1 + e), e / (1 + e), 0]]
    np.testing.assert_allclose(y, expected, rtol=10 * np.finfo(dtype).eps)


@dtypes
def test_a_row_of_softmax_has_the_same_bits_in_any_batch(dtype):
    z, whole = normal((9, 37), dtype), nan((9, 37), dtype)
    kernels.activation_forward(z, whole, "softmax")
    for i in range(9):
        one = nan((1, 37), dtype)
        kernels.activation_forward(z[i : i + 1], one, "softmax")
        np.testing.assert_array_equal(one[0], whole[i])


@given(
    name=st.sampled_from(NAMES),
    shape=st.tuples(st.integers(0, 12), st.integers(1, 70)),
    strides=st.lists(st.sampled_from([1, 2, -1, -3]), min_size=4, max_size=4),
    transposed=st.tuples(st.booleans(), st.booleans()),
)
def test_any_shape_and_strides(name, shape, strides, transposed):
    def matrix(row, column, turned, seed):
        size = shape[0] * abs(row), shape[1] * abs(column)
        large = normal(size[::-1], np.float64, seed).T if turned else normal(size, np.float64, seed)
        return large[::row, ::column][: shape[0], : shape[1]]

    z, out = matrix(*strides[:2], transposed[0], 0), matrix(*strides[2:], transposed[1], 1)
    expected = np.empty(shape)
    reference.activation_forward(z, expected, name)
    kernels.activation_forward(z, out, name)
    np.testing.assert_allclose(out, expected, rtol=1e-13)


@pytest.mark.parametrize("name", ["Relu", "", None, 3, ["relu"]])
def test_unknown_names_leave_the_output(name):
    out = np.full(2, 7.0)
    with pytest.raises(ValueError, match=r"unknown activation .*identity, relu, sigmoid, tanh, softmax"):
        kernels.activation_forward(np.ones(2), out, name)
    with pytest.raises(ValueError, match="unknown activation"):
        kernels.activation_backward(np.ones(2), np.ones(2), out, name)
    np.testing.assert_array_equal(out, 7)
