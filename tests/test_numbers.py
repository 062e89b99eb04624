"""What every kernel promises of its numbers, for inputs that are chosen to break it.

The bound of a sum of k products is 2 k eps (|x| @ |W|), whatever is summed. NaN and infinity go where IEEE 754 sends
them, from any place, and from no place beyond the arrays. Elementary functions are in test_kernel_activations.
"""

import numpy as np
import pytest
from arrays import CALLS, DTYPES, PRODUCTS, integers, nan, normal
from examples import LAYERS, OPTIMIZERS, WIDTH, ids, inputs
from soak import report
from test_kernel_losses import LOSSES, problem
from test_kernel_losses import run as run_loss

import fastfc as fc
from fastfc import kernels, reference
from fastfc.kernels.ops.activation_rules import ACTIVATIONS, ROWWISE
from fastfc.kernels.ops.gemm import CHUNK, LONG, tile
from fastfc.kernels.simd.isa import host_isa

QUICK_ROWS, FULL_ROWS = 10**6, 10**8

dtypes = pytest.mark.parametrize("dtype", DTYPES)


# --- sums of products


def cancelling(rng, m, k, n, dtype):
    """Each product comes again with the other sign and a change in its last digits: what remains is rounding."""
    half = k // 2
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    a[:, half : 2 * half] = -a[:, :half] * (1 + 4 * np.finfo(dtype).eps * rng.standard_normal((m, half)))
    b[half : 2 * half] = b[:half]
    order = rng.permutation(k)
    return a[:, order], b[order]


def spread(exponent):
    def make(rng, m, k, n, dtype):
        """Numbers of all magnitudes, so that most products are lost beside a few."""
        a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
        most = exponent(dtype)
        return a * np.exp2(rng.integers(-most, most + 1, (m, k))), b * np.exp2(rng.integers(-most, most + 1, (k, n)))

    return make


def tiny(rng, m, k, n, dtype):
    """Products, and some of the factors, are subnormal."""
    least = np.log2(float(np.finfo(dtype).smallest_normal))
    a = np.exp2(rng.uniform(least - 8, least + 4, (m, k))) * rng.choice([-1, 1], (m, k))
    return a, rng.uniform(-8, 8, (k, n))


def huge(rng, m, k, n, dtype):
    """The largest numbers whose sums are still finite."""
    most = np.sqrt(float(np.finfo(dtype).max) / (2 * k))
    return rng.uniform(-most, most, (m, k)), rng.uniform(-most, most, (k, n))


def one_sided(rng, m, k, n, dtype):
    """All products are positive, so that errors of rounding add up."""
    return rng.uniform(0.5, 1, (m, k)), rng.uniform(0.5, 1, (k, n))


INPUTS = {
    "cancellation": cancelling,
    "magnitudes": spread(lambda dtype: np.finfo(dtype).maxexp // 5),
    "subnormals": tiny,
    "near overflow": huge,
    "one sign": one_sided,
}


def sum_shapes(dtype):
    """(m, k, n): tiles with masked ends, long sums of few columns, one element, more than a chunk of a batch."""
    rows, columns = tile(dtype)
    return [
        (2 * rows + 1, 67, 2 * columns + 1),
        (5, LONG + 9, 2),
        (1, 301, columns + 3),
        (1, 99, 1),
        (3, CHUNK + 50, 5),
    ]


def assert_within(got, a, b, start=0.0):
    """The bound, and half of the least subnormal number for each of at most 2 k roundings near zero."""
    wide, info = np.longdouble, np.finfo(got.dtype)
    exact = start + a.astype(wide) @ b.astype(wide)
    k = a.shape[1] + np.any(start)
    bound = 2 * k * info.eps * (np.abs(start) + np.abs(a.astype(wide)) @ np.abs(b.astype(wide)))
    assert np.isfinite(got).all()
    assert np.all(np.abs(got - exact) <= bound + k * wide(info.smallest_subnormal))


@pytest.mark.parametrize("kind", INPUTS)
@dtypes
def test_error_of_products_and_sums(kind, dtype):
    rng = np.random.default_rng(0)
    for m, k, n in sum_shapes(dtype):
        a, b = (x.astype(dtype) for x in INPUTS[kind](rng, m, k, n, dtype))
        for multiply in PRODUCTS.values():
            c = nan((m, n), dtype)
            multiply(a, b, c)
            assert_within(c, a, b)
        start = c[0].copy()
        kernels.dense_forward(a, b, start, c)
        assert_within(c, a, b, start)
        if kind != "near overflow":
            before = c.copy()
            kernels.dense_add_weight_grad(a.T, b, c)
            assert_within(c, a, b, before)
        sums = nan(n, dtype)
        kernels.dense_bias_grad(b, sums)
        assert_within(sums[None], np.ones((1, k), dtype), b)
        before = sums.copy()
        kernels.dense_add_bias_grad(b, sums)
        assert_within(sums[None], np.ones((1, k), dtype), b, before)


def column_sums(n, columns, value):
    """Errors of ours and of NumPy's sums of n rows, relative to the sum of the magnitudes."""
    if value is None:
        g = np.random.default_rng(0).random((n, columns), np.float32)
        exact = np.zeros(columns)
        for first in range(0, n, 1 << 20):
            exact += g[first : first + (1 << 20)].sum(axis=0, dtype=np.float64)
    else:
        g = np.broadcast_to(np.float32(value), (n, columns))
        exact = np.full(columns, n * float(np.float32(value)))
    out = nan(columns, np.float32)
    kernels.dense_bias_grad(g, out)
    return [float(np.max(np.abs(sums - exact) / exact)) for sums in (out, g.sum(axis=0))]


def of_a_chunk():
    """What a chunk of equal numbers in a single column may err, which NumPy sums by halves and we in lanes."""
    lanes = host_isa().vector_bytes // 4
    return 8 * np.finfo(np.float32).eps * max(1, 16 // lanes)


@pytest.mark.parametrize(
    ("columns", "value"), [(1, None), (1, 0.1), (3, 0.1), (17, None), (17, 0.1), (300, 0.3)], ids=str
)
def test_column_sums_of_many_rows(columns, value):
    ours, numpys = column_sums(QUICK_ROWS // (10 if columns > 100 else 1), columns, value)
    assert ours <= (max(numpys, of_a_chunk()) if columns == 1 else numpys / 10)


@pytest.mark.soak
@pytest.mark.parametrize(("columns", "value"), [(1, None), (1, 0.1), (3, 0.1), (17, 0.1)], ids=str)
def test_column_sums_of_a_hundred_million_rows(columns, value):
    ours, numpys = column_sums(FULL_ROWS, columns, value)
    report(
        f"column sums of {columns} columns of {value or 'random numbers'}", rows=FULL_ROWS, error=ours, numpys=numpys
    )
    assert ours <= (max(numpys, of_a_chunk()) if columns == 1 else numpys / 10)


# --- NaN and infinity


@pytest.mark.parametrize("multiply", PRODUCTS.values(), ids=PRODUCTS)
@dtypes
def test_what_is_not_finite_goes_where_it_belongs_from_any_place(multiply, dtype):
    rows, columns = tile(dtype)
    specials = [np.nan, np.inf, -np.inf]
    for m, k, n in [(2 * rows + 1, 3, 2 * columns + 1), (2, 3, columns + 1), (4, LONG + 3, 1)]:
        a, b = integers((m, k), dtype), integers((k, n), dtype, 1)
        clean, c = a @ b, nan((m, n), dtype)
        for turn, (i, p) in enumerate(np.ndindex(m, k)):
            if p in (0, 1, k - 1):
                bad = a[i].copy()
                bad[p] = specials[turn % 3]
                a[i, p], kept = bad[p], a[i, p]
                with np.errstate(invalid="ignore"):
                    expected = clean.copy()
                    expected[i] = (bad[:, None] * b).sum(axis=0)
                multiply(a, b, c)
                np.testing.assert_array_equal(c, expected)
                a[i, p] = kept
        for turn, (p, j) in enumerate(np.ndindex(k, n)):
            if p in (0, 1, k - 1):
                bad = b[:, j].copy()
                bad[p] = specials[turn % 3]
                b[p, j], kept = bad[p], b[p, j]
                with np.errstate(invalid="ignore"):
                    expected = clean.copy()
                    expected[:, j] = (a * bad).sum(axis=1)
                multiply(a, b, c)
                np.testing.assert_array_equal(c, expected)
                b[p, j] = kept


def widths(dtype):
    lanes = host_isa().vector_bytes // np.dtype(dtype).itemsize
    return sorted({1, 2, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, 4 * lanes + 1})


@pytest.mark.parametrize("name", ACTIVATIONS)
@dtypes
def test_nan_in_any_place_of_a_row_comes_through_activations(name, dtype):
    for width in widths(dtype):
        for place in range(width):
            z, y, dz = np.zeros((2, width), dtype), nan((2, width), dtype), nan((2, width), dtype)
            z[0, place] = np.nan
            expected = np.zeros((2, width), bool)
            expected[0, slice(None) if ACTIVATIONS[name].code in ROWWISE else place] = True
            kernels.activation_forward(z, y, name)
            np.testing.assert_array_equal(np.isnan(y), expected)
            kernels.activation_backward(np.full_like(z, 0.25), z, dz, name)
            np.testing.assert_array_equal(np.isnan(dz), expected)


@dtypes
def test_infinity_in_any_place_of_a_row_of_softmax(dtype):
    for width in widths(dtype):
        for place in range(width):
            z = np.zeros((4, width), dtype)
            z[0, place], z[1, place], z[2] = np.inf, -np.inf, -np.inf
            y, logs = nan(z.shape, dtype), nan(z.shape, dtype)
            kernels.activation_forward(z, y, "softmax")
            kernels.activation_forward(z, logs, "log_softmax")
            for found in (y, logs):
                assert np.isnan(found[0, place]) and np.isnan(found[2]).all() and np.isfinite(found[3]).all()
            if width > 1:
                assert y[1, place] == 0 and logs[1, place] == -np.inf
                np.testing.assert_allclose(np.delete(y[1], place), 1 / (width - 1), rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", LOSSES)
@dtypes
def test_nan_in_any_place_comes_through_losses(name, dtype):
    numbers, eps = LOSSES[name][2], np.finfo(dtype).eps
    constant = LOSSES[name][0] in ("kl_div_loss", "nll_loss")  # their gradients do not depend on the prediction
    for width in widths(dtype):
        loss, clean, target = problem(name, (2, width), dtype)
        clean_grad = nan(clean.shape, dtype)
        run_loss(kernels, loss, clean, target, clean_grad, **numbers)
        for place in range(clean.shape[1]):
            prediction, grad = clean.copy(), nan(clean.shape, dtype)
            prediction[0, place] = np.nan
            value = run_loss(kernels, loss, prediction, target, grad, **numbers)
            matters = loss != "nll_loss" or target[0] == place
            assert np.isnan(value) == matters
            assert np.isnan(grad[0, place]) == (matters and not constant)
            np.testing.assert_allclose(grad[1], clean_grad[1], rtol=4 * eps)


@dtypes
def test_infinite_errors_are_infinite_losses(dtype):
    for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "quantile_loss"):
        for width in widths(dtype):
            for value in (np.inf, -np.inf):
                prediction, target = np.zeros((2, width), dtype), np.ones((2, width), dtype)
                prediction[1, width - 1] = value
                grad = nan(prediction.shape, dtype)
                assert getattr(kernels, name)(prediction, target, grad) == np.inf
                assert np.sign(grad[1, width - 1]) == np.sign(value)
                assert np.isfinite(grad).sum() >= grad.size - 1


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS[:-2], ids=ids(OPTIMIZERS[:-2]))
@dtypes
def test_nan_in_a_gradient_shows_in_its_parameter_alone(name, options, dtype):
    width = widths(dtype)[-1]
    for place in range(width):
        layer, optimizer = fc.Linear(width, 1, bias=False, seed=0, dtype=dtype), getattr(fc, name)(**options)
        layer.grads[...] = 0.5
        layer.grads[place] = np.nan
        optimizer.step(layer)
        np.testing.assert_array_equal(np.isnan(layer.params), np.arange(width) == place)


# --- what lies beside an array


def among_nan(x):
    """In the middle of memory that is NaN, or a number that no class has."""
    filler = np.nan if x.dtype.kind == "f" else -12345
    large = np.full([size + 2 * 17 for size in x.shape], filler, x.dtype)
    view = large[(slice(17, -17),) * x.ndim]
    view[...] = x
    return view


def assert_surroundings_stay(view):
    filler = np.nan if view.dtype.kind == "f" else -12345
    large = view.base.copy()
    large[(slice(17, -17),) * view.ndim] = filler
    np.testing.assert_array_equal(large, filler)


@pytest.mark.parametrize("name", CALLS)
@dtypes
def test_nothing_beside_the_arrays_matters_to_kernels(name, dtype):
    rows, columns = tile(dtype)
    shapes = [(1, 1, 1), (3, 5, 2), (rows + 1, 3, columns + 1), (2 * rows + 3, columns - 1, 7), (2, LONG + 3, 1)]
    for n, i, o in shapes:
        expected = CALLS[name].arguments(dtype, {"n": n, "i": i, "o": o})
        arrays = [among_nan(x) for x in expected]
        np.testing.assert_equal(CALLS[name].run(*arrays), CALLS[name].run(*expected))
        for x, y in zip(arrays, expected, strict=True):
            np.testing.assert_array_equal(x, y)
            assert_surroundings_stay(x)


@pytest.mark.parametrize("name", LOSSES)
@dtypes
def test_nothing_beside_the_arrays_matters_to_losses(name, dtype):
    for width in widths(dtype):
        loss, prediction, target = problem(name, (3, width), dtype)
        out, there = nan(prediction.shape, dtype), among_nan(nan(prediction.shape, dtype))
        value = run_loss(kernels, loss, prediction, target, out, **LOSSES[name][2])
        assert run_loss(kernels, loss, among_nan(prediction), among_nan(target), there, **LOSSES[name][2]) == value
        np.testing.assert_array_equal(there, out)
        assert_surroundings_stay(there)


@pytest.mark.parametrize("name", LAYERS)
@dtypes
def test_nothing_beside_the_data_or_in_old_memory_matters_to_networks(name, dtype):
    results = []
    for change in (np.array, among_nan):
        net, x, y = LAYERS[name](dtype), change(inputs(name, 0, dtype)), change(normal((12, WIDTH), dtype, 1))
        optimizer, found = fc.Adam(0.01), []
        net.predict(x)
        for _ in range(2):
            net.forward(x)
            if change is among_nan:
                net._workspace[...] = np.nan
            found += [net.predict(x), net.forward(x), net.backward(y), net.grads.copy()]
            if change is among_nan:
                net._workspace[...] = np.nan
            found.append(net.train_step(x, y, fc.MSELoss(), optimizer))
        results.append([*found, net.params])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# --- logits of ±10⁴


def logits(shape, dtype, seed=0):
    return np.random.default_rng(seed).choice([-1e4, -9999, -5, 0, 1, 5, 9999, 1e4], shape).astype(dtype)


@dtypes
def test_softmax_of_large_logits(dtype):
    eps = np.finfo(dtype).eps
    for width in widths(dtype):
        z = logits((50, width), dtype)
        wide = z.astype(np.longdouble)
        for name in ("softmax", "log_softmax"):
            y, dz, g = nan(z.shape, dtype), nan(z.shape, dtype), normal(z.shape, dtype)
            kernels.activation_forward(z, y, name)
            np.testing.assert_allclose(y, reference.ACTIVATIONS[name](wide).astype(float), rtol=8 * eps, atol=4 * eps)
            kernels.activation_backward(y, g, dz, name)
            exact = reference.DERIVATIVES[name](y.astype(np.longdouble), g.astype(np.longdouble)).astype(float)
            np.testing.assert_allclose(dz, exact, atol=8 * width * eps)


CROSS_ENTROPIES = [{}, {"label_smoothing": 0.1}, {"weight": True}, {"weight": True, "label_smoothing": 0.1}]


@pytest.mark.parametrize("options", CROSS_ENTROPIES, ids=str)
@pytest.mark.parametrize("targets", ["classes", "probabilities"])
@dtypes
def test_cross_entropy_of_large_logits(options, targets, dtype):
    for width in widths(dtype)[1:]:
        rng = np.random.default_rng(width)
        z, labels = logits((9, width), dtype), rng.integers(0, width, 9)
        q = np.eye(width)[labels] if targets == "classes" else rng.dirichlet(np.ones(width), 9).astype(dtype)
        weight, a = (
            rng.random(width) + 0.5 if "weight" in options else np.ones(width),
            options.get("label_smoothing", 0),
        )
        loss = fc.CrossEntropyLoss(weight if "weight" in options else None, label_smoothing=a)
        value, grad = loss(z, labels if targets == "classes" else q)
        logs = reference.log_softmax(z.astype(np.longdouble))
        mixed = weight * ((1 - a) * q + a / width)
        divisor = weight[labels].sum() if targets == "classes" else 9
        exact = -(mixed * np.where(mixed > 0, logs, 0)).sum() / divisor
        exact_grad = (np.exp(logs) * mixed.sum(axis=1, keepdims=True) - mixed) / divisor
        eps = np.finfo(dtype).eps
        assert abs(value - exact) <= 8 * width * eps * max(1, exact)
        np.testing.assert_allclose(grad, exact_grad.astype(float), atol=8 * eps * weight.max())


@pytest.mark.parametrize("pos_weight", [None, 3.0])
@dtypes
def test_binary_cross_entropy_of_large_logits(pos_weight, dtype):
    z = logits((40, 7), dtype)
    t, v, eps = np.random.default_rng(1).choice([0, 0.25, 1], z.shape), pos_weight or 1, np.finfo(dtype).eps
    value, grad = fc.BCEWithLogitsLoss(pos_weight)(z, t)
    wide = z.astype(np.longdouble)
    plus = np.log1p(np.exp(-np.abs(wide)))  # log(1 + e^−|z|)
    exact = v * t * (np.maximum(-wide, 0) + plus) + (1 - t) * (np.maximum(wide, 0) + plus)
    sigmoid = reference.sigmoid(wide)
    assert abs(value - exact.mean()) <= 8 * eps * exact.mean()
    exact_grad = ((1 - t) * sigmoid - v * t * (1 - sigmoid)) / z.size
    np.testing.assert_allclose(grad, exact_grad.astype(float), atol=8 * v * eps / z.size)


@dtypes
def test_training_goes_on_at_large_logits(dtype):
    """The gradient of a classifier that is sure and wrong is that of its softmax, not NaN."""
    for loss, y in ((fc.CrossEntropyLoss(), np.array([0, 1])), (fc.BCEWithLogitsLoss(), np.eye(2))):
        net = fc.Sequential([fc.Linear(2, 2, init=fc.Constant(1e4), dtype=dtype)])
        for _ in range(3):
            assert np.isfinite(net.train_step(np.array([[1.0, -2.0], [3.0, 0.5]]), y, loss, fc.SGD(0.1)))
        assert np.isfinite(net.params).all() and (net.params != 1e4).any()
