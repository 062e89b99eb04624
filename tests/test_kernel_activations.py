import functools
import math

import numpy as np
import pytest
from arrays import DTYPES, LAYOUTS, WRITABLE, nan, normal
from hypothesis import given
from hypothesis import strategies as st
from sample import slow

from fastfc import kernels, reference
from fastfc.kernels.ops.activation_rules import ACTIVATIONS, ROWWISE, of_input
from fastfc.kernels.ops.activations import _activation_backward, _activation_forward
from fastfc.kernels.simd.isa import host_isa

dtypes = pytest.mark.parametrize("dtype", DTYPES)
names = pytest.mark.parametrize("name", ACTIVATIONS)
# one that has no numbers, one that has two, and both that work along rows: how arrays are walked through is common
some_names = pytest.mark.parametrize("name", ["relu", "elu", "softmax", "log_softmax"])


def test_all_tables_have_all_names():
    assert list(ACTIVATIONS) == list(reference.ACTIVATIONS) == list(reference.DERIVATIVES)


def kept(name, z, y):
    """What the derivative is in terms of."""
    return z if of_input(ACTIVATIONS[name]) else y


def errors_in_ulp(got, exact):
    """|got − exact| in units of the last place of exact; where one is not finite both must be the same."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite])
    return np.abs(got[finite] - exact[finite]) / np.spacing(np.abs(rounded[finite]))


def sweep(dtype, every):
    """Numbers of every magnitude and sign: one in `every` bit patterns of float32, a third as many of float64."""
    if dtype == np.float32:
        return np.arange(0, 2**32, every, dtype=np.uint32).view(np.float32)
    n = 2**32 // every // 14
    patterns = np.random.default_rng(0).integers(0, 2**64, 2 * n, dtype=np.uint64).view(np.float64)
    return np.concatenate([patterns, *(np.linspace(-scale, scale, n | 1) for scale in (1e-3, 1, 40, 800))])


# exactly, in longdouble, where z is clipped to ±12000: beyond ±800 these are constant or z, and NumPy slow
EXACT = {
    "exp": lambda z: np.exp(np.clip(z, -12000, 12000)),
    "expm1": lambda z: np.expm1(np.clip(z, -12000, 12000)),
    "log": np.log,
    "log1p": np.log1p,
    "tanh": lambda z: np.tanh(np.clip(z, -12000, 12000)),
    "sigmoid": lambda z: 1 / (1 + np.exp(-np.clip(z, -12000, 12000))),
    "softplus": lambda z: np.where(z > 20, z, np.log1p(np.exp(np.clip(z, -12000, 20)))),
    "log_sigmoid": lambda z: np.minimum(z, 0) - np.log1p(np.exp(-np.abs(np.clip(z, -12000, 12000)))),
    "erf": np.vectorize(math.erf, otypes=[np.longdouble]),
    "sin": np.sin,
    "cos": np.cos,
    "smooth_clip": lambda z: z / np.sqrt(1 + (z / 3) ** 2),
}


@pytest.mark.parametrize("function", EXACT)
@dtypes
@pytest.mark.parametrize("every", [9973, slow(997)])
def test_within_four_ulp_of_exact(function, dtype, every):
    x = sweep(dtype, every)
    x = x[~np.isnan(x)]
    out = np.empty_like(x)
    if function in ACTIVATIONS and function != "tanh":
        kernels.activation_forward(x, out, function)
    else:
        getattr(kernels, function)(x, out)
    with np.errstate(all="ignore"):
        exact = EXACT[function](x.astype(np.longdouble))
        np.testing.assert_array_equal(np.isnan(out), np.isnan(exact))
        number = ~np.isnan(exact)
        assert np.max(errors_in_ulp(out[number], exact[number])) <= 4


@functools.cache
def multiples_of_half_pi(bits=1400):
    """π/2 as an integer of so many bits behind the point, by Machin's formula."""
    arctan = lambda k: sum((-1) ** n * (1 << bits + 99) // ((2 * n + 1) * k ** (2 * n + 1)) for n in range(bits // 2))
    return (8 * arctan(5) - 2 * arctan(239)) >> 99


def exact_sines(x, bits=1400):
    """sin and cos of float64 numbers, by reduction in integers and a series in longdouble."""
    half_pi, quadrants, rests = multiples_of_half_pi(bits), [], []
    for value in x.tolist():
        numerator, denominator = value.as_integer_ratio()
        n, rest = divmod((numerator << bits) // denominator + half_pi // 2, half_pi)
        rest -= half_pi // 2
        shift = max(abs(rest).bit_length() - 64, 0)
        quadrants.append(n % 4)
        rests.append(np.ldexp(np.longdouble(rest >> shift), shift - bits))
    r, q = np.array(rests, np.longdouble), np.array(quadrants)
    sine, cosine = np.sin(r), np.cos(r)
    return (
        np.choose(q, [sine, cosine, -sine, -cosine]),
        np.choose(q, [cosine, -sine, -cosine, sine]),
    )


@dtypes
def test_sin_and_cos_of_all_magnitudes(dtype):
    """At most 2 ulp, also next to multiples of π/2 and for the largest numbers, whose reduction needs all of 2/π."""
    rng, info = np.random.default_rng(0), np.finfo(dtype)
    near = np.outer(2.0 ** np.arange(0, 40, 3), np.arange(1, 9)).ravel() * np.pi / 2
    exponents = rng.uniform(np.log2(info.smallest_normal), np.log2(info.max), 500)
    double = dtype == np.float64
    worst = [6381956970095103 * 2.0**797, 5.319372648326541e255] if double else [2.0**16, 16367173 * 2.0**72]
    x = np.concatenate([rng.uniform(-1e4, 1e4, 500), near, 2.0**exponents, worst, [info.max]]).astype(dtype)
    x = np.concatenate([x, -x])
    for kernel, exact in zip((kernels.sin, kernels.cos), exact_sines(x.astype(np.float64)), strict=True):
        out = np.empty_like(x)
        kernel(x, out)
        assert np.max(errors_in_ulp(out, exact)) <= 2
        for i in range(0, len(x), 61):  # a lane's result does not depend on the others
            single = np.empty_like(x[i : i + 1])
            kernel(x[i : i + 1], single)
            np.testing.assert_array_equal(single, out[i : i + 1])


@dtypes
def test_tail_of_gelu_keeps_its_digits(dtype):
    """z Φ(z) by 1 + erf would be all rounding errors below z = −5, and 0 below −6."""
    z = np.linspace(-12 if dtype == np.float32 else -36, 0, 100_001).astype(dtype)
    y = np.empty_like(z)
    kernels.activation_forward(z, y, "gelu")
    wide = z.astype(float)
    errors = errors_in_ulp(y[:-1], reference.ACTIVATIONS["gelu"](wide[:-1]).astype(np.longdouble))
    # the reference rounds z / √2, which costs it up to z² units of float64; without fma the kernel rounds z²
    rounded = dtype == np.float64 or not host_isa().fma
    assert np.all(errors <= 8 + (2 * wide[:-1] ** 2 if rounded else 0))


@dtypes
def test_special_values(dtype):
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([0.0, -0.0, tiny, -tiny, huge, -huge, np.inf, -np.inf, np.nan], dtype)
    expected = {
        kernels.exp: [1, 1, 1, 1, np.inf, 0, np.inf, 0, np.nan],
        kernels.expm1: [0.0, -0.0, tiny, -tiny, np.inf, -1, np.inf, -1, np.nan],
        kernels.log1p: [0.0, -0.0, tiny, -tiny, np.log1p(huge), np.nan, np.inf, np.nan, np.nan],
        kernels.erf: [0.0, -0.0, tiny, -tiny, 1, -1, 1, -1, np.nan],
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
        if function in (kernels.tanh, kernels.expm1, kernels.log1p, kernels.erf):
            np.testing.assert_array_equal(np.signbit(out[:4]), np.signbit(x[:4]))


@dtypes
def test_sin_and_cos_at_their_ends(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([0.0, -0.0, tiny, -tiny, np.inf, -np.inf, np.nan], dtype)
    sine, cosine = np.empty_like(x), np.empty_like(x)
    kernels.sin(x, sine)
    kernels.cos(x, cosine)
    np.testing.assert_array_equal(sine, np.array([0.0, -0.0, tiny, -tiny, np.nan, np.nan, np.nan], dtype))
    np.testing.assert_array_equal(np.signbit(sine[:4]), np.signbit(x[:4]))
    np.testing.assert_array_equal(cosine, np.array([1, 1, 1, 1, np.nan, np.nan, np.nan], dtype))


@dtypes
def test_log_at_its_ends(dtype):
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([0, -0.0, tiny, 1, huge, np.inf, -tiny, -np.inf, np.nan], dtype)
    out = np.empty_like(x)
    kernels.log(x, out)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(out, np.log(x.astype(np.longdouble)).astype(dtype))


inf, nan_ = np.inf, np.nan
# y and f′ at −∞ and ∞, and f′ at NaN (y is NaN there), as PyTorch 2.13 has them in float64, for
# enough elements for its vectors: its code for single ones has 1 at NaN for ELU, CELU, SELU, Hardtanh and Hardswish
AT_INFINITY = {
    "identity": ((-inf, inf), (1, 1), 1),
    "relu": ((0, inf), (0, 1), 1),
    "leaky_relu": ((-inf, inf), (0.01, 1), 0.01),
    "sigmoid": ((0, 1), (0, 0), nan_),
    "log_sigmoid": ((-inf, 0), (1, 0), nan_),
    "tanh": ((-1, 1), (0, 0), nan_),
    "hardtanh": ((-1, 1), (0, 0), 0),
    "relu6": ((0, 6), (0, 0), 0),
    "elu": ((-1, inf), (0, 1), nan_),
    "selu": ((-1.7580993408473766, inf), (0, 1.0507009873554805), nan_),
    "celu": ((-1, inf), (0, 1), nan_),
    "softplus": ((0, inf), (0, 1), nan_),
    "softsign": ((nan_, nan_), (nan_, nan_), nan_),
    "hardsigmoid": ((0, 1), (0, 0), 0),
    "hardswish": ((nan_, inf), (0, 1), nan_),
    "silu": ((nan_, inf), (nan_, nan_), nan_),
    "gelu": ((nan_, inf), (nan_, nan_), nan_),
    "gelu_tanh": ((nan_, inf), (nan_, nan_), nan_),
    "mish": ((nan_, inf), (nan_, nan_), nan_),
    "sin": ((nan_, nan_), (nan_, nan_), nan_),
    "cos": ((nan_, nan_), (nan_, nan_), nan_),
    "smooth_clip": ((-3, 3), (0, 0), nan_),
}


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if ACTIVATIONS[name].code not in ROWWISE])
@dtypes
def test_at_infinity_and_nan(name, dtype):
    z = np.array([-inf, inf, nan_], dtype)
    y, dz = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(z, y, name)
    kernels.activation_backward(kept(name, z, y), np.ones_like(z), dz, name)
    at_infinity, slopes, slope_at_nan = AT_INFINITY[name]
    np.testing.assert_array_equal(y, np.array([*at_infinity, nan_], dtype))
    np.testing.assert_array_equal(dz, np.array([*slopes, slope_at_nan], dtype))


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
        if ACTIVATIONS[name].code in ROWWISE and o == 0:
            continue  # no maximum of nothing in the reference
        z, g = 3 * normal((rows, o), dtype), normal((rows, o), dtype, 1)
        y, dz = nan((rows, o), dtype), nan((rows, o), dtype)
        kernels.activation_forward(z, y, name)
        kernels.activation_backward(kept(name, z, y), g, dz, name)
        exact_y, exact_dz = np.empty(z.shape), np.empty(z.shape)
        reference.activation_forward(z.astype(float), exact_y, name)
        reference.activation_backward(kept(name, z, y).astype(float), g.astype(float), exact_dz, name)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(y, exact_y, rtol=30 * eps, atol=eps)
        np.testing.assert_allclose(dz, exact_dz, rtol=8 * eps, atol=30 * eps)


NUMBERS = {
    "leaky_relu": [(0.3, 0), (-0.5, 0), (0, 0), (2, 0)],
    "hardtanh": [(-0.5, 2), (0, 6), (1, 2)],
    "elu": [(0.3, 1), (-2, 1), (2, 0.5), (-1, -1)],
    "softplus": [(0.5, 20), (3, 1), (2, -4)],
}


@pytest.mark.parametrize("name", NUMBERS)
@dtypes
def test_numbers_of_formulas(name, dtype):
    z, g = 3 * normal((5, 70), dtype), normal((5, 70), dtype, 1)
    y, dz = nan(z.shape, dtype), nan(z.shape, dtype)
    for a, b in NUMBERS[name]:
        activation = ACTIVATIONS[name]._replace(a=float(a), b=float(b))
        numbers = [a, b][: 1 if name == "leaky_relu" else 2]
        _activation_forward.call(z, y, *activation)
        known = z if of_input(activation) else y
        _activation_backward.call(known, g, dz, *activation)
        eps = np.finfo(dtype).eps
        exact = reference.ACTIVATIONS[name](z.astype(float), *numbers)
        np.testing.assert_allclose(y, exact, rtol=30 * eps, atol=eps)
        exact = reference.DERIVATIVES[name](known.astype(float), g.astype(float), *numbers)
        np.testing.assert_allclose(dz, exact, rtol=30 * eps, atol=10 * eps)


def test_number_of_rows_at_once_does_not_matter():
    """Whole matrices go through in one piece, parts of them row by row."""
    z = normal((40, 33), np.float32)
    whole, parts = nan(z.shape, np.float32), nan((40, 40), np.float32)[:, :33]
    for name in ACTIVATIONS:
        kernels.activation_forward(z, whole, name)
        kernels.activation_forward(z, parts, name)
        np.testing.assert_array_equal(parts, whole)


@some_names
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


@some_names
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
    rowwise = ACTIVATIONS[name].code in ROWWISE
    wrong = slice(None) if rowwise else 33
    assert np.isnan(y[0, wrong]).all()
    assert np.isfinite(y).sum() == (40 if rowwise else 79)
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
    name=st.sampled_from(list(ACTIVATIONS)),
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
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["Relu", "", None, 3, ["relu"]])
def test_unknown_names_leave_the_output(name):
    out = np.full(2, 7.0)
    with pytest.raises(ValueError, match=r"unknown activation .*identity, relu, .*, softmax"):
        kernels.activation_forward(np.ones(2), out, name)
    with pytest.raises(ValueError, match="unknown activation"):
        kernels.activation_backward(np.ones(2), np.ones(2), out, name)
    np.testing.assert_array_equal(out, 7)


@pytest.mark.skipif(not host_isa().fma, reason="PyTorch has fused multiply-adds, these instructions have not")
def test_torch_at_the_same_points():
    """No worse than PyTorch's error, elementary functions within 4 ulp; the same at infinity and NaN."""
    torch = pytest.importorskip("torch")
    torch_modules = pytest.importorskip("fastfc.io.torch_modules")
    layers = {
        "relu": torch.nn.ReLU(),
        "leaky_relu": torch.nn.LeakyReLU(),
        "sigmoid": torch.nn.Sigmoid(),
        "log_sigmoid": torch.nn.LogSigmoid(),
        "tanh": torch.nn.Tanh(),
        "hardtanh": torch.nn.Hardtanh(),
        "relu6": torch.nn.ReLU6(),
        "elu": torch.nn.ELU(),
        "selu": torch.nn.SELU(),
        "celu": torch.nn.CELU(),
        "softplus": torch.nn.Softplus(),
        "softsign": torch.nn.Softsign(),
        "hardsigmoid": torch.nn.Hardsigmoid(),
        "hardswish": torch.nn.Hardswish(),
        "silu": torch.nn.SiLU(),
        "gelu": torch.nn.GELU(),
        "gelu_tanh": torch.nn.GELU("tanh"),
        "mish": torch.nn.Mish(),
        "sin": torch.sin,
        "cos": torch.cos,
        "smooth_clip": torch_modules.SmoothClip(),
        "softmax": torch.nn.Softmax(-1),
        "log_softmax": torch.nn.LogSoftmax(-1),
    }
    assert {"identity", *layers} == set(ACTIVATIONS)
    z = np.linspace(-12, 12, 100_000, dtype=np.float32).reshape(1000, 100)
    special = np.array([[-inf, inf, nan_, 0, -0.0, 1, -1, 3, -3, 6, 20, 21]])
    for name, layer in layers.items():
        y = np.empty_like(z)
        kernels.activation_forward(z, y, name)
        with np.errstate(under="ignore"):
            exact = reference.ACTIVATIONS[name](z.astype(float))
        wide = exact.astype(np.longdouble)
        theirs = np.max(errors_in_ulp(layer(torch.from_numpy(z)).numpy(), wide))
        # exactly rounded sums and products are half a unit from exact, or a little more
        assert np.max(errors_in_ulp(y, wide)) <= (max(4, theirs) if name in EXACT else theirs + 0.02), name
        if ACTIVATIONS[name].code in ROWWISE:
            continue
        # in float64: in float32, what PyTorch's GELU gives at infinity depends on the length of the vector
        x = torch.tensor(special, requires_grad=True)
        layer(x).backward(torch.ones_like(x))
        y, dz = np.empty_like(special), np.empty_like(special)
        kernels.activation_forward(special, y, name)
        kernels.activation_backward(kept(name, special, y), np.ones_like(special), dz, name)
        np.testing.assert_allclose(y, layer(x).detach().numpy(), rtol=1e-14, atol=1e-16, err_msg=name)
        # nor does PyTorch always give the same gradient at NaN
        dz[0, 2], x.grad[0, 2] = 0, 0
        rtol = 1e-7 if name == "hardsigmoid" else 1e-13  # its sixth there is of float32
        np.testing.assert_allclose(dz, x.grad.numpy(), rtol=rtol, atol=1e-15, err_msg=name)
